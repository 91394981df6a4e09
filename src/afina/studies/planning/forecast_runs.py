"""`forecast_run` forecasts the memory, disk space and time of a run before anything is trained.

The memory and file sizes are computed from the backbone's configuration without its weights (`afina.training.dry_run`).
The training time is forecast from a few real steps, if a task is given and the weights are on this machine.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache, partial
from typing import Any, Self

import numpy as np
import torch

from afina import allocator, meter
from afina import device as hardware
from afina.data.batch import TOKEN_BUDGET, Loader, Packed, by_length, pack, pack_some
from afina.data.readers.target_kinds import of_kind
from afina.data.reading_options import ReadingOptions
from afina.data.task import Task
from afina.data.token_cache import EncodedSplit, EncodedTask
from afina.data.tokenize import Encoded
from afina.errors import AfinaError, InvalidStudy, NotFound
from afina.events import Says, silent
from afina.generating.generation_memory import GenerationLoad
from afina.methods import is_fitted, make
from afina.methods.attachment import applicable
from afina.methods.method import Method
from afina.models.backbone import Backbone
from afina.models.backbone_spec import FLOAT
from afina.models.classifier import Classifier
from afina.models.language_model import open_model
from afina.models.objective import Objective
from afina.models.pretrained import meta_model
from afina.models.shared_beginning import shared_tokens
from afina.predicting.predictor import predicted
from afina.ranks import Ranks, RehearsedRanks
from afina.sentence import Sentence
from afina.studies import problems
from afina.studies.executors.worker_memory import worker_memory
from afina.studies.planning.forecast import Forecast, PromptsForecast, Terms
from afina.studies.runs.inputs import is_encoder
from afina.studies.runs.prepared import (
    aim_of,
    attached,
    check_can_shard,
    check_products,
    encoded_task,
    loader_of,
    longest_text,
    question_of,
    read_task,
    recipe_of,
)
from afina.studies.runs.spec import Ask, RunSpec
from afina.training.dry_run import DryRun, dry_run, serving_bytes
from afina.training.fit import Pace
from afina.training.inputs import inputs_of
from afina.training.probe_fit import fit_of
from afina.training.settings import Training

LeavesOut = Callable[[str, AfinaError], object]
"""A function that is called with the name of a method that is left out, and the reason."""

MADE_UP = "texts of one length"
"""The name of the made-up task in a forecast for which the user has given no task."""

EVERYTHING, USUAL, PLAIN = ReadingOptions(), Ask(), Training()
"""The default reading options, prompt and training settings of a forecast, which are those of a run."""

MOST_MADE_UP = 2**20
"""The largest number of tokens in a batch of the made-up task, because its texts are created in memory."""

MOST_STEPS = 5_000_000
"""The largest number of steps of a forecast, because the search for the largest batch of more steps takes minutes."""

ON_GPU = 1.1
"""The bytes of GPU memory of a run per byte of its tensors; a tenth is for CUDA's context and fragmentation."""

LENGTH = 128
"""The number of tokens of each made-up text if `max_length` is not set, as in preset `paper`."""


def forecast_run(
    run: RunSpec,
    task: EncodedTask | None = None,
    *,
    memory: int | None = None,
    calibrate: bool = True,
    devices: int = 1,
    sharded: bool = False,
    says: Says = silent,
) -> Forecast:
    """Return the forecast memory, disk space and time of `run` on this machine, or of the busiest of several devices.

    Args:
        task: The run's encoded task. None: the task is read and encoded.
        memory: The bytes of memory that the run may use, of each device. Default: the memory of this machine.
        calibrate: Whether a few training steps are measured to forecast the time; only if a task is given, the weights
            are on this machine, and the run has one device.
        says: A function that receives a line of text when slow work begins.

    Raises NotFound, InvalidStudy for settings that contradict each other, and OutOfMemory of the measured steps.
    """
    says(f"{run.title}: forecasting memory" + (f" on {devices} devices" if devices > 1 else ""))
    available = meter.machine_memory()
    task = task or encoded(run)
    objective, _ = aim_of(run, task)
    method = _method(run, objective)
    loader = loader_of(run, task.train, objective)
    if (steps := recipe_of(run, method, loader).steps) > MOST_STEPS:
        raise problems.TOO_MANY_STEPS(found=run.training.epochs, field="epochs", steps=steps, most=MOST_STEPS)
    if sharded:
        check_can_shard(run)
    ranks = RehearsedRanks(_busiest(run, method, loader, devices), devices, sharded)
    recipe = recipe_of(run, method, loader, ranks)
    dtype = hardware.precision(run.training.dtype, hardware.choose())
    evaluation, load = _evaluation(task, run, method.takes_positions)
    seen = dry_run(run.backbone, method, objective, loader, recipe, evaluation, dtype, load)
    gpu = memory or meter.gpu_memory(hardware.choose())
    terms = _terms(run, inputs_of(method).largest(loader, recipe), _name(dtype), memory or available, gpu)
    terms = replace(terms, devices=devices, sharded=sharded)
    one = _of_dry_run(method, seen, terms)
    there = calibrate and devices == 1 and run.task != MADE_UP and Backbone.load(run.backbone, weights=False).complete
    measured = says if there and one.peak <= available else None
    if method.in_prompt[0]:
        return replace(one, prompts=_prompts(run, method, objective, task.evaluation.encoded, measured))
    if measured is None or not one.trainable:
        return one
    return replace(one, train_seconds=_training_seconds(run, method, objective, loader, recipe.steps, measured))


