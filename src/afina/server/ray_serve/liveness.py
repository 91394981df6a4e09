"""Find late replicas, which have not answered a health question of the proxy for some time.

A process that hangs keeps its connections, so only an unanswered question distinguishes it from a busy process.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping

ROUND = 0.5
"""Seconds between two rounds of questions."""

ROUNDS = 4
"""Rounds without an answer after which a replica is late."""


class Liveness:
    """Sends health questions to replicas, at most one open question for each replica.

    Lateness is counted in rounds and not in seconds, so that a pause of the proxy itself makes no replica late.
    """

    def __init__(self) -> None:
        self._asked: dict[str, asyncio.Future[bool]] = {}
        self._silent: dict[str, int] = {}

    def round(self, questions: Mapping[str, Callable[[], Awaitable[bool]]]) -> frozenset[str]:
        """Ask each replica without an open question. Return the names of the late replicas.

        Args:
            questions: by replica name, a function that asks the replica and returns whether it answered.
        """
        for name in self._asked.keys() - questions.keys():
            self._asked.pop(name).cancel()
            del self._silent[name]
        for name, question in questions.items():
            asked = self._asked.get(name)
            answered = asked is None or (asked.done() and asked.result())
            self._silent[name] = 0 if answered else self._silent[name] + 1
            if asked is None or asked.done():
                self._asked[name] = asyncio.ensure_future(question())
        return frozenset(name for name, rounds in self._silent.items() if rounds >= ROUNDS)
