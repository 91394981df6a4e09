"""All errors of `afina.server.ray_serve` that a user can cause. Each error has an exception class, code and message."""

from __future__ import annotations

from functools import partial

from afina.errors import InvalidStudy, NotFound, Problem, Refused, RunFailed

SERVE_SILENT = Problem(
    NotFound,
    "cluster.unreachable",
    "Ray cluster {address}: Ray Serve does not answer any more ({_said}). See `ray status`, and start the command "
    "again: it takes over a deployment that still runs.",
)

NOT_A_NUMBER_OF_REPLICAS = Problem(
    InvalidStudy,
    "option.invalid",
    "`{option}` is {found!r}. Expected a number such as 2, or the least and the most number such as 1:4.",
)

REPLICAS_FAILED = Problem(
    RunFailed,
    "server.replicas-failed",
    "the replicas did not start: {reason:.500} See the logs of the replicas: `ray logs`.",
)

SERVE_RUNS_ALREADY = Problem(
    Refused,
    "server.serve-running",
    "Ray Serve runs on this cluster already, on {host}:{port} with {_runs}. Its proxies cannot be changed while it "
    "runs. End it with `serve shutdown`, or use another cluster.",
)

_store_not_shared = partial(Problem, Refused, "store.not-shared")
SQLITE_ON_SEVERAL_MACHINES = _store_not_shared(
    "store {store}: the store is a SQLite file, and the cluster has several machines: {machines}. SQLite cannot be "
    "shared by machines, not even on a network file system. Give a database with `store`: "
    "postgresql://USER:PASSWORD@HOST/DATABASE."
)
STORE_NOT_ON_NODES = _store_not_shared(
    "store {store}: {directory} is not a directory on the nodes {nodes}. All nodes need the same store: give a shared "
    "directory or a bucket for blobs, and a database with `store`."
)
