"""Carry out a run: load, encode, train, evaluate, save, record."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import Parameter

from afina import device as devices
from afina import environment
from afina.data.loader import Limits, Loader
from afina.data.task import Task
from afina.data.token_cache import EncodedSplit, EncodedTask
from afina.digest import of_json
from afina.errors import AfinaError, Diverged, InvalidStudy
from afina.events import Listener, Progress, ignore
from afina.inference import predictor, probes
from afina.meter import Meter, activation_bytes, rss_peak, state_bytes
from afina.methods import make
from afina.methods.attachment import attach
from afina.methods.method import Method
from afina.models.adapter import Adapter, Manifest
from afina.models.backbone import Backbone
from afina.models.classifier import Classifier, is_head
from afina.models.objective import Classes
from afina.seeds import derive
from afina.studies.record import Environment, Memory, Record, Seconds
from afina.studies.result import Predictions
from afina.training import checkpoint
from afina.training.activation_checkpointing import recompute
from afina.training.checkpoint import Account
from afina.training.loop import Recipe, batch_loss, make_optimizer, seed_dropout, train
from afina.training.mixed_precision import Working

if TYPE_CHECKING:
    from afina.studies.spec import RunSpec

DEFAULT_LENGTH = 512
CURVE_POINTS = 400


def checkpoint_path(out: Path, label: str) -> Path:
    """Where the run of that label keeps its one checkpoint."""
    return out / "checkpoints" / f"{label}.safetensors"


@dataclass
class Prepared:
    """A run's parts, loaded: what `load` leaves to the later phases, the texts apart."""

    label_names: tuple[str, ...]
    backbone: Backbone
    backbone_digest: str
    classifier: Classifier
    method: Method
    total: int
    max_length: int

    def reopen(self, seed: int) -> None:
        """Put the trained state into a float32 classifier: what is evaluated, probed and saved.

        The frozen weights are read again rather than kept beside their lowered copies while training.
        """
        state = {name: tensor.detach().clone() for name, tensor in self.method.state(self.classifier.model).items()}
        device = next(self.classifier.parameters()).device
        self.classifier = Classifier.open(self.backbone, self.label_names, seed)
        self.classifier.wrap(self.method.attach)
        self.method.restore(self.classifier.model, state)
        self.classifier.to(device)


def execute(run: RunSpec, out: Path, *, study: str = "", listen: Listener = ignore) -> Record:
    """Carry `run` out on this machine; its adapter appears at `out/adapters/<label>`, its checkpoint under `out`.

    Raises an AfinaError whose message begins with the run's name.
    """
    try:
        return _execute(run, out, study, listen)
    except AfinaError as error:
        if isinstance(error, Diverged):  # going on from the checkpoint would only diverge again
            checkpoint_path(out, run.label).unlink(missing_ok=True)
        error.args = (f"run {run.title}: {error}",)
        raise


