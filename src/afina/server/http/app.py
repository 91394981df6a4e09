"""The FastAPI application: the routes of all protocols, behind the gate. Knows no answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.openapi.utils import get_openapi
from starlette.exceptions import HTTPException

from afina import __version__
from afina.errors import AfinaError
from afina.server.core import Core
from afina.server.http.calls import RequestPool, refusal_of
from afina.server.http.gate import Gate
from afina.server.http.refusals import Refusal, error_response
from afina.server.http.routing import body_schemas
from afina.server.protocols import health, huggingface, keys, kserve, native, openai, page, vllm
from afina.server.routes import DESCRIPTION, route_of

PROTOCOLS = (huggingface, vllm, kserve, health, native, openai, page, keys)
"""Modules with a `router`, in the order of the description."""

PARAMETERS = {
    "client": "the client: the first part of a model's name",
    "key": "id of the key",
    "message": "reason, kept in the audit log for ever",
    "id": "client/task, client/task@alias or client/task@version",
    "task": "the task: the second part of a model's name",
    "alias": "the alias, such as `production`",
    "version": "number or alias of the version; default: the version in production, or else the newest",
    "model": "client/task, client/task@alias or client/task@version, for requests and lines without a model",
    kserve.HEADER_LENGTH: "number of bytes of the JSON, if binary data follows the JSON in the body",
}
"""Descriptions of the parameters in paths and queries, by name."""


class App(FastAPI):
    """A FastAPI application that also describes the request bodies, which FastAPI itself does not read."""

    def openapi(self) -> dict[str, Any]:
        if self.openapi_schema is None:
            made = get_openapi(title="afina", version=__version__, routes=self.routes)
            for operation in (one for methods in made["paths"].values() for one in methods.values()):
                for parameter in operation.get("parameters", []):
                    parameter["description"] = PARAMETERS[parameter["name"]]
            parts = made.setdefault("components", {})
            bodies = [body for one in PROTOCOLS for body in one.router.bodies]
            parts.setdefault("schemas", {}).update(body_schemas(bodies))
            parts["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
            made["security"] = [{"key": []}]
            self.openapi_schema = made
        return self.openapi_schema


def make_app(core: Core) -> App:
    """Return an application. The application starts the core when it starts, and closes the core when it ends."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        core.start()
        app.state.pool = pool = RequestPool(core)
        app.state.text_tools = openai.TextTools(core.engine.backbone.tokenizer)
        try:
            yield
        finally:
            await asyncio.to_thread(core.close)
            pool.close()

    app = App(
        lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=DESCRIPTION.paths[0], redirect_slashes=False
    )
    app.state.core = core
    for protocol in PROTOCOLS:
        app.include_router(protocol.router)
    app.add_middleware(Gate, core=core)
    for kind in (Refusal, AfinaError, TimeoutError):
        app.add_exception_handler(kind, _refused)
    app.add_exception_handler(HTTPException, _by_starlette)
    return app


async def _refused(request: Request, error: Exception) -> Response:
    core: Core = request.app.state.core
    refusal = refusal_of(core, "request", error)
    core.metrics.refused.labels(refusal.kind).inc()
    return error_response(route_of(request.url.path), refusal)


async def _by_starlette(request: Request, error: Exception) -> Response:
    """Answer a request for an unknown path, or with a method that the path does not support."""
    assert isinstance(error, HTTPException)
    kind = {404: "not_found", 405: "no_such_method"}.get(error.status_code, "invalid")
    path, message = request.url.path, str(error.detail)
    if error.status_code == 404 and path != "/":
        hint = f" Leave out the last `/`: {path.rstrip('/')[:80]}." if path.endswith("/") else ""
        message = f"No such path.{hint}"
    return error_response(route_of(path), Refusal(error.status_code, kind, message, dict(error.headers or {})))
