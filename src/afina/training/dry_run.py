"""Dry run: training steps on tensors without values, to measure memory before the weights are read.

A dry run executes the real training code on torch's fake tensors, which have shapes, dtypes and a device but no values.
The memory is measured in the training code itself, for every model family and method; a dry run with 13 billion
parameters takes seconds. The module `dry_run` does not know tasks.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import EllipsisType
from typing import Any, Self

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import Parameter
from torch.utils._python_dispatch import TorchDispatchMode, is_traceable_wrapper_subclass
from torch.utils._pytree import tree_map_only

from afina import tensorfile
from afina.data.batch import Loader, Packed
from afina.generating.generation_memory import GenerationLoad
from afina.methods.attachment import attach, check_begins
from afina.methods.method import Method
from afina.models.architectures import is_after_pooling
from afina.models.backbone_spec import FLOAT
from afina.models.classifier import Classifier, ParameterCounts, count_parameters
from afina.models.kernels import patches
from afina.models.kernels.linear import held_by
from afina.models.language_model import open_without_weights
from afina.models.objective import Objective, Opening
from afina.models.weights.stored import StoredTensor
from afina.models.weights.unread import UnreadShapes, UnreadWeight, stand_in
from afina.ranks import ALONE, Ranks, rehearsal
from afina.training.fit import Fit
from afina.training.inputs import MicroBatch, TextBatch, inputs_of
from afina.training.probe_fit import fit_of
from afina.training.recipe import Recipe


@dataclass(frozen=True)
class DryRun:
    """The result of a dry run: parameter counts, and memory in bytes as docs/reference/figures.md defines it.

    Attributes:
        gpu_state_bytes: `state_bytes` without the second copies of frozen weights in oneDNN's layout, which only a CPU
            needs.
        activation_bytes: None if nothing is trained, or with activation checkpointing.
        beyond_state: Memory in addition to `state_bytes`: the activations, or with activation checkpointing or sharded
            weights, the peak of a step minus `state_bytes`.
        evaluation: Peak size of all tensors during the evaluation after training.
        tensors: Peak size of all tensors from the start of training to the end of the evaluation.
    """

    counts: ParameterCounts
    state_bytes: int
    gpu_state_bytes: int
    activation_bytes: int | None
    beyond_state: int
    evaluation: int
    tensors: int
    disk_bytes: int


def dry_run(
    address: str,
    method: Method,
    objective: Objective,
    loader: Loader,
    recipe: Recipe,
    evaluation: Packed,
    dtype: torch.dtype,
    load: GenerationLoad | None = None,
) -> DryRun:
    """Measure the memory of training `method` on the CPU, and of the evaluation after training.

    A dry run has the phases of a real run: train in `dtype`, measure memory, convert to float32, evaluate. Only the
    sizes of batches matter, not their texts. `evaluation` is the largest batch of the evaluation; `load` has the
    prompts for which the evaluation generates answers.
    """
    ranks, precision = recipe.ranks, recipe.training.precision
    # Two, because peft cannot wrap fake tensors.
    shapes = [
        _shape(address, objective.width, objective.opening, method, precision, unread=ranks.sharded) for _ in range(2)
    ]
    # Before FakeTensorMode, because these functions read values.
    layout = shapes[0].layout
    made, evaluation_layout = inputs_of(method).rehearsal(loader, recipe, layout), layout(evaluation).made()
    generation = None if load is None else load.rehearsal(shapes[0].before, layout)
    with rehearsal(ranks), FakeTensorMode(allow_non_fake_inputs=True), Alive() as alive:
        of_training = dtype if method.trainable(shapes[0].model) else torch.float32
        classifier = _fake(shapes.pop(), method, ranks, of_training)
        fit = fit_of(method)(classifier, method, objective, loader, recipe, dtype)
        del classifier
        activations, beyond = _step_memory(fit, made, alive)
        state, copies, beside = fit.state_bytes, fit.weights.copies, fit.beside_bytes
        counts = count_parameters(fit.parameters)
        classifier = fit.finish(lambda: _fake(shapes.pop(), method, ranks))
        disk_bytes = tensorfile.size(method.state(classifier.model))
        classifier.eval()
        before = alive.restart()
        with torch.inference_mode():
            if generation is not None:
                generation.run(classifier)
            classifier(evaluation, evaluation_layout)
    tensors = max(before, alive.peak, state + beside)
    return DryRun(counts, state, state - copies, activations, beyond, alive.peak, tensors, disk_bytes)


def _step_memory(fit: Fit, made: Sequence[TextBatch], alive: Alive) -> tuple[int | None, int]:
    """Take two steps; return `activation_bytes` and `beyond_state` of a DryRun."""
    if not fit.parameters:
        return None, 0
    parts = _two_steps(fit, made)
    beyond = alive.peak - fit.state_bytes
    if fit.recipe.training.checkpointing or (activations := fit.activation_bytes(parts[0])) is None:
        return None, beyond
    return activations, beyond if fit.recipe.ranks.sharded else activations


def _two_steps(fit: Fit, made: Sequence[TextBatch]) -> Sequence[MicroBatch]:
    """Take two steps, and return the micro-batches of the second."""
    fit.begin()
    # A second step: the optimiser has its state, and features are computed while an earlier batch exists.
    parts = fit.inputs.rehearse(made)
    fit.warm_up()
    parts = fit.inputs.rehearse(made)
    fit.update(parts)
    return parts


def serving_bytes(
    address: str, method: Method, objective: Objective, dtype: torch.dtype, precision: str = FLOAT
) -> int:
    """Return the size in bytes of all weights of a backbone with an adapter, for prediction in `dtype` on the CPU."""
    shape = _shape(address, objective.width, objective.opening, method, precision)
    with FakeTensorMode(allow_non_fake_inputs=True):
        classifier = _fake(shape, method)
        if dtype != torch.float32:
            classifier.lower(dtype, packs=method.packs, unlowered=method.unlowered(classifier.model))
        return classifier.size


def _shape(
    address: str, labels: int, opening: Opening, method: Method, precision: str, *, unread: bool = False
) -> Classifier:
    """Return a classifier without values with the method attached; `unread` as in `Classifier.unread`."""
    classifier = open_without_weights(address, labels, opening)
    classifier.hold(precision)
    if unread:
        _stand_in(classifier)
    attach(classifier, method)
    if unread:
        check_begins(classifier, method)
    return classifier


def _stand_in(classifier: Classifier) -> None:
    """Replace the `meta` tensors of a classifier by stand-ins for weights that no rank has read, as a run has them."""
    model, made = classifier.model, dict[Parameter, Parameter]()
    unread: dict[Parameter, StoredTensor] = {}
    for path, module in list(model.named_modules()):
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = torch.zeros_like(buffer, device="cpu")
        for name, parameter in module._parameters.items():
            if parameter is None:
                continue
            if parameter not in made:
                after = is_after_pooling(f"{path}.{name}")
                values = torch.zeros(parameter.shape) if after else stand_in(tuple(parameter.shape))
                made[parameter] = Parameter(values)
                unread |= {} if after else {made[parameter]: _Shape.of(parameter.shape)}
            module._parameters[name] = made[parameter]
    for module in list(model.modules()):
        if (held := held_by(module)) is not None:
            patches.hold(module, UnreadWeight(held.shape, _Shape.of(held.shape), turned=False))
    classifier.unread = UnreadShapes(unread)


@dataclass(frozen=True)
class _Shape(StoredTensor):
    """A weight of which only the shape is known."""

    size: tuple[int, ...] = ()

    @classmethod
    def of(cls, shape: Sequence[int]) -> Self:
        return cls(Path(), "", tuple(shape))

    @property
    def shape(self) -> tuple[int, ...]:
        return self.size

    def __getitem__(self, all_of_it: EllipsisType) -> Tensor:
        return torch.empty(self.shape)

    def rows(self, start: int, stop: int) -> Tensor:
        return torch.empty(stop - start, *self.shape[1:])

    def look_up(self, index: Tensor) -> Tensor:
        return torch.zeros(*index.shape, *self.shape[1:])


def _fake(
    classifier: Classifier, method: Method, ranks: Ranks = ALONE, dtype: torch.dtype = torch.float32
) -> Classifier:
    """Replace the tensors of a classifier by fake tensors on the CPU, in place.

    If the classifier's weights are unread, `ranks` share them, and the parts of frozen weights have `dtype`.
    """
    unread = {} if classifier.unread is None else classifier.unread.parameters
    parameters: dict[Parameter, Parameter] = {}  # keeps tied parameters tied
    for module in classifier.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                if parameter not in parameters:
                    size = () if parameter in unread else parameter.shape
                    empty = torch.empty(size, dtype=parameter.dtype, device="cpu").expand(parameter.shape)
                    parameters[parameter] = Parameter(empty, parameter.requires_grad)
                module._parameters[name] = parameters[parameter]
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = torch.empty_like(buffer, device="cpu")
    if unread:
        classifier.unread = UnreadShapes({parameters[each]: of for each, of in unread.items() if each in parameters})
        classifier.shard(ranks, dtype, torch.device("cpu"), unlowered=method.unlowered(classifier.model))
    return classifier


class Alive(TorchDispatchMode):
    """Tracks the memory of every tensor from its allocation to its release; `peak` is the largest total in bytes."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        self._sizes: dict[int, int] = {}

    def __enter__(self) -> Self:
        self._resize: Any = torch.UntypedStorage.resize_

        def followed(storage: torch.UntypedStorage, size: int) -> Any:
            resized = self._resize(storage, size)
            if storage._cdata in self._sizes:
                self._note(storage)
            return resized

        setattr(torch.UntypedStorage, "resize_", followed)  # noqa: B010 - no dispatch mode is told of it
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: Any) -> None:
        setattr(torch.UntypedStorage, "resize_", self._resize)  # noqa: B010
        super().__exit__(*error)  # type: ignore[no-untyped-call]

    def restart(self) -> int:
        """Return the peak so far in bytes, and start a new measurement at the current total."""
        before, self.peak = self.peak, self.now
        return before

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor):
            self._follow(result)
        elif isinstance(result, (tuple, list)):
            tree_map_only(Tensor, self._follow, result)
        return result

    def _follow(self, tensor: Tensor) -> None:
        if tensor.is_mkldnn or is_traceable_wrapper_subclass(tensor):
            return  # has no storage, or a storage without memory: the local tensor of a DTensor is followed
        storage = tensor.untyped_storage()
        if tensor.device.type == "meta" or storage._cdata in self._sizes:
            return
        self._note(storage)
        weakref.finalize(storage, self._forget, storage._cdata)

    def _note(self, storage: torch.UntypedStorage) -> None:
        self.now += storage.nbytes() - self._sizes.get(storage._cdata, 0)
        self._sizes[storage._cdata] = storage.nbytes()
        self.peak = max(self.peak, self.now)

    def _forget(self, identity: int) -> None:
        self.now -= self._sizes.pop(identity)
