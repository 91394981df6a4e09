"""Functions that read a study file or preset (TOML), apply overrides and explain errors, before a `Study` is made."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Collection, Iterable, Mapping, Sequence
from difflib import get_close_matches
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar, cast, get_args

from pydantic import ValidationError

from afina.data.template import Template
from afina.errors import AfinaError, UnknownName, same_name
from afina.methods.method import Method
from afina.schema import WrongValue, validator
from afina.studies import problems
from afina.studies.runs.spec import Ask

Part = TypeVar("Part")

_PRESETS = files("afina.studies") / "presets"


def presets() -> list[str]:
    return sorted(entry.name.removesuffix(".toml") for entry in _PRESETS.iterdir() if entry.name.endswith(".toml"))


_NEAR = 0.85
"""The likeness (difflib) to a known key of its table from which on an unknown key is taken for a misspelling."""


def read(source: str) -> tuple[dict[str, Any], str]:
    """Return the content of a study file or preset, and its name. Raises NotFound, InvalidStudy or UnknownName."""
    if source in presets():
        return tomllib.loads((_PRESETS / f"{source}.toml").read_text()), f"preset {source}"
    path = Path(source)
    if path.is_file():
        try:
            return tomllib.loads(path.read_text(encoding="utf-8-sig")), source
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise problems.NOT_TOML(reason=error, path=source) from None
        except RecursionError:
            raise problems.NOT_TOML(reason="arrays or tables are nested too deeply", path=source) from None
    if path.suffix == ".toml" or len(path.parts) > 1:
        raise problems.STUDY_MISSING(path=source, known=presets())
    raise UnknownName("preset", source, presets())


def check_template(template: str | None) -> None:
    """Raise InvalidStudy for a template that is wrong for every task; names in braces may be columns of the task."""
    if template is None or template == CHAT or (TEXT not in template and _IN_BRACES.search(template)):
        return
    Template(template)


def check_no_consent(fields: Mapping[str, Any], where: str) -> None:
    """Raise InvalidStudy if a study has the permission to send texts to an endpoint, which no file may have."""
    methods = fields.get("methods")
    tables = methods.items() if isinstance(methods, Mapping) else ()
    inside = [(f"methods.{name}.", table) for name, table in tables if isinstance(table, Mapping)]
    for place, table in [("", fields), *inside]:
        for key in table:
            if str(key).replace("-", "_") == "send_texts":
                raise problems.SEND_TEXTS_IN_FILE(key=f"{place}{key}", where=where)


def check_asked(method: Method, entry: Mapping[str, Any], where: str) -> None:
    """Raise InvalidStudy if a method's table sets a head, template or label words that the method cannot have."""
    given = [key for key in Ask.model_fields if key in entry and (key, entry[key]) != ("head", "random")]
    if method.head == "random" and given:
        raise problems.HEAD_OF_METHOD(
            method=method.name, _has="has a random head and no template", key=given[0], where=where, keys=[given[0]]
        )
    if method.head == "words" and entry.get("head", "words") != "words":
        raise problems.HEAD_OF_METHOD(
            method=method.name, _has="answers in words", key="head", where=where, keys=["head"]
        )


TEXT, CHAT = "{text}", "chat"
_IN_BRACES = re.compile(r"\{[^{}]+\}")


_EITHER = {"backbone": "backbones", "backbones": "backbone"}


def override(content: dict[str, Any], items: Iterable[str]) -> None:
    """Set each `key=value` in the fields of a study file; a value is TOML if possible, or else text.

    A new `backbone` removes the key `backbones` of the study, and new `backbones` remove the key `backbone`.
    Raises InvalidStudy for an item that is malformed, and for a key that is given twice.
    """
    set_before: set[str] = set()
    for item in items:
        key, found, text = item.partition("=")
        parts = key.strip().split(".")
        if not found or not all(parts):
            raise problems.OVERRIDE_MALFORMED(found=item)
        if (key := ".".join(parts)) in set_before:
            raise problems.OVERRIDE_TWICE(key=key)
        set_before.add(key)
        _set(content, parts, item, text)


def _set(content: dict[str, Any], parts: Sequence[str], item: str, text: str) -> None:
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    except RecursionError:
        raise problems.OVERRIDE_TOO_DEEP(found=item[:40]) from None
    table = content
    for part in parts[:-1]:
        table = table.setdefault(part, {})
        if not isinstance(table, dict):
            raise problems.OVERRIDE_OF_VALUE(found=item, key=part)
    table[parts[-1]] = value
    if table is content and parts[-1] in _EITHER:  # a study has one of the two keys
        content.pop(_EITHER[parts[-1]], None)


def checked(kind: type[Part], fields: Mapping[str, Any], where: str) -> Part:
    """Return a validated section of a study, such as [train]. Raises UnknownName or InvalidStudy."""
    try:
        made: Part = validator(cast(Any, kind)).validate_python(fields)
    except ValidationError as error:
        raise explain(error, kind, where) from None
    return made


def _keys(model: Any) -> Collection[str]:
    keys: Collection[str] = getattr(model, "model_fields", getattr(model, "__dataclass_fields__", ()))
    return keys


def explain(error: ValidationError, model: type, where: str) -> AfinaError:
    """Return the AfinaError for pydantic's ValidationError of a study file."""
    problem = WrongValue.of(error)
    if problem.kind in ("extra_forbidden", "unexpected_keyword_argument"):
        level: Any = model
        *outer, _ = problem.place
        for part in outer:
            annotation = level.model_fields[part].annotation
            level = next((one for one in get_args(annotation) if one is not type(None)), annotation)
        near = get_close_matches(str(problem.place[-1]), _keys(level), 1, _NEAR)
        for field, each in getattr(level, "model_fields", {}).items():
            if not near and (meant := same_name(problem.place[-1], _keys(each.annotation))):
                meant = ".".join([*outer, field, meant])
                return problems.KEY_UNKNOWN(where=where, key=problem.field, nearest=meant)
        known = [".".join([*outer, field]) for field in _keys(level)]
        return UnknownName("key", problem.field, known, where)
    if problem.kind == "missing":
        return problems.KEY_MISSING(where=where, key=problem.field, _or_other="")
    return problems.VALUE_INVALID(expected=problem.sentence, where=where, key=problem.field, found=problem.found)
