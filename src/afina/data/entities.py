"""`Entity`: a labelled part of a text, and the BIO tags of words (Ramshaw & Marcus 1995; IOB2).

The target of a text is a tuple of entities, sorted by their starts, without overlaps. A model predicts a tag for each
word: tag 0 is O, and tags 1 + 2 l and 2 + 2 l are B and I of label l.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

OUTSIDE = 0
"""The tag O of a word that is in no entity."""


class Entity(NamedTuple):
    """A labelled part of a text, in characters (code points) of the text as given; `end` is exclusive."""

    start: int
    end: int
    label: str


def as_entities(found: Iterable[Iterable[Iterable[Any]]]) -> np.ndarray:
    return np.fromiter((tuple(Entity(*one) for one in each) for each in found), dtype=object)


def are_entities(found: Iterable[object]) -> bool:
    return all(isinstance(one, tuple) and all(isinstance(entity, Entity) for entity in one) for one in found)


def tag_names(label_names: Sequence[str]) -> tuple[str, ...]:
    """Return the names of the tags in the order of a model's outputs: O, B-LOC, I-LOC, B-PER, I-PER."""
    return ("O", *(f"{part}-{label}" for label in label_names for part in "BI"))


def labels_of_tags(names: Sequence[str]) -> tuple[str, ...] | None:
    """Return the sorted labels of which the names are all BIO tags, in any order; None if they are other names."""
    labels = tuple(sorted({name[2:] for name in names if name[:2] == "B-"}))
    return labels if sorted(names) == sorted(tag_names(labels)) else None


def numbered(found: np.ndarray, label_names: Sequence[str]) -> np.ndarray:
    """Return the start, end and label number of each entity, object [N] of int32 [E, 3], of tuples of entities."""
    numbers = {label: number for number, label in enumerate(label_names)}
    made = ([(one.start, one.end, numbers[one.label]) for one in each] for each in found)
    return np.fromiter((np.array(each, np.int32).reshape(-1, 3) for each in made), dtype=object)


def tags_of(words: np.ndarray, entities: np.ndarray) -> np.ndarray:
    """Return the tag of each word, int32 [W], from words int32 [W, 2] and entities (start, end, label) int [E, 3].

    A word belongs to an entity if they have a character in common.
    """
    tags = np.zeros(len(words), np.int32)
    for start, end, label in entities.tolist():
        first = int(np.searchsorted(words[:, 1], start, side="right"))
        last = int(np.searchsorted(words[:, 0], end, side="left"))
        begin = 1 + 2 * label
        tags[first:last] = begin + 1
        tags[first : min(first + 1, last)] = begin
    return tags


def entities_of(words: np.ndarray, tags: Sequence[int] | np.ndarray, label_names: Sequence[str]) -> tuple[Entity, ...]:
    """Return the entities that the tags of words [W] mean.

    A tag I- that does not follow a tag of the same label begins an entity, as in the script conlleval of CoNLL-2000.
    """
    found: list[Entity] = []
    before = OUTSIDE
    for (start, end), tag in zip(words.tolist(), np.asarray(tags).tolist(), strict=True):
        if tag:
            label, inside = divmod(tag - 1, 2)
            if inside and before and (before - 1) // 2 == label:
                found[-1] = found[-1]._replace(end=end)
            else:
                found.append(Entity(start, end, label_names[label]))
        before = tag
    return tuple(found)


def corrected(given: Sequence[Entity], predicted: Sequence[Entity], doubtful: np.ndarray) -> tuple[Entity, ...]:
    """Return the given entities, in which the predicted entities replace those with a doubtful word, int [n, 2].

    A given entity is left out if it has a doubtful word, or overlaps a predicted entity with a doubtful word.
    """
    taken = [one for one in predicted if _overlaps(one, doubtful)]
    borders = np.array([*doubtful.tolist(), *(one[:2] for one in taken)], np.int64).reshape(-1, 2)
    return tuple(sorted([*taken, *(one for one in given if not _overlaps(one, borders))]))


def _overlaps(entity: Entity, spans: np.ndarray) -> bool:
    return bool(((spans[:, 0] < entity.end) & (spans[:, 1] > entity.start)).any())


def with_texts(answer: Mapping[str, Any], text: str) -> dict[str, Any]:
    spans = answer.get("entities")
    if spans is None:
        return dict(answer)
    made = [
        {"start": one["start"], "end": one["end"], "label": one["label"], "text": text[one["start"] : one["end"]]}
        | {name: value for name, value in one.items() if name not in ("start", "end", "label")}
        for one in spans
    ]
    return {**answer, "entities": made}