def _of_dry_run(method: Method, seen: DryRun, terms: Terms) -> Forecast:
    return Forecast(
        method=method.name,
        title=method.title,
        trainable=seen.counts.trainable,
        body=seen.counts.body,
        head=seen.counts.head,
        state_bytes=seen.state_bytes,
        allocated_end=seen.gpu_state_bytes,
        activation_bytes=seen.activation_bytes,
        activation_tokens=None if seen.activation_bytes is None else terms.tokens,
        peak=terms.process + seen.tensors,
        gpu_evaluation=seen.evaluation,
        gpu_peak=round(ON_GPU * max(seen.gpu_state_bytes + seen.beyond_state, seen.evaluation)),
        disk_bytes=seen.disk_bytes,
        train_seconds=None if seen.counts.trainable else 0.0,
        terms=terms,
        on_pairs=method.pairs is not None,
    )


def _busiest(run: RunSpec, method: Method, loader: Loader, devices: int) -> int:
    """Return the rank that computes the largest micro-batch, if so many devices share each batch."""

    def tokens(rank: int) -> int:
        recipe = recipe_of(run, method, loader, Ranks(rank, devices))
        if not loader.most_parts(recipe.steps, recipe.at_once):  # it has no text of any batch
            return 0
        return len(inputs_of(method).largest(loader, recipe).tokens)

    return max(range(devices), key=tokens) if devices > 1 else 0


def _prompts(
    run: RunSpec, method: Method, objective: Objective, prompts: Encoded, says: Says | None
) -> PromptsForecast:
    """Return what the prompts of an evaluation take; without `says`, the seconds are not measured."""
    seconds = None
    if says is not None:
        says(f"{run.title}: answering a few texts to forecast the time")
        seconds = _answering_seconds(run, method, objective, prompts)
    return PromptsForecast(len(prompts), len(prompts.tokens), int(prompts.lengths.max()), seconds)


def _training_seconds(
    run: RunSpec, method: Method, objective: Objective, loader: Loader, steps: int, says: Says
) -> float:
    says(f"{run.title}: measuring a few steps to forecast the time")
    pace = seconds_per_token(run, method, objective, loader)
    return pace.step * inputs_of(method).computed(loader, steps) + pace.once * int(loader.encoded.lengths.sum())


def _method(run: RunSpec, objective: Objective) -> Method:
    """Return the run's method, with the backbone's values for hyperparameters that are not given."""
    method = make(run.method, run.hyperparameters).for_opening(objective.opening)
    if run.task == MADE_UP:  # the configuration may be all that is there
        return method.for_family(meta_model(run.backbone).config.model_type)
    return method.for_backbone(Backbone.load(run.backbone, weights=False))


ANSWERING = 5.0
"""About the number of seconds in which prompts are answered to measure the time of an evaluation."""


def _answering_seconds(run: RunSpec, method: Method, objective: Objective, prompts: Encoded) -> float:
    """Return the seconds in which the untrained model answers the prompts, measured on some of them."""
    device, training = hardware.choose(), run.training
    with allocator.memory_errors(run.title):
        backbone = Backbone.load(run.backbone)
        names, opening = objective.output_names, objective.opening
        classifier = open_model(backbone, names, run.seed, opening, exact=True, precision=training.precision)
        attached(classifier, method, run.seed, device)
        ranked = np.argsort(prompts.lengths, kind="stable")

        def pace(count: int) -> float:
            """Return the seconds per computed token of prompts of all lengths."""
            chosen = ranked[np.linspace(0, len(ranked) - 1, count).astype(np.int64)].tolist()
            some = Encoded.of([prompts[index] for index in chosen])
            began = meter.now()
            predicted(classifier, some, objective, backbone.tokenizer)
            return (meter.now() - began) / _computed(classifier, some)

        few, computed = min(2, len(prompts)), _computed(classifier, prompts)
        pace(few)  # memory is allocated
        whole = pace(few) * computed
        return pace(min(len(prompts), max(few, int(len(prompts) * ANSWERING / whole)))) * computed


