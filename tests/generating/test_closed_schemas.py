"""Objects of a schema get no other keys than the named ones, and every answer still follows the given schema."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest

from afina.errors import InvalidData
from afina.generating.closed_schemas import closed
from raises import raises

X = {"type": "object", "properties": {"x": {"const": 1}}, "required": ["x"]}
Y = {"type": "object", "properties": {"y": {"const": 1}}, "required": ["y"]}
DEFS = {"$defs": {"X": X, "Y": Y, "Open": {**X, "additionalProperties": True}}}
REF_X, REF_Y, REF_OPEN = ({"$ref": f"#/$defs/{name}"} for name in ("X", "Y", "Open"))
NODE = {"properties": {"x": {"const": 1}, "next": {"anyOf": [{"$ref": "#/$defs/Node"}, {"type": "null"}]}}}


@pytest.mark.parametrize(
    ("schema", "follow", "differ"),
    [
        (X, [{"x": 1}], [{"x": 1, "z": 1}, {}]),
        ({"properties": {"a": X}}, [{"a": {"x": 1}}], [{"a": {"x": 1, "z": 1}}, "text without a key"]),
        ({"type": ["object", "null"], "properties": {"a": {}}}, [{"a": 1}, None], [{"z": 1}]),
        ({**DEFS, "allOf": [{"type": ["object", "null"]}, {"properties": {"a": {}}}]}, [{"a": 1}, None], [{"z": 1}]),
        ({"type": "array", "items": X}, [[{"x": 1}]], [[{"x": 1, "z": 1}]]),
        ({"prefixItems": [X]}, [[{"x": 1}]], [[{"x": 1, "z": 1}]]),
        ({"patternProperties": {"^x": X}}, [{"xy": {"x": 1}}], [{"z": 1}, {"xy": {"x": 1, "z": 1}}]),
        ({"additionalProperties": X}, [{"any": {"x": 1}}], [{"any": {"x": 1, "z": 1}}]),
        ({**X, "additionalProperties": True}, [{"x": 1, "z": 1}], [{}]),
        ({**X, "additionalProperties": {"type": "null"}}, [{"x": 1, "z": None}], [{"x": 1, "z": 1}]),
        ({"type": "object"}, [{}, {"z": {"z": 1}}], [[]]),
        ({"type": "object", "properties": {}}, [{}], [{"z": 1}]),
        ({"const": {"properties": {"a": 1}}}, [{"properties": {"a": 1}}], [{"properties": {"a": 1, "z": 1}}]),
        ({"not": X}, [{}, {"z": 1}], [{"x": 1}, {"x": 1, "z": 1}]),
        ({"anyOf": [X, Y]}, [{"x": 1}, {"y": 1}], [{"x": 1, "y": 1}, {"x": 1, "z": 1}]),
        ({"oneOf": [X, {"type": "null"}]}, [{"x": 1}, None], [{"x": 1, "z": 1}]),
        ({**DEFS, "items": REF_X}, [[{"x": 1}]], [[{"x": 1, "z": 1}]]),
        ({**DEFS, "allOf": [REF_X], "description": "as older pydantic"}, [{"x": 1}], [{"x": 1, "z": 1}]),
        ({**DEFS, "allOf": [REF_X, REF_Y]}, [{"x": 1, "y": 1}], [{"x": 1}, {"x": 1, "y": 1, "z": 1}]),
        ({**DEFS, "allOf": [REF_X, {"properties": {"a": X}}]}, [{"x": 1, "a": {"x": 1}}],
         [{"x": 1, "z": 1}, {"x": 1, "a": {"x": 1, "z": 1}}]),
        ({**DEFS, **Y, **REF_X}, [{"x": 1, "y": 1}], [{"x": 1}, {"x": 1, "y": 1, "z": 1}]),
        ({**DEFS, "allOf": [REF_OPEN, Y]}, [{"x": 1, "y": 1, "z": 1}], [{"x": 1}]),
        ({**DEFS, "allOf": [{"allOf": [REF_X, REF_Y]}, {"properties": {"a": {}}}]}, [{"x": 1, "y": 1, "a": 1}],
         [{"x": 1, "y": 1, "z": 1}]),
        ({"properties": {"k": {"const": 1}}, "anyOf": [X, Y]}, [{"k": 1, "x": 1}, {"y": 1}],
         [{"x": 1, "y": 1}, {"x": 1, "z": 1}, {"k": 1}]),
        ({"properties": {"k": {}}, "anyOf": [REF_X, REF_Y], **DEFS}, [{"k": 1, "x": 1}], [{"x": 1, "y": 1}]),
        ({**X, "anyOf": [X, {"required": ["x"]}], "oneOf": [{"properties": {"a": {}}}]}, [{"x": 1, "a": 2}],
         [{"x": 1, "z": 1}]),
        ({"$defs": {"Node": NODE}, "$ref": "#/$defs/Node"}, [{"x": 1, "next": {"x": 1, "next": None}}],
         [{"next": {"z": 1}}, {"next": {"next": {"z": 1}}}]),
        ({"properties": {"next": {"$ref": "#"}}}, [{"next": {"next": {}}}], [{"next": {"z": 1}}]),
        ({"properties": {"a~/ b": X, "c": {"$ref": "#/properties/a~0~1%20b"}}}, [{"c": {"x": 1}}],
         [{"c": {"x": 1, "z": 1}}]),
        ({"properties": {"$defs": X, "$ref": X}}, [{"$defs": {"x": 1}}], [{"$defs": {"x": 1, "z": 1}}, {"z": 1}]),
        ({"definitions": {"X": X}, "items": {"$ref": "#/definitions/X"}}, [[{"x": 1}]], [[{"x": 1, "z": 1}]]),
    ],
    ids=lambda value: json.dumps(value)[:60],
)  # fmt: skip
def test_an_object_has_the_named_keys_only(schema: Any, follow: list[Any], differ: list[Any]) -> None:
    before = json.dumps(schema)
    made = closed(schema)
    assert json.dumps(schema) == before
    for one in follow:
        jsonschema.validate(one, made)
        jsonschema.validate(one, schema)
    for one in differ:
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(one, made)


def test_the_order_of_keys_is_that_of_the_schema() -> None:
    made = closed({**DEFS, "allOf": [REF_X, Y, {"properties": {"a": {}}}]})
    assert [*made["properties"]] == ["x", "y", "a"]


IDENTIFIED = {"$id": "a.json", **X}
WRONG = {"properties": 5, "anyOf": {"a": 1}, "$ref": 7, "items": [True, 3], "allOf": [5, None]}


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        ({"$ref": "https://example.com/x.json"}, {"$ref": "https://example.com/x.json"}),
        ({"$ref": "#/missing"}, {"$ref": "#/missing"}),
        ({"items": IDENTIFIED}, {"items": IDENTIFIED}),
        (WRONG, {**WRONG, "type": "object", "additionalProperties": False}),
    ],
    ids=json.dumps,
)
def test_what_is_no_reference_into_the_schema_stays(schema: Any, expected: Any) -> None:
    assert closed(schema) == expected


def test_references_that_combine_in_too_many_ways_are_refused() -> None:
    names = range(24)
    nodes = {
        f"n{one}": {"properties": {f"p{one}": {}}, "anyOf": [{"$ref": f"#/$defs/n{other}"} for other in names]}
        for one in names
    }
    with raises(InvalidData, code="request.grammar-invalid"):
        closed({"$defs": nodes, "$ref": "#/$defs/n0"})
