"""`DecodingStep`: the forward pass of a body for one token of each running text, with few calls.

For a few tokens, the calls of Python and torch in transformers' modules take a third of the time of the products with
weights. A `DecodingStep` calls the kernels of all blocks directly, in the order of transformers' modules and with the
same roundings, so the result is the same number for number. It computes blocks in the form of LLaMA; a body with a
module that it does not know has no `DecodingStep`. The module does not know adaptation methods.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from afina.models.architectures import Block, DecodingPaths, architecture_of, blocks_of
from afina.models.kernels import linear
from afina.models.kernels.key_values import KeyValueRow
from afina.models.kernels.layer_changes import PlacedChange
from afina.models.kernels.lora import lora_adapter
from afina.models.kernels.patches import Patch, patches_of

Changes = Mapping[str, Sequence[PlacedChange]]

_Function = Callable[[Tensor], Tensor]

_KNOWN = {Patch.LINEAR, Patch.LORA, Patch.LAST_BLOCK, Patch.HELD, Patch.MIXED_BATCH}
"""Patches whose forward a `DecodingStep` replaces by an equal computation."""


class DecodingStep:
    """The forward pass of a body in evaluation mode for one token of each running text, without a graph.

    A `DecodingStep` takes the weights from the body when it is made. After weights were converted or modules were
    added, a new one is needed.
    """

    def __init__(self, body: Any, paths: Mapping[nn.Module, str]) -> None:
        block = architecture_of(body).block
        assert block.decoding is not None
        assert block.final_norm is not None
        self._embed, self._rotary = body.get_input_embeddings(), body.get_submodule(block.decoding.rotary)
        self._blocks = [_Block(one, block, block.decoding, paths) for one in blocks_of(body)]
        self._norm = _norm(body.get_submodule(block.final_norm))
        self._changeable = frozenset(path for one in self._blocks for path in one.paths)

    @classmethod
    def of(cls, body: Any, paths: Mapping[nn.Module, str] | None = None) -> DecodingStep | None:
        """Return the decoding step of a body; `paths` names its modules. None: its own forward computes it."""
        return cls(body, paths or {}) if _is_known(body) else None

    def takes(self, changes: Changes) -> bool:
        if not changes.keys() <= self._changeable:
            return False
        return not any(one.change.enters for placed in changes.values() for one in placed)

    def __call__(self, tokens: Tensor, positions: Tensor, cached: KeyValueRow, changes: Changes) -> Tensor:
        """Return the body's output for one token of each text, [B, width]; tokens and positions: int64 [B]."""
        stream: Tensor = self._embed(tokens)
        cos, sin = (one.transpose(0, 1) for one in self._rotary(stream[None], position_ids=positions[None]))
        half = sin.shape[-1] // 2
        signed = torch.cat([-sin[..., :half], sin[..., half:]], -1)  # so that `_rotated` needs no negation
        for block in self._blocks:
            stream = block(stream, cos, signed, cached, changes)
        return self._norm(stream)


class _Block:
    def __init__(self, block: Any, names: Block, decoding: DecodingPaths, paths: Mapping[nn.Module, str]) -> None:
        assert names.pre_norm is not None
        self._attention = block.get_submodule(names.attention)
        self._window = decoding.window_of(self._attention)
        self._scale, self._width = float(self._attention.scaling), int(self._attention.head_dim)
        self._first, self._second = (_norm(block.get_submodule(path)) for path in names.pre_norm.norms)
        self._head_norms = [_norm(block.get_submodule(path)) for path in decoding.head_norms]
        self._act = block.get_submodule(decoding.activation)
        layers = [block.get_submodule(path) for path in decoding.linear]
        self._layers = [(_product(layer), paths.get(layer, "")) for layer in layers]
        self.paths = [path for _, path in self._layers if path]

    def __call__(self, stream: Tensor, cos: Tensor, sin: Tensor, cached: KeyValueRow, changes: Changes) -> Tensor:
        query_layer, key_layer, value_layer, output_layer, gate_layer, up_layer, down_layer = self._layers
        heads = len(stream), -1, self._width
        hidden = self._first(stream)
        query = _output(query_layer, hidden, changes).view(heads)
        key = _output(key_layer, hidden, changes).view(heads)
        value = _output(value_layer, hidden, changes).view(heads)
        if self._head_norms:
            query, key = (norm(rows) for norm, rows in zip(self._head_norms, (query, key), strict=True))
        query, key = _rotated(query, cos, sin), _rotated(key, cos, sin)
        mixed = cached.step(self._attention, query, key, value, self._scale, self._window)
        stream = _output(output_layer, mixed.view(len(stream), -1), changes).add_(stream)
        hidden = self._second(stream)
        gated = self._act(_output(gate_layer, hidden, changes)).mul_(_output(up_layer, hidden, changes))
        return _output(down_layer, gated, changes).add_(stream)


