"""`worker_memory` measures the memory of a worker process without model and data: that of Python and the libraries.

The measured worker does a little of each thing that a run does, because libraries load much of their code only when it
is used. The module can be imported without torch.
"""

from __future__ import annotations

import sys
from functools import cache

from afina import allocator, meter
from afina.studies.executors import fork_server


def prepare() -> None:
    """Start the fork server for the process in which `worker_memory` measures, without waiting for its imports."""
    fork_server.prepare(allocator.environment_of_one_run())


@cache
def worker_memory() -> int:
    """Return the bytes of memory of a worker without model and data, measured once in a new process."""
    worker = fork_server.start(__name__, allocator.environment_of_one_run(), lambda: True)
    assert worker.stdin is not None
    assert worker.stdout is not None
    with worker.stdin, worker.stdout:
        measured = worker.stdout.read()
    worker.wait()
    return int(measured)


def main() -> int:
    fork_server.import_libraries()
    import numpy
    import torch

    from afina.stats import classification

    layer = torch.nn.Linear(8, 8)
    optimizer = torch.optim.AdamW(layer.parameters())
    layer(torch.ones(1, 8)).sum().backward()
    optimizer.step()
    classification.f1(numpy.array([0, 1]), numpy.array([0, 1]), 2)
    sys.stdout.write(f"{meter.rss()}\n")
    sys.stdout.flush()
    return 0


if __name__ == "__main__":
    allocator.collect_seldom()
    allocator.end_at_once(main())
