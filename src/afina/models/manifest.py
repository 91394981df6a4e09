"""`Manifest`: the description of an adapter and of its training, with digests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError, field_serializer, field_validator, model_validator

from afina import digest, file_io
from afina.data.reading_options import ReadingOptions
from afina.models import objectives, problems
from afina.models.answer_profile import AnswerProfile
from afina.models.backbone_spec import FLOAT, PrecisionName
from afina.models.counted_kinds import COUNTED_KINDS
from afina.schema import Figure, Frozen, WrongValue

MANIFEST = "manifest.json"

FORMAT = 3
"""Version of the manifest's format. Increase `FORMAT` when the meaning of a field or a default changes; every digest
covers it."""

SUMMARY_METRICS = 2
"""Number of metrics in the summary of an adapter; the manifest contains all metrics."""

ALWAYS = (
    *("format", "method", "hyperparameters", "label_names", "backbone_digest", "family"),
    *("tensor_file", "tensors_digest", "max_length"),
)
WHERE_GIVEN = ("template", "words", "offset", "vocabulary_digest", "objective", "precision", "chat_template")
OUTSIDE = (
    *("backbone", "tokenizer_digest", "configuration", "task", "data", "train_digest", "evaluation_digest"),
    *("pairs", "seed", "teacher", "training", "metrics", "answers", "probe", "versions", "environment"),
    "claims_digest",
)
CLAIMED = (
    *("train_digest", "evaluation_digest", "seed", "teacher", "training"),
    *("metrics", "answers", "probe", "versions", "environment"),
)
"""The manifest's fields in four lists, by the digest that covers them.

The adapter's digest covers ALWAYS and WHERE_GIVEN: all fields that change an answer or name the files that are read for
an answer. OUTSIDE has measurements and the origin of the adapter. A new field that must be covered goes into
WHERE_GIVEN, with a default that does not change predictions, so that the digests of existing adapters stay the same.

