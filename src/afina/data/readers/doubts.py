"""What is doubtful in the labels of a file: texts with two labels, and labels that differ in their spelling alone.

Knows rows; knows no file format.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from afina.data.readers.kinds import TARGETS
from afina.data.readers.labels import Label
from afina.data.readers.rows import Rows, identities
from afina.errors import InvalidData

SHOWN = 5
"""Groups of labels that a message names."""


def folded(name: str) -> str:
    """A label without what a slip changes: case, white space, invisible characters, and the Unicode form."""
    shown = (character for character in unicodedata.normalize("NFKC", name) if unicodedata.category(character) != "Cf")
    return " ".join("".join(shown).casefold().split())


@dataclass(frozen=True)
class Spellings:
    """The one way in which each label is written; of labels that are the same when `folded`.

    kept  by what labels are when folded; empty where labels are taken as they stand
    """

    kept: Mapping[str, str]

    @classmethod
    def of(cls, rows: Rows, labels: Sequence[str] | None, *, merge: bool) -> Spellings:
        """Of training rows: with `merge` the most frequent stands for all, and of two as frequent the first by name.

        labels  the user's; where all labels of a group are among them, they are different ones
        Raises InvalidData where some labels differ in their spelling alone, and are not to be merged.
        """
        counts = Counter(name for label in rows.labels for name in TARGETS[rows.kind].names(label))
        groups: dict[str, list[str]] = {}
        for name in sorted(counts):
            groups.setdefault(folded(name), []).append(name)
        given = set(labels or ())
        if merge:
            found = {same: max(names, key=lambda one: counts[one]) for same, names in groups.items()}
            return cls({same: name for same, name in found.items() if not set(groups[same]) <= given - {name}})
        alike = [names for names in groups.values() if len(names) > 1 and not set(names) <= given]
        if alike:
            told = "; ".join(" and ".join(map(repr, names)) for names in alike[:SHOWN])
            names_in = TARGETS[rows.kind].names
            place = next(i for i, label in enumerate(rows.labels) if alike[0][1] in names_in(label))
            raise InvalidData(
                f"{rows.where(place)}: labels differ only by case, spaces or the Unicode form of a character: {told}. "
                "Write each label in one way, or merge them with `merge_labels`; if they are different labels, name "
                "all labels with `labels`.",
                code="data.labels-alike",
                where=rows.where(place),
            )
        return cls({})

    def applied(self, rows: Rows) -> Rows:
        """The rows with each label in the spelling that is kept, and a note of what was changed."""
        if not self.kept:
            return rows
        changed: dict[str, str] = {}

        def written(name: str) -> str:
            kept = self.kept.get(folded(name), name)
            if kept != name:
                changed[name] = kept
            return kept

        found: list[Label] = []
        for label in rows.labels:
            if isinstance(label, tuple):
                found.append(tuple(dict.fromkeys(map(written, label))))
            else:
                found.append(written(label) if isinstance(label, str) else label)
        if not changed:
            return rows
        told = ", ".join(f"{name!r} is read as {kept!r}" for name, kept in sorted(changed.items()))
        return replace(rows, labels=found, notes=(*rows.notes, f"Labels that differ in their spelling: {told}."))


def contradictions(*parts: Rows) -> tuple[str, ...]:
    """What is to be said of texts that stand with different labels; nothing where there are none."""
    first: dict[str, tuple[Label, str]] = {}
    counts: Counter[str] = Counter()
    differing: dict[str, str] = {}
    for rows in parts:
        for row, (same, label) in enumerate(zip(identities(rows), rows.labels, strict=True)):
            told = TARGETS[rows.kind].same(label)
            counts[same] += 1
            if same not in first:
                first[same] = (told, rows.where(row))
            elif told != first[same][0] and same not in differing:
                differing[same] = rows.where(row)
    if not differing:
        return ()
    same, place = next(iter(differing.items()))
    what = TARGETS[parts[0].kind].plural
    texts = f"{len(differing):,} texts stand" if len(differing) > 1 else "1 text stands"
    number = sum(counts[each] for each in differing)
    return (
        f"{texts} in {number:,} rows with different {what} (first: {first[same][1]}, and {place}). The rows are kept; "
        "correct them if they are mistakes.",
    )
