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
from afina.problems import AGAIN

VERIFY = "`afina store verify` lists all damage. Publish the adapter again from its source."

BUNDLE_AGAIN = "Copy the bundle again, or export the adapter again from its store."

INDEX = "bundle.json"

INSTEAD = (
    "Save the weights with save_pretrained, which writes safetensors (with safe_serialization=True in older versions),"
    " and leave this file out"
)

_adapter_file_malformed = partial(Problem, CorruptAdapter, "adapter.file-malformed")
BUNDLE_WITHOUT_ADAPTER = _adapter_file_malformed("{path}: this bundle has no adapter. Export the adapter again.")
PART_NOT_IN_BUNDLE = _adapter_file_malformed(
    "{path}: its part {part!r} is not a file of the bundle. Export the adapter again."
)
NOT_SAFETENSORS = _adapter_file_malformed("{path}: damaged, or not a safetensors file: {reason}. " + AGAIN)
WEIGHT_MAP_INVALID = _adapter_file_malformed(
    "{path}: expected a weight_map that names files in the same directory. " + AGAIN
)
TENSOR_NOT_FLOAT = _adapter_file_malformed("{path}: {tensor} is {found}, expected floats. Save the model unquantised.")

TENSOR_FILE_MISSING = Problem(
    CorruptAdapter,
    "adapter.file-missing",
    "{path}: its tensor file {file!r} is missing, or not a {expected} file. " + AGAIN,
)

DIRECTORY_UNREADABLE = Problem(CorruptAdapter, "adapter.file-unreadable", "{path}: cannot be read ({reason}). " + AGAIN)

_adapter_head_missing = partial(Problem, CorruptAdapter, "adapter.head-missing")
HEAD_MISSING = _adapter_head_missing(
    'the adapter has no classification head ({expected}). Save it with task_type="SEQ_CLS", which keeps the head.'
)
WEIGHTS_WITHOUT_HEAD = _adapter_head_missing(
    "{path}: the weights have no classification head. Give the directory of a fine-tuned classifier."
)

NOTHING_TO_PUBLISH = Problem(
    NotFound,
    "adapter.missing",
    "{path}: no adapter ({manifest} or {settings}) and no model ({config}) found. Name a directory that has one "
    "of these files.",
)

