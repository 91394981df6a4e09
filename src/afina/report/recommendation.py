"""A recommendation in words: three sentences, a table of the evidence, and the object that `--json` prints. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from afina.methods import METHODS
from afina.report import asking, metrics
from afina.report.tables import Column, Table
from afina.report.verdicts import in_one
from afina.report.words import NOTHING, count, number_of_texts, share, size, too_few
from afina.stats.comparison import Comparison
from afina.studies import floors
from afina.studies.recommendation import Contender, Dropped, Recommendation

EVIDENCE = "Evidence"


def sentences(made: Recommendation) -> tuple[str, str, str]:
    """Which and why; what it costs; how sure that is and what would settle it."""
    chosen = made.contender(made.recommended)
    return _of_method(made, chosen) if chosen.trained else _of_simple(made, chosen)


def evidence(made: Recommendation) -> Table:
    """What was tried, and how it did."""
    names = _metrics(made)
    headings = (*map(metrics.heading, names), "Trained on", "Steps", "Training (s)", "Process, peak")
    lines = [
        (
            _title(one.name),
            *(NOTHING if figure is None else share(figure) for figure in map(one.metrics.get, names)),
            *(NOTHING if figure is None else count(figure) for figure in (one.examples, one.steps, one.seconds)),
            NOTHING if one.memory is None else size(one.memory),
            _race(one) + _fallen_out(one, made.metric) or one.setting or _asked(one),
        )
        for one in made.contenders
    ]
    notes = [
        f"On {made.examples:,} held-out texts that chose nothing. Of {made.train_examples:,} training texts, each "
        "model learnt from as many as its row says.",
        *([f"Figures on {number_of_texts(made.examples)}{too_few(made.examples)}."] if too_few(made.examples) else []),
        *([_OF_THE_RACE] if any(_fallen_out(one, made.metric) for one in made.contenders) else []),
        *asking.notes([one.ask for one in made.contenders if one.adapter]),
        *(_titled(one).words for one in made.comparisons),
        *(f"{_title(name)} was left out: {_why(one)}" for name, one in made.dropped.items()),
    ]
    columns = (Column("", "left"), *map(Column, headings), Column("Note", "left"))
    return Table(EVIDENCE, columns, tuple(lines), tuple(notes))


_OF_THE_RACE = (
    "What is said of validation texts is the race's, of few steps and training texts that chose who goes on: it is not "
    "comparable with that on held-out texts."
)


def as_json(made: Recommendation, out: Path) -> dict[str, Any]:
    """JSON values, whose keys never change or go; adapters are paths, by way of the output directory `out`."""
    return {
        "task": made.task,
        "backbone": made.backbone,
        "kind": made.kind,
        "metric": made.metric,
        "recommended": made.recommended,
        "recommendation": list(sentences(made)),
        "adapter": None if made.adapter is None else str(out / made.adapter),
        "rows": [
            {
                "name": one.name,
                "accuracy": one.metrics.get(metrics.ACCURACY),
                "f1": one.metrics.get(metrics.F1),
                "metrics": one.metrics,
                "race": _race(one),
                "validation": one.validation,
                "validation_accuracy": one.validation if made.metric == metrics.ACCURACY else None,
                "validation_examples": one.validation_examples,
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
    trained = [one for one in made.contenders if one.trained]
    first = next((one.name for one in trained if one.rounds), None)
    others = [one for one in trained if one.name != chosen.name] + _simple(made)
    figures = {one.name: one.metrics[made.metric] for one in others if made.metric in one.metrics}
    beside = "".join(f", {_title(name)} {figure:.4f}" for name, figure in figures.items())
    if first is None:
        why = "it is what could be trained in the time and memory given"
    elif chosen.name == first:
        why = "it did best in the race"
    elif any(_is_better(one, chosen.name, first) for one in made.comparisons):
        why = f"it is better than {_title(first)}, which did best in the race"
    else:
        why = f"{_title(first)} did best in the race, but it alone beats what trains nothing"
    memory = f" and {size(chosen.memory)} of memory" if chosen.memory else ""
    mine = [one for one in made.comparisons if chosen.name in (one.first, one.second)]
    assert chosen.trainable is not None
    assert chosen.total is not None
    return (
        f"Use {_title(chosen.name)}: {why}, and has {_figure(made, chosen)} on {made.examples:,} held-out texts"
        f"{beside}.",
        f"It trains {chosen.trainable:,} parameters, {100 * chosen.trainable / chosen.total:.3g} % of the model, and "
        f"took {chosen.seconds:,.0f} s of training on {chosen.examples:,} texts{memory}.",
        f"{_sure(mine)}.",
    )


def _of_simple(made: Recommendation, chosen: Contender) -> tuple[str, str, str]:
    """A floor, or the model as it is."""
    trained = [one for one in made.contenders if one.trained]
    if trained:
        sign = -1 if metrics.metric_of(made.metric).lower else 1
        best = max(trained, key=lambda one: sign * one.metrics[made.metric])
        why = (
            f"no adapted model beats it: it has {_figure(made, chosen)} on {made.examples:,} held-out texts, "
            f"the best of them, {_title(best.name)}, {best.metrics[made.metric]:.4f}"
        )
        name = floors.LINEAR[made.kind] if chosen.name == floors.CONSTANT[made.kind] else chosen.name
        compared = [one for one in made.comparisons if name in (one.first, one.second)]
        settle = f"{_sure(compared)}; with more minutes or more texts an adapted model may do better"
    else:
        why = (
            f"no adapted model could be trained and evaluated in the time and memory given, and it has "
            f"{_figure(made, chosen)} on {made.examples:,} held-out texts"
        )
        settle = "Whether an adapted model would be better is open; give more minutes, or more memory, to know"
    if chosen.key:
        use = f"Use the model as it is, asked in words ({_title(chosen.name)}): {why}."
        costs = "It costs nothing to train; the adapter holds the template and the rows of its words, and no more."
    else:
        use = f"Use {chosen.name}, and no language model: {why}."
        costs = "It costs next to nothing: it was fitted in seconds" + (
            " and is an adapter that needs no backbone."
            if chosen.adapter
            else ", and there is nothing to open: it always gives the same answer."
        )
    return use, costs, f"{settle}."


def _is_better(one: Comparison, name: str, than: str) -> bool:
    return {one.first, one.second} == {name, than} and one.seen_from(name) == "better"


def _simple(made: Recommendation) -> list[Contender]:
    """The model as it is, and the best floor, where they were evaluated."""
    same = floors.CONSTANT.values()
    return [one for one in made.contenders if not one.trained and one.name not in same and one.metrics]


def _figure(made: Recommendation, one: Contender) -> str:
    """`accuracy 0.8571`."""
    return f"{metrics.words(made.metric)} {one.metrics[made.metric]:.4f}"


def _metrics(made: Recommendation) -> list[str]:
    """The headline, and another."""
    there = next((one.metrics for one in made.contenders if one.metrics), {})
    return list(dict.fromkeys([made.metric, *there]))[:2]


def _asked(one: Contender) -> str:
    return "asked in words, not trained" if one.ask.words and not one.trained else ""


def _sure(compared: Sequence[Comparison]) -> str:
    """What the comparisons say, as one sentence without its full stop; they are of one seed."""
    return in_one([*map(_titled, compared)], one_seed=True).removesuffix(".")


def _race(one: Contender) -> str:
    if one.rate is None:
        return ""
    rounds = f"{one.rounds} round{'s' * (one.rounds > 1)}"
    return f"raced {rounds}, learning rate {one.rate:.2g}" + ("" if one.finished else ", did not finish")


def _fallen_out(one: Contender, metric: str) -> str:
    """How a method did in the race that was not evaluated after it."""
    if one.validation is None or one.validation_examples is None or one.metrics:
        return ""
    return f"; {metrics.words(metric)} {share(one.validation)} on {count(one.validation_examples)} validation texts"


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
