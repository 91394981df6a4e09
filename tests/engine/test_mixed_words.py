"""Texts for entities share forward passes with other texts: each is answered as by its adapter alone."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_mixing import KINDS, Crowd, forward_passes

from afina import Adapter, Backbone, Predictor
from afina.engine.encoding import EncodedText
from afina.engine.engine import Engine
from afina.engine.mixed_batches import Prediction, SinglePass, WindowedPass
from afina.errors import AfinaError, CorruptAdapter, InvalidData
from crowd import adapter, spoilt
from fakes import TEXTS, Backbones
from raises import raises
from rounding import Exact
from servers import within

WORDS: dict[str, Any] = {"labels": ("LOC", "PER"), "objective": {"kind": "entities", "viterbi": True}}
LONG = " ".join(TEXTS)[:400]
ASKED = (TEXTS[0], TEXTS[1], TEXTS[4], LONG)
"""The texts of these tests; the last one is longer than the windows of one adapter."""

TAGGING: list[tuple[str, dict[str, Any]]] = [
    ("lora", {"dora": True}),
    ("lora", {"r": 2}),
    ("layernorm", {}),
    ("ia3", {}),
    ("vera", {"r": 8}),
    ("adapter", {"kind": "houlsby", "reduction": 4}),
    ("adapter", {}),
    ("head", {}),
    ("linear_probe", {}),
]
ON_DECODERS: list[tuple[str, dict[str, Any]]] = [
    ("prompt", {"tokens": 3}),
    ("prefix", {"tokens": 5}),
    ("prompt+prefix", {"prompt": {"tokens": 3}, "prefix": {"tokens": 2}}),
    ("lora+bitfit", {}),
    ("adapter", {"kind": "parallel", "reduction": 8}),
]
"""Methods that share a model: of all families here, and of GPT-2."""

FAMILIES = ("gpt2", "bert", "roberta", "modernbert", "qwen2")


def entities_in(answer: dict[str, Any]) -> list[tuple[int, int, str]]:
    return [(one["start"], one["end"], one["label"]) for one in answer["entities"]]


@contextmanager
def tagging(backbone: Backbone, methods: Sequence[tuple[str, dict[str, Any]]]) -> Iterator[Crowd]:
    """Adapters for entities by each method, one with short windows, one with a model of its own; and others."""
    made = [adapter(backbone, *one, seed=seed, **WORDS) for seed, one in enumerate(methods)]
    made += [adapter(backbone, "lora", seed=20, max_length=14, **WORDS), adapter(backbone, "full", seed=21, **WORDS)]
    made += [adapter(backbone, "lora", {"r": 2}, seed=30 + seed, **one) for seed, one in enumerate(KINDS[2:4])]
    made += [adapter(backbone, "head", seed=40)]
    crowd = Crowd(backbone, made, ASKED)
    with crowd.engine:
        assert len(crowd.alone) == len(crowd.engine.load(*made))
        yield crowd


@pytest.fixture(scope="module")
def crowd(gpt2: Backbone) -> Iterator[Crowd]:
    with tagging(gpt2, [TAGGING[0], TAGGING[7]]) as made:
        yield made


@pytest.fixture(scope="module", params=["few", *(pytest.param(one, marks=pytest.mark.slow) for one in FAMILIES)])
def each_crowd(request: pytest.FixtureRequest, backbones: Backbones) -> Iterator[Crowd]:
    """The crowd of few methods, and those of each family with all methods."""
    if request.param == "few":
        yield request.getfixturevalue("crowd")
        return
    methods = TAGGING + (ON_DECODERS if request.param == "gpt2" else [])
    with tagging(Backbone.load(str(backbones.path(request.param))), methods) as made:
        yield made


@pytest.mark.slow
def test_taggers_and_others_on_all_texts_at_once(each_crowd: Crowd) -> None:
    each_crowd.check([(which, text) for text in range(len(ASKED)) for which in range(len(each_crowd.adapters))])
    apart = [one.manifest.method for one in each_crowd.engine.load(*each_crowd.adapters) if not one.shares_model]
    assert apart == ["full"]


@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_mix_with_words_is_answered_as_each_adapter_alone(crowd: Crowd, data: st.DataObject) -> None:
    pairs = st.tuples(st.integers(0, len(crowd.adapters) - 1), st.integers(0, len(ASKED) - 1))
    crowd.check(data.draw(st.lists(pairs, min_size=1, max_size=20)))


def test_an_answer_is_that_of_a_predictor(each_crowd: Crowd) -> None:
    tagging = [one for one in each_crowd.adapters if one.manifest.objective == WORDS["objective"]][::3]
    found = each_crowd.engine.predict([(one, text) for one in tagging for text in ASKED])
    expected = [answer for one in tagging for answer in Predictor.of(one, each_crowd.backbone)(ASKED)]
    some = 0
    for one, answer, text in zip(found, expected, ASKED * len(tagging), strict=True):
        assert entities_in(one.answer) == entities_in(answer)
        for mine, other in zip(one.answer["entities"], answer["entities"], strict=True):
            assert mine["score"] == pytest.approx(other["score"], abs=1e-5)
            assert mine["text"] == text[mine["start"] : mine["end"]]
        some += len(answer["entities"])
        assert one.words is not None
        assert one.outputs.shape == (len(one.words), 5)
    assert some > len(ASKED)


def test_words_of_many_adapters_are_computed_in_one_forward_pass(crowd: Crowd, monkeypatch: pytest.MonkeyPatch) -> None:
    passes = forward_passes(monkeypatch)
    sharing = [which for which, one in enumerate(crowd.engine.load(*crowd.adapters)) if one.shares_model]
    crowd.check([(which, 0) for which in sharing])
    bare = sum(crowd.adapters[which].manifest.method in ("head", "linear_probe") for which in sharing)
    assert [len(groups) for groups in passes] == [len(sharing) - bare + 1], (
        "adapters that only have a head share a group"
    )


def windows(engine: Engine, made: Adapter, text: str) -> tuple[SinglePass, EncodedText, Any]:
    lease = engine.lease(made)
    (encoded,) = engine.encode(lease.resident(), [text])
    assert isinstance(encoded, EncodedText)
    return SinglePass(lease, encoded), encoded, lease


def test_a_text_computed_window_by_window_beside_others_has_the_same_answer(crowd: Crowd) -> None:
    place = next(index for index, one in enumerate(crowd.adapters) if one.manifest.max_length == 14)
    row, encoded, lease = windows(crowd.engine, crowd.adapters[place], LONG)
    other, short, more = windows(crowd.engine, crowd.adapters[0], LONG)
    with lease, more:
        sizes = [len(one.tokens) for one in encoded.sequences]
        assert len(sizes) > 4
        assert max(sizes) <= 14
        assert len(encoded.tokens) == sum(sizes)
        text, beside = crowd.engine.open(row), crowd.engine.open(other)
        assert isinstance(text, WindowedPass)
        assert isinstance(beside, WindowedPass)
        first = crowd.engine.compute_chunks([(text, sum(sizes[:2])), (beside, len(short.tokens))])
        assert first[0] is None
        found = [first[1], *crowd.engine.compute_chunks([(text, sum(sizes[2:]))])]
    for which, one in zip((0, place), found, strict=True):
        assert isinstance(one, Prediction)
        assert crowd.alone[which].explains(one.outputs, len(ASKED) - 1)
        assert one.tokens == (len(encoded.tokens) if which else len(short.tokens))


def test_a_tagger_that_gives_no_numbers_spoils_nobody_elses(crowd: Crowd) -> None:
    bad = spoilt(crowd.adapters[0], float("nan"))
    asked = [(one, text) for text in ASKED[:3] for one in (bad, *crowd.adapters[1:3], crowd.adapters[-1])]
    for (one, text), found in zip(asked, crowd.engine.attempt(asked), strict=True):
        if one is bad:
            assert isinstance(found, CorruptAdapter)
        else:
            assert isinstance(found, Prediction)
            assert crowd.alone[crowd.adapters.index(one)].explains(found.outputs, ASKED.index(text))


def test_each_token_of_a_text_has_outputs_if_asked(each_crowd: Crowd) -> None:
    for made in (each_crowd.adapters[0], next(one for one in each_crowd.adapters if one.manifest.method == "full")):
        with each_crowd.engine.lease(made) as lease:
            resident = lease.resident()
            (each,) = each_crowd.engine.encode(resident, [ASKED[1]], each_token=True)
            (words,) = each_crowd.engine.encode(resident, [ASKED[1]])
            assert isinstance(each, EncodedText)
            assert isinstance(words, EncodedText)
            found = each_crowd.engine.compute([SinglePass(lease, each), SinglePass(lease, words)])
        assert all(isinstance(one, Prediction) for one in found)
        tokens, whole = found
        ids = each_crowd.backbone.tokenizer(ASKED[1])["input_ids"]
        assert each.tokens.tolist() == ids
        assert (tokens.outputs.shape, tokens.answer) == ((len(ids), 5), {})  # type: ignore[union-attr]
        (sequence,) = words.sequences
        np.testing.assert_allclose(tokens.outputs[sequence.read], whole.outputs, atol=1e-4)  # type: ignore[union-attr]


def test_outputs_of_tokens_are_refused_for_other_adapters_and_for_several_windows(crowd: Crowd) -> None:
    short = next(one for one in crowd.adapters if one.manifest.max_length == 14)
    for made, code in ((crowd.adapters[-1], "data.kind-mismatch"), (short, "request.several-windows")):
        with crowd.engine.lease(made) as lease:
            (found,) = crowd.engine.encode(lease.resident(), [LONG], each_token=True)
            assert isinstance(found, AfinaError)
            with raises(InvalidData, code=code):
                raise found


def evicted(engine: Engine) -> bool:
    for resident in engine.residents[:2]:
        engine.evict(resident)
    return True


def test_adapters_that_come_and_go_under_load_mix_up_nothing(crowd: Crowd) -> None:
    some = [*range(2), len(crowd.adapters) - 1, len(crowd.adapters) - 2]
    over, errors, answered = threading.Event(), list[object](), list[int]()

    def ask(engine: Engine, seed: int) -> None:
        draw = random.Random(seed)
        while not over.is_set():
            asked = [(draw.choice(some), draw.randrange(len(ASKED))) for _ in range(6)]
            outcomes = engine.attempt((crowd.adapters[which], ASKED[text]) for which, text in asked)
            for (which, text), found in zip(asked, outcomes, strict=True):
                right = isinstance(found, Prediction) and crowd.alone[which].explains(found.outputs, text)
                (answered if right else errors).append(which if right else found)

    with Engine(crowd.backbone) as engine, ThreadPoolExecutor(2) as pool:
        engine.hosts._models, engine.hosts._sizes = crowd.engine.hosts._models, crowd.engine.hosts._sizes
        asking = [pool.submit(ask, engine, seed) for seed in range(2)]
        try:
            assert within(20, lambda: evicted(engine) and engine.counts.loads > 3 * len(some))
        finally:
            over.set()
        for one in asking:
            one.result()
    assert errors == []
    assert {*answered} == {*some}


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
def test_lower_precisions_are_as_near_as_a_predictors(crowd: Crowd, dtype: str) -> None:
    """Of few adapters: each opens a model."""
    some = crowd.adapters[:2]
    with Engine(crowd.backbone, dtype=dtype) as engine:
        found = engine.predict([(one, text) for one in some for text in ASKED[1:]])
    for place, one in enumerate(some):
        lowered = Predictor.of(one, crowd.backbone, dtype).outputs(ASKED[1:])
        exact = crowd.alone[place].outputs[1:]
        mine = found[place * len(exact) : (place + 1) * len(exact)]
        for own, low, right in zip(mine, lowered, exact, strict=True):
            assert np.abs(own.outputs - right).max() <= 2 * np.abs(low - right).max() + 0.02 * np.abs(right).max()


def test_a_text_that_two_bare_adapters_read_is_computed_once(gpt2: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    heads = [adapter(gpt2, "head", seed=seed, **WORDS) for seed in range(3)]
    passes = forward_passes(monkeypatch)
    with Engine(gpt2) as engine:
        found = engine.tasks(TEXTS[2], heads)
    assert passes == [[1]]
    assert len({one.outputs.tobytes() for one in found}) == 3
    for one, made in zip(found, heads, strict=True):
        assert Exact.of(made, gpt2, [TEXTS[2]]).explains(one.outputs, 0)
