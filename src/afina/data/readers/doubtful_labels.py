"""Doubtful labels: labels that differ only in spelling, and texts with two different labels."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from afina.data import problems
from afina.data.readers.label_column import Label, spelled
from afina.data.readers.splitting import LabelledRows, classes_of, identities
from afina.data.readers.target_kinds import TARGETS

ALIKE = "Labels that differ only in spelling"
"""The beginning of the note about merged labels."""

GROUPS_SHOWN = 5
"""The largest number of groups of similar labels in an error message."""


_WHOLE = re.compile(r"([-+]?)0*(\d+)(?:\.0*|,0{1,2})?")


def folded(name: str) -> str:
    """Return a label's name normalised in case, white space, invisible characters and Unicode form.

    Spellings of a whole number (`+1`, `01`, `1.0`) have the same normalised name, and so have `true` and 1, `false`
    and 0.
    """
    shown = (character for character in unicodedata.normalize("NFKC", name) if unicodedata.category(character) != "Cf")
    same = " ".join("".join(shown).casefold().split())
    if number := _WHOLE.fullmatch(same):
        return number[2] if number[1] != "-" or number[2] == "0" else f"-{number[2]}"
    return {"true": "1", "false": "0"}.get(same, same)


@dataclass(frozen=True)
class Spellings:
    """The spelling to keep, by the normalised name (`folded`). Empty: all labels keep their spelling."""

    kept: Mapping[str, str]

    @classmethod
    def of(cls, rows: LabelledRows, labels: Sequence[str] | None, *, merge: bool) -> Spellings:
        """Return the spelling to keep for each label of the training rows.

        With `merge`, the most frequent spelling is kept, or of equally frequent spellings the alphabetically first.
        Spellings that the user lists separately in `labels` stay different labels. Raises InvalidData if labels differ
        only in spelling and are not merged.
        """
        if not TARGETS[rows.kind].named:
            return cls({})
        _, whole = classes_of(rows)
        names_in = TARGETS[rows.kind].names
        counts = Counter(spelled(name, whole) for label in rows.labels for name in names_in(label))
        groups: dict[str, list[str]] = {}
        for name in sorted(counts):
            groups.setdefault(folded(name), []).append(name)
        given = set(labels or ())
        if merge:
            found = {same: max(names, key=lambda one: counts[one]) for same, names in groups.items()}
            return cls({same: name for same, name in found.items() if not set(groups[same]) <= given - {name}})
        alike = [names for names in groups.values() if len(names) > 1 and not set(names) <= given]
        if alike:
            shown = "; ".join(" and ".join(map(repr, names)) for names in alike[:GROUPS_SHOWN])
            places = ((i, name) for i, label in enumerate(rows.labels) for name in names_in(label))
            place = next(i for i, name in places if spelled(name, whole) == alike[0][1])
            raise problems.LABELS_ALIKE(found=shown, where=rows.where(place))
        return cls({})

    def applied(self, rows: LabelledRows) -> LabelledRows:
        if not self.kept:
            return rows
        changed: dict[str, str] = {}

        def written(name: str) -> str:
            kept = self.kept.get(folded(name), name)
            if kept != name:
                changed[name] = kept
            return kept

        found = [TARGETS[rows.kind].renamed(label, written) for label in rows.labels]
        if not changed:
            return rows
        changes = ", ".join(f"{name!r} is read as {kept!r}" for name, kept in sorted(changed.items()))
        return replace(rows, labels=found, notes=(*rows.notes, f"{ALIKE}: {changes}."))


def contradictions(*parts: LabelledRows) -> tuple[str, ...]:
    first: dict[str, tuple[Label, str, str]] = {}
    counts: Counter[str] = Counter()
    differing: dict[str, str] = {}
    for rows in parts:
        both = zip(rows.labels, rows.texts, strict=True)
        for row, (same, (label, text)) in enumerate(zip(identities(rows), both, strict=True)):
            counts[same] += 1
            if same not in first:
                first[same] = label, text, rows.where(row)
            elif same not in differing:
                before = TARGETS[rows.kind].same(*first[same][:2])
                differing |= {same: rows.where(row)} if TARGETS[rows.kind].same(label, text) != before else {}
    if not differing:
        return ()
    same, place = next(iter(differing.items()))
    what = TARGETS[parts[0].kind].plural
    texts = f"{len(differing):,} texts occur" if len(differing) > 1 else "1 text occurs"
    number = sum(counts[each] for each in differing)
    return (
        f"{texts} in {number:,} rows with different {what} (first: {first[same][2]}, and {place}). The rows are kept; "
        "correct them if they are mistakes.",
    )
