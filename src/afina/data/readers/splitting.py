"""Divide labelled rows into a training and an evaluation split, and cut parts from a training split.

A hash of the normalised text decides which texts are held out. Duplicate texts thus stay in one split, and the order of
the file's rows does not matter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from numbers import Integral, Real

from afina import digest
from afina.data import problems
from afina.data.kinds import CLASSES, Kind
from afina.data.readers.cells import WHOLE
from afina.data.readers.label_column import Label, OtherKind
from afina.data.split import Example, FileRows, Split, key
from afina.schema import is_number
from afina.sentence import Sentence

TRAIN_SHARE = 0.8
"""The share of the range of hashes that belongs to the training split of the `snippets` tasks."""

HELD_OUT = 5
"""If a single file is divided into two splits, one in HELD_OUT texts of each label is held out for evaluation."""

REPEATED_LIMIT = 0.01
"""The share of evaluation texts up to which repetitions of other texts give no note: up to this share, an interval is
at most 0.5 % too narrow."""

_MEASURED = Sentence.of(" If its labels measure something and are no classes, say so with `kind` number.")


@dataclass(frozen=True)
class LabelledRows:
    """N labelled texts as they were read, before labels become targets.

    Attributes:
        labels: N labels as the data spell them.
        where: Returns the file and line of row i, such as `train.csv, line 7`.
        names: All label names in their order, if the data say them. Empty: the label names are those that occur.
        columns: The names of the file's columns by role (`ColumnNames.roles`).
        groups: The group of each row, whose rows stay together. None: the rows with the same text stay together.
        spaced: Whether the texts were given as words, which single spaces join.
        rows: None: the texts are not rows of files.
    """

    texts: Sequence[str]
    pairs: Sequence[str] | None
    labels: Sequence[Label]
    where: Callable[[int], str]
    kind: Kind = CLASSES
    column: str = "label"
    names: tuple[str, ...] = ()
    columns: Mapping[str, str] = field(default_factory=dict)
    other: tuple[OtherKind, ...] = ()
    notes: tuple[str, ...] = ()
    groups: Sequence[str] | None = None
    rows: FileRows | None = None
    spaced: bool = False

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
            rows=None if self.rows is None else self.rows.take(indices),
        )


def rank(example: Example, purpose: str = "") -> int:
    """Return a stable hash of an example's normalised text, in [0, 2**64), by which texts are held out.

    The ranks of a text for different purposes are independent.
    """
    same = identity(example)
    hashed = digest.of_strings([same, purpose] if purpose else [same])
    return int(hashed.removeprefix(digest.PREFIX)[:16], 16)


def identity(example: Example) -> str:
    """Return the normalised text of an example: two examples have the same text if their identities are equal."""
    # Texts such as ":)" have no letter or digit, so their key is empty: they are compared without normalisation.
    return key(example) or f"{example.text}\x1f{example.text_pair or ''}"


def identities(rows: LabelledRows) -> list[str]:
    return [identity(example) for example in _examples(rows)]


def hold_out(rows: LabelledRows, strata: Sequence[str], *, both_sides: bool) -> tuple[LabelledRows, LabelledRows]:
    """Divide the rows of a file into training rows and evaluation rows, a fifth of each stratum.

    The texts of a stratum with the lowest `rank` are held out. Equal texts, and the texts of a group, stay in one split
    and belong to the stratum of the first of them. A stratum of two or more texts has at least one text in each split.
    Raises InvalidData if strata must be on `both_sides`, and some, but not all, have only one text.
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


def without_known(part: Split, train: Split, name: str) -> tuple[Split, tuple[str, ...]]:
    """Return a part that was held out by documents without the texts that `train` has too, and a note that counts them.

    Documents repeat texts, such as the place and date at their top. If no text would be left, the part is unchanged.
    """
    if part.groups is None:
        return part, ()
    known = {key(example) for example in train} - {""}
    kept = [i for i, example in enumerate(part) if key(example) not in known]
    repeated = len(part) - len(kept)
    if not kept or not repeated:
        return part, ()
    note = (
        f"{repeated:,} of {len(part):,} texts of the {name} split also stand in documents of the training split. They "
        f"are left out of the {name} split, not of the training split."
    )
    return part.take(kept), (note,)


def _examples(rows: LabelledRows) -> list[Example]:
    pairs = rows.pairs if rows.pairs is not None else [None] * len(rows)
    return [Example(text, 0, pair) for text, pair in zip(rows.texts, pairs, strict=True)]


