"""`Method`: the base class of all ways to adapt a classifier.

A subclass must implement `attach` and set `name`, `title` and `summary`; all else has defaults.
`afina.methods.attachment` checks that a method trains and changes what its attributes declare. The module does not
import torch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from afina import digest
from afina.data.kinds import FIXED, Draw, Kind
from afina.errors import InvalidStudy
from afina.methods import problems
from afina.models.architectures import is_head

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Parameter

    from afina.data.pair_sampling import PairSampling
    from afina.models.backbone import Backbone
    from afina.models.kernels.layer_changes import BatchedAdapter
    from afina.models.objective import Opening


REQUIRED = ("name", "title", "summary")


@dataclass(frozen=True)
class Method(ABC):
    """A way to adapt a classifier. The dataclass fields are the hyperparameters.

    Attributes:
        name: The method's key in METHODS.
        title: The method's name in tables.
        summary: One line on what the method trains.
        learning_rate: Default learning rate. The defaults of LoRA and PreLayer were selected on 2,000 movie sentences
            (docs/LOG.md).
        encoder_rate: Default learning rate on encoders (docs/reference/methods.md). None: `learning_rate`.
        search: Values that tuning tries, by hyperparameter. Tuning also tries learning rates from a tenth of the
            default to ten times the default. None: the method has nothing to tune.
        practical: Whether afina's recommendation of a method considers this method.
        kinds: The kinds of task that the method supports. None: all kinds.
        tensor_file: Name of the file with the saved tensors; the library that reads the file expects this name.
        said_by_peft: Whether the settings of a peft adapter can express this method when it trains together with a peft
            method (`in_peft`).
        trains_body: Whether the method is meant to train parameters outside the head.
        head: The initial head that the method requires: random, or made of label words (`afina.models.verbalizer`).
            None: the head that the user chose.
        starts_apart: Whether attaching the method changes the logits. Most methods start without effect.
        packs: Whether the method works if matrix kernels store frozen weights in their own layout during bfloat16
            training. `packs` is False if the method reads a layer's weights instead of calling the layer.
        trains_all: Whether the method trains every parameter of the backbone, so that no layer stays frozen.
        adds_parameters: True: the trained parameters outside the head are added to the backbone. False: they are the
            backbone's own parameters. `adds_parameters` is None if some trained parameters are added and some are the
            backbone's own.
        is_fitted: Whether scikit-learn fits the method's head to features of the frozen body, without gradient steps.
        asks_endpoint: Whether a model behind an API answers the texts (`AskedEndpoint`). A run then opens no backbone.
        why_without_adapter: Why a run without an adapter (`has_adapter`) has none, as a clause for error messages.
        needs_encoder: Whether the method supports only encoders, as `for_family` says.
        no_effect: Names of the hyperparameters that change no result, such as a price. A run's key and a record do not
            have these hyperparameters.
        ignores: Fields of [train] and [ask] in a study file that have no effect on the method. afina refuses a run that
            sets such a field.
        required: What a user must give for a hyperparameter without a default, by its name.
        stated: Names of the hyperparameters that manifests, records and tables contain even at their default values.
            None: all hyperparameters. Manifests contain other hyperparameters only if they differ from their defaults,
            so that adding a hyperparameter to afina changes no digest.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    summary: ClassVar[str]
    learning_rate: ClassVar[float] = 2e-4
    encoder_rate: ClassVar[float | None] = None
    search: ClassVar[Mapping[str, tuple[Any, ...]] | None] = {}
    practical: ClassVar[bool] = True
    kinds: ClassVar[frozenset[Kind] | None] = None
    tensor_file: ClassVar[str] = "delta.safetensors"
    said_by_peft: ClassVar[bool] = False
    trains_body: ClassVar[bool] = True
    head: ClassVar[Literal["random", "words"] | None] = None
    starts_apart: ClassVar[bool] = False
    packs: ClassVar[bool] = True
    trains_all: ClassVar[bool] = False
    adds_parameters: ClassVar[bool | None] = True
    is_fitted: ClassVar[bool] = False
    asks_endpoint: ClassVar[bool] = False
    why_without_adapter: ClassVar[str] = ""
    needs_encoder: ClassVar[bool] = False
    no_effect: ClassVar[frozenset[str]] = frozenset()
    ignores: ClassVar[frozenset[str]] = frozenset()
    required: ClassVar[Mapping[str, str]] = {}
    stated: ClassVar[frozenset[str] | None] = None

    def check_kind(self, kind: str) -> None:
        if self.kinds is not None and kind not in self.kinds:
            raise problems.KIND_UNSUPPORTED(known=sorted(self.kinds), method=self.name, kind=kind)

    def for_opening(self, opening: Opening) -> Self:
        """Return the method for models that transformers opens so. Raises InvalidStudy for a meaningless setting."""
        return self

    def for_backbone(self, backbone: Backbone) -> Self:
        return self.for_family(backbone.family)

    def for_family(self, family: str) -> Self:
        """With the family's default hyperparameters. Raises InvalidStudy if the family is not supported."""
        return self

    def for_sentences(self) -> Self:
        """With the defaults for a backbone with sentence-transformers' files, which a run on such a backbone states."""
        return self

    @property
    def hyperparameters(self) -> dict[str, Any]:
        """As JSON values, without those that are at their default and not in `stated`."""
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        stated = values.keys() if self.stated is None else self.stated | self.non_defaults.keys()
        return {
            name: list(value) if isinstance(value, tuple) else value for name, value in values.items() if name in stated
        }

    @property
    def non_defaults(self) -> dict[str, Any]:
        """As JSON values that differ from their defaults; the key of a run contains a digest of these."""
        return digest.non_defaults(self)

    @property
    def effective(self) -> dict[str, Any]:
        """The hyperparameters that a record has: those that are not in `no_effect`."""
        return {name: value for name, value in self.hyperparameters.items() if name not in self.no_effect}

    @classmethod
    def accepts(cls) -> set[str]:
        return {each.name for each in fields(cls)}

    def rate_on(self, encoder: bool) -> float:
        """Return the default learning rate on an encoder, or on a language model."""
        return self.encoder_rate if encoder and self.encoder_rate is not None else self.learning_rate

    @property
    def label_examples(self) -> float | None:
        """The number of training texts for which each label's name counts, as a further example of its label."""
        return None

    @property
    def common_scale(self) -> bool | None:
        """Whether scikit-learn fits the head to features that are all divided by one number."""
        return None

    @property
    def trains_head(self) -> bool:
        return True

    @property
    def pairs(self) -> PairSampling | None:
        """How pairs of texts are drawn, if gradient steps on pairs train the body and scikit-learn fits the head.

        None: the method trains on single texts.
        """
        return None

    @property
    def takes_positions(self) -> int:
        """Number of virtual tokens that the method adds; a text's maximum length is shorter by this number."""
        return 0

    @property
    def trains_nothing(self) -> bool:
        return not (self.trains_head or self.trains_body)

    @property
    def has_adapter(self) -> bool:
        """Whether a run with the method gives an adapter, which can predict further texts without the run's data."""
        return True

    @property
    def learns_from_teacher(self) -> bool:
        """Whether the method can learn from a teacher's probabilities: a head that gradient steps train can."""
        return not (self.trains_nothing or self.is_fitted or self.pairs is not None)

    @property
    def own_backbone(self) -> str | None:
        """The address of the model that the method itself names, if it asks an endpoint; this model is never opened."""
        return None

    @property
    def depends_on_seed(self) -> bool:
        """Whether runs that differ only in their seed can have different results."""
        return True

    @property
    def reads_training_texts(self) -> bool:
        """Whether the training texts can change the result."""
        return True

    @property
    def in_prompt(self) -> tuple[int, Draw]:
        """The number of training examples in each prompt, and which examples (`afina.data.shots.Shots`)."""
        return 0, FIXED

    @property
    def multiplies_frozen(self) -> bool:
        """Whether frozen linear layers can be multiplied in another form than floats while the method trains."""
        return self.packs and not self.trains_all

    @abstractmethod
    def attach(self, model: Any) -> Any:
        """Prepare a transformers classifier for training and return it, possibly wrapped, with unchanged logits.

        After `attach`, only the parameters to train require gradients.

        Raises InvalidStudy if the model lacks a part that the method needs.
        """

    def begin(self, model: Any) -> None:  # noqa: B027 - most have nothing to compute
        """Compute first values from the backbone's weights, if `attach` got stand-ins (`afina.models.weights.unread`).

        By default, nothing is computed. `attach` gives NaN to a value that it would compute from these weights.
        """

    def owns(self, name: str) -> bool:
        """Whether this method trains the parameter with this `plain_name` if several methods are combined."""
        return False

    def owned(self, model: Any) -> set[str]:
        """Return the `plain_name` of every parameter of an attached, unwrapped `model` for which `owns` is true."""
        names = (plain_name(name) for name, _ in model.named_parameters())
        return {name for name in names if self.owns(name)}

    def trainable(self, model: Any) -> dict[str, Parameter]:
        return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}

    def by_gradient(self, model: Any) -> dict[str, Parameter]:
        """Return the parameters that gradient steps train, by name: without the head, if the method trains on pairs."""
        trained = self.trainable(model)
        return trained if self.pairs is None else {name: each for name, each in trained.items() if not is_head(name)}

    def decays(self, model: Any) -> set[str]:
        """All except biases and norm weights, as `Trainer.get_decay_parameter_names` (a test compares them)."""
        norms = {
            f"{prefix}.{name}" if prefix else name
            for prefix, module in model.named_modules()
            if "norm" in type(module).__name__.lower()
            for name, _ in module.named_parameters(recurse=False)
        }
        return {name for name, _ in model.named_parameters() if name not in norms and "bias" not in name.lower()}

    def unlowered(self, model: Any) -> set[str]:
        """The names of the parameters that stay float32 if the body computes in bfloat16."""
        return set()

    def multipliers(self, model: Any) -> Mapping[str, float]:
        """Return learning-rate multipliers by parameter name; a parameter without an entry has the multiplier 1."""
        return {}

    def pretrained(self, model: Any) -> set[str]:
        """Return the names of trained parameters from the backbone, which L2-SP pulls towards their initial values."""
        return set()

    def state(self, model: Any) -> dict[str, Tensor]:
        """Return all tensors that may differ from the backbone, by name. The head's tensors are always included."""
        return {
            name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad or is_head(name)
        }

    def check(self, model: Any, state: Mapping[str, Tensor]) -> None:  # noqa: B027 - most add nothing that is large
        """Check that an adapter's saved tensors fit a model, before `attach`; files may come from an untrusted source.

        `attach` would allocate memory of the size that the hyperparameters ask for; `check` does not.

        Raises CorruptAdapter if the tensors do not fit the method, and InvalidStudy if the hyperparameters are not
        supported.
        """

    def check_saved(self, model: Any, expected: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> None:
        """Raise CorruptAdapter unless `state` (saved) has the names and shapes of `expected`."""
        check_names(expected, state)

    def restore(self, model: Any, state: Mapping[str, Tensor]) -> None:
        """Copy saved tensors into a model with the method. Raises CorruptAdapter if names or shapes differ."""
        import torch

        expected = self.state(model)
        check_names(expected, state)
        with torch.no_grad():
            for name, tensor in expected.items():
                tensor.copy_(state[name])

    def batched(self, model: Any, state: Mapping[str, Tensor], base: Any) -> BatchedAdapter | None:
        """Return how an adapter changes the layers of a shared frozen model in a mixed batch.

        If `batched` returns None, or `state` has tensors that are not in the result's `tensor_names`, the adapter is
        served by a model of its own. `model` has the method attached, on the `meta` device.
        """
        return None

    def merged(self, model: Any) -> Any:
        """Merge what the method added to `model` into the backbone's weights, in place, and return it.

        Additions that cannot be merged stay in the model. Raises InvalidStudy if the method does not support merging.
        """
        return model

    def in_peft(self, model: Any) -> Mapping[str, Any]:
        """Return the peft settings (`bias` or `modules_to_save`) that express the method, if `said_by_peft` is true."""
        return {}

    def accompany(self, model: Any, backbone: Backbone, directory: Path) -> None:  # noqa: B027 - most need none
        """Write the small files, such as configurations, that other libraries need to open the saved tensors."""


def out_of_range(method: str, expected: str, **found: Any) -> InvalidStudy:
    """Return the error for hyperparameters that are outside the expected values, as `expected` says in words."""
    stated = ", ".join(f"{name}={value!r}" for name, value in found.items())
    return problems.HYPERPARAMETERS_INVALID(_found=stated, _expected=expected, method=method, **found)


def plain_name(name: str) -> str:
    """Return a parameter's name without the prefixes and infixes that peft's wrappers add."""
    inner = name.removeprefix("base_model.model.").removeprefix("base_model.")
    return inner.replace(".base_layer.", ".").replace(".modules_to_save.default.", ".")


def weight_names(model: Any) -> tuple[set[str], set[str]]:
    """Return the `plain_name` of all parameters, and of all weights that layers store as int8 or NF4."""
    from afina.models.kernels.linear import held_by

    held = {plain_name(f"{path}.weight") for path, layer in model.named_modules() if held_by(layer) is not None}
    return {plain_name(name) for name, _ in model.named_parameters()}, held


def check_names(expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> None:
    """Raise CorruptAdapter for other names or shapes."""
    missing, surplus = sorted(expected.keys() - found.keys()), sorted(found.keys() - expected.keys())
    if missing or surplus:
        what = f"lacks {missing[0]}" if missing else f"has {surplus[0]}, which this model does not"
        raise problems.TENSORS_MISMATCH(found=what, missing=len(missing), unknown=len(surplus))
    for name, tensor in expected.items():
        if tensor.shape != found[name].shape:
            raise problems.SHAPE_MISMATCH(tensor=name, found=found[name].shape, expected=tensor.shape)
