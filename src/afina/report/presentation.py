"""How a report presents each kind of task (classes, number, labels, text, entities): words, notes, tables and plots."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from afina.data.addresses import named
from afina.data.kinds import CLASSES, ENTITIES, LABELS, NUMBER, TEXT, rare_labels
from afina.data.label_words import are_words
from afina.data.reading_options import ReadingOptions
from afina.errors import NotFound
from afina.models.decoding import Decoding
from afina.report import entity_errors, per_label
from afina.report.arms import Arm, has_several_backbones
from afina.report.formatting import F1, counted, listed, metric_heading, metric_name, share
from afina.report.per_label import LabelFigures
from afina.report.plots import predictions
from afina.report.plots.svg import Plot
from afina.report.tables import Table
from afina.stats.answered import MISSING
from afina.stats.metrics import METRICS
from afina.studies.runs.inputs import is_encoder
from afina.studies.runs.record import Record

Draw = Callable[[Sequence[Arm]], Sequence[Plot | None]]


NO_ANSWER = "(no answer)"


class Presentation(ABC):
    """How a report presents one kind of task.

    Attributes:
        right: The heading of the column of targets in tables.
        by_distance: Whether methods disagree by the distance of their mean predictions (numbers), and not by votes.
        side_by_side: Whether predictions are texts, which are shown with their differences from a reference marked.
        marks_text: Whether predictions are parts of the text, which are shown as marks in it.
        headed: Whether the models for this kind of task have a classification head.
        having: What is counted of each label in tables: texts that have it, or its entities.
        over_labels: The metric that is a mean over the labels, if the kind has one.
    """

    right: ClassVar[str]
    by_distance: ClassVar[bool] = False
    side_by_side: ClassVar[bool] = False
    marks_text: ClassVar[bool] = False
    headed: ClassVar[bool] = True
    having: ClassVar[str] = "Texts"
    over_labels: ClassVar[str] = ""

    @property
    @abstractmethod
    def plots(self) -> Mapping[str, Draw]:
        """The functions that draw plots, by the title of their section, which may be that of a table."""

    @abstractmethod
    def asked(self, names: Sequence[str]) -> str:
        """Return in words what a model predicts for a text, such as `3 labels`."""

    def told_targets(self, names: Sequence[str]) -> str:
        return f"labels {', '.join(f'`{name}`' for name in names)}"

    @abstractmethod
    def in_words(self, names: Sequence[str], answer: Any) -> str:
        """Return a target or prediction (an element of `array.tolist()`) in words, such as `positive`."""

    def positive(self, names: Sequence[str]) -> str | None:
        """Return the positive label, to which F1 refers; None if F1 is a mean over labels."""
        return None

    def meaning(self, record: Record, data: ReadingOptions) -> list[str]:
        return []

    def metric_notes(self, arms: Sequence[Arm]) -> list[str]:
        return []

    def least(self, names: Sequence[str], targets: Sequence[Any]) -> list[str]:
        """Return a note on the metric of always predicting the most frequent label."""
        return []

    def rare(self, names: Sequence[str], targets: np.ndarray, metrics: Collection[str]) -> list[str]:
        """Return a note on labels of few texts if one of `metrics` is a mean over the labels."""
        if self.over_labels not in metrics:
            return []
        positive, found = self.positive(names), self.found(names, targets, targets[None])
        held_out = [(one.name, one.support) for one in found if positive in (None, one.name)]
        return rare_labels(held_out, metric_name(self.over_labels, names), self.having.lower())

    def same(self, names: Sequence[str], answer: Any) -> str | None:
        """Return in words the one prediction of a run for every text; None if the task has only one label."""
        return "the same"

    def untrained(self, arms: Sequence[Arm]) -> list[str]:
        return [
            f"{arm.label} is the pretrained model under a random head, which knows nothing of the task."
            for arm in arms
            if not arm.trained and arm.prescribed_head == "random"
        ]

    def which_disagree(self, shown: int, most: int) -> str:
        """Return a note on which texts the table of disagreements shows: `shown` of at most `most`."""
        if shown == most:
            return (
                f"The {shown} evaluation texts on which the answers are most evenly split, of all on which they differ."
            )
        return "Every evaluation text on which the methods' answers differ."

    def found(self, names: Sequence[str], targets: np.ndarray, answers: np.ndarray) -> list[LabelFigures]:
        """Return the figures of each label, in the order of `names`; empty if the kind of task has no labels.

        Args:
            targets: shape [N, ...].
            answers: The predictions of S seeds, shape [S, N, ...].
        """
        return []

    def tables(self, arms: Sequence[Arm]) -> list[Table]:
        found = self.found_by(arms)
        return [per_label.table(arms, found, self.having)] if found[0] else []

    def found_by(self, arms: Sequence[Arm]) -> list[list[LabelFigures]]:
        return [self.found(arm.record.label_names, arm.targets, arm.answers) for arm in arms]

    def terminal_tables(
        self, names: Sequence[str], targets: np.ndarray, answers: np.ndarray, of: str = ""
    ) -> list[Table]:
        """Return the tables of figures by label for a terminal; `of` names the method in their titles."""
        found = self.found(names, targets, answers)
        return [per_label.terminal_table(found, of, self.having)] if found else []

    def as_json(self, names: Sequence[str], targets: np.ndarray, answers: np.ndarray) -> dict[str, object]:
        """Return `labels`, the figures by label, and `confusion`: rows are right labels, columns predicted ones.

        A key is null if the kind of task has no such figures.
        """
        found = self.found(names, targets, answers)
        return {"labels": per_label.as_json(found) if found else None, "confusion": None}


class _Classes(Presentation):
    right = "Right label"
    over_labels = F1

    @property
    def plots(self) -> Mapping[str, Draw]:
        return {
            "Confusion of labels": predictions.confusion_matrices,
            "How far probabilities can be trusted": predictions.of_probabilities,
        }

    def asked(self, names: Sequence[str]) -> str:
        return f"{len(names)} labels"

    def in_words(self, names: Sequence[str], answer: Any) -> str:
        return NO_ANSWER if answer == MISSING else str(names[answer])

    def positive(self, names: Sequence[str]) -> str | None:
        return names[1] if len(names) == 2 else None

    def meaning(self, record: Record, data: ReadingOptions) -> list[str]:
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
        return f"`{self.in_words(names, answer)}`" if len(names) > 1 else None

    def untrained(self, arms: Sequence[Arm]) -> list[str]:
        drawn = [arm for arm in arms if not arm.trained and arm.prescribed_head == "random"]
        answering = [arm for arm in arms if not arm.trained and arm.prescribed_head == "words"]
        made = [
            f"{arm.label} is the pretrained model with a random head. The head has seen no labels, so the answers are "
            "random."
            for arm in drawn[:1]
        ]
        which = "its model" if has_several_backbones(arms) else "the same model"
        shown = {arm: shots for arm in answering if (shots := arm.record.hyperparameters.get("shots"))}
        made += [
            f"{arm.label} asks {which} in words, and trains nothing: what it knows of the labels beforehand."
            for arm in [arm for arm in answering if arm not in shown][:1]
        ]
        made += [
            f"{arm.label} asks {which} in words with training texts in each prompt ({each}), and trains nothing."
            for arm, each in shown.items()
        ]
        can_be_asked = any(_can_be_asked(arm.record) for arm in arms)
        if not answering and can_be_asked and are_words(arms[0].record.label_names):
            made.append(
                "What the untrained model answers when it is asked in words was not measured here; "
                f"`afina ask {arms[0].record.task}` does, in seconds."
            )
        return made

    def found(self, names: Sequence[str], targets: np.ndarray, answers: np.ndarray) -> list[LabelFigures]:
        classes = np.arange(len(names))
        return per_label.label_figures(names, targets[None, :, None] == classes, answers[:, :, None] == classes)

    def tables(self, arms: Sequence[Arm]) -> list[Table]:
        many = len(arms[0].record.label_names) > per_label.MOST
        return [*super().tables(arms), *([per_label.confusions(arms)] if many else [])]

    def terminal_tables(
        self, names: Sequence[str], targets: np.ndarray, answers: np.ndarray, of: str = ""
    ) -> list[Table]:
        counts = per_label.confused(targets, answers, len(names))
        confusion = per_label.terminal_confusion(names, counts, of, len(answers))
        return [*super().terminal_tables(names, targets, answers, of), confusion]

    def as_json(self, names: Sequence[str], targets: np.ndarray, answers: np.ndarray) -> dict[str, object]:
        counts = per_label.confused(targets, answers, len(names)).tolist()
        return super().as_json(names, targets, answers) | {"confusion": counts}


def _can_be_asked(record: Record) -> bool:
    """Whether a backbone is not known to be an encoder, which cannot be asked in words."""
    try:
        return record.endpoint is None and is_encoder(record.backbone) is not True
    except NotFound:
        return True


class _Number(Presentation):
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
        return f"{answer:.4g}".replace("-", "−")

    def meaning(self, record: Record, data: ReadingOptions) -> list[str]:
        return ["RMSE is in the unit of the numbers."]

    def which_disagree(self, shown: int, most: int) -> str:
        return f"The {shown} evaluation texts on which the methods' numbers, means over the seeds, are furthest apart."


class _Labels(Presentation):
    right = "Right labels"
    over_labels = "macro_f1"

    @property
    def plots(self) -> Mapping[str, Draw]:
        return {"Label by label": lambda arms: [predictions.f1_by_label(arms, self.found_by(arms))]}

    def asked(self, names: Sequence[str]) -> str:
        return f"{len(names)} labels, any of them at once"

    def in_words(self, names: Sequence[str], answer: Any) -> str:
        if MISSING in answer:
            return NO_ANSWER
        return ", ".join(name for name, has in zip(names, answer, strict=True) if has) or "none"

    def found(self, names: Sequence[str], targets: np.ndarray, answers: np.ndarray) -> list[LabelFigures]:
        return per_label.label_figures(names, targets[None].astype(bool), answers > 0)


class _Text(Presentation):
    right = "Reference"
    side_by_side = True
    headed = False

    @property
    def plots(self) -> Mapping[str, Draw]:
        return {"Length of answers": predictions.answer_lengths}

    def asked(self, names: Sequence[str]) -> str:
        return f"a text ({names[0]})"

    def told_targets(self, names: Sequence[str]) -> str:
        return f"answers `{names[0]}`"

    def in_words(self, names: Sequence[str], answer: Any) -> str:
        if isinstance(answer, str):
            return answer
        return answer[0] if len(answer) == 1 else f"{answer[0]} (1 of {len(answer)})"

    def meaning(self, record: Record, data: ReadingOptions) -> list[str]:
        words = metric_heading(record.metric)
        return [f"Verdicts are about {words}: {words} decides which method is better."]

    def metric_notes(self, arms: Sequence[Arm]) -> list[str]:
        record = arms[0].record
        named = [METRICS[name] for name in record.metrics]
        whole = [one.words for one in named if one.of_corpus]
        means = [one.words for one in named if one.points and one.directed and not one.of_corpus]
        said = [f"Means over the evaluation texts: {listed(means)}; of several references, the best counts."]
        said += (
            [f"Of all answers together: {listed(whole)}. Their intervals and verdicts are from jackknife values."]
            if whole
            else []
        )
        said.append("BLEU, chrF and ROUGE are between 0 and 1; papers often give them times 100.")
        if record.signatures:
            signed = [f"{METRICS[name].words} `{text}`" for name, text in record.signatures.items()]
            said.append(f"sacrebleu's signatures: {listed(signed)}.")
        return [" ".join(said), *_generation(record)]

    def untrained(self, arms: Sequence[Arm]) -> list[str]:
        return [
            f"{arm.label} is the pretrained model, asked in the same template as the others: nothing was trained."
            for arm in arms
            if not arm.trained and arm.record.endpoint is None
        ][:1]


class _Entities(Presentation):
    right = "Right entities"
    marks_text = True
    having = "Entities"
    over_labels = "macro_entity_f1"

    @property
    def plots(self) -> Mapping[str, Draw]:
        return {
            per_label.BY_LABEL: lambda arms: [predictions.f1_by_label(arms, self.found_by(arms))],
            entity_errors.ERRORS: lambda arms: [predictions.entity_errors(arms)],
        }

    def asked(self, names: Sequence[str]) -> str:
        return f"entities of {counted(len(names), 'label')}"

    def in_words(self, names: Sequence[str], answer: Any) -> str:
        """Return the labels and places of entities, such as `PER 0–5, LOC 14–19`: the texts are not known here."""
        return ", ".join(f"{label} {start}–{end}" for start, end, label in answer) or "none"

    def meaning(self, record: Record, data: ReadingOptions) -> list[str]:
        return ["An entity is right if its borders and its label are right, and all entities count alike (micro)."]

    def metric_notes(self, arms: Sequence[Arm]) -> list[str]:
        return [_tags_of_words(arms)]

    def same(self, names: Sequence[str], answer: Any) -> str | None:
        return "the same" if answer else "no entity"

    def which_disagree(self, shown: int, most: int) -> str:
        return f"{super().which_disagree(shown, most)} Places are characters of the text, the first is 0."

    def found(self, names: Sequence[str], targets: np.ndarray, answers: np.ndarray) -> list[LabelFigures]:
        return entity_errors.label_figures(names, targets, answers)

    def tables(self, arms: Sequence[Arm]) -> list[Table]:
        return [*super().tables(arms), entity_errors.table(arms)]

    def terminal_tables(
        self, names: Sequence[str], targets: np.ndarray, answers: np.ndarray, of: str = ""
    ) -> list[Table]:
        return [
            *super().terminal_tables(names, targets, answers, of),
            entity_errors.terminal_table(targets, answers, of),
        ]

    def as_json(self, names: Sequence[str], targets: np.ndarray, answers: np.ndarray) -> dict[str, object]:
        """Return the keys of the base class, and `errors`: how many errors of each kind there are."""
        return super().as_json(names, targets, answers) | {"errors": entity_errors.as_json(targets, answers)}


def _tags_of_words(arms: Sequence[Arm]) -> str:
    greedy = [arm.label for arm in arms if not all((one.objective or {}).get("viterbi", True) for one in arm.records)]
    if not greedy:
        return "The tags of a text are the most probable valid sequence, in which I- follows B- or I- (Viterbi)."
    others = "; for the others, the tags are the most probable valid sequence (Viterbi)" * (len(greedy) < len(arms))
    return (
        f"For {listed(greedy)}, each word has its most probable tag, because F1 was higher so on the texts set aside "
        f"for calibration; an I- that follows no tag of its label begins an entity{others}."
    )


def _generation(record: Record) -> list[str]:
    given = record.objective or {}
    decoding = Decoding(**given.get("decoding", {}))
    most = decoding.max_new_tokens or given.get("answer_tokens")
    limit = f" An answer has at most {most:,} tokens." if most else ""
    return [f"Answers are generated by {decoding.in_words}.{limit}"]


def _by_order(task: str, data: ReadingOptions) -> str:
    """A note that the positive label is the last in the label order; empty if the user or the task chose a label."""
    chosen = data.positive is not None or data.labels is not None or named(task) is not None
    return "" if chosen else ", the last in the order of the labels (`--positive LABEL` names another)"


PRESENTATIONS: Mapping[str, Presentation] = {
    CLASSES: _Classes(),
    NUMBER: _Number(),
    LABELS: _Labels(),
    TEXT: _Text(),
    ENTITIES: _Entities(),
}
