"""An LRU cache of loaded adapters, which are called residents. Background threads load adapters."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import count
from threading import Lock, RLock
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from afina.engine import problems
from afina.generating.next_token import MixedNextTokenModel, NextTokenModel, OwnNextTokenModel
from afina.models import objectives
from afina.models.added_modules import key_value_cache
from afina.models.architectures import architecture_of
from afina.models.classifier import Classifier
from afina.models.kernels.key_values import KeyValueCache
from afina.models.kernels.layer_changes import BatchedAdapter
from afina.models.manifest import Manifest
from afina.models.mixed_batch import MixedBatchModel
from afina.models.objective import Objective
from afina.predicting.predictor import ModelPredictor, Predictor
from afina.predicting.reading import Reading
from afina.repr_html import ReprCard


@dataclass(frozen=True, eq=False, repr=False)
class Resident(ReprCard, ABC):
    """An adapter in memory, identified by its digest.

    Attributes:
        shares_model: Whether the adapter uses a frozen model that it shares with other adapters.
        where: The directory from which the adapter was read, for error messages.
        size: The memory of the adapter in bytes, without a shared model.
        reading: None: the adapter reads no tokens.
    """

    shares_model: ClassVar[bool]

    digest: str
    manifest: Manifest
    where: str
    size: int
    reading: Reading | None

    def facts(self) -> dict[str, object]:
        return {"where": self.where, **self.manifest.summary, "shares the model": self.shares_model, "bytes": self.size}

    @property
    def generates(self) -> bool:
        return self.objective.auto_class == "language_model"

    @property
    def takes_chunks(self) -> bool:
        """Whether the adapter's model can compute a text in chunks, with the keys and values of earlier chunks."""
        return self.reach is not None

    @property
    def reach(self) -> float | None:
        """`Classifier.reach`: how many earlier tokens double a token's time. None: the model cannot compute chunks.

        A model that reads words computes windows, whose words may be anywhere, and no chunks.
        """
        return None if self.objective.reads_words else self._reach

    @property
    @abstractmethod
    def _reach(self) -> float | None:
        """The number `reach` of a model that reads the pooled output."""

    @property
    @abstractmethod
    def virtual_tokens(self) -> tuple[int, int]:
        """The number of virtual tokens before each text, and the number of those that have only keys and values."""

    @property
    @abstractmethod
    def opened(self) -> KeyValueCache:
        """The cache with the keys and values of texts that are computed in chunks."""

    @abstractmethod
    def next_tokens(self) -> NextTokenModel:
        """Return what computes the next-token logits of the adapter's generated answers."""

    @cached_property
    def objective(self) -> Objective:
        return objectives.make(self.manifest.label_names, self.manifest.objective)


@dataclass(frozen=True, eq=False, repr=False)
class SharedResident(Resident):
    """A loaded adapter that uses a frozen model together with other adapters.

    Attributes:
        host: The shared frozen model, in the precision that the adapter's manifest names.
        head: Maps features, float32 [N, width of the model], to outputs, float32 [N, width of the head]. None: the
            adapter generates text, with the model's output embedding.
        offset: A vector [width of the head] that is added to the outputs. None: no vector is added.
    """

    shares_model = True

    reading: Reading
    host: MixedBatchModel
    batched: BatchedAdapter
    head: Callable[[Tensor], Tensor] | None
    offset: Tensor | None

    @property
    def _reach(self) -> float | None:
        classifier, own = self.host.classifier, self.batched.pooled
        entry = architecture_of(classifier.body)
        pooling = entry.pooling_of(classifier.body.config) if own is None else own.pooling
        return classifier.reach if entry.takes_chunks(pooling) else None

    @property
    def virtual_tokens(self) -> tuple[int, int]:
        prefix = self.batched.prefix_length
        return self.batched.prompt_length + prefix, prefix

    @property
    def opened(self) -> KeyValueCache:
        return self.host.opened

    def next_tokens(self) -> NextTokenModel:
        return MixedNextTokenModel(self.host)

    def answer(self, features: Tensor) -> np.ndarray:
        """Return the outputs of the adapter's head, float32 [N, width of the head], for features [N, model width]."""
        assert self.head is not None
        with torch.inference_mode(), torch.autocast(features.device.type, enabled=False):
            outputs = self.head(features)
            found: np.ndarray = (outputs if self.offset is None else outputs + self.offset).cpu().numpy()
        return found


