"""Remedy: reading options that mend an error of reading, by the error's code and fields.

A remedy never changes the data. An error that only another file can mend has no remedy: its sentence says what to
correct. The module reads nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise

from afina.data.kinds import KINDS, Kind
from afina.data.readers.target_kinds import TARGETS
from afina.data.reading_options import OPTIONS
from afina.errors import AfinaError
from afina.sentence import Json, visible

MOST_CHOICES = 12
"""The most remedies of an error; the columns of a wide file are more, and the option takes any of them."""

LONGEST_WORD = 60
"""Characters of a name in the words of a remedy."""


@dataclass(frozen=True)
class Remedy:
    """Reading options that mend a doubt (None: leave out the option), and what they do, in words."""

    options: Mapping[str, Json]
    words: str


def remedies_of(error: AfinaError, columns: Sequence[str] = ()) -> list[Remedy]:
    """Return the remedies of an error of reading; empty if only the data can be changed."""
    made = _BY_CODE.get(error.code)
    return [] if made is None else list(islice(made(error, columns), MOST_CHOICES))


ROLES = {
    "text": "the text",
    "text_pair": "the second text",
    "label": "the label",
    "target": "the text to write",
}
"""The role of a column, by the option that names the column."""


def quoted(name: object) -> str:
    """Return a name in quotation marks, cut to LONGEST_WORD characters."""
    text = visible(str(name))
    return f"“{text if len(text) <= LONGEST_WORD else text[: LONGEST_WORD - 1] + '…'}”"


def _named(field: str, names: Iterable[Json]) -> Iterable[Remedy]:
    for name in names:
        yield Remedy({field: name}, f"Read column {quoted(name)} as {ROLES[field]}")


def _listed(value: Json) -> list[Json]:
    return value if isinstance(value, list) else []


def _ambiguous_column(error: AfinaError, columns: Sequence[str]) -> Iterable[Remedy]:
    field, found = str(error.fields.get("field")), _listed(error.fields.get("found"))
    if field not in ROLES:
        return
    yield from _named(field, found)
    if field == "text":
        for first, second in pairwise(found):
            words = f"Read columns {quoted(first)} and {quoted(second)} as a pair of texts"
            yield Remedy({"text": first, "text_pair": second}, words)
        yield from _to_write(found)
    if field == "label":
        every = ",".join(map(str, found))
        yield Remedy({"label": every}, f"Read each of the columns as one label that is present or absent: {every}")


def _missing_column(error: AfinaError, columns: Sequence[str]) -> Iterable[Remedy]:
    field = str(error.fields.get("field"))
    if field not in ROLES:
        return
    if "column" in error.fields:
        yield Remedy({field: None}, f"Recognise the column of {ROLES[field]}")
    names = _listed(error.fields.get("likely")) or columns or _listed(error.fields.get("found"))
    yield from _named(field, names)
    if field == "text" and "column" not in error.fields:
        yield from _to_write(names)


def _to_write(names: Sequence[Json]) -> Iterable[Remedy]:
    for first, second in pairwise(names):
        yield Remedy({"text": first, "target": second}, f"Learn to write {quoted(second)} for {quoted(first)}")


def _repeated_column(error: AfinaError, columns: Sequence[str]) -> Iterable[Remedy]:
    field = str(error.fields.get("field"))
    if field == "text_pair":
        yield Remedy({"text_pair": None}, "Read single texts, not pairs")
    if field in ROLES:
        yield from _named(field, [name for name in columns if name != error.fields.get("column")])


def _sheet(error: AfinaError, columns: Sequence[str]) -> Iterable[Remedy]:
    for name in _listed(error.fields.get("found")):
        yield Remedy({"sheet": name}, f"Read the sheet {quoted(name)}")


def of_kind(kind: Kind) -> Remedy:
    means = TARGETS[kind].means
    return Remedy({"kind": kind}, f"{means[0].upper()}{means[1:]}: read them as kind {kind}")


def _of_kinds(error: AfinaError, columns: Sequence[str]) -> Iterable[Remedy]:
    """Return the remedies that read the labels as one of `kinds`, or not as `kind`, which does not fit them."""
    if "kind" in error.fields:
        return _other_kind(error, columns)
    kinds = _listed(error.fields.get("kinds"))
    return [of_kind(kind) for kind in KINDS if kind in kinds]


def _other_kind(error: AfinaError, columns: Sequence[str]) -> Iterable[Remedy]:
    yield Remedy({"kind": None, "separator": None}, "Recognise the kind of task")


_WITHOUT = {
    "separator": "Recognise the separator",
    "sheet": "Read the file without naming a sheet",
    "encoding": "Recognise the encoding",
    "labels": "Read the labels as they stand in the data",
    "positive": "Take the second label as the positive label",
    "long": "Leave out the rule for long target texts",
}
"""The words for reading without an option, by the option."""


def _without(error: AfinaError, columns: Sequence[str]) -> Iterable[Remedy]:
    name = error.fields.get("option")
    if isinstance(name, str) and name in OPTIONS:
        yield Remedy({name: None}, _WITHOUT.get(name, f"Read the data without the option {name}"))


def _unnamed(error: AfinaError, columns: Sequence[str]) -> Iterable[Remedy]:
    if error.fields.get("labels") is not None:
        yield Remedy({"labels": None}, _WITHOUT["labels"])


def _positive(error: AfinaError, columns: Sequence[str]) -> Iterable[Remedy]:
    if "known" not in error.fields or "where" not in error.fields:
        return
    for name in _listed(error.fields["known"]):
        yield Remedy({"positive": name}, f"{quoted(name)} is the positive label")


def _always(*remedies: Remedy) -> Callable[[AfinaError, Sequence[str]], Iterable[Remedy]]:
    return lambda error, columns: remedies


def _missing(error: AfinaError, columns: Sequence[str]) -> Iterable[Remedy]:
    yield Remedy({"missing": "skip"}, "Leave out rows without a text or a label")
    if "found" in error.fields:  # a word such as NA, and no empty cell
        yield Remedy({"missing": "keep"}, "Read words such as NA as texts and labels")


MERGE = Remedy({"merge_labels": True}, "Merge the spellings; the most frequent one is kept")
REPAIR = Remedy({"repair": True}, "Repair borders of entities, and tags that cannot follow each other")
SKIP_LONG = Remedy({"long": "skip"}, "Leave out target texts that are too long")
ONCE = Remedy({"duplicates": "once"}, "Leave out training rows that repeat a text or are held out, too")
ONLY_AGREED = Remedy({"duplicates": "agreed"}, "Leave out training texts with different labels, and repeated rows")
ACCEPT = Remedy({"allow_leakage": True}, "Accept texts in both splits; figures on them are too high")

_BY_CODE: Mapping[str, Callable[[AfinaError, Sequence[str]], Iterable[Remedy]]] = {
    "argument.invalid": _unnamed,
    "data.column-ambiguous": _ambiguous_column,
    "data.column-missing": _missing_column,
    "data.column-repeated": _repeated_column,
    "data.entity-borders": _always(REPAIR),
    "data.kind-ambiguous": _of_kinds,
    "data.kind-mismatch": _other_kind,
    "data.label-malformed": _of_kinds,
    "data.labels-mismatch": _unnamed,
    "data.label-unknown": _positive,
    "data.labels-alike": _always(MERGE),
    "data.leakage": _always(ONCE, ACCEPT),
    "data.number-malformed": _of_kinds,
    "data.option-inapplicable": _without,
    "data.sheet-missing": _sheet,
    "data.tags-impossible": _always(REPAIR),
    "data.target-long": _always(SKIP_LONG),
    "data.text-empty": _missing,
    "data.value-missing": _missing,
}
"""The remedies of an error of reading, by the error's code."""
