"""afina methods and afina params: the methods, and how many parameters each trains."""

from __future__ import annotations

import json
import sys
from dataclasses import MISSING, fields
from typing import TYPE_CHECKING, Any

from afina.cli.options import EMBEDDED, Json, OneBackbone, only
from afina.cli.terminal import print_item, print_tables

if TYPE_CHECKING:
    from afina.methods.method import Method


def params(backbone: OneBackbone = EMBEDDED, as_json: Json = False) -> None:
    """Count the parameters that each method trains.

    Only the configuration of the backbone is read, not its weights; well-known models need no network. PreLayer is
    counted in two ways: as afina trains it, and as in the published study.
    """
    from afina.methods.attachment import count
    from afina.report.tables import PUBLISHED_HYPERPARAMETERS, counts_as_json, counts_table

    address = only(backbone)
    counted = count(address, PUBLISHED_HYPERPARAMETERS)
    if as_json:
        print(json.dumps(counts_as_json(address, counted)))
    else:
        print_tables(counts_table(address, counted))


def methods(as_json: Json = False) -> None:
    """List the methods with their hyperparameters and defaults.

    `a+b` trains two methods together.
    """
    from afina.methods import METHODS, NEEDS_SETTINGS, REFUSED

    if as_json:
        print(json.dumps({name: _method_as_json(method()) for name, method in METHODS.items()}))
        return
    for name, method in METHODS.items():
        described = _method_as_json(method())
        settings = [
            f"{key}={'by family' if value == [] else repr(value)}" for key, value in described["defaults"].items()
        ]
        rate = [] if described["learning_rate"] is None else [_rate_in_words(method)]
        print_item(name, method.summary, ", ".join([*settings, *rate]))
    for name, method in NEEDS_SETTINGS.items():
        print_item(name, method.summary, *_needed_settings(method))
    for name, why in REFUSED.items():
        print(f"Cannot be used: method {name} of another package: {why}.", file=sys.stderr)
    print("\nlora's default targets are the attention input projections of each model family:")
    from afina.models.architectures import ARCHITECTURES

    for family, entry in ARCHITECTURES.items():
        print_item(f"  {family}", ", ".join(entry.lora_targets))


def _needed_settings(method: type[Method]) -> tuple[str, str]:
    """Return the required settings of a method that needs settings, and its other settings with their defaults."""
    defaults = {one.name: one.default for one in fields(method) if one.name in method.accepts()}
    needed = [name for name, value in defaults.items() if value is MISSING]
    others = [f"{name}={value!r}" for name, value in defaults.items() if value is not MISSING]
    others += sorted(method.accepts() - defaults.keys())
    others += [] if method.asks_endpoint else [_rate_in_words(method)]
    return f"required: {', '.join(needed)}", ", ".join(others)


def _rate_in_words(method: type[Method]) -> str:
    on_encoders = "" if method.encoder_rate is None else f" (on encoders {method.encoder_rate:g})"
    return f"learning_rate={method.learning_rate:g}{on_encoders}"


def _method_as_json(method: Method) -> dict[str, Any]:
    defaults = {each.name: getattr(method, each.name) for each in fields(method)}
    return {
        "title": method.title,
        "summary": method.summary,
        "trains": not method.trains_nothing,
        "learning_rate": None if method.trains_nothing or method.is_fitted else method.learning_rate,
        "encoder_rate": method.encoder_rate,
        "defaults": {key: list(value) if isinstance(value, tuple) else value for key, value in defaults.items()},
        "search": None if method.search is None else {key: list(value) for key, value in method.search.items()},
        "practical": method.practical,
    }
