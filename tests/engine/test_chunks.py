"""Texts that are computed in chunks: each answer is that of the whole text, whatever is computed between its chunks."""

from __future__ import annotations

import random
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import pytest
from test_mixing import APART, KINDS, RIDING, WITH_BIASES

from afina import Adapter, Backbone
from afina.engine.encoding import EncodedText
from afina.engine.engine import Engine
from afina.engine.mixed_batches import Outcome, Prediction, SinglePass
from afina.errors import CorruptAdapter
from afina.models.kernels.key_values import TokenChunk
from crowd import adapter, spoilt
from fakes import TEXTS, Backbones, sentences
from grid import by_family
from rounding import Exact


def rows_of(engine: Engine, stack: ExitStack, asked: Sequence[tuple[Adapter, str, str | None]]) -> list[SinglePass]:
    found = []
    for one, text, pair in asked:
        lease = stack.enter_context(engine.lease(one))
        (encoded,) = engine.encode(lease.resident(), [text], [pair])
        assert isinstance(encoded, EncodedText)
        found.append(SinglePass(lease, encoded))
    return found


def in_chunks(engine: Engine, rows: Sequence[SinglePass], draw: random.Random, most: int) -> list[Outcome]:
    """Compute texts in chunks of 1 to `most` tokens, at each step of some texts only."""
    opened = [engine.open(row) for row in rows]
    waiting = {index: one for index, one in enumerate(opened) if one is not None}
    assert len(waiting) == len(rows)
    found: dict[int, Outcome] = {}
    while waiting:
        some = draw.sample(sorted(waiting), draw.randint(1, len(waiting)))
        outcomes = engine.compute_chunks([(waiting[index], draw.randint(1, most)) for index in some])
        for index, outcome in zip(some, outcomes, strict=True):
            assert (outcome is None) != waiting[index].complete
            if outcome is not None:
                waiting.pop(index).close()
                found[index] = outcome
    return [found[index] for index in range(len(rows))]


def check(backbone: Backbone, cases: Sequence[tuple[str, dict[str, Any]]], texts: Sequence[str]) -> None:
    """Compare the outputs of all adapters for all texts with those of each adapter alone."""
    adapters = [adapter(backbone, *one, seed=seed, **KINDS[seed % len(KINDS)]) for seed, one in enumerate(cases)]
    alone = [Exact.of(one, backbone, texts) for one in adapters]
    with Engine(backbone) as engine, ExitStack() as stack:
        asked = [(which, text) for which in range(len(adapters)) for text in range(len(texts))]
        rows = rows_of(engine, stack, [(adapters[which], texts[text], None) for which, text in asked])
        assert all(row.lease.resident().takes_chunks for row in rows)
        found = in_chunks(engine, rows, random.Random(0), 9)
        for (which, text), one in zip(asked, found, strict=True):
            assert isinstance(one, Prediction)
            assert alone[which].explains(one.outputs, text), (adapters[which].manifest.method, text)
        assert not engine._residents.reserved


CASES = [*RIDING, *WITH_BIASES, *APART]
LONG = " ".join(text for text, _ in sentences(3))[:90]


@pytest.mark.parametrize("part", [0, pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.slow)])
def test_every_method_of_gpt2_answers_in_chunks_as_whole(gpt2: Backbone, part: int) -> None:
    check(gpt2, CASES[part::3], [LONG])


FAMILIES = ("llama", "mistral", "gptj", "gpt_neox", "qwen2", "qwen3")


@pytest.mark.slow
@pytest.mark.parametrize("family", by_family(FAMILIES, FAMILIES[2:]))
def test_other_families(backbones: Backbones, family: str) -> None:
    """Every second method for each, so that three families have all."""
    cases: list[tuple[str, dict[str, Any]]] = [
        ("lora", {}),
        ("prompt+prefix", {"prompt": {"tokens": 3}, "prefix": {"tokens": 2}}),
        ("prefix", {"tokens": 5}),
        ("adapter", {}),
        ("full", {}),
        ("head", {}),
    ]
    check(Backbone.load(str(backbones.path(family))), cases[FAMILIES.index(family) % 2 :: 2], [LONG, TEXTS[1]])


