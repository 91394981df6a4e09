"""The server's health endpoints for load balancers, in several protocols, its metrics, and the answer at `/`."""

from __future__ import annotations

from fastapi import Response
from fastapi.responses import JSONResponse

from afina.server import routes
from afina.server.http.calls import Called
from afina.server.http.routing import ProtocolRouter
from afina.server.json_shapes import TEXT, YES_OR_NO, about, record
from afina.server.metrics import CONTENT_TYPE

_LIVE = record(live=about(YES_OR_NO, "whether the process is running"))
_READY = record(
    ready=about(YES_OR_NO, "whether the server answers requests and its store responds"),
    writes=about(YES_OR_NO, "whether aliases can be moved: false if the last write to the store failed"),
)
_HOME = record(
    description=about(TEXT, "path of the OpenAPI description of this server"),
    pages=about(TEXT, "command that shows the answers of served adapters in a browser"),
)

router = ProtocolRouter()


@router.answers_all(routes.LIVE, (200, "Yes.", _LIVE))
@router.answers_all(routes.KSERVE_LIVE, (200, "Yes.", _LIVE))
async def live(call: Called) -> Response:
    """Return status 200 if the server's process is running. Needs no key."""
    return JSONResponse({"live": True})


@router.answers_all(routes.VLLM_HEALTH, (200, "Yes.", None), (503, "No.", None))
async def health(call: Called) -> Response:
    """Return an empty response, with status 200 if the server can answer requests, else 503. Needs no key.

    The status of `/health` does not depend on whether the server's store responds.
    """
    return Response(status_code=200 if call.core.alive else 503)


@router.answers_all(routes.READY, (200, "Yes.", _READY), (503, "No.", _READY))
@router.answers_all(routes.KSERVE_READY, (200, "Yes.", _READY), (503, "No.", _READY))
async def ready(call: Called) -> Response:
    """Return status 200 if the server can answer requests and its store responds, else 503. Needs no key.

    The field `writes` does not change the status, because a server whose store has a full disk still answers.
    """
    is_ready = call.core.ready
    return JSONResponse({"ready": is_ready, "writes": call.core.writes.possible}, 200 if is_ready else 503)


@router.answers_all(routes.HOME, (200, "Where the API is described, and what has pages.", _HOME))
async def home(call: Called) -> Response:
    """Return where the description of the API is, and the command that shows pages in a browser. Needs no key."""
    return JSONResponse({"description": routes.DESCRIPTION.paths[0], "pages": "afina studio"})


@router.answers(routes.EXPOSITION, media="text/plain")
async def metrics(call: Called) -> Response:
    """Return the server's metrics in the text format of Prometheus. Needs a key with scope `metrics` or `admin`."""
    return Response(call.core.metrics.text(), media_type=CONTENT_TYPE)
