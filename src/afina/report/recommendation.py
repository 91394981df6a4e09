"""A recommendation in a few sentences, as a table of the evidence, and as the object that `--json` prints. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import inf, isnan
from pathlib import Path
from typing import Any

from afina.methods import METHODS
from afina.report.formatting import (
    ACCURACY,
    F1,
    NOTHING,
    ask_notes,
    count,
    listed,
    metric_heading,
    metric_name,
    number_of_texts,
    share,
    size,
    too_few,
)
from afina.report.tables import EVIDENCE, Column, Table
from afina.report.verdicts import in_one_sentence
from afina.schema import figures_as_json, null_where_undefined
from afina.stats.comparison import Comparison
from afina.stats.metrics import METRICS
from afina.studies.choosing import floors
from afina.studies.choosing.candidates import EPOCHS
from afina.studies.choosing.recommendation import Contender, Dropped, Recommendation
from afina.studies.runs.spec import Training

BATCH = Training().batch_size
FEW_LEFT = 0.75
"""Of the training texts, above which a training read about all of them: some are set aside."""


def sentences(made: Recommendation) -> tuple[str, ...]:
    """Which and why; what it costs; how sure that is and what would settle it; what more minutes, and more labels,
    would probably change.
    """
    chosen = made.contender(made.recommended)
    said = _of_method(made, chosen) if chosen.trained else _of_simple(made, chosen)
    return (*said, more_minutes(made), more_labels(made))


def more_minutes(made: Recommendation) -> str:
    """Whether they would change anything: what was not trained for want of time."""
    waiting = [name for name, one in made.dropped.items() if one.why in ("start", "train", "overrun")]
    trained = [one for one in made.contenders if one.trained]
    read = max((one.examples or 0 for one in trained), default=0)
    more = []
    if waiting:
        more.append(f"{'also ' if trained else ''}train {listed([title(name) for name in waiting])}")
    if trained and read < FEW_LEFT * made.train_examples:
        more.append(f"read all {made.train_examples:,} training texts and not {read:,} of them")
    passes = min((round((one.steps or 0) * BATCH / max(1, one.examples or 1)) for one in trained), default=EPOCHS)
    if trained and not more and passes < EPOCHS:
        more.append(f"go {EPOCHS} times through the texts, where each training went {_times(passes)}")
    if more:
        return f"More minutes would {' and '.join(more)}."
    if not trained:
        return "More minutes would change nothing: nothing was left out for want of time."
    return f"More minutes would change little: {_settings(len(trained))} planned {_was(len(trained))} trained whole."


def more_labels(made: Recommendation) -> str:
    """Whether they would probably help: what half of the texts come to."""
    fewer = made.fewer
    if fewer is None:
        return "Whether more labels would help was not measured, for want of time or texts."
    whole, half = made.contender(fewer.name).metrics[made.metric], fewer.metrics[made.metric]
    seen = (
        f"{title(fewer.name)} has {metric_name(made.metric)} {share(half)} when it is trained on half of the "
        f"texts ({fewer.examples:,}), and {share(whole)} on all"
    )
    if fewer.comparison.verdict == "better":
        return f"More labels would probably help: {seen}."
    if fewer.comparison.verdict == "equivalent":
        return f"More labels would probably change little: {seen}, the same within {fewer.comparison.margin_in_words}."
    return f"Whether more labels would help is not shown: {seen}."


def _settings(count: int) -> str:
    return "the one setting that was" if count == 1 else f"all {count} settings that were"


def _times(count: int) -> str:
    return {1: "once", 2: "twice"}.get(count, f"{count} times")


def _was(count: int) -> str:
    return "was" if count == 1 else "were"


def _of_method(made: Recommendation, chosen: Contender) -> tuple[str, str, str]:
    trained = [one for one in made.contenders if one.trained]
    others = [one for one in trained if one.name != chosen.name] + _simple(made)
    figures = {one.name: one.metrics[made.metric] for one in others if made.metric in one.metrics}
    beside = "".join(f", {title(name)} {share(figure)}" for name, figure in figures.items())
    memory = f" and {size(chosen.memory)} of memory" if chosen.memory else ""
    mine = [one for one in made.comparisons if chosen.name in (one.first, one.second)]
    assert chosen.trainable is not None
    assert chosen.total is not None
    return (
        f"Use {title(chosen.name)}: {_why_it(made, chosen)}, and has {_figure(made, chosen)} on {made.examples:,} "
        f"held-out texts{beside}.",
        f"It trains {chosen.trainable:,} parameters, {100 * chosen.trainable / chosen.total:.3g} % of the model, and "
        f"took {chosen.seconds:,.0f} s of training on {chosen.examples:,} texts{memory}.",
        f"{_sure(mine)}.",
    )


def _why_it(made: Recommendation, chosen: Contender) -> str:
    """A clause: why this one of what was trained."""
    sign = -1 if METRICS[made.metric].lower else 1
    trained = [one for one in made.contenders if one.trained]
    if len(trained) == 1:
        return "it is what could be trained in the time and memory given"
    asked = [one for one in trained if one.validation is not None] or [chosen]
    seen = max(asked, key=lambda one: -inf if one.validation is None else sign * one.validation)
    if seen.validation is None and chosen.ended is not None:
        return f"{metric_name(made.metric)} is undefined on the texts set aside, and its loss there was the lowest"
    if chosen.validation == seen.validation:
        level = [one for one in asked if one.validation == seen.validation and one.name != chosen.name]
        names = f", level with {listed([title(one.name) for one in level])}" if level else ""
        ahead = level and all(chosen.weighed and chosen.weighed > (one.weighed or 0.0) for one in level)
        further = ", and better in recorded trainings on other tasks" if ahead else ""
        return f"it did best on the texts set aside to select by{names}{further}"
    first = max(asked, key=lambda one: -1.0 if one.weighed is None else one.weighed)
    if chosen.weighed is not None and chosen.weighed == first.weighed:
        return (
            f"it did nearly as well on the {count(chosen.validation_examples or 0)} texts set aside to select by as "
            f"{title(seen.name)}, and better in recorded trainings on other tasks"
        )
    before = seen if chosen.weighed is None else first
    if any(_is_better(one, chosen.name, before.name) for one in made.comparisons):
        return f"it is better than {title(before.name)}, which did best on the texts set aside to select by"
    return f"{title(before.name)} did best on the texts set aside, but it alone beats what trains nothing"


def _of_simple(made: Recommendation, chosen: Contender) -> tuple[str, str, str]:
    """A floor, or the model as it is."""
    trained = [one for one in made.contenders if one.trained]
    if trained:
        sign = -1 if METRICS[made.metric].lower else 1
        defined = [one for one in trained if not isnan(one.metrics[made.metric])]
        best = max(defined or trained, key=lambda one: sign * one.metrics[made.metric])
        why = (
            f"no adapted model beats it: it has {_figure(made, chosen)} on {made.examples:,} held-out texts, "
            f"the best of them, {title(best.name)}, {share(best.metrics[made.metric])}"
        )
        name = floors.FLOORS[made.kind].linear if chosen.name in floors.CONSTANTS else chosen.name
        adapted = {one.name for one in trained}
        compared = [
            one for one in made.comparisons if name in (one.first, one.second) and adapted & {one.first, one.second}
        ]
        settle = _sure(compared)
    else:
        why = (
            f"no adapted model could be trained and evaluated in the time and memory given, and it has "
            f"{_figure(made, chosen)} on {made.examples:,} held-out texts"
        )
        settle = "Whether an adapted model would be better is open"
    if chosen.key:
        use = f"Use the model as it is, asked in words ({title(chosen.name)}): {why}."
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
    same = floors.CONSTANTS
    return [one for one in made.contenders if not one.trained and one.name not in same and one.metrics]


def _figure(made: Recommendation, one: Contender) -> str:
    """`accuracy 0.8571`."""
    return f"{metric_name(made.metric)} {share(one.metrics[made.metric])}"


def _sure(compared: Sequence[Comparison]) -> str:
    """What the comparisons say, as one sentence without its full stop; they are of one seed."""
    return in_one_sentence([titled(one) for one in compared], one_seed=True).removesuffix(".")


def evidence(made: Recommendation) -> Table:
    """What was tried, and how it did."""
    names = _metrics(made)
    headings = (*map(metric_heading, names), "Trained on", "Steps", "Training (s)", "Process, peak")
    lines = [
        (
            title(one.name),
            *(NOTHING if figure is None else share(figure) for figure in map(one.metrics.get, names)),
            *(NOTHING if figure is None else count(figure) for figure in (one.examples, one.steps, one.seconds)),
            NOTHING if one.memory is None else size(one.memory),
            _trained(one, made.metric) or one.setting or _asked(one),
        )
        for one in made.contenders
    ]
    notes = [
        f"On {made.examples:,} held-out texts that chose nothing. Of {made.train_examples:,} training texts, each "
        "model learnt from as many as its row says.",
        *([f"Figures on {number_of_texts(made.examples)}{too_few(made.examples)}."] if too_few(made.examples) else []),
        *([_SET_ASIDE] if any(one.validation is not None for one in made.contenders) else []),
        *([_time(made)] if made.stages else []),
        *([_AT_ONCE.format(made.at_once)] if made.at_once > 1 else []),
        *ask_notes([one.ask for one in made.contenders if one.adapter]),
        *(titled(one).words for one in made.comparisons),
        *(f"{title(name)} was left out: {_why(one)}." for name, one in made.dropped.items()),
    ]
    columns = (Column("", "left"), *map(Column, headings), Column("Note", "left"))
    return Table(EVIDENCE, columns, tuple(lines), tuple(notes))


_AT_ONCE = (
    "Up to {} trainings went on at once, so more of them were tried in the minutes than one after the other; their "
    "seconds are those beside the others."
)


def _time(made: Recommendation) -> str:
    parts = ", ".join(f"{name} {taken:,.0f} s" for name, taken in made.stages.items() if taken >= 0.5)
    return f"It took {made.seconds:,.0f} s: {parts or 'no stage of it took a second'}."


_SET_ASIDE = (
    "Texts set aside are of the training texts; what is selected by them was not trained on them. What was selected "
    "was then trained on all, where there was time: its row has as many."
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
                "accuracy": null_where_undefined(one.metrics.get(ACCURACY)),
                "f1": null_where_undefined(one.metrics.get(F1)),
                "metrics": figures_as_json(one.metrics),
                "method": one.method,
                "rate": one.rate,
                "ended": one.ended,
                "race": _trained(one, made.metric),
                "validation": one.validation,
                "validation_accuracy": one.validation if made.metric == ACCURACY else None,
                "validation_examples": one.validation_examples,
                "weighed": one.weighed,
                "examples": one.examples,
                "steps": one.steps,
                "seconds": one.seconds,
                "memory": one.memory,
                "adapter": None if one.adapter is None else str(out / one.adapter),
                "remark": one.setting,
            }
            for one in made.contenders
        ],
        "comparisons": [titled(one).words for one in made.comparisons],
        "dropped": {name: _why(one) for name, one in made.dropped.items()},
        "fewer": None
        if made.fewer is None
        else {"name": made.fewer.name, "examples": made.fewer.examples, "metrics": figures_as_json(made.fewer.metrics)},
        "train_examples": made.train_examples,
        "examples": made.examples,
        "minutes": made.minutes,
        "seconds": made.seconds,
        "stages": made.stages,
    }


def _metrics(made: Recommendation) -> list[str]:
    """The headline, and another."""
    there = next((one.metrics for one in made.contenders if one.metrics), {})
    return list(dict.fromkeys([made.metric, *there]))[:2]


def _asked(one: Contender) -> str:
    return "asked in words, not trained" if one.ask.words and not one.trained else ""


def _trained(one: Contender, metric: str) -> str:
    """At which rate, and how it did on what was set aside."""
    if one.rate is None:
        return ""
    told = f"learning rate {one.rate:.2g}"
    if one.validation is None or one.validation_examples is None:
        return told
    return f"{told}; {metric_name(metric)} {share(one.validation)} on {count(one.validation_examples)} texts set aside"


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


def titled(one: Comparison) -> Comparison:
    """With titles in place of names."""
    return replace(one, first=title(one.first), second=title(one.second))


def title(name: str) -> str:
    """A method's, with the rate where that is not its own; a floor's name is its title."""
    if name in METHODS:
        return METHODS[name].title
    for method, kind in METHODS.items():
        rate = name.removeprefix(f"{method}-")
        if rate != name and rate[:1].isdigit():
            return f"{kind.title} at {rate}"
    return name
