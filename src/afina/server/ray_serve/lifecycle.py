"""The foreground command of a server on Ray, which starts the Ray Serve deployment, watches it and ends it."""

from __future__ import annotations

import contextlib
import logging
import re
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import Any

import ray
from ray import serve
from ray.serve.config import HTTPOptions, ProxyLocation
from ray.serve.context import _get_global_client
from ray.serve.exceptions import RayServeException
from ray.serve.schema import ApplicationStatus, ApplicationStatusOverview, LoggingConfig

from afina import device, meter
from afina.cluster.connection import ClusterConnection, connect
from afina.cluster.nodes import Node, check_versions, living, on_each, sees
from afina.errors import RunFailed
from afina.models.backbone_spec import absolute_address, check_backbone
from afina.server import logs_and_traces
from afina.server.ray_serve import problems
from afina.server.ray_serve.deployment import NAME, OWNER, DeploymentOptions, application, planned_options
from afina.server.ray_serve.proxy import CALLBACK
from afina.server.running import KEEP_ALIVE
from afina.server.settings import Settings
from afina.server.sockets import bind
from afina.store.adapter_store import AdapterStore

FORCED = {"RAY_SERVE_FORCE_STOP_UNHEALTHY_REPLICAS": "1"}
"""The environment variable with which Ray Serve kills a replica that fails its health checks, instead of asking it to
shut down."""

LOOKS = 1.0  # seconds between two checks of the deployment's state

_LOOPBACK = re.compile(r"localhost|127\.[0-9.]+|::1")


def serve_on_ray(
    options: DeploymentOptions,
    address: str | None,
    host: str,
    port: int,
    listening: Callable[[str], None] = lambda url: None,
) -> None:
    """Serve on a Ray cluster until SIGTERM, SIGHUP or SIGINT, or until another such command takes over the deployment.

    Args:
        address: the address of the Ray cluster; None for the cluster of the environment variable RAY_ADDRESS, else a
            cluster on this machine, else a new cluster.
        port: the port on which Ray Serve's HTTP proxies listen. 0: any free port.
        listening: called with the server's URL when the server accepts requests.

    Raises:
        Refused: nodes have different package versions, a node cannot access the store, or Ray Serve runs another
            application.
        Busy: another process uses the port.
        RunFailed: the replicas did not start.
        UnknownName: the dtype is unknown.
        NotFound: the cluster does not respond.
    """
    settings = Settings(**options.settings)  # type: ignore[arg-type]
    check_backbone(options.backbone)
    options = options.model_copy(update={"backbone": absolute_address(options.backbone)})
    device.check_compute_type(options.dtype)  # a wrong name is said before anything is started
    with _connected(address) as connection, _handled_signals() as signals:
        nodes = living()
        check_cluster(nodes, AdapterStore(options.store))
        planned = planned_options(options, nodes, ray.available_resources())
        try:
            _serve(planned, settings, host, port or _free_port(host), listening, signals)
        except (ray.exceptions.RayError, RayServeException, ConnectionError) as error:
            reason = next(iter(str(error).strip().splitlines()), "")[:200] or type(error).__name__
            raise problems.SERVE_SILENT(address=connection.address, _said=reason) from None


def _serve(
    options: DeploymentOptions,
    settings: Settings,
    host: str,
    port: int,
    listening: Callable[[str], None],
    signals: _Signals,
) -> None:
    """Start Ray Serve and the deployment, watch the deployment until a signal arrives, and end it."""
    began = _begin_serve(host, port)
    try:
        if _deploy(options, signals):
            listening(f"http://{f'[{host}]' if ':' in host else host}:{port}")
            if _watch(options.owner, signals):
                logs_and_traces.note("another command has taken over the deployment, or has ended it")
                return
    except BaseException:
        if began:
            serve.shutdown()
        raise
    _end(settings, signals)


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


@contextlib.contextmanager
def _connected(address: str | None) -> Iterator[ClusterConnection]:
    connection = connect(address)
    logs_and_traces.note("connected to a Ray cluster", address=connection.address, found=connection.found)
    logging.getLogger("ray").setLevel(logging.WARNING)
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    logs_and_traces.adopt_loggers()
    try:
        yield connection
    finally:
        ray.shutdown()


class _Signals:
    """The events of the signal that ends the command, and of a second one, or SIGINT, which also ends the draining."""

    def __init__(self) -> None:
        self.first, self.second = threading.Event(), threading.Event()

    def handle(self, number: int, frame: FrameType | None) -> None:
        if self.first.is_set() or number == signal.SIGINT:
            self.second.set()
        self.first.set()


@contextlib.contextmanager
def _handled_signals() -> Iterator[_Signals]:
    signals, before = _Signals(), dict[int, Any]()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        if number != signal.SIGHUP or signal.getsignal(number) is signal.SIG_DFL:  # `nohup` ignores SIGHUP
            before[number] = signal.signal(number, signals.handle)
    try:
        yield signals
    finally:
        for changed, handler in before.items():
            signal.signal(changed, handler)


