"""`RunSpec`: the description of a run: backbone, task, method, hyperparameters, data, training and seed.

The module can be imported without torch.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from functools import cached_property
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import ConfigDict, Field, field_validator

from afina import digest, processor
from afina.data.readers.frames import is_frame
from afina.data.reading_options import MOST, USUAL, ReadingOptions
from afina.data.task import Cuts, Task, as_address
from afina.methods import METHODS, asks_endpoint, make
from afina.models.backbone_spec import FLOAT, PrecisionName
from afina.models.decoding import GREEDY, Decoding
from afina.repr_html import ReprCard
from afina.schema import Frozen
from afina.studies import problems

Dtype = Literal["auto", "float32", "bfloat16"]
DTYPES: tuple[Dtype, ...] = get_args(Dtype)
"""The values of `train.dtype`."""

Products = Literal["float", "int8"]
PRODUCTS: tuple[Products, ...] = get_args(Products)
"""The values of `train.products`."""


def usual_products() -> Products:
    """Return the `products` with which `afina train` and `afina choose` train on this machine if the user gives none.

    The default is int8 on a processor that computes int8 natively and bfloat16 not: there, training in float32 with
    products in int8 is 2.3 to 3 times as fast as without, and no verdict found it less accurate (docs/LOG.md). Beside
    native bfloat16, int8 is at most 1.3 times as fast, so the user decides.
    """
    found = processor.flags()
    if not found & processor.INT8_FLAGS or found & processor.BFLOAT16_FLAGS:
        return "float"
    from afina import device  # not before: it loads torch, which the start of a command does without

    return "float" if device.why_no_int8(device.choose()) else "int8"


class Training(Frozen):
    """The training settings: the section [train] of a study file.

    Attributes:
        epochs: The number of passes over the training split.
        batch_size: The number of texts per batch.
        learning_rate: The largest learning rate, which decays to 0. None: the method's default.
        weight_decay: The weight decay of AdamW.
        clip: The largest norm of the gradient; larger gradients are clipped.
        max_length: The maximum number of tokens of a text; longer texts are truncated. None: 512, or the backbone's
            limit if it is lower.
        max_steps: The number of optimizer steps. None: as many as `epochs` takes. The learning rate decays until the
            last step.
        dtype: The dtype in which training computes. "auto" is bfloat16 if the device computes bfloat16 natively, else
            float32.
        precision: The precision in which the backbone's frozen linear weights are stored, a key of PRECISIONS. "float"
            stores them in `dtype`. "int8" stores one byte per weight, with a scale for each output channel.
        products: The type of numbers in which products with frozen weights of the backbone's linear layers are
            computed, in the forward pass and for the gradients of inputs. "float" computes them in `dtype`. "int8"
            quantises inputs and gradients at run time, for each token; a processor with AVX512-VNNI, AVX-VNNI or
            AMX-int8 is required. The trained model is evaluated and saved as any other, with products in float.
        accumulate: The number of batches per optimizer step. The gradient is that of the mean loss over the examples of
            all batches of a step.
        token_budget: The largest number of tokens in one forward pass, which limits memory. A larger batch is computed
            in parts of whole texts whose gradients add up; the result differs only by rounding and dropout masks. With
            texts of 1,024 tokens, training is three times as fast with one text per forward pass as with eight. A batch
            of 16 texts of 128 tokens has 2,048 tokens.
        checkpointing: Whether activation checkpointing is used: only the input of each block is stored for the backward
            pass, in which the block is computed again. Training takes less memory and more time, and has the same
            result.
        label_smoothing: The share of each target that is spread evenly over all labels (Szegedy et al. 2016).
        class_weights: The weights of classes in the loss. "balanced" weights each text by N / (C count) of its class,
            as scikit-learn does. None: all texts have the same weight.
        temperature: Whether probabilities are calibrated by a temperature (Guo et al. 2017), and by thresholds if a
            text can have several labels. Temperature and thresholds are fitted on a tenth of the training split, which
            is not trained on.
        abstain_error: The largest share of wrong answers among the texts that the adapter answers, promised with a
            confidence of 95 %. A threshold of confidence is chosen on a fifth of the training split, which is not
            trained on, and texts below the threshold are left unanswered. None: every text is answered.
        average: The last share of the steps over which the weights are averaged; the mean weights are the result
            (Polyak and Juditsky 1992; Izmailov et al. 2018). 0: the last weights are the result.
        pull: The strength of a decay of the backbone's trained weights toward their pretrained values, instead of
            weight decay (L2-SP, Li et al. 2018). `pull` is only for methods that train weights of the backbone.
        checkpoint_seconds: The number of seconds between two checkpoints.
        warmup: The number of first steps in which the learning rate rises linearly from 0. A `warmup` below 1 is a
            share of all steps, as in transformers' `warmup_steps`. With `warmup = 0`, the first step has the largest
            learning rate.
        trunk: Whether training computes the outputs of the frozen lower blocks once for each text, and begins every
            later step on the text above these blocks. "kept" does, "recomputed" computes the blocks in every step, and
            "auto" is "kept" for a method with `layers` other than "all" if the blocks have no dropout, and otherwise
            "recomputed". The results of "kept" and "recomputed" differ only by rounding.
        trunk_dropout: Whether frozen lower blocks have dropout in training. `trunk_dropout = false` turns their dropout
            off, so that their outputs are the same in every step.
        distil_temperature: The temperature by which the logits of the teacher and of the student are divided, for a run
            with a teacher. A higher temperature gives more weight to improbable labels.
        distil_weight: The share of the loss that compares the student with its teacher, on all texts. The rest of the
            loss compares the student with the labels. With 0, the training is that without a teacher.
        retention: Whether the language-model loss on neutral sentences is measured before and after the training.
            `retention = true` uses the packaged sentences `snippets:editorials`; a string is the path of a file of
            sentences. Only for causal backbones.
    """

    model_config = ConfigDict(allow_inf_nan=False)

    epochs: int = Field(default=2, ge=1, le=MOST)
    batch_size: int = Field(default=16, ge=1, le=MOST)
    learning_rate: float | None = Field(default=None, gt=0)
    weight_decay: float = Field(default=0.01, ge=0)
    clip: float = Field(default=1.0, gt=0)
    max_length: int | None = Field(default=None, ge=1, le=MOST)
    max_steps: int | None = Field(default=None, ge=1, le=MOST)
    dtype: Dtype = "auto"
    precision: PrecisionName = FLOAT
    products: Products = "float"
    accumulate: int = Field(default=1, ge=1, le=MOST)
    token_budget: int = Field(default=2048, ge=1, le=MOST)
    checkpointing: bool = False
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    class_weights: Literal["balanced"] | None = None
    temperature: bool = False
    abstain_error: float | None = Field(default=None, gt=0, lt=1)
    average: float = Field(default=0.0, ge=0, le=1)
    pull: float = Field(default=0.0, ge=0)
    checkpoint_seconds: float = Field(default=60.0, ge=0)
    warmup: float = Field(default=0.0, ge=0, le=MOST)
    trunk: Literal["auto", "kept", "recomputed"] = "auto"
    trunk_dropout: bool = True
    distil_temperature: float = Field(default=2.0, gt=0)
    distil_weight: float = Field(default=0.9, ge=0, le=1)
    retention: bool | Annotated[str, Field(min_length=1)] = False

    @field_validator("warmup")
    @classmethod
    def _whole_steps(cls, given: float) -> float:
        if given >= 1 and given != int(given):
            raise ValueError("expected a share of the steps, below 1, or a whole number of steps")
        return given

    @property
    def cuts(self) -> Cuts:
        """The parts of the training split that are set aside, as arguments of `Task.load`."""
        return Cuts(calibration=self.temperature, abstention=self.abstain_error is not None)

    def as_long_as(self, texts: int) -> Self:
        """Return a copy with as many steps as a training on `texts` texts takes, for a training on fewer texts."""
        steps = self.epochs * math.ceil(texts / (self.batch_size * self.accumulate))
        return self.model_copy(update={"max_steps": self.max_steps or steps})


class Ask(Frozen):
    r"""The prompt template, the label words and the start of the head: the section [ask] of a study file.

    Attributes:
        head: The weights with which the classification head starts. "random" means random weights. "words" means the
            output embeddings of the labels' words (a verbalizer), so that training begins at the language model's own
            answer. "auto" means "words" if the labels are words whose first tokens differ
            (`afina.models.verbalizer`), else "random".
        template: The prompt around each text, such as "Review: {text}\nSentiment:"; "{text}" is the text alone. If
            `template` is None, the prompt is a template that suits the labels if the head starts from words, and
            otherwise the text alone.
        words: The words of each label, by label, with a leading space if the tokenizer needs it. None: the word of a
            label is the label's name.
        offset: Whether an offset is added to each label's logit, so that all labels are equally probable on average
            over the training texts (batch calibration). The labels of the training texts are not used.
    """

    head: Literal["auto", "random", "words"] = "auto"
    template: str | None = None
    words: dict[str, tuple[str, ...]] | None = None
    offset: bool = False


UNASKED = Ask(head="random")
"""The prompt settings without a prompt: a random head, and each text without a template."""


def training_settings(recorded: Mapping[str, Any]) -> dict[str, Any]:
    """Return the training settings of a record that can change the result of the run.

    Settings that the record lacks have their defaults, because an earlier version of afina had only these.
    """
    usual = {**Training().model_dump(mode="json"), **recorded}
    return {name: value for name, value in usual.items() if name not in NO_EFFECT}


NO_EFFECT = frozenset({"checkpoint_seconds"})
"""The training settings that do not change the result of a run."""

DISTILLATION = ("distil_temperature", "distil_weight")
"""The training settings that only a run with a teacher has."""

_NO_EFFECT = {
    "data": {"allow_leakage", "unlabelled", "without"},
    "training": set(NO_EFFECT),
    **dict.fromkeys(("name", "metric", "send_texts"), True),
    "teacher": {"path"},
}
"""The fields of `RunSpec` that do not change the result; runs that differ only in these fields have the same key."""


def with_address(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a run or a study, in which a `Task` object is replaced by its address and reading options.

    Raises InvalidData for a `Task` without an address, and if `data` contradicts the reading options of the `Task`.
    """
    task, data = fields.get("task"), fields.get("data")
    if isinstance(task, os.PathLike) or is_frame(task):
        return {**fields, "task": as_address(task)}
    if not isinstance(task, Task):
        return dict(fields)
    if task.data is None:
        raise problems.TASK_MADE_BY_HAND(task=task.address, argument="task", found="Task")
    own = data.given if isinstance(data, ReadingOptions) else dict(data or {})
    read = task.data.given
    twice = [name for name in own if name in read and own[name] != read[name]]
    if twice:
        raise problems.TASK_READ_OTHERWISE(
            expected=read[twice[0]], found=own[twice[0]], task=task.address, option=twice[0]
        )
    return {**fields, "task": task.address, "data": {**read, **own}}


