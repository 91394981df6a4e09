"""Execute a run: load, encode, train, evaluate, save, record. Or try it out: train and score, without a record."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from afina import device, digest
from afina import device as devices
from afina.data.task import Task
from afina.data.token_cache import EncodedSplit
from afina.errors import AfinaError, Diverged, OutOfMemory
from afina.events import Listener, Progress, ValidationScore, ignore
from afina.inference import predictor, probes
from afina.meter import Meter, rss_peak
from afina.models.adapter import Adapter
from afina.models.backbone import Backbone
from afina.models.classifier import Classifier, count_parameters
from afina.models.manifest import Manifest
from afina.models.objective import Objective, Predictions
from afina.studies.runs.output_directory import OutputDirectory
from afina.studies.runs.prepared import Prepared, prepare
from afina.studies.runs.record import Environment, Memory, Prompting, Record, Seconds, Selection
from afina.studies.runs.spec import RunSpec
from afina.training.checkpoint import Account
from afina.training.fit import Fit, Measured

CURVE_POINTS = 400


def execute(
    run: RunSpec,
    out: Path,
    *,
    study: str = "",
    listen: Listener = ignore,
    stopped: Callable[[], bool] = lambda: False,
    task: Task | None = None,
    backbone: Backbone | None = None,
) -> Record:
    """Carry `run` out on this machine; its adapter, its predictions and its checkpoint lie under `out`.

    stopped  asked after each step: whether to leave a checkpoint and raise KeyboardInterrupt
    task, backbone  the run's, where they were read or located already
    Raises an AfinaError whose message begins with the run's name.
    """
    execution = _Execution(run, out, study, listen, stopped, task, backbone)
    try:
        return execution.record()
    except torch.OutOfMemoryError:
        raise OutOfMemory(run.title) from None
    except AfinaError as error:
        if isinstance(error, Diverged):  # going on from the checkpoint would only diverge again
            OutputDirectory(out).checkpoint(execution.run.label).unlink(missing_ok=True)
        error.args = (f"run {run.title}: {error}",)
        raise


@dataclass(frozen=True)
class _Saved:
    """What lies under the output directory: paths relative to it, and digests."""

    adapter: str
    digest: str
    predictions: str
    predictions_digest: str


class _Execution:
    """One run on its way, phase by phase."""

    def __init__(
        self,
        run: RunSpec,
        out: Path,
        study: str,
        listen: Listener,
        stopped: Callable[[], bool],
        task: Task | None = None,
        backbone: Backbone | None = None,
    ) -> None:
        self.task, self.backbone = task, backbone
        self.run, self.out, self.study, self.listen, self.stopped = run, out, study, listen, stopped
        self.meter = Meter(devices.choose())
        self.allocated_end: int | None = None

    def record(self) -> Record:
        """Carry out every phase."""
        prepared, fit = prepare(self.run, self.meter, self.listen, self.task, self.backbone)
        self.run = prepared.run
        if fit.parameters:
            self._train(fit, prepared)
        measured = fit.measure()
        classifier = fit.finish(prepared.reopen)
        objective = self._calibrated(classifier, fit, prepared.task.calibration)
        predictions = self._evaluate(classifier, fit, prepared.task.evaluation)
        scores = objective.metrics(predictions)
        selection = self._selection(classifier, fit, prepared)
        training = self.run.training.model_dump(mode="json") | {
            "learning_rate": fit.recipe.learning_rate if fit.parameters else None,
            "max_length": prepared.max_length,
        }
        self.listen(Progress("save"))
        with self.meter.phase("save"):
            adapter = self._adapter(classifier, prepared, objective, training, scores)
            saved = self._save(adapter, classifier, prepared, predictions)
        made = self._record(prepared, objective, fit, measured, training, scores, saved)
        return made.model_copy(update={"selection": selection}).sealed()

    def _train(self, fit: Fit, prepared: Prepared) -> None:
        path = OutputDirectory(self.out).checkpoint(self.run.label)
        # A run's key names its backbone and data by address; what lies there may have changed since the checkpoint.
        key = digest.of_json([self.run.key, prepared.backbone_digest, prepared.task.train.digest, str(prepared.dtype)])
        fit.resume(path, key)
        self.meter.earlier(fit.account.seconds)

        def keep(account: Account) -> None:
            account.seconds = dict(self.meter.seconds) | {"train": account.seconds["train"]}
            account.rss_peak = max(account.rss_peak, rss_peak() or 0)
            fit.checkpoint(path, key)

        with self.meter.phase("train", count=False):
            fit.advance(keep=keep, listen=self.listen, stopped=self.stopped)
            self.allocated_end = self.meter.allocated()
        self.meter.seconds["train"] = fit.account.seconds["train"]

    def _calibrated(self, classifier: Classifier, fit: Fit, split: EncodedSplit | None) -> Objective:
        """What was asked, with probabilities that are right on what was set aside for that."""
        if split is None:
            return fit.objective
        return fit.objective.calibrated(self._evaluate(classifier, fit, split))

    def _selection(self, classifier: Classifier, fit: Fit, prepared: Prepared) -> Selection | None:
        split = prepared.task.selection
        if split is None:
            return None
        predictions, objective = self._evaluate(classifier, fit, split), fit.objective
        value = objective.value(prepared.metric, predictions)
        return Selection(value=value, loss=objective.mean_loss(predictions), examples=len(split))

    def _evaluate(self, classifier: Classifier, fit: Fit, split: EncodedSplit) -> Predictions:
        self.listen(Progress("evaluate", 0, len(split)))
        with self.meter.phase("evaluate"):
            found = predictor.predictions(classifier, split.encoded, split.labels, self.listen)
        if not found.finite:
            raise Diverged(
                "the last step left weights that give no numbers. "
                f"Lower the learning rate ({fit.recipe.learning_rate:g}).",
                learning_rate=fit.recipe.learning_rate,
            )
        return found

    def _adapter(
        self,
        classifier: Classifier,
        prepared: Prepared,
        objective: Objective,
        training: dict[str, object],
        scores: dict[str, float],
    ) -> Adapter:
        backbone, method, task = prepared.backbone, prepared.method, prepared.task
        tensors = {name: tensor.detach().cpu() for name, tensor in method.state(classifier.model).items()}
        there = device.environment_fields(prepared.device, prepared.dtype)
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
            **prepared.asked,
            objective=objective.settings,
            precision=self.run.training.precision,
            task=task.address,
            data=self.run.data.model_dump(mode="json", exclude_defaults=True) | task.found,
            train_digest=task.train.digest,
            evaluation_digest=task.evaluation.digest,
            pairs=task.pairs,
            seed=self.run.seed,
            training=training,
            metrics=scores | {"examples": len(task.evaluation)},
            probe=tuple(
                map(tuple, probes.probe(classifier, backbone, prepared.max_length, prepared.question.template))
            ),
            versions=there.pop("versions"),  # type: ignore[arg-type]
            environment=there,
        ).sealed()
        return Adapter(manifest, tensors, trained_on=task.trained_on)

    def _save(self, adapter: Adapter, classifier: Classifier, prepared: Prepared, predictions: Predictions) -> _Saved:
        directory = OutputDirectory(self.out)
        where, predicted = directory.adapter(self.run.label), directory.predictions(self.run.label)
        method, backbone = prepared.method, prepared.backbone
        try:
            adapter.save(where, lambda fresh: method.accompany(classifier.model, backbone, fresh))
            written = predictions.write(predicted)
        except AfinaError:  # one without the other is of no use
            directory.discard(self.run.label)
            raise
        return _Saved(directory.relative(where), adapter.digest, directory.relative(predicted), written)

    def _record(
        self,
        prepared: Prepared,
        objective: Objective,
        fit: Fit,
        measured: Measured,
        training: dict[str, object],
        scores: dict[str, float],
        saved: _Saved,
    ) -> Record:
        run, task, account = self.run, prepared.task, fit.account
        counts = count_parameters(fit.parameters)
        return Record(
            key=run.key,
            study=self.study,
            name=run.title,
            method=run.method,
            title=prepared.method.title,
            seed=run.seed,
            backbone=run.backbone,
            task=run.task,
            label_names=task.label_names,
            columns=dict(task.columns),
            notes=task.notes,
            hyperparameters=prepared.method.hyperparameters,
            training=training,
            ask=Prompting(**prepared.asked),
            kind=objective.kind,
            objective=objective.settings,
            metric=prepared.metric,
            metrics=scores,
            ceiling=dict(task.ceiling),
            train_examples=len(task.train) + len(task.calibration or ()),
            examples=len(task.evaluation),
            trainable=counts.trainable,
            body=counts.body,
            head=counts.head,
            total=prepared.total,
            steps=account.step,
            tokens=account.tokens,
            tokens_per_second=account.tokens / self.meter.seconds["train"] if fit.parameters else None,
            truncated=task.train.encoded.truncated + task.evaluation.encoded.truncated,
            leaked=task.leaked,
            seconds=Seconds(**self.meter.seconds),
            memory=self._memory(account, measured),
            losses=_curve(account.losses),
            predictions=saved.predictions,
            predictions_digest=saved.predictions_digest,
            adapter=saved.adapter,
            digest=saved.digest,
            environment=_environment(prepared),
            data_digest=run.data_digest,
        )

    def _memory(self, account: Account, measured: Measured) -> Memory:
        return Memory(
            state_bytes=measured.state_bytes,
            activation_bytes=measured.activation_bytes,
            activation_tokens=measured.activation_tokens,
            rss_peak=max(rss_peak() or 0, account.rss_peak) or None,
            allocated_end=self.allocated_end,
            allocated_peak=self.meter.allocated_peak,
            reserved_peak=self.meter.reserved_peak,
        )


def _environment(prepared: Prepared) -> Environment:
    return Environment(
        **device.environment_fields(prepared.device, prepared.dtype),  # type: ignore[arg-type]
        backbone_digest=prepared.backbone_digest,
        tokenizer_digest=prepared.backbone.tokenizer_digest,
        train_digest=prepared.task.train.digest,
        evaluation_digest=prepared.task.evaluation.digest,
    )


def _curve(losses: list[float]) -> tuple[tuple[int, float], ...]:
    """(step, mean loss since the previous point), at most CURVE_POINTS of them."""
    if not losses:
        return ()
    width = -(-len(losses) // CURVE_POINTS)
    return tuple(
        (min(start + width, len(losses)), float(np.mean(losses[start : start + width])))
        for start in range(0, len(losses), width)
    )


def try_out(
    run: RunSpec,
    shares: Sequence[float],
    *,
    limit: int | None = None,
    listen: Listener = ignore,
    task: Task | None = None,
    backbone: Backbone | None = None,
) -> Iterator[ValidationScore]:
    """Train `run`, and pause for a score on its evaluation split after each of `shares` of its steps.

    limit  end after so many steps, with a last score there, though the decay goes by all of them
    task, backbone  as in `execute`
    Leaves no file. The scores are computed in training's own precision, which is cheap and good enough to choose by.
    Training that diverges ends with a score that says so. Raises OutOfMemory.
    """
    try:
        prepared, fit = prepare(run, Meter(devices.choose()), listen, task, backbone)
        steps, split = fit.recipe.steps, prepared.task.evaluation
        last = min(limit or steps, steps)
        for stop in sorted({min(max(1, round(share * steps)), last) for share in shares}):
            try:
                fit.advance(stop, listen=listen)
            except Diverged:
                yield ValidationScore(fit.account.step + 1, steps, len(split), None, None)
                return
            score = fit.score(split, prepared.metric, listen)
            yield score
            if score.value is None:
                return
    except torch.OutOfMemoryError:
        raise OutOfMemory(run.title) from None