def _computed(classifier: Classifier, prompts: Encoded) -> int:
    """Return the number of tokens that the model computes; a shared beginning of prompts is computed once."""
    return len(prompts.tokens) - shared_tokens(classifier, prompts) * max(0, len(prompts) - 1)


OFFERED = ("int8", "nf4")
"""The precisions of frozen weights that a forecast suggests if a run does not fit in memory."""


def smaller(run: RunSpec, task: EncodedTask, memory: int | None, *, on_gpu: bool) -> Forecast | None:
    """Return the forecast of a run with frozen weights in int8; None if it does not fit or cannot have them."""
    forecast = _in_precision(run, task, memory, OFFERED[0])
    return forecast if forecast is not None and (forecast.fits_gpu if on_gpu else forecast.fits) else None


def _in_precision(run: RunSpec, task: EncodedTask, memory: int | None, precision: str) -> Forecast | None:
    """Return the forecast of a run with frozen weights in `precision`; None if the method or this machine cannot."""
    training = run.training.model_copy(update={"precision": precision})
    try:
        return forecast_run(run.model_copy(update={"training": training}), task, memory=memory, calibrate=False)
    except (InvalidStudy, NotFound) as error:
        if error.code not in ("method.precision-unsupported", "extra.missing"):
            raise
        return None


def _evaluation(task: EncodedTask, run: RunSpec, before: int) -> tuple[Packed, GenerationLoad | None]:
    """Return the largest batch of the evaluation, and what a text-to-text task generates in it."""
    split = task.evaluation
    sequences, targets = split.encoded, None
    if split.references is not None:
        sequences, targets = split.references.sequences(split.encoded)
    batches = (indices for indices, _ in by_length(sequences, before=before))
    heaviest = max(batches, key=lambda chosen: int(sequences.lengths[chosen].sum()) + before * len(chosen))
    if targets is None:
        return pack_some(sequences, heaviest), None
    rows = [sequences[index] for index in heaviest]
    most = run.generate.max_new_tokens or task.answer_tokens or 1
    load = GenerationLoad(split.encoded, most, run.generate.beams)
    return pack(rows, [targets[index] for index in heaviest], per_token=True), load


def forecast_methods(
    backbone: str,
    methods: Sequence[Method] | None = None,
    *,
    task: str | None = None,
    data: ReadingOptions = EVERYTHING,
    ask: Ask = USUAL,
    training: Training = PLAIN,
    memory: int | None = None,
    calibrate: bool = True,
    devices: int = 1,
    compares: bool = False,
    considered: bool = False,
    among: bool = False,
    leaves_out: LeavesOut = lambda method, error: None,
    says: Says = silent,
) -> list[Forecast]:
    """Return the forecast of a run with each method; if a run does not fit in memory, also `alternatives` that fit.

    If `task` is None, the forecast assumes texts of `training.max_length` tokens (default LENGTH) with one of two
    labels. Raises InvalidStudy for a text-to-text kind without `task`, or for `products` that this machine lacks.

    Args:
        methods: None means all methods that suit the backbone's family and the task's labels.
        memory: The bytes of memory of each device. None: the memory of this machine and of its GPU.
        devices: The number of devices for which each forecast gets `on_devices`, if it is more than 1.
        compares: Whether to forecast the memory of predictions, and leave out methods that need float weights.
        considered: Whether to leave out methods that `choose` does not consider.
        among: Whether to leave out methods that do not suit the backbone. By default, InvalidStudy is raised.
    """
    check_products(training.products)
    chosen = _chosen(backbone, methods, considered=considered, leaves_out=leaves_out if among else None)
    if task:
        says(f"reading {task} and the backbone's tokenizer")
    else:
        _check_kind(data)
    shared: dict[str, Any] = {"backbone": backbone, "task": task or MADE_UP, "data": data, "ask": ask}
    shared |= {"training": training.on_encoder(None) if is_encoder(backbone) else training}
    runs = [RunSpec(**shared, method=one.name, hyperparameters=one.hyperparameters) for one in chosen]
    encodings = Encodings()
    found: list[Forecast] = []
    for run in runs:
        try:
            texts = encodings.of(run)
        except InvalidStudy:
            if methods is not None or not (make(run.method).head or make(run.method).takes_positions):
                raise
            continue  # the labels are not words, or the method's virtual tokens leave no room for such texts
        if encodings.texts is not None and not found:
            says(encodings.texts.told)
        try:
            one = forecast_run(run, texts, memory=memory, calibrate=calibrate, says=says)
        except InvalidStudy as error:
            if error.code not in _LEFT_OUT or (methods is not None and not compares):
                raise
            leaves_out(run.method, error)
        else:
            found.append(_beside(one, run, texts, memory, devices, compares=compares, says=says))
    return found


