"""An engine has one frozen model for each precision in which its adapters were trained, and says what each takes."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from afina import Adapter, AdapterStore, Backbone, Predictor
from afina.engine.engine import Engine
from afina.engine.hosts import precisions_of
from afina.errors import InvalidStudy, WrongBackbone
from afina.models.backbone_spec import FLOAT
from crowd import adapter
from fakes import TEXTS, Backbones
from raises import raises

INT8 = "int8"
TOLD: dict[str, Any] = {
    "labels": ("told",),
    "objective": {"kind": "text", "answer_tokens": 8},
    "template": "{text}\nTold:",
}
SHARING: list[tuple[str, dict[str, Any]]] = [
    ("lora+bitfit", {"lora": {"dora": True}}),
    ("vera", {"r": 8}),
    ("adapter", {"kind": "parallel"}),
    ("prefix", {"tokens": 2}),
    ("linear_probe", {}),
]
"""Methods that change layers inside, layers around, keys and values, and the head."""


def on(precision: str, made: Adapter) -> Adapter:
    """The same tensors, for a base in another precision."""
    return replace(made, manifest=made.manifest.model_copy(update={"precision": precision}).sealed())


def published(made: Adapter, store: AdapterStore, name: str, path: Path) -> None:
    made.save(path)
    store.publish(path, name, message="why")


def alone(made: Adapter, backbone: Backbone) -> list[dict[str, Any]]:
    return Predictor.of(made, backbone)(TEXTS)


def same(found: dict[str, Any], expected: dict[str, Any]) -> bool:
    close = pytest.approx(expected["probabilities"], abs=1e-5)
    return bool(found["label"] == expected["label"] and found["probabilities"] == close)


def test_two_adapters_on_an_int8_base_share_one_model_and_answer_as_each_alone(gpt2: Backbone) -> None:
    both = [on(INT8, adapter(gpt2, "lora", seed=seed)) for seed in (1, 2)]
    with Engine(gpt2) as engine:
        assert engine.hosts.sizes == {}
        found = engine.predict((one, text) for one in both for text in TEXTS)
        expected = [answer for one in both for answer in alone(one, gpt2)]
        assert all(same(one.answer, other) for one, other in zip(found, expected, strict=True))
        assert [one.shares_model for one in engine.load(*both)] == [True, True]
        assert list(engine.hosts.sizes) == [INT8]
        held = engine.hosts.of(INT8).classifier.size
        assert f"bytes of the backbone: {held:,} in int8," in repr(engine)
        assert engine._residents.reserved == 0  # the first model of a backbone is not counted under the limit
    with Engine(gpt2) as other:
        assert held < other.hosts.of(FLOAT).classifier.size


def test_a_float_and_an_int8_adapter_have_a_model_each_in_one_call(gpt2: Backbone) -> None:
    plain, held = adapter(gpt2, "lora", seed=1), on(INT8, adapter(gpt2, "lora", seed=1))
    with Engine(gpt2) as engine:
        found = engine.predict((one, text) for text in TEXTS for one in (plain, held))
        by_adapter = found[::2], found[1::2]
        for mine, one in zip(by_adapter, (plain, held), strict=True):
            assert all(same(each.answer, other) for each, other in zip(mine, alone(one, gpt2), strict=True))
        assert any((one.outputs != other.outputs).any() for one, other in zip(*by_adapter, strict=True))
        assert list(engine.hosts.sizes) in ([FLOAT, INT8], [INT8, FLOAT])  # in the order of loading
        assert all(one.shares_model for one in engine.residents)
        second = list(engine.hosts.sizes)[1]
        assert engine._residents.reserved == engine.hosts.sizes[second]


def test_texts_are_generated_on_both_models(gpt2: Backbone) -> None:
    plain = adapter(gpt2, "lora", seed=3, **TOLD)
    both = [plain, on(INT8, plain)]
    with Engine(gpt2) as engine:
        found = engine.predict((one, text) for one in both for text in TEXTS)
        assert [one.answer for one in found] == [answer for one in both for answer in alone(one, gpt2)]
        assert all(one.shares_model for one in engine.residents)
        assert len(engine.hosts.sizes) == 2


def test_a_further_model_that_the_limit_has_no_room_for_is_refused_with_figures(gpt2: Backbone) -> None:
    plain, held = adapter(gpt2, "lora", seed=1), on(INT8, adapter(gpt2, "lora", seed=2))
    with Engine(gpt2) as measured:
        size = measured.hosts.of(INT8).classifier.size
    with Engine(gpt2, limit=size - 1) as engine:
        engine.load(plain)
        with raises(InvalidStudy, code="engine.host-limit", precision=INT8, limit=size - 1) as caught:
            engine.load(held)
        assert caught.value.fields["bytes"] == size
        assert list(engine.hosts.sizes) == [FLOAT]
        (found,) = engine.predict([(plain, TEXTS[0])])
        assert same(found.answer, alone(plain, gpt2)[0])
    with Engine(gpt2, limit=size) as engine:
        engine.load(plain)
        engine.load(held)
        assert engine._residents.reserved == size


def test_an_adapter_that_cannot_share_opens_no_further_model(gpt2: Backbone) -> None:
    with Engine(gpt2) as engine:
        engine.load(on(INT8, adapter(gpt2, "lora", seed=1)))
        (whole,) = engine.load(adapter(gpt2, "full", seed=2))
        assert not whole.shares_model
        assert list(engine.hosts.sizes) == [INT8]


@pytest.mark.parametrize("case", SHARING, ids=lambda case: f"{case[0]}{case[1] or ''}")
def test_every_method_that_shares_a_model_opens_the_further_one(gpt2: Backbone, case: tuple[str, Any]) -> None:
    held = on(INT8, adapter(gpt2, *case, seed=4))
    with Engine(gpt2) as engine:
        engine.hosts.of(FLOAT)
        (found,) = engine.predict([(held, TEXTS[1])])
        assert engine.residents[0].shares_model
        assert same(found.answer, alone(held, gpt2)[1])


def test_an_adapter_of_another_backbone_opens_no_further_model(gpt2: Backbone, backbones: Backbones) -> None:
    other = on(INT8, adapter(Backbone.load(str(backbones.path("llama"))), "lora"))
    with Engine(gpt2) as engine:
        engine.hosts.of(FLOAT)
        with contextlib.suppress(WrongBackbone):
            engine.load(other)
        assert list(engine.hosts.sizes) == [FLOAT]


def test_the_precisions_of_a_store_are_those_of_its_served_versions_of_the_backbone(
    gpt2: Backbone, tmp_path: Path
) -> None:
    store = AdapterStore(tmp_path / "store", who="ada")
    with Engine(gpt2, store) as engine:
        store.make_ready()
        assert engine.open_for_store() == []
        assert engine.hosts.sizes == {}
    published(adapter(gpt2, "lora", seed=1), store, "acme/reviews", tmp_path / "old")
    published(on(INT8, adapter(gpt2, "lora", seed=2)), store, "acme/reviews", tmp_path / "new")
    published(on(INT8, adapter(gpt2, "lora", seed=3)), store, "acme/urgent", tmp_path / "urgent")
    with Engine(gpt2, store) as engine:
        assert engine.open_for_store() == []
        assert list(engine.hosts.sizes) == [INT8]  # the version in float has no alias, and is not the newest
    store.alias("acme/reviews@1")
    with Engine(gpt2, store) as engine:
        assert engine.open_for_store() == []
        assert list(engine.hosts.sizes) == [FLOAT, INT8]
    with Engine(gpt2, store, limit=1000) as engine:
        (error,) = engine.open_for_store()
        assert error.code == "engine.host-limit"
        assert list(engine.hosts.sizes) == [FLOAT]


def test_the_address_decides_whose_adapters_count_and_else_the_tokenizer(gpt2: Backbone) -> None:
    alike = {"family": gpt2.family, "tokenizer_digest": gpt2.tokenizer_digest}
    mine = {"backbone": gpt2.address, **alike, "precision": INT8}
    moved = {"backbone": "elsewhere", **alike}
    strange = {"backbone": "elsewhere", "family": "llama", "tokenizer_digest": "x", "precision": "nf4"}
    words = {"backbone": None, "family": None, "tokenizer_digest": None}
    assert precisions_of([mine, moved, strange, words], gpt2) == [INT8]
    assert precisions_of([moved, strange, words], gpt2) == [FLOAT]
    assert precisions_of([strange, words], gpt2) == []
