"""Compare the answers of two adapters for the same texts: how many differ, which became wrong, and which is better.

The module computes no answers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import isfinite
from typing import Any

import numpy as np

from afina.data.evaluation_set import EvaluationSet
from afina.data.kinds import CLASSES, ENTITIES, LABELS, NUMBER, TEXT
from afina.schema import null_where_undefined
from afina.stats.answered import Answered
from afina.stats.comparison import Comparison, compare
from afina.stats.entity_alignment import changed_entities, count_changes
from afina.stats.metrics import Metric
from afina.stats.text import token_f1_values


@dataclass(frozen=True)
class Flip:
    """A text, with its index from 0, for which the predictions of two adapters differ.

    `label`, `before` and `after` are the target and the two predictions as JSON values.
    """

    index: int
    text: str
    pair: str | None
    label: Any
    before: Any
    after: Any


@dataclass(frozen=True)
class AnsweredTexts:
    """How many of the same texts two adapters answer, of which at least one abstains."""

    both: int
    only_first: int
    only_second: int
    neither: int
    wrong: tuple[int, int]  # the number of texts that each adapter answers wrongly

    @classmethod
    def of(cls, first: np.ndarray, second: np.ndarray, right: tuple[np.ndarray, np.ndarray]) -> AnsweredTexts:
        """Count texts, by whether each adapter answers them and whether its predictions are right, bool [N] each."""
        parts = (first & second, first & ~second, ~first & second, ~first & ~second)
        both, only_first, only_second, neither = (int(part.sum()) for part in parts)
        wrong = int((first & ~right[0]).sum()), int((second & ~right[1]).sum())
        return cls(both, only_first, only_second, neither, wrong)

    @property
    def answered(self) -> tuple[int, int]:
        """The number of texts that each adapter answers."""
        return self.both + self.only_first, self.both + self.only_second


@dataclass(frozen=True)
class Flips:
    """The comparison of two adapters' predictions for the same texts.

    Attributes:
        names: the names of the two adapters in sentences.
        kind: the kind of task.
        metric: the name of the metric of the comparison.
        figures: the value of the metric for each adapter.
        examples: the number of texts.
        comparison: the paired comparison of the metric, second adapter minus first adapter; None if the metric is
            undefined on these texts, or if both are the same adapter.
        rows: some texts with different predictions: changes from right to wrong first; for regression, the largest
            changes first.
        texts: the labelled texts.
        flipped: the number of texts for which the predictions differ. The fields `right_to_wrong`, `wrong_to_right` and
            `wrong_to_wrong` count these texts by kind of change. A multi-label prediction is right if every label is
            right. None: the task is regression.
        mean_change: the mean absolute difference of predicted numbers, in the unit of the targets. None: the task is
            not regression.
        entities: the number of entities that changed in each way (`stats.entity_alignment.CHANGES`). None: the task is
            not token classification.
        answered: how many texts each adapter answers. Only texts that both answer count as flips, while metric and
            comparison are of the predictions for all texts. None: both adapters answer every text.
        same: a sentence that says that both are the same adapter; "" if they are not.
        undefined: why the metric is undefined on these texts; "" if it is defined.
    """

    names: tuple[str, str]
    kind: str
    metric: str
    figures: tuple[float, float]
    examples: int
    comparison: Comparison | None
    rows: tuple[Flip, ...]
    texts: EvaluationSet
    flipped: int | None = None
    right_to_wrong: int | None = None
    wrong_to_right: int | None = None
    wrong_to_wrong: int | None = None
    mean_change: float | None = None
    entities: Mapping[str, int] | None = None
    answered: AnsweredTexts | None = None
    same: str = ""
    undefined: str = ""

    @property
    def verdict(self) -> str:
        """The verdict on the second adapter: better, worse, equivalent, undecided, undefined or same."""
        return self.comparison.verdict if self.comparison else "same" if self.same else "undefined"

    @property
    def words(self) -> str:
        """The verdict on the second adapter in one or two sentences (`Comparison.words`)."""
        return self.comparison.words if self.comparison else self.same or self.undefined

    def as_json(self) -> dict[str, Any]:
        """Return the fields of the comparison as JSON values; NaN and infinite ends of the interval become None."""
        made, compared = self.comparison, ("difference", "p", "margin", "level")
        ends = (made.interval.low, made.interval.high) if made else ()
        counts = ("flipped", "right_to_wrong", "wrong_to_right", "wrong_to_wrong", "mean_change")
        return {
            **{key: getattr(self, key) for key in ("kind", "metric", "examples", *counts)},
            "names": list(self.names),
            "figures": [*map(null_where_undefined, self.figures)],
            **{key: getattr(made, key) if made else None for key in compared},
            **({"difference": 0.0} if self.same else {}),
            **({"unmeasured": list(self.texts.unmeasured)} if self.texts.unmeasured else {}),
            **({} if self.answered is None else {"answered": asdict(self.answered)}),
            **({} if self.entities is None else {"entities": dict(self.entities)}),
            "repeated": self.texts.repeated,
            "verdict": self.verdict,
            "words": self.words,
            "interval": [end if isfinite(end) else None for end in ends] if made else None,
            "rows": [asdict(row) for row in self.rows],
        }


def compare_answers(
    first: Answered,
    second: Answered,
    texts: EvaluationSet,
    kind: str,
    metric: Metric,
    names: tuple[str, str],
    most: int,
    abstentions: tuple[np.ndarray | None, np.ndarray | None] = (None, None),
) -> Flips:
    """Compare the predictions of two adapters for the same texts.

    Args:
        most: the largest number of changed predictions that are returned with their texts.
        abstentions: for each adapter, whether each text is left unanswered, bool [N]. None: every text is answered.
    """
    called = names if names[0] != names[1] else (f"{names[0]} (first)", f"{names[1]} (second)")
    assert metric.values is not None  # `metric_for` refuses other metrics
    values = {called[1]: metric.values(second), called[0]: metric.values(first)}
    undefined = " and ".join(name for name in called if np.isnan(values[name]).any())
    margin = metric.margin(texts.split.labels)
    by_kind = FLIP_KINDS[kind]
    first_answers, second_answers = (np.ones(len(texts.split), bool) if each is None else ~each for each in abstentions)
    both = first_answers & second_answers
    answered = None
    if any(each is not None for each in abstentions):
        answered = AnsweredTexts.of(first_answers, second_answers, (by_kind.right(first), by_kind.right(second)))
    return Flips(
        names=called,
        kind=kind,
        metric=metric.name,
        figures=(metric.value(first), metric.value(second)),
        examples=len(texts.split),
        comparison=None if undefined else compare(values, metric=metric, margin=margin, unit=first.unit)[0],
        rows=tuple(_rows(first, second, both, texts, by_kind, most)),
        texts=texts,
        answered=answered,
        undefined=undefined and f"{metric.words} is undefined for {undefined}: the metric needs {metric.needs}.",
        **by_kind.counts(first, second, both),
    )


def _rows(
    first: Answered, second: Answered, both: np.ndarray, texts: EvaluationSet, kind: FlipKind, most: int
) -> Iterator[Flip]:
    split = texts.split
    for index in kind.changed(first, second, both)[:most]:
        label, before, after = (
            kind.json_value(values[index], texts.label_names)
            for values in (split.labels, first.answers, second.answers)
        )
        pair = None if split.pairs is None else split.pairs[index]
        yield Flip(index, split.texts[index], pair, label, before, after)


def _by_row(table: np.ndarray, joined: Callable[..., np.ndarray]) -> np.ndarray:
    return joined(table, axis=1) if table.ndim == 2 else table


class FlipKind:
    """How predictions of a kind of task are compared; here, of single-label classification."""

    by_label = True  # whether the outputs of two adapters are matched by the names of the labels
    writes = False  # whether an answer is a text

    def right(self, answered: Answered) -> np.ndarray:
        """Return whether each prediction is right, bool [N]; a multi-label prediction is right if every label is."""
        return _by_row(answered.answers == answered.targets, np.all)

    def differ(self, first: Answered, second: Answered) -> np.ndarray:
        """Return whether the predictions for each text differ, bool [N]."""
        return _by_row(first.answers != second.answers, np.any)

    def loss(self, first: Answered, second: Answered) -> np.ndarray:
        """Return how bad the change of each prediction is, [N]; the texts with the largest losses are shown first."""
        lost: np.ndarray = self.right(first) & ~self.right(second)
        return lost

    def changed(self, first: Answered, second: Answered, both: np.ndarray) -> Sequence[int]:
        """Return the indices of the texts of `both`, bool [N], whose predictions differ, the largest loss first."""
        loss = self.loss(first, second)
        return sorted(np.flatnonzero(self.differ(first, second) & both).tolist(), key=lambda index: -float(loss[index]))

    def counts(self, first: Answered, second: Answered, both: np.ndarray) -> dict[str, Any]:
        """Return how many predictions for the texts of `both`, bool [N], differ, as fields of Flips."""
        flipped = self.differ(first, second) & both
        before, after = self.right(first), self.right(second)
        return {
            "flipped": int(flipped.sum()),
            "right_to_wrong": int((flipped & before & ~after).sum()),
            "wrong_to_right": int((flipped & ~before & after).sum()),
            "wrong_to_wrong": int((flipped & ~before & ~after).sum()),
        }

    def json_value(self, value: Any, names: Sequence[str]) -> Any:
        """Return a target or a prediction as a JSON value."""
        return names[int(value)]

    def in_words(self, value: Any, text: str) -> str:
        """Return a JSON value of `json_value`, a prediction for `text`, as a user reads it in a line."""
        return str(value)


class _Labels(FlipKind):
    def json_value(self, value: Any, names: Sequence[str]) -> Any:
        return tuple(name for name, has in zip(names, value, strict=True) if has)


class _Number(FlipKind):
    by_label = False

    def loss(self, first: Answered, second: Answered) -> np.ndarray:
        size: np.ndarray = np.abs(second.answers - first.answers)
        return size

    def counts(self, first: Answered, second: Answered, both: np.ndarray) -> dict[str, Any]:
        return {"mean_change": float(self.loss(first, second)[both].mean())}

    def json_value(self, value: Any, names: Sequence[str]) -> Any:
        return float(value)


class _Text(FlipKind):
    by_label = False
    writes = True

    def right(self, answered: Answered) -> np.ndarray:
        """Return whether each answer equals one of its text's references, bool [N]."""
        pairs = zip(answered.answers, answered.targets, strict=True)
        return np.array([answer in references for answer, references in pairs], bool)

    def loss(self, first: Answered, second: Answered) -> np.ndarray:
        lost: np.ndarray = token_f1_values(first) - token_f1_values(second)
        return lost

    def json_value(self, value: Any, names: Sequence[str]) -> Any:
        return value if isinstance(value, str) else list(value)


