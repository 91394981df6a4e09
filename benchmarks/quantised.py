"""A frozen base in each precision: bytes, tokens per second and quality of LoRA in float32, bfloat16, int8 and others.

    python benchmarks/quantised.py                    all three parts; docs/background/benchmarks.md has the results
    python benchmarks/quantised.py --only speed       bytes and speed, some minutes
    python benchmarks/quantised.py --only quality     accuracy and verdicts; `timeout -s INT 480` before it makes pieces

bytes: of the frozen weights of linear layers, of everything else that a step holds, and of the process. speed: steps
of LoRA; the arms take turns, as in `train_step.py`. quality: a study of three seeds for each task, in which the arms
differ only in dtype and precision. Studies lie in `--out`: a recorded run is not repeated, and an interrupted run
continues from its last checkpoint. The last line of the output is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from argparse import Namespace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging as transformers_logging

import machine
import tables
import train_step
from afina import Results, Study
from afina.models.backbone_spec import FLOAT, PRECISIONS
from afina.models.kernels.linear import frozen_weight, held_by, is_linear
from afina.report.arms import arms
from afina.report.verdicts import verdicts
from arms import ON_PRECISIONS, build
from packed_arm import PackedArm
from plan import Plan
from train_step import DATA, say

MODULES = {"quant": "bitsandbytes"}
"""What a precision's optional extra installs."""

TASKS = "snippets:movies,snippets:products,snippets:domains"
ARMS = [
    "C",
    "D",
    *(arm for arm, name in ON_PRECISIONS.items() if find_spec(MODULES.get(PRECISIONS[name].needs or "", "torch"))),
]


def sizes(arm: PackedArm) -> dict[str, Any]:
    """Bytes of the frozen weights of linear layers, in all and for a weight, and of everything else after a step."""
    count = taken = 0
    for layer in filter(is_linear, arm.fit.classifier.body.modules()):
        held = held_by(layer)
        if held is not None or not layer.weight.requires_grad:  # LoRA's own layers train
            outputs, inputs = frozen_weight(layer).shape
            count += outputs * inputs
            taken += sum(each.nbytes for each in held.tensors) if held else layer.weight.nbytes
    return {"linear_bytes": taken, "bytes_per_weight": taken / count, "other_bytes": arm.fit.state_bytes - taken}


def speed(options: Namespace) -> dict[str, dict[str, Any]]:
    """Bytes and tokens per second by arm."""
    plan = Plan.of(options.backbone, options.task, ARMS, options.steps)
    peaks: dict[str, list[float]] = {key: [] for key in train_step.DTYPES}
    found = train_step.time_steps("lora", plan, options.repeats, peaks)
    for name, one in found.items():
        arm = build(name, "lora", plan.backbone, plan.label_names, plan.steps)
        assert isinstance(arm, PackedArm)
        arm.step(plan.heaviest(name)[0])
        one |= sizes(arm)
        del arm
        one["rss_peak"] = train_step.memory("lora", name, plan, options)
        one["of_bfloat16"] = one["tokens_per_second"] / found["D"]["tokens_per_second"]
    return found


def study(task: str, options: Namespace) -> Study:
    """LoRA in each precision on one task."""
    names = {"lora": {"dtype": "float32"}, "lora-bfloat16": {"dtype": "bfloat16"}}
    names |= {f"lora-{ON_PRECISIONS[arm]}": {"dtype": "auto", "precision": ON_PRECISIONS[arm]} for arm in ARMS[2:]}
    content = {
        "name": f"quantised-{re.split('[:/]', task)[-1].partition('.')[0]}",
        "backbone": options.embedded,
        "task": task,
        "seeds": list(range(options.seeds)),
        "data": {"train_examples": options.train, "evaluation_examples": options.evaluate},
        "train": {"epochs": 1, "max_length": 128, **({"max_steps": options.max_steps} if options.max_steps else {})},
        "methods": {name: {"method": "lora", **settings} for name, settings in names.items()},
    }
    return Study.parse(content, "benchmarks/quantised.py")


def quality(options: Namespace) -> dict[str, Any]:
    """Accuracies and verdicts by task."""
    found = {}
    for task in options.tasks.split(","):
        wanted = study(task, options)
        say(f"{wanted.name}: {len(list(wanted.runs()))} runs")
        results: Results = wanted.run(options.out / wanted.name)
        if results.failed:
            sys.exit(f"{wanted.name}: {results.failed}")
        shown = arms(results.results)
        said = [one for one in verdicts(shown).compared if "float32" in (_dtype(shown, one.first, one.second))]
        found[task] = {
            "metrics": {_named(arm): arm.headline for arm in shown},
            "seconds": {_named(arm): arm.mean(lambda record: record.seconds.train) for arm in shown},
            "verdicts": [one.words for one in said],
        }
    return found


def _named(arm: Any) -> str:
    training = arm.record.training
    precision = training.get("precision", FLOAT)
    return str(training["dtype"]) if precision == FLOAT else str(precision)


def _dtype(shown: Any, *labels: str) -> list[str]:
    return [_named(arm) for arm in shown if arm.label in labels]


def report(found: dict[str, Any]) -> str:
    """Both parts as Markdown."""
    parts = []
    if "speed" in found:
        header = ("arm", "dtype", "tokens/s", "of D", "linear weights", "bytes a weight", "other state", "peak memory")
        rows = [
            (
                name,
                one["dtype"],
                f"{one['tokens_per_second']:,.0f}",
                tables.ratio(one["of_bfloat16"]),
                tables.size(one["linear_bytes"]),
                f"{one['bytes_per_weight']:.3f}",
                tables.size(one["other_bytes"]),
                tables.size(one["rss_peak"]),
            )
            for name, one in found["speed"].items()
        ]
        parts.append(tables.table(header, rows))
    for task, one in found.get("quality", {}).items():
        rows = [(name, f"{value:.4f}", f"{one['seconds'][name]:.0f} s") for name, value in one["metrics"].items()]
        parts.append(f"{task}\n\n{tables.table(('base', 'metric', 'training'), rows)}")
        parts.append("\n".join(f"- {words}" for words in one["verdicts"]))
    return "\n\n".join(["\n".join(machine.describe()), *parts])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("speed", "quality"))
    parser.add_argument("--steps", type=int, default=8, help="batches an arm")
    parser.add_argument("--repeats", type=int, default=3, help="how often each batch is timed")
    parser.add_argument("--backbone", default=f"random:{DATA}/gpt2", help="of bytes and speed")
    parser.add_argument("--task", default=f"{DATA}/sst2", help="of bytes and speed")
    parser.add_argument("--embedded", default="embedded", help="backbone of the quality")
    parser.add_argument("--tasks", default=TASKS, help="of the quality, separated by commas")
    parser.add_argument("--train", type=int, default=2000, help="training texts of the quality")
    parser.add_argument("--evaluate", type=int, default=None, help="held-out texts of the quality; default: all")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--max-steps", type=int)
    parser.add_argument("--out", type=Path, default=Path("results/quantised"))
    options = parser.parse_args()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    found: dict[str, Any] = {"threads": torch.get_num_threads()}
    if options.only != "quality":
        found["speed"] = speed(options)
    if options.only != "speed":
        found["quality"] = quality(options)
    print(report(found))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
