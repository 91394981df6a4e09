"""Which answers of two adapters flip on the same texts, and whether the second is better. Knows answers, no model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from math import isfinite
from typing import Any

import numpy as np

from afina.data.evaluation_texts import EvaluationSet
from afina.data.split import Split
from afina.schema import null_where_undefined
from afina.stats.answered import Answered
from afina.stats.comparison import Comparison, compare
from afina.stats.metrics import Metric
from afina.store.kinds import ADAPTER_KINDS, AdapterKind


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


def compared(
    one: Answered, other: Answered, texts: EvaluationSet, kind: str, headline: Metric, names: tuple[str, str], most: int
) -> Flips:
    """Of what a first and a second adapter answer on the same texts.

    headline  by which they are compared, see `afina.models.objective.metric_for`
    most      flips that are told with their text
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
            kind.told(found[index], texts.label_names) for found in (split.labels, one.answers, other.answers)
        )
        pair = None if split.pairs is None else split.pairs[index]
        yield Flip(index, split.texts[index], pair, label, before, after)
