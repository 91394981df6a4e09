"""`ask`: the answers of a model behind an API to the texts of a split; `foresee`: what this would take.

Every answer is kept, so that a repeated or killed run asks only for what is missing. At first, one request at a time is
sent, until the settings that the server takes are known; then up to `at_once` requests.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Coroutine, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from afina import digest
from afina.data.shots import Shots
from afina.data.split import Split
from afina.data.task import Task
from afina.data.template import Template
from afina.endpoints import problems
from afina.endpoints.answers import Asked, EndpointAnswers, EndpointForecast, facts, read_answers
from afina.endpoints.client import NO_CONNECTION, Attempts, Client, Dialect, RequestFailed, RequestRejected
from afina.endpoints.endpoint import Endpoint
from afina.endpoints.kept_answers import Budget, BudgetSpent, KeptAnswers, Reply, Spending
from afina.endpoints.questions import EndpointQuestion
from afina.errors import AfinaError
from afina.events import Listener, Progress, ignore
from afina.models.objective import Objective
from afina.sentence import Sentence

T = TypeVar("T")

CHARACTERS_PER_TOKEN = 4
"""The number of characters of a token in estimates; English text has about four."""

OVERHEAD = 256
"""The tokens that a server may add to a prompt, such as those of a chat template, for the most possible cost."""

IN_A_ROW, FIRST_IN_A_ROW = 10, 3
"""After so many failed texts in a row, the run ends; before the first answer, after FIRST_IN_A_ROW."""


def ask(
    endpoint: Endpoint,
    question: EndpointQuestion,
    split: Split,
    objective: Objective,
    kept: Path,
    *,
    templates: Sequence[Template] | None = None,
    listen: Listener = ignore,
) -> EndpointAnswers:
    """Ask a model behind an API for the texts of a split that have no kept answer yet.

    A text without an answer (a refusal, an answer that is no label, a request that failed after all repetitions) has a
    missing answer, which is wrong.

    Args:
        objective: The kind of task, fitted to the training targets.
        kept: The file of kept answers. The file counts requests and costs for the budget.
        templates: The template of each text, with training examples. None: the question's template.

    Raises NotFound without a key or the package openai; Refused if the budget is spent, or the server refuses key,
    model or address; Busy if the server does not answer; CannotWrite if answers cannot be kept.
    """
    prompts = prompts_of(question, split, templates)
    with KeptAnswers(kept) as file:
        asking = _Asking(endpoint, question, file, prompts, listen)
        if asking.open:
            _in_own_loop(asking.run)
        asked = asking.asked()
    answers, missing = read_answers(question, asked)
    made = objective.of_answers(answers, split.labels)
    if not question.one_line:
        made = replace(made, extras={**made.extras, "ended": asked.ended})
    return EndpointAnswers(made, facts(endpoint, question, asked, missing))


def foresee(
    endpoint: Endpoint,
    question: EndpointQuestion,
    split: Split,
    kept: Path | None = None,
    *,
    templates: Sequence[Template] | None = None,
) -> EndpointForecast:
    """Return what `ask` would take with the same arguments, without sending anything; no key is needed."""
    by_question = {question_of(endpoint, question, each): each for each in prompts_of(question, split, templates)}
    if kept is not None and kept.exists():
        with KeptAnswers(kept) as file:
            by_question = {name: prompt for name, prompt in by_question.items() if file.reply(name) is None}
    prompts = by_question.values()
    tokens_in = sum(math.ceil(len(prompt) / CHARACTERS_PER_TOKEN) for prompt in prompts)
    tokens_out = len(prompts) * min(endpoint.max_tokens, question.usual_tokens(split.labels))
    most_in, most_out = sum(map(most_tokens, prompts)), len(prompts) * endpoint.max_tokens
    costs = endpoint.cost(tokens_in, tokens_out), endpoint.cost(most_in, most_out)
    return EndpointForecast(endpoint.host, len(split), len(prompts), tokens_in, tokens_out, most_out, *costs)


def passed_limit(endpoint: Endpoint, forecast: EndpointForecast, kept: Path) -> str | None:
    """Return the limit that asking as in `forecast` would probably pass, `max_requests` or `max_cost`; None: neither.

    Earlier requests in the file of kept answers count too.
    """
    spent = Spending(0, 0.0)
    if kept.exists():
        with KeptAnswers(kept) as file:
            spent = file.spent(_server(endpoint))
    whole = Spending(spent.requests + forecast.requests, spent.cost + (forecast.cost or 0.0))
    return Budget(endpoint.max_requests, endpoint.max_cost).passed(whole)


def _server(endpoint: Endpoint) -> str:
    """Return the name of a model in a file of kept answers."""
    return f"{endpoint.url} {endpoint.model}"


def templates_of(
    endpoint: Endpoint, question: EndpointQuestion, task: Task, split: Split, seed: int
) -> list[Template] | None:
    """Return the template of each text of a split, with the examples that the endpoint asks for; None: no examples.

    Raises InvalidStudy if too few training texts can be examples.
    """
    if not endpoint.shots:
        return None
    examples = Shots(endpoint.shots, endpoint.draw, seed).of(task, question.template, question.words or None)
    return examples.templates(split.texts, split.pairs)


def prompts_of(question: EndpointQuestion, split: Split, templates: Sequence[Template] | None = None) -> list[str]:
    pairs: Sequence[str | None] = split.pairs or [None] * len(split)
    shown = templates or [question.template] * len(split)
    return [question.prompt(*each) for each in zip(split.texts, pairs, shown, strict=True)]


def question_of(endpoint: Endpoint, question: EndpointQuestion, prompt: str) -> str:
    """Return the digest of a prompt and of all settings that could change the answer."""
    form, line = question.response_format, question.one_line
    return digest.of_json([endpoint.url, endpoint.protocol, endpoint.model, prompt, endpoint.max_tokens, form, line])


def most_tokens(prompt: str) -> int:
    """Return the most tokens that a server may count for a prompt: one for each byte, and OVERHEAD."""
    return len(prompt.encode("utf-8", "surrogatepass")) + OVERHEAD


class _Asking:
    """The questions of a run: those that have a reply, and those that are still `open`, each with its prompt.

    `_known`: whether the settings that the server takes are known. `_sent`: the questions whose request is on its way.
    `_waiting`: those who wait for the end of such a request.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        question: EndpointQuestion,
        file: KeptAnswers,
        prompts: Sequence[str],
        listen: Listener,
    ) -> None:
        self._endpoint, self._question, self._file, self._listen = endpoint, question, file, listen
        self._rows = [question_of(endpoint, question, prompt) for prompt in prompts]
        by_question = dict(zip(self._rows, prompts, strict=True))
        self._replies = file.replies([*by_question])
        self._kept = frozenset(self._replies)
        self.open = [(name, prompt) for name, prompt in by_question.items() if name not in self._replies]
        self._failures: dict[str, str] = {}
        self._server = _server(endpoint)
        self._budget = Budget(endpoint.max_requests, endpoint.max_cost)
        self._requests, self._retries, self._in_a_row, self._told = 0, 0, 0, ""
        self._disk = ThreadPoolExecutor(1)
        self._dialect, self._known = self._first_dialect(), bool(self._replies)
        self._sent: set[str] = set()
        self._waiting: list[asyncio.Future[None]] = []
        self._wrong: AfinaError | BudgetSpent | None = None

    def _first_dialect(self) -> Dialect:
        """Return the settings that the server took when it gave the kept answers, or else all settings."""
        for reply in self._replies.values():
            return Dialect(reply.temperature, reply.structured, reply.limit)
        return Dialect()

    async def run(self) -> None:
        """Ask all open questions. Raises an error that says what is answered and what is missing."""
        secret = self._endpoint.secret()
        with self._disk:
            await self._ask_all(secret)
        if isinstance(self._wrong, BudgetSpent):
            raise self._budget_spent(self._wrong)
        if self._wrong is not None:
            raise self._wrong

    async def _ask_all(self, secret: str | None) -> None:
        async with Client(self._endpoint, secret) as client:
            waiting = iter(self.open)
            while not self._known and self._wrong is None and (each := next(waiting, None)) is not None:
                await self._settle(client, *each)
            if not self._known and self._wrong is None:
                self._wrong = problems.ENDPOINT_FAILS(reason=self._told, **self._done())
            async with asyncio.TaskGroup() as group:
                for _ in range(self._endpoint.at_once):
                    group.create_task(self._work(client, waiting))

    async def _work(self, client: Client, waiting: Iterator[tuple[str, str]]) -> None:
        while self._wrong is None and (each := next(waiting, None)) is not None:
            await self._settle(client, *each)

    async def _settle(self, client: Client, name: str, prompt: str) -> None:
        """Ask a question, and write its reply or failure."""
        before = self._dialect
        while self._wrong is None:
            try:
                reply = await self._reply(client, name, prompt, used := self._dialect)
            except (AfinaError, BudgetSpent) as error:
                self._wrong = self._wrong or error
            except RequestRejected as error:
                other = used.without(error, guess=not self._known)
                if other is not None:
                    self._dialect = self._dialect if self._dialect != used else other
                    continue
                self._dialect = self._dialect if self._known else before
                self._fail(name, error)
            except RequestFailed as error:
                self._fail(name, error)
            else:
                self._replies[name], self._known, self._in_a_row = reply, True, 0
                done = len(self._replies) + len(self._failures)
                self._listen(Progress("evaluate", done, len(self._kept) + len(self.open)))
            return

    async def _reply(self, client: Client, name: str, prompt: str, dialect: Dialect) -> Reply:
        most = self._endpoint.cost(most_tokens(prompt), self._endpoint.max_tokens)

        async def sending() -> int:
            if again := attempts.current != -1:
                self._listen(Progress("wait", note=f"{self._endpoint.host}, which gave no answer"))
            self._end(name)  # an earlier attempt
            number = await self._reserve(name, most or 0.0)
            self._sent.add(name)
            self._requests += 1
            self._retries += again
            return number

        async def refused(number: int) -> None:
            await self._on_disk(self._file.settle, number, 0.0)
            self._end(name)

        attempts = Attempts(sending, refused)
        try:
            reply = await client.reply(self._question, prompt, dialect, attempts)
            await self._keep(attempts.current, reply)
        finally:
            self._end(name)
        return reply

    def _end(self, name: str) -> None:
        """Write that a question's request is no longer on its way."""
        self._sent.discard(name)
        waiting, self._waiting = self._waiting, []
        for one in waiting:
            if not one.done():
                one.set_result(None)

    async def _reserve(self, name: str, most: float) -> int:
        """Reserve a request, and return its number.

        While other requests are on their way, their most possible cost counts. If the budget lacks only this, the
        request waits for them.
        """
        while True:
            ended = asyncio.get_running_loop().create_future()
            self._waiting.append(ended)
            try:
                return await self._on_disk(self._file.reserve, self._server, name, most, self._budget)
            except BudgetSpent:
                if not self._sent or self._wrong is not None:
                    raise
            await ended

    async def _keep(self, request: int, reply: Reply) -> None:
        counted = reply.tokens_in is not None and reply.tokens_out is not None
        cost = self._endpoint.cost(reply.tokens_in or 0, reply.tokens_out or 0) if counted else None
        await self._on_disk(self._file.settle, request, cost, reply)

    async def _on_disk(self, work: Callable[..., T], *given: Any) -> T:
        """Change the file in a thread, so that measured seconds of other answers do not include the disk's."""
        return await asyncio.get_running_loop().run_in_executor(self._disk, work, *given)

    def _fail(self, name: str, error: RequestFailed) -> None:
        """Write a failure; end the run if it lasts, or if the server refuses key, model or address."""
        self._failures[name] = error.reason
        self._in_a_row += 1
        self._told = _told(error)
        if error.status == 401 or (not self._known and error.status in _REFUSALS):
            self._wrong = self._wrong or problems.ENDPOINT_REFUSES(
                status=error.status, reason=error.said, _advice=_advice(error.status, self._endpoint), **self._done()
            )
        elif self._in_a_row >= (IN_A_ROW if self._known else FIRST_IN_A_ROW):
            self._wrong = self._wrong or problems.ENDPOINT_FAILS(reason=self._told, **self._done())

    def _done(self) -> dict[str, Any]:
        """Return the fields of an error that say what is answered and what is missing."""
        texts = [one in self._replies for one in self._rows]
        about = {"host": self._endpoint.host, "path": str(self._file.path)}
        return {**about, "texts": len(texts), "answered": sum(texts), "missing": len(texts) - sum(texts)}

    def _budget_spent(self, error: BudgetSpent) -> AfinaError:
        spent, option = self._file.spent(self._server), error.option
        cost = f", at most {spent.cost:,.2g}" if self._endpoint.priced else ""
        limit = getattr(self._endpoint, option)
        return problems.BUDGET_SPENT(option=option, limit=limit, requests=spent.requests, _cost=cost, **self._done())

    def asked(self) -> Asked:
        return Asked(
            questions=self._rows,
            kept=self._kept,
            replies=self._replies,
            failures=self._failures,
            requests=self._requests,
            retries=self._retries,
        )