def _execute(run: RunSpec, out: Path, study: str, listen: Listener) -> Record:
    device = devices.choose()
    dtype = devices.precision(run.training.dtype, device)
    meter = Meter(device)

    listen(Progress("load"))
    with meter.phase("load"):
        texts = Task.load(run.task, **run.data.model_dump())
        prepared = load(run, texts.label_names, device)
    method, backbone = prepared.method, prepared.backbone

    listen(Progress("encode"))
    with meter.phase("encode"):
        task = EncodedTask.of(texts, backbone.tokenizer, backbone.tokenizer_digest, prepared.max_length)
    del texts  # memory while training is not to grow with them

    parameters = method.trainable(prepared.classifier.model)
    counted = [(p.numel(), is_head(name)) for name, p in parameters.items()]
    loader = loader_of(run, task.train)
    trained = _train(
        run, prepared, task.train.digest, parameters, loader, dtype, meter, checkpoint_path(out, run.label), listen
    )
    account, classifier = trained.account, prepared.classifier

    listen(Progress("evaluate", 0, len(task.evaluation)))
    with meter.phase("evaluate"):
        logits = predictor.logits(classifier, task.evaluation.encoded, listen)
    if not np.isfinite(logits).all():
        raise Diverged(
            f"the last step left weights that give no numbers. Lower the learning rate ({trained.learning_rate:g})."
        )
    asked = Classes(task.label_names)
    predictions = Predictions(logits, task.evaluation.labels)
    scores = asked.metrics(predictions.outputs, predictions.targets)

    listen(Progress("save"))
    with meter.phase("save"):
        resolved = run.training.model_dump(mode="json") | {
            "learning_rate": trained.learning_rate,
            "max_length": prepared.max_length,
        }
        adapter = _adapter(run, prepared, task, resolved, scores)
        where = Path("adapters") / run.label
        adapter.save(out / where, lambda fresh: method.accompany(classifier.model, backbone, fresh))
        predicted = Path("predictions") / f"{run.label}.safetensors"
        predictions_digest = predictions.write(out / predicted)

    body = sum(size for size, of_head in counted if not of_head)
    head = sum(size for size, of_head in counted if of_head)
    return Record(
        key=run.key,
        study=study,
        name=run.title,
        method=run.method,
        title=method.title,
        seed=run.seed,
        backbone=run.backbone,
        task=run.task,
        label_names=task.label_names,
        hyperparameters=method.hyperparameters,
        training=resolved,
        kind=asked.kind,
        metric=asked.metric,
        metrics=scores,
        train_examples=len(task.train),
        examples=len(task.evaluation),
        trainable=body + head,
        body=body,
        head=head,
        total=prepared.total,
        steps=account.step,
        tokens=account.tokens,
        tokens_per_second=account.tokens / meter.seconds["train"] if counted else None,
        truncated=task.train.encoded.truncated + task.evaluation.encoded.truncated,
        leaked=task.leaked,
        seconds=Seconds(**meter.seconds),
        memory=Memory(
            state_bytes=trained.state_bytes,
            activation_bytes=trained.activation_bytes,
            activation_tokens=trained.activation_tokens,
            rss_peak=max(rss_peak() or 0, account.rss_peak) or None,
            allocated_end=trained.allocated_end,
            allocated_peak=meter.allocated_peak,
            reserved_peak=meter.reserved_peak,
        ),
        losses=_curve(account.losses),
        predictions=predicted.as_posix(),
        predictions_digest=predictions_digest,
        adapter=where.as_posix(),
        digest=adapter.digest,
        environment=Environment(
            **environment.describe(device, dtype),  # type: ignore[arg-type]
            backbone_digest=prepared.backbone_digest,
            tokenizer_digest=backbone.tokenizer_digest,
            train_digest=task.train.digest,
            evaluation_digest=task.evaluation.digest,
        ),
    )


@dataclass
class Trained:
    """What training leaves behind, besides the trained classifier."""

    account: Account
    state_bytes: int
    learning_rate: float | None = None
    activation_bytes: int | None = None
    activation_tokens: int | None = None
    allocated_end: int | None = None


def _train(
    run: RunSpec,
    prepared: Prepared,
    train_digest: str,
    parameters: Mapping[str, Parameter],
    loader: Loader,
    dtype: torch.dtype,
    meter: Meter,
    path: Path,
    listen: Listener,
) -> Trained:
    classifier, setting = prepared.classifier, run.training
    if not parameters:
        return Trained(Account(), state_bytes(classifier.parameters()))
    recipe = recipe_of(run, prepared.method, loader)
    working = Working(classifier.model, parameters, dtype)
    optimizer = make_optimizer(classifier, working.trained, recipe)
    # A run's key names its backbone and data by address; what lies there may have changed since the checkpoint.
    key = of_json([run.key, prepared.backbone_digest, train_digest, str(dtype)])
    account = checkpoint.load(path, key, working.trained, optimizer)
    meter.earlier(account.seconds)

    def keep(account: Account) -> None:
        account.seconds = dict(meter.seconds) | {"train": account.seconds["train"]}
        account.rss_peak = max(account.rss_peak, rss_peak() or 0)
        checkpoint.save(path, key, working.trained, optimizer, account)

    with meter.phase("train", count=False):
        train(classifier, working, optimizer, loader, recipe, account=account, keep=keep, listen=listen)
        allocated_end = meter.allocated()
    meter.seconds["train"] = account.seconds["train"]
    kept = state_bytes([*classifier.parameters(), *working.trained.values(), *working.packed], optimizer)
    activations, tokens = None, None
    if not setting.checkpointing:  # what a block computes again is not saved, and cannot be counted
        largest = loader.largest(recipe.steps, recipe.at_once).to(meter.device)
        seed_dropout(run.seed, recipe.steps)
        activations = activation_bytes(classifier, lambda: batch_loss(classifier, largest))
        tokens = len(largest.tokens)
    working.settle()
    if working.lowered:
        del optimizer, keep
        prepared.reopen(run.seed)
    return Trained(account, kept, recipe.learning_rate, activations, tokens, allocated_end)


