"""Which replicas are late: they have not answered a question of the proxy for some time.

A process that hangs keeps its connections, so nothing else tells it from one that computes for long.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping

ROUND = 0.5
"""Seconds between two rounds of questions."""

ROUNDS = 4
"""Rounds without an answer after which a replica is late."""


class Liveness:
    """Questions to replicas, at most one open question for each replica.

    Rounds are counted, and not seconds: if the proxy itself stands still, no replica gets late by that.
    """

    def __init__(self) -> None:
        self._asked: dict[str, asyncio.Future[bool]] = {}
        self._silent: dict[str, int] = {}

    def round(self, questions: Mapping[str, Callable[[], Awaitable[bool]]]) -> frozenset[str]:
        """Ask each replica that has no open question. Return the names of the late replicas.

        Args:
            questions: a function for each running replica, by its name. Its result says whether the replica answered.
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
