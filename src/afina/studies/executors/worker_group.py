"""`WorkerGroup`: the processes on this machine that execute one request together, one process for each device.

The process of rank 0 reports progress and the result. The module can be imported without torch.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack

from afina import meter
from afina.events import Listener, ignore
from afina.studies.executors.executor import Cancelled
from afina.studies.executors.lost_runs import GRACE, LATE, cause
from afina.studies.executors.worker import Message, is_result
from afina.studies.executors.worker_process import WorkerProcess


class WorkerGroup:
    """The processes that execute one request, in the order of their ranks; they end with the `with` block.

    `most` is the largest number of groups that ran at the same time, this group included.
    """

    def __init__(self, workers: Sequence[WorkerProcess]) -> None:
        self.most, self.cancelled = 1, False
        self._workers, self._first = workers, workers[0]
        self._killed: set[WorkerProcess] = set()  # they are not the cause of an error
        self._has_ended = False
        self._lock, self._over = threading.Lock(), threading.Event()
        self._threads = {
            worker: threading.Thread(target=self._follow, args=(worker,), name="afina-rank", daemon=True)
            for worker in workers[1:]
        }
        self._stack = ExitStack()

    def __enter__(self) -> WorkerGroup:
        with ExitStack() as stack:
            for worker in self._threads:
                stack.enter_context(worker)
            stack.callback(self._end_others)
            stack.enter_context(self._first)  # the last, so that it ends first: with a checkpoint after Ctrl-C
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *raised: object) -> None:
        self._stack.__exit__(*raised)  # type: ignore[arg-type]

    def answers(self, listen: Listener) -> Iterator[Message]:
        """Yield the messages of rank 0 except Progressed and Failed."""
        for thread in self._threads.values():
            thread.start()
        yield from self._first.answers(listen)
        self._has_ended = True

    def _follow(self, worker: WorkerProcess) -> None:
        """Wait until a process has ended. If it has no result, kill rank 0 GRACE seconds later."""
        messages = [is_result(message) for message in worker.answers(ignore)]
        if (messages and messages[-1]) or self._over.wait(GRACE):
            return
        with self._lock:
            if not self._over.is_set() and self._first not in self._killed:
                self._kill(self._first)

    def _kill(self, worker: WorkerProcess) -> None:
        self._killed.add(worker)
        worker.process.kill()

    def _end_others(self) -> None:
        """Wait until the processes beside rank 0 have ended, and kill them after GRACE, or now if rank 0 was ended."""
        with self._lock:
            self._over.set()
        threads = [thread for thread in self._threads.values() if thread.ident is not None]
        if self._has_ended:
            _join(threads, GRACE)
        for worker, thread in self._threads.items():
            if thread.ident is None or thread.is_alive():
                self._kill(worker)
        _join(threads, LATE)

    def send(self, message: Message) -> None:
        for worker in self._workers:
            worker.send(message)

    def cancel(self, *, at_once: bool) -> None:
        """End the processes, from another thread: rank 0 stops after its step and ends the others, or all die."""
        self.cancelled = True
        for worker in self._workers if at_once else self._workers[:1]:
            worker.cancel(at_once=at_once)

    def failure(self) -> Exception:
        """Return the error of the processes; call it after the `with` block."""
        if self.cancelled:
            return Cancelled()
        ended = [worker for worker in self._workers if worker not in self._killed or worker.problem is not None]
        failed = [worker.failure() for worker in ended if worker.problem or worker.process.returncode]
        return cause(failed or [self._first.failure()])


def _join(threads: Sequence[threading.Thread], seconds: float) -> None:
    until = meter.now() + seconds
    for thread in threads:
        thread.join(max(0.0, until - meter.now()))
