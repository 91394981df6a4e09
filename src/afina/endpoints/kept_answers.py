"""`KeptAnswers`: a file of a server's answers and of what was spent, which survives a kill at any moment.

A request is written before it is sent, with the most that it may cost, and its answer afterwards. So a budget counts
requests whose process was killed, and two processes that share a file share the budget. The file is an SQLite database
with a write-ahead log. It has digests of prompts, but neither prompts nor keys.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, Self

from afina.endpoints import problems
from afina.errors import CannotWrite

FORMAT = 1
"""The number of the file's format, in SQLite's `user_version`."""

_PATIENCE = 60.0
"""Seconds in which another process must finish its transaction."""

_TABLE = """
create table if not exists requests (
    id integer primary key,
    server text not null,
    question text not null,
    most real not null,
    cost real,
    answer text
)
"""
"""`server`: the address and the model. `question`: the digest of prompt and settings. `most`: the most that the request
may cost, which counts until `cost` is known. `answer`: a `Reply` as JSON; null for no answer."""

_INDEX = "create index if not exists questions on requests (question) where answer is not null"

_CANNOT_WRITE = {sqlite3.SQLITE_FULL, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_IOERR}


Limit = Literal["max_tokens", "max_completion_tokens"]
"""The name of the setting that limits the tokens of an answer; newer models of OpenAI take only the second."""


@dataclass(frozen=True)
class Reply:
    """A server's answer to a prompt.

    Attributes:
        text: None: the model wrote nothing.
        finish: Why the answer ended, in the words of the protocol, such as "stop" or "length".
        refused: Whether the model refused to answer.
        seconds: From the request to the end of the answer, without earlier attempts.
        tokens_in, tokens_out: By the server's count. None: the server gave none.
        model: The model's name in the answer.
        temperature, structured, limit: The settings of the request, as in `Dialect`.
        at: The moment at which the answer was complete, in ISO 8601 and UTC. None: an earlier version kept the answer.
    """

    text: str | None
    finish: str | None
    refused: bool
    seconds: float
    tokens_in: int | None
    tokens_out: int | None
    model: str | None
    temperature: bool
    structured: bool
    limit: Limit
    at: str | None = None


@dataclass(frozen=True)
class Spending:
    """The number of requests to a model so far, and their cost; the most possible cost where the cost is unknown."""

    requests: int
    cost: float


@dataclass(frozen=True)
class Budget:
    """Limits of a spending; None: no limit."""

    requests: int | None = None
    cost: float | None = None

    def passed(self, spent: Spending) -> str | None:
        """Return the option whose limit the spending passes, `max_requests` or `max_cost`; None: neither."""
        if self.requests is not None and spent.requests > self.requests:
            return "max_requests"
        return "max_cost" if self.cost is not None and spent.cost > self.cost else None


class BudgetSpent(Exception):
    """Raised by `KeptAnswers.reserve`: the request could pass the limit `option`."""

    def __init__(self, option: str) -> None:
        super().__init__(option)
        self.option = option


class KeptAnswers:
    """The answers of servers in a file, by the digest of prompt and settings, and the spending."""

    def __init__(self, path: Path) -> None:
        """Raises CannotWrite, or InvalidData if the file is damaged or of an unknown format."""
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CannotWrite(path, str(error.strerror)) from None
        with self._told():
            self._file = sqlite3.connect(path, timeout=_PATIENCE, isolation_level=None, check_same_thread=False)
        try:
            self._begin()
        except BaseException:
            self._file.close()
            raise

    def _begin(self) -> None:
        with self._told(), suppress(sqlite3.OperationalError):  # another process may be making the same change
            self._file.execute("pragma journal_mode = wal")
        with self._changing():
            found = self._file.execute("pragma user_version").fetchone()[0]
            if found not in (0, FORMAT):
                raise problems.KEPT_FORMAT_UNKNOWN(path=self.path, found=found, expected=FORMAT)
            if found == 0:
                self._file.execute(_TABLE)
                self._file.execute(_INDEX)
                self._file.execute(f"pragma user_version = {FORMAT}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def reply(self, question: str) -> Reply | None:
        with self._told():
            row = self._file.execute(
                "select answer from requests where question = ? and answer is not null order by id desc limit 1",
                (question,),
            ).fetchone()
        try:
            return None if row is None else Reply(**json.loads(row[0]))
        except (ValueError, TypeError) as error:
            raise problems.KEPT_DAMAGED(path=self.path, reason=error) from None

    def reserve(self, server: str, question: str, most: float, budget: Budget) -> int:
        """Write a request before it is sent; return its number. Raises BudgetSpent if it could pass the budget."""
        with self._changing():
            spent = self.spent(server) if budget != Budget() else Spending(0, 0.0)
            if option := budget.passed(Spending(spent.requests + 1, spent.cost + most)):
                raise BudgetSpent(option)
            done = self._file.execute(
                "insert into requests (server, question, most) values (?, ?, ?)", (server, question, most)
            )
            return int(done.lastrowid or 0)

    def spent(self, server: str) -> Spending:
        """Return what was spent for a model, by all processes with this file."""
        with self._told():
            row = self._file.execute(
                "select count(*), coalesce(sum(coalesce(cost, most)), 0.0) from requests where server = ?", (server,)
            ).fetchone()
        return Spending(int(row[0]), float(row[1]))

    def settle(self, request: int, cost: float | None, reply: Reply | None = None) -> None:
        """Write the answer to a request, if it has one, and its cost; None: the most that it may cost counts."""
        answer = None if reply is None else json.dumps(asdict(reply))
        with self._changing():
            self._file.execute("update requests set cost = ?, answer = ? where id = ?", (cost, answer, request))

    def replies(self, questions: Sequence[str]) -> dict[str, Reply]:
        """Return the kept answers."""
        found = ((question, self.reply(question)) for question in questions)
        return {question: reply for question, reply in found if reply is not None}

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """Return a context manager for a transaction that other processes wait for."""
        with self._told():
            self._file.execute("begin immediate")
            try:
                yield
            except BaseException:
                if self._file.in_transaction:  # SQLite itself rolls back if the disk is full
                    self._file.execute("rollback")
                raise
            self._file.execute("commit")

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            code = getattr(error, "sqlite_errorcode", 0) & 0xFF
            if code in _CANNOT_WRITE:
                full = code == sqlite3.SQLITE_FULL
                raise CannotWrite(self.path, "the disk is full" if full else str(error), full=full) from None
            if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                raise problems.KEPT_BUSY(path=self.path, seconds=_PATIENCE) from None
            raise problems.KEPT_DAMAGED(path=self.path, reason=error) from None
