"""An adapter is what was trained, bit for bit, wherever it is opened; what is not so is refused by name."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from afina import METHODS, Backbone, Predictor, Run
from afina.data import text_hashes
from afina.errors import CorruptAdapter, NotFound, WrongBackbone
from afina.models.adapter import FOREIGN, Adapter
from afina.models.manifest import ALWAYS, MANIFEST, OUTSIDE, WHERE_GIVEN, Manifest, read_manifest
from afina.predicting import golden_test
from afina.predicting.reading import SENTENCES
from afina.tensorfile import read
from afina.training.settings import Training
from fakes import OFTEN, TEXTS, Backbones, Runs, family_of, logits_of, sentences, tokenizer, write_csv
from raises import raises

MADE = (*((family_of(name), name) for name in METHODS), ("llama", "lora"), ("llama", "full"), ("qwen3", "prelayer"))
QUICK = (*((family_of(name), name) for name in OFTEN), ("llama", "lora"))

ELSEWHERE = """
import json, sys
from functools import cache
from pathlib import Path
from fakes import TEXTS, logits_of
from afina import Adapter, Backbone, Predictor
from afina.predicting import golden_test

answers, load = {}, cache(Backbone.load)
for path in sys.argv[1:]:
    adapter = Adapter.load(Path(path))
    backbone = load(adapter.manifest.backbone)
    predictor = Predictor.of(adapter, backbone)
    golden_test.check(predictor)
    classifier, length = predictor.classifier, adapter.manifest.max_length
    probed = golden_test.outputs(classifier, backbone, length, predictor.template)
    answers[path] = [predictor.outputs(TEXTS).tolist(), probed]
print(json.dumps(answers))
"""


@pytest.fixture
def elsewhere(request: pytest.FixtureRequest, runs: Runs) -> dict[str, Any]:
    """Logits of every adapter, by its path, as another process computes them; of a few for tests that are not slow."""
    return computed_elsewhere(runs, MADE if request.node.get_closest_marker("slow") else QUICK)


@cache
def computed_elsewhere(runs: Runs, adapters: Sequence[tuple[str, str]]) -> dict[str, Any]:
    paths = [str(runs.adapter(*made)) for made in adapters]
    path = os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])  # what is imported here, there too
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    command = [sys.executable, "-c", ELSEWHERE, *paths]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.fixture
def copy(runs: Runs, tmp_path: Path) -> Path:
    """A LoRA adapter of GPT-2 that a test may damage."""
    return shutil.copytree(runs.adapter("gpt2", "lora"), tmp_path / "adapter")


def edit(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    content = json.loads((path / MANIFEST).read_text())
    change(content)
    (path / MANIFEST).write_text(json.dumps(content))


@pytest.mark.parametrize(
    "made", [pytest.param(made, id="-".join(made), marks=() if made in QUICK else pytest.mark.slow) for made in MADE]
)
def test_a_fresh_process_computes_the_logits_that_training_ended_with(
    runs: Runs, elsewhere: dict[str, Any], made: tuple[str, str]
) -> None:
    """The manifest's probe was computed by the model in memory, before anything was saved."""
    path = runs.adapter(*made)
    logits, probed = elsewhere[str(path)]
    assert probed == json.loads((path / MANIFEST).read_text())["probe"]
    adapter = Adapter.load(path)
    backbone = Backbone.load(adapter.manifest.backbone)
    assert logits == Predictor.of(adapter, backbone).outputs(TEXTS).tolist()


