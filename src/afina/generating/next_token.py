"""Next-token logits of running sequences, whose keys and values are kept: by one model, or by many adapters on it.

Chooses no tokens.
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


class Begun(NamedTuple):
    """Prompts that were computed.

    Attributes:
        sequences: Their sequences, in their order.
        logits: Logits of the token after each, float32 [B, V].
        logprobs: For each prompt, one for each token after the first. None: not requested.
    """

    sequences: list[CachedSequence]
    logits: Tensor
    logprobs: list[list[TokenLogprobs] | None]


class PromptChunk(NamedTuple):
    """The next tokens of a prompt.

    Attributes:
        sequence: The sequence of the prompt.
        tokens: The tokens that are not computed, integers.
        length: Number of them that the chunk has.
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
        reach: As in `Classifier`.
        vocabulary: Number of tokens, whose ids are 0 to this number - 1.

    Args:
        model: The model.
        output_embedding: The layer that returns the logits.
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
    def begin(
        self,
        prompts: Sequence[np.ndarray],
        room: Sequence[int],
        adapters: Sequence[BatchedAdapter | None],
        reported: Sequence[int | None] | None = None,
    ) -> Begun:
        """Compute new prompts.

        Args:
            prompts: Token ids of each prompt.
            room: Most tokens that will follow each prompt.
            adapters: The adapter of each prompt.
            reported: For each prompt, the number of most probable tokens in its log-probabilities, or None for no
                log-probabilities. None: no prompt has log-probabilities.
        """

    def _begun(
        self,
        sequences: list[CachedSequence],
        features: Tensor,
        prompts: Sequence[np.ndarray],
        reported: Sequence[int | None] | None,
    ) -> Begun:
        """Return what follows from the features of prompts: of all their tokens if reported, or of the last token."""
        if reported is None:
            return Begun(sequences, self._readout(features), [None] * len(prompts))
        counts = _counts(prompts, reported)
        last = torch.tensor(np.cumsum(counts) - 1, device=features.device)
        found = [
            None if most is None else self._logprobs(mine, prompt[1:], most)
            for prompt, most, mine in zip(prompts, reported, features.split(counts), strict=True)
        ]
        return Begun(sequences, self._readout(features.index_select(0, last)), found)

    @abstractmethod
    def open(self, prompt: np.ndarray, adapter: BatchedAdapter | None) -> OpenSequence:
        """Return a sequence for a prompt that is computed in chunks. It does not run before `run`."""

    def fill(self, chunks: Sequence[PromptChunk]) -> tuple[Tensor, list[list[TokenLogprobs] | None]]:
        """Compute the next tokens of sequences of `open`.

        Returns:
            The logits of the token after each chunk, float32 [B, V]; and for each chunk the log-probabilities of the
            tokens after its tokens. None: not requested.
        """
        features = self._filled(chunks)
        found = [
            None if one.reported is None else self._logprobs(mine, one.tokens[1 : one.length + 1], one.reported)
            for one, mine in zip(chunks, features, strict=True)
        ]
        return self._readout(torch.cat([mine[-1:] for mine in features])), found

    @abstractmethod
    def _filled(self, chunks: Sequence[PromptChunk]) -> Sequence[Tensor]:
        """Return the head's input of each chunk: at all its tokens if they are reported, or at the last token."""

    def _logprobs(self, features: Tensor, after: np.ndarray, most: int) -> list[TokenLogprobs]:
        """Return the log-probabilities of the tokens `after` some tokens, of which there may be one more.

        The logits are computed in slices, because a prompt of 1,000 tokens has 190 MiB of them.
        """
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
        """Drop what is only kept while sequences run."""


