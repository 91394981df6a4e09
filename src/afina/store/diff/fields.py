"""What of two manifests differs, field by field. Knows no tensor."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import isfinite
from typing import Any

from afina.models.manifest import Manifest

Fields = dict[str, dict[str, Any]]
"""By group and name: what the first has, and what the second has, in a list of two."""

GROUPS: dict[str, tuple[str, ...]] = {
    "metrics": ("metrics",),
    "hyperparameters": ("hyperparameters",),
    "training": ("training",),
    "data": ("task", "data", "train_digest", "evaluation_digest", "seed"),
    "backbone": ("backbone", "backbone_digest", "tokenizer_digest", "family"),
    "others": ("method", "template", "words", "offset", "objective", "max_length"),
    "versions": ("versions",),
}
"""Which fields of a manifest stand in which group; those of labels are told in another way."""

_OPENED = ("metrics", "hyperparameters", "training", "data", "versions")
"""Fields that are tables, of which each entry is told by itself."""


def differing(first: Manifest, second: Manifest) -> Fields:
    """Only what differs, as JSON values; an entry that one of both lacks is None there. No group is empty.

    Entries of tables inside tables have dotted names: `lora.r` of a sum. `labels` has `added` and `removed`, names that
    the second or the first alone has, and `reordered`, the common ones as each has them.
    """
    one, other = (manifest.model_dump(mode="json") for manifest in (first, second))
    found = {group: _group(names, one, other) for group, names in GROUPS.items()}
    found["labels"] = _labels(first.label_names, second.label_names)
    return {group: entries for group, entries in found.items() if entries}


def _group(names: tuple[str, ...], first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, list[Any]]:
    one, other = (dict(_entries(names, content)) for content in (first, second))
    keys = dict.fromkeys([*one, *other])
    return {key: [one.get(key), other.get(key)] for key in keys if one.get(key) != other.get(key)}


def _entries(names: tuple[str, ...], content: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name in names:
        if name in _OPENED:  # a field that is a group of its own needs not be named in it
            yield from _flat(content[name], "" if len(names) == 1 else f"{name}.")
        else:
            yield name, _told(content[name])


def _flat(table: Mapping[str, Any], before: str) -> Iterator[tuple[str, Any]]:
    for key, value in table.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{before}{key}.")
        else:
            yield f"{before}{key}", _told(value)


def _told(value: Any) -> Any:
    """As JSON can hold it. Of fields that may hold anything, pydantic has made None of what is no number."""
    return str(value) if isinstance(value, float) and not isfinite(value) else value


def _labels(first: tuple[str, ...], second: tuple[str, ...]) -> dict[str, Any]:
    common = set(first) & set(second)
    one, other = ([name for name in names if name in common] for names in (first, second))
    told = {
        "added": [name for name in second if name not in common],
        "removed": [name for name in first if name not in common],
        "reordered": [one, other] if one != other else [],
    }
    return {key: names for key, names in told.items() if names}
