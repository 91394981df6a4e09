"""Figures that others have published for methods of a study, which its report shows beside the study's own."""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated

from pydantic import Field

from afina.errors import UnknownName
from afina.schema import Frozen
from afina.stats.metrics import METRICS
from afina.studies import problems


class Published(Frozen):
    """Figures that others have published for methods of a study, which the report shows beside the study's own.

    No figure has an influence on a run or a comparison.

    Attributes:
        source: The title or the URL of the publication.
        methods: A table for each method: the name of a table in `methods` of the study, with metrics and their
            published values. Shares such as accuracy are between 0 and 1.
    """

    source: Annotated[str, Field(min_length=1)]
    methods: dict[str, dict[str, Annotated[float, Field(allow_inf_nan=False)]]]

    def check(self, methods: Collection[str], where: str) -> None:
        """Raise UnknownName or InvalidStudy for an unknown method or metric, and for an impossible value."""
        for method, figures in self.methods.items():
            if method not in methods:
                raise UnknownName("method", method, list(methods), f"{where}, published.methods")
            for metric, value in figures.items():
                if metric not in METRICS:
                    raise UnknownName("metric", metric, list(METRICS), f"{where}, published.methods.{method}")
                low, high = METRICS[metric].range
                if not low <= value <= high:
                    expected = f"expected a number from {low:g} to {high:g}."
                    key = f"published.methods.{method}.{metric}"
                    raise problems.VALUE_INVALID(expected=expected, where=where, key=key, found=value)

    def of(self, methods: Collection[str]) -> Published:
        """Return the figures of some of the methods."""
        return self.model_copy(
            update={"methods": {name: self.methods[name] for name in self.methods if name in methods}}
        )
