"""The command line's names of the library's options: `--label` for `label`, `train.epochs` for `epochs`.

A parameter of a command has the name of the library's option that it sets, so no table of names is needed. The module
does not know any option.
"""

from __future__ import annotations

from typing import Any

from afina.data.reading_options import OPTIONS
from afina.sentence import Sentence

STORE = "AFINA_STORE"
"""The environment variable that names the store for commands without the option `--store`."""


class _Running:
    """The command whose options have been parsed, or are being parsed."""

    context: Any = None


def begin(context: Any) -> None:
    """Name options as the command of a click context does from now on. None: no command runs."""
    _Running.context = context


def flag(name: str) -> str | None:
    """Return what a user of the running command types for an option of the library; None if there is no such thing.

    That is an option or argument of the command, or else the key of a study file.
    """
    context = _Running.context
    if context is None:
        return None
    while context is not None:
        for parameter in context.command.params:
            if parameter.name == name:
                if parameter.param_type_name == "argument":
                    return str(parameter.metavar or name.upper())
                return str(max(parameter.opts, key=len))
        context = context.parent
    if name == "store":
        return STORE
    return _key(name)


def _key(name: str) -> str | None:
    """Return the key of a study file, and of `--set`, that sets an option, such as train.epochs."""
    from afina.methods import METHODS, NEEDS_SETTINGS
    from afina.studies.study import Study

    if name in Study.model_fields:
        return name
    for section, field in Study.model_fields.items():
        fields = getattr(field.annotation, "model_fields", getattr(field.annotation, "__dataclass_fields__", ()))
        if name in fields:
            return f"{section}.{name}"
    return name if any(name in method.accepts() for method in (*METHODS.values(), *NEEDS_SETTINGS.values())) else None


def with_flags(words: str) -> str:
    """Return a sentence of the library in the words of the running command. A plain text is returned as it is."""
    return words.named(flag) if isinstance(words, Sentence) else words


def option_flag(name: str) -> str:
    """Return the flag of a field of `ReadingOptions`, or its key in a study file if it has no flag."""
    if not OPTIONS[name].metadata["flag"]:
        return f"data.{name}"
    return {"evaluation": "--eval"}.get(name, f"--{name.replace('_', '-')}")
