"""The shape of every weight of a backbone, from its configuration and its architecture's entry, without torch.

For files of strangers: a tensor is held to these shapes before anything is allocated, and no model is made of an
untrusted configuration. A test holds the shapes to those of transformers' own model, on the `meta` device.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from afina.errors import InvalidStudy
from afina.models.architectures import Architecture, Size, supported

LARGEST = 1 << 31
"""No dimension of a model is as large."""

_FIELDS = {
    **{"vocabulary": "vocab_size", "hidden": "hidden_size", "layers": "num_hidden_layers"},
    **{"heads": "num_attention_heads", "inner": "intermediate_size", "positions": "max_position_embeddings"},
    **{"key_heads": "num_key_value_heads", "head": "head_dim"},
}
"""transformers' standard names of sizes, in the order in which one may follow from those before it."""


@dataclass(frozen=True)
class Linear:
    """A layer of so many numbers in and out; `turned` where its weight is stored [in, out]."""

    inputs: int
    outputs: int
    turned: bool = False

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of its parameters, by name; a bias that some models leave out is among them."""
        weight = (self.inputs, self.outputs) if self.turned else (self.outputs, self.inputs)
        return {"weight": weight, "bias": (self.outputs,)}


@dataclass(frozen=True)
class Dimensions:
    """Of a backbone under a head of so many labels.

    layers   number of blocks
    heads    keys and values of one token of one block: heads of so many numbers
    linear   linear layers of a block, by their name in it;  norms  widths of its norms, likewise
    outside  shapes of the parameters outside blocks, by the end of their name: embeddings, last norm, head
    """

    architecture: Architecture
    hidden: int
    layers: int
    heads: tuple[int, int]
    linear: Mapping[str, Linear]
    norms: Mapping[str, int]
    outside: Mapping[str, tuple[int, ...]]

    @property
    def known(self) -> frozenset[int]:
        """Every number that is a dimension of some parameter."""
        inner = [size for linear in self.linear.values() for size in (linear.inputs, linear.outputs)]
        outer = [size for shape in self.outside.values() for size in shape]
        return frozenset({*inner, *outer, *self.norms.values(), *self.heads, self.hidden})


def dimensions(configuration: Mapping[str, Any], labels: int, where: str = "config.json") -> Dimensions:
    """Of the backbone of that configuration, the content of its `config.json`. Raises InvalidStudy."""
    entry = supported(configuration.get("model_type"), where)
    sizes = _sizes(configuration, entry, where)
    hidden = sizes["hidden"]
    of: dict[Size, int] = {
        **{"hidden": hidden, "inner": sizes["inner"], "head": sizes["head"], "qkv": 3 * hidden},
        **{"queries": sizes["heads"] * sizes["head"], "keys": sizes["key_heads"] * sizes["head"]},
    }
    block = entry.block
    return Dimensions(
        entry,
        hidden,
        sizes["layers"],
        (sizes["key_heads"], sizes["head"]),
        {name: Linear(of[a], of[b], entry.fan_in_fan_out) for name, (a, b) in block.linear.items()},
        {name: of[size] for name, size in block.norms.items()},
        _outside(entry, sizes, labels),
    )


def _outside(entry: Architecture, sizes: Mapping[str, int], labels: int) -> dict[str, tuple[int, ...]]:
    hidden = sizes["hidden"]
    rows = zip(entry.embeddings, (sizes["vocabulary"], sizes["positions"]), strict=False)
    shapes: dict[str, tuple[int, ...]] = {f"{name}.weight": (count, hidden) for name, count in rows}
    for norm in (entry.embedding_norm, entry.block.final_norm):
        if norm is not None:
            shapes |= {f"{norm}.weight": (hidden,), f"{norm}.bias": (hidden,)}
    for name in entry.head:
        outputs = labels if name == entry.head[-1] else hidden
        shapes |= {f"{name}.weight": (outputs, hidden), f"{name}.bias": (outputs,)}
    return shapes


def _sizes(configuration: Mapping[str, Any], entry: Architecture, where: str) -> dict[str, int]:
    found: dict[str, int] = {}
    for size, name in _FIELDS.items():
        names = [name, *([entry.sizes.fields[size]] if size in entry.sizes.fields else ())]
        given = [configuration[each] for each in names if configuration.get(each) is not None]
        value = given[-1] if given else getattr(entry.sizes, size)
        if value is None:
            value = _follows(size, found)
        if type(value) is not int or not 1 <= value < LARGEST:
            raise InvalidStudy(
                f"{where}: its {names[-1]} is {repr(value)[:40]}, expected a whole number from 1 up. Copy it from "
                "the backbone again.",
                code="backbone.unsupported",
                where=where,
                field=names[-1],
                found=repr(value)[:40],
            )
        found[size] = value
    return found


def _follows(size: str, found: Mapping[str, int]) -> int:
    """A size that a configuration may leave to the others, which come before it in _FIELDS."""
    if size == "inner":
        return 4 * found["hidden"]
    return found["heads"] if size == "key_heads" else found["hidden"] // found["heads"]
