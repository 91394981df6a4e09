"""The errors of executors, each with its exception class, code, fields and message."""

from __future__ import annotations

from functools import partial

from afina.errors import LESS_MEMORY, InvalidData, InvalidStudy, NotFound, Problem, RunFailed

BACKBONE_NOT_ON_NODES = Problem(
    NotFound,
    "cluster.backbone-missing",
    "backbone {backbone}: the directory is missing, or has other files, on node {nodes}. Set `ship_backbone` to copy "
    "it to the storage, or copy it to the same path on each node.",
)
_cluster_storage_unusable = partial(Problem, NotFound, "cluster.storage-unusable")
STORAGE_UNUSABLE = _cluster_storage_unusable(
    "storage {storage}: not all machines can use it: {nodes}. Give a directory that this machine and all nodes see, or "
    "s3://BUCKET/PREFIX, with credentials in the environment of each node."
)
STORAGE_LACKS = _cluster_storage_unusable(
    "storage {storage}: the file {path} is not there any more. Remove no files from the storage while a study runs."
)

FILE_CHANGED = Problem(
    InvalidData,
    "data.changed",
    "{path}: the file has digest {found:.19}. Expected {expected:.19}. The file changed while it was copied; start "
    "again.",
)

RANKS_MIXED = Problem(
    RunFailed,
    "ranks.lost",
    "the processes of another run met at the same port, so the run was ended. Start the run again.",
)

RAY_MISSING = Problem(NotFound, "extra.missing", "Ray is not installed. Install it: pip install 'afina[ray]'.")

LOST = Problem(
    RunFailed,
    "run.lost",
    "run {run}: the {lost} of this run was lost ({reason}), {tries} times in all. Start again; the run "
    "continues from its last checkpoint.",
)

CLUSTER_OPTION = Problem(
    InvalidStudy,
    "option.inapplicable",
    "`{option}` has no effect on this machine. Set `executor` to ray, or leave `{option}` out.",
)
SHARD_ALONE = Problem(
    InvalidStudy,
    "option.inapplicable",
    "`{option}` has no effect on one device, which keeps all weights of the backbone. Set `devices` to 2 or more, or "
    "leave `{option}` out.",
)
DEVICES_INVALID = Problem(
    InvalidStudy, "option.invalid", "`{option}` {found!r}: expected the number of devices of a run, 1 or more."
)
DEVICES_TOO_MANY = Problem(
    InvalidStudy,
    "option.invalid",
    "`{option}` {found:,}: this machine executes a run by at most {most} processes. Give a smaller number.",
)
EXECUTOR_UNKNOWN = Problem(
    InvalidStudy, "option.invalid", "{_where} {found}: expected local, ray or ray=ADDRESS, such as ray=10.0.0.1:6379."
)
STORAGE_MISSING = Problem(
    InvalidStudy,
    "option.missing",
    "Ray cluster: `storage` is missing, and nodes are not on this machine: {nodes}. Give a directory that this machine "
    "and all nodes see, or s3://BUCKET/PREFIX, which needs the extra 'afina[store]'.",
)

TRIAL_OF_TORCHRUN = Problem(
    InvalidStudy,
    "ranks.trial",
    "run {run}: processes that torchrun has started try out no settings. Start one process, and give `devices`.",
)

RUN_FAILED = Problem(RunFailed, "run.failed", "{_message}")

RUN_FAULT = Problem(
    RunFailed,
    "run.fault",
    "run {run}: a bug in afina ended its process. Please report the bug. The other runs are not affected. {_seen}",
)
KILLED = Problem(
    RunFailed,
    "run.killed",
    "run {run}: signal {signal} killed its process, most likely because memory ran out. "
    f"{LESS_MEMORY}, then start again.",
)
NO_PLACE = Problem(
    RunFailed,
    "run.no-place",
    "Ray cluster: a run needs {_missing}, and the cluster does not start nodes. Add nodes or larger ones, or lower the "
    "need: set `token_budget` to 1024, `checkpointing` to true, or `devices` to less.",
)
