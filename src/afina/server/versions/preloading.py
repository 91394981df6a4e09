"""Preloading of models: they are loaded and pass their golden tests before the server reports that it is ready."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence

from afina.errors import AfinaError
from afina.server import logs_and_traces
from afina.server.versions.served_versions import ServedVersions
from afina.store.reader import StoreReader
from afina.store.versions import Reference

AGAIN = 0.5
"""Seconds until the server tries again to load a model that it could not load.

`ServedVersions` has further, longer pauses for a version that failed.
"""


def check_models(store: StoreReader, models: Sequence[str]) -> None:
    """Raise InvalidName if a model's name is malformed, and NotFound if the store does not have the model."""
    for model in models:
        if store.known(Reference.parse(model)) is None:
            store.show(model)  # raises an error that names what the store has


class Preloading:
    """A thread that loads models, and tries again until each of them is loaded and has passed its golden test."""

    def __init__(self, current: ServedVersions, models: Sequence[str]) -> None:
        self._current = current
        self._left = [Reference.parse(model) for model in models]
        self._over, self._tried = threading.Event(), not models
        self._thread = threading.Thread(target=self._run, name="afina-preload", daemon=True)

    @property
    def done(self) -> bool:
        return not self._left

    @property
    def tried(self) -> bool:
        """Whether the server has tried at least once to load each model."""
        return self._tried

    def start(self) -> None:
        if self._left:
            self._thread.start()

    def close(self) -> None:
        self._over.set()

    def _run(self) -> None:
        said = set[str]()
        while self._left and not self._over.is_set():
            for reference in [*self._left]:
                if self._over.is_set():
                    return
                try:
                    version = self._current.find(reference)
                except AfinaError as error:
                    problem = f"{reference}: {error}"
                    if problem not in said:
                        about = "model not preloaded: the server is not ready"
                        logs_and_traces.note(about, logging.ERROR, model=str(reference), problem=str(error))
                        said.add(problem)
                else:
                    self._left.remove(reference)
                    logs_and_traces.note("model preloaded", model=str(reference), version=str(version))
            self._tried = True
            if self._left:
                self._over.wait(AGAIN)
