"""The methods on backbones that a recommendation can try: they are supported, fit in memory, and are fast enough.

The time of a prediction for a single text is measured in a new process, first for the frozen backbone. The time of a
method on the backbone is measured only if the method's added weights decide whether the model is fast enough.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import median

from afina import meter
from afina.data.readers.target_kinds import TARGETS
from afina.errors import InvalidStudy
from afina.methods import METHODS, is_fitted, make
from afina.models.architectures import ARCHITECTURES
from afina.models.backbone_spec import FLOAT
from afina.studies import problems
from afina.studies.choosing import time_budget
from afina.studies.choosing.recommendation import Dropped
from afina.studies.choosing.recorded_curves import RECORDED_ON, BackboneKind
from afina.studies.choosing.setup import DEAREST, MORE, ChoiceSetup, Way
from afina.studies.executors.executor import Overrun
from afina.studies.executors.worker import AnswersTimed, TimeAnswers
from afina.studies.executors.worker_process import WorkerProcess
from afina.studies.runs.inputs import embeds_sentences
from afina.studies.runs.run import Run


@dataclass
class Eligible:
    """The methods on backbones that a recommendation can try, and the reasons why others cannot be tried.

    `lowered`: training computes in bfloat16 or int8. `dropped` and `latencies`, the milliseconds per prediction, are by
    the name of a backbone or of a method on a backbone.
    """

    ways: list[Way] = field(default_factory=list)
    kinds: dict[str, BackboneKind] = field(default_factory=dict)
    lowered: bool = False
    dropped: dict[str, Dropped] = field(default_factory=dict)
    latencies: dict[str, float] = field(default_factory=dict)

    @property
    def untrained(self) -> list[Way]:
        """The zero-shot methods."""
        return [way for way in self.ways if METHODS[way.method].head == "words"]

    @property
    def trained(self) -> list[Way]:
        return [way for way in self.ways if METHODS[way.method].head != "words"]


def kind_of(address: str) -> BackboneKind:
    """Read the kind from a backbone's configuration. Raises NotFound or InvalidStudy."""
    from afina.models.pretrained import meta_model  # loads torch

    entry = ARCHITECTURES[meta_model(address).config.model_type]
    return "encoder" if entry.is_encoder else "causal"


EVERY_METHOD_ON = "every method on "
"""The beginning of a key of `Eligible.dropped` for a backbone on which no method can be tried."""

CERTAIN = 1 << 30, 8
"""The bytes of a process, and of each parameter, that suffice for a fitted method without a forecast of its memory."""


def fitted_on_cheapest(setting: ChoiceSetup, memory: int | None) -> Eligible:
    """Return the fitted methods, such as the linear probe, on the smallest of several backbones.

    Returns no method for one backbone, with a latency limit, or if the memory may not suffice.
    """
    if len(setting.backbones) == 1 or setting.latency is not None:
        return Eligible()
    from afina.methods.attachment import applicable  # these load torch
    from afina.models.pretrained import meta_model

    kinds = {backbone: kind_of(backbone) for backbone in setting.backbones}
    sizes = {
        backbone: meta_model(backbone).num_parameters()
        for backbone, kind in kinds.items()
        if not _unsupported(setting, backbone, kind)
    }
    size, (process, parameter) = _limit(setting, memory).size, CERTAIN
    if not sizes:
        return Eligible()
    cheapest = min(sizes, key=lambda backbone: sizes[backbone])
    if size is not None and size < process + parameter * sizes[cheapest]:
        return Eligible()
    fitted = applicable(cheapest, [name for name in METHODS if is_fitted(name)], setting.objective.opening)
    return Eligible([Way(cheapest, name) for name in fitted], {cheapest: kinds[cheapest]})


def eligible(setting: ChoiceSetup, memory: int | None) -> Eligible:
    """Return the methods that the backbones support and that fit in memory. Raises NotFound or InvalidStudy.

    `memory`: the bytes that each process of a run may use. None: the processes share the memory of this machine, or
    each has that of the largest node of a cluster.
    """
    made = Eligible()
    limit = _limit(setting, memory)
    for backbone in setting.backbones:
        made.kinds[backbone] = kind = kind_of(backbone)
        if problem := _unsupported(setting, backbone, kind):
            made.dropped[EVERY_METHOD_ON + setting.names[backbone]] = Dropped(why="error", message=problem)
            continue
        _say_what_is_recorded(setting, backbone, kind)
        _add_what_fits(setting, backbone, made, limit)
    if len(made.kinds) == sum(name.startswith(EVERY_METHOD_ON) for name in made.dropped):
        raise problems.NO_BACKBONE_SUPPORTS_TASK(
            reason=next(iter(made.dropped.values())).message, backbones=list(setting.backbones)
        )
    return made


@dataclass(frozen=True)
class _Limit:
    """The bytes that a run may use, of main memory or of the GPU."""

    size: int | None
    on_gpu: bool


