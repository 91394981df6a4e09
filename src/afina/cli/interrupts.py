"""Ctrl-C and SIGTERM: what a command does when it is asked to end. Knows no command."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

INTERRUPTED, TERMINATED = 130, 143
"""Exit statuses, as shells have them: 128 and the signal's number."""


class Terminated(KeyboardInterrupt):
    """SIGTERM, which ends what goes on as Ctrl-C does."""


def _raise(*_: object) -> None:
    raise Terminated


@contextmanager
def sigterm_as_ctrl_c() -> Iterator[None]:
    """Raise Terminated in the block where SIGTERM comes: as services and schedulers end a process."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, _raise)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def exit_status(ended: KeyboardInterrupt) -> int:
    """Of a command that was ended so."""
    return TERMINATED if isinstance(ended, Terminated) else INTERRUPTED
