"""Prompt tuning and prefix tuning: trained virtual tokens before every text. Saved in afina's own format.

The module knows the number and the initial values of virtual tokens; `afina.models.added_modules` knows where they are
in a model. The module does not import torch.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

from afina.methods import problems
from afina.methods.method import Method, plain_name
from afina.models.architectures import ARCHITECTURES, is_head

if TYPE_CHECKING:
    from torch import Tensor

    from afina.models.kernels.layer_changes import BatchedAdapter


@dataclass(frozen=True)
class VirtualTokens(Method):
    """Base class: trains added virtual tokens and the head.

    Attributes:
        tokens: Number of virtual tokens.
    """

    search: ClassVar[Mapping[str, tuple[Any, ...]] | None] = {"tokens": (8, 16, 32)}
    practical: ClassVar[bool] = False
    starts_apart: ClassVar[bool] = True

    tokens: int = 16

    def __post_init__(self) -> None:
        if self.tokens < 1:
            raise problems.TOKENS_INVALID(method=self.name, tokens=self.tokens)

    def for_family(self, family: str) -> Self:
        if not ARCHITECTURES[family].takes_virtual_tokens:
            raise problems.VIRTUAL_TOKENS_IN_ENCODER(method=self.name, family=family)
        return self

    @property
    def takes_positions(self) -> int:
        return self.tokens

    @property
    @abstractmethod
    def adds(self) -> str:
        """Name of the added modules."""

    @abstractmethod
    def add(self, body: Any) -> None:
        """Add the modules to a transformer without its head."""

    def attach(self, model: Any) -> Any:
        """Add the modules, drawn with torch's generator. Raises InvalidStudy if no room is left for a text."""
        most = int(model.config.max_position_embeddings)
        if self.tokens >= most:
            raise problems.TOKENS_TOO_MANY(method=self.name, tokens=self.tokens, most=most)
        self.add(model.base_model)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(self.owns(name))
        return model

    def owns(self, name: str) -> bool:
        return self.adds in name.split(".") or is_head(name)

    def added(self, state: Mapping[str, Tensor]) -> list[str]:
        """Return the names of the added modules' tensors in a saved state."""
        return [name for name in state if self.adds in plain_name(name).split(".")]

    def check(self, model: Any, state: Mapping[str, Tensor]) -> None:
        """Raise CorruptAdapter unless the saved state has as many virtual tokens as the settings say."""
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
    """Prompt tuning: trains `tokens` rows of the input, and the head (Lester et al. 2021, arXiv 2104.08691).

    The rows take the first positions of every text, and the text's tokens attend to them. The rows start as embeddings
    of random tokens of the vocabulary, as in peft; the paper finds this better than random rows (section 3.2).
    """

    name: ClassVar[str] = "prompt"
    title: ClassVar[str] = "prompt tuning"
    summary: ClassVar[str] = "virtual tokens before each text train, the body stays frozen"
    learning_rate: ClassVar[float] = 7e-3

    @property
    def adds(self) -> str:
        from afina.models.added_modules import PROMPT

        return PROMPT

    def add(self, body: Any) -> None:
        from afina.models import added_modules

        body.add_module(self.adds, added_modules.Prompt(added_modules.words(body, self.tokens)))

    def batched(self, model: Any, state: Mapping[str, Tensor], base: Any) -> BatchedAdapter | None:
        from afina.models.kernels.layer_changes import BatchedAdapter

        (name,) = self.added(state)
        return BatchedAdapter(prompt=state[name], tensor_names=frozenset({name}))


@dataclass(frozen=True)
class PrefixTuning(VirtualTokens):
    """Prefix tuning: trains `tokens` keys and values of every attention, and the head (Li & Liang 2021, 2101.00190).

    There is no reparametrisation, as in peft's default. Every token attends to the prefix, also with a sliding window,
    which counts only the text's own tokens. The text's positions begin after the prefix. Keys and values start as
    those that the model computes for random tokens of the vocabulary. The paper finds activations of words better and
    more stable than random values (section 7.4). peft starts from random values: keys of that size draw attention
    away from every text.
    """

    name: ClassVar[str] = "prefix"
    title: ClassVar[str] = "prefix tuning"
    summary: ClassVar[str] = "virtual keys and values before each text train in every layer, the body stays frozen"
    learning_rate: ClassVar[float] = 5e-3

    @property
    def adds(self) -> str:
        from afina.models.added_modules import PREFIX

        return PREFIX

    def add(self, body: Any) -> None:
        """Add a key and a value for each virtual token, in each attention."""
        from afina.models import added_modules

        rows = added_modules.words(body, self.tokens)
        columns = added_modules.activations(body, rows)
        for attention, (key, value) in zip(added_modules.attentions(body), columns, strict=True):
            attention.add_module(self.adds, added_modules.Prefix(key, value))

    def batched(self, model: Any, state: Mapping[str, Tensor], base: Any) -> BatchedAdapter | None:
        from afina.models.kernels.layer_changes import BatchedAdapter, KeyValues

        added = self.added(state)
        found: dict[str, dict[str, Tensor]] = {}
        for name in added:
            path, _, kind = plain_name(name).rpartition(".")
            found.setdefault(path.removesuffix(f".{self.adds}"), {})[kind] = state[name].transpose(0, 1)
        return BatchedAdapter(
            prefix={path: KeyValues(**two) for path, two in found.items()}, tensor_names=frozenset(added)
        )
