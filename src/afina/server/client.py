"""ServerClient: a server, asked over HTTP with a key. The module starts without torch and FastAPI."""

from __future__ import annotations

import json
from collections.abc import Mapping
from http.client import HTTPException, HTTPResponse
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import quote
from urllib.request import HTTPRedirectHandler, ProxyHandler, Request, build_opener

from afina.server import problems

PATIENCE = 30.0
"""Seconds for a server's answer."""

MOST = 1 << 20
"""The largest number of bytes that are read of a server's answer."""


class _NoRedirects(HTTPRedirectHandler):
    """Refuse redirects, so that the key is sent only to the given address."""

    def redirect_request(self, *_: Any) -> None:
        """Return None, which makes a redirect an error."""


class ServerClient:
    """A server at an address, such as http://127.0.0.1:8000, and a key of one of its clients.

    All methods raise NotFound if the server does not answer, and Refused if the server refuses the request.
    """

    def __init__(self, server: str, key: str, patience: float = PATIENCE, proxies: bool = True) -> None:
        """Raises InvalidName for a malformed key or address. `proxies`: variables such as `http_proxy` apply."""
        if not key.isascii() or not key.isprintable():
            raise problems.KEY_MALFORMED()
        if not server.startswith(("http://", "https://")):
            raise problems.SERVER_ADDRESS_MALFORMED(server=server)
        self.server, self._key, self._patience = server, key, patience
        self._opener = build_opener(_NoRedirects, *([] if proxies else [ProxyHandler({})]))

    def open(self, path: str, body: Mapping[str, Any] | None = None) -> HTTPResponse:
        """Return the response to a request, for the caller to read and close: a POST if there is a body, else a GET."""
        headers = {"Authorization": f"Bearer {self._key}", "Content-Type": "application/json"}
        data = None if body is None else json.dumps(body).encode()
        try:
            found: HTTPResponse = self._opener.open(
                Request(self.server.rstrip("/") + path, data, headers), timeout=self._patience
            )
        except HTTPError as error:
            with error:
                raise problems.SERVER_REFUSES(reason=_why(error), server=self.server, status=error.code) from None
        except (URLError, HTTPException, OSError, ValueError) as error:
            raise problems.NO_ANSWER(reason=getattr(error, "reason", error), server=self.server) from None
        return found

    def read(self, path: str, body: Mapping[str, Any] | None = None) -> bytes:
        with self.open(path, body) as got:
            try:
                return got.read(MOST)
            except (HTTPException, OSError) as error:
                raise problems.NO_ANSWER(reason=error, server=self.server) from None

    def ask(self, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        try:
            found = json.loads(self.read(path, body))
        except ValueError as error:
            raise problems.NO_ANSWER(reason=error, server=self.server) from None
        if not isinstance(found, dict):
            raise problems.NO_ANSWER(reason="another answer", server=self.server)
        return found

    def shadow(self, name: str) -> dict[str, Any]:
        """Return the state and the counts of the shadow version of a name, as `GET /shadows/{client}/{task}`."""
        found = self.ask(f"/shadows/{quote(name)}")
        if not {"name", "current", "shadow", "state", "problem"} <= found.keys():
            raise problems.NO_ANSWER(reason="another answer", server=self.server)
        return found

    def drift(self, name: str, alias: str, days: int) -> dict[str, Any]:
        """Return the counts of the answers of the version with an alias, as `GET /drift/{client}/{task}/{alias}`."""
        return self.ask(f"/drift/{quote(name)}/{quote(alias, safe='')}?days={days}")


def _why(error: HTTPError) -> str:
    """Return the reason of a refusal without its full stop, in whichever protocol the server wrote it."""
    try:
        said = json.loads(error.read(MOST))["error"]
        return str(said["message"] if isinstance(said, dict) else said).rstrip(".")
    except (ValueError, KeyError, TypeError, OSError):
        return "the server refused the request"
