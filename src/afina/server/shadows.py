"""Shadow versions: versions that answer the same texts as production, in the same batch, for comparison.

The version with the alias `shadow` runs beside the version with the alias `production`, once it has been loaded and has
passed its golden test. Clients never notice its answers, its errors or its loading time. Knows no
protocol.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from afina.errors import AfinaError, Busy, NotFound
from afina.server.answer_formats import compared
from afina.server.metrics import Metrics
from afina.server.shadow_counts import ShadowCounts
from afina.serving.engine import Request
from afina.serving.mixed_batches import Outcome, Prediction
from afina.serving.residents import Lease
from afina.store.reader import StoreReader
from afina.store.versions import SHADOW, Name, Reference, Version

MOST = 65_536
"""Largest number of remembered names."""

UNSEEN, NONE, LOADING, RIDING, FAILED, PROMOTED = "unseen", "none", "loading", "riding", "failed", "promoted"
"""States of a name's shadow:

not looked up yet; no alias; loading; being compared; cannot be served; is in production.
"""

LATE = "the version was not loaded in time, or the store does not respond. The server tries again."
UNSERVABLE = "the version fails its golden test, or cannot run here. `afina store check` says more."
UNFORESEEN = "the version failed with an unexpected {}."
"""Why a shadow version does not run. The message of the error itself may contain private data of other clients."""

KEPT = 4
"""Number of production versions for which a candidate's counts are kept, since an alias may be moved back."""


@dataclass(eq=False)
class ShadowStatus:
    """State of a name's shadow. `counts_by_version`: counts by the version that answered."""

    version: Version | None
    state: str
    problem: str | None = None
    counts_by_version: dict[str, ShadowCounts] = field(default_factory=dict)

    @property
    def identity(self) -> tuple[str, str] | None:
        """Name and digest of the version."""
        return None if self.version is None else (str(self.version), self.version.digest)


@dataclass(eq=False)
class ShadowLease:
    """A shadow version for the texts of a request. `release` it once."""

    status: ShadowStatus
    lease: Lease
    current: str

    def release(self) -> None:
        """Release the adapter."""
        self.lease.release()


class ShadowedRequest(NamedTuple):
    """A text for the version that answers and for its shadow."""

    request: Request
    shadow: ShadowLease

    @property
    def candidate(self) -> Request:
        """The same text for the shadow version."""
        return self.request._replace(adapter=self.shadow.lease)


