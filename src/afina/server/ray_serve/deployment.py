"""The Ray Serve deployment of replicas: their number, resources, routing and draining."""

from __future__ import annotations

import math
import re
from typing import Any, NamedTuple, Self

from pydantic import Field
from ray import serve
from ray.serve.config import AutoscalingConfig, AutoscalingPolicy, BackpressureConfig, RequestRouterConfig
from ray.serve.schema import LoggingConfig

from afina import __version__, openmp
from afina.server.ray_serve import problems
from afina.server.ray_serve.application import Replica, ReplicaOptions
from afina.server.ray_serve.autoscaling import ByWaitingTokens
from afina.server.ray_serve.routing import ResidencyRouter
from afina.server.settings import Settings

NAME = "afina"
"""Name of the application and of its deployment."""

OWNER = "owner"
"""Key of the deployment's user configuration: the command that deployed it last."""

HEALTH = 1.0, 5.0
"""Seconds between health checks of a replica, and until a check that is not answered has failed.

Serve replaces a replica that fails three checks in a row.
"""

STATISTICS = 0.5
"""Seconds between two looks at which adapters a replica has in memory."""

DRAINED = 0.2
"""Seconds between looks whether a replica that ends has unfinished requests."""

MORE, FEWER = 5.0, 120.0
"""Seconds for which more or fewer replicas are needed before their number changes."""

LOOKED = 15.0
"""Seconds over which the load of replicas is averaged."""


class ReplicaRange(NamedTuple):
    """The least and most number of replicas."""

    least: int
    most: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse `N` or `MIN:MAX`. Raises InvalidStudy."""
        found = re.fullmatch(r"([0-9]{1,4})(?::([0-9]{1,4}))?", text.strip())
        made = cls(int(found[1]), int(found[2] or found[1])) if found else cls(0, 0)
        if not 1 <= made.least <= made.most:
            raise problems.NOT_A_NUMBER_OF_REPLICAS(option="replicas", found=text)
        return made


class DeploymentOptions(ReplicaOptions):
    """Options of a deployment, as JSON values; they are also the arguments of `build`.

    Attributes:
        replicas: Number of replicas, or the least and the most, such as "1:4".
        threads: Threads and CPUs of a replica.
        gpus: GPUs of a replica.
        surge: Replicas of a new version that may start before those of the old version end.
        owner: Random word of the command that deploys. A changed word does not restart replicas.
    """

    replicas: str = "1"
    threads: int = Field(default=1, ge=1)
    gpus: float = Field(default=0, ge=0)
    surge: int = Field(default=0, ge=0)
    owner: str = ""


def application(options: DeploymentOptions) -> serve.Application:
    """Return the Ray Serve application. Raises InvalidStudy."""
    size, settings = ReplicaRange.parse(options.replicas), Settings(**options.settings)  # type: ignore[arg-type]
    own = ReplicaOptions(**options.model_dump(include=set(ReplicaOptions.model_fields), exclude={"version"}))
    deployed = serve.deployment(
        name=NAME,
        user_config={OWNER: options.owner},
        **_number(size, settings),
        max_ongoing_requests=settings.connections,
        max_queued_requests=settings.connections,
        backpressure_config=BackpressureConfig(status_code=503, retry_after_s=1),
        graceful_shutdown_wait_loop_s=DRAINED,
        graceful_shutdown_timeout_s=max(1.0, settings.shutdown - settings.drain),
        health_check_period_s=HEALTH[0],
        health_check_timeout_s=HEALTH[1],
        request_router_config=RequestRouterConfig(
            request_router_class=f"{ResidencyRouter.__module__}.{ResidencyRouter.__name__}",  # type: ignore[arg-type]
            request_routing_stats_period_s=STATISTICS,  # type: ignore[arg-type]
        ),
        max_surge_percent=min(100, math.ceil(100 * options.surge / size.most)),
        logging_config=LoggingConfig(encoding=options.log_format.upper(), enable_access_log=False),
        ray_actor_options={
            "num_cpus": options.threads,
            "num_gpus": options.gpus,
            "runtime_env": {"env_vars": {"OMP_NUM_THREADS": str(options.threads), **openmp.variables()}},
        },
    )
    bound: serve.Application = deployed(serve.ingress()(Replica)).bind({**own.model_dump(), "version": __version__})
    return bound


def _number(size: ReplicaRange, settings: Settings) -> dict[str, Any]:
    """Return Ray Serve's options for a fixed number of replicas, or for autoscaling."""
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
            upscale_delay_s=MORE,
            downscale_delay_s=FEWER,
            look_back_period_s=LOOKED,
            policy=policy,
        )
    }


def build(arguments: dict[str, Any]) -> serve.Application:
    """Return the application, for `serve run` and for KubeRay's resource RayService.

    Args:
        arguments: fields of `DeploymentOptions`.
    """
    return application(DeploymentOptions(**arguments))
