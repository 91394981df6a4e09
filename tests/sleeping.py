"""Runs that only sleep: a stand-in for the process that carries a run out, and the material that it needs.

As a program, this is the stand-in (`AFINA_TEST_WORKER`). It sends the messages of `executors/worker.py`, and ends
with a record that was made before. For speed, it imports neither torch nor afina, but to forecast memory. `SLEEPER`
names the directory of its material, which all nodes see.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

PAUSE = 0.5
"""Seconds between two progress messages."""


class Sleeping:
    """The material of runs of one method that differ by their seed, in a new directory `folder`.

    Args:
        seeds: Number of seeds.
        seconds: Duration of a run.
        needs: Bytes of memory that a run needs.
        dies: Seeds whose process kills itself.
    """

    def __init__(
        self, folder: Path, seeds: int, seconds: float, *, needs: int = 2**26, dies: Sequence[int] = ()
    ) -> None:
        from records import carried_out

        self.folder = folder
        folder.mkdir(parents=True)
        for seed in range(seeds):
            named = {"seed": seed, "key": f"sha256:{seed}"}
            made = carried_out(folder / "made", [0, 1, 0], [0, 1, 1], "lora", f"lora-{seed}", **named)
            (folder / f"{seed}.json").write_text(made.model_dump_json())
        (folder / "made" / made.adapter).rename(folder / "adapter")
        (folder / "made" / made.predictions).rename(folder / "predictions")
        self.set(seconds=seconds, needs=needs, dies=list(dies))

    def set(self, **settings: Any) -> None:
        """Set what runs do from now on."""
        (self.folder / "settings").write_text(json.dumps(settings))

    @property
    def environment(self) -> dict[str, str]:
        """Variables of the processes that start runs."""
        return {"AFINA_TEST_WORKER": str(Path(__file__).resolve()), "SLEEPER": str(self.folder)}

    @property
    def starts(self) -> list[tuple[int, str]]:
        """The seed and the place of each run that was started, in order."""
        lines = (self.folder / "starts").read_text().splitlines()
        return [(int(seed), place) for seed, _, place in (line.partition(" ") for line in lines)]


def _say(**message: Any) -> None:
    print(json.dumps(message), flush=True)


def _sleep(seconds: float) -> bool:
    """Sleep so long, with progress messages; return whether the caller is still there, and did not say stop."""
    until = time.monotonic() + seconds
    steps = max(1, round(seconds / PAUSE))
    for step in range(1, steps + 1):
        _say(kind="progress", progress={"phase": "train", "step": step, "steps": steps, "loss": 0.5})
        left = (until - time.monotonic()) / (steps + 1 - step)
        if select.select([0], [], [], max(0.0, left))[0]:
            return False
    return True


def _carry_out(run: dict[str, Any], out: Path, material: Path, settings: dict[str, Any]) -> None:
    """Sleep in place of the run, and leave its files."""
    with (material / "starts").open("a") as starts:
        starts.write(f"{run['seed']} {os.environ['AFINA_CACHE']}\n")
    if run["seed"] in settings["dies"]:
        os.kill(os.getpid(), signal.SIGKILL)
    if not _sleep(settings["seconds"]):
        os._exit(130)
    record = json.loads((material / f"{run['seed']}.json").read_text())
    shutil.copytree(material / "adapter", out / record["adapter"])
    (out / record["predictions"]).parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(material / "predictions", out / record["predictions"])
    _say(kind="record", record=record)


def _foresee(runs: list[dict[str, Any]], needs: int) -> None:
    from afina.studies.runs.run import Run

    _say(kind="foreseen", available=2**40, needed={Run.model_validate(run).key: needs for run in runs})


def _main() -> None:
    asked = json.loads(sys.stdin.buffer.readline())
    material = Path(os.environ["SLEEPER"])
    settings = json.loads((material / "settings").read_text())
    if asked["kind"] == "foresee":
        _foresee(asked["runs"], settings["needs"])
    else:
        _carry_out(asked["run"], Path(asked["out"]), material, settings)


if __name__ == "__main__":
    _main()
