"""Answers in words, by the kind of task. Pure."""

from __future__ import annotations

from typing import Any

from afina.studies.record import Record


def in_words(record: Record, answer: Any) -> str:
    """What was right or answered: a label's name, a number to four digits, the names of several labels or `none`.

    answer  as `tolist` of an array of targets gives it; several labels: a sequence of 0 or 1
    """
    if record.kind == "number":
        return f"{answer:.4g}".replace("-", "−")
    if record.kind == "labels":
        has = [name for name, one in zip(record.label_names, answer, strict=True) if one]
        return ", ".join(has) or "none"
    return str(record.label_names[answer])
