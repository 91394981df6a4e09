"""Whether tensors fit a backbone: the layers there are, and the shape of each, by its configuration alone. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from afina.errors import CorruptAdapter, WrongBackbone
from afina.models.backbone_spec import Dimensions, dimensions
from afina.store.intake.header import Header

SMALL = 4096
"""What a rank, a number of virtual tokens or of shared random rows may be, of a kind of tensor that is not known."""

_OF_PEFT = "base_model.model."
_DOWN, _UP = "lora_A.weight", "lora_B.weight"

_Shape = tuple[int | None, ...]
"""None: whatever the adapter has chosen."""


def fits(header: Header, configuration: Mapping[str, Any], labels: int, where: str = "adapter") -> None:
    """Raise WrongBackbone where a tensor cannot belong to the backbone of that `config.json`.

    labels  rows of the head, where there is one;  where  names the adapter in messages

    Raises CorruptAdapter where the head has other rows, or the two halves of a LoRA another rank; InvalidStudy for a
    configuration that is none.
    """
    backbone = dimensions(configuration, labels)
    output = backbone.architecture.head[-1]
    heads = f".{output}.weight", f".{output}.bias"
    shapes = {name.removeprefix(_OF_PEFT): entry.shape for name, entry in header.tensors.items()}
    for name, shape in shapes.items():
        if f".{name}".endswith(heads) and shape[:1] != (labels,):
            raise CorruptAdapter(
                f"{where}: its head {name[:80]!r} has shape {list(shape)}, there are {labels} labels. Copy the adapter "
                "again, or train it again.",
                code="adapter.tensors-mismatch",
                where=where,
                tensor=name[:80],
                found=shape,
            )
        _check(name, shape, backbone, where)
        if name.endswith(_DOWN):
            up = shapes.get(name.removesuffix(_DOWN) + _UP)
            if up is not None and up[1:] != shape[:1]:
                raise CorruptAdapter(
                    f"{where}: {name[:80]!r} has shape {list(shape)}, {_UP} beside it {list(up)}: not of one rank. "
                    "Copy the adapter again, or train it again.",
                    code="adapter.tensors-mismatch",
                    where=where,
                    tensor=name[:80],
                    found=shape,
                )


def _check(name: str, shape: tuple[int, ...], backbone: Dimensions, where: str) -> None:
    inside = backbone.architecture.block.find(name)
    if inside is not None and inside[0] >= backbone.layers:
        raise WrongBackbone(
            f"{where}: {name[:80]!r} belongs to layer {inside[0]}, the backbone has layers 0 to {backbone.layers - 1}. "
            "Name the backbone that it was made for.",
            where=where,
            tensor=name[:80],
            layer=inside[0],
        )
    allowed = _allowed(name, inside[1] if inside else None, backbone)
    if allowed is None:
        known = backbone.known
        if odd := [size for size in shape if size > SMALL and size not in known]:
            raise WrongBackbone(
                f"{where}: {name[:80]!r} has shape {list(shape)}; {odd[0]:,} is no dimension of the backbone. Name the "
                "backbone that it was made for.",
                where=where,
                tensor=name[:80],
                found=shape,
            )
    elif not any(_alike(shape, each) for each in allowed):
        expected = " or ".join(str([size if size is not None else "any" for size in each]) for each in allowed)
        raise WrongBackbone(
            f"{where}: {name[:80]!r} has shape {list(shape)}, on this backbone it is {expected}. Name the backbone "
            "that it was made for.",
            where=where,
            tensor=name[:80],
            found=shape,
        )


def _alike(shape: tuple[int, ...], expected: _Shape) -> bool:
    return len(shape) == len(expected) and all(
        found >= 1 if asked is None else found == asked for found, asked in zip(shape, expected, strict=True)
    )


def _allowed(name: str, inner: str | None, backbone: Dimensions) -> list[_Shape] | None:
    """Shapes that the tensor may have; None where its kind is not known."""
    if inner is None:
        ends: dict[str, _Shape] = {**backbone.outside, "prompt.weight": (None, backbone.hidden)}
        return next(([shape] for end, shape in ends.items() if f".{name}".endswith(f".{end}")), None)
    for module, linear in backbone.linear.items():
        if inner.startswith(f"{module}."):
            kind = inner.removeprefix(f"{module}.").removeprefix("base_layer.")  # what peft calls the layer itself
            if kind in (plain := linear.shapes()):
                return [plain[kind]]
            return _of_linear(linear.inputs, linear.outputs).get(kind)
    for norm, width in backbone.norms.items():
        if inner in (f"{norm}.weight", f"{norm}.bias"):
            return [(width,)]
    place = inner.rpartition(".prefix.")
    if place[1] and place[2] in ("key", "value"):
        return [(None, *backbone.heads)]
    place = inner.rpartition("bottleneck.")
    return _of_bottleneck(backbone.hidden).get(place[2]) if place[1] else None


def _of_linear(inputs: int, outputs: int) -> dict[str, list[_Shape]]:
    """What a method puts beside a linear layer, by the end of its name."""
    return {
        _DOWN: [(None, inputs)],
        _UP: [(outputs, None)],
        "lora_magnitude_vector": [(outputs,), (1, outputs)],
        "lora_magnitude_vector.weight": [(outputs,), (1, outputs)],
        "ia3_l": [(outputs, 1), (1, inputs)],
        "vera_lambda_b": [(outputs,)],
        "vera_lambda_d": [(None,)],
    }


def _of_bottleneck(hidden: int) -> dict[str, list[_Shape]]:
    return {
        "down.weight": [(None, hidden)],
        "down.bias": [(None,)],
        "up.weight": [(hidden, None)],
        "up.bias": [(hidden,)],
    }
