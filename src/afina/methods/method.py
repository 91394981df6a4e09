"""The Method contract: one way to adapt a classifier.

A method has four base classes: `Adaptation` is what is attached, what trains and how, and what is saved; `Description`,
`Serving` and `Format` have defaults. A method has to implement `attach` and to state `name`, `title` and `summary`.
Training, measuring and saving ask the `Adaptation` alone. `afina.methods.attachment` holds a method to what it says.
Knows no method; starts without torch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from afina.errors import CorruptAdapter
from afina.models.architectures import is_head

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Parameter

    from afina.models.backbone import Backbone
    from afina.models.kernels.layer_changes import BatchedAdapter


class Description:
    """What tables, tuning and recommendations read of a method. Every method states the first three.

    name           key in METHODS
    title          how tables call it
    summary        what it does, in a line
    learning_rate  used where none is given; LoRA's and PreLayer's are the quickstart's, see docs/LOG.md
    search         values that tuning may give a hyperparameter, beside a learning rate from a tenth of the default to
                   ten times it; None where there is nothing to tune
    practical      whether a recommendation considers it
    """

    name: ClassVar[str]
    title: ClassVar[str]
    summary: ClassVar[str]
    learning_rate: ClassVar[float] = 2e-4
    search: ClassVar[Mapping[str, tuple[Any, ...]] | None] = {}
    practical: ClassVar[bool] = True


REQUIRED = ("name", "title", "summary")
"""What of a description has no default."""


class Serving:
    """How a trained adapter computes beside others; by default with weights of its own."""

    def batched(self, model: Any, state: Mapping[str, Tensor], base: Any) -> BatchedAdapter | None:
        """What a saved state does in a mixed batch, one of several adapters; None: it needs a model of its own.

        model  attached, on the `meta` device;  state  of such a model;  base  the frozen one, without the method
        A tensor of the state that is not among its `tensor_names` is a reason to give the adapter a model of its own.
        """
        return None

    def merged(self, model: Any) -> Any:
        """The attached model without what stands beside the backbone's weights, folded into them. Changes `model`.

        What cannot be folded is still there afterwards. Raises InvalidStudy where that cannot even be tried.
        """
        return model


class Format:
    """Which files hold a saved state, and what other libraries are told; by default afina's own, and nothing.

    tensor_file   file that `state` is saved to; named by the library that reads it
    said_by_peft  whether peft's settings can say what the method trains, beside a wrap: see `in_peft`
    """

    tensor_file: ClassVar[str] = "delta.safetensors"
    said_by_peft: ClassVar[bool] = False

    def in_peft(self, model: Any) -> Mapping[str, Any]:
        """The method in peft's settings: `bias`, or a list of `modules_to_save`. Asked where `said_by_peft`."""
        return {}

    def accompany(self, model: Any, backbone: Backbone, directory: Path) -> None:
        """Write the small files with which other libraries read the saved state."""


_LATER = "later"


def later(default: Any) -> Any:
    """A hyperparameter that came after adapters without it: at its default, which changes nothing, it is not told.

    So runs and adapters from before keep their keys and digests.
    """
    return field(default=default, metadata={_LATER: True})


