"""What differs between two versions: the fields of their manifests, and their answers to labelled texts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import isfinite
from typing import TYPE_CHECKING, Any

from afina.models.manifest import Manifest, checked
from afina.store.versions import Version

if TYPE_CHECKING:
    from afina.store.flips import Flips

Fields = dict[str, dict[str, Any]]
"""The differences of two manifests: for each group and field, the list of the first and second value."""

GROUPS: dict[str, tuple[str, ...]] = {
    "metrics": ("metrics",),
    "hyperparameters": ("hyperparameters",),
    "training": ("training",),
    "data": ("task", "data", "train_digest", "evaluation_digest", "seed"),
    "backbone": ("backbone", "backbone_digest", "tokenizer_digest", "chat_template", "family"),
    "others": ("method", "template", "words", "offset", "objective", "max_length"),
    "versions": ("versions",),
}
"""The fields of a manifest that are compared, by group. Labels are compared separately."""

_TABLES = ("metrics", "hyperparameters", "training", "data", "versions")
"""The fields of a manifest whose entries are compared one by one."""


@dataclass(frozen=True)
class Diff:
    """The differences between two versions of adapters.

    Attributes:
        fields: the differences of the manifests by group of fields (`differing`).
        notes: sentences that explain the differences.
        flips: the changed predictions. None: no labelled texts were given.
    """

    first: Version
    second: Version
    fields: Fields
    notes: tuple[str, ...]
    flips: Flips | None

    def as_json(self) -> dict[str, Any]:
        pair = (self.first, self.second)
        return {
            "first": str(self.first),
            "second": str(self.second),
            "digests": [version.digest for version in pair],
            "bytes": [version.size for version in pair],
            "fields": self.fields,
            "notes": list(self.notes),
            "flips": self.flips.as_json() if self.flips is not None else None,
        }


def diff(first: Version, second: Version, flips: Flips | None = None) -> Diff:
    """Return the differences between two versions. Raises CorruptAdapter for a manifest that was changed."""
    before, after = (checked(version.manifest, f"store:{version}") for version in (first, second))
    notes = []
    if first.digest == second.digest:
        notes.append("Both are the same adapter.")
    if any(each.backbone_digest is None and each.vocabulary_digest is None for each in (before, after)):
        notes.append("An adapter states no digest of its backbone, so the backbones may differ.")
    return Diff(first, second, differing(before, after), tuple(notes), flips)


def differing(first: Manifest, second: Manifest) -> Fields:
    """Return the fields in which two manifests differ, as JSON values, by group; other groups are left out.

    A field that a manifest does not have has the value None. Fields of nested tables have dotted names, such as
    `lora.r` for a sum of methods. The group `labels` has `added` (label names of only the second manifest), `removed`
    (label names of only the first manifest) and `reordered` (the common label names in the order of each manifest).
    """
    before, after = (manifest.model_dump(mode="json") for manifest in (first, second))
    groups = {group: _group(names, before, after) for group, names in GROUPS.items()}
    groups["labels"] = _labels(first.label_names, second.label_names)
    return {group: entries for group, entries in groups.items() if entries}


def _group(names: tuple[str, ...], first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, list[Any]]:
    before, after = (dict(_entries(names, content)) for content in (first, second))
    keys = dict.fromkeys([*before, *after])
    return {key: [before.get(key), after.get(key)] for key in keys if before.get(key) != after.get(key)}


def _entries(names: tuple[str, ...], content: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name in names:
        if name in _TABLES:  # a group of a single field needs no prefix
            yield from _flat(content[name], "" if len(names) == 1 else f"{name}.")
        else:
            yield name, _json_value(content.get(name))


def _flat(table: Mapping[str, Any], before: str) -> Iterator[tuple[str, Any]]:
    for key, value in table.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{before}{key}.")
        else:
            yield f"{before}{key}", _json_value(value)


def _json_value(value: Any) -> Any:
    """Return a value that JSON can represent: infinity and NaN become strings.

    In untyped fields, pydantic has already replaced NaN by None.
    """
    return str(value) if isinstance(value, float) and not isfinite(value) else value


def _labels(first: tuple[str, ...], second: tuple[str, ...]) -> dict[str, Any]:
    common = set(first) & set(second)
    before, after = ([name for name in names if name in common] for names in (first, second))
    groups = {
        "added": [name for name in second if name not in common],
        "removed": [name for name in first if name not in common],
        "reordered": [before, after] if before != after else [],
    }
    return {key: names for key, names in groups.items() if names}
