"""Conversion of a JSON Schema to a closed schema, whose objects have only the named keys, as in OpenAI's strict mode.

In JSON Schema, an object without `additionalProperties` may have any further key. A model that may write further keys
often writes them without end. The conversion only adds restrictions. The module imports no code of grammars.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from math import inf, nextafter
from typing import Any
from urllib.parse import unquote

from afina.generating import problems

_NAMES = ("properties", "patternProperties")
_INNER = ("items", "additionalItems", "prefixItems", "additionalProperties")
"""The keywords whose values are schemas of inner values: of array elements or of further keys."""

_CHOICES = ("anyOf", "oneOf")
_DEFINITIONS = ("$defs", "definitions")
_BOUNDS = {"minimum": -1, "exclusiveMinimum": -1, "maximum": 1, "exclusiveMaximum": 1}
"""The keywords of bounds, with the direction in which a bound excludes numbers."""

_FARTHEST = 2**63 - 1024
"""The largest bound: the largest double below 2**63. llguidance compares integers of 64 bits."""

_SAID = frozenset({"additionalProperties", "unevaluatedProperties"})

MOST_STEPS = 100_000
"""The largest number of visits to schemas in a conversion. References can combine in exponentially many ways."""

Schema = Mapping[str, Any]
Keys = Mapping[str, Mapping[str, Any]]
"""The type of a set of keys, given by names (`properties`) and by patterns of names (`patternProperties`)."""


def closed(schema: Schema) -> dict[str, Any]:
    """Return a closed schema: an object with named keys has no other keys, unless it has `additionalProperties`.

    - A schema that names keys and has no `type` counts as a schema of an object.
    - An object without named keys, such as `{"type": "object"}`, may still have any keys.
    - If several schemas hold for one object (`allOf`, or keywords beside `$ref`, `anyOf` and `oneOf`), the object may
      have the keys of all these schemas.
    - Each `$ref` into the schema becomes a reference to a copy in `$defs`.
    - A bound that is not a double becomes the next double that excludes more numbers.
    - Other references, parts with an `$id` of their own, and keywords such as `not` are unchanged.

    Raises InvalidData if the references of the schema combine in too many ways.
    """
    return _Closing(schema).whole()


class _Closing:
    """The conversion of one JSON Schema to a closed schema."""

    def __init__(self, root: Schema) -> None:
        self._root = root
        self._names: dict[str, str] = {}
        """The names in `$defs` of copies of the targets of `$ref`, by pointer and by the keys of other schemas."""
        self._waiting: list[tuple[str, Any, Keys | None]] = []
        self._steps = 0

    def whole(self) -> dict[str, Any]:
        made, copies = self._schema(self._root, {}), dict[str, Any]()
        while self._waiting:
            name, target, beside = self._waiting.pop()
            copies[name] = self._schema(target, beside)
        return {**made, "$defs": copies} if copies else made

    def _schema(self, given: Any, beside: Keys | None) -> Any:
        """Return a schema converted to a closed schema.

        `beside` has the keys that other schemas of the same value name; None if another schema already forbids further
        keys.
        """
        self._step()
        if not isinstance(given, Mapping) or (given is not self._root and "$id" in given):
            return given
        made = {name: one for name, one in given.items() if name not in _DEFINITIONS}
        made |= {name: _inner_bound(name, made[name]) for name in _BOUNDS if name in made}
        for name in _NAMES:
            if isinstance(one := given.get(name), Mapping):
                made[name] = {key: self._schema(value, {}) for key, value in one.items()}
        choices = [name for name in _CHOICES if isinstance(given.get(name), list)]
        of_choices, of_parts, own = self._keys(given, choices, beside)
        inner = {**{key: {} for key in _INNER}, **dict.fromkeys(choices, of_choices), "allOf": of_parts}
        for name in inner.keys() & given.keys():
            one, keys = given[name], inner[name]
            made[name] = (
                [self._schema(each, keys) for each in one] if isinstance(one, list) else self._schema(one, keys)
            )
        if (target := self._target(given)) is not None:
            made["$ref"] = self._copied(given["$ref"], target, of_parts)
        if own is None:
            return made
        for name, keys in own.items():
            if isinstance(made.setdefault(name, {}), Mapping):
                made[name] = {**keys, **made[name]}
        kind = {} if any("type" in one for one in self._together(given)) else {"type": "object"}
        return {**kind, **made, "additionalProperties": False}

    def _keys(
        self, given: Schema, choices: list[str], beside: Keys | None
    ) -> tuple[Keys | None, Keys | None, Keys | None]:
        """Return the keys that three parts of a schema must allow: alternatives, `allOf` and `$ref`, the schema itself.

        None instead of keys: the part need not forbid further keys.
        """
        fixed = list(self._together({name: one for name, one in given.items() if name not in choices}))
        if beside is None or any(_SAID & one.keys() for one in fixed):
            return None, None, None
        if len(choices) == 1:  # so that each alternative has only its own keys, and those beside it
            return _merged(beside, fixed), None, None
        parts = len(_listed(given, "allOf")) + (self._target(given) is not None)
        if parts == 1 and not choices and not any(name in given for name in _NAMES):
            return None, beside, None
        together = list(self._together(given))
        named = any(name in one for one in together for name in _NAMES)
        return None, None, _merged(beside, together) if named or beside else None

    def _together(self, given: Schema) -> Iterator[Schema]:
        """Yield a schema, and all schemas in its `allOf`, `$ref`, `anyOf` and `oneOf`, which may hold for its value."""
        left, seen = list[Any]([given]), set[int]()
        while left:
            one = left.pop(0)
            self._step()
            if isinstance(one, Mapping) and id(one) not in seen:
                seen.add(id(one))
                yield one
                parts = [part for name in ("allOf", *_CHOICES) for part in _listed(one, name)]
                left = [self._target(one), *parts, *left]

    def _step(self) -> None:
        self._steps += 1
        if self._steps > MOST_STEPS:
            raise problems.GRAMMAR_INVALID(
                _problem="a schema whose references combine in too many ways. Give a simpler one"
            )

    def _target(self, given: Schema) -> Any:
        """Return the part of the whole schema to which the `$ref` of a schema points, or None without such a part."""
        pointer = given.get("$ref")
        if not isinstance(pointer, str) or not (pointer == "#" or pointer.startswith("#/")):
            return None
        found: Any = self._root
        for part in unquote(pointer).split("/")[1:]:
            key = part.replace("~1", "/").replace("~0", "~")
            if isinstance(found, Mapping) and key in found:
                found = found[key]
            elif isinstance(found, list) and key.isdecimal() and int(key) < len(found):
                found = found[int(key)]
            else:
                return None
        return found

    def _copied(self, pointer: str, target: Any, beside: Keys | None) -> str:
        """Return a `$ref` value that points to the copy of a target in `$defs`."""
        key = json.dumps([pointer, beside])
        if key not in self._names:
            self._names[key] = name = str(len(self._names) + 1)
            self._waiting.append((name, target, beside))  # the target may refer to itself
        return f"#/$defs/{self._names[key]}"


def _merged(beside: Keys, schemas: Iterable[Schema]) -> Keys:
    """Return the union of the keys of several schemas and of `beside`, each with the schema `true`."""
    given = [beside, *schemas]
    found = {
        name: {key: True for one in given if isinstance(one.get(name), Mapping) for key in one[name]} for name in _NAMES
    }
    return {name: keys for name, keys in found.items() if keys}


def _inner_bound(name: str, bound: Any) -> Any:
    """Return a bound, or the next double of 64 bits that excludes more numbers, if there is one.

    llguidance allows an exclusive bound itself if its distance to the next double is more than 1.
    """
    sign = _BOUNDS[name]
    if not isinstance(bound, int) or abs(bound) <= 2**53 or sign * bound < -_FARTHEST:
        return bound
    least = min(sign * bound - name.startswith("exclusive"), _FARTHEST)
    double = float(least)
    return sign * int(double if double <= least else nextafter(double, -inf))


def _listed(given: Schema, name: str) -> list[Any]:
    found = given.get(name)
    return found if isinstance(found, list) else []
