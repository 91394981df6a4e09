"""Method: the base class of all ways to adapt a classifier.

A method has four base classes. `Adaptation` says what is attached, trained and saved; `Description`, `Serving` and
`Format` have defaults. A method must implement `attach` and set `name`, `title` and `summary`. Training, measuring and
saving only use the `Adaptation`. `afina.methods.attachment` checks a method against its statements. The module does not
know any method, and does not import torch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from afina import digest
from afina.methods import problems
from afina.models.architectures import is_head

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Parameter

    from afina.models.backbone import Backbone
    from afina.models.kernels.layer_changes import BatchedAdapter


class Description:
    """A method's names, search space and default learning rate. Every method sets the first three attributes.

    Attributes:
        name: Key in METHODS.
        title: Name in tables.
        summary: One line on what the method trains.
        learning_rate: Default learning rate. LoRA's and PreLayer's are the quickstart's, see docs/LOG.md.
        search: Values for tuning by hyperparameter, in addition to learning rates from a tenth of the default to ten
            times the default. None: nothing to tune.
        practical: Whether a recommendation considers the method.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    summary: ClassVar[str]
    learning_rate: ClassVar[float] = 2e-4
    search: ClassVar[Mapping[str, tuple[Any, ...]] | None] = {}
    practical: ClassVar[bool] = True


REQUIRED = ("name", "title", "summary")
"""Attributes of a description without defaults."""


class Serving:
    """The part of a method for mixed batches; by default the adapter is served by a model of its own."""

    def batched(self, model: Any, state: Mapping[str, Tensor], base: Any) -> BatchedAdapter | None:
        """Return an adapter's changes of a frozen model in a mixed batch; None: it needs a model of its own.

        An adapter also gets a model of its own if `state` has tensors that are not in the result's `tensor_names`.

        Args:
            model: A model with the method attached, on the `meta` device.
        """
        return None

    def merged(self, model: Any) -> Any:
        """Merge the additions of an attached model into the backbone's weights; changes and returns `model`.

        Additions that cannot be merged stay in the model.

        Raises InvalidStudy if the method does not support merging.
        """
        return model


class Format:
    """Files of a saved adapter for afina and other libraries; by default afina's own format only.

    Attributes:
        tensor_file: Name of the file of saved tensors, as expected by the library that reads it.
        said_by_peft: Whether peft's settings can express what the method trains beside a peft method (`in_peft`).
    """

    tensor_file: ClassVar[str] = "delta.safetensors"
    said_by_peft: ClassVar[bool] = False

    def in_peft(self, model: Any) -> Mapping[str, Any]:
        """Return the method as peft settings: `bias`, or a list of `modules_to_save`. Only used if `said_by_peft`."""
        return {}

    def accompany(self, model: Any, backbone: Backbone, directory: Path) -> None:
        """Write the small files with which other libraries open the saved tensors."""


