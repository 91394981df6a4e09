"""Rows: examples whose labels are still as the data spell them, each with its place for messages; and how they are cut.

`targets.splits` turns them into a task's splits. Knows no file format and no column name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from afina import digest
from afina.data.kinds import CLASSES, Kind
from afina.data.readers.labels import Label
from afina.data.readers.notation import WHOLE
from afina.data.split import Example, Split, key
from afina.errors import InvalidData

TRAIN_SHARE = 0.8
"""Share of the hash range that becomes the training split of snippets."""

HELD_OUT = 5
"""Of so many texts of a label, one is held out where a file is cut."""

_MEASURED = " If its labels measure something and are no classes, say so with `kind` number."


@dataclass(frozen=True)
class Rows:
    """N labelled texts.

    labels   N, as they stand in the data: names or integers, numbers, or several names each
    where    names the place of row i, such as `train.csv, line 7`
    column   what the labels are called there
    names    of multi-hot labels, all of them in their order
    columns  the columns of a file by what they were taken as: `Columns.roles`
    other    in words, how to have the labels read otherwise, where that is a question
    notes    in sentences, what was found or done that the user may not expect
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

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, indices: Sequence[int]) -> Rows:
        """The rows at `indices`, in that order."""
        return replace(
            self,
            texts=[self.texts[i] for i in indices],
            pairs=None if self.pairs is None else [self.pairs[i] for i in indices],
            labels=[self.labels[i] for i in indices],
            where=lambda i: self.where(indices[i]),
        )


def rank(example: Example, purpose: str = "") -> int:
    """A stable hash of the normalised text, in [0, 2**64): equal texts have equal ranks, whatever their label.

    Ranks for different purposes have nothing to do with each other.
    """
    same = identity(example)
    hashed = digest.of_strings([same, purpose] if purpose else [same])
    return int(hashed.removeprefix(digest.PREFIX)[:16], 16)


def identity(example: Example) -> str:
    """What a text shares with those that count as the same, and with no other."""
    # Texts such as ":)" have no letter or digit; they count as the same only when they are.
    return key(example) or f"{example.text}\x1f{example.text_pair or ''}"


def identities(rows: Rows) -> list[str]:
    """The `identity` of each row."""
    return [identity(example) for example in _examples(rows)]


def hold_out(rows: Rows, strata: Sequence[str], *, both_sides: bool) -> tuple[Rows, Rows]:
    """Training and evaluation rows of one file: of each stratum the fifth of its texts of lowest `rank` is held out.

    strata      that of each row
    both_sides  whether each stratum is to have a text on either side
    Texts that are the same stay on one side, in the first one's stratum; of two of a stratum or more, at least one
    is on each side. Which are held out does not depend on the order of the file, unless the same text has two labels.
    Raises InvalidData for a stratum that has one text alone, and is to be on both sides.
    """
    of_text: dict[str, str] = {}  # the stratum of each text that is not the same as another
    ranks: dict[str, int] = {}
    first: dict[str, int] = {}
    same_as = identities(rows)
    for place, (same, example, stratum) in enumerate(zip(same_as, _examples(rows), strata, strict=True)):
        if same not in of_text:
            of_text[same], ranks[same], first[same] = stratum, rank(example), place
    by_stratum: dict[str, list[str]] = {}
    for same, stratum in of_text.items():
        by_stratum.setdefault(stratum, []).append(same)
    held: set[str] = set()
    for stratum, texts in by_stratum.items():
        if both_sides and len(texts) == 1 and len(of_text) > len(by_stratum):
            raise InvalidData(
                f"{rows.where(first[texts[0]])}: the only text of label {stratum!r}, so none of it can be kept aside "
                "to evaluate on. Give more of them, remove it, or give a file of its own to evaluate on with "
                "`evaluation`." + (_MEASURED if WHOLE.fullmatch(stratum) else ""),
                code="data.too-few-texts",
                where=rows.where(first[texts[0]]),
                label=stratum,
            )
        count = max(len(texts) > 1, (2 * len(texts) + HELD_OUT) // (2 * HELD_OUT))  # to the nearest
        held.update(sorted(texts, key=lambda same: ranks[same])[: min(count, len(texts) - 1)])
    train = [i for i, same in enumerate(same_as) if same not in held]
    return rows.take(train), rows.take([i for i, same in enumerate(same_as) if same in held])


def _examples(rows: Rows) -> list[Example]:
    pairs = rows.pairs if rows.pairs is not None else [None] * len(rows)
    return [Example(text, 0, pair) for text, pair in zip(rows.texts, pairs, strict=True)]


def divide(rows: Rows) -> tuple[Rows, Rows]:
    """Training and evaluation rows, 80/20 by `rank`, so that duplicates stay on one side; order kept."""
    train, evaluation = sides(_examples(rows))
    return rows.take(train), rows.take(evaluation)


def sides(examples: Iterable[Example]) -> tuple[list[int], list[int]]:
    """The places of those that `divide` trains on, and of those that it evaluates."""
    inside = [trains(rank(example)) for example in examples]
    return [i for i, chosen in enumerate(inside) if chosen], [i for i, chosen in enumerate(inside) if not chosen]


def trains(ranked: int) -> bool:
    """Whether `divide` trains on a text of that `rank`."""
    return ranked < TRAIN_SHARE * 2**64


def first(split: Split, count: int | None, field: str) -> Split:
    """At most `count` examples, those of lowest `rank`, in their original order; all for None."""
    if count is None:
        return split
    if count < 1:
        raise InvalidData(f"`{field}` {count}: expected at least 1.", code="argument.invalid", field=field, found=count)
    order = sorted(range(len(split)), key=lambda i: rank(split[i]))
    return split.take(sorted(order[:count]))


def cuts(train: Split, shares: Mapping[str, float]) -> tuple[Split, dict[str, Split]]:
    """A training split without about each of these shares, one cut after the other, and by name what was cut.

    By a hash of the texts: duplicates stay on one side, a text's side depends on no other text; order kept. The first
    cut is the same whatever it is for. Raises InvalidData.
    """
    made = {}
    for number, (name, share) in enumerate(shares.items()):
        # By another hash each: those that are left have none of the first one's lowest ranks.
        purpose = f"validation {number}" if number else "validation"
        chosen = [rank(example, purpose) < int(share * 2**64) for example in train]
        kept, held = [i for i, c in enumerate(chosen) if not c], [i for i, c in enumerate(chosen) if c]
        if not kept or not held:
            raise InvalidData(
                f"cutting a share of {share:g} for {name} from {len(train)} training examples left one side empty. "
                "Give more examples.",
                code="data.too-few-texts",
                share=share,
                examples=len(train),
            )
        train, made[name] = train.take(kept), train.take(held)
    return train, made