CLAIMED lists the fields of OUTSIDE that state what was measured, and on what data; `claims_digest` covers these fields.
No digest covers the addresses of a backbone or a task, because files may be moved.
"""


class Manifest(Frozen):
    """The description of an adapter: method, backbone, training data, metrics and digests.

    Attributes:
        backbone: The address of the backbone that the user gave. `backbone` is None if the adapter needs no backbone,
            or peft's settings name none.
        backbone_digest: Digest of the backbone. `backbone_digest` is None if afina did not make the adapter, or the
            adapter needs no backbone.
        configuration: `Backbone.settings` of the backbone, with which error messages name differences;
            `backbone_digest` covers it.
        tensor_file: Name of the safetensors file beside the manifest.
        vocabulary_digest: Digest of the terms of a bag-of-words model. None: the adapter has no vocabulary.
        pairs: Whether the training data were pairs of texts. None: unknown.
        max_length: Number of tokens to which texts are truncated. 0: the backbone's maximum.
        template: Prompt template around each text (`afina.data.template`). None: no template.
        chat_template: The backbone's chat template, with which an adapter was trained. None: unknown, or no chats.
        words: For each label, the words whose embeddings initialised the head. None: a random head.
        offset: Numbers added to the head's logits, one for each label. None: no offset.
        objective: The kind of task with its settings (`Objective.settings`). If `objective` is None, the kind of task
            is one label for each text, with default settings.
        precision: How the backbone's frozen weights were stored, a key of PRECISIONS.
        data: The options with which the task's files were read, including the recognised kind of task and separator.
            The manifest file contains only the options of `data` that differ from their defaults.
        teacher: Digest of the adapter from whose outputs the adapter was trained. None: there was no teacher.
        answers: Counts of the evaluation texts and of the adapter's answers to them, with which later answers are
            compared. None: unknown, or answers of the kind of task are not counted.
        probe: The adapter's logits for the built-in test sentences (`afina.predicting.SENTENCES`),
            [sentence][label].
        environment: Platform, device, dtype, threads and source revision of the training run.
        claims_digest: Digest of the adapter's digest and the CLAIMED fields, which reveals edited metrics. None: the
            manifest has no CLAIMED field.
    """

    format: int = FORMAT
    method: str
    hyperparameters: dict[str, Any]
    label_names: tuple[str, ...] = Field(min_length=1)
    backbone: str | None
    backbone_digest: str | None
    tokenizer_digest: str | None
    configuration: dict[str, Any] | None = None
    family: str | None
    tensor_file: str
    tensors_digest: str
    vocabulary_digest: str | None = None
    max_length: int = Field(ge=0)
    template: str | None = None
    # earlier versions of afina open a manifest without this field
    chat_template: str | None = Field(default=None, exclude_if=lambda value: value is None)
    words: dict[str, tuple[str, ...]] | None = None
    offset: tuple[float, ...] | None = None
    objective: dict[str, Any] | None = None
    precision: PrecisionName = FLOAT
    task: str | None = None
    data: ReadingOptions = ReadingOptions()
    train_digest: str | None = None
    evaluation_digest: str | None = None
    pairs: bool | None = None
    seed: int | None = None
    teacher: str | None = None
    training: dict[str, Any] = Field(default_factory=dict)
    metrics: dict[str, Figure] = Field(default_factory=dict)
    answers: AnswerProfile | None = None
    probe: tuple[tuple[float, ...], ...] | None = None
    versions: dict[str, str] = Field(default_factory=dict)
    environment: dict[str, Any] = Field(default_factory=dict)
    claims_digest: str | None = None

    @field_serializer("data")
    def _given(self, data: ReadingOptions) -> dict[str, Any]:
        return data.given

    @field_validator("tensor_file")
    @classmethod
    def _a_plain_name(cls, name: str) -> str:
        if name in ("", ".", "..", MANIFEST) or any(letter in name for letter in "/\\\0"):
            raise ValueError(f"expected the name of a file beside the manifest, found {name[:80]!r}")
        return name

    @model_validator(mode="after")
    def _as_many_as_labels(self) -> Manifest:
        try:
            objective = objectives.make(self.label_names, self.objective)
        except (KeyError, TypeError, ValueError):
            raise ValueError(f"this version of afina does not know the objective {str(self.objective)[:80]}") from None
        kind = COUNTED_KINDS.get(objective.kind)
        if self.answers is not None and {*self.answers.labels} != {*(kind.labels(objective) if kind else ())}:
            raise ValueError("the counts of answers have other labels than the adapter")
        if self.offset is not None and len(self.offset) != objective.width:
            raise ValueError(f"the offset has {len(self.offset)} numbers, the model has {objective.width} outputs")
        return self

    @property
    def summary(self) -> dict[str, object]:
        """A few facts about the adapter, for its repr."""
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
        """The digest that identifies the adapter; it covers the fields in ALWAYS and WHERE_GIVEN."""
        return digest.of_json(self.model_dump(mode="json", include={*ALWAYS, *self._differing(WHERE_GIVEN)}))

    def sealed(self) -> Manifest:
        return self.model_copy(update={"claims_digest": self._computed_claims})

    def check_claims(self, where: object) -> None:
        """Raise CorruptAdapter if a CLAIMED field was changed after sealing; `where` begins the message."""
        found = self._computed_claims
        if self.claims_digest != found and (self.claims_digest is not None or self._differing(CLAIMED)):
            raise problems.CLAIMS_CHANGED(found=found, expected=self.claims_digest, where=where, field="claims_digest")

    @property
    def _computed_claims(self) -> str:
        return digest.of_json([self.digest, self.model_dump(mode="json", include=self._differing(CLAIMED))])

    def _differing(self, names: Sequence[str]) -> set[str]:
        """Return those of the fields `names` whose values differ from their defaults."""
        fields = type(self).model_fields
        return {name for name in names if getattr(self, name) != fields[name].get_default(call_default_factory=True)}


def read_manifest(path: Path) -> Manifest:
    """Read the manifest in a directory. Raises CorruptAdapter if it is damaged, changed or of an unknown format."""
    file = path / MANIFEST
    return checked(file_io.read_object(file), file)


def checked(content: Mapping[str, Any], file: object) -> Manifest:
    """Return the manifest with this JSON content and its digest. Raises as `read_manifest`."""
    content = dict(content)
    stated = content.pop("digest", None)
    made_as = content.get("format")
    if made_as is None:
        raise problems.FORMAT_MISSING(path=file)
    if type(made_as) is not int or made_as != FORMAT:
        raise problems.FORMAT_UNKNOWN(expected=FORMAT, path=file, found=str(made_as)[:40])
    try:
        manifest = Manifest.model_validate(content)
    except ValidationError as error:
        problem = WrongValue.of(error)
        field = f"field {problem.field}: " if problem.field else ""
        raise problems.FIELD_MALFORMED(_name=field, expected=problem.sentence, path=file, field=problem.field) from None
    if manifest.digest != stated:
        raise problems.FILE_CHANGED(
            _part="the fields have", found=manifest.digest, expected=stated, path=file, field="digest"
        )
    return manifest
