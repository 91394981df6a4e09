"""Functions that check whether replicas can run on a Ray cluster, and choose the CPUs and GPUs of a replica."""

from __future__ import annotations

import math
import os
import secrets
from collections.abc import Mapping, Sequence

from afina.cluster.nodes import Node, check_versions, on_each, sees
from afina.server.ray_serve import problems
from afina.server.ray_serve.deployment import DeploymentOptions, ReplicaRange
from afina.store.adapter_store import AdapterStore


def check_cluster(nodes: Sequence[Node], store: AdapterStore) -> None:
    """Raise Refused unless all nodes of a cluster have the same package versions and can access the store."""
    check_versions(nodes)
    check_machines(nodes, store)
    for directory in filter(None, [store.address.directory, store.blobs_directory]):
        path = str(directory.absolute())
        seen = on_each(nodes, sees, path)
        if blind := [node.name for node in nodes if not seen.get(node.key, True)]:
            raise problems.STORE_NOT_ON_NODES(store=store.address.shown, directory=path, nodes=blind)


def check_machines(nodes: Sequence[Node], store: AdapterStore) -> None:
    """Raise Refused if the store is a directory (with a SQLite file) and the nodes are on several machines."""
    # All loopback addresses belong to the same machine.
    machines = {node.host if node.address.startswith("127.") else f"{node.host} {node.address}" for node in nodes}
    if store.address.directory is not None and len(machines) > 1:
        raise problems.SQLITE_ON_SEVERAL_MACHINES(store=store.address.shown, machines=sorted(machines))


def planned_options(options: DeploymentOptions, nodes: Sequence[Node], free: Mapping[str, float]) -> DeploymentOptions:
    """Return the deployment options with the number of threads and GPUs of a replica, chosen for a cluster.

    Without the environment variable OMP_NUM_THREADS, the replicas on a node share its CPUs. If enough CPUs and GPUs are
    free, a redeployment starts a new replica before an old replica ends.
    """
    most = ReplicaRange.parse(options.replicas).most
    working = [node.room.cpus for node in nodes if node.room.cpus >= 1]
    from_environment = os.environ.get("OMP_NUM_THREADS", "")
    if from_environment.isdecimal() and int(from_environment):
        threads = int(from_environment)
    else:
        threads = max(1, min(working, default=1) // math.ceil(most / max(1, len(working))))
    gpus = 1.0 if any(node.room.gpus >= 1 for node in nodes) else 0.0
    surge = int(free.get("CPU", 0) >= threads and free.get("GPU", 0) >= gpus)
    return options.model_copy(update={"threads": threads, "gpus": gpus, "surge": surge, "owner": secrets.token_hex(4)})
