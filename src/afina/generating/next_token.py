"""Next-token logits of running sequences, whose keys and values are kept: by one model, or by many adapters on it.

`searches.py` chooses the tokens.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from afina.data.batch import pack
from afina.generating.searches import TokenLogprobs, logprobs_of
from afina.models.added_modules import key_value_cache
from afina.models.architectures import output_embedding_of
from afina.models.classifier import Classifier
from afina.models.kernels.key_values import CachedSequence, OpenSequence
from afina.models.kernels.layer_changes import BatchedAdapter
from afina.models.kernels.layout import Layout
from afina.models.kernels.linear import FrozenWeight, PackedWeight, can_pack, frozen_weight, is_linear
from afina.models.kernels.lora_stacks import LoraStacks
from afina.models.mixed_batch import AdapterChunk, AdapterGroup, MixedBatchModel

SLICE = 32
"""Tokens of a prompt whose logits are in memory at once, for their log-probabilities."""

_ROOM = 32
"""Most columns that are kept free behind a prompt, so that a sequence does not move to another pool at once."""


class WholePrompt(NamedTuple):
    """A prompt that is computed whole.

    Attributes:
        tokens: The token ids, integers.
        room: Most tokens that will follow the prompt.
        adapter: The adapter that answers. None: the model itself.
        reported: Number of most probable tokens in the log-probabilities of the prompt. None: no log-probabilities.
    """

    tokens: np.ndarray
    room: int
    adapter: BatchedAdapter | None = None
    reported: int | None = None


class Begun(NamedTuple):
    """Prompts that were computed.

    Attributes:
        sequences: The sequences of the prompts, in the prompts' order.
        logits: Logits of the token after each, float32 [B, V].
        logprobs: For each prompt, one for each token after the first. None: not requested.
    """

    sequences: list[CachedSequence]
    logits: Tensor
    logprobs: list[list[TokenLogprobs] | None]


class PromptChunk(NamedTuple):
    """The next tokens of a prompt.

    Attributes:
        tokens: The tokens that are not computed, integers.
        length: Number of tokens in the chunk.
        reported: Number of most probable tokens in the log-probabilities of the prompt. None: no log-probabilities.
    """

    sequence: OpenSequence
    tokens: np.ndarray
    length: int
    reported: int | None = None


class NextTokenModel(ABC):
    """Begins and continues sequences, each step in one packed row.

    Attributes:
        cache: The keys and values of the running sequences.
        longest: Most tokens of a sequence, virtual tokens included.
        reach: The number of earlier tokens to which a token attends in the time of its linear layers.
        vocabulary: Number of tokens, whose ids are 0 to this number - 1.
    """

    def __init__(self, model: Classifier, output_embedding: Any) -> None:
        body, self.reach = model.body, model.reach
        self._readout, self._device = Readout(output_embedding), next(body.parameters()).device
        self.longest = int(body.config.max_position_embeddings)
        self.vocabulary = int(body.config.vocab_size)
        self.cache = key_value_cache(body)

    @abstractmethod
    def before(self, adapter: BatchedAdapter | None) -> int:
        """Return the number of virtual tokens before each prompt of an adapter."""

    @abstractmethod
    def prefix(self, adapter: BatchedAdapter | None) -> int:
        """Return how many of an adapter's virtual tokens are keys and values only."""

    def _chosen(self, adapter: BatchedAdapter | None) -> BatchedAdapter | None:
        """Return the adapter of a sequence."""
        return adapter

    def begin(self, prompts: Sequence[WholePrompt]) -> Begun:
        """Compute new prompts. NaN or infinite logits only come from the prompt's own adapter.

        Attention multiplies other prompts' values by 0, and 0 times NaN or infinity is NaN. If some logits are not
        finite, each adapter's prompts are computed again, alone.
        """
        groups: dict[int, list[int]] = {}
        sequences = []
        for index, (tokens, room, given, _) in enumerate(prompts):
            adapter, length = self._chosen(given), self.before(given) + len(tokens)
            sequences.append(self.cache.enter(length, min(room, _ROOM), self.prefix(given), adapter))
            groups.setdefault(id(adapter), []).append(index)
        # Adapters without a prefix first, so that they share one attention.
        ordered = sorted(groups.values(), key=lambda group: self.prefix(prompts[group[0]].adapter) > 0)
        order = [index for group in ordered for index in group]
        logits, logprobs = self._begun(order, prompts, sequences)
        if len(ordered) > 1 and not bool(torch.isfinite(logits.amax(-1)).all()):
            alone = [self._begun(group, prompts, sequences) for group in ordered]
            logits, logprobs = torch.cat([one for one, _ in alone]), [one for _, some in alone for one in some]
        if order == sorted(order):
            return Begun(sequences, logits, logprobs)
        places = np.argsort(order).tolist()
        return Begun(sequences, logits[places], [logprobs[place] for place in places])

    def _begun(
        self, order: Sequence[int], prompts: Sequence[WholePrompt], sequences: Sequence[CachedSequence]
    ) -> tuple[Tensor, list[list[TokenLogprobs] | None]]:
        """Return logits and log-probabilities of some prompts, in this order."""
        some, mine = [prompts[index] for index in order], [sequences[index] for index in order]
        counts = [1 if one.reported is None else len(one.tokens) for one in some]
        read = None
        if any(one.reported is not None for one in some):
            ends = np.cumsum([len(one.tokens) for one in some]).tolist()
            pieces = [torch.arange(end - count, end) for end, count in zip(ends, counts, strict=True)]
            read = torch.cat(pieces).to(self._device)
        parts = self._prompts([one.tokens for one in some], mine, read).split(counts)
        return self._read(parts, [(one.tokens[1:], one.reported) for one in some])

    @abstractmethod
    def _prompts(
        self, prompts: Sequence[np.ndarray], sequences: Sequence[CachedSequence], read: Tensor | None
    ) -> Tensor:
        """Return the head's input of prompts, in one row.

        Args:
            sequences: Their sequences, sorted by adapter.
            read: Tokens of the row that are read, int64 [M]. None: the last of each prompt.
        """

    def open(self, prompt: np.ndarray, adapter: BatchedAdapter | None) -> OpenSequence:
        """Return a sequence for a prompt that is computed in chunks. The sequence does not run before `run`."""
        return self.cache.open(self.before(adapter) + len(prompt), self.prefix(adapter), self._chosen(adapter))

    def fill(self, chunks: Sequence[PromptChunk]) -> tuple[Tensor, list[list[TokenLogprobs] | None]]:
        """Compute the next tokens of sequences of `open`.

        Returns:
            The logits of the token after each chunk, float32 [B, V]; and for each chunk the log-probabilities of the
            tokens after its tokens. None: not requested.
        """
        return self._read(self._filled(chunks), [(one.tokens[1 : one.length + 1], one.reported) for one in chunks])

    @abstractmethod
    def _filled(self, chunks: Sequence[PromptChunk]) -> Sequence[Tensor]:
        """Return the head's input of each chunk: at all its tokens if they are reported, or at the last token."""

    def _read(
        self, parts: Sequence[Tensor], after: Sequence[tuple[np.ndarray, int | None]]
    ) -> tuple[Tensor, list[list[TokenLogprobs] | None]]:
        """Return the logits after the last token of each part, and the log-probabilities that are requested.

        Args:
            after: For each part, the tokens after its tokens (there may be one less), and the number of most probable
                tokens. None: no log-probabilities.
        """
        found = [
            None if most is None else self._logprobs(features, tokens, most)
            for features, (tokens, most) in zip(parts, after, strict=True)
        ]
        return self._readout(torch.cat([features[-1:] for features in parts])), found

    def _logprobs(self, features: Tensor, after: np.ndarray, most: int) -> list[TokenLogprobs]:
        """Return log-probabilities of tokens. The logits of a prompt of 1,000 tokens have 190 MiB: so in slices."""
        targets = torch.from_numpy(after.astype(np.int64)).split(SLICE)
        rows = zip(features[: len(after)].split(SLICE), targets, strict=True)
        return [one for some, mine in rows for one in logprobs_of(self._readout(some), mine, most)]

    def run(self, opened: OpenSequence, room: int) -> CachedSequence:
        """Return the running sequence of a complete prompt. `room`: most tokens that will follow the prompt."""
        return self.cache.run(opened, min(room, _ROOM))

    def go_on(self, tokens: Mapping[CachedSequence, int]) -> tuple[list[CachedSequence], Tensor]:
        """Compute the next token of every running sequence.

        Args:
            tokens: The next token of each running sequence.

        Returns:
            The sequences in the order of the row, and the logits of the token after each, float32 [B, V].
        """
        self.cache.make_room()
        sequences = self._row(self.cache.sequences)
        ids = torch.tensor([tokens[sequence] for sequence in sequences], device=self._device)
        positions = torch.tensor([sequence.length for sequence in sequences], device=self._device)
        return sequences, self._readout(self._features(ids, positions, sequences))

    def _row(self, sequences: list[CachedSequence]) -> list[CachedSequence]:
        """Return the running sequences in the order of the row."""
        return sequences

    @abstractmethod
    def _features(self, ids: Tensor, positions: Tensor, sequences: Sequence[CachedSequence]) -> Tensor:
        """Return the head's input, float32 [B, width], for one token of each sequence, at these positions."""

    @abstractmethod
    def rest(self) -> None:
        """Free what is only kept while sequences run."""


