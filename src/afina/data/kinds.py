"""Kinds of task: what stands beside a text, and is to be told of others, and where from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

Kind = Literal["classes", "number", "labels"]
"""One label of several; a number; any number of labels at once."""

CLASSES: Kind = "classes"
NUMBER: Kind = "number"
LABELS: Kind = "labels"
KINDS: tuple[Kind, ...] = get_args(Kind)

How = Literal["refuse", "skip", "keep"]
"""What is done with a missing value: an error; its row is left out; a word such as `NA` is taken for what it says."""

HOWS: tuple[How, ...] = get_args(How)


def columns_in_words(roles: Mapping[str, str]) -> str:
    """`text: column 'body'; label: column 'stars'; not read: id, date`, of `columns` as a task has it."""
    words = {"text": "text", "text_pair": "second text", "label": "label"}
    told = [f"{words[role]}: {_quoted(name)}" for role, name in roles.items() if role in words]
    return "; ".join([*told, *([f"not read: {roles['others']}"] if "others" in roles else [])])


def _quoted(name: str) -> str:
    several = name.split(",")
    return f"column {name!r}" if len(several) == 1 else f"columns {', '.join(map(repr, several))}"
