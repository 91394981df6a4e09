"""Shadow versions, which compute the same texts as the production version for a comparison, while no client waits."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from afina.engine.engine import Engine
from afina.errors import AfinaError, Busy, CannotWrite, NotFound
from afina.server import problems
from afina.server.answer_formats import compared
from afina.server.line.computing import Batcher
from afina.server.line.work import BACKGROUND, works_of
from afina.server.metrics import Metrics
from afina.server.requests import AcceptedRequest, RequestEncoder, TextRequest
from afina.server.settings import Settings
from afina.server.tenants import OtherBackbone
from afina.server.versions.followed_names import FollowedNames
from afina.server.versions.served_versions import ServedVersions
from afina.server.versions.shadow_counts import ShadowCounts
from afina.store.reader import StoreReader
from afina.store.versions import SHADOW, Name, Reference, Version

WAITING = 1024  # the largest number of answered texts that wait to be tokenized and queued for the shadow version

KEPT = 4
"""The number of production versions for which a shadow version's counts are kept.

The alias `production` may be moved back to an earlier version, whose counts then continue.
"""

UNSEEN, NONE, LOADING, RIDING, FAILED, PROMOTED = "unseen", "none", "loading", "riding", "failed", "promoted"
"""The states of a model's shadow version.

- UNSEEN: the store has not been asked for a shadow version yet.
- NONE: no version has the alias `shadow`.
- LOADING: the shadow version is being loaded.
- RIDING: the shadow version computes texts for the comparison.
- FAILED: the shadow version cannot be served.
- PROMOTED: the shadow version is the production version.
"""

LATE = "the version was not loaded in time, or the store does not respond. The server tries again."
UNSERVABLE = "the version fails its golden test, or cannot run here. `afina store check` says more."
UNFORESEEN = "the version failed with an unexpected {}."
"""The reasons why a shadow version does not run, as the server's clients see them.

