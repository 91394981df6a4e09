"""Training, prediction, generation and serving on one GPU beside the usual alternatives, in at most nine minutes.

    python benchmarks/gpu.py
    python benchmarks/gpu.py --rehearse

The model has random weights and the texts are invented, so a machine with a GPU and afina needs nothing else. The arms
of each library (`gpu_arms.SIDES`) have a process: afina, transformers with torch's attention (SDPA) and peft,
transformers with flash attention, liger, and unsloth; the table says which are not installed. Each arm has the same
time, and the median of each call counts. What does not fit in `--minutes` is said in the table. The last line of the
output is one JSON object. Without a CUDA device, `--rehearse` executes all arms on the CPU with a tiny model.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging as transformers_logging

import serve
import shapes
import tables
from afina import Backbone, meter
from afina import device as devices
from gpu_arms import NEEDS, SIDES, Settings

WITHOUT = (
    "gpu.py: torch finds no CUDA device. Run this benchmark on a machine with one, or add --rehearse, which executes "
    "the arms on the CPU with a tiny model."
)
UNITS = {"serve": "texts/s", "generate": "new tokens/s"}
UNFIT = "did not fit in the time"


def settings_of(options: argparse.Namespace, root: Path) -> Settings:
    """What the processes measure; a rehearsal measures one round of little."""
    little: dict[str, Any] = {"batch": 4, "batches": 2, "predicted": 8, "prompts": 4, "rows": 4, "new": 4}
    little = {**little, "adapter_count": 3} if options.rehearse else {}
    return Settings(
        shape=options.shape,
        backbone=shapes.backbone(options.shape, root / "shape"),
        adapters=str(root / "adapters"),
        device="cpu" if options.rehearse else "cuda",
        seconds=0.0 if options.rehearse else options.seconds,
        **little,
    )


def measure(side: str, settings: Settings, deadline: float) -> list[dict[str, Any]]:
    """The measurements of a process for the arms of a side, which is ended at the deadline."""
    arms = [(section, arm) for section, arms in SIDES[side].items() for arm in arms]
    if (package := NEEDS.get(side)) is not None and importlib.util.find_spec(package) is None:
        return [{"section": section, "arm": arm, "note": "not installed"} for section, arm in arms]
    first = "import unsloth; " if side == "unsloth" else ""  # before transformers, which it changes
    command = [sys.executable, "-c", f"{first}import gpu_arms; gpu_arms.main()", side, json.dumps(asdict(settings))]
    devices_seen = "" if settings.device == "cpu" else os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    paths = [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": devices_seen, "PYTHONPATH": os.pathsep.join(paths)}
    found = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        timer = threading.Timer(max(0.0, deadline - meter.now()), process.kill)
        timer.start()
        assert process.stdout
        for line in process.stdout:
            if line.startswith("{"):  # libraries print too
                found.append(json.loads(line))
                print(f"{side}: {line.strip()}", file=sys.stderr, flush=True)
        ended = process.wait()
        timer.cancel()
    why = UNFIT if meter.now() >= deadline else f"the process ended with {ended}"
    told = {(one["section"], one["arm"]) for one in found}
    return found + [{"section": s, "arm": arm, "note": why} for s, arm in arms if (s, arm) not in told]


def table(found: Sequence[dict[str, Any]]) -> str:
    """A row for each arm, by section; speeds are also given relative to afina's first arm."""
    header = ("arm", "speed", "relative to afina", "seconds", "repeats", "peak memory")
    rows = []
    for section in dict.fromkeys(one["section"] for one in found):
        arms = [one for one in found if one["section"] == section]
        ours = arms[0].get("speed")
        for one in arms:
            name = f"{section}: {one['arm']}"
            if "speed" not in one:
                rows.append((name, one["note"], *[""] * 4))
                continue
            speed = f"{one['speed']:,.0f} {UNITS.get(section, 'tokens/s')}"
            relative = tables.ratio(one["speed"] / ours) if ours else ""
            rows.append((name, speed, relative, f"{one['seconds']:.3f}", str(one["repeats"]), tables.size(one["peak"])))
    return tables.table(header, rows)


def described(options: argparse.Namespace, settings: Settings, spent: float) -> list[str]:
    """Lines about the machine and the measurement, without its name."""
    device = torch.device(settings.device)
    versions = ", ".join(f"{name} {version}" for name, version in devices.versions().items())
    others = ", ".join(
        f"{name} {devices.version(name)}"
        for name in ("flash-attn", "liger-kernel", "unsloth", "accelerate")
        if importlib.util.find_spec(name.replace("-", "_"))
    )
    memory = meter.gpu_memory(device)
    return [
        f"- device: {devices.describe(device)}{'' if memory is None else ', ' + tables.size(memory)}",
        f"- versions: {versions}, {others}",
        f"- model: LLaMA, shape {options.shape}, random weights; training steps of {settings.batch} texts; "
        f"{settings.rows} sequences generated together, {settings.new} new tokens each; {serve.BATCH} texts "
        f"served by {settings.adapter_count} adapters",
        f"- {settings.seconds:.0f} s an arm, and one round of its calls at least; {spent:.0f} s in all",
    ]


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="afina on one GPU beside the usual alternatives.")
    parser.add_argument("--shape", choices=shapes.SHAPES, default="1.1b")
    parser.add_argument("--minutes", type=float, default=9.0, help="the whole benchmark takes at most so long")
    parser.add_argument("--seconds", type=float, default=8.0, help="how long an arm is measured")
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=[*SIDES], help="only the arms of these libraries")
    parser.add_argument("--markdown", type=Path, help="write the table and the machine to this file")
    parser.add_argument("--rehearse", action="store_true", help="execute the arms on the CPU with a tiny model")
    options = parser.parse_args()
    if options.rehearse:
        options.shape = "tiny"
    elif not torch.cuda.is_available():
        raise SystemExit(WITHOUT)
    return options


def main() -> None:
    """Measure, print, and write."""
    began = meter.now()
    options = parse()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    found: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["AFINA_CACHE"] = scratch  # the weights are drawn there
        settings = settings_of(options, Path(scratch))
        serve.publish(Backbone.load(settings.backbone), settings.adapter_count, Path(settings.adapters))
        print(f"prepared in {meter.now() - began:.0f} s", file=sys.stderr, flush=True)
        for side in options.sides:
            found += measure(side, settings, began + 60 * options.minutes)
        report = "\n".join([*described(options, settings, meter.now() - began), "", table(found), ""])
    print(report)
    if options.markdown:
        options.markdown.write_text(report, encoding="utf-8")
    device = devices.describe(torch.device(settings.device))
    print(json.dumps({"device": device, "shape": options.shape, "arms": found}))


if __name__ == "__main__":
    main()
