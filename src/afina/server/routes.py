"""The table of the server's routes, with each route's path, method, scope and protocol.

This module also declares how each protocol writes an error response, which headers every response has, and which id a
request has. The module imports no code of models, so that the proxy of Ray Serve starts quickly.
"""

from __future__ import annotations

import re
import secrets
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

from afina.server.json_shapes import COUNT, NOTHING, TEXT, Shape, about, either, one_of, record
from afina.store.api_keys import ADMIN, METRICS, PREDICT, PUBLISH

MODEL_FIELD = "model"
"""The field of a request that names a model."""

ERROR_KIND = "Afina-Error"
"""The HTTP header of an error response with the kind of error, in one word for programs."""

ANY_SCOPE = "any"
"""The scope of paths without a route, which every valid API key has."""

ALWAYS: Mapping[str, str] = {"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store"}
"""HTTP headers of every response."""

REQUEST_ID = b"x-request-id"
"""The HTTP header of requests and responses with the id of the request."""

_IDS = re.compile(rb"(?!.*afina_[0-9a-f]{16}_)[A-Za-z0-9._:;=+/@-]{1,128}")
"""Pattern of the request ids that the server accepts from clients, which may be logged and so contain no API key."""


def id_of(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """Return the valid id in a request's header `x-request-id`, or a new random id. Two ids count as none."""
    given = [value for name, value in headers if name == REQUEST_ID]
    return given[0].decode() if len(given) == 1 and _IDS.fullmatch(given[0]) else secrets.token_hex(8)


def _message(status: int, kind: str, message: str, field: str | None = None) -> dict[str, Any]:
    return {"error": message}


def _message_and_kind(status: int, kind: str, message: str, field: str | None = None) -> dict[str, Any]:
    return {"error": message, "kind": kind}


def _of_vllm(status: int, kind: str, message: str, field: str | None = None) -> dict[str, Any]:
    kinds = {400: "BadRequestError", 404: "NotFoundError"}
    return {"error": {"message": message, "type": kinds.get(status, kind), "param": None, "code": status}}


def _of_tei(status: int, kind: str, message: str, field: str | None = None) -> dict[str, Any]:
    kinds = {429: "Overloaded", 422: "Validation", 400: "Validation", 413: "Validation"}
    return {"error": message, "error_type": kinds.get(status, "Backend")}


def _of_openai(status: int, kind: str, message: str, field: str | None = None) -> dict[str, Any]:
    of = "rate_limit_error" if status == 429 else "invalid_request_error" if status < 500 else "server_error"
    code = "model_not_found" if (kind, field) == ("not_found", MODEL_FIELD) else kind
    return {"error": {"message": message, "type": of, "param": field, "code": code}}


class ErrorBody(Protocol):
    def __call__(self, status: int, kind: str, message: str, field: str | None = None) -> dict[str, Any]:
        """Return the body of an error response. `field`: the request's field that is wrong, if it is a single one."""


@dataclass(frozen=True)
class ClientProtocol:
    """A protocol that clients use, such as OpenAI's.

    Attributes:
        title: the name of the protocol in the OpenAPI description.
        shape: the JSON Schema of the body of an error response.
        invalid: the HTTP status of the response to a request with a wrong field.
    """

    title: str
    error: ErrorBody
    shape: Shape
    invalid: int = 422

    def status(self, status: int) -> int:
        return self.invalid if status == 422 else status


_MESSAGE = about(TEXT, "what is wrong and what to do")
_OURS = record(error=_MESSAGE, kind=about(TEXT, "one word for programs"))
_ONLY = record(error=_MESSAGE)

AFINA = ClientProtocol("afina", _message_and_kind, _OURS)
HEALTH = ClientProtocol("health", _message_and_kind, _OURS)
HUB = ClientProtocol("Hugging Face", _message, _ONLY)
KSERVE = ClientProtocol("Open Inference Protocol", _message, _ONLY)
TEI = ClientProtocol(
    "text-embeddings-inference",
    _of_tei,
    record(
        error=_MESSAGE,
        error_type=about(TEXT, "one word for programs: Overloaded, Validation or Backend"),
    ),
)
_VLLM = record(
    message=_MESSAGE,
    type=about(TEXT, "one word for programs, such as BadRequestError"),
    param=about(NOTHING, "always null"),
    code=about(COUNT, "HTTP status"),
)
VLLM = ClientProtocol("vLLM", _of_vllm, record(error=about(_VLLM, "the error")), invalid=400)
_OPENAI = record(
    message=_MESSAGE,
    type=about(one_of("invalid_request_error", "rate_limit_error", "server_error"), "kind of the error"),
    param=about(either(TEXT, NOTHING), "the field of the request that is wrong, if it is a single one"),
    code=about(TEXT, "one word for programs, such as model_not_found"),
)
OPENAI = ClientProtocol("OpenAI", _of_openai, record(error=about(_OPENAI, "the error")), invalid=400)
"""A request with a wrong field gets status 400, for which alone OpenAI's client raises BadRequestError."""


@dataclass(frozen=True, eq=False)
class Route:
    """A route of the server, or a path prefix; paths below the prefix without a route get an error response.

    Attributes:
        method: the HTTP method. A GET route answers HEAD requests too. None: every request gets an error response.
        paths: the route's paths in the syntax of FastAPI.
        protocol: the protocol that defines the format of error responses.
        scope: the scope that an API key needs. None: no key is needed, and the response has no data of any client.
        repeats: whether a proxy may send a request again to another replica, because the request changes nothing.
        streams: whether the body is read while it arrives, so that size limits apply to each line of it.
        counts: whether the metrics count requests as the client's usage, unlike requests for monitoring.
        title: the name of the protocol in the OpenAPI description, if it differs from `protocol.title`.
    """

    method: str | None
    paths: tuple[str, ...]
    protocol: ClientProtocol
    scope: str | None
    repeats: bool = True
    streams: bool = False
    counts: bool = True
    title: str | None = None

    @cached_property
    def _patterns(self) -> list[re.Pattern[str]]:
        return [re.compile(_PARAMETER.sub(_group, path)) for path in self.paths]

    def match(self, path: str) -> dict[str, str] | None:
        """Return the values of the parameters in a request's path, or None if the path does not belong to the route."""
        return next((found.groupdict() for one in self._patterns if (found := one.fullmatch(path))), None)


_PARAMETER = re.compile(r"\{(\w+)(:path)?\}")


def _group(parameter: re.Match[str]) -> str:
    return f"(?P<{parameter[1]}>{'.*' if parameter[2] else '[^/]+'})"


ROUTES: list[Route] = []
"""All routes. If several routes match a path, the first one defines its scope and its error format."""


def _route(
    method: str | None,
    *paths: str,
    of: ClientProtocol,
    scope: str | None = PREDICT,
    title: str | None = None,
    **more: bool,
) -> Route:
    ROUTES.append(Route(method, paths, of, scope, title=title, **more))
    return ROUTES[-1]


TEI_PREDICT = _route("POST", "/predict", of=TEI)
CLASSIFY = _route("POST", "/classify", of=VLLM)
POOLING = _route("POST", "/pooling", of=VLLM)
MODELS = _route("GET", "/v1/models", of=VLLM)
MODEL = _route("GET", "/v1/models/{id:path}", of=OPENAI)
INFO = _route("GET", "/info", of=AFINA, title=TEI.title)
HUB_CLASSIFY = _route("POST", "/models/{client}/{task}", of=HUB)

KSERVE_SERVER = _route("GET", "/v2", of=KSERVE)
KSERVE_LIVE = _route("GET", "/v2/health/live", of=KSERVE, scope=None)
LIVE = _route("GET", "/health/live", of=HEALTH, scope=None)
VLLM_HEALTH = _route("GET", "/health", of=HEALTH, scope=None, title=VLLM.title)
KSERVE_READY = _route("GET", "/v2/health/ready", of=KSERVE, scope=None)
READY = _route("GET", "/health/ready", of=HEALTH, scope=None)

_MODEL = "/v2/models/{client}/{task}"
_VERSION = f"{_MODEL}/versions/{{version}}"
METADATA = _route("GET", _MODEL, _VERSION, of=KSERVE)
MODEL_READY = _route("GET", f"{_MODEL}/ready", f"{_VERSION}/ready", of=KSERVE)
INFER = _route("POST", f"{_MODEL}/infer", f"{_VERSION}/infer", of=KSERVE)
MODEL_CONFIG = _route("GET", f"{_MODEL}/config", f"{_VERSION}/config", of=KSERVE)
STATISTICS = _route("GET", "/v2/models/stats", of=KSERVE)
MODEL_STATISTICS = _route("GET", f"{_MODEL}/stats", f"{_VERSION}/stats", of=KSERVE)
MODEL_INDEX = _route("POST", "/v2/repository/index", of=KSERVE)

TASKS = _route("POST", "/tasks", of=AFINA)
BULK = _route("POST", "/bulk", of=AFINA, repeats=False, streams=True)
ALIAS = _route("PUT", "/aliases/{client}/{task}/{alias}", of=AFINA, scope=PUBLISH, repeats=False)
SHADOW = _route("GET", "/shadows/{client}/{task}", of=AFINA, scope=PUBLISH)
DRIFT = _route("GET", "/drift/{client}/{task}/{alias}", of=AFINA, scope=METRICS, counts=False)
EXPOSITION = _route("GET", "/metrics", of=HEALTH, scope=METRICS, counts=False)

COMPLETIONS = _route("POST", "/v1/completions", of=OPENAI)
CHAT = _route("POST", "/v1/chat/completions", of=OPENAI)
HUB_CHAT = _route("POST", "/models/{client}/{task}/v1/chat/completions", of=OPENAI)
RESPONSES = _route("POST", "/v1/responses", of=OPENAI)

HOME = _route("GET", "/", of=HEALTH, scope=None)

KEYS = _route("GET", "/keys", of=AFINA, scope=ADMIN, repeats=False)
NEW_KEY = _route("POST", "/keys", of=AFINA, scope=ADMIN, repeats=False)
REVOKED_KEY = _route("DELETE", "/keys/{key}", of=AFINA, scope=ADMIN, repeats=False)

DESCRIPTION = _route("GET", "/openapi.json", of=AFINA)
"""The route of the OpenAPI description, which needs no API key if `Settings.public_description` is set."""

PARAMETERS = {
    "client": "the client: the first part of a model's name",
    "days": "number of days whose answers are counted, today included (UTC)",
    "key": "id of the key",
    "message": "reason, kept in the audit log for ever",
    "id": "client/task, client/task@alias or client/task@version",
    "task": "the task: the second part of a model's name",
    "alias": "the alias, such as `production`",
    "version": "number or alias of the version; default: the version in production, or else the newest",
    "model": "client/task, client/task@alias or client/task@version, for lines without a model",
    "Inference-Header-Content-Length": "number of bytes of the JSON, if binary data follows the JSON in the body",
}
"""Descriptions of the parameters in paths, queries and headers for the OpenAPI description, by parameter name."""

for _path, _of in (("/v1/{rest:path}", OPENAI), ("/v2/{rest:path}", KSERVE), ("/models/{rest:path}", HUB)):
    _route(None, _path, of=_of, scope=ANY_SCOPE)

UNKNOWN = _route(None, "/{rest:path}", of=AFINA, scope=ANY_SCOPE, repeats=False)
"""The route of all other paths, which are answered with 404 if the request has a valid key."""

_BY_HEAD: defaultdict[str, list[Route]] = defaultdict(list)
for _one in ROUTES:
    for _path in _one.paths:
        _BY_HEAD[_path.split("/")[1]].append(_one)


def route_of(path: str) -> Route:
    """Return the route of a request's path.

    A path with an additional `/` at its end needs the same scope as the path without it, and is answered with 404.
    """
    bare = path.rstrip("/") or path
    for route in _BY_HEAD.get(bare.partition("/")[2].partition("/")[0], ()):
        if route.match(bare) is not None and (bare == path or route.scope is not None):
            return route
    return UNKNOWN


def model_of(path: str) -> str | None:
    """Return the model that a request's path names, as `client/task`; None: the path names no model."""
    found = route_of(path).match(path) or {}
    if "client" in found:
        return f"{found['client']}/{found['task']}"
    return "/".join(found["id"].split("/")[:2]) if found.get("id", "").count("/") else None
