"""Connect this process to a Ray cluster: find the cluster, and explain why no cluster can be used.

Ray keeps one connection for each process, so an existing connection of the process is used.
"""

from __future__ import annotations

import importlib.metadata
import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import ray
from ray._private import worker
from ray._private.authentication import authentication_token_setup

from afina.cluster import problems

ADDRESS = "RAY_ADDRESS"
"""The environment variable from which Ray reads the address of a cluster; `ray job submit` sets this variable."""


AUTHENTICATION = "RAY_AUTH_MODE"
"""The environment variable that says whether Ray authenticates with a token."""

PATIENCE = 10.0
"""The number of seconds to wait until the machine at a cluster's address answers."""


@dataclass(frozen=True)
class ClusterConnection:
    """A connection of this process to the Ray cluster at `address`, host:port.

    `found` says how the cluster was found. `ours`: `connect` opened the connection, so that `disconnect` closes it.
    """

    address: str
    found: str
    ours: bool = False


_uses = 0
"""The number of callers that use the connection that the function `connect` opened."""


def connect(address: str | None = None) -> ClusterConnection:
    """Connect this process to a Ray cluster.

    The first of these clusters that exists is used: the cluster at `address`, the cluster that this process is
    connected to, the cluster at RAY_ADDRESS, and a cluster that runs on this machine. If no Ray cluster exists, a new
    one is started on this machine, which ends with this process.

    Raises:
        NotFound: No Ray cluster answers at the address.
        InvalidStudy: The address is malformed, or this process is connected to another cluster.
        Refused: The cluster rejects the token, or runs another version of Ray or Python.
    """
    global _uses
    named, found = _named(address)
    if ray.is_initialized():
        here = str(ray.get_runtime_context().gcs_address)
        if address not in (None, "auto", "local", here):
            raise problems.CONNECTED_ELSEWHERE(address=address, found=here)
        _uses += _uses > 0
        return ClusterConnection(here, "connected already", ours=_uses > 0)
    _uses = 0  # ray.shutdown() may have ended an earlier connection
    with _quietly():
        if named is None:
            try:
                _init("auto")
                found = "running on this machine"
            except (ConnectionError, ValueError):
                named = "local"
        if named == "local":
            _init("local", include_dashboard=False)
            found = "started on this machine, until this process ends"
        elif named is not None:
            _init_at(named, found)
    _uses = 1
    return ClusterConnection(str(ray.get_runtime_context().gcs_address), found, ours=True)


def disconnect(connection: ClusterConnection) -> None:
    """Close a connection to a Ray cluster if `connect` opened it and nothing else in this process uses it."""
    global _uses
    if connection.ours:
        _uses -= 1
        if _uses == 0:
            ray.shutdown()


def _named(address: str | None) -> tuple[str | None, str]:
    """Return the address of a Ray cluster from the argument or RAY_ADDRESS (None: neither), and where it was found."""
    named, found = address, "as given"
    if named is None:
        named, found = os.environ.get(ADDRESS) or None, f"from {ADDRESS}"
    if named in ("auto", "local"):
        return (None if named == "auto" else named), found
    if named is not None and "://" in named:
        raise problems.RAY_CLIENT(address=named)
    if named is not None and not named.rpartition(":")[2].isdecimal():
        raise problems.NOT_AN_ADDRESS(address=named)
    return named, found


def _init_at(address: str, found: str) -> None:
    try:
        _greet(address)
        _init(address)
    except ray.exceptions.AuthenticationError as error:
        reason = _first_line(error).partition(". ")[0]
        raise problems.TOKEN_REJECTED(address=address, _reason=reason) from None
    except (ConnectionError, ValueError, OSError) as error:
        raise problems.UNREACHABLE(address=address, _named=found, _reason=_first_line(error)) from None


def _greet(address: str) -> None:
    """Check that a Ray cluster answers and accepts the token, because `ray.init` does not report this.

    A token that the user has is used if the cluster requires one, unless AUTHENTICATION is set.
    """
    host, _, port = address.rpartition(":")
    with socket.create_connection((host.strip("[]"), int(port)), timeout=PATIENCE):
        pass
    client, errors = ray._raylet.GcsClient, ray.exceptions  # type: ignore[attr-defined]
    try:
        with _without_stderr():
            client(address=address)
    except errors.AuthenticationError:
        if AUTHENTICATION in os.environ or not authentication_token_setup.maybe_enable_token_auth_if_token_available(
            warn_if_disabled=False
        ):
            raise
        client(address=address)


def _init(address: str, **options: Any) -> None:
    job = ray.job_config.JobConfig()
    job._client_job = True  # otherwise every worker imports from the current folder of this process first
    try:
        ray.init(address, log_to_driver=False, logging_level=logging.CRITICAL, job_config=job, **options)
    except RuntimeError as error:
        if "ersion mismatch" in str(error):
            said = " ".join(line.strip() for line in str(error).splitlines() if line.strip())
            here = importlib.metadata.version("ray")
            raise problems.CLUSTER_VERSION_DIFFERS(address=address, _said=said, _here=here) from None
        raise ConnectionError(_first_line(error)) from None


def _first_line(error: Exception) -> str:
    return next((line.strip().rstrip(".") for line in str(error).splitlines() if line.strip()), type(error).__name__)


@contextmanager
def _without_stderr() -> Iterator[None]:
    """Discard what Ray's C++ code writes to standard error in the `with` block; the raised error has the reason."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


@contextmanager
def _quietly() -> Iterator[None]:
    """Restore this process's handler of SIGTERM, which Ray replaces in the block, and silence Ray's messages.

    Even without `log_to_driver`, Ray prints messages about workers and nodes that died; afina reports these itself.
    """
    logging.getLogger("ray").setLevel(logging.CRITICAL)
    worker.print_to_stdstream = lambda *_, **__: None  # type: ignore[assignment]
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)