def test_pairs_and_a_text_of_one_chunk(gpt2: Backbone) -> None:
    one = adapter(gpt2, "lora", pairs=True)
    exact = Exact.of(one, gpt2, [TEXTS[0]], [TEXTS[1]])
    with Engine(gpt2) as engine, ExitStack() as stack:
        rows = rows_of(engine, stack, [(one, TEXTS[0], TEXTS[1])] * 2)
        for most in (3, 100):
            for found in in_chunks(engine, rows, random.Random(most), most):
                assert isinstance(found, Prediction)
                assert exact.explains(found.outputs, 0)
                assert found.tokens == len(rows[0].encoded.tokens)


def test_a_base_in_int8(gpt2: Backbone) -> None:
    one = adapter(gpt2, "lora", precision="int8")
    with Engine(gpt2) as engine, ExitStack() as stack:
        rows = rows_of(engine, stack, [(one, LONG, None)])
        (whole,), (found,) = engine.compute(rows), in_chunks(engine, rows, random.Random(0), 9)
        assert isinstance(whole, Prediction)
        assert isinstance(found, Prediction)
        assert abs(found.outputs - whole.outputs).max() <= 1e-5 * abs(whole.outputs).max()


def test_an_adapter_that_gives_no_numbers_fails_alone(gpt2: Backbone) -> None:
    good = adapter(gpt2, "lora")
    exact = Exact.of(good, gpt2, [LONG])
    with Engine(gpt2) as engine, ExitStack() as stack:
        rows = rows_of(engine, stack, [(spoilt(good, float("inf")), LONG, None), (good, LONG, None)])
        fault, found = in_chunks(engine, rows, random.Random(0), 9)
        assert isinstance(fault, CorruptAdapter)
        assert isinstance(found, Prediction)
        assert exact.explains(found.outputs, 0)


def test_a_chunk_that_failed_can_be_computed_again(gpt2: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    one = adapter(gpt2, "prefix", {"tokens": 2})
    exact = Exact.of(one, gpt2, [LONG])
    with Engine(gpt2) as engine, ExitStack() as stack:
        opened = engine.open(rows_of(engine, stack, [(one, LONG, None)])[0])
        assert opened is not None
        outcome = None
        while outcome is None:
            with monkeypatch.context() as patched:
                patched.setattr(TokenChunk, "done", lambda *given: 1 / 0)
                with pytest.raises(ZeroDivisionError):
                    engine.compute_chunks([(opened, 5)])
            (outcome,) = engine.compute_chunks([(opened, 5)])
        assert isinstance(outcome, Prediction)
        assert exact.explains(outcome.outputs, 0)


def test_keys_and_values_count_under_the_limit_until_the_text_is_closed(gpt2: Backbone) -> None:
    one = adapter(gpt2, "lora")
    with Engine(gpt2, limit=200_000) as engine, ExitStack() as stack:
        (row,) = rows_of(engine, stack, [(one, LONG, None)])
        first = engine.open(row)
        assert first is not None
        size = 2 * 2 * 32 * len(row.encoded.tokens) * 4
        assert engine._residents.reserved == size, "two layers of width 32"
        opened = []
        while (another := engine.open(row)) is not None:
            opened.append(another)
        kept = sum(resident.size for resident in engine.residents)
        assert kept + (1 + len(opened)) * size <= 200_000 < kept + (2 + len(opened)) * size
        first.close()
        first.close()
        assert engine.compute_chunks([(first, 3)]) == [None], "closed meanwhile by another thread"
        again = engine.open(row)
        assert again is not None
        for each in (*opened, again):
            each.close()
        assert not engine._residents.reserved


def test_encoders_and_other_poolings_take_no_chunks(backbones: Backbones, gpt2: Backbone) -> None:
    encoder = Backbone.load(str(backbones.path("bert")))
    for backbone, name, given in (
        (encoder, "lora", {}),
        (encoder, "full", {}),
        (gpt2, "linear_probe", {"pooling": "mean"}),
    ):
        with Engine(backbone) as engine:
            assert not engine.load(adapter(backbone, name, given))[0].takes_chunks