class Teacher(Frozen):
    """The adapter from whose outputs a run learns (Hinton et al. 2015).

    Attributes:
        run: The key of the teacher's run, for a teacher that the same study trains.
        adapter: The digest of the teacher's adapter, for a teacher that was trained before.
        path: The directory of the teacher's adapter. "": the teacher's run has not been executed yet.
    """

    run: str | None = None
    adapter: str | None = None
    path: str = ""


class RunSpec(ReprCard, Frozen):
    """The description of one training and evaluation.

    Attributes:
        generate: The decoding with which target texts are generated in the evaluation.
        name: The run's name in tables. Default: the method's key.
        metric: The headline metric, which also scores tuning trials. None: the default metric of the task or its kind.
        data_digest: The digest of the contents of the task's files (`Task.data_digest`), so that a run on changed files
            has another key. `data_digest` is None if the address identifies the texts, as for packaged data and data on
            the Hub.
        teacher: The adapter from whose outputs the run learns. None: the run learns from labels only.
        unlabelled_digest: The digest of the file of texts without labels, so that a run on a changed file has another
            key. None: there is no such file.
        without_digest: The digest of the file of rows that are left out of the training texts, so that a run on a
            changed file has another key. None: there is no such file.
        backbone_files: The digest of the files in the backbone's directory (`backbone_spec.files_digest`), so that a
            run on changed files has another key. None if the address identifies the backbone.
        send_texts: Whether the user allows the run to send texts to the endpoint that its method asks. No file has this
            permission.
    """

    backbone: str
    task: str
    method: str
    hyperparameters: dict[str, Any] = Field(default_factory=dict)
    data: ReadingOptions = USUAL
    training: Training = Training()
    ask: Ask = Ask()
    generate: Decoding = GREEDY
    seed: int = 0
    name: str = ""
    metric: str | None = None
    data_digest: str | None = None
    backbone_files: str | None = None
    teacher: Teacher | None = None
    unlabelled_digest: str | None = None
    without_digest: str | None = None
    send_texts: bool = False

    def facts(self) -> dict[str, object]:
        return {
            "name": self.title,
            "method": self.method if self.name else None,
            "seed": self.seed,
            "backbone": self.backbone,
            "task": self.task,
            "hyperparameters": tuple(f"{key} {value}" for key, value in self.hyperparameters.items()),
            "training": tuple(f"{key} {value}" for key, value in self.training.non_defaults().items()),
        }

    @cached_property
    def key(self) -> str:
        """The key of the run: the digest of those fields that differ from their defaults and can change the result."""
        made = make(self.method, self.hyperparameters)
        changed = {name: value for name, value in made.non_defaults.items() if name not in made.no_effect}
        effective = self.model_copy(update={"ask": self.asked, "hyperparameters": changed})
        return digest.of_settings(effective.non_defaults(without=_NO_EFFECT))

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Return a changed copy without the cached key, which pydantic's own `model_copy` would keep."""
        copied = super().model_copy(update=update, deep=deep)
        copied.__dict__.pop("key", None)
        return copied

    def on(self, data_digest: str | None) -> Self:
        """Return a copy of the run with `data_digest` as the digest of the task's files."""
        return self if data_digest == self.data_digest else self.model_copy(update={"data_digest": data_digest})

    def on_beside(self, digests: Mapping[str, str | None]) -> Self:
        """Return a copy of the run with the digests of the files beside its task (`inputs.files_beside`)."""
        same = all(getattr(self, name) == found for name, found in digests.items())
        return self if same else self.model_copy(update=digests)

    @property
    def distils(self) -> bool:
        """Whether the run learns from a teacher, and not only from labels."""
        return self.teacher is not None and self.training.distil_weight > 0

    def on_files(self, backbone_files: str | None) -> Self:
        """Return a copy of the run with `backbone_files` as the digest of the backbone's files."""
        same = backbone_files == self.backbone_files
        return self if same else self.model_copy(update={"backbone_files": backbone_files})

    @property
    def asked(self) -> Ask:
        """The prompt settings of the run, with the head that its method prescribes, if any (`Method.head`)."""
        head = METHODS[self.method].head if self.method in METHODS else None
        if head == "random":
            return UNASKED
        return self.ask.model_copy(update={"head": head}) if head else self.ask

    @property
    def asks_endpoint(self) -> bool:
        """Whether a model behind an API answers the texts of the run, so that `backbone` is never opened."""
        return asks_endpoint(self.method)

    @property
    def title(self) -> str:
        """The name of the run, or the method's key if the run has no name."""
        return self.name or self.method

    @property
    def label(self) -> str:
        """The name of the run's files in an output directory, without extension."""
        return f"{self.title}-seed{self.seed}-{self.key.removeprefix(digest.PREFIX)[:8]}"
