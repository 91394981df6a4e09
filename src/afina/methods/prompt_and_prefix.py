"""Prompt tuning and prefix tuning: methods that train virtual tokens before every text.

The module defines the number and the initial values of virtual tokens; `afina.models.added_modules` defines where they
are in a model. The module does not import torch.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

from afina.methods import problems
from afina.methods.method import Method, out_of_range, plain_name
from afina.models.architectures import ARCHITECTURES, is_head

if TYPE_CHECKING:
    from torch import Tensor

    from afina.models.kernels.layer_changes import BatchedAdapter


@dataclass(frozen=True)
class VirtualTokens(Method):
    """The base class of prompt and prefix tuning, which train added virtual tokens and the head.

    The added modules have the method's name (`added_modules.PROMPT` and `PREFIX`).

    Attributes:
        tokens: Number of virtual tokens.
    """

    search: ClassVar[Mapping[str, tuple[Any, ...]] | None] = {"tokens": (8, 16, 32)}
    practical: ClassVar[bool] = False
    starts_apart: ClassVar[bool] = True

    tokens: int = 16

    def __post_init__(self) -> None:
        if self.tokens < 1:
            raise out_of_range(self.name, "at least 1", tokens=self.tokens)

    def for_family(self, family: str) -> Self:
        if not ARCHITECTURES[family].takes_virtual_tokens:
            raise problems.VIRTUAL_TOKENS_IN_ENCODER(method=self.name, family=family)
        return self

    @property
    def takes_positions(self) -> int:
        return self.tokens

    @abstractmethod
    def add(self, body: Any) -> None: ...

    def attach(self, model: Any) -> Any:
        """Initial values are drawn by torch's generator. Raises InvalidStudy if no room is left for a text."""
        most = int(model.config.max_position_embeddings)
        if self.tokens >= most:
            raise problems.TOKENS_TOO_MANY(method=self.name, tokens=self.tokens, most=most)
        self.add(model.base_model)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(self.owns(name))
        return model

    def owns(self, name: str) -> bool:
        return self.name in name.split(".") or is_head(name)

    def added(self, state: Mapping[str, Tensor]) -> list[str]:
        """The names of the tensors of the virtual tokens."""
        return [name for name in state if self.name in plain_name(name).split(".")]

    def check(self, model: Any, state: Mapping[str, Tensor]) -> None:
        """Raise CorruptAdapter unless the saved state has `tokens` virtual tokens."""
        added = {name: state[name] for name in self.added(state)}
        if not added:
            raise problems.NO_TENSOR(method=self.name)
        for name, tensor in added.items():
            if tensor.dim() < 2 or len(tensor) != self.tokens:
                raise problems.VIRTUAL_TOKENS_MISMATCH(
                    method=self.name, tensor=name, found=tensor.shape, tokens=self.tokens
                )


@dataclass(frozen=True)
class PromptTuning(VirtualTokens):
    """Prompt tuning: trains `tokens` rows of input embeddings, and the head (Lester et al. 2021, arXiv 2104.08691).

    The trained rows take the first positions of every text, and the text's tokens attend to these rows. As in peft, the
    rows start as the embeddings of random tokens of the vocabulary; Lester et al. find this better than random rows
    (section 3.2).
    """

    name: ClassVar[str] = "prompt"
    title: ClassVar[str] = "prompt tuning"
    summary: ClassVar[str] = "virtual tokens before each text train, the body stays frozen"
    learning_rate: ClassVar[float] = 7e-3

    def add(self, body: Any) -> None:
        from afina.models import added_modules

        body.add_module(self.name, added_modules.Prompt(added_modules.words(body, self.tokens)))

    def batched(self, model: Any, state: Mapping[str, Tensor], base: Any) -> BatchedAdapter | None:
        from afina.models.kernels.layer_changes import BatchedAdapter

        (name,) = self.added(state)
        return BatchedAdapter(prompt=state[name], tensor_names=frozenset({name}))


@dataclass(frozen=True)
class PrefixTuning(VirtualTokens):
    """Prefix tuning: trains `tokens` keys and values of every attention, and the head (Li & Liang 2021, 2101.00190).

    As in peft's default, prefix tuning does not reparametrise the prefix by an MLP. Every token attends to the whole
    prefix; a sliding attention window counts only the text's own tokens. The position ids of the text begin after those
    of the prefix. The prefix starts with the keys and values that the model computes for random tokens of the
    vocabulary. Li and Liang find activations of words better and more stable than random values (section 7.4). peft
    starts prefixes with random values, whose keys are so large that they draw attention away from every text.
    """

    name: ClassVar[str] = "prefix"
    title: ClassVar[str] = "prefix tuning"
    summary: ClassVar[str] = "virtual keys and values before each text train in every layer, the body stays frozen"
    learning_rate: ClassVar[float] = 5e-3

    def add(self, body: Any) -> None:
        from afina.models import added_modules

        rows = added_modules.words(body, self.tokens)
        columns = added_modules.activations(body, rows)
        for attention, (key, value) in zip(added_modules.attentions(body), columns, strict=True):
            attention.add_module(self.name, added_modules.Prefix(key, value, rows))

    def begin(self, model: Any) -> None:
        """Compute the first keys and values, by the model without its prefix."""
        from afina.models import added_modules

        body = model.base_model
        prefixes = [attention._modules.pop(self.name) for attention in added_modules.attentions(body)]
        columns = added_modules.activations(body, prefixes[0].rows.to(prefixes[0].key.device))
        for attention, prefix, column in zip(added_modules.attentions(body), prefixes, columns, strict=True):
            prefix.begin(*column)
            attention.add_module(self.name, prefix)

    def batched(self, model: Any, state: Mapping[str, Tensor], base: Any) -> BatchedAdapter | None:
        from afina.models.kernels.layer_changes import BatchedAdapter, KeyValues

        added = self.added(state)
        found: dict[str, dict[str, Tensor]] = {}
        for name in added:
            path, _, kind = plain_name(name).rpartition(".")
            found.setdefault(path.removesuffix(f".{self.name}"), {})[kind] = state[name].transpose(0, 1)
        return BatchedAdapter(
            prefix={path: KeyValues(**two) for path, two in found.items()}, tensor_names=frozenset(added)
        )
