"""Generation: every answer is the one that transformers' `generate` gives to the prompt alone, in any company."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

from afina import Backbone
from afina.data.batch import pack
from afina.generating.generation import ContinuousBatch, answers, shared_out
from afina.generating.next_token import OwnNextTokenModel
from afina.generating.searches import Continuation
from afina.methods import METHODS
from afina.models.classifier import Classifier
from afina.models.decoding import Decoding
from afina.models.language_model import open_model
from afina.models.objective import Opening
from fakes import CAUSAL, LONGEST, UNUSUAL, VOCABULARY, Backbones, configuration, save, sentences, tokenizer
from grid import some_slow, thinned

TIE = 1e-4
"""Where transformers' two best differ by less, either counts."""

ENDS = (0, 203, 260)
"""End tokens, more than one, so that the tiny models end some answers."""


def language_model(backbone: Backbone) -> Classifier:
    return open_model(backbone, ("text",), 0, Opening("", "language_model")).eval()


def prompts(count: int, longest: int = 60, seed: int = 0) -> list[np.ndarray]:
    random = np.random.default_rng(seed)
    return [random.integers(2, VOCABULARY, int(random.integers(1, longest))).astype(np.int32) for _ in range(count)]


class Reference:
    """transformers' language model with its own attention, asked about one prompt at a time."""

    def __init__(self, path: Any) -> None:
        self.model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, attn_implementation="eager").eval()

    @torch.no_grad()
    def generate(self, prompt: np.ndarray, decoding: Decoding) -> list[int]:
        row = torch.from_numpy(prompt.astype(np.int64))[None]
        given = {"num_beams": decoding.beams, "length_penalty": decoding.length_penalty} if decoding.beams > 1 else {}
        whole = self.model.generate(
            row,
            attention_mask=torch.ones_like(row),
            do_sample=False,
            max_new_tokens=decoding.max_new_tokens,
            no_repeat_ngram_size=decoding.no_repeat_ngram,
            eos_token_id=list(ENDS),
            pad_token_id=0,
            **given,
        )
        found: list[int] = whole[0, len(prompt) :].tolist()
        ends = [place for place, token in enumerate(found) if token in ENDS]
        return found[: ends[0] + 1] if ends else found

    @torch.no_grad()
    def log_probabilities(self, prompt: np.ndarray, answer: Sequence[int]) -> torch.Tensor:
        """float32 [length of the answer, V]."""
        row = torch.tensor([[*prompt.tolist(), *answer]])
        return torch.log_softmax(self.model(row).logits[0, len(prompt) - 1 : -1], -1)

    def agrees(self, prompt: np.ndarray, decoding: Decoding, answer: Continuation) -> bool:
        found, expected = answer.tokens.tolist(), self.generate(prompt, decoding)
        if found == expected:
            return answer.ended == (found[-1] in ENDS)
        if decoding.beams > 1:
            return abs(self._score(prompt, decoding, found) - self._score(prompt, decoding, expected)) < TIE
        place = next(place for place, (one, other) in enumerate(zip(found, expected, strict=False)) if one != other)
        row = self.log_probabilities(prompt, found[: place + 1])[place]
        return abs(float(row[found[place]] - row[expected[place]])) < TIE

    def follows(self, prompt: np.ndarray, decoding: Decoding, answer: Continuation) -> bool:
        """Whether each token is the best after those before it, all in one pass: as `agrees`, of greedy decoding alone.

        `generate` would take the same tokens one by one, and reads all weights for each.
        """
        found = answer.tokens.tolist()
        rows = self.log_probabilities(prompt, found)
        behind = rows.max(-1).values - rows.gather(1, torch.tensor(found)[:, None])[:, 0]
        ends = [place for place, token in enumerate(found) if token in ENDS]
        whole = ends == [len(found) - 1] if answer.ended else not ends and len(found) == decoding.max_new_tokens
        return whole and bool((behind < TIE).all())

    def _score(self, prompt: np.ndarray, decoding: Decoding, answer: list[int]) -> float:
        rows = self.log_probabilities(prompt, answer)
        total = sum(float(row[token]) for row, token in zip(rows, answer, strict=True))
        return total / float(len(answer) ** decoding.length_penalty)


GREEDY = Decoding(max_new_tokens=24)
WAYS = {
    "greedy": GREEDY,
    "no repeated bigram": Decoding(max_new_tokens=24, no_repeat_ngram=2),
    "no repeated token": Decoding(max_new_tokens=12, no_repeat_ngram=1),
    "beams": Decoding(max_new_tokens=16, beams=3),
    "long beams": Decoding(max_new_tokens=16, beams=4, length_penalty=2.0),
    "short beams without repeated trigrams": Decoding(max_new_tokens=16, beams=4, length_penalty=-1, no_repeat_ngram=3),
}


WHOLE = ("gpt2", "llama")
"""Families that are asked in every way; each other family is asked in two ways, in turn."""


