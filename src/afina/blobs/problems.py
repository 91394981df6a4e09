"""All errors of `afina.blobs`. Each error has an exception class, a code and a message."""

from __future__ import annotations

from functools import partial

from afina.errors import CorruptStore, InvalidName, NotFound, Problem

EXPECTED = "Expected a directory, s3://bucket/prefix, gs://bucket/prefix or az://container/prefix."

_blobs_address_malformed = partial(Problem, InvalidName, "blobs.address-malformed")
NOT_A_DIRECTORY = _blobs_address_malformed(
    "{address!r} is not a directory of this machine. Expected file:///path/to/directory."
)
NOT_AN_OBJECT_STORE = _blobs_address_malformed("{address!r} is not the address of an object store. " + EXPECTED)
ADDRESS_WITH_SECRETS = _blobs_address_malformed(
    "{address!r}: credentials and options are not allowed in an address, since addresses are logged. Set "
    "environment variables instead: {variables}."
)
ADDRESS_MALFORMED = _blobs_address_malformed("{address!r} is not an address. " + EXPECTED)

BUCKET_MISSING = Problem(
    NotFound,
    "blobs.bucket-missing",
    "{url}: no such bucket{_code}. Create the bucket, or correct the address or the environment variables: "
    "{variables}.",
)

_blobs_denied = partial(Problem, NotFound, "blobs.denied")
NO_CREDENTIALS = _blobs_denied("{url}: no credentials found. Set environment variables: {variables}.")
DENIED = _blobs_denied(
    "{url}: cannot be read ({reason}). Check that the credentials allow reading and listing. They come from "
    "{variables}."
)

_blobs_settings_unusable = partial(Problem, NotFound, "blobs.settings-unusable")
SETTINGS_UNUSABLE = _blobs_settings_unusable(
    "{url}: cannot be opened with the settings of the environment. Check for missing or misspelt variables, such "
    "as {variables}."
)
ENDPOINT_WITHOUT_TLS = _blobs_settings_unusable(
    "{url}: the endpoint is not https. Correct AWS_ENDPOINT_URL, or set AWS_ALLOW_HTTP=true to allow requests "
    "without encryption."
)

UNREACHABLE = Problem(
    NotFound,
    "blobs.unreachable",
    "{url}: the service does not respond as expected ({reason}{_times}). Check the network, the address and the "
    "environment variables: {variables}. Then try again.",
)

OBSTORE_MISSING = Problem(
    NotFound,
    "extra.missing",
    "{url}: object stores need the package obstore, which is not installed. Install it: pip install 'afina[store]'",
)

_store_blobs_missing = partial(Problem, CorruptStore, "store.blobs-missing")
FILE_MISSING = _store_blobs_missing("{path}: the file is missing. `afina store verify` names the affected versions.")
FILE_INCOMPLETE = _store_blobs_missing(
    "{path}: received {bytes:,} bytes, expected {expected:,}. Try again. If this happens again, check proxies "
    "between this machine and the service."
)
