"""Forecast what a run will cost in memory, disk space and time, before anything is trained.

Memory and sizes come from the backbone's configuration alone (`afina.training.dry_run`); time from a few real steps,
where a task is given and the weights are there.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import cache

import numpy as np
import torch

from afina import device as devices
from afina import meter
from afina.data.batch import TOKEN_BUDGET, Loader, Packed, by_length
from afina.data.task import Task
from afina.data.token_cache import EncodedSplit, EncodedTask
from afina.data.tokenize import Encoded
from afina.errors import InvalidStudy, OutOfMemory
from afina.events import Says, silent
from afina.methods import make
from afina.methods.attachment import applicable
from afina.methods.method import Method
from afina.models.backbone import Backbone
from afina.models.classifier import Classifier
from afina.models.objective import Objective
from afina.models.pretrained import meta_model
from afina.studies.runs.prepared import aim_of, attached, loader_of, longest_text, question_of, read_task, recipe_of
from afina.studies.runs.run import Forecast, Terms
from afina.studies.runs.spec import Ask, Data, RunSpec, Training
from afina.training.dry_run import dry_run
from afina.training.fit import Fit
from afina.training.inputs import inputs_of

MADE_UP = "texts of one length"
"""Stands for the task of a run that is foreseen from the backbone's configuration alone."""

EVERYTHING, USUAL, PLAIN = Data(), Ask(), Training()
"""What is foreseen where nothing is said: what a run would do, in what it would compute in here."""

MOST_MADE_UP = 2**20
"""Tokens of a batch of made-up texts, which are laid out one by one."""

MOST_STEPS = 5_000_000
"""Whose batches are looked through for the largest, which takes minutes."""

LENGTH = 128
"""Tokens of each made-up text where `max_length` does not say: what the paper padded its texts to."""


def _check_steps(run: RunSpec, steps: int) -> None:
    if steps > MOST_STEPS:
        raise InvalidStudy(
            f"`epochs` {run.training.epochs:,}: {steps:,} steps are more than the {MOST_STEPS:,} of which the cost is "
            "foreseen. Set less.",
            code="plan.too-large",
            field="epochs",
            steps=steps,
            most=MOST_STEPS,
        )


def forecast_run(
    run: RunSpec,
    task: EncodedTask | None = None,
    *,
    memory: int | None = None,
    calibrate: bool = True,
    says: Says = silent,
) -> Forecast:
    """What `run` costs on this machine.

    task       its task as `encoded` gives it, where that is known already
    memory     bytes to fit in; by default those of this machine
    calibrate  with a real task whose backbone's weights are here: take a few steps to foresee the time
    says       told what takes its time, when it begins

    Raises NotFound for a backbone or task that is not there, InvalidStudy for settings that do not go together,
    OutOfMemory where a GPU cannot take those steps.
    """
    says(f"{run.title}: what it takes in memory")
    available = meter.machine_memory()
    limit = memory or available
    task = task or encoded(run)
    method = make(run.method, run.hyperparameters).for_family(meta_model(run.backbone).config.model_type)
    objective, _ = aim_of(run, task)
    loader = loader_of(run, task.train, objective)
    recipe, dtype = recipe_of(run, method, loader), devices.precision(run.training.dtype, devices.choose())
    _check_steps(run, recipe.steps)
    before = method.takes_positions
    batches = (packed for _, packed in by_length(task.evaluation.encoded, before=before))
    heaviest = max(batches, key=lambda one: len(one.tokens) + before * len(one))
    seen = dry_run(run.backbone, method, objective, loader, recipe, heaviest, dtype, run.training.precision)
    inputs = inputs_of(method)
    gpu = memory or meter.gpu_memory(devices.choose())
    terms = _terms(run, inputs.largest(loader, recipe), str(dtype).removeprefix("torch."), limit, gpu)
    one = Forecast(
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
        gpu_peak=seen.gpu_state_bytes + seen.beyond_state,
        disk_bytes=seen.disk_bytes,
        train_seconds=None if seen.counts.trainable else 0.0,
        terms=terms,
    )
    there = calibrate and run.task != MADE_UP and Backbone.load(run.backbone, weights=False).complete
    if there and one.trainable and one.peak <= available:
        says(f"{run.title}: a few steps, for the time")
        pace = seconds_per_token(run, method, objective, loader)
        one = replace(one, train_seconds=pace * inputs.computed(loader, recipe.steps))
    return one


def forecast_methods(
    backbone: str,
    methods: Sequence[Method] | None = None,
    *,
    task: str | None = None,
    data: Data = EVERYTHING,
    ask: Ask = USUAL,
    training: Training = PLAIN,
    memory: int | None = None,
    calibrate: bool = True,
    says: Says = silent,
) -> list[Forecast]:
    """The `forecast_run` of each method; without `task`, of texts that all have `training.max_length` tokens (LENGTH).

    methods  by default all that the backbone's family has, and that the task's labels allow
    ask      how a task's texts are asked about, which says in what template they are read
    says     told what takes its time, when it begins
    """
    if task:
        says(f"reading {task} and the backbone's tokenizer")
    runs = [
        RunSpec(
            backbone=backbone,
            task=task or MADE_UP,
            method=method.name,
            hyperparameters=method.hyperparameters,
            data=data,
            ask=ask,
            training=training,
        )
        for method in (_of(backbone) if methods is None else methods)
    ]
    encodings = Encodings()
    found: list[Forecast] = []
    for run in runs:
        try:
            texts = encodings.of(run)
        except InvalidStudy:
            if methods is not None or not (make(run.method).head or make(run.method).takes_positions):
                raise
            continue  # its labels are no words, or what the method puts before texts of this length is too much
        if encodings.texts is not None and not found:
            says(encodings.texts.told)
        found.append(forecast_run(run, texts, memory=memory, calibrate=calibrate, says=says))
    return found


