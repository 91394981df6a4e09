"""What differs between two adapters: fields of their manifests, and layer by layer what they compute. Knows no store.

Functions of two adapters: no backbone, no text. Imports torch in the functions that compute.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from math import isfinite, sqrt
from typing import TYPE_CHECKING, Any

from afina.errors import CorruptAdapter
from afina.models.adapter import Adapter
from afina.models.architectures import is_head
from afina.models.manifest import Manifest
from afina.store.diff.weights import (
    LabelMatching,
    LoraScales,
    LowRankProduct,
    effective_weights,
    principal_angles,
    some_of,
)

if TYPE_CHECKING:
    from torch import Tensor


PIECE = 1 << 20
"""Numbers that are held in float64 at once, of a tensor that may be most of a model."""


@dataclass(frozen=True)
class Layer:
    """A layer, or a tensor, of two adapters. Norms are Frobenius'.

    kind      "product": LoRA's scale * B @ A, so that neither another pair of factors with the same product nor another
              rank of it counts; "tensor": as it is stored
    head      whether it is part of the classification head
    first, second  norms of what each has; None where it has none
    change    norm of the difference; None where one has none, or another shape
    relative  change as a share of the norm of the first; None where that is 0 and the change is not
    ranks     of a product, numerical ones: directions that the rounding of stored factors cannot have made
    outputs, inputs  of two products, principal angles in degrees, least first, between what they write and between what
              they read: as many as the lesser rank. Empty where that is 0, or where there are not two of one shape
    """

    name: str
    kind: str
    head: bool
    first: float | None
    second: float | None
    change: float | None = None
    relative: float | None = None
    ranks: tuple[int | None, int | None] | None = None
    outputs: tuple[float, ...] = ()
    inputs: tuple[float, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """JSON values; of angles their mean and the largest too, None where there are none."""
        return asdict(self) | {
            "ranks": None if self.ranks is None else list(self.ranks),
            "outputs": _angles_as_json(self.outputs),
            "inputs": _angles_as_json(self.inputs),
        }


@dataclass(frozen=True)
class Difference:
    """What differs between a first adapter and a second one.

    digests  of both
    fields   of the manifests, by group: see `differing`
    layers   what both have and what one of them has, in the order of the model, the head last
    notes    what has to be known to read this, a sentence each
    """

    digests: tuple[str, str]
    fields: Fields
    layers: tuple[Layer, ...]
    notes: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "digests": list(self.digests),
            "fields": self.fields,
            "layers": [layer.as_json() for layer in self.layers],
            "notes": list(self.notes),
        }


def difference(first: Adapter, second: Adapter) -> Difference:
    """From the first adapter to the second.

    Rows of a head are matched by label, columns of a bag of words by term. DoRA's product and its lengths
    (`lora_magnitude_vector`) are compared apart, as they are stored: what they do together depends on the weights of
    the backbone. So does a LoRA of peft's that started from these weights (PiSSA, OLoRA, ...).
    Raises CorruptAdapter where LoRA's factors do not fit each other, or a tensor holds what is no number.
    """
    one, other = effective_weights(first), effective_weights(second)
    matching = LabelMatching.of(first, second)
    layers, apart = [], []
    for name in sorted(one.keys() | other.keys(), key=_place):
        a, b = one.get(name), other.get(name)
        matched = None if a is None or b is None else matching.matched(name, a, b)
        where = f"{first.where} and {second.where}"
        layers.append(_layer(name, *(matched or (a, b)), where, comparable=matched is not None))
        if a is not None and b is not None and matched and layers[-1].change is None:
            apart.append(f"{name} (from {list(a.shape)} to {list(b.shape)})")
    same = ["Both are the same adapter."] if first.digest == second.digest else []
    shapes = [f"Of another shape in each, so that there is no change to tell: {some_of(apart)}."] if apart else []
    return Difference(
        digests=(first.digest, second.digest),
        fields=differing(first.manifest, second.manifest),
        layers=tuple(layers),
        notes=(*same, *_notes(first, second), *matching.notes, *shapes),
    )


def _notes(first: Adapter, second: Adapter) -> Iterator[str]:
    one, other = first.manifest, second.manifest
    if one.method != other.method:
        yield f"The methods differ ({one.method} and {other.method}): what only one of them changes has one norm only."
    if first.vocabulary is None and second.vocabulary is None:  # else one of them has no use for a backbone
        if one.backbone_digest is None or other.backbone_digest is None:
            yield "Not both say which weights they are for, so that it cannot be told whether these are the same."
        elif one.backbone_digest != other.backbone_digest:
            named = f"{one.backbone} and {other.backbone}"
            yield f"The backbones differ ({named}): what is added is compared, and it is added to different weights."
    if any(scales is not None and scales.dora for scales in map(LoraScales.of, (first, second))):
        yield "DoRA's products and lengths are compared apart: what they do together depends on the backbone's weights."


def _place(name: str) -> tuple[bool, list[tuple[int, str]]]:
    """Numbers in a name by their size; the head behind all."""
    return is_head(name), [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]


def _layer(
    name: str,
    first: LowRankProduct | Tensor | None,
    second: LowRankProduct | Tensor | None,
    where: str,
    *,
    comparable: bool,
) -> Layer:
    parts = [part for part in (first, second) if part is not None]
    products = [part for part in parts if isinstance(part, LowRankProduct)]
    norms = [None if part is None else _checked(_norm(part), name, where) for part in (first, second)]
    made: dict[str, Any] = {}
    if products:
        made["ranks"] = tuple(part.rank if isinstance(part, LowRankProduct) else None for part in (first, second))
    if comparable and len(parts) == 2 and parts[0].shape == parts[1].shape and len(products) in (0, 2):
        change = _checked(_distance(*parts), name, where)
        made["change"] = change
        made["relative"] = change / norms[0] if norms[0] else (None if change else 0.0)
        if products:
            spaces = zip(products[0].spaces, products[1].spaces, strict=True)
            made["outputs"], made["inputs"] = (principal_angles(*pair) for pair in spaces)
    return Layer(name, "product" if products else "tensor", is_head(name), norms[0], norms[1], **made)


def _checked(norm: float, name: str, where: str) -> float:
    if not isfinite(norm):
        raise CorruptAdapter(
            f"{where}: {name} holds what is no number, or is too large. Train it again.",
            code="adapter.values-invalid",
            where=where,
            tensor=name,
        )
    return norm


def _norm(part: LowRankProduct | Tensor) -> float:
    if isinstance(part, LowRankProduct):
        return part.norm
    return sqrt(sum(float(piece.dot(piece)) for (piece,) in _pieces(part)))


def _distance(first: Any, second: Any) -> float:
    """Of two products or two tensors of one shape."""
    if isinstance(first, LowRankProduct):
        return first.distance(second)
    return sqrt(sum(float((b - a).square().sum()) for a, b in _pieces(first, second)))


def _pieces(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    flat = [tensor.reshape(-1) for tensor in tensors]
    for start in range(0, len(flat[0]), PIECE):
        yield tuple(tensor[start : start + PIECE].double() for tensor in flat)


def _angles_as_json(angles: tuple[float, ...]) -> dict[str, Any] | None:
    return {"largest": angles[-1], "mean": sum(angles) / len(angles), "all": list(angles)} if angles else None


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
            yield name, _json_value(content[name])


def _flat(table: Mapping[str, Any], before: str) -> Iterator[tuple[str, Any]]:
    for key, value in table.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{before}{key}.")
        else:
            yield f"{before}{key}", _json_value(value)


def _json_value(value: Any) -> Any:
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
