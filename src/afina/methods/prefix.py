"""Prefix tuning: trained keys and values before those of every text (Li & Liang 2021, arXiv 2101.00190)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from afina.methods.method import plain_name
from afina.methods.virtual import Virtual

if TYPE_CHECKING:
    from torch import Tensor

    from afina.models.rider import Rider


@dataclass(frozen=True)
class Prefix(Virtual):
    """Trains `tokens` keys and values of every attention, and the head; without a reparametrisation, as peft's default.

    Every token sees them, also under a sliding window, which counts the text's own tokens alone; the text's positions
    begin after them. They start as the model's own keys and values of tokens drawn from the vocabulary, so the model
    starts as `prompt` does. The paper finds activations of words better and steadier than what is drawn at random
    (section 7.4), from where peft starts: keys as large as that draw attention away from every text.
    """

    name: ClassVar[str] = "prefix"
    title: ClassVar[str] = "prefix tuning"
    summary: ClassVar[str] = "virtual keys and values before each text train in every layer, the body stays frozen"
    learning_rate: ClassVar[float] = 5e-3

    @property
    def adds(self) -> str:
        """One module in each attention."""
        from afina.models.virtual_tokens import PREFIX

        return PREFIX

    def add(self, body: Any) -> None:
        """As many keys and values as there are tokens, in each attention."""
        from afina.models import virtual_tokens

        rows = virtual_tokens.words(body, self.tokens)
        columns = virtual_tokens.activations(body, rows)
        for attention, (key, value) in zip(virtual_tokens.attentions(body), columns, strict=True):
            attention.add_module(self.adds, virtual_tokens.Prefix(key, value))

    def rider(self, model: Any, state: Mapping[str, Tensor], base: Any) -> Rider | None:
        """Its keys and values, by attention."""
        from afina.models.rider import Columns, Rider

        added = self.added(state)
        found: dict[str, dict[str, Tensor]] = {}
        for name in added:
            path, _, kind = plain_name(name).rpartition(".")
            found.setdefault(path.removesuffix(f".{self.adds}"), {})[kind] = state[name].transpose(0, 1)
        return Rider(prefix={path: Columns(**two) for path, two in found.items()}, heard=frozenset(added))
