"""Recorded runs: which runs a directory has records of, made of the data as these are now. Starts without torch.

Knows digests; how data are read is an executor's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from afina.data.addresses import reads_files
from afina.studies.runs.inputs import DataDigests
from afina.studies.runs.output_directory import OutputLock
from afina.studies.runs.record import Record
from afina.studies.runs.run import Run

Look = Callable[[Run], DataDigests | None]
"""What the data of a run are now; None where they cannot have changed, or this machine cannot know."""


@dataclass
class RecordedRuns:
    """The runs of one task that a held directory has records of.

    Of files, the key of a run covers what is in them. Records of earlier versions have keys without that; they are
    known by the digests of the splits. Data at other addresses are looked at only where a record is there.
    """

    held: OutputLock
    look: Look
    _seen: dict[str, DataDigests | None] = field(default_factory=dict)

    def find(self, run: Run) -> Run:
        """The run as it is recorded, or else as it is to be carried out. Raises what reading its data does."""
        if not reads_files(run.task, run.data.evaluation):
            found = self._record(run.key)
            digests = self._digests(run) if found else None
            # another run has that key's place here
            return run.on(digests.data) if found and digests and not digests.are_of(found) else run
        seen = next(iter(self._seen.values()), None) or self._digests(run)
        if seen is None:
            return run
        now = run.on(seen.data)
        if self._record(now.key) or not (earlier := self._record(run.key)):
            return now
        digests = self._digests(run)
        return run if digests and digests.are_of(earlier) else now

    def to_tune(self, run: Run) -> Run:
        """The run whose setting is to be tuned, on the data as they are now."""
        earlier = [one for one in self.held.records if one.data_digest is None and _is_named(one, run)]
        if not earlier and not reads_files(run.task, run.data.evaluation):
            return run
        digests = self._digests(run)
        if digests is None or any(digests.are_of(one) for one in earlier):
            return run
        return run.on(digests.data)

    def of_other_data(self, runs: Iterable[Run]) -> list[Record]:
        """Records of the same runs on what the data were before; none where any of `runs` is recorded as it is now."""
        runs = list(runs)
        if any(self._record(run.key) for run in runs):
            return []
        return [one for one in self.held.records if any(run.on(one.data_digest).key == one.key for run in runs)]

    def _record(self, key: str) -> Record | None:
        return next((one for one in self.held.records if one.key == key), None)

    def _digests(self, run: Run) -> DataDigests | None:
        how = f"{run.training.temperature}{run.data.model_dump_json()}"
        if how not in self._seen:
            self._seen[how] = self.look(run)
        return self._seen[how]


def _is_named(record: Record, run: Run) -> bool:
    return (record.name, record.method, record.task) == (run.title, run.method, run.task)
