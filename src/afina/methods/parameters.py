"""Which methods a backbone has a use for, and how many parameters each trains: from a configuration alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
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
    for name, counts in _served(address, METHODS):
        method, run[name] = METHODS[name](), counts
        differs = method.as_published() != method
        published[name] = _counts(address, method.as_published()) if differs else counts
    return Counted(total, published, run)


def served(address: str, names: Iterable[str] = tuple(METHODS)) -> list[str]:
    """Those of `names` that have a meaning for the backbone whose configuration is at that address.

    Raises NotFound, InvalidStudy for an address.
    """
    meta_model(address)
    return [name for name, _ in _served(address, names)]


def _served(address: str, names: Iterable[str]) -> Iterator[tuple[str, Counts]]:
    for name in names:
        try:
            counts = _counts(address, METHODS[name]())
        except InvalidStudy:
            continue
        yield name, counts


def _counts(address: str, method: Method) -> Counts:
    model = meta_model(address)
    ready = method.for_family(model.config.model_type)
    return count_parameters(ready.trainable(ready.attach(model)))
