"""Prepared: a run's parts, loaded, and the `Fit` they make. What carrying out, trying out and timing a run share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from afina import device as devices
from afina.data.addresses import reads_files
from afina.data.batch import Loader, MicroBatchLimits
from afina.data.task import Task
from afina.data.token_cache import EncodedSplit, EncodedTask
from afina.data.tokenize import Tokenizer
from afina.digest import derive_seed
from afina.errors import AfinaError, InvalidData, InvalidStudy
from afina.events import Listener, Progress
from afina.inference.prompting import calibrated_offset
from afina.meter import Meter
from afina.methods import make
from afina.methods.attachment import attach
from afina.methods.method import Method
from afina.models import objectives
from afina.models.backbone import Backbone
from afina.models.classifier import Classifier
from afina.models.objective import Objective, metric_for
from afina.models.objectives import OBJECTIVES
from afina.models.verbalizer import Verbalizer
from afina.studies.runs.inputs import TaskFacts, labels_of
from afina.studies.runs.spec import RunSpec
from afina.training.fit import Fit
from afina.training.optimizer import Recipe

DEFAULT_LENGTH = 512


@dataclass(frozen=True, eq=False)
class Prepared:
    """A run's parts, its classifier apart, which training changes.

    run                     with the digest of its data
    metric                  the headline
    question                how texts are asked about;  offset  of its outputs, [labels], if there is one
    backbone_digest, total  of the unadapted classifier's body; its parameters, head included
    max_length              tokens; longer texts are truncated
    """

    run: RunSpec
    task: EncodedTask
    objective: Objective
    metric: str
    question: Verbalizer
    offset: torch.Tensor | None
    backbone: Backbone
    backbone_digest: str
    method: Method
    total: int
    max_length: int
    device: torch.device

    @property
    def dtype(self) -> torch.dtype:
        """What training computes in."""
        return devices.precision(self.run.training.dtype, self.device)

    @property
    def asked(self) -> dict[str, Any]:
        """How texts were asked about, as manifests and records have it: `template`, `words`, `offset`."""
        return {
            "template": self.question.template.source if self.question.template else None,
            "words": dict(self.question.words) if self.question.words else None,
            "offset": None if self.offset is None else tuple(self.offset.tolist()),
        }

    def reopen(self) -> Classifier:
        """The classifier as it was before training, anew."""
        classifier = opened(self.backbone, self.objective, self.question, self.method, self.run.seed)
        classifier.offset = self.offset
        classifier.hold(self.run.training.precision)
        return attached(classifier, self.method, self.run.seed, self.device)


def prepare(
    run: RunSpec, meter: Meter, listen: Listener, given: Task | None = None, located: Backbone | None = None
) -> tuple[Prepared, Fit]:
    """Load and encode all that `run` needs, and begin its training; the texts themselves are not kept.

    given, located  the run's task and backbone, where they were read or located already

    Raises NotFound, InvalidData, InvalidStudy; InvalidData too where the data are not those that the run is of.
    """
    listen(Progress("load"))
    with meter.phase("load"):
        texts = given or read_task(run)
        run = of_data(run, texts)
        objective, metric = aim_of(run, texts)
        backbone = located or Backbone.load(run.backbone)
        question = question_of(run, texts, backbone.tokenizer)
        length = longest_text(run, backbone.longest)
        method = make(run.method, run.hyperparameters).for_family(backbone.family)
        classifier = opened(backbone, objective, question, method, run.seed)
        digest = backbone.digest_of(classifier.body)
        total = sum(parameter.numel() for parameter in classifier.parameters())
        classifier.hold(run.training.precision)
        attached(classifier, method, run.seed, meter.device)
    listen(Progress("encode"))
    with meter.phase("encode"):
        task = EncodedTask.of(texts, backbone.tokenizer, backbone.tokenizer_digest, length, question.template)
        if question.offset:
            classifier.offset = calibrated_offset(classifier, task.train.encoded)
    del texts  # memory while training is not to grow with them
    prepared = Prepared(
        run=run,
        task=task,
        objective=objective,
        metric=metric,
        question=question,
        offset=classifier.offset,
        backbone=backbone,
        backbone_digest=digest,
        method=method,
        total=total,
        max_length=length,
        device=meter.device,
    )
    loader = loader_of(run, task.train, objective)
    return prepared, Fit(classifier, method, objective, loader, recipe_of(run, method, loader), prepared.dtype)


def read_task(run: RunSpec) -> Task:
    """The task of `run`; what a temperature is fitted on, where it asks for one, is set aside."""
    return Task.load(run.task, **run.data.model_dump(), calibration=run.training.temperature)


def of_data(run: RunSpec, task: Task) -> RunSpec:
    """`run` with the digest of its data, where these are files. Raises InvalidData where they changed meanwhile."""
    if run.data_digest is None:
        return run.on(task.data_digest) if reads_files(run.task, run.data.evaluation) else run
    if run.data_digest != task.data_digest:
        raise InvalidData(
            f"task {run.task}: its data changed after the run was asked for. Start it again.",
            code="data.changed",
            task=run.task,
        )
    return run


def aim_of(run: RunSpec, task: Task | EncodedTask) -> tuple[Objective, str]:
    """What `run` asks of a text of its task, and the headline: what it asks for, else the task's own, else the kind's.

    Raises InvalidStudy for training settings, and for a metric, that the kind has not.
    """
    training = run.training
    made = objectives.make(task.label_names, {"kind": task.kind}).of(task.train.labels, training.class_weights)
    made.check(smoothing=training.label_smoothing, temperature=training.temperature)
    return made, metric_for(made, run.metric, task.metric)


def question_of(run: RunSpec, task: Task | TaskFacts, tokenizer: Tokenizer) -> Verbalizer:
    """How `run` asks about the texts of its task. Raises InvalidStudy."""
    asked = run.asked
    if not OBJECTIVES[task.kind].can_be_asked:
        if asked.head == "words" or asked.words or asked.offset:
            raise InvalidStudy(
                f"a task of kind {task.kind} has no label that a word could answer for. Ask in none.",
                code="ask.kind-unsupported",
                kind=task.kind,
            )
        asked = asked.model_copy(update={"head": "random"})
    return Verbalizer.of(task.label_names, tokenizer, pairs=task.pairs, **asked.model_dump())


def opened(backbone: Backbone, objective: Objective, question: Verbalizer, method: Method, seed: int) -> Classifier:
    """A classifier that answers as the question has it, before `method` is attached."""
    names, exact = objective.label_names, method.trains_nothing
    return Classifier.open(backbone, names, seed, question.tokens, exact=exact, opening=objective.opening)


def attached(classifier: Classifier, method: Method, seed: int, device: torch.device) -> Classifier:
    """The classifier with `method` attached, with what it draws from the seed's own stream; on `device` then."""
    torch.manual_seed(derive_seed(seed, "adapter"))
    attach(classifier, method)
    return classifier.to(device)


