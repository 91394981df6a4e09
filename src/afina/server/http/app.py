"""App: all routes behind the gate."""

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
from afina.server.http.bodies import Body
from afina.server.http.described import schemas
from afina.server.http.desk import Desk
from afina.server.http.gate import Gate, told
from afina.server.http.page import routes as page
from afina.server.http.protocols import hub, kserve, native, tei, vllm
from afina.server.http.refusal import Refusal
from afina.server.http.routes import router

BODIES: list[type[Body]] = [tei.Predict, vllm.Classify, hub.Classification, kserve.Infer, native.Tasks, native.Alias]
BODIES += [page.Sentence]


class App(FastAPI):
    """With a description of bodies that FastAPI does not read itself."""

    def openapi(self) -> dict[str, Any]:
        """The description; made once."""
        if self.openapi_schema is None:
            made = get_openapi(title="afina", version=__version__, routes=self.routes)
            parts = made.setdefault("components", {})
            parts.setdefault("schemas", {}).update(schemas(BODIES))
            parts["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
            made["security"] = [{"key": []}]
            self.openapi_schema = made
        return self.openapi_schema


def make_app(core: Core) -> App:
    """An application, which starts the core with itself and closes it when it ends."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        core.start()
        app.state.desk = desk = Desk(core)
        try:
            yield
        finally:
            await asyncio.to_thread(core.close)
            desk.close()

    app = App(lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url="/openapi.json", redirect_slashes=False)
    app.state.core = core
    app.include_router(router)
    app.include_router(page.router)
    app.add_middleware(Gate, core=core)
    for kind in (Refusal, AfinaError, TimeoutError):
        app.add_exception_handler(kind, _refused)
    app.add_exception_handler(HTTPException, _by_starlette)
    return app


async def _refused(request: Request, error: Exception) -> Response:
    refusal = Refusal.of(error)
    request.app.state.core.metrics.refused.labels(refusal.kind).inc()
    return told(request.url.path, refusal)


async def _by_starlette(request: Request, error: Exception) -> Response:
    """No such path, or no such method there."""
    assert isinstance(error, HTTPException)
    kind = {404: "not_found", 405: "no_such_method"}.get(error.status_code, "invalid")
    path = request.url.path
    if error.status_code == 404 and path != "/":
        hint = f" Leave out the last `/`: {path.rstrip('/')[:80]}." if path.endswith("/") else ""
        return told(path, Refusal(404, kind, f"No such path.{hint}", dict(error.headers or {})))
    return told(request.url.path, Refusal(error.status_code, kind, str(error.detail), dict(error.headers or {})))
