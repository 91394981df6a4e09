"""The errors that `afina.cluster` raises, each with its exception class, stable code and message template."""

from __future__ import annotations

from functools import partial

from afina.errors import InvalidStudy, NotFound, Problem, Refused

_cluster_address_invalid = partial(Problem, InvalidStudy, "cluster.address-invalid")
NOT_AN_ADDRESS = _cluster_address_invalid(
    "Ray cluster {address}: not an address. Expected host:port, such as 10.0.0.1:6379."
)
RAY_CLIENT = _cluster_address_invalid(
    "Ray cluster {address}: Ray Client cannot be used, since a driver has to be on a machine of the cluster. Run afina "
    "there and give host:port, or use `ray job submit -- afina ...`."
)

CONNECTED_ELSEWHERE = Problem(
    InvalidStudy,
    "cluster.another",
    "Ray cluster {address}: this process is connected to the cluster at {found} already. Use that one, or call "
    "ray.shutdown() first.",
)

UNREACHABLE = Problem(
    NotFound,
    "cluster.unreachable",
    "Ray cluster {address} ({_named}): no cluster answers ({_reason}). Start one with `ray start`, and run afina on a "
    "machine of the cluster.",
)

TOKEN_REJECTED = Problem(
    Refused,
    "cluster.token-rejected",
    "Ray cluster {address}: the cluster rejects this process, whose token is wrong or missing ({_reason}). Copy the "
    "cluster's token to ~/.ray/auth_token, or set RAY_AUTH_TOKEN, and set RAY_AUTH_MODE=token.",
)

_cluster_versions_differ = partial(Problem, Refused, "cluster.versions-differ")
CLUSTER_VERSION_DIFFERS = _cluster_versions_differ(
    "Ray cluster {address}: {_said} Install the same versions of Ray and Python on all machines; here is Ray {_here}."
)
NODES_DIFFER = _cluster_versions_differ(
    "Ray cluster: {nodes}. This machine has {_here}. Install the same versions on all nodes, so that results do not "
    "depend on the node."
)
