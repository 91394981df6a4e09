"""Connection to a Ray cluster: which cluster, and the errors if no cluster can be used.

Ray keeps one connection per process, so a connection that exists already is used. Does not know what the cluster is
used for.
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

from afina.errors import AfinaError, InvalidStudy, NotFound, Refused

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


def ray_module() -> Any:
    """Return the module `ray`. Raises NotFound if Ray is not installed."""
    try:
        import ray
    except ModuleNotFoundError:
        raise NotFound(
            "Ray is not installed. Install it: pip install 'afina[ray]'", code="extra.missing", extra="ray"
        ) from None
    return ray


def connect(address: str | None = None) -> ClusterConnection:
    """Connect this process to a cluster.

    The cluster is the one at `address`; else the one of this process; else the one at RAY_ADDRESS; else a cluster that
    runs on this machine; else a new one on this machine, which ends with this process.

    Raises:
        NotFound: Ray is not installed, or no cluster answers at the address.
        InvalidStudy: The address cannot be used, or this process is connected to another cluster.
        Refused: The cluster rejects the token, or runs another version of Ray or Python.
    """
    global _uses
    ray = ray_module()
    named, found = _named(address)
    if ray.is_initialized():
        here = str(ray.get_runtime_context().gcs_address)
        if address not in (None, "auto", "local", here):
            raise InvalidStudy(
                f"Ray cluster {address}: this process is connected to the cluster at {here} already. Use that one, or "
                "call ray.shutdown() first.",
                code="cluster.another",
                address=address,
                found=here,
            )
        _uses += _uses > 0
        return ClusterConnection(here, "connected already", ours=_uses > 0)
    _uses = 0  # ray.shutdown() may have ended an earlier connection
    with _quietly():
        if named is None:
            try:
                _init(ray, "auto")
                found = "running on this machine"
            except (ConnectionError, ValueError):
                named = "local"
        if named == "local":
            _init(ray, "local", include_dashboard=False)
            found = "started on this machine, until this process ends"
        elif named is not None:
            _init_at(ray, named, found)
    _uses = 1
    return ClusterConnection(str(ray.get_runtime_context().gcs_address), found, ours=True)


def disconnect(connection: ClusterConnection) -> None:
    """End the connection if `connect` made it and nothing else of this process uses it."""
    global _uses
    if connection.ours:
        _uses -= 1
        if _uses == 0:
            ray_module().shutdown()


def _named(address: str | None) -> tuple[str | None, str]:
    """Return the address that is given, and where it is given; None if no address is given."""
    named, found = address, "as given"
    if named is None:
        named, found = os.environ.get(ADDRESS) or None, f"from {ADDRESS}"
    if named in ("auto", "local"):
        return (None if named == "auto" else named), found
    if named is not None and "://" in named:
        raise InvalidStudy(
            f"Ray cluster {named}: Ray Client cannot be used, since files would pass through its proxy. Run afina on a "
            f"machine of the cluster and give host:port, or use `ray job submit -- afina ...`.",
            code="cluster.address-invalid",
            address=named,
        )
    if named is not None and not named.rpartition(":")[2].isdecimal():
        raise InvalidStudy(
            f"Ray cluster {named}: not an address. Expected host:port, such as 10.0.0.1:6379.",
            code="cluster.address-invalid",
            address=named,
        )
    return named, found


def _init_at(ray: Any, address: str, found: str) -> None:
    """Connect to the cluster at a given address, and say why if that fails."""
    where = f"Ray cluster {address} ({found})"
    try:
        _greet(ray, address)
        _init(ray, address)
    except ray.exceptions.AuthenticationError as error:
        raise _rejected(address, error) from None
    except (ConnectionError, ValueError, OSError) as error:
        raise NotFound(
            f"{where}: no cluster answers ({_first_line(error)}). Start one with `ray start`, and run afina on "
            "a machine of the cluster.",
            code="cluster.unreachable",
            address=address,
        ) from None


def _greet(ray: Any, address: str) -> None:
    """Ask the cluster for its id: `ray.init` does not say that an address is wrong, or that a token is rejected.

    If the user has a token and has not said whether to use it, the token is used where the cluster requires one.
    """
    host, _, port = address.rpartition(":")
    with socket.create_connection((host.strip("[]"), int(port)), timeout=PATIENCE):
        pass
    from ray._private.authentication import authentication_token_setup

    client, errors = ray._raylet.GcsClient, ray.exceptions
    try:
        with _without_stderr():
            client(address=address)
    except errors.AuthenticationError:
        if AUTHENTICATION in os.environ or not authentication_token_setup.maybe_enable_token_auth_if_token_available(
            warn_if_disabled=False
        ):
            raise
        client(address=address)


def _init(ray: Any, address: str, **options: Any) -> None:
    job = ray.job_config.JobConfig()
    job._client_job = True  # otherwise every worker imports from the current folder of this process first
    try:
        ray.init(address, log_to_driver=False, logging_level=logging.CRITICAL, job_config=job, **options)
    except RuntimeError as error:
        if "ersion mismatch" in str(error):
            raise _other_version(address, error) from None
        raise ConnectionError(_first_line(error)) from None


def _rejected(address: str, error: Exception) -> AfinaError:
    return Refused(
        f"Ray cluster {address}: the cluster rejects this process, whose token is wrong or missing "
        f"({_first_line(error).partition('. ')[0]}). Copy the cluster's token to ~/.ray/auth_token, or set "
        "RAY_AUTH_TOKEN, and set RAY_AUTH_MODE=token.",
        code="cluster.token-rejected",
        address=address,
    )


def _other_version(address: str, error: Exception) -> AfinaError:
    said = " ".join(line.strip() for line in str(error).splitlines() if line.strip())
    return Refused(
        f"Ray cluster {address}: {said} Install the same versions of Ray and Python on all machines; here is Ray "
        f"{importlib.metadata.version('ray')}.",
        code="cluster.versions-differ",
        address=address,
    )


def _first_line(error: Exception) -> str:
    return next((line.strip().rstrip(".") for line in str(error).splitlines() if line.strip()), type(error).__name__)


@contextmanager
def _without_stderr() -> Iterator[None]:
    """Drop what Ray's C++ code writes to standard error in the block; the caller's error says the same."""
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

    Ray prints messages about workers and nodes that died even without `log_to_driver`. The caller says the same in a
    sentence.
    """
    from ray._private import worker

    logging.getLogger("ray").setLevel(logging.CRITICAL)
    worker.print_to_stdstream = lambda *_, **__: None  # type: ignore[assignment]
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)