class Encodings:
    """The `encoded` tasks of runs that differ in their methods: one for each way of asking and each length that their
    methods leave to a text, which most of them share.

    texts  the task where it is read already
    """

    def __init__(self, texts: Task | None = None) -> None:
        self.texts = texts
        self._made: dict[tuple[str, int], EncodedTask] = {}

    def of(self, run: RunSpec) -> EncodedTask:
        """That of `run`. Raises what `encoded` does."""
        asked = run.asked.model_dump_json(), make(run.method, run.hyperparameters).takes_positions
        if asked not in self._made:
            if self.texts is None and run.task != MADE_UP:
                self.texts = read_task(run)
            self._made[asked] = encoded(run, self.texts)
        return self._made[asked]


def encoded(run: RunSpec, texts: Task | None = None) -> EncodedTask:
    """The task of `run` in its backbone's tokens; `texts` where it is read already. Reads no weights."""
    if run.task == MADE_UP:
        return _made_up(run)
    backbone = Backbone.load(run.backbone, weights=False)
    length = longest_text(run, backbone.longest)
    texts = texts or read_task(run)
    template = question_of(run, texts, backbone.tokenizer).template
    return EncodedTask.of(texts, backbone.tokenizer, backbone.tokenizer_digest, length, template)


def _made_up(run: RunSpec) -> EncodedTask:
    """One training batch and one to evaluate, with two labels."""
    longest = longest_text(run, int(meta_model(run.backbone).config.max_position_embeddings))
    length = run.training.max_length or min(LENGTH, longest)

    def split(count: int) -> EncodedSplit:
        tokens, offsets = np.zeros(count * length, np.int32), np.arange(count + 1, dtype=np.int64) * length
        return EncodedSplit(Encoded(tokens, offsets, 0), np.zeros(count, np.int64), "")

    batch = run.training.batch_size * run.training.accumulate
    if batch * length > MOST_MADE_UP:
        raise InvalidStudy(
            f"`batch_size` {batch:,}: with {length:,} tokens a text that is more than the {MOST_MADE_UP:,} tokens of "
            "which the cost is foreseen. Set less.",
            code="plan.too-large",
            field="batch_size",
            found=batch,
            most=MOST_MADE_UP,
        )
    return EncodedTask(run.task, ("0", "1"), split(batch), split(max(1, TOKEN_BUDGET // length)), 0)


def _of(backbone: str) -> list[Method]:
    family = meta_model(backbone).config.model_type
    return [make(name).for_family(family) for name in applicable(backbone)]


def _terms(run: RunSpec, largest: Packed, dtype: str, memory: int, gpu: int | None) -> Terms:
    return Terms(
        backbone=run.backbone,
        task=None if run.task == MADE_UP else run.task,
        dtype=dtype,
        precision=run.training.precision,
        texts=len(largest),
        tokens=len(largest.tokens),
        longest=int(largest.bounds.diff().max()),
        epochs=run.training.epochs,
        memory=memory,
        process=_process(),
        gpu=gpu,
    )


@cache
def _process() -> int:
    """Of a fresh one, since this one may hold anything. A run loads the last library, scikit-learn, in the end."""
    script = (
        "import numpy; from afina import meter; "
        "from afina.stats import classification; import afina.studies.runs.execute; "
        "classification.f1(numpy.array([0, 1]), numpy.array([0, 1]), 2); print(meter.rss() or 0)"
    )
    return int(subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout)


WARM_UP, MEASURED = 1, 3
"""Steps; the first allocates what the later ones find allocated."""


def seconds_per_token(run: RunSpec, method: Method, objective: Objective, loader: Loader) -> float:
    """Of training `run`, whose method trains something, on its first batches, of which it has read none before; then
    thrown away.

    Raises NotFound where the backbone's weights cannot be opened, Diverged, OutOfMemory.
    """
    device = devices.choose()
    try:
        names, opening = objective.label_names, objective.opening
        classifier = Classifier.open(Backbone.load(run.backbone), names, run.seed, opening=opening)
        classifier.hold(run.training.precision)
        attached(classifier, method, run.seed, device)
        recipe = replace(recipe_of(run, method, loader), steps=WARM_UP + MEASURED)
        dtype = devices.precision(run.training.dtype, device)
        fit = Fit(classifier, method, objective, loader, recipe, dtype)
        fit.advance(WARM_UP)
        tokens, seconds = fit.account.tokens, fit.account.seconds["train"]
        fit.advance()
    except torch.OutOfMemoryError:
        raise OutOfMemory(run.title) from None
    return (fit.account.seconds["train"] - seconds) / (fit.account.tokens - tokens)
