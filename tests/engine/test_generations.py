"""Texts of many adapters generated in one batch: each answer is the adapter's alone, whatever else runs."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from afina import Adapter, Backbone, Predictor
from afina.data.batch import pack
from afina.engine.encoding import EncodedText
from afina.engine.engine import Engine
from afina.engine.generations import GeneratedText, Generation, Generations
from afina.engine.mixed_batches import SinglePass
from afina.engine.residents import Lease, ReservedMemory
from afina.errors import AfinaError, Busy, CorruptAdapter, InvalidData, InvalidStudy
from afina.generating import next_token
from afina.generating.generation import NewTokens
from afina.generating.searches import TokenLogprobs
from afina.models.decoding import Decoding
from afina.predicting import golden_test
from afina.predicting.predictor import ModelPredictor
from afina.predicting.reading import SENTENCES
from crowd import adapter, spoilt
from fakes import TEXTS, UNUSUAL, Backbones, configuration, save, sentences
from raises import raises

TIE = 1e-4
"""Where the two best logits differ by less, either counts."""

TOLD: dict[str, Any] = {"labels": ("told",), "objective": {"kind": "text", "answer_tokens": 12}}
TEMPLATES = ("{text}\nTold:", "Say {text}:", "Once more: {text}\nAnswer:")

METHODS: list[tuple[str, dict[str, Any]]] = [
    ("lora", {}),
    ("lora", {"r": 2, "targets": "all-linear"}),
    ("lora", {"r": 8, "alpha": 4}),
    ("lora", {"dora": True}),
    ("ia3", {}),
    ("vera", {"r": 8}),
    ("prompt", {"tokens": 3}),
    ("prefix", {"tokens": 5}),
    ("prefix", {"tokens": 2}),
    ("layernorm", {}),
    ("lora+prompt", {}),
    ("prompt+prefix", {"prompt": {"tokens": 3}, "prefix": {"tokens": 2}}),
    ("zero-shot", {}),
    ("full", {}),
]


class Ban:
    """Allows only some tokens, and ends after a number of them."""

    def __init__(self, allowed: Sequence[int], most: int) -> None:
        self.allowed, self.most, self.taken = list(allowed), most, list[int]()

    @property
    def finished(self) -> bool:
        return len(self.taken) >= self.most

    def mask(self, logits: np.ndarray) -> None:
        kept = logits[self.allowed].copy()
        logits[:] = -np.inf
        logits[self.allowed] = kept

    def accept(self, token: int) -> None:
        self.taken.append(token)


@dataclass(eq=False)
class Crowd:
    """Text adapters of one backbone, an engine with all of them, and each adapter alone."""

    backbone: Backbone
    methods: Sequence[tuple[str, dict[str, Any]]] = field(default_factory=lambda: METHODS)

    @cached_property
    def adapters(self) -> list[Adapter]:
        return [
            adapter(self.backbone, *one, seed=seed, template=TEMPLATES[seed % 3], **TOLD)
            for seed, one in enumerate(self.methods)
        ]

    @cached_property
    def engine(self) -> Engine:
        return Engine(self.backbone)

    @cached_property
    def alone(self) -> list[ModelPredictor]:
        found = [Predictor.of(one, self.backbone) for one in self.adapters]
        return [one for one in found if isinstance(one, ModelPredictor)]

    def logits(self, which: int, prompt: np.ndarray, answer: Sequence[int]) -> np.ndarray:
        """After the prompt, and after each token of the answer but its last, float32 [length of the answer, V]."""
        model = self.alone[which].classifier.eval()
        rows = [np.array([*prompt, *answer[:count]]) for count in range(len(answer))]
        with torch.inference_mode():
            return model.answer(model.features(pack(rows))).numpy()

    def check(self, which: int, made: Generation, outcome: GeneratedText | AfinaError) -> GeneratedText:
        """Each token is the best that is allowed, of the adapter alone after the tokens before."""
        found = text_of(outcome)
        rows = self.logits(which, made.encoded.tokens, found.tokens.tolist())
        if isinstance(made.guide, Ban):
            for row in rows:
                made.guide.mask(row)
        best = rows.max(-1)
        near = best - rows[np.arange(len(rows)), found.tokens] < TIE * (1 + np.abs(best))
        assert near.all(), self.methods[which]
        return found


@pytest.fixture(scope="module")
def crowd(gpt2: Backbone) -> Iterator[Crowd]:
    made = Crowd(gpt2)
    with made.engine:
        yield made


@pytest.fixture(scope="module", params=["gpt2", pytest.param("llama", marks=pytest.mark.slow), "window"])
def each_crowd(request: pytest.FixtureRequest, backbones: Backbones, tmp_path_factory: Any) -> Iterator[Crowd]:
    """GPT-2 has all methods, and the other two have every second one each."""
    if request.param == "gpt2":
        yield request.getfixturevalue("crowd")
        return
    if request.param == "window":
        assert UNUSUAL["mistral"]
        path = tmp_path_factory.mktemp("window")
        save(configuration("mistral", **UNUSUAL["mistral"]), backbones.tokenizer("mistral"), path)
    else:
        path = backbones.path(request.param)
    made = Crowd(Backbone.load(str(path)), METHODS[::2] if request.param == "llama" else METHODS[1::2])
    with made.engine:
        yield made


def tokenized(engine: Engine, lease: Lease, text: str = TEXTS[2]) -> EncodedText:
    (encoded,) = engine.encode(lease.resident(), [text])
    assert isinstance(encoded, EncodedText)
    return encoded


def asked(crowd: Crowd, stack: ExitStack, which: int, text: str, **changes: Any) -> Generation:
    lease = stack.enter_context(crowd.engine.lease(crowd.adapters[which]))
    given = {"decoding": Decoding(max_new_tokens=8)} | changes
    return Generation(lease, tokenized(crowd.engine, lease, text), **given)


def driven(
    generations: Generations, given: Iterable[Generation] = (), most: int | None = None
) -> dict[Generation, GeneratedText | AfinaError]:
    """The outcomes of these generations, and of those that wait."""
    found: dict[Generation, GeneratedText | AfinaError] = {}
    for one in given:
        generations.add(one)
    while generations.active:
        found.update(generations.step(most))
    return found


def text_of(outcome: GeneratedText | AfinaError) -> GeneratedText:
    assert isinstance(outcome, GeneratedText)
    return outcome


def test_the_six_methods_ride_and_full_fine_tuning_does_not(each_crowd: Crowd) -> None:
    residents = each_crowd.engine.load(*each_crowd.adapters)
    assert [one.shares_model for one in residents] == [name != "full" for name, _ in each_crowd.methods]
    assert all(one.generates for one in residents)


@settings(max_examples=3, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32))
def test_any_mix_with_arrivals_and_cancellations_answers_as_each_adapter_alone(each_crowd: Crowd, seed: int) -> None:
    draw, texts = random.Random(seed), [*TEXTS, *(text for text, _ in sentences(6))]
    made: dict[Generation, int] = {}
    cancelled, found = set[Generation](), dict[Generation, GeneratedText | AfinaError]()
    generations = each_crowd.engine._new_generations(ReservedMemory(each_crowd.engine._residents))
    with ExitStack() as stack:
        while len(made) < 14 or generations.active:
            for _ in range(draw.randrange(4) if len(made) < 14 else 0):
                which = draw.randrange(len(each_crowd.adapters))
                decoding = Decoding(max_new_tokens=draw.randrange(1, 14))
                one = asked(each_crowd, stack, which, draw.choice(texts), decoding=decoding)
                generations.add(one)
                made[one] = which
            if draw.random() < 0.15 and made:
                gone = draw.choice([*made])
                if gone not in found:
                    generations.cancel(gone)
                    cancelled.add(gone)
            found.update(generations.step(draw.choice([None, 1, 3, 8])))
        assert found.keys() | cancelled == made.keys()
        for one, outcome in found.items():
            made_text = each_crowd.check(made[one], one, outcome)
            assert len(made_text.tokens) == one.decoding.max_new_tokens or made_text.ended
    assert generations.bytes == 0


def test_a_long_prompt_is_computed_over_several_steps_and_a_short_one_does_not_wait_for_it(each_crowd: Crowd) -> None:
    generations = each_crowd.engine.generations
    with ExitStack() as stack:
        for beams in (1, 3):
            decoding = Decoding(max_new_tokens=3, beams=beams)
            long = asked(each_crowd, stack, 0, " ".join(TEXTS)[:80], decoding=decoding)
            short = asked(each_crowd, stack, 1, "the", decoding=decoding)
            whole, reserved = driven_whole(each_crowd, [long, short]), each_crowd.engine._residents.reserved
            for one in (long, short):
                generations.add(one)
            first: dict[Generation, int] = {}
            found: dict[Generation, GeneratedText | AfinaError] = {}
            step = 0
            while generations.active:
                found.update(generations.step(20))
                assert not any(map(generations.waits, (long, short)))
                for one in generations.tokens_of:
                    first.setdefault(one, step)
                assert long in found or generations.bytes > 0
                step += 1
            assert first[short] <= 1
            assert first[long] >= len(long.encoded.tokens) // 20 - 1 > 1
            assert [told(found[one]) for one in (long, short)] == [told(one) for one in whole]
            assert (generations.bytes, each_crowd.engine._residents.reserved) == (0, reserved)


def driven_whole(crowd: Crowd, given: Sequence[Generation]) -> list[GeneratedText | AfinaError]:
    """The outcomes of generations whose prompts are computed whole."""
    generations = crowd.engine._new_generations(ReservedMemory(crowd.engine._residents))
    again = [replace(one) for one in given]
    found = driven(generations, again)
    return [found[one] for one in again]


def told(outcome: GeneratedText | AfinaError) -> list[int]:
    return [int(token) for token in text_of(outcome).tokens]


def test_an_unfinished_prompt_that_nobody_waits_for_frees_its_memory(crowd: Crowd) -> None:
    generations = crowd.engine.generations
    with ExitStack() as stack:
        one = asked(crowd, stack, 0, " ".join(TEXTS)[:80])
        reserved = crowd.engine._residents.reserved
        generations.add(one)
        generations.step(8)
        assert generations.bytes > 0
        assert crowd.engine._residents.reserved > reserved
        generations.cancel(one)
        assert generations.step(8) == []
    assert (generations.active, generations.bytes, crowd.engine._residents.reserved) == (0, 0, reserved)


def test_predict_answers_with_text_as_a_predictor_does(each_crowd: Crowd) -> None:
    texts = TEXTS[2:4]
    rows = [(one, text) for one in each_crowd.adapters for text in texts]
    found = each_crowd.engine.predict(rows)
    for place, one in enumerate(each_crowd.alone):
        expected = one(texts)
        same = [each.answer for each in found[2 * place : 2 * place + 2]] == expected
        assert same or place in _tied(each_crowd, texts), each_crowd.methods[place]
    assert {one.kind for one in found} == {"text"}


def _tied(crowd: Crowd, texts: Sequence[str]) -> set[int]:
    """Adapters of which some step has two best tokens that are nearly equal."""
    found = set()
    for which, one in enumerate(crowd.alone):
        for text in texts:
            prompt = one.encode([text])[0]
            answer: list[int] = []
            for _ in range(12):
                row = np.sort(crowd.logits(which, prompt, [*answer, 0])[-1])
                if row[-1] - row[-2] < TIE * (1 + abs(row[-1])):
                    found.add(which)
                answer.append(int(crowd.logits(which, prompt, [*answer, 0])[-1].argmax()))
    return found


def test_an_adapter_that_gives_no_numbers_fails_alone(crowd: Crowd) -> None:
    generations = crowd.engine.generations
    with ExitStack() as stack:
        made = {asked(crowd, stack, which, TEXTS[2]): which for which in range(len(crowd.adapters))}
        bad = []
        for value in (float("nan"), 3e38):
            lease = stack.enter_context(crowd.engine.lease(spoilt(crowd.adapters[1], value)))
            bad.append(Generation(lease, tokenized(crowd.engine, lease), Decoding(max_new_tokens=8)))
        found = driven(generations, (*list(made)[:5], *bad, *list(made)[5:]))
        assert all(isinstance(found[one], CorruptAdapter) for one in bad)
        for each, which in made.items():
            crowd.check(which, each, found[each])


def test_log_probabilities_are_those_of_the_raw_logits(crowd: Crowd) -> None:
    generations = crowd.engine.generations
    heard: list[NewTokens] = []
    with ExitStack() as stack:
        decoding = Decoding(max_new_tokens=6, temperature=0.7, top_p=0.8, seed=3)
        one = asked(crowd, stack, 0, TEXTS[2], decoding=decoding, logprobs=3, heard=heard.append)
        other = asked(crowd, stack, 2, TEXTS[3], logprobs=0)
        found = driven(generations, (one, other))
        for which, each in ((0, one), (2, other)):
            outcome = text_of(found[each])
            assert outcome.logprobs is not None
            rows = torch.from_numpy(crowd.logits(which, each.encoded.tokens, outcome.tokens.tolist())).log_softmax(-1)
            for row, token, logprob in zip(rows, outcome.tokens.tolist(), outcome.logprobs, strict=True):
                assert isinstance(logprob, TokenLogprobs)
                assert logprob.chosen == pytest.approx(float(row[token]), abs=1e-4)
                assert [value for _, value in logprob.top] == pytest.approx(
                    row.topk(each.logprobs or 0).values.tolist(), abs=1e-4
                )
        outcome = text_of(found[one])
        assert [token for step in heard for token in step.tokens] == outcome.tokens.tolist()
        assert [each for step in heard for each in step.logprobs or ()] == outcome.logprobs


@pytest.mark.slow
def test_log_probabilities_of_a_prompt_are_those_of_each_adapter_alone_beside_prompts_without_them(
    crowd: Crowd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(next_token, "SLICE", 3)
    generations = crowd.engine.generations
    with ExitStack() as stack:
        made = {
            asked(crowd, stack, which, TEXTS[which % 4], prompt_logprobs=None if which % 3 == 2 else which % 3): which
            for which in range(len(crowd.methods))
        }
        found = driven(generations, made, most=40)
        for each, which in made.items():
            outcome, prompt = crowd.check(which, each, found[each]), each.encoded.tokens
            if each.prompt_logprobs is None:
                assert outcome.prompt_logprobs is None
                continue
            rows = torch.from_numpy(crowd.logits(which, prompt[:1], prompt[1:].tolist())).log_softmax(-1)
            assert outcome.prompt_logprobs is not None
            for row, token, logprob in zip(rows, prompt[1:].tolist(), outcome.prompt_logprobs, strict=True):
                assert logprob.chosen == pytest.approx(float(row[token]), abs=1e-4)
                assert [value for _, value in logprob.top] == pytest.approx(
                    row.topk(each.prompt_logprobs).values.tolist(), abs=1e-4
                )


def test_a_guide_restricts_greedy_and_sampled_answers_exactly(crowd: Crowd) -> None:
    generations, allowed = crowd.engine.generations, [5, 9, 40, 41, 100]
    with ExitStack() as stack:
        guides = [Ban(allowed, 4), Ban(allowed, 9)]
        one = asked(crowd, stack, 0, TEXTS[2], guide=guides[0])
        drawn = asked(crowd, stack, 1, TEXTS[2], guide=guides[1], decoding=Decoding(max_new_tokens=6, temperature=1.0))
        free = asked(crowd, stack, 2, TEXTS[2])
        found = driven(generations, (one, drawn, free))
        first, second = crowd.check(0, one, found[one]), text_of(found[drawn])
        assert first.ended
        assert first.tokens.tolist() == guides[0].taken
        assert len(first.tokens) == 4
        assert set(second.tokens.tolist()) <= set(allowed)
        assert not second.ended
        crowd.check(2, free, found[free])


def test_errors_of_a_guide_or_a_listener_end_their_own_generation(crowd: Crowd) -> None:
    class Broken(Ban):
        def accept(self, token: int) -> None:
            raise KeyError(token)

    def deaf(new: NewTokens) -> None:
        raise OSError("gone")

    generations = crowd.engine.generations
    with ExitStack() as stack:
        broken = asked(crowd, stack, 0, TEXTS[2], guide=Broken([5], 3))
        nothing = asked(crowd, stack, 0, TEXTS[2], guide=Ban([], 3))
        unheard = asked(crowd, stack, 0, TEXTS[2], heard=deaf)
        fine = asked(crowd, stack, 0, TEXTS[2])
        found = driven(generations, (broken, nothing, unheard, fine))
        assert isinstance(found[broken], Busy)
        assert isinstance(found[nothing], InvalidStudy)
        assert isinstance(found[unheard], Busy)
        assert isinstance(found[fine], GeneratedText)


def test_samples_with_other_seeds_differ_and_with_the_same_seed_do_not(crowd: Crowd) -> None:
    generations = crowd.engine.generations
    with ExitStack() as stack:
        decodings = [Decoding(max_new_tokens=8, temperature=1.5, seed=seed) for seed in (1, 2, 1)]
        made = [asked(crowd, stack, 0, TEXTS[2], decoding=each) for each in decodings]
        found = driven(generations, made)
        tokens = [told(found[each]) for each in made]
        assert tokens[0] == tokens[2] != tokens[1]


def test_beams_answer_as_alone(crowd: Crowd) -> None:
    generations, decoding = crowd.engine.generations, Decoding(beams=3, max_new_tokens=6)
    with ExitStack() as stack:
        made = [asked(crowd, stack, which, TEXTS[2], decoding=decoding) for which in (0, 6, 7, 13)]
        found = driven(generations, made)
        for which, each in zip((0, 6, 7, 13), made, strict=True):
            outcome = text_of(found[each])
            (expected,) = crowd.alone[which].generating(beams=3, max_new_tokens=6)([TEXTS[2]])
            assert outcome.text == expected["answer"]
        with raises(InvalidStudy, code="option.inapplicable"):
            generations.add(asked(crowd, stack, 0, TEXTS[2], decoding=decoding, logprobs=1))


def test_tokens_of_a_step_are_counted(crowd: Crowd) -> None:
    generations = crowd.engine.generations
    with ExitStack() as stack:
        made = [asked(crowd, stack, which, TEXTS[2]) for which in (0, 13)]
        for each in made:
            generations.add(each)
        assert (generations.active, generations.waiting) == (2, 2)
        counted = dict.fromkeys(made, 0)
        found: dict[Generation, GeneratedText | AfinaError] = {}
        while generations.active:
            found.update(generations.step())
            for each, count in generations.tokens_of.items():
                counted[each] += count
        for each in made:
            outcome = text_of(found[each])
            assert counted[each] == len(outcome.tokens)


def test_a_cancelled_generation_may_wait_again(crowd: Crowd) -> None:
    generations = crowd.engine.generations
    with ExitStack() as stack:
        one, other = asked(crowd, stack, 0, TEXTS[2]), asked(crowd, stack, 8, TEXTS[2])
        for each in (one, other):
            generations.add(each)
        generations.step()
        generations.cancel(one)
        generations.add(one)
        assert generations.active == 2
        found = driven(generations)
        assert found.keys() == {one, other}
        for which, each in ((0, one), (8, other)):
            crowd.check(which, each, found[each])


def test_the_probe_equals_the_recorded_one(each_crowd: Crowd) -> None:
    for which, one in enumerate(each_crowd.alone):
        expected = np.array(golden_test.outputs(one.classifier, one.backbone, one.max_length, one.template))
        with each_crowd.engine.lease(each_crowd.adapters[which]) as lease:
            found = each_crowd.engine.probe(lease)
        assert golden_test.compared(found, expected, "here") < golden_test.TOLERANCE, each_crowd.methods[which]


def test_an_adapter_of_another_kind_is_refused_both_ways(gpt2: Backbone) -> None:
    told, label = adapter(gpt2, "lora", template=TEMPLATES[0], **TOLD), adapter(gpt2, "lora", seed=1)
    with Engine(gpt2) as engine, engine.lease(told) as first, engine.lease(label) as second:
        encoded = tokenized(engine, first)
        (outcome,) = engine.compute([SinglePass(first, encoded)])
        assert isinstance(outcome, InvalidStudy)
        assert outcome.code == "serving.kind-mismatch"
        with raises(InvalidStudy, code="serving.kind-mismatch"):
            engine.generations.add(Generation(second, encoded, Decoding()))
        mixed = engine.attempt([(told, TEXTS[2]), (label, TEXTS[2]), (told, " ")])
        assert [type(one).__name__ for one in mixed] == ["Prediction", "Prediction", "InvalidData"]
        probe = engine.probe(second)
        assert np.allclose(probe, Predictor.of(label, gpt2).outputs(SENTENCES), atol=1e-4)


def test_a_prompt_without_a_position_for_an_answer_is_refused(gpt2: Backbone) -> None:
    told = adapter(gpt2, "lora", template=TEMPLATES[0], **TOLD)
    with Engine(gpt2) as engine, engine.lease(told) as lease:
        tokens = np.ones(gpt2.longest, np.int32)
        with raises(InvalidData, code="generation.prompt-too-long"):
            engine.generations.add(Generation(lease, EncodedText(tokens, False, "x"), Decoding()))
        assert engine.generations.active == 0


def test_a_trained_output_embedding_has_a_model_of_its_own(backbones: Backbones) -> None:
    backbone = Backbone.load(str(backbones.path("llama")))
    lora = adapter(backbone, "lora", {"targets": ("q_proj", "lm_head")}, template=TEMPLATES[0], **TOLD)
    with Engine(backbone) as engine:
        (resident,) = engine.load(lora)
        assert not resident.shares_model
        (found,) = engine.predict([(lora, TEXTS[2])])
        assert found.answer == Predictor.of(lora, backbone)([TEXTS[2]])[0]


def test_keys_and_values_stay_under_the_limit_and_evict_idle_adapters(gpt2: Backbone) -> None:
    adapters = [adapter(gpt2, "lora", {"r": 8}, seed=seed, template=TEMPLATES[0], **TOLD) for seed in range(6)]
    with Engine(gpt2) as measured:
        sizes = [one.size for one in measured.load(*adapters)]
        batch = measured.generations
        with measured.lease(adapters[0]) as lease:
            encoded = tokenized(measured, lease)
            batch.add(Generation(lease, encoded, Decoding(max_new_tokens=20)))
            batch.step()
            each = measured._residents.reserved
            driven(batch)
        assert measured._residents.reserved == 0
    limit = 2 * each + 3 * sizes[0]  # two answers fit if only three adapters stay
    with Engine(gpt2, limit=limit) as engine, ExitStack() as stack:
        engine.load(*adapters)
        assert len(engine.residents) == 6
        leases = [stack.enter_context(engine.lease(one)) for one in adapters[:2]]
        made = [Generation(lease, encoded, Decoding(max_new_tokens=20)) for lease in leases * 4]
        for one in made:
            engine.generations.add(one)
        waited, found = 0, dict[Generation, GeneratedText | AfinaError]()
        while engine.generations.active:
            found.update(engine.generations.step())
            loaded = sum(one.size for one in engine.residents)
            assert engine._residents.reserved + loaded <= limit
            assert engine.generations.bytes <= engine._residents.reserved
            waited = max(waited, engine.generations.waiting)
        assert waited
        assert engine.counts.evictions
        assert len(found) == 8
        assert all(isinstance(one, GeneratedText) for one in found.values())
        assert engine._residents.reserved == 0


def test_an_output_embedding_of_its_own_counts_once(backbones: Backbones) -> None:
    backbone = Backbone.load(str(backbones.path("llama")))
    with Engine(backbone) as engine:
        engine.load(*(adapter(backbone, "lora", seed=seed, template=TEMPLATES[0], **TOLD) for seed in range(3)))
        weight = engine.hosts.of("float").output_embedding
        assert weight is not None
        assert engine._residents.reserved == 4 * weight.weight.numel()
    with Engine(gpt2 := Backbone.load(str(backbones.path("gpt2")))) as engine:
        engine.load(adapter(gpt2, "lora", template=TEMPLATES[0], **TOLD))
        assert engine._residents.reserved == 0  # tied to the input embedding


def test_an_answer_that_could_never_fit_is_refused_and_leases_delay_none_for_ever(gpt2: Backbone) -> None:
    adapters = [adapter(gpt2, "lora", {"r": 8}, seed=seed, template=TEMPLATES[0], **TOLD) for seed in range(3)]
    with Engine(gpt2) as measured:
        size = measured.load(adapters[0])[0].size
    with Engine(gpt2, limit=3 * size + 200_000) as engine, ExitStack() as stack:
        leases = [stack.enter_context(engine.lease(one)) for one in adapters]
        encoded = tokenized(engine, leases[0])
        with raises(InvalidData, code="generation.beyond-memory"):
            engine.generations.add(Generation(leases[0], encoded, Decoding(max_new_tokens=100, beams=16)))
        made = [Generation(lease, encoded, Decoding(max_new_tokens=5)) for lease in leases]
        assert len(driven(engine.generations, made)) == 3


def test_a_step_that_fails_ends_its_batch_and_the_next_ones_are_answered(
    gpt2: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    crowd = Crowd(gpt2, METHODS[:2])
    with crowd.engine as engine, ExitStack() as stack:
        made = [asked(crowd, stack, which, TEXTS[2]) for which in (0, 1)]
        for each in made:
            engine.generations.add(each)
        engine.generations.step()
        with monkeypatch.context() as patched:
            patched.setattr("afina.models.mixed_batch.MixedBatchModel.next_features", lambda *_: 1 / 0)
            found = dict(engine.generations.step())
        assert all(isinstance(found[each], Busy) for each in made)
        assert engine._residents.reserved == 0
        again = asked(crowd, stack, 0, TEXTS[2])
        crowd.check(0, again, driven(engine.generations, [again])[again])


def test_bfloat16_answers_are_nearly_as_probable(crowd: Crowd) -> None:
    with Engine(crowd.backbone, dtype="bfloat16") as engine, ExitStack() as stack:
        lowered = replace(crowd)
        lowered.__dict__["engine"], lowered.__dict__["adapters"] = engine, crowd.adapters
        made = {asked(lowered, stack, which, TEXTS[2]): which for which in range(8)}
        for each, outcome in driven(engine.generations, made).items():
            tokens = told(outcome)
            rows = crowd.logits(made[each], each.encoded.tokens, tokens)
            lost = rows.max(-1) - rows[np.arange(len(rows)), tokens]
            assert (lost < 0.1 * np.abs(rows).max()).all()
