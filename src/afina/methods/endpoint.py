"""The method `endpoint`: a model behind an API answers the texts, and nothing is trained on this machine.

The module knows which settings of an `Endpoint` change its answers. The package `afina.studies` decides when the
endpoint is asked. The module does not import torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from afina.endpoints.endpoint import Endpoint
from afina.methods import problems
from afina.methods.method import Method

ADDRESS = "endpoint:"
"""The beginning of the address of a model behind an API, which stands in place of a backbone's address."""


@dataclass(frozen=True)
class AskedEndpoint(Endpoint, Method):
    """A model behind an API is asked for the label, number or text of each evaluation text.

    The hyperparameters are the fields of `Endpoint`.
    """

    name: ClassVar[str] = "endpoint"
    title: ClassVar[str] = "endpoint"
    summary: ClassVar[str] = "a model behind an API is asked in words; the texts are sent to it"
    search: ClassVar[None] = None
    practical: ClassVar[bool] = False
    trains_body: ClassVar[bool] = False
    asks_endpoint: ClassVar[bool] = True
    why_without_adapter: ClassVar[str] = "a model behind an API answered the texts"
    no_effect: ClassVar[frozenset[str]] = frozenset(
        ("key", "at_once", "timeout", "price_in", "price_out", "max_requests", "max_cost")
    )
    required: ClassVar[Mapping[str, str]] = {
        "url": "the address of the server, such as https://api.openai.com/v1",
        "model": "the server's name of the model, such as gpt-5-mini",
    }
    stated: ClassVar[frozenset[str] | None] = frozenset(("url", "model"))

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "title", f"{self.model} (endpoint)")

    @property
    def own_backbone(self) -> str:
        return f"{ADDRESS}{self.host}/{self.model}"

    @property
    def has_adapter(self) -> bool:
        return False

    @property
    def depends_on_seed(self) -> bool:
        return self.shots > 0

    @property
    def reads_training_texts(self) -> bool:
        return self.shots > 0

    @property
    def trains_head(self) -> bool:
        return False

    def attach(self, model: Any) -> Any:
        """Raise InvalidStudy, because the method adapts no model on this machine."""
        raise problems.ENDPOINT_WITHOUT_MODEL(method=self.name)
