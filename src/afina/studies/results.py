"""Results: what has come of a study or a recommendation, and the directory that holds it. Starts without torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from afina.studies.result import Result
from afina.studies.trials import Tuned


@dataclass(frozen=True)
class Failure:
    """A run that ended in an error. It is not recorded, so the next call of the study tries it again."""

    name: str
    method: str
    seed: int
    error: str


@dataclass(frozen=True)
class Results:
    """The facts so far, in the order of the study's runs, and the runs that failed this time.

    command  the argument list that repeats it, empty where not known
    tuned    what choosing each method's settings took, where the study tunes
    """

    name: str
    out: Path
    results: tuple[Result, ...] = ()
    failed: tuple[Failure, ...] = ()
    command: tuple[str, ...] = ()
    tuned: tuple[Tuned, ...] = ()
