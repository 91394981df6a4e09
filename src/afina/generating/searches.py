"""Searches, which choose the tokens of a request's answer from next-token logits: greedy, sampling and beam search.

A search gives the same answer as transformers' `generate` for the prompt alone. The module imports no code of models
and caches.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from afina.digest import derive_seed
from afina.generating import problems
from afina.models.decoding import Decoding

_FEW = 512
"""The number of most probable tokens that top-p sorts first. Sorting a whole vocabulary would take milliseconds."""

Stops = Callable[[Sequence[int]], bool]
"""A function that returns whether an answer's tokens contain a stop string; it is called after each new token."""


class TokenLogprobs(NamedTuple):
    """The log-probabilities of a chosen token, and of the most probable tokens at its position.

    They are computed from the model's logits, before guide, bias, penalties, temperature, min-p, top-k and top-p.
    """

    chosen: float
    top: list[tuple[int, float]]  # pairs (token id, log-probability), the most probable first


class Guide(Protocol):
    """An object that restricts the tokens of one answer, for example to texts of a grammar. A guide has a state."""

    @property
    def finished(self) -> bool:
        """Whether the answer is complete, so that only an end token may follow."""

    def mask(self, logits: np.ndarray) -> None:
        """Set the logits of the tokens that are not allowed next to -inf, in place. `logits`: float [vocabulary]."""

    def accept(self, token: int) -> None:
        """Append a token to the answer. The token must be one that `mask` allowed."""


class Continuation(NamedTuple):
    """A generated answer.

    Attributes:
        tokens: The new tokens, int64 [number of new tokens], the end token included.
        ended: Whether an end token, a stop string or a guide ended the answer. False: the limit of new tokens ended it.
        logprobs: None: the request did not ask for them.
        prompt_logprobs: For each token of the prompt except the first. None: the request did not ask for them.
    """

    tokens: np.ndarray
    ended: bool
    logprobs: list[TokenLogprobs] | None = None
    prompt_logprobs: list[TokenLogprobs] | None = None


class Moves(NamedTuple):
    """The next token of each beam, and the index of the earlier beam that it continues.

    One beam without beam search.
    """

    tokens: list[int]
    parents: list[int]


@dataclass(frozen=True, eq=False)
class Limits:
    """The conditions that end an answer."""

    ends: frozenset[int]  # the ids of the end tokens
    most: int  # the largest number of new tokens
    stops: Stops | None = None  # whether an answer contains a stop string; None: there are no stop strings

    def ended(self, tokens: Sequence[int]) -> bool:
        """Return whether the last of these tokens ends the answer, as an end token or by a stop string."""
        return tokens[-1] in self.ends or (self.stops is not None and self.stops(tokens))


class Search(ABC):
    """The base class of searches for the answer to one request. `answer` is None while the search is running."""

    answer: Continuation | None = None

    def __init__(self, prompt: np.ndarray, decoding: Decoding, limits: Limits) -> None:
        self.prompt, self.decoding, self.limits = prompt, decoding, limits

    @property
    def rows(self) -> int:
        return self.decoding.beams

    @property
    def tokens(self) -> Sequence[int]:
        """The new tokens that no later step can change. Empty for beam search."""
        return ()

    @property
    def takes_best(self) -> bool:
        """Whether `advance` needs only the index of the largest logit, and not all logits."""
        return False

    @abstractmethod
    def advance(self, logits: Tensor, best: int | None) -> Moves | None:
        """Choose the next tokens. Return None if the search has ended and its answer is in `answer`.

        Args:
            logits: The next-token logits of each beam, float32 [beams, vocabulary]; [1, vocabulary] at the first step.
            best: The index of the largest logit in the first row. May be None if `takes_best` is False.
        """

    def _banned(self, tokens: Sequence[int]) -> np.ndarray:
        """Return the tokens that would repeat an n-gram of prompt or answer (`no_repeat_ngram`), int64 [M]."""
        size = self.decoding.no_repeat_ngram
        whole = np.concatenate([self.prompt, np.asarray(tokens, self.prompt.dtype)])
        if size == 0 or len(whole) < size:
            return np.zeros(0, np.int64)
        windows = np.lib.stride_tricks.sliding_window_view(whole, size)
        same = (windows[:, :-1] == whole[len(whole) - size + 1 :]).all(1)
        return np.unique(windows[same, -1]).astype(np.int64)


