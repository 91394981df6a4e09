"""The class FollowedNames, a cache of values by model name, such as a canary's percentage."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Generic, TypeVar

from afina.store.reader import StoreReader
from afina.store.versions import Name

MOST = 65_536  # the largest number of names in a cache. A full cache is emptied.

Known = TypeVar("Known")


class FollowedNames(Generic[Known]):
    """A cache of values by model name. A thread of the cache reads the values from the store. Thread-safe.

    `look` reads a model's value from the store, given the model's name and the previous value, and must not raise.
    `unseen` is the value of a model before its value was read from the store.
    """

    def __init__(self, store: StoreReader, look: Callable[[Name, Known], Known], unseen: Known, thread: str) -> None:
        self._store, self._look, self._unseen = store, look, unseen
        self._known: dict[Name, Known] = {}
        self._again: set[Name] = set()
        self._last, _ = store.news(0, ())
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix=thread)  # one thread, so that lookups keep their order

    @property
    def known(self) -> Sequence[Known]:
        with self._lock:
            return [*self._known.values()]

    def get(self, name: Name) -> Known:
        """Return the cached value without waiting. The first call for a name returns `unseen`, and starts reading."""
        with self._lock:
            if name in self._known:
                return self._known[name]
            if len(self._known) >= MOST:
                self._known.clear()
            self._known[name] = self._unseen
        self._soon(name)
        return self._unseen

    def looked_up(self, name: Name) -> Known:
        """Return the value of a name. Waits for the store if the value was not read yet."""
        if (value := self._known.get(name, self._unseen)) is self._unseen:
            self._pool.submit(self._update, name).result()
            value = self._known[name]
        return value

    def again(self, name: Name) -> None:
        """Read the value of a name from the store again at the next call of `refresh`."""
        with self._lock:
            self._again.add(name)

    def refresh(self) -> None:
        """Start to read the values of names that have changed. Raises the errors of asking for changes."""
        with self._lock:
            names = [*self._known]
        self._last, touched = self._store.news(self._last, names)
        with self._lock:
            again, self._again = self._again, set()
        for name in {*touched, *again}:
            self._soon(name)

    def _soon(self, name: Name) -> None:
        with suppress(RuntimeError):  # closed
            self._pool.submit(self._update, name)

    def _update(self, name: Name) -> None:
        value = self._look(name, self._known.get(name, self._unseen))
        with self._lock:
            self._known[name] = value

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)
