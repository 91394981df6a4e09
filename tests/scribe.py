"""A watcher that writes down what it is told of a study."""

from __future__ import annotations

import threading
from typing import Any

from afina.events import Progress
from afina.studies.results import Results
from afina.studies.runs.run import Run
from afina.studies.watcher import Watcher


class Scribe(Watcher):
    """Sentences and runs in `told`, progress apart, and the threads in which it was told."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.heard: list[Progress] = []
        self.changes: list[Results] = []
        self.threads: set[threading.Thread] = set()
        self.fetching = 0.0

    @property
    def steps(self) -> list[int]:
        """The steps of training, in the order in which they were told."""
        return [one.step for one in self.heard if one.phase == "train" and one.step]

    def says(self, words: str) -> None:
        self.told.append(words)
        self.threads.add(threading.current_thread())

    def fetched(self, seconds: float) -> None:
        self.fetching = seconds

    def started(self, run: Run, number: int, total: int) -> None:
        self.says(f"started {run.title} {number}/{total}")

    def progress(self, run: Run, progress: Progress) -> None:
        self.heard.append(progress)
        self.threads.add(threading.current_thread())

    def finished(self, run: Run, record: Any, *, now: bool) -> None:
        self.says(f"finished {run.title}{'' if now else ' before'}")

    def failed(self, run: Run, message: str) -> None:
        self.says(f"failed {run.title}: {message}")

    def waits(self, run: Run, needed: int, available: int) -> None:
        self.says(f"waits {run.title}: {needed} of {available}")

    def changed(self, results: Results) -> None:
        self.changes.append(results)
