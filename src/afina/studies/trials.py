"""Tuned: a fact. What choosing a method's settings took, and what was chosen; `tuning.json` in a study's output.

Starts without torch and without optuna. Knows nothing of how a setting was found.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from afina import atomic
from afina.errors import InvalidData
from afina.schema import Frozen

FILE = "tuning.json"


class Candidate(Frozen):
    """One setting that was tried.

    steps     optimiser steps taken; fewer than `Tuned.length` where it was stopped early
    accuracy  on the validation cut, in training's precision, after the last of them; None where training diverged
    seconds   wall-clock, its process's start and loading included
    """

    setting: dict[str, Any]
    steps: int
    accuracy: float | None
    seconds: float


class Tuned(Frozen):
    """What one method's tuning came to.

    name        of the run in its study;  method  its key
    length      optimiser steps of a candidate that is not stopped
    budget      optimiser steps that each method of the study is given
    candidates  in the order in which they were tried; none for a method that has nothing to tune
    setting     the chosen one; None while there is none
    validation_examples  texts cut from the training split, which chose it
    """

    name: str
    method: str
    length: int = 0
    budget: int = 0
    candidates: tuple[Candidate, ...] = ()
    setting: dict[str, Any] | None = None
    validation_examples: int = 0

    @property
    def steps(self) -> int:
        """Optimiser steps taken in all."""
        return sum(candidate.steps for candidate in self.candidates)

    @property
    def seconds(self) -> float:
        """Wall-clock seconds of all candidates."""
        return sum(candidate.seconds for candidate in self.candidates)

    @property
    def stopped(self) -> int:
        """Candidates that did not take all their steps."""
        return sum(candidate.steps < self.length for candidate in self.candidates)


def read(out: Path) -> tuple[Tuned, ...]:
    """What `out/tuning.json` holds; nothing where it is not there. Raises InvalidData."""
    path = out / FILE
    if not path.exists():
        return ()
    try:
        return tuple(Tuned.model_validate(one) for one in json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError, ValidationError):
        raise InvalidData(f"{path}: damaged. Run the study again; it tunes only what is not tuned.") from None


def write(out: Path, tuned: Iterable[Tuned]) -> None:
    """Replace `out/tuning.json`."""
    text = json.dumps([one.model_dump(mode="json") for one in tuned], indent=2)
    atomic.write_text(out / FILE, text + "\n")
