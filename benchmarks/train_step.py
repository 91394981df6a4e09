"""Training speed and memory compared with the usual alternatives; docs/background/benchmarks.md has the results.

Each arm (`arms.ARMS`) takes the same kind of steps: batches of 16, dropout on. The batches are a random sample of the
arm's epoch schedule with the data's mean number of real tokens. The arms take turns, batch by batch, and the whole
sample is repeated. The time of a batch is the median of its repeats. tokens/s is all tokens divided by the sum of these
times. Arm A is slow and pads all batches to the same length, so it takes only the first fifth of the sample. Memory is
measured separately, in a process per arm, on the largest batches of its schedule. The last line of the output is one
JSON object.
"""

from __future__ import annotations

import argparse
import gc
import json
import subprocess
import sys
from collections import defaultdict
from itertools import chain
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor
from transformers.utils import logging as transformers_logging

import machine
import sample
import tables
from afina import Backbone, meter
from afina.models.kernels import int8_training
from arm import BATCH_SIZE, EPOCHS, Arm
from arms import ARMS, DEFAULT, IN_INT8, build, suits
from plan import Plan

DATA = "../shared/data"
METHODS = {"lora": ("LoRA", 4), "full": ("Full fine-tuning", 6), "prelayer": ("PreLayer", 4)}
"""Title, and useful FLOP for a token and body parameter: 2 forward, 2 for inputs' gradients, 2 for weights'."""

RATIOS = (
    *(("D", "A"), ("D", "B1"), ("D", "B2"), ("C", "A"), ("D-int8", "D")),
    *((IN_INT8, "D"), (IN_INT8, "B1"), (IN_INT8, "B2")),
)
QUANTISING = "share_of_quantising"
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def say(text: str) -> None:
    """Progress."""
    print(text, file=sys.stderr, flush=True)


def time_steps(method: str, plan: Plan, repeats: int, peaks: dict[str, list[float]]) -> dict[str, dict[str, Any]]:
    """For each arm: seconds_per_step, tokens_per_second, dtype."""
    arms: dict[str, Arm] = {}
    for name in (name for name in plan.chosen if suits(name, method)):
        say(f"{method}: preparing {name}")
        arms[name] = build(name, method, plan.backbone, plan.label_names, plan.steps)
        warm = plan.heaviest(name)
        for batch in warm[:1] if name == "A" else warm:
            arms[name].step(batch)
    rounds = max(map(len, plan.chosen.values()))
    seconds: dict[str, dict[int, list[float]]] = {name: defaultdict(list) for name in arms}
    for repeat in range(repeats):
        for key, dtype in DTYPES.items():
            peaks[key].append(machine.peak(dtype))
        for turn in range(rounds):
            for name, arm in arms.items():
                indices = plan.chosen[name]
                position = turn * len(indices) // rounds
                if position != (turn - 1) * len(indices) // rounds:  # an arm with fewer batches skips turns
                    index = indices[position]
                    seconds[name][index].append(arm.step(plan.schedule[name][index]))
            done = ", ".join(f"{name} {median(chain(*seconds[name].values())):.2f}" for name in arms)
            say(f"{method}: {repeat * rounds + turn + 1} of {repeats * rounds}: {done} s a step")
    found = {}
    for name, arm in arms.items():
        medians = {index: median(times) for index, times in seconds[name].items()}
        tokens = sum(plan.schedule[name][index].tokens for index in medians)
        found[name] = {
            "seconds_per_step": median(medians.values()),
            "tokens_per_second": tokens / sum(medians.values()),
            "dtype": next((key for key, dtype in DTYPES.items() if dtype == arm.dtype), str(arm.dtype)),
        }
        if name == IN_INT8:
            found[name][QUANTISING] = share_of_quantising(arm, [plan.schedule[name][index] for index in medians])
    return found


def share_of_quantising(arm: Arm, batches: list[sample.Batch]) -> float:
    """Share of the seconds of steps in which inputs and gradients are quantised; the measured steps are not timed."""
    quantize, seconds = int8_training.quantize_rows, 0.0

    def timed(rows: Tensor) -> int8_training.Codes:
        nonlocal seconds
        start = meter.now()
        codes = quantize(rows)
        seconds += meter.now() - start
        return codes

    int8_training.quantize_rows = timed
    try:
        spent = sum(map(arm.step, batches))
    finally:
        int8_training.quantize_rows = quantize
    return seconds / spent


def memory(method: str, name: str, plan: Plan, options: argparse.Namespace) -> int | None:
    """rss_peak of a process that trains one arm on its heaviest batches."""
    say(f"{method}: memory of {name}")
    request = {"method": method, "arm": name, "labels": plan.label_names, "steps": plan.steps}
    command = [sys.executable, __file__, "--backbone", options.backbone, "--memory", json.dumps(request)]
    batches = sample.to_json(plan.heaviest(name))
    done = subprocess.run(command, input=batches, stdout=subprocess.PIPE, text=True, check=True)
    found: int | None = json.loads(done.stdout.splitlines()[-1])
    return found


def train_for_memory(request: dict[str, Any], backbone: Backbone) -> None:
    """Measure the memory of one arm, in the process that `memory` starts."""
    arm = build(request["arm"], request["method"], backbone, request["labels"], request["steps"])
    for batch in sample.from_json(sys.stdin.read()):
        arm.step(batch)
    print(json.dumps(meter.rss_peak()))