class SingleSearch(Search):
    """Greedy search, which chooses the most probable token at each step, or sampling, which draws a token.

    Args:
        alternatives: The number of most probable tokens that are reported at each step. None: no log-probabilities.
        guide: None: every token is allowed.
    """

    def __init__(
        self,
        prompt: np.ndarray,
        decoding: Decoding,
        limits: Limits,
        alternatives: int | None = None,
        guide: Guide | None = None,
    ) -> None:
        super().__init__(prompt, decoding, limits)
        self._alternatives, self._guide = alternatives, guide
        self.logprobs: list[TokenLogprobs] | None = None if alternatives is None else []
        self._tokens: list[int] = []
        self._read = np.unique(prompt) if decoding.repetition_penalty != 1 else prompt[:0]
        seed = derive_seed(decoding.seed, "sample", *prompt.tolist()) if decoding.samples else 0
        self._random = np.random.Generator(np.random.PCG64(seed))

    @property
    def tokens(self) -> Sequence[int]:
        return self._tokens

    @property
    def takes_best(self) -> bool:
        """Whether the token with the largest logit is always chosen, so that the other logits are not needed."""
        return self.decoding.keeps_logits and self._guide is None and self.logprobs is None

    def advance(self, logits: Tensor, best: int | None) -> Moves | None:
        """Choose the next token, and append it to the answer."""
        if self.takes_best:
            assert best is not None
            token = best
        else:
            token = self._chosen(logits[0])
        self._tokens.append(token)
        ended = self.limits.ended(self._tokens)
        if self._guide is not None and token not in self.limits.ends:
            self._guide.accept(token)
            ended |= self._guide.finished
        if ended or len(self._tokens) == self.limits.most:
            self.answer = Continuation(np.array(self._tokens, np.int64), ended, self.logprobs)
            return None
        return Moves([token], [0])

    def _chosen(self, logits: Tensor) -> int:
        """Return the next token, given the logits of all tokens, float32 [vocabulary]."""
        scores = logits.cpu().numpy().copy()
        if self._guide is not None:
            self._guide.mask(scores)
        scores = self._adjusted(scores.astype(np.float64))
        scores[self._banned(self._tokens)] = -np.inf
        if not np.isfinite(scores.max()):
            raise problems.NO_TOKEN_ALLOWED()
        token = self._draw(scores) if self.decoding.samples else int(scores.argmax())
        if self.logprobs is not None:
            self.logprobs += logprobs_of(logits[None], torch.tensor([token]), self._alternatives or 0)
        return token

    def _adjusted(self, scores: np.ndarray) -> np.ndarray:
        """Return the logits after bias and penalties, float64 [vocabulary].

        Before the answer has `min_new_tokens` tokens, end tokens have the logit -inf. The order of the changes is that
        of vLLM. The repetition penalty is that of transformers (Keskar et al. 2019, section 4.1), for tokens of prompt
        and answer. The frequency and presence penalties are those of OpenAI: where c[j] is the number of times that the
        answer has token j, score[j] -= c[j] * frequency_penalty + (c[j] > 0) * presence_penalty.
        """
        how = self.decoding
        if len(self._tokens) < how.min_new_tokens:
            going = scores.copy()
            going[[*self.limits.ends]] = -np.inf
            if self._guide is None or np.isfinite(going.max()):  # a grammar that is complete ends the answer
                scores = going
        if how.logit_bias:
            scores[[*how.logit_bias]] += [*how.logit_bias.values()]
        seen, counts = np.unique(np.array(self._tokens, np.int64), return_counts=True)
        if how.repetition_penalty != 1:
            known = np.union1d(self._read, seen)
            some = scores[known]
            scores[known] = np.where(some > 0, some / how.repetition_penalty, some * how.repetition_penalty)
        if how.frequency_penalty or how.presence_penalty:
            scores[seen] -= counts * how.frequency_penalty + how.presence_penalty
        return scores

    def _draw(self, scores: np.ndarray) -> int:
        """Draw a token from softmax(scores / temperature), among the tokens that min-p, then top-k, then top-p allow.

        Each token of the vocabulary gets an exponentially distributed time, whose rate is the token's weight, and the
        token with the smallest time is drawn. Rounding changes the drawn token only if two times are nearly equal; a
        draw by cumulative sums of the weights would change more often.
        """
        scores = scores / self.decoding.temperature
        weights = np.exp(scores - scores.max())
        kept = np.flatnonzero(weights >= self.decoding.min_p)  # the largest weight is 1
        if 0 < self.decoding.top_k < len(kept):
            kept = kept[np.argpartition(-weights[kept], self.decoding.top_k - 1)[: self.decoding.top_k]]
        if self.decoding.top_p < 1:
            kept = _nucleus(weights, kept, self.decoding.top_p)
        times = self._random.standard_exponential(len(weights))[kept]
        with np.errstate(divide="ignore"):  # a token of weight 0 is never drawn
            return int(kept[np.argmin(times / weights[kept])])


def logprobs_of(logits: Tensor, tokens: Tensor, alternatives: int) -> list[TokenLogprobs]:
    """Return the log-probability of a given token at each position, and of the most probable tokens there.

    Args:
        logits: float32 [M, vocabulary].
        tokens: int64 [M].
    """
    rows = logits.double()
    total = rows.logsumexp(-1, keepdim=True)
    chosen = (rows.gather(1, tokens.to(rows.device)[:, None]) - total)[:, 0].tolist()
    values, places = rows.topk(min(alternatives, rows.shape[1]))
    top = [
        list(zip(mine, theirs, strict=True))
        for mine, theirs in zip(places.tolist(), (values - total).tolist(), strict=True)
    ]
    return [TokenLogprobs(value, others) for value, others in zip(chosen, top, strict=True)]


