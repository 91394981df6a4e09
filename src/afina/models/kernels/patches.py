"""Patches: all changes that afina makes to the modules of an open model, their order, and how they are applied.

Patches do not add, rename or move trained parameters, so that the names and saved files stay those of transformers and
peft. A frozen weight that is converted (to int8, NF4 or oneDNN's layout) is no longer a parameter. A patched module
computes the same as the original module, except for rounding and the random numbers of dropout; the tests in
`tests/models/kernels` compare each patched module with the original. The Python module `patches` does not know how
kernels compute, except for the last block, which is computed only for the tokens that are read.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum, auto
from typing import Any
from weakref import ref

from torch import Tensor, nn

from afina.models.architectures import Block, PostNorm, PreNorm, architecture_of, blocks_of
from afina.models.kernels import dora, linear
from afina.models.kernels.elementwise import Dropout, TanhGELU
from afina.models.kernels.int8_training import Int8ProductsWeight
from afina.models.kernels.layout import read_rows
from afina.models.kernels.linear import HeldWeight, PackedWeight, can_accelerate, held_forward, linear_forward
from afina.models.kernels.lora import lora_adapter, lora_layer
from afina.models.kernels.vera import vera_adapter, vera_layer


class Patch(IntEnum):
    """All patches, in the order in which they are applied to a model and to each of its modules."""

    # By a method's `attach`:
    BOTTLENECK = auto()
    """Replaces the forward of an attention or MLP module by one that calls it and adds a bottleneck. The patch
    BOTTLENECK is applied first, because kernels do not replace the forward of the patched module; kernels are applied
    to modules inside or around the patched module, including modules that a method has added."""

    # By `apply_kernels`, when a model is opened, and again for what a method adds to it:
    DROPOUT = auto()
    """Replaces a dropout module by afina's `Dropout`. DROPOUT comes before LORA, which reads the rate from afina's
    `Dropout` and would ignore peft's `nn.Dropout`."""
    GELU = auto()
    """transformers' `gelu_new` becomes afina's `TanhGELU`."""
    LINEAR = auto()
    """Replaces the forward of each linear layer of the body, including layers inside peft's layers."""
    LORA = auto()
    """Replaces the forward of peft's LoRA layer. The forward of LORA calls the inner linear layer if its weight trains,
    and otherwise reads the frozen weight."""
    DORA = auto()
    """Replaces the forward of peft's DoRA layer by one that reads the frozen weight, as in LORA."""
    VERA = auto()
    """Replaces the forward of peft's VeRA layer by one that reads the frozen weight, as in LORA."""
    LAST_BLOCK = auto()
    """Replaces the forward of the last transformer block by one that computes only the tokens that are read."""
    POOLER = auto()
    """Replaces the forward of a pretrained pooler by one that computes nothing. The body would call the pooler for the
    first text only; instead, the architecture's `logits` calls the pooler's layers for all texts."""

    # By `afina.training`, when it is known what trains. HELD also by `Classifier`: for prediction, and before a method
    # is attached if the backbone has another precision.
    CHECKPOINT = auto()
    """Replaces the forward of each transformer block by one that calls it with activation checkpointing. CHECKPOINT
    comes after LAST_BLOCK, which would replace the forward of CHECKPOINT."""
    LOOK_UP = auto()
    """Replaces the forward of a trained embedding. LOOK_UP comes after the conversion of weights to bfloat16, because
    the new forward reads the float32 master weight."""
    HELD = auto()
    """Replaces the forward and the weight of a frozen linear layer. HELD comes after all patches above, whose forwards
    could not read the converted weight."""

    # By `afina.models.mixed_batch`, when the compute dtype is known:
    MIXED_BATCH = auto()
    """Replaces the forward of each layer that adapters of a mixed batch may change by one that calls it and applies the
    changes."""


def patch(module: nn.Module, kind: Patch, forward: Callable[..., Any], *given: Any) -> None:
    """Replace the forward of `module` by a call of `forward(module, *given, *inputs)`.

    Raises ValueError if the module already has a later patch, which this patch would undo.
    """
    had = patches_of(module)
    if had and had[-1] > kind:
        raise ValueError(f"{type(module).__name__} has patch {had[-1].name} already; {kind.name} comes before it.")
    if kind not in had:
        module.__dict__["patches"] = [*had, kind]
    module.forward = _Forward(module, forward, *given)


class _Forward:
    """The forward of a patched module, which has only a weak reference to the module.

    The module has a reference to its `_Forward`. A strong reference from a `_Forward` to its module would form a cycle,
    so that an unused model of gigabytes would stay in memory until the garbage collector runs.
    """

    def __init__(self, module: nn.Module, forward: Callable[..., Any], *given: Any) -> None:
        self._module, self._forward, self._given = ref(module), forward, given

    def __call__(self, *inputs: Any, **options: Any) -> Any:
        return self._forward(self._module(), *self._given, *inputs, **options)

    def __reduce__(self) -> tuple[Any, ...]:
        return _Forward, (self._module(), self._forward, *self._given)  # so that a copied module calls itself


def call_of(module: nn.Module) -> Callable[..., Any]:
    """Return the module's current forward, to be called by a patch; it has only a weak reference to the module."""
    own: Callable[..., Any] | None = module.__dict__.get("forward")
    return own or _Forward(module, type(module).forward)


