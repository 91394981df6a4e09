"""Training of LoRA on upper blocks, whose lower blocks are computed once, compared with LoRA on all blocks.

    python benchmarks/trunk.py

Each arm is a whole training of `--epochs` epochs on the same texts in the same batches, in this process. The arms take
turns step by step, in changing order, so that another load of the machine slows all of them. An arm's time is the time
of all its steps, which includes the time of the outputs that are computed once. With `--repeats`, the arms train again,
and the ratios are medians. Processor seconds are those of the measuring thread: set OMP_NUM_THREADS=1 for them. The
last line of the output is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from transformers.utils import logging as transformers_logging

import machine
import tables
from afina import Backbone, Task, meter, processor
from afina import device as devices
from afina.data.batch import Loader, MicroBatchLimits
from afina.data.tokenize import Encoded, encode
from afina.methods import make
from afina.models.classifier import Classifier
from afina.models.objectives import Classes
from afina.studies.runs.prepared import attached
from afina.studies.runs.spec import Training
from afina.training.fit import Fit
from afina.training.optimizer import Recipe
from arm import BATCH_SIZE, CPU, LENGTH, SEED

REFERENCE = "all"
ARMS: dict[str, tuple[dict[str, Any], str]] = {
    REFERENCE: ({}, "auto"),
    "half": ({"layers": "upper half"}, "auto"),
    "quarter": ({"layers": "upper quarter"}, "auto"),
    "half-recomputed": ({"layers": "upper half"}, "recomputed"),
    "quarter-recomputed": ({"layers": "upper quarter"}, "recomputed"),
}
"""Hyperparameters of LoRA, and `train.trunk`."""


@dataclass
class Arm:
    """A training and its seconds so far."""

    fit: Fit
    seconds: float = 0.0
    processor: float = 0.0

    def step(self) -> None:
        """Take the next step."""
        began, processor = meter.now(), meter.processor_seconds()
        self.fit.advance(self.fit.account.step + 1)
        self.seconds += meter.now() - began
        self.processor += meter.processor_seconds() - processor


def say(text: str) -> None:
    """Progress."""
    print(text, file=sys.stderr, flush=True)


def fit_of(name: str, backbone: Backbone, task: Task, encoded: Encoded, options: argparse.Namespace) -> Fit:
    """A training session of an arm."""
    given, trunk = ARMS[name]
    method = make("lora", given).for_backbone(backbone)
    classifier = attached(Classifier.open(backbone, task.label_names, SEED), method, SEED, CPU)
    loader = Loader(encoded, task.train.labels[: len(encoded)], BATCH_SIZE, SEED)
    limits = MicroBatchLimits(BATCH_SIZE, Training().token_budget)
    recipe = Recipe(
        options.epochs * loader.steps_per_epoch, 1e-3, 0.01, 1.0, SEED, at_once=limits, trunk=trunk, trunk_dropout=True
    )
    return Fit(classifier, method, Classes(tuple(task.label_names)), loader, recipe, devices.precision("auto", CPU))


def measure(backbone: Backbone, task: Task, encoded: Encoded, options: argparse.Namespace) -> dict[str, Any]:
    """For each arm: its seconds, loss, and what the kept outputs take."""
    arms = {name: Arm(fit_of(name, backbone, task, encoded, options)) for name in options.arms}
    for arm in arms.values():  # a pass with memory that is new would count for the first arm
        arm.fit.begin()
    steps = arms[options.arms[0]].fit.recipe.steps
    for step in range(steps):
        names = [*arms]
        for name in names[step % len(names) :] + names[: step % len(names)]:
            arms[name].step()
        if step % 10 == 9 or step == steps - 1:
            done = ", ".join(f"{name} {arm.seconds:.1f}" for name, arm in arms.items())
            say(f"step {step + 1} of {steps}: {done} s")
    found = {}
    for name, arm in arms.items():
        use, losses = arm.fit.inputs.trunk_use, arm.fit.account.losses
        last = losses[-arm.fit.loader.steps_per_epoch :]
        found[name] = {
            "seconds": arm.seconds,
            "processor_seconds": arm.processor,
            "once_seconds": arm.fit.inputs.once_seconds,
            "last_loss": sum(last) / len(last),
            "blocks": use.blocks if use else 0,
            "kept_bytes": use.bytes if use else 0,
            "tokens": arm.fit.account.tokens,
        }
    return found


def summary(repeats: list[dict[str, Any]]) -> dict[str, Any]:
    """The last line: medians of each arm, and how many times as fast as LoRA on all blocks it is."""
    result: dict[str, Any] = {}
    for name in repeats[0]:
        result[name] = {key: median(each[name][key] for each in repeats) for key in repeats[0][name]}
        if REFERENCE in repeats[0] and name != REFERENCE:
            for key in ("seconds", "processor_seconds"):
                ratios = [each[REFERENCE][key] / each[name][key] for each in repeats]
                result[f"{name}/{REFERENCE}" + ("" if key == "seconds" else " processor")] = median(ratios)
    return result


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Speed of LoRA on upper blocks, compared with all blocks.")
    parser.add_argument("--backbone", default="embedded")
    parser.add_argument("--task", default="snippets:movies")
    parser.add_argument("--texts", type=int, default=480, help="training texts")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--arms", type=lambda text: text.split(","), default=["all", "half", "quarter"])
    options = parser.parse_args()
    if unknown := set(options.arms) - ARMS.keys():
        parser.error(f"--arms: {', '.join(sorted(unknown))} is none of {', '.join(ARMS)}")
    return options


def main() -> None:
    """Measure, print."""
    options = parse()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    backbone, task = Backbone.load(options.backbone), Task.load(options.task)
    encoded = encode(backbone.tokenizer, task.train.texts[: options.texts], max_length=min(LENGTH, backbone.longest))
    found = [measure(backbone, task, encoded, options) for _ in range(options.repeats)]
    result = summary(found)
    rows = [
        (
            name,
            f"{one['seconds']:.1f}",
            f"{one['processor_seconds']:.1f}",
            f"{one['once_seconds']:.1f}",
            f"{one['last_loss']:.4f}",
            f"{one['kept_bytes'] / 2**20:.1f}",
        )
        for name, one in result.items()
        if isinstance(one, dict)
    ]
    print("\n".join([*machine.describe(), f"- {len(encoded)} texts of `{options.task}`, {options.epochs} epochs", ""]))
    print(tables.table(("LoRA on", "s", "processor s", "of it once, s", "last loss", "kept, MiB"), rows), "\n")
    print(json.dumps(result | {"threads": torch.get_num_threads(), "processor": processor.name()}))


if __name__ == "__main__":
    main()