@dataclass(frozen=True, eq=False, repr=False)
class SeparateResident(Resident):
    """A loaded adapter that has a model of its own and shares no frozen model."""

    shares_model = False

    predictor: Predictor

    @property
    def classifier(self) -> Classifier:
        """The adapter's own model, which an adapter that reads no tokens does not have."""
        assert isinstance(self.predictor, ModelPredictor)
        return self.predictor.classifier

    @property
    def _reach(self) -> float | None:
        return self.classifier.reach if self.reading is not None and self.classifier.takes_chunks else None

    @property
    def virtual_tokens(self) -> tuple[int, int]:
        return self.classifier.before, self.classifier.prefix

    @cached_property
    def opened(self) -> KeyValueCache:
        return key_value_cache(self.classifier.body)

    def next_tokens(self) -> NextTokenModel:
        return self._next_tokens

    @cached_property
    def _next_tokens(self) -> NextTokenModel:
        return OwnNextTokenModel(self.classifier.eval())


@dataclass(eq=False)
class _Place:
    """An entry in the cache of residents for an adapter that is loaded or being loaded.

    Attributes:
        used: The number, in the order of all leases and releases, of the adapter's last lease or release.
        pins: 1 if the adapter is pinned, else 0.
    """

    future: Future[Resident]
    leases: int = 0
    used: int = 0
    pins: int = 0

    @property
    def size(self) -> int:
        """The memory of the adapter in bytes; 0 while the adapter is being loaded."""
        there = self.future.done() and not self.future.cancelled() and self.future.exception() is None
        return self.future.result().size if there else 0


@dataclass
class ResidentCounts:
    """The numbers of adapters that were loaded and evicted since the engine was opened."""

    loads: int = 0
    evictions: int = 0


@dataclass(eq=False)
class Lease:
    """A lease keeps an adapter in memory until `release` is called, or until the end of a `with` block.

    Attributes:
        digest: The adapter's digest.
        version: The adapter's version in a store, such as `client/task@3`. None: the adapter is not from a store.
    """

    digest: str
    version: str | None
    _place: _Place
    _release: Callable[[_Place], None]
    _held: bool = field(default=True)

    @property
    def ready(self) -> bool:
        """Whether the adapter is loaded, or loading has failed, so that `resident` does not wait."""
        return self._place.future.done()

    def resident(self, timeout: float | None = None) -> Resident:
        """Wait until the adapter is loaded, and return the resident (the loaded adapter).

        Args:
            timeout: The longest time to wait, in seconds. None: no limit.

        Raises:
            Busy: The adapter was not loaded within `timeout` seconds.
            AfinaError: Loading the adapter failed.
        """
        try:
            return self._place.future.result(timeout)
        except TimeoutError:
            raise problems.LOAD_TIMEOUT(
                _named=self.version or self.digest[:19], adapter=self.digest, seconds=timeout
            ) from None

    def release(self) -> None:
        """Release the adapter, which may then be evicted. Further calls do nothing."""
        if self._held:
            self._held = False
            self._release(self._place)

    def __enter__(self) -> Lease:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


