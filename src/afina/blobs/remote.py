"""Blobs in an object store by obstore: S3 and compatible services, Google Cloud Storage, Azure.

obstore reads settings and credentials from the environment (AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, ...). For most
failures, only the text of obstore's error tells the cause. Messages of afina never repeat that text: it may contain a
signed address or parts of a request.
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
"""Timeout of a request, in seconds. A request transfers at most PART bytes of a file."""

RETRIES = 4

PART = 5 << 20
"""Bytes of a part: the smallest that S3 allows, so that each part has enough time on a slow line."""

MOST_PARTS = 10_000
"""Largest number of parts of a file, by S3's limit."""

AT_ONCE = 2
"""Number of parts transferred at a time. More parts would share a slow line, and each could exceed the timeout."""

SCRATCH = "afina-blobs-"
"""Prefix of directories for files in transfer."""

_SWITCHES = ("allow_http", "allow_invalid_certificates")
_PLACE = re.compile(r"sha256-[0-9a-f]{64}-[0-9a-f]{8}", re.ASCII)


def open_blobs(address: str) -> Blobs:
    """Return the blobs at an address: a directory or file:// URL, or the URL of an object store. Makes no request.

    Raises InvalidName for a malformed address, and NotFound if obstore is missing or cannot use its settings.
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

    A request times out after `timeout_s` seconds. A request is repeated at most `retries` times, and not after 2 *
    `timeout_s` seconds. So a call to a service that does not respond takes at most three times `timeout_s`.
    """

    def __init__(self, store: ObjectStore, url: str, timeout_s: float = TIMEOUT_S) -> None:
        self.url = url
        self._store = store
        self._timeout_s = timeout_s

    @classmethod
    def open(cls, url: str, *, timeout_s: float = TIMEOUT_S, retries: int = RETRIES) -> Self:
        """Open s3://bucket/prefix, gs://, az://, or memory:/// (new and empty). Makes no request.

        Raises InvalidName for a malformed URL, and NotFound if obstore is missing or cannot use its settings.
        """
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
        """Yield a directory in the system's directory for temporary files (TMPDIR)."""
        with file_io.writing(tempfile.gettempdir()):
            made = Path(tempfile.mkdtemp(prefix=SCRATCH))
        try:
            yield made
        finally:
            shutil.rmtree(made, ignore_errors=True)

    def put(self, place: str, file: Path) -> None:
        """Upload a file in parts. The service joins the parts once all have arrived."""
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
        """Yield a local copy, which is removed after the block. Raises CannotWrite if the disk is full."""
        with self.scratch() as directory:
            path = directory / place
            try:
                with file_io.writing(path):
                    self._fetch(place, path)
            except FileNotFoundError:
                raise problems.FILE_MISSING(path=f"{self.url}/{below(place)}") from None
            yield path

    def _fetch(self, place: str, path: Path) -> None:
        """Download a file in parts, each with a timeout. Raises FileNotFoundError if the file does not exist."""
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
                raise problems.FILE_INCOMPLETE(path=f"{self.url}/{below(place)}", bytes=target.tell(), expected=size)

    def remove(self, place: str) -> None:
        import obstore

        try:
            with self._asking(writes=True):
                _heeding(obstore.delete, self._store, below(place))
        except FileNotFoundError:
            return

    def all(self) -> Iterator[StoredBlob]:
        """Yield all files. Ages are the service's time stamps compared with this machine's clock, and at least 0."""
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
        """Remove old temporary directories of this machine.

        Parts of broken uploads are visible only to the service, which removes them by its own rules.
        """
        sweep_directories(Path(tempfile.gettempdir()).glob(f"{SCRATCH}*"), age)

    @contextmanager
    def _asking(self, *, writes: bool = False) -> Iterator[None]:
        """Turn errors of a request in the `with` block into errors of afina. FileNotFoundError is passed on."""
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
    """Call a function of obstore in another thread and wait for it, so that Ctrl-C works while waiting.

    Inside such a function, Ctrl-C would take effect only after the response or the timeout.
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
        raise problems.ADDRESS_MALFORMED(address=_shown(address)) from None


def _switches() -> list[str]:
    """Return the client options set in the environment. obstore ignores these once any client option is passed."""
    true = ("1", "true", "yes", "on")
    return [switch for switch in _SWITCHES if os.environ.get(f"AWS_{switch.upper()}", "").lower() in true]


def _config(scheme: str) -> dict[str, str]:
    """Return settings that obstore needs beyond the environment."""
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
    """Turn obstore's errors about settings into errors of afina."""
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
"""Environment variables of each scheme of addresses."""

_NO_BUCKET = {"NoSuchBucket", "ContainerNotFound"}

_METADATA = ("169.254.169.254", "metadata.google.internal")
"""Hosts that providers' machines are asked for credentials if the environment has none."""


def _failure_of(url: str, error: Exception, timeout_s: float, *, writes: bool) -> AfinaError:
    """Return the error to raise for an error of obstore."""
    said = str(error)
    status = _status(said)
    variables = VARIABLES[urlsplit(url).scheme]
    code = f", {found}" if (found := _code(said)) else ""
    if any(host in said for host in _METADATA):
        return problems.NO_CREDENTIALS(variables=variables, url=url)
    if status in (401, 403) or type(error).__name__ in ("PermissionDeniedError", "UnauthenticatedError"):
        refused = f"the service refuses the credentials, {status or 403}{code}"
        if writes:
            return CannotWrite(url, f"{refused}; credentials come from {variables}")
        return problems.DENIED(reason=refused, variables=variables, url=url)
    if status == 404:
        return problems.BUCKET_MISSING(_code=code, variables=variables, url=url)
    if "BadScheme" in said:
        return problems.ENDPOINT_WITHOUT_TLS(url=url)
    asked = re.search(r"after (\d+) retries", said)
    times = f", asked {int(asked[1]) + 1} times" if asked and asked[1] != "0" else ""
    why = _reason(said, timeout_s) if status is None else f"status {status}{code}"
    return problems.UNREACHABLE(reason=why, _times=times, variables=variables, url=url)


def _unusable_settings(url: str) -> NotFound:
    """Return the error for settings that obstore cannot use."""
    return problems.SETTINGS_UNUSABLE(variables=VARIABLES[urlsplit(url).scheme], url=url)


def _panicked(error: BaseException) -> bool:
    """Return whether obstore's Rust code panicked. The class of such an error is no Exception and not public."""
    return type(error).__name__ == "PanicException"


def _shown(address: str) -> str:
    """Return an address without parts that may be secret."""
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
    """Return the service's code in the text of an error, such as NoSuchBucket."""
    found = re.search(r"<Code>([A-Za-z]{1,60})</Code>", said)
    return found[1] if found else None
