"""A recommendation as a table of the evidence, and as the object that `--json` prints. Pure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from afina.report import asking, metrics
from afina.report.advice import sentences
from afina.report.tables import EVIDENCE, Column, Table
from afina.report.titles import title, titled
from afina.report.words import NOTHING, count, number_of_texts, share, size, too_few
from afina.schema import figures_as_json, null_where_undefined
from afina.studies.recommendation import Contender, Dropped, Recommendation


def evidence(made: Recommendation) -> Table:
    """What was tried, and how it did."""
    names = _metrics(made)
    headings = (*map(metrics.heading, names), "Trained on", "Steps", "Training (s)", "Process, peak")
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
        *asking.notes([one.ask for one in made.contenders if one.adapter]),
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
                "accuracy": null_where_undefined(one.metrics.get(metrics.ACCURACY)),
                "f1": null_where_undefined(one.metrics.get(metrics.F1)),
                "metrics": figures_as_json(one.metrics),
                "method": one.method,
                "rate": one.rate,
                "ended": one.ended,
                "race": _trained(one, made.metric),
                "validation": one.validation,
                "validation_accuracy": one.validation if made.metric == metrics.ACCURACY else None,
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
    return (
        f"{told}; {metrics.words(metric)} {share(one.validation)} on {count(one.validation_examples)} texts set aside"
    )


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
