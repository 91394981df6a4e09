"""Manifest: what an adapter is and where it comes from, and the digest of what it is. Knows no tensor and no method."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field, ValidationError, field_validator, model_validator

from afina import digest, file_io
from afina.errors import CorruptAdapter
from afina.models import objectives
from afina.models.backbone_spec import FLOAT, PrecisionName
from afina.schema import Figure, Problem, Sparing

MANIFEST = "manifest.json"

FORMAT = 2
"""What is written. Format 1, which left the maximum length out of the digest, is still read."""

SUMMARY_METRICS = 2
"""Metrics in the summary of an adapter; its manifest has more."""

ALWAYS = (
    *("format", "method", "hyperparameters", "label_names", "backbone_digest", "family"),
    *("tensor_file", "tensors_digest", "max_length"),
)
WHERE_GIVEN = ("template", "words", "offset", "vocabulary_digest", "objective", "precision")
OUTSIDE = (
    *("backbone", "tokenizer_digest", "task", "data", "train_digest", "evaluation_digest", "pairs", "seed"),
    *("training", "metrics", "probe", "versions", "environment", "claims_digest"),
)
CLAIMED = (
    *("train_digest", "evaluation_digest", "seed", "training"),
    *("metrics", "probe", "versions", "environment"),
)
"""Which fields the digest covers. The rule: whatever changes an answer, or which files are read for it, is covered;
what was measured, and where and from what an adapter was made, is not. A field that comes later and is covered goes
into WHERE_GIVEN, and has a default under which prediction does what it did before there was the field: then no digest
of an adapter that lacks it changes.

