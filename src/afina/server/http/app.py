"""The FastAPI application: the routes of all protocols, behind the middleware `gate.py`."""

from __future__ import annotations

import asyncio
import pkgutil
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from importlib import import_module
from types import ModuleType
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.openapi.utils import get_openapi
from starlette.exceptions import HTTPException

from afina import __version__
from afina.errors import AfinaError
from afina.server import protocols, routes
from afina.server.core import Core
from afina.server.http.calls import RequestPool, refusal_of
from afina.server.http.gate import Gate
from afina.server.http.refusals import Refusal, error_response
from afina.server.http.routing import body_schemas
from afina.server.json_shapes import TEXT
from afina.server.routes import DESCRIPTION, route_of

PROTOCOLS: Sequence[ModuleType] = [
    module
    for found in pkgutil.iter_modules(protocols.__path__, f"{protocols.__name__}.")
    if hasattr(module := import_module(found.name), "router")
]
"""The modules of `afina.server.protocols` that answer routes."""


class App(FastAPI):
    """A FastAPI application that adds the schemas of request bodies, which afina parses, to the OpenAPI description."""

    def openapi(self) -> dict[str, Any]:
        if self.openapi_schema is None:
            made = get_openapi(title="afina", version=__version__, routes=self.routes)
            paths = [path.replace(":path", "") for one in routes.ROUTES for path in one.paths]
            made["paths"] = {path: made["paths"][path] for path in paths if path in made["paths"]}
            for operation in (one for methods in made["paths"].values() for one in methods.values()):
                for parameter in operation.get("parameters", []):
                    parameter["description"] = routes.PARAMETERS[parameter["name"]]
                    if parameter["in"] == "path":
                        parameter["schema"] = (
                            TEXT  # FastAPI takes the type of a function with and without the parameter
                        )
            parts = made.setdefault("components", {})
            bodies = [body for one in PROTOCOLS for body in one.router.bodies]
            parts.setdefault("schemas", {}).update(body_schemas(bodies))
            parts["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
            made["security"] = [{"key": []}]
            self.openapi_schema = made
        return self.openapi_schema


def make_app(core: Core) -> App:
    """Return the ASGI application of a core, which starts the core at startup and closes it at shutdown."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        core.start()
        app.state.pool = pool = RequestPool(core)
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
    """Return the error response for an unknown path, or for a method that the path does not support."""
    assert isinstance(error, HTTPException)
    path, kind = request.url.path, {405: "no_such_method"}.get(error.status_code, "invalid")
    methods = {str(one.method) for one in routes.ROUTES if one.method and one.match(path) is not None}
    allowed = {"Allow": ", ".join(sorted(methods | ({"HEAD"} if "GET" in methods else set())))}
    refusal = Refusal(error.status_code, kind, str(error.detail), allowed if error.status_code == 405 else {})
    return error_response(route_of(path), Refusal.of_path(path) if error.status_code == 404 else refusal)
