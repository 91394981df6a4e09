"""One run in a process of its own: `python -m afina.worker`, started by `afina.study`.

Reads one JSON line from standard input, {"run": ..., "out": ..., "study": ...}; writes JSON lines to
standard output: {"progress": ...} now and then, and at the end {"record": ...} or {"error": ...}. Ends
at once when its standard input closes, so that no run outlives the study that asked for it.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from dataclasses import asdict
from pathlib import Path
from typing import Any, TextIO

from afina import meter
from afina.errors import AfinaError
from afina.progress import Progress
from afina.run import Run

_PAUSE = 0.2
"""Seconds between two progress lines of one phase."""


def _end_with_parent() -> None:
    # Not sys.stdin: a thread that waits in its buffer makes the interpreter's own shutdown abort.
    while os.read(0, 1 << 16):
        pass
    os._exit(1)


class _Reporter:
    def __init__(self, stream: TextIO) -> None:
        self.stream, self.phase, self.last = stream, "", 0.0

    def send(self, **message: Any) -> None:
        try:
            self.stream.write(json.dumps(message) + "\n")
            self.stream.flush()
        except BrokenPipeError:
            os._exit(1)  # the study is gone

    def progress(self, progress: Progress) -> None:
        if progress.phase != self.phase or progress.step == progress.steps or meter.now() - self.last >= _PAUSE:
            self.phase, self.last = progress.phase, meter.now()
            self.send(progress=asdict(progress))


def main() -> int:
    """Carry out the run described on standard input; 0 when it is recorded, 2 when the user can mend what failed."""
    # Whatever a library prints must not reach the channel.
    reporter = _Reporter(os.fdopen(os.dup(1), "w", encoding="utf-8"))
    os.dup2(2, 1)
    line = sys.stdin.buffer.readline()
    if not line.endswith(b"\n"):
        return 1  # the study ended before it had asked for anything
    request = json.loads(line)
    threading.Thread(target=_end_with_parent, daemon=True).start()

    from afina.execute import execute

    try:
        record = execute(
            Run.model_validate(request["run"]), Path(request["out"]), study=request["study"], listen=reporter.progress
        )
    except AfinaError as error:
        reporter.send(error=str(error))
        return error.exit_code
    reporter.send(record=record.model_dump(mode="json"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
