"""Compute with stored adapters: run golden tests, and compare the predictions of two adapters for the same texts.

torch is imported inside the functions that need torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from math import isfinite
from typing import TYPE_CHECKING, Any

import numpy as np

from afina.data.evaluation_set import EvaluationSet
from afina.data.split import Split
from afina.errors import CorruptAdapter
from afina.models import objectives
from afina.models.adapter import FOREIGN, Adapter
from afina.models.manifest import Manifest
from afina.models.objective import Objective, metric_for
from afina.models.predictions import Predictions
from afina.schema import null_where_undefined
from afina.stats.answered import Answered
from afina.stats.comparison import Comparison, compare
from afina.stats.metrics import METRICS, Metric
from afina.store import problems
from afina.store.adapter_kinds import ADAPTER_KINDS, AdapterKind

if TYPE_CHECKING:
    from afina.models.backbone import Backbone


NAMES = ("the first adapter", "the second adapter")


@dataclass(frozen=True)
class CheckOutcome:
    """The outcome of a golden test: whether an adapter computes the outputs that were recorded when it was made.

    Attributes:
        passed: whether the golden test passed: `difference` is at most `tolerance`.
        difference: the largest difference between computed and recorded outputs, as a share of the largest output.
            None: the difference cannot be computed.
        tolerance: the largest difference with which a golden test passes.
        versions: the versions of packages on this machine.
        platform: the system, processor, device, threads and dtype of this machine, but nothing that identifies it.
        problem: why the difference cannot be computed. None: the difference was computed.
    """

    passed: bool
    difference: float | None
    tolerance: float
    versions: dict[str, str]
    platform: dict[str, Any]
    problem: str | None = None

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def check(adapter: Adapter, backbone: str | None = None) -> CheckOutcome:
    """Run an adapter's golden test in float32; an adapter with damaged content does not pass.

    Args:
        backbone: the address of the backbone. Default: the address in the manifest.

    Raises:
        InvalidStudy: the adapter has no recorded golden test.
        NotFound: the backbone does not exist.
        WrongBackbone: the backbone differs from the backbone in the manifest.
        AfinaError: the adapter cannot be opened for another reason (`golden_test.opened`).
    """
    import torch

    from afina import device
    from afina.predicting import golden_test

    golden_test.recorded(adapter.manifest, adapter.where)  # before a backbone is read
    found, problem, dtype = None, None, "float32"
    try:
        predictor = golden_test.opened(adapter, backbone)
        dtype, found = predictor.dtype, golden_test.difference(predictor)
    except CorruptAdapter as error:
        problem = str(error)
    if found is not None and not isfinite(found):
        found = None
        problem = f"{adapter.where}: its recorded probe has NaN or infinite values. Train the adapter again."
    here = device.environment_fields(device.choose(), torch.float32) | {"dtype": dtype}
    versions = here.pop("versions")
    assert isinstance(versions, dict)
    platform = {key: value for key, value in here.items() if not key.startswith("git_")}
    passed = found is not None and found <= golden_test.TOLERANCE
    return CheckOutcome(passed, found, golden_test.TOLERANCE, versions, platform, problem)


def flips_between(
    first: Adapter,
    second: Adapter,
    texts: EvaluationSet,
    backbone: str | None = None,
    *,
    names: tuple[str, str] = NAMES,
    metric: str | None = None,
    most: int = 20,
) -> Flips:
    """Compute the predictions of two adapters for the same texts in float32, and compare the predictions.

    An adapter made by peft has no label names, and is assumed to have the labels of the texts in the same order.

    Args:
        backbone: the address of the backbone. Default: the addresses in the manifests.
        names: the names of the two adapters in sentences.
        metric: the metric of the comparison. Default: the default metric of the kind of task.
        most: the largest number of flips (changed predictions) that are returned with their texts.

    Raises:
        InvalidData: the adapters differ in their labels or kinds of task.
        InvalidStudy, UnknownName: the metric does not exist for this kind of task.
        AfinaError: an adapter cannot be opened or used (errors of `Predictor.of` and `Predictor.predict`).
    """
    pair = [_named(adapter, texts) for adapter in (first, second)]
    asked = [objectives.make(one.manifest.label_names, one.manifest.objective) for one in pair]
    _check_alike(asked, texts, names)
    headline = METRICS[metric_for(asked[0], metric)]
    (one, other), answers = zip(*_answers(pair, asked, texts, backbone), strict=True)
    found = compare_answers(one, other, texts, asked[0].kind, headline, names, most, answers)
    if first.digest != second.digest:
        return found
    same = f"{found.names[0]} and {found.names[1]} are the same adapter, {first.digest[:19]}."
    return replace(found, comparison=None, same=same, undefined="")


def _is_foreign(manifest: Manifest) -> bool:
    """Return whether peft made the adapter, so that its labels have no names; afina's method `peft` has a `type`."""
    return manifest.method == FOREIGN and "type" not in manifest.hyperparameters