_REFUSALS = (*range(300, 400), 401, 403, 404)
"""HTTP statuses before the first answer that mean that the server would answer no text."""


def _told(error: RequestFailed) -> str:
    """Return why a request failed, without a full stop at the end."""
    if error.reason == NO_CONNECTION:
        said = f" ({error.said.rstrip('.')})" if error.said else ""
        return Sentence([error.reason, said, Sentence.of(". Check `url`, and that the server is running")])
    return f"{error.reason}: {error.said}" if error.said else error.reason


def _advice(status: int | None, endpoint: Endpoint) -> str:
    """Return what to do if a server refuses with an HTTP status."""
    if status in (401, 403) and endpoint.secret() is None:
        return Sentence.of("No key was sent. Give `key`, the name of the environment variable that has the key.")
    if status in (401, 403):
        return f"Check the key, and whether the key has access to model {endpoint.model}."
    if status == 404:
        return Sentence.of("Check `url`, `model` and `protocol`.")
    return "Redirects are not followed, so that texts and the key go to the named host only. Give the other address."


def _in_own_loop(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a coroutine in a thread of its own, as an event loop may run in this thread, such as a notebook's.

    If this thread is interrupted, the coroutine is cancelled before the interruption goes on.
    """
    begun: Future[tuple[asyncio.AbstractEventLoop, asyncio.Task[None]]] = Future()

    async def all_work() -> None:
        task = asyncio.ensure_future(work())
        begun.set_result((asyncio.get_running_loop(), task))
        await task

    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(asyncio.run, all_work())
        try:
            done.result()
        except (KeyboardInterrupt, SystemExit):
            loop, task = begun.result()
            if not loop.is_closed():
                loop.call_soon_threadsafe(task.cancel)
            raise
