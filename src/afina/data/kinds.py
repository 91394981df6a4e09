"""Kinds of task: whether the target of a text is a class, a number, several labels, another text or entities.

The module also has the values of options that are read before NumPy is loaded.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, TypeVar, get_args

from afina.errors import UnknownName
from afina.sentence import visible

Kind = Literal["classes", "number", "labels", "text", "entities"]
"""The kind of a task: each text has one class ("classes"), a number, any number of labels ("labels"), a target text
that the model writes ("text"), or labelled words ("entities": token classification)."""

CLASSES: Kind = "classes"
NUMBER: Kind = "number"
LABELS: Kind = "labels"
TEXT: Kind = "text"
ENTITIES: Kind = "entities"
KINDS: tuple[Kind, ...] = get_args(Kind)

WRITTEN = TEXT
"""The kind of tasks whose target is a text that a model learns to write: "text"."""

How = Literal["refuse", "skip", "keep"]
"""How to treat a missing text or label: raise an error, skip the row, or keep a word such as `NA` as a text."""

HOWS: tuple[How, ...] = get_args(How)

Long = Literal["refuse", "skip"]
"""How to treat a target text that is too long: raise an error ("refuse"), or leave the target out ("skip")."""

LONGS: tuple[Long, ...] = get_args(Long)

Duplicates = Literal["keep", "once", "agreed"]
"""Which training rows with the text of another row are read: all ("keep"); one for each label of a text, and none for
held-out texts ("once"); or one for each text whose rows have the same label ("agreed")."""

ALL_DUPLICATES: tuple[Duplicates, ...] = get_args(Duplicates)

Draw = Literal["fixed", "nearest"]
"""Which training examples stand in a prompt: the same for all texts ("fixed"), or for each text the most similar ones
by TF-IDF ("nearest")."""

DRAWS: tuple[Draw, ...] = get_args(Draw)
FIXED, NEAREST = DRAWS


Value = TypeVar("Value", bound=str)


def one_of(option: str, value: str, known: Sequence[Value]) -> Value:
    """Return the value of an option among those `known`. Raises UnknownName."""
    for each in known:
        if each == value:
            return each
    raise UnknownName(option, value, known)


def columns_in_words(roles: Mapping[str, str]) -> str:
    """Return a task's `columns` in words: `text: column 'body'; label: column 'stars'; not read: id, date`."""
    words = {"text": "text", "text_pair": "second text", "label": "label", "target": "target", "group": "kept together"}
    parts = [f"{words[role]}: {_quoted(name)}" for role, name in roles.items() if role in words]
    return "; ".join([*parts, *([f"not read: {visible(roles['others'])}"] if "others" in roles else [])])


FEW_OF_LABEL, MOST_RARE = 5, 5


def rare_labels(held_out: Iterable[tuple[str, int]], metric: str, unit: str = "texts") -> list[str]:
    """Return a sentence on the labels that decide a mean over labels, because fewer than FEW_OF_LABEL texts have each.

    Args:
        held_out: The name of each label, and its number of held-out texts or entities (`unit`).
        metric: The mean over labels in words, such as "macro F1".
    """
    rare = [f"{visible(name)!r} ({number})" for name, number in held_out if 0 < number < FEW_OF_LABEL]
    shown = [*rare[:MOST_RARE], *([f"and {len(rare) - MOST_RARE} more"] if len(rare) > MOST_RARE else [])]
    if not shown:
        return []
    return [
        f"Fewer than {FEW_OF_LABEL} held-out {unit} have the label {', '.join(shown)}: single {unit} decide much of "
        f"{metric} and of its interval."
    ]


def _quoted(name: str) -> str:
    several = name.split(",")
    return f"column {name!r}" if len(several) == 1 else f"columns {', '.join(map(repr, several))}"
