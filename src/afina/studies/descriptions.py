"""The files `study.json` and `recommendation.json`, which describe an output directory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from pydantic import ValidationError, model_validator

from afina.data.reading_options import ReadingOptions
from afina.schema import FORMAT, Frozen, check_format
from afina.sentence import Sentence
from afina.studies import problems
from afina.studies.backbones import on_backbone
from afina.studies.choosing.recommendation import Recommendation
from afina.studies.published import Published
from afina.studies.runs.record import Record


@dataclass(frozen=True)
class Failure:
    """A run that ended in an error, without a record, so that it is executed again with the study.

    `backbone` is None if the study has one. `key` is None if the tuning of the run failed.
    """

    name: str
    method: str
    seed: int
    error: str
    backbone: str | None = None
    key: str | None = None

    def named(self, names: Mapping[str, str]) -> Failure:
        """Return the failure with the backbone's short name, by its address in `names`, added to its `name`."""
        backbone = names.get(self.backbone or "")
        return replace(self, name=on_backbone(self.name, backbone)) if backbone else self


class StudyRequest(Frozen):
    """The study that the user asked for: the content of `study.json`.

    `keys` are those of the runs, in the study's order, and `names` their names, which may be others in the records.
    `study` has the fields of `Study` with the tuned settings. `published`: figures that others have published for its
    methods. `command` repeats the study; empty if unknown.
    """

    format: int = FORMAT
    name: str
    task: str
    data: ReadingOptions
    keys: tuple[str, ...]
    names: tuple[str, ...]
    notes: tuple[str, ...] = ()
    failed: tuple[Failure, ...] = ()
    published: Published | None = None
    study: dict[str, Any]
    command: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _a_name_for_each_key(self) -> Self:
        if len(self.names) != len(self.keys):
            raise ValueError(f"{len(self.names)} names for {len(self.keys)} keys")
        return self

    def records(self, recorded: Iterable[Record]) -> list[Record]:
        by_key = {one.key: one for one in recorded}
        return [by_key[key].called(name) for key, name in zip(self.keys, self.names, strict=True) if key in by_key]


def read_request(path: Path) -> StudyRequest:
    """Read a `study.json`. Raises InvalidData if the file is missing or damaged."""
    try:
        text = path.read_bytes()
        check_format(text, path, Sentence.of("Run the study again with another `out`."))
        return StudyRequest.model_validate_json(text)
    except (OSError, ValidationError):
        raise problems.FILE_DAMAGED(path=path, _instead="Run the study again; recorded runs are skipped.") from None


def read_recommendation(path: Path) -> Recommendation:
    """Read a `recommendation.json`. Raises InvalidData if the file is damaged or was changed by hand."""
    try:
        text = path.read_bytes()
        check_format(text, path, Sentence.of("Ask for the recommendation again, with another `out`."))
        made = Recommendation.model_validate_json(text)
    except (OSError, ValidationError):
        raise problems.FILE_DAMAGED(path=path, _instead="Ask for the recommendation again.") from None
    if problem := made.refuses(text):
        raise problems.FILE_EDITED(
            problem=problem, path=path, _instead="Restore the file, or ask for the recommendation again."
        )
    return made
