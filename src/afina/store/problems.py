"""The errors that `afina.store` raises, each with its exception class, stable code and message template."""

from __future__ import annotations

from functools import partial

from afina.errors import (
    Busy,
    Conflict,
    CorruptAdapter,
    CorruptStore,
    InvalidData,
    InvalidName,
    InvalidStudy,
    NotFound,
    Problem,
    Refused,
    WrongBackbone,
)
from afina.predicting.problems import FILE_UNSAFE as FILE_UNSAFE
from afina.predicting.problems import HEAD_MISSING as HEAD_MISSING
from afina.problems import AGAIN

VERIFY = "`afina store verify` lists all damage. Publish the adapter again from its source."

BUNDLE_AGAIN = "Copy the bundle again, or export the adapter again from its store."

INDEX = "bundle.json"

_adapter_file_malformed = partial(Problem, CorruptAdapter, "adapter.file-malformed")
BUNDLE_INCOMPLETE = _adapter_file_malformed("{path}: this bundle has no {what}. Export the adapter again.")

TENSOR_FILE_MISSING = Problem(
    CorruptAdapter,
    "adapter.file-missing",
    "{path}: its tensor file {file!r} is missing, or not a {expected} file. " + AGAIN,
)

NOTHING_TO_PUBLISH = Problem(
    NotFound,
    "adapter.missing",
    "{path}: no adapter ({manifest} or {settings}) and no model ({config}) found. Name a directory that has one "
    "of these files.",
)

TENSOR_INVALID = Problem(
    CorruptAdapter,
    "adapter.tensors-mismatch",
    "{where}: {tensor!r} has shape [{found}], but {_but}. Copy the adapter again, or train it again.",
)

ALIAS_MALFORMED = Problem(
    InvalidName,
    "alias.malformed",
    "{alias!r} is not an alias. Expected a word such as production, or a version's number. An alias begins with "
    "a letter and has {_letters}, digits, and . _ - after it, at most {most} characters; v3 means version 3.",
)

_alias_missing = partial(Problem, NotFound, "alias.missing")
NO_EARLIER_VERSION = _alias_missing("{name}@{alias}: has no earlier version than {before} to roll back to.")
ALIAS_MISSING = _alias_missing("{reference}: no such alias. {_there}")
ALIAS_NEVER_EXISTED = _alias_missing("{name}@{alias}: this alias has never existed.")

ALIAS_MOVED = Problem(
    Conflict,
    "alias.moved",
    "{name}@{alias}: points to {found}, expected {expected}. Another process has moved the alias. Look at `afina "
    "store history`, then decide again.",
)

_alias_share_invalid = partial(Problem, InvalidName, "alias.share-invalid")
SHARE_OF_ALIAS = _alias_share_invalid(
    "`share`: found {found} for the alias {alias}. The alias canary needs a share, such as 10 (per cent of the "
    "requests for production), and no other alias has one."
)
SHARE_INVALID = _alias_share_invalid(
    "`share`: found {share:g}. Expected a percentage above 0 and below 100. To send all requests to the version, "
    "move production."
)

_backbone_mismatch = partial(Problem, WrongBackbone, "backbone.mismatch")
TENSOR_DOES_NOT_FIT = _backbone_mismatch(
    "{where}: {tensor!r} {_what}. Name the backbone that the adapter was made for."
)

BUNDLE_DAMAGED = Problem(CorruptStore, "bundle.damaged", "{path}: {found}. " + BUNDLE_AGAIN)

BUNDLE_FILE_NAME = Problem(
    InvalidName,
    "bundle.file-name",
    (
        f"{{path}}: {{file!r}} is not allowed as a file name in a bundle. Expected 1 to 100 letters, digits, . _ and "
        f"-, and not {INDEX}. Choose another name."
    ),
)