def _nucleus(weights: np.ndarray, kept: np.ndarray, top_p: float) -> np.ndarray:
    """Return the smallest set of most probable tokens among `kept` whose share of the weight is at least `top_p`."""
    needed = top_p * weights[kept].sum()
    if len(kept) > _FEW:
        few = kept[np.argpartition(-weights[kept], _FEW - 1)[:_FEW]]
        kept = few if weights[few].sum() >= needed else kept
    order = kept[np.argsort(-weights[kept], kind="stable")]
    shares = np.cumsum(weights[order])
    return order[: int(np.searchsorted(shares, needed, side="left")) + 1]


_NEVER = -1e9
"""The score that transformers adds to a beam that must not be chosen."""


class BeamSearch(Search):
    """Beam search, which gives the same answer as transformers' beam search with `early_stopping=False`.

    The score of a beam is its log-probability divided by length ** length_penalty.
    """

    def __init__(self, prompt: np.ndarray, decoding: Decoding, limits: Limits) -> None:
        super().__init__(prompt, decoding, limits)
        self._beams: list[list[int]] = [[]]
        self._scores = [0.0]
        self._finished: list[tuple[float, list[int], bool]] = []

    def advance(self, logits: Tensor, best: int | None) -> Moves | None:
        candidates, most = self._candidates(logits), self.decoding.beams
        length = len(self._beams[0]) + 1
        reached = length == self.limits.most
        ends = [self.limits.ended([*self._beams[beam], token]) for _, beam, token in candidates]
        running, over = [], []
        for place, ((score, beam, token), ended) in enumerate(zip(candidates, ends, strict=True)):
            if not (ended or reached):
                running.append((score, beam, token))
            else:
                over.append((score + _NEVER, beam, token))
                if place < most:
                    tokens = [*self._beams[beam], token]
                    self._finished.append((score / length**self.decoding.length_penalty, tokens, ended))
        self._finished = sorted(self._finished, key=lambda one: -one[0])[:most]
        going = [*running, *over][:most]
        if not running or self._cannot_improve(going[0][0], length):
            _, tokens, ended = self._finished[0]
            self.answer = Continuation(np.array(tokens, np.int64), ended)
            return None
        self._beams = [[*self._beams[beam], token] for _, beam, token in going]
        self._scores = [score for score, _, _ in going]
        return Moves([token for _, _, token in going], [beam for _, beam, _ in going])

    def _candidates(self, logits: Tensor) -> list[tuple[float, int, int]]:
        """Return the best continuations of the beams as (sum of log-probabilities, beam, token), the best first."""
        scores = torch.log_softmax(logits, -1)
        if self.decoding.no_repeat_ngram:
            for beam, tokens in enumerate(self._beams):
                scores[beam, torch.from_numpy(self._banned(tokens)).to(scores.device)] = -torch.inf
        scores += torch.tensor(self._scores, dtype=scores.dtype, device=scores.device)[:, None]
        wanted = max(2, 1 + len(self.limits.ends)) * self.decoding.beams
        values, places = scores.view(-1).topk(min(wanted, scores.numel()))
        size = scores.shape[1]
        found = zip(values.tolist(), places.tolist(), strict=True)
        return [(value, place // size, place % size) for value, place in found]

    def _cannot_improve(self, best: float, length: int) -> bool:
        if len(self._finished) < self.decoding.beams:
            return False
        return bool(best / length**self.decoding.length_penalty <= self._finished[-1][0])


def search_for(
    prompt: np.ndarray, decoding: Decoding, limits: Limits, alternatives: int | None = None, guide: Guide | None = None
) -> Search:
    """Return beam search or a `SingleSearch`, as the decoding settings ask for.

    Raises InvalidStudy if beam search is combined with log-probabilities (`alternatives`) or a guide.
    """
    if decoding.beams == 1:
        return SingleSearch(prompt, decoding, limits, alternatives, guide)
    if alternatives is not None or guide is not None:
        raise problems.NOT_WITH_BEAMS(option="beams")
    return BeamSearch(prompt, decoding, limits)


def stops_of(tokenizer: object, strings: Collection[str]) -> Stops | None:
    """Return a function that checks whether an answer contains a stop string; None if there are no stop strings."""
    if not strings:
        return None
    most = max(len(each.encode()) for each in strings) + 4
    decode = tokenizer.decode  # type: ignore[attr-defined]

    def stops(tokens: Sequence[int]) -> bool:
        # Every token is at least a byte, except special tokens, so that the last tokens hold a string that ends now.
        text: str = decode(list(tokens[-most:]), skip_special_tokens=True)
        return any(each in text for each in strings)

    return stops
