"""Records -> the three tables: performance, parameters and training time, memory. Pure.

Says what each figure is in its heading and notes; the definitions are in docs/figures.md. Does not
know the paper (see `paper`), nor how a table is written or shown (see `markdown`, `terminal`).
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from afina.report.rows import groups, labels, rows
from afina.studies.record import Record

NOTHING = "–"
PERFORMANCE, COST, MEMORY, GPU_MEMORY = "Performance", "Parameters and training time", "Memory", "GPU memory"
INTERVAL, F1_INTERVAL = "95 % of accuracy", "95 % of F1"
STATE, ALLOCATED_END, RESERVED_PEAK = "State", "GPU allocated, end", "GPU reserved, peak"


@dataclass(frozen=True)
class Column:
    """A heading, and the side to which its cells are set."""

    heading: str
    align: Literal["left", "right"] = "right"


@dataclass(frozen=True)
class Table:
    """Text only; every row has one cell per column."""

    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Figure:
    """A column to be: `cell` makes the text from a row's records, one or the seeds of one setting."""

    heading: str
    cell: Callable[[Sequence[Record]], str]


@dataclass(frozen=True)
class Beside:
    """What another study adds: figures to the right of ours (by our heading), notes (by table title)."""

    figures: Mapping[str, tuple[Figure, ...]] = field(default_factory=dict)
    notes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def all_tables(records: Sequence[Record], beside: Beside) -> list[Table]:
    """Three tables, and one of GPU memory where that was measured; none where nothing is recorded."""
    if not records:
        return []
    on_gpu = [record for record in records if measured_on_gpu(record)]
    return [
        _table(
            PERFORMANCE,
            [
                figure("Accuracy", lambda record: record.accuracy, "{:.4f}".format),
                Figure(INTERVAL, lambda group: span(interval_of(group))),
                figure("F1", lambda record: record.f1, "{:.4f}".format),
                Figure(F1_INTERVAL, lambda group: span(f1_interval_of(group))),
                figure("Evaluated texts", lambda record: record.examples, count),
            ],
            records,
            _performance_notes(records),
            beside,
        ),
        _table(
            COST,
            [
                figure("Trainable", lambda record: record.trainable, count),
                figure("of which head", lambda record: record.head, count),
                figure("% of total", lambda record: 100 * record.trainable / record.total, percent),
                figure("Training time (s)", lambda record: record.seconds.train if record.steps else None, seconds),
                figure("Tokens/s", lambda record: record.tokens_per_second, count),
            ],
            records,
            _cost_notes(records),
            beside,
        ),
        _table(
            MEMORY,
            [
                figure(STATE, lambda record: record.memory.state_bytes, size),
                figure("Activations", lambda record: record.memory.activation_bytes, size),
                figure("of a batch of (tokens)", lambda record: record.memory.activation_tokens, count),
                figure("Process, peak (RSS)", lambda record: record.memory.rss_peak, size),
            ],
            records,
            [
                "State: parameters, gradients and optimiser state after the last step, summed from the tensors "
                "(parameters alone where nothing is trained). Activations: what the largest batch, or part of one "
                "that is computed at once, keeps for the backward pass; not measured under checkpointing. Process: "
                "the most main memory that the run's process ever held.",
            ],
            beside,
        ),
        *([_gpu_table(on_gpu, beside)] if on_gpu else []),
    ]


def measured_on_gpu(record: Record) -> bool:
    """Whether any GPU figure of this record may be shown: never for a run on a CPU, whatever it holds."""
    measured = (record.memory.allocated_end, record.memory.allocated_peak, record.memory.reserved_peak)
    return not record.environment.device.startswith("cpu") and any(value is not None for value in measured)


def _gpu_table(records: Sequence[Record], beside: Beside) -> Table:
    figures = [
        figure(ALLOCATED_END, lambda record: record.memory.allocated_end, size),
        figure("GPU allocated, peak", lambda record: record.memory.allocated_peak, size),
        figure(RESERVED_PEAK, lambda record: record.memory.reserved_peak, size),
    ]
    note = (
        "As PyTorch's allocator reports them for the `train` phase. End: after the last step, before gradients are "
        "freed. Reserved: held by the allocator, in use or not."
    )
    return _table(GPU_MEMORY, figures, records, [note], beside)


