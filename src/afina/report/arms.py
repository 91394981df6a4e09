"""Arm: one setting of one method, with its seeds. What every table, verdict, claim and plot is about.

Knows which results make an arm, and what it is called; not which figures are shown of it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import inf, isnan

import numpy as np

from afina.report.formatting import ask_settings, in_words
from afina.stats.metrics import METRICS
from afina.studies.runs.record import Record, Result
from afina.studies.runs.spec import NO_EFFECT

_OF_SIZE = ("train_examples", "train_digest")
"""Settings that tell sizes apart; the number of texts says it."""

Value = Callable[[Record], float | None]
"""What is read from a record; None where it was not measured."""


@dataclass(frozen=True, eq=False)
class Arm:
    """S results that differ in nothing but the seed, of the same N examples.

    label    in words; no two arms of a report share one
    results  by seed, at least one
    place    among the arms of a report, from 0: its colour and its marker in every plot
    """

    label: str
    results: tuple[Result, ...]
    place: int = 0

    @property
    def records(self) -> tuple[Record, ...]:
        """By seed."""
        return tuple(result.record for result in self.results)

    @property
    def record(self) -> Record:
        """The first, for what all have alike."""
        return self.results[0].record

    @property
    def size(self) -> int:
        """Training texts."""
        return self.record.train_examples

    @property
    def whatever_size(self) -> str:
        """The label without the number of texts, where it has that."""
        return self.label.removesuffix(f", {_texts(self.size)}")

    @property
    def trained(self) -> bool:
        """Whether the method trains anything."""
        return self.record.steps > 0

    @property
    def machines(self) -> set[tuple[str, str, int]]:
        """Where it was measured: times and memory of one machine alone can be set against each other."""
        where = [record.environment for record in self.records]
        return {(one.processor, one.device, one.threads) for one in where}

    @property
    def seeds(self) -> tuple[int, ...]:
        """In rising order."""
        return tuple(record.seed for record in self.records)

    @property
    def seeds_in_words(self) -> str:
        """`0`, `0, 2, 7`, `0 to 9`."""
        first, last = self.seeds[0], self.seeds[-1]
        if len(self.seeds) > 3 and self.seeds == (*range(first, last + 1),):
            return f"{first} to {last}"
        return ", ".join(map(str, self.seeds))

    @property
    def headline(self) -> float:
        """Mean over the seeds of the headline metric."""
        values = [record.metrics[record.metric] for record in self.records]
        return sum(values) / len(values)

    @property
    def gain(self) -> float:
        """The same, or its negative where less is better; less than any other where it is undefined."""
        if isnan(self.headline):
            return -inf
        return -self.headline if METRICS[self.record.metric].lower else self.headline

    @cached_property
    def scores(self) -> np.ndarray:
        """What each answer adds to the headline metric, [S, N]; to accuracy, whether it is right."""
        return self.values(self.record.metric)

    def values(self, metric: str) -> np.ndarray:
        """What each answer adds to a metric, [S, N]."""
        return np.stack([result.values(metric) for result in self.results])

    @cached_property
    def answers(self) -> np.ndarray:
        """What was predicted, in the form of targets, [S, N, ...]."""
        return np.stack([result.answers for result in self.results])

    @property
    def targets(self) -> np.ndarray:
        """What was right, [N]."""
        return self.results[0].targets

    def interval(self, metric: str) -> tuple[float, float] | None:
        """Where a metric may lie: 95 %, of one result, or of the seeds of one setting; None where there is none."""
        from afina.stats import intervals

        if METRICS[metric].values is None:
            return None
        answered = [result.answered for result in self.results]
        found = intervals.estimate_of_answers(answered, METRICS[metric]).interval
        return None if isnan(found.low) else (found.low, found.high)

    def mean(self, value: Value) -> float | None:
        """Mean over the seeds; None where one has none."""
        found = [one for one in map(value, self.records) if one is not None]
        return sum(found) / len(found) if len(found) == len(self.records) else None

    def each(self) -> list[Arm]:
        """An arm a seed."""
        return [Arm(self.label, (result,), self.place) for result in self.results]

    def where(self, wanted: Callable[[Record], bool]) -> Arm | None:
        """The arm with those of its seeds alone; None where it has none."""
        kept = tuple(result for result in self.results if wanted(result.record))
        return Arm(self.label, kept, self.place) if kept else None


def arms(results: Iterable[Result]) -> list[Arm]:
    """In the order in which their first results stand."""
    groups: list[list[Result]] = []
    for result in results:
        for group in groups:
            if _alike(group[0].record, result.record):
                group.append(result)
                break
        else:
            groups.append([result])
    ordered = [tuple(sorted(group, key=lambda one: one.record.seed)) for group in groups]
    labels = _labels([group[0].record for group in ordered])
    return [Arm(label, group, place) for place, (label, group) in enumerate(zip(labels, ordered, strict=True))]


def is_curve(arms: Sequence[Arm]) -> bool:
    """Whether one thing was trained on different numbers of texts, all evaluated alike."""
    sizes: dict[str, set[int]] = {}
    for arm in arms:
        sizes.setdefault(arm.record.name, set()).add(arm.size)
    return any(len(found) > 1 for found in sizes.values())


def of_greatest_size(arms: Sequence[Arm]) -> list[Arm]:
    """Of several sizes of the training split, those of the greatest; else all."""
    if not is_curve(arms):
        return list(arms)
    greatest = max(arm.size for arm in arms)
    return [arm for arm in arms if arm.size == greatest]


def lines(shown: Iterable[Arm]) -> list[Arm]:
    """The lines of a table: an arm a seed, and after the seeds of one setting, where there are several, all of them."""
    return [line for arm in shown for line in (*arm.each(), *([arm] if len(arm.results) > 1 else []))]


def measured_on(result: Result) -> tuple[str, bytes]:
    """What a result was measured on: the evaluation split, and what is right there. Others cannot be compared."""
    return result.record.environment.evaluation_digest, result.predictions.right_as_bytes


def training(record: Record) -> dict[str, object]:
    """The training settings that can change a result."""
    return {key: value for key, value in record.training.items() if key not in NO_EFFECT}


def differing(several: Sequence[Mapping[str, object]]) -> list[str]:
    """Keys whose value is not the same everywhere, in order of appearance."""
    keys = dict.fromkeys(key for one in several for key in one)
    return [key for key in keys if any(one.get(key) != several[0].get(key) for one in several)]


def _alike(first: Record, second: Record) -> bool:
    return first.name == second.name and _settings(first) == _settings(second)


def _settings(record: Record) -> dict[str, object]:
    """All that a run was asked for and given, except its seed and what changes no result."""
    return {
        "backbone": record.backbone,
        "backbone_digest": record.environment.backbone_digest,
        "task": record.task,
        "train_examples": record.train_examples,
        "train_digest": record.environment.train_digest,
        "evaluation_digest": record.environment.evaluation_digest,
        **training(record),
        **record.hyperparameters,
        **ask_settings(record.ask),
    }


def _labels(records: Sequence[Record]) -> list[str]:
    """One each; records that would share one get the settings in which they differ."""
    plain = [_label(record) for record in records]
    shared = Counter(plain)
    named = []
    for record, text in zip(records, plain, strict=True):
        if shared[text] > 1:
            alike = [_settings(other) for other, name in zip(records, plain, strict=True) if name == text]
            mine = _settings(record)
            keys = differing(alike)
            if "head" in keys:
                keys = [key for key in keys if key not in ("words", "template")]
            parts = [in_words({key: mine[key] for key in keys if key in mine and key not in _OF_SIZE})]
            parts += [_texts(record.train_examples)] if "train_examples" in keys else []
            text = ", ".join([text, *filter(None, parts)])
        named.append(text)
    return named


def _texts(size: int) -> str:
    return f"{size:,} texts"


def _label(record: Record) -> str:
    """The method in words; with the run's own name where that differs, and whether PreLayer's head was trained."""
    remarks = [] if record.name == record.method else [record.name]
    train_head = record.hyperparameters.get("train_head")
    if train_head is False:
        remarks.append("head frozen")
    elif train_head is True:
        remarks.append("head trained")
    if not remarks:
        return record.title
    said = ", ".join(remarks)
    return f"{record.title[:-1]}, {said})" if record.title.endswith(")") else f"{record.title} ({said})"
