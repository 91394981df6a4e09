"""Tables of a report: performance, parameters and training time, memory; also parameter counts before training."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import isnan
from typing import TYPE_CHECKING, Literal

from afina.report.arms import Arm, Value, keeping, records_of
from afina.report.formatting import (
    NOTHING,
    UNDEFINED,
    count,
    counted,
    interval_heading,
    metric_heading,
    metric_value,
    metrics_of,
    percent,
    seconds,
    share,
    size,
    span,
)
from afina.studies.published import Published
from afina.studies.runs.record import Record

if TYPE_CHECKING:  # the import loads torch
    from afina.methods.attachment import BackboneCounts


EVIDENCE = "Evidence"
PERFORMANCE, COST, MEMORY, GPU_MEMORY = "Performance", "Parameters and training time", "Memory", "GPU memory"
ANSWERS, FURTHER = "Time and memory of answers", "Further figures"
EACH_SEED = "Each seed by itself"

STATE, ALLOCATED_END, RESERVED_PEAK = "State", "GPU allocated, end", "GPU reserved, peak"


@dataclass(frozen=True)
class Column:
    """A column of a table; a `minor` one can be left out on a narrow terminal."""

    heading: str
    align: Literal["left", "right"] = "right"
    minor: bool = False


def columns_of(left: Iterable[str], right: Iterable[str] = ()) -> tuple[Column, ...]:
    """Return columns with these headings: first those that are aligned to the left."""
    return (*(Column(heading, "left") for heading in left), *map(Column, right))


@dataclass(frozen=True)
class Table:
    """A table of a report as plain text; every row has one cell per column.

    Attributes:
        singles: The rows of single seeds; `rows` has the means over the seeds.
        details: Sentences that only the report shows, not the terminal.
    """

    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()
    singles: tuple[tuple[str, ...], ...] = ()
    details: tuple[str, ...] = ()


@dataclass(frozen=True)
class Measure:
    """A column of a table as a function: `cell` returns the text of the cell for a method with one or several seeds."""

    heading: str
    cell: Callable[[Arm], str]
    minor: bool = False


def all_tables(
    arms: Sequence[Arm], notes: Sequence[str] = (), published: Published | None = None, *, headed: bool = True
) -> list[Table]:
    """Return the tables of metrics, costs and memory; a table without figures is left out."""
    if not arms:
        return []
    computed = any(arm.record.endpoint is None for arm in arms)
    on_gpu = keeping(arms, measured_on_gpu)
    return [
        table_of(PERFORMANCE, _performance(arms, published), arms, notes, _sources(arms, published)),
        *([table_of(FURTHER, further, arms, [_FURTHER_NOTE])] if (further := _further(arms, published)) else []),
        *([table_of(COST, _cost(headed), arms, _cost_notes(arms, headed))] if computed else []),
        *([table_of(MEMORY, _memory(), arms, [_MEMORY_NOTE])] if computed else []),
        *([table_of(GPU_MEMORY, _gpu_memory(), on_gpu, [_GPU_NOTE])] if on_gpu else []),
    ]


def measured_on_gpu(record: Record) -> bool:
    """Return whether a run measured GPU memory; False for every run on a CPU, even if its record has GPU figures."""
    measured = (record.memory.allocated_end, record.memory.allocated_peak, record.memory.reserved_peak)
    return not record.environment.device.startswith("cpu") and any(value is not None for value in measured)


def measure(heading: str, value: Value, form: Callable[[float], str]) -> Measure:
    """Return a column of values; a cell of several seeds with different values has their mean ± standard deviation."""

    def cell(arm: Arm) -> str:
        values = [found for found in map(value, arm.records) if found is not None]
        if len(values) < len(arm.records):
            return NOTHING
        if any(map(isnan, values)):
            return UNDEFINED
        if len(set(values)) == 1:
            return form(values[0])
        return f"{form(statistics.fmean(values))} ± {form(statistics.stdev(values))}"

    return Measure(heading, cell)


def table_of(
    title: str, measures: Sequence[Measure], arms: Sequence[Arm], notes: Sequence[str], last: Sequence[str] = ()
) -> Table:
    """Return a table with a row for each method (arm) and a column for each measure; `last` are the last notes."""
    means = [arm for arm in arms if len(arm.results) > 1]
    name_seeds = len({seed for arm in arms for seed in arm.seeds}) > 1
    columns = [Column("Method", "left"), *([Column("Seeds", "left")] if name_seeds else [])]

    def row(line: Arm) -> tuple[str, ...]:
        return (line.label, *([line.seeds_in_words] if name_seeds else []), *(each.cell(line) for each in measures))

    return Table(
        title,
        (*columns, *(Column(each.heading, minor=each.minor) for each in measures)),
        tuple(map(row, arms)),
        (*notes, *([_MEAN_NOTE] if means else []), *last),
        tuple(row(single) for arm in means for single in arm.each()),
    )


_MEAN_NOTE = "With several seeds: mean ± standard deviation over them; each by itself is in the report."


def _performance(arms: Sequence[Arm], published: Published | None) -> list[Measure]:
    made = []
    for metric in metrics_of(arms[0].record)[:2]:
        made += [*_of_metric(metric, arms, published), _interval(metric)]
    same = len({record.examples for record in records_of(arms)}) == 1
    return [*made, replace(measure("Evaluated texts", lambda record: record.examples, count), minor=same)]


_FURTHER_NOTE = (
    "Of the same answers; their intervals are in tables.csv. Verdicts are about the first figure of the table above; "
    "another can take its place with `metric`."
)


def _interval(metric: str) -> Measure:
    def cell(arm: Arm) -> str:
        found = arm.interval(metric)
        return NOTHING if found is None else span(found)

    return Measure(interval_heading(metric), cell)


def _further(arms: Sequence[Arm], published: Published | None) -> list[Measure]:
    """Return the columns of all metrics after the first two, without intervals; tables.csv has the intervals."""
    return [column for name in metrics_of(arms[0].record)[2:] for column in _of_metric(name, arms, published)]


def _of_metric(name: str, arms: Sequence[Arm], published: Published | None) -> list[Measure]:
    """Return the column of a metric, and beside it that of the published figures if there are any."""
    columns = [measure(metric_heading(name, arms[0].record.label_names), metric_value(name), share)]
    figures = published_figures(arms, published, name)
    if figures:

        def cell(arm: Arm) -> str:
            return share(figures[arm.label]) if arm.label in figures else NOTHING

        columns.append(Measure(f"{metric_heading(name)}, published", cell))
    return columns


def published_figures(arms: Sequence[Arm], published: Published | None, metric: str) -> dict[str, float]:
    methods = published.methods if published else {}
    return {arm.label: methods[arm.record.name][metric] for arm in arms if metric in methods.get(arm.record.name, {})}


def _sources(arms: Sequence[Arm], published: Published | None) -> list[str]:
    if published is None or not any(published_figures(arms, published, name) for name in metrics_of(arms[0].record)):
        return []
    return [
        f"Published: {published.source}. These figures were not measured here; they hold for the data and the model of "
        "their source."
    ]


def _cost(headed: bool) -> list[Measure]:
    return [
        measure("Trainable", _here(lambda record: record.trainable), count),
        *([measure("of which head", _here(lambda record: record.head), count)] if headed else []),
        measure("% of total", _here(lambda record: 100 * record.trainable / record.total), percent),
        measure("Training time (s)", lambda record: record.seconds.train if record.steps else None, seconds),
        measure("Tokens/s", lambda record: record.tokens_per_second, count),
    ]


def _cost_notes(arms: Sequence[Arm], headed: bool) -> list[str]:
    records = records_of(arms)
    totals = {record.total for record in records if record.endpoint is None}
    of = f"{min(totals):,}, the parameters" if len(totals) == 1 else "the parameters"
    model = "classifier (backbone and head)" if headed else "language model"
    return [
        f"{'Trainable counts the classification head where it is trained. ' * headed}Percentages are of {of} of the "
        f"{model} before a method adds any.",
        "Training time is the `train` phase: optimiser steps only, without loading, encoding, evaluation and saving. "
        "Tokens are real ones; there is no padding.",
        *_at_once(records),
        *_together(records),
        *_processors(records),
    ]


def _at_once(records: Sequence[Record]) -> list[str]:
    beside = [record.at_once for record in records if record.at_once > 1]
    if not beside:
        return []
    return [
        f"{len(beside)} of {len(records)} runs shared the machine with others, up to {max(beside)} at once: training "
        "times and tokens per second are those beside the others, each with its share of the processors."
    ]


def _together(records: Sequence[Record]) -> list[str]:
    made = [record.devices for record in records if record.devices is not None]
    if not made:
        return []
    counts = " or ".join(map(str, sorted({one.count for one in made})))
    peaks = [peak for one in made for peak in one.rss_peaks if peak is not None]
    return [
        f"{len(made)} of {len(records)} runs were computed by {counts} processes together: training times are those of "
        "all processes at once, and memory is that of the first process"
        f"{f' (the largest peak of a process is {size(max(peaks))})' if peaks else ''}."
    ]


def _processors(records: Sequence[Record]) -> list[str]:
    ran = Counter(record.environment.processor for record in records)
    if len(ran) < 2:
        return []
    said = ", ".join(f"{processor} ({counted(number, 'run')})" for processor, number in ran.items())
    return [
        f"The runs were executed on {len(ran)} processors: {said}. Rounding differs between processors, so digests "
        "from different processors are not compared. Times on different processors are not comparable."
    ]


def _memory() -> list[Measure]:
    return [
        measure(STATE, _here(lambda record: record.memory.state_bytes), size),
        measure("Activations", lambda record: record.memory.activation_bytes, size),
        measure("of a batch of (tokens)", lambda record: record.memory.activation_tokens, count),
        measure("Process, peak (RSS)", _here(lambda record: record.memory.rss_peak), size),
    ]


def _here(value: Value) -> Value:
    """Return a function that reads a cost of this machine: None for the answers of a model behind an API."""
    return lambda record: value(record) if record.endpoint is None else None


_MEMORY_NOTE = (
    "State: parameters, gradients and optimiser state after the last step, summed from the tensors (parameters alone "
    "where nothing is trained). Activations: what the largest batch, or part of one that is computed at once, keeps "
    "for the backward pass; not measured under checkpointing. Process: the most main memory that the run's process "
    "ever held."
)


def _gpu_memory() -> list[Measure]:
    return [
        measure(ALLOCATED_END, lambda record: record.memory.allocated_end, size),
        measure("GPU allocated, peak", lambda record: record.memory.allocated_peak, size),
        measure(RESERVED_PEAK, lambda record: record.memory.reserved_peak, size),
    ]


_GPU_NOTE = (
    "As PyTorch's allocator reports them for the `train` phase. End: after the last step, before gradients are freed. "
    "Reserved: held by the allocator, in use or not."
)


PUBLISHED = "as published"
PUBLISHED_HYPERPARAMETERS: Mapping[str, Mapping[str, object]] = {
    "prelayer": {"train_head": False},
    "prelayer-46080": {"train_head": False},
}
"""The hyperparameters by method that give the parameter counts of the study that preset `paper` repeats."""


def counts_table(backbone: str, counted: BackboneCounts) -> Table:
    """Return a table of the trainable parameters of each method; in two rows if a published count differs."""
    lines = tuple(_counts(counted))
    several = any(PUBLISHED in line[0] for line in lines)
    why = "The published study counts PreLayer without the head, which a run trains too, unless train_head is false."
    return Table(
        f"{backbone}: {counted.total:,} parameters with a head for two labels",
        columns_of(["Method"], ["Trainable", "% of total", "Body", "Head"]),
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
    """Return each method's parameter counts as JSON values: as published, and under `as_run` as a run counts them."""
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
