"""Copies of held weights: the same model as without a copy, never an old one; a copy never makes opening fail."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from afina import Backbone, file_io, tensorfile
from afina.events import Progress
from afina.methods import make as make_method
from afina.models.backbone_spec import PRECISIONS
from afina.models.classifier import Classifier
from afina.models.kernels import int8
from afina.models.kernels.linear import held_tensors
from afina.models.language_model import open_model
from afina.models.objectives import Classes, make
from afina.models.verbalizer import Verbalizer
from afina.models.weights import copies
from afina.report.progress import doing
from afina.studies.runs.prepared import opened
from fakes import Backbones, configuration, save
from full_disk import no_file_above
from openings import same, shard

INT8, LABELS = "int8", ("bad", "good")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache that keeps copies of the smallest backbones; returns the directory of the copies."""
    monkeypatch.setattr(copies, "LEAST", 0)
    monkeypatch.setenv("AFINA_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "quantised"


@pytest.fixture
def llama(backbones: Backbones, tmp_path: Path) -> Path:
    return shard(backbones, "llama", tmp_path / "llama")


def without_copy(path: Path, precision: str = INT8) -> tuple[Classifier, str]:
    """A backbone opened as if no copy were kept, and its digest; the same files are opened once."""
    return _without_copy(path, precision, tuple((file.name, file.read_bytes()) for file in sorted(path.iterdir())))


@lru_cache(2)
def _without_copy(path: Path, precision: str, files: object) -> tuple[Classifier, str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(copies, "LEAST", 1 << 62)
        backbone = Backbone.load(str(path))
        classifier = Classifier.open(backbone, LABELS, 3, precision=precision)
        assert backbone.copy_note == ""
        return classifier, backbone.digest_of(classifier.body)


def assert_right(path: Path, said: str, precision: str = INT8) -> Backbone:
    """Assert that opening gives the model and the digest that it has without a copy, and says `said`."""
    expected, digest = without_copy(path, precision)
    backbone = Backbone.load(str(path))
    found = Classifier.open(backbone, LABELS, 3, precision=precision)
    assert held_tensors(found)
    assert same(found, expected)
    assert backbone.digest_of(found.body) == digest == Backbone.load(str(path)).digest
    assert said in backbone.copy_note
    assert bool(said) == bool(backbone.copy_note)
    return backbone


def fail(*_: object) -> Any:
    raise AssertionError("weights are quantised, though there is a copy")


@pytest.mark.parametrize("family", ["gpt2", "llama", "bert"])
def test_a_model_opened_from_a_copy_is_the_one_that_was_quantised(
    family: str, backbones: Backbones, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = shard(backbones, family, tmp_path / family)
    first = assert_right(path, "keeps a quantised copy of")
    (copy,) = cache.iterdir()
    assert str(copy) in first.copy_note
    expected, digest = without_copy(path)
    monkeypatch.setattr(int8, "quantize", fail)
    backbone = Backbone.load(str(path))
    found = Classifier.open(backbone, LABELS, 3, precision=INT8)
    assert same(found, expected)
    assert found.model.config.to_dict() == expected.model.config.to_dict()
    assert found.parameter_count == expected.parameter_count
    monkeypatch.setattr("afina.models.backbone._hash", fail)
    assert backbone.digest_of(found.body) == digest
    assert (backbone.copy_note, backbone.drawn) == ("", first.drawn)
    assert list(cache.iterdir()) == [copy]


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_nf4_is_read_from_a_copy_too(
    family: str, backbones: Backbones, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("bitsandbytes")
    path = shard(backbones, family, tmp_path / family)
    assert_right(path, "keeps a quantised copy of", "nf4")
    expected, digest = without_copy(path, "nf4")
    monkeypatch.setattr("afina.models.kernels.nf4._quantized", fail)
    backbone = Backbone.load(str(path))
    found = Classifier.open(backbone, LABELS, 3, precision="nf4")
    assert same(found, expected)
    assert backbone.digest_of(found.body) == digest
    for layer, other in zip(found.own_linear.values(), expected.own_linear.values(), strict=True):
        held, wanted = layer.get_submodule("frozen"), other.get_submodule("frozen")
        assert torch.equal(held.dequantize(), wanted.dequantize())  # type: ignore[operator]


def test_classifiers_and_language_models_share_a_copy(
    llama: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opening = make((), {"kind": "text"}).opening
    plain = open_model(Backbone.load(str(llama)), (), 0, opening)
    plain.hold(INT8)
    assert_right(llama, "keeps")
    monkeypatch.setattr(int8, "quantize", fail)
    found = open_model(Backbone.load(str(llama)), (), 0, opening, precision=INT8)
    assert same(found, plain)
    assert len(list(cache.iterdir())) == 1


def test_a_file_that_changed_in_place_is_quantised_anew(llama: Path, cache: Path) -> None:
    """Also with the size and the times that it had."""
    assert_right(llama, "keeps")
    file = sorted(llama.glob("*.safetensors"))[2]
    before, content = file.stat(), bytearray(file.read_bytes())
    content[-2] ^= 1
    file.write_bytes(content)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert file.stat().st_size == before.st_size
    assert_right(llama, "keeps")
    assert len(list(cache.iterdir())) == 2
    content[-2] ^= 1
    file.write_bytes(content)
    assert_right(llama, "")


def test_a_copy_is_named_by_precision_version_configuration_and_weights_but_not_by_the_directory(
    llama: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert_right(llama, "keeps")
    assert_right(Path(shutil.copytree(llama, tmp_path / "elsewhere")), "")
    monkeypatch.setattr(int8, "FORM", 2)
    assert_right(llama, "keeps")
    monkeypatch.setitem(PRECISIONS, "other", replace(PRECISIONS[INT8]))
    assert_right(llama, "keeps", "other")
    config = json.loads((llama / "config.json").read_text())
    (llama / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 1e-4}))
    assert_right(llama, "keeps")
    assert len(list(cache.iterdir())) == 4


def flipped(place: Callable[[bytes], int]) -> Callable[[bytes], bytes]:
    def flip(content: bytes) -> bytes:
        at = place(content)
        return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]

    return flip


DAMAGES = {
    "cut": lambda content: content[:-10],
    "empty": lambda content: b"",
    "a bit of the last weight": flipped(lambda content: len(content) - 1),
    "a bit of the first weight": flipped(lambda content: 8 + int.from_bytes(content[:8], "little")),
    "a bit of the digest": flipped(lambda content: content.index(b"weights_digest") + 40),
    "a bit of a shape": flipped(lambda content: content.index(b'"shape":[') + 9),
    "a bit of a name": flipped(lambda content: content.index(b"layers.0", content.index(b'"dtype"'))),
    "a bit of the length": flipped(lambda content: 0),
}


@pytest.mark.slow
def test_a_damaged_copy_is_never_used_and_is_made_again(llama: Path, cache: Path) -> None:
    assert_right(llama, "keeps")
    (copy,) = cache.iterdir()
    for name, damage in DAMAGES.items():
        copy.write_bytes(damage(copy.read_bytes()))
        backbone = assert_right(llama, f"the quantised copy {copy} cannot be used (")
        assert "; keeps a quantised copy of" in backbone.copy_note, name
    assert_right(llama, "")


@pytest.mark.slow
def test_a_copy_of_other_weights_is_never_used(llama: Path, cache: Path) -> None:
    assert_right(llama, "keeps")
    (first,) = cache.iterdir()
    weights = load_file(file := sorted(llama.glob("*.safetensors"))[2])
    save_file({name: each + 1 for name, each in weights.items()}, file, {"format": "pt"})
    assert_right(llama, "keeps")
    (second,) = set(cache.iterdir()) - {first}
    shutil.copy(first, second)
    assert_right(llama, "it is of other weights")


@pytest.mark.slow
def test_a_copy_that_lacks_a_layer_or_has_another_is_never_used(llama: Path, cache: Path) -> None:
    assert_right(llama, "keeps")
    (copy,) = cache.iterdir()
    tensors, metadata = load_file(copy), tensorfile.metadata(copy)
    about = json.loads(metadata["about"])
    layers = dict(about["layers"])
    name = next(iter(layers))
    for changed in ({each: layers[each] for each in layers if each != name}, layers | {"lm_head.weight": layers[name]}):
        said = json.dumps(about | {"layers": changed})
        tensorfile.write(copy, tensors, {"about": said, "checksum": copies.digest.of_strings([said])})
        assert_right(llama, "cannot be used (")


def test_files_that_change_while_they_are_quantised_give_no_copy(
    llama: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = sorted(llama.glob("*.safetensors"))[2]
    quantize = int8.quantize

    def meanwhile(weight: torch.Tensor) -> Any:
        content = file.read_bytes()
        file.write_bytes(content[:-2] + bytes([content[-2] ^ 1]) + content[-1:])
        monkeypatch.setattr(int8, "quantize", quantize)
        return quantize(weight)

    monkeypatch.setattr(int8, "quantize", meanwhile)
    backbone = Backbone.load(str(llama))
    Classifier.open(backbone, LABELS, 3, precision=INT8)
    assert "files changed while they were read" in backbone.copy_note
    assert not cache.exists()


@pytest.fixture
def snapshot(llama: Path, tmp_path: Path) -> Path:
    """A backbone in the form of the Hub's cache: links to files that are named by their sha256."""
    place, blobs = tmp_path / "snapshots" / "commit", tmp_path / "blobs"
    blobs.mkdir()
    shutil.copytree(llama, place)
    for file in place.glob("*.safetensors"):
        blob = blobs / hashlib.sha256(file.read_bytes()).hexdigest()
        file.rename(blob)
        file.symlink_to(Path("../..") / "blobs" / blob.name)
    return place


def test_files_of_the_hubs_cache_are_not_hashed_at_a_later_opening(
    snapshot: Path, llama: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert_right(snapshot, "keeps")
    assert_right(llama, "")  # the same bytes, so the same copy
    expected, _ = without_copy(snapshot)
    monkeypatch.setattr(int8, "quantize", fail)
    monkeypatch.setattr(copies.digest, "of_file", fail)
    assert same(Classifier.open(Backbone.load(str(snapshot)), LABELS, 3, precision=INT8), expected)


@pytest.mark.slow
def test_a_file_of_the_hubs_cache_that_is_not_what_its_name_says_has_no_copy(snapshot: Path, cache: Path) -> None:
    blob = sorted(snapshot.glob("*.safetensors"))[2].resolve()
    whole, before = blob.read_bytes(), blob.stat()
    damaged = whole[:-2] + bytes([whole[-2] ^ 1]) + whole[-1:]
    blob.write_bytes(damaged)
    assert_right(snapshot, "no quantised copy is kept: the backbone's files")
    assert not cache.exists()
    blob.write_bytes(whole)
    assert_right(snapshot, "keeps")
    blob.write_bytes(damaged)
    os.utime(blob, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert_right(snapshot, "cannot be used (the backbone's files are not what their names in the Hub's cache say)")
    blob.write_bytes(whole)
    assert_right(snapshot, "")


def test_a_cache_that_cannot_be_written_costs_time_only(
    llama: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with no_file_above(4_000):
        backbone = Backbone.load(str(llama))
        found = Classifier.open(backbone, LABELS, 3, precision=INT8)
    assert same(found, without_copy(llama)[0])
    assert backbone.copy_note == f"no quantised copy is kept: {cache} cannot be written to (file too large)"
    assert list(cache.iterdir()) == []
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("AFINA_CACHE", str(tmp_path / "file"))
    assert_right(llama, "no quantised copy is kept: ")


def test_another_process_may_write_the_same_copy_meanwhile(
    llama: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = tensorfile.write
    others: list[Backbone] = []

    def interrupted(*given: Any) -> None:
        monkeypatch.setattr(tensorfile, "write", write)
        others.append(assert_right(llama, "keeps"))
        assert len(list(cache.iterdir())) == 2  # the other's copy, and what this one writes
        write(*given)

    monkeypatch.setattr(tensorfile, "write", interrupted)
    assert_right(llama, "keeps")
    assert len(others) == len(list(cache.iterdir())) == 1
    assert_right(llama, "")


def test_a_process_that_is_killed_while_it_writes_leaves_no_copy(
    llama: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = tensorfile.write

    def killed(*given: Any) -> None:
        write(*given)
        os.kill(os.getpid(), signal.SIGKILL)

    with monkeypatch.context() as patch, warnings.catch_warnings():
        patch.setattr(tensorfile, "write", killed)
        warnings.simplefilter("ignore", DeprecationWarning)  # this process may have threads
        if not (child := os.fork()):
            try:
                Classifier.open(Backbone.load(str(llama)), LABELS, 3, precision=INT8)
            finally:
                os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    (left,) = cache.iterdir()
    assert left.name.startswith(file_io.TEMPORARY)
    assert_right(llama, "keeps")
    (copy,) = cache.iterdir()
    assert copy.suffix == ".safetensors"


def test_beyond_the_limit_the_copies_used_least_lately_go(
    llama: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places: list[Path] = []
    for version in (1, 2):
        monkeypatch.setattr(int8, "FORM", version)
        assert_right(llama, "keeps")
        places += set(cache.iterdir()) - set(places)
    for age, place in enumerate(places):
        os.utime(place, (1000 + age, 1000 + age))
    monkeypatch.setattr(int8, "FORM", 1)
    assert_right(llama, "")  # used again, so the other copy is now older
    monkeypatch.setattr(copies, "LIMIT", int(2.5 * places[0].stat().st_size))
    monkeypatch.setattr(int8, "FORM", 3)
    assert_right(llama, "keeps")
    left = set(cache.iterdir())
    assert len(left) == 2
    assert places[0] in left
    monkeypatch.setattr(copies, "LIMIT", 1)
    monkeypatch.setattr(int8, "FORM", 4)
    assert_right(llama, "keeps")  # what was written last stays
    assert len(list(cache.iterdir())) == 1


def test_small_backbones_have_no_copy(llama: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    size = sum(file.stat().st_size for file in llama.glob("*.safetensors"))
    monkeypatch.setattr(copies, "LEAST", size + 1)
    assert_right(llama, "")
    assert not cache.exists()
    monkeypatch.setattr(copies, "LEAST", size)
    assert_right(llama, "keeps")
    monkeypatch.setattr(copies, "LEAST", 4 * size + 4)
    monkeypatch.setitem(PRECISIONS, "slow", replace(PRECISIONS[INT8], cost=4))
    assert_right(llama, "", "slow")
    monkeypatch.setattr(copies, "LEAST", 4 * size)
    assert_right(llama, "keeps", "slow")


def test_a_run_says_where_a_copy_is(llama: Path, cache: Path) -> None:
    said: list[Progress] = []
    for _ in range(2):
        backbone = Backbone.load(str(llama))
        opened(backbone, Classes(LABELS), Verbalizer(), make_method("head"), 0, said.append, INT8)
    (copy,) = cache.iterdir()
    assert [each.phase for each in said] == ["copy"]
    assert doing(said[0]).startswith("keeps a quantised copy of")
    assert doing(said[0]).endswith(str(copy))


OPEN = """
import json, sys
import torch
from afina import Backbone, meter
from afina.models.classifier import Classifier
from afina.models.weights import copies
copies.LEAST = 0
backbone = Backbone.load(sys.argv[1])
for _ in range(2):
    Classifier.open(Backbone.load(sys.argv[2]), ("bad", "good"), 0, precision="int8")  # libraries are loaded
meter.forget_peak()
before = meter.rss()
classifier = Classifier.open(backbone, ("bad", "good"), 0, precision="int8")
opened, peak = meter.rss() - before, meter.rss_peak() - before
print(json.dumps({"opened": opened, "peak": peak, "size": classifier.size, "note": backbone.copy_note}))
"""


@pytest.mark.slow
def test_opening_takes_the_model_as_held_and_one_tensor_with_and_without_a_copy(
    backbones: Backbones, cache: Path, tmp_path: Path
) -> None:
    """Opening takes the model as held and one tensor, and its peak some more, with the digest of the weights."""
    sizes = {"hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 16}
    save(configuration("llama", **sizes), backbones.tokenizer("llama"), tmp_path / "large")
    asked = [sys.executable, "-c", OPEN, str(tmp_path / "large"), str(backbones.path("llama"))]
    in_float32 = (tmp_path / "large" / "model.safetensors").stat().st_size
    for writes in (True, False):
        done = subprocess.run(asked, capture_output=True, text=True, check=True)
        found = json.loads(done.stdout)
        assert bool(found["note"]) == writes
        largest = 4 * 512 * 1408
        assert found["size"] < 0.27 * in_float32
        assert found["opened"] < found["size"] + 2 * largest
        assert found["peak"] < found["size"] + 8 * largest
