"""Shadows: versions that ride along with those that answer, in the same batch, to be compared. Knows no protocol.

What the alias `shadow` of a name points to rides with what `production` points to, once it is loaded and has computed
its golden probe. Nothing of it reaches who asked: not its answers, not its faults, not the time that it takes to load.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from afina.errors import AfinaError, Busy, NotFound
from afina.server.figures import Figures
from afina.server.kinds import compared
from afina.server.tally import Tally
from afina.serving.answering import Outcome, Prediction
from afina.serving.engine import Request
from afina.serving.residents import Lease
from afina.store.reader import StoreReader
from afina.store.versions import SHADOW, Name, Reference, Version

MOST = 65_536
"""Names that are remembered."""

UNSEEN, NONE, LOADING, RIDING, FAILED, PROMOTED = "unseen", "none", "loading", "riding", "failed", "promoted"
"""How it stands with a name: not looked up yet; no alias; not ready yet; compared; not servable; it answers itself."""

LATE = "it was not loaded in time, or the store does not answer. It is tried again."
UNSERVABLE = "it does not compute what it did when it was made, or not here. `afina store check` says more."
UNFORESEEN = "it failed with {}, which is not foreseen."
"""Why one does not ride: words of ours, since an error's own may name what is not the publisher's."""

KEPT = 4
"""Versions beside which a candidate's tally is kept: a server may switch back."""


@dataclass(eq=False)
class Wish:
    """What the store wants of a name. tallies: by the version that answered."""

    version: Version | None
    state: str
    problem: str | None = None
    tallies: dict[str, Tally] = field(default_factory=dict)

    @property
    def identity(self) -> tuple[str, str] | None:
        """Of the version."""
        return None if self.version is None else (str(self.version), self.version.digest)


@dataclass(eq=False)
class Ride:
    """What rides along with a request's texts; `release` it once."""

    wish: Wish
    lease: Lease
    current: str

    def release(self) -> None:
        """Give the adapter back."""
        self.lease.release()


class Paired(NamedTuple):
    """A text for the version that answers, and for the one that rides along."""

    request: Request
    ride: Ride

    @property
    def candidate(self) -> Request:
        """The same, asked of the latter."""
        return self.request._replace(adapter=self.ride.lease)


