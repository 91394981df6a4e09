"""Splits from LabelledRows: which texts are held out, and labels as targets (class indices, numbers, multi-hot rows).

A text is held out by a hash of its normalised form, so duplicates stay on one side and the order of the file does not
matter. The module does not know file formats or column names. `target_kinds` chooses the function for a kind of task.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from numbers import Integral, Real

from afina import digest
from afina.data import problems
from afina.data.kinds import CLASSES, Kind
from afina.data.readers.label_column import Label
from afina.data.readers.number_notation import WHOLE
from afina.data.split import Example, Split, key

TRAIN_SHARE = 0.8
"""Share of the hash range that becomes the training split of snippets."""

HELD_OUT = 5
"""One in HELD_OUT texts of each label is held out if one file becomes two splits."""

REPEATED_LIMIT = 0.01
"""Share of evaluated texts that may repeat another without a note: an interval is then at most 0.5 % too narrow."""

_MEASURED = " If its labels measure something and are no classes, say so with `kind` number."


@dataclass(frozen=True)
class LabelledRows:
    """N labelled texts.

    Attributes:
        labels: N labels as the data spell them: names or integers, numbers, several names each, or references.
        where: A function that returns file and line of row i, such as `train.csv, line 7`.
        column: The name of the label column.
        names: All names of the labels in their order, if the file has them, lists are multi-hot, or each label has a
            column. Empty: every label may occur.
        columns: The file's columns by role (`ColumnNames.roles`).
        other: How to read the labels as another kind, in words, if the kind is a question.
        notes: Sentences about unexpected findings.
        groups: The group of each row: rows of one group are on one side of a cut. None: rows of one text are.
    """

    texts: Sequence[str]
    pairs: Sequence[str] | None
    labels: Sequence[Label]
    where: Callable[[int], str]
    kind: Kind = CLASSES
    column: str = "label"
    names: tuple[str, ...] = ()
    columns: Mapping[str, str] = field(default_factory=dict)
    other: str = ""
    notes: tuple[str, ...] = ()
    groups: Sequence[str] | None = None

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, indices: Sequence[int]) -> LabelledRows:
        return replace(
            self,
            texts=[self.texts[i] for i in indices],
            pairs=None if self.pairs is None else [self.pairs[i] for i in indices],
            labels=[self.labels[i] for i in indices],
            groups=None if self.groups is None else [self.groups[i] for i in indices],
            where=lambda i: self.where(indices[i]),
        )


def rank(example: Example, purpose: str = "") -> int:
    """Return a stable hash of the normalised text, in [0, 2**64). Equal texts have equal ranks, regardless of labels.

    Ranks for different purposes are independent.
    """
    same = identity(example)
    hashed = digest.of_strings([same, purpose] if purpose else [same])
    return int(hashed.removeprefix(digest.PREFIX)[:16], 16)


def identity(example: Example) -> str:
    """Return the string by which texts are compared: two texts count as the same if their identities are equal."""
    # Texts such as ":)" have no letter or digit, so their key is empty: they are compared without normalisation.
    return key(example) or f"{example.text}\x1f{example.text_pair or ''}"


def identities(rows: LabelledRows) -> list[str]:
    """Return the `identity` of each row."""
    return [identity(example) for example in _examples(rows)]


def hold_out(rows: LabelledRows, strata: Sequence[str], *, both_sides: bool) -> tuple[LabelledRows, LabelledRows]:
    """Return training and evaluation rows of one file: the fifth of each stratum with the lowest `rank` is held out.

    strata      the stratum of each row
    both_sides  whether each stratum must have a text in both splits
    Equal texts, or groups, stay in one split, and in the stratum of the first. A stratum of two or more texts has at
    least one in each split. The split does not depend on the order of the file, unless a text has two labels.
    Raises InvalidData if `both_sides` is true and some strata, but not all, have only one text.
    """
    of_text: dict[str, str] = {}  # the stratum by identity
    ranks: dict[str, int] = {}
    first: dict[str, int] = {}
    whole = _examples(rows) if rows.groups is None else [Example(group, 0) for group in rows.groups]
    same_as = [identity(example) for example in whole]
    for place, (same, example, stratum) in enumerate(zip(same_as, whole, strata, strict=True)):
        if same not in of_text:
            of_text[same], ranks[same], first[same] = stratum, rank(example), place
    by_stratum: dict[str, list[str]] = {}
    for same, stratum in of_text.items():
        by_stratum.setdefault(stratum, []).append(same)
    held: set[str] = set()
    for stratum, texts in by_stratum.items():
        if both_sides and len(texts) == 1 and len(of_text) > len(by_stratum):
            raise problems.ONLY_TEXT_OF_LABEL(
                where=rows.where(first[texts[0]]),
                label=stratum,
                _measured=_MEASURED if WHOLE.fullmatch(stratum) else "",
            )
        count = max(len(texts) > 1, (2 * len(texts) + HELD_OUT) // (2 * HELD_OUT))  # to the nearest
        held.update(sorted(texts, key=lambda same: ranks[same])[: min(count, len(texts) - 1)])
    train = [i for i, same in enumerate(same_as) if same not in held]
    return rows.take(train), rows.take([i for i, same in enumerate(same_as) if same in held])


def _examples(rows: LabelledRows) -> list[Example]:
    pairs = rows.pairs if rows.pairs is not None else [None] * len(rows)
    return [Example(text, 0, pair) for text, pair in zip(rows.texts, pairs, strict=True)]


def divide(rows: LabelledRows) -> tuple[LabelledRows, LabelledRows]:
    """Return training and evaluation rows, 80/20 by `rank`, so that duplicates stay in one split. The order is kept."""
    train, evaluation = sides(_examples(rows))
    return rows.take(train), rows.take(evaluation)


def repeated(split: Split) -> int:
    """Return how many examples have the text of an earlier one."""
    return len(split) - len({identity(example) for example in split})


def repetition_notes(repeated: int, examples: int, where: str) -> list[str]:
    """Return a note if more than REPEATED_LIMIT of the evaluated texts repeat another."""
    if repeated <= REPEATED_LIMIT * examples:
        return []
    return [
        f"{repeated:,} of {examples:,} texts of {where} repeat{'s' * (repeated == 1)} another text. An interval takes "
        "each row as a new text, so the interval is too narrow. Give each text once to correct it."
    ]


def sides(examples: Iterable[Example]) -> tuple[list[int], list[int]]:
    """Return the indices of the training examples and of the evaluation examples of `divide`."""
    inside = [trains(rank(example)) for example in examples]
    return [i for i, chosen in enumerate(inside) if chosen], [i for i, chosen in enumerate(inside) if not chosen]


def trains(ranked: int) -> bool:
    """Return whether `divide` puts a text of this `rank` into the training split."""
    return ranked < TRAIN_SHARE * 2**64


def first(split: Split, count: int | None, field: str) -> Split:
    """Return the `count` examples of lowest `rank`, in their original order. None: no limit.

    If targets are texts, the references of an input are kept together, so there may be fewer.
    """
    if count is None:
        return split
    if not isinstance(count, Integral) or count < 1:
        raise problems.COUNT_INVALID(field=field, found=count)
    ranks = [rank(example) for example in split]
    order = sorted(range(len(split)), key=ranks.__getitem__)
    kept = order[:count]
    if split.labels.dtype.kind == "O" and count < len(order):
        kept = [i for i in kept if ranks[i] != ranks[order[count]]] or kept
    return split.take(sorted(kept))


def cuts(train: Split, shares: Mapping[str, float]) -> tuple[Split, dict[str, Split]]:
    """Cut shares from a training split, one after another. Return the remaining split, and the cut splits by name.

    A hash of the text, or of the group, decides. So duplicates stay together and no text depends on other texts. The
    order is kept. The first cut does not depend on the share's name. Shares are approximate. Raises InvalidData if a
    side is empty.
    """
    made: dict[str, Split] = {}
    for number, (name, share) in enumerate(shares.items()):
        if not isinstance(share, Real) or not 0 < share < 1:
            raise problems.SHARE_INVALID(field=name, found=share)
        # Each cut needs another hash: the first cut took all texts with low ranks of its hash.
        purpose = f"validation {number}" if number else "validation"
        whole = train if train.groups is None else [Example(group, 0) for group in train.groups]
        chosen = [rank(example, purpose) < int(share * 2**64) for example in whole]
        kept, held = [i for i, c in enumerate(chosen) if not c], [i for i, c in enumerate(chosen) if c]
        if not kept or not held:
            raise problems.CUT_EMPTY(field=name, share=share, examples=len(train))
        train, made[name] = train.take(kept), train.take(held)
    return train, made


@dataclass(frozen=True)
class TaskData:
    """The result of reading a task.

    Attributes:
        label_names: The names of classes or labels in their order; for numbers, the name of the target.
        metric: The standard metric of a benchmark's task. None: the kind's.
        ceiling: By metric, how well one human predicts what others say about the evaluation split, if known.
        separator: The text between the labels of a cell, if the file has one.
        column: The name of the label column.
        columns, other, notes: For a file, as in `LabelledRows`.
    """

    label_names: tuple[str, ...]
    train: Split
    evaluation: Split
    kind: Kind = CLASSES
    metric: str | None = None
    ceiling: Mapping[str, float] = field(default_factory=dict)
    separator: str | None = None
    column: str = "label"
    columns: Mapping[str, str] = field(default_factory=dict)
    other: str = ""
    notes: tuple[str, ...] = ()


def classes_of(train: LabelledRows) -> tuple[list[str], bool]:
    """Return the training labels in their natural order, and whether all are integers."""
    names = {str(label) for label in train.labels}
    if all(WHOLE.fullmatch(label) for label in names):
        return [str(label) for label in sorted({int(label.split(".")[0]) for label in names})], True
    return sorted(names), False
