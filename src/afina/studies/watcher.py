"""Watcher: receives the progress of a study, a recommendation or a tuning. The module loads without torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from afina import repr_html
from afina.events import Progress
from afina.studies import problems
from afina.studies.backbones import backbone_names, on_backbone
from afina.studies.runs.record import Record
from afina.studies.runs.run import Run

if TYPE_CHECKING:
    from afina.studies.results import Results
    from afina.studies.trials import Trial


class Watcher:
    """A receiver of the progress of a study, which does nothing; subclasses override the methods that they need."""

    def says(self, words: str) -> None:
        """Called when work other than a run begins, such as a download; the text `words` describes the work."""

    def fetched(self, seconds: float) -> None:
        """Called when all backbones of a recommendation are downloaded, which the user's minutes do not include."""

    def started(self, run: Run, number: int, total: int) -> None:
        """Called when a run begins; `number` is its number from 1 to `total`."""

    def waits(self, run: Run, needed: int, available: int) -> None:
        """Called once for a run that waits for memory: it needs `needed` bytes, and only `available` bytes are free."""

    def progress(self, run: Run, progress: Progress) -> None:
        """Called when a run or a tuning trial makes progress."""

    def finished(self, run: Run, record: Record, *, now: bool) -> None:
        """Called when a run has a record; `now` is False if the record existed before this call of `Study.run`."""

    def failed(self, run: Run, message: str) -> None:
        """Called when a run has failed with the error `message`; the other runs continue."""

    def trying(self, run: Run, number: int, spent: float) -> None:
        """Called when the trial of a candidate setting begins; `spent` is the used share of the tuning budget."""

    def tried(self, run: Run, number: int, trial: Trial, length: int) -> None:
        """Called when a tuning trial has ended; a trial that is not stopped early takes `length` steps."""

    def changed(self, results: Results) -> None:
        """Called with all results so far whenever there are new results; the last call has the complete results."""

    def stop(self) -> None:
        """Called when the study is interrupted by an exception."""


class WithBackbones(Watcher):
    """A watcher that passes progress on to another watcher, and names each run by its method and backbone."""

    @classmethod
    def of(cls, watcher: Watcher, backbones: Sequence[str]) -> Watcher:
        """Return a watcher for a study of these backbones: the given one itself if there is one backbone."""
        return cls(watcher, backbone_names(backbones)) if len(backbones) > 1 else watcher

    def __init__(self, watcher: Watcher, names: Mapping[str, str]) -> None:
        self._names = names
        self._named_runs: dict[str, Run] = {}
        self.says, self.changed, self.stop = watcher.says, watcher.changed, watcher.stop  # type: ignore[method-assign]
        for name in ("started", "waits", "progress", "finished", "failed", "trying", "tried"):
            setattr(self, name, partial(self._pass_on, getattr(watcher, name)))

    def _pass_on(self, told: Callable[..., None], run: Run, *rest: Any, **named: Any) -> None:
        if run.key not in self._named_runs:
            backbone = self._names.get(run.backbone)  # None: the run asks an endpoint
            name = run.title if backbone is None else on_backbone(run.title, backbone)
            self._named_runs[run.key] = run.model_copy(update={"name": name})  # the key does not depend on the name
        begin = f"run {run.title}: "  # of the message of a failed run; the new name stands for it
        told(
            self._named_runs[run.key],
            *(one.removeprefix(begin) if isinstance(one, str) else one for one in rest),
            **named,
        )


@contextmanager
def watching(given: Watcher | None) -> Iterator[Watcher]:
    """Yield the watcher, by default a progress display in a notebook; on an exception, call its method `stop`."""
    if given is not None and not hasattr(given, "says"):
        raise problems.WATCHER_TYPE(option="watcher", found=type(given).__name__)
    watcher: Watcher = given or repr_html.make_watcher() or Watcher()
    try:
        yield watcher
    except BaseException:
        watcher.stop()
        raise
