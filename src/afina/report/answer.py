"""What an untrained model answered, in a table and a sentence. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from afina.report import asking, metrics
from afina.report.tables import Column, Table
from afina.report.words import count, share, span, too_few

if TYPE_CHECKING:  # it loads torch
    from afina.inference.asking import Answer


def tables(answer: Answer) -> list[Table]:
    """How the templates compare, where several were tried."""
    if not answer.compared:
        return []
    rows = tuple(
        (asking.quoted(one.template), share(one.accuracy), share(one.with_offset))
        for one in sorted(answer.compared, key=lambda one: -one.by(answer.offset))
    )
    columns = (Column("Template", "left"), Column("Accuracy"), Column("With offset"))
    notes = (f"On {count(answer.compared[0].examples)} training texts. {_used(answer)}",)
    return [Table("Templates", columns, rows, notes)]


def _used(answer: Answer) -> str:
    """Which template is used, and why; so that what `train` does by itself is no surprise."""
    used, usual = asking.quoted(answer.template), asking.quoted(answer.usual)
    if answer.usual not in {one.template for one in answer.compared}:
        return f"{used} is used below. Training uses {usual} where no template is given."
    if answer.template == answer.usual:
        return f"{used} is used below, as it is by training: no other is shown to be better."
    return f"{used} is used below. Training uses {usual} where no template is given."


def sentence(answer: Answer) -> str:
    """What the model answers, untrained, and in which words."""
    from afina.stats import estimates

    found = estimates.accuracy(answer.score[None]).interval
    labels = tuple(answer.words)
    figures = ", ".join(metrics.figure(name, value, labels) for name, value in list(answer.metrics.items())[:2])
    words = "; ".join(f"{name}: {', '.join(map(asking.quoted, given))}" for name, given in answer.words.items())
    return (
        f"Untrained, asked in {asking.quoted(answer.template)} ({words}): {figures} on {count(answer.examples)} "
        f"held-out text{'s' * (answer.examples != 1)} (95 % of accuracy: {span((found.low, found.high))})"
        f"{too_few(answer.examples)}."
    )
