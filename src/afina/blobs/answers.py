"""What a service answers where it does not do what it was asked, in our words. Knows the texts of obstore's errors.

No message repeats what obstore or the service says: an address may be signed, and an answer may quote a request.
"""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from afina.errors import AfinaError, CannotWrite, NotFound

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


def failure(url: str, error: Exception, timeout_s: float, *, writes: bool) -> AfinaError:
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


def unreadable(url: str) -> NotFound:
    """What to raise where obstore can do nothing with the settings it has."""
    return NotFound(
        f"{url}: cannot be opened with the settings of the environment. Is one of them missing or misspelt, such as "
        f"{VARIABLES[urlsplit(url).scheme]}?",
        code="blobs.settings-unusable",
        url=url,
    )


def names_no_bucket(error: FileNotFoundError) -> bool:
    """Whether what is missing is all that was to hold the file."""
    return _code(str(error)) in _NO_BUCKET


def panicked(error: BaseException) -> bool:
    """Whether code of obstore's panicked, which is raised as no Exception and whose class has no public name."""
    return type(error).__name__ == "PanicException"


def shown(address: str) -> str:
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
