"""`Prepared`: a run's encoded task, backbone, objective and method, loaded for execution, tuning trials and timing."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from afina import device as devices
from afina import meter as clock
from afina.data.batch import Loader
from afina.data.pairs import PairLoader
from afina.data.prompt_encoding import PromptEncoding
from afina.data.shots import PromptExamples, Shots
from afina.data.split import Split
from afina.data.task import Task
from afina.data.template import TEXT, Template
from afina.data.token_cache import EncodedSplit, EncodedTask, check_positions
from afina.data.tokenize import Encoded, Tokenizer, encode
from afina.data.word_tokens import encode_words
from afina.digest import derive_seed
from afina.digest import of_json as json_digest
from afina.events import Listener, Progress, ignore
from afina.meter import Meter
from afina.methods import is_fitted, make
from afina.methods.attachment import attach, shard
from afina.methods.method import Method
from afina.models import objectives
from afina.models.architectures import check_can_be_asked, check_can_write
from afina.models.backbone import Backbone
from afina.models.backbone_spec import FLOAT, PRECISIONS, files_digest
from afina.models.classifier import Classifier
from afina.models.label_prompts import label_texts, named_labels
from afina.models.language_model import open_model
from afina.models.objective import Objective, metric_for
from afina.models.objectives import OBJECTIVES
from afina.models.predictions import Predictions
from afina.models.verbalizer import Verbalizer
from afina.predicting.predictor import grouped, predicted
from afina.predicting.prompting import (
    CALIBRATION_TEXTS,
    calibrated_offset,
    compare_with_label_texts,
    encoded_label_texts,
)
from afina.ranks import ALONE, Ranks
from afina.studies import problems
from afina.studies.retention import RetentionBefore
from afina.studies.runs.inputs import Located, TaskFacts, check_abstention_texts, digests_beside, of_data
from afina.studies.runs.lesson import Lesson
from afina.studies.runs.spec import RunSpec
from afina.training.fit import Fit
from afina.training.probe_fit import fit_of
from afina.training.recipe import Recipe

DEFAULT_LENGTH = 512


@dataclass(frozen=True, eq=False)
class Prepared:
    """The task, backbone, objective and method that are loaded for a run, without the classifier that is trained.

    `offset` is added to the label logits (batch calibration), [labels]. `backbone_digest` is of the weights without
    head and adapter; `total` counts the parameters without the adapter, including the head. Optional fields are None
    if the run has no offset, no examples in prompts, no retention or no teacher.
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
    device: torch.device
    examples: PromptExamples | None = None
    retention: RetentionBefore | None = None
    lesson: Lesson | None = None
    ranks: Ranks = ALONE

    @property
    def prompt(self) -> Template | None:
        """The template of the adapter's prompts, with the fixed examples."""
        return self.question.template if self.examples is None else self.examples.fixed

    @property
    def dtype(self) -> torch.dtype:
        return devices.precision(self.run.training.dtype, self.device)

    @property
    def asked(self) -> dict[str, Any]:
        """The prompt settings of a manifest or record."""
        words = self.question.words or (None if self.method.is_fitted else self.question.label_texts)
        return {
            "template": self.question.template.source if self.question.template else None,
            "words": dict(words) if words else None,
            "offset": None if self.offset is None else tuple(self.offset.tolist()),
        }

    @property
    def features(self) -> dict[str, Any]:
        """The settings of `HeadFit` for the features of a linear probe, and the texts of labels."""
        made = self.method.hyperparameters
        own = self.backbone.architecture.pooling_of(self.backbone.config)
        pooling = own if made["pooling"] == "family" else made["pooling"]
        return {"pooling": pooling, "normalize": made["normalize"], "label_texts": self.question.label_texts}

    def predict(self, classifier: Classifier, split: EncodedSplit, listen: Listener = ignore) -> Predictions:
        """Return predictions with the split's targets; each rank predicts its share, and returns those of all."""
        objective, tokenizer = self.objective, self.backbone.tokenizer

        def predictions(start: int, stop: int) -> Predictions:
            part = split if stop - start == len(split) else split.part(start, stop)

            def hear(progress: Progress) -> None:
                listen(replace(progress, step=progress.step * len(split) // len(part), steps=len(split)))

            given = classifier, part.encoded, objective, tokenizer, listen if part is split else hear
            return grouped(predicted(*given, targets=part.labels, references=part.references), part.groups)

        made = self.ranks.of_shares(split.encoded.text_lengths, predictions, classifier.apart)
        return made[0] if len(made) == 1 else Predictions.joined(made)

    def reopen(self) -> Classifier:
        given = self.backbone, self.objective, self.question, self.method
        classifier = opened(*given, self.run.seed, precision=self.run.training.precision, ranks=self.ranks)
        classifier.offset = self.offset
        attached(classifier, self.method, self.run.seed, self.device)
        if classifier.unread is not None:
            shard(classifier, self.method, self.ranks, torch.float32, self.device)
        return classifier


def check_precision(run: RunSpec) -> None:
    hold = PRECISIONS[run.training.precision].hold
    if hold is not None:
        hold(torch.zeros(1, 1))


def check_products(asked: str) -> None:
    """Raise InvalidStudy, with the reason, if this machine does not train with `products` of this value."""
    if asked != FLOAT and (reason := devices.why_no_int8(devices.choose())) is not None:
        raise problems.PRODUCTS_UNSUPPORTED(products=asked, reason=reason)


def prepare(
    run: RunSpec,
    meter: Meter,
    listen: Listener,
    given: Task | None = None,
    located: Located | None = None,
    ranks: Ranks = ALONE,
) -> tuple[Prepared, Fit]:
    """Load and encode everything that `run` needs, and return it with the `Fit` that trains it; texts are not kept.

    Each of the `ranks` prepares the run. Raises NotFound, InvalidStudy, or InvalidData, also if a file has another
    digest than in `run`, and as `_check_alike`.
    """
    listen(Progress("load"))
    with meter.phase("load"):
        run, texts = _with_task(run, given, located, ranks)
        objective, metric = aim_of(run, texts)
    lesson = Lesson.of(run, texts, objective, meter, listen, located, ranks)
    with meter.phase("load"):
        backbone = located.open(run) if located else Backbone.load(run.backbone)
        question, length = question_of(run, texts, backbone), longest_text(run, backbone.longest)
        method = make(run.method, run.hyperparameters).for_opening(objective.opening).for_backbone(backbone)
        classifier = opened(backbone, objective, question, method, run.seed, listen, run.training.precision, ranks)
        digest, total = backbone.digest_of(classifier.body), classifier.parameter_count
        before = RetentionBefore.of(run, texts, backbone, classifier, length, meter.device, ranks)
        attached(classifier, method, run.seed, meter.device)
    listen(Progress("encode"))
    with meter.phase("encode"):
        task, examples = encoded_task(run, texts, backbone, question, length, listen)
        check_positions(task.evaluation, backbone.longest - method.takes_positions)
        objective = generating(run, objective, task, question)
        if question.offset:
            read = offset_texts(texts, task, backbone, question, examples)
            classifier.offset = calibrated_offset(classifier, read, ranks)
    del texts  # so that memory during training does not grow with the texts
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
        device=meter.device,
        examples=examples,
        retention=before,
        lesson=lesson,
        ranks=ranks,
    )
    return prepared, _begun(prepared, classifier)


def _begun(prepared: Prepared, classifier: Classifier) -> Fit:
    """Return the `Fit` of a classifier, whose sharded weights are read before."""
    _check_alike(prepared)
    if classifier.unread is not None:
        trains = bool(prepared.method.trainable(classifier.model))
        dtype = prepared.dtype if trains else torch.float32
        shard(classifier, prepared.method, prepared.ranks, dtype, prepared.device)
    run, task, method, lesson = prepared.run, prepared.task, prepared.method, prepared.lesson
    loader = loader_of(run, task.train, prepared.objective, lesson.targets if lesson else None, task.unlabelled)
    if prepared.question.label_texts is not None:
        encoded, owners = encoded_label_texts(
            prepared.question.label_texts, prepared.backbone.tokenizer, task.max_length
        )
        if method.label_examples:
            weights = method.label_examples / np.bincount(owners)[owners]
            loader = loader.with_label_texts(encoded, owners, weights)
        else:
            compare_with_label_texts(classifier, encoded, owners)
    recipe = recipe_of(run, method, loader, prepared.ranks, encoder=prepared.backbone.architecture.is_encoder)
    return fit_of(method)(classifier, method, prepared.objective, loader, recipe, prepared.dtype)


def _with_task(run: RunSpec, given: Task | None, located: Located | None, ranks: Ranks) -> tuple[RunSpec, Task]:
    """Return the run with the digests of its inputs, and its task with the texts from which it learns."""
    if ranks.sharded:
        check_can_shard(run)
    check_products(run.training.products)
    texts = given or (located.read(run) if located else read_task(run))
    run = _on_present_files(of_data(run, texts), located)
    check_abstention_texts(run.training.abstain_error, len(texts.abstention or ()))
    return run, texts if run.distils else replace(texts, unlabelled=None)


def _on_present_files(run: RunSpec, located: Located | None) -> RunSpec:
    """Return `run` with the digests of its backbone and of the files beside its task.

    Raises InvalidData for another digest than in `run`.
    """
    digests = {
        "backbone_files": files_digest(located.backbone if located else run.backbone),
        **digests_beside(run.data, located),
    }
    if run.backbone_files not in (None, digests["backbone_files"]):
        raise problems.INPUT_CHANGED(_input=f"backbone {run.backbone}", backbone=run.backbone)
    for option in ("unlabelled", "without"):
        if getattr(run, f"{option}_digest") not in (None, digests[f"{option}_digest"]):
            raise problems.FILE_OF_OPTION_CHANGED(option=option, path=getattr(run.data, option))
    return run.with_digests(**digests)


def check_can_shard(run: RunSpec) -> None:
    """Raise InvalidStudy for a setting that a run with sharded weights cannot have."""
    training = run.training
    asked = {"retention": training.retention, "products": training.products != FLOAT, "offset": run.asked.offset}
    for option, is_set in asked.items():
        if is_set:
            raise problems.NOT_SHARDED(option=option)


EQUAL_VERSIONS = ("afina", "torch", "transformers", "peft")
"""The packages whose versions must be equal in all processes that compute a run together."""


def _check_alike(prepared: Prepared) -> None:
    """Raise RunFailed, in every rank, if a rank has other data, backbone, device or version than the first."""
    task, backbone, versions = prepared.task, prepared.backbone, devices.versions()
    splits = (task.train, task.evaluation, task.calibration, task.abstention, task.selection, task.unlabelled)
    facts = {
        "the run's key": prepared.run.key,
        "the digest of the texts": json_digest([split.digest for split in splits if split is not None]),
        "the backbone's digest": prepared.backbone_digest,
        "the tokenizer's digest": backbone.tokenizer_digest,
        "the teacher": prepared.lesson.teacher if prepared.lesson else "none",
        "the kind of device": prepared.device.type,
        "the dtype": str(prepared.dtype).removeprefix("torch."),
        "the list of packages": ", ".join(f"{name} {versions.get(name)}" for name in EQUAL_VERSIONS),
    }
    expected, *others = prepared.ranks.gather(facts)
    for rank, found in enumerate(others, start=1):
        for what, value in found.items():
            if value != expected[what]:
                raise problems.RANKS_UNLIKE(rank=rank, what=what, found=value, expected=expected[what])


def encoded_task(
    run: RunSpec, texts: Task, backbone: Backbone, question: Verbalizer, length: int, listen: Listener = ignore
) -> tuple[EncodedTask, PromptExamples | None]:
    """Return the tokenized task of `run`, and the training examples in its prompts, if any. Raises InvalidStudy."""
    count, draw = make(run.method, run.hyperparameters).in_prompt
    template, examples = question.template, None
    if count:
        examples = Shots(count, draw, run.seed).of(texts, template or Template(TEXT), question.words)
        listen(Progress("shots", note=examples.note))
    tokenizer, most = backbone.tokenizer, backbone.longest
    made = EncodedTask.of(texts, tokenizer, backbone.tokenizer_digest, length, template, examples, most)
    more = [] if examples is None else [examples.note]
    if OBJECTIVES[texts.kind].reads_words and not backbone.architecture.is_encoder:
        more.append(WITHOUT_WORDS_AFTER.format(backbone=backbone.shown))
    return replace(made, notes=(*made.notes, *more)) if more else made, examples


WITHOUT_WORDS_AFTER = (
    "{backbone} is a causal language model, so it tags each word without the words after it; an encoder such as minilm "
    "reads the words on both sides."
)
"""The note on a run whose words are tagged by a causal language model."""


def generating(run: RunSpec, objective: Objective, task: EncodedTask, question: Verbalizer) -> Objective:
    chat = question.template is not None and not question.template.special_tokens
    return objective.generating(task.answer_tokens, run.generate, chat=chat)


def offset_texts(
    texts: Task, task: EncodedTask, backbone: Backbone, question: Verbalizer, examples: PromptExamples | None
) -> Encoded:
    """Return the prompts of training texts on which the offset of the logits is estimated, without the examples."""
    if examples is None:
        return task.train.encoded
    tokenizer, chosen = backbone.tokenizer, examples.besides(texts.train, CALIBRATION_TEXTS)
    plain = encode(tokenizer, chosen.texts, chosen.pairs, max_length=task.max_length, template=question.template)
    return PromptEncoding(examples, tokenizer, task.max_length, backbone.longest).encode(chosen, plain, "training text")


WARM_UP, AT_LEAST, SECONDS = 3, 3, 10.0
"""The numbers of untimed first predictions and of least timed predictions, and the seconds after which timing ends."""


def answer_seconds(run: RunSpec, texts: int, *, bare: bool) -> list[float]:
    """Return the seconds of each prediction of the untrained model of `run` for single held-out texts of the task.

    A prediction includes tokenization, and is computed in float32, as in `Predictor`. There are at most `texts`, and
    fewer if they take more than SECONDS. `bare`: the frozen model without the weights that the method adds.
    """
    task = read_task(run)
    objective, _ = aim_of(run, task)
    backbone = Backbone.load(run.backbone)
    tokenizer, question = backbone.tokenizer, question_of(run, task, backbone)
    method = make(run.method, run.hyperparameters).for_opening(objective.opening).for_backbone(backbone)
    precision, device = run.training.precision, devices.choose()
    classifier = opened(backbone, objective, question, method, run.seed, precision=precision)
    classifier = classifier.to(device).eval() if bare else attached(classifier, method, run.seed, device)
    length = longest_text(run, backbone.longest)
    encoded, examples = encoded_task(run, task, backbone, question, length)
    objective = generating(run, objective, encoded, question)
    found: list[float] = []
    began = clock.now()
    for number in range(min(texts + WARM_UP, len(task.evaluation))):
        if number >= WARM_UP + AT_LEAST and clock.now() - began > SECONDS:
            break
        start, one = clock.now(), task.evaluation.take([number])
        template = examples.templates(one.texts, one.pairs)[0] if examples else question.template
        tokens = _encoded(tokenizer, one, objective, encoded.prompt_length, template)
        predicted(classifier, tokens, objective, tokenizer)
        found.append(clock.now() - start)
    return found[WARM_UP:] or found


def _encoded(
    tokenizer: Tokenizer, split: Split, objective: Objective, max_length: int, template: Template | None
) -> Encoded:
    if objective.reads_words:
        return encode_words(tokenizer, split.texts, max_length=max_length, spaced=split.spaced)
    return encode(tokenizer, split.texts, split.pairs, max_length=max_length, template=template)


def read_task(run: RunSpec) -> Task:
    """Return the task of `run`, with the calibration texts of its settings cut off the training split."""
    return Task.load(run.task, run.data, **run.training.cuts)


def aim_of(run: RunSpec, task: Task | EncodedTask) -> tuple[Objective, str]:
    """Return the objective and the headline metric: of the run, of the task, or of the kind. Raises InvalidStudy."""
    training = run.training
    make(run.method, run.hyperparameters).check_kind(task.kind)
    made = objectives.make(task.label_names, {"kind": task.kind}).of(
        task.train.labels, training.class_weights, task.train.weights
    )
    made.check(
        smoothing=training.label_smoothing,
        temperature=training.temperature,
        abstention=training.abstain_error is not None,
    )
    return made, metric_for(made, run.metric, task.metric)


def question_of(run: RunSpec, task: Task | TaskFacts, backbone: Backbone) -> Verbalizer:
    """Return the prompt template and label words with which `run` evaluates its task. Raises InvalidStudy."""
    asked, kind, tokenizer = run.asked, OBJECTIVES[task.kind], backbone.tokenizer
    method, named = make(run.method, run.hyperparameters), None
    compares = method.head == "words" and backbone.architecture.is_encoder
    if (method.label_examples or compares) and kind.can_be_asked and not task.pairs:
        named = (named_labels if compares else label_texts)(task.label_names, asked.words)
        asked = asked.model_copy(update={"words": None, "head": "random"})
    if kind.auto_class == "language_model":
        check_can_write(backbone.architecture, f"backbone {backbone.address}")
    elif asked.head == "words" or asked.words or asked.offset:
        check_can_be_asked(backbone.architecture, f"backbone {backbone.address}")
    prompt = kind.prompt(run.ask.template, task.columns, pairs=task.pairs, tokenizer=tokenizer)
    if prompt is not None:
        return Verbalizer(prompt)
    if not kind.can_be_asked:
        if asked.head == "words" or asked.words or asked.offset:
            raise problems.KIND_WITHOUT_WORDS(kind=task.kind)
        asked = asked.model_copy(update={"head": "random"})
    if backbone.architecture.is_encoder:
        asked = asked.model_copy(update={"head": "random"})
    made = Verbalizer.of(task.label_names, tokenizer, pairs=task.pairs, **asked.model_dump())
    # a head that scikit-learn fits does not start from words
    return Verbalizer(made.template, label_texts=named) if named or is_fitted(run.method) else made


def opened(
    backbone: Backbone,
    objective: Objective,
    question: Verbalizer,
    method: Method,
    seed: int,
    listen: Listener = ignore,
    precision: str = FLOAT,
    ranks: Ranks = ALONE,
) -> Classifier:
    """Return a classifier without an attached method, whose head starts from the label words of `question`, if any.

    If the ranks share the weights, weights before the pooling are stand-ins, of which `shard` reads a part.
    """
    classifier = open_model(
        backbone,
        objective.output_names,
        seed,
        objective.opening,
        question.tokens,
        exact=method.trains_nothing,
        precision=precision,
        unread=ranks.sharded,
    )
    if backbone.drawn:
        listen(Progress("draw", note=", ".join(backbone.drawn)))
    if backbone.copy_note:
        listen(Progress("copy", note=backbone.copy_note))
    return classifier


def attached(classifier: Classifier, method: Method, seed: int, device: torch.device) -> Classifier:
    """Attach `method` with random weights from the seed; move the classifier to `device` if its weights are read."""
    torch.manual_seed(derive_seed(seed, "adapter"))
    attach(classifier, method)
    return classifier.to(device) if classifier.unread is None else classifier


def longest_text(run: RunSpec, most: int) -> int:
    """Return the maximum number of tokens of a text: at most the backbone's less the method's virtual tokens."""
    taken, wanted = make(run.method, run.hyperparameters).takes_positions, run.training.max_length
    if taken >= most:
        raise problems.NO_ROOM_FOR_TEXT(method=run.method, tokens=taken, most=most, backbone=run.backbone)
    if wanted is not None and wanted > most - taken:
        raise problems.MAX_LENGTH(
            found=wanted,
            most=most - taken,
            longest=most,
            backbone=run.backbone,
            _virtual=f", and method {run.method} uses {taken} of them" if taken else "",
        )
    return wanted or min(DEFAULT_LENGTH, most - taken)


def loader_of(
    run: RunSpec,
    split: EncodedSplit,
    objective: Objective,
    soft: np.ndarray | None = None,
    more: EncodedSplit | None = None,
) -> Loader:
    """Return the loader of the batches of training texts of `run`, or of pairs of texts if its method needs pairs.

    `soft`: a teacher's outputs for `split` and then for `more`, the texts without labels.
    """
    size, targets = run.training.batch_size * run.training.accumulate, objective.loss_targets(split.labels)
    if soft is None:
        texts, sampling = split.loader(targets, size, run.seed), make(run.method, run.hyperparameters).pairs
        return texts if sampling is None else PairLoader.of(texts, sampling)
    return split.taught(soft, more, targets, size, run.seed)


def recipe_of(run: RunSpec, method: Method, loader: Loader, ranks: Ranks = ALONE, *, encoder: bool = False) -> Recipe:
    return Recipe.of(run.training, method, loader, run.seed, ranks, encoder=encoder)


def check_words(run: RunSpec, task: TaskFacts) -> None:
    """Raise InvalidStudy if the run's label words or template do not suit the task."""
    question_of(run, task, Backbone.load(run.backbone, weights=False))
