"""Recompute: what an adapter computes here and now, against what it computed once, and against another adapter.

Two adapters are compared by the answers that flip on the same texts, and by whether the second is better. The only part
of the store that computes with models; torch and all that needs it are imported by the functions that do.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from math import isfinite
from typing import TYPE_CHECKING, Any

import numpy as np

from afina.data.leakage import EvaluationSet
from afina.data.split import Split
from afina.errors import CorruptAdapter, InvalidData
from afina.models import objectives
from afina.models.adapter import Adapter
from afina.models.objective import Objective, Predictions, metric_for
from afina.schema import null_where_undefined
from afina.stats.answered import Answered
from afina.stats.comparison import Comparison, compare
from afina.stats.metrics import METRICS, Metric
from afina.store.diff.weights import is_foreign
from afina.store.kinds import ADAPTER_KINDS, AdapterKind

if TYPE_CHECKING:
    from pathlib import Path

    from afina.models.backbone import Backbone


NAMES = ("the first adapter", "the second adapter")


@dataclass(frozen=True)
class CheckOutcome:
    """Whether an adapter still computes what it computed when it was made.

    difference  the largest of its probe's outputs, as a share of the largest; None where there is none to take
    tolerance   of the difference
    problem     why there is none, a sentence or two
    versions    of what it was computed with here
    platform    system, processor, device, threads and number format; nothing that names the machine
    """

    passed: bool
    difference: float | None
    tolerance: float
    versions: dict[str, str]
    platform: dict[str, Any]
    problem: str | None = None

    def as_json(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self)


def check(adapter: Adapter, backbone: str | None = None) -> CheckOutcome:
    """Compute the probe of an adapter again, in float32, on the backbone at that address or the one that it names.

    An adapter that cannot be opened because of what is in it has not passed.
    Raises InvalidStudy where it records no probe, NotFound and WrongBackbone where there is not its backbone, and what
    else `probes.opened` raises.
    """
    import torch

    from afina import device
    from afina.inference import probes

    probes.recorded(adapter.manifest, adapter.where)  # before a backbone is read
    found, problem, dtype = None, None, "float32"
    try:
        predictor = probes.opened(adapter, backbone)
        dtype, found = predictor.dtype, probes.difference(predictor)
    except CorruptAdapter as error:
        problem = str(error)
    if found is not None and not isfinite(found):
        found, problem = None, f"{adapter.where}: the probe that it records holds what is no number. Train it again."
    here = device.environment_fields(device.choose(), torch.float32) | {"dtype": dtype}
    versions = here.pop("versions")
    assert isinstance(versions, dict)
    platform = {key: value for key, value in here.items() if not key.startswith("git_")}
    passed = found is not None and found <= probes.TOLERANCE
    return CheckOutcome(passed, found, probes.TOLERANCE, versions, platform, problem)


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
    """Both on the same texts, in float32, on the backbone at that address or those that they name.

    metric  by which they are compared; None: the usual one of the kind
    most    flips that are told with their text
    An adapter of peft's, which names no labels, is taken to have those of the texts in their order.
    Raises InvalidData where labels or kinds differ, InvalidStudy and UnknownName for a metric that is none of the kind,
    and what `Predictor.of` and `Predictor.predict` raise.
    """
    pair = [_named(adapter, texts) for adapter in (first, second)]
    asked = [objectives.make(one.manifest.label_names, one.manifest.objective) for one in pair]
    _check_alike(asked, texts, names)
    headline = METRICS[metric_for(asked[0], metric)]
    one, other = _answers(pair, asked, texts, backbone)
    return compare_answers(one, other, texts, asked[0].kind, headline, names, most)


def _named(adapter: Adapter, texts: EvaluationSet) -> Adapter:
    if not is_foreign(adapter.manifest) or len(adapter.manifest.label_names) != len(texts.label_names):
        return adapter
    return replace(adapter, manifest=adapter.manifest.model_copy(update={"label_names": texts.label_names}))


def _check_alike(asked: list[Objective], texts: EvaluationSet, names: tuple[str, str]) -> None:
    if asked[0].kind != asked[1].kind:
        raise InvalidData(
            f"{names[0]} learnt {asked[0].kind} and {names[1]} {asked[1].kind}: there is nothing to compare. "
            "Give two adapters of one kind of task.",
            code="data.kind-mismatch",
            found=asked[1].kind,
            expected=asked[0].kind,
        )
    for objective, name in zip(asked, names, strict=True):
        own, there = set(objective.label_names), set(texts.label_names)
        if own != there and ADAPTER_KINDS[objective.kind].by_label:
            said = [
                f"{which}{', '.join(sorted(only)[:20])}"
                for which, only in (("it alone has ", own - there), ("it lacks ", there - own))
                if only
            ]
            raise InvalidData(
                f"{name}: its labels are not those of {texts.where} as they were read: {'; '.join(said)}. Give two "
                "adapters of the same labels.",
                code="data.labels-mismatch",
                where=name,
            )


def _answers(pair: list[Adapter], asked: list[Objective], texts: EvaluationSet, address: str | None) -> list[Answered]:
    """Of each, with labels in the order of the texts'. Where both name one backbone, its weights are hashed once."""
    from afina.inference.predictor import backbone_of

    alone = all(adapter.vocabulary is not None for adapter in pair)
    opened: dict[str | None, Backbone | None] = {}
    found = []
    for adapter, objective in zip(pair, asked, strict=True):
        given = address if alone or adapter.vocabulary is None else None  # a bag of words takes none from the other
        key = None if adapter.vocabulary is not None else given or adapter.manifest.backbone
        if key not in opened:
            opened[key] = backbone_of(adapter, given)
        found.append(_answered(objective, _predictions(adapter, opened[key], texts), texts))
    return found