class OwnNextTokenModel(NextTokenModel):
    """A language model in evaluation mode, with its method. There are no adapters."""

    def __init__(self, model: Classifier) -> None:
        super().__init__(model, output_embedding_of(model.model))
        self._model = model

    def before(self, adapter: BatchedAdapter | None) -> int:
        return self._model.before

    def prefix(self, adapter: BatchedAdapter | None) -> int:
        return self._model.prefix

    def _prompts(
        self, prompts: Sequence[np.ndarray], sequences: Sequence[CachedSequence], read: Tensor | None
    ) -> Tensor:
        packed = pack(prompts).to(self._device)
        layout = self._model.layout(packed)
        layout = layout if read is None else layout.reading(read)
        return self._model.features(packed, layout, cached=self.cache.prefill_row(sequences))

    def _filled(self, chunks: Sequence[PromptChunk]) -> Sequence[Tensor]:
        made = []
        for one in chunks:
            ids = torch.from_numpy(one.tokens[: one.length].astype(np.int64)).to(self._device)
            chunk = self.cache.chunk(one.sequence)
            made.append(self._model.chunk_features(ids, chunk, each=one.reported is not None))
        return made

    def _features(self, ids: Tensor, positions: Tensor, sequences: Sequence[CachedSequence]) -> Tensor:
        layout = Layout(torch.arange(len(sequences) + 1, dtype=torch.int32, device=self._device))
        cached = self.cache.decoding_row(sequences)
        row = {"input_ids": ids[None], "position_ids": positions[None]}
        return self._model.read(row, layout, cached=cached)

    def rest(self) -> None:
        """Do nothing: only the cache is kept, and it is empty without sequences."""