_bundle_refused = partial(Problem, Refused, "bundle.refused")
ABOUT_UNUSABLE = _bundle_refused("{path}: `about` cannot be written as JSON ({reason}). Give other JSON values.")
NOT_OF_AFINA = _bundle_refused("{path}: not a bundle of afina: {reason}. Name a bundle.")
BUNDLE_FILE_REFUSED = _bundle_refused("{path}: {file!r} in the bundle is {found}. " + BUNDLE_AGAIN)

CANARY_WITHOUT_ROLLBACK = Problem(
    Refused,
    "canary.no-rollback",
    "{name}@canary: this alias is not rolled back, since its share belongs to one version. End the canary, or "
    "set another version and share.",
)

_client_erased = partial(Problem, Refused, "client.erased")
CLIENT_BEING_ERASED = _client_erased(
    "client {client}: the client is being erased. Finish the erasure first: afina store erase {client}."
)
CLIENT_ERASED = _client_erased("{name}: the client was erased while this adapter was published.")

CLIENT_MALFORMED = Problem(
    InvalidName,
    "client.malformed",
    "{client!r} is not the name of a client. Expected the part before the / of a name: {expected}.",
)

CLIENT_UNKNOWN = Problem(
    NotFound,
    "client.missing",
    "client {client}: the store has no {what} of this client. `afina store list` shows all names.",
)

KINDS_DIFFER = Problem(
    InvalidData,
    "data.kind-mismatch",
    "the kinds of task differ: {first} has {expected}, {second} has {found}. Give two adapters for the same kind "
    "of task.",
)

LABELS_DIFFER = Problem(
    InvalidData,
    "data.labels-mismatch",
    "{first} and {where} have different labels: {_differences}. Give adapters and texts with the same labels.",
)

MERGE_NEEDS_FLOAT32 = Problem(
    InvalidStudy,
    "dtype.unsuitable",
    "{where}: opened in {dtype}, but the merged model needs float32. Open the adapter in float32.",
)

PSYCOPG_MISSING = Problem(
    NotFound, "extra.missing", "PostgreSQL needs psycopg. Install it: pip install 'afina[store]'."
)

FILE_BEING_WRITTEN = Problem(
    CorruptStore,
    "file.being-written",
    "{path}: the file has {found:,} bytes and had {expected:,} a moment ago: another process writes to it. Try again.",
)

FILE_CHANGED = Problem(
    Refused,
    "file.changed",
    "{path}: cannot be read as a file ({reason}). Another process may have changed it; try again.",
)

SOURCE_MISSING = Problem(
    NotFound, "file.missing", "{path}: not found ({reason}). Give a directory, a bundle (.tar), or hub:owner/name."
)

FILE_NOT_READABLE = Problem(
    NotFound, "file.unreadable", "{path}: {file} cannot be read ({reason}). Name an existing file."
)

DTYPE_UNSUPPORTED = Problem(
    Refused,
    "intake.dtype-unsupported",
    "{path}: {tensor!r} has dtype {found!r}, expected one of {known}. Convert the tensor and save the adapter again.",
)

_intake_file_unexpected = partial(Problem, Refused, "intake.file-unexpected")
NO_FILE = _intake_file_unexpected(
    "{path}: {found}, expected a file. Move it elsewhere, or replace a link by a copy of its target."
)
FILE_NAME_NOT_ALLOWED = _intake_file_unexpected(
    "{path}: this file is not allowed beside an adapter's tensors. Expected letters, digits, . _ and - before one of "
    "{known}. Move the file elsewhere."
)
SECOND_TENSOR_FILE = _intake_file_unexpected(
    "{path}: an adapter has a single tensor file, here {expected}. Move this file elsewhere."
)
FILE_NOT_TEXT = _intake_file_unexpected(
    "{path}: a file with this suffix must be text in UTF-8. Write the file again, or leave it out."
)

