"""The configuration of the Ray Serve deployment: number and resources of the replicas, routing and draining."""

from __future__ import annotations

import math
import os
import re
import secrets
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Self

from pydantic import Field
from ray import serve
from ray.serve.config import AutoscalingConfig, AutoscalingPolicy, BackpressureConfig, RequestRouterConfig
from ray.serve.schema import LoggingConfig

from afina import __version__, openmp
from afina.cluster.nodes import Node
from afina.server.ray_serve import problems
from afina.server.ray_serve.application import Replica, ReplicaOptions
from afina.server.ray_serve.autoscaling import ByWaitingTokens
from afina.server.ray_serve.routing import ResidencyRouter
from afina.server.settings import Settings

NAME = "afina"  # of the Ray Serve application and of its deployment
OWNER = "owner"  # the key, in the user configuration, of a random word for the command that deployed last


class ReplicaRange(NamedTuple):
    """The smallest and the largest number of replicas."""

    least: int
    most: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse a number of replicas, `N` or `MIN:MAX`. Raises InvalidStudy if the text has another form."""
        numbers = re.fullmatch(r"([0-9]{1,4})(?::([0-9]{1,4}))?", text.strip())
        size = cls(int(numbers[1]), int(numbers[2] or numbers[1])) if numbers else cls(0, 0)
        if not 1 <= size.least <= size.most:
            raise problems.NOT_A_NUMBER_OF_REPLICAS(option="replicas", found=text)
        return size


class DeploymentOptions(ReplicaOptions):
    """The options of a Ray Serve deployment as JSON values, which are also the arguments of `build`.

    Attributes:
        replicas: The number of replicas such as "2", or the smallest and the largest number such as "1:4".
        threads: The number of threads, and of CPUs, of a replica.
        gpus: The number of GPUs of a replica.
        surge: The number of new replicas that a redeployment may start before old replicas end.
        owner: A random word for the command that deploys. If only the word `owner` changes, the replicas are not
            restarted.
    """

    replicas: str = "1"
    threads: int = Field(default=1, ge=1)
    gpus: float = Field(default=0, ge=0)
    surge: int = Field(default=0, ge=0)
    owner: str = ""


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


def application(options: DeploymentOptions) -> serve.Application:
    """Return the Ray Serve application for some options. Raises InvalidStudy if the options are invalid."""
    size, settings = ReplicaRange.parse(options.replicas), Settings(**options.settings)  # type: ignore[arg-type]
    deployed = serve.deployment(
        name=NAME,
        user_config={OWNER: options.owner},
        **_number(size, settings),
        max_ongoing_requests=settings.connections,
        max_queued_requests=settings.connections,
        backpressure_config=BackpressureConfig(status_code=503, retry_after_s=1),
        graceful_shutdown_wait_loop_s=0.2,
        graceful_shutdown_timeout_s=max(1.0, settings.shutdown - settings.drain),
        health_check_period_s=1.0,
        health_check_timeout_s=5.0,  # a replica that fails three health checks in a row is replaced
        request_router_config=RequestRouterConfig(
            request_router_class=f"{ResidencyRouter.__module__}.{ResidencyRouter.__name__}",  # type: ignore[arg-type]
            request_routing_stats_period_s=0.5,  # type: ignore[arg-type]
        ),
        max_surge_percent=min(100, math.ceil(100 * options.surge / size.most)),
        logging_config=LoggingConfig(encoding=options.log_format.upper(), enable_access_log=False),
        ray_actor_options={
            "num_cpus": options.threads,
            "num_gpus": options.gpus,
            "runtime_env": {"env_vars": {"OMP_NUM_THREADS": str(options.threads), **openmp.variables()}},
        },
    )
    values = options.model_dump(include=set(ReplicaOptions.model_fields))
    bound: serve.Application = deployed(serve.ingress()(Replica)).bind({**values, "version": __version__})
    return bound


def _number(size: ReplicaRange, settings: Settings) -> dict[str, Any]:
    """Return Ray Serve's options for a fixed number of replicas, or for autoscaling within a range."""
    if size.least == size.most:
        return {"num_replicas": size.least}
    policy = AutoscalingPolicy(
        policy_function=f"{ByWaitingTokens.__module__}.{ByWaitingTokens.__name__}",
        policy_kwargs={"tokens": 2 * settings.batch_tokens},
    )
    return {
        "autoscaling_config": AutoscalingConfig(
            min_replicas=size.least,
            max_replicas=size.most,
            upscale_delay_s=5.0,
            downscale_delay_s=120.0,
            look_back_period_s=15.0,
            policy=policy,
        )
    }


def build(arguments: dict[str, Any]) -> serve.Application:
    """Return the Ray Serve application, as `serve run` and KubeRay's resource RayService call it."""
    return application(DeploymentOptions(**arguments))