def summary(found: dict[str, dict[str, Any]], peak: dict[str, float]) -> dict[str, Any]:
    """A method's part of the last line."""
    shown = ("seconds_per_step", "tokens_per_second", "useful_flops", "rss_peak")
    result: dict[str, Any] = {name: {key: arm[key] for key in shown} for name, arm in found.items()}
    for name, arm in found.items():
        result[name] |= {QUANTISING: arm[QUANTISING]} if QUANTISING in arm else {}
    for above, below in RATIOS:
        if above in found and below in found:
            result[f"{above}/{below}"] = found[above]["tokens_per_second"] / found[below]["tokens_per_second"]
    if "D" in found:
        result["share_of_peak"] = found["D"]["useful_flops"] / peak[found["D"]["dtype"]]
    return result


def section(method: str, found: dict[str, dict[str, Any]], result: dict[str, Any], peak: dict[str, float]) -> str:
    """A method's tables. `found` has what the last line lacks."""
    header = ("arm", "dtype", "s/step", "real tokens/s", "useful GFLOP/s", "of peak", "peak memory", "2 epochs")
    rows = [
        (
            name,
            arm["dtype"],
            f"{arm['seconds_per_step']:.3f}",
            f"{arm['tokens_per_second']:,.0f}",
            f"{arm['useful_flops'] / 1e9:,.1f}",
            ratio_to(arm["useful_flops"], peak, arm["dtype"]),
            tables.size(arm["rss_peak"]),
            tables.duration(arm["projected"]),
        )
        for name, arm in found.items()
    ]
    ratios = [f"{key} {tables.ratio(value)}" for key, value in result.items() if "/" in key]
    closing = f"\n\nReal tokens/s: {', '.join(ratios)}." if ratios else ""
    if IN_INT8 in found:
        closing += f" Share of {IN_INT8} that is quantising: {tables.ratio(found[IN_INT8][QUANTISING])}."
    return f"## {METHODS[method][0]}\n\n{tables.table(header, rows)}{closing}\n"


def ratio_to(value: float, peak: dict[str, float], dtype: str) -> str:
    """Share of the peak of that dtype."""
    return tables.ratio(value / peak[dtype]) if dtype in peak else "-"


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Training speed and memory beside transformers' Trainer and peft.")
    parser.add_argument("--steps", type=int, default=16, help="batches an arm (default: about 15 minutes in all)")
    parser.add_argument("--repeats", type=int, default=3, help="how often each batch is timed")
    parser.add_argument("--methods", type=lambda text: text.split(","), default=list(METHODS))
    parser.add_argument("--arms", type=lambda text: text.split(","), default=list(DEFAULT))
    parser.add_argument("--backbone", default=f"random:{DATA}/gpt2")
    parser.add_argument("--task", default=f"glue/sst2:{DATA}/sst2")
    parser.add_argument("--markdown", type=Path, help="write the tables and the machine to this file")
    parser.add_argument("--memory", help=argparse.SUPPRESS)
    options = parser.parse_args()
    for kind, known in (("methods", METHODS), ("arms", ARMS)):
        if unknown := set(getattr(options, kind)) - set(known):
            parser.error(f"--{kind}: {', '.join(sorted(unknown))} is none of {', '.join(known)}")
    if min(options.steps, options.repeats) < 1:
        parser.error("--steps and --repeats must be at least 1")
    return options


def main() -> None:
    """Measure, print, and write."""
    options = parse()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    if options.memory:
        train_for_memory(json.loads(options.memory), Backbone.load(options.backbone))
        return
    began = meter.now()
    plan = Plan.of(options.backbone, options.task, options.arms, options.steps)
    peaks: dict[str, list[float]] = {key: [] for key in DTYPES}
    found = {}
    for method in options.methods:
        found[method] = time_steps(method, plan, options.repeats, peaks)
        gc.collect()  # Trainer's objects form cycles
        for name, arm in found[method].items():
            arm["useful_flops"] = METHODS[method][1] * plan.body * arm["tokens_per_second"]
            arm["projected"] = EPOCHS * plan.tokens / arm["tokens_per_second"]
            arm["rss_peak"] = memory(method, name, plan, options)
    for key, dtype in DTYPES.items():
        peaks[key].append(machine.peak(dtype))
    peak = {key: median(values) for key, values in peaks.items()}
    results = {method: summary(arms, peak) for method, arms in found.items()}
    size = f"{plan.examples:,} examples, {plan.tokens:,} tokens, {plan.body:,} body parameters"
    lines = [
        *machine.describe(),
        f"- matrix-product peak ({machine.SIDE} cubed): "
        + ", ".join(f"{key} {value / 1e9:,.0f} GFLOP/s" for key, value in peak.items()),
        f"- backbone `{options.backbone}`, task `{Path(options.task).name}`: {size}",
        f"- {options.steps} batches of {BATCH_SIZE}, each timed {options.repeats} times; "
        f"{(meter.now() - began) / 60:.0f} minutes in all",
        "",
        *(f"- {name}: {ARMS[name]}" for name in options.arms),
    ]
    sections = [section(method, found[method], results[method], peak) for method in found]
    report = "\n".join([*lines, "", *sections])
    print(report)
    if options.markdown:
        options.markdown.write_text(report, encoding="utf-8")
    print(json.dumps({"peak": peak, **results}))


if __name__ == "__main__":
    main()
