"""The configuration of the Ray Serve deployment: number and resources of the replicas, routing and draining."""

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
"""The name of the Ray Serve application and of its deployment."""

OWNER = "owner"
"""The key, in the deployment's user configuration, of a random word for the command that deployed last."""

HEALTH = 1.0, 5.0
"""The seconds between two health checks of a replica, and the seconds after which an unanswered check has failed.

Ray Serve replaces a replica that fails three health checks in a row.
"""

STATISTICS = 0.5
"""Seconds between two reports of a replica about the adapters in its memory."""

DRAINED = 0.2
"""Seconds between two checks whether a replica that is being stopped still has unfinished requests."""

MORE, FEWER = 5.0, 120.0
"""The delays, in seconds, before replicas are added (`MORE`) or removed (`FEWER`) by the autoscaling policy."""

LOOKED = 15.0
"""The seconds over which the autoscaling policy averages the load of replicas."""


class ReplicaRange(NamedTuple):
    """The smallest and the largest number of replicas."""

    least: int
    most: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse a number of replicas, `N` or `MIN:MAX`. Raises InvalidStudy if the text has another form."""
        found = re.fullmatch(r"([0-9]{1,4})(?::([0-9]{1,4}))?", text.strip())
        made = cls(int(found[1]), int(found[2] or found[1])) if found else cls(0, 0)
        if not 1 <= made.least <= made.most:
            raise problems.NOT_A_NUMBER_OF_REPLICAS(option="replicas", found=text)
        return made


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


def application(options: DeploymentOptions) -> serve.Application:
    """Return the Ray Serve application for some options. Raises InvalidStudy if the options are invalid."""
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
            upscale_delay_s=MORE,
            downscale_delay_s=FEWER,
            look_back_period_s=LOOKED,
            policy=policy,
        )
    }


def build(arguments: dict[str, Any]) -> serve.Application:
    """Return the Ray Serve application, as `serve run` and KubeRay's resource RayService call it.

    Args:
        arguments: The fields of `DeploymentOptions`.
    """
    return application(DeploymentOptions(**arguments))
