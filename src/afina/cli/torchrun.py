"""`torchrun -m afina train ...`: rank 0 executes the command and prints; the other processes compute its run with it.

Every process that torchrun has started calls `begin`. The module loads torch only in such a process.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from afina import allocator
from afina.cli import problems
from afina.cli.terminal import printable
from afina.errors import AfinaError

if TYPE_CHECKING:
    from afina.studies.executors.torchrun_executor import TorchrunExecutor

_begun: list[TorchrunExecutor] = []
"""The executor of this process, if it is rank 0 of several; else empty."""


def processes() -> int:
    """Return the number of processes that torchrun has started for the command; 1 without torchrun."""
    count = os.environ.get("WORLD_SIZE", "")
    return int(count) if count.isdecimal() and os.environ.get("RANK", "").isdecimal() else 1


def begin(arguments: Sequence[str]) -> None:
    """Join the processes that torchrun has started; in a rank other than 0, compute its runs and end the process.

    Without torchrun, do nothing. Raises InvalidStudy, in rank 0, for a command that several processes cannot share.
    """
    if (count := processes()) == 1:
        return
    rank = int(os.environ["RANK"])
    command = next((word for word in arguments if not word.startswith("-")), None)
    if command != "train" or {"-h", "--help"} & {*arguments}:
        if rank > 0:
            sys.exit()  # without an error, so that torchrun does not end rank 0 before it has printed
        if command is None or command == "train":
            return
        raise problems.COMMAND_OF_TORCHRUN(command=command, processes=count)
    from afina.ranks import Ranks
    from afina.studies.executors.torchrun_executor import TorchrunExecutor, follow

    allocator.keep_kernels(allocator.MANY)
    ranks = Ranks.of_environment()
    if rank > 0:
        allocator.end_at_once(follow(ranks, _say))
    _begun.append(TorchrunExecutor(ranks))


def _say(error: AfinaError) -> None:
    print(f"Error: {printable(str(error), lines=True)}", file=sys.stderr, flush=True)


def executor() -> TorchrunExecutor | None:
    """Return the executor of the processes that torchrun has started; None without torchrun."""
    return next(iter(_begun), None)


def end() -> None:
    """End the other processes, if this process is rank 0 of several."""
    while _begun:
        _begun.pop().close()


def command(arguments: Sequence[str]) -> list[str]:
    """Return the command line that repeats the command: with torchrun if torchrun has started this process."""
    if processes() == 1:
        return ["afina", *arguments]
    local, nodes = (os.environ.get(name, "1") for name in ("LOCAL_WORLD_SIZE", "GROUP_WORLD_SIZE"))
    several = [] if nodes == "1" else ["--nnodes", nodes]
    return ["torchrun", *several, "--nproc-per-node", local, "-m", "afina", *arguments]
