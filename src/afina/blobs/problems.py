"""The errors of `afina.blobs`, with their codes and sentences."""

from __future__ import annotations

from afina.errors import CorruptStore, InvalidName, NotFound, Problem

EXPECTED = "Expected a directory, s3://bucket/prefix, gs://bucket/prefix or az://container/prefix."

NOT_A_DIRECTORY = Problem(
    InvalidName,
    "blobs.address-malformed",
    "{address!r} is not a directory of this machine. Expected file:///path/to/directory.",
)
NOT_AN_OBJECT_STORE = Problem(
    InvalidName, "blobs.address-malformed", "{address!r} is not the address of an object store. " + EXPECTED
)
ADDRESS_WITH_SECRETS = Problem(
    InvalidName,
    "blobs.address-malformed",
    "{address!r}: credentials and options are not allowed in an address, since addresses are logged. Set "
    "environment variables instead: {variables}.",
)
ADDRESS_MALFORMED = Problem(InvalidName, "blobs.address-malformed", "{address!r} is not an address. " + EXPECTED)

BUCKET_MISSING = Problem(
    NotFound,
    "blobs.bucket-missing",
    "{url}: no such bucket{_code}. Create the bucket, or correct the address or the environment variables: "
    "{variables}.",
)

NO_CREDENTIALS = Problem(
    NotFound, "blobs.denied", "{url}: no credentials found. Set environment variables: {variables}."
)
DENIED = Problem(
    NotFound,
    "blobs.denied",
    "{url}: cannot be read ({reason}). Check that the credentials allow reading and listing. They come from "
    "{variables}.",
)

SETTINGS_UNUSABLE = Problem(
    NotFound,
    "blobs.settings-unusable",
    "{url}: cannot be opened with the settings of the environment. Check for missing or misspelt variables, such "
    "as {variables}.",
)
ENDPOINT_WITHOUT_TLS = Problem(
    NotFound,
    "blobs.settings-unusable",
    "{url}: the endpoint is not https. Correct AWS_ENDPOINT_URL, or set AWS_ALLOW_HTTP=true to allow requests "
    "without encryption.",
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

FILE_MISSING = Problem(
    CorruptStore,
    "store.blobs-missing",
    "{path}: the file is missing. `afina store verify` names the affected versions.",
)
FILE_INCOMPLETE = Problem(
    CorruptStore,
    "store.blobs-missing",
    "{path}: received {bytes:,} bytes, expected {expected:,}. Try again. If this happens again, check proxies "
    "between this machine and the service.",
)
