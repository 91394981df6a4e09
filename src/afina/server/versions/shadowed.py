"""A shadow version beside the texts of a request: its state, its lease, and how its answers are compared.

Knows answers. Does not know the store or the queue.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from afina.engine.residents import Lease
from afina.errors import AfinaError
from afina.server.answer_formats import compared
from afina.server.metrics import Metrics
from afina.server.versions.shadow_counts import ShadowCounts
from afina.store.versions import Version

UNSEEN, NONE, LOADING, RIDING, FAILED, PROMOTED = "unseen", "none", "loading", "riding", "failed", "promoted"
"""States of a name's shadow:

not looked up yet; no alias; loading; being compared; cannot be served; is in production.
"""

UNFORESEEN = "the version failed with an unexpected {}."
"""Why a shadow version does not run. The message of the error itself may contain private data of other clients."""

KEPT = 4
"""Number of production versions for which a candidate's counts are kept, since an alias may be moved back."""


@dataclass(eq=False)
class ShadowStatus:
    """State of a name's shadow. Thread-safe. `counts_by_version`: counts by the version that answered."""

    version: Version | None
    state: str
    problem: str | None = None
    counts_by_version: dict[str, ShadowCounts] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def identity(self) -> tuple[str, str] | None:
        """Name and digest of the version."""
        return None if self.version is None else (str(self.version), self.version.digest)

    def fail(self, problem: str) -> None:
        """Stop the comparison."""
        with self.lock:
            self.state, self.problem = FAILED, problem

    def board(self) -> None:
        """Begin the comparison, unless the shadow was replaced while it was loading."""
        with self.lock:
            if self.state == LOADING:
                self.state = RIDING

    def stop(self) -> None:
        """End the comparison, because the alias was moved or removed."""
        with self.lock:
            self.state = NONE

    def counts(self, current: Version) -> ShadowCounts:
        """Return the counts beside the version that answers."""
        with self.lock:
            return self.counts_by_version.get(str(current), ShadowCounts())

    def note(self, current: str, change: Callable[[ShadowCounts], ShadowCounts]) -> None:
        """Change the counts beside a version that answers."""
        with self.lock:
            self.counts_by_version[current] = change(self.counts_by_version.pop(current, ShadowCounts()))
            while len(self.counts_by_version) > KEPT:
                del self.counts_by_version[next(iter(self.counts_by_version))]


@dataclass(eq=False)
class ShadowLease:
    """A shadow version for the texts of a request. Every holder calls `release` once; the first is who made it.

    Attributes:
        status: state of the shadow.
        lease: lease of the shadow version.
        current: the version that answers, such as `client/task@3`.
        metrics: the server's metrics.
    """

    status: ShadowStatus
    lease: Lease
    current: str
    metrics: Metrics
    _holders: int = 1
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def hold(self) -> None:
        """Add a holder."""
        with self._lock:
            self._holders += 1

    def release(self) -> None:
        """Remove a holder. The last one releases the adapter."""
        with self._lock:
            self._holders -= 1
            last = not self._holders
        if last:
            self.lease.release()

    @property
    def rides(self) -> bool:
        """Whether the shadow version is still compared."""
        return self.status.state == RIDING

    def left_out(self, texts: int) -> None:
        """Count texts that are not given to the shadow version."""
        self.metrics.shadowed.labels("left out").inc(texts)
        self.status.note(self.current, lambda counts: counts.left(texts))

    def broke(self, error: BaseException) -> None:
        """Stop the comparison after an unexpected error of the shadow version. The error's message may hold a text."""
        self.status.fail(UNFORESEEN.format(type(error).__name__))

    def compare(self, current: Any, candidate: Any) -> None:
        """Count the difference of two outcomes of a text: of the version that answers, and of the shadow version."""
        if isinstance(current, BaseException):
            return  # nothing to compare with; usually because of the text
        try:
            if isinstance(candidate, BaseException):
                raise candidate
            seen = compared(current, candidate)
        except AfinaError:
            self.metrics.shadowed.labels("fault").inc()
            self.status.note(self.current, ShadowCounts.fault)
            return
        except Exception as error:  # noqa: BLE001 - no error of a shadow may reach a client
            self.broke(error)
            return
        outcome = {None: "number", True: "flipped", False: "same"}[seen.flipped]
        self.metrics.shadowed.labels(outcome).inc()
        self.status.note(self.current, lambda counts: counts.seen(seen))


class PendingComparison:
    """The outcomes of one text by two works that end at different times: compared when both have ended.

    Holds the shadow until then. Thread-safe.

    Args:
        shadow: the shadow, whose holder this becomes.
    """

    def __init__(self, shadow: ShadowLease) -> None:
        shadow.hold()
        self.shadow = shadow
        self._outcomes: dict[bool, Any] = {}
        self._lock = threading.Lock()

    @property
    def wants_candidate(self) -> bool:
        """Whether there is, or may come, an answer to compare that of the shadow version with."""
        return self.shadow.rides and self._outcomes.get(False, "") is not None

    def ended(self, outcome: Any, *, candidate: bool) -> None:
        """Take the outcome of one of both works, None for none. Later outcomes of the same work are ignored."""
        with self._lock:
            if candidate in self._outcomes:
                return
            self._outcomes[candidate] = outcome
            if len(self._outcomes) < 2:
                return
        current, shadows = self._outcomes[False], self._outcomes[True]
        if self.shadow.rides and current is not None and shadows is not None:
            self.shadow.compare(current, shadows)
        self.shadow.release()
