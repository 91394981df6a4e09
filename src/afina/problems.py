"""The errors that the modules directly in `afina` raise, each with its exception class, stable code and message."""

from __future__ import annotations

from functools import partial

from afina.errors import CorruptAdapter, InvalidData, InvalidName, InvalidStudy, NotFound, Problem, Refused, RunFailed

AGAIN = "Copy the adapter again, or train it again."

SAVE_IT = "Save its splits as train.csv and validation.csv, and give their directory."

FILE_MALFORMED = Problem(CorruptAdapter, "adapter.file-malformed", "{path}: {reason}. " + AGAIN)

FILE_MISSING = Problem(CorruptAdapter, "adapter.file-missing", "{path}: the file is missing. " + AGAIN)

FILE_UNREADABLE = Problem(CorruptAdapter, "adapter.file-unreadable", "{path}: cannot be read ({reason}). " + AGAIN)

_asset_unavailable = partial(Problem, NotFound, "asset.unavailable")
ASSET_NOT_DOWNLOADED = _asset_unavailable(
    "asset {asset}: {reason}.\nPut {file} (sha256 {sha256}, from {package}=={version}) into {directory} and try again."
)
ASSET_DIFFERS = _asset_unavailable(
    "asset {asset}: {path} has sha256 {found}, expected {sha256}. Remove this file, or replace it with {file} of "
    "{package}=={version} from the package index."
)
CACHE_NOT_WRITABLE = _asset_unavailable(
    "asset {asset}: cannot write to the cache {directory} ({reason}). Free disk space there, or set AFINA_CACHE "
    "to a writable folder."
)

BACKBONE_MISSING = Problem(
    NotFound,
    "backbone.missing",
    "backbone {backbone}: there is no such local directory, and no such repository on the Hub. {_meant}Give a "
    "Hub id such as gpt2, a directory, or 'embedded'.",
)

BACKBONE_UNREACHABLE = Problem(
    NotFound,
    "backbone.unreachable",
    "backbone {backbone}: no such local directory, no cached copy, and the Hub cannot be reached. {_meant}Save "
    "the model with save_pretrained on a machine with network access and give its directory; or use 'embedded', "
    "which comes from the package index.",
)

INT8_UNSUPPORTED = Problem(InvalidStudy, "dtype.unsupported", "dtype int8: {reason}. Use float32, bfloat16 or auto.")

_hub_file_unsafe = partial(Problem, Refused, "hub.file-unsafe")
PATTERN_UNSAFE = _hub_file_unsafe("{address}: files {file!r} may contain code. Expected patterns such as {expected}.")
UPLOAD_UNSAFE = _hub_file_unsafe("{path}: found {found}. Expected files such as {expected}; nothing was sent.")

DATA_SET_GATED = Problem(
    NotFound,
    "hub.gated",
    "the Hub's {repository} is gated. Accept the terms on its page and log in with `hf auth login`, or save its "
    "splits as files and give their directory.",
)

REPOSITORY_MISSING = Problem(
    NotFound,
    "hub.missing",
    "the Hub's {repository}: the {what} does not exist or is private. Check the name, or log in with `hf auth login`.",
)

HUB_NAME_MALFORMED = Problem(
    InvalidName,
    "hub.name-malformed",
    "{repository!r} cannot be a repository on the Hub. Expected owner/name: letters, digits, and . _ - between them.",
)

NO_PARQUET = Problem(NotFound, "hub.no-parquet", "the Hub has no parquet files of {repository}{_reason}. " + SAVE_IT)

_hub_part_missing = partial(Problem, NotFound, "hub.part-missing")
HUB_PART_MISSING = _hub_part_missing("the Hub's {repository} has no {what}. {_advice}")
SEVERAL_CONFIGURATIONS = _hub_part_missing(
    "the Hub's {repository} has several configurations. Found: {found}. Name one: hub:{repository}:NAME."
)

_hub_unreachable = partial(Problem, NotFound, "hub.unreachable")
HUB_UNREACHABLE = _hub_unreachable("the Hub's {repository} cannot be reached and no copy is cached ({reason}).")
UPLOAD_BROKEN_OFF = _hub_unreachable(
    "{repository} cannot be reached ({reason}). Try again with network access; files that are there already are "
    "not sent twice."
)

SIZE_INVALID = Problem(
    InvalidStudy, "option.invalid", "{option} {found!r}: expected a size with its unit, such as 8GiB, 512MiB or 16GB."
)

OUT_EXISTS = Problem(
    Refused, "out.exists", "{path}: exists already, and is left as it is. Give another path, or remove this file."
)

RANKS_DIFFER = Problem(
    RunFailed,
    "ranks.unequal",
    "the {ranks} processes of the run have {found} different versions of the trained weights, so the run was ended. "
    "Use machines of the same kind with the same software; the run continues from its last checkpoint.",
)

RANK_WITHOUT_GPU = Problem(
    InvalidStudy,
    "ranks.too-few-gpus",
    "process {number} of the run on this machine: the machine has {gpus} GPUs, and each process needs its own GPU. "
    'Start at most {gpus} processes on this machine, or hide its GPUs (CUDA_VISIBLE_DEVICES="").',
)

RANK_LOST = Problem(
    RunFailed,
    "ranks.lost",
    "another process of the run was lost or does not answer ({step}: {reason}). Start the run again: it continues from "
    "its last checkpoint, also with another number of processes.",
)

REHEARSED_BY_RANK = Problem(
    Refused,
    "ranks.joined",
    "the memory of sharded weights cannot be forecast in a process that has a process group of torch.distributed. Make "
    "the forecast in a process of its own.",
)

RESULTS_FORMAT_UNKNOWN = Problem(
    InvalidData,
    "results.format-unknown",
    "{path}: the results have format {found}, this version of afina reads {expected}. {_advice}",
)
