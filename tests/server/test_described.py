"""What OpenAPI says is so: whatever a client with a key sends, no answer is a 5xx or differs from the description."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from openapi_spec_validator import validate
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
)

from afina.server import routes
from afina.server.routes import route_of
from afina.store.api_keys import PREDICT
from crowd import adapter
from servers import PLACES, TOLD, Listening, listening, talk

CHECKS: list[Any] = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    negative_data_rejection,
]

MODELS = (
    "acme/reviews",
    "acme/reviews@production",
    "acme/tags@1",
    "acme/price",
    "bolt/mail",
    "acme/none",
    "acme/told",
    "acme/talk",
    "acme/talk@1",
    "acme/places",
)

ROUTES = [
    f"{route.method} {path.replace(':path', '')}"
    for route in routes.ROUTES
    if route.method and route is not routes.DESCRIPTION
    for path in route.paths
]


@pytest.fixture(scope="module")
def server(chatting: Any, crowd: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Listening]:
    texts = {
        "acme/told@1": adapter(chatting, "lora", {"r": 2}, seed=6, **TOLD),
        "acme/talk@1": adapter(chatting, "lora", {"r": 2}, seed=7, **talk(chatting)),
        "acme/places@1": adapter(chatting, "lora", {"r": 2}, seed=8, **PLACES),
    }
    root = Path(tmp_path_factory.mktemp("described"))
    with listening(chatting, {**crowd, **texts}, root, max_new_tokens=16, writes_per_minute=10_000) as made:
        yield made


@pytest.fixture(scope="module")
def session() -> Iterator[requests.Session]:
    with requests.Session() as made:
        yield made


def bearer(server: Listening, path: str) -> dict[str, str]:
    """A key that has the scope."""
    scope = route_of(path).scope or PREDICT
    return {"Authorization": f"Bearer {server.secrets['acme' if scope == PREDICT else f'acme-{scope}']}"}


@pytest.fixture(scope="module")
def schema(server: Listening) -> Any:
    url = f"http://127.0.0.1:{server.port}"
    said = requests.get(f"{url}/openapi.json", headers=bearer(server, "/openapi.json"), timeout=10).json()
    return schemathesis.openapi.from_dict(said)


def test_every_route_is_described_and_looked_at(schema: Any) -> None:
    said = [f"{method.upper()} {path}" for path, methods in schema.raw_schema["paths"].items() for method in methods]
    assert sorted(said) == sorted(ROUTES)
    for path, methods in schema.raw_schema["paths"].items():
        for one in methods.values():
            assert all(
                content["schema"]
                for found in one["responses"].values()
                for content in found.get("content", {}).values()
            )
            assert ("security" in one) == (route_of(path).scope is None), path


@schemathesis.serializer("application/x-ndjson")
def lines(context: Any, value: Any) -> Any:
    """As they are, whatever they are."""
    return value.encode("utf-8", "surrogatepass") if isinstance(value, str) else json.dumps(value).encode()


def named(case: Any, model: str | None, key: str) -> None:
    """Let a request ask about a model that there is, or is somebody else's, or is none; or about a key."""
    if model is None:
        return
    name, _, version = model.partition("@")
    client, task = name.split("/")
    chosen = {"id": model, "client": client, "task": task, "version": version or "1", "alias": "production"}
    chosen["key"] = key
    for parameter in case.path_parameters or {}:
        case.path_parameters[parameter] = chosen[parameter]
    if isinstance(case.body, dict) and "model" in case.body:
        case.body["model"] = model
    if isinstance(case.body, dict) and "messages" in case.body and version:  # options seldom go together by chance
        case.body = {field: case.body[field] for field in ("model", "messages", "stream") if field in case.body}
    if isinstance(case.body, dict) and "models" in case.body:
        case.body["models"] = [model, *MODELS[2:4]]
    if isinstance(case.body, str):
        case.body = json.dumps({"text": case.body, "model": model}) + f"\n{case.body}"
    if isinstance(case.query, dict) and "model" in case.query:
        case.query["model"] = model


def held_to(route: str, schema: Any, server: Listening, session: requests.Session, examples: int) -> set[int]:
    """Send what fits the description, and what does not, and hold what comes to it; which codes there were."""
    method, path = route.split()
    operation, codes = schema[path][method], set[int]()
    key = server.core.store.create_key("acme", ["predict"]).key.id
    headers, url = bearer(server, path), f"http://127.0.0.1:{server.port}"
    cases = st.one_of(*(operation.as_strategy(generation_mode=mode) for mode in GenerationMode))

    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.explicit, Phase.generate, Phase.shrink],
        suppress_health_check=[*HealthCheck],
    )
    @given(cases, st.sampled_from([None, *MODELS]))
    def ask(case: Any, model: str | None) -> None:
        named(case, model, key)
        case.headers.update(headers)  # some requests are sent without it on purpose: schemathesis leaves it out
        response = case.call(base_url=url, session=session, timeout=30)
        codes.add(response.status_code)
        case.validate_response(response, checks=CHECKS)

    ask()
    return codes


