"""Memory that runs share: which of them has to wait until others have ended. Starts without torch."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

from afina.studies import stages
from afina.studies.portfolio import DEAREST
from afina.studies.runs.executor import MemoryForecast
from afina.studies.runs.run import Run
from afina.studies.setting import Setting
from afina.studies.watcher import Watcher

MORE = 2
"""No method takes more than so many times the memory of the dearest one."""

AT_FIRST = 2_000
"""Training texts that are read before it is known how many there is time for."""


def wait_for_memory(
    run: Run,
    memory: MemoryForecast | None,
    beside: Callable[[], Iterable[Run]],
    end: Callable[[], object],
    watcher: Watcher,
) -> None:
    """Have runs end until `run` fits beside those under way; one that fits beside none goes on alone.

    beside  the runs under way;  end  waits for one of them
    """
    told = False
    while memory and (left := memory.left(run, beside())) is not None:
        if not told:
            watcher.waits(run, memory.needed[run.key], left)
        told = True
        end()


def like(setting: Setting, method: str) -> Run:
    """A run that needs as much memory as the trainings of a method."""
    return setting.run(method, train_examples=min(AT_FIRST, len(setting.task.train)))


def of_methods(setting: Setting, methods: Sequence[str]) -> MemoryForecast | None:
    """What trainings of these methods need, by the keys of runs `like` them; None where it is no matter."""
    executor = setting.executor
    if executor.slots == 1:
        return None
    with setting.stages.of(stages.MEMORY):
        if DEAREST in methods:  # to foresee the others too takes seconds each
            dearest = like(setting, DEAREST)
            found = executor.foresee([dearest])
            if found is None or executor.slots * MORE * found.needed.get(dearest.key, math.inf) <= found.available:
                return None
        return executor.foresee([like(setting, method) for method in methods])
