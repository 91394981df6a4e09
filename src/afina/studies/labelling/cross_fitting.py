"""Cross-fitting: each text of a task is predicted by a model that was trained on the other folds.

The linear probe computes the features of all texts once, so that its K heads take seconds. Any other method is trained
in K ordinary runs, each on a task in memory. The module can be imported without torch.

No model learns from evaluation texts. If training texts were called doubtful by models that know the evaluation texts,
leaving out these training texts would make the metric on the evaluation texts better than on new texts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from afina.data.readers.target_kinds import TARGETS
from afina.data.reading_options import ReadingOptions
from afina.data.split import Split
from afina.data.task import Task
from afina.events import Listener, ignore
from afina.models import objectives
from afina.models.feature_rows import FeatureRows
from afina.models.objective import Objective
from afina.models.predictions import Predictions
from afina.stats.folds import stratified_folds
from afina.stats.linear_models import HELD, STRENGTHS, cross_fitted
from afina.studies import problems
from afina.studies.executors.executor import Executor
from afina.studies.runs.record import Result
from afina.studies.study import Study
from afina.studies.watcher import Watcher

PROBE, ENCODER = "linear_probe", "bge"
"""The method and the backbone of cross-fitting by default, because they take the least time."""

FOLDS = 5
"""The default number of folds."""

LEAST = 20
"""The smallest number of texts that are cross-fitted."""


@dataclass(frozen=True, eq=False)
class CrossFit:
    """The predictions of N texts by models that were not trained on these texts.

    Attributes:
        objective: With a temperature that was fitted to all predictions.
        folds: The fold of each text, int64 [N]; HELD for evaluation texts, from which no model learned.
        refitted: Takes other targets of all texts and returns the predictions of models that learned these. None: it
            would take as long as the first predictions.
    """

    predictions: Predictions
    objective: Objective
    folds: np.ndarray
    refitted: Callable[[np.ndarray], Predictions] | None = None

    @property
    def gain(self) -> float:
        """The share of the loss of a model without features that the models avoid; 0 or less for models that fail.

        A model without features predicts the frequencies of the labels, or the mean number, in the other folds.
        """
        right, words = self.predictions.right, self.predictions.extras.get("words")
        count = len(right) if words is None else sum(map(len, words))
        without = FeatureRows(np.zeros((count, 1), np.float32), words)
        frequencies, _ = _fitted(self.objective, without, right, self.folds, STRENGTHS[-1])
        calibrated = replace(self.predictions, outputs=self.objective.calibrated_outputs(self.predictions))
        lost = self.objective.mean_loss(frequencies)
        return 1 - self.objective.mean_loss(calibrated) / lost if lost > 0 else 0.0


def labelled_texts(task: Task) -> tuple[Split, int]:
    """All labelled texts as one split, and how many of them, the first, are training texts."""
    training = [task.train, *(part for part in (task.calibration, task.selection) if part is not None)]
    return Split.joined([*training, task.evaluation]), sum(map(len, training))


def objective_of(task: Task, targets: np.ndarray) -> Objective:
    return objectives.make(task.label_names, {"kind": task.kind}).of(targets)


def folds_of(task: Task, targets: np.ndarray, groups: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Return the fold of each text, int64 [N]; the training texts of a group are in one fold, evaluation texts in HELD.

    Raises InvalidStudy for a number of folds that is not from 2 to 20, and InvalidData for fewer than LEAST texts, or
    if the training texts of all folds but one have only one label.
    """
    if not 2 <= count <= LEAST:
        raise problems.FOLDS_INVALID(option="folds", found=count, most=LEAST)
    if len(targets) < LEAST:
        raise problems.TOO_FEW_TO_CROSS_FIT(task=task.address, texts=len(targets), least=LEAST)
    training = labelled_texts(task)[1]
    learnt = targets[:training]
    strata = TARGETS[task.kind].drawn_strata(learnt, count)
    folds = stratified_folds(strata, groups[:training].tolist(), count, seed)
    linear, kept = objective_of(task, targets).linear, [learnt[folds != fold] for fold in range(count)]
    if not all(len(one) and linear.can_fit(one) for one in kept):
        raise problems.ONE_LABEL_TO_CROSS_FIT(task=task.address, folds=count)
    return np.concatenate([folds, np.full(len(targets) - training, HELD)])


def calibrated(objective: Objective, predictions: Predictions, folds: np.ndarray) -> Objective:
    return objective.calibrated(predictions.take(np.flatnonzero(folds != HELD)))


