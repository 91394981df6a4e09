"""`TorchrunExecutor` executes runs in the processes (ranks) that torchrun has started; this process is one of them.

Rank 0 has the executor. The other ranks call `follow`, which executes each run that rank 0 begins, until rank 0 ends.
The error of a rank is said once: rank 0 raises it, and the other ranks say an error only if rank 0 has ended.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Self

from afina import allocator
from afina.errors import AfinaError, RunFailed
from afina.events import Listener, ValidationScore, downloads_told, ignore
from afina.problems import RANK_LOST
from afina.ranks import PATIENCE, Ranks
from afina.studies.executors import problems
from afina.studies.executors.local_executor import LocalExecutor
from afina.studies.executors.worker import CarryOut, Failed
from afina.studies.runs.execute import execute
from afina.studies.runs.record import Record
from afina.studies.runs.run import Run, stopped_after_a_step

_ERROR, _TOLD = "error", "told"
"""The notes of the ranks: the error of the first rank that failed, and that rank 0 has said its error."""

_SOON = 3.0
"""Seconds in which the note of a rank that has ended is there, or rank 0 says an error."""


class TorchrunExecutor(LocalExecutor):
    """Executes each run in this process, rank 0, together with the other ranks, which `follow`."""

    def __init__(self, ranks: Ranks) -> None:
        super().__init__()
        self._ranks, self._together = ranks, True

    def sharding(self, shards: bool) -> Self:
        """Return this executor, whose processes divide the weights of the backbone among them if `shards` is set."""
        self._ranks = replace(self._ranks, shards=shards)
        return self

    def prepare(self) -> None:
        """Do nothing: the processes of the runs have started."""

    def carry_out(self, run: Run, out: Path, study: str, listen: Listener, until: float | None = None) -> Record:
        request = CarryOut(run=run, out=str(out), study=study)
        try:
            self._ranks.from_first((request, self._ranks.shards))
            return _executed(request, self._ranks, listen)
        except AfinaError as error:
            self._together = False  # the ranks are in different steps, or have ended
            raise self._failure(run, error) from None
        except BaseException:
            self._together = False
            self._ranks.leave_note(_TOLD, run.title)
            raise

    def _failure(self, run: Run, error: AfinaError) -> RunFailed:
        """Return the error of the run: that of the rank that failed first, if the rank has left a note."""
        found = Failed.of(error)
        if error.code == RANK_LOST.code:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)  # torchrun sends it to all other ranks of a rank that ended
            if (note := self._ranks.note(_ERROR, _SOON)) is not None:
                found = Failed.model_validate_json(note)
        self._ranks.leave_note(_TOLD, run.title)
        return found.of_run(run.title)

    def try_out(
        self,
        run: Run,
        shares: tuple[float, ...],
        limit: int | None,
        goes_on: Callable[[ValidationScore], bool],
        listen: Listener,
        until: float | None = None,
    ) -> ValidationScore:
        raise problems.TRIAL_OF_TORCHRUN(run=run.title)

    def close(self) -> None:
        """End the other ranks, and leave the process group. After an error, they end when this process ends."""
        if self._together:
            self._together = False
            self._ranks.from_first(None)
            self._ranks.close()


def follow(ranks: Ranks, say: Callable[[AfinaError], object]) -> int:
    """Execute the runs that rank 0 begins, in a rank other than 0, until rank 0 ends; return the exit status.

    An error is left for rank 0, which says it. If rank 0 has ended without a word, `say` receives the error.
    """
    error: AfinaError | None = None
    try:
        with stopped_after_a_step(signal.SIGTERM):  # torchrun sends SIGTERM if another rank has ended
            while (request := ranks.from_first(None)) is not None:
                _executed(request[0], replace(ranks, shards=request[1]), ignore)
    except AfinaError as failed:
        error = failed
    except KeyboardInterrupt:
        error = RANK_LOST(step="signal", reason="torchrun has ended this process")
    if error is not None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        error.within(f"process {ranks.rank} of {ranks.count}: ")
        if error.code != RANK_LOST.code:
            ranks.leave_note(_ERROR, Failed.of(error).model_dump_json())
            ranks.close()  # so that rank 0 notices at its next step that this rank ends
        if not _is_told(ranks):
            say(error)
            return error.exit_code
        return 0  # rank 0 has the exit status, and torchrun must not end it before it has said its error
    ranks.close()
    return 0


def _is_told(ranks: Ranks) -> bool:
    """Wait until rank 0 has said why this rank ends; return False if rank 0 has ended without a word."""
    if ranks.note(_ERROR, 0) is not None:  # rank 0 may compute for long before it looks at the note
        with suppress(KeyboardInterrupt), stopped_after_a_step(signal.SIGTERM):  # torchrun has ended rank 0
            return ranks.note(_TOLD, PATIENCE) is not None
    return ranks.note(_TOLD, _SOON) is not None


def _executed(request: CarryOut, ranks: Ranks, listen: Listener) -> Record:
    """Return the record of a run. After SIGINT or SIGTERM, a training stops after a checkpoint."""
    with stopped_after_a_step(signal.SIGINT, signal.SIGTERM) as signals, downloads_told(listen):
        hear, run, out = signals.told(listen), request.run, Path(request.out)
        with allocator.memory_errors():
            try:
                return execute(run, out, study=request.study, listen=hear, stopped=signals.is_heard, ranks=ranks)
            except KeyboardInterrupt:
                signals.interrupt(signals.heard)
