"""Prompt tuning and prefix tuning: trained virtual tokens stand before every text. Saved in afina's own format.

Knows how many there are and what they start as; `afina.models.added_modules` knows where they are in a model. Starts
without torch.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

from afina.errors import CorruptAdapter, InvalidStudy
from afina.methods.method import Method, plain_name
from afina.models.architectures import ARCHITECTURES, is_head

if TYPE_CHECKING:
    from torch import Tensor

    from afina.models.kernels.layer_changes import BatchedAdapter


@dataclass(frozen=True)
class VirtualTokens(Method):
    """Trains what it adds, and the head.

    tokens  how many
    """

    search: ClassVar[Mapping[str, tuple[Any, ...]] | None] = {"tokens": (8, 16, 32)}
    practical: ClassVar[bool] = False
    starts_apart: ClassVar[bool] = True

    tokens: int = 16

    def __post_init__(self) -> None:
        if self.tokens < 1:
            raise InvalidStudy(
                f"method {self.name}: tokens={self.tokens}; expected at least 1.",
                code="method.setting-invalid",
                method=self.name,
                tokens=self.tokens,
            )

    def for_family(self, family: str) -> Self:
        """Raises InvalidStudy where tokens before a text have no meaning."""
        if not ARCHITECTURES[family].takes_virtual_tokens:
            raise InvalidStudy(
                f"method {self.name}: virtual tokens have no meaning for models of type {family}. lora trains as few "
                "parameters.",
                code="method.family-unsupported",
                method=self.name,
                family=family,
            )
        return self

    @property
    def takes_positions(self) -> int:
        """One each."""
        return self.tokens

    @property
    @abstractmethod
    def adds(self) -> str:
        """Name of the modules that it adds."""

    @abstractmethod
    def add(self, body: Any) -> None:
        """Give a transformer without head these modules."""

    def attach(self, model: Any) -> Any:
        """Draws from torch's generator. Raises InvalidStudy where no text would have room beside them."""
        most = int(model.config.max_position_embeddings)
        if self.tokens >= most:
            raise InvalidStudy(
                f"method {self.name}: tokens is {self.tokens:,}, and this model takes {most:,} at once: none would be "
                "left for a text. Set fewer; 8 to 32 are usual.",
                code="method.setting-invalid",
                method=self.name,
                tokens=self.tokens,
                most=most,
            )
        self.add(model.base_model)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(self.owns(name))
        return model

    def owns(self, name: str) -> bool:
        """What it adds, and the head."""
        return self.adds in name.split(".") or is_head(name)

    def added(self, state: Mapping[str, Tensor]) -> list[str]:
        """Names of the saved tensors of what it adds."""
        return [name for name in state if self.adds in plain_name(name).split(".")]

    def check(self, model: Any, state: Mapping[str, Tensor]) -> None:
        """What is saved must have as many virtual tokens as the settings say."""
        added = {name: state[name] for name in self.added(state)}
        if not added:
            raise CorruptAdapter(
                f"the adapter has no tensor of method {self.name}. Copy it again, or train it again.",
                code="adapter.tensors-mismatch",
                method=self.name,
            )
        for name, tensor in added.items():
            if tensor.dim() < 2 or len(tensor) != self.tokens:
                raise CorruptAdapter(
                    f"the adapter's {name} has shape {list(tensor.shape)}, and method {self.name} has {self.tokens:,} "
                    "virtual tokens. Copy it again, or train it again.",
                    code="adapter.tensors-mismatch",
                    method=self.name,
                    tensor=name,
                    found=tensor.shape,
                    tokens=self.tokens,
                )


@dataclass(frozen=True)
class PromptTuning(VirtualTokens):
    """Trains `tokens` rows of the input, and the head (Lester et al. 2021, arXiv 2104.08691).

    They have the first positions of every text, and are seen like its tokens. They start as embeddings of tokens drawn
    from the vocabulary, as peft's do, which the paper finds better than rows drawn at random (section 3.2).
    """

    name: ClassVar[str] = "prompt"
    title: ClassVar[str] = "prompt tuning"
    summary: ClassVar[str] = "virtual tokens before each text train, the body stays frozen"
    learning_rate: ClassVar[float] = 7e-3

    @property
    def adds(self) -> str:
        """One module, at the input."""
        from afina.models.added_modules import PROMPT

        return PROMPT

    def add(self, body: Any) -> None:
        """A row for each token."""
        from afina.models import added_modules

        body.add_module(self.adds, added_modules.Prompt(added_modules.words(body, self.tokens)))

    def batched(self, model: Any, state: Mapping[str, Tensor], base: Any) -> BatchedAdapter | None:
        """Its rows."""
        from afina.models.kernels.layer_changes import BatchedAdapter

        (name,) = self.added(state)
        return BatchedAdapter(prompt=state[name], tensor_names=frozenset({name}))


@dataclass(frozen=True)
class PrefixTuning(VirtualTokens):
    """Trains `tokens` keys and values of every attention, and the head (Li & Liang 2021, arXiv 2101.00190).

    Without a reparametrisation, as peft's default. Every token sees them, also under a sliding window, which counts
    the text's own tokens alone; the text's positions begin after them. They start as the model's own keys and
    values of tokens drawn from the vocabulary, so the model starts as `prompt` does. The paper finds activations of
    words better and steadier than what is drawn at random (section 7.4), from where peft starts: keys as large as
    that draw attention away from every text.
    """

    name: ClassVar[str] = "prefix"
    title: ClassVar[str] = "prefix tuning"
    summary: ClassVar[str] = "virtual keys and values before each text train in every layer, the body stays frozen"
    learning_rate: ClassVar[float] = 5e-3

    @property
    def adds(self) -> str:
        """One module in each attention."""
        from afina.models.added_modules import PREFIX

        return PREFIX

    def add(self, body: Any) -> None:
        """As many keys and values as there are tokens, in each attention."""
        from afina.models import added_modules

        rows = added_modules.words(body, self.tokens)
        columns = added_modules.activations(body, rows)
        for attention, (key, value) in zip(added_modules.attentions(body), columns, strict=True):
            attention.add_module(self.adds, added_modules.Prefix(key, value))

    def batched(self, model: Any, state: Mapping[str, Tensor], base: Any) -> BatchedAdapter | None:
        """Its keys and values, by attention."""
        from afina.models.kernels.layer_changes import BatchedAdapter, KeyValues

        added = self.added(state)
        found: dict[str, dict[str, Tensor]] = {}
        for name in added:
            path, _, kind = plain_name(name).rpartition(".")
            found.setdefault(path.removesuffix(f".{self.adds}"), {})[kind] = state[name].transpose(0, 1)
        return BatchedAdapter(
            prefix={path: KeyValues(**two) for path, two in found.items()}, tensor_names=frozenset(added)
        )
