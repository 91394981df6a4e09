"""Words, notes, tables and plots of a report for each kind of task, one entry a kind.

Nothing else in this package asks which kind a task has.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from afina.data.addresses import named
from afina.data.kinds import CLASSES, LABELS, NUMBER
from afina.methods import make
from afina.report import per_label
from afina.report.arms import Arm
from afina.report.formatting import share
from afina.report.per_label import LabelFigures
from afina.report.plots import predictions
from afina.report.plots.svg import Plot
from afina.report.tables import Table
from afina.studies.runs.record import Record
from afina.studies.runs.spec import Data

Draw = Callable[[Sequence[Arm]], Sequence[Plot | None]]


class Presentation(ABC):
    """A kind of task as a report shows it.

    right        heading of the column of what is right of a text
    by_distance  the arms disagree on a text by how far apart their means over the seeds are; else by votes
    """

    right: ClassVar[str]
    by_distance: ClassVar[bool] = False

    @property
    @abstractmethod
    def plots(self) -> Mapping[str, Draw]:
        """Plots of what was answered, by the title of their section, in the order of reading."""

    @abstractmethod
    def asked(self, names: Sequence[str]) -> str:
        """The answer to each text in words, such as `3 labels`."""

    @abstractmethod
    def in_words(self, names: Sequence[str], answer: Any) -> str:
        """A target or an answer in words; `answer` as `tolist` of an array of targets gives it."""

    def positive(self, names: Sequence[str]) -> str | None:
        """The label that F1 is about, where it is about one."""
        return None

    def meaning(self, record: Record, data: Data) -> list[str]:
        """Sentences on how the figures are meant; `data`: how the runs were asked to read their task."""
        return []

    def least(self, names: Sequence[str], targets: Sequence[Any]) -> list[str]:
        """The score of always answering the same, where that says something."""
        return []

    def same(self, names: Sequence[str], answer: Any) -> str | None:
        """The answer of a run that answered every text the same; None where there is only one answer."""
        return "the same"

    def untrained(self, arms: Sequence[Arm]) -> list[str]:
        """The meaning of the rows of the pretrained model."""
        return [
            f"{arm.label} is the pretrained model under a random head, which knows nothing of the task."
            for arm in arms
            if not arm.trained and make(arm.record.method).head == "random"
        ]

    def which_disagree(self, shown: int, most: int) -> str:
        """Which texts are shown that the arms disagree on; most: how many are shown where there are more."""
        if shown == most:
            return (
                f"The {shown} evaluation texts on which the answers are most evenly split, of all on which they differ."
            )
        return "Every evaluation text on which the methods' answers differ."

    def found(self, names: Sequence[str], targets: np.ndarray, answers: np.ndarray) -> list[LabelFigures]:
        """How well each label is found, in the order of the names; empty where the kind has no labels.

        targets [N, ...], answers [S, N, ...]
        """
        return []

    def tables(self, arms: Sequence[Arm]) -> list[Table]:
        """The arms' answers, label by label."""
        found = self.found_by(arms)
        return [per_label.table(arms, found)] if found[0] else []

    def found_by(self, arms: Sequence[Arm]) -> list[list[LabelFigures]]:
        """The same as `found`, of each arm."""
        return [self.found(arm.record.label_names, arm.targets, arm.answers) for arm in arms]

    def terminal_tables(
        self, names: Sequence[str], targets: np.ndarray, answers: np.ndarray, of: str = ""
    ) -> list[Table]:
        """The answers label by label, in as much room as a terminal has; arrays as in `found`.

        of  whose answers they are, for the titles
        """
        found = self.found(names, targets, answers)
        return [per_label.terminal_table(found, of)] if found else []

    def as_json(self, names: Sequence[str], targets: np.ndarray, answers: np.ndarray) -> dict[str, object]:
        """`labels`, by name the figures of each label, and `confusion`, rows as right; null where the kind has none.

        Arrays as in `found`.
        """
        found = self.found(names, targets, answers)
        return {"labels": per_label.as_json(found) if found else None, "confusion": None}


