"""Compute with stored adapters: golden tests, and the predictions of two adapters for the same texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from math import isfinite
from typing import TYPE_CHECKING, Any

import numpy as np

from afina.data.evaluation_set import EvaluationSet
from afina.errors import CorruptAdapter
from afina.models import objectives
from afina.models.adapter import FOREIGN, Adapter
from afina.models.manifest import Manifest
from afina.models.objective import Objective, metric_for
from afina.models.predictions import Predictions
from afina.stats.answered import Answered
from afina.stats.metrics import METRICS
from afina.store import problems
from afina.store.flips import FLIP_KINDS, Flips, compare_answers

if TYPE_CHECKING:
    from afina.models.backbone import Backbone


NAMES = ("the first adapter", "the second adapter")


@dataclass(frozen=True)
class CheckOutcome:
    """The outcome of a golden test: whether an adapter computes the outputs that were recorded when it was made.

    Attributes:
        difference: the largest difference between computed and recorded outputs, as a share of the largest output.
            None: the difference cannot be computed, because of `problem`.
        versions: the versions of packages on this machine.
        platform: the system, processor, device, threads and dtype of this machine, but nothing that identifies it.
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
    difference, problem, dtype = None, None, "float32"
    try:
        predictor = golden_test.opened(adapter, backbone)
        dtype, difference = predictor.dtype, golden_test.difference(predictor)
    except CorruptAdapter as error:
        problem = str(error)
    if difference is not None and not isfinite(difference):
        difference = None
        problem = f"{adapter.where}: its recorded probe has NaN or infinite values. Train the adapter again."
    here = device.environment_fields(device.choose(), torch.float32) | {"dtype": dtype}
    versions = here.pop("versions")
    assert isinstance(versions, dict)
    platform = {key: value for key, value in here.items() if not key.startswith("git_")}
    passed = difference is not None and difference <= golden_test.TOLERANCE
    return CheckOutcome(passed, difference, golden_test.TOLERANCE, versions, platform, problem)


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
    asked = [_objective(adapter) for adapter in pair]
    _check_kinds(asked, names)
    if FLIP_KINDS[asked[0].kind].by_label:
        for objective, name in zip(asked, names, strict=True):
            _check_labels((texts.where, name), ({*texts.label_names, *texts.unmeasured}, {*objective.label_names}))
    headline = METRICS[metric_for(asked[0], metric)]
    (before, after), abstentions = zip(*_answers(pair, asked, texts, backbone), strict=True)
    flips = compare_answers(before, after, texts, asked[0].kind, headline, names, most, abstentions)
    if first.digest != second.digest:
        return flips
    same = f"{flips.names[0]} and {flips.names[1]} are the same adapter, {first.digest[:19]}."
    return replace(flips, comparison=None, same=same, undefined="")


def _objective(adapter: Adapter) -> Objective:
    return objectives.make(adapter.manifest.label_names, adapter.manifest.objective)


def _is_foreign(manifest: Manifest) -> bool:
    """Return whether peft made the adapter, so that its labels have no names. afina's method `peft` has a `type`."""
    return manifest.method == FOREIGN and "type" not in manifest.hyperparameters


def _named(adapter: Adapter, texts: EvaluationSet) -> Adapter:
    if not _is_foreign(adapter.manifest) or len(adapter.manifest.label_names) != len(texts.label_names):
        return adapter
    return replace(adapter, manifest=adapter.manifest.model_copy(update={"label_names": texts.label_names}))


def _check_kinds(pair: Sequence[Objective], names: tuple[str, str]) -> None:
    if pair[0].kind != pair[1].kind:
        raise problems.KINDS_DIFFER(first=names[0], second=names[1], found=pair[1].kind, expected=pair[0].kind)


def _check_labels(names: tuple[str, str], labels: tuple[set[str], set[str]]) -> None:
    """Raise InvalidData if two things, such as an adapter and a file of texts, have different labels."""
    differences = [
        f"only {name} has {', '.join(sorted(alone)[:20])}"
        for name, alone in zip(names, (labels[0] - labels[1], labels[1] - labels[0]), strict=True)
        if alone
    ]
    if differences:
        raise problems.LABELS_DIFFER(first=names[0], _differences="; ".join(differences), where=names[1])


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
    answers = []
    for adapter, objective in zip(pair, asked, strict=True):
        named = address if alone or adapter.vocabulary is None else None  # a bag of words has no backbone
        key = None if adapter.vocabulary is not None else named or adapter.manifest.backbone
        if key not in opened:
            opened[key] = backbone_of(adapter, named)
        predictions = _predictions(adapter, opened[key], texts)
        answered = objective.answered(predictions.against(texts.split.labels), texts.label_names)
        answers.append((answered, objective.abstentions(predictions)))
    return answers


def _predictions(adapter: Adapter, backbone: Backbone | None, texts: EvaluationSet) -> Predictions:
    """Return an adapter's predictions for the texts; its model is freed on return, so that memory holds one model."""
    from afina.predicting.predictor import Predictor, grouped

    split, predictor = texts.split, Predictor.of(adapter, backbone)
    predictions, _ = predictor.predict(split.texts, split.pairs, where=f"{texts.where}, text", spaced=split.spaced)
    return grouped(predictions, split.group_numbers)


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
    from afina.predicting.evaluation import trained

    asked = [_objective(adapter) for adapter in pair]
    _check_kinds(asked, names)
    if FLIP_KINDS[asked[0].kind].by_label and not any(_is_foreign(adapter.manifest) for adapter in pair):
        first, second = (set(adapter.manifest.label_names) for adapter in pair)
        _check_labels(names, (first, second))
    reader, other = sorted(pair, key=lambda adapter: _is_foreign(adapter.manifest))
    texts = EvaluationSet.read(task, trained(reader), **data)
    both = texts.unseen_by(trained(other), allow_leakage=bool(data.get("allow_leakage")))
    return both if texts.leaked is not None else replace(both, leaked=None)
