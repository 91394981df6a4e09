"""Make an executor from the name in `--executor` or in `executor` of a study file: local, ray or ray=ADDRESS.

Ray is imported only for an executor that uses Ray.
"""

from __future__ import annotations

from afina.events import Says, silent
from afina.sentence import Sentence
from afina.studies.executors import problems
from afina.studies.executors.executor import Executor
from afina.studies.executors.local_executor import LocalExecutor

_LOCAL, _RAY = "local", "ray"


def check_executor(name: str | None, where: str = Sentence.of("`executor`")) -> None:
    """Raise InvalidStudy if `name` is not the name of an executor; the error message begins with `where`."""
    kind, equals, address = (_LOCAL if name is None else name).partition("=")
    if name is not None and (kind not in (_LOCAL, _RAY) or (equals and (kind == _LOCAL or not address))):
        raise problems.EXECUTOR_UNKNOWN(_where=where, option="executor", found=name)


def make(
    name: str | None,
    *,
    jobs: int | None = None,
    devices: int = 1,
    shard: bool = False,
    ship_backbone: bool = False,
    storage: str | None = None,
    says: Says = silent,
) -> Executor:
    """Return a new executor. Raises InvalidStudy, or NotFound if Ray is not installed.

    `jobs` is the largest number of runs at the same time; None: one on this machine, and on Ray as many as have room.
    `RayExecutor` says what the options of a cluster are.
    """
    check_executor(name)
    kind, _, address = (name or _LOCAL).partition("=")
    if kind == _RAY:
        try:
            from afina.studies.executors.ray_executor import RayExecutor
        except ModuleNotFoundError as error:
            if error.name != "ray":
                raise
            raise problems.RAY_MISSING(extra="ray") from None
        return RayExecutor(
            address or None,
            slots=jobs,
            devices=devices,
            shard=shard,
            ship_backbone=ship_backbone,
            storage=storage,
            says=says,
        )
    if ship_backbone or storage is not None:
        option = "ship_backbone" if ship_backbone else "storage"
        raise problems.CLUSTER_OPTION(option=option)
    return LocalExecutor(jobs or 1, devices=devices, shard=shard)
