"""The studio's application: the routes of all pages behind the check of who asks, and the server that runs them."""

from __future__ import annotations

import asyncio
import os
import pkgutil
import signal
import socket
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from importlib import import_module
from types import FrameType

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from afina.errors import AfinaError
from afina.pages import html
from afina.server.connections import ADMIT, ConnectionLimit
from afina.server.settings import Places, Settings
from afina.server.sockets import bind, refusal
from afina.studio import pages, problems
from afina.studio.access import HEADERS, SESSION_DAYS, status_of
from afina.studio.forms import read_form
from afina.studio.option_labels import label
from afina.studio.page import Studio, error_answer, json_answer, path_of, render, studio_of, style

PAGES = [import_module(found.name) for found in pkgutil.iter_modules(pages.__path__, f"{pages.__name__}.")]
"""The modules of the pages, each with a `router`."""

OPEN = {"/static/style.css", "/static/script.js", "/login"}
"""Addresses that need no session."""

LOGIN_BYTES = 4096
"""The most bytes of the form with the password, which anybody can send."""

QUEUE = 2048
"""Connections that may wait to be accepted."""

CONNECTIONS = 512
"""Open connections. A browser has at most six."""

THREADS = 64
"""Functions of pages that run at once; some of them wait for a server."""

CLOSE_SECONDS = 2
"""Seconds within which open answers, such as downloads and uploads, have to end when the studio ends."""


class AccessMiddleware:
    """Refuses requests for another host, changes that another page asks for, and browsers that are not signed in."""

    def __init__(self, app: ASGIApp, studio: Studio) -> None:
        self._app, self._studio = app, studio

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        begun = False

        async def secured(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                others = [one for one in message["headers"] if one[0].lower() not in _HEADERS]
                message["headers"] = [*others, *_HEADERS.items()]
            await send(message)

        request = Request(scope, receive)
        try:
            answer = self._refusal(request)
        except AfinaError as error:
            answer = error_answer(request, error, inside=False)
        if not scope.get(ADMIT, lambda known: True)(known=answer is None and path_of(request) not in OPEN):
            answer = error_answer(request, problems.CONNECTIONS_FULL())
        try:
            await (answer or self._app)(scope, receive, secured)
        except asyncio.CancelledError:  # of uvicorn: an upload or a download did not end in CLOSE_SECONDS
            if not self._studio.closing:
                raise
            if not begun:
                await error_answer(request, problems.STUDIO_ENDS())(scope, receive, secured)

    def _refusal(self, request: Request) -> Response | None:
        """Return the answer to a request that may not go on; None: it may. Raises Refused."""
        access, path, reads = self._studio.access, path_of(request), request.method in ("GET", "HEAD")
        host = request.headers.get("host", "")
        access.check_host(host)
        if not reads:
            access.check_origin(request.headers.get("origin"), host, request.url.scheme)
        token = request.query_params.get("token") if path == "/" and request.method == "GET" else None
        if access.has_session(request.headers.get("cookie", "")):
            if token is None:
                return None
            if access.is_token(token):  # the token works once, also where it was not needed
                access.token = ""
            return RedirectResponse("/", 303)
        if path in OPEN and not (path == "/login" and access.local):
            return None
        if token is not None:
            return _signed_in(self._studio, access.exchange(token))
        if not access.local and reads and not path.endswith(".json"):
            return RedirectResponse("/login", 303)
        raise problems.PASSWORD_ASKED() if not access.local else problems.SIGNED_OUT()


_HEADERS = {name.lower().encode(): value.encode() for name, value in HEADERS.items()}


def _signed_in(studio: Studio, secret: str) -> Response:
    answer = RedirectResponse("/", 303)
    answer.set_cookie(studio.access.cookie, secret, max_age=SESSION_DAYS * 86400, httponly=True, samesite="strict")
    return answer


async def _login(request: Request) -> Response:
    return HTMLResponse(render("login.html.j2", request))


async def _try_password(request: Request) -> Response:
    studio = studio_of(request)
    form = await read_form(request, studio.folder, LOGIN_BYTES)
    sender = request.client.host if request.client else ""
    try:
        await asyncio.to_thread(studio.access.check_password, form.get("password"), sender)
    except AfinaError as error:
        return HTMLResponse(render("login.html.j2", request, problem=error.said(label)), status_of(error))
    finally:
        form.drop()
    return _signed_in(studio, studio.access.open_session())


async def _sign_out(request: Request) -> Response:
    access = studio_of(request).access
    await asyncio.to_thread(access.close_sessions, request.headers.get("cookie", ""))
    answer = RedirectResponse("/" if access.local else "/login", 303)
    answer.delete_cookie(access.cookie)
    return answer


async def _style(request: Request) -> Response:
    return Response(style(), media_type="text/css")


async def _script(request: Request) -> Response:
    return Response(html.shared("script.js"), media_type="text/javascript")


def make_app(studio: Studio) -> ASGIApp:
    """Return the ASGI application, which carries out queued runs for as long as it runs."""

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(THREADS, "afina-studio"))
        studio.queue.start()
        try:
            yield
        finally:
            studio.closing = True
            await asyncio.to_thread(studio.queue.close)

    routes = [
        Route("/static/style.css", _style),
        Route("/static/script.js", _script),
        Route("/login", _login),
        Route("/login", _try_password, methods=["POST"]),
        Route("/login/out", _sign_out, methods=["POST"]),
        *(route for one in PAGES for route in one.router.routes),
    ]
    app = Starlette(routes=routes, lifespan=lifespan)
    app.state.studio = studio
    app.add_exception_handler(AfinaError, _said)
    app.add_exception_handler(HTTPException, _missing)
    app.add_exception_handler(Exception, _unforeseen)
    return AccessMiddleware(app, studio)


