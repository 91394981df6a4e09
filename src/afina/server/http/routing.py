"""The class ProtocolRouter, which adds routes of `server/routes.py` to FastAPI with their OpenAPI description."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from fastapi import APIRouter, Response
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue, models_json_schema
from pydantic_core.core_schema import WithDefaultSchema

from afina.server.http.bodies import Body
from afina.server.json_shapes import BYTES, COUNT, TEXT, Shape, about, either, one_of
from afina.server.routes import Route

Handler = Callable[..., Awaitable[Response]]

REFERENCE = "#/components/schemas/{model}"

OCTETS = "application/octet-stream"  # the media type of a body that has JSON first and binary data after it

FAILURES = {
    400: "The body is not valid JSON, or the request is malformed.",
    401: "The key is missing or invalid.",
    403: "The key lacks the scope.",
    404: "The key's client has no such model.",
    408: "The request did not arrive in time.",
    409: "The state is not the expected one, or the store refuses the change.",
    413: "The body is too large, or a text has too many tokens for a model that computes a text whole.",
    415: "The Content-Encoding of the body is not supported.",
    422: "A field of the body or the query is wrong.",
    429: "A limit is exceeded. Retry after the seconds in Retry-After.",
    500: "The answer could not be computed.",
    503: "The model or the store is not available at the moment.",
    504: "The answer was not computed in time.",
    507: "Nothing can be written: the disk of the server or of its store is full, or read-only.",
}


class ProtocolRouter(APIRouter):
    """A FastAPI router with the routes that one module of `afina.server.protocols` answers."""

    def __init__(self) -> None:
        super().__init__()
        self.bodies: list[type[Body]] = []

    def answers(
        self,
        route: Route,
        answer: Shape | None = None,
        body: type[Body] | None = None,
        example: Mapping[str, Any] | None = None,
        *,
        lines: str | None = None,
        media: str = "application/json",
        query: Mapping[str, Shape] | None = None,
        events: Shape | None = None,
        binary: str | None = None,
    ) -> Callable[[Handler], Handler]:
        """Return a decorator for the function that answers a route which needs an API key.

        Args:
            answer: None: the response is text.
            lines: an example of a request body that is JSON lines, whose media type few generators of clients know.
            query: the JSON Schemas of the query parameters.
            events: the JSON Schema of each server-sent event.
            binary: the header with the length of the JSON, if binary data may follow the JSON in the bodies.
        """
        answered = _response("The answer.", media, answer or TEXT)
        parameters = [{"name": name, "in": "query", "schema": shape} for name, shape in (query or {}).items()]
        content: dict[str, Any] = {}
        if binary is not None:
            parameters.append({"name": binary, "in": "header", "schema": COUNT})
        if body is not None:
            self.bodies.append(body)
            schema = {"$ref": REFERENCE.format(model=body.__name__)}
            content = {"application/json": {"schema": schema, "example": example}}
        elif lines is not None:
            content = {
                "application/x-ndjson": {"schema": about({}, "JSON lines"), "example": lines},
                OCTETS: {"schema": BYTES},
            }
        if events is not None:
            answered["content"]["text/event-stream"] = {"schema": _event(events)}
        if binary is not None:
            answered["content"][OCTETS] = content[OCTETS] = {"schema": BYTES}
        failures = {
            code: _response(why, "application/json", route.protocol.shape)
            for code, why in FAILURES.items()
            if route.protocol.status(code) == code or "{" in route.paths[0]  # without, FastAPI adds a 422 of its own
        }
        extra = {"parameters": parameters} if parameters else {}
        required = body is None or any(one.is_required() for one in body.model_fields.values())
        given = {"requestBody": {"required": required, "content": content}} if content else {}
        return self._added(route, {200: answered, **failures}, extra | given)

    def answers_all(
        self, route: Route, *responses: tuple[int, str, Shape | None], media: str = "application/json"
    ) -> Callable[[Handler], Handler]:
        """Return a decorator for the function that answers a route without a key.

        `responses`: for each, the HTTP status, the meaning, and the JSON Schema of the body (None: it is empty).
        """
        described = {
            code: {"description": why} if shape is None else _response(why, media, shape)
            for code, why, shape in responses
        }
        return self._added(route, described, {"security": []})

    def _added(self, route: Route, responses: Any, extra: Any) -> Callable[[Handler], Handler]:
        def added(function: Handler) -> Handler:
            for path in route.paths:
                self.add_api_route(
                    path,
                    function,
                    methods=[str(route.method)],
                    tags=[route.title or route.protocol.title],
                    response_class=Response,
                    responses=responses,
                    openapi_extra=extra,
                )
            return function

        return added


def _event(content: Shape) -> Shape:
    """Return the JSON Schema of one server-sent event, whose `data` is JSON of the schema `content` or `[DONE]`.

    OpenAPI before 3.2 has no `itemSchema`, so an event's schema stands where the schema of the whole stream belongs.
    """
    data = either(one_of("[DONE]"), {**TEXT, "contentMediaType": "application/json", "contentSchema": content})
    return {
        "type": "object",
        "properties": {"data": about(data, "JSON, or `[DONE]` in the last event"), "event": about(TEXT, "not used")},
        "required": ["data"],
    }


def _response(why: str, media: str, shape: Shape) -> dict[str, Any]:
    return {"description": why, "content": {media: {"schema": shape}}}


class _WithoutDefaults(GenerateJsonSchema):
    """JSON Schemas without `default`, since generated clients for TypeScript must send a field that has one."""

    def default_schema(self, schema: WithDefaultSchema) -> JsonSchemaValue:
        return self.generate_inner(schema["schema"])


def body_schemas(bodies: list[type[Body]]) -> dict[str, Any]:
    """Return the JSON Schemas of request bodies and of all pydantic models inside them, by the models' names."""
    _, schemas = models_json_schema(
        [(body, "validation") for body in bodies], ref_template=REFERENCE, schema_generator=_WithoutDefaults
    )
    definitions: dict[str, Any] = schemas["$defs"]
    return definitions
