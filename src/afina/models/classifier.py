"""`Classifier`: a transformers model with its pooling and head, and afina's forward pass over packed batches.

It contains transformers' `...ForSequenceClassification` or `...ForTokenClassification`, wrapped by peft if the method
needs peft, so the names of parameters and saved files are theirs. The module does not know adaptation methods.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from threading import Lock
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import Parameter

from afina.data.batch import Packed
from afina.data.batch import pack as pack_texts
from afina.device import INT8
from afina.models.added_modules import attentions, key_heads, layout_of, prefix_of, prompt_of, readout_of
from afina.models.architectures import (
    architecture_of,
    head_entry_of,
    head_of,
    is_after_pooling,
    is_head,
    output_embedding_of,
)
from afina.models.backbone import Backbone
from afina.models.backbone_spec import FLOAT, PRECISIONS
from afina.models.kernels import int8_products, linear, patches
from afina.models.kernels.key_values import RowSegment, TokenChunk
from afina.models.kernels.layer_changes import KeyValues
from afina.models.kernels.layout import Layout, insert, pool, read_rows
from afina.models.kernels.linear import HeldWeight, can_pack
from afina.models.kernels.lora import read_layers
from afina.models.kernels.patches import apply_kernels, pack
from afina.models.objective import SINGLE_LABEL, Opening
from afina.models.weights.held import held_layers, hold_layers
from afina.models.weights.sharding import Sharding, shard
from afina.models.weights.unread import Unread
from afina.ranks import Ranks

ATTENTION = 3
"""Time of one operation in an attention to cached keys and values, divided by the time of one operation in a linear
layer: measured with chunks of 8 to 64 tokens after up to 3,900 tokens (language model `embedded`, one Zen 4 core,
float32)."""


@dataclass(frozen=True)
class ParameterCounts:
    """Numbers of parameters in a model's body and in its head."""

    body: int
    head: int

    @property
    def trainable(self) -> int:
        return self.body + self.head


def count_parameters(parameters: Mapping[str, Parameter]) -> ParameterCounts:
    """Count the parameters in the body and in the head, given the parameters by their names in a classifier."""
    sizes = {True: 0, False: 0}
    for name, parameter in parameters.items():
        sizes[is_head(name)] += parameter.numel()
    return ParameterCounts(body=sizes[False], head=sizes[True])


