"""Before anything is trained: parameters that each method trains, and what it is foreseen to take, as tables.

Pure; each figure is defined in docs/figures.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from afina.report.formatting import NOTHING, count, percent, seconds, size
from afina.report.tables import Column, Table
from afina.studies.runs.run import Forecast

if TYPE_CHECKING:  # it loads torch
    from afina.methods.attachment import BackboneCounts


_HEADINGS = ("Trainable", "State", "Activations", "Peak on a CPU", "Peak on a GPU", "On disk")


def forecast_table(forecasts: Sequence[Forecast]) -> Table:
    """A row for each method, and in the notes what was assumed and what fits. Expects at least one forecast.

    The time of training is a column where it is foreseen.
    """
    terms = forecasts[0].terms
    limit = size(terms.memory)
    source = f"the largest training batch of `{terms.task}`" if terms.task else "one batch (no task was given)"
    timed = any(one.train_seconds for one in forecasts)
    rows = tuple(
        (
            one.title,
            count(one.trainable),
            size(one.state_bytes),
            NOTHING if one.activation_bytes is None else size(one.activation_bytes),
            size(one.peak),
            size(one.gpu_peak),
            size(one.disk_bytes),
            *([seconds(one.train_seconds) if one.train_seconds else NOTHING] if timed else []),
            "yes" if one.fits else "no",
        )
        for one in forecasts
    )
    return Table(
        f"Plan for {terms.backbone}, training in {terms.dtype}",
        (Column("Method", "left"), *map(Column, (*_HEADINGS, *["Training (s)"] * timed, "Fits"))),
        rows,
        (
            _fitting(forecasts, limit),
            f"Training computes in {terms.dtype}. Without `--dtype`, that is what `afina train` chooses here.",
            f"Activations are those of {source}: {terms.texts:,} texts, {terms.tokens:,} tokens, {terms.longest:,} in "
            "the longest text. In float32, state is also what PyTorch has allocated on a GPU after the last step.",
            f"Peak on a CPU: every tensor of a run at its height, and {size(terms.process)} for Python and the "
            "libraries. Peak on a GPU: state and activations, an estimate.",
            _time(forecasts),
        ),
    )


def _fitting(forecasts: Sequence[Forecast], limit: str) -> str:
    on_cpu = f"What fits in {limit} of main memory: {_words([one.title for one in forecasts if one.fits])}."
    gpu = forecasts[0].terms.gpu
    if gpu is None:
        return f"{on_cpu} There is no GPU here; `--memory` says how much another machine's has."
    on_gpu = _words([one.title for one in forecasts if one.fits_gpu])
    return f"{on_cpu} On a GPU with {size(gpu)}, by estimate: {on_gpu}."


def _words(titles: Sequence[str]) -> str:
    return ", ".join(titles) or "nothing"


def _time(forecasts: Sequence[Forecast]) -> str:
    if any(one.train_seconds for one in forecasts):
        epochs = forecasts[0].terms.epochs
        return (
            f"Training time is for {epochs} epoch(s) on this machine, from a few steps of each method that fits in it."
        )
    return "Training time is foreseen where a task is given and the backbone's weights are here."


PUBLISHED = "as published"


def counts_table(backbone: str, counted: BackboneCounts) -> Table:
    """A row for each method, by its key; two where a run counts otherwise than the published study, and a line why."""
    lines = tuple(_counts(counted))
    several = any(PUBLISHED in line[0] for line in lines)
    why = "The published study counts PreLayer without the head, which a run trains too, unless train_head is false."
    return Table(
        f"{backbone}: {counted.total:,} parameters with a head for two labels",
        (Column("Method", "left"), *map(Column, ("Trainable", "% of total", "Body", "Head"))),
        lines,
        (why,) if several else (),
    )


def _counts(counted: BackboneCounts) -> Iterator[tuple[str, ...]]:
    for name, run in counted.as_run.items():
        published = counted.methods[name]
        for label, one in {name: run, **({f"{name}, {PUBLISHED}": published} if published != run else {})}.items():
            share = percent(100 * one.trainable / counted.total)
            yield (label, count(one.trainable), share, count(one.body), count(one.head))


def counts_as_json(backbone: str, counted: BackboneCounts) -> Mapping[str, object]:
    """Plain values: each method's counts as published, and `as_run` those that a run has."""
    return {
        "backbone": backbone,
        "total": counted.total,
        "methods": {
            name: {
                "trainable": one.trainable,
                "body": one.body,
                "head": one.head,
                "as_run": {"trainable": run.trainable, "body": run.body, "head": run.head},
            }
            for name, one in counted.methods.items()
            for run in (counted.as_run[name],)
        },
    }