The reason for an unexpected error leaves out the error's message, which may contain private data of other clients.
"""


@dataclass(eq=False)
class ShadowStatus:
    """The state of a model's shadow version. Thread-safe.

    Attributes:
        version: None: the model has no shadow version.
        problem: why the shadow version does not run. None: it runs, is being loaded, or does not exist.
        counts_by_version: the counts of differences, by the production version that answered the clients.
        pending: the futures of the shadow version's answers that are not computed yet.
    """

    version: Version | None
    state: str
    problem: str | None = None
    counts_by_version: dict[str, ShadowCounts] = field(default_factory=dict)
    pending: set[Future[Any]] = field(default_factory=set)
    lock: threading.RLock = field(default_factory=threading.RLock)

    @property
    def identity(self) -> tuple[str, str] | None:
        return None if self.version is None else (str(self.version), self.version.digest)

    def become(self, state: str, problem: str | None = None) -> None:
        """Set the state: RIDING only if it was LOADING.

        Any other state cancels the answers that are not computed yet.
        """
        with self.lock:
            if state == RIDING and self.state != LOADING:
                return
            self.state, self.problem = state, problem
            pending = [] if state == RIDING else [*self.pending]
        for future in pending:
            future.cancel()

    def note(self, current: str, change: Callable[[ShadowCounts], ShadowCounts]) -> None:
        """Replace the counts of differences from the production version `current` by `change(counts)`."""
        with self.lock:
            self.counts_by_version[current] = change(self.counts_by_version.pop(current, ShadowCounts()))
            while len(self.counts_by_version) > KEPT:
                del self.counts_by_version[next(iter(self.counts_by_version))]


class Shadows:
    """The shadow versions of all models. Thread-safe; lookups, loading and tokenizing run in threads of their own."""

    def __init__(
        self,
        store: StoreReader,
        engine: Engine,
        served: ServedVersions,
        encoder: RequestEncoder,
        batching: Batcher,
        settings: Settings,
        metrics: Metrics,
    ) -> None:
        self._store, self._engine, self._served, self._metrics = store, engine, served, metrics
        self._encoder, self._batching, self._settings = encoder, batching, settings
        self.names = FollowedNames(store, self._look, ShadowStatus(None, UNSEEN), "afina-shadow")
        self._places = threading.BoundedSemaphore(WAITING)
        self._loading, self._asking = (
            ThreadPoolExecutor(1, thread_name_prefix=f"afina-shadow-{name}") for name in ("load", "ask")
        )

    def count(self, state: str) -> int:
        return sum(status.state == state for status in self.names.known)

    def follow(self, accepted: AcceptedRequest) -> None:
        """Let the shadow version compute each text of a request after it was answered. The method does not wait."""
        if accepted.shadowed is None:
            return
        status = self.names.get(accepted.shadowed)
        if status.state == RIDING and status.version is not None and status.version.digest != accepted.lease.digest:
            for number, future in enumerate(accepted.futures):
                place, current = divmod(number, accepted.answers), accepted.receipt.version
                future.add_done_callback(partial(self._answered, status, current, accepted.request, *place))

    def _answered(
        self, status: ShadowStatus, current: str, request: TextRequest, index: int, choice: int, done: Future[Any]
    ) -> None:
        """Pass an answered text, on the computing thread, to the thread that queues texts for the shadow version."""
        if done.cancelled() or done.exception() is not None or isinstance(outcome := done.result(), AfinaError):
            return  # nothing to compare with; usually because of the text
        if not self._places.acquire(blocking=False):
            self._note(status, current, "left out", ShadowCounts.left)
            return
        options = request.generation
        if options is not None:
            options = replace(options, n=1, logprobs=None, echo=False, heard=None)
        one = replace(request, texts=[request.texts[index]], generation=options, traced=None)
        with suppress(RuntimeError):  # closed
            self._asking.submit(self._ask, status, current, one, choice, outcome)

    def _ask(self, status: ShadowStatus, current: str, request: TextRequest, choice: int, outcome: Any) -> None:
        """Tokenize a text for the shadow version, and queue it to be computed while no client waits."""
        lease = None
        try:
            if status.state != RIDING or status.version is None:
                return
            lease = self._engine.lease(status.version)
            if not lease.ready:  # evicted; the adapter is being loaded again
                self._note(status, current, "left out", ShadowCounts.left)
                return
            accepted = self._encoder.accepted(request, lease, None)
            (work,) = works_of(accepted, self._settings, f"{BACKGROUND}{status.version}", [choice])
            work.future.add_done_callback(partial(self._compare, status, current, accepted, outcome))
            lease = None  # released with the request
            with status.lock:
                status.pending.add(work.future)
            try:
                self._batching.submit([work])
            except Busy:
                work.future.cancel()
                raise
        except Busy:
            self._note(status, current, "left out", ShadowCounts.left)
        except AfinaError:
            self._note(status, current, "fault", ShadowCounts.fault)
        except Exception as error:  # noqa: BLE001 - no error of a shadow may reach a client
            self._broke(status, current, error)
        finally:
            self._places.release()
            if lease is not None:
                lease.release()

    def _compare(
        self, status: ShadowStatus, current: str, accepted: AcceptedRequest, outcome: Any, done: Future[Any]
    ) -> None:
        """Count the difference between the answers of the production version and of the shadow version to a text."""
        accepted.close()
        try:
            if done.cancelled() or status.state != RIDING:
                return
            candidate = done.result()
            if isinstance(candidate, AfinaError):
                raise candidate
            seen = compared(outcome, candidate)
        except TimeoutError:
            self._note(status, current, "left out", ShadowCounts.left)
        except Busy as error:  # a step of generations failed with it
            if error.code != "server.ending":
                self._broke(status, current, error)
        except AfinaError:
            self._note(status, current, "fault", ShadowCounts.fault)
        except Exception as error:  # noqa: BLE001 - no error of a shadow may reach a client
            self._broke(status, current, error)
        else:
            kind = {None: "number", True: "flipped", False: "same"}[seen.flipped]
            if not (seen.by_current and seen.by_shadow):
                kind = "answered by one" if seen.by_current or seen.by_shadow else "unanswered"
            self._note(status, current, kind, lambda counts: counts.seen(seen))
        finally:
            with status.lock:
                status.pending.discard(done)

    def _note(
        self, status: ShadowStatus, current: str, outcome: str, change: Callable[[ShadowCounts], ShadowCounts]
    ) -> None:
        self._metrics.shadowed.labels(outcome).inc()
        status.note(current, change)

    def _broke(self, status: ShadowStatus, current: str, error: BaseException) -> None:
        """End the comparison after an unexpected error. Only its type is kept: its message may contain a text."""
        self._note(status, current, "fault", ShadowCounts.fault)
        status.become(FAILED, UNFORESEEN.format(type(error).__name__))

    def status_json(self, name: Name, current: Version) -> dict[str, Any]:
        """Return the state and the counts of a model's shadow version.

        Raises Busy if they were never read from the store.
        """
        status = self.names.looked_up(name)
        if status.state == UNSEEN:
            raise problems.STORE_SILENT()
        version, state = status.version, status.state
        if version is not None and version.digest == current.digest:
            state = PROMOTED
        with status.lock:
            counts = status.counts_by_version.get(str(current), ShadowCounts())
        head = {"name": str(name), "current": current.number, "shadow": None if version is None else version.number}
        return {**head, "state": state, "problem": status.problem, **counts.as_json()}

    def _look(self, name: Name, before: ShadowStatus) -> ShadowStatus:
        """Return the status of a model's shadow version, read from the store.

        A changed one ends the comparison first.
        """
        try:
            version = self._store.known(Reference(name, alias=SHADOW))
            if version is not None and not self._served.fits(version):
                version = None
        except AfinaError:  # the store does not answer
            self.names.again(name)
            return before
        made = ShadowStatus(version, NONE if version is None else LOADING)
        if made.identity == before.identity and before.state != UNSEEN:
            if before.state != FAILED:
                return before
            made.counts_by_version = before.counts_by_version
        if before.state != UNSEEN:
            before.become(NONE)  # its waiting texts are not computed
        if version is not None:
            with suppress(RuntimeError):  # closed
                self._loading.submit(self._load, name, made, version)
        return made

    def _load(self, name: Name, status: ShadowStatus, version: Version) -> None:
        try:
            self._served.demand(version)
        except OtherBackbone:  # known now, so that the next look finds no shadow for this server
            status.become(FAILED, UNSERVABLE)
            self.names.again(name)
        except (Busy, NotFound, CannotWrite):
            status.become(FAILED, LATE)
            self.names.again(name)
        except AfinaError:
            status.become(FAILED, UNSERVABLE)
        except Exception as error:  # noqa: BLE001 - no error of a shadow may reach a client
            status.become(FAILED, UNFORESEEN.format(type(error).__name__))
        else:
            status.become(RIDING)

    def close(self) -> None:
        self.names.close()
        for pool in (self._loading, self._asking):
            pool.shutdown(cancel_futures=True)
        for status in self.names.known:
            status.become(NONE)
