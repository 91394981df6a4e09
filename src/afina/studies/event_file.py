"""`events.jsonl`: the progress of a study or a recommendation, for other processes that read it while the runs go on.

Each line is a JSON object with the time (`at`), the name of a `Watcher` method (`event`), and the fields of the event
(`FIELDS`). The file is no result: nothing fails if it cannot be written, and a half-written line is ignored.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

from afina import meter
from afina.events import Progress
from afina.schema import null_where_undefined
from afina.studies.runs.record import Record
from afina.studies.runs.run import Run
from afina.studies.watcher import Watcher

if TYPE_CHECKING:
    from afina.studies.results import Results
    from afina.studies.trials import Trial

EVERY, RARELY = 0.5, 5.0
"""The least number of seconds between two lines about one phase of a run: EVERY at first, RARELY in a long file."""

MANY = 1000
"""The number of lines from which progress is written less often, in proportion to the number of lines."""

LONGEST = 1 << 16
"""The largest number of characters of a line that is read."""

_RUN = ("run", "title", "method", "backbone", "seed")

FIELDS: Mapping[str, Sequence[str]] = {
    "begun": (),
    "says": ("words",),
    "fetched": ("seconds",),
    "started": (*_RUN, "number", "total"),
    "waits": (*_RUN, "needed", "available"),
    "progress": (*_RUN, *Progress.__dataclass_fields__),
    "finished": (*_RUN, "now", "metric", "value", "selection", "train_seconds"),
    "answered": ("name", "metric", "value", "examples", "next"),
    "failed": (*_RUN, "message"),
    "trying": (*_RUN, "number", "spent"),
    "tried": (*_RUN, "number", "value", "steps", "length"),
    "stopped": (),
}
"""The fields of each event, beside `at` and `event`."""


class EventFile(Watcher):
    """Passes progress on to another watcher, and appends each event to a file, or begins it `anew`."""

    def __init__(self, path: Path, passed: Watcher, *, anew: bool) -> None:
        self._path, self._passed, self._anew = path, passed, anew
        self._last: dict[str, tuple[str, float]] = {}
        self._has_begun, self._whole, self._lines = False, True, 0

    def _begin(self) -> None:
        """Begin with the first event, so that a study that is refused leaves the file as it is."""
        self._has_begun = True
        if self._anew:
            with suppress(OSError):
                self._path.unlink(missing_ok=True)
        self._whole = _is_whole(self._path)
        self._write("begun")

    def _write(self, event: str, **fields: Any) -> None:
        if not self._has_begun:
            self._begin()
        line = json.dumps({"at": datetime.now(UTC).isoformat(), "event": event, **fields})
        with suppress(OSError):
            with self._path.open("a", encoding="utf-8") as file:
                file.write(f"{line}\n" if self._whole else f"\n{line}\n")
            self._whole = True
            self._lines += 1
            return
        self._whole = False

    def says(self, words: str) -> None:
        self._write("says", words=words)
        self._passed.says(words)

    def fetched(self, seconds: float) -> None:
        self._write("fetched", seconds=seconds)
        self._passed.fetched(seconds)

    def started(self, run: Run, number: int, total: int) -> None:
        self._write("started", **_named(run), number=number, total=total)
        self._passed.started(run, number, total)

    def waits(self, run: Run, needed: int, available: int) -> None:
        self._write("waits", **_named(run), needed=needed, available=available)
        self._passed.waits(run, needed, available)

    def progress(self, run: Run, progress: Progress) -> None:
        phase, at = self._last.get(run.label, ("", 0.0))
        pause = min(RARELY, EVERY * max(1.0, self._lines / MANY))
        if phase != progress.phase or meter.now() - at >= pause or progress.step == progress.steps:
            self._last[run.label] = progress.phase, meter.now()
            self._write("progress", **_named(run), **{name: _finite(value) for name, value in vars(progress).items()})
        self._passed.progress(run, progress)

    def finished(self, run: Run, record: Record, *, now: bool) -> None:
        seen = record.selection
        selected = None if seen is None else {"value": null_where_undefined(seen.value), "examples": seen.examples}
        self._write(
            "finished",
            **_named(run),
            now=now,
            metric=record.metric,
            value=null_where_undefined(record.metrics[record.metric]) if record.metrics else None,
            selection=selected,
            train_seconds=record.seconds.train,
        )
        self._passed.finished(run, record, now=now)

    def failed(self, run: Run, message: str) -> None:
        self._write("failed", **_named(run), message=message)
        self._passed.failed(run, message)

    def trying(self, run: Run, number: int, spent: float) -> None:
        self._write("trying", **_named(run), number=number, spent=spent)
        self._passed.trying(run, number, spent)

    def tried(self, run: Run, number: int, trial: Trial, length: int) -> None:
        value = None if trial.value is None else null_where_undefined(trial.value)
        self._write("tried", **_named(run), number=number, value=value, steps=trial.steps, length=length)
        self._passed.tried(run, number, trial, length)

    def changed(self, results: Results) -> None:
        if made := results.recommendation:
            value = null_where_undefined(made.contender(made.recommended).metrics[made.metric])
            figures = {"metric": made.metric, "value": value, "examples": made.examples}
            self._write("answered", name=made.recommended, next=[*made.waiting], **figures)
        self._passed.changed(results)

    def stop(self) -> None:
        self._write("stopped")
        self._passed.stop()


def _is_whole(path: Path) -> bool:
    """Whether a new line can be appended to a file: the last line may be half of one, of a process that was killed."""
    with suppress(OSError), path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read() == b"\n"
    return True


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not isfinite(value) else value


def _named(run: Run) -> dict[str, Any]:
    return {"run": run.label, "title": run.title, "method": run.method, "backbone": run.backbone, "seed": run.seed}


def read_events(path: Path, keep: Callable[[Mapping[str, Any]], bool] = lambda event: True) -> Iterator[dict[str, Any]]:
    """Yield the events for which `keep` holds; nothing if there is no file. Damaged lines are skipped."""
    with suppress(OSError), path.open(encoding="utf-8", errors="replace") as file:
        while line := file.readline(LONGEST):
            with suppress(ValueError, RecursionError):
                event = json.loads(line)
                if _is_event(event) and keep(event):
                    yield event


def _is_event(found: Any) -> bool:
    """Whether a JSON value is an event with its fields, and a time. Raises ValueError for what is no time."""
    if not isinstance(found, dict) or not found.keys() >= {"at", "event", *FIELDS.get(str(found.get("event")), ("?",))}:
        return False
    return datetime.fromisoformat(str(found["at"])).tzinfo is not None
