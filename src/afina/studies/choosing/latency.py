"""How fast models answer a single text on this machine, and which of them are too slow to be tried.

Each measurement has a process of its own. The frozen backbone is measured first. A method on it is measured only if its
additions decide whether it is fast enough. Starts without torch.
"""

from __future__ import annotations

from statistics import median

from afina.studies import problems
from afina.studies.choosing import time_budget
from afina.studies.choosing.eligibility import Eligible, every_method_on
from afina.studies.choosing.recommendation import Dropped
from afina.studies.choosing.setup import ChoiceSetup, Way
from afina.studies.executors.executor import Overrun
from afina.studies.executors.worker import AnswersTimed, TimeAnswers
from afina.studies.executors.worker_process import WorkerProcess

TEXTS = 20
"""The number of texts whose answers are timed."""

ADDED = 2.0
"""No method answers later than this many times the frozen model."""


def milliseconds(setting: ChoiceSetup, way: Way, *, bare: bool) -> float:
    """Return the median time of an answer to a single held-out text. Raises AfinaError or Overrun."""
    some = {"train_examples": setting.read_first, "evaluation_examples": 2 * TEXTS}
    request = TimeAnswers(run=setting.run(way, **some), texts=TEXTS, bare=bare)
    with WorkerProcess(request, setting.clock.end, None) as worker:
        for message in worker.answers(lambda progress: None):
            if isinstance(message, AnswersTimed):
                return 1000 * median(message.seconds)
    raise worker.failure()


def leave_out_slow(setting: ChoiceSetup, tried: Eligible) -> None:
    """Leave out ways whose answers take longer than `setting.latency`, and note the measured times in `tried`.

    Raises:
        InvalidStudy: No way is fast enough.
    """
    if setting.latency is None or not tried.ways:
        return
    with setting.stages.of(time_budget.LATENCY):
        for backbone in dict.fromkeys(way.backbone for way in tried.ways):
            _leave_out_slow_on(backbone, setting, setting.latency, tried)
    if not tried.ways:
        measured = ", ".join(f"{name} {time:,.3g} ms" for name, time in tried.latencies.items())
        raise problems.TOO_SLOW(_measured=measured, latency=setting.latency, measured=tried.latencies)


def _leave_out_slow_on(backbone: str, setting: ChoiceSetup, most: float, tried: Eligible) -> None:
    name = setting.names[backbone]
    ways = [way for way in tried.ways if way.backbone == backbone]
    setting.watcher.says(f"measuring how fast {name} answers")
    try:
        bare = tried.latencies[name] = milliseconds(setting, ways[0], bare=True)
    except Overrun:
        tried.ways = [way for way in tried.ways if way.backbone != backbone]
        tried.dropped[every_method_on(name)] = Dropped(why="start")
        return
    setting.watcher.says(f"{name} answers a single text in {bare:,.3g} ms")
    if bare > most:
        tried.ways = [way for way in tried.ways if way.backbone != backbone]
        tried.dropped[every_method_on(name)] = Dropped(why="latency", milliseconds=bare)
        return
    for way in ways if ADDED * bare > most else []:
        found = tried.latencies[setting.name(way)] = milliseconds(setting, way, bare=False)
        if found > most:
            tried.ways.remove(way)
            tried.dropped[setting.name(way)] = Dropped(why="latency", milliseconds=found)