_adapter_tensors_mismatch = partial(Problem, CorruptAdapter, "adapter.tensors-mismatch")
HEAD_MISMATCH = _adapter_tensors_mismatch(
    "{where}: its head {tensor!r} has shape [{found}], but the adapter has {labels} labels. Copy the adapter "
    "again, or train it again."
)
RANKS_DIFFER = _adapter_tensors_mismatch(
    "{where}: {tensor!r} has shape [{found}] and its {other} has [{expected}]: the ranks differ. Copy the "
    "adapter again, or train it again."
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
LAYER_BEYOND_BACKBONE = _backbone_mismatch(
    "{where}: {tensor!r} belongs to layer {layer}, but the backbone has layers 0 to {most}. Name the backbone "
    "that the adapter was made for."
)
DIMENSION_MISMATCH = _backbone_mismatch(
    "{where}: {tensor!r} has shape [{found}], and the backbone has no dimension of {dimension:,}. Name the "
    "backbone that the adapter was made for."
)
SHAPE_MISMATCH = _backbone_mismatch(
    "{where}: {tensor!r} has shape [{found}], expected {expected} for this backbone. Name the backbone that the "
    "adapter was made for."
)
TOKENIZER_DIFFERS = _backbone_mismatch(
    "{path}: the tokenizer has digest {found:.19}, but {expected:.19} in backbone {backbone}. Give the model "
    "that was fine-tuned, unchanged, with `backbone`."
)
CONFIG_DIFFERS = _backbone_mismatch(
    "{path}: {field} is {found!r:.80}, but {expected!r:.80} in backbone {backbone}. Give the model that was "
    "fine-tuned with `backbone`."
)
WEIGHTS_DO_NOT_FIT = _backbone_mismatch(
    "{path}: the weights do not fit a classifier on backbone {backbone}: {reason} Give the model that was "
    "fine-tuned with `backbone`."
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
INDEX_TOO_LARGE = _bundle_refused(
    f"{{path}}: its {INDEX} would have {{bytes:,}} bytes, more than the limit of {{most:,}}. Shorten `about`."
)
BUNDLE_COMPRESSED = _bundle_refused(
    "{path}: the file is compressed ({found}); bundles must not be compressed. Unpack the file first."
)
BUNDLE_OF_ANOTHER_PROGRAM = _bundle_refused(
    f"{{path}}: not a bundle of afina: its first file is {{file!r}}, expected {INDEX}. Name a bundle."
)
BUNDLE_FILE_NOT_ALLOWED = _bundle_refused("{path}: the file name {file!r} is not allowed in a bundle. " + BUNDLE_AGAIN)
BUNDLE_FILE_NOT_PLAIN = _bundle_refused(
    "{path}: {_shown} in the bundle is {found}; a bundle may have plain files only. " + BUNDLE_AGAIN
)
BUNDLE_FILE_UNEXPECTED = _bundle_refused(
    f"{{path}}: the bundle has {{found}} {{file!r}} where {INDEX} has {{expected!r}}. " + BUNDLE_AGAIN
)
ABOUT_NOT_JSON = _bundle_refused("{path}: about cannot be written as JSON ({reason}). Give JSON values.")

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

_client_missing = partial(Problem, NotFound, "client.missing")
CLIENT_UNKNOWN = _client_missing(
    "client {client}: the store has no client with this name. `afina store list` shows all names."
)
CLIENT_WITHOUT_ADAPTERS = _client_missing(
    "client {client}: the store has no adapter of this client. `afina store list` shows all names."
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

_file_missing = partial(Problem, NotFound, "file.missing")
NOT_A_BUNDLE = _file_missing("{path}: not a bundle ({reason}).")
SOURCE_MISSING = _file_missing(
    "{path}: there is no such file or directory. Give a directory, a bundle (.tar), or hub:owner/name."
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
FILE_BESIDE_TENSORS = _intake_file_unexpected(
    "{path}: this file is not allowed beside an adapter's tensors. Allowed suffixes are {known}. Move the file "
    "elsewhere."
)
LINK = _intake_file_unexpected("{path}: a link, expected a file. Replace the link by a copy of its target.")
NO_FILE = _intake_file_unexpected("{path}: {found}, expected a file. Move it elsewhere.")
FILE_NAME_NOT_ALLOWED = _intake_file_unexpected(
    "{path}: this file name is not allowed in an adapter. Expected letters, digits, . _ and - before one of "
    "{known}. Move the file elsewhere."
)
SECOND_TENSOR_FILE = _intake_file_unexpected(
    "{path}: an adapter has a single tensor file, here {expected}. Move this file elsewhere."
)
FILE_NOT_TEXT = _intake_file_unexpected(
    "{path}: a file with this suffix must be text in UTF-8. Write the file again, or leave it out."
)

_intake_file_unsafe = partial(Problem, Refused, "intake.file-unsafe")
FILE_UNSAFE = _intake_file_unsafe(f"{{path}}: a file of this kind can run code when it is opened. {INSTEAD}.")
CONTENT_UNSAFE = _intake_file_unsafe(f"{{path}}: by its content this is {{found}}: {{reason}}. {INSTEAD}.")
WEIGHTS_UNSAFE = _intake_file_unsafe(
    "{path}: the weights are in {file}, a format that can run code when opened; expected {expected}. Open the "
    "file where you trust it, and save it again with save_pretrained."
)

_intake_too_large = partial(Problem, Refused, "intake.too-large")
BUNDLE_INDEX_TOO_LARGE = _intake_too_large(
    "{path}: its {file} has {found:,} bytes, more than the limit of {most:,}. " + BUNDLE_AGAIN
)
BUNDLE_TOO_LARGE = _intake_too_large(
    "{path}: the bundle has {found:,} {unit}, more than the limit of {most:,}. If you trust the bundle, raise "
    "the limit `{limit}`."
)
ADAPTER_TOO_LARGE = _intake_too_large(
    "{path}: {_found}, more than the limit of {most:,}. If this is intended, set another limit, {limit}=..., "
    "with `limits`."
)
TOO_MANY_FILES = _intake_too_large(
    "{path}: {found:,} files, more than the limit of {most:,}. Remove files that do not belong to the adapter, "
    "or set another limit, files=..., with `limits`."
)

VALUES_NOT_FINITE = Problem(
    Refused,
    "intake.values-not-finite",
    "{path}: {tensor!r} has NaN or infinite values, which make every answer wrong. Train the adapter again, at a "
    "lower learning rate or in float32.",
)

_key_invalid = partial(Problem, InvalidName, "key.invalid")
SCOPE_MISSING = _key_invalid("`scope`: no scope was given. Expected one or more of {known}.")
EXPIRY_PAST = _key_invalid("`expires`: {found} is in the past. Give a later time.")
KEY_LIMIT_INVALID = _key_invalid("`{limit}`: found {found}, expected {expected}, from 1 to {most:,}.")
EXPIRY_MALFORMED = _key_invalid(
    "`expires`: found {found!r}, expected days or hours from now, such as 90d or 12h, or a date such as 2027-01-31."
)

KEY_REVOKED = Problem(Refused, "key.revoked", "key {key}: the key was already revoked at {revoked}.")

KEY_UNKNOWN = Problem(
    NotFound, "key.unknown", "key {key}: the store has no key with this id. `afina keys list` shows all keys."
)

_merge_impossible = partial(Problem, Refused, "merge.impossible")
MERGE_OF_BAG_OF_WORDS = _merge_impossible(
    "{where}: an adapter of method {method} is a bag-of-words model without a backbone, so it cannot be merged. "
    "Use it with afina."
)
MERGE_WITH_OFFSET = _merge_impossible(
    "{where}: the adapter adds an offset to its logits, and transformers' head has no bias for it. Train the "
    "adapter without `offset` (a linear probe: on texts of every label), or use it with afina."
)

_model_config_unusable = partial(Problem, InvalidStudy, "model.config-unusable")
NOT_A_CLASSIFIER = _model_config_unusable(
    "{path}: architectures is {found!r:.80}, expected a ...ForSequenceClassification. A language model does not "
    "tell its prompts: use it as a `backbone` instead."
)
LABELS_UNUSABLE = _model_config_unusable(
    "{path}: id2label is {found!r:.80}, expected a different name for each of 0, 1, ... Correct id2label and "
    "label2id there."
)

_model_file_missing = partial(Problem, NotFound, "model.file-missing")
CONFIG_MISSING = _model_file_missing(
    "{path}: no {file} there. Give a directory that a classifier's save_pretrained wrote."
)
WEIGHTS_MISSING = _model_file_missing(
    "{path}: no {file} or {index} there. Give a directory that save_pretrained wrote."
)
TOKENIZER_MISSING = _model_file_missing(
    "{path}: no tokenizer there, expected one of {expected}. Save the tokenizer into the directory with "
    "save_pretrained."
)

_option_inapplicable = partial(Problem, InvalidStudy, "option.inapplicable")
PRECISION_OF_MODEL = _option_inapplicable(
    "{path}: this is a transformers model, whose own weights are published. Leave `precision` out."
)
BACKBONE_WITHOUT_MERGED = _option_inapplicable(
    "{version}: `backbone` is only used with `merged`. Leave `backbone` out."
)
OPTION_OF_BUNDLE = _option_inapplicable("{path}: a bundle names its {option} itself. Leave `{option}` out.")
BACKBONE_NAMED = _option_inapplicable("{path}: the adapter names its backbone. Leave `backbone` out.")
BUNDLE_OF_MERGED = _option_inapplicable("{path}: a bundle cannot have a merged model. Leave `merged` out.")

_option_invalid = partial(Problem, InvalidStudy, "option.invalid")
LIMIT_INVALID = _option_invalid("limit {option} = {found!r}: expected a whole number of at least 1.")
LIMIT_UNKNOWN = _option_invalid(
    "limits {given!r}: {found!r} is not a limit. Expected limits such as tensors=100,bytes=1GiB. Known: {known}."
)
LIMIT_TWICE = _option_invalid("limits {given!r}: {option} occurs twice. Leave one out.")

BACKBONE_UNNAMED = Problem(
    InvalidStudy,
    "option.missing",
    "{path}: this is a transformers model. Give the model that was fine-tuned, with `backbone`.",
)

OUT_EXISTS = Problem(Refused, "out.exists", "{path}: the path exists already. Give a new path.")
_reference_version_missing = partial(Problem, Refused, "reference.version-missing")
NUMBER_MISSING = _reference_version_missing(
    "{reference}: the version's number is missing. Give the number, as in {name}@3."
)
VERSION_UNNAMED = _reference_version_missing(
    "{reference}: the version is missing. Give the version for the alias, as in {reference}@{number}."
)

SHADOW_IS_PRODUCTION = Problem(
    Refused,
    "shadow.is-production",
    "{version}: this version is production itself. Name another version to compare with production.",
)

_store_address_malformed = partial(Problem, InvalidName, "store.address-malformed")
NOT_AN_ADDRESS = _store_address_malformed(
    "`store` {found!r}: not the address of a store. Expected a directory, or postgresql://USER:PASSWORD@HOST/DATABASE."
)
PLACE_UNUSABLE = _store_address_malformed("`store` {path}: cannot be used ({reason}). Expected a directory.")
STORE_IS_A_FILE = _store_address_malformed("`store` {path}: is a file, expected a directory.")
URL_MALFORMED = _store_address_malformed(
    "store {store}: malformed URL. Expected postgresql://USER:PASSWORD@HOST/DATABASE."
)
NO_SUCH_USER = _store_address_malformed("`store` {found!r}: there is no user with this name. Expected a directory.")

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
TENSORS_CHANGED = _store_content_changed(
    "{where}: the {tensors} tensors have digest {found:.19}, but the manifest states {expected!s:.19}. " + VERIFY
)
VOCABULARY_MISSING = _store_content_changed("{where}: the file {file} is missing. " + VERIFY)
ADAPTER_CORRUPT = _store_content_changed("{where}: {reason} " + VERIFY)
FILE_NOT_ALLOWED = _store_content_changed("{where}: the file {file!r} is not allowed in a store. " + VERIFY)
PEFT_SETTINGS_DIFFER = _store_content_changed("{where}: {file}: {reason}. " + VERIFY)
TENSOR_MISPLACED = _store_content_changed(
    "{where}: the tensor {tensor!r} does not belong in the part `{part}`. " + VERIFY
)
VERSION_CHANGED = _store_content_changed(
    "{where}: the version has digest {found:.19}, its manifest states {expected!s:.19}. The version was changed. "
    "`afina store verify` lists all damage."
)
PART_FILE_INVALID = _store_content_changed(
    "{where}: the row of the part {what} names the file {found!r:.80}, which is not a file of this part. `afina "
    "store verify` lists all damage."
)
PART_CHANGED = _store_content_changed(
    "{where}: its {what} has digest {found:.19}, expected {expected:.19}: the file {path} was changed. `afina "
    "store verify` lists all damage."
)

DATABASE_DAMAGED = Problem(
    CorruptStore,
    "store.database-damaged",
    "store {store}: its database is damaged ({reason}). Restore {where} from a backup; the blobs need no "
    "restoring.{_then}",
)

_store_exists = partial(Problem, Refused, "store.exists")
STORE_EXISTS = _store_exists("store {store}: the store exists already. Use this store, or choose another place.")

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
DATABASE_NOT_OPENED = _store_unreachable(
    "{where}: {url} cannot be opened. Check that it is a file with read permission."
)

_text_not_storable = partial(Problem, InvalidName, "text.not-storable")
TEXT_TOO_LONG = _text_not_storable("`{field}`: found {letters:,} characters, expected at most {most:,}.")
ZERO_CHARACTER = _text_not_storable("`{field}`: found a zero character in {found}. Remove the zero character.")
REASON_MISSING = _text_not_storable(
    "`{field}`: found no text, expected a reason in a few words, at most {most:,} characters."
)
LONE_SURROGATE = _text_not_storable(
    "`{field}`: found {found}, which has a lone surrogate (half a character). Give the text in UTF-8."
)

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
REMOVED_WHILE_CHECKED = _version_missing("{version}: the version was removed while it was checked.")
VERSION_MISSING = _version_missing("{reference}: version {version} {reason}. {_there}")
NO_VERSION = _version_missing("{reference}: all versions were deleted. Publish a new version.")
REMOVED_WHILE_READ = _version_missing("{version}: the version was removed while it was read.")

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

BACKUP_LACKS_BLOBS = _backup_damaged("{path}: {blobs} blobs are missing, such as {blob}. Use another backup.")

BACKUP_MISSING = Problem(
    NotFound, "backup.missing", "{path}: the directory has no backup (no {expected}). Name the directory of a backup."
)

_backup_place_unusable = partial(Problem, Refused, "backup.place-unusable")
BACKUP_IN_STORE = _backup_place_unusable(
    "{path}: this directory is inside the store. Name a directory elsewhere for the backup."
)

BACKUP_OF_ANOTHER_STORE = _backup_place_unusable(
    "{path}: the directory has a backup of another store, or a backup that was changed later. Name another directory."
)

NOT_A_BACKUP = _backup_place_unusable(
    "{path}: the directory has files that are not a backup (no {expected}). Name a new directory, or the directory "
    "of an earlier backup."
)

PLACE_NOT_READABLE = _backup_place_unusable(
    "{path}: cannot be read as a directory ({reason}). Name a directory for the backup."
)

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

RECOVER_INTO_STORE = _store_exists("store {store}: the store exists already. Recover into a place without a store.")

STORE_CREATED_MEANWHILE = _store_exists("store {store}: another process has created this store meanwhile.")

FORMAT_UNKNOWN = Problem(
    Refused,
    "store.format-unknown",
    "store {store}: the store has format {found}, this version of afina reads {expected}. Install the version of "
    "afina that made the store, or publish the adapters to a new store.",
)

NO_STORE = _store_missing("store {store}: there is no store. Give another with `store`, or {_how}.")

STORE_UNREADABLE = _store_unreachable("store {store}: cannot be read ({reason}). Check its permissions.")
