"""Arm: a method with its hyperparameters and the results of all its seeds; a table of a report has one row per arm."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import inf, isnan

import numpy as np

from afina.methods import make, recorded
from afina.models.backbone_spec import FLOAT
from afina.report.formatting import ask_settings, in_words
from afina.stats import intervals
from afina.stats.metrics import METRICS
from afina.studies.backbones import ON, backbone_names, on_backbone
from afina.studies.runs.record import Record, Result
from afina.training.settings import NO_EFFECT, training_settings

_OF_SIZE = ("train_examples", "train_digest")
"""The settings that depend on the number of training texts; an arm's label has this number in their place."""

MEAN = "mean"
"""The `seed` of a row of a JSON table with the means over all seeds of a method."""

Value = Callable[[Record], float | None]
"""A function that reads a number from the record of a run; None if the number was not measured."""


@dataclass(frozen=True, eq=False)
class Arm:
    """A method with its hyperparameters: S results on the same N examples that differ only in the seed.

    Attributes:
        label: The name of the method in words, such as `LoRA`, unique in a report.
        results: At least one, by rising seed.
        place: The index of the arm in a report, which sets its colour and marker in every plot.
    """

    label: str
    results: tuple[Result, ...]
    place: int = 0

    @property
    def records(self) -> tuple[Record, ...]:
        return tuple(result.record for result in self.results)

    @property
    def record(self) -> Record:
        """The record of the run with the first seed, for fields that are equal for all seeds."""
        return self.results[0].record

    @property
    def size(self) -> int:
        return self.record.train_examples

    @property
    def whatever_size(self) -> str:
        """The label of the method (arm) without the number of training texts."""
        return self.label.removesuffix(f", {_texts(self.size)}")

    @property
    def trained(self) -> bool:
        return self.record.steps > 0

    @property
    def is_seedless(self) -> bool:
        """Whether one seed stands for all."""
        record = self.record
        return record.endpoint is not None and not recorded(record.method, record.hyperparameters).depends_on_seed

    @property
    def prescribed_head(self) -> str | None:
        """The initial head that the method requires, "random" or "words"; None if the method requires none."""
        return None if self.record.endpoint is not None else make(self.record.method).head

    @property
    def machines(self) -> set[tuple[str, str]]:
        """The machines of the arm's runs; times and memory from different machines cannot be compared."""
        return {(record.environment.processor, record.place) for record in self.records}

    @property
    def seeds(self) -> tuple[int, ...]:
        return tuple(record.seed for record in self.records)

    @property
    def seeds_in_words(self) -> str:
        """The seeds as text, such as `0`, `0, 2, 7` or `0 to 9`."""
        first, last = self.seeds[0], self.seeds[-1]
        if len(self.seeds) > 3 and self.seeds == (*range(first, last + 1),):
            return f"{first} to {last}"
        return ", ".join(map(str, self.seeds))

    @property
    def headline(self) -> float:
        """The mean of the headline metric over the seeds."""
        values = [record.metrics[record.metric] for record in self.records]
        return sum(values) / len(values)

    @property
    def gain(self) -> float:
        """The headline metric, negated if lower is better, so that the best arm has the largest gain; -inf for NaN."""
        if isnan(self.headline):
            return -inf
        return -self.headline if METRICS[self.record.metric].lower else self.headline

    @cached_property
    def scores(self) -> np.ndarray:
        """The headline metric's per-example values, [S, N], whose mean is the metric; for accuracy, 1 if right."""
        return self.values(self.record.metric)

    def values(self, metric: str) -> np.ndarray:
        """Return per-example values of `metric`, [S, N]; the mean over the texts is the metric of a seed."""
        return np.stack([result.values(metric) for result in self.results])

    @cached_property
    def answers(self) -> np.ndarray:
        """The predictions of all seeds, [S, N, ...], in the same form as the targets."""
        return np.stack([result.answers for result in self.results])

    @property
    def targets(self) -> np.ndarray:
        return self.results[0].targets

    def interval(self, metric: str) -> tuple[float, float] | None:
        """Return the 95 % interval of `metric` over texts and seeds; None if the interval cannot be computed."""
        if METRICS[metric].values is None:
            return None
        answered = [result.answered for result in self.results]
        found = intervals.estimate_of_answers(answered, METRICS[metric]).interval
        return None if isnan(found.low) else found.ends

    def mean(self, value: Value) -> float | None:
        found = [one for one in map(value, self.records) if one is not None]
        return sum(found) / len(found) if len(found) == len(self.records) else None

    def each(self) -> list[Arm]:
        return [Arm(self.label, (result,), self.place) for result in self.results]

    @property
    def row_name(self) -> dict[str, object]:
        """The fields that name a row about this arm in the JSON tables."""
        return {"method": self.label, "seed": self.record.seed if len(self.results) == 1 else MEAN}


def arms(results: Iterable[Result], backbones: Sequence[str] = ()) -> list[Arm]:
    """Group results into arms, in the order of their first results; `backbones` are the addresses of the study.

    Of several results with equal settings, texts and seed, only the first is used. Equal results occur if a study asks
    for two sizes that are both larger than the training split.
    """
    groups: list[list[Result]] = []
    for result in results:
        for group in groups:
            if _alike(group[0].record, result.record):
                if all(one.record.seed != result.record.seed for one in group):
                    group.append(result)
                break
        else:
            groups.append([result])
    ordered = [tuple(sorted(group, key=lambda one: one.record.seed)) for group in groups]
    labels = _labels([group[0].record for group in ordered], backbones)
    return [Arm(label, group, place) for place, (label, group) in enumerate(zip(labels, ordered, strict=True))]


