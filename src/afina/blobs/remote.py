"""Blobs in an object store (S3 and compatible services, Google Cloud Storage, Azure), with the package obstore.

obstore reads settings and credentials from environment variables such as AWS_ENDPOINT_URL and AWS_ACCESS_KEY_ID. For
most failures, only the text of obstore's exception tells the cause. Error messages of afina never repeat the text of
obstore's exception, because it may contain a signed URL or parts of a request.
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
from afina.blobs import Blobs, LocalBlobs, StoredBlob, below, problems, sweep_directories
from afina.errors import AfinaError, CannotWrite, NotFound

if TYPE_CHECKING:
    from obstore.store import ObjectStore


TIMEOUT_S = 30.0
"""The timeout of a request to the object store, in seconds. Most requests transfer at most `PART` bytes of a file."""

RETRIES = 4

PART = 5 << 20
"""The size in bytes of the parts in which files are transferred: the smallest that S3 allows, for slow connections."""

MOST_PARTS = 10_000
"""The largest number of parts of a file in S3."""

AT_ONCE = 2
"""The number of parts that are uploaded at a time. With more, a part could exceed the timeout on a slow connection."""

SCRATCH = "afina-blobs-"
"""The prefix of the names of temporary directories for files that are being transferred."""

_SWITCHES = ("allow_http", "allow_invalid_certificates")
_PLACE = re.compile(r"sha256-[0-9a-f]{64}-[0-9a-f]{8}", re.ASCII)


def open_blobs(address: str) -> Blobs:
    """Return the blobs in a directory, or at a file:// URL or a URL such as s3://bucket/prefix, without a request.

    Raises InvalidName; and NotFound if obstore is not installed, or cannot use the environment variables.
    """
    if "://" not in address:
        return LocalBlobs(Path(address))
    parts = _split(address)
    if parts.scheme != "file":
        return RemoteBlobs.open(address)
    if parts.netloc not in ("", "localhost") or len(parts.path) < 2 or parts.query or parts.fragment:
        raise problems.NOT_A_DIRECTORY(address=_shown(address))
    return LocalBlobs(Path(unquote(parts.path)))


class RemoteBlobs(Blobs):
    """Blobs under a prefix of a bucket in an object store.

    A request times out after `timeout_s` seconds. A failed request is repeated at most `retries` times, and no longer
    than twice `timeout_s` seconds after its start. A call thus fails after at most three times `timeout_s` seconds if
    the object store does not respond.
    """

    def __init__(self, store: ObjectStore, url: str, timeout_s: float = TIMEOUT_S) -> None:
        self.url = url
        self._store = store
        self._timeout_s = timeout_s

    @classmethod
    def open(cls, url: str, *, timeout_s: float = TIMEOUT_S, retries: int = RETRIES) -> Self:
        """Return the blobs at a URL such as s3://bucket/prefix; `memory:///` is a new and empty store in memory."""
        parts = _split(url)
        if parts.scheme not in VARIABLES or (not parts.hostname and parts.scheme != "memory"):
            raise problems.NOT_AN_OBJECT_STORE(address=_shown(url))
        if "@" in parts.netloc or parts.query or parts.fragment:
            raise problems.ADDRESS_WITH_SECRETS(variables=VARIABLES[parts.scheme], address=_shown(url))
        try:
            from obstore.store import from_url
        except ImportError:
            raise problems.OBSTORE_MISSING(url=url, extra="store", package="obstore") from None
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
        """Yield a new directory in the system's directory for temporary files (environment variable TMPDIR)."""
        with file_io.writing(tempfile.gettempdir()):
            directory = Path(tempfile.mkdtemp(prefix=SCRATCH))
        try:
            yield directory
        finally:
            shutil.rmtree(directory, ignore_errors=True)

    def put(self, place: str, file: Path) -> None:
        """Upload a file in parts. The object store joins the parts when all parts have arrived."""
        import obstore

        size = file.stat().st_size
        part = max(PART, -(-size // MOST_PARTS))
        with file.open("rb") as content, self._asking(writes=True):
            _heeding(obstore.put, self._store, below(place), content, chunk_size=part, max_concurrency=AT_ONCE)

    def size(self, place: str) -> int | None:
        import obstore

        try:
            with self._asking():
                size: int = _heeding(obstore.head, self._store, below(place))["size"]
                return size
        except FileNotFoundError:
            return None

    @contextmanager
    def file(self, place: str) -> Iterator[Path]:
        """Yield a local copy of a blob. Raises CannotWrite if the disk is full."""
        with self.scratch() as directory:
            path = directory / place
            try:
                with file_io.writing(path):
                    self._fetch(place, path)
            except FileNotFoundError:
                raise problems.FILE_MISSING(path=f"{self.url}/{below(place)}") from None
            yield path

    def _fetch(self, place: str, path: Path) -> None:
        """Download a blob in parts, each with a timeout. Raises FileNotFoundError if the blob does not exist."""
        import obstore

        with path.open("wb") as target:
            with self._asking():
                response = _heeding(obstore.get, self._store, below(place))
                size = response.meta["size"]
                if size <= PART:
                    target.write(_heeding(response.bytes))
            for start in range(0, size if size > PART else 0, PART):
                with self._asking():
                    end = min(start + PART, size)
                    piece = _heeding(obstore.get_range, self._store, below(place), start=start, end=end)
                target.write(piece)
            if target.tell() != size:
                raise problems.FILE_INCOMPLETE(path=f"{self.url}/{below(place)}", bytes=target.tell(), expected=size)

    def remove(self, place: str) -> None:
        import obstore

        try:
            with self._asking(writes=True):
                _heeding(obstore.delete, self._store, below(place))
        except FileNotFoundError:
            return

    def all(self) -> Iterator[StoredBlob]:
        """Yield all stored files; an age is the time of this machine minus the object store's time stamp."""
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
        """Remove old temporary directories of this machine; the object store removes parts of incomplete uploads."""
        sweep_directories(Path(tempfile.gettempdir()).glob(f"{SCRATCH}*"), age)

    @contextmanager
    def _asking(self, *, writes: bool = False) -> Iterator[None]:
        """Convert exceptions of obstore, except a FileNotFoundError for a missing file, to errors of afina."""
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
    """Call a function of obstore in another thread: in this one, Ctrl-C would wait for the response or the timeout."""
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
        raise problems.ADDRESS_MALFORMED(address=_shown(address)) from None


def _switches() -> list[str]:
    """Return the options that environment variables switch on, which obstore ignores if any option is passed."""
    true = ("1", "true", "yes", "on")
    return [switch for switch in _SWITCHES if os.environ.get(f"AWS_{switch.upper()}", "").lower() in true]


def _config(scheme: str) -> dict[str, str]:
    """Return the settings that obstore needs in addition to the environment variables, for a scheme such as "s3"."""
    if scheme == "s3":
        # Files are removed one at a time; every service supports the simple request.
        return {"disable_bulk_delete": "true"}
    if scheme == "az":
        # obstore 0.12 panics where it has the account's name from the environment alone.
        name = os.environ.get("AZURE_STORAGE_ACCOUNT_NAME")
        return {"account_name": name} if name else {}
    return {}


@contextmanager
def _settings(url: str) -> Iterator[None]:
    """Convert exceptions of obstore about settings in the `with` block to errors of afina."""
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
"""The environment variables with the settings of each kind of object store, by URL scheme, for error messages."""

_NO_BUCKET = {"NoSuchBucket", "ContainerNotFound"}

_METADATA = ("169.254.169.254", "metadata.google.internal")
"""The hosts that obstore asks for credentials on a cloud provider's machine if no environment variable has them."""


def _failure_of(url: str, error: Exception, timeout_s: float, *, writes: bool) -> AfinaError:
    """Return the error of afina that describes an exception of obstore."""
    text = str(error)  # obstore has no field for what follows
    status = _status(text)
    variables = VARIABLES[urlsplit(url).scheme]
    code = f", {stated}" if (stated := _code(text)) else ""
    if any(host in text for host in _METADATA):
        return problems.NO_CREDENTIALS(variables=variables, url=url)
    if status in (401, 403) or type(error).__name__ in ("PermissionDeniedError", "UnauthenticatedError"):
        refused = f"the service refuses the credentials, {status or 403}{code}"
        if writes:
            return CannotWrite(url, f"{refused}; credentials come from {variables}")
        return problems.DENIED(reason=refused, variables=variables, url=url)
    if status == 404:
        return problems.BUCKET_MISSING(_code=code, variables=variables, url=url)
    if "BadScheme" in text:
        return problems.ENDPOINT_WITHOUT_TLS(url=url)
    retries = re.search(r"after (\d+) retries", text)
    times = f", asked {int(retries[1]) + 1} times" if retries and retries[1] != "0" else ""
    why = _reason(text, timeout_s) if status is None else f"status {status}{code}"
    return problems.UNREACHABLE(reason=why, _times=times, variables=variables, url=url)


def _unusable_settings(url: str) -> NotFound:
    return problems.SETTINGS_UNUSABLE(variables=VARIABLES[urlsplit(url).scheme], url=url)


def _panicked(error: BaseException) -> bool:
    """Return whether an exception is a panic of obstore's Rust code, whose class is not public and no Exception."""
    return type(error).__name__ == "PanicException"


def _shown(address: str) -> str:
    """Return an address for messages, without parts that may be secret, such as a password."""
    scheme, _, rest = address.partition("://")
    return f"{scheme}://{re.split('[?#]', rest.rpartition('@')[2])[0][:80]}"


def _reason(text: str, timeout_s: float) -> str:
    if re.search(r"\b(kind: Timeout|TimedOut)\b", text):
        return f"no answer within {timeout_s:g} s"
    return "no connection" if "kind: Connect" in text else "the connection broke off"


def _status(text: str) -> int | None:
    match = re.search(r"status code: (\d{3})", text)
    return int(match[1]) if match else None


def _code(text: str) -> str | None:
    """Return the object store's error code, such as NoSuchBucket, from the text of an exception; None: no code."""
    match = re.search(r"<Code>([A-Za-z]{1,60})</Code>", text)
    return match[1] if match else None
