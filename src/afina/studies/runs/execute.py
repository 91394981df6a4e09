"""`execute` executes a run (load, encode, train, evaluate, save), and `try_out` a tuning trial (train and score)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from afina import allocator, digest
from afina import device as devices
from afina.data.task import Task
from afina.data.token_cache import EncodedSplit
from afina.errors import AfinaError, Diverged
from afina.events import Listener, Progress, ValidationScore, ignore
from afina.meter import PHASES, Meter, rss_peak
from afina.models import counted_kinds
from afina.models.adapter import Adapter
from afina.models.answer_profile import AnswerProfile
from afina.models.backbone_spec import FLOAT
from afina.models.classifier import Classifier, count_parameters
from afina.models.manifest import Manifest
from afina.models.objective import ANSWERS_NOTHING, Objective
from afina.models.predictions import Predictions
from afina.models.weights.sharding import is_sharded, whole
from afina.predicting import golden_test
from afina.ranks import ALONE, Ranks
from afina.stats.abstention import CONFIDENCE, AnsweredShare, Threshold, find_threshold
from afina.studies import problems
from afina.studies.runs import endpoint_run
from afina.studies.runs.inputs import Located
from afina.studies.runs.output_directory import OutputDirectory
from afina.studies.runs.prepared import Prepared, prepare
from afina.studies.runs.record import (
    Abstention,
    AnsweredCounts,
    Devices,
    Environment,
    HeadFit,
    LeftOutCounts,
    Memory,
    Prompting,
    Record,
    Seconds,
    Selection,
    TextPairs,
    UnlabelledCounts,
)
from afina.studies.runs.spec import RunSpec
from afina.training.checkpoint import Account
from afina.training.fit import Fit, Measured
from afina.training.settings import DISTILLATION

CURVE_POINTS = 400


def execute(
    run: RunSpec,
    out: Path,
    *,
    study: str = "",
    listen: Listener = ignore,
    stopped: Callable[[], bool] = lambda: False,
    task: Task | None = None,
    located: Located | None = None,
    ranks: Ranks = ALONE,
) -> Record:
    """Execute `run` on this machine, and write its adapter, predictions and checkpoint into `out`.

    If several processes compute the run, each of them calls `execute` with the same arguments, its own `ranks` and its
    own `listen`. The first writes all files, and every process returns the same record. `stopped` is called after each
    step; if it returns True, a checkpoint is written and KeyboardInterrupt is raised. `located` has the paths of the
    inputs on this machine, if they are not the addresses in `run`.

    Raises AfinaError, whose message begins with the run's name.
    """
    if run.asks_endpoint:
        with _named(run):
            if ranks.count > 1:
                raise problems.RANKS_WITHOUT_USE(method=run.method, ranks=ranks.count)
            return endpoint_run.execute(run, out, study=study, listen=listen, task=task)
    execution = _Execution(run, out, study, listen, stopped, (task, located), ranks)
    with allocator.memory_errors(run.title), _named(run), ranks.notices_loss():
        try:
            return execution.record()
        except Diverged:  # training from the checkpoint would diverge again
            if ranks.is_first:
                OutputDirectory(out).checkpoint(execution.run.label).unlink(missing_ok=True)
            raise


@contextmanager
def _named(run: RunSpec) -> Iterator[None]:
    try:
        yield
    except AfinaError as error:
        error.within(f"run {run.title}: ")
        raise


@dataclass
class _Execution:
    run: RunSpec
    out: Path
    study: str
    listen: Listener
    stopped: Callable[[], bool]
    given: tuple[Task | None, Located | None]
    ranks: Ranks = ALONE
    allocated_end: int | None = None

    def __post_init__(self) -> None:
        self.meter = Meter(devices.choose())

    def record(self) -> Record:
        prepared, fit = prepare(self.run, self.meter, self.listen, *self.given, ranks=self.ranks)
        self.run = prepared.run
        if (pairs := fit.inputs.pair_counts) is not None:
            self.listen(Progress("pairs", note=pairs.note))
        if fit.parameters:
            self._train(fit, prepared)
            prepared = replace(prepared, offset=fit.classifier.offset)  # fitting a head may have changed it
        measured = fit.measure()
        classifier = fit.finish(prepared.reopen)
        objective, chosen = self._abstaining(classifier, fit, prepared)
        predictions = self._evaluate(classifier, fit, prepared, prepared.task.evaluation)
        abstention = _abstention(self.run, objective, chosen, predictions)
        scores = objective.metrics(predictions)
        selection = self._selection(classifier, fit, prepared)
        retained = prepared.retention and prepared.retention.after(classifier, prepared.backbone)
        without = set() if self.run.teacher else {*DISTILLATION}
        training = self.run.training.model_dump(mode="json", exclude=without) | {
            "learning_rate": fit.learning_rate,
            "max_length": prepared.task.max_length,
        }
        self.listen(Progress("save"))
        with self.meter.phase("save"):
            adapter = None
            if prepared.method.has_adapter:
                answers = counted_kinds.profile(objective, predictions, prepared.task.evaluation.encoded.each)
                promised = {} if abstention is None else {"abstention": abstention.model_dump(mode="json")}
                adapter = self._adapter(classifier, prepared, objective, training | promised, scores, answers)
            saved = self._save(adapter, classifier, prepared, predictions) if self.ranks.is_first else {}
            saved = self.ranks.from_first(saved)
        found = saved | {
            "training": training,
            "metrics": scores,
            "memory": self._memory(fit.account, measured),
            "devices": self._devices(fit.account),
            "selection": selection,
            "signatures": objective.signatures(predictions.right),
            "retention": retained,
            "abstention": abstention,
            "pairs": None if pairs is None else TextPairs(**asdict(pairs)),
            "weight_bytes": _weight_bytes(classifier),
        }
        return self.ranks.from_first(self._record(prepared, objective, fit, found).sealed())

    def _train(self, fit: Fit, prepared: Prepared) -> None:
        path = OutputDirectory(self.out).checkpoint(self.run.label)
        # The run's key has the addresses of backbone and data. Their content may have changed since the checkpoint.
        content = [self.run.key, prepared.backbone_digest, prepared.task.train.digest, str(prepared.dtype)]
        content += [prepared.lesson.teacher] if prepared.lesson else []
        key = digest.of_json(content)
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

    def _abstaining(self, classifier: Classifier, fit: Fit, prepared: Prepared) -> tuple[Objective, Threshold | None]:
        """Return the calibrated objective, with a threshold of abstention if the run promises an error."""
        objective = fit.objective
        if prepared.task.calibration is not None:
            objective = objective.calibrated(self._evaluate(classifier, fit, prepared, prepared.task.calibration))
        error, split = self.run.training.abstain_error, prepared.task.abstention
        if error is None or split is None:
            return objective, None
        found = self._evaluate(classifier, fit, prepared, split)
        confidence = objective.confidence(found)
        assert confidence is not None  # as the outputs of a classifier that abstains have probabilities
        chosen = find_threshold(confidence, objective.answered(found).wrong, error)
        self.listen(Progress("abstain", note=_threshold_note(chosen, error)))
        below = ANSWERS_NOTHING if chosen.value is None else chosen.value
        return replace(objective, abstain_below=below), chosen

    def _selection(self, classifier: Classifier, fit: Fit, prepared: Prepared) -> Selection | None:
        split = prepared.task.selection
        if split is None:
            return None
        predictions, objective = self._evaluate(classifier, fit, prepared, split), fit.objective
        value = objective.value(prepared.metric, predictions)
        return Selection(value=value, loss=objective.mean_loss(predictions), examples=len(split))

    def _evaluate(self, classifier: Classifier, fit: Fit, prepared: Prepared, split: EncodedSplit) -> Predictions:
        self.listen(Progress("evaluate", 0, len(split)))
        with self.meter.phase("evaluate"):
            found = prepared.predict(classifier, split, self.listen)
        if not found.finite:
            raise problems.OUTPUTS_NOT_FINITE(learning_rate=fit.recipe.learning_rate)
        return found

    def _adapter(
        self,
        classifier: Classifier,
        prepared: Prepared,
        objective: Objective,
        training: dict[str, object],
        scores: dict[str, float],
        answers: AnswerProfile | None,
    ) -> Adapter:
        backbone, method, task = prepared.backbone, prepared.method, prepared.task
        tensors = self._whole(method.state(classifier.model))
        there = devices.environment_fields(prepared.device, prepared.dtype)
        if self.ranks.count > 1:
            there |= {"processes": self.ranks.count, "sharded": self.ranks.shards}
        reading = backbone, task.prompt_length, prepared.prompt
        probe = golden_test.outputs(classifier, *reading, words=objective.reads_words)
        manifest = Manifest(
            method=method.name,
            hyperparameters=method.hyperparameters,
            label_names=task.label_names,
            backbone=backbone.address,
            backbone_digest=prepared.backbone_digest,
            tokenizer_digest=backbone.tokenizer_digest,
            configuration=backbone.settings,
            family=backbone.family,
            tensor_file=method.tensor_file,
            tensors_digest=digest.of_tensors(tensors),
            max_length=task.prompt_length,
            **prepared.asked | {"template": prepared.prompt.source if prepared.prompt else None},
            chat_template=backbone.chat_template if (objective.settings or {}).get("chat") else None,
            objective=objective.settings,
            precision=self.run.training.precision,
            task=task.address,
            data=replace(self.run.data, **task.found),
            train_digest=task.train.digest,
            evaluation_digest=task.evaluation.digest,
            pairs=task.pairs,
            seed=self.run.seed,
            teacher=prepared.lesson.teacher if prepared.lesson else None,
            training=training,
            metrics=scores | {"examples": len(task.evaluation)},
            answers=answers,
            probe=tuple(map(tuple, probe)),
            versions=there.pop("versions"),  # type: ignore[arg-type]
            environment=there,
        ).sealed()
        return Adapter(manifest, tensors, trained_on=task.trained_on)

    def _whole(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return whole tensors in main memory, gathered from the ranks; only rank 0 keeps them."""
        found = {}
        for name, tensor in state.items():
            values = whole(tensor.detach())
            found[name] = values.cpu() if self.ranks.is_first or not is_sharded(tensor) else torch.empty(0)
        return found

    def _save(
        self, adapter: Adapter | None, classifier: Classifier, prepared: Prepared, predictions: Predictions
    ) -> dict[str, Any]:
        """Save the adapter, if any, and the predictions; return their paths, relative to `out`, and digests."""
        directory = OutputDirectory(self.out)
        where, predicted = directory.adapter(self.run.label), directory.predictions(self.run.label)
        method, backbone = prepared.method, prepared.backbone
        try:
            if adapter is not None:
                adapter.save(where, lambda fresh: method.accompany(classifier.model, backbone, fresh))
            written = predictions.write(predicted)
        except AfinaError:  # an adapter without its predictions has no use
            directory.discard(self.run.label)
            raise
        return {
            "adapter": directory.relative(where) if adapter else None,
            "digest": adapter.digest if adapter else None,
            "predictions": directory.relative(predicted),
            "predictions_digest": written,
        }

    def _record(self, prepared: Prepared, objective: Objective, fit: Fit, found: dict[str, Any]) -> Record:
        run, task, account = self.run, prepared.task, fit.account
        counts = count_parameters(fit.parameters)
        return Record(
            **endpoint_run.record_fields(run, self.study, task, objective),
            hyperparameters=prepared.method.hyperparameters,
            ask=Prompting(**prepared.asked),
            metric=prepared.metric,
            trainable=counts.trainable,
            body=counts.body,
            head=counts.head,
            total=prepared.total,
            steps=account.step,
            tokens=account.tokens,
            tokens_per_second=account.tokens / self.meter.seconds["train"] if fit.parameters else None,
            truncated=task.train.encoded.truncated + task.evaluation.encoded.truncated,
            seconds=Seconds(**{name: self.meter.seconds[name] for name in PHASES}),
            teacher_seconds=self.meter.seconds.get("teacher"),
            losses=_curve(account.losses),
            environment=_environment(prepared),
            backbone_files=run.backbone_files,
            teacher=prepared.lesson.teacher if prepared.lesson else None,
            unlabelled=_unlabelled(prepared),
            unlabelled_digest=run.unlabelled_digest,
            left_out=None if task.left_out is None else LeftOutCounts(**task.left_out),
            without_digest=run.without_digest,
            too_long_rows=task.evaluation.left_out.rows,
            fitted=None if fit.fitted is None else HeadFit(**asdict(fit.fitted), **prepared.features),
            **found,
        )

    def _rss_peak(self, account: Account) -> int | None:
        """Return the peak RSS of this process; of the first, with the parts of the run before an interruption."""
        return max(rss_peak() or 0, account.rss_peak if self.ranks.is_first else 0) or None

    def _devices(self, account: Account) -> Devices | None:
        """Return what computed the run; None if this process was alone."""
        if self.ranks.count == 1:
            return None
        peaks = self.ranks.gather((self._rss_peak(account), self.meter.allocated_peak))
        rss, allocated = zip(*peaks, strict=True)
        return Devices(count=self.ranks.count, shards=self.ranks.shards, rss_peaks=rss, allocated_peaks=allocated)

    def _memory(self, account: Account, measured: Measured) -> Memory:
        return Memory(
            **asdict(measured),
            rss_peak=self._rss_peak(account),
            allocated_end=self.allocated_end,
            allocated_peak=self.meter.allocated_peak,
            reserved_peak=self.meter.reserved_peak,
        )


