"""The adapters in memory, by digest: loaded beside whoever computes, kept by leases, evicted by least recent use.

A resident answers on the frozen model that it shares, or from weights of its own. What a lease is held on stays,
whatever else happens; beyond that the limit decides, and who was used last.
"""

from __future__ import annotations

from abc import ABC
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import count
from threading import RLock
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import linear

from afina.errors import Busy, Refused
from afina.inference.predictor import Predictor
from afina.inference.reading import Reading
from afina.models import objectives
from afina.models.kernels.layer_changes import BatchedAdapter
from afina.models.manifest import Manifest
from afina.models.objective import Objective
from afina.repr_html import ReprCard


@dataclass(frozen=True, eq=False, repr=False)
class Resident(ReprCard, ABC):
    """An adapter, ready to answer. Its identity is its digest, whatever it was called by.

    manifest  the adapter's;  where  it was read from, for messages
    size      bytes that it takes beside the model that all share
    """

    rides: ClassVar[bool]

    digest: str
    manifest: Manifest
    where: str
    size: int

    def facts(self) -> dict[str, object]:
        """The facts that its repr shows."""
        return {"where": self.where, **self.manifest.summary, "shares the model": self.rides, "bytes": self.size}

    @cached_property
    def objective(self) -> Objective:
        """What it was asked of a text."""
        return objectives.make(self.manifest.label_names, self.manifest.objective)


@dataclass(frozen=True, eq=False, repr=False)
class SharedResident(Resident):
    """One that shares the frozen model.

    head    float32 [width of the head, width of the model];  offset  [width of the head], or None
    """

    rides = True

    rider: BatchedAdapter
    head: Tensor
    offset: Tensor | None
    reading: Reading

    def answer(self, features: Tensor) -> np.ndarray:
        """Outputs, float32 [N, width of the head], for features [N, width of the model]."""
        with torch.inference_mode(), torch.autocast(features.device.type, enabled=False):
            outputs = linear(features, self.head)
            found: np.ndarray = (outputs if self.offset is None else outputs + self.offset).cpu().numpy()
        return found


@dataclass(frozen=True, eq=False, repr=False)
class SeparateResident(Resident):
    """One that has a model of its own, beside the one that others share."""

    rides = False

    predictor: Predictor


@dataclass(eq=False)
class _Place:
    """Where an adapter is, or will be. leases: how many are held; used: when the last was taken or given back."""

    future: Future[Resident]
    leases: int = 0
    used: int = 0
    pins: int = 0

    @property
    def size(self) -> int:
        """Bytes; 0 as long as nothing is there."""
        there = self.future.done() and not self.future.cancelled() and self.future.exception() is None
        return self.future.result().size if there else 0


@dataclass
class ResidentCounts:
    """Since the beginning: adapters that were begun to be loaded, and that were given up."""

    loads: int = 0
    evictions: int = 0


@dataclass(eq=False)
class Lease:
    """What keeps an adapter in memory for as long as somebody needs it. `release` it once; or use it in a `with`.

    digest   of the adapter
    version  `client/task@3`, where it comes from a store
    """

    digest: str
    version: str | None
    _place: _Place
    _release: Callable[[_Place], None]
    _held: bool = field(default=True)

    @property
    def ready(self) -> bool:
        """Whether `resident` returns, or raises, without waiting."""
        return self._place.future.done()

    def resident(self, timeout: float | None = None) -> Resident:
        """The adapter, as soon as it is loaded.

        Raises Busy where that takes more than `timeout` seconds, and what loading it raised.
        """
        try:
            return self._place.future.result(timeout)
        except TimeoutError:
            raise Busy(
                f"{self.version or self.digest[:19]}: not loaded in {timeout:g} s. Try again.",
                code="engine.load-timeout",
                adapter=self.digest,
                seconds=timeout,
            ) from None

    def release(self) -> None:
        """Give it back; a second time does nothing."""
        if self._held:
            self._held = False
            self._release(self._place)

    def __enter__(self) -> Lease:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