async def _said(request: Request, error: Exception) -> Response:
    assert isinstance(error, AfinaError)
    return error_answer(request, error)


async def _missing(request: Request, error: Exception) -> Response:
    return error_answer(request, problems.PAGE_MISSING())


async def _unforeseen(request: Request, error: Exception) -> Response:
    """Answer with a page where afina has a fault; uvicorn writes the traceback to standard error."""
    if path_of(request).endswith(".json"):
        return json_answer({"error": {"message": FAULT}}, 500)
    return HTMLResponse(render("problem.html.j2", request, problem=FAULT, inside=True), 500)


FAULT = (
    "This page has a fault. The terminal in which `afina studio` runs shows the fault: report it. The other pages work."
)


def listen(host: str, port: int) -> Sequence[socket.socket]:
    """Return sockets that listen at a host and a port. Raises NotFound, Busy or Refused, as `bind`."""
    sockets = bind(host, port)
    try:
        for one in sockets:
            one.listen(QUEUE)
    except OSError as error:
        for one in sockets:
            one.close()
        raise refusal(host, port, error) from None
    return sockets


class _Server(uvicorn.Server):
    """uvicorn's server; at a signal, live parts of open pages end first."""

    def __init__(self, config: uvicorn.Config, studio: Studio, listening: Callable[[], None]) -> None:
        super().__init__(config)
        self._studio, self._listening = studio, listening

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for listener in sockets or []:  # uvicorn's `backlog` also limits asyncio's accepts per turn; more may queue
            listener.listen(QUEUE)
        self._listening()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """End in good order; a second later at once, whatever a page waits for. Files are written atomically."""
        if not self._studio.closing:
            last = threading.Timer(CLOSE_SECONDS + 1, os._exit, (0,))
            last.daemon = True
            last.start()
        self._studio.closing = True
        self.force_exit, self.should_exit = self.should_exit, True


def server(studio: Studio, listening: Callable[[], None]) -> uvicorn.Server:
    """Return a server of the studio that has not been started. `listening` is called when it answers requests."""
    places = Places.of(CONNECTIONS)
    limit = ConnectionLimit(places, Settings.head_seconds)
    config = uvicorn.Config(
        make_app(studio),
        http=limit.protocol(),
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        backlog=places.accepted,
        timeout_graceful_shutdown=CLOSE_SECONDS,
    )
    return _Server(config, studio, listening)


def run(studio: Studio, sockets: Sequence[socket.socket], listening: Callable[[], None]) -> None:
    """Answer requests until SIGINT, SIGTERM or SIGHUP; open answers end within CLOSE_SECONDS."""
    os.umask(0o077)  # files of projects, and those of commands that the studio starts, are for this user only
    made = server(studio, listening)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # `nohup` lets the studio outlive its terminal
        signal.signal(signal.SIGHUP, made.handle_exit)
    made.run([*sockets])
