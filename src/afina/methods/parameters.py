"""How many parameters each method trains, from a configuration alone."""

from __future__ import annotations

from dataclasses import dataclass

from afina.errors import InvalidStudy
from afina.methods import METHODS
from afina.models.backbone import skeleton
from afina.models.classifier import is_head


@dataclass(frozen=True)
class Counts:
    """Numbers of parameters: in the body, in the head."""

    body: int
    head: int

    @property
    def trainable(self) -> int:
        """Both."""
        return self.body + self.head


@dataclass(frozen=True)
class Counted:
    """A backbone's parameters with a head for two labels, and what each method trains of it or beside it."""

    total: int
    methods: dict[str, Counts]


def count(address: str) -> Counted:
    """Counts for two labels.

    The total is the unadapted classifier's. Methods are counted as published (PreLayer without its head); one that
    has no meaning for the family is left out.
    """
    total = sum(parameter.numel() for parameter in skeleton(address).parameters())
    counted = {}
    for name, method in METHODS.items():
        model = skeleton(address)
        try:
            ready = method().as_published().for_family(model.config.model_type)
        except InvalidStudy:
            continue
        parameters = ready.trainable(ready.attach(model))
        head = sum(p.numel() for key, p in parameters.items() if is_head(key))
        body = sum(p.numel() for key, p in parameters.items() if not is_head(key))
        counted[name] = Counts(body, head)
    return Counted(total, counted)