class Residents:
    """May be asked by many threads.

    limit    bytes that adapters may take which nobody holds a lease on at the moment, with those that somebody does;
             None: no limit. What is held is never given up, so that a batch of many adapters may take more meanwhile
    loaders  threads that load
    """

    def __init__(self, limit: int | None = None, loaders: int = 2) -> None:
        self.limit = limit
        self._pool = ThreadPoolExecutor(loaders, thread_name_prefix="afina-loader")
        self._places: dict[str, _Place] = {}
        self.counts = ResidentCounts()
        self._lock, self._clock = RLock(), count(1)  # a load that is done at once calls back from within

    def lease(self, digest: str, load: Callable[[], Resident], version: str | None = None) -> Lease:
        """A lease on the adapter of that digest, which `load` makes where it is not there; does not wait for it."""
        with self._lock:
            place = self._places.get(digest)
            if place is None:
                place = _Place(self._start(digest, load))
                self.counts.loads += 1
                self._places[digest] = place
                place.future.add_done_callback(partial(self._forget_failed, digest, place))
            place.leases += 1
            place.used = next(self._clock)
        return Lease(digest, version, place, self._given_back)

    def _start(self, digest: str, load: Callable[[], Resident]) -> Future[Resident]:
        try:
            return self._pool.submit(self._loaded, digest, load)
        except RuntimeError:
            raise Refused("the engine is closed. Open another.", code="engine.closed") from None

    @staticmethod
    def _loaded(digest: str, load: Callable[[], Resident]) -> Resident:
        made = load()
        if made.digest != digest:
            raise Busy(
                f"{made.where}: it was exchanged for another adapter while it was read. Ask again.",
                code="engine.adapter-exchanged",
                where=made.where,
            )
        return made

    def _forget_failed(self, digest: str, place: _Place, future: Future[Resident]) -> None:
        """So that whoever asks next tries again."""
        if future.cancelled() or future.exception() is not None:
            with self._lock:
                if self._places.get(digest) is place:
                    del self._places[digest]

    def _given_back(self, place: _Place) -> None:
        with self._lock:
            place.leases -= 1
            place.used = next(self._clock)
            self._make_room()

    def _make_room(self) -> None:
        """Give up what was used longest ago, as far as the limit asks for it. The lock is held."""
        if self.limit is None:
            return
        size = sum(place.size for place in self._places.values())
        idle = [key for key, place in self._places.items() if not place.leases and not place.pins and place.size]
        for key in sorted(idle, key=lambda key: self._places[key].used):
            if size <= self.limit:
                return
            size -= self._places.pop(key).size
            self.counts.evictions += 1

    def pin(self, lease: Lease) -> None:
        """Keep an adapter whatever the limit says. Raises Refused where all that is pinned would be beyond it."""
        lease.resident()
        with self._lock:
            place = self._places.setdefault(lease.digest, lease._place)
            pinned = place.size + sum(one.size for one in self._places.values() if one.pins and one is not place)
            if self.limit is not None and pinned > self.limit:
                raise Refused(
                    f"{lease.version or lease.digest[:19]}: pinned adapters would take {pinned:,} bytes, and the limit "
                    f"is {self.limit:,}. Unpin another, or raise `limit`.",
                    code="engine.pinned-limit",
                    bytes=pinned,
                    limit=self.limit,
                )
            place.pins = 1

    def unpin(self, digest: str) -> None:
        """Let the limit decide again; does nothing for one that is not pinned."""
        with self._lock:
            if digest in self._places:
                self._places[digest].pins = 0
                self._make_room()

    def evict(self, digest: str) -> bool:
        """Forget an adapter, pinned or not; who holds a lease on it goes on with it. Whether it was there."""
        with self._lock:
            there = self._places.pop(digest, None) is not None
            self.counts.evictions += there
            return there

    def all(self) -> tuple[Resident, ...]:
        """Those that are loaded, the one used last first."""
        with self._lock:
            there = [place for place in self._places.values() if place.size]
        return tuple(place.future.result() for place in sorted(there, key=lambda place: -place.used))

    def close(self) -> None:
        """End the loaders, after what they do now. Then nothing more can be loaded."""
        self._pool.shutdown(cancel_futures=True)
