"""Connection to a Ray cluster: which cluster is used, and the errors if no cluster can be used.

Ray keeps one connection per process, so a connection that exists already is used. The module does not know what the
cluster is used for.
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
"""The variable with the address of a cluster, as Ray reads it; `ray job submit` sets it."""


AUTHENTICATION = "RAY_AUTH_MODE"
"""The variable that says whether Ray uses a token."""

PATIENCE = 10.0
"""Seconds to wait for a machine at an address."""


@dataclass(frozen=True)
class ClusterConnection:
    """A connection of this process to a cluster.

    Attributes:
        address: The address of the cluster, host:port.
        found: How the cluster was found, in words.
        ours: Whether `connect` made the connection, so that `disconnect` ends it.
    """

    address: str
    found: str
    ours: bool = False


_uses = 0
"""How many callers of `connect` use the connection that it made."""


def connect(address: str | None = None) -> ClusterConnection:
    """Connect this process to a cluster.

    The cluster is the one at `address`; else the one of this process; else the one at RAY_ADDRESS; else a cluster that
    runs on this machine; else a new one on this machine, which ends with this process.

    Raises:
        NotFound: No cluster answers at the address.
        InvalidStudy: The address cannot be used, or this process is connected to another cluster.
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
    """End the connection if `connect` made it and nothing else of this process uses it."""
    global _uses
    if connection.ours:
        _uses -= 1
        if _uses == 0:
            ray.shutdown()


def _named(address: str | None) -> tuple[str | None, str]:
    """Return the address that is given, and where it is given; None if no address is given."""
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
    """Connect to the cluster at a given address, and raise an error with the reason if this fails."""
    try:
        _greet(address)
        _init(address)
    except ray.exceptions.AuthenticationError as error:
        reason = _first_line(error).partition(". ")[0]
        raise problems.TOKEN_REJECTED(address=address, _reason=reason) from None
    except (ConnectionError, ValueError, OSError) as error:
        raise problems.UNREACHABLE(address=address, _named=found, _reason=_first_line(error)) from None


def _greet(address: str) -> None:
    """Ask the cluster for its id: `ray.init` does not report that an address is wrong, or that a token is rejected.

    If the user has a token and has not said whether to use it, the token is used where the cluster requires one.
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
    """Discard what Ray's C++ code writes to standard error in the `with` block; the caller's error has the reason."""
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
    """Keep this process's handler of SIGTERM, which Ray replaces, and keep Ray's lines off the terminal.

    Ray prints messages about workers and nodes that died even without `log_to_driver`. The caller reports them in a
    sentence.
    """
    logging.getLogger("ray").setLevel(logging.CRITICAL)
    worker.print_to_stdstream = lambda *_, **__: None  # type: ignore[assignment]
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)