def _named(adapter: Adapter, texts: EvaluationSet) -> Adapter:
    if not _is_foreign(adapter.manifest) or len(adapter.manifest.label_names) != len(texts.label_names):
        return adapter
    return replace(adapter, manifest=adapter.manifest.model_copy(update={"label_names": texts.label_names}))


def _check_alike(asked: list[Objective], texts: EvaluationSet, names: tuple[str, str]) -> None:
    if asked[0].kind != asked[1].kind:
        raise problems.KINDS_DIFFER(first=names[0], second=names[1], found=asked[1].kind, expected=asked[0].kind)
    for objective, name in zip(asked, names, strict=True):
        own, there = set(objective.label_names), {*texts.label_names, *texts.unmeasured}
        if own != there and ADAPTER_KINDS[objective.kind].by_label:
            said = [
                f"{which}{', '.join(sorted(only)[:20])}"
                for which, only in (("only the adapter has ", own - there), ("the adapter lacks ", there - own))
                if only
            ]
            raise problems.LABELS_OF_TEXTS_DIFFER(texts=texts.where, _differences="; ".join(said), where=name)


def _answers(
    pair: list[Adapter], asked: list[Objective], texts: EvaluationSet, address: str | None
) -> list[tuple[Answered, np.ndarray | None]]:
    """Return the predictions of each adapter, with labels in the order of `texts.label_names`, and its abstentions.

    The abstentions say whether each text is left unanswered, bool [N]; None: the adapter answers every text. A
    backbone that both adapters share is hashed once.
    """
    from afina.predicting.predictor import backbone_of

    alone = all(adapter.vocabulary is not None for adapter in pair)
    opened: dict[str | None, Backbone | None] = {}
    found = []
    for adapter, objective in zip(pair, asked, strict=True):
        given = address if alone or adapter.vocabulary is None else None  # a bag of words has no backbone
        key = None if adapter.vocabulary is not None else given or adapter.manifest.backbone
        if key not in opened:
            opened[key] = backbone_of(adapter, given)
        predictions = _predictions(adapter, opened[key], texts)
        found.append((_answered(objective, predictions, texts), objective.abstentions(predictions)))
    return found


def _predictions(adapter: Adapter, backbone: Backbone | None, texts: EvaluationSet) -> Predictions:
    """Return an adapter's predictions for the texts; its model is freed on return, so that memory holds one model."""
    from afina.predicting.predictor import Predictor, grouped

    split, predictor = texts.split, Predictor.of(adapter, backbone)
    found, _ = predictor.predict(split.texts, split.pairs, where=f"{texts.where}, text", spaced=split.spaced)
    return grouped(found, split.group_numbers)


def _answered(objective: Objective, predictions: Predictions, texts: EvaluationSet) -> Answered:
    """Convert predictions to labels, numbers or texts, with labels in the order of `texts.label_names`."""
    return objective.answered(predictions.against(texts.split.labels), texts.label_names)


def _check_pair(pair: tuple[Adapter, Adapter], names: tuple[str, str]) -> None:
    """Raise InvalidData if two adapters have different kinds of task, or different label names."""
    kinds = [objectives.make(one.manifest.label_names, one.manifest.objective).kind for one in pair]
    if kinds[0] != kinds[1]:
        raise problems.KINDS_DIFFER(first=names[0], second=names[1], found=kinds[1], expected=kinds[0])
    if not ADAPTER_KINDS[kinds[0]].by_label or any(_is_foreign(one.manifest) for one in pair):
        return
    own = [set(one.manifest.label_names) for one in pair]
    if own[0] != own[1]:
        said = [
            f"only {name} has {', '.join(sorted(only)[:20])}"
            for name, only in zip(names, (own[0] - own[1], own[1] - own[0]), strict=True)
            if only
        ]
        raise problems.LABELS_DIFFER(first=names[0], _differences="; ".join(said), where=names[1])


def read_texts(
    task: str, pair: tuple[Adapter, Adapter], *, names: tuple[str, str] = NAMES, **data: Any
) -> EvaluationSet:
    """Return the labelled texts at a task's address, without the training texts of either adapter.

    Of the two adapters, the first one that has label names determines the default reading options.

    Args:
        data: reading options, as in `EvaluationSet.read`.

    Raises:
        Leakage: an adapter was trained on all texts.
        InvalidData: the adapters differ in their kinds of task or labels.
        AfinaError: the texts cannot be read (errors of `EvaluationSet.read`).
    """
    _check_pair(pair, names)
    from afina.predicting.evaluation import trained

    reader, other = sorted(pair, key=lambda adapter: _is_foreign(adapter.manifest))
    texts = EvaluationSet.read(task, trained(reader), **data)
    both = texts.unseen_by(trained(other), allow_leakage=bool(data.get("allow_leakage")))
    return both if texts.leaked is not None else replace(both, leaked=None)


