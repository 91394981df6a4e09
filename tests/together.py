"""Functions that several processes compute together, as the ranks of a run."""

from __future__ import annotations

import multiprocessing
import socket
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any, TypeVar

from afina.ranks import Ranks

Result = TypeVar("Result")


def free_address() -> str:
    """Where processes of this machine can meet: a free port."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return f"tcp://127.0.0.1:{one.getsockname()[1]}"


def together(
    count: int, function: Callable[..., Result], *given: Any, shards: bool = False, timeout: float = 300.0
) -> list[Result]:
    """Call `function(ranks, *given)` in so many new processes of one thread, and return the results of the ranks.

    The function is that of a module; results and arguments are pickled. `timeout` is that of sums.
    """
    address = free_address()
    with ProcessPoolExecutor(count, mp_context=multiprocessing.get_context("spawn")) as pool:
        calls = [pool.submit(_one, (rank, count, address, shards, timeout), function, given) for rank in range(count)]
        return [call.result() for call in calls]


def _one(place: tuple[int, int, str, bool, float], function: Callable[..., Result], given: tuple[Any, ...]) -> Result:
    import torch

    torch.set_num_threads(1)
    rank, count, address, shards, timeout = place
    local = rank if rank < torch.cuda.device_count() else 0
    ranks = Ranks.joined(rank, count, address, local=local, shards=shards, timeout=timeout)
    try:
        return function(ranks, *given)
    finally:
        ranks.close()
