"""Opening in another precision: the same model as holding after opening in float32, read tensor by tensor."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from afina import Backbone
from afina.errors import InvalidStudy, NotFound
from afina.models.architectures import ARCHITECTURES
from afina.models.backbone_spec import FLOAT, PRECISIONS, Precision
from afina.models.classifier import Classifier
from afina.models.kernels.linear import HeldWeight, held_tensors
from afina.models.kernels.patches import patches_of
from afina.models.pretrained import meta_model, read_config
from fakes import Backbones, configuration
from grid import some_slow
from openings import same, shard
from raises import raises

INT8 = "int8"

FAMILIES = some_slow(ARCHITECTURES, ("gpt2", "gptj", "llama", "bert"))


@pytest.fixture
def sharded(backbones: Backbones, tmp_path: Path) -> Any:
    """Return a function that copies a tiny model in shards of a few tensors."""

    return lambda family: shard(backbones, family, tmp_path / family)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_opened_in_a_precision_is_the_one_that_was_held_after_opening(family: str, sharded: Any) -> None:
    path = str(sharded(family))
    plain, backbone = Backbone.load(path), Backbone.load(path)
    expected = Classifier.open(plain, ("bad", "good"), 3)
    digest, count = plain.digest_of(expected.body), expected.parameter_count
    expected.hold(INT8)
    found = Classifier.open(backbone, ("bad", "good"), 3, precision=INT8)
    assert held_tensors(found)
    assert same(found, expected)
    assert (found.precision, found.parameter_count) == (INT8, count)
    assert backbone.digest_of(found.body) == digest == Backbone.load(path).digest
    assert backbone.drawn == plain.drawn
    assert found.model.config.to_dict() == expected.model.config.to_dict()
    assert found.model.name_or_path == expected.model.name_or_path
    last = [[patches_of(module)[-1:] for module in one.modules()] for one in (found, expected)]
    assert last[0] == last[1]


def test_weights_in_half_precision_are_held_as_float32_ones(backbones: Backbones, tmp_path: Path) -> None:
    path = shutil.copytree(backbones.path("llama"), tmp_path / "half")
    weights = load_file(path / "model.safetensors")
    save_file({name: each.half() for name, each in weights.items()}, path / "model.safetensors", {"format": "pt"})
    plain, backbone = Backbone.load(str(path)), Backbone.load(str(path))
    expected = Classifier.open(plain, ("bad", "good"), 0)
    digest = plain.digest_of(expected.body)
    expected.hold(INT8)
    found = Classifier.open(backbone, ("bad", "good"), 0, precision=INT8)
    assert same(found, expected)
    assert backbone.digest_of(found.body) == digest


def test_names_of_older_versions_are_understood(backbones: Backbones, tmp_path: Path) -> None:
    path = shutil.copytree(backbones.path("bert"), tmp_path / "old")
    weights = load_file(path / "model.safetensors")
    old = {name.replace("LayerNorm.weight", "LayerNorm.gamma"): each for name, each in weights.items()}
    old = {name.replace("LayerNorm.bias", "LayerNorm.beta"): each for name, each in old.items()}
    assert old.keys() != weights.keys()
    save_file({name.removeprefix("bert."): each for name, each in old.items()}, path / "model.safetensors")
    backbone = Backbone.load(str(path))
    found = Classifier.open(backbone, ("bad", "good"), 0, precision=INT8)
    assert backbone.digest_of(found.body) == Backbone.load(str(backbones.path("bert"))).digest


def test_pickled_weights_are_opened_in_float32_and_then_held(backbones: Backbones, tmp_path: Path) -> None:
    path = shutil.copytree(backbones.path("gpt2"), tmp_path / "pickled")
    torch.save(load_file(path / "model.safetensors"), path / "pytorch_model.bin")
    (path / "model.safetensors").unlink()
    backbone, safe = Backbone.load(str(path)), Backbone.load(str(backbones.path("gpt2")))
    found = Classifier.open(backbone, ("bad", "good"), 0, precision=INT8)
    assert same(found, Classifier.open(safe, ("bad", "good"), 0, precision=INT8))
    assert backbone.digest_of(found.body) == safe.digest


@pytest.mark.parametrize("damage", ["missing", "resized", "cut", "no file", "no shard"])
def test_damaged_weights_are_the_same_error_in_every_precision(damage: str, sharded: Any) -> None:
    path: Path = sharded("llama")
    file = sorted(path.glob("*.safetensors"))[2]
    weights = load_file(file)
    name = next(name for name in weights if name.endswith("proj.weight"))
    if damage == "missing":
        save_file({other: each for other, each in weights.items() if other != name}, file, {"format": "pt"})
    elif damage == "resized":
        save_file(weights | {name: weights[name][:-1].clone()}, file, {"format": "pt"})
    elif damage == "cut":
        file.write_bytes(file.read_bytes()[:-10])
    elif damage == "no shard":
        file.unlink()
    else:
        for each in path.glob("*.safetensors*"):
            each.unlink()
    said = []
    for precision in (FLOAT, INT8):
        with raises(NotFound, code="backbone.unreadable", backbone="llama") as caught:
            Classifier.open(Backbone.load(str(path)), ("bad", "good"), 0, precision=precision)
        said.append(caught.value)
    if damage in ("missing", "resized", "no file"):
        assert str(said[0]) == str(said[1])
    assert vars(said[0]).keys() == vars(said[1]).keys()


def test_an_error_of_a_precision_is_raised_as_it_is(gpt2: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(weight: torch.Tensor) -> HeldWeight:
        raise InvalidStudy(f"cannot hold {tuple(weight.shape)}", code="method.precision-unsupported")

    monkeypatch.setitem(PRECISIONS, "failing", Precision("nothing", fail))
    with raises(InvalidStudy, code="method.precision-unsupported"):
        Classifier.open(gpt2, ("bad", "good"), 0, precision="failing")


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"n_embd": "many"}, "backbone.unreadable"),
        ({"model_type": ["gpt2"]}, "backbone.unreadable"),
        ({"n_embd": -5}, "backbone.unsupported"),
        ({"n_layer": 0}, "backbone.unsupported"),
    ],
)
def test_a_configuration_with_impossible_values_is_refused(
    gpt2: Backbone, tmp_path: Path, changes: dict[str, Any], code: str
) -> None:
    path = Path(gpt2.address) / "config.json"
    (tmp_path / "config.json").write_text(json.dumps(json.loads(path.read_text()) | changes))
    with raises((InvalidStudy, NotFound), code=code, backbone=tmp_path.name):
        read_config(tmp_path, str(tmp_path))


def test_a_model_without_values_is_in_float32_whatever_dtype_the_configuration_states(tmp_path: Path) -> None:
    configuration("llama", dtype="bfloat16").save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == "bfloat16"
    assert {each.dtype for each in meta_model(str(tmp_path)).parameters()} == {torch.float32}
