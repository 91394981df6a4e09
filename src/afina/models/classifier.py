"""Classifier: backbone, pooling, head. Only the forward pass is ours.

The model inside is transformers' own `...ForSequenceClassification`, wrapped by peft where the
method says so, so every parameter name and every saved file is theirs. Knows no method.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import Parameter

from afina.data.batch import Packed
from afina.models.added_modules import layout_of, prompt_of
from afina.models.architectures import architecture_of, head_of, is_head
from afina.models.backbone import SINGLE_LABEL, Backbone
from afina.models.backbone_spec import FLOAT, PRECISIONS
from afina.models.kernels import linear
from afina.models.kernels.layout import Layout, insert, pool
from afina.models.kernels.linear import HeldWeight, can_pack
from afina.models.kernels.lora import read_layers
from afina.models.kernels.patches import apply_kernels, hold, pack
from afina.models.objective import Opening


@dataclass(frozen=True)
class ParameterCounts:
    """Numbers of parameters: in the body, in the head."""

    body: int
    head: int

    @property
    def trainable(self) -> int:
        """Both."""
        return self.body + self.head


def count_parameters(parameters: Mapping[str, Parameter]) -> ParameterCounts:
    """How many there are, by their names in a classifier's model."""
    sizes = {True: 0, False: 0}
    for name, parameter in parameters.items():
        sizes[is_head(name)] += parameter.numel()
    return ParameterCounts(body=sizes[False], head=sizes[True])


class Classifier(nn.Module):
    """Packed batch in, logits out.

    model   a `...ForSequenceClassification` whose attention is `afina.models.kernels.attention`, or peft's wrap of one
    offset     float32 [number of labels], added to the head's output; never trained. None: nothing is
    precision  what the frozen weights of the body's linear layers are held in, see `hold`
    """

    offset: Tensor | None

    def __init__(self, model: Any, offset: Tensor | None = None) -> None:
        super().__init__()
        self.model = model
        self.precision = FLOAT
        self.register_buffer("offset", offset, persistent=False)
        apply_kernels(model, self.body)

    @classmethod
    def open(
        cls,
        backbone: Backbone,
        label_names: Sequence[str],
        seed: int,
        tokens: Sequence[Sequence[int]] | None = None,
        *,
        exact: bool = False,
        opening: Opening = SINGLE_LABEL,
    ) -> Classifier:
        """The backbone's weights under a head that the seed draws, or of the output embeddings of `tokens`.

        See `Backbone.open`.
        """
        return cls(*backbone.open(label_names, seed, tokens, exact=exact, opening=opening))

    def hold(self, precision: str) -> None:
        """Hold the weights of the body's linear layers so, from now on: frozen, and no parameters of the model.

        precision  a key of PRECISIONS
        To be done in float32, once the backbone's digest was made, and before a method is attached.
        """
        self.precision = precision
        held = PRECISIONS[precision].hold
        if held is not None:
            for layer in [layer for layer in self.body.modules() if linear.is_linear(layer)]:
                hold(layer, held(linear.frozen_weight(layer).dequantize()))

    def wrap(self, attach: Callable[[Any], Any]) -> None:
        """Let a method's `attach` prepare the model, and perhaps wrap it; `afina.methods.attachment` checks it too."""
        self.model = attach(self.model)
        apply_kernels(self.model, self.body)

    def lower(self, dtype: torch.dtype, *, packs: bool = True, unlowered: Collection[str] = ()) -> None:
        """Hold all weights but the head's in `dtype`, from now on; for prediction, which needs no gradient of them.

        packs      whether the weights of linear layers may be kept in oneDNN's order alone
        unlowered  names of parameters that stay float32
        """
        read = read_layers(self.model)
        for path, module in self.model.named_modules():
            if is_head(path):
                continue
            for name, parameter in module.named_parameters(prefix=path, recurse=False):
                if name not in unlowered:
                    parameter.data = parameter.data.to(dtype)
            if isinstance(module, HeldWeight) and module.dtype != dtype:
                module.to(dtype)
            if packs and module not in read and can_pack(module, dtype):
                pack(module, backward=False)

    @property
    def body(self) -> Any:
        """The model without its head."""
        inner = self._inner()
        return getattr(inner, inner.base_model_prefix)

    def _inner(self) -> Any:
        unwrap = getattr(self.model, "get_base_model", None)
        return unwrap() if unwrap else self.model

    def layout(self, packed: Packed) -> Layout:
        """That of the row which the body is given for a batch: its tokens, and the virtual ones that a method adds."""
        return layout_of(self.body, packed.bounds)

    @property
    def before(self) -> int:
        """How many virtual tokens stand before each text."""
        empty = layout_of(self.body, torch.zeros(1, dtype=torch.int32))
        return empty.before + empty.prefix

    @property
    def size(self) -> int:
        """Bytes of all weights, also of those that layers hold in another form."""
        kept = [*self.model.parameters(), *linear.held_tensors(self.model)]
        return sum(int(weight.numel()) * weight.element_size() for weight in kept)

    def forward(self, packed: Packed, layout: Layout | None = None) -> Tensor:
        """Logits, float32 [B, number of labels]: the head applied to each sequence's pooled output.

        layout  the batch's, for who has made it already
        """
        return self.answer(self.features(packed, layout))

    def outputs(self, packed: Packed) -> np.ndarray:
        """An output a sequence, on the CPU, as `Predictions` holds it: its logits, float32 [B, number of labels]."""
        computed: Tensor = self(packed)
        return computed.cpu().numpy()

    def features(self, packed: Packed, layout: Layout | None = None) -> Tensor:
        """The head's input: the body's output, pooled as its architecture says, float32 [B, width]."""
        layout = layout or self.layout(packed)
        return self.read(self._row(packed, layout), layout)

    def read(self, row: Mapping[str, Tensor], layout: Layout, **options: Any) -> Tensor:
        """Features of a row that is laid out already, float32 [B, width]: what the body takes, by name.

        options  for attention, see `afina.models.kernels.attention.packed_attention`
        """
        entry = architecture_of(self.body)
        positions = row["position_ids"]
        given = {**row, "position_ids": positions + entry.position_offset if entry.position_offset else positions}
        causal = entry.mask == "causal"
        output = self.body(**given, use_cache=False, layout=layout, causal=causal, **options)
        return pool(output.last_hidden_state.squeeze(0), layout, entry.pooling).float()

    def answer(self, features: Tensor) -> Tensor:
        """The head's logits for features, float32 [B, width] -> float32 [B, number of labels]."""
        with torch.autocast(features.device.type, enabled=False):
            inner = self._inner()
            compute = architecture_of(inner).logits
            logits: Tensor = head_of(inner)[-1](features) if compute is None else compute(inner, features)
        return logits if self.offset is None else logits + self.offset

    def _row(self, packed: Packed, layout: Layout) -> dict[str, Tensor]:
        prompt = prompt_of(self.body)
        if prompt is None:
            positions = packed.positions + layout.prefix if layout.prefix else packed.positions
            return {"input_ids": packed.tokens[None], "position_ids": positions[None]}
        rows = insert(self.body.get_input_embeddings()(packed.tokens), prompt.weight, layout)
        return {"inputs_embeds": rows[None], "position_ids": layout.positions[None]}