CLAIMED are those outside that say what was measured, and of what: a digest of their own covers them. Addresses are in
neither, for what they name may be moved."""


class Manifest(Sparing):
    """What an adapter is and where it comes from.

    backbone          address, as the user named it; None where there is none, or where peft's settings name none
    backbone_digest   None for an adapter that afina did not make, or that needs no backbone
    tensor_file       name of the safetensors file beside the manifest
    tensors_digest    digest of its tensors;  vocabulary_digest  of the words beside them, where there are any
    pairs             whether it was trained on pairs of texts; None where an earlier afina did not say
    max_length        tokens that a text is cut to; 0: as many as the backbone takes
    template          what a text stands in, if anything: see `afina.data.tokenize`
    words             by label, the words whose output embeddings the head began as; None where it began as a draw
    offset            what is added to each label's output; None for nothing
    objective         what was asked beside the labels' names (`Objective.settings`); None: one of them
    precision         what the backbone's frozen weights were held in, a key of PRECISIONS; "float" is not written
    data              how the run read its task, where it was not as usual: arguments of `Task.load` by name
    probe             logits of the built-in sentences (`afina.inference.probes.PROBE`), [sentence][label]
    environment       where it was made: platform, device, dtype, threads, source revision
    claims_digest     of the adapter's digest and of what CLAIMED names, so that figures which were changed by hand are
                      found out; None where an earlier version made it
    """

    unwritten: ClassVar[frozenset[str]] = frozenset({"precision"})

    format: int = FORMAT
    method: str
    hyperparameters: dict[str, Any]
    label_names: tuple[str, ...] = Field(min_length=1)
    backbone: str | None
    backbone_digest: str | None
    tokenizer_digest: str | None
    family: str | None
    tensor_file: str
    tensors_digest: str
    vocabulary_digest: str | None = None
    max_length: int = Field(ge=0)
    template: str | None = None
    words: dict[str, tuple[str, ...]] | None = None
    offset: tuple[float, ...] | None = None
    objective: dict[str, Any] | None = None
    precision: PrecisionName = FLOAT
    task: str | None = None
    data: dict[str, Any] = Field(default_factory=dict)
    train_digest: str | None = None
    evaluation_digest: str | None = None
    pairs: bool | None = None
    seed: int | None = None
    training: dict[str, Any] = Field(default_factory=dict)
    metrics: dict[str, Figure] = Field(default_factory=dict)
    probe: tuple[tuple[float, ...], ...] | None = None
    versions: dict[str, str] = Field(default_factory=dict)
    environment: dict[str, Any] = Field(default_factory=dict)
    claims_digest: str | None = None

    @field_validator("tensor_file")
    @classmethod
    def _a_plain_name(cls, name: str) -> str:
        if name in ("", ".", "..", MANIFEST) or any(letter in name for letter in "/\\\0"):
            raise ValueError(f"expected the name of a file beside the manifest, found {name[:80]!r}")
        return name

    @model_validator(mode="after")
    def _as_many_as_labels(self) -> Manifest:
        try:
            objectives.make(self.label_names, self.objective)
        except (KeyError, TypeError, ValueError):
            raise ValueError(f"its objective {str(self.objective)[:80]} is not one that this afina knows") from None
        if self.offset is not None and len(self.offset) != len(self.label_names):
            raise ValueError(f"the offset has {len(self.offset)} numbers, there are {len(self.label_names)} labels")
        return self

    @property
    def summary(self) -> dict[str, object]:
        """The manifest in a few facts, for a repr."""
        return {
            "method": self.method,
            "kind": self.objective["kind"] if self.objective else None,
            "labels": self.label_names,
            "backbone": self.backbone,
            "task": self.task,
            "template": self.template,
            **dict(list(self.metrics.items())[:SUMMARY_METRICS]),
        }

    @property
    def digest(self) -> str:
        """The adapter's identity: of what ALWAYS and WHERE_GIVEN name."""
        if self.format == 1:
            return self._digest_of_format_1
        given = [name for name in WHERE_GIVEN if getattr(self, name) != type(self).model_fields[name].default]
        return digest.of_json(self.model_dump(mode="json", include={*ALWAYS, *given}))

    def sealed(self) -> Manifest:
        """The manifest with its `claims_digest`."""
        return self.model_copy(update={"claims_digest": self._computed_claims})

    def check_claims(self, where: object) -> None:
        """Raise CorruptAdapter where what it claims was changed; `where` begins the message."""
        found = self._computed_claims
        if self.claims_digest not in (None, found):
            raise CorruptAdapter(
                f"{where}: its figures, or what they are of, were changed after they were measured: these fields give "
                f"digest {found[:19]}, it states {str(self.claims_digest)[:19]}. Copy or train the adapter again.",
                code="adapter.changed",
                where=where,
                field="claims_digest",
            )

    @property
    def _computed_claims(self) -> str:
        fields = type(self).model_fields
        given = [n for n in CLAIMED if getattr(self, n) != fields[n].get_default(call_default_factory=True)]
        return digest.of_json([self.digest, self.model_dump(mode="json", include=set(given))])

    @property
    def _digest_of_format_1(self) -> str:
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

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user of the adapter should know, a sentence or two each."""
        if self.format >= FORMAT:
            return ()
        return (
            f"made by an earlier afina: its digest does not cover its maximum length ({self.max_length} tokens) and "
            "would not tell if that were changed. Train it again to cover it.",
        )


def read_manifest(path: Path) -> Manifest:
    """The manifest of the adapter in `path`, checked against its own digest. Raises CorruptAdapter."""
    file = path / MANIFEST
    return checked(file_io.read_object(file), file)


def checked(content: Mapping[str, Any], file: object) -> Manifest:
    """The manifest of such content, with the digest that it states; `file` names it in messages.

    Raises CorruptAdapter.
    """
    content = dict(content)
    stated = content.pop("digest", None)
    made_as = content.get("format")
    if made_as is None:
        raise CorruptAdapter(f"{file}: it states no format. {file_io.AGAIN}", code="adapter.file-malformed", path=file)
    if type(made_as) is not int or not 1 <= made_as <= FORMAT:
        raise CorruptAdapter(
            f"{file}: its format is {str(made_as)[:40]!r}, this afina reads 1 to {FORMAT}: made by a later version of "
            "afina. Install that, or train the adapter again.",
            code="adapter.format-unknown",
            path=file,
            found=str(made_as)[:40],
        )
    try:
        manifest = Manifest.model_validate(content)
    except ValidationError as error:
        problem = Problem.of(error)
        field = f"field {problem.field}: " if problem.field else ""
        raise CorruptAdapter(
            f"{file}: {field}{problem.message}. {file_io.AGAIN}",
            code="adapter.file-malformed",
            path=file,
            field=problem.field,
        ) from None
    if manifest.digest != stated:
        raise CorruptAdapter(
            f"{file}: its fields give digest {manifest.digest[:19]}, it states {str(stated)[:19]}. "
            "It was changed; copy or train the adapter again.",
            code="adapter.changed",
            path=file,
            field="digest",
        )
    return manifest
