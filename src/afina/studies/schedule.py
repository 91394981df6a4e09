"""Schedule: a study's runs, in an executor's slots; those that are recorded are skipped. Starts without torch.

Results and records stand in the study's order, in any order of ending.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from afina.errors import AfinaError
from afina.events import Progress
from afina.studies.memory import wait_for_memory
from afina.studies.results import Failure, Results, measured_in
from afina.studies.runs.executor import Executor
from afina.studies.runs.output_directory import OutputLock
from afina.studies.runs.record import Record, Result
from afina.studies.runs.run import Run
from afina.studies.slots import Slots, Tell, again_where_lost
from afina.studies.watcher import Watcher


def carry_out(
    runs: Sequence[Run], held: OutputLock, so_far: Results, executor: Executor, watcher: Watcher, *, fresh: bool
) -> Results:
    """`so_far` with the results of `runs`, which are carried out where they are not known, or all of them `fresh`."""
    schedule = Schedule(runs, held, so_far, executor, watcher)
    with Slots[int, Record](executor) as slots:
        schedule.carry_out(slots, fresh=fresh)
    watcher.changed(schedule.so_far)
    return schedule.so_far


def work(
    run: Run, held: OutputLock, study: str, executor: Executor, watcher: Watcher, until: float | None = None
) -> Callable[[Tell], Record]:
    """The work of a slot that carries `run` out; its scratch is ready then."""
    out = held.begin(run.label)

    def carried_out(tell: Tell) -> Record:
        def listen(progress: Progress) -> None:
            tell(partial(watcher.progress, run, progress))

        def says(words: str) -> None:
            tell(partial(watcher.says, words))

        return again_where_lost(run, lambda: executor.carry_out(run, out, study, listen, until), says)

    return carried_out


@dataclass
class Schedule:
    """The runs of a study on their way.

    results, failed  by the numbers of their runs, from 1
    """

    runs: Sequence[Run]
    held: OutputLock
    before: Results
    executor: Executor
    watcher: Watcher
    results: dict[int, Result] = field(default_factory=dict)
    failed: dict[int, Failure] = field(default_factory=dict)

    @property
    def so_far(self) -> Results:
        """The results so far, in the study's order."""
        results = tuple(self.results[number] for number in sorted(self.results))
        failed = tuple(self.failed[number] for number in sorted(self.failed))
        waiting = len(self.runs) - len(results) - len(failed)
        return replace(self.before, results=results, failed=(*self.before.failed, *failed), waiting=waiting)

    def carry_out(self, slots: Slots[int, Record], *, fresh: bool) -> None:
        """Every run, as many at once as there are slots and memory for."""
        todo = [run for run in self.runs if fresh or not self.held.has(run.key)]
        memory = self.executor.foresee(todo) if self.executor.slots > 1 and len(todo) > 1 else None
        for number, run in enumerate(self.runs, start=1):
            while run.key in {self.runs[other - 1].key for other in slots.busy}:  # the same run under two names
                self._end(*slots.next())
            known = None if fresh else self.held.known(run.key)
            if known is not None:
                self._show(number, known, now=False)
                continue
            wait_for_memory(
                run,
                memory,
                lambda: [self.runs[other - 1] for other in slots.busy],
                lambda: self._end(*slots.next()),
                self.watcher,
            )
            self.watcher.started(run, number, len(self.runs))
            slots.start(number, work(run, self.held, self.before.name, self.executor, self.watcher))
            while slots.full:
                self._end(*slots.next())
        while slots.busy:
            self._end(*slots.next())

    def _end(self, number: int, made: Callable[[], Record]) -> None:
        run = self.runs[number - 1]
        try:
            record = made()
        except AfinaError as error:
            message = self.held.give_up(run.label, str(error))
            self.watcher.failed(run, message)
            self.failed[number] = Failure(run.title, run.method, run.seed, message)
            return
        later = {self.runs[other - 1].key for other in self.results if other > number}
        self._show(number, self.held.keep(record, run.label, later), now=True)

    def _show(self, number: int, found: Result, *, now: bool) -> None:
        run = self.runs[number - 1]
        self.results[number] = measured_in(found, run.metric)
        self.watcher.finished(run, self.results[number].record, now=now)
        self.watcher.changed(self.so_far)