class Shadows:
    """The shadows of all names. Thread-safe; reads the store, loads and tests in threads of its own.

    Args:
        store: the store to follow.
        lease: returns a lease of a version.
        demand: loads a version and runs its golden test; raises AfinaError if the version cannot be served.
        metrics: the server's metrics.
    """

    def __init__(
        self, store: StoreReader, lease: Callable[[Version], Lease], demand: Callable[[Version], None], metrics: Metrics
    ) -> None:
        self._store, self._lease, self._demand, self._metrics = store, lease, demand, metrics
        self._statuses: dict[Name, ShadowStatus] = {}
        self._again: set[Name] = set()
        self._last, _ = store.news(0, ())
        self._lock = threading.Lock()
        self._looking = ThreadPoolExecutor(
            1, thread_name_prefix="afina-shadow"
        )  # one thread, so that lookups keep their order
        self._loading = ThreadPoolExecutor(1, thread_name_prefix="afina-shadow-load")

    def count(self, state: str) -> int:
        """Return the number of names whose shadow has this state."""
        with self._lock:
            return sum(status.state == state for status in self._statuses.values())

    def lease_for(self, name: Name, current: Version, texts: int) -> ShadowLease | None:
        """Return a lease of the shadow to compare with `current`; None if there is none. Does not wait."""
        status = self._statuses.get(name)
        if status is None:
            self._begin(name)
            return None
        if status.state != RIDING or status.version is None or status.version.digest == current.digest:
            return None
        try:
            shadow = ShadowLease(status, self._lease(status.version), str(current))
        except AfinaError:  # the engine is closed
            return None
        if not shadow.lease.ready:  # evicted; the adapter is being loaded again
            self.left_out(shadow, texts)
            shadow.release()
            return None
        return shadow

    def left_out(self, shadow: ShadowLease, texts: int) -> None:
        """Count texts that are not given to the shadow."""
        self._metrics.shadowed.labels("left out").inc(texts)
        self._note(shadow.status, shadow.current, lambda counts: counts.left(texts))

    def compute(self, attempt: Callable[[Sequence[Request]], Sequence[Outcome]], works: Sequence[Any]) -> Sequence[Any]:
        """Return the outcomes of the answering versions, and compare those of their shadows with them.

        Args:
            attempt: computes requests.
            works: requests, each a `Request` or `ShadowedRequest`.
        """
        asked = [one.request if isinstance(one, ShadowedRequest) else one for one in works]
        paired = [
            (at, one)
            for at, one in enumerate(works)
            if isinstance(one, ShadowedRequest) and one.shadow.status.state == RIDING
        ]
        try:
            outcomes = attempt([*asked, *(one.candidate for _, one in paired)])
        except Exception:
            if not paired:
                raise
            outcomes = attempt(asked)  # if this succeeds, a candidate caused the failure
            self._alone(attempt, paired, outcomes)
            return outcomes
        for (index, one), candidate in zip(paired, outcomes[len(asked) :], strict=True):
            self._compare(one.shadow, outcomes[index], candidate)
        return outcomes[: len(asked)]

    def _alone(
        self,
        attempt: Callable[[Sequence[Request]], Sequence[Outcome]],
        paired: Sequence[tuple[int, ShadowedRequest]],
        outcomes: Sequence[Outcome],
    ) -> None:
        """Compute the candidates of a failed batch one by one. A candidate that fails is stopped."""
        for status in {id(one.shadow.status): one.shadow.status for _, one in paired}.values():
            mine = [(index, one) for index, one in paired if one.shadow.status is status]
            try:
                found = attempt([one.candidate for _, one in mine])
            except Exception as error:  # noqa: BLE001 - its message may hold a text
                self._fail(status, UNFORESEEN.format(type(error).__name__))
                found = [Busy("failed", code="server.batch-failed")] * len(mine)
            for (index, one), candidate in zip(mine, found, strict=True):
                self._compare(one.shadow, outcomes[index], candidate)

    def _compare(self, shadow: ShadowLease, current: Outcome, candidate: Outcome) -> None:
        if not isinstance(current, Prediction):
            return  # nothing to compare with; usually because of the text
        try:
            if isinstance(candidate, AfinaError):
                raise candidate
            seen = compared(current, candidate)
        except AfinaError:
            self._metrics.shadowed.labels("fault").inc()
            self._note(shadow.status, shadow.current, ShadowCounts.fault)
            return
        outcome = {None: "number", True: "flipped", False: "same"}[seen.flipped]
        self._metrics.shadowed.labels(outcome).inc()
        self._note(shadow.status, shadow.current, lambda counts: counts.seen(seen))

    def _note(self, status: ShadowStatus, current: str, change: Callable[[ShadowCounts], ShadowCounts]) -> None:
        with self._lock:
            status.counts_by_version[current] = change(status.counts_by_version.pop(current, ShadowCounts()))
            while len(status.counts_by_version) > KEPT:
                del status.counts_by_version[next(iter(status.counts_by_version))]

    def _fail(self, status: ShadowStatus, problem: str) -> None:
        with self._lock:
            status.state, status.problem = FAILED, problem

    def status_json(self, name: Name, current: Version) -> dict[str, Any]:
        """Return state and counts of a name's shadow as JSON values.

        Raises:
            Busy: the name was never looked up in the store, and the store does not respond now.
        """
        unseen = ShadowStatus(None, UNSEEN)
        if self._statuses.get(name, unseen).state == UNSEEN:
            self._looking.submit(self._look, name).result()
        status = self._statuses.get(name, unseen)
        if status.state == UNSEEN:
            raise Busy("the store does not respond. Try again later.", code="server.store-silent")
        version, state = status.version, status.state
        if version is not None and version.digest == current.digest:
            state = PROMOTED
        with self._lock:
            counts = status.counts_by_version.get(str(current), ShadowCounts())
        head = {"name": str(name), "current": current.number, "shadow": None if version is None else version.number}
        return {**head, "state": state, "problem": status.problem, **counts.as_json()}

    def refresh(self, news: bool) -> None:
        """Follow the store.

        `news`: whether the store has changed since the last call. Raises the errors of reading the store.
        """
        touched: set[Name] = set()
        if news:
            with self._lock:
                known = [*self._statuses]
            self._last, found = self._store.news(self._last, known)
            touched |= {*found}
        with self._lock:
            again, self._again = self._again, set()
        for name in touched | again:
            self._soon(name)

    def _begin(self, name: Name) -> None:
        with self._lock:
            if name in self._statuses:
                return
            if len(self._statuses) >= MOST:
                self._statuses.clear()
            self._statuses[name] = ShadowStatus(None, UNSEEN)
        self._soon(name)

    def _soon(self, name: Name) -> None:
        with suppress(RuntimeError):  # closed
            self._looking.submit(self._look, name)

    def _look(self, name: Name) -> None:
        """Look up the shadow version in the store.

        Another version that was running stops before the new one is loaded.
        """
        try:
            version = self._store.known(Reference(name, alias=SHADOW))
        except AfinaError:  # the store does not answer
            self._later(name)
            return
        made = ShadowStatus(version, NONE if version is None else LOADING)
        with self._lock:
            before = self._statuses.get(name)
            if before is not None and made.identity == before.identity:
                if before.state not in (FAILED, UNSEEN):
                    return
                made.counts_by_version = before.counts_by_version
            if before is not None:
                before.state = NONE  # its waiting texts are not computed
            self._statuses[name] = made
        if version is not None:
            with suppress(RuntimeError):  # closed
                self._loading.submit(self._board, name, made)

    def _later(self, name: Name) -> None:
        with self._lock:
            self._again.add(name)

    def _board(self, name: Name, status: ShadowStatus) -> None:
        assert status.version is not None
        try:
            self._demand(status.version)
        except (Busy, NotFound):
            self._fail(status, LATE)
            self._later(name)
        except AfinaError:
            self._fail(status, UNSERVABLE)
        except Exception as error:  # noqa: BLE001 - no error of a shadow may reach a client
            self._fail(status, UNFORESEEN.format(type(error).__name__))
        else:
            with self._lock:
                if status.state == LOADING:
                    status.state = RIDING

    def close(self) -> None:
        """Stop following the store."""
        self._looking.shutdown(cancel_futures=True)
        self._loading.shutdown(cancel_futures=True)
