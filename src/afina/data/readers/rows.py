"""Rows: examples whose labels are still as the data spell them, each with its place for messages.

`splits` turns them into a task's splits. Knows no file format and no column name.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from afina import digest
from afina.data.split import Example, Split, key
from afina.errors import InvalidData

TRAIN_SHARE = 0.8
"""Share of the hash range that becomes the training split of snippets."""

HELD_OUT = 5
"""Of so many texts of a label, one is held out where a file is cut."""

# Leading zeros make a code, not a number: such labels stay strings.
_WHOLE = re.compile(r"(-?(?:0|[1-9]\d*))(?:\.0*)?", re.ASCII)
_MEASUREMENT = re.compile(r"-?(?:\d*\.\d+(?:[eE][-+]?\d+)?|\d+[eE][-+]?\d+)", re.ASCII)


@dataclass(frozen=True)
class Rows:
    """N labelled texts.

    labels   N label names or integers, as they stand in the data
    where    names the place of row i, such as `train.csv, line 7`
    """

    texts: Sequence[str]
    pairs: Sequence[str] | None
    labels: Sequence[str | int]
    where: Callable[[int], str]

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, indices: Sequence[int]) -> Rows:
        """The rows at `indices`, in that order."""
        return Rows(
            [self.texts[i] for i in indices],
            None if self.pairs is None else [self.pairs[i] for i in indices],
            [self.labels[i] for i in indices],
            lambda i: self.where(indices[i]),
        )


def rank(example: Example, purpose: str = "") -> int:
    """A stable hash of the normalised text, in [0, 2**64): equal texts have equal ranks, whatever their label.

    Ranks for different purposes have nothing to do with each other.
    """
    same = _identity(example)
    hashed = digest.of_strings([same, purpose] if purpose else [same])
    return int(hashed.removeprefix(digest.PREFIX)[:16], 16)


def _identity(example: Example) -> str:
    # Texts such as ":)" have no letter or digit; they count as the same only when they are.
    return key(example) or f"{example.text}\x1f{example.text_pair or ''}"


def hold_out(rows: Rows) -> tuple[Rows, Rows]:
    """Training and evaluation rows of one file: of each label the fifth of its texts of lowest `rank` is held out.

    Texts that are the same stay on one side, as texts of the first one's label; of two of a label or more, at least one
    is on each side. Which are held out does not depend on the order of the file, unless the same text has two labels.
    """
    labels: dict[str, str] = {}  # of each text that is not the same as another
    ranks: dict[str, int] = {}
    identities = []
    for example, label in zip(_examples(rows), rows.labels, strict=True):
        same = _identity(example)
        identities.append(same)
        if same not in labels:
            labels[same], ranks[same] = _spelled(label, True), rank(example)
    by_label: dict[str, list[str]] = {}
    for same, label in labels.items():
        by_label.setdefault(label, []).append(same)
    held: set[str] = set()
    for texts in by_label.values():
        count = max(len(texts) > 1, (2 * len(texts) + HELD_OUT) // (2 * HELD_OUT))  # to the nearest
        held.update(sorted(texts, key=lambda same: ranks[same])[: min(count, len(texts) - 1)])
    train = [i for i, same in enumerate(identities) if same not in held]
    return rows.take(train), rows.take([i for i, same in enumerate(identities) if same in held])


def _examples(rows: Rows) -> list[Example]:
    pairs = rows.pairs if rows.pairs is not None else [None] * len(rows)
    return [Example(text, 0, pair) for text, pair in zip(rows.texts, pairs, strict=True)]


def divide(rows: Rows) -> tuple[Rows, Rows]:
    """Training and evaluation rows, 80/20 by `rank`, so that duplicates stay on one side; order kept."""
    limit = int(TRAIN_SHARE * 2**64)
    inside = [rank(example) < limit for example in _examples(rows)]
    train = [i for i, chosen in enumerate(inside) if chosen]
    return rows.take(train), rows.take([i for i, chosen in enumerate(inside) if not chosen])


def first(split: Split, count: int | None, field: str) -> Split:
    """At most `count` examples, those of lowest `rank`, in their original order; all for None."""
    if count is None:
        return split
    if count < 1:
        raise InvalidData(f"`{field}` {count}: expected at least 1.")
    order = sorted(range(len(split)), key=lambda i: rank(split[i]))
    return split.take(sorted(order[:count]))


def cut(train: Split, share: float) -> tuple[Split, Split]:
    """A training split without, and of, about `share` of its texts, by a hash of their own; order kept.

    Duplicates stay on one side, and a text's side depends on no other text. Raises InvalidData.
    """
    limit = int(share * 2**64)
    chosen = [rank(example, "validation") < limit for example in train]
    kept, held = [i for i, c in enumerate(chosen) if not c], [i for i, c in enumerate(chosen) if c]
    if not kept or not held:
        raise InvalidData(
            f"cutting a validation split of {share:g} from {len(train)} training examples left one side empty. "
            "Give more examples."
        )
    return train.take(kept), train.take(held)


def splits(
    train: Rows, evaluation: Rows, labels: Sequence[str] | None = None, names: Sequence[str] = ()
) -> tuple[tuple[str, ...], Split, Split]:
    """Label names and both splits.

    Integers keep their order and strings are sorted, unless `labels` gives the order, or names the
    integers 0..n-1. `names` are the data's own names of the integers 0..n-1, where it has any.
    Raises InvalidData that names the row.
    """
    known, whole = _known(train)
    if labels is None:
        named = {str(i): name for i, name in enumerate(names)}
        ordered, label_names = known, tuple(named.get(label, label) for label in known)
    else:
        ordered, label_names = _ordered(known, whole, labels), tuple(labels)
    index = {label: i for i, label in enumerate(ordered)}
    return label_names, _split(train, index, whole), _split(evaluation, index, whole)


def matched(
    rows: Rows,
    label_names: Sequence[str],
    labels: Sequence[str] | None = None,
    names: Sequence[str] = (),
    whose: str = "the adapter's",
) -> Split:
    """A split of rows whose labels are among `label_names`, by name; not all of them need to occur.

    labels  what the integers 0..n-1 of the data are called in `label_names`;  names  likewise, where nothing is said
    Raises InvalidData that lists both where a label is none of them.
    """
    spelled = {str(label) for label in rows.labels}
    whole = all(_WHOLE.fullmatch(label) for label in spelled)
    index = {name: i for i, name in enumerate(label_names)}
    called = labels if labels is not None else names
    if labels is not None and sorted(labels) != sorted(label_names):
        raise InvalidData(
            f"`labels` {','.join(labels)}: {whose} labels are {_list(label_names)}. Give each of them once, in the "
            "order of the integers from 0 that stand for them in the data."
        )
    found = {str(int(label.split(".")[0])) for label in spelled} if whole else spelled
    if called and whole and not found <= index.keys():
        index |= {str(i): index[name] for i, name in enumerate(called) if name in index}
    foreign = sorted(found - index.keys())
    if foreign:
        where = next(i for i, label in enumerate(rows.labels) if _spelled(label, whole) in foreign)
        counted = whole and found <= {str(i) for i in range(len(label_names))}
        raise InvalidData(
            f"{rows.where(where)}: its labels are {_list(sorted(found))}; {whose} are {_list(label_names)}. "
            + (
                f"Say what 0 to {len(label_names) - 1} stand for with `labels`, such as {','.join(label_names)}."
                if counted
                else "Give texts with those labels, or rename these."
            )
        )
    return _split(rows, index, whole)


def _spelled(label: str | int, whole: bool) -> str:
    """As it is told; `1.0` is `1` where labels are whole numbers."""
    match = _WHOLE.fullmatch(str(label)) if whole else None
    return str(int(match[1])) if match else str(label)


def _known(train: Rows) -> tuple[list[str], bool]:
    """The training labels in their natural order, and whether they are integers."""
    spelled = {str(label) for label in train.labels}
    whole = all(_WHOLE.fullmatch(label) for label in spelled)
    if whole:
        return [str(label) for label in sorted({int(label.split(".")[0]) for label in spelled})], True
    if all(_WHOLE.fullmatch(label) or _MEASUREMENT.fullmatch(label) for label in spelled):
        row = next(i for i, label in enumerate(train.labels) if not _WHOLE.fullmatch(str(label)))
        raise InvalidData(
            f"{train.where(row)}: label {train.labels[row]} is not a whole number. "
            "Expected names or integers; give ratings and other measurements a class each first."
        )
    return sorted(spelled), False


def _ordered(known: list[str], whole: bool, labels: Sequence[str]) -> list[str]:
    """The data's labels in the order of `labels`."""
    if not all(label.strip() for label in labels):
        raise InvalidData(f"`labels` {','.join(labels)!r}: an empty name. Give the labels in their order, with commas.")
    repeated = sorted({label for label in labels if list(labels).count(label) > 1})
    if repeated:
        raise InvalidData(f"`labels`: {', '.join(repeated)} is given twice.")
    if set(labels) == set(known):
        return list(labels)
    if whole and known == [str(i) for i in range(len(labels))]:
        return known
    raise InvalidData(
        f"`labels` {','.join(labels)}: the training split has the labels {', '.join(known[:20])}. "
        "Give each of them once, as it stands in the data"
        + (", or a name for each of the integers from 0." if whole else ".")
    )


def _split(rows: Rows, index: dict[str, int], whole: bool) -> Split:
    found = np.empty(len(rows), dtype=np.int64)
    for i, label in enumerate(rows.labels):
        spelled = _spelled(label, whole)
        if spelled not in index:
            raise InvalidData(
                f"{rows.where(i)}: label {spelled!r} does not occur in the training split, "
                f"which has {_list(index)}. Correct it, or add training examples of it."
            )
        found[i] = index[spelled]
    return Split(list(rows.texts), found, None if rows.pairs is None else list(rows.pairs))


def _list(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:20]) + (", ..." if len(names) > 20 else "")
