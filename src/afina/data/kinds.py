"""Kinds of task: what stands beside a text, and is to be told of others."""

from __future__ import annotations

from typing import Literal, get_args

Kind = Literal["classes", "number", "labels"]
"""One label of several; a number; any number of labels at once."""

CLASSES: Kind = "classes"
NUMBER: Kind = "number"
LABELS: Kind = "labels"
KINDS: tuple[Kind, ...] = get_args(Kind)