def test_the_manifest_tells_where_the_adapter_comes_from(runs: Runs, gpt2: Backbone) -> None:
    record = runs.record("gpt2", "lora")
    manifest = read_manifest(runs.adapter("gpt2", "lora"))
    assert manifest.method == "lora"
    assert manifest.hyperparameters == {"r": 4, "alpha": 16.0, "dropout": 0.05, "targets": ["c_attn"]}
    assert manifest.label_names == ("bad", "good")
    assert manifest.family == "gpt2"
    assert manifest.backbone_digest == gpt2.digest == record.environment.backbone_digest
    assert manifest.tokenizer_digest == gpt2.tokenizer_digest
    assert (manifest.train_digest, manifest.evaluation_digest) == (
        record.environment.train_digest,
        record.environment.evaluation_digest,
    )
    assert manifest.metrics == record.metrics | {"examples": record.examples}
    assert manifest.versions.keys() >= {"python", "torch", "transformers", "peft"}
    assert [len(row) for row in manifest.probe or ()] == [2] * len(SENTENCES)


@pytest.mark.parametrize("method", ["lora", "full", "prelayer"])
def test_no_flipped_byte_changes_a_tensor_unnoticed(runs: Runs, tmp_path: Path, method: str) -> None:
    path = shutil.copytree(runs.adapter("gpt2", method), tmp_path / "adapter")
    original = Adapter.load(path)
    file = path / original.manifest.tensor_file
    whole = file.read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little")
    chosen = random.Random(0)
    inside = [chosen.randrange(header) for _ in range(40)]
    refusals = []
    for position in [0, 7, 8, header - 1, *inside]:
        flipped = bytearray(whole)
        flipped[position] ^= 1 << chosen.randrange(8)
        file.write_bytes(flipped)
        try:
            found = Adapter.load(path).tensors
        except CorruptAdapter as error:
            refusals.append(str(error))
        else:  # white space, or the metadata that nothing depends on
            assert found.keys() == original.tensors.keys()
            assert all(torch.equal(found[name], tensor) for name, tensor in original.tensors.items())
    assert len(refusals) > 20
    assert all(refusal.startswith(str(path)) for refusal in refusals)
    for position in [header, len(whole) - 1, *(chosen.randrange(header, len(whole)) for _ in range(10))]:
        flipped = bytearray(whole)
        flipped[position] ^= 1
        file.write_bytes(flipped)
        with raises(CorruptAdapter, code="adapter.changed", path="adapter"):
            Adapter.load(path)


@pytest.mark.parametrize("left", [0, 4, 200, -1])
def test_a_file_that_was_cut_short_is_refused(copy: Path, left: int) -> None:
    file = copy / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:left])
    with raises(CorruptAdapter, code="adapter.file-malformed", path="adapter_model.safetensors"):
        Adapter.load(copy)


def test_a_missing_tensor_file_is_named(copy: Path) -> None:
    (copy / "adapter_model.safetensors").unlink()
    with raises(CorruptAdapter, code="adapter.file-missing", path="adapter_model.safetensors"):
        Adapter.load(copy)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("method", "full"),
        ("hyperparameters", {"r": 4, "alpha": 32.0, "dropout": 0.05, "targets": ["c_attn"]}),
        ("label_names", ["good", "bad"]),
        ("backbone_digest", "sha256:0"),
        ("tensors_digest", "sha256:0"),
        ("max_length", 7),
        ("max_length", 100_000),
        ("template", "{text}!"),
        ("family", "llama"),
        ("digest", "sha256:0"),
        ("digest", None),
    ],
)
def test_an_edited_manifest_is_refused(copy: Path, field: str, value: Any) -> None:
    edit(copy, lambda content: content.update({field: value}))
    with raises(CorruptAdapter, code="adapter.changed", field="digest", path="manifest.json"):
        Adapter.load(copy)


def test_a_manifest_with_a_field_missing_unknown_or_unreadable_is_refused(copy: Path) -> None:
    whole = (copy / MANIFEST).read_text()
    for change, field in (
        (lambda content: content.pop("method"), "method"),
        (lambda content: content.pop("format"), None),
        (lambda content: content.update(invented=1), "invented"),
        (lambda content: content.update(label_names="good"), "label_names"),
    ):
        (copy / MANIFEST).write_text(whole)
        edit(copy, change)
        with raises(CorruptAdapter, code="adapter.file-malformed", path="manifest.json", field=field):
            Adapter.load(copy)
    for content in (whole[:-20], "[]"):
        (copy / MANIFEST).write_text(content)
        with raises(CorruptAdapter, code="adapter.file-malformed", path="manifest.json"):
            Adapter.load(copy)


