"""How many parameters each method trains, from a configuration alone."""

from __future__ import annotations

from typing import Any

from afina.errors import InvalidStudy
from afina.methods import METHODS
from afina.models.backbone import skeleton
from afina.models.classifier import count_parameters


def count(address: str) -> dict[str, Any]:
    """Counts for two labels: `total`, and per method `trainable`, `body`, `head`.

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
        found = count_parameters(ready.trainable(ready.attach(model)))
        counted[name] = {"trainable": found.trainable, "body": found.body, "head": found.head}
    return {"backbone": address, "total": total, "methods": counted}
