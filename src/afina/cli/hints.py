"""Flags in the place of fields: what the library calls `labels`, a user of the command line calls --labels.

A library message names a field in backquotes; here is the one table of what is typed for it.
"""

from __future__ import annotations

import re

FLAGS = {
    "allow_leakage": "--allow-leakage",
    "backbone": "--backbone",
    "file": "--file",
    "label": "--label",
    "labels": "--labels",
    "length": "--length",
    "memory": "--memory",
    "method": "--method",
    "minutes": "--minutes",
    "out": "--out",
    "overrides": "--set",
    "task": "--task",
    "text": "--text",
    "text_pair": "--text-pair",
    "train_examples": "data.train_examples",
    "evaluation_examples": "data.evaluation_examples",
}
"""By the library's word; what has no flag of its own is a key of a study."""

_FIELD = re.compile(r"`(\w+)`")


def with_flags(message: str) -> str:
    """A library's message as the command line says it. Words in backquotes that are no field stay."""
    return _FIELD.sub(lambda found: FLAGS.get(found[1], found[0]), message)
