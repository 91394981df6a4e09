"""Adapter: what a run produces. The changed tensors, and a manifest that says what they are.

The only owner of the adapter's directory: `manifest.json`, one safetensors file, and the small files
with which peft or transformers read the same tensors. Knows no method and no model.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, ValidationError

from afina import atomic, digest
from afina.errors import CorruptAdapter, NotFound
from afina.models.families import HEAD
from afina.schema import Frozen, Problem

if TYPE_CHECKING:
    from torch import Tensor

MANIFEST = "manifest.json"
PEFT_SETTINGS = "adapter_config.json"
PEFT_TENSORS = "adapter_model.safetensors"
FOREIGN = "peft"
"""The method of an adapter that peft saved and afina did not make."""


class Manifest(Frozen):
    """What an adapter is and where it comes from.

    backbone         address, as the user named it; digests are None for an adapter that afina did not make
    tensor_file      name of the safetensors file beside the manifest
    tensors_digest   digest of its tensors
    template         what a text stands in, if anything: see `afina.data.template`
    words            by label, the words whose output embeddings the head began as; None where it began as a draw
    offset           what is added to each label's output; None for nothing
    data             how the run read its task, where it was not as usual: arguments of `Task.load` by name
    probe            logits of the built-in sentences (`afina.inference.probes.PROBE`), [sentence][label]
    """

    format: int = 1
    method: str
    hyperparameters: dict[str, Any]
    label_names: tuple[str, ...]
    backbone: str
    backbone_digest: str | None
    tokenizer_digest: str | None
    family: str | None
    tensor_file: str
    tensors_digest: str
    max_length: int
    template: str | None = None
    words: dict[str, tuple[str, ...]] | None = None
    offset: tuple[float, ...] | None = None
    task: str | None = None
    data: dict[str, Any] = Field(default_factory=dict)
    train_digest: str | None = None
    evaluation_digest: str | None = None
    seed: int | None = None
    training: dict[str, Any] = Field(default_factory=dict)
    metrics: dict[str, float] = Field(default_factory=dict)
    probe: tuple[tuple[float, ...], ...] | None = None
    versions: dict[str, str] = Field(default_factory=dict)

    @property
    def digest(self) -> str:
        """Of the tensors, the method, its hyperparameters, the labels, the backbone, and how texts are asked about.

        Of the last only what is there, so that adapters from before keep theirs.
        """
        asked = {"template": self.template, "words": self.words, "offset": self.offset}
        return digest.of_json(
            {
                **{key: value for key, value in asked.items() if value is not None},
                "tensors": self.tensors_digest,
                "method": self.method,
                "hyperparameters": self.hyperparameters,
                "label_names": self.label_names,
                "backbone": self.backbone_digest,
            }
        )


@dataclass(frozen=True, eq=False)
class Adapter:
    """A manifest and its tensors; `where` is the directory it was read from, for messages."""

    manifest: Manifest
    tensors: Mapping[str, Tensor]
    where: str = "adapter"

    @property
    def digest(self) -> str:
        """The adapter's identity."""
        return self.manifest.digest

    def save(self, path: Path, accompany: Callable[[Path], None]) -> None:
        """Write the directory `path`, whole or not at all; `accompany` adds the files that other libraries read."""
        from afina import tensorfile

        with atomic.replacing(path) as fresh:
            fresh.mkdir()
            accompany(fresh)
            tensorfile.write(fresh / self.manifest.tensor_file, self.tensors)
            content = self.manifest.model_dump(mode="json") | {"digest": self.digest}
            (fresh / MANIFEST).write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> Adapter:
        """Read an adapter of afina or of peft. Raises NotFound, CorruptAdapter."""
        from afina import tensorfile

        if not (path / MANIFEST).is_file():
            return cls._load_peft(path)
        manifest = read_manifest(path)
        tensors, _ = tensorfile.read(path / manifest.tensor_file)
        found = digest.of_tensors(tensors)
        if found != manifest.tensors_digest:
            raise CorruptAdapter(
                f"{path}: the tensors in {manifest.tensor_file} have digest {found[:19]}, the manifest says "
                f"{manifest.tensors_digest[:19]}. The file was changed; copy or train the adapter again."
            )
        return cls(manifest, tensors, str(path))

    @classmethod
    def _load_peft(cls, path: Path) -> Adapter:
        from afina import tensorfile

        if not (path / PEFT_SETTINGS).is_file():
            raise NotFound(
                f"{path}: no adapter there, neither {MANIFEST} (afina's) nor {PEFT_SETTINGS} (peft's). "
                "Give a directory such as results/adapters/lora-seed0-...."
            )
        settings = _json_object(path / PEFT_SETTINGS)
        tensors, _ = tensorfile.read(path / PEFT_TENSORS)
        heads = [tensor for name, tensor in tensors.items() if f".{HEAD}." in name and name.endswith("weight")]
        if not heads:
            raise CorruptAdapter(
                f"{path}: the adapter has no classification head ({HEAD}). "
                'Save it with task_type="SEQ_CLS", which keeps the head.'
            )
        manifest = Manifest(
            method=FOREIGN,
            hyperparameters=settings,
            label_names=tuple(f"LABEL_{index}" for index in range(heads[0].shape[0])),
            backbone=str(settings.get("base_model_name_or_path")),
            backbone_digest=None,
            tokenizer_digest=None,
            family=None,
            tensor_file=PEFT_TENSORS,
            tensors_digest=digest.of_tensors(tensors),
            max_length=0,
        )
        return cls(manifest, tensors, str(path))


def read_manifest(path: Path) -> Manifest:
    """The manifest of the adapter in `path`, checked against its own digest. Raises CorruptAdapter."""
    content = _json_object(path / MANIFEST)
    stated = content.pop("digest", None)
    try:
        manifest = Manifest.model_validate(content)
    except ValidationError as error:
        problem = Problem.of(error)
        raise CorruptAdapter(
            f"{path / MANIFEST}: field {problem.field}: {problem.message}. Copy the adapter again, or train it again."
        ) from None
    if manifest.digest != stated:
        raise CorruptAdapter(
            f"{path / MANIFEST}: its fields give digest {manifest.digest[:19]}, it states {str(stated)[:19]}. "
            "It was changed; copy or train the adapter again."
        )
    return manifest


def _json_object(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CorruptAdapter(f"{path}: not readable as JSON ({error}). Copy the adapter again.") from None
    if not isinstance(content, dict):
        raise CorruptAdapter(f"{path}: expected a JSON object. Copy the adapter again.")
    return content
