"""How many parameters each method trains, from a configuration alone."""

from __future__ import annotations

from typing import Any

from afina.errors import InvalidStudy
from afina.methods import METHODS
from afina.models.classifier import is_head
from afina.models.meta import meta_model


def count(address: str) -> dict[str, Any]:
    """Counts for two labels: `total`, and per method `trainable`, `body`, `head`.

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
        parameters = ready.trainable(ready.attach(model))
        head = sum(p.numel() for key, p in parameters.items() if is_head(key))
        body = sum(p.numel() for key, p in parameters.items() if not is_head(key))
        counted[name] = {"trainable": body + head, "body": body, "head": head}
    return {"backbone": address, "total": total, "methods": counted}