def _limit(setting: ChoiceSetup, memory: int | None) -> _Limit:
    from afina import device  # loads torch

    elsewhere = setting.executor.largest_memory()
    gpu = meter.gpu_memory(device.choose()) if elsewhere is None else None
    there = [elsewhere if gpu is None else gpu]
    if elsewhere is None and gpu is None:  # the processes of a run share the memory of this machine
        found = (meter.memory_available(), meter.machine_memory())
        there = [size // setting.executor.devices for size in found if size is not None]
    size = memory if memory is not None else min((size for size in there if size is not None), default=None)
    return _Limit(size, gpu is not None)


def _unsupported(setting: ChoiceSetup, backbone: str, kind: BackboneKind) -> str:
    """Return why no method on a backbone can do the task, as a clause; "" if a method can."""
    if kind != "encoder":
        return ""
    if TARGETS[setting.objective.kind].written:
        return f"{backbone} is an encoder, which cannot write texts. Give a causal language model"
    if (setting.ask.head == "words" or setting.ask.words) and not embeds_sentences(backbone):
        return (
            f"{backbone} is an encoder, which cannot be asked in words. Leave the words out, or give a causal language "
            "model"
        )
    return ""


def _say_what_is_recorded(setting: ChoiceSetup, backbone: str, kind: BackboneKind) -> None:
    if backbone != RECORDED_ON[kind]:
        setting.watcher.says(
            f"backbone {backbone}: no learning curve of this backbone was recorded. Its order of settings is that of "
            f"{RECORDED_ON[kind]}, which is {'an encoder' if kind == 'encoder' else 'a causal model'} too"
        )


def _add_what_fits(setting: ChoiceSetup, backbone: str, made: Eligible, limit: _Limit) -> None:
    """Add the methods on a backbone that fit in memory, and the reasons why others cannot be tried."""
    from afina.methods.attachment import applicable  # these load torch
    from afina.studies.planning import forecast_runs

    considered = [
        name
        for name, kind in METHODS.items()
        if kind.practical
        or kind.is_fitted
        or name in setting.lessons.further
        or (kind.head == "words" and made.kinds[backbone] == "causal")
    ]
    runs = [setting.run(Way(backbone, name)) for name in applicable(backbone, considered, setting.objective.opening)]
    encodings = forecast_runs.Encodings(setting.task)
    fitting: set[str] = set()
    most: int | None = None  # the memory of the most expensive method
    least: tuple[int, Run] | None = None  # the smallest memory that is too much, and its run
    for run in sorted(runs, key=lambda one: one.method != DEAREST):
        try:
            texts = encodings.of(run)
        except InvalidStudy as error:
            if make(run.method).head is None:
                raise
            unasked = error.code in ("words.missing", "words.ambiguous")
            made.dropped[run.title] = Dropped(why="words") if unasked else Dropped(why="error", message=str(error))
            continue
        if most is not None and limit.size is not None and MORE * most <= limit.size:
            fitting.add(run.method)  # a forecast of its memory would take seconds
            continue
        one = forecast_runs.forecast_run(run, texts, memory=limit.size, calibrate=False)
        made.lowered = one.terms.dtype == "bfloat16" or setting.products != FLOAT
        fits, needed = (bool(one.fits_gpu), one.gpu_peak) if limit.on_gpu else (one.fits, one.peak)
        if fits:
            fitting.add(one.method)
        else:
            made.dropped[run.title] = Dropped(why="memory", needed=needed, available=one.terms.memory)
            least = min(least or (needed, run), (needed, run), key=lambda found: found[0])
        if one.method == DEAREST:
            most = needed
    if not fitting and least is not None:
        _, run = least
        other = forecast_runs.smaller(run, encodings.of(run), limit.size, on_gpu=limit.on_gpu)
        if other is not None:
            smaller = other.gpu_peak if limit.on_gpu else other.peak
            made.dropped[run.title] = made.dropped[run.title].model_copy(update={"smaller": smaller})
    made.ways += [Way(run.backbone, run.method) for run in runs if run.method in fitting]


TEXTS = 20
"""The number of texts for which the time of a prediction is measured."""

ADDED = 2.0
"""A prediction with a method's added weights is assumed to take at most this many times as long as without them."""


def milliseconds(setting: ChoiceSetup, way: Way, *, bare: bool) -> float:
    """Return the median milliseconds of a prediction for a single held-out text, or of the `bare` frozen backbone."""
    some = {"train_examples": setting.read_first, "evaluation_examples": 2 * TEXTS}
    request = TimeAnswers(run=setting.run(way, **some), texts=TEXTS, bare=bare)
    with WorkerProcess(request, setting.clock.end, None) as worker:
        for message in worker.answers(lambda progress: None):
            if isinstance(message, AnswersTimed):
                return 1000 * median(message.seconds)
    raise worker.failure()


def leave_out_slow(setting: ChoiceSetup, tried: Eligible) -> None:
    """Remove the methods whose predictions take too long (`setting.latency`). Raises InvalidStudy if none is left."""
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
        tried.dropped[EVERY_METHOD_ON + name] = Dropped(why="start")
        return
    setting.watcher.says(f"{name} answers a single text in {bare:,.3g} ms")
    if bare > most:
        tried.ways = [way for way in tried.ways if way.backbone != backbone]
        tried.dropped[EVERY_METHOD_ON + name] = Dropped(why="latency", milliseconds=bare)
        return
    for way in ways if ADDED * bare > most else []:
        found = tried.latencies[setting.name(way)] = milliseconds(setting, way, bare=False)
        if found > most:
            tried.ways.remove(way)
            tried.dropped[setting.name(way)] = Dropped(why="latency", milliseconds=found)