class _Entities(FlipKind):
    """A prediction is right if all entities of the text are found, and no others."""

    def loss(self, first: Answered, second: Answered) -> np.ndarray:
        """Return the number of changed entities of each text, increased for the texts that were right before."""
        counts = np.array([len(changed_entities(*pair)) for pair in zip(first.answers, second.answers, strict=True)])
        loss: np.ndarray = counts + super().loss(first, second) * counts.max(initial=0)
        return loss

    def counts(self, first: Answered, second: Answered, both: np.ndarray) -> dict[str, Any]:
        pairs = zip(first.answers[both], second.answers[both], strict=True)
        entities = count_changes(changed_entities(*pair) for pair in pairs)
        return super().counts(first, second, both) | {"entities": entities}

    def json_value(self, value: Any, names: Sequence[str]) -> Any:
        return [{"start": start, "end": end, "label": label} for start, end, label in value]

    def in_words(self, value: Any, text: str) -> str:
        entities = [f"{text[entity['start'] : entity['end']]} ({entity['label']})" for entity in value]
        return ", ".join(entities) or "none"


FLIP_KINDS: Mapping[str, FlipKind] = {
    CLASSES: FlipKind(),
    NUMBER: _Number(),
    LABELS: _Labels(),
    TEXT: _Text(),
    ENTITIES: _Entities(),
}
