"""Trial and Tuned: facts. What choosing a method's settings took, and what was chosen; `tuning.json` of a study.

Starts without torch and without optuna. Knows nothing of how a setting was found.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import AliasChoices, ConfigDict, Field, TypeAdapter, ValidationError

from afina import file_io
from afina.errors import InvalidData
from afina.schema import FigureOrNone, Frozen
from afina.studies.runs.output_directory import OutputDirectory


class Trial(Frozen):
    """A candidate for a run's settings that was tried out.

    steps     optimiser steps taken; fewer than `Tuned.length` where it was stopped early
    value     of the headline metric on the validation cut, in training's precision, after the last of them; None where
              training diverged, NaN (null in JSON) where the metric is undefined: then the candidate loses
    seconds   wall-clock, its process's start and loading included
    """

    model_config = ConfigDict(populate_by_name=True)  # earlier files say `accuracy`

    setting: dict[str, Any]
    steps: int
    value: FigureOrNone = Field(validation_alias=AliasChoices("value", "accuracy"))
    seconds: float


class Tuned(Frozen):
    """What one method's tuning came to.

    name        of the run in its study;  method  its key
    length      optimiser steps of a trial that is not stopped
    budget      optimiser steps that each method of the study is given
    trials      in their order; none for a method that has nothing to tune
    setting     the chosen one; None while there is none
    validation_examples  texts cut from the training split, which chose it
    """

    name: str
    method: str
    length: int = 0
    budget: int = 0
    trials: tuple[Trial, ...] = ()
    setting: dict[str, Any] | None = None
    validation_examples: int = 0

    @property
    def steps(self) -> int:
        """Optimiser steps taken in all."""
        return sum(trial.steps for trial in self.trials)

    @property
    def seconds(self) -> float:
        """Wall-clock seconds of all trials."""
        return sum(trial.seconds for trial in self.trials)

    @property
    def stopped(self) -> int:
        """Trials that did not take all their steps."""
        return sum(trial.steps < self.length for trial in self.trials)


_MANY = TypeAdapter(tuple[Tuned, ...])


def read(out: Path) -> tuple[Tuned, ...]:
    """What the tuning in `out` has come to; nothing where there was none. Raises InvalidData."""
    path = OutputDirectory(out).tuning
    if not path.exists():
        return ()
    try:
        return _MANY.validate_json(path.read_bytes())
    except ValidationError:
        raise InvalidData(
            f"{path}: damaged. Run the study again; it tunes only what is not tuned.",
            code="results.damaged",
            path=path,
        ) from None


def write(out: Path, tuned: Iterable[Tuned]) -> None:
    """Replace what the tuning in `out` has come to."""
    text = json.dumps([one.model_dump(mode="json") for one in tuned], indent=2)
    file_io.write_text(OutputDirectory(out).tuning, text + "\n")