@dataclass(frozen=True)
class Adaptation(ABC):
    """The part of a method that attaches, trains and saves; the dataclass fields are the hyperparameters.

    Attributes:
        trains_body: Whether the method is meant to train parameters outside the head.
        head: Initial head that the method requires (`afina.models.verbalizer`). None: the head that the user chose.
        starts_apart: Whether attaching changes the logits, because the additions cannot start without effect.
        packs: Whether frozen weights may be packed during bfloat16 training. False if the additions read the weights
            of a layer instead of calling the layer.
        adds_parameters: Whether trained parameters outside the head are added to the backbone's, rather than being the
            backbone's own. None: some of them.
        is_fitted: Whether scikit-learn fits the head to features of the frozen body, without gradient steps.
        ignores: Fields of [train] and [ask] without effect on the method; a run that sets such a field is refused.
        stated: Names of the hyperparameters that manifests, records and tables contain also at their defaults. None:
            all. Others are contained if they differ from their defaults, so a new one changes no digest.
    """

    trains_body: ClassVar[bool] = True
    head: ClassVar[Literal["random", "words"] | None] = None
    starts_apart: ClassVar[bool] = False
    packs: ClassVar[bool] = True
    adds_parameters: ClassVar[bool | None] = True
    is_fitted: ClassVar[bool] = False
    ignores: ClassVar[frozenset[str]] = frozenset()
    stated: ClassVar[frozenset[str] | None] = None

    def for_backbone(self, backbone: Backbone) -> Self:
        """Return the method with the backbone's default hyperparameters; by default those of its family."""
        return self.for_family(backbone.family)

    def for_family(self, family: str) -> Self:
        """Return the method with the family's default hyperparameters. Raises InvalidStudy if unsupported."""
        return self

    @property
    def hyperparameters(self) -> dict[str, Any]:
        """The fields as JSON values that are `stated` or differ from their defaults."""
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        stated = values.keys() if self.stated is None else self.stated | self.non_defaults.keys()
        return {
            name: list(value) if isinstance(value, tuple) else value for name, value in values.items() if name in stated
        }

    @property
    def non_defaults(self) -> dict[str, Any]:
        """The fields as JSON values that differ from their defaults. The key of a run covers these."""
        return digest.non_defaults(self)

    @classmethod
    def accepts(cls) -> set[str]:
        return {each.name for each in fields(cls)}

    @property
    def trains_head(self) -> bool:
        """Whether the method is meant to train the head."""
        return True

    @property
    def takes_positions(self) -> int:
        """Number of virtual tokens, by which the method shortens a text's maximum length."""
        return 0

    @property
    def trains_nothing(self) -> bool:
        """Whether the model is evaluated without training."""
        return not (self.trains_head or self.trains_body)

    @abstractmethod
    def attach(self, model: Any) -> Any:
        """Prepare a `...ForSequenceClassification` and return it, possibly wrapped, with unchanged logits.

        Afterwards only parameters to train require gradients.

        Raises InvalidStudy if the model does not have a part that the method needs.
        """

    def owns(self, name: str) -> bool:
        """Whether this method trains the parameter with this `plain_name`, in a combination of methods."""
        return False

    def owned(self, model: Any) -> set[str]:
        """Return the `plain_name` of every parameter that the method `owns`; `model` is attached and unwrapped."""
        names = (plain_name(name) for name, _ in model.named_parameters())
        return {name for name in names if self.owns(name)}

    def trainable(self, model: Any) -> dict[str, Parameter]:
        """Return the parameters to train by name: those that require gradients."""
        return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}

    def decays(self, model: Any) -> set[str]:
        """Return the names of parameters with weight decay: all except biases and norm weights.

        Equal to transformers' `Trainer.get_decay_parameter_names` (a test compares them).
        """
        norms = {
            f"{prefix}.{name}" if prefix else name
            for prefix, module in model.named_modules()
            if "norm" in type(module).__name__.lower()
            for name, _ in module.named_parameters(recurse=False)
        }
        return {name for name, _ in model.named_parameters() if name not in norms and "bias" not in name.lower()}

    def unlowered(self, model: Any) -> set[str]:
        """Return the names of parameters that stay float32 while the body computes in bfloat16."""
        return set()

    def multipliers(self, model: Any) -> Mapping[str, float]:
        """Return learning-rate multipliers by parameter; 1 for parameters not named."""
        return {}

    def pretrained(self, model: Any) -> set[str]:
        """Return the names of trained parameters that come from the backbone; L2-SP pulls these to their start."""
        return set()

    def state(self, model: Any) -> dict[str, Tensor]:
        """Return all tensors that may differ from the backbone; the head is always included."""
        return {
            name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad or is_head(name)
        }

    def check(self, model: Any, state: Mapping[str, Tensor]) -> None:  # noqa: B027 - most add nothing that is large
        """Check a saved state against a model before `attach`; needed if anybody may have written the state.

        Runs before `attach` allocates memory of the size that the settings ask for.

        Raises CorruptAdapter if the tensors do not fit the method, and InvalidStudy if the settings are not supported.
        """

    def check_saved(self, model: Any, expected: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> None:
        """Raise CorruptAdapter unless a saved state has the names and shapes of `expected`, the state of `model`."""
        check_names(expected, state)

    def restore(self, model: Any, state: Mapping[str, Tensor]) -> None:
        """Copy a saved state into an attached model. Raises CorruptAdapter if names or shapes differ."""
        import torch

        expected = self.state(model)
        check_names(expected, state)
        with torch.no_grad():
            for name, tensor in expected.items():
                tensor.copy_(state[name])


@dataclass(frozen=True)
class Method(Adaptation, Description, Serving, Format):
    """The base class of ways to adapt a classifier; the fields of a subclass are its hyperparameters."""


def plain_name(name: str) -> str:
    """Return a parameter's name without peft's wrappers."""
    inner = name.removeprefix("base_model.model.").removeprefix("base_model.")
    return inner.replace(".base_layer.", ".").replace(".modules_to_save.default.", ".")


def weight_names(model: Any) -> tuple[set[str], set[str]]:
    """Return the `plain_name` of all parameters, and of the weights that layers hold in another form."""
    from afina.models.kernels.linear import held_by

    held = {plain_name(f"{path}.weight") for path, layer in model.named_modules() if held_by(layer) is not None}
    return {plain_name(name) for name, _ in model.named_parameters()}, held


def check_names(expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> None:
    """Raise CorruptAdapter if names or shapes differ."""
    missing, surplus = sorted(expected.keys() - found.keys()), sorted(found.keys() - expected.keys())
    if missing or surplus:
        what = f"lacks {missing[0]}" if missing else f"has {surplus[0]}, which this model does not"
        raise problems.TENSORS_MISMATCH(found=what, missing=len(missing), unknown=len(surplus))
    for name, tensor in expected.items():
        if tensor.shape != found[name].shape:
            raise problems.SHAPE_MISMATCH(tensor=name, found=found[name].shape, expected=tensor.shape)