class Classifier(nn.Module):
    """A classifier that takes a packed batch (padding-free texts in one row) and returns logits.

    The logits are those of each text, or those of each token that has a target (`Packed.per_token`).

    Attributes:
        model: transformers' `...ForSequenceClassification` or `...ForTokenClassification` with the attention of
            `afina.models.kernels.attention`, or peft's wrapper of this model.
        offset: float32 [number of labels], added to the head's logits and never trained. None: no offset.
        precision: How the frozen weights of the body's linear layers are stored, a key of `PRECISIONS`.
        in_int8: Paths of the body's linear layers that multiply in int8. `in_int8` is None if `use_int8` was not
            called.
        unread: The stand-ins for weights that no rank has read. None: all weights are read.
        sharding: How the ranks of a run share the weights. None: this process has all weights.
    """

    offset: Tensor | None
    in_int8: frozenset[str] | None = None
    unread: Unread | None = None
    sharding: Sharding | None = None

    def __init__(self, model: Any, offset: Tensor | None = None) -> None:
        super().__init__()
        self.model = model
        self.precision = FLOAT
        self.register_buffer("offset", offset, persistent=False)
        self._own_linear = held_layers(self.body)
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
        precision: str = FLOAT,
        unread: bool = False,
    ) -> Self:
        """Open a backbone as a classifier with a new head; `Backbone.open` describes the arguments.

        Args:
            unread: If True, weights before the pooling are stand-ins, of which `shard` later reads this rank's part.
        """
        if unread:
            model, offset, stand_ins = backbone.open_unread(
                label_names, seed, tokens, exact=exact, opening=opening, precision=precision
            )
            classifier = cls(model, offset)
            classifier.unread = stand_ins
        else:
            opened = backbone.open(label_names, seed, tokens, exact=exact, opening=opening, precision=precision)
            classifier = cls(*opened)
        classifier.precision = precision
        return classifier

    def shard(
        self, ranks: Ranks, dtype: torch.dtype, device: torch.device, *, unlowered: Collection[str] = ()
    ) -> Sharding:
        """Read this rank's part of the weights of a classifier opened with `unread`, after a method is attached.

        The weights before the pooling get `dtype`, except for the parameters named in `unlowered`.
        """
        assert self.unread is not None
        self.sharding = shard(
            self.model,
            self.body,
            output_embedding_of(self.model),
            self.unread,
            ranks,
            dtype=dtype,
            device=device,
            hold=PRECISIONS[self.precision].hold,
            unlowered=unlowered,
        )
        self.unread = None
        if self.offset is not None:
            self.offset = self.offset.to(device)
        return self.sharding

    def apart(self) -> AbstractContextManager[None]:
        """Return a context in which each rank computes as many forward passes as it needs (`Sharding.apart`)."""
        return nullcontext() if self.sharding is None else self.sharding.apart()

    def idle_pass(self) -> Tensor:
        """Compute a forward pass for a rank that has no text for it, and return a zero, through which gradients pass.

        With sharded weights, every rank computes the same number of forward and backward passes in a training step.
        """
        return self.features(pack_texts([np.zeros(2, np.int64)]).to(self.device)).sum() * 0

    def hold(self, precision: str) -> None:
        """Convert the weights of the body's linear layers to `precision`; converted weights are frozen buffers.

        Call `hold` on float32 weights, after computing the backbone's digest and before attaching a method. `open` with
        the same `precision` gives the same model and needs less memory.
        """
        self.precision = precision
        hold = PRECISIONS[precision].hold
        if hold is not None:
            hold_layers(self.body, hold)

    def wrap(self, attach: Callable[[Any], Any]) -> None:
        """Prepare or wrap the model by a method's `attach`; `afina.methods.attachment` checks the result."""
        self.model = attach(self.model)
        apply_kernels(self.model, self.body)

    def lower(self, dtype: torch.dtype, *, packs: bool = True, unlowered: Collection[str] = ()) -> None:
        """Convert the weights before the pooling, but not `unlowered`, to `dtype`, for prediction and not for training.

        `packs`: whether linear layers may keep their weights only in the memory layout of oneDNN's kernels.
        """
        read, output = read_layers(self.model), output_embedding_of(self.model)
        for path, module in self.model.named_modules():
            if is_after_pooling(path):
                continue
            for name, parameter in module.named_parameters(prefix=path, recurse=False):
                if name not in unlowered:
                    parameter.data = parameter.data.to(dtype)
            if isinstance(module, HeldWeight) and module.dtype != dtype:
                module.to(dtype)
            if packs and module not in read and module is not output and can_pack(module, dtype):
                pack(module, backward=False)

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        found: torch.device = next(self.parameters()).device
        return found

    @property
    def own_linear(self) -> Mapping[str, nn.Module]:
        """The pretrained linear layers of the body by path, without layers that a method has added."""
        return self._own_linear

    def use_int8(self, factors: Mapping[str, Tensor]) -> None:
        """Let the body's pretrained linear layers multiply in int8, for prediction. Call `use_int8` before `lower`.

        Args:
            factors: Factors of the input channels of a layer, float32 [K], by the layer's path (a key of `own_linear`).
                The common input of several layers is quantised once if they have the same tensor in `factors`. Layers
                without factors do not change.
        """
        readers = Counter(map(id, factors.values()))
        for path, of in factors.items():
            layer = self._own_linear[path]
            patches.hold(layer, int8_products.DynamicInt8Weight.of(linear.frozen_weight(layer), of, readers[id(of)]))
        self.in_int8 = frozenset(factors)

    @property
    def not_in_int8(self) -> str | None:
        """A description of the linear layers that do not multiply in int8 after `use_int8`; None: all or none do."""
        kept = [] if self.in_int8 is None else [path for path in self._own_linear if path not in self.in_int8]
        if not kept:
            return None
        some = ", ".join(kept[:3]) + (", ..." if len(kept) > 3 else "")
        return f"{len(kept)} of {len(self._own_linear)} linear layers: {some}"

    @property
    def computes(self) -> str:
        """Name of the type in which the body computes: "int8" after `use_int8`, otherwise the dtype of its weights."""
        own: Tensor = next(self.body.parameters())
        return str(own.dtype).removeprefix("torch.") if self.in_int8 is None else INT8

    @property
    def body(self) -> Any:
        """The transformer inside the classifier, without the head."""
        inner = self._inner()
        return getattr(inner, inner.base_model_prefix)

    @property
    def output_layer(self) -> Any:
        """The last layer of the classification head, a linear layer with one row for each output."""
        return head_of(self._inner())[-1]

    def _inner(self) -> Any:
        unwrap = getattr(self.model, "get_base_model", None)
        return unwrap() if unwrap else self.model

    def layout(self, packed: Packed) -> Layout:
        """Return how a batch's texts and a method's virtual tokens lie in the row that the body computes."""
        made = layout_of(self.body, packed.bounds)
        return made.reading(packed.learnt_at) if packed.per_token else made

    @property
    def before(self) -> int:
        """Number of virtual tokens (of a prompt and a prefix) before each text."""
        empty = layout_of(self.body, torch.zeros(1, dtype=torch.int32))
        return empty.before + empty.prefix

    @property
    def prefix(self) -> int:
        """Number of virtual tokens of prefix tuning, which only have keys and values and no place in a row."""
        return layout_of(self.body, torch.zeros(1, dtype=torch.int32)).prefix

    @property
    def parameter_count(self) -> int:
        """Number of parameters, including weights that layers store as int8 or NF4."""
        held = sum(rows * columns for rows, columns in (each.shape for each in linear.held_weights(self.model)))
        return held + sum(int(parameter.numel()) for parameter in self.model.parameters())

    @property
    def size(self) -> int:
        """Size of all weights in bytes, including weights that layers store as int8 or NF4."""
        kept = [*self.model.parameters(), *linear.held_tensors(self.model)]
        return sum(int(weight.numel()) * weight.element_size() for weight in kept)

    def forward(self, packed: Packed, layout: Layout | None = None) -> Tensor:
        """Return the logits of N texts, or of the N tokens that have a target, float32 [N, number of labels]."""
        return self.answer(self.features(packed, layout))

    def outputs(self, packed: Packed) -> np.ndarray:
        """Return the logits of a batch as a NumPy array, float32 [N, number of labels], as `forward` does."""
        computed: Tensor = self(packed)
        return computed.cpu().numpy()

    def features(self, packed: Packed, layout: Layout | None = None, **options: Any) -> Tensor:
        """Return the head's input, float32 [N, width]; `options` as in `read`."""
        layout = layout or self.layout(packed)
        return self.read(self._row(packed, layout), layout, **options)

    def read(self, row: Mapping[str, Tensor], layout: Layout, **options: Any) -> Tensor:
        """Return the body's output that the head reads, float32 [N, width], for a row of texts with a known layout.

        `row` has the body's inputs by name, such as `position_ids`; `options` are those of `packed_attention`.
        """
        if layout.by_token and not len(layout.read):  # kernels of the last block need a row
            return torch.zeros(0, int(self.body.config.hidden_size), device=layout.bounds.device)
        hidden, readout = self.hidden(row, layout, **options), readout_of(self.body)
        if layout.by_token:
            return read_rows(hidden, layout).float()
        if readout is not None:
            return readout.of(hidden, layout)
        return pool(hidden, layout, architecture_of(self.body).pooling_of(self.body.config)).float()

    @property
    def takes_chunks(self) -> bool:
        """Whether the model can compute a text in chunks, with cached keys and values (`chunk_features`)."""
        entry, readout = architecture_of(self.body), readout_of(self.body)
        return entry.takes_chunks(entry.pooling_of(self.body.config) if readout is None else readout.pooling)

    @cached_property
    def reach(self) -> float:
        """Number of earlier tokens for which a token's attention takes as long as the token's linear layers.

        For each token, the linear layers take 2 operations for each weight, and the attention takes 4 * width
        operations for each earlier token and layer. An operation in the attention takes about `ATTENTION` times as long
        as one in a linear layer.
        """
        shapes = [linear.frozen_weight(layer).shape for layer in self.own_linear.values()]
        heads = sum(int(self.body.config.num_attention_heads) for _ in attentions(self.body))
        weights = sum(rows * columns for rows, columns in shapes)
        return weights / (2 * heads * key_heads(self.body.config)[1] * ATTENTION)

    def chunk_features(self, tokens: Tensor, chunk: TokenChunk, *, each: bool = False) -> Tensor:
        """Return the head's input after a chunk of a text, float32 [1, width], as if the text ended there.

        The method's virtual tokens are put before the first chunk of a text. `each`: return the body's output at each
        token of the chunk instead, [T, width].
        """
        prompt = prompt_of(self.body) if chunk.begins else None
        before = 0 if prompt is None else len(prompt)
        count = before + len(tokens)
        layout = Layout(torch.tensor([0, count], dtype=torch.int32, device=tokens.device), before)
        if each:
            layout = layout.reading(torch.arange(len(tokens), device=tokens.device))
        row = {"position_ids": torch.arange(chunk.start, chunk.start + count, device=tokens.device)[None]}
        if prompt is None:
            row["input_ids"] = tokens[None]
        else:
            row["inputs_embeds"] = torch.cat([prompt.weight, self.body.get_input_embeddings()(tokens)])[None]
        prefixes = ((attention, prefix_of(attention)) for attention in attentions(self.body) if chunk.begins)
        prefix = {attention: KeyValues(*one.columns()) for attention, one in prefixes if one is not None}
        features = self.read(row, layout, segments=[RowSegment(slice(0, count), layout, prefix or None, chunk)])
        chunk.done(count)
        return features

    def hidden(self, row: Mapping[str, Tensor], layout: Layout, **options: Any) -> Tensor:
        """Return the body's output for a row, [T, width], valid at the tokens that the layout reads."""
        entry = architecture_of(self.body)
        config = self.body.config
        offset = entry.position_offset(config)
        given = {**row, "position_ids": row["position_ids"] + offset} if offset else row
        output = self.body(**given, use_cache=False, layout=layout, causal=not entry.is_encoder, **options)
        found: Tensor = output.last_hidden_state.squeeze(0)
        return found

    def states(self, packed: Packed, tokens: Tensor) -> Tensor:
        """Return the body's output [M, width] at the tokens `tokens` of a batch, int64 [M] in rising order."""
        layout = self.layout(packed).reading(tokens)
        return read_rows(self.hidden(self._row(packed, layout), layout), layout)

    def head_input(self, packed: Packed, layout: Layout | None = None) -> Tensor:
        """Return the input of the head's last layer, [N, width], so that a linear model can replace this layer."""
        found: list[Tensor] = []
        hook = self.output_layer.register_forward_pre_hook(lambda _, given: found.append(given[0]))
        try:
            self(packed, layout)
        finally:
            hook.remove()
        return found[0]

    def answer(self, features: Tensor) -> Tensor:
        """Return the head's logits, float32 [N, number of labels], for the head's input [N, width]."""
        with torch.autocast(features.device.type, enabled=False):
            inner = self._inner()
            compute = None if readout_of(self.body) is not None else head_entry_of(inner).logits
            logits: Tensor = self.output_layer(features) if compute is None else compute(inner, features)
        return logits if self.offset is None else logits + self.offset

    def _row(self, packed: Packed, layout: Layout) -> dict[str, Tensor]:
        prompt, types = prompt_of(self.body), packed.types
        if prompt is None:
            positions = packed.positions + layout.prefix if layout.prefix else packed.positions
            return {"input_ids": packed.tokens[None], "position_ids": positions[None], **types_of(self.body, types)}
        rows = insert(self.body.get_input_embeddings()(packed.tokens), prompt.weight, layout)
        if types is not None:
            types = types.new_zeros(rows.shape[0]).index_copy(0, layout.cells[0], types)
        return {"inputs_embeds": rows[None], "position_ids": layout.positions[None], **types_of(self.body, types)}


class FamilyHead(nn.Module):
    """The layers after the pooling in a family's classifier, computed with weights given in each call. Thread-safe.

    `model` is on the `meta` device; its body is not used.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model.eval()
        self._computing = Lock()

    def forward(self, pooled: Tensor) -> Tensor:
        """Return the logits [B, labels] for pooled hidden states [B, width]."""
        compute = head_entry_of(self.model).logits
        assert compute is not None
        logits: Tensor = compute(self.model, pooled)
        return logits

    def logits(self, weights: Mapping[str, Tensor], pooled: Tensor) -> Tensor:
        """Return the logits [B, labels] for pooled hidden states [B, width], computed with `weights` by name."""
        with self._computing:  # the weights are in the model during the call
            found: Tensor = functional_call(self, {f"model.{name}": one for name, one in weights.items()}, (pooled,))
        return found


def types_of(body: Any, types: Tensor | None) -> dict[str, Tensor]:
    """Return token types, int64 [T], as an input of the body; empty for a model family without token types."""
    if types is None or not architecture_of(body).token_types or body.config.type_vocab_size < 2:
        return {}
    return {"token_type_ids": types[None]}