def test_a_directory_without_an_adapter_says_what_was_looked_for(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "absent"):
        with raises(NotFound, code="adapter.missing"):
            Adapter.load(path)


def test_an_adapter_of_afina_without_its_manifest_is_not_opened_as_one_of_peft(copy: Path) -> None:
    """Its labels would be called LABEL_0 and LABEL_1, and its template would be gone."""
    (copy / MANIFEST).unlink()
    with raises(CorruptAdapter, code="adapter.file-missing", path=copy.name, file=MANIFEST):
        Adapter.load(copy)
    (copy / text_hashes.HASHES_FILE).unlink()
    assert Adapter.load(copy).manifest.method == FOREIGN, "nothing in the directory says that afina made it"


def _same_weights_other_tokenizer(backbones: Backbones, path: Path) -> Path:
    shutil.copytree(backbones.path("gpt2"), path)
    tokenizer(begin=True).save_pretrained(path)
    return path


def test_another_backbone_is_refused_and_what_differs_is_named(
    runs: Runs, backbones: Backbones, tmp_path: Path
) -> None:
    adapter = Adapter.load(runs.adapter("gpt2", "lora"))
    for path, differs in (
        (backbones.path("gpt2", seed=1), "the weights differ"),
        (_same_weights_other_tokenizer(backbones, tmp_path / "mixed"), "the tokenizer differs"),
        (backbones.path("llama"), ".*; the tokenizer differs; the weights differ"),
    ):
        message = rf"{adapter.where}: made for backbone .* but {path} has sha256:\w+ \({differs}\)\. .*`backbone`"
        with pytest.raises(WrongBackbone, match=message):
            Predictor.of(adapter, Backbone.load(str(path)))


def test_the_same_backbone_elsewhere_is_accepted(runs: Runs, backbones: Backbones, tmp_path: Path) -> None:
    adapter = Adapter.load(runs.adapter("gpt2", "lora"))
    moved = Backbone.load(str(shutil.copytree(backbones.path("gpt2"), tmp_path / "moved")))
    here = Backbone.load(adapter.manifest.backbone)
    expected = logits_of(Predictor.of(adapter, here).classifier, here)
    there = Predictor.of(adapter, moved)
    golden_test.check(there)
    assert torch.equal(logits_of(there.classifier, moved), expected)


def test_a_probe_that_differs_is_an_error_when_asked_for_and_only_then(copy: Path, gpt2: Backbone) -> None:
    golden_test.check(Predictor.of(Adapter.load(copy), gpt2))
    scale = max(abs(value) for row in Adapter.load(copy).manifest.probe or () for value in row)

    def shift(content: dict[str, Any], by: float) -> None:
        content["probe"][3][1] += by * scale

    edit(copy, lambda content: shift(content, 5e-5))
    golden_test.check(Predictor.of(Adapter.load(copy), gpt2))
    edit(copy, lambda content: shift(content, 1e-3))
    shifted = Predictor.of(Adapter.load(copy), gpt2)
    with raises(CorruptAdapter, code="adapter.probe-differs", where="adapter"):
        golden_test.check(shifted)


