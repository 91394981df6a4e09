"""Training steps of every method, compared with Trainer + peft with the same method, and with LoRA.

    python benchmarks/methods.py --markdown FILE

Arms B2 and D of `train_step.py` take turns batch by batch with arm D of LoRA, on the same kind of sample. A method that
trains only the head reads each text once, for any number of epochs. Its tokens/s are therefore those of a whole
training of EPOCHS epochs on the sample; the time of one prediction pass over these texts stands beside them. State and
activations are counted on the largest batch of the schedule. The last line of the output is one JSON object.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
from collections import defaultdict
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from transformers.utils import logging as transformers_logging

import machine
import tables
from afina import METHODS, Backbone, meter
from afina import device as devices
from afina.data.batch import Loader, pack
from afina.data.tokenize import Encoded
from afina.errors import InvalidStudy
from afina.methods import make
from afina.methods.method import Method
from afina.models.classifier import Classifier
from afina.models.objectives import Classes
from afina.predicting import predictor
from afina.studies.runs.prepared import attached
from afina.studies.runs.spec import Training
from afina.training.fit import Fit
from afina.training.inputs import FeatureInputs, TextBatch, inputs_of
from afina.training.optimizer import Recipe
from arm import BATCH_SIZE, CPU, EPOCHS, SEED
from packed_arm import PackedArm
from padded_arm import TrainerArm
from plan import Plan

DATA = "../shared/data"
REFERENCE = "lora"
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "lora, dora": ("lora", {"dora": True}),
    "lora, all-linear": ("lora", {"targets": "all-linear"}),
    "lora+bitfit": ("lora+bitfit", {}),
}
NOT_BY_PEFT = {
    "prompt": "peft pools at a wrong token where texts are padded",
    "prefix": "peft's raises with this transformers",
}
"""Methods without arm B2, and why."""


def say(text: str) -> None:
    """Progress."""
    print(text, file=sys.stderr, flush=True)


def method_of(key: str, family: str) -> Method:
    """The method of that name here."""
    name, given = VARIANTS.get(key, (key, {}))
    return make(name, given).for_family(family)


def packed(plan: Plan, method: Method) -> PackedArm:
    """afina as shipped."""
    return PackedArm(plan.backbone, plan.label_names, method, Training(), plan.steps)


def speeds(key: str, plan: Plan, repeats: int) -> dict[str, Any]:
    """tokens/s by arm, and what D holds."""
    method = method_of(key, plan.backbone.family)
    arms: dict[str, Any] = {"lora": packed(plan, method_of(REFERENCE, plan.backbone.family))}
    if key not in NOT_BY_PEFT:
        arms["B2"] = TrainerArm(plan.backbone, plan.label_names, method, Training(), plan.steps, paper=False)
    by_step = inputs_of(method) is not FeatureInputs
    if by_step:
        arms["D"] = packed(plan, method)
    schedule = {name: "B2" if name == "B2" else "D" for name in arms}
    for name, arm in arms.items():
        for batch in plan.heaviest(schedule[name]):
            arm.step(batch)
    times: dict[str, dict[int, list[float]]] = {name: defaultdict(list) for name in arms}
    for _ in range(repeats):
        for turn in range(len(plan.chosen["D"])):
            for name, arm in arms.items():
                index = plan.chosen[schedule[name]][turn]
                times[name][index].append(arm.step(plan.schedule[schedule[name]][index]))
    found: dict[str, Any] = {}
    for name in arms:
        seconds = {index: median(each) for index, each in times[name].items()}
        found[name] = sum(plan.schedule[schedule[name]][index].tokens for index in seconds) / sum(seconds.values())
    if by_step:
        heaviest = plan.heaviest("D")[1]
        fit = arms["D"].fit
        activations = fit.activation_bytes(TextBatch(pack(heaviest.rows, heaviest.labels)))
        return found | {"state_bytes": fit.state_bytes, "activation_bytes": activations}
    return found | whole(plan, method, repeats)


def whole(plan: Plan, method: Method, repeats: int) -> dict[str, Any]:
    """tokens/s of a training that reads each text once, and its time divided by that of a prediction pass."""
    batches = [plan.schedule["D"][index] for index in plan.chosen["D"]]
    rows = [row for batch in batches for row in batch.rows]
    encoded = Encoded(np.concatenate(rows), np.cumsum([0, *map(len, rows)]), 0)
    loader = Loader(encoded, np.concatenate([batch.labels for batch in batches]), BATCH_SIZE, SEED)
    dtype = devices.precision("auto", CPU)
    trained, passes = [], []
    for _ in range(max(repeats, 2) + 1):  # the first is not counted
        classifier = attached(Classifier.open(plan.backbone, plan.label_names, SEED), method, SEED, CPU)
        recipe = Recipe(EPOCHS * loader.steps_per_epoch, method.learning_rate, 0.01, 1.0, SEED)
        fit = Fit(classifier, method, Classes(tuple(plan.label_names)), loader, recipe, dtype)
        fit.advance()
        trained.append(fit.account.seconds["train"])
        began = meter.now()
        predictor.logits(classifier, encoded)
        passes.append(meter.now() - began)
    measured = fit.measure()
    return {
        "D": fit.account.tokens / median(trained[1:]),
        "over_a_pass": median(trained[1:]) / median(passes[1:]),
        "state_bytes": measured.state_bytes,
        "activation_bytes": measured.activation_bytes,
    }


def summary(found: dict[str, Any]) -> dict[str, Any]:
    """A method's part of the last line."""
    more = {"over_a_pass": found["over_a_pass"]} if "over_a_pass" in found else {}
    return {
        "D/B2": found["D"] / found["B2"] if "B2" in found else None,
        "D/lora": found["D"] / found["lora"],
        "state_bytes": found["state_bytes"],
        "activation_bytes": found["activation_bytes"],
        **more,
    }


