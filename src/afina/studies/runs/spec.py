"""RunSpec: what a run is asked for. Backbone x task x method x hyperparameters x data x training x seed, hashable.

Knows no way to carry it out. Starts without torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any, ClassVar, Literal, Self, get_args

from pydantic import ConfigDict, Field

from afina import digest
from afina.data.kinds import How, Kind
from afina.methods import METHODS, make
from afina.models.backbone_spec import FLOAT, PrecisionName
from afina.repr_html import ReprCard
from afina.schema import Frozen, Sparing

Dtype = Literal["auto", "float32", "bfloat16"]
DTYPES: tuple[Dtype, ...] = get_args(Dtype)
"""What `train.dtype` may be."""


MOST = 2**31 - 1
"""Of anything that is counted; a greater number is a slip, and none that numpy and torch could compute with."""


class Data(Frozen):
    """How to read the task: column names, order of the labels, and how much of it.

    labels  label names, in the order of their indices
    kind, separator  what stands in the label's column, and between several labels; None: what it looks like
    missing, merge_labels, sheet  what is done with missing values, whether labels that differ in their spelling are
                one, and which sheet of a workbook is read; see `Task.load`
    train_examples, evaluation_examples  at most so many, chosen by a stable hash of the text
    validation  share of the training split that stands in for the evaluation split, which is then not used at all
    evaluation  a file, all of which stands in for the evaluation split
    positive    of two labels, the one that F1 and AUROC are about; None: the second
    selection   share of the training split that is not trained on, and scored beside the evaluation split, for whoever
                selects one of several trained models
    """

    text: str | None = None
    text_pair: str | None = None
    label: str | None = None
    labels: tuple[str, ...] | None = None
    kind: Kind | None = None
    separator: str | None = Field(default=None, min_length=1)
    missing: How | None = None
    merge_labels: bool = False
    sheet: str | None = None
    train_examples: int | None = Field(default=None, ge=1, le=MOST)
    evaluation_examples: int | None = Field(default=None, ge=1, le=MOST)
    validation: float | None = Field(default=None, gt=0, lt=1)
    evaluation: str | None = None
    selection: float | None = Field(default=None, gt=0, lt=1)
    positive: str | None = None
    allow_leakage: bool = False


class Training(Sparing):
    """How to train.

    learning_rate   None: the method's own default
    max_length      tokens; longer texts are truncated. None: 512, or the backbone's own limit where that is less
    max_steps       None: as many as `epochs` takes; the decay ends at the last step
    dtype           "auto": bfloat16 where the device computes it natively
    precision       what the backbone's frozen linear weights are held in, a key of PRECISIONS; "float": in `dtype`
    accumulate      batches a step: its gradient is that of the mean over all their examples
    token_budget    the most tokens computed at once: a batch with more is computed in parts of whole texts, whose
                    gradients add up to the batch's. Bounds the memory; changes nothing but rounding and dropout draws.
                    Texts of 1,024 tokens train three times as fast one at a time as eight at once, and 2,048 cuts no
                    batch of 16 texts of 128 tokens
    checkpointing   keep only each block's input for the backward pass, and compute the block again there: less memory,
                    more time, the same result
    label_smoothing share of each target that is spread evenly over all labels (Szegedy et al. 2016)
    class_weights   "balanced": each text's loss counts as much as its class is rare, N / (C count) as in scikit-learn
    temperature     fit one by which outputs are divided before they are probabilities, and thresholds where there are
                    several labels, on a tenth of the training split that is cut from it (Guo et al. 2017)
    average         the trained weights are the mean of those after each step of this last share of the steps (Polyak
                    and Juditsky 1992; Izmailov et al. 2018)
    pull            strength of a decay of the backbone's own trained weights toward what they were (L2-SP, Li et al.
                    2018), in the place of their weight decay; of methods that train such weights
    """

    model_config = ConfigDict(allow_inf_nan=False)
    unwritten: ClassVar[frozenset[str]] = frozenset({"precision"})

    epochs: int = Field(default=2, ge=1, le=MOST)
    batch_size: int = Field(default=16, ge=1, le=MOST)
    learning_rate: float | None = Field(default=None, gt=0)
    weight_decay: float = Field(default=0.01, ge=0)
    clip: float = Field(default=1.0, gt=0)
    max_length: int | None = Field(default=None, ge=1, le=MOST)
    max_steps: int | None = Field(default=None, ge=1, le=MOST)
    dtype: Dtype = "auto"
    precision: PrecisionName = FLOAT
    accumulate: int = Field(default=1, ge=1, le=MOST)
    token_budget: int = Field(default=2048, ge=1, le=MOST)
    checkpointing: bool = False
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    class_weights: Literal["balanced"] | None = None
    temperature: bool = False
    average: float = Field(default=0.0, ge=0, le=1)
    pull: float = Field(default=0.0, ge=0)
    checkpoint_seconds: float = Field(default=60.0, ge=0)


class Ask(Frozen):
    """How the model is asked about a text.

    head      what the classification head starts from: "random", a draw; "words", the output embeddings of the labels'
              words, so that what the language model answers is where training begins; "auto": words where the labels
              are words that tell them apart, see `afina.models.verbalizer`
    template  what a text stands in, such as "Review: {text}\\nSentiment:"; "{text}" is the text alone. None: with
              words, one that suits the labels; else the text alone
    words     by label, the words that answer for it, with the space before them where they need one. None: its name
    offset    shift each label's output by what the training texts, without their labels, suggest
    """

    head: Literal["auto", "random", "words"] = "auto"
    template: str | None = None
    words: dict[str, tuple[str, ...]] | None = None
    offset: bool = False


UNASKED = Ask(head="random")
"""As the study has it: a random head, and each text alone."""

NO_EFFECT = frozenset({"checkpoint_seconds"})
"""Settings of training that change no result."""

LATER = {
    "data": (
        "validation",
        "evaluation",
        "kind",
        "separator",
        "selection",
        "positive",
        "missing",
        "merge_labels",
        "sheet",
    ),
    "training": ("label_smoothing", "average", "pull", "class_weights", "temperature"),
}
"""Settings that came after runs without them; at their defaults they do nothing, and the runs keep their keys."""

_NO_EFFECT = {"data": {"allow_leakage"}, "training": set(NO_EFFECT), "name": True, "metric": True}
"""Fields that change no result; two runs that differ only here are the same run."""


class RunSpec(ReprCard, Frozen):
    """One training and evaluation, as an intention.

    name    what tables call it; the method's key by default
    metric  by which trials are scored, and which heads what is told of it; None: the task's
    data_digest  of what the task's files hold (`Task.data_digest`), so that changed files make another run; None where
            the address itself says which texts these are, as that of packaged data and of data on the Hub
    """

    backbone: str
    task: str
    method: str
    hyperparameters: dict[str, Any] = Field(default_factory=dict)
    data: Data = Data()
    training: Training = Training()
    ask: Ask = Ask()
    seed: int = 0
    name: str = ""
    metric: str | None = None
    data_digest: str | None = None

    def facts(self) -> dict[str, object]:
        """The facts that its repr shows."""
        return {
            "name": self.title,
            "method": self.method if self.name else None,
            "seed": self.seed,
            "backbone": self.backbone,
            "task": self.task,
            "hyperparameters": tuple(f"{key} {value}" for key, value in self.hyperparameters.items()),
            "training": tuple(
                f"{key} {value}" for key, value in self.training.model_dump(exclude_defaults=True).items()
            ),
        }

    @cached_property
    def key(self) -> str:
        """Digest of the intention, with the method's defaults written out."""
        intention = self.model_dump(mode="json", exclude=_NO_EFFECT)  # type: ignore[arg-type]
        for part, names in LATER.items():
            asked = getattr(self, part)
            for name in names:
                if getattr(asked, name) == type(asked).model_fields[name].default:
                    del intention[part][name]
        if self.data_digest is None:
            del intention["data_digest"]  # likewise
        if self.asked == UNASKED:
            del intention["ask"]  # likewise
        else:
            intention["ask"] = self.asked.model_dump(mode="json")
        intention["hyperparameters"] = make(self.method, self.hyperparameters).hyperparameters
        return digest.of_json(intention)

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Another one, with the key that it has then: pydantic's copy would keep the first one's."""
        copied = super().model_copy(update=update, deep=deep)
        copied.__dict__.pop("key", None)
        return copied

    def on(self, data_digest: str | None) -> Self:
        """The same, of data with that digest."""
        return self if data_digest == self.data_digest else self.model_copy(update={"data_digest": data_digest})

    @property
    def asked(self) -> Ask:
        """`ask`, as far as the method leaves it open: see `Method.head`."""
        head = METHODS[self.method].head if self.method in METHODS else None
        if head == "random":
            return UNASKED
        return self.ask.model_copy(update={"head": head}) if head else self.ask

    @property
    def title(self) -> str:
        """The name, or the method's key."""
        return self.name or self.method

    @property
    def label(self) -> str:
        """The name of this run's files."""
        return f"{self.title}-seed{self.seed}-{self.key.removeprefix(digest.PREFIX)[:8]}"