def _threshold_note(chosen: Threshold, error: float) -> str:
    """Say what the threshold is, and what to do if none keeps the promise."""
    found = chosen.found
    if chosen.value is None:
        return (
            f"no confidence promises an error of at most {error:.3g}: of {found.texts:,} texts that were set aside, "
            "too many of the most confident answers are wrong. The adapter is kept, and answers no text. Train a more "
            "accurate model, or allow a larger error with `abstain_error`"
        )
    return (
        f"answers texts with a confidence of at least {chosen.value:.4g}: {found.answered:,} of {found.texts:,} texts "
        f"that were set aside, {found.errors:,} of them wrongly"
    )


def _abstention(
    run: RunSpec, objective: Objective, chosen: Threshold | None, predictions: Predictions
) -> Abstention | None:
    """Return the promise of a run with its figures on the evaluation texts; None if the run promises nothing."""
    error, unanswered = run.training.abstain_error, objective.abstentions(predictions)
    if error is None or chosen is None or unanswered is None:
        return None
    measured = AnsweredShare.of(objective.answered(predictions).wrong, unanswered)
    return Abstention(
        error=error,
        confidence=CONFIDENCE,
        threshold=chosen.value,
        calibration=AnsweredCounts(**asdict(chosen.found)),
        evaluation=AnsweredCounts(**asdict(measured)),
    )


