"""Classes that compute the next-token logits of running sequences, whose keys and values are cached.

The sequences belong to one model, or to many adapters on one frozen model. `searches.py` chooses the tokens.
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
from afina.models.kernels.decoding_step import DecodingStep
from afina.models.kernels.key_values import CachedSequence, OpenSequence
from afina.models.kernels.layer_changes import BatchedAdapter
from afina.models.kernels.layout import Layout
from afina.models.kernels.linear import FrozenWeight, PackedWeight, can_pack, frozen_weight, is_linear
from afina.models.kernels.lora_decoding import LoraStacks
from afina.models.mixed_batch import AdapterChunk, AdapterGroup, MixedBatchModel

SLICE = 32
"""The number of prompt tokens whose logits are in memory at once when their log-probabilities are computed."""

_ROOM = 32
"""The largest number of positions that the cache keeps free after a prompt, so that new tokens need no larger pool."""


class WholePrompt(NamedTuple):
    """A prompt that is computed at once and not in chunks.

    Attributes:
        room: The largest number of tokens that will follow the prompt.
        adapter: None: the model without an adapter.
        reported: As in `PromptChunk`.
    """

    tokens: np.ndarray
    room: int
    adapter: BatchedAdapter | None = None
    reported: int | None = None


class Begun(NamedTuple):
    """The result of computing prompts, in their order.

    Attributes:
        logits: The logits of the token after each prompt, float32 [number of prompts, vocabulary].
        logprobs: For each token of a prompt except the first. None: the request did not ask for them.
    """

    sequences: list[CachedSequence]
    logits: Tensor
    logprobs: list[list[TokenLogprobs] | None]


class PromptChunk(NamedTuple):
    """The next chunk of a prompt that is computed in chunks.

    Attributes:
        sequence: The sequence in the cache, which has the keys and values of the earlier chunks.
        tokens: All token ids of the prompt that are not computed yet. The first `length` are the chunk.
        reported: The number of most probable tokens that are reported for each token of the prompt. None: no
            log-probabilities of the prompt.
    """

    sequence: OpenSequence
    tokens: np.ndarray
    length: int
    reported: int | None = None


class NextTokenModel(ABC):
    """The base class of models that compute next-token logits, for many sequences in one packed batch per step.

    Attributes:
        longest: The largest number of tokens of a sequence, including virtual tokens.
        reach: The number of earlier tokens for which attention takes as long as a token's linear layers.
        vocabulary: The number of tokens in the vocabulary. Token ids are below this number.
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
        """Return how many of an adapter's virtual tokens have only keys and values (a prefix)."""

    def _chosen(self, adapter: BatchedAdapter | None) -> BatchedAdapter | None:
        """Return the adapter that is stored with a sequence, given the adapter of its request."""
        return adapter

    def begin(self, prompts: Sequence[WholePrompt]) -> Begun:
        """Compute new prompts, and return their sequences and the logits of the next tokens.

        A prompt's logits are NaN or infinite only if the prompt's own adapter causes it. In a packed batch, attention
        multiplies the values of other prompts by 0, and 0 times NaN or infinity is NaN. So if some logits are not
        finite, each adapter's prompts are computed again without those of other adapters.
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
        """Return the logits after the prompts with the indices `order`, and the prompts' log-probabilities."""
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
        """Compute prompts, sorted by adapter, in one packed batch, and return the input of the head.

        `read` has the indices of the tokens at which the head reads, int64 [M]; None: the last token of each prompt.
        """

    def open(self, prompt: np.ndarray, adapter: BatchedAdapter | None) -> OpenSequence:
        """Return a new sequence for a prompt that is computed in chunks. Call `run` when the prompt is complete."""
        return self.cache.open(self.before(adapter) + len(prompt), self.prefix(adapter), self._chosen(adapter))

    def fill(self, chunks: Sequence[PromptChunk]) -> tuple[Tensor, list[list[TokenLogprobs] | None]]:
        """Compute the next chunks of prompts whose sequences `open` returned.

        Returns:
            The logits of the token after each chunk, float32 [number of chunks, vocabulary]; and for each chunk, the
            log-probabilities of the tokens that follow its tokens (None if they are not requested).
        """
        return self._read(self._filled(chunks), [(one.tokens[1 : one.length + 1], one.reported) for one in chunks])

    @abstractmethod
    def _filled(self, chunks: Sequence[PromptChunk]) -> Sequence[Tensor]:
        """Compute chunks, and return the input of the head at the last token.

        At all if log-probabilities are requested.
        """

    def _read(
        self, parts: Sequence[Tensor], after: Sequence[tuple[np.ndarray, int | None]]
    ) -> tuple[Tensor, list[list[TokenLogprobs] | None]]:
        """Return the logits after each prompt or chunk, and the log-probabilities of its tokens if they are requested.

        Args:
            parts: The input of the head for each prompt or chunk, float32 [tokens, width].
            after: The tokens that follow its tokens (none follows the last of a prompt), and the number of most
                probable tokens to report. None: no log-probabilities.
        """
        found = [
            None if most is None else self._logprobs(features, tokens, most)
            for features, (tokens, most) in zip(parts, after, strict=True)
        ]
        return self._readout(torch.cat([features[-1:] for features in parts])), found

    def _logprobs(self, features: Tensor, after: np.ndarray, most: int) -> list[TokenLogprobs]:
        """Return the log-probabilities of tokens, given the head's input before each of them.

        The logits are computed in slices, because those of a prompt of 1,000 tokens would take 190 MiB.
        """
        targets = torch.from_numpy(after.astype(np.int64)).split(SLICE)
        rows = zip(features[: len(after)].split(SLICE), targets, strict=True)
        return [one for some, mine in rows for one in logprobs_of(self._readout(some), mine, most)]

    def run(self, opened: OpenSequence, room: int) -> CachedSequence:
        """Return a running sequence for a prompt whose last chunk was computed, with `room` for further tokens."""
        return self.cache.run(opened, min(room, _ROOM))

    def go_on(self, tokens: Mapping[CachedSequence, int]) -> tuple[list[CachedSequence], Tensor]:
        """Append a token to every running sequence, and compute the logits of the next tokens.

        The sequences are returned in the order of the rows of the logits, float32 [number of sequences, vocabulary].
        """
        self.cache.make_room()
        sequences = self._row(self.cache.sequences)
        ids = torch.tensor([tokens[sequence] for sequence in sequences], device=self._device)
        positions = torch.tensor([sequence.length for sequence in sequences], device=self._device)
        return sequences, self._readout(self._features(ids, positions, sequences))

    def _row(self, sequences: list[CachedSequence]) -> list[CachedSequence]:
        """Return the running sequences in the order of the packed batch."""
        return sequences

    @abstractmethod
    def _features(self, ids: Tensor, positions: Tensor, sequences: Sequence[CachedSequence]) -> Tensor:
        """Compute one token of each sequence; return the input of the head, float32 [number of sequences, width]."""

    @abstractmethod
    def rest(self) -> None:
        """Free the memory that is needed only while sequences run."""


