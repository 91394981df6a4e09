"""Access: who may use a studio. An ASGI middleware before all pages.

The address that `afina studio` prints has a token, which works once: it becomes a cookie, and the page moves to an
address without it. A studio that other machines can reach asks for a password instead. Requests for another host (a
name that was bound to this address anew) and changes that another page asks for are refused. The module does not know
what a page shows.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import ipaddress
import json
import secrets
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from http.cookies import CookieError, SimpleCookie
from pathlib import Path
from urllib.parse import urlsplit

from afina import file_io, meter
from afina.errors import AfinaError, CorruptAdapter
from afina.studio import problems
from afina.studio.folder import StudioFolder

LEAST = 8
"""The least number of characters of a password."""

TRIES, PAUSE = 5, 60.0
"""Wrong passwords after which every password is refused for PAUSE seconds."""

MOST_SESSIONS = 50
"""Browsers that stay signed in; the oldest is signed out first."""

_SCRYPT = {"n": 2**14, "r": 8, "p": 1}
"""The cost parameters that the standard library's documentation names for interactive logins: 16 MiB, some 50 ms."""

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "style-src-attr 'unsafe-inline'; connect-src 'self'; img-src data:; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'",
    "Referrer-Policy": "same-origin",  # with `no-referrer`, browsers send `Origin: null` with forms
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
"""Headers of every answer: no script, style or image of another address, no embedding. Plots of matplotlib have style
attributes, which load nothing."""


@dataclass
class Access:
    """The tokens, sessions and password of a studio.

    Attributes:
        host, port: Where the studio listens.
        local: Whether only this machine can reach the studio.
    """

    folder: StudioFolder
    host: str
    port: int
    token: str = field(default_factory=lambda: secrets.token_urlsafe(24))
    _wrong: list[float] = field(default_factory=list)

    @property
    def local(self) -> bool:
        return is_local(self.host)

    @property
    def cookie(self) -> str:
        """The name of the cookie; browsers send cookies to all ports of a host, so the name has the port."""
        return f"afina-studio-{self.port}"

    @property
    def address(self) -> str:
        """The address of the studio, without a token."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}/"

    @property
    def _sessions(self) -> Path:
        return self.folder.own / "sessions.json"

    def check_host(self, given: str) -> None:
        """Raise Refused unless a request is for this studio: a name may be bound to this address anew by anybody."""
        name, _, port = given.rpartition(":")
        name = (name if port.isdecimal() else given).strip("[]").lower()
        known = {"localhost", "127.0.0.1", "::1", self.host.lower()} if self.local else {self.host.lower()}
        if name not in known and (self.local or not _is_number(name)):
            raise problems.HOST_REFUSED(found=given, expected=self.address)

    def check_origin(self, origin: str | None, host: str, scheme: str) -> None:
        """Raise Refused for a change that a page of another address asks for. Browsers name the origin of each one."""
        found = urlsplit(origin or "")
        if (found.scheme, found.netloc) != (scheme, host):
            raise problems.ORIGIN_REFUSED(found=origin or "no origin")

    def open_session(self) -> str:
        """Return a new session's secret; only its digest is kept."""
        secret = secrets.token_urlsafe(32)
        kept = [*self._digests(), _digest(secret)][-MOST_SESSIONS:]
        file_io.write_text(self._sessions, json.dumps({"sessions": kept}))
        return secret

    def _digests(self) -> list[str]:
        with suppress(CorruptAdapter):
            return [str(one) for one in file_io.read_object(self._sessions).get("sessions", [])]
        return []

    def has_session(self, cookies: str) -> bool:
        """Return whether a request's header `Cookie` has the secret of a session."""
        parsed: SimpleCookie = SimpleCookie()
        with suppress(CookieError):
            parsed.load(cookies)
        given = parsed.get(self.cookie)
        return given is not None and _among(_digest(given.value), self._digests())

    def exchange(self, token: str) -> str:
        """Return a session's secret for the token, which works once. Raises Refused."""
        if not self.token or not hmac.compare_digest(token.encode(), self.token.encode()):
            raise problems.TOKEN_USED()
        self.token = ""
        return self.open_session()

    def check_password(self, password: str) -> None:
        """Raise Refused for a wrong password, and for any password after too many wrong ones."""
        now = meter.now()
        self._wrong = [at for at in self._wrong if now - at < PAUSE]
        if len(self._wrong) >= TRIES:
            raise problems.TOO_MANY_TRIES(seconds=round(PAUSE - (now - self._wrong[0])))
        kept = _kept_password(self.folder)
        if kept is None or not hmac.compare_digest(_scrypt(password, kept[0]), kept[1]):
            self._wrong.append(now)
            raise problems.PASSWORD_WRONG()
        self._wrong = []


def is_local(host: str) -> bool:
    """Return whether only this machine can reach a server that listens at `host`."""
    if host.lower() == "localhost":
        return True
    return _is_number(host) and ipaddress.ip_address(host).is_loopback


def _is_number(name: str) -> bool:
    """Whether a host is written as a number, which no name can be bound to."""
    with suppress(ValueError):
        ipaddress.ip_address(name)
        return True
    return False


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def _among(one: str, known: Iterable[str]) -> bool:
    return any([hmac.compare_digest(one, each) for each in known])  # noqa: C419 - the time tells nothing of the place


def _scrypt(password: str, salt: bytes) -> bytes:
    return hashlib.scrypt(password.encode("utf-8", "surrogatepass"), salt=salt, **_SCRYPT)


def _password_file(folder: StudioFolder) -> Path:
    return folder.own / "password.json"


def has_password(folder: StudioFolder) -> bool:
    """Return whether a password was set for a studio's folder."""
    return _kept_password(folder) is not None


def _kept_password(folder: StudioFolder) -> tuple[bytes, bytes] | None:
    with suppress(CorruptAdapter, KeyError, ValueError):
        found = file_io.read_object(_password_file(folder))
        return base64.b64decode(found["salt"]), base64.b64decode(found["scrypt"])
    return None


def set_password(folder: StudioFolder, password: str) -> None:
    """Keep the scrypt hash of a password, and sign out every browser. Raises InvalidData for a short password."""
    if len(password) < LEAST:
        raise problems.PASSWORD_SHORT(least=LEAST, found=len(password))
    salt = secrets.token_bytes(16)
    content = {
        "salt": base64.b64encode(salt).decode(),
        "scrypt": base64.b64encode(_scrypt(password, salt)).decode(),
    }
    file_io.write_text(_password_file(folder), json.dumps(content))
    (folder.own / "sessions.json").unlink(missing_ok=True)


STATUS = {"studio.missing": 404, "studio.run-state": 409, "studio.upload-too-large": 413}
"""HTTP status by the code of an error; others by class (`status_of`)."""


def status_of(error: AfinaError) -> int:
    """Return the HTTP status of an answer that says this error."""
    if error.code in STATUS:
        return STATUS[error.code]
    names = {one.__name__ for one in type(error).__mro__}
    by_class = {"Refused": 403, "NotFound": 404, "Busy": 409, "Conflict": 409, "CannotWrite": 507}
    return next((status for name, status in by_class.items() if name in names), 422)
