"""`Training`: the settings of a training, as study files, runs, records and manifests have them.

The module does not know runs or steps, and can be imported without torch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, get_args

from pydantic import ConfigDict, Field, field_validator, model_validator

from afina import processor
from afina.data.reading_options import MOST
from afina.models.backbone_spec import FLOAT, PrecisionName
from afina.schema import Frozen

if TYPE_CHECKING:
    from afina.data.task import Cuts

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


REMOVED: Mapping[str, Any] = {"trunk": "auto", "trunk_dropout": True}
"""The defaults of settings that earlier versions of afina had, and that records and studies may still state."""


ENCODER_EPOCHS = 4
"""The default of `Training.epochs` on encoders (docs/reference/methods.md)."""


class Training(Frozen):
    """The training settings: the section [train] of a study file.

    Attributes:
        epochs: The number of passes over the training split. A run on an encoder that is not given `epochs` has
            ENCODER_EPOCHS, also in its record.
        batch_size: The number of texts per batch.
        learning_rate: The largest learning rate, which decays to 0. None: the method's default on a language model; a
            run on an encoder states the method's `encoder_rate`.
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
        products: The products are those with frozen weights of the backbone's linear layers, in the forward pass and
            for the gradients of inputs. "float" computes them in `dtype`. "int8"
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
        abstain_error: A threshold of confidence is chosen on the texts that are set aside. None: every text is
            answered.
        average: The last share of the steps over which the weights are averaged; the mean weights are the result
            (Polyak and Juditsky 1992; Izmailov et al. 2018). 0: the last weights are the result.
        pull: The strength of a decay of the backbone's trained weights toward their pretrained values, instead of
            weight decay (L2-SP, Li et al. 2018). `pull` is only for methods that train weights of the backbone.
        checkpoint_seconds: The number of seconds between two checkpoints.
        warmup: The number of first steps in which the learning rate rises linearly from 0. A `warmup` below 1 is a
            share of all steps, as in transformers' `warmup_steps`. With `warmup = 0`, the first step has the largest
            learning rate.
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
    distil_temperature: float = Field(default=2.0, gt=0)
    distil_weight: float = Field(default=0.9, ge=0, le=1)
    retention: bool | Annotated[str, Field(min_length=1)] = False

    @model_validator(mode="before")
    @classmethod
    def _without_removed(cls, given: Any) -> Any:
        if not isinstance(given, Mapping):
            return given
        return {name: value for name, value in given.items() if name not in REMOVED or REMOVED[name] != value}

    @field_validator("warmup")
    @classmethod
    def _whole_steps(cls, given: float) -> float:
        if given >= 1 and given != int(given):
            raise ValueError("expected a share of the steps, below 1, or a whole number of steps")
        return given

    @property
    def cuts(self) -> Cuts:
        """The parts of the training split that are set aside, as arguments of `Task.load`."""
        return {"calibration": self.temperature, "abstention": self.abstain_error is not None}

    @property
    def stated(self) -> dict[str, Any]:
        """The settings that a study file states: those that differ from their defaults, and `epochs` if it is given."""
        given = {"epochs": self.epochs} if "epochs" in self.model_fields_set else {}
        return self.non_defaults() | given

    def on_encoder(self, rate: float | None) -> Self:
        """Return a copy that states the defaults on encoders, so that a run at other defaults has another key.

        Fields that are set stay as they are, also to None: a machine that reads the run from a message may know the
        backbone better than the one that has sent it, and must not change the run's key.

        `rate`: the method's learning rate on encoders. None: its `learning_rate`.
        """
        usual = {"learning_rate": rate, "epochs": None if self.max_steps is not None else ENCODER_EPOCHS}
        stated = {name: value for name, value in usual.items() if value and name not in self.model_fields_set}
        return self.model_copy(update=stated) if stated else self

    def as_long_as(self, texts: int) -> Self:
        """Return a copy with as many steps as a training on `texts` texts takes, for a training on fewer texts."""
        steps = self.epochs * math.ceil(texts / (self.batch_size * self.accumulate))
        return self.model_copy(update={"max_steps": self.max_steps or steps})


def training_settings(recorded: Mapping[str, Any]) -> dict[str, Any]:
    """Return the training settings of a record that can change the result of the run.

    Settings that the record lacks have their defaults, because an earlier version of afina had only these.
    """
    usual = {**REMOVED, **Training().model_dump(mode="json"), **recorded}
    return {name: value for name, value in usual.items() if name not in NO_EFFECT}


NO_EFFECT = frozenset({"checkpoint_seconds"})
"""The training settings that do not change the result of a run."""

DISTILLATION = ("distil_temperature", "distil_weight")
"""The training settings that only a run with a teacher has."""