@pytest.mark.parametrize("family", some_slow(sorted(CAUSAL), {"gpt2"}))
@pytest.mark.slow
def test_answers_equal_those_of_transformers_in_every_family_and_way(backbones: Backbones, family: str) -> None:
    reference, model = Reference(backbones.path(family)), language_model(Backbone.load(str(backbones.path(family))))
    asked = prompts(6)
    for name in WAYS if family in WHOLE else list(WAYS)[sorted(CAUSAL).index(family) % 3 :: 3]:
        found = list(answers(model, asked, WAYS[name], ENDS, rows=4))
        wrong = [i for i, each in enumerate(found) if not reference.agrees(asked[i], WAYS[name], each)]
        assert not wrong, name


@pytest.mark.parametrize("family", some_slow(sorted(CAUSAL), {"gpt2", "mistral", "qwen2"}))
def test_unusual_settings_change_nothing(backbones: Backbones, tmp_path: Any, family: str) -> None:
    path = save(configuration(family, **UNUSUAL[family]), backbones.tokenizer(family), tmp_path)
    reference, model = Reference(path), language_model(Backbone.load(str(path)))
    asked = prompts(6)
    found = list(answers(model, asked, GREEDY, ENDS, rows=4))
    assert all(reference.agrees(prompt, GREEDY, each) for prompt, each in zip(asked, found, strict=True))


@pytest.mark.slow
@pytest.mark.assets
def test_the_embedded_model_answers_as_alone() -> None:
    backbone = Backbone.load("embedded")
    reference, model = Reference(backbone.path), language_model(backbone)
    texts = [f"{text}\nIn other words:" for text, _ in sentences(18)]
    asked = [np.array(backbone.tokenizer(text)["input_ids"]) for text in texts]
    decoding = Decoding(max_new_tokens=24)
    found = list(answers(model, asked, decoding, ENDS))
    for prompt, each in zip(asked, found, strict=True):
        assert reference.follows(prompt, decoding, each)
    assert all(reference.agrees(prompt, decoding, each) for prompt, each in zip(asked[::6], found[::6], strict=True))
    beams = Decoding(max_new_tokens=16, beams=4, no_repeat_ngram=3)
    some = zip(asked[:4], answers(model, asked[:4], beams, ENDS), strict=True)
    assert all(reference.agrees(prompt, beams, each) for prompt, each in some)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_in_bfloat16_most_answers_begin_as_in_float32(backbones: Backbones, family: str) -> None:
    backbone, asked, decoding = Backbone.load(str(backbones.path(family))), prompts(40), Decoding(max_new_tokens=8)
    model = language_model(backbone)
    expected = [each.tokens[:2].tolist() for each in answers(model, asked, decoding, ENDS)]
    model.lower(torch.bfloat16)
    found = [each.tokens[:2].tolist() for each in answers(model, asked, decoding, ENDS)]
    assert sum(one == other for one, other in zip(found, expected, strict=True)) >= 30


MIXED = (
    GREEDY,
    Decoding(max_new_tokens=5),
    Decoding(max_new_tokens=30, beams=2),
    Decoding(max_new_tokens=20, temperature=0.9, top_p=0.9, seed=3),
    Decoding(max_new_tokens=20, temperature=1.5, top_k=20),
    Decoding(max_new_tokens=20, no_repeat_ngram=2),
)


@pytest.fixture(scope="module")
def alone(gpt2: Backbone) -> tuple[Classifier, list[np.ndarray], dict[tuple[int, int], list[int]]]:
    """A model, its prompts, and the answer to each prompt alone in each way of `MIXED`."""
    model, asked = language_model(gpt2), prompts(8, longest=100, seed=1)
    found = {}
    for place, prompt in enumerate(asked):
        for way, decoding in enumerate(MIXED):
            (answer,) = answers(model, [prompt], decoding, ENDS)
            found[place, way] = answer.tokens.tolist()
    return model, asked, found


@pytest.mark.slow
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    plan=st.lists(st.tuples(st.integers(0, 7), st.integers(0, 5), st.integers(0, 4)), min_size=1, max_size=20),
    rows=st.integers(1, 9),
    columns=st.sampled_from([100, 400, 10000]),
    budget=st.sampled_from([1, 120, 2048]),
    cancelled=st.sets(st.integers(0, 19)),
)
def test_no_company_changes_an_answer(
    alone: tuple[Classifier, list[np.ndarray], dict[tuple[int, int], list[int]]],
    plan: list[tuple[int, int, int]],
    rows: int,
    columns: int,
    budget: int,
    cancelled: set[int],
) -> None:
    """Requests enter at any time, some are cancelled, and every other one has the answer that it has alone."""
    model, asked, expected = alone
    batch = ContinuousBatch[int](OwnNextTokenModel(model), ENDS, rows=rows, columns=columns, budget=budget)
    due: dict[int, tuple[int, int]] = {}
    for number, (prompt, way, steps) in enumerate(plan):
        batch.add(number, asked[prompt], MIXED[way])
        due[number] = prompt, way
        for _ in range(steps):
            for ended, answer in batch.step():
                assert answer.tokens.tolist() == expected[due.pop(ended)]
        if number in cancelled:
            batch.cancel(number)
            due.pop(number, None)
    while batch.active:
        for ended, answer in batch.step():
            assert answer.tokens.tolist() == expected[due.pop(ended)]
    assert not due
    assert batch.bytes == 0