def _predictions(adapter: Adapter, backbone: Backbone | None, texts: EvaluationSet) -> Predictions:
    """The predictor ends here, so that there is one model at a time."""
    from afina.inference.predictor import Predictor

    predictor = Predictor.of(adapter, backbone)
    return predictor.predict(texts.split.texts, texts.split.pairs, where=f"{texts.where}, text")[0]


def _answered(objective: Objective, predictions: Predictions, texts: EvaluationSet) -> Answered:
    """What an objective makes of predictions, its labels put in the order of the texts'."""
    answered = objective.answered(predictions.against(texts.split.labels))
    return ADAPTER_KINDS[objective.kind].reordered(answered, objective.label_names, texts.label_names)


def _check_pair(pair: tuple[Adapter, Adapter], names: tuple[str, str]) -> None:
    """Raise InvalidData for two adapters of other kinds, or of other labels where both name theirs."""
    kinds = [objectives.make(one.manifest.label_names, one.manifest.objective).kind for one in pair]
    if kinds[0] != kinds[1]:
        raise InvalidData(
            f"{names[0]} learnt {kinds[0]} and {names[1]} {kinds[1]}: there is nothing to compare. "
            "Give two adapters of one kind of task.",
            code="data.kind-mismatch",
            found=kinds[1],
            expected=kinds[0],
        )
    if not ADAPTER_KINDS[kinds[0]].by_label or any(is_foreign(one.manifest) for one in pair):
        return
    own = [set(one.manifest.label_names) for one in pair]
    if own[0] != own[1]:
        said = [
            f"{name} alone has {', '.join(sorted(only)[:20])}"
            for name, only in zip(names, (own[0] - own[1], own[1] - own[0]), strict=True)
            if only
        ]
        raise InvalidData(
            f"{names[0]} and {names[1]} have other labels: {'; '.join(said)}. Give two adapters of the same labels.",
            code="data.labels-mismatch",
            where=names[1],
        )


def read_texts(
    task: str, pair: tuple[Adapter, Adapter], *, names: tuple[str, str] = NAMES, **data: Any
) -> EvaluationSet:
    """The texts at an address that neither adapter learnt from, as the first reads them that names its labels.

    data  arguments of `EvaluationSet.read`. Raises what that does, Leakage where either was trained on all texts, and
    InvalidData where kinds or labels of the two differ.
    """
    _check_pair(pair, names)
    from afina.inference.evaluation import trained

    reader, other = sorted(pair, key=lambda adapter: is_foreign(adapter.manifest))
    texts = EvaluationSet.read(task, trained(reader), **data)
    both = texts.unseen_by(trained(other), allow_leakage=bool(data.get("allow_leakage")))
    return both if texts.leaked is not None else replace(both, leaked=None)