class OwnNextTokenModel(NextTokenModel):
    """A language model in evaluation mode, with its method."""

    def __init__(self, model: Classifier) -> None:
        super().__init__(model, output_embedding_of(model.model))
        self._model = model

    def before(self, adapter: BatchedAdapter | None) -> int:
        """Return the number of the model's virtual tokens."""
        return self._model.before

    def begin(
        self,
        prompts: Sequence[np.ndarray],
        room: Sequence[int],
        adapters: Sequence[BatchedAdapter | None],
        reported: Sequence[int | None] | None = None,
    ) -> Begun:
        """Compute new prompts; there are no adapters."""
        packed = pack(prompts).to(self._device)
        layout = self._model.layout(packed)
        if reported is not None:
            layout = layout.reading(_read(prompts, reported).to(self._device))
        sequences = [
            self.cache.enter(self._model.before + len(prompt), min(most, _ROOM), layout.prefix)
            for prompt, most in zip(prompts, room, strict=True)
        ]
        cached = self.cache.prefill_row(sequences)
        return self._begun(sequences, self._model.features(packed, layout, cached=cached), prompts, reported)

    def open(self, prompt: np.ndarray, adapter: BatchedAdapter | None) -> OpenSequence:
        """Return a sequence for a prompt; there are no adapters."""
        return self.cache.open(self._model.before + len(prompt), self._model.prefix)

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
        """Return the number of the adapter's virtual tokens."""
        return 0 if adapter is None else adapter.prompt_length + adapter.prefix_length

    def begin(
        self,
        prompts: Sequence[np.ndarray],
        room: Sequence[int],
        adapters: Sequence[BatchedAdapter | None],
        reported: Sequence[int | None] | None = None,
    ) -> Begun:
        """Compute new prompts. NaN or infinite logits only come from the prompt's own adapter.

        Attention multiplies other prompts' values by 0, and 0 times NaN or infinity is NaN. If some logits are not
        finite, each adapter's prompts are computed again, alone.
        """
        chosen = [_BARE if one is None or one.is_empty else one for one in adapters]
        sequences = [
            self.cache.enter(self.before(one) + len(prompt), min(most, _ROOM), one.prefix_length, one)
            for prompt, most, one in zip(prompts, room, chosen, strict=True)
        ]
        groups: dict[int, list[int]] = {}
        for index, one in enumerate(chosen):
            groups.setdefault(id(one), []).append(index)
        # Adapters without a prefix first, so that they share one attention.
        ordered = sorted(groups.values(), key=lambda group: bool(chosen[group[0]].prefix))
        made = self._computed(ordered, prompts, sequences, reported)
        if len(ordered) > 1 and not bool(torch.isfinite(made.logits.amax(-1)).all()):
            for group in ordered:
                alone = self._computed([group], prompts, sequences, reported)
                made.logits[group] = alone.logits
                for index, logprobs in zip(group, alone.logprobs, strict=True):
                    made.logprobs[index] = logprobs
        return made

    def _computed(
        self,
        groups: Sequence[Sequence[int]],
        prompts: Sequence[np.ndarray],
        sequences: Sequence[CachedSequence],
        reported: Sequence[int | None] | None,
    ) -> Begun:
        """Return what follows from some prompts, in the prompts' order; each group has one adapter."""
        order = [index for group in groups for index in group]
        row = [AdapterGroup(_adapter(sequences[group[0]]), [prompts[index] for index in group]) for group in groups]
        cached = self.cache.prefill_row([sequences[index] for index in order])
        packed, wanted = [prompts[index] for index in order], None
        if reported is not None:
            wanted = [reported[index] for index in order]
        features = self._host.features(row, cached, None if wanted is None else _read(packed, wanted))
        parts = features.split(_counts(packed, wanted))
        features, asked = torch.cat([parts[place] for place in np.argsort(order).tolist()]), sorted(order)
        return self._begun(
            [sequences[index] for index in asked],
            features,
            [prompts[index] for index in asked],
            None if reported is None else [reported[index] for index in asked],
        )

    def open(self, prompt: np.ndarray, adapter: BatchedAdapter | None) -> OpenSequence:
        """Return a sequence for a prompt of an adapter."""
        chosen = _BARE if adapter is None or adapter.is_empty else adapter
        return self.cache.open(self.before(chosen) + len(prompt), chosen.prefix_length, chosen)

    def _filled(self, chunks: Sequence[PromptChunk]) -> Sequence[Tensor]:
        parts = []
        for one in chunks:
            chunk = self.cache.chunk(one.sequence)
            parts.append(
                AdapterChunk(_adapter(one.sequence), one.tokens[: one.length], chunk, each=one.reported is not None)
            )
        return self._host.chunk_features(parts)

    def _row(self, sequences: list[CachedSequence]) -> list[CachedSequence]:
        places = self._stacks.arranged(_adapter(one) for one in sequences)
        return sorted(sequences, key=lambda one: places[id(one.adapter)])

    def _features(self, ids: Tensor, positions: Tensor, sequences: Sequence[CachedSequence]) -> Tensor:
        placed, start = [], 0
        for _, run in groupby(sequences, key=lambda one: id(one.adapter)):
            mine = list(run)
            placed.append((_adapter(mine[0]), slice(start, start + len(mine))))
            start += len(mine)
        changes, cached = self._stacks.changes(placed), self.cache.decoding_row(sequences)
        return self._host.next_features(ids, positions, changes, cached)

    def rest(self) -> None:
        """Drop the stacked weights."""
        self._stacks.clear()


def _counts(prompts: Sequence[np.ndarray], reported: Sequence[int | None] | None) -> list[int]:
    """Return the number of tokens of each prompt whose logits are read: all where they are reported, otherwise one."""
    wanted = reported or [None] * len(prompts)
    return [1 if most is None else len(prompt) for prompt, most in zip(prompts, wanted, strict=True)]


def _read(prompts: Sequence[np.ndarray], reported: Sequence[int | None]) -> Tensor:
    """Return these tokens of packed prompts, the last of each or all, int64 [M]."""
    ends, counts = np.cumsum([len(prompt) for prompt in prompts]), _counts(prompts, reported)
    pieces = [np.arange(end - count, end) for end, count in zip(ends.tolist(), counts, strict=True)]
    return torch.from_numpy(np.concatenate(pieces))


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
