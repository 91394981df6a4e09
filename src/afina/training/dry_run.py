"""Dry run: training steps on tensors without values, to measure memory before the weights are read.

A dry run executes the real training code on torch's fake tensors, which have shapes, dtypes and a device but no values.
The memory is measured in the training code itself, for every model family and method; a dry run with 13 billion
parameters takes seconds. The module `dry_run` does not know tasks.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass
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
from afina.methods.attachment import attach
from afina.methods.method import Method
from afina.models.backbone_spec import FLOAT
from afina.models.classifier import Classifier, ParameterCounts, count_parameters
from afina.models.language_model import open_without_weights
from afina.models.objective import Objective, Opening
from afina.training.inputs import TrunkUse
from afina.training.optimizer import Recipe
from afina.training.probe_fit import fit_of
from afina.training.trunk_inputs import training_inputs


@dataclass(frozen=True)
class DryRun:
    """The result of a dry run: parameter counts, and memory in bytes as docs/reference/figures.md defines it.

    Attributes:
        state_bytes: Bytes of parameters, gradients, optimizer state and all other tensors that are kept between steps.
        gpu_state_bytes: `state_bytes` without the second copies of frozen weights in oneDNN's layout, which only a CPU
            needs.
        activation_bytes: Bytes of activations. `activation_bytes` is None if nothing is trained, or with activation
            checkpointing.
        beyond_state: Memory in addition to `state_bytes`: the activations, or with activation checkpointing, the peak
            of a step minus `state_bytes`.
        evaluation: Peak size of all tensors during the evaluation after training, in bytes.
        tensors: Peak size of all tensors from the start of training to the end of the evaluation, in bytes.
        trunk: How training uses the outputs of frozen lower blocks. None: training does not look for such blocks.
    """

    counts: ParameterCounts
    state_bytes: int
    gpu_state_bytes: int
    activation_bytes: int | None
    beyond_state: int
    evaluation: int
    tensors: int
    disk_bytes: int
    trunk: TrunkUse | None = None

    @property
    def trunk_bytes(self) -> int:
        """Bytes of the kept outputs of frozen lower blocks, in memory or in a temporary file."""
        return 0 if self.trunk is None else self.trunk.bytes

    @property
    def scratch_bytes(self) -> int:
        """Bytes of the temporary file of the kept outputs, if they are not in memory."""
        return self.trunk_bytes if self.trunk is not None and self.trunk.place == "file" else 0


def dry_run(
    address: str,
    method: Method,
    objective: Objective,
    loader: Loader,
    recipe: Recipe,
    evaluation: Packed,
    dtype: torch.dtype,
    precision: str = FLOAT,
    products: str = FLOAT,
    load: GenerationLoad | None = None,
) -> DryRun:
    """Measure the memory of training `method` on the CPU, and of the evaluation after training.

    A dry run has the phases of a real run: train in `dtype`, measure memory, convert to float32, evaluate. Only the
    sizes of batches matter, not their texts.

    Args:
        address: The backbone's address; only its configuration is read.
        evaluation: The largest batch of the evaluation, with targets for each token if the kind of task has such
            targets.
        precision: How the backbone's frozen weights are stored, a key of `PRECISIONS`.
        products: The type of numbers in which products with frozen weights are computed, "float" or "int8".
        load: The prompts for which the evaluation generates answers. None: no answer is generated.
    """
    # Two, because peft cannot wrap fake tensors.
    shapes = [_shape(address, objective.width, objective.opening, method, precision) for _ in range(2)]
    # Before FakeTensorMode, because these functions read values.
    layout = shapes[0].layout
    kind = training_inputs(method, shapes[0], loader, recipe)
    made, evaluation_layout = kind.rehearsal(loader, recipe, layout), layout(evaluation).made()
    generation = None if load is None else load.rehearsal(shapes[0].before, layout)
    with FakeTensorMode(allow_non_fake_inputs=True), Alive() as alive:
        fit = fit_of(method)(_fake(shapes.pop()), method, objective, loader, recipe, dtype, products)
        if fit.parameters:
            fit.begin()
            # A second step: the optimiser has its state, and features are computed while an earlier batch exists.
            parts = fit.inputs.rehearse(made)
            fit.warm_up()
            parts = fit.inputs.rehearse(made)
            fit.update(parts)
        kept, activations, beyond = fit.state_bytes, None, 0
        if fit.parameters:
            beyond = alive.peak - kept
            if not recipe.checkpointing and (activations := fit.activation_bytes(parts[0])) is not None:
                beyond = activations
        copies, most, trunk = fit.weights.copies, kept + fit.beside_bytes, fit.inputs.trunk_use
        if trunk is not None and trunk.place == "memory":
            copies += trunk.bytes  # of a GPU's run, too, the outputs are in main memory
        counts = count_parameters(fit.parameters)
        classifier = fit.finish(lambda: _fake(shapes.pop()))
        disk_bytes = tensorfile.size(method.state(classifier.model))
        classifier.eval()
        before = alive.restart()
        with torch.inference_mode():
            if generation is not None:
                generation.run(classifier)
            classifier(evaluation, evaluation_layout)
    tensors = max(before, alive.peak, most)
    return DryRun(counts, kept, kept - copies, activations, beyond, alive.peak, tensors, disk_bytes, trunk)


def serving_bytes(
    address: str, method: Method, objective: Objective, dtype: torch.dtype, precision: str = FLOAT
) -> int:
    """Return the size in bytes of all weights of a backbone with an adapter, for prediction in `dtype` on the CPU."""
    shape = _shape(address, objective.width, objective.opening, method, precision)
    with FakeTensorMode(allow_non_fake_inputs=True):
        classifier = _fake(shape)
        if dtype != torch.float32:
            classifier.lower(dtype, packs=method.packs, unlowered=method.unlowered(classifier.model))
        return classifier.size


def _shape(address: str, labels: int, opening: Opening, method: Method, precision: str) -> Classifier:
    classifier = open_without_weights(address, labels, opening)
    classifier.hold(precision)
    attach(classifier, method)
    return classifier


def _fake(classifier: Classifier) -> Classifier:
    """Replace the `meta` tensors of a classifier by fake tensors on the CPU, in place."""
    parameters: dict[Parameter, Parameter] = {}  # keeps tied parameters tied
    for module in classifier.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                if parameter not in parameters:
                    empty = torch.empty_like(parameter, device="cpu")
                    parameters[parameter] = Parameter(empty, parameter.requires_grad)
                module._parameters[name] = parameters[parameter]
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = torch.empty_like(buffer, device="cpu")
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