@pytest.mark.parametrize(("method", "prefix"), [("lora", ""), ("full", "random:")])
def test_no_file_of_an_adapter_holds_an_absolute_path_or_a_text_of_the_user(
    backbones: Backbones, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, prefix: str
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(backbones.path("gpt2"), "base")
    texts = sentences(60)
    write_csv(Path("mine.csv"), texts)
    settings = Training(max_steps=1, dtype="float32")
    record = Run(backbone=f"{prefix}base", task="mine.csv", method=method, training=settings).execute("out")
    files = [path for path in Path("out", record.adapter).rglob("*") if path.is_file()]
    assert len(files) >= 3
    paths = [str(tmp_path), str(Path.home()), os.environ["AFINA_CACHE"], sys.prefix]
    for file in files:
        content = file.read_bytes()
        for private in [*paths, *(text for text, _ in texts)]:
            assert private.encode() not in content, f"{private} in {file}"


def test_the_digest_depends_on_the_identity_alone(runs: Runs) -> None:
    manifest = read_manifest(runs.adapter("gpt2", "lora"))
    same: dict[str, Any] = {
        "metrics": {"accuracy": 0.123},
        "versions": {"torch": "0.4"},
        "training": {"epochs": 77},
        "backbone": "elsewhere/entirely",
        "task": "another",
        "seed": 99,
        "teacher": "sha256:5",
        "pairs": True,
        "answers": None,
        "train_digest": None,
        "evaluation_digest": None,
        "probe": None,
        "environment": {"threads": 99},
        "tokenizer_digest": None,
        "configuration": {"rms_norm_eps": 1.0},
        "data": {"text": "other"},
        "claims_digest": "sha256:4",
    }
    other: dict[str, Any] = {
        "method": "full",
        "hyperparameters": {"r": 8},
        "label_names": ("good", "bad"),
        "backbone_digest": "sha256:1",
        "tensors_digest": "sha256:2",
        "format": 1,
        "family": "llama",
        "tensor_file": "renamed.safetensors",
        "max_length": 7,
        "template": "{text}!",
        "words": {"bad": (" bad",), "good": (" good",)},
        "offset": (0.0, 1.0),
        "vocabulary_digest": "sha256:3",
        "objective": {"kind": "classes", "temperature": 2.0},
        "precision": "int8",
        "chat_template": "{{ messages }}",
    }
    for field, value in same.items():
        assert manifest.model_copy(update={field: value}).digest == manifest.digest, field
    digests = [manifest.model_copy(update={field: value}).digest for field, value in other.items()]
    assert len({manifest.digest, *digests}) == 1 + len(other)
    assert same.keys() == set(OUTSIDE)
    assert other.keys() == {*ALWAYS, *WHERE_GIVEN}
    assert sorted([*ALWAYS, *WHERE_GIVEN, *OUTSIDE]) == sorted(Manifest.model_fields)


def test_a_save_that_fails_leaves_what_was_there(copy: Path) -> None:
    adapter = Adapter.load(copy)
    before = {file.name: file.read_bytes() for file in copy.iterdir()}

    def fail(fresh: Path) -> None:
        (fresh / "half").write_text("written")
        raise RuntimeError("disk full")

    for target in (copy, copy.parent / "new"):
        with pytest.raises(RuntimeError, match="disk full"):
            adapter.save(target, fail)
    assert {file.name: file.read_bytes() for file in copy.iterdir()} == before
    assert list(copy.parent.iterdir()) == [copy]


def test_saving_again_writes_the_same_tensors_and_manifest(copy: Path) -> None:
    adapter = Adapter.load(copy)
    again = copy.parent / "again"
    adapter.save(again, lambda fresh: None)
    assert (again / MANIFEST).read_bytes() == (copy / MANIFEST).read_bytes()
    found, _ = read(again / adapter.manifest.tensor_file)
    assert all(torch.equal(found[name], tensor) for name, tensor in adapter.tensors.items())


def test_the_probe_sentences_are_not_cut_by_the_fakes(gpt2: Backbone, runs: Runs) -> None:
    """Otherwise the tests above would compare less than they seem to."""
    longest = max(len(gpt2.tokenizer(text)["input_ids"]) for text in (*SENTENCES, *TEXTS))
    assert longest <= read_manifest(runs.adapter("gpt2", "lora")).max_length