class _Classes(Presentation):
    """One label of several."""

    right = "Right label"

    @property
    def plots(self) -> Mapping[str, Draw]:
        return {
            "Confusion of labels": predictions.confusion_matrices,
            "How far probabilities can be trusted": lambda arms: [
                predictions.reliability(arms),
                predictions.risk_coverage(arms),
            ],
        }

    def asked(self, names: Sequence[str]) -> str:
        return f"{len(names)} labels"

    def in_words(self, names: Sequence[str], answer: Any) -> str:
        """The label's name."""
        return str(names[answer])

    def positive(self, names: Sequence[str]) -> str | None:
        """The second of two."""
        return names[1] if len(names) == 2 else None

    def meaning(self, record: Record, data: Data) -> list[str]:
        positive = self.positive(record.label_names)
        if positive is None:
            return [f"F1 is the plain mean over the {len(record.label_names)} classes."]
        return [f"F1 is of the class `{positive}`{_by_order(record.task, data)}."]

    def least(self, names: Sequence[str], targets: Sequence[Any]) -> list[str]:
        most, times = Counter(targets).most_common(1)[0]
        return [
            f"Always answering `{names[most]}`, the most frequent label, has accuracy {share(times / len(targets))}."
        ]

    def same(self, names: Sequence[str], answer: Any) -> str | None:
        return f"`{names[answer]}`" if len(names) > 1 else None

    def untrained(self, arms: Sequence[Arm]) -> list[str]:
        """The same, and how to measure what the model answers when asked in words, where that is missing."""
        drawn = [arm for arm in arms if not arm.trained and make(arm.record.method).head == "random"]
        answering = [arm for arm in arms if not arm.trained and make(arm.record.method).head == "words"]
        made = [
            f"{arm.label} is the pretrained model under a random head, which has been told nothing of the labels. It "
            "says what a coin says, whatever the model knows."
            for arm in drawn[:1]
        ]
        made += [
            f"{arm.label} asks the same model in words, and trains nothing: what it knows of the labels beforehand."
            for arm in answering[:1]
        ]
        if not answering:
            made.append(
                "What the untrained model answers when it is asked in words was not measured here; "
                f"`afina ask --task {arms[0].record.task}` does, in seconds."
            )
        return made

    def found(self, names: Sequence[str], targets: np.ndarray, answers: np.ndarray) -> list[LabelFigures]:
        classes = np.arange(len(names))
        return per_label.label_figures(names, targets[None, :, None] == classes, answers[:, :, None] == classes)

    def tables(self, arms: Sequence[Arm]) -> list[Table]:
        """Where there are too many classes to draw, which are confused, too."""
        many = len(arms[0].record.label_names) > per_label.MOST
        return [*super().tables(arms), *([per_label.confusions(arms)] if many else [])]

    def terminal_tables(
        self, names: Sequence[str], targets: np.ndarray, answers: np.ndarray, of: str = ""
    ) -> list[Table]:
        """Which class is taken for which, too."""
        counts = per_label.confused(targets, answers, len(names))
        return [*super().terminal_tables(names, targets, answers, of), per_label.terminal_confusion(names, counts, of)]

    def as_json(self, names: Sequence[str], targets: np.ndarray, answers: np.ndarray) -> dict[str, object]:
        counts = per_label.confused(targets, answers, len(names)).tolist()
        return super().as_json(names, targets, answers) | {"confusion": counts}


class _Number(Presentation):
    """A number."""

    right = "Given"
    by_distance = True

    @property
    def plots(self) -> Mapping[str, Draw]:
        return {
            "Predicted against given": lambda arms: [
                *predictions.predicted_against_given(arms),
                predictions.residuals(arms),
            ]
        }

    def asked(self, names: Sequence[str]) -> str:
        return f"a number ({names[0]})"

    def in_words(self, names: Sequence[str], answer: Any) -> str:
        """Four digits."""
        return f"{answer:.4g}".replace("-", "−")

    def meaning(self, record: Record, data: Data) -> list[str]:
        return ["RMSE is in the unit of the numbers."]

    def which_disagree(self, shown: int, most: int) -> str:
        return f"The {shown} evaluation texts on which the methods' numbers, means over the seeds, are furthest apart."


class _Labels(Presentation):
    """Any number of labels at once."""

    right = "Right labels"

    @property
    def plots(self) -> Mapping[str, Draw]:
        return {"Label by label": lambda arms: [predictions.f1_by_label(arms, self.found_by(arms))]}

    def asked(self, names: Sequence[str]) -> str:
        return f"{len(names)} labels, any of them at once"

    def in_words(self, names: Sequence[str], answer: Any) -> str:
        """Names of the labels, or `none`; `answer`: a sequence of 0 or 1."""
        return ", ".join(name for name, has in zip(names, answer, strict=True) if has) or "none"

    def found(self, names: Sequence[str], targets: np.ndarray, answers: np.ndarray) -> list[LabelFigures]:
        return per_label.label_figures(names, targets[None].astype(bool), answers.astype(bool))


def _by_order(task: str, data: Data) -> str:
    """What is to be said where nobody said which of two labels is positive: the order of a file's labels did."""
    chosen = data.positive is not None or data.labels is not None or named(task) is not None
    return "" if chosen else ", the last in the order of the labels (`--positive LABEL` names another)"


PRESENTATIONS: Mapping[str, Presentation] = {
    CLASSES: _Classes(),
    NUMBER: _Number(),
    LABELS: _Labels(),
}
