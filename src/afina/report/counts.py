"""Counts of parameters -> one table. Pure; each figure is defined in docs/figures.md."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from afina.report.tables import Column, Table
from afina.report.words import count, percent

if TYPE_CHECKING:  # it loads torch
    from afina.methods.parameters import Counted

PUBLISHED = "as published"


def counts_table(backbone: str, counted: Counted) -> Table:
    """A row for each method, by its key; two where a run counts otherwise than the published study, and a line why."""
    lines = tuple(_lines(counted))
    several = any(PUBLISHED in line[0] for line in lines)
    why = "The published study counts PreLayer without the head, which a run trains too, unless train_head is false."
    return Table(
        f"{backbone}: {counted.total:,} parameters with a head for two labels",
        (Column("Method", "left"), *map(Column, ("Trainable", "% of total", "Body", "Head"))),
        lines,
        (why,) if several else (),
    )


def _lines(counted: Counted) -> Iterator[tuple[str, ...]]:
    for name, run in counted.as_run.items():
        published = counted.methods[name]
        for label, one in {name: run, **({f"{name}, {PUBLISHED}": published} if published != run else {})}.items():
            share = percent(100 * one.trainable / counted.total)
            yield (label, count(one.trainable), share, count(one.body), count(one.head))


def as_json(backbone: str, counted: Counted) -> Mapping[str, object]:
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