def figure(heading: str, value: Callable[[Record], float | None], form: Callable[[float], str]) -> Figure:
    """A column of `value` in the given form; mean ± standard deviation over seeds whose values differ."""

    def cell(records: Sequence[Record]) -> str:
        values = [found for found in map(value, records) if found is not None]
        if len(values) < len(records):
            return NOTHING
        if len(set(values)) == 1:
            return form(values[0])
        return f"{form(statistics.fmean(values))} ± {form(statistics.stdev(values))}"

    return Figure(heading, cell)


def interval_of(group: Sequence[Record]) -> tuple[float, float]:
    """The 95 % interval of the accuracy of one record, or of the seeds of one setting."""
    import numpy as np

    from afina.stats import estimates

    found = estimates.accuracy(np.array([np.array(one.gold) == np.array(one.predicted) for one in group])).interval
    return found.low, found.high


def f1_interval_of(group: Sequence[Record]) -> tuple[float, float]:
    """The same for F1, of the second label or the mean over all, as it is reported."""
    import numpy as np

    from afina.stats import estimates

    predicted = np.array([one.predicted for one in group])
    found = estimates.f1(np.array(group[0].gold), predicted, len(group[0].label_names)).interval
    return found.low, found.high


def span(interval: tuple[float, float]) -> str:
    """An interval of shares: `0.8721 to 0.9107`."""
    return f"{interval[0]:.4f} to {interval[1]:.4f}"


def count(value: float) -> str:
    """A whole number, thousands set apart."""
    return f"{value:,.0f}"


def seconds(value: float) -> str:
    """Seconds, to the hundredth as the paper prints them."""
    return f"{value:,.2f}"


def percent(value: float) -> str:
    """Four decimals as the paper prints them; all and nothing without."""
    return f"{value:.0f}" if value in (0, 100) else f"{value:.4f}"


def size(value: float) -> str:
    """Bytes in GiB (2^30) from 0.1 GiB up, in MiB (2^20) below."""
    gib = value / 2**30
    return f"{gib:.2f} GiB" if gib >= 0.1 else f"{value / 2**20:.1f} MiB"


def _table(
    title: str, figures: Sequence[Figure], records: Sequence[Record], notes: Sequence[str], beside: Beside
) -> Table:
    shown = [each for ours in figures for each in (ours, *beside.figures.get(ours.heading, ()))]
    made = rows(records)
    several_seeds = any(len(row.records) > 1 for row in made) or len({record.seed for record in records}) > 1
    columns = [Column("Method", "left"), *([Column("Seed", "left")] if several_seeds else [])]
    return Table(
        title,
        (*columns, *(Column(each.heading) for each in shown)),
        tuple(
            (row.label, *([row.seed] if several_seeds else []), *(each.cell(row.records) for each in shown))
            for row in made
        ),
        (*notes, *beside.notes.get(title, ())),
    )


def _performance_notes(records: Sequence[Record]) -> list[str]:
    names, gold = records[0].label_names, records[0].gold
    f1 = f"of the class `{names[1]}`" if len(names) == 2 else f"the plain mean over the {len(names)} classes"
    notes = [
        f"On the evaluation texts, from the weights at the end of training. F1 is {f1}. The intervals say where the "
        "figure may lie on other texts of this kind, and with other seeds where several were run."
    ]
    if gold and all(record.gold == gold for record in records):
        most, times = Counter(gold).most_common(1)[0]
        notes.append(
            f"Always answering `{names[most]}`, the most frequent label, has accuracy {times / len(gold):.4f}."
        )
    grouped = groups(records)
    for group, text in zip(grouped, labels(grouped), strict=True):
        for record in group:
            if len(record.label_names) > 1 and len(set(record.predicted)) == 1 and len(record.predicted) > 1:
                answer = record.label_names[record.predicted[0]]
                notes.append(f"{text}, seed {record.seed}, answered `{answer}` to every text.")
    return notes


def _cost_notes(records: Sequence[Record]) -> list[str]:
    totals = sorted({record.total for record in records})
    of = f"{totals[0]:,}, the parameters" if len(totals) == 1 else "the parameters"
    return [
        f"Trainable counts the classification head where it is trained. Percentages are of {of} of the classifier "
        "(backbone and head) before a method adds any.",
        "Training time is the `train` phase: optimiser steps only, without loading, encoding, evaluation and saving. "
        "Tokens are real ones; there is no padding.",
    ]
