"""How many parameters each method trains, from a configuration alone."""

from __future__ import annotations

from dataclasses import dataclass

from afina.errors import InvalidStudy
from afina.methods import METHODS
from afina.methods.method import Method
from afina.models.classifier import Counts, count_parameters
from afina.models.meta import meta_model


@dataclass(frozen=True)
class Counted:
    """A backbone's parameters with a head for two labels, and what each method trains of it or beside it.

    methods  as the published study counts;  as_run  as a run does, by the methods' defaults
    """

    total: int
    methods: dict[str, Counts]
    as_run: dict[str, Counts]


def count(address: str) -> Counted:
    """Counts for two labels, from the configuration at that address.

    The total is the unadapted classifier's. A method that has no meaning for the family is left out. Raises NotFound,
    InvalidStudy.
    """
    total = sum(parameter.numel() for parameter in meta_model(address).parameters())
    published, run = {}, {}
    for name, method in METHODS.items():
        try:
            published[name] = _counts(address, method().as_published())
        except InvalidStudy:
            continue
        run[name] = published[name] if method().as_published() == method() else _counts(address, method())
    return Counted(total, published, run)


def _counts(address: str, method: Method) -> Counts:
    model = meta_model(address)
    ready = method.for_family(model.config.model_type)
    return count_parameters(ready.trainable(ready.attach(model)))