_LEFT_OUT = ("method.kind-unsupported", "method.precision-unsupported", "method.products-unsupported")
"""The codes of errors for which `forecast_methods` leaves a method out."""


def _check_kind(data: ReadingOptions) -> None:
    """Raise InvalidStudy for a text-to-text kind without a task: the lengths of target texts are unknown."""
    if data.kind is not None and of_kind(data.kind).written:
        raise problems.COST_WITHOUT_TASK(option="kind", found=data.kind, _texts="inputs and targets")


def _beside(
    one: Forecast, run: RunSpec, task: EncodedTask, memory: int | None, devices: int, *, compares: bool, says: Says
) -> Forecast:
    """Return a forecast with `on_devices`, and with `alternatives`, or with `serving_bytes` if it `compares`."""
    ways = [] if devices == 1 else _Devices.of(run, task, memory, devices, says)
    one = replace(one, on_devices=tuple(way.most for way in ways))
    helping: list[Forecast | None] = []
    if not one.fits_everywhere and not compares and one.trainable and run.training.precision == FLOAT:
        helping += [_in_precision(run, task, memory, precision) for precision in OFFERED]
    if not one.fits:
        helping += [way.fewest(lambda of: of.fits) for way in ways]
    if one.fits_gpu is False:
        helping += [way.fewest(lambda of: bool(of.fits_gpu)) for way in ways]
    different = dict.fromkeys(other for other in helping if other is not None and other.helps(one))
    one = replace(one, alternatives=tuple(different))
    if not compares:
        return one
    objective, dtype = aim_of(run, task)[0], getattr(torch, one.terms.dtype)
    precision = run.training.precision
    return replace(one, serving_bytes=serving_bytes(run.backbone, _method(run, objective), objective, dtype, precision))


