"""Compare two adapters: the fields of their manifests, and their weights layer by layer.

A comparison of two adapters needs no backbone and no texts. torch is imported inside the functions that need it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from math import isfinite, sqrt
from typing import TYPE_CHECKING, Any

from afina.models.adapter import Adapter
from afina.models.architectures import is_head
from afina.models.manifest import Manifest
from afina.store import problems
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
"""The largest number of elements of a tensor that are converted to float64 at a time, because a tensor may be large."""


@dataclass(frozen=True)
class Layer:
    """The difference between two adapters in one layer or one tensor. All norms are Frobenius norms.

    Attributes:
        name: the name of the layer or tensor.
        kind: "product" for LoRA's weight change scale * B @ A, which does not depend on the choice of factors or rank;
            "tensor" for a tensor that is compared as it is stored.
        head: whether the layer is part of the classification head.
        first: the norm in the first adapter. None: the first adapter does not have the layer.
        second: the norm in the second adapter. None: the second adapter does not have the layer.
        change: the norm of the difference; None if one adapter does not have the layer, or if the shapes differ.
        relative: `change` divided by `first`; None if `first` is 0 and `change` is not, or if `change` is None.
        ranks: the numerical ranks of the two products: the numbers of directions above the rounding error of the stored
            factors.
        outputs: the principal angles between the output spaces of the two products, in degrees, ascending; there are as
            many angles as the smaller rank.
        inputs: the principal angles between the input spaces of the two products, in degrees, ascending.
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
        """Return the fields as JSON values; for angles, a table with all, their mean and the largest, or None."""
        return asdict(self) | {
            "ranks": None if self.ranks is None else list(self.ranks),
            "outputs": _angles_as_json(self.outputs),
            "inputs": _angles_as_json(self.inputs),
        }


@dataclass(frozen=True)
class Difference:
    """The differences from a first adapter to a second adapter, in manifest and weights.

    Attributes:
        digests: the digests of both adapters.
        fields: the differences of the manifests by group of fields (`differing`).
        layers: the differences in each layer of either adapter, in the order of the model, the head last.
        notes: sentences that explain the differences.
    """

    digests: tuple[str, str]
    fields: Fields
    layers: tuple[Layer, ...]
    notes: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        return {
            "digests": list(self.digests),
            "fields": self.fields,
            "layers": [layer.as_json() for layer in self.layers],
            "notes": list(self.notes),
        }


def difference(first: Adapter, second: Adapter) -> Difference:
    """Return the differences from the first adapter to the second adapter.

    The rows of classification heads are matched by label, and the columns of bag-of-words models by term. DoRA's
    product and magnitudes (`lora_magnitude_vector`) are compared separately as they are stored, because their joint
    effect depends on the backbone's weights. The effect of a peft LoRA that was initialized from the backbone's weights
    (PiSSA, OLoRA, ...) also depends on these weights.

    Raises:
        CorruptAdapter: shapes of LoRA factors do not match, or a tensor has NaN or infinite values.
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
    shapes = [f"Shapes differ, so no change can be computed: {some_of(apart)}."] if apart else []
    return Difference(
        digests=(first.digest, second.digest),
        fields=differing(first.manifest, second.manifest),
        layers=tuple(layers),
        notes=(*same, *_notes(first, second), *matching.notes, *shapes),
    )


def _notes(first: Adapter, second: Adapter) -> Iterator[str]:
    one, other = first.manifest, second.manifest
    if one.method != other.method:
        methods = f"{one.method} and {other.method}"
        yield f"The methods differ ({methods}): a layer that only one adapter changes has a single norm."
    if first.vocabulary is None and second.vocabulary is None:  # an adapter with a vocabulary needs no backbone
        if one.backbone_digest is None or other.backbone_digest is None:
            yield "An adapter states no digest of its backbone, so the backbones may differ."
        elif one.backbone_digest != other.backbone_digest:
            named = f"{one.backbone} and {other.backbone}"
            yield f"The backbones differ ({named}): only the adapters' changes are compared."
    if any(scales is not None and scales.dora for scales in map(LoraScales.of, (first, second))):
        yield "DoRA's products and magnitudes are compared separately: their joint effect depends on the backbone."


def _place(name: str) -> tuple[bool, list[tuple[int, str]]]:
    """Return a key for sorting tensor names: numbers in names are ordered by value, and the head comes last."""
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
        raise problems.DELTA_NOT_FINITE(where=where, tensor=name)
    return norm


def _norm(part: LowRankProduct | Tensor) -> float:
    if isinstance(part, LowRankProduct):
        return part.norm
    return sqrt(sum(float(piece.dot(piece)) for (piece,) in _pieces(part)))


def _distance(first: Any, second: Any) -> float:
    """Return the Frobenius norm of the difference of two LoRA products, or two tensors, of the same shape."""
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
"""The type of the differences of two manifests: for each group and field, the list of the first and second value."""

GROUPS: dict[str, tuple[str, ...]] = {
    "metrics": ("metrics",),
    "hyperparameters": ("hyperparameters",),
    "training": ("training",),
    "data": ("task", "data", "train_digest", "evaluation_digest", "seed"),
    "backbone": ("backbone", "backbone_digest", "tokenizer_digest", "family"),
    "others": ("method", "template", "words", "offset", "objective", "max_length"),
    "versions": ("versions",),
}
"""The fields of a manifest that are compared, by group. Labels are compared separately."""

_OPENED = ("metrics", "hyperparameters", "training", "data", "versions")
"""The fields of a manifest that are tables, whose entries are compared one by one."""


def differing(first: Manifest, second: Manifest) -> Fields:
    """Return the fields in which two manifests differ, as JSON values, by group; other groups are left out.

    A field that a manifest does not have has the value None. Fields of nested tables have dotted names, such as
    `lora.r` for a sum of methods. The group `labels` has `added` (label names of only the second manifest), `removed`
    (label names of only the first manifest) and `reordered` (the common label names in the order of each manifest).
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
        if name in _OPENED:  # a group of a single field needs no prefix
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
    """Return a value that JSON can represent: infinity and NaN become strings.

    In untyped fields, pydantic has already replaced NaN by None.
    """
    return str(value) if isinstance(value, float) and not isfinite(value) else value


def _labels(first: tuple[str, ...], second: tuple[str, ...]) -> dict[str, Any]:
    common = set(first) & set(second)
    one, other = ([name for name in names if name in common] for names in (first, second))
    groups = {
        "added": [name for name in second if name not in common],
        "removed": [name for name in first if name not in common],
        "reordered": [one, other] if one != other else [],
    }
    return {key: names for key, names in groups.items() if names}