def row(key: str, found: dict[str, Any], result: dict[str, Any]) -> list[str]:
    """A method's line of the table."""
    return [
        key,
        f"{found['D']:,.0f}",
        f"{found['B2']:,.0f}" if "B2" in found else "–",
        tables.ratio(result["D/B2"]) if result["D/B2"] else "–",
        tables.ratio(result["D/lora"]),
        tables.size(result["state_bytes"]),
        tables.size(result["activation_bytes"]),
    ]


def parse() -> argparse.Namespace:
    """The command line."""
    known = [key for key, kind in METHODS.items() if not kind().trains_nothing and kind().pairs is None] + list(
        VARIANTS
    )
    parser = argparse.ArgumentParser(description="Training speed and memory of every method.")
    parser.add_argument("--steps", type=int, default=12, help="batches an arm")
    parser.add_argument("--repeats", type=int, default=3, help="how often each batch is timed")
    parser.add_argument("--methods", type=lambda text: text.split(";"), default=known, help="separated by ;")
    parser.add_argument("--backbone", default=f"random:{DATA}/gpt2")
    parser.add_argument("--task", default=f"{DATA}/sst2")
    parser.add_argument("--markdown", type=Path, help="write the table and the machine to this file")
    options = parser.parse_args()
    if unknown := set(options.methods) - set(known):
        parser.error(f"--methods: {', '.join(sorted(unknown))} is none of {'; '.join(known)}")
    return options


def main() -> None:
    """Measure, print, and write."""
    options = parse()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    plan = Plan.of(options.backbone, options.task, ["B2", "D"], options.steps)
    results, rows, passes = {}, [], []
    for key in options.methods:
        if not _serves(key, plan.backbone):
            continue
        say(key)
        found = speeds(key, plan, options.repeats)
        results[key] = summary(found)
        rows.append(row(key, found, results[key]))
        if "over_a_pass" in found:
            passes.append(f"{EPOCHS} epochs of {key} take {tables.ratio(found['over_a_pass'])} prediction passes.")
        gc.collect()  # Trainer's objects form cycles
    peak = {name: machine.peak(dtype) for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16))}
    header = ("method", "D, real tokens/s", "B2, real tokens/s", "D/B2", "D/LoRA", "state", "activations")
    lines = [
        *machine.describe(),
        f"- matrix-product peak: fp32 {peak['fp32'] / 1e9:,.0f} GFLOP/s, bf16 {peak['bf16'] / 1e9:,.0f} GFLOP/s",
        f"- backbone `{options.backbone}`, task `{Path(options.task).name}`",
        f"- {options.steps} batches of {BATCH_SIZE}, each timed {options.repeats} times",
        *(f"- {key} without B2: {why}" for key, why in NOT_BY_PEFT.items() if key in results),
        "",
        tables.table(header, rows),
        *(["", *passes] if passes else []),
    ]
    report = "\n".join(lines) + "\n"
    print(report)
    if options.markdown:
        options.markdown.write_text(report, encoding="utf-8")
    print(json.dumps({"methods": results}))


def _serves(key: str, backbone: Backbone) -> bool:
    try:
        method_of(key, backbone.family)
    except InvalidStudy:
        return False
    return True


if __name__ == "__main__":
    main()