def _output(layer: tuple[_Function, str], inputs: Tensor, changes: Changes) -> Tensor:
    product, path = layer
    outputs = product(inputs)
    if placed := changes.get(path):
        for change, _, rows in placed:
            change.leaving(inputs[rows], outputs[rows])
    return outputs


def _rotated(heads: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Return the rotary embedding of heads [B, H, D]; cos and sin are [B, 1, D], the first half of sin negated."""
    low, high = heads.chunk(2, -1)
    return (heads * cos).add_(torch.cat((high, low), -1).mul_(sin))


def _norm(module: Any) -> _Function:
    return partial(_rms_norm, module.weight.detach(), float(module.variance_epsilon))


def _rms_norm(weight: Tensor, epsilon: float, hidden: Tensor) -> Tensor:
    wide = hidden.float()
    scale = wide.pow(2).mean(-1, keepdim=True).add_(epsilon).rsqrt_()
    return (wide * scale).to(hidden.dtype).mul_(weight)


def _product(layer: Any) -> _Function:
    adapter = lora_adapter(layer)
    if adapter is None:
        return partial(linear.frozen_weight(layer).product, bias=layer.bias)
    down, up = layer.lora_A[adapter].weight, layer.lora_B[adapter].weight
    return partial(_with_lora, _product(layer.base_layer), down.t(), up.t(), layer.scaling[adapter])


def _with_lora(product: _Function, down: Tensor, up: Tensor, scaling: float, inputs: Tensor) -> Tensor:
    return product(inputs).addmm_(inputs @ down, up, alpha=scaling)


def _is_known(body: Any) -> bool:
    block = architecture_of(body).block
    if block.decoding is None or body.training or len({one.dtype for one in body.parameters()}) > 1:
        return False
    layers = (one.get_submodule(path) for one in blocks_of(body) for path in block.decoding.linear)
    return all(map(_is_own, _modules(body, block, block.decoding))) and all(map(_is_linear, layers))


def _modules(body: Any, block: Block, decoding: DecodingPaths) -> Iterator[Any]:
    assert block.pre_norm is not None
    assert block.final_norm is not None
    yield body
    yield body.get_submodule(block.final_norm)
    for one in blocks_of(body):
        yield one
        paths = (block.attention, block.mlp, *block.pre_norm.norms, *decoding.head_norms)
        yield from (one.get_submodule(path) for path in paths)


def _is_own(module: nn.Module) -> bool:
    """Whether a module computes what its class in transformers does, apart from known patches."""
    return type(module).__module__.startswith("transformers.models.") and _is_unchanged(module)


def _is_linear(layer: Any) -> bool:
    if Patch.LORA in patches_of(layer):
        base = layer.base_layer
        return lora_adapter(layer) is not None and _is_linear(base) and not linear.weight_trains(base)
    return linear.is_linear(layer) and _is_unchanged(layer)


def _is_unchanged(module: nn.Module) -> bool:
    patches = patches_of(module)
    hooked = module._forward_hooks or module._forward_pre_hooks
    return not hooked and _KNOWN.issuperset(patches) and bool(patches) == ("forward" in module.__dict__)