def records_of(arms: Iterable[Arm]) -> list[Record]:
    return [record for arm in arms for record in arm.records]


def keeping(arms: Iterable[Arm], wanted: Callable[[Record], bool]) -> list[Arm]:
    """Return the arms with only the runs whose record `wanted` accepts, without arms that have no such run."""
    kept = [(arm, tuple(result for result in arm.results if wanted(result.record))) for arm in arms]
    return [Arm(arm.label, results, arm.place) for arm, results in kept if results]


def has_several_backbones(arms: Sequence[Arm]) -> bool:
    """Return whether the arms have different backbones; a model behind an API is no backbone."""
    return len({arm.record.backbone for arm in arms if arm.record.endpoint is None}) > 1


def is_curve(arms: Sequence[Arm]) -> bool:
    """Return whether a method was trained on several numbers of texts, so that a learning curve can be drawn."""
    sizes: dict[str, set[int]] = {}
    for arm in arms:
        sizes.setdefault(arm.record.name, set()).add(arm.size)
    return any(len(found) > 1 for found in sizes.values())


def of_greatest_size(arms: Sequence[Arm]) -> list[Arm]:
    """Return the arms with the largest training split; all arms if the study has one size of the training split."""
    if not is_curve(arms):
        return list(arms)
    greatest = max(arm.size for arm in arms)
    return [arm for arm in arms if arm.size == greatest]


def lines(shown: Iterable[Arm]) -> list[Arm]:
    """Return the rows of a table: one arm for each seed, then the arm with all seeds if there are several."""
    return [line for arm in shown for line in (*arm.each(), *([arm] if len(arm.results) > 1 else []))]


def measured_on(result: Result) -> tuple[str, bytes]:
    """Return a key of the evaluation split and its targets; results with different keys cannot be compared."""
    return result.record.environment.evaluation_digest, result.predictions.right_as_bytes


def training(record: Record) -> dict[str, object]:
    """Return those training settings of a record that can change the result of the run."""
    return {key: value for key, value in record.training.items() if key not in NO_EFFECT}


def products_of(record: Record) -> str:
    return str(record.training.get("products", FLOAT)) if record.steps else FLOAT


def differing(several: Sequence[Mapping[str, object]]) -> list[str]:
    keys = dict.fromkeys(key for one in several for key in one)
    return [key for key in keys if any(one.get(key) != several[0].get(key) for one in several)]


def _alike(first: Record, second: Record) -> bool:
    return first.name == second.name and _settings(first) == _settings(second)


def _settings(record: Record) -> dict[str, object]:
    """The settings and inputs of a run, without the seed and without settings that cannot change the result."""
    return {
        "backbone": record.backbone,
        "backbone_digest": record.environment.backbone_digest,
        "task": record.task,
        "train_examples": record.train_examples,
        "train_digest": record.environment.train_digest,
        "evaluation_digest": record.environment.evaluation_digest,
        **training_settings(record.training),
        **record.hyperparameters,
        **ask_settings(record.ask),
    }


def titles_of(records: Sequence[Record], backbones: Sequence[str] = ()) -> list[str]:
    """Return the title of each record's method, such as `LoRA`, or `LoRA on minilm` if there are several backbones."""
    return _on([record.title for record in records], records, backbones)


def short_names(records: Sequence[Record], backbones: Sequence[str]) -> dict[str, str]:
    """The short name of each backbone by its address; empty if there is one backbone."""
    names = backbone_names([*backbones, *(record.backbone for record in records if record.endpoint is None)])
    return names if len(names) > 1 else {}


def _on(texts: Sequence[str], records: Sequence[Record], backbones: Sequence[str]) -> list[str]:
    """Return `texts` (titles or labels); if there are several backbones, each with the backbone's name at its end."""
    names = short_names(records, backbones)
    if not names:
        return list(texts)
    return [
        on_backbone(text, names[record.backbone]) if record.endpoint is None else text
        for text, record in zip(texts, records, strict=True)
    ]


def _labels(records: Sequence[Record], backbones: Sequence[str]) -> list[str]:
    """A unique label for each record; equal labels get the settings in which the records differ."""
    names = short_names(records, backbones)
    ends = [f"{ON}{names[record.backbone]}" if record.backbone in names else "" for record in records]  # of choose
    called = [record.name.removesuffix(end) for record, end in zip(records, ends, strict=True)]
    plain = _on([_label(*one) for one in zip(records, called, strict=True)], records, backbones)
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


def _rate(record: Record, name: str) -> str:
    """Return the learning rate of a candidate of `choose`, such as `lora-0.003`, in words; empty for other names."""
    rate, used = name.removeprefix(f"{record.method}-"), record.training.get("learning_rate")
    return f"learning rate {rate}" if isinstance(used, float) and rate == f"{used:.3g}" else ""


def _label(record: Record, name: str) -> str:
    """Return a run's label: the method's title, what the run's `name` adds to the method's, and `train_head` if set."""
    remarks = [] if name == record.method else [_rate(record, name) or name]
    train_head = record.hyperparameters.get("train_head")
    if train_head is False:
        remarks.append("head frozen")
    elif train_head is True:
        remarks.append("head trained")
    if not remarks:
        return record.title
    said = ", ".join(remarks)
    return f"{record.title[:-1]}, {said})" if record.title.endswith(")") else f"{record.title} ({said})"