@dataclass(frozen=True)
class Adaptation(ABC):
    """What is attached, trained and saved; the fields are the hyperparameters.

    trains_body    whether anything but the head is meant to train
    head           what the head starts from, where the method is about that (`afina.models.verbalizer`); None: whatever
                   a run asks for
    starts_apart   whether attaching it changes the logits, since what it adds has no value without effect
    packs          whether its frozen weights may be packed while bfloat16 trains; false where what it adds reads them,
                   rather than calling their layer
    """

    trains_body: ClassVar[bool] = True
    head: ClassVar[Literal["random", "words"] | None] = None
    starts_apart: ClassVar[bool] = False
    packs: ClassVar[bool] = True

    def for_family(self, family: str) -> Self:
        """This method with the family's own defaults filled in. Raises InvalidStudy where it has no meaning."""
        return self

    @property
    def hyperparameters(self) -> dict[str, Any]:
        """The fields as JSON values, without those `later` ones that are at their defaults."""
        given = {
            each.name: getattr(self, each.name)
            for each in fields(self)
            if not each.metadata.get(_LATER) or getattr(self, each.name) != each.default
        }
        return {key: list(value) if isinstance(value, tuple) else value for key, value in given.items()}

    @classmethod
    def accepts(cls) -> set[str]:
        """Names of its hyperparameters."""
        return {each.name for each in fields(cls)}

    @property
    def trains_head(self) -> bool:
        """Whether the head is meant to train."""
        return True

    @property
    def takes_positions(self) -> int:
        """By how much what it adds shortens what a text may have, in tokens."""
        return 0

    @property
    def trains_nothing(self) -> bool:
        """Whether the model is evaluated as it is."""
        return not (self.trains_head or self.trains_body)

    @abstractmethod
    def attach(self, model: Any) -> Any:
        """Prepare a `...ForSequenceClassification`: may wrap it. Leaves its logits as they were.

        Only the parameters to train require gradients afterwards. Raises InvalidStudy where the model lacks a part.
        """

    def owns(self, name: str) -> bool:
        """Whether the parameter of that `plain_name` trains because of this method, where others train beside it."""
        return False

    def owned(self, model: Any) -> set[str]:
        """The `plain_name` of every parameter of a model that it `owns`, where `model` is attached and unwrapped."""
        names = (plain_name(name) for name, _ in model.named_parameters())
        return {name for name in names if self.owns(name)}

    def trainable(self, model: Any) -> dict[str, Parameter]:
        """What the optimiser gets and the counts read, by name: whatever requires gradients."""
        return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}

    def decays(self, model: Any) -> set[str]:
        """Names of the parameters that weight decay applies to, should they train: all but biases and norm weights.

        The set of transformers' `Trainer.get_decay_parameter_names` (a test compares them).
        """
        norms = {
            f"{prefix}.{name}" if prefix else name
            for prefix, module in model.named_modules()
            if "norm" in type(module).__name__.lower()
            for name, _ in module.named_parameters(recurse=False)
        }
        return {name for name, _ in model.named_parameters() if name not in norms and "bias" not in name.lower()}

    def unlowered(self, model: Any) -> set[str]:
        """Names of the parameters that stay float32 while the body computes in bfloat16."""
        return set()

    def multipliers(self, model: Any) -> Mapping[str, float]:
        """By parameter, what its learning rate is multiplied by; 1 for those not named."""
        return {}

    def pretrained(self, model: Any) -> set[str]:
        """Names of the parameters to train that the backbone brought: those that have a start to be pulled to."""
        return set()

    def state(self, model: Any) -> dict[str, Tensor]:
        """All that may differ from the backbone, always with the head, trained or not."""
        return {
            name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad or is_head(name)
        }

    def check(self, model: Any, state: Mapping[str, Tensor]) -> None:  # noqa: B027 - most add nothing that is large
        """Raise CorruptAdapter, InvalidStudy where the saved state cannot be this method's on a model not yet attached.

        For what anybody may have written: before `attach` takes the memory that it asks for.
        """

    def restore(self, model: Any, state: Mapping[str, Tensor]) -> None:
        """Put a saved state into an attached model. Raises CorruptAdapter where names or shapes differ."""
        import torch

        expected = self.state(model)
        check_names(expected, state)
        with torch.no_grad():
            for name, tensor in expected.items():
                tensor.copy_(state[name])


@dataclass(frozen=True)
class Method(Adaptation, Description, Serving, Format):
    """One way to adapt a classifier; its fields are its hyperparameters."""


def plain_name(name: str) -> str:
    """What a parameter is called where peft wraps nothing."""
    inner = name.removeprefix("base_model.model.")
    return inner.replace(".base_layer.", ".").replace(".modules_to_save.default.", ".")


def weight_names(model: Any) -> tuple[set[str], set[str]]:
    """The `plain_name` of every parameter of a model; and of the weights that layers hold in another form."""
    from afina.models.kernels.linear import held_by

    held = {plain_name(f"{path}.weight") for path, layer in model.named_modules() if held_by(layer) is not None}
    return {plain_name(name) for name, _ in model.named_parameters()}, held


def check_names(expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> None:
    """Raise CorruptAdapter unless both have the same names and shapes."""
    missing, surplus = sorted(expected.keys() - found.keys()), sorted(found.keys() - expected.keys())
    if missing or surplus:
        what = f"lacks {missing[0]}" if missing else f"has {surplus[0]}, which this model does not"
        raise CorruptAdapter(
            f"the adapter {what} ({len(missing)} missing, {len(surplus)} unknown tensors).",
            code="adapter.tensors-mismatch",
            missing=len(missing),
            unknown=len(surplus),
        )
    for name, tensor in expected.items():
        if tensor.shape != found[name].shape:
            raise CorruptAdapter(
                f"the adapter's {name} has shape {list(found[name].shape)}, this model's has {list(tensor.shape)}.",
                code="adapter.tensors-mismatch",
                tensor=name,
                found=found[name].shape,
                expected=tensor.shape,
            )
