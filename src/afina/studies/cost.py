"""Plan: what each method will cost, before anything is trained.

Memory and sizes from the backbone's configuration alone (`afina.training.dry_run`); time from a few real
steps (`afina.studies.throughput`) where a task is given and the weights are there.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import torch

from afina import device as devices
from afina import meter
from afina.data.batch import Packed, pack
from afina.data.loader import TOKEN_BUDGET, Limits, Loader, by_length
from afina.data.split import Split
from afina.data.task import Task
from afina.data.tokenize import Encoded, encode
from afina.errors import InvalidStudy, UnknownName
from afina.methods import METHODS
from afina.methods.method import Method
from afina.models.backbone import Backbone
from afina.models.meta import meta_model
from afina.studies.execute import DEFAULT_LENGTH
from afina.studies.forecast import Forecast, Terms
from afina.studies.spec import Training
from afina.studies.throughput import seconds_per_token
from afina.training.dry_run import rehearse

DTYPES = ("auto", "float32", "bfloat16")
LENGTH = 128
"""Tokens of each text where no task is given: what the paper padded its texts to."""


@dataclass(frozen=True)
class _Batches:
    """The largest batches; with a task, what calibration needs besides."""

    labels: int
    training: Packed
    evaluation: Packed
    loader: Loader | None = None


def forecast(
    backbone: str,
    methods: Sequence[Method] | None = None,
    *,
    task: str | Task | None = None,
    data: Mapping[str, Any] | None = None,
    dtype: str = "float32",
    memory: int | None = None,
    batch_size: int = 16,
    length: int | None = None,
    epochs: int = 2,
    calibrate: bool = True,
) -> list[Forecast]:
    """The costs of each method on this machine; without `task`, from the backbone's configuration alone.

    methods    by default all that the backbone's family has
    task       read already, or an address, read with the options `data`; memory is foreseen for its largest batch
    dtype      "float32", "bfloat16", or "auto" as in training
    memory     bytes to fit in; by default those of this machine
    length     without a task, tokens of each of `batch_size` texts (LENGTH by default); with one, its `max_length`
    calibrate  with a task whose backbone's weights are here: take a few steps to foresee the time

    Raises NotFound for a backbone or task that is not there, InvalidStudy for settings that do not go together.
    """
    if dtype not in DTYPES:
        raise UnknownName("dtype", dtype, DTYPES, "plan")
    config = meta_model(backbone).config
    device = devices.choose()
    precision = devices.precision(dtype, device)
    available = meter.machine_memory()
    limit = memory or available
    if limit is None:
        raise InvalidStudy("plan: this system does not tell how much memory it has. Give it with --memory, as in 8GiB.")
    longest = int(config.max_position_embeddings)
    if length is not None and not 1 <= length <= longest:
        raise InvalidStudy(f"plan: --length is {length}, backbone {backbone} takes 1 to {longest} tokens.")
    process = _process()
    opened = Backbone.load(backbone, weights=False) if task else None
    if isinstance(task, str):
        task = Task.load(task, **(data or {}))
    if task and opened:
        batches = _of_task(opened, task, batch_size, epochs, length)
    else:
        batches = _of_length(batch_size, length or min(LENGTH, longest))
    terms = Terms(
        backbone=backbone,
        task=task.address if task else None,
        dtype=str(precision).removeprefix("torch."),
        texts=len(batches.training),
        tokens=len(batches.training.tokens),
        longest=int(batches.training.bounds.diff().max()),
        epochs=epochs,
        memory=limit,
        process=process,
    )
    loader = batches.loader if calibrate and opened and opened.complete else None
    found = []
    for method in _ready(methods, config.model_type):
        one = _foreseen(method, batches, precision, terms)
        if loader and one.trainable and one.peak <= (available or limit):
            pace = seconds_per_token(Backbone.load(backbone), batches.labels, method, loader, precision, device)
            one = replace(one, train_seconds=pace * epochs * len(loader.encoded.tokens))
        found.append(one)
    return found


@cache
def _process() -> int:
    """Of a fresh one, since this one may hold anything. A run loads the last library, scikit-learn, in the end."""
    script = (
        "import numpy; from afina import meter; from afina.stats import metrics; from afina.studies import execute; "
        "metrics.f1(numpy.array([0, 1]), numpy.array([0, 1]), 2); print(meter.rss() or 0)"
    )
    return int(subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout)


def _ready(methods: Sequence[Method] | None, family: str) -> Iterator[Method]:
    if methods is not None:
        yield from (method.for_family(family) for method in methods)
        return
    for kind in METHODS.values():
        try:
            yield kind().for_family(family)
        except InvalidStudy:  # it has no meaning for this family
            continue


def _of_length(batch_size: int, length: int) -> _Batches:
    text = np.zeros(length, np.int64)
    at_once = Limits(batch_size, Training().token_budget).parts(pack([text] * batch_size, np.zeros(batch_size)))
    return _Batches(2, at_once[0], pack([text] * max(1, TOKEN_BUDGET // length)))


def _of_task(backbone: Backbone, task: Task, batch_size: int, epochs: int, length: int | None) -> _Batches:
    most = length or min(DEFAULT_LENGTH, backbone.longest)

    def encoded(split: Split, where: str) -> Encoded:
        return encode(backbone.tokenizer, split.texts, split.pairs, max_length=most, where=where)

    loader = Loader(encoded(task.train, "training text"), task.train.labels, batch_size, seed=0)
    evaluation = (packed for _, packed in by_length(encoded(task.evaluation, "evaluation text")))
    return _Batches(
        len(task.label_names),
        loader.largest(epochs * loader.steps_per_epoch, Limits(batch_size, Training().token_budget)),
        max(evaluation, key=lambda packed: len(packed.tokens)),
        loader,
    )


def _foreseen(method: Method, batches: _Batches, dtype: torch.dtype, terms: Terms) -> Forecast:
    seen = rehearse(terms.backbone, batches.labels, method, dtype, batches.training, batches.evaluation)
    trains = seen.activation_bytes is not None
    return Forecast(
        method=method.name,
        title=method.title,
        trainable=seen.body + seen.head,
        body=seen.body,
        head=seen.head,
        state_bytes=seen.state_bytes,
        allocated_end=seen.gpu_state_bytes,
        activation_bytes=seen.activation_bytes,
        activation_tokens=terms.tokens if trains else None,
        peak=terms.process + seen.tensors,
        gpu_peak=seen.gpu_state_bytes + (seen.activation_bytes or 0),
        disk_bytes=seen.disk_bytes,
        train_seconds=None if trains else 0.0,
        terms=terms,
    )
