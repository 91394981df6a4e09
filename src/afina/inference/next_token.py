"""Next-token logits of running sequences by a language model, which keeps their keys and values. Chooses no tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from afina.data.batch import pack
from afina.models.added_modules import attentions, key_heads
from afina.models.architectures import output_embedding_of
from afina.models.classifier import Classifier
from afina.models.kernels.key_values import CachedSequence, KeyValueCache
from afina.models.kernels.layout import Layout
from afina.models.kernels.linear import FrozenWeight, PackedWeight, can_pack, frozen_weight, is_linear

_ROOM = 32
"""Most columns that are kept free behind a prompt, so that a sequence does not move to another pool at once."""


class NextTokenModel:
    """A language model in evaluation mode that begins and continues sequences, each in one packed row.

    Attributes:
        cache: The keys and values of the running sequences.
        before: Number of virtual tokens before each prompt.
        longest: Most tokens of a sequence, virtual tokens included.
    """

    def __init__(self, model: Classifier) -> None:
        self._model, self._readout = model, _Readout(model)
        weight, config = next(model.body.parameters()), model.body.config
        self._device = weight.device
        self.before, self.longest = model.before, int(config.max_position_embeddings)
        self.cache = KeyValueCache(list(attentions(model.body)), *key_heads(config), weight.dtype, weight.device)

    def begin(self, prompts: Sequence[np.ndarray], room: Sequence[int]) -> tuple[list[CachedSequence], Tensor]:
        """Compute new prompts.

        Args:
            prompts: Token ids of each prompt.
            room: Most tokens that will follow each prompt.

        Returns:
            The sequences, and the logits of the token after each prompt, float32 [B, V].
        """
        packed = pack(prompts).to(self._device)
        layout = self._model.layout(packed)
        sequences = [
            self.cache.enter(self.before + len(prompt), min(most, _ROOM), layout.prefix)
            for prompt, most in zip(prompts, room, strict=True)
        ]
        cached = self.cache.prefill_row(sequences)
        return sequences, self._readout(self._model.features(packed, layout, cached=cached))

    def go_on(self, tokens: Mapping[CachedSequence, int]) -> tuple[list[CachedSequence], Tensor]:
        """Compute the next token of every running sequence.

        Args:
            tokens: The next token of each running sequence.

        Returns:
            The sequences in the order of the row, and the logits of the token after each, float32 [B, V].
        """
        self.cache.make_room()
        sequences = self.cache.sequences
        ids = torch.tensor([[tokens[sequence] for sequence in sequences]], device=self._device)
        positions = torch.tensor([[sequence.length for sequence in sequences]], device=self._device)
        layout = Layout(torch.arange(len(sequences) + 1, dtype=torch.int32, device=self._device))
        cached = self.cache.decoding_row(sequences)
        row = {"input_ids": ids, "position_ids": positions}
        return sequences, self._readout(self._model.read(row, layout, cached=cached))


class _Readout:
    """The output embedding, which returns the logits of the next token.

    In bfloat16 on a CPU, the weight is copied into oneDNN's order once, also if it is the input embedding's: a product
    with one row then takes half the time.
    """

    def __init__(self, model: Classifier) -> None:
        self._head = output_embedding_of(model.model)
        self._weight: FrozenWeight | None = None
        if is_linear(self._head):
            self._weight = frozen_weight(self._head)
            if can_pack(self._head, self._weight.dtype):
                self._weight = PackedWeight(self._weight.dequantize(), backward=False)

    def __call__(self, features: Tensor) -> Tensor:
        """Return logits, float32 [B, V], for features, float32 [B, width]."""
        if self._weight is not None:
            return self._weight.product(features.to(self._weight.dtype), self._head.bias).float()
        logits: Tensor = self._head(features.to(next(self._head.parameters()).dtype))
        return logits.float()
