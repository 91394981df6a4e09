"""Many adapters in one packed row: each text is answered as by its adapter alone, whoever shares_model along."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from afina import Adapter, Backbone, Predictor
from afina.engine.engine import Engine
from afina.errors import CorruptAdapter
from afina.models.mixed_batch import AdapterGroup, MixedBatchModel
from crowd import adapter, spoilt
from fakes import ENCODERS, SLOW, TEXTS, Backbones, serves
from grid import by_family, some_slow
from rounding import Exact

RIDING: list[tuple[str, dict[str, Any]]] = [
    ("lora", {}),
    ("lora", {"r": 2, "targets": "all-linear"}),
    ("lora", {"r": 8, "rslora": True, "alpha": 4}),
    ("lora", {"dora": True}),
    ("lora", {"init": "orthogonal"}),
    ("layernorm", {}),
    ("ia3", {}),
    ("vera", {"r": 16}),
    ("vera", {"r": 8, "key": 3}),
    ("prompt", {"tokens": 3}),
    ("prefix", {"tokens": 5}),
    ("prefix", {"tokens": 2}),
    ("adapter", {}),
    ("adapter", {"kind": "houlsby", "reduction": 4}),
    ("adapter", {"kind": "parallel", "reduction": 8}),
    ("zero-shot", {}),
    ("baseline", {}),
    ("head", {}),
    ("lora+layernorm", {}),
    ("lora+adapter", {}),
    ("lora+prompt", {}),
    ("prompt+prefix", {"prompt": {"tokens": 3}, "prefix": {"tokens": 2}}),
    ("vera+adapter+layernorm", {"vera": {"r": 8}}),
    ("lora", {"targets": "all-linear", "layers": "upper half"}),
    ("ia3", {"layers": 1}),
    ("adapter", {"kind": "houlsby", "layers": "upper quarter"}),
]
"""Method and hyperparameters of adapters that share the model, whatever the family."""

WITH_BIASES: list[tuple[str, dict[str, Any]]] = [
    ("bitfit", {}),
    ("lora+bitfit", {}),
    ("lora+bitfit", {"lora": {"dora": True}}),
    ("ia3+bitfit", {}),
    ("bitfit+adapter", {}),
    ("prelayer-46080", {}),
]
"""Likewise, of GPT-2, whose layers have biases: what is inside a layer comes before what peft puts around it."""

APART: list[tuple[str, dict[str, Any]]] = [
    ("full", {}),
    ("last", {"blocks": 1}),
    ("prelayer", {}),
    ("prelayer+lora", {}),
]

KINDS: list[dict[str, Any]] = [
    {"labels": ("bad", "good")},
    {"labels": ("a", "b", "c", "d", "e"), "template": "Review: {text}\nSentiment:"},
    {"labels": ("score",), "objective": {"kind": "number", "mean": 3.0, "scale": 2.0}},
    {"labels": ("x", "y", "z"), "objective": {"kind": "labels"}},
    {"labels": ("no", "yes"), "offset": (0.5, -2.0), "max_length": 6},
]
"""Kinds of task, sizes of head, templates and lengths, which adapters of any method may have."""


@dataclass(eq=False)
class Crowd:
    """Adapters of one backbone, an engine that all are in, and what each says alone."""

    backbone: Backbone
    adapters: list[Adapter]
    texts: Sequence[str]

    @cached_property
    def engine(self) -> Engine:
        return Engine(self.backbone)

    @cached_property
    def alone(self) -> list[Exact]:
        return [Exact.of(one, self.backbone, self.texts) for one in self.adapters]

    def check(self, asked: Sequence[tuple[int, int]]) -> None:
        """Ask about (adapter, text) pairs in one call."""
        found = self.engine.predict((self.adapters[which], self.texts[text]) for which, text in asked)
        assert [one.digest for one in found] == [self.adapters[which].digest for which, _ in asked]
        for (which, text), one in zip(asked, found, strict=True):
            assert self.alone[which].explains(one.outputs, text), self.adapters[which].manifest.method


OF_CROWDS = {"gpt2": (RIDING + WITH_BIASES)[::2], "gpt2-whole": RIDING + WITH_BIASES, "llama": RIDING[::2]}


@pytest.fixture(scope="module")
def crowd(gpt2: Backbone) -> Iterator[Crowd]:
    with riding(gpt2, OF_CROWDS["gpt2"]) as made:
        yield made


@pytest.fixture(scope="module", params=some_slow(OF_CROWDS, ["gpt2"]))
def each_crowd(request: pytest.FixtureRequest, backbones: Backbones) -> Iterator[Crowd]:
    if request.param == "gpt2":
        yield request.getfixturevalue("crowd")
        return
    backbone = Backbone.load(str(backbones.path(request.param.partition("-")[0])))
    with riding(backbone, OF_CROWDS[request.param]) as made:
        yield made


@contextmanager
def riding(backbone: Backbone, methods: Sequence[tuple[str, dict[str, Any]]]) -> Iterator[Crowd]:
    cases = [*methods, *APART[:1]]
    adapters = [adapter(backbone, *one, seed=seed, **KINDS[seed % len(KINDS)]) for seed, one in enumerate(cases)]
    made = Crowd(backbone, adapters, TEXTS)
    with made.engine:
        assert len(made.alone) == len(made.engine.load(*adapters))  # here, not in the first test
        yield made


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_mix_is_answered_as_each_adapter_alone(each_crowd: Crowd, data: st.DataObject) -> None:
    pairs = st.tuples(st.integers(0, len(each_crowd.adapters) - 1), st.integers(0, len(each_crowd.texts) - 1))
    each_crowd.check(data.draw(st.lists(pairs, min_size=1, max_size=40)))


def test_all_adapters_on_all_texts_at_once(each_crowd: Crowd) -> None:
    each_crowd.check(
        [(which, text) for text in range(len(each_crowd.texts)) for which in range(len(each_crowd.adapters))]
    )


def test_only_what_changes_a_matrix_or_an_embedding_has_a_model_of_its_own(
    each_crowd: Crowd, backbones: Backbones
) -> None:
    apart = [adapter(each_crowd.backbone, *one) for one in APART]
    found = each_crowd.engine.load(*each_crowd.adapters, *apart)
    assert [one.manifest.method for one in found if not one.shares_model] == [
        "full",
        "full",
        "last",
        "prelayer",
        "prelayer+lora",
    ]
    whole = sum(each.numel() * 4 for each in each_crowd.engine.hosts.of("float").model.base_model.parameters())
    for one, source in zip(found, [*each_crowd.adapters, *apart], strict=True):
        file = sum(tensor.numel() * 4 for tensor in source.tensors.values())
        assert one.size >= whole if not one.shares_model else file * 0.9 <= one.size <= 1.2 * file


SOME = TEXTS[0], TEXTS[1], TEXTS[4]
"""A single token, a long text, and characters outside ASCII."""
FEW = ("gptj", "gpt_neox", "mistral", "qwen2", "qwen3")


@pytest.mark.parametrize("family", by_family(FEW, FEW[1:]))
def test_other_families(backbones: Backbones, family: str) -> None:
    """Every second method for each, so that two families have all."""
    backbone = Backbone.load(str(backbones.path(family)))
    cases: list[tuple[str, dict[str, Any]]] = [
        ("lora", {"targets": "all-linear", "dora": True}),
        ("layernorm", {}),
        ("ia3", {}),
        ("prompt+prefix", {"prompt": {"tokens": 3}, "prefix": {"tokens": 2}}),
        ("adapter", {"kind": "houlsby"}),
        ("adapter", {"kind": "parallel"}),
        ("head", {}),
        ("lora+bitfit", {}) if family in ("gptj", "gpt_neox", "qwen2") else ("vera", {"r": 8}),
    ]
    cases = cases[FEW.index(family) % 2 :: 2]
    adapters = [adapter(backbone, *one, seed=seed, **KINDS[seed % len(KINDS)]) for seed, one in enumerate(cases)]
    made = Crowd(backbone, adapters, SOME)
    with made.engine:
        assert all(one.shares_model for one in made.engine.load(*adapters))
        made.check([(which, text) for which in range(len(adapters)) for text in range(len(SOME))])


@pytest.mark.slow
@pytest.mark.parametrize("family", by_family(ENCODERS, SLOW))
def test_encoders(backbones: Backbones, family: str) -> None:
    """With the layers of each head, poolings of their own, a changed pooler, and pairs with token types or none.

    BERT has all methods and texts, each other family every second method, all poolings and some texts.
    """
    backbone = Backbone.load(str(backbones.path(family)))
    names = ["input_ids", "token_type_ids", "attention_mask"]
    backbone.tokenizer.model_input_names = names if backbone.architecture.token_types else names[::2]
    cases: list[tuple[str, dict[str, Any]]] = [
        ("lora", {"dora": True}),
        ("lora", {}),
        ("layernorm", {}),
        ("ia3", {}),
        ("vera", {"r": 8}),
        ("adapter", {"kind": "houlsby", "reduction": 4}),
        ("adapter", {}),
        ("head", {}),
        ("lora+bitfit", {}) if serves(family, "bitfit") else ("lora+layernorm", {}),
        ("bitfit", {}) if serves(family, "bitfit") else ("baseline", {}),
    ]
    if family != "bert":
        cases = cases[ENCODERS.index(family) % 2 :: 2]
    cases += [
        ("linear_probe", {"pooling": "mean", "normalize": True}),
        ("linear_probe", {"pooling": "last"}),
        ("linear_probe", {"pooling": "family"}),
    ]
    adapters = [adapter(backbone, *one, seed=seed, **KINDS[seed % len(KINDS)]) for seed, one in enumerate(cases)]
    paired = [adapter(backbone, *one, seed=seed, pairs=True, max_length=90) for seed, one in enumerate(cases[::3])]
    texts = TEXTS if family == "bert" else SOME
    made = Crowd(backbone, adapters, texts)
    others = texts[::-1]
    alone = [Exact.of(one, backbone, texts, others) for one in paired]
    with made.engine:
        assert all(one.shares_model for one in made.engine.load(*adapters, *paired))
        made.check([(which, text) for which in range(len(adapters)) for text in range(len(texts))])
        asked = [(which, text) for text in range(len(texts)) for which in range(len(paired))]
        requests = [(paired[which], texts[text], others[text]) for which, text in asked]
        found = made.engine.predict([one for pair in requests for one in (pair, (adapters[0], pair[1]))])
        for (which, text), one in zip(asked, found[::2], strict=True):
            assert alone[which].explains(one.outputs, text), paired[which].manifest.method
        for (_, text), one in zip(asked, found[1::2], strict=True):
            assert made.alone[0].explains(one.outputs, text)


@pytest.mark.parametrize("family", ["bert"])
def test_an_adapter_that_adds_to_the_pooler_has_a_model_of_its_own(backbones: Backbones, family: str) -> None:
    backbone = Backbone.load(str(backbones.path(family)))
    cases: list[tuple[str, dict[str, Any]]] = [("lora", {"targets": "all-linear"}), ("adapter", {"kind": "parallel"})]
    adapters = [adapter(backbone, *one) for one in cases]
    made = Crowd(backbone, adapters, TEXTS)
    with made.engine:
        assert not any(one.shares_model for one in made.engine.load(*adapters))
        made.check([(which, text) for which in range(len(adapters)) for text in range(len(TEXTS))])


def forward_passes(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """The numbers of texts of each group of each forward pass from now on."""
    passes: list[list[int]] = []
    plain = MixedBatchModel.features

    def features(self: MixedBatchModel, groups: Sequence[AdapterGroup]) -> torch.Tensor:
        passes.append([len(one.sequences) for one in groups])
        return plain(self, groups)

    monkeypatch.setattr(MixedBatchModel, "features", features)
    return passes


def test_the_base_is_computed_once_for_all_adapters_of_a_row(crowd: Crowd, monkeypatch: pytest.MonkeyPatch) -> None:
    passes = forward_passes(monkeypatch)
    riding = [index for index, one in enumerate(crowd.engine.load(*crowd.adapters)) if one.shares_model]
    crowd.check([(which, 2) for which in riding])
    bare = sum(crowd.adapters[which].manifest.method in ("zero-shot", "baseline", "head") for which in riding)
    assert [len(groups) for groups in passes] == [len(riding) - bare + 1]


def test_a_text_is_computed_once_for_adapters_that_leave_the_model_as_it_is(
    crowd: Crowd, monkeypatch: pytest.MonkeyPatch
) -> None:
    heads = [adapter(crowd.backbone, "head", seed=seed) for seed in range(5)]
    passes = forward_passes(monkeypatch)
    asked = [*heads, heads[0]]
    found = crowd.engine.tasks(TEXTS[2], asked)
    assert passes == [[1]]
    expected = [Exact.of(one, crowd.backbone, [TEXTS[2]]) for one in asked]
    assert len({one.outputs.tobytes() for one in expected}) == 5
    assert all(one.explains(answer.outputs, 0) for one, answer in zip(expected, found, strict=True))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 3e38])
def test_an_adapter_that_gives_no_numbers_spoils_nobody_elses(crowd: Crowd, value: float) -> None:
    bad = spoilt(crowd.adapters[0], value)
    asked = [(one, text) for text in crowd.texts for one in (bad, *crowd.adapters[:6])]
    for (one, text), found in zip(asked, crowd.engine.attempt(asked), strict=True):
        if one is bad:
            assert isinstance(found, CorruptAdapter)
            continue
        assert not isinstance(found, Exception)
        assert crowd.alone[crowd.adapters.index(one)].explains(found.outputs, crowd.texts.index(text))


def test_another_type_of_pefts_has_a_model_of_its_own(crowd: Crowd) -> None:
    one = adapter(crowd.backbone, "peft", {"type": "LN_TUNING"})
    found = crowd.engine.predict([(each, TEXTS[2]) for each in (crowd.adapters[0], one, crowd.adapters[1])])
    assert Exact.of(one, crowd.backbone, [TEXTS[2]]).explains(found[1].outputs, 0)
    assert not crowd.engine.load(one)[0].shares_model


def test_bfloat16_is_as_near_as_a_predictors(each_crowd: Crowd) -> None:
    with Engine(each_crowd.backbone, dtype="bfloat16") as engine:
        for which, one in [*enumerate(each_crowd.adapters)][::3]:
            found = engine.predict(
                [(each, text) for text in each_crowd.texts for each in (one, each_crowd.adapters[0])]
            )[::2]
            exact = each_crowd.alone[which].outputs
            lowered = Predictor.of(one, each_crowd.backbone, "bfloat16").outputs(each_crowd.texts)
            allowed = 2 * np.abs(lowered - exact).max() + 0.01 * np.abs(exact).max()
            assert np.abs(np.stack([each.outputs for each in found]) - exact).max() <= allowed


@pytest.mark.slow
def test_texts_too_long_for_one_row_and_for_the_short_kernel(crowd: Crowd, monkeypatch: pytest.MonkeyPatch) -> None:
    long = " ".join(crowd.texts)[:600]
    monkeypatch.setattr("afina.models.kernels.attention.SHORT", 8)
    monkeypatch.setattr("afina.engine.mixed_batches.TOKEN_BUDGET", 300)
    riding = [one for one in crowd.adapters[::2] if one.manifest.max_length == 0]
    found = crowd.engine.predict([(one, text) for one in riding for text in (long, *crowd.texts[:3])])
    for place, one in enumerate(riding):
        exact = Exact.of(one, crowd.backbone, [long, *crowd.texts[:3]])
        assert all(exact.explains(found[4 * place + text].outputs, text) for text in range(4))


def test_an_engine_leaves_the_same_texts_unanswered_as_a_predictor(gpt2: Backbone) -> None:
    plain = adapter(gpt2, "head")
    chances = Predictor.of(plain, gpt2)(TEXTS)
    middle = float(np.median([max(one["probabilities"].values()) for one in chances]))
    objective = {"kind": "classes", "temperature": 1.0, "abstain_below": middle + 1e-3}
    unsure = adapter(gpt2, "head", objective=objective)
    assert unsure.digest != plain.digest  # a threshold changes answers
    expected = Predictor.of(unsure, gpt2)(TEXTS)
    assert {one["answered"] for one in expected} == {True, False}
    assert [one["label"] for one in expected] == [one["label"] for one in chances]
    with Engine(gpt2) as engine:
        found = engine.predict((one, text) for text in TEXTS for one in (unsure, plain))
    assert [one.answer["answered"] for one in found[::2]] == [one["answered"] for one in expected]
    assert all("answered" not in one.answer for one in found[1::2])
