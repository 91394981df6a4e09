"""`doubts`: find the labels of a task that are probably wrong; no file of the user is changed.

Each text is predicted by a model that was trained on other texts. The module can be imported without torch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from afina.data.readers.rows import MergedLabels
from afina.data.readers.target_kinds import TARGETS
from afina.data.reading_options import USUAL, ReadingOptions, shows_options
from afina.data.split import Split
from afina.data.task import Task, as_address
from afina.errors import InvalidData
from afina.events import Listener, Says, ignore, silent
from afina.methods import accepted, asks_endpoint
from afina.sentence import Sentence
from afina.stats.label_issues import LabelIssues, WrongShare, wrong_share
from afina.studies import problems
from afina.studies.executors.executor import Executor
from afina.studies.labelling.cross_fitting import (
    ENCODER,
    FOLDS,
    PROBE,
    CrossFit,
    FoldRuns,
    by_probe,
    folds_of,
    labelled_texts,
    objective_of,
)
from afina.studies.labelling.doubtful_kinds import DoubtfulKind, doubtful_kind
from afina.studies.labelling.doubts import ConfusedLabels, DoubtfulLabel, Doubts, FlippedLabels
from afina.studies.labelling.similar_texts import Contradiction, SimilarTexts, labels_alike, texts_in
from afina.studies.watcher import Watcher

FLIPPED = 0.05
"""The share of labels that are flipped on purpose in one round, for comparison."""

LEAST_FLIPPED, MOST_ROUNDS = 1000, 5
"""The number of flipped labels over all rounds that a comparison aims at, and the largest number of rounds."""

LEAST_GAIN = 0.02
"""The share of the loss of a model without features that models must avoid; otherwise their contradictions say nothing.
"""

CONFUSED = 0.1
"""The share of the texts of two labels from which on the labels are confused with each other."""

LEAST_CONFUSED = 3
"""The smallest number of texts of each of two labels that are predicted with the other, if the labels are confused."""

MOST_CONFUSED = 10
"""The largest number of pairs of confused labels."""


@shows_options()
def doubts(
    task: Task | str | Path,
    options: ReadingOptions | None = None,
    *,
    method: str = PROBE,
    backbone: str = ENCODER,
    folds: int = FOLDS,
    seed: int = 0,
    settings: Mapping[str, Any] | None = None,
    out: str | Path | None = None,
    watcher: Watcher | None = None,
    executor: Executor | None = None,
    listen: Listener = ignore,
    says: Says = silent,
    **named: Any,
) -> Doubts:
    """Return the doubtful labels of a task, among its training and its evaluation texts.

    A label is doubtful if models that learned from other texts contradict the label, or if an equal or nearly equal
    text has another label. With the linear probe, labels are also flipped on purpose, to compare how doubtful wrong
    labels are with how doubtful the given ones are.

    Args:
        task: A task, or the address of one, as `Task.load` takes it.
        options, named: Reading options of the task at the address, as `Task.load` takes them.
        method: The method of the models. A method other than `linear_probe`, or with `settings`, is trained in `folds`
            runs.
        backbone: The address of the backbone of the models.
        folds: The number of parts of the texts, each of which is predicted by models trained on the others.
        seed: The seed of the parts, of the flipped labels and of runs.
        settings: Hyperparameters and training settings of runs, as in the table of a study file.
        out: The directory of `doubts.json`, `doubts.csv` and the results of runs. None: nothing is written with the
            linear probe; other methods need a directory.
        watcher, executor: Of runs, as `Study.run` takes them.
        listen: Called with the progress of computing features.
        says: Called with words about each part of the work.

    Raises the errors of `Task.load`, InvalidStudy for a kind of task without labels or numbers, InvalidData for too few
    texts, and NotFound without the extra `doubts`.
    """
    read = task if isinstance(task, Task) else read_merged(as_address(task), options, named, says)
    runs = _runs(method, backbone, seed, settings or {}, out)
    split, training = labelled_texts(read)
    objective = objective_of(read, split.labels)
    doubtful_kind(objective)
    says(f"looking for equal and nearly equal texts among {len(split):,}")
    similar = SimilarTexts.of(split)
    parts = folds_of(read, split.labels, similar.groups, folds, seed)
    if runs is None:
        says(f"computing the features of {len(split):,} texts on {backbone}")
        fitted = by_probe(split, objective, parts, backbone, listen)
    else:
        fitted = runs.cross_fit(read, split, parts, watcher, executor)
    says("comparing labels with predictions")
    made = Finding(read, split, training, similar, fitted, seed).doubts(method, backbone)
    if out is not None:
        made.write(out)
    return made


def _runs(
    method: str, backbone: str, seed: int, settings: Mapping[str, Any], out: str | Path | None
) -> FoldRuns | None:
    """None: the linear probe, which needs no runs. Raises InvalidStudy or UnknownName."""
    if asks_endpoint(method):
        raise problems.DOUBTS_OF_ENDPOINT(option="method", found=method)
    accepted(method)
    if method == PROBE and not settings:
        return None
    if out is None:
        raise problems.FOLDS_WITHOUT_DIRECTORY(option="out", method=method)
    return FoldRuns(method, backbone, seed, Path(out), settings)


def read_merged(address: str, options: ReadingOptions | None, named: Mapping[str, Any], says: Says = silent) -> Task:
    """Return the task, of which labels that differ only in spelling are merged, and notes say so.

    Evaluation texts that are training texts too are no error, since they are in one fold.
    """
    given = ReadingOptions.of(options, named)
    asked = replace(given, allow_leakage=True)
    try:
        task = Task.load(address, asked, says=says)
    except InvalidData as error:
        if error.code != "data.labels-alike":
            raise
        given = replace(given, merge_labels=True)
        task = Task.load(address, replace(asked, merge_labels=True), says=says)
    return replace(task, data=given)


@dataclass(frozen=True, eq=False)
class Finding:
    """The predictions of all texts of a task, from which doubtful labels are found.

    The first `training` texts of the split are training texts; `rounds` 0: no labels are flipped.
    """

    task: Task
    split: Split
    training: int
    similar: SimilarTexts
    fitted: CrossFit
    seed: int = 0
    rounds: int = MOST_ROUNDS

    @property
    def _kind(self) -> DoubtfulKind:
        return doubtful_kind(self.fitted.objective)

    def doubts(self, method: str, backbone: str) -> Doubts:
        objective, predictions = self.fitted.objective, self.fitted.predictions
        issues, gain = self._kind.issues(objective, predictions), self.fitted.gain
        knows = gain >= LEAST_GAIN
        issues = issues if knows else issues.first(0)
        value = objective.value(objective.metric, predictions)
        return Doubts(
            task=self.task.address,
            kind=self.task.kind,
            method=method,
            backbone=backbone,
            folds=int(self.fitted.folds.max()) + 1,
            seed=self.seed,
            train=self.training,
            evaluation=len(self.split) - self.training,
            labels=tuple(self._labels(issues)),
            metric=objective.metric,
            value=None if math.isnan(value) else value,
            gain=gain,
            knows=knows,
            flips=self._flips() if knows and issues.expected is None else None,
            expected=issues.expected,
            confused=tuple(self._confused()) if knows else (),
            alike=(*self._alike(), *self._misspelled()),
            similar_texts=texts_in(self.similar.groups),
            rare=tuple(self._rare()),
            data_digest=self.task.data_digest,
            data=self.task.data or USUAL,
        ).sealed()

    def _labels(self, issues: LabelIssues) -> Iterator[DoubtfulLabel]:
        """Those of equal texts first, and then the most doubtful first."""
        targets = self.split.labels
        found = self.similar.contradictions(self.fitted.objective, targets, issues.suspicions)
        contradicted = {one.place: one for one in found}
        of_model = {place: index for index, place in enumerate(issues.places.tolist())}
        certain = [one.place for one in found if one.similarity is None]
        others = {*of_model, *contradicted} - {*certain}
        for place in [*sorted(certain), *sorted(others, key=lambda one: (-issues.suspicions[one], one))]:
            index, other = of_model.get(place), contradicted.get(place)
            yield self._label(issues, place, index, other)

    def _label(self, issues: LabelIssues, place: int, index: int | None, other: Contradiction | None) -> DoubtfulLabel:
        split, targets = self.split, self.split.labels
        given = self._words(targets, place)
        reasons, probability = [], None
        if other is not None:
            suggested = self._words(targets, other.other)
            like = "an equal text" if other.similarity is None else f"a nearly equal text ({other.similarity:.2f})"
            shown = self._shown(suggested, other.other)
            reasons.append(f"{like} has {shown}: {self._where(other.other)}")
        if index is not None:
            predicted = self._words(issues.suggested, index)
            suggested = suggested if other is not None else predicted
            found = float(issues.probabilities[index])
            probability = None if math.isnan(found) else found
            sure = "" if probability is None else f" with probability {probability:.2f}"
            reasons.append(f"the model predicts {self._shown(predicted, place)}{sure}")
        rows = split.rows
        return DoubtfulLabel(
            file=self.task.address if rows is None else rows.files[place],
            row=place + 1 if rows is None else rows.numbers[place],
            training=place < self.training,
            text=split.texts[place],
            text_pair=None if split.pairs is None else split.pairs[place],
            label=given,
            suggested=suggested,
            probability=probability,
            reason="; ".join(reasons),
            by_model=index is not None,
            similar=None if other is None else other.state,
        )

    def _words(self, targets: np.ndarray, index: int) -> str:
        return TARGETS[self.task.kind].answers(self.task.label_names, targets[index : index + 1])[0]

    def _shown(self, words: str, place: int) -> str:
        return TARGETS[self.task.kind].answer_in_words(words, self.split.texts[place])

    def _where(self, place: int) -> str:
        return f"text {place + 1}" if self.split.rows is None else self.split.rows.where(place)

    def _flips(self) -> FlippedLabels | None:
        refitted = self.fitted.refitted
        objective, targets, count = self.fitted.objective, self.split.labels, len(self.split)
        if refitted is None or not self.rounds:
            return None
        number = max(1, round(FLIPPED * count))
        random = np.random.default_rng(self.seed)
        given, flipped, found = [], [], 0
        for _ in range(min(self.rounds, -(-LEAST_FLIPPED // number))):
            chosen = random.choice(count, number, replace=False)
            wanted = targets.copy()
            wanted[chosen] = self._kind.flipped(objective, self.fitted.predictions.take(chosen), random)
            again = self._kind.issues(objective, refitted(wanted))
            apart = np.zeros(count, dtype=bool)
            apart[chosen] = True
            given.append(again.suspicions[~apart])
            flipped.append(again.suspicions[apart])
            found += int(apart[again.places].sum())
        made: WrongShare = wrong_share(given, np.concatenate(flipped))
        total = sum(map(len, flipped))
        return FlippedLabels(flipped=total, found=found / total, wrong=made.share * count, at_most=made.at_most * count)

    def _confused(self) -> list[ConfusedLabels]:
        """The largest share first; of two labels, none."""
        counts = self._kind.confused(self.fitted.objective, self.fitted.predictions)
        names = self.task.label_names
        if counts is None or len(names) < 3:
            return []
        found = []
        for first in range(len(names)):
            for second in range(first + 1, len(names)):
                texts = int(counts[first].sum() + counts[second].sum())
                wrong = int(counts[first, second]), int(counts[second, first])
                if min(wrong) >= LEAST_CONFUSED and sum(wrong) >= CONFUSED * texts:
                    made = {"first_as_second": wrong[0], "second_as_first": wrong[1], "texts": texts}
                    found.append(ConfusedLabels(first=names[first], second=names[second], **made))
        found.sort(key=lambda one: -(one.first_as_second + one.second_as_first) / one.texts)
        return found[:MOST_CONFUSED]

    def _label_counts(self) -> dict[str, int]:
        kind = TARGETS[self.task.kind]
        if not kind.named:
            return {}
        counts = dict.fromkeys(self.task.label_names, 0)
        for label in kind.spelled(self.task.label_names, self.split.labels):
            for name in kind.names(label):
                counts[name] += 1
        return counts

    def _rare(self) -> list[str]:
        folds = int(self.fitted.folds.max()) + 1
        return [name for name, count in self._label_counts().items() if count < folds]

    def _alike(self) -> list[str]:
        notes = [note for note in self.task.notes if isinstance(note, MergedLabels)]
        advice = Sentence.of(" Training merges them only with `merge_labels`, and refuses them otherwise.")
        return [Sentence([note, advice]) for note in notes]

    def _misspelled(self) -> list[str]:
        counts = self._label_counts()
        return [
            f"The label {rare!r} ({counts[rare]:,} text{'s' * (counts[rare] != 1)}) looks like a misspelling of "
            f"{frequent!r} ({counts[frequent]:,} texts). Correct the file if it is one."
            for rare, frequent in labels_alike([*counts], [*counts.values()])
        ]