class Shadows:
    """May be asked by many threads; looks at the store, loads and probes in threads of its own.

    lease   a lease on a version
    demand  loads a version and replays its probe; raises AfinaError where it is not to be served
    """

    def __init__(
        self, store: StoreReader, lease: Callable[[Version], Lease], demand: Callable[[Version], None], figures: Figures
    ) -> None:
        self._store, self._lease, self._demand, self._figures = store, lease, demand, figures
        self._wishes: dict[Name, Wish] = {}
        self._again: set[Name] = set()
        self._last, _ = store.news(0, ())
        self._lock = threading.Lock()
        self._looking = ThreadPoolExecutor(1, thread_name_prefix="afina-shadow")  # one: looks have an order
        self._loading = ThreadPoolExecutor(1, thread_name_prefix="afina-shadow-load")

    def count(self, state: str) -> int:
        """Names with which it stands so."""
        with self._lock:
            return sum(wish.state == state for wish in self._wishes.values())

    def ride(self, name: Name, current: Version, texts: int) -> Ride | None:
        """What is to ride along with so many texts for what answers, if anything; neither raises nor waits."""
        wish = self._wishes.get(name)
        if wish is None:
            self._begin(name)
            return None
        if wish.state != RIDING or wish.version is None or wish.version.digest == current.digest:
            return None
        try:
            ride = Ride(wish, self._lease(wish.version), str(current))
        except AfinaError:  # the engine is closed
            return None
        if not ride.lease.ready:  # given up for others; it is being loaded again
            self.left_out(ride, texts)
            ride.release()
            return None
        return ride

    def left_out(self, ride: Ride, texts: int) -> None:
        """Note texts with which it does not ride."""
        self._figures.shadowed.labels("left out").inc(texts)
        self._note(ride.wish, ride.current, lambda tally: tally.left(texts))

    def compute(self, attempt: Callable[[Sequence[Request]], Sequence[Outcome]], works: Sequence[Any]) -> Sequence[Any]:
        """Outcomes of works, `Request` or `Paired`, of the versions that answer; the others are compared with them."""
        asked = [one.request if isinstance(one, Paired) else one for one in works]
        paired = [
            (at, one) for at, one in enumerate(works) if isinstance(one, Paired) and one.ride.wish.state == RIDING
        ]
        try:
            outcomes = attempt([*asked, *(one.candidate for _, one in paired)])
        except Exception:
            if not paired:
                raise
            outcomes = attempt(asked)  # if this does not fail, it was a candidate's fault
            self._alone(attempt, paired, outcomes)
            return outcomes
        for (index, one), candidate in zip(paired, outcomes[len(asked) :], strict=True):
            self._compare(one.ride, outcomes[index], candidate)
        return outcomes[: len(asked)]

    def _alone(
        self,
        attempt: Callable[[Sequence[Request]], Sequence[Outcome]],
        paired: Sequence[tuple[int, Paired]],
        outcomes: Sequence[Outcome],
    ) -> None:
        """Candidates of a batch one by one, of which at least one fails altogether: that rides no more."""
        for wish in {id(one.ride.wish): one.ride.wish for _, one in paired}.values():
            mine = [(index, one) for index, one in paired if one.ride.wish is wish]
            try:
                found = attempt([one.candidate for _, one in mine])
            except Exception as error:  # noqa: BLE001 - its message may hold a text
                self._fail(wish, UNFORESEEN.format(type(error).__name__))
                found = [Busy("failed", code="server.batch-failed")] * len(mine)
            for (index, one), candidate in zip(mine, found, strict=True):
                self._compare(one.ride, outcomes[index], candidate)

    def _compare(self, ride: Ride, current: Outcome, candidate: Outcome) -> None:
        if not isinstance(current, Prediction):
            return  # nothing to compare with: the text's fault, most of the time
        try:
            if isinstance(candidate, AfinaError):
                raise candidate
            seen = compared(current, candidate)
        except AfinaError:
            self._figures.shadowed.labels("fault").inc()
            self._note(ride.wish, ride.current, Tally.fault)
            return
        outcome = {None: "number", True: "flipped", False: "same"}[seen.flipped]
        self._figures.shadowed.labels(outcome).inc()
        self._note(ride.wish, ride.current, lambda tally: tally.seen(seen))

    def _note(self, wish: Wish, current: str, change: Callable[[Tally], Tally]) -> None:
        with self._lock:
            wish.tallies[current] = change(wish.tallies.pop(current, Tally()))
            while len(wish.tallies) > KEPT:
                del wish.tallies[next(iter(wish.tallies))]

    def _fail(self, wish: Wish, problem: str) -> None:
        with self._lock:
            wish.state, wish.problem = FAILED, problem

    def told(self, name: Name, current: Version) -> dict[str, Any]:
        """How it stands, as JSON values: what answers, what rides along, and what was counted.

        Raises Busy where the store was never asked about it, and does not answer now.
        """
        unseen = Wish(None, UNSEEN)
        if self._wishes.get(name, unseen).state == UNSEEN:
            self._looking.submit(self._look, name).result()
        wish = self._wishes.get(name, unseen)
        if wish.state == UNSEEN:
            raise Busy("the store does not answer.", code="server.store-silent")
        version, state = wish.version, wish.state
        if version is not None and version.digest == current.digest:
            state = PROMOTED
        with self._lock:
            tally = wish.tallies.get(str(current), Tally())
        head = {"name": str(name), "current": current.number, "shadow": None if version is None else version.number}
        return {**head, "state": state, "problem": wish.problem, **tally.as_json()}

    def refresh(self, news: bool) -> None:
        """Follow the store. news: whether there was any since the last time. Raises what reading it does."""
        touched: set[Name] = set()
        if news:
            with self._lock:
                known = [*self._wishes]
            self._last, found = self._store.news(self._last, known)
            touched |= {*found}
        with self._lock:
            again, self._again = self._again, set()
        for name in touched | again:
            self._soon(name)

    def _begin(self, name: Name) -> None:
        with self._lock:
            if name in self._wishes:
                return
            if len(self._wishes) >= MOST:
                self._wishes.clear()
            self._wishes[name] = Wish(None, UNSEEN)
        self._soon(name)

    def _soon(self, name: Name) -> None:
        with suppress(RuntimeError):  # closed
            self._looking.submit(self._look, name)

    def _look(self, name: Name) -> None:
        """What the store wants now; whatever else rode along stops before the new one is loaded."""
        try:
            version = self._store.known(Reference(name, alias=SHADOW))
        except AfinaError:  # the store does not answer
            self._later(name)
            return
        made = Wish(version, NONE if version is None else LOADING)
        with self._lock:
            before = self._wishes.get(name)
            if before is not None and made.identity == before.identity:
                if before.state not in (FAILED, UNSEEN):
                    return
                made.tallies = before.tallies
            if before is not None:
                before.state = NONE  # what waits of it is not computed
            self._wishes[name] = made
        if version is not None:
            with suppress(RuntimeError):  # closed
                self._loading.submit(self._board, name, made)

    def _later(self, name: Name) -> None:
        with self._lock:
            self._again.add(name)

    def _board(self, name: Name, wish: Wish) -> None:
        assert wish.version is not None
        try:
            self._demand(wish.version)
        except (Busy, NotFound):
            self._fail(wish, LATE)
            self._later(name)
        except AfinaError:
            self._fail(wish, UNSERVABLE)
        except Exception as error:  # noqa: BLE001 - whatever it is, who is answered does not notice
            self._fail(wish, UNFORESEEN.format(type(error).__name__))
        else:
            with self._lock:
                if wish.state == LOADING:
                    wish.state = RIDING

    def close(self) -> None:
        """Follow no more."""
        self._looking.shutdown(cancel_futures=True)
        self._loading.shutdown(cancel_futures=True)