@pytest.mark.parametrize(
    ("family", "name"), thinned(("gpt2", "llama", "mistral", "gpt_neox"), ("lora", "prefix", "prompt", "ia3"), share=2)
)
def test_methods_generate_what_recomputing_the_whole_text_gives(backbones: Backbones, family: str, name: str) -> None:
    model = language_model(Backbone.load(str(backbones.path(family))))
    torch.manual_seed(0)
    method = METHODS[name]().for_family(family)
    model.wrap(method.attach)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.2)
    asked = prompts(4)
    found = list(answers(model.eval(), asked, Decoding(max_new_tokens=12), ENDS, rows=3))
    for prompt, answer in zip(asked, found, strict=True):
        whole = prompt.tolist()
        for token in answer.tokens.tolist():
            with torch.inference_mode():
                row = model.output_embedding(model.features(pack([np.array(whole)])))[0]
            assert row.max() - row[token] < TIE
            whole.append(token)


def test_order_is_kept_and_prompts_are_read_as_far_ahead_as_the_window(gpt2: Backbone) -> None:
    model, asked, read = language_model(gpt2), prompts(12), 0

    def source() -> Any:
        nonlocal read
        for prompt in asked:
            read += 1
            yield prompt

    found = []
    for number, answer in enumerate(answers(model, source(), GREEDY, ENDS, rows=2, window=5)):
        assert read <= number + 5
        found.append(answer.tokens.tolist())
    assert found == [next(answers(model, [prompt], GREEDY, ENDS)).tokens.tolist() for prompt in asked]


def test_a_prompt_that_fills_the_model_is_refused_and_one_token_less_gets_one_token(gpt2: Backbone) -> None:
    model, batch = language_model(gpt2), ContinuousBatch[int](OwnNextTokenModel(language_model(gpt2)), ENDS)
    with pytest.raises(ValueError, match="leaves no room"):
        batch.add(0, np.full(LONGEST, 5), Decoding())
    (answer,) = answers(model, [np.full(LONGEST - 1, 5)], Decoding(), ())
    assert len(answer.tokens) == 1
    assert not answer.ended


def test_new_tokens_are_heard_at_each_step_but_not_those_of_beams(gpt2: Backbone) -> None:
    batch, heard = ContinuousBatch[int](OwnNextTokenModel(language_model(gpt2)), ()), list[list[int]]()
    listens = [lambda new: heard.append(new.tokens), lambda new: pytest.fail("a beam may still change")]
    for beams, listen in zip((1, 2), listens, strict=True):
        batch.add(beams, prompts(1)[0], Decoding(max_new_tokens=5, beams=beams), heard=listen)
    found = dict[int, Any]()
    while batch.active:
        found |= dict(batch.step())
    whole = found[1].tokens.tolist()
    assert heard == [whole[:2], *([token] for token in whole[2:])]


def test_without_a_limit_an_answer_ends_with_the_models_positions(gpt2: Backbone) -> None:
    (answer,) = answers(language_model(gpt2), prompts(1), Decoding(), ())
    assert len(answer.tokens) == LONGEST - len(prompts(1)[0])


def test_a_stop_string_ends_an_answer_with_the_token_that_completes_it(gpt2: Backbone) -> None:
    model, words, asked = language_model(gpt2), tokenizer(begin=False), prompts(6)
    free = [each.tokens.tolist() for each in answers(model, asked, GREEDY, ())]
    text = words.decode(free[0])
    stop = text[len(text) // 2 :][:2]
    found = list(answers(model, asked, GREEDY.model_copy(update={"stop": (stop,)}), (), words))
    for each, whole in zip(found, free, strict=True):
        own = each.tokens.tolist()
        assert own == whole[: len(own)]
        assert each.ended == (stop in words.decode(own))
        assert stop not in words.decode(own[:-1])
    assert found[0].ended


@pytest.mark.parametrize(
    ("needs", "most", "shares"),
    [
        ([5, 100, 7], 30, [5, 18, 7]),
        ([50, 100, 70], 30, [10, 10, 10]),
        ([50, 100], 3, [2, 1]),
        ([4, 2], None, [4, 2]),
        ([4, 2], 100, [4, 2]),
        ([], 10, []),
    ],
)
def test_what_one_prompt_does_not_need_goes_to_the_others(
    needs: list[int], most: int | None, shares: list[int]
) -> None:
    assert shared_out(needs, most) == shares
