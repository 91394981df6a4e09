"""`EndpointAnswers`: the predictions of a model behind an API, and facts about them; `EndpointForecast`: the costs."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from afina.endpoints.endpoint import Endpoint
from afina.endpoints.kept_answers import Reply
from afina.endpoints.questions import EndpointQuestion
from afina.models.predictions import Predictions

REFUSAL, FILTERED, CUT, NO_LABEL, EMPTY = "refusal", "content filter", "cut at max_tokens", "no label", "empty"
"""Reasons why an answer is missing. RequestFailed requests have others, such as "HTTP 500"."""

UNREAD, UNREAD_LENGTH = 3, 60
"""The facts about answers show this number of different answers that are no label, with this number of characters."""

REPLIED = frozenset((REFUSAL, FILTERED, CUT, NO_LABEL, EMPTY))
"""The reasons of missing answers where the server replied, so that the text has tokens and a cost."""

Structure = Literal["used", "refused", "none"]
"""Whether answers follow a JSON schema: "used", "refused" by the server, or "none" because plain text is asked for."""


def decoded(question: EndpointQuestion, reply: Reply) -> tuple[Any | None, str]:
    """Return the answer in a reply, and "" or the reason why it is missing."""
    if reply.refused:
        return None, REFUSAL
    if reply.finish == "content_filter":
        return None, FILTERED
    if reply.finish == "length" and question.one_line:  # half a word could be another label, half a number too
        return None, CUT
    written = reply.text or ""
    if not written.strip():
        return None, CUT if reply.finish == "length" else EMPTY
    found = question.read(written)
    return found, "" if found is not None else NO_LABEL


@dataclass(frozen=True)
class EndpointFacts:
    """Facts about the answers of a model behind an API to N texts.

    Attributes:
        model: The model's name as asked for.
        models: The model's names in the answers, such as a dated version.
        kept: The number of texts whose answer was kept from an earlier run, or from an equal prompt.
        requests: The number of requests in this run, with `retries`.
        missing: The rows of texts without an answer, by reason; the first row is 0.
        seconds_p50, seconds_p95: Percentiles of the seconds of an answer, with up to `at_once` requests at a time.
            None: there is no answer.
        tokens_in, tokens_out: By the server's count. None: the server gave none for some answer.
        cost: The cost of these tokens. None: prices or tokens are unknown.
        cost_per_1000: The cost of 1,000 texts, from the texts with an answer. None: as for `cost`.
        temperature: Whether all answers are of temperature 0. False: the server refused the setting.
        unread: The most frequent answers that are no label or number, shortened, at most UNREAD.
        first_answer, last_answer: The moments of the earliest and the latest answer, in ISO 8601 and UTC, also of kept
            answers. None: there is no answer, or an answer was kept without its moment.
    """

    host: str
    model: str
    models: tuple[str, ...]
    examples: int
    kept: int
    requests: int
    missing: Mapping[str, tuple[int, ...]]
    seconds_p50: float | None
    seconds_p95: float | None
    tokens_in: int | None
    tokens_out: int | None
    cost: float | None
    cost_per_1000: float | None
    temperature: bool
    structure: Structure
    unread: tuple[str, ...] = ()
    retries: int = 0
    first_answer: str | None = None
    last_answer: str | None = None

    @property
    def missing_texts(self) -> int:
        return sum(map(len, self.missing.values()))


@dataclass(frozen=True, eq=False)
class EndpointAnswers:
    """The predictions of a model behind an API, and facts about its answers."""

    predictions: Predictions
    facts: EndpointFacts


@dataclass(frozen=True)
class EndpointForecast:
    """The requests of asking, and estimates of tokens and costs, before anything is sent.

    Attributes:
        host: The server that would get the texts.
        requests: Without repetitions: one for each prompt that has no kept answer.
        most_tokens_out: The most tokens of the answers, by `max_tokens`.
        most_cost: The most possible cost, without repetitions. None, as `cost`: prices are unknown.
    """

    host: str
    texts: int
    requests: int
    tokens_in: int
    tokens_out: int
    most_tokens_out: int
    cost: float | None
    most_cost: float | None


@dataclass(frozen=True)
class Asked:
    """Replies and failures (reasons of failed requests) by question, the digest of prompt and settings.

    Attributes:
        questions: The question of each text.
        kept: The questions that had a kept answer.
        retries: The number of `requests` that repeated a failed request.
    """

    questions: Sequence[str]
    kept: frozenset[str]
    replies: Mapping[str, Reply]
    failures: Mapping[str, str]
    requests: int
    retries: int = 0

    @property
    def ended(self) -> np.ndarray:
        """Whether each text has an answer that was not cut at `max_tokens`, bool [N]."""
        replies = (self.replies.get(one) for one in self.questions)
        return np.array([reply is not None and reply.finish != "length" for reply in replies], dtype=bool)


def read_answers(question: EndpointQuestion, asked: Asked) -> tuple[list[Any | None], dict[str, tuple[int, ...]]]:
    """Return the answer to each text (None: missing), and the rows of missing answers by reason."""
    answers: list[Any | None] = []
    missing: dict[str, list[int]] = defaultdict(list)
    for row, one in enumerate(asked.questions):
        reply = asked.replies.get(one)
        found, reason = (None, asked.failures[one]) if reply is None else decoded(question, reply)
        answers.append(found)
        if reason:
            missing[reason].append(row)
    return answers, {reason: tuple(rows) for reason, rows in sorted(missing.items())}


def facts(
    endpoint: Endpoint, question: EndpointQuestion, asked: Asked, missing: Mapping[str, tuple[int, ...]]
) -> EndpointFacts:
    replies = [asked.replies[one] for one in asked.questions if one in asked.replies]
    seconds = [reply.seconds for reply in replies]
    tokens_in, tokens_out = _total([each.tokens_in for each in replies]), _total([each.tokens_out for each in replies])
    cost, cost_per_1000 = costs(endpoint, tokens_in, tokens_out, len(replies))
    moments = sorted(reply.at for reply in replies if reply.at is not None)
    dated = bool(replies) and len(moments) == len(replies)
    structure: Structure = "none"
    if question.response_format is not None and endpoint.protocol == "chat":
        structure = "used" if all(reply.structured for reply in replies) else "refused"
    firsts = len(set(asked.questions))
    return EndpointFacts(
        host=endpoint.host,
        model=endpoint.model,
        models=tuple(sorted({reply.model for reply in replies if reply.model is not None})),
        examples=len(asked.questions),
        kept=len(asked.questions) - firsts + len(asked.kept),
        requests=asked.requests,
        missing=missing,
        seconds_p50=float(np.percentile(seconds, 50)) if seconds else None,
        seconds_p95=float(np.percentile(seconds, 95)) if seconds else None,
        tokens_in=tokens_in,
        tokens_out=tokens_out,
        cost=cost,
        cost_per_1000=cost_per_1000,
        temperature=all(reply.temperature for reply in replies),
        structure=structure,
        unread=_unread(question, asked),
        retries=asked.retries,
        first_answer=moments[0] if dated else None,
        last_answer=moments[-1] if dated else None,
    )


def costs(
    endpoint: Endpoint, tokens_in: int | None, tokens_out: int | None, replied: int
) -> tuple[float | None, float | None]:
    """Return the cost of tokens at the prices of an endpoint, and the mean cost of a reply times 1,000.

    Both are None if prices or tokens are unknown. `replied` is the number of replies, which have these tokens.
    """
    cost = None if tokens_in is None or tokens_out is None else endpoint.cost(tokens_in, tokens_out)
    return cost, None if cost is None or not replied else 1000 * cost / replied


def _unread(question: EndpointQuestion, asked: Asked) -> tuple[str, ...]:
    """Return the most frequent answers that are no label or number, each on one line and shortened."""
    replies = [asked.replies[one] for one in asked.questions if one in asked.replies]
    found = Counter(_brief(each.text or "") for each in replies if decoded(question, each)[1] == NO_LABEL)
    return tuple(text for text, _ in found.most_common(UNREAD))


def _brief(text: str) -> str:
    line = "".join(letter for letter in " ".join(text.split()) if letter.isprintable())
    return line if len(line) <= UNREAD_LENGTH else line[: UNREAD_LENGTH - 1].rstrip() + "…"


def _total(counts: Sequence[int | None]) -> int | None:
    """Return the sum of counts; None if a count is unknown, or without counts."""
    known = [count for count in counts if count is not None]
    return sum(known) if known and len(known) == len(counts) else None
