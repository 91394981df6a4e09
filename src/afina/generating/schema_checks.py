"""Checks of JSON texts against JSON Schemas with the package jsonschema.

A schema comes from a client, so a check retrieves nothing, matches patterns in linear time, and ends after `SECONDS`.
Numbers are compared exactly, as decimals. Formats are not checked. The module imports no code of grammars.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from decimal import Decimal
from fractions import Fraction
from functools import cache, lru_cache
from typing import Any

from afina import meter
from afina.generating import problems

SECONDS = 1.0
"""The processor seconds that a check may take."""

_PATTERN_STEPS = 100_000_000
"""The largest number of steps in matching a pattern: the size of RE2's program times the number of bytes."""

_MOST_DIGITS = 4000
"""The largest number of characters of a number, and its largest exponent in either direction."""

_ESCAPED = re.compile(r"\\(?:u([0-9a-fA-F]{4})|.)", re.DOTALL)
"""Pattern of an escape sequence of a regular expression; the group has the digits of one that RE2 writes otherwise."""

_until: ContextVar[float] = ContextVar("until")
"""The processor time of this thread at which the running check ends."""


class _Unchecked(Exception):
    """A part of a schema cannot be checked."""


def violation(text: str, schema: Mapping[str, Any]) -> str | None:
    """Return how a JSON text violates a JSON Schema, or None if the text holds to the schema.

    Raises InvalidData if the text cannot be checked against the schema, also because the check takes too much time.
    Must not be called in an event loop.
    """
    from jsonschema import Draft202012Validator
    from jsonschema.validators import validator_for
    from referencing import Registry

    ending = _until.set(meter.processor_seconds() + SECONDS)
    try:
        checker = _checker(validator_for(schema, default=Draft202012Validator))
        exact = json.loads(json.dumps(schema), parse_float=_number, object_pairs_hook=_of_one_draft)
        try:
            value = json.loads(text, parse_int=_number, parse_float=_number, parse_constant=_not_json)
        except json.JSONDecodeError as error:
            return f"the text is not JSON: {error}"
        found = next(checker(exact, registry=Registry()).iter_errors(value), None)
        return None if found is None else f"{found.json_path[:100]}: {found.message[:200]}"
    except _Unchecked as error:
        raise problems.SCHEMA_UNCHECKED(_problem=str(error)) from None
    except RecursionError:
        raise problems.SCHEMA_UNCHECKED(_problem="too many nested levels, or a reference to itself") from None
    except Exception as error:  # noqa: BLE001 - jsonschema raises any exception for a malformed schema
        problem = f"not a valid schema, or it refers to another schema ({type(error).__name__})"
        raise problems.SCHEMA_UNCHECKED(_problem=problem) from None
    finally:
        _until.reset(ending)


@cache
def _checker(draft: Any) -> Any:
    """Return a class like jsonschema's class of a draft, whose keywords are limited in time and compare exactly."""
    from jsonschema import ValidationError
    from jsonschema.validators import extend

    def pattern(checker: Any, given: str, value: Any, schema: Any) -> Iterator[Any]:
        if checker.is_type(value, "string") and not _matches(given, value):
            yield ValidationError(f"{value!r} does not match {given!r}")

    def pattern_properties(checker: Any, given: Mapping[str, Any], value: Any, schema: Any) -> Iterator[Any]:
        for name, one in value.items() if checker.is_type(value, "object") else ():
            for each, inner in given.items():
                if _matches(each, name):
                    yield from checker.descend(one, inner, path=name, schema_path=each)

    def additional_properties(checker: Any, given: Any, value: Any, schema: Any) -> Iterator[Any]:
        patterns = schema.get("patternProperties", {})
        for name, one in value.items() if checker.is_type(value, "object") else ():
            if name not in schema.get("properties", {}) and not any(_matches(each, name) for each in patterns):
                yield from checker.descend(one, given, path=name)

    def multiple_of(checker: Any, given: Any, value: Any, schema: Any) -> Iterator[Any]:
        if checker.is_type(value, "number") and Fraction(value) % Fraction(given):
            yield ValidationError(f"{value} is not a multiple of {given}")

    def unique_items(checker: Any, given: bool, value: Any, schema: Any) -> Iterator[Any]:
        if given and checker.is_type(value, "array") and len({_hashable(one) for one in value}) < len(value):
            yield ValidationError("two elements are equal")

    def unevaluated(checker: Any, given: Any, value: Any, schema: Any) -> Iterator[Any]:
        raise _Unchecked("the keywords `unevaluatedProperties` and `unevaluatedItems` are not supported")

    own = {
        "pattern": pattern,
        "patternProperties": pattern_properties,
        "additionalProperties": additional_properties,
        "multipleOf": multiple_of,
        "uniqueItems": unique_items,
        "unevaluatedProperties": unevaluated,
        "unevaluatedItems": unevaluated,
    }
    keywords = {name: _in_time(own.get(name, check)) for name, check in draft.VALIDATORS.items()}
    return extend(draft, keywords, type_checker=draft.TYPE_CHECKER.redefine("integer", _is_integer))


def _in_time(check: Callable[..., Iterator[Any] | None]) -> Callable[..., Iterator[Any]]:
    """Return the check of a keyword that raises `_Unchecked` if the time is over."""

    def checked(*given: Any) -> Iterator[Any]:
        if meter.processor_seconds() > _until.get():
            raise _Unchecked(f"the check takes more than {SECONDS:g} seconds")
        yield from check(*given) or ()

    return checked


def _matches(pattern: str, text: str) -> bool:
    compiled = _compiled(pattern)
    if compiled.programsize * len(text.encode(errors="replace")) > _PATTERN_STEPS:
        raise _Unchecked("a pattern takes too long to match")
    return compiled.search(text.encode(errors="replace").decode()) is not None


@lru_cache(256)
def _compiled(pattern: str) -> Any:
    import re2

    options = re2.Options()
    options.never_capture, options.log_errors, options.max_mem = True, False, 1 << 20
    try:
        return re2.compile(_ESCAPED.sub(_as_re2, pattern), options)
    except (re2.error, UnicodeError):
        raise _Unchecked(f"RE2 does not support the pattern {pattern[:100]!r}") from None


def _as_re2(escaped: re.Match[str]) -> str:
    return f"\\x{{{escaped[1]}}}" if escaped[1] else escaped[0]


def _number(text: str) -> int | Decimal:
    found = Decimal(text)
    if len(text) > _MOST_DIGITS or abs(found.adjusted()) > _MOST_DIGITS:
        raise _Unchecked(f"the number {text[:40]} has too many digits")
    return int(text) if text.lstrip("-").isdecimal() else found


def _not_json(name: str) -> None:
    raise json.JSONDecodeError(f"{name} is not a JSON number", name, 0)


def _of_one_draft(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a part of a schema without `$schema`, at which jsonschema would change to a class without limits."""
    return {name: value for name, value in pairs if name != "$schema" or not isinstance(value, str)}


def _is_integer(checker: Any, value: Any) -> bool:
    if isinstance(value, Decimal):
        return value == value.to_integral_value()
    return isinstance(value, int) and not isinstance(value, bool)


def _hashable(value: Any) -> Any:
    """Return a hashable value that is equal for equal JSON values only; true and 1 differ."""
    if isinstance(value, dict):
        return frozenset((name, _hashable(one)) for name, one in value.items())
    if isinstance(value, list):
        return tuple(_hashable(one) for one in value)
    return (bool, value) if isinstance(value, bool) else value
