"""Counts of each version's requests since the start of the server, for statistics of the Open Inference Protocol."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from afina import meter
from afina.errors import AfinaError
from afina.server.requests import AcceptedRequest

MOST_VERSIONS = 1000
"""The largest number of versions whose requests are counted. A further version replaces the one that was counted first.
"""


@dataclass
class VersionRequests:
    """The requests of one version, with the seconds from the queue to the last answer of each.

    A request fails if one of its texts fails, or if its client leaves. `texts` are those of requests that succeeded.
    `last`: the time of the last success in seconds since 1970; 0: there is none.
    """

    texts: int = 0
    succeeded: int = 0
    succeeded_seconds: float = 0.0
    failed: int = 0
    failed_seconds: float = 0.0
    last: float = 0.0

    def add(self, texts: int, seconds: float, *, success: bool) -> None:
        if success:
            self.texts, self.last = self.texts + texts, meter.posix_time()
            self.succeeded, self.succeeded_seconds = self.succeeded + 1, self.succeeded_seconds + seconds
        else:
            self.failed, self.failed_seconds = self.failed + 1, self.failed_seconds + seconds


class RequestCounts:
    """The counts of all versions. Thread-safe."""

    def __init__(self) -> None:
        self._by_version: dict[str, VersionRequests] = {}
        self._lock = threading.Lock()

    @property
    def by_version(self) -> Mapping[str, VersionRequests]:
        """The counts of the versions that had a request, by `client/task@number`."""
        with self._lock:
            return {version: replace(counts) for version, counts in self._by_version.items()}

    def follow(self, accepted: AcceptedRequest) -> None:
        """Count a request once all of its texts are answered, without waiting."""
        answered = partial(self._answered, accepted, [], meter.now())
        for future in accepted.futures:
            future.add_done_callback(answered)

    def _answered(self, accepted: AcceptedRequest, outcomes: list[bool], began: float, answer: Future[Any]) -> None:
        lost = answer.cancelled() or answer.exception() is not None
        version, seconds = accepted.receipt.version, meter.now() - began
        with self._lock:
            outcomes.append(not lost and not isinstance(answer.result(), AfinaError))
            if len(outcomes) < len(accepted.futures):
                return
            if version not in self._by_version:
                while len(self._by_version) >= MOST_VERSIONS:
                    del self._by_version[next(iter(self._by_version))]
                self._by_version[version] = VersionRequests()
            self._by_version[version].add(len(accepted.texts), seconds, success=all(outcomes))
