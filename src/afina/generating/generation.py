"""Generation of a language model's answers to prompts, with continuous batching.

All running sequences, of different lengths, are continued in one forward pass: a packed batch with one token of each
sequence, without padding. When a sequence has ended, a waiting prompt takes its place in the next step. The module
imports no code of tasks, templates or files.
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
"""The largest number of sequences that are continued in one step."""

COLUMNS = 16384
"""The largest number of tokens of all running sequences, in prompts and answers. It bounds the cache's memory."""

WINDOW = 1024
"""The number of prompts that the function `answers` reads before it yields the first of their answers."""


class Admission(Protocol):
    """An object that decides whether enough memory is free for a request to start."""

    def take(self, size: int, adapter: BatchedAdapter | None) -> bool:
        """Reserve `size` bytes for the keys and values of a request. Return False if too little memory is free now."""

    def give_back(self, size: int, adapter: BatchedAdapter | None) -> None:
        """Undo a reservation of `size` bytes by `take`."""


class NewTokens(NamedTuple):
    """The tokens that one step added to an answer. `logprobs` is None if the request did not ask for them."""

    tokens: list[int]
    logprobs: list[TokenLogprobs] | None


Key = TypeVar("Key", bound=Hashable)


@dataclass(eq=False)
class _Request(Generic[Key]):
    """A request for an answer to a prompt.

    Attributes:
        need: The largest number of tokens that the request's sequences may have together.
        size: The largest number of bytes of the request's keys and values.
        adapter: None: the model without an adapter.
        reported: The number of most probable tokens that are reported for each token of the prompt. None: no
            log-probabilities of the prompt.
        told: The number of tokens that the listener `heard` has received.
        opened: The sequence in the cache of a prompt that is being computed in chunks.
        filled: The number of the prompt's tokens that were computed.
        sequences: Empty until the prompt is completely computed.
        last: The last token of each sequence.
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
        """Pass new tokens to the listener `heard`, except in beam search, whose tokens may still change."""
        search, start = self.search, self.told
        if self.heard is None or not isinstance(search, SingleSearch) or start == len(search.tokens):
            return
        self.told = len(search.tokens)
        logprobs = None if search.logprobs is None else list(search.logprobs[start:])
        self.heard(NewTokens(list(search.tokens[start:]), logprobs))


Ended = list[tuple[_Request[Key], Continuation | Exception]]
"""The type of a list of requests that have ended, each with its answer or its exception."""


class ContinuousBatch(Generic[Key]):
    """A continuous batch: requests whose answers are generated together, step by step. Not thread-safe.

    Attributes:
        computed: The number of tokens that the last step generated for each request, in all beams.

    Args:
        ends: The ids of the end tokens.
        rows: The largest number of sequences in a step. A request with beam search has a sequence for each beam.
        columns: The largest number of tokens of all running sequences together. An answer counts as if it had its
            largest length. A request with more tokens runs alone.
        budget: The largest number of prompt tokens in one forward pass. A longer prompt is computed alone.
        memory: None: no memory limit.
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
        """The size of the keys and values of all running requests in bytes."""
        return self._model.cache.bytes + sum(one.opened.bytes for one in self._running.values() if one.opened)

    def waits(self, key: Key) -> bool:
        """Return whether a request is waiting, so that no token of its prompt was computed yet."""
        return key in self._waiting

    @property
    def entering(self) -> bool:
        """Whether there is a request that waits, or whose prompt is not completely computed."""
        return bool(self._waiting or self._filling)

    @property
    def _filling(self) -> list[_Request[Key]]:
        """The requests that have started but whose prompts are not completely computed."""
        return [one for one in self._running.values() if not one.sequences]

    def room(self, prompt: np.ndarray, adapter: BatchedAdapter | None = None) -> int:
        """Return the number of positions that the model has left for the answer to a prompt."""
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
            key: The name of the request. No other waiting or running request may have the same name.
            prompt: The token ids of the prompt: at least one, and few enough to leave a position for an answer.
            adapter: None: the model without an adapter.
            logprobs: The number of most probable tokens that are reported at each step. None: no log-probabilities.
            guide: None: every token is allowed.
            heard: A listener that is called with the new tokens of each step, except in beam search.
            prompt_logprobs: As `logprobs`, for each token of the prompt except the first.

        Raises InvalidStudy if beam search is combined with log-probabilities or a guide, or if the decoding settings
        have a token id that the model does not have.
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
        """Return the largest number of bytes that the keys and values of a waiting or running request can take."""
        return (self._waiting.get(key) or self._running[key]).size

    @torch.inference_mode()
    def cancel(self, key: Key) -> None:
        """Drop a waiting or running request. An unknown key is ignored, because the request may have just ended."""
        self._waiting.pop(key, None)
        self._leave(key)

    @torch.inference_mode()
    def step(self, most: int | None = None) -> list[tuple[Key, Continuation | Exception]]:
        """Start waiting requests, compute the next token of every running request, and return the requests that ended.

        If a request fails, its outcome is an exception: FloatingPointError if its logits are NaN or infinite, or an
        error of its guide or listener.

        Args:
            most: The largest number of prompt tokens to compute in this step. None: no limit.
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
        """Pass the tokens of a step to the listeners, and return the requests that have ended with their outcomes."""
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
        """Start waiting requests, as far as the limits on sequences, tokens and memory allow.

        If the step's number of prompt tokens is not limited, requests with at most `budget` prompt tokens together
        start.
        """
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
        """Compute at most `most` tokens of prompts that are not complete: whole prompts, then chunks."""
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
        """Compute the next chunk, of the given length, of each prompt.

        A complete prompt gets the first token of its answer.
        """
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
        """Compute the next token of each request whose prompt is complete."""
        running = [one for one in self._running.values() if one.sequences]
        tokens = {sequence: token for one in running for sequence, token in zip(one.sequences, one.last, strict=True)}
        return self._advance(running, *self._model.go_on(tokens))

    def _advance(
        self, requests: Sequence[_Request[Key]], sequences: Sequence[CachedSequence], logits: Tensor
    ) -> Ended[Key]:
        """Choose the next tokens of requests by their searches, and return the requests that have ended.

        The rows of `logits`, float32 [number of sequences, vocabulary], are in the order of `sequences`.
        """
        best, finite = _best(logits)
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
        """Choose the next tokens of a request. Return None if its search continues, or the error of its guide."""
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
        """Reorder the cache of a request, so that it has the sequences (beams) that the search continues."""
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


def _best(logits: Tensor) -> tuple[list[int], list[bool]]:
    """Return the index of the largest logit in each row of [B, vocabulary], and whether the largest logit is finite.

    NaN counts as the largest. On a CPU, NumPy takes a tenth of the time of torch.
    """
    if logits.device.type != "cpu":
        largest, at = logits.max(-1)
        return at.tolist(), torch.isfinite(largest).tolist()
    rows = logits.numpy()
    places = rows.argmax(-1)
    finite: list[bool] = np.isfinite(rows[np.arange(len(rows)), places]).tolist()
    return places.tolist(), finite


SMALLEST = 8
"""The smallest number of tokens in a chunk, except the last chunk of a text."""


def chunk_size(left: int, most: int, computed: int, reach: float) -> int:
    """Return the number of tokens in the next chunk of a text, so that the chunk takes a given time.

    Args:
        left: The number of the text's tokens that are not computed yet.
        most: The time of the chunk, as the number of tokens that could be computed in this time at a text's beginning.
        computed: The number of the text's tokens that are computed. Each token of the chunk attends to them.
        reach: As in `NextTokenModel`.
    """
    return min(left, max(SMALLEST, int(most / (1 + computed / reach))))


def shared_out(needs: Sequence[int], most: int | None) -> list[int]:
    """Divide `most` tokens (None: any number) among requests as equally as possible, none above its need."""
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
    """Generate the answers to prompts with continuous batching, and yield the answers in the order of the prompts.

    Args:
        prompts: The token ids of each prompt.
        ends: The ids of the end tokens.
        make_guide: A function that makes the guide of one answer. None: every token is allowed.
        window: The largest number of prompts that were read and whose answers were not yielded. It bounds memory.
        listen: Called with the number of complete answers, after each step that completes an answer.
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
