"""Blobs in a service: S3 and what speaks like it, Google Cloud Storage, Azure. Knows obstore, not what is kept.

Settings and credentials are read from the environment by obstore (AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, ...). obstore
tells most failures by the text of an error alone; no message of ours repeats that text, since an address may be signed
and an answer may quote a request.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import SplitResult, unquote, urlsplit

from afina import file_io
from afina.blobs import Blobs, LocalBlobs, StoredBlob, below, sweep_directories
from afina.errors import AfinaError, CannotWrite, CorruptStore, InvalidName, NotFound

if TYPE_CHECKING:
    from obstore.store import ObjectStore


TIMEOUT_S = 30.0
"""Seconds that a request may take, of a file at most PART at once."""

RETRIES = 4

PART = 5 << 20
"""Bytes. The smallest part that S3 takes, so that a slow line has most time for each."""

MOST_PARTS = 10_000
"""Of one file; S3 takes no more."""

AT_ONCE = 2
"""Parts under way at the same time: more of them share a slow line, and then each takes longer than it may."""

SCRATCH = "afina-blobs-"
"""What directories for files on their way are called."""

_EXPECTED = "Expected a directory, s3://bucket/prefix, gs://bucket/prefix or az://container/prefix."
_SWITCHES = ("allow_http", "allow_invalid_certificates")
_PLACE = re.compile(r"sha256-[0-9a-f]{64}-[0-9a-f]{8}", re.ASCII)


def open_blobs(address: str) -> Blobs:
    """What keeps files at an address: a directory or file:// on this machine, anything else with :// in a service.

    Neither asks whether it is there. Raises InvalidName, and NotFound where obstore is not installed.
    """
    if "://" not in address:
        return LocalBlobs(Path(address))
    parts = _split(address)
    if parts.scheme != "file":
        return RemoteBlobs.open(address)
    if parts.netloc not in ("", "localhost") or len(parts.path) < 2 or parts.query or parts.fragment:
        raise InvalidName(
            f"{_shown(address)!r} names no directory of this machine. Expected file:///path/to/it.",
            code="blobs.address-malformed",
            address=_shown(address),
        )
    return LocalBlobs(Path(unquote(parts.path)))


class RemoteBlobs(Blobs):
    """Under a prefix of a bucket.

    A request is given up after `timeout_s` seconds, and asked again at most `retries` times, for as long as all of it
    has taken less than 2 * `timeout_s`: so whoever waits for a service that does not answer waits at most three times
    that.
    """

    def __init__(self, store: ObjectStore, url: str, timeout_s: float = TIMEOUT_S) -> None:
        self.url = url
        self._store = store
        self._timeout_s = timeout_s

    @classmethod
    def open(cls, url: str, *, timeout_s: float = TIMEOUT_S, retries: int = RETRIES) -> Self:
        """Of s3://bucket/prefix, gs://, az://, or memory:///, which is new and empty. Asks the service nothing.

        Raises InvalidName; NotFound where obstore is not installed, or cannot read the settings of the environment.
        """
        parts = _split(url)
        if parts.scheme not in VARIABLES or (not parts.hostname and parts.scheme != "memory"):
            raise InvalidName(
                f"{_shown(url)!r} is no address of a service. {_EXPECTED}",
                code="blobs.address-malformed",
                address=_shown(url),
            )
        if "@" in parts.netloc or parts.query or parts.fragment:
            raise InvalidName(
                f"{_shown(url)!r}: an address holds no credentials and no options, since it is written into logs. "
                f"Set them in the environment: {VARIABLES[parts.scheme]}.",
                code="blobs.address-malformed",
                address=_shown(url),
            )
        try:
            from obstore.store import from_url
        except ImportError:
            raise NotFound(
                f"{url}: obstore is not installed, and without it no service can be asked. Install it: "
                "pip install 'afina[store]'",
                code="extra.missing",
                extra="store",
                package="obstore",
            ) from None
        options: dict[str, Any] = {
            "config": _config(parts.scheme),
            "client_options": {"timeout": timedelta(seconds=timeout_s)} | dict.fromkeys(_switches(), True),
            "retry_config": {"max_retries": retries, "retry_timeout": timedelta(seconds=2 * timeout_s)},
        }
        with _settings(url):
            store = from_url(url, **options)
        return cls(store, url.rstrip("/"), timeout_s)

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """In the system's directory for temporary files (TMPDIR)."""
        with file_io.writing(tempfile.gettempdir()):
            made = Path(tempfile.mkdtemp(prefix=SCRATCH))
        try:
            yield made
        finally:
            shutil.rmtree(made, ignore_errors=True)

    def put(self, place: str, file: Path) -> None:
        """See `Blobs`; in parts, which the service makes one of once all are there."""
        import obstore

        size = file.stat().st_size
        part = max(PART, -(-size // MOST_PARTS))
        with file.open("rb") as content, self._asking(writes=True):
            _heeding(obstore.put, self._store, below(place), content, chunk_size=part, max_concurrency=AT_ONCE)

    def size(self, place: str) -> int | None:
        """See `Blobs`."""
        import obstore

        try:
            with self._asking():
                size: int = _heeding(obstore.head, self._store, below(place))["size"]
                return size
        except FileNotFoundError:
            return None

    @contextmanager
    def file(self, place: str) -> Iterator[Path]:
        """See `Blobs`; a copy, which is gone after the block. Raises CannotWrite where there is no room for it."""
        with self.scratch() as directory:
            path = directory / place
            try:
                with file_io.writing(path):
                    self._fetch(place, path)
            except FileNotFoundError:
                raise CorruptStore(
                    f"{self.url}/{below(place)}: the file is missing. `afina store verify` says what it belongs to.",
                    code="store.blobs-missing",
                    path=f"{self.url}/{below(place)}",
                ) from None
            yield path

    def _fetch(self, place: str, path: Path) -> None:
        """Piece by piece, so that each has its own time. Raises FileNotFoundError where nothing lies there."""
        import obstore

        with path.open("wb") as target:
            with self._asking():
                found = _heeding(obstore.get, self._store, below(place))
                size = found.meta["size"]
                if size <= PART:
                    target.write(_heeding(found.bytes))
            for start in range(0, size if size > PART else 0, PART):
                with self._asking():
                    end = min(start + PART, size)
                    piece = _heeding(obstore.get_range, self._store, below(place), start=start, end=end)
                target.write(piece)
            if target.tell() != size:
                raise CorruptStore(
                    f"{self.url}/{below(place)}: {target.tell():,} bytes came, expected {size:,}. Try again; if it "
                    "comes to the same, something between here and the service cuts its answers short.",
                    code="store.blobs-missing",
                    path=f"{self.url}/{below(place)}",
                    bytes=target.tell(),
                    expected=size,
                )

    def remove(self, place: str) -> None:
        """See `Blobs`."""
        import obstore

        try:
            with self._asking(writes=True):
                _heeding(obstore.delete, self._store, below(place))
        except FileNotFoundError:
            return

    def all(self) -> Iterator[StoredBlob]:
        """See `Blobs`. The age is from the service's clock to this machine's, and not below zero."""
        import obstore

        pages = iter(obstore.list(self._store))
        while True:
            with self._asking():
                page = _heeding(next, pages, None)
            if page is None:
                return
            now = datetime.now(UTC)
            for each in page:
                directory, _, place = each["path"].rpartition("/")
                if _PLACE.fullmatch(place) and below(place) == f"{directory}/{place}":
                    yield StoredBlob(place, each["size"], max(0.0, (now - each["last_modified"]).total_seconds()))

    def sweep(self, age: float) -> None:
        """See `Blobs`; on this machine. Parts of an upload that broke off are seen by the service alone, which removes
        them by its own rules.
        """
        sweep_directories(Path(tempfile.gettempdir()).glob(f"{SCRATCH}*"), age)

    @contextmanager
    def _asking(self, *, writes: bool = False) -> Iterator[None]:
        """Say in our words what a request in the block came to; FileNotFoundError is left to the caller."""
        from obstore.exceptions import BaseError

        try:
            yield
        except (FileNotFoundError, BaseError) as error:
            if isinstance(error, FileNotFoundError) and _code(str(error)) not in _NO_BUCKET:
                raise
            raise _failure_of(self.url, error, self._timeout_s, writes=writes) from None
        except BaseException as error:
            if not _panicked(error):
                raise
            raise _unusable_settings(self.url) from None


def _heeding(function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """What a function of obstore's comes to, in a thread of its own: while this one waits, it hears Ctrl-C.

    Within such a function it would be heard only when the service has answered, or been given up.
    """
    outcome: Future[Any] = Future()

    def work() -> None:
        try:
            outcome.set_result(function(*arguments, **options))
        except BaseException as error:  # noqa: BLE001 - it is raised in the thread that waits
            outcome.set_exception(error)

    threading.Thread(target=work, daemon=True).start()
    return outcome.result()


def _split(address: str) -> SplitResult:
    try:
        return urlsplit(address)
    except ValueError:
        raise InvalidName(
            f"{_shown(address)!r} is no address. {_EXPECTED}", code="blobs.address-malformed", address=_shown(address)
        ) from None


def _switches() -> list[str]:
    """Those of the environment that obstore no longer reads once it is told anything of the client."""
    true = ("1", "true", "yes", "on")
    return [switch for switch in _SWITCHES if os.environ.get(f"AWS_{switch.upper()}", "").lower() in true]


def _config(scheme: str) -> dict[str, str]:
    """What obstore is told beyond the environment."""
    if scheme == "s3":
        # Files are removed one at a time, for which every service has the plain request.
        return {"disable_bulk_delete": "true"}
    if scheme == "az":
        # obstore 0.12 panics where it has the account's name from the environment alone.
        name = os.environ.get("AZURE_STORAGE_ACCOUNT_NAME")
        return {"account_name": name} if name else {}
    return {}


@contextmanager
def _settings(url: str) -> Iterator[None]:
    """Say in our words that obstore cannot do with what the environment holds."""
    from obstore.exceptions import BaseError

    try:
        yield
    except BaseException as error:
        if isinstance(error, BaseError | ValueError) or _panicked(error):
            raise _unusable_settings(url) from None
        raise


VARIABLES = {
    "s3": "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION, AWS_ENDPOINT_URL",
    "gs": "GOOGLE_SERVICE_ACCOUNT",
    "az": "AZURE_STORAGE_ACCOUNT_NAME, AZURE_STORAGE_ACCOUNT_KEY",
    "memory": "none",
}
"""Schemes of addresses, and what of the environment they depend on."""

_NO_BUCKET = {"NoSuchBucket", "ContainerNotFound"}

_METADATA = ("169.254.169.254", "metadata.google.internal")
"""Where a machine of the provider's would be asked for credentials, once the environment has none."""


def _failure_of(url: str, error: Exception, timeout_s: float, *, writes: bool) -> AfinaError:
    """What to raise for an error of obstore's."""
    said = str(error)
    status = _status(said)
    variables = VARIABLES[urlsplit(url).scheme]
    code = f", {found}" if (found := _code(said)) else ""
    if any(host in said for host in _METADATA):
        return NotFound(
            f"{url}: no credentials for it are found. Set in the environment: {variables}.",
            code="blobs.denied",
            url=url,
        )
    if status in (401, 403) or type(error).__name__ in ("PermissionDeniedError", "UnauthenticatedError"):
        refused = f"the service refuses these credentials, {status or 403}{code}"
        if writes:
            return CannotWrite(url, f"{refused}; they are of {variables}")
        return NotFound(
            f"{url}: cannot be read ({refused}). Do they allow reading and listing? They are of {variables}.",
            code="blobs.denied",
            url=url,
        )
    if status == 404:
        return NotFound(
            f"{url}: no such bucket{code}. Make it first, or correct the address, and what the environment says of "
            f"it: {variables}.",
            code="blobs.bucket-missing",
            url=url,
        )
    if "BadScheme" in said:
        return NotFound(
            f"{url}: the endpoint is not https, and nothing is sent without encryption unless AWS_ALLOW_HTTP=true "
            "says so. Set it, or correct AWS_ENDPOINT_URL.",
            code="blobs.settings-unusable",
            url=url,
        )
    asked = re.search(r"after (\d+) retries", said)
    times = f", asked {int(asked[1]) + 1} times" if asked and asked[1] != "0" else ""
    why = _reason(said, timeout_s) if status is None else f"status {status}{code}"
    return NotFound(
        f"{url}: does not answer as it should ({why}{times}). Is the network up, and the address right, with what the "
        f"environment says of it: {variables}? Then try again.",
        code="blobs.unreachable",
        url=url,
    )


def _unusable_settings(url: str) -> NotFound:
    """What to raise where obstore can do nothing with the settings it has."""
    return NotFound(
        f"{url}: cannot be opened with the settings of the environment. Is one of them missing or misspelt, such as "
        f"{VARIABLES[urlsplit(url).scheme]}?",
        code="blobs.settings-unusable",
        url=url,
    )


def _panicked(error: BaseException) -> bool:
    """Whether code of obstore's panicked, which is raised as no Exception and whose class has no public name."""
    return type(error).__name__ == "PanicException"


def _shown(address: str) -> str:
    """An address without what may be a secret."""
    scheme, _, rest = address.partition("://")
    return f"{scheme}://{re.split('[?#]', rest.rpartition('@')[2])[0][:80]}"


def _reason(said: str, timeout_s: float) -> str:
    if re.search(r"\b(kind: Timeout|TimedOut)\b", said):
        return f"no answer within {timeout_s:g} s"
    return "no connection" if "kind: Connect" in said else "the connection broke off"


def _status(said: str) -> int | None:
    found = re.search(r"status code: (\d{3})", said)
    return int(found[1]) if found else None


def _code(said: str) -> str | None:
    """The service's own word for an error, such as NoSuchBucket."""
    found = re.search(r"<Code>([A-Za-z]{1,60})</Code>", said)
    return found[1] if found else None
