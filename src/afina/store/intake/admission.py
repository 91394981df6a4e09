"""Admission to a store: inspect an adapter's directory, and check its tensors against the backbone.

The expected layers and shapes come from the backbone's configuration only. No other library reads the adapter's files
here, and only `check_opens` imports torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from afina import file_io, hub, methods
from afina.errors import AfinaError, CorruptAdapter, InvalidStudy
from afina.methods import peft_settings
from afina.models import objectives
from afina.models.adapter import PEFT_SETTINGS, answers_with_texts
from afina.models.architectures import ARCHITECTURES, head_names, is_output
from afina.models.architectures.well_known import WELL_KNOWN
from afina.models.backbone_spec import Dimensions, dimensions, directory_of
from afina.models.manifest import Manifest
from afina.store import problems
from afina.store.intake import IntakeLimits
from afina.store.intake.inspection import Header, inspect

if TYPE_CHECKING:
    from afina.models.adapter import Adapter

_CONFIG = "config.json"


class Admitted(NamedTuple):
    """The manifest and the backbone's configuration of an admitted adapter.

    Attributes:
        manifest: the adapter's manifest; None: an adapter made by peft.
        configuration: the backbone's configuration. None: the backbone is not on this machine or not supported by
            afina, or the adapter needs no backbone.
    """

    manifest: Manifest | None
    configuration: Mapping[str, Any] | None


def admit(directory: Path, limits: IntakeLimits, *, links: bool = False) -> Admitted:
    """Inspect an adapter's directory, and check the shapes of its tensors against the backbone's configuration.

    If the backbone's configuration is not on this machine, shapes are checked later, when the adapter is opened.

    Raises:
        CorruptAdapter, Refused, NotFound: the errors of `inspection.inspect`.
        WrongBackbone: a tensor does not fit the backbone.
        InvalidStudy: the peft settings cannot be used to open an adapter.
    """
    found = inspect(directory, limits, links=links)
    manifest = found.manifest
    if manifest is not None:
        if manifest.vocabulary_digest is not None:
            return Admitted(manifest, None)
        address, labels = manifest.backbone, len(manifest.label_names)
    else:
        settings = file_io.read_object(directory / PEFT_SETTINGS)
        try:
            peft_settings.check(settings)
        except InvalidStudy as error:
            raise error.reworded(f"{directory / PEFT_SETTINGS}: {error}") from None
        address = settings.get("base_model_name_or_path")
        labels = 1 if answers_with_texts(settings) else _rows(found.header)
    configuration = at_hand(address) if isinstance(address, str) and address else None
    if configuration is None or configuration.get("model_type") not in ARCHITECTURES:
        return Admitted(manifest, None)
    fits(found.header, configuration, labels, str(directory))
    return Admitted(manifest, configuration)


def at_hand(address: str) -> Mapping[str, Any] | None:
    """Return the configuration of a backbone if the backbone is on this machine, or None."""
    try:
        place = directory_of(address)
        if place is not None:
            return file_io.read_object(place / _CONFIG)
        if address in WELL_KNOWN:
            return WELL_KNOWN[address]
        cached = hub.cached(address, _CONFIG)
        return file_io.read_object(cached) if cached is not None else None
    except AfinaError:
        return None  # opening the backbone raises the error


def _rows(header: Header) -> int:
    for name, entry in header.tensors.items():
        if is_output(name) and name.endswith("weight") and len(entry.shape) == 2:
            return entry.shape[0]
    raise problems.HEAD_MISSING(expected=head_names())


SMALL = 4096
"""Largest plausible rank, number of virtual tokens or of shared random rows, for tensors of unknown kinds."""

_OF_PEFT = "base_model.model."
_DOWN, _UP = "lora_A.weight", "lora_B.weight"

_Shape = tuple[int | None, ...]
"""None: any size."""


def fits(header: Header, configuration: Mapping[str, Any], labels: int, where: str = "adapter") -> None:
    """Raise WrongBackbone if a tensor cannot belong to the backbone with this `config.json`.

    Args:
        labels: number of rows of the head, if the adapter has a head.
        where: names the adapter in messages.

    Raises:
        WrongBackbone: a tensor does not fit the backbone.
        CorruptAdapter: the head has another number of rows than `labels`, or LoRA's A and B differ in rank.
        InvalidStudy: the configuration is malformed.
    """
    backbone = dimensions(configuration, labels)
    output = backbone.architecture.head[-1]
    heads = f".{output}.weight", f".{output}.bias"
    shapes = {name.removeprefix(_OF_PEFT): entry.shape for name, entry in header.tensors.items()}
    for name, shape in shapes.items():
        if f".{name}".endswith(heads) and shape[:1] != (labels,):
            raise problems.HEAD_MISMATCH(labels=labels, where=where, tensor=name[:80], found=shape)
        _check(name, shape, backbone, where)
        if name.endswith(_DOWN):
            up = shapes.get(name.removesuffix(_DOWN) + _UP)
            if up is not None and up[1:] != shape[:1]:
                raise problems.RANKS_DIFFER(other=_UP, expected=list(up), where=where, tensor=name[:80], found=shape)


def _check(name: str, shape: tuple[int, ...], backbone: Dimensions, where: str) -> None:
    inside = backbone.architecture.block.find(name)
    if inside is not None and inside[0] >= backbone.layers:
        raise problems.LAYER_BEYOND_BACKBONE(most=backbone.layers - 1, where=where, tensor=name[:80], layer=inside[0])
    allowed = _allowed(name, inside[1] if inside else None, backbone)
    if allowed is None:
        known = backbone.known
        if odd := [size for size in shape if size > SMALL and size not in known]:
            raise problems.DIMENSION_MISMATCH(dimension=odd[0], where=where, tensor=name[:80], found=shape)
    elif not any(_alike(shape, each) for each in allowed):
        expected = " or ".join(str([size if size is not None else "any" for size in each]) for each in allowed)
        raise problems.SHAPE_MISMATCH(expected=expected, where=where, tensor=name[:80], found=shape)


def _alike(shape: tuple[int, ...], expected: _Shape) -> bool:
    return len(shape) == len(expected) and all(
        found >= 1 if asked is None else found == asked for found, asked in zip(shape, expected, strict=True)
    )


def _allowed(name: str, inner: str | None, backbone: Dimensions) -> list[_Shape] | None:
    """Return the shapes that a tensor may have by its name; None if the name is unknown."""
    if inner is None:
        if name == "prompt_embeddings":  # peft's name: rows of the input, or a key and a value of every attention
            groups, width = backbone.heads
            return [(None, backbone.hidden), (None, 2 * backbone.layers * groups * width)]
        ends: dict[str, _Shape] = {**backbone.outside, "prompt.weight": (None, backbone.hidden)}
        return next(([shape] for end, shape in ends.items() if f".{name}".endswith(f".{end}")), None)
    for module, linear in backbone.linear.items():
        if inner.startswith(f"{module}."):
            kind = inner.removeprefix(f"{module}.").removeprefix("base_layer.")  # peft's name for the wrapped layer
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
    """Return the shapes of tensors that methods add to a linear layer, by the end of the tensor's name."""
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


def check_opens(adapter: Adapter, configuration: Mapping[str, Any]) -> None:
    """Raise the error that opening a peft adapter on a backbone with this configuration would raise; needs no weights.

    Raises:
        InvalidStudy: The peft settings are not supported.
        CorruptAdapter: The tensors do not fit the peft settings.
    """
    from afina.models.pretrained import meta_from_json

    manifest = adapter.manifest
    method = methods.make(manifest.method, manifest.hyperparameters, adapter.where)
    asked = objectives.make(manifest.label_names, manifest.objective)
    empty = meta_from_json(configuration, len(manifest.label_names), asked.opening)
    try:
        method.for_family(empty.config.model_type).check(empty, adapter.tensors)
    except (InvalidStudy, CorruptAdapter) as error:
        raise type(error)(f"{adapter.where}: {error}") from None
