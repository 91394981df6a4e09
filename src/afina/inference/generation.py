"""Generation: answers to prompts by a language model, with continuous batching.

Running sequences of unequal length take a step together: one packed row with a token of each, without padding. A
sequence that has ended leaves at once, and a waiting prompt enters. `ContinuousBatch` is driven step by step;
`answers` drives it over any number of prompts. Does not know tasks, templates or files.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

from afina.allocator import keep_freed
from afina.data.batch import TOKEN_BUDGET, pack
from afina.inference.searches import Continuation, Limits, Moves, Search, search_for, stops_of
from afina.models.added_modules import attentions, key_heads
from afina.models.architectures import output_embedding_of
from afina.models.classifier import Classifier
from afina.models.decoding import Decoding
from afina.models.kernels.key_values import CachedSequence, KeyValueCache
from afina.models.kernels.layout import Layout
from afina.models.kernels.linear import FrozenWeight, PackedWeight, can_pack, frozen_weight, is_linear

ROWS = 64
"""Most sequences that take a step together."""

COLUMNS = 16384
"""Most tokens that running sequences may have together, prompts and answers. It bounds the memory of the cache."""

WINDOW = 1024
"""Number of prompts that `answers` reads ahead."""


@dataclass(eq=False)
class _Running:
    """A request, and its sequences in the cache; none while it waits."""

    prompt: np.ndarray
    search: Search
    need: int
    sequences: list[CachedSequence] = field(default_factory=list)
    last: list[int] = field(default_factory=list)


class ContinuousBatch:
    """Requests that are generated together, step by step. Not thread-safe.

    Args:
        model: A language model in evaluation mode.
        ends: The end tokens.
        tokenizer: Decodes answers to find stop strings.
        rows: Most sequences that take a step together; a request with beams has one for each beam.
        columns: Most tokens of all running sequences, counting each answer's longest possible length. A request that
            is longer runs alone.
        budget: Most prompt tokens that are computed at once; a longer prompt is computed alone.
    """

    def __init__(
        self,
        model: Classifier,
        ends: Collection[int],
        tokenizer: Any = None,
        *,
        rows: int = ROWS,
        columns: int = COLUMNS,
        budget: int = TOKEN_BUDGET,
    ) -> None:
        self._model, self._ends, self._tokenizer = model, frozenset(ends), tokenizer
        self._rows, self._columns, self._budget = rows, columns, budget
        weight = next(model.body.parameters())
        self._before, self._longest = model.before, int(model.body.config.max_position_embeddings)
        self._cache = KeyValueCache(
            list(attentions(model.body)), *key_heads(model.body.config), weight.dtype, weight.device
        )
        self._device, self._readout = weight.device, _Readout(model)
        self._waiting: dict[int, _Running] = {}
        self._running: dict[int, _Running] = {}
        self._owners: dict[CachedSequence, tuple[int, int]] = {}
        self._count = 0

    @property
    def active(self) -> int:
        """Number of requests that wait or run."""
        return len(self._waiting) + len(self._running)

    @property
    def waiting(self) -> int:
        """Number of requests that wait."""
        return len(self._waiting)

    @property
    def bytes(self) -> int:
        """Size of the cache of keys and values in bytes."""
        return self._cache.bytes

    def add(self, prompt: np.ndarray, decoding: Decoding) -> int:
        """Let a request wait, and return its id.

        Args:
            prompt: Token ids of the prompt, at least one, and few enough that the model has a position for an answer.
            decoding: How the answer is generated.
        """
        room = self._longest - self._before - len(prompt)
        if not len(prompt) or room < 1:
            raise ValueError(f"a prompt of {len(prompt)} tokens leaves no room for an answer")
        most = min(room, decoding.max_new_tokens or room)
        limits = Limits(self._ends, most, stops_of(self._tokenizer, decoding.stop))
        need = (self._before + len(prompt) + most) * decoding.beams
        self._count += 1
        self._waiting[self._count] = _Running(prompt, search_for(prompt, decoding, limits), need)
        return self._count

    @torch.inference_mode()
    def cancel(self, request: int) -> None:
        """Drop a request that waits or runs; an unknown id is ignored, as the request may just have ended."""
        self._waiting.pop(request, None)
        self._leave(request)

    @torch.inference_mode()
    def step(self) -> list[tuple[int, Continuation]]:
        """Let waiting requests enter, generate the next token of every running request, and return ended requests."""
        keep_freed()
        ended = self._enter()
        if self._running:
            ended += self._decode()
        return ended

    def _enter(self) -> list[tuple[int, Continuation]]:
        """Compute the prompts of waiting requests for which there is room, at most `budget` tokens."""
        chosen: list[int] = []
        tokens = 0
        rows = sum(one.search.rows for one in self._running.values())
        columns = sum(one.need for one in self._running.values())
        if self._running and self._rows - rows < self._rows // 8:
            return []
        for request, one in self._waiting.items():
            rows, columns, tokens = rows + one.search.rows, columns + one.need, tokens + len(one.prompt) + self._before
            full = rows > self._rows or columns > self._columns or tokens > self._budget
            if full and (chosen or self._running):
                break
            chosen.append(request)
            if full:
                break
        if not chosen:
            return []
        for request in chosen:
            self._running[request] = self._waiting.pop(request)
        return self._prefill(chosen)

    def _prefill(self, chosen: list[int]) -> list[tuple[int, Continuation]]:
        entering = [self._running[request] for request in chosen]
        packed = pack([one.prompt for one in entering]).to(self._device)
        layout = self._model.layout(packed)
        for request, one in zip(chosen, entering, strict=True):
            columns = self._before + len(one.prompt)
            sequence = self._cache.enter(columns, min(one.search.limits.most, 32), layout.prefix)
            one.sequences = [sequence]
            self._owners[sequence] = request, 0
        cached = self._cache.prefill_row([one.sequences[0] for one in entering])
        features = self._model.features(packed, layout, cached=cached)
        return self._advance(features, [(request, 0) for request in chosen])

    def _decode(self) -> list[tuple[int, Continuation]]:
        self._cache.make_room()
        sequences = self._cache.sequences
        places = [self._owners[sequence] for sequence in sequences]
        tokens = torch.tensor([[self._running[request].last[row] for request, row in places]], device=self._device)
        positions = torch.tensor([[sequence.length for sequence in sequences]], device=self._device)
        layout = Layout(torch.arange(len(sequences) + 1, dtype=torch.int32, device=self._device))
        cached = self._cache.decoding_row()
        row = {"input_ids": tokens, "position_ids": positions}
        return self._advance(self._model.read(row, layout, cached=cached), places)

    def _advance(self, features: Tensor, places: list[tuple[int, int]]) -> list[tuple[int, Continuation]]:
        """Let every search take a step on features [rows, width], which belong to the (request, row) in `places`."""
        logits = self._readout(features)
        best = logits.argmax(-1).tolist()
        rows: dict[int, list[int]] = {}
        for index, (request, row) in enumerate(places):
            own = rows.setdefault(request, [])
            own += [0] * (row + 1 - len(own))
            own[row] = index
        ended = []
        for request, own in rows.items():
            one = self._running[request]
            moves = one.search.advance(logits[own] if not one.search.takes_best else logits[:0], best[own[0]])
            if moves is None:
                assert one.search.answer is not None
                ended.append((request, one.search.answer))
                self._leave(request)
            else:
                self._move(request, one, moves)
        return ended

    def _move(self, request: int, one: _Running, moves: Moves) -> None:
        """Bring the cache into the order of the rows that the search continues."""
        while len(one.sequences) < len(moves.tokens):
            copy = self._cache.fork(one.sequences[0])
            self._owners[copy] = request, len(one.sequences)
            one.sequences.append(copy)
        self._cache.reorder(one.sequences, moves.parents, self._before + len(one.prompt))
        one.last = moves.tokens

    def _leave(self, request: int) -> None:
        one = self._running.pop(request, None)
        for sequence in one.sequences if one else ():
            del self._owners[sequence]
            self._cache.leave(sequence)


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


def answers(
    model: Classifier,
    prompts: Iterable[np.ndarray],
    decoding: Decoding,
    ends: Collection[int],
    tokenizer: Any = None,
    *,
    window: int = WINDOW,
    listen: Callable[[int], None] = lambda done: None,
    **limits: int,
) -> Iterator[Continuation]:
    """Yield the answer to each prompt, in the prompts' order.

    Args:
        model: A language model.
        prompts: Token ids of each prompt; read `window` prompts ahead.
        decoding: How answers are generated.
        ends: The end tokens.
        tokenizer: Decodes answers to find stop strings.
        window: Most prompts whose answers are not yet yielded. It bounds memory.
        listen: Receives the number of ended requests after each step in which one ended.
        **limits: Passed to `ContinuousBatch`.
    """
    model.eval()
    batch = ContinuousBatch(model, ends, tokenizer, **limits)
    source = enumerate(prompts)
    numbers: dict[int, int] = {}
    held: dict[int, Continuation] = {}
    due = done = 0
    while True:
        if len(numbers) + len(held) < window and not batch.waiting:
            read = islice(source, window - len(numbers) - len(held))
            # Longest first: neighbours in a row then have similar lengths, and the last to run are short.
            for index, prompt in sorted(read, key=lambda item: -len(item[1])):
                numbers[batch.add(prompt, decoding)] = index
        if not batch.active:
            return
        ended = batch.step()
        held.update((numbers.pop(request), answer) for request, answer in ended)
        if ended:
            done += len(ended)
            listen(done)
        while due in held:
            yield held.pop(due)
            due += 1