_BARE = BatchedAdapter()
"""The model itself."""


class MixedNextTokenModel(NextTokenModel):
    """One frozen model with an adapter for each sequence; rows are sorted by adapter.

    Args:
        host: The model, with its output embedding open.
    """

    def __init__(self, host: MixedBatchModel) -> None:
        super().__init__(host.classifier, host.output_embedding)
        self._host, self._stacks = host, LoraStacks()

    def before(self, adapter: BatchedAdapter | None) -> int:
        return 0 if adapter is None else adapter.prompt_length + adapter.prefix_length

    def prefix(self, adapter: BatchedAdapter | None) -> int:
        return 0 if adapter is None else adapter.prefix_length

    def _chosen(self, adapter: BatchedAdapter | None) -> BatchedAdapter:
        return _BARE if adapter is None or adapter.is_empty else adapter

    def _prompts(
        self, prompts: Sequence[np.ndarray], sequences: Sequence[CachedSequence], read: Tensor | None
    ) -> Tensor:
        groups = [AdapterGroup(adapter, prompts[mine]) for adapter, mine in _runs(sequences)]
        return self._host.features(groups, self.cache.prefill_row(sequences), read)

    def _filled(self, chunks: Sequence[PromptChunk]) -> Sequence[Tensor]:
        return self._host.chunk_features(
            [
                AdapterChunk(
                    _adapter(one.sequence),
                    one.tokens[: one.length],
                    self.cache.chunk(one.sequence),
                    each=one.reported is not None,
                )
                for one in chunks
            ]
        )

    def _row(self, sequences: list[CachedSequence]) -> list[CachedSequence]:
        places = self._stacks.arranged(_adapter(one) for one in sequences)
        return sorted(sequences, key=lambda one: places[id(one.adapter)])

    def _features(self, ids: Tensor, positions: Tensor, sequences: Sequence[CachedSequence]) -> Tensor:
        changes, cached = self._stacks.changes(_runs(sequences)), self.cache.decoding_row(sequences)
        return self._host.next_features(ids, positions, changes, cached)

    def rest(self) -> None:
        self._stacks.clear()


def _runs(sequences: Sequence[CachedSequence]) -> list[tuple[BatchedAdapter, slice]]:
    """Return each adapter of sequences that are sorted by adapter, and which are its own."""
    found, start = [], 0
    for _, run in groupby(sequences, key=lambda one: id(one.adapter)):
        mine = list(run)
        found.append((_adapter(mine[0]), slice(start, start + len(mine))))
        start += len(mine)
    return found


def _adapter(sequence: CachedSequence | OpenSequence) -> BatchedAdapter:
    assert sequence.adapter is not None
    return sequence.adapter


class Readout:
    """The output embedding, which returns the logits of the next token.

    In bfloat16 on a CPU, the weight is copied into oneDNN's order once, also if it is the input embedding's: a product
    with one row then takes half the time.
    """

    def __init__(self, output_embedding: Any) -> None:
        self._head = output_embedding
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
