"""Progress of a study of several backbones: each run is named by its method and its backbone. Starts without torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from afina.events import Progress
from afina.studies.backbones import backbone_names, on_backbone
from afina.studies.results import Results
from afina.studies.runs.record import Record
from afina.studies.runs.run import Run
from afina.studies.schedule import Watcher
from afina.studies.trials import Trial


class WithBackbones(Watcher):
    """Passes progress on to another watcher, with runs that are named by method and backbone.

    Args:
        watcher: Receives the progress.
        names: The name of each backbone by its address.
    """

    @classmethod
    def of(cls, watcher: Watcher, backbones: Sequence[str]) -> Watcher:
        """Return a watcher for a study of these backbones: the watcher itself if there is only one."""
        return cls(watcher, backbone_names(backbones)) if len(backbones) > 1 else watcher

    def __init__(self, watcher: Watcher, names: Mapping[str, str]) -> None:
        self._watcher, self._names = watcher, names
        self._named_runs: dict[str, Run] = {}

    def _named(self, run: Run) -> Run:
        if run.key not in self._named_runs:
            name = on_backbone(run.title, self._names[run.backbone])
            self._named_runs[run.key] = run.model_copy(update={"name": name})  # the key does not depend on the name
        return self._named_runs[run.key]

    def says(self, words: str) -> None:
        self._watcher.says(words)

    def started(self, run: Run, number: int, total: int) -> None:
        self._watcher.started(self._named(run), number, total)

    def waits(self, run: Run, needed: int, available: int) -> None:
        self._watcher.waits(self._named(run), needed, available)

    def progress(self, run: Run, progress: Progress) -> None:
        self._watcher.progress(self._named(run), progress)

    def finished(self, run: Run, record: Record, *, now: bool) -> None:
        self._watcher.finished(self._named(run), record, now=now)

    def failed(self, run: Run, message: str) -> None:
        """Pass the error of a run on; the new name stands for the run's name at its start."""
        self._watcher.failed(self._named(run), message.removeprefix(f"run {run.title}: "))

    def trying(self, run: Run, number: int, spent: float) -> None:
        self._watcher.trying(self._named(run), number, spent)

    def tried(self, run: Run, number: int, trial: Trial, length: int) -> None:
        self._watcher.tried(self._named(run), number, trial, length)

    def changed(self, results: Results) -> None:
        self._watcher.changed(results)

    def stop(self) -> None:
        self._watcher.stop()
