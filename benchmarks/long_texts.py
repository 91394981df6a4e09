"""Memory and speed of training on long texts, by how much of a batch is computed at once.

The model has GPT-2's shape and random weights; all texts have the same length. Every arm takes the same steps in a
separate process. The memory of an arm is the peak of its process. The time of an arm is the median of its steps after
the first. The last line of the output is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from transformers.utils import logging as transformers_logging

import machine
import tables
from afina import Backbone, meter
from afina.data.batch import MicroBatchLimits
from afina.data.tokenize import encode
from afina.methods import make
from afina.studies.runs.spec import Training
from packed_arm import PackedArm
from sample import Batch

BATCH_SIZE = 8
LABELS = ("bad", "good")
TITLES = {"lora": "LoRA", "full": "Full fine-tuning"}
ARMS = {
    "whole": "no budget: the batch at once",
    "default": f"train.token_budget at its default, {Training().token_budget:,}",
    "single": "train.token_budget of one text",
    "checkpointed": "the same, and train.checkpointing",
}
WORDS = ("the", "ferry", "was", "late", "again", "and", "nobody", "on", "board", "knew", "why", "we", "had", "soup")


def texts(backbone: Backbone, length: int, count: int) -> list[np.ndarray]:
    """Token sequences of invented text, each of `length` tokens."""
    draw = random.Random(0)
    invented = [" ".join(draw.choices(WORDS, k=2 * length)) for _ in range(count)]  # a word is at least a token
    encoded = encode(backbone.tokenizer, invented, max_length=length)
    assert set(encoded.lengths.tolist()) == {length}
    return [encoded[index] for index in range(count)]


def limits(arm: str, length: int) -> MicroBatchLimits:
    """The limits of what an arm computes at once."""
    if arm == "whole":
        return MicroBatchLimits()
    return MicroBatchLimits(tokens=Training().token_budget if arm == "default" else length)


def train(method: str, name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Measure an arm in this process."""
    backbone = Backbone.load(options.backbone)
    length = min(options.length, backbone.longest)
    rows = texts(backbone, length, BATCH_SIZE * (1 + options.steps))
    setting = Training(checkpointing=name == "checkpointed")
    chosen = make(method).for_family(backbone.family)
    arm = PackedArm(backbone, LABELS, chosen, setting, 1 + options.steps, limits(name, length))
    seconds = []
    for start in range(0, len(rows), BATCH_SIZE):
        seconds.append(arm.step(Batch(rows[start : start + BATCH_SIZE], np.arange(BATCH_SIZE) % len(LABELS))))
    step = median(seconds[1:])
    return {
        "seconds_per_step": step,
        "tokens_per_second": BATCH_SIZE * length / step,
        "rss_peak": meter.rss_peak(),
        "dtype": str(arm.dtype).removeprefix("torch."),
        "length": length,
    }


def measure(method: str, name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Measure an arm in a separate process."""
    print(f"{method}: {name}", file=sys.stderr, flush=True)
    shape = ["--backbone", options.backbone, "--steps", str(options.steps), "--length", str(options.length)]
    command = [sys.executable, __file__, *shape, "--one", method, name]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def section(method: str, found: dict[str, dict[str, Any]]) -> str:
    """A method's table."""
    rows = [
        (
            name,
            arm["dtype"],
            f"{arm['seconds_per_step']:.3f}",
            f"{arm['tokens_per_second']:,.0f}",
            tables.size(arm["rss_peak"]),
        )
        for name, arm in found.items()
    ]
    return f"## {TITLES[method]}\n\n{tables.table(('arm', 'dtype', 's/step', 'tokens/s', 'peak memory'), rows)}\n"


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Memory and speed of training on long texts.")
    parser.add_argument("--steps", type=int, default=3, help="steps that are timed, after one that is not")
    parser.add_argument("--length", type=int, default=1024, help="tokens of a text, at most what the backbone takes")
    parser.add_argument("--methods", type=lambda text: text.split(","), default=list(TITLES))
    parser.add_argument("--backbone", default="random:../shared/data/gpt2")
    parser.add_argument("--markdown", type=Path, help="write the tables and the machine to this file")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if unknown := set(options.methods) - set(TITLES):
        parser.error(f"--methods: {', '.join(sorted(unknown))} is none of {', '.join(TITLES)}")
    if min(options.steps, options.length) < 1:
        parser.error("--steps and --length must be at least 1")
    return options


def main() -> None:
    """Measure, print, and write."""
    options = parse()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    if options.one:
        print(json.dumps(train(*options.one, options)))
        return
    found = {method: {name: measure(method, name, options) for name in ARMS} for method in options.methods}
    length = next(iter(found[options.methods[0]].values()))["length"]
    lines = [
        *machine.describe(),
        f"- backbone `{options.backbone}`; batches of {BATCH_SIZE} texts of {length:,} tokens, {options.steps} timed",
        "",
        *(f"- {name}: {what}" for name, what in ARMS.items()),
    ]
    report = "\n".join([*lines, "", *(section(method, arms) for method, arms in found.items())])
    print(report)
    if options.markdown:
        options.markdown.write_text(report, encoding="utf-8")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