def longest_text(run: RunSpec, most: int) -> int:
    """Where texts are cut, for a backbone that takes `most` tokens, of which the method may need some.

    Raises InvalidStudy.
    """
    taken, wanted = make(run.method, run.hyperparameters).takes_positions, run.training.max_length
    if taken >= most:
        raise InvalidStudy(
            f"method {run.method}: its {taken:,} virtual tokens leave a text none of the {most:,} that backbone "
            f"{run.backbone} takes. Set fewer.",
            code="run.max-length",
            method=run.method,
            tokens=taken,
            most=most,
            backbone=run.backbone,
        )
    if wanted is not None and wanted > most:
        raise InvalidStudy(
            f"`max_length` is {wanted}, backbone {run.backbone} takes at most {most} tokens.",
            code="run.max-length",
            found=wanted,
            most=most,
            backbone=run.backbone,
        )
    if wanted is not None and wanted > most - taken:
        raise InvalidStudy(
            f"`max_length` is {wanted}, backbone {run.backbone} takes at most {most} tokens, and {taken} of them are "
            f"those of method {run.method}: at most {most - taken} are left.",
            code="run.max-length",
            found=wanted,
            most=most - taken,
            backbone=run.backbone,
            method=run.method,
        )
    return wanted or min(DEFAULT_LENGTH, most - taken)


def loader_of(run: RunSpec, split: EncodedSplit, objective: Objective) -> Loader:
    """The batches of `run`'s steps."""
    size = run.training.batch_size * run.training.accumulate
    return split.loader(objective.loss_targets(split.labels), size, run.seed)


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
        at_once=MicroBatchLimits(setting.batch_size, setting.token_budget, method.takes_positions),
        checkpointing=setting.checkpointing,
        label_smoothing=setting.label_smoothing,
        average=setting.average,
        pull=setting.pull,
    )


def check_words(run: RunSpec, task: TaskFacts) -> None:
    """Raise what the run would end with where its words do not go with the task's labels, or with one another."""
    question_of(run, task, Backbone.load(run.backbone, weights=False).tokenizer)


def can_be_asked(run: RunSpec) -> bool:
    """Whether the task's labels have words that the backbone tells apart; False also where either cannot be read."""
    try:
        return question_of(run, labels_of(run), Backbone.load(run.backbone, weights=False).tokenizer).words is not None
    except AfinaError:
        return False