class Residents:
    """An LRU cache that loads, keeps and evicts adapters. Thread-safe.

    `limit`: the maximum bytes of all adapters and of reserved memory; adapters with a lease are not evicted, even
    beyond it. None: no limit.
    """

    def __init__(self, limit: int | None = None, loaders: int = 2) -> None:
        self.limit = limit
        self._pool = ThreadPoolExecutor(loaders, thread_name_prefix="afina-loader")
        self._places: dict[str, _Place] = {}
        self.counts = ResidentCounts()
        self._reserved = self._held = 0
        self._lock, self._clock = RLock(), count(1)  # reentrant: a load that is already done calls back in this thread

    def lease(self, digest: str, load: Callable[[], Resident], version: str | None = None) -> Lease:
        """Return a lease on the adapter with a digest.

        A thread starts to call `load` if the adapter is not in memory.
        """
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
            raise problems.CLOSED() from None

    @staticmethod
    def _loaded(digest: str, load: Callable[[], Resident]) -> Resident:
        made = load()
        if made.digest != digest:
            raise problems.ADAPTER_EXCHANGED(where=made.where)
        return made

    def _forget_failed(self, digest: str, place: _Place, future: Future[Resident]) -> None:
        """Remove the entry of an adapter that failed to load, so that the next lease tries to load it again."""
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
        """Evict the least recently used adapters until the memory is within the limit. Call it with the lock held."""
        if self.limit is None:
            return
        size = self._reserved + sum(place.size for place in self._places.values())
        idle = [key for key, place in self._places.items() if not place.leases and not place.pins and place.size]
        for key in sorted(idle, key=lambda key: self._places[key].used):
            if size <= self.limit:
                return
            size -= self._places.pop(key).size
            self.counts.evictions += 1

    @property
    def reserved(self) -> int:
        """The number of bytes that are reserved in addition to the memory of adapters."""
        return self._reserved

    def reserve(self, size: int, *, force: bool = False) -> bool:
        """Reserve memory, for which idle adapters are evicted. False: too little. `force`: even beyond the limit."""
        with self._lock:
            kept = sum(place.size for place in self._places.values() if place.leases or place.pins)
            if self.limit is not None and not force and self._reserved + size + kept > self.limit:
                return False
            self._reserved += size
            self._make_room()
            return True

    def hold(self, size: int) -> None:
        """Reserve memory permanently, even beyond the memory limit, for weights that several adapters share."""
        with self._lock:
            self._held += size
            self.reserve(size, force=True)

    def give_back(self, size: int) -> None:
        """Undo the reservation of `size` bytes by `reserve`."""
        with self._lock:
            self._reserved -= size

    def room(self, digest: str | None = None) -> int | None:
        """Return the bytes that `reserve` can reserve if only the adapter `digest` and pinned ones stay.

        None: no limit.
        """
        with self._lock:
            kept = self._held + sum(place.size for key, place in self._places.items() if place.pins or key == digest)
            return None if self.limit is None else self.limit - kept

    def pin(self, lease: Lease) -> None:
        """Pin an adapter, so that it is never evicted.

        Raises Refused if the pinned adapters would exceed the memory limit.
        """
        lease.resident()
        with self._lock:
            place = self._places.setdefault(lease.digest, lease._place)
            pinned = place.size + sum(one.size for one in self._places.values() if one.pins and one is not place)
            if self.limit is not None and pinned > self.limit:
                raise problems.PINNED_LIMIT(_named=lease.version or lease.digest[:19], bytes=pinned, limit=self.limit)
            place.pins = 1

    def unpin(self, digest: str) -> None:
        with self._lock:
            if digest in self._places:
                self._places[digest].pins = 0
                self._make_room()

    def evict(self, digest: str) -> bool:
        """Evict an adapter, even if it is pinned. Return whether the adapter was in memory. Leases on it stay valid."""
        with self._lock:
            there = self._places.pop(digest, None) is not None
            self.counts.evictions += there
            return there

    def all(self) -> tuple[Resident, ...]:
        """Return the loaded adapters, the most recently used first."""
        with self._lock:
            there = [place for place in self._places.values() if place.size]
        return tuple(place.future.result() for place in sorted(there, key=lambda place: -place.used))

    def close(self) -> None:
        """Stop the loading threads after the adapters that they are loading now. No adapter can be loaded later."""
        self._pool.shutdown(cancel_futures=True)


class ReservedMemory:
    """A class that reserves memory for keys and values, under the memory limit of `Residents`. Thread-safe.

    For each adapter with a running answer, twice the adapter's size is reserved too, for its copies in `LoraStacks`. If
    no memory is reserved, an answer or a text may start even if leased adapters exceed the memory limit, since waiting
    answers, which hold leases, could otherwise keep each other from starting for ever.
    """

    def __init__(self, residents: Residents) -> None:
        self._residents = residents
        self._running: Counter[BatchedAdapter | None] = Counter()
        self._lock = Lock()

    def take(self, size: int, adapter: BatchedAdapter | None) -> bool:
        """Reserve `size` bytes for an answer or a text of an adapter. False: too little memory is free."""
        with self._lock:
            beside = 0 if self._running[adapter] else stacked_bytes(adapter)
            if not self._residents.reserve(size + beside, force=not self._running.total()):
                return False
            self._running[adapter] += 1
            return True

    def give_back(self, size: int, adapter: BatchedAdapter | None) -> None:
        with self._lock:
            self._running[adapter] -= 1
            self._residents.give_back(size + (0 if self._running[adapter] else stacked_bytes(adapter)))
            self._running += Counter()  # without zeros, which would keep adapters in memory


def stacked_bytes(adapter: BatchedAdapter | None) -> int:
    """Return the largest number of bytes that copies of an adapter take in `LoraStacks` while it generates text."""
    return 0 if adapter is None else 2 * adapter.size
