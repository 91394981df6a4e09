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
import socket
import threading
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from afina import file_io, meter
from afina.errors import AfinaError, CorruptAdapter
from afina.studio import problems
from afina.studio.folder import StudioFolder

LEAST = 8
"""The least number of characters of a password."""

TRIES, PAUSE = 5, 60.0
"""Wrong passwords of one address after which every password of it is refused for PAUSE seconds."""

MOST_SESSIONS = 50
"""Browsers that stay signed in; the oldest is signed out first."""

SESSION_DAYS = 90
"""Days after which a browser has to sign in again."""

MOST_COOKIES = 8
"""Cookies of the studio's name that are looked at in a request; a browser sends one."""

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
    """The tokens, sessions and password of a studio."""

    folder: StudioFolder
    host: str
    port: int
    token: str = field(default_factory=lambda: secrets.token_urlsafe(24))
    _tried: dict[str, list[float]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def local(self) -> bool:
        return is_local(self.host)

    def check_guarded(self) -> None:
        """Raise Refused if other machines can reach the studio and it has no password."""
        if not self.local and _kept_password(self.folder) is None:
            raise problems.PASSWORD_MISSING(host=self.host, folder=self.folder.root)

    @property
    def cookie(self) -> str:
        """The name of the cookie; browsers send cookies to all ports of a host, so the name has the port."""
        return f"afina-studio-{self.port}"

    @property
    def address(self) -> str:
        """The address of the studio, without a token."""
        shown = socket.gethostname() if self.host in _EVERY else self.host
        return f"http://{f'[{shown}]' if ':' in shown else shown}:{self.port}/"

    @property
    def _names(self) -> set[str]:
        """The names of hosts that mean this studio, in lower case."""
        if self.local:
            return {"localhost", "127.0.0.1", "::1", self.host.lower()}
        machine = socket.gethostname().lower()
        return {"localhost", self.host.lower(), machine, f"{machine}.local"}

    @property
    def _sessions(self) -> Path:
        return self.folder.own / "sessions.json"

    def check_host(self, given: str) -> None:
        """Raise Refused unless a request is for this studio: a name may be bound to this address anew by anybody."""
        name, _, port = given.rpartition(":")
        name = (name if port.isdecimal() else given).lower()
        name = name[1:-1] if name.startswith("[") and name.endswith("]") else name
        if name not in self._names and (self.local or not _is_number(name)):
            raise problems.HOST_REFUSED(found=given, expected=self.address)

    def check_origin(self, origin: str | None, host: str, scheme: str) -> None:
        """Raise Refused for a change that a page of another address asks for. Browsers name the origin of each one."""
        if (origin or "").lower() != f"{scheme}://{host}".lower():
            raise problems.ORIGIN_REFUSED(found=origin or "no origin")

    def open_session(self) -> str:
        """Return a new session's secret; only its digest is kept. Raises CannotWrite."""
        secret = secrets.token_urlsafe(32)
        with self._lock:
            kept = {**self._opened(), _digest(secret): datetime.now(UTC).timestamp()}
            latest = dict(sorted(kept.items(), key=lambda one: one[1])[-MOST_SESSIONS:])
            file_io.write_text(self._sessions, json.dumps({"sessions": latest}))
        return secret

    def _opened(self) -> dict[str, float]:
        """When each session was opened, in seconds since 1970, by the digest of its secret."""
        found: object = {}
        with suppress(CorruptAdapter):
            found = file_io.read_object(self._sessions).get("sessions")
        if not isinstance(found, dict):
            return {}
        oldest = datetime.now(UTC).timestamp() - SESSION_DAYS * 86400
        return {key: at for key, at in found.items() if isinstance(at, float) and at > oldest}

    def has_session(self, cookies: str) -> bool:
        """Return whether a request's header `Cookie` has the secret of a session; malformed cookies are left out."""
        given = self._digests(cookies)
        known = self._opened() if given else {}
        return any(_among(one, known) for one in given)

    def _digests(self, cookies: str) -> list[str]:
        parts = (part.strip().partition("=") for part in cookies.split(";"))
        return [_digest(value) for name, _, value in parts if name == self.cookie][:MOST_COOKIES]

    def close_sessions(self, cookies: str) -> None:
        """Sign a browser out, by a request's header `Cookie`. Raises CannotWrite."""
        given = self._digests(cookies)
        with self._lock:
            kept = {key: at for key, at in self._opened().items() if key not in given}
            file_io.write_text(self._sessions, json.dumps({"sessions": kept}))

    def new_token(self) -> str:
        """Return a token for another browser; an earlier token no longer works."""
        self.token = secrets.token_urlsafe(24)
        return self.token

    def is_token(self, token: str) -> bool:
        """Return whether this is the token, and it was not used."""
        return bool(self.token) and hmac.compare_digest(_digest(token), _digest(self.token))

    def exchange(self, token: str) -> str:
        """Return a session's secret for the token, which works once. Raises Refused, or CannotWrite."""
        if not self.is_token(token):
            raise problems.TOKEN_USED()
        secret = self.open_session()
        self.token = ""
        return secret

    def check_password(self, password: str, sender: str = "") -> None:
        """Raise Refused for a wrong password.

        For any after too many wrong ones of the same sender, an address; they count before they are looked at.
        """
        now = meter.now()
        with self._lock:
            latest = {one: [at for at in times if now - at < PAUSE] for one, times in self._tried.items()}
            self._tried = {one: times for one, times in latest.items() if times}
            tried = self._tried.setdefault(sender, [])
            if len(tried) >= TRIES:
                raise problems.TOO_MANY_TRIES(seconds=max(1, round(PAUSE - (now - tried[0]))))
            tried.append(now)
        kept = _kept_password(self.folder)
        if kept is None or not hmac.compare_digest(_scrypt(password, kept[0]), kept[1]):
            raise problems.PASSWORD_WRONG()
        with self._lock:
            self._tried.pop(sender, None)


_EVERY = {"0.0.0.0", "::"}
"""Hosts that stand for all addresses of this machine."""


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
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def _among(one: str, known: Iterable[str]) -> bool:
    return any([hmac.compare_digest(one, each) for each in known])  # noqa: C419 - the time tells nothing of the place


def _scrypt(password: str, salt: bytes) -> bytes:
    return hashlib.scrypt(password.encode("utf-8", "surrogatepass"), salt=salt, **_SCRYPT)


def _password_file(folder: StudioFolder) -> Path:
    return folder.own / "password.json"


def _kept_password(folder: StudioFolder) -> tuple[bytes, bytes] | None:
    with suppress(CorruptAdapter, KeyError, TypeError, ValueError):
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


STATUS = {
    "studio.missing": 404,
    "studio.upload-stalled": 408,
    "studio.run-state": 409,
    "studio.upload-too-large": 413,
    "studio.tries-exhausted": 429,
    "studio.ends": 503,
    "studio.connections-full": 503,
}
"""HTTP status by the code of an error; others by class (`status_of`)."""


def status_of(error: AfinaError) -> int:
    """Return the HTTP status of an answer that says this error."""
    if error.code in STATUS:
        return STATUS[error.code]
    names = {one.__name__ for one in type(error).__mro__}
    by_class = {"Refused": 403, "NotFound": 404, "Busy": 409, "Conflict": 409, "CannotWrite": 507}
    return next((status for name, status in by_class.items() if name in names), 422)