_intake_too_large = partial(Problem, Refused, "intake.too-large")
BUNDLE_INDEX_TOO_LARGE = _intake_too_large(
    "{path}: its {file} has {found:,} bytes, more than the limit of {most:,}. " + BUNDLE_AGAIN
)
ADAPTER_TOO_LARGE = _intake_too_large(
    "{path}: {_found}, more than the limit of {most:,}. If this is intended, set another limit, {limit}=..., with "
    "`limits`."
)

VALUES_NOT_FINITE = Problem(
    Refused,
    "intake.values-not-finite",
    "{path}: {tensor!r} has NaN or infinite values, which make every answer wrong. Train the adapter again, at a "
    "lower learning rate or in float32.",
)

KEY_OPTION_INVALID = Problem(InvalidName, "key.invalid", "`{option}`: found {found}, expected {expected}.")

KEY_REVOKED = Problem(Refused, "key.revoked", "key {key}: the key was already revoked at {revoked}.")

KEY_UNKNOWN = Problem(
    NotFound, "key.unknown", "key {key}: the store has no key with this id. `afina keys list` shows all keys."
)

_merge_impossible = partial(Problem, Refused, "merge.impossible")
MERGE_WITH_OFFSET = _merge_impossible(
    "{where}: the adapter adds an offset to its logits, and transformers' head has no bias for it. Train the "
    "adapter without `offset` (a linear probe: on texts of every label), or use it with afina."
)

OPTION_INAPPLICABLE = Problem(InvalidStudy, "option.inapplicable", "{_where}: {reason}. Leave `{option}` out.")

_option_invalid = partial(Problem, InvalidStudy, "option.invalid")
LIMIT_INVALID = _option_invalid("limit {option} = {found!r}: expected a whole number of at least 1.")
LIMITS_MALFORMED = _option_invalid(
    "limits {given!r}: {_problem}. Expected limits such as tensors=100,bytes=1GiB. Known: {known}."
)

BACKBONE_UNNAMED = Problem(
    InvalidStudy,
    "option.missing",
    "{path}: this is a transformers model. Give the model that was fine-tuned, with `backbone`.",
)

OUT_EXISTS = Problem(Refused, "out.exists", "{path}: the path exists already. Give a new path.")
NUMBER_MISSING = Problem(
    Refused,
    "reference.version-missing",
    "{reference}: the version's number is missing. Give the number, as in {name}@{number}.",
)

SHADOW_IS_PRODUCTION = Problem(
    Refused,
    "shadow.is-production",
    "{version}: this version is production itself. Name another version to compare with production.",
)

ADDRESS_MALFORMED = Problem(
    InvalidName,
    "store.address-malformed",
    "`store` {found!r}: {reason}. Expected a directory, or postgresql://USER:PASSWORD@HOST/DATABASE.",
)

BLOBS_UNNAMED = Problem(
    Refused,
    "store.blobs-unnamed",
    "store {store}: a store in a database needs a separate place for blobs. Give a place with `blobs`: a "
    "directory shared by all machines, or a URL such as s3://bucket/adapters.",
)

STORE_BUSY = Problem(
    Busy,
    "store.busy",
    "store {store}: other processes use the store and did not finish within {seconds:g} seconds. Try again.",
)

PARTS_REMOVED_MEANWHILE = Problem(
    Busy, "store.changed-meanwhile", "{name}: parts of the version were removed while it was published. Try again."
)

_store_content_changed = partial(Problem, CorruptStore, "store.content-changed")
DIGEST_DIFFERS = _store_content_changed("{where}: {_name} has digest {found:.19}, expected {expected!s:.19}. " + VERIFY)
ADAPTER_CORRUPT = _store_content_changed("{where}: {reason} " + VERIFY)

DATABASE_DAMAGED = Problem(
    CorruptStore,
    "store.database-damaged",
    "store {store}: its database is damaged ({reason}). Restore {where} from a backup; the blobs need no "
    "restoring.{_then}",
)

STORE_EXISTS = Problem(
    Refused, "store.exists", "store {store}: the store exists already. Use this store, or choose another place."
)