INSTEAD: dict[str, dict[str, Any]] = {
    "/v1/completions": {"model": "acme/told", "max_tokens": 4},
    "/v1/chat/completions": {"model": "acme/talk", "max_completion_tokens": 4},
    "/v1/responses": {"model": "acme/talk", "max_output_tokens": 4},
    "/models/{client}/{task}/v1/chat/completions": {"max_completion_tokens": 4},
    "/pooling": {"model": "acme/places"},
    "/tasks": {"models": ["acme/reviews", "acme/tags", "acme/places"]},
    "/aliases/{client}/{task}/{alias}": {"version": 1, "expected": None},
}
"""What is asked instead of the examples' models, versions and lengths of answers."""


def example(route: str, schema: Any, server: Listening) -> int:
    """Send the example of the description, hold the answer to it, and return the status."""
    method, path = route.split()
    operation, key = schema[path][method], server.core.store.create_key("acme", ["predict"]).key.id
    task = "talk" if "chat" in path else "reviews"
    alias = "staging" if path.startswith("/aliases/") else "production"
    parts = {"client": "acme", "task": task, "version": "1", "alias": alias, "id": "acme/tags", "key": key}
    given: dict[str, Any] = {"path_parameters": {name: one for name, one in parts.items() if f"{{{name}}}" in path}}
    for media, one in operation.definition.raw.get("requestBody", {"content": {}})["content"].items():
        if "example" in one:
            content = one["example"]
            given |= {"body": content | INSTEAD.get(path, {}) if isinstance(content, dict) else content}
            given |= {"media_type": media}
    case = operation.Case(headers=bearer(server, path), **given)
    response = case.call(base_url=f"http://127.0.0.1:{server.port}", timeout=30)
    case.validate_response(response, checks=CHECKS)
    return int(response.status_code)


@pytest.mark.parametrize("route", ROUTES)
def test_the_example_of_each_route_is_answered(route: str, schema: Any, server: Listening) -> None:
    assert example(route, schema, server) == 200


FEW, MANY = 4, 25


@pytest.mark.parametrize("route", ROUTES[::3])
def test_no_answer_is_a_5xx_or_differs_from_the_description(
    route: str, schema: Any, server: Listening, session: requests.Session
) -> None:
    codes = held_to(route, schema, server, session, FEW)
    assert codes
    if "{" not in route and not route.startswith("P"):
        assert 200 in codes
        assert codes <= {200, 401}


@pytest.mark.slow
@pytest.mark.parametrize("route", ROUTES)
def test_no_answer_of_many_is_a_5xx_or_differs_from_the_description(
    route: str, schema: Any, server: Listening, session: requests.Session
) -> None:
    assert held_to(route, schema, server, session, MANY)


def undescribed(schema: Any, where: str) -> Iterator[str]:
    """The fields of objects in a schema that have no description."""
    if isinstance(schema, dict):
        fields = schema.get("properties", {})
        yield from (f"{where}: {name}" for name, one in fields.items() if not one.get("description"))
        for name, one in schema.items():
            yield from undescribed(one, f"{where}/{name}")
    elif isinstance(schema, list):
        for index, one in enumerate(schema):
            yield from undescribed(one, f"{where}/{index}")


def test_every_field_and_parameter_of_openapi_has_a_description() -> None:
    from afina.server.http.app import make_app

    found = make_app(cast(Any, None)).openapi()
    assert [*undescribed({"properties": {"a": {"type": "string"}}}, "x")] == ["x: a"]
    assert [*undescribed(found["components"]["schemas"], "schemas")] == []
    assert [*undescribed(found["paths"], "paths")] == []
    operations = [one for methods in found["paths"].values() for one in methods.values()]
    parameters = [parameter for one in operations for parameter in one.get("parameters", [])]
    assert len(parameters) > 20
    assert [one for one in parameters if not one.get("description")] == []


def named_alike(schema: Any, where: str) -> Iterator[str]:
    """The schemas with enum members that differ by case only, a default, or a type of unknown fields."""
    if isinstance(schema, dict):
        names = [str(one).lower() for one in schema.get("enum", [])]
        typed = "properties" in schema and isinstance(schema.get("additionalProperties"), dict)
        if len({*names}) < len(names) or "default" in schema or typed:
            yield where
        for name, one in schema.items():
            yield from named_alike(one, f"{where}/{name}")
    elif isinstance(schema, list):
        for index, one in enumerate(schema):
            yield from named_alike(one, f"{where}/{index}")


def test_generators_of_clients_read_the_description() -> None:
    """See tests/clients/openapi_python_client.py and openapi_typescript_client.mjs, which use generated clients."""
    from afina.server.http.app import make_app

    found = make_app(cast(Any, None)).openapi()
    validate(found)
    assert [*named_alike({"a": {"enum": ["Left", "left"]}}, "x")] == ["x/a"]
    assert [*named_alike(found["components"]["schemas"], "schemas")] == []
    operations = [one for methods in found["paths"].values() for one in methods.values()]
    parameters = [parameter for one in operations for parameter in one.get("parameters", [])]
    assert {one["schema"]["type"] for one in parameters if one["in"] == "path"} == {"string"}
    (days,) = [one["schema"] for one in parameters if one["name"] == "days"]
    assert (days["minimum"], days["maximum"], days["default"]) == (1, 35, 7)
    share = found["components"]["schemas"]["Alias"]["properties"]["share"]
    assert (share["exclusiveMinimum"], share["exclusiveMaximum"]) == (0, 100)


def test_the_root_says_where_the_description_and_pages_are_without_a_key(served: Any) -> None:
    answer = served.web.get("/")
    assert (answer.status_code, answer.json()) == (200, {"description": "/openapi.json", "pages": "afina studio"})
