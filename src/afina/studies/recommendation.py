"""Choice: a recommendation with its evidence; `choice.json`. Pure: which it is, and in which words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from afina.report.rows import READABLE
from afina.report.tables import NOTHING, Column, Table, count, size
from afina.schema import Frozen
from afina.stats.comparison import Comparison
from afina.studies import baselines
from afina.studies.record import Record

FILE = "choice.json"


class Row(Frozen):
    """One line of the evidence: what was tried, and how it did on the held-out texts, if it came so far.

    race    what the race says of it;  seconds  its training
    """

    name: str
    accuracy: float | None = None
    f1: float | None = None
    race: str = ""
    examples: int | None = None
    steps: int | None = None
    seconds: float | None = None
    memory: int | None = None
    adapter: str | None = None
    remark: str = ""


class Choice(Frozen):
    """The answer, its evidence, and the path of the adapter where one is recommended.

    recommended     a method's key, or the name of a floor
    recommendation  three sentences: which and why; what it costs; how sure that is and what would settle it
    examples        training texts there are, held-out texts evaluated
    comparisons     what `afina.stats.comparison` says of each pair, in words
    """

    task: str
    backbone: str
    recommended: str
    recommendation: tuple[str, str, str]
    adapter: str | None
    rows: tuple[Row, ...]
    comparisons: tuple[str, ...]
    dropped: dict[str, str]
    train_examples: int
    examples: int
    minutes: float
    seconds: float

    def tables(self) -> list[Table]:
        """The evidence, as the terminal shows it."""
        headings = ("Accuracy", "F1", "Trained on", "Steps", "Training (s)", "Process, peak")
        lines = [
            (
                READABLE.get(row.name, row.name),
                *(NOTHING if figure is None else f"{figure:.4f}" for figure in (row.accuracy, row.f1)),
                *(NOTHING if figure is None else count(figure) for figure in (row.examples, row.steps, row.seconds)),
                NOTHING if row.memory is None else size(row.memory),
                row.race or row.remark,
            )
            for row in self.rows
        ]
        columns = (Column("", "left"), *map(Column, headings), Column("Note", "left"))
        notes = [
            f"On {self.examples:,} held-out texts that chose nothing. Of {self.train_examples:,} training texts, each "
            "model learnt from as many as its row says.",
            *self.comparisons,
            *(f"{READABLE.get(name, name)} was left out: {why}" for name, why in self.dropped.items()),
        ]
        return [Table("Evidence", columns, tuple(lines), tuple(notes))]


def recommend(
    order: Sequence[str],
    right: Mapping[str, np.ndarray],
    floors: Mapping[str, np.ndarray],
    compared: Sequence[Comparison],
) -> str:
    """The race's winner, or the other where that is surely better on held-out texts; a floor that neither beats."""
    best_floor = max(floors, key=lambda name: (floors[name].mean(), name == baselines.TFIDF))
    if not order:
        return best_floor
    chosen = order[0]
    for other in order[1:]:
        between = _between(compared, chosen, other)
        if between.verdict == "worse":
            chosen = other
    return chosen if right[chosen].mean() > floors[best_floor].mean() else best_floor


def _between(compared: Sequence[Comparison], first: str, second: str) -> Comparison:
    names = (READABLE.get(first, first), READABLE.get(second, second))
    return next(one for one in compared if (one.first, one.second) == names)


def sentences(
    recommended: str, rows: Sequence[Row], compared: Sequence[Comparison], chosen: Record | None, texts: int
) -> tuple[str, str, str]:
    """Which and why; what it costs; how sure that is and what would settle it. `chosen` is None for a floor."""
    by_name = {row.name: row for row in rows}
    trained = [row for row in rows if row.adapter]
    tfidf = by_name[baselines.TFIDF]
    if chosen is None:
        simple = by_name[recommended]
        if trained:
            best = max(trained, key=lambda row: row.accuracy or 0)
            why = (
                f"no adapted model beats it: it has accuracy {simple.accuracy:.4f} on {texts:,} held-out texts, "
                f"the best of them, {READABLE.get(best.name, best.name)}, {best.accuracy:.4f}"
            )
            sure = _sure([one for one in compared if one.second == baselines.TFIDF])
            settle = f"{sure}; with more minutes or more texts an adapted model may do better"
        else:
            why = (
                f"no adapted model could be trained and evaluated in the time and memory given, and it has accuracy "
                f"{simple.accuracy:.4f} on {texts:,} held-out texts"
            )
            settle = "Whether an adapted model would be better is open; give more minutes, or more memory, to know"
        return (
            f"Use {recommended}, and no language model: {why}.",
            "It costs next to nothing: it was fitted in seconds and needs no adapter.",
            f"{settle}.",
        )
    title = READABLE.get(recommended, recommended)
    others = [row for row in trained if row.name != recommended]
    beside = "".join(f", {READABLE.get(row.name, row.name)} {row.accuracy:.4f}" for row in others)
    first = next(row.name for row in rows if row.adapter)
    why = (
        "it did best in the race"
        if recommended == first
        else f"it is better than {READABLE.get(first, first)}, which did best in the race"
    )
    memory = f" and {size(chosen.memory.rss_peak)} of memory" if chosen.memory.rss_peak else ""
    mine = [one for one in compared if title in (one.first, one.second)]
    return (
        f"Use {title}: {why}, and has accuracy {chosen.accuracy:.4f} on {texts:,} held-out texts"
        f"{beside}, {baselines.TFIDF} {tfidf.accuracy:.4f}.",
        f"It trains {chosen.trainable:,} parameters, {100 * chosen.trainable / chosen.total:.3g} % of the model, and "
        f"took {chosen.seconds.train:,.0f} s of training on {chosen.train_examples:,} texts{memory}.",
        f"{_sure(mine)}.",
    )


def _sure(compared: Sequence[Comparison]) -> str:
    """What the comparisons say, as one sentence without its full stop; they are of one seed."""
    parts = [one.words.split(" (One seed:")[0].removesuffix(".") for one in compared]
    text = "; ".join([*parts, "one seed says nothing of other seeds"])
    return text[0].upper() + text[1:]
