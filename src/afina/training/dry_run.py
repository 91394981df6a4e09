"""Rehearsal: training steps without values, so that their memory is known before there are weights.

The code that trains runs on torch's fake tensors: they have shapes, dtypes and a device, and their
operations make tensors of the right size that hold nothing. So the figures follow whatever training
does, for any family and method, and 13 billion parameters take seconds. Knows no task.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import Parameter
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from afina import tensorfile
from afina.data.batch import Packed
from afina.meter import activation_bytes, state_bytes
from afina.methods.attachment import attach
from afina.methods.method import Method
from afina.models.classifier import Classifier, is_head
from afina.models.kernels.layout import Layout
from afina.models.meta import meta_model
from afina.training.loop import Recipe, batch_loss, make_optimizer, take_step
from afina.training.mixed_precision import Working

_RECIPE = Recipe(steps=1, learning_rate=1e-3, weight_decay=0.01, clip=1.0, seed=0)
_STEPS = 2
"""From the second step on, the optimiser's state is there while a batch is computed."""


@dataclass(frozen=True)
class Rehearsed:
    """Counts of parameters, and bytes as docs/figures.md defines them.

    gpu_state_bytes  state_bytes without what a CPU alone keeps: the second copy of packed weights
    tensors  most bytes of tensors alive at one moment of training, evaluating and what lies between
    """

    body: int
    head: int
    state_bytes: int
    gpu_state_bytes: int
    activation_bytes: int | None
    tensors: int
    disk_bytes: int


def rehearse(
    address: str, labels: int, method: Method, dtype: torch.dtype, training: Packed, evaluation: Packed
) -> Rehearsed:
    """What a run of `method` on the CPU takes if its largest batches are `training` and `evaluation`.

    Follows a run: train in `dtype`, measure, go back to float32, evaluate. Only the batches' sizes count.
    """
    training_layout, evaluation_layout = (
        Layout(packed.bounds).made() for packed in (training, evaluation)
    )  # reads values
    shapes = [_shape(address, labels, method) for _ in range(2)]  # peft cannot wrap fake tensors
    with FakeTensorMode(allow_non_fake_inputs=True), Alive() as alive:
        classifier = _fake(shapes.pop())
        parameters = method.trainable(classifier.model)
        sizes = {True: 0, False: 0}
        for name, parameter in parameters.items():
            sizes[is_head(name)] += parameter.numel()
        disk_bytes = tensorfile.size(method.state(classifier.model))
        activations = None
        if parameters:
            kept, on_gpu, activations = _train(classifier, parameters, dtype, training, training_layout)
            if dtype != torch.float32:
                saved = {name: tensor.detach().clone() for name, tensor in method.state(classifier.model).items()}
                classifier = _fake(shapes.pop())
                del saved
        else:
            kept = on_gpu = state_bytes(classifier.parameters())
        classifier.eval()
        with torch.inference_mode():
            classifier(evaluation, evaluation_layout)
    return Rehearsed(sizes[False], sizes[True], kept, on_gpu, activations, alive.peak, disk_bytes)


def _train(
    classifier: Classifier, parameters: Mapping[str, Parameter], dtype: torch.dtype, packed: Packed, layout: Layout
) -> tuple[int, int, int]:
    """State, that of a GPU, and activations; leaves the classifier as training does, with its gradients."""
    working = Working(classifier.model, parameters, dtype)
    optimizer = make_optimizer(classifier, working.trained, _RECIPE)
    classifier.train()
    working.refresh()
    for _ in range(_STEPS):
        take_step(classifier, working, optimizer, [packed], _RECIPE.clip, [layout])
    kept = state_bytes([*classifier.parameters(), *working.trained.values(), *working.packed], optimizer)
    activations = activation_bytes(classifier, lambda: batch_loss(classifier, packed, layout))
    working.settle()
    return kept, kept - sum(each.nbytes for each in working.packed) // 2, activations


def _shape(address: str, labels: int, method: Method) -> Classifier:
    classifier = Classifier(meta_model(address, labels))
    attach(classifier, method)
    return classifier


def _fake(classifier: Classifier) -> Classifier:
    """Put fake tensors on the CPU, in place, where a classifier has those of the `meta` device."""
    parameters: dict[Parameter, Parameter] = {}  # a tied one stays one
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
    """Follows every storage that an operation makes until it is freed. `peak`: the most bytes at once."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        self._sizes: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        tree_map_only(Tensor, self._follow, result)
        return result

    def _follow(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        if tensor.device.type == "meta" or storage._cdata in self._sizes:
            return
        self._sizes[storage._cdata] = storage.nbytes()
        self.now += storage.nbytes()
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._forget, storage._cdata)

    def _forget(self, identity: int) -> None:
        self.now -= self._sizes.pop(identity)
