"""A recommendation in words: three sentences, a table of the evidence, and the object that `--json` prints. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from afina.methods import METHODS
from afina.report.tables import Column, Table
from afina.report.words import NOTHING, count, share, size
from afina.stats.comparison import Comparison
from afina.studies import floors
from afina.studies.recommendation import Contender, Dropped, Recommendation

EVIDENCE = "Evidence"


def sentences(made: Recommendation) -> tuple[str, str, str]:
    """Which and why; what it costs; how sure that is and what would settle it."""
    chosen = made.contender(made.recommended)
    return _of_method(made, chosen) if chosen.adapter else _of_floor(made, chosen)


def evidence(made: Recommendation) -> Table:
    """What was tried, and how it did."""
    headings = ("Accuracy", "F1", "Trained on", "Steps", "Training (s)", "Process, peak")
    lines = [
        (
            _title(one.name),
            *(NOTHING if figure is None else share(figure) for figure in (one.accuracy, one.f1)),
            *(NOTHING if figure is None else count(figure) for figure in (one.examples, one.steps, one.seconds)),
            NOTHING if one.memory is None else size(one.memory),
            _race(one) or one.setting,
        )
        for one in made.contenders
    ]
    notes = [
        f"On {made.examples:,} held-out texts that chose nothing. Of {made.train_examples:,} training texts, each "
        "model learnt from as many as its row says.",
        *(_titled(one).words for one in made.comparisons),
        *(f"{_title(name)} was left out: {_why(one)}" for name, one in made.dropped.items()),
    ]
    columns = (Column("", "left"), *map(Column, headings), Column("Note", "left"))
    return Table(EVIDENCE, columns, tuple(lines), tuple(notes))


def as_json(made: Recommendation, out: Path) -> dict[str, Any]:
    """JSON values, whose keys never change or go; adapters are paths, by way of the output directory `out`."""
    return {
        "task": made.task,
        "backbone": made.backbone,
        "recommended": made.recommended,
        "recommendation": list(sentences(made)),
        "adapter": None if made.adapter is None else str(out / made.adapter),
        "rows": [
            {
                "name": one.name,
                "accuracy": one.accuracy,
                "f1": one.f1,
                "race": _race(one),
                "examples": one.examples,
                "steps": one.steps,
                "seconds": one.seconds,
                "memory": one.memory,
                "adapter": None if one.adapter is None else str(out / one.adapter),
                "remark": one.setting,
            }
            for one in made.contenders
        ],
        "comparisons": [_titled(one).words for one in made.comparisons],
        "dropped": {name: _why(one) for name, one in made.dropped.items()},
        "train_examples": made.train_examples,
        "examples": made.examples,
        "minutes": made.minutes,
        "seconds": made.seconds,
    }


def _of_method(made: Recommendation, chosen: Contender) -> tuple[str, str, str]:
    trained = [one for one in made.contenders if one.adapter]
    first = trained[0].name
    beside = "".join(f", {_title(one.name)} {one.accuracy:.4f}" for one in trained if one.name != chosen.name)
    tfidf = made.contender(floors.TFIDF)
    why = (
        "it did best in the race"
        if chosen.name == first
        else f"it is better than {_title(first)}, which did best in the race"
    )
    memory = f" and {size(chosen.memory)} of memory" if chosen.memory else ""
    mine = [one for one in made.comparisons if chosen.name in (one.first, one.second)]
    assert chosen.trainable is not None
    assert chosen.total is not None
    return (
        f"Use {_title(chosen.name)}: {why}, and has accuracy {chosen.accuracy:.4f} on {made.examples:,} held-out texts"
        f"{beside}, {floors.TFIDF} {tfidf.accuracy:.4f}.",
        f"It trains {chosen.trainable:,} parameters, {100 * chosen.trainable / chosen.total:.3g} % of the model, and "
        f"took {chosen.seconds:,.0f} s of training on {chosen.examples:,} texts{memory}.",
        f"{_sure(mine)}.",
    )


def _of_floor(made: Recommendation, chosen: Contender) -> tuple[str, str, str]:
    trained = [one for one in made.contenders if one.adapter]
    if trained:
        best = max(trained, key=lambda one: one.accuracy or 0)
        why = (
            f"no adapted model beats it: it has accuracy {chosen.accuracy:.4f} on {made.examples:,} held-out texts, "
            f"the best of them, {_title(best.name)}, {best.accuracy:.4f}"
        )
        sure = _sure([one for one in made.comparisons if one.second == floors.TFIDF])
        settle = f"{sure}; with more minutes or more texts an adapted model may do better"
    else:
        why = (
            f"no adapted model could be trained and evaluated in the time and memory given, and it has accuracy "
            f"{chosen.accuracy:.4f} on {made.examples:,} held-out texts"
        )
        settle = "Whether an adapted model would be better is open; give more minutes, or more memory, to know"
    return (
        f"Use {chosen.name}, and no language model: {why}.",
        "It costs next to nothing: it was fitted in seconds and needs no adapter.",
        f"{settle}.",
    )


def _sure(compared: Sequence[Comparison]) -> str:
    """What the comparisons say, as one sentence without its full stop; they are of one seed."""
    parts = [_titled(one).words.split(" (One seed:")[0].removesuffix(".") for one in compared]
    text = "; ".join([*parts, "one seed says nothing of other seeds"])
    return text[0].upper() + text[1:]


def _race(one: Contender) -> str:
    if one.rate is None:
        return ""
    rounds = f"{one.rounds} round{'s' * (one.rounds > 1)}"
    return f"raced {rounds}, learning rate {one.rate:.2g}" + ("" if one.finished else ", did not finish")


def _why(one: Dropped) -> str:
    match one.why:
        case "memory":
            assert one.needed is not None
            assert one.available is not None
            return f"needs about {size(one.needed)} of memory, there is {size(one.available)}"
        case "start":
            return "there was no time left to start it"
        case "train":
            return "there was no time left to train and evaluate it"
        case "overrun":
            return "its last training took longer than there was time for"
        case "error":
            return one.message


def _titled(one: Comparison) -> Comparison:
    return replace(one, first=_title(one.first), second=_title(one.second))


def _title(name: str) -> str:
    """A method's; a floor's name is its title."""
    return METHODS[name].title if name in METHODS else name
