"""`WorkerGroup`: the processes on this machine that execute one request together, one process for each device.

The process of rank 0 reports progress and the result. The module can be imported without torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack

from afina.events import Listener, ignore
from afina.studies.executors.executor import Cancelled
from afina.studies.executors.lost_runs import cause
from afina.studies.executors.other_ranks import OtherRanks, RankProcess
from afina.studies.executors.worker import Message, is_result
from afina.studies.executors.worker_process import WorkerProcess


class _OfRank(RankProcess):
    def __init__(self, worker: WorkerProcess) -> None:
        self.worker = worker

    def follow(self) -> bool:
        messages = [is_result(message) for message in self.worker.answers(ignore)]
        return bool(messages) and messages[-1]

    def kill(self) -> None:
        self.worker.process.kill()


class WorkerGroup:
    """The processes that execute one request, in the order of their ranks; they end with the `with` block.

    `most` is the largest number of groups that ran at the same time, this group included.
    """

    def __init__(self, workers: Sequence[WorkerProcess]) -> None:
        self.most, self.cancelled, self._ended = 1, False, False
        self._all = [_OfRank(worker) for worker in workers]
        self._first = workers[0]
        self._others = OtherRanks(self._all[0], self._all[1:])
        self._stack = ExitStack()

    def __enter__(self) -> WorkerGroup:
        with ExitStack() as stack:
            for one in self._all[1:]:
                stack.enter_context(one.worker)
            stack.callback(lambda: self._others.finish(at_once=not self._ended))
            stack.enter_context(self._first)  # the last, so that it ends first: with a checkpoint after Ctrl-C
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *raised: object) -> None:
        self._stack.__exit__(*raised)  # type: ignore[arg-type]

    def answers(self, listen: Listener) -> Iterator[Message]:
        """Yield the messages of rank 0 except Progressed and Failed."""
        self._others.start()
        yield from self._first.answers(listen)
        self._ended = True

    def send(self, message: Message) -> None:
        for one in self._all:
            one.worker.send(message)

    def cancel(self, *, at_once: bool) -> None:
        """End the processes, from another thread: rank 0 stops after its step and ends the others, or all die."""
        self.cancelled = True
        for one in self._all if at_once else self._all[:1]:
            one.worker.cancel(at_once=at_once)

    def failure(self) -> Exception:
        """Return the error of the processes; call it after the `with` block."""
        if self.cancelled:
            return Cancelled()
        ended = [one for one in self._all if one not in self._others.given_up or one.worker.problem is not None]
        failed = [one.worker.failure() for one in ended if one.worker.problem or one.worker.process.returncode]
        return cause(failed or [self._first.failure()])