def merge(adapter: Adapter, directory: Path, backbone: str | None) -> tuple[str, ...]:
    """Write an adapter folded into its backbone, see `import_and_merge`; what a user of it has to know."""
    from afina.inference import import_and_merge
    from afina.inference.predictor import Predictor, backbone_of

    return import_and_merge.merge(Predictor.of(adapter, backbone_of(adapter, backbone)), directory)


@dataclass(frozen=True)
class Flip:
    """A text whose answer has changed.

    index  of the text among all, from 0
    label, before, after  names; several of a text in a tuple; numbers
    """

    index: int
    text: str
    pair: str | None
    label: Any
    before: Any
    after: Any


@dataclass(frozen=True)
class Flips:
    """What two adapters, a first and a second, answer on the same texts.

    names       how sentences call them
    metric      by which they are compared;  figures  the first's and the second's
    flipped     examples with another answer, of which `right_to_wrong`, `wrong_to_right` and `wrong_to_wrong` are told;
                right is what has every label right. None for numbers, for which there is instead
    mean_change mean absolute change of the answers, in the unit of the targets
    comparison  the second with the first: its difference is the second's metric less the first's, and its verdict says
                what the second is; None where the metric is undefined on these texts: `undefined` then says why
    rows        some of the flips, those that were right and are wrong first; of numbers the largest changes
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
    undefined: str = ""

    @property
    def verdict(self) -> str:
        """What the second is against the first: better, worse, equivalent, undecided, or undefined as the metric is."""
        return self.comparison.verdict if self.comparison else "undefined"

    @property
    def words(self) -> str:
        """The same in a sentence, and a second: see `Comparison.words`."""
        return self.comparison.words if self.comparison else self.undefined

    def as_json(self) -> dict[str, Any]:
        """JSON values; None where something is undefined, or an end of the interval at no number."""
        made, compared = self.comparison, ("difference", "p", "margin", "level")
        ends = (made.interval.low, made.interval.high) if made else ()
        counts = ("flipped", "right_to_wrong", "wrong_to_right", "wrong_to_wrong", "mean_change")
        return {
            **{key: getattr(self, key) for key in ("kind", "metric", "examples", *counts)},
            "names": list(self.names),
            "figures": [*map(null_where_undefined, self.figures)],
            **{key: getattr(made, key) if made else None for key in compared},
            "verdict": self.verdict,
            "words": self.words,
            "interval": [end if isfinite(end) else None for end in ends] if made else None,
            "rows": [asdict(row) for row in self.rows],
        }


def compare_answers(
    one: Answered, other: Answered, texts: EvaluationSet, kind: str, headline: Metric, names: tuple[str, str], most: int
) -> Flips:
    """Of what a first and a second adapter answer on the same texts.

    headline  by which they are compared, see `afina.models.objective.metric_for`
    """
    called = names if names[0] != names[1] else (f"{names[0]} (first)", f"{names[1]} (second)")
    assert headline.values is not None  # or `metric_for` had refused it
    values = {called[1]: headline.values(other), called[0]: headline.values(one)}
    undefined = " and ".join(name for name in called if np.isnan(values[name]).any())
    margin = headline.margin(texts.split.labels)
    asked = ADAPTER_KINDS[kind]
    return Flips(
        names=called,
        kind=kind,
        metric=headline.name,
        figures=(headline.value(one), headline.value(other)),
        examples=len(texts.split),
        **asked.changes(one, other)._asdict(),
        comparison=None if undefined else compare(values, metric=headline, margin=margin)[0],
        rows=tuple(_rows(one, other, texts, asked, most)),
        undefined=undefined and f"{headline.words} is undefined for {undefined}: it needs {headline.needs}.",
    )


def _rows(one: Answered, other: Answered, texts: EvaluationSet, kind: AdapterKind, most: int) -> Iterator[Flip]:
    split: Split = texts.split
    for index in kind.changed(one, other)[:most]:
        label, before, after = (
            kind.json_value(found[index], texts.label_names) for found in (split.labels, one.answers, other.answers)
        )
        pair = None if split.pairs is None else split.pairs[index]
        yield Flip(index, split.texts[index], pair, label, before, after)