DATABASE_FOREIGN = Problem(
    Refused,
    "store.foreign",
    "store {store}: the database has tables of another program. Give an empty database or another directory.",
)

_store_missing = partial(Problem, NotFound, "store.missing")
STORE_MISSING = _store_missing("{where}: {reason}. Create the store: afina store init --blobs URL.")

NAME_MALFORMED = Problem(
    InvalidName, "store.name-malformed", "{name!r} is not the name of an adapter. Expected client/task: {expected}."
)

NAME_MISSING = Problem(NotFound, "store.name-missing", "{name}: the store has no adapter with this name.{_there}")

_store_unreachable = partial(Problem, NotFound, "store.unreachable")
DATABASE_UNREACHABLE = _store_unreachable(
    "{where}: the database does not respond as expected ({reason}). Try again. If you changed the store, first "
    "check whether the change was made."
)

TEXT_NOT_STORABLE = Problem(InvalidName, "text.not-storable", "`{field}`: found {found}, expected {expected}.")

VERSION_ALIASED = Problem(
    Refused, "version.aliased", "{version}: {aliases} {_verb} to this version. First move the alias to another version."
)

CHECK_FAILED = Problem(
    Refused,
    "version.check-failed",
    "{name}@{version}: the latest check failed ({reason}), so {alias} is not moved. Check again (afina store "
    "check {name}@{version}), or move {alias} with `force`, which is logged.",
)

VERSION_EXISTS = Problem(
    Refused,
    "version.exists",
    "{version}: this version has the same adapter, with hashes of its training texts. Publish the adapter under "
    "another name, or delete this version first.",
)

_version_missing = partial(Problem, NotFound, "version.missing")
VERSION_MISSING = _version_missing("{reference}: version {version} {reason}. {_there}")
NO_VERSION = _version_missing("{reference}: all versions were deleted. Publish a new version.")
REMOVED_MEANWHILE = _version_missing("{version}: the version was removed meanwhile.")

NOT_MERGEABLE = _merge_impossible(
    "{where}: an adapter of method {method} cannot be merged into its backbone: {reason} Use it with afina, or merge "
    "an adapter of a method that changes weights, such as lora."
)

_backup_damaged = partial(Problem, CorruptStore, "backup.damaged")
BACKUP_DAMAGED = _backup_damaged("{path}: the backup is damaged: {damaged}. Use another backup.")

BACKUP_INCOMPLETE = _backup_damaged(
    "{path}: the backup is not complete: {damaged}. An earlier backup there is unchanged. Check the store with "
    "`afina store verify`."
)

BACKUP_MISSING = Problem(
    NotFound, "backup.missing", "{path}: the directory has no backup (no {expected}). Name the directory of a backup."
)

_backup_place_unusable = partial(Problem, Refused, "backup.place-unusable")
BACKUP_PLACE_UNUSABLE = _backup_place_unusable("{path}: {reason}. Name another directory for the backup.")

STORE_IN_BACKUP = _backup_place_unusable(
    "store {store}: this place is inside the backup. Name another place with `store`."
)

BLOBS_UNREADABLE = Problem(
    CorruptStore,
    "store.blobs-missing",
    "store {store}: {blobs} of its blobs cannot be read, such as {blob}. `afina store verify` names the "
    "affected versions.",
)

BLOBS_REMOVED_MEANWHILE = Problem(
    Refused,
    "backup.store-changed",
    "store {store}: other processes removed versions during each of {tries} attempts to copy the store. Try again when "
    "nobody deletes versions.",
)

FORMAT_UNKNOWN = Problem(
    Refused,
    "store.format-unknown",
    "store {store}: the store has format {found}, this version of afina reads {expected}. Install the version of "
    "afina that made the store, or publish the adapters to a new store.",
)

NO_STORE = _store_missing("store {store}: there is no store. Give another with `store`, or {_how}.")

STORE_UNREADABLE = _store_unreachable("store {store}: cannot be read ({reason}). Check its permissions.")