class OwnNextTokenModel(NextTokenModel):
    """Next-token logits of one language model in evaluation mode, which may have a method attached. No adapters."""

    def __init__(self, model: Classifier) -> None:
        super().__init__(model, output_embedding_of(model.model))
        self._model, self._step = model, DecodingStep.of(model.body)

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
        cached = self.cache.decoding_row(sequences)
        if self._step is not None:
            return self._step(ids, positions, cached, {}).float()
        layout = Layout(torch.arange(len(sequences) + 1, dtype=torch.int32, device=self._device))
        row = {"input_ids": ids[None], "position_ids": positions[None]}
        return self._model.read(row, layout, cached=cached)

    def rest(self) -> None:
        """Do nothing, because this class keeps only the cache, which is empty if no sequences run."""


_BARE = BatchedAdapter()
"""An adapter without changes, which stands for the frozen model itself."""


class MixedNextTokenModel(NextTokenModel):
    """Next-token logits of one frozen model with an adapter for each sequence. Batches are sorted by adapter.

    The method `open_output` of `host` must have been called.
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
    """Return the adapters of sequences that are sorted by adapter, each with the slice of its sequences."""
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
    """The output embedding of a language model, which computes the logits of the next token.

    In bfloat16 on a CPU, the weight is copied once into the memory layout of oneDNN, even if the weight is tied to the
    input embedding. With oneDNN's memory layout, a product with one row takes half the time.
    """

    def __init__(self, output_embedding: Any) -> None:
        self._head = output_embedding
        self._weight: FrozenWeight | None = None
        if is_linear(self._head):
            self._weight = frozen_weight(self._head)
            if can_pack(self._head, self._weight.dtype):
                self._weight = PackedWeight(self._weight.dequantize(), backward=False)

    def __call__(self, features: Tensor) -> Tensor:
        """Return the next-token logits, float32 [B, vocabulary], for features, float32 [B, width]."""
        if self._weight is not None:
            return self._weight.product(features.to(self._weight.dtype), self._head.bias).float()
        logits: Tensor = self._head(features.to(next(self._head.parameters()).dtype))
        return logits.float()