def recipe_of(run: RunSpec, method: Method, loader: Loader) -> Recipe:
    """How `run` trains, on the batches of `loader`."""
    setting = run.training
    return Recipe(
        steps=setting.max_steps or setting.epochs * loader.steps_per_epoch,
        learning_rate=setting.learning_rate or method.learning_rate,
        weight_decay=setting.weight_decay,
        clip=setting.clip,
        seed=run.seed,
        checkpoint_seconds=setting.checkpoint_seconds,
        at_once=Limits(setting.batch_size, setting.token_budget),
    )


def loader_of(run: RunSpec, split: EncodedSplit) -> Loader:
    """The batches of `run`'s steps."""
    return Loader(split.encoded, split.labels, run.training.batch_size * run.training.accumulate, run.seed)


def load(run: RunSpec, label_names: tuple[str, ...], device: torch.device) -> Prepared:
    """Open the backbone under the run's head and attach its method. Raises NotFound, InvalidStudy."""
    backbone = Backbone.load(run.backbone)
    wanted = run.training.max_length
    if wanted is not None and wanted > backbone.longest:
        raise InvalidStudy(
            f"train.max_length is {wanted}, backbone {run.backbone} takes at most {backbone.longest} tokens."
        )
    method = make(run.method, run.hyperparameters).for_family(backbone.family)
    classifier = Classifier.open(backbone, label_names, run.seed)
    digest = backbone.digest_of(classifier.body)
    total = sum(parameter.numel() for parameter in classifier.parameters())
    torch.manual_seed(derive(run.seed, "adapter"))
    attach(classifier, method)
    if run.training.checkpointing:
        recompute(classifier.body)
    classifier.to(device)
    length = wanted or min(DEFAULT_LENGTH, backbone.longest)
    return Prepared(label_names, backbone, digest, classifier, method, total, length)


def _adapter(
    run: RunSpec, prepared: Prepared, task: EncodedTask, training: dict[str, object], scores: dict[str, float]
) -> Adapter:
    from afina import digest

    backbone, method = prepared.backbone, prepared.method
    tensors = {name: tensor.detach().cpu() for name, tensor in method.state(prepared.classifier.model).items()}
    manifest = Manifest(
        method=method.name,
        hyperparameters=method.hyperparameters,
        label_names=task.label_names,
        backbone=backbone.address,
        backbone_digest=prepared.backbone_digest,
        tokenizer_digest=backbone.tokenizer_digest,
        family=backbone.family,
        tensor_file=method.tensor_file,
        tensors_digest=digest.of_tensors(tensors),
        max_length=prepared.max_length,
        task=task.address,
        train_digest=task.train.digest,
        evaluation_digest=task.evaluation.digest,
        seed=run.seed,
        training=training,
        metrics=scores | {"examples": len(task.evaluation)},
        probe=tuple(map(tuple, probes.probe(prepared.classifier, backbone, prepared.max_length))),
        versions=environment.versions(),
    )
    return Adapter(manifest, tensors)


def _curve(losses: list[float]) -> tuple[tuple[int, float], ...]:
    """(step, mean loss since the previous point), at most CURVE_POINTS of them."""
    if not losses:
        return ()
    width = -(-len(losses) // CURVE_POINTS)
    return tuple(
        (min(start + width, len(losses)), float(np.mean(losses[start : start + width])))
        for start in range(0, len(losses), width)
    )