def repeated(split: Split) -> int:
    return len(split) - len({identity(example) for example in split})


def repetition_notes(repeated: int, examples: int, where: str) -> list[str]:
    if repeated <= REPEATED_LIMIT * examples:
        return []
    return [
        f"{repeated:,} of {examples:,} texts of {where} repeat{'s' * (repeated == 1)} another text. An interval takes "
        "each row as a new text, so the interval is too narrow. Give each text once to correct it."
    ]


def sides(examples: Iterable[Example]) -> tuple[list[int], list[int]]:
    inside = [trains(rank(example)) for example in examples]
    return [i for i, chosen in enumerate(inside) if chosen], [i for i, chosen in enumerate(inside) if not chosen]


def trains(ranked: int) -> bool:
    return ranked < TRAIN_SHARE * 2**64


def first(split: Split, count: int | None, field: str) -> Split:
    """Return the `count` examples of a split with the lowest `rank`, in their original order; None: all examples.

    The target texts of an input are kept or left out together, so that fewer examples may be returned.
    """
    return split if count is None else split.take(first_places(split, count, field))


def first_places(split: Split, count: int, field: str) -> list[int]:
    if not is_number(count, Integral) or count < 1:
        raise problems.COUNT_INVALID(field=field, found=count)
    ranks = [rank(example) for example in split]
    order = sorted(range(len(split)), key=ranks.__getitem__)
    kept = order[:count]
    if split.labels.dtype.kind == "O" and count < len(order):
        kept = [i for i in kept if ranks[i] != ranks[order[count]]] or kept
    return sorted(kept)


def cuts(train: Split, shares: Mapping[str, float], purpose: str = "validation") -> tuple[Split, dict[str, Split]]:
    """Cut parts from a training split, one after another; return the remaining split and the cut splits by name.

    A hash of the text, or of the group, decides to which part an example belongs, so that duplicate texts stay
    together. The choice of the first part's examples does not depend on the part's name. The sizes of the parts are
    approximate. Raises InvalidData if all examples have the same text.

    Args:
        shares: The share of the training split to cut, by the name of the part.
        purpose: Parts that are cut for different purposes are independent.
    """
    made: dict[str, Split] = {}
    for number, (name, share) in enumerate(shares.items()):
        if not isinstance(share, Real) or not 0 < share < 1:
            raise problems.SHARE_INVALID(field=name, found=share)
        # Each cut needs another hash: the first cut took all texts with low ranks of its hash.
        hashed_for = f"{purpose} {number}" if number else purpose
        whole = train if train.groups is None else [Example(group, 0) for group in train.groups]
        ranks = [rank(example, hashed_for) for example in whole]
        kept, held = _below(ranks, int(share * 2**64))
        if not kept or not held:
            raise problems.CUT_EMPTY(field=name, share=share, examples=len(train))
        train, made[name] = train.take(kept), train.take(held)
    return train, made


def _below(ranks: Sequence[int], limit: int) -> tuple[list[int], list[int]]:
    """Return the indices of the ranks from `limit` on, and of those below; neither is empty if two ranks differ."""
    limit = min(max(limit, min(ranks) + 1), max(ranks)) if ranks else limit
    return [i for i, one in enumerate(ranks) if one >= limit], [i for i, one in enumerate(ranks) if one < limit]


@dataclass(frozen=True)
class TaskData:
    """The content of a task as it was read: its training and evaluation splits and facts about its targets.

    Attributes:
        label_names: If the targets are numbers or texts, the name of the target.
        metric: The standard metric of a benchmark's task. None: the default metric of the kind of task.
        ceiling: By metric, how well one human predicts what other humans say about the evaluation texts.
        separator: The text between the labels of a cell, if the file has such a separator.
    """

    label_names: tuple[str, ...]
    train: Split
    evaluation: Split
    kind: Kind = CLASSES
    metric: str | None = None
    ceiling: Mapping[str, float] = field(default_factory=dict)
    separator: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    other: tuple[OtherKind, ...] = ()
    notes: tuple[str, ...] = ()


def classes_of(train: LabelledRows) -> tuple[list[str], bool]:
    """Return the distinct labels of the training rows, sorted, and whether all labels are integers."""
    names = {str(label) for label in train.labels}
    if all(WHOLE.fullmatch(label) for label in names):
        return [str(label) for label in sorted({int(label.split(".")[0]) for label in names})], True
    return sorted(names), False
