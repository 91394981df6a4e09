"""What the methods have in common that put trained virtual tokens before every text. Saved in afina's own format."""

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


@dataclass(frozen=True)
class Virtual(Method):
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
