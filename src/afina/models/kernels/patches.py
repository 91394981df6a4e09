"""What is changed in the modules of an opened model, in what order, and the one way to do it.

Nothing here adds, renames or moves a parameter that trains, so every name and every saved file stays transformers' and
peft's own; a frozen weight that is held in another form is no parameter any more. Each patch gives what the plain
module gives, but for rounding and the dropout masks drawn; `tests/models/kernels` holds each to the plain one. Knows
where the kernels go, not how they compute, but for the last block, which is computed where it is read.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum, auto
from typing import Any
from weakref import ref

from torch import Tensor, nn

from afina.models.architectures import Block, PreNorm, architecture_of, blocks_of
from afina.models.kernels import linear, lora
from afina.models.kernels.elementwise import Dropout, TanhGELU
from afina.models.kernels.ia3_and_vera import vera_adapter, vera_layer
from afina.models.kernels.linear import HeldWeight, PackedWeight, can_accelerate, held_forward, linear_forward
from afina.models.kernels.lora import lora_adapter, lora_layer


class Patch(IntEnum):
    """Every patch, in the order in which a model and each module in it get them."""

    # By a method's `attach`:
    BOTTLENECK = auto()
    """Forward of an attention or MLP module, around its own. First: no kernel replaces that, all go to what is inside
    or around, also to what a method has added there."""

    # By `apply_kernels`, when a model is opened, and again for what a method adds to it:
    DROPOUT = auto()
    """Child exchanged. Before LORA, which reads the rate of our dropout and would take peft's for none."""
    GELU = auto()
    """Child exchanged."""
    LINEAR = auto()
    """Forward of every linear layer of the body, also of those inside a layer of peft's."""
    LORA = auto()
    """Forward of peft's layer. Calls the linear layer in it only where that trains; reads its weights where not."""
    DORA = auto()
    """Likewise, for a layer of DoRA's."""
    VERA = auto()
    """Likewise, for a layer of VeRA's."""
    LAST_BLOCK = auto()
    """Forward of the last block."""

    # By `afina.training`, when it is known what trains, and how; HELD also by `Classifier`, to predict, and before a
    # method is attached where the backbone is held in another precision:
    CHECKPOINT = auto()
    """Forward of every block, around the one it has. After LAST_BLOCK, which would take its place."""
    LOOK_UP = auto()
    """Forward of an embedding that trains. After its weight is lowered, since it reads the float32 one behind that."""
    HELD = auto()
    """Forward of a frozen linear layer, and its weight. After all others: a forward from before cannot read the weight
    any more."""

    # By `afina.models.mixed_batch`, when it is known what the model computes with:
    MIXED_BATCH = auto()
    """Forward of every layer that several adapters may change, around its own."""


def patch(module: nn.Module, kind: Patch, forward: Callable[..., Any], *given: Any) -> None:
    """Let a call of `module` be `forward(module, *given, *inputs)`, whatever it was before.

    Raises ValueError where the module has a later patch, which this one would undo.
    """
    had = patches_of(module)
    if had and had[-1] > kind:
        raise ValueError(f"{type(module).__name__} has patch {had[-1].name} already; {kind.name} comes before it.")
    if kind not in had:
        module.__dict__["patches"] = [*had, kind]
    module.forward = _Forward(module, forward, *given)


class _Forward:
    """What a call of a patched module does. The module keeps it, so it does not keep the module: a circle of the two
    would hold a model that nobody has any more until the garbage collector next looks at everything, gigabytes later.
    """

    def __init__(self, module: nn.Module, forward: Callable[..., Any], *given: Any) -> None:
        self._module, self._forward, self._given = ref(module), forward, given

    def __call__(self, *inputs: Any, **options: Any) -> Any:
        return self._forward(self._module(), *self._given, *inputs, **options)

    def __reduce__(self) -> tuple[Any, ...]:
        return _Forward, (self._module(), self._forward, *self._given)  # so that a copy calls the copied module


def call_of(module: nn.Module) -> Callable[..., Any]:
    """What a call of a module does now, for a patch around it. Does not keep the module."""
    own: Callable[..., Any] | None = module.__dict__.get("forward")
    return own or _Forward(module, type(module).forward)


def exchange(parent: nn.Module, name: str, kind: Patch, child: nn.Module) -> None:
    """Put `child` where the parent has another, both without parameters; it goes on training or evaluating."""
    child.__dict__["patches"] = [kind]
    setattr(parent, name, child.train(getattr(parent, name).training))


def patches_of(module: nn.Module) -> list[Patch]:
    """The patches that a module has, in the order in which it got them."""
    found: list[Patch] = module.__dict__.get("patches", [])
    return found


def apply_kernels(model: nn.Module, body: Any) -> None:
    """Give a model every kernel that serves it. Called again after a wrap, it reaches what is new and keeps the rest.

    model  everything, perhaps wrapped by peft;  body  the transformer in it, without the head
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
        elif (adapter := lora.dora_adapter(layer)) is not None:
            lora.prepare_dora(layer)
            patch(layer, Patch.DORA, lora.dora_layer, adapter)
        elif (adapter := vera_adapter(layer)) is not None:
            patch(layer, Patch.VERA, vera_layer, adapter)
    entry = architecture_of(body)
    if entry.pooling == "last" and entry.block.pre_norm is not None:
        patch(blocks_of(body)[-1], Patch.LAST_BLOCK, last_block, entry.block, entry.block.pre_norm)


def accelerate(layer: nn.Module) -> None:
    """Let a linear layer multiply by oneDNN where that is faster; leaves any other layer."""
    if can_accelerate(layer) and Patch.LINEAR not in patches_of(layer):
        patch(layer, Patch.LINEAR, linear_forward, call_of(layer))


def hold(layer: Any, held: HeldWeight) -> None:
    """Let a linear layer hold its frozen weight in another form, and no parameter; its bias stays, and may train."""
    linear.hold_weight(layer, held)
    patch(layer, Patch.HELD, held_forward)


def pack(layer: Any, *, backward: bool = True) -> PackedWeight:
    """Keep a linear layer's frozen weight in oneDNN's order only, for both directions.

    backward  False: for the forward pass alone, in half the memory
    Returns the packed weight. `linear.can_pack` says of which layers.
    """
    held = PackedWeight(linear.frozen_weight(layer).dequantize(), backward=backward)
    hold(layer, held)
    return held


def last_block(
    block: Any, names: Block, norms: PreNorm, hidden: Tensor, *_: Any, layout: Any, **options: Any
) -> Tensor:
    """The last block, whose output is read at each sequence's last token only: 0 elsewhere.

    Keys and values need every token; the residual stream and the MLP, two thirds of the block, only those.
    hidden [1, T, width] -> [1, T, width].
    """
    options.pop("cache", None)
    first, second = getattr(block, norms.first), getattr(block, norms.second)
    normed = first(hidden)
    options["attention_mask"] = None
    attended = block.get_submodule(names.attention)(normed, layout=layout, **options)[0].index_select(1, layout.last)
    stream = hidden.index_select(1, layout.last)
    mlp = block.get_submodule(names.mlp)
    after_attention = getattr(block, "post_attention_dropout", nn.Identity())
    after_mlp = getattr(block, "post_mlp_dropout", nn.Identity())
    attended = after_attention(attended)
    if norms.parallel and getattr(block, "use_parallel_residual", True):
        stream = stream + attended + after_mlp(mlp(second(stream)))
    else:
        stream = stream + attended
        stream = stream + after_mlp(mlp(second(stream)))
    return hidden.new_zeros(hidden.shape).index_copy(1, layout.last, stream)
