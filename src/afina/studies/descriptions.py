"""The descriptions of what an output directory holds: `study.json` and `recommendation.json`. Starts without torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import ValidationError

from afina.errors import InvalidData
from afina.schema import Frozen
from afina.studies.choosing.recommendation import Recommendation
from afina.studies.runs.spec import Data


class StudyRequest(Frozen):
    """The request of a study: the content of `study.json`.

    Attributes:
        keys: The keys of the study's runs, in the study's order.
        study: The fields of `Study`, with the settings that tuning chose.
        command: The command line arguments that repeat the study; empty if unknown.
    """

    name: str
    task: str
    data: Data
    keys: tuple[str, ...]
    study: dict[str, Any]
    command: tuple[str, ...] = ()


def read_request(path: Path) -> StudyRequest:
    """Read a `study.json`. Raises InvalidData if the file is missing or damaged."""
    try:
        return StudyRequest.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        raise InvalidData(
            f"{path}: the file is missing or damaged. Run the study again; recorded runs are skipped.",
            code="results.damaged",
            path=path,
        ) from None


def read_recommendation(path: Path) -> Recommendation:
    """Read a `recommendation.json`. Raises InvalidData if the file is damaged or was changed by hand."""
    try:
        text = path.read_bytes()
        made = Recommendation.model_validate_json(text)
    except (OSError, ValidationError):
        raise InvalidData(
            f"{path}: the file is damaged. Ask for the recommendation again.", code="results.damaged", path=path
        ) from None
    if problem := made.refuses(text):
        raise InvalidData(
            f"{path}: the file was changed after afina wrote it: {problem}. Restore the file, or ask for the "
            "recommendation again.",
            code="results.changed",
            path=path,
        )
    return made