class _Devices:
    """The forecasts of a run on up to a number of devices, either data parallel or sharded, each made once."""

    def __init__(self, forecast_on: Callable[..., Forecast], devices: int) -> None:
        self._on = cache(forecast_on)
        self.most = self._on(devices=devices)

    @classmethod
    def of(cls, run: RunSpec, task: EncodedTask, memory: int | None, devices: int, says: Says) -> list[Self]:
        on_several = partial(forecast_run, run, task, memory=memory, calibrate=False, says=says)
        found = [cls(on_several, devices)]
        try:
            found.append(cls(partial(on_several, sharded=True), devices))
        except InvalidStudy as error:
            if not error.code.endswith("not-sharded"):
                raise
            says(Sentence(["not sharded: ", error.sentence]))
        return found

    def fewest(self, fits: Callable[[Forecast], bool]) -> Forecast | None:
        """Return the forecast on the fewest devices, of at least 2, that fits; found by bisection."""
        if not fits(self.most):
            return None
        too_few, found = 1, self.most
        while (count := found.terms.devices) - too_few > 1:
            middle = self._on(devices=(too_few + count) // 2)
            if fits(middle):
                found = middle
            else:
                too_few = middle.terms.devices
        return found


class Encodings:
    """A cache of encoded tasks (token ids) for runs that differ only in their methods.

    The task is encoded once for each prompt, with its examples, and each number of virtual tokens, because virtual
    tokens reduce the maximum length of texts. Most methods have the same encoding.
    """

    def __init__(self, texts: Task | None = None) -> None:
        self.texts = texts
        self._made: dict[tuple[object, ...], EncodedTask] = {}

    def of(self, run: RunSpec) -> EncodedTask:
        method = make(run.method, run.hyperparameters)
        drawn = (*method.in_prompt, run.seed) if method.in_prompt[0] else ()
        asked = run.asked.model_dump_json(), method.takes_positions, drawn
        if asked not in self._made:
            if self.texts is None and run.task != MADE_UP:
                self.texts = read_task(run)
            self._made[asked] = encoded(run, self.texts)
        return self._made[asked]


def encoded(run: RunSpec, texts: Task | None = None) -> EncodedTask:
    """Return the task of `run` as token ids of its backbone, read from its address unless `texts` is given.

    Raises InvalidStudy for a made-up task if the prompts of `run` have examples, or if the examples do not fit.
    """
    if run.task == MADE_UP:
        if shots := make(run.method, run.hyperparameters).in_prompt[0]:
            raise problems.COST_WITHOUT_TASK(option="shots", found=shots, shots=shots, _texts="the training texts")
        return _made_up(run)
    backbone = Backbone.load(run.backbone, weights=False)
    length = longest_text(run, backbone.longest)
    texts = texts or read_task(run)
    return encoded_task(run, texts, backbone, question_of(run, texts, backbone), length)[0]


def _made_up(run: RunSpec) -> EncodedTask:
    """Return a made-up task with two labels, which has one training batch and one evaluation batch."""
    longest = longest_text(run, int(meta_model(run.backbone).config.max_position_embeddings))
    length = run.training.max_length or min(LENGTH, longest)

    def split(count: int) -> EncodedSplit:
        tokens, offsets = np.zeros(count * length, np.int32), np.arange(count + 1, dtype=np.int64) * length
        return EncodedSplit(Encoded(tokens, offsets, 0), np.arange(count) % 2, "")

    batch = run.training.batch_size * run.training.accumulate
    if batch * length > MOST_MADE_UP:
        raise problems.BATCH_TOO_LARGE(tokens=length, field="batch_size", found=batch, most=MOST_MADE_UP)
    return EncodedTask(run.task, ("0", "1"), split(batch), split(max(1, TOKEN_BUDGET // length)), 0)


def _chosen(
    backbone: str,
    methods: Sequence[Method] | None,
    *,
    considered: bool,
    leaves_out: LeavesOut | None = None,
) -> list[Method]:
    """Return `methods`, by default those that suit the backbone; if `considered`, those that `choose` considers."""
    chosen = _of(backbone) if methods is None else _suited(backbone, methods, leaves_out)
    return [one for one in chosen if not considered or one.practical or is_fitted(one.name)]


def _suited(backbone: str, methods: Sequence[Method], leaves_out: LeavesOut | None) -> list[Method]:
    """Return those of the methods that suit the backbone's family; without `leaves_out`, raise InvalidStudy."""
    family, found = meta_model(backbone).config.model_type, []
    for one in methods:
        try:
            one.for_family(family)
        except InvalidStudy as error:
            if leaves_out is None:
                raise
            leaves_out(one.name, error.within(f"{backbone}: "))
        else:
            found.append(one)
    return found


def _of(backbone: str) -> list[Method]:
    family = meta_model(backbone).config.model_type
    return [make(name).for_family(family) for name in applicable(backbone)]


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _terms(run: RunSpec, largest: Packed, dtype: str, memory: int, gpu: int | None) -> Terms:
    return Terms(
        backbone=run.backbone,
        task=None if run.task == MADE_UP else run.task,
        dtype=dtype,
        usual_dtype=_name(hardware.precision("auto", hardware.choose())),
        precision=run.training.precision,
        products=run.training.products,
        texts=len(largest),
        tokens=len(largest.tokens),
        longest=int(largest.bounds.diff().max()),
        epochs=run.training.epochs,
        memory=memory,
        process=worker_memory(),
        gpu=gpu,
    )


WARM_UP, MEASURED = 1, 3
"""The number of untimed first steps, in which memory is allocated, and the number of timed steps."""


def seconds_per_token(run: RunSpec, method: Method, objective: Objective, loader: Loader) -> Pace:
    """Return the training seconds per token, measured on the run's first batches with a model of its own."""
    check_products(run.training.products)
    device = hardware.choose()
    with allocator.memory_errors(run.title):
        names, opening, precision = objective.output_names, objective.opening, run.training.precision
        classifier = open_model(Backbone.load(run.backbone), names, run.seed, opening, precision=precision)
        attached(classifier, method, run.seed, device)
        recipe = replace(recipe_of(run, method, loader), steps=WARM_UP + MEASURED)
        dtype = hardware.precision(run.training.dtype, device)
        fit = fit_of(method)(classifier, method, objective, loader, recipe, dtype)
        return fit.pace(WARM_UP, MEASURED)