def exchange(parent: nn.Module, name: str, kind: Patch, child: nn.Module) -> None:
    """Replace a child module without parameters by `child`, and keep the training mode."""
    child.__dict__["patches"] = [kind]
    setattr(parent, name, child.train(getattr(parent, name).training))


def patches_of(module: nn.Module) -> list[Patch]:
    """Return the patches of a module, in the order in which they were applied."""
    found: list[Patch] = module.__dict__.get("patches", [])
    return found


def apply_kernels(model: nn.Module, body: Any) -> None:
    """Apply all suitable kernels to a model, as patches; a second call patches only new modules.

    `body` is the transformer inside the model, without the head.
    """
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if type(child) is nn.Dropout:
                exchange(parent, name, Patch.DROPOUT, Dropout(child.p))
            elif type(child).__name__ == "NewGELUActivation":
                exchange(parent, name, Patch.GELU, TanhGELU())
    for layer in body.modules():
        accelerate(layer)
    for layer in model.modules():
        adapter = lora_adapter(layer)
        if adapter is not None:
            patch(layer, Patch.LORA, lora_layer, adapter)
        elif (adapter := dora.dora_adapter(layer)) is not None:
            dora.prepare_dora(layer)
            patch(layer, Patch.DORA, dora.dora_layer, adapter)
        elif (adapter := vera_adapter(layer)) is not None:
            patch(layer, Patch.VERA, vera_layer, adapter)
    entry = architecture_of(body)
    if entry.pooling_of(body.config) != "mean" and (entry.block.pre_norm or entry.block.post_norm):
        patch(blocks_of(body)[-1], Patch.LAST_BLOCK, last_block, entry.block)
    if entry.pooler is not None and (pooler := getattr(body, entry.pooler)) is not None:
        patch(pooler, Patch.POOLER, _skip)


def _skip(module: nn.Module, hidden: Tensor) -> None:
    """Compute nothing."""


def accelerate(layer: nn.Module) -> None:
    """Let a linear layer multiply with oneDNN if that is faster."""
    if can_accelerate(layer) and Patch.LINEAR not in patches_of(layer):
        patch(layer, Patch.LINEAR, linear_forward, call_of(layer))


def hold(layer: Any, held: HeldWeight) -> None:
    """Replace a linear layer's frozen weight by `held`, which is no parameter; the layer's bias stays and may train."""
    linear.hold_weight(layer, held)
    patch(layer, Patch.HELD, held_forward)


def pack(layer: Any, *, backward: bool = True) -> PackedWeight:
    """Store a linear layer's frozen weight only in oneDNN's layout, for layers for which `linear.can_pack` is true."""
    held = PackedWeight(linear.frozen_weight(layer).dequantize(), backward=backward)
    hold(layer, held)
    return held


def multiply_in_int8(layer: Any, factors: Tensor | None = None, *, backward: bool = True) -> Int8ProductsWeight:
    """Compute a layer's products in int8, if `linear.can_multiply_in_int8`; `factors` as of `Int8ProductsWeight`."""
    held = Int8ProductsWeight.of(linear.frozen_weight(layer), factors, backward=backward)
    hold(layer, held)
    return held


def last_block(block: Any, names: Block, hidden: Tensor, *_: Any, layout: Any, **options: Any) -> Tensor:
    """Compute the last block only at the tokens that are read, [1, T, width] -> [1, T, width]; 0 at all others.

    Keys and values of the last block need all tokens. The residual stream and the MLP, two thirds of the block, need
    only the tokens that are read: each text's last or first token, or the tokens on which a language model is trained.
    """
    for unused in ("cache", "encoder_attention_mask"):
        options.pop(unused, None)
    norms = names.pre_norm
    normed = hidden if norms is None else getattr(block, norms.first)(hidden)
    options["attention_mask"] = None
    attended = block.get_submodule(names.attention)(normed, layout=layout, **options)[0]
    attended, stream = (read_rows(rows[0], layout)[None] for rows in (attended, hidden))
    if norms is not None:
        stream = _then_mlp(block, names, norms, stream, attended)
    else:
        assert names.post_norm is not None
        stream = _then_norms(block, names, names.post_norm, stream, attended)
    return hidden.new_zeros(hidden.shape).index_copy(1, layout.read, stream)


def _then_norms(block: Any, names: Block, norms: PostNorm, stream: Tensor, attended: Tensor) -> Tensor:
    first, second = block.get_submodule(norms.first), block.get_submodule(norms.second)
    result: Tensor
    if norms.inner is None:
        stream = first(attended + stream)
        result = second(block.get_submodule(names.mlp)(stream) + stream)
    else:
        stream = first(attended, stream)
        result = second(block.get_submodule(norms.inner)(stream), stream)
    return result


def _then_mlp(block: Any, names: Block, norms: PreNorm, stream: Tensor, attended: Tensor) -> Tensor:
    mlp, second = block.get_submodule(names.mlp), getattr(block, norms.second)
    after_attention = getattr(block, "post_attention_dropout", nn.Identity())
    after_mlp = getattr(block, "post_mlp_dropout", nn.Identity())
    attended = after_attention(attended)
    if norms.parallel and getattr(block, "use_parallel_residual", True):
        stream = stream + attended + after_mlp(mlp(second(stream)))
    else:
        stream = stream + attended
        stream = stream + after_mlp(mlp(second(stream)))
    return stream
