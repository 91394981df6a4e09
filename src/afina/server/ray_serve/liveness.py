"""Detection of late replicas, which have not answered a health check of the proxy for about two seconds.

A process that hangs keeps its connections open, so only an unanswered health check distinguishes a process that hangs
from a busy process.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping

ROUND = 0.5  # seconds between two rounds of health checks
ROUNDS = 4  # the unanswered rounds after which a replica is late


class Liveness:
    """Sends health checks to replicas, with at most one unanswered check for each replica.

    Rounds of health checks and not seconds are counted, so that a pause of the proxy itself makes no replica late.
    """

    def __init__(self) -> None:
        self._asked: dict[str, asyncio.Future[bool]] = {}
        self._silent: dict[str, int] = {}

    def round(self, questions: Mapping[str, Callable[[], Awaitable[bool]]]) -> frozenset[str]:
        """Send a health check to each replica without an unanswered check, and return the names of late replicas."""
        for name in self._asked.keys() - questions.keys():
            self._asked.pop(name).cancel()
            del self._silent[name]
        for name, question in questions.items():
            check = self._asked.get(name)
            answered = check is None or (check.done() and check.result())
            self._silent[name] = 0 if answered else self._silent[name] + 1
            if check is None or check.done():
                self._asked[name] = asyncio.ensure_future(question())
        return frozenset(name for name, rounds in self._silent.items() if rounds >= ROUNDS)
