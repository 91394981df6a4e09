"""Decide whether an adapter is admitted to a store: inspect its directory, and check its tensors against the backbone.

The expected layers and shapes come from the backbone's `config.json` only. In this module, no other library reads the
adapter's files, and only `check_opens` imports torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from afina import file_io, hub, methods
from afina.errors import AfinaError, CorruptAdapter, InvalidStudy, WrongBackbone
from afina.methods import peft_settings
from afina.models import objectives
from afina.models.adapter import PEFT_SETTINGS, answers_with_texts, check_outputs_known
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
    """An adapter that passed the checks of `admit`."""

    manifest: Manifest | None  # None: peft made the adapter
    configuration: Mapping[str, Any] | None  # of the backbone; None: not on this machine, unsupported, or no backbone


def admit(directory: Path, limits: IntakeLimits, *, links: bool = False) -> Admitted:
    """Inspect an adapter's directory, and check the shapes of its tensors against the backbone's configuration.

    If the backbone is not on this machine, the shapes are checked later, when the adapter is opened.

    Raises:
        CorruptAdapter, Refused, NotFound: the errors of `inspection.inspect`.
        WrongBackbone: a tensor of the adapter does not fit the backbone.
        InvalidStudy: the adapter's peft settings cannot be used to open the adapter.
    """
    inspected = inspect(directory, limits, links=links)
    manifest = inspected.manifest
    if manifest is not None:
        if manifest.vocabulary_digest is not None:
            return Admitted(manifest, None)
        address, labels = manifest.backbone, objectives.make(manifest.label_names, manifest.objective).width
    else:
        settings = file_io.read_object(directory / PEFT_SETTINGS)
        try:
            peft_settings.check(settings)
        except InvalidStudy as error:
            raise error.within(f"{directory / PEFT_SETTINGS}: ") from None
        check_outputs_known(settings, directory)
        address = settings.get("base_model_name_or_path")
        labels = 1 if answers_with_texts(settings) else _rows(inspected.header, directory)
    configuration = at_hand(address) if isinstance(address, str) and address else None
    if configuration is None or configuration.get("model_type") not in ARCHITECTURES:
        return Admitted(manifest, None)
    fits(inspected.header, configuration, labels, str(directory))
    return Admitted(manifest, configuration)


def at_hand(address: str) -> Mapping[str, Any] | None:
    """Return the content of a backbone's `config.json`; None if the backbone is not on this machine."""
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


def _rows(header: Header, directory: Path) -> int:
    for name, entry in header.tensors.items():
        if is_output(name) and name.endswith("weight") and len(entry.shape) == 2:
            return entry.shape[0]
    raise problems.HEAD_MISSING(where=directory, path=directory, expected=head_names())


SMALL = 4096
"""The largest plausible dimension of an unknown tensor that is not a dimension of the backbone: a rank, a number of
virtual tokens, or a number of shared random rows."""

_OF_PEFT = "base_model.model."
_DOWN, _UP = "lora_A.weight", "lora_B.weight"

_Shape = tuple[int | None, ...]
"""The expected shape of a tensor; None stands for a dimension of any size."""


def fits(header: Header, configuration: Mapping[str, Any], labels: int, where: str = "adapter") -> None:
    """Check that the tensors of an adapter fit a backbone, by the shapes in the tensor file's header.

    Args:
        configuration: the content of the backbone's `config.json`.
        labels: the number of rows of the adapter's head, if it has a head.

    Raises:
        WrongBackbone: a tensor does not fit the backbone.
        CorruptAdapter: the head does not have a row for each label, or the factors A and B of LoRA differ in rank.
        InvalidStudy: the content of `config.json` is malformed.
    """
    backbone = dimensions(configuration, labels)
    heads = tuple(f".{head.output}.{kind}" for head in backbone.architecture.heads for kind in ("weight", "bias"))
    shapes = {name.removeprefix(_OF_PEFT): entry.shape for name, entry in header.tensors.items()}
    for name, shape in shapes.items():
        if f".{name}".endswith(heads) and shape[:1] != (labels,):
            but = f"the adapter has {labels} labels"
            raise problems.TENSOR_INVALID(where=where, tensor=name[:80], found=shape, labels=labels, _but=but)
        _check(name, shape, backbone, where)
        if name.endswith(_DOWN):
            up = shapes.get(name.removesuffix(_DOWN) + _UP)
            if up is not None and up[1:] != shape[:1]:
                but = f"its {_UP} has {list(up)}: the ranks differ"
                raise problems.TENSOR_INVALID(
                    where=where, tensor=name[:80], found=shape, other=_UP, expected=list(up), _but=but
                )


def _check(name: str, shape: tuple[int, ...], backbone: Dimensions, where: str) -> None:
    inside = backbone.architecture.block.find(name)
    if inside is not None and inside[0] >= backbone.layers:
        what = f"belongs to layer {inside[0]}, but the backbone has layers 0 to {backbone.layers - 1}"
        raise _does_not_fit(where, name, what, layer=inside[0], most=backbone.layers - 1)
    allowed = _allowed(name, inside[1] if inside else None, backbone)
    if allowed is None:
        known = backbone.known
        if odd := [size for size in shape if size > SMALL and size not in known]:
            what = f"has shape {list(shape)}, and the backbone has no dimension of {odd[0]:,}"
            raise _does_not_fit(where, name, what, found=shape, dimension=odd[0])
    elif not any(_alike(shape, each) for each in allowed):
        expected = " or ".join(str([size if size is not None else "any" for size in each]) for each in allowed)
        what = f"has shape {list(shape)}, expected {expected} for this backbone"
        raise _does_not_fit(where, name, what, found=shape, expected=expected)


def _does_not_fit(where: str, name: str, what: str, **fields: object) -> WrongBackbone:
    return problems.TENSOR_DOES_NOT_FIT(where=where, tensor=name[:80], _what=what, **fields)


def _alike(shape: tuple[int, ...], expected: _Shape) -> bool:
    return len(shape) == len(expected) and all(
        size >= 1 if wanted is None else size == wanted for size, wanted in zip(shape, expected, strict=True)
    )


def _allowed(name: str, inner: str | None, backbone: Dimensions) -> list[_Shape] | None:
    """Return the shapes that an adapter's tensor may have, given its name; None if the name is unknown."""
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
    """Return the shapes of the tensors that LoRA, IA3 and others add to a linear layer, by the end of their names."""
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
    """Check that a peft adapter can be opened on a backbone with this `config.json`, whose weights are not needed.

    Raises InvalidStudy for unsupported peft settings, and CorruptAdapter if the tensors do not fit them.
    """
    from afina.models.pretrained import meta_from_json

    manifest = adapter.manifest
    method = methods.make(manifest.method, manifest.hyperparameters, adapter.where)
    objective = objectives.make(manifest.label_names, manifest.objective)
    empty = meta_from_json(configuration, objective.width, objective.opening)
    try:
        method.for_family(empty.config.model_type).check(empty, adapter.tensors)
    except (InvalidStudy, CorruptAdapter) as error:
        raise error.within(f"{adapter.where}: ") from None