def _weight_bytes(classifier: Classifier) -> int | None:
    """Return the bytes of all weights, without the unused copy of the head that peft keeps; None for float weights."""
    if classifier.precision == FLOAT:
        return None
    unused = (weight.nbytes for name, weight in classifier.named_parameters() if ".original_module." in name)
    return classifier.size - sum(unused)


def _unlabelled(prepared: Prepared) -> UnlabelledCounts | None:
    """Return how many texts without labels were learned from and left out; None if there are none."""
    lesson, split = prepared.lesson, prepared.task.unlabelled
    return None if lesson is None or split is None else UnlabelledCounts(texts=len(split), **lesson.left_out)


def _environment(prepared: Prepared) -> Environment:
    return Environment(
        **devices.environment_fields(prepared.device, prepared.dtype),  # type: ignore[arg-type]
        backbone_digest=prepared.backbone_digest,
        tokenizer_digest=prepared.backbone.tokenizer_digest,
        train_digest=prepared.task.train.digest,
        evaluation_digest=prepared.task.evaluation.digest,
    )


def _curve(losses: list[float]) -> tuple[tuple[int, float], ...]:
    """Return pairs (step, mean loss since the previous pair), at most CURVE_POINTS."""
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
    located: Located | None = None,
    ranks: Ranks = ALONE,
) -> Iterator[ValidationScore]:
    """Train `run`, and yield its score on the evaluation (validation) split after the given shares of its steps.

    Writes no file. Scores are computed in the dtype of training, which is fast, and precise enough to choose a setting.
    If training diverges, the last score has the value None. `limit` is the step of the last score, whereas the learning
    rate schedule is that of all steps. Each of the `ranks` yields the same scores. Raises OutOfMemory.
    """
    with allocator.memory_errors(run.title):
        prepared, fit = prepare(run, Meter(devices.choose()), listen, located=located, ranks=ranks)
        steps, split = fit.recipe.steps, prepared.task.evaluation
        last = min(limit or steps, steps)
        for stop in sorted({min(max(1, round(share * steps)), last) for share in shares}):
            try:
                fit.advance(stop, listen=listen)
            except Diverged:
                yield ValidationScore(fit.account.step + 1, steps, len(split), None, None)
                return
            score = ranks.from_first(fit.score(split, prepared.metric, prepared.predict, listen))
            yield score
            if score.value is None:
                return
