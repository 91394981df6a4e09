"""Generation: a language model answers prompts, with continuous batching.

Running sequences of unequal length take a step together: one packed row with a token of each, without padding. A
sequence that has ended leaves at once, and a waiting prompt enters. `ContinuousBatch` is driven step by step; `answers`
drives it over any number of prompts. The module does not know tasks, templates or files.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from afina.allocator import keep_freed
from afina.data.batch import TOKEN_BUDGET
from afina.generating.next_token import NextTokenModel, OwnNextTokenModel, PromptChunk, WholePrompt
from afina.generating.searches import (
    Continuation,
    Guide,
    Limits,
    Moves,
    Search,
    SingleSearch,
    TokenLogprobs,
    search_for,
    stops_of,
)
from afina.models.classifier import Classifier
from afina.models.decoding import Decoding
from afina.models.kernels.key_values import CachedSequence, OpenSequence
from afina.models.kernels.layer_changes import BatchedAdapter

ROWS = 64
"""Most sequences that take a step together."""

COLUMNS = 16384
"""Most tokens that running sequences may have together, prompts and answers. It bounds the memory of the cache."""

WINDOW = 1024
"""Number of prompts that `answers` reads ahead."""


class Admission(Protocol):
    """Decides by memory whether a request may start."""

    def take(self, size: int, adapter: BatchedAdapter | None) -> bool:
        """Reserve `size` bytes of keys and values for a request of an adapter. Return False if there is no room now."""

    def give_back(self, size: int, adapter: BatchedAdapter | None) -> None:
        """Release the bytes that `take` reserved."""


class NewTokens(NamedTuple):
    """The tokens that one step added to an answer; `logprobs`: one for each token. None: not requested."""

    tokens: list[int]
    logprobs: list[TokenLogprobs] | None


Key = TypeVar("Key", bound=Hashable)


@dataclass(eq=False)
class _Request(Generic[Key]):
    """A request, and its sequences in the cache; none while it waits, and none before its prompt is complete.

    Attributes:
        need: Most tokens that the request's sequences may have together.
        size: Most bytes of the request's keys and values.
        adapter: The adapter that answers. None: the model itself.
        reported: Number of most probable tokens in the log-probabilities of the prompt. None: not requested.
        told: Number of tokens that the listener `heard` has received.
        opened: The sequence in the cache of a prompt that is computed in chunks.
        filled: Number of the prompt's tokens that are computed.
        prompt_logprobs: The log-probabilities of the prompt's tokens, once the prompt is computed.
    """

    key: Key
    prompt: np.ndarray
    search: Search
    need: int
    size: int
    adapter: BatchedAdapter | None
    reported: int | None
    heard: Callable[[NewTokens], None] | None
    told: int = 0
    opened: OpenSequence | None = None
    filled: int = 0
    sequences: list[CachedSequence] = field(default_factory=list)
    last: list[int] = field(default_factory=list)
    prompt_logprobs: list[TokenLogprobs] | None = None

    def tell(self) -> None:
        """Pass new tokens to the listener `heard`, but not with beam search, whose tokens may still change."""
        search, start = self.search, self.told
        if self.heard is None or not isinstance(search, SingleSearch) or start == len(search.tokens):
            return
        self.told = len(search.tokens)
        logprobs = None if search.logprobs is None else list(search.logprobs[start:])
        self.heard(NewTokens(list(search.tokens[start:]), logprobs))


Ended = list[tuple[_Request[Key], Continuation | Exception]]
"""Requests that have ended, with their outcomes."""


class ContinuousBatch(Generic[Key]):
    """Requests that are generated together, step by step. Not thread-safe.

    Attributes:
        computed: Number of tokens that the last step generated for each request; with beams, for all beams together.

    Args:
        rows: Most sequences that take a step together; a request with beams has one for each beam.
        columns: Most tokens of all running sequences, counting each answer's longest possible length. A request that
            is longer runs alone.
        budget: Most prompt tokens that are computed at once; a longer prompt is computed alone.
        memory: Reserves memory before a request starts, and releases it at the end. None: memory is not limited.
        checked: Whether a request fails if its logits are NaN or infinite.
    """

    def __init__(
        self,
        model: NextTokenModel,
        ends: Collection[int],
        tokenizer: Any = None,
        *,
        rows: int = ROWS,
        columns: int = COLUMNS,
        budget: int = TOKEN_BUDGET,
        memory: Admission | None = None,
        checked: bool = False,
    ) -> None:
        self._model, self._ends, self._tokenizer = model, frozenset(ends), tokenizer
        self._rows, self._columns, self._budget = rows, columns, budget
        self._memory, self._checked = memory, checked
        self._waiting: dict[Key, _Request[Key]] = {}
        self._running: dict[Key, _Request[Key]] = {}
        self.computed: Counter[Key] = Counter()

    @property
    def active(self) -> int:
        return len(self._waiting) + len(self._running)

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def bytes(self) -> int:
        """Size of all keys and values in bytes."""
        return self._model.cache.bytes + sum(one.opened.bytes for one in self._running.values() if one.opened)

    def waits(self, key: Key) -> bool:
        """Whether a request waits, with no token of its prompt computed."""
        return key in self._waiting

    @property
    def entering(self) -> bool:
        """Whether a prompt waits or is not completely computed."""
        return bool(self._waiting or self._filling)

    @property
    def _filling(self) -> list[_Request[Key]]:
        """The requests that have started, and whose prompts are not completely computed."""
        return [one for one in self._running.values() if not one.sequences]

    def room(self, prompt: np.ndarray, adapter: BatchedAdapter | None = None) -> int:
        """Return the number of positions that the model has left for an answer to a prompt."""
        return self._model.longest - self._model.before(adapter) - len(prompt)

    def add(
        self,
        key: Key,
        prompt: np.ndarray,
        decoding: Decoding,
        adapter: BatchedAdapter | None = None,
        *,
        logprobs: int | None = None,
        guide: Guide | None = None,
        heard: Callable[[NewTokens], None] | None = None,
        prompt_logprobs: int | None = None,
    ) -> None:
        """Add a request to the waiting requests.

        Args:
            key: Names the request; no other request that waits or runs has this key.
            prompt: Token ids of the prompt, at least one, and few enough that the model has a position for an answer.
            adapter: The adapter that answers. None: the model itself.
            logprobs: Number of most probable tokens that are reported at each step. None: no log-probabilities.
            guide: Restricts the tokens of the answer. None: every token is allowed.
            heard: Called with the new tokens of each step; with beams, not called.
            prompt_logprobs: Number of most probable tokens reported for each token of the prompt after the first.

        Raises:
            InvalidStudy: Beam search with log-probabilities or a guide, or a token id that the model does not have.
        """
        decoding.check_vocabulary(self._model.vocabulary)
        room = self.room(prompt, adapter)
        if not len(prompt) or room < 1:
            raise ValueError(f"a prompt of {len(prompt)} tokens leaves no room for an answer")
        most = min(room, decoding.max_new_tokens or room)
        ends = (frozenset() if decoding.ignore_eos else self._ends) | {*decoding.stop_token_ids}
        limits = Limits(ends, most, stops_of(self._tokenizer, decoding.stop))
        search = search_for(prompt, decoding, limits, logprobs, guide)
        columns = self._model.before(adapter) + len(prompt) + most
        size = self._model.cache.most_bytes(columns) * decoding.beams
        need = columns * decoding.beams
        self._waiting[key] = _Request(key, prompt, search, need, size, adapter, prompt_logprobs, heard)

    def size(self, key: Key) -> int:
        """Return the most bytes of the keys and values of a request that waits or runs."""
        return (self._waiting.get(key) or self._running[key]).size

    @torch.inference_mode()
    def cancel(self, key: Key) -> None:
        """Drop a request that waits or runs; an unknown key is ignored, as the request may just have ended."""
        self._waiting.pop(key, None)
        self._leave(key)

    @torch.inference_mode()
    def step(self, most: int | None = None) -> list[tuple[Key, Continuation | Exception]]:
        """Let waiting requests enter, generate the next token of every running request, and return ended requests.

        An exception is the outcome of its own request: FloatingPointError for logits that are NaN or infinite, or an
        error of the request's guide or listener.

        Args:
            most: Most tokens of prompts that are computed; prompts that have entered share them, and the other tokens
                are computed in later steps. None: prompts are computed whole.
        """
        keep_freed()
        self.computed.clear()
        self._enter(limited=most is not None)
        ended = self._fill(most)
        if len(self._running) > len(self._filling):
            ended += self._go_on()
        told = self._told(ended)
        if not self._running:
            self._model.rest()
        return told

    def _told(self, ended: Ended[Key]) -> list[tuple[Key, Continuation | Exception]]:
        """Pass the tokens of a step to listeners. Return ended requests: a listener's error ends its request."""
        outcomes: dict[_Request[Key], Continuation | Exception | None] = dict.fromkeys(self._running.values())
        outcomes |= ended
        found = []
        for one, outcome in outcomes.items():
            if not isinstance(outcome, Exception):
                try:
                    one.tell()
                except Exception as error:  # noqa: BLE001 - see above
                    outcome = error
            if outcome is not None:
                self._leave(one.key)
                found.append((one.key, outcome))
        return found

    def _enter(self, *, limited: bool) -> None:
        """Start waiting requests for which there is room; if not `limited`, with at most `budget` tokens."""
        tokens = 0
        rows = sum(one.search.rows for one in self._running.values())
        columns = sum(one.need for one in self._running.values())
        if self._running and self._rows - rows < min(self._rows // 8, len(self._waiting)):
            return  # a few prompts alone would cost as much as many
        for key, one in [*self._waiting.items()]:
            rows, columns = rows + one.search.rows, columns + one.need
            tokens += 0 if limited else self._model.before(one.adapter) + len(one.prompt)
            full = rows > self._rows or columns > self._columns or tokens > self._budget
            if full and self._running:
                return
            if self._memory is not None and not self._memory.take(one.size, one.adapter):
                return
            self._running[key] = self._waiting.pop(key)
            if full:
                return

    def _fill(self, most: int | None) -> Ended[Key]:
        """Compute tokens of incomplete prompts: prompts of one chunk together, and then other chunks."""
        filling = self._filling
        left = [len(one.prompt) - one.filled for one in filling]
        counts = shared_out(left, most)
        if most is not None:
            shares, reach = zip(left, counts, filling, strict=True), self._model.reach
            counts = [count and chunk_size(rest, count, one.filled, reach) for rest, count, one in shares]
        whole = [one for one, count in zip(filling, counts, strict=True) if count == len(one.prompt)]
        parts = [(one, count) for one, count in zip(filling, counts, strict=True) if 0 < count < len(one.prompt)]
        ended: Ended[Key] = []
        if whole:
            prompts = [WholePrompt(one.prompt, one.search.limits.most, one.adapter, one.reported) for one in whole]
            begun = self._model.begin(prompts)
            for one, sequence, logprobs in zip(whole, begun.sequences, begun.logprobs, strict=True):
                one.sequences, one.prompt_logprobs = [sequence], logprobs
            ended += self._advance(whole, begun.sequences, begun.logits)
        return ended + (self._fill_in_chunks(parts) if parts else [])

    def _fill_in_chunks(self, parts: Sequence[tuple[_Request[Key], int]]) -> Ended[Key]:
        """Compute the next tokens of prompts, so many of each; those that are complete run, and take a step."""
        chunks = []
        for one, count in parts:
            one.opened = one.opened or self._model.open(one.prompt, one.adapter)
            chunks.append(PromptChunk(one.opened, one.prompt[one.filled :], count, one.reported))
        logits, logprobs = self._model.fill(chunks)
        complete = []
        for place, ((one, count), new) in enumerate(zip(parts, logprobs, strict=True)):
            one.filled += count
            if new is not None:
                one.prompt_logprobs = [*(one.prompt_logprobs or []), *new]
            if one.filled == len(one.prompt):
                assert one.opened is not None
                one.sequences, one.opened = [self._model.run(one.opened, one.search.limits.most)], None
                complete.append(place)
        running = [parts[place][0] for place in complete]
        return self._advance(running, [one.sequences[0] for one in running], logits[complete]) if running else []

    def _go_on(self) -> Ended[Key]:
        """Compute the next token of every running request."""
        running = [one for one in self._running.values() if one.sequences]
        tokens = {sequence: token for one in running for sequence, token in zip(one.sequences, one.last, strict=True)}
        return self._advance(running, *self._model.go_on(tokens))

    def _advance(
        self, requests: Sequence[_Request[Key]], sequences: Sequence[CachedSequence], logits: Tensor
    ) -> Ended[Key]:
        """Let the searches of requests take a step, and return the requests that have ended.

        Args:
            sequences: Their sequences, in the order of the logits.
            logits: Logits of the next tokens, float32 [B, V].
        """
        largest, at = logits.max(-1)
        best, finite = at.tolist(), torch.isfinite(largest).tolist()
        places = {sequence: place for place, sequence in enumerate(sequences)}
        ended: Ended[Key] = []
        for one in requests:
            rows = [places[sequence] for sequence in one.sequences]
            outcome: Continuation | Exception | None
            if self._checked and not all(finite[row] for row in rows):
                for sequence in one.sequences:
                    self._model.cache.erase(sequence)
                outcome = FloatingPointError("logits are NaN or infinite")
            else:
                self.computed[one.key] += len(rows)
                outcome = self._outcome(one, logits[rows] if not one.search.takes_best else logits[:0], best[rows[0]])
            if outcome is not None:
                ended.append((one, outcome))
                self._leave(one.key)
        return ended

    def _outcome(self, one: _Request[Key], logits: Tensor, best: int) -> Continuation | Exception | None:
        """Let a search take a step. Return the answer, or an error of its guide; None: it goes on."""
        try:
            moves = one.search.advance(logits, best)
        except Exception as error:  # noqa: BLE001 - an error of a guide ends its own request only
            return error
        if moves is not None:
            self._move(one, moves)
            return None
        assert one.search.answer is not None
        return one.search.answer._replace(prompt_logprobs=one.prompt_logprobs)

    def _move(self, one: _Request[Key], moves: Moves) -> None:
        """Bring the cache into the order of the rows that the search continues."""
        cache = self._model.cache
        while len(one.sequences) < len(moves.tokens):
            one.sequences.append(cache.fork(one.sequences[0]))
        cache.reorder(one.sequences, moves.parents, self._model.before(one.adapter) + len(one.prompt))
        one.last = moves.tokens

    def _leave(self, key: Key) -> None:
        one = self._running.pop(key, None)
        if one is None:
            return
        for sequence in one.sequences:
            self._model.cache.leave(sequence)
        if self._memory is not None:
            self._memory.give_back(one.size, one.adapter)


SMALLEST = 8
"""Fewest tokens of a chunk of a text that has more."""


def chunk_size(left: int, most: int, computed: int, reach: float) -> int:
    """Return the number of tokens of a text's next chunk, which takes the time of `most` first tokens.

    Args:
        left: Number of the text's tokens that are not computed.
        most: Number of first tokens of a text that take the time of the chunk.
        computed: Number of the text's tokens that are computed; each token of the chunk attends to them.
        reach: The number of earlier tokens to which a token attends in the time of its linear layers.
    """
    return min(left, max(SMALLEST, int(most / (1 + computed / reach))))


def shared_out(needs: Sequence[int], most: int | None) -> list[int]:
    """Share `most` tokens out as equally as the needs allow: tokens that one request does not need go to others.

    Args:
        most: Tokens to share out. None: each gets what it needs.
    """
    if most is None:
        return [*needs]
    shares = [0] * len(needs)
    for place, index in enumerate(sorted(range(len(needs)), key=lambda index: needs[index])):
        shares[index] = min(needs[index], -(-most // (len(needs) - place)))
        most -= shares[index]
    return shares


def answers(
    model: Classifier,
    prompts: Iterable[np.ndarray],
    decoding: Decoding,
    ends: Collection[int],
    tokenizer: Any = None,
    *,
    make_guide: Callable[[], Guide] | None = None,
    window: int = WINDOW,
    listen: Callable[[int], None] = lambda done: None,
    rows: int = ROWS,
) -> Iterator[Continuation]:
    """Yield the answer to each prompt, in the prompts' order.

    Args:
        prompts: Token ids of each prompt; read `window` prompts ahead.
        make_guide: Makes what restricts the tokens of an answer. None: every token is allowed.
        window: Most prompts whose answers are not yet yielded. The window bounds memory.
        listen: Receives the number of ended requests after each step in which one ended.
        rows: Most sequences in a step, as in `ContinuousBatch`.
    """
    model.eval()
    batch = ContinuousBatch[int](OwnNextTokenModel(model), ends, tokenizer, rows=rows)
    source = enumerate(prompts)
    held: dict[int, Continuation] = {}
    due = done = 0
    while True:
        if batch.active + len(held) < window and not batch.waiting:
            read = islice(source, window - batch.active - len(held))
            # Longest first: neighbours in a row then have similar lengths, and the last to run are short.
            for index, prompt in sorted(read, key=lambda item: -len(item[1])):
                batch.add(index, prompt, decoding, guide=None if make_guide is None else make_guide())
        if not batch.active:
            return
        ended = batch.step()
        for index, answer in ended:
            if isinstance(answer, Exception):
                raise answer
            held[index] = answer
        if ended:
            done += len(ended)
            listen(done)
        while due in held:
            yield held.pop(due)
            due += 1