def by_probe(
    split: Split, objective: Objective, folds: np.ndarray, backbone: str = ENCODER, listen: Listener = ignore
) -> CrossFit:
    """Cross-fit a linear probe on a backbone; the features of each text are computed once."""
    from afina.models.backbone import Backbone
    from afina.predicting.text_features import FeatureModel

    features = FeatureModel(Backbone.load(backbone), objective).of(split, listen)
    return by_features(features, split.labels, objective, folds)


def by_features(
    features: FeatureRows | np.ndarray, targets: np.ndarray, objective: Objective, folds: np.ndarray
) -> CrossFit:
    """Cross-fit linear models on given features; an array is float [N, D]."""
    given = FeatureRows(features) if isinstance(features, np.ndarray) else features
    predictions, strength = _fitted(objective, given, targets, folds)
    made = calibrated(objective, predictions, folds)
    return CrossFit(predictions, made, folds, lambda wanted: _fitted(objective, given, wanted, folds, strength)[0])


def _fitted(
    objective: Objective,
    features: FeatureRows,
    targets: np.ndarray,
    folds: np.ndarray,
    strength: float | None = None,
) -> tuple[Predictions, float]:
    """The predictions, and the strength of regularization."""
    rows, of_rows = features.rows, objective.row_targets(targets, features)
    outputs, chosen = cross_fitted(objective.linear, rows, of_rows, objective.width, features.repeated(folds), strength)
    return objective.of_rows(outputs, targets, features), chosen


@dataclass(frozen=True, eq=False)
class FoldRuns:
    """The K ordinary runs of a method whose predictions together cross-fit a task.

    A run whose record is in the directory is not repeated, and an interrupted run continues from its checkpoint.
    `settings` are as in the table of a study file; `out` has a directory for each fold.
    """

    method: str
    backbone: str
    seed: int
    out: Path
    settings: Mapping[str, Any]

    def cross_fit(
        self,
        task: Task,
        split: Split,
        folds: np.ndarray,
        watcher: Watcher | None = None,
        executor: Executor | None = None,
    ) -> CrossFit:
        """Raises RunFailed if a run fails."""
        objective = objective_of(task, split.labels)
        if objective.reads_words:
            raise problems.FOLDS_OF_WORDS(option="method", found=self.method, kind=task.kind, known=PROBE)
        _check_in_several_folds(task, split, folds)
        outputs = np.zeros((len(split), objective.width))
        for fold in range(int(folds.max()) + 1):
            held = np.flatnonzero((folds == fold) | ((folds == HELD) & (fold == 0)))
            learnt = np.flatnonzero((folds != fold) & (folds != HELD))
            given = _task_of(task, split.take(learnt), split.take(held))
            result = self._result(given, fold, watcher, executor)
            outputs[held] = objective.soft_targets(result.objective, result.predictions)
        predictions = Predictions(outputs, split.labels)
        return CrossFit(predictions, calibrated(objective, predictions, folds), folds)

    def _result(self, task: Task, fold: int, watcher: Watcher | None, executor: Executor | None) -> Result:
        content = {
            "name": f"fold-{fold + 1}",
            "backbone": self.backbone,
            "task": task,
            "seeds": [self.seed],
            "methods": {self.method: dict(self.settings)},
        }
        study = Study.parse(content, f"fold {fold + 1}")
        found = study.run(self.out / "folds" / str(fold + 1), watcher, executor=executor)
        if found.failed:
            raise problems.FOLD_FAILED(fold=fold + 1, run=found.failed[0].name, reason=found.failed[0].error)
        return found.results[0]


def _check_in_several_folds(task: Task, split: Split, folds: np.ndarray) -> None:
    """Raise InvalidData if a label has texts in one fold only: no model could learn it for these texts."""
    kind = TARGETS[task.kind]
    places: dict[str, set[int]] = {}
    for fold, label in zip(folds.tolist(), kind.spelled(task.label_names, split.labels), strict=True):
        for name in kind.names(label):
            places.setdefault(name, set()).add(fold)
    if single := sorted(name for name, there in places.items() if len(there - {HELD}) < 2):
        raise problems.LABEL_IN_ONE_FOLD(task=task.address, label=single[0], method=PROBE)


def _task_of(task: Task, train: Split, evaluation: Split) -> Task:
    kind = TARGETS[task.kind]

    def columns(split: Split) -> dict[str, Any]:
        pairs = {} if split.pairs is None else {"text_pair": list(split.pairs)}
        return {"text": list(split.texts), **pairs, "label": kind.spelled(task.label_names, split.labels)}

    labels = task.label_names if kind.named else None
    reading = ReadingOptions(
        text="text",
        text_pair=None if train.pairs is None else "text_pair",
        label="label",
        labels=labels,
        kind=task.kind,
        missing="keep",
        allow_leakage=True,
    )
    return Task.of(columns(train), None, reading, evaluation=columns(evaluation))
