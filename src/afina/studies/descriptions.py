"""The files `study.json` and `recommendation.json`, which describe an output directory.

The module can be imported without torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from pydantic import ValidationError, model_validator

from afina.data.reading_options import ReadingOptions
from afina.schema import FORMAT, Frozen, check_format
from afina.studies import problems
from afina.studies.backbones import on_backbone
from afina.studies.choosing.recommendation import Recommendation
from afina.studies.published import Published
from afina.studies.runs.record import Record


@dataclass(frozen=True)
class Failure:
    """A run that ended in an error.

    A failed run has no record, so the run is executed again when the study is executed again.

    Attributes:
        backbone: The address of the run's backbone if the study has several backbones; else None.
        key: The key of the run; None if the tuning of the run failed.
    """

    name: str
    method: str
    seed: int
    error: str
    backbone: str | None = None
    key: str | None = None

    def named(self, names: Mapping[str, str]) -> Failure:
        """Return the failure with the backbone's short name added to its `name`.

        `names` has the short name of each backbone by its address.
        """
        backbone = names.get(self.backbone or "")
        return replace(self, name=on_backbone(self.name, backbone)) if backbone else self


class StudyRequest(Frozen):
    """The study that the user asked for: the content of `study.json`.

    Attributes:
        format: The version of the file format.
        keys: The keys of the study's runs, in the study's order.
        names: The name of each run in the study; the record of a run may have a name from another study.
        notes: Sentences about what the study did differently from the request.
        failed: The runs that failed when they were last executed.
        published: Figures that others have published for methods of the study.
        study: The fields of `Study`, with the settings that tuning chose.
        command: The command line arguments that repeat the study; empty if unknown.
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
        """Return the records of the study's runs, in the study's order and with the study's names."""
        by_key = {one.key: one for one in recorded}
        return [by_key[key].called(name) for key, name in zip(self.keys, self.names, strict=True) if key in by_key]


def read_request(path: Path) -> StudyRequest:
    """Read a `study.json`. Raises InvalidData if the file is missing or damaged."""
    try:
        text = path.read_bytes()
        check_format(text, path, "Run the study again with another `out`.")
        return StudyRequest.model_validate_json(text)
    except (OSError, ValidationError):
        raise problems.STUDY_JSON_DAMAGED(path=path) from None


def read_recommendation(path: Path) -> Recommendation:
    """Read a `recommendation.json`. Raises InvalidData if the file is damaged or was changed by hand."""
    try:
        text = path.read_bytes()
        check_format(text, path, "Ask for the recommendation again, with another `out`.")
        made = Recommendation.model_validate_json(text)
    except (OSError, ValidationError):
        raise problems.RECOMMENDATION_DAMAGED(path=path) from None
    if problem := made.refuses(text):
        raise problems.RECOMMENDATION_CHANGED(problem=problem, path=path)
    return made
