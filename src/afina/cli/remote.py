"""Remote: servers that are asked over HTTP. Imported by the commands that ask, for it takes a while."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import quote
from urllib.request import HTTPRedirectHandler, Request, build_opener

from afina.errors import InvalidName, NotFound, Refused

PATIENCE = 30.0
"""Seconds for a server's answer."""

MOST = 1 << 20
"""Bytes of one."""


class _Stay(HTTPRedirectHandler):
    """The key goes where it was meant to go."""

    def redirect_request(self, *_: Any) -> None:
        """None: what redirects is an error."""


def shadows(name: str, servers: Sequence[str], key: str) -> Sequence[Mapping[str, Any]]:
    """What each server says of a name: objects with what `Tally.of` takes.

    Raises NotFound for one that does not answer, Refused for one that refuses, InvalidName for no key or address.
    """
    if not key.isascii() or not key.isprintable():
        raise InvalidName(
            "the key: found letters that no key has. Expected what `afina keys create` printed.", code="key.invalid"
        )
    return [_of(server, f"{server.rstrip('/')}/shadows/{quote(name)}", key) for server in servers]


def _of(server: str, url: str, key: str) -> Mapping[str, Any]:
    if not server.startswith(("http://", "https://")):
        raise InvalidName(
            f"{server}: is no address of a server. Expected one such as http://127.0.0.1:8000.",
            code="server.address-malformed",
            server=server,
        )
    try:
        with build_opener(_Stay).open(
            Request(url, headers={"Authorization": f"Bearer {key}"}), timeout=PATIENCE
        ) as got:
            found = json.loads(got.read(MOST))
    except HTTPError as error:
        with error:
            raise Refused(
                f"{server}: {_why(error)} (status {error.code}).",
                code="server.refused",
                server=server,
                status=error.code,
            ) from None
    except (URLError, HTTPException, OSError, ValueError) as error:
        raise NotFound(
            f"{server}: no answer of a server ({getattr(error, 'reason', error)}).",
            code="server.unreachable",
            server=server,
        ) from None
    if not isinstance(found, dict) or not {"name", "current", "shadow", "state", "problem"} <= found.keys():
        raise NotFound(
            f"{server}: its answer is none of a server of afina's.", code="server.unreachable", server=server
        )
    return found


def _why(error: HTTPError) -> str:
    try:
        return str(json.loads(error.read(MOST))["error"]).rstrip(".")
    except (ValueError, KeyError, TypeError, OSError):
        return "it refuses"
