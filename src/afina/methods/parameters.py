"""How many parameters each method trains, from a configuration alone."""

from __future__ import annotations

from dataclasses import dataclass

from afina.errors import InvalidStudy
from afina.methods import METHODS
from afina.models.classifier import Counts, count_parameters
from afina.models.meta import meta_model


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
    total = sum(parameter.numel() for parameter in meta_model(address).parameters())
    counted = {}
    for name, method in METHODS.items():
        model = meta_model(address)
        try:
            ready = method().as_published().for_family(model.config.model_type)
        except InvalidStudy:
            continue
        counted[name] = count_parameters(ready.trainable(ready.attach(model)))
    return Counted(total, counted)
