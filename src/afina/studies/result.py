"""Result: a record and what the run predicted, which lies in a file beside it. Starts without torch."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from afina.errors import InvalidData
from afina.models import objectives
from afina.models.objective import Objective
from afina.models.predictions import Predictions
from afina.stats import classification
from afina.stats.metrics import METRICS, Answered
from afina.studies.record import Record

_CLOSE = 1e-6
"""Two computations of one metric differ by less."""


@dataclass(frozen=True)
class Result:
    """One finished run. Two are equal whose records are: these have the digest of the predictions."""

    record: Record
    predictions: Predictions = field(compare=False)

    @cached_property
    def objective(self) -> Objective:
        """What was asked of each text."""
        return objectives.make(self.record.label_names, self.record.objective)

    def check_shapes(self, where: object) -> None:
        """Raise InvalidData where the predictions can be none of the record's kind and labels."""
        given, asked = self.predictions, self.objective
        if not asked.fits(given):
            raise InvalidData(
                f"{where}: these are no predictions of {self.record.name}, seed {self.record.seed}: outputs "
                f"{given.outputs.shape} and targets {self.targets.shape}, for {asked.width} outputs a text. Remove the "
                "file, and run the study again.",
                code="results.changed",
                where=where,
                run=self.record.name,
                seed=self.record.seed,
            )

    def check(self, where: object) -> None:
        """Raise InvalidData where a metric of the record is not what the predictions give.

        For a record without a digest of its own. What is undefined here, or not computed, is not looked at.
        """
        found = self.objective.metrics(self.predictions)
        for name, said in self.record.metrics.items():
            given = found.get(name, math.nan)
            if math.isnan(given) or math.isnan(said) or math.isclose(said, given, rel_tol=_CLOSE, abs_tol=_CLOSE):
                continue
            if math.isclose(said, self._as_before(name, given), rel_tol=_CLOSE, abs_tol=_CLOSE):
                continue
            raise InvalidData(
                f"{where}: the record of {self.record.name}, seed {self.record.seed}, says {name} {said:.4f}, its "
                f"stored predictions give {given:.4f}: it was changed after it was made. Restore its line, or remove "
                "it and run the study again.",
                code="results.changed",
                where=where,
                run=self.record.name,
                seed=self.record.seed,
                metric=name,
            )

    def _as_before(self, metric: str, given: float) -> float:
        """What an earlier afina made of it: macro F1 counted a label that neither occurs nor is answered as 0."""
        if metric not in ("f1", "macro_f1") or self.objective.width < 3:
            return given
        if metric == "f1":
            return float(np.nan_to_num(classification.per_class(self.answered)[2]).mean())
        targets, answers = self.targets.astype(bool), self.answers.astype(bool)
        counted = np.maximum(targets.sum(axis=0) + answers.sum(axis=0), 1)
        return float((2 * (targets & answers).sum(axis=0) / counted).mean())

    @property
    def targets(self) -> np.ndarray:
        """What was right, [N]."""
        return self.predictions.right

    @cached_property
    def answered(self) -> Answered:
        """What metrics are computed from."""
        return self.objective.answered(self.predictions)

    @cached_property
    def answers(self) -> np.ndarray:
        """What was predicted, in the form of targets, [N]."""
        return self.answered.answers

    @cached_property
    def scores(self) -> np.ndarray:
        """What each answer adds to the headline metric, [N]; for accuracy whether it is right."""
        return self.values(self.record.metric)

    def values(self, metric: str) -> np.ndarray:
        """What each answer adds to a metric, [N]."""
        made = METRICS[metric].values
        assert made is not None
        return made(self.answered)

    @cached_property
    def chances(self) -> np.ndarray | None:
        """Probabilities, [N, width], where the kind has such."""
        return self.answered.chances
