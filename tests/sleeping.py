"""Runs that only sleep: a stand-in for the process that carries a run out, and the material that it needs.

As a program, this is the stand-in, where the material is in the directory `AFINA_TEST_SLEEPING`, which all nodes see
(`node_site/sitecustomize.py`). It sends the messages of `executors/worker.py`, and ends with a record that was made
before. For speed, it imports neither torch nor afina, but to forecast memory.
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

NEEDS, LARGE = 2**26, 3 * 2**30
"""Bytes of memory that a run needs, and that one of IA3 needs."""


class Sleeping:
    """The material of runs of one method that differ by their seed, in a new directory `folder`.

    Args:
        seeds: Number of seeds.
        seconds: Duration of a run.
        dies: Seeds whose process kills itself.
    """

    def __init__(self, folder: Path, seeds: int, seconds: float, *, dies: Sequence[int] = ()) -> None:
        from records import carried_out

        self.folder = folder
        folder.mkdir(parents=True)
        for seed in range(seeds):
            named = {"seed": seed, "key": f"sha256:{seed}"}
            made = carried_out(folder / "made", [0, 1, 0], [0, 1, 1], "lora", f"lora-{seed}", **named)
            (folder / f"{seed}.json").write_text(made.model_dump_json())
        (folder / "made" / made.adapter).rename(folder / "adapter")
        (folder / "made" / made.predictions).rename(folder / "predictions")
        (folder / "starts").touch()
        self.settings = {"seconds": seconds, "dies": dies}
        self.set()

    def set(self, **settings: Any) -> None:
        """Set what runs do from now on; runs in progress sleep on for the new duration."""
        self.settings |= settings
        (new := self.folder / "new").write_text(json.dumps(self.settings))
        new.replace(self.folder / "settings")

    @property
    def starts(self) -> list[tuple[int, str]]:
        """The seed and the place of each run that was started, in order."""
        lines = (self.folder / "starts").read_text().splitlines()
        return [(int(seed), place) for seed, _, place in (line.partition(" ") for line in lines)]


def _settings(material: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((material / "settings").read_text())
    return found


def _say(**message: Any) -> None:
    print(json.dumps(message), flush=True)


def _sleep(material: Path) -> bool:
    """Sleep as long as a run lasts, with progress; return whether the caller is still there, and did not say stop."""
    begin, step = time.monotonic(), 0
    while (left := begin + (seconds := _settings(material)["seconds"]) - time.monotonic()) > 0:
        steps = max(1, round(seconds / PAUSE))
        step = min(step + 1, steps)
        _say(kind="progress", progress={"phase": "train", "step": step, "steps": steps, "loss": 0.5})
        if select.select([0], [], [], min(PAUSE, left))[0]:
            return False
    return True


def _carry_out(run: dict[str, Any], out: Path, material: Path) -> None:
    """Sleep in place of the run, and leave its files."""
    with (material / "starts").open("a") as starts:
        starts.write(f"{run['seed']} {os.environ['AFINA_CACHE']}\n")
    if run["seed"] in _settings(material)["dies"]:
        os.kill(os.getpid(), signal.SIGKILL)
    if not _sleep(material):
        os._exit(130)
    record = json.loads((material / f"{run['seed']}.json").read_text())
    shutil.copytree(material / "adapter", out / record["adapter"])
    (out / record["predictions"]).parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(material / "predictions", out / record["predictions"])
    _say(kind="record", record=record)


def _foresee(runs: list[dict[str, Any]]) -> None:
    from afina.studies.runs.run import Run

    needed = {Run.model_validate(run).key: LARGE if run["method"] == "ia3" else NEEDS for run in runs}
    _say(kind="foreseen", available=2**40, needed=needed)


def _main() -> None:
    asked = json.loads(sys.stdin.buffer.readline())
    if asked["kind"] == "foresee":
        _foresee(asked["runs"])
    else:
        _carry_out(asked["run"], Path(asked["out"]), Path(os.environ["AFINA_TEST_SLEEPING"]))


if __name__ == "__main__":
    _main()