@dataclass(frozen=True)
class Flip:
    """A text for which the predictions of two adapters differ.

    Attributes:
        index: the index of the text, from 0.
        label: the target of the text, as a JSON value.
        before: the prediction of the first adapter, as a JSON value.
        after: the prediction of the second adapter, as a JSON value.
    """

    index: int
    text: str
    pair: str | None
    label: Any
    before: Any
    after: Any


@dataclass(frozen=True)
class AnsweredTexts:
    """How many of the same texts two adapters answer, of which at least one abstains.

    Attributes:
        both: texts that both adapters answer.
        only_first: texts that only the first adapter answers.
        only_second: texts that only the second adapter answers.
        neither: texts that neither adapter answers.
        wrong: for each adapter, the number of texts that it answers wrongly.
    """

    both: int
    only_first: int
    only_second: int
    neither: int
    wrong: tuple[int, int]

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
        flipped: the number of texts for which the predictions differ. The fields `right_to_wrong`, `wrong_to_right` and
            `wrong_to_wrong` count these texts by kind of change. A multi-label prediction is right if every label is
            right. None: the task is regression.
        mean_change: the mean absolute difference of predicted numbers, in the unit of the targets. None: the task is
            not regression.
        comparison: the paired comparison of the metric, second adapter minus first adapter; None if the metric is
            undefined on these texts, or if both are the same adapter.
        rows: some texts with different predictions: changes from right to wrong first; for regression, the largest
            changes first.
        texts: the labelled texts.
        same: a sentence that says that both are the same adapter; "" if they are not.
        undefined: why the metric is undefined on these texts; "" if it is defined.
        answered: how many texts each adapter answers. Only texts that both answer count as flips, while metric and
            comparison are of the predictions for all texts. None: both adapters answer every text.
        entities: the number of entities that changed in each way (`stats.entity_alignment.CHANGES`). None: the task is
            not token classification.
    """

    names: tuple[str, str]
    kind: str
    metric: str
    figures: tuple[float, float]
    examples: int
    flipped: int | None
    right_to_wrong: int | None
    wrong_to_right: int | None
    wrong_to_wrong: int | None
    mean_change: float | None
    comparison: Comparison | None
    rows: tuple[Flip, ...]
    texts: EvaluationSet
    same: str = ""
    undefined: str = ""
    answered: AnsweredTexts | None = None
    entities: Mapping[str, int] | None = None

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
    one: Answered,
    other: Answered,
    texts: EvaluationSet,
    kind: str,
    headline: Metric,
    names: tuple[str, str],
    most: int,
    abstentions: tuple[np.ndarray | None, np.ndarray | None] = (None, None),
) -> Flips:
    """Compare the predictions of two adapters for the same texts.

    Args:
        headline: the metric of the comparison.
        most: the largest number of changed predictions that are returned with their texts.
        abstentions: for each adapter, whether each text is left unanswered, bool [N]. None: every text is answered.
    """
    called = names if names[0] != names[1] else (f"{names[0]} (first)", f"{names[1]} (second)")
    assert headline.values is not None  # `metric_for` refuses other metrics
    values = {called[1]: headline.values(other), called[0]: headline.values(one)}
    undefined = " and ".join(name for name in called if np.isnan(values[name]).any())
    margin = headline.margin(texts.split.labels)
    asked = ADAPTER_KINDS[kind]
    first, second = (np.ones(len(texts.split), bool) if each is None else ~each for each in abstentions)
    answered = None
    if any(each is not None for each in abstentions):
        answered = AnsweredTexts.of(first, second, (asked.right(one), asked.right(other)))
    return Flips(
        names=called,
        kind=kind,
        metric=headline.name,
        figures=(headline.value(one), headline.value(other)),
        examples=len(texts.split),
        **asked.changes(one, other, first & second)._asdict(),
        comparison=None if undefined else compare(values, metric=headline, margin=margin, unit=one.unit)[0],
        rows=tuple(_rows(one, other, first & second, texts, asked, most)),
        texts=texts,
        answered=answered,
        undefined=undefined and f"{headline.words} is undefined for {undefined}: the metric needs {headline.needs}.",
    )


def _rows(
    one: Answered, other: Answered, both: np.ndarray, texts: EvaluationSet, kind: AdapterKind, most: int
) -> Iterator[Flip]:
    split: Split = texts.split
    for index in kind.changed(one, other, both)[:most]:
        label, before, after = (
            kind.json_value(found[index], texts.label_names) for found in (split.labels, one.answers, other.answers)
        )
        pair = None if split.pairs is None else split.pairs[index]
        yield Flip(index, split.texts[index], pair, label, before, after)