def _begin_serve(host: str, port: int) -> bool:
    """Start Ray Serve's controller and proxies, unless they run already. Return whether this call has started them.

    Raises Refused if Ray Serve runs another application, or on another host or port, and Busy for a port in use.
    """
    running = _get_global_client(raise_if_no_controller_running=False)
    if running is not None:
        options, names = running.http_config, sorted(serve.status().applications)
        if names != [NAME] or (options.host, options.port) != (host, port):
            runs = f"the applications {', '.join(names)}" if names else "no application"
            raise problems.SERVE_RUNS_ALREADY(host=options.host, port=options.port, applications=names, _runs=runs)
        logs_and_traces.note("taking over the deployment, which runs already")
        return False
    for socket in bind(host, port):
        socket.close()
    serve.start(
        proxy_location=ProxyLocation.HeadOnly if _LOOPBACK.fullmatch(host) else ProxyLocation.EveryNode,
        http_options=HTTPOptions(host=host, port=port, keep_alive_timeout_s=KEEP_ALIVE),
        logging_config=LoggingConfig(encoding="JSON", enable_access_log=False),
        controller_options={"runtime_env": {"env_vars": CALLBACK | FORCED}},
    )
    return True


def _free_port(host: str) -> int:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket) for socket in bind(host, 0)]
        port: int = sockets[0].getsockname()[1]
    return port


def _status() -> ApplicationStatusOverview | None:
    return serve.status().applications.get(NAME)


def _owner() -> str | None:
    """Return the random word (`owner`) of the command that deployed last. None: there is no deployment."""
    client = _get_global_client(raise_if_no_controller_running=False)
    if client is None:
        return None
    deployment = client.get_serve_details()["applications"].get(NAME, {}).get("deployments", {}).get(NAME)
    return None if deployment is None else (deployment["deployment_config"].get("user_config") or {}).get(OWNER)


def _deploy(options: DeploymentOptions, signals: _Signals) -> bool:
    """Deploy the application, and wait until it runs. Return False if a signal arrives before the application runs.

    Raises RunFailed if the replicas do not start.
    """
    serve.run_many([serve.RunTarget(application(options), name=NAME)], wait_for_applications_running=False)
    noted, waits = "", meter.now()
    while not signals.first.wait(0.1):
        status = _status()
        if status is None or status.status in (ApplicationStatus.DEPLOY_FAILED, ApplicationStatus.UNHEALTHY):
            raise _failed("" if status is None else _reason(status))
        if status.status == ApplicationStatus.RUNNING:
            return True
        message = next(iter(status.deployments.values())).message if status.deployments else ""
        if message and message != noted and meter.now() - waits > 5:
            noted = message
            logs_and_traces.note("waiting for replicas", logging.WARNING, reason=message.split("\n")[0][:300])
    return False


def _reason(status: ApplicationStatusOverview) -> str:
    return "\n".join(filter(None, [status.message, *(one.message for one in status.deployments.values())]))


def _failed(message: str) -> RunFailed:
    """Return an error whose reason is the message of the last AfinaError in the replicas' tracebacks, else a line."""
    raised = re.findall(r"^(?:\w+\.)*errors\.\w+: (.+)$", message, re.MULTILINE)
    last = raised[-1:] or message.strip().splitlines()[-1:] or ["no reason is known"]
    return problems.REPLICAS_FAILED(reason=last[0])


def _watch(owner: str, signals: _Signals) -> bool:
    """Log the deployment's states until a signal arrives; True: another command has redeployed or ended it before."""
    before = ApplicationStatus.RUNNING
    while not signals.first.wait(LOOKS):
        status = _status()
        if status is None or _owner() != owner:
            return True
        if status.status != before:
            bad = status.status == ApplicationStatus.UNHEALTHY
            level = logging.WARNING if bad else logging.INFO
            reason = _reason(status).split("\n")[0][:300] if bad else None
            logs_and_traces.note("state of the deployment", level, state=status.status.value.lower(), reason=reason)
            before = status.status
    return False


def _end(settings: Settings, signals: _Signals) -> None:
    """Drain and end the replicas, and then end Ray Serve. Requests that were accepted are finished."""
    logs_and_traces.note("draining", seconds=settings.drain)
    if settings.drain > 0:
        with contextlib.suppress(Exception):  # a replica that cannot be told is ended all the same
            serve.get_app_handle(NAME).broadcast("drain").results(timeout_s=5)
        signals.second.wait(settings.drain)
    with contextlib.suppress(TimeoutError):  # after a minute; replicas end within `shutdown` seconds
        serve.delete(NAME)
    serve.shutdown()
