"""Training speed on texts compared with trl's SFTTrainer; docs/background/benchmarks.md has the results.

    python benchmarks/train_text.py --trl PYTHON

PYTHON is an interpreter that has trl, datasets, peft and torch (an environment of its own). The arms take the same
steps on the same rows: batches of 16, from the same start, without dropout. Arm T2 has batches of its own, of rows of
similar length, as SFTTrainer has with `group_by_length`. The batches are a random sample of the schedule with the
data's mean number of tokens. The arms take turns, batch by batch, and the whole sample is repeated. The time of a batch
is the median of its repeats. tokens/s is all real tokens (prompt, target, end) divided by the sum of these times. The
losses of the first pass are compared with those of arm T in float32. The last line of the output is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from transformers.trainer_pt_utils import get_length_grouped_indices
from transformers.utils import logging as transformers_logging

import machine
import sample
import tables
from afina import Backbone, allocator, meter
from afina import device as devices
from afina.data.batch import IGNORED, Loader, pack
from afina.data.tokenize import Encoded
from afina.methods import make
from afina.methods.attachment import attach
from afina.methods.method import Method
from afina.models.language_model import open_model
from afina.models.objective import Objective
from afina.studies.runs.forecast import encoded
from afina.studies.runs.prepared import aim_of, loader_of
from afina.studies.runs.spec import Ask, RunSpec, Training
from afina.training.fit import Fit
from afina.training.optimizer import Recipe
from arm import BATCH_SIZE, CPU, EPOCHS, SEED
from elsewhere import Elsewhere

ARMS = {
    "T": "trl SFTTrainer on padded batches, fp32",
    "T1": "the same, bf16 autocast where the CPU has it",
    "T2": "T1 with batches of rows of similar length",
    "P": "trl SFTTrainer with padding_free, fp32; T's batches",
    "P1": "the same, bf16 autocast where the CPU has it",
    "C": "afina, fp32; T's batches",
    "D": "afina as shipped (train.dtype auto); T's batches",
}
METHODS = ("lora", "full")
RATIOS = (("D", "T"), ("D", "T1"), ("D", "T2"), ("D", "P"), ("D", "P1"), ("C", "T"), ("C", "P"))

_NO_ROWS = Encoded(np.zeros(0, np.int32), np.zeros(1, np.int64), 0)

Rows = list[list[list[int]]]
"""A batch: the tokens and the labels of each row. A label is at the token itself; -100: not learnt."""

Step = Callable[[Rows], tuple[float, float]]
"""Train on a batch; seconds from batch ready to step done, and the loss."""


class Ours:
    """afina's own training session, given one batch at a time. Its seconds are those that a record reports."""

    def __init__(self, backbone: Backbone, objective: Objective, method: Method, steps: int, dtype: str) -> None:
        allocator.keep_kernels(allocator.MANY)  # as the process of a run has it
        model = open_model(backbone, objective.label_names, SEED, objective.opening)
        torch.manual_seed(SEED)
        attach(model, method)
        recipe = Recipe(steps, method.learning_rate, Training().weight_decay, Training().clip, SEED)
        given = Loader(_NO_ROWS, _NO_ROWS, BATCH_SIZE, SEED)  # batches come by `step`
        self.fit = Fit(model, method, objective, given, recipe, devices.precision(dtype, CPU))
        self.fit.begin()

    def step(self, rows: Rows) -> tuple[float, float]:
        """The session's own figure, so whatever it does between steps is not counted, nor is packing."""
        before = self.fit.account.seconds.get("train", 0.0)
        tokens = [np.array(each[:-1], np.int32) for each, _ in rows]
        targets = [np.array(labels[1:], np.int32) for _, labels in rows]
        loss = self.fit.step(pack(tokens, targets, per_token=True))
        return self.fit.account.seconds["train"] - before, loss


def rows_of(loader: Loader, indices: Sequence[int]) -> Rows:
    """The rows of a batch as transformers takes them: whole sequences, with the end."""
    made = []
    for index in indices:
        tokens, targets = loader.encoded[index].tolist(), loader.labels[index].tolist()
        made.append([[*tokens, targets[-1]], [IGNORED, *targets]])
    return made


def size_of(rows: Rows) -> int:
    """Real tokens."""
    return sum(len(tokens) for tokens, _ in rows)


def settings_of(method: Method, backbone: Backbone) -> dict[str, Any] | None:
    """The method's settings for peft; None: all weights train."""
    if method.name != "lora":
        return None
    made: Any = method
    return {
        "r": made.r,
        "lora_alpha": made.alpha,
        "lora_dropout": 0.0,
        "target_modules": list(made.targets),
        "fan_in_fan_out": backbone.architecture.fan_in_fan_out,
    }


def theirs(name: str, path: Path, method: Method, backbone: Backbone, steps: int, python: str) -> Elsewhere:
    """An arm of trl, in its own interpreter."""
    given = {
        "path": str(path),
        "lora": settings_of(method, backbone),
        "packed": name.startswith("P"),
        "bf16": len(name) > 1 and devices.computes_bfloat16(CPU),
        "steps": steps,
        "rate": method.learning_rate,
        "decay": Training().weight_decay,
        "clip": Training().clip,
        "seed": SEED,
        "threads": torch.get_num_threads(),
    }
    return Elsewhere(python, "sft_arm.py", json.dumps(given))


def taken(arm: Elsewhere) -> Step:
    """A step of an arm of another interpreter."""

    def step(rows: Rows) -> tuple[float, float]:
        answer = arm(rows)
        return answer["seconds"], answer["loss"]

    return step


def schedules(loader: Loader, count: int) -> dict[str, list[Rows]]:
    """A sample of the batches of an epoch, in its order, and one of the batches of rows of similar length."""
    lengths = loader.encoded.lengths + 1
    order = get_length_grouped_indices(lengths.tolist(), BATCH_SIZE, generator=torch.Generator().manual_seed(SEED))
    grouped = [order[start : start + BATCH_SIZE] for start in range(0, len(order), BATCH_SIZE)]
    found = {}
    for name, batches in (("T", [each.tolist() for each in loader.chosen(0, loader.steps_per_epoch)]), ("T2", grouped)):
        sizes = np.array([lengths[each].sum() for each in batches])
        chosen = sorted(sample.choose(sizes, float(lengths.mean()) * BATCH_SIZE, count, SEED))
        found[name] = [rows_of(loader, batches[index]) for index in chosen]
    return found


def measure(steps: dict[str, Step], plan: dict[str, list[Rows]], repeats: int) -> dict[str, dict[str, Any]]:
    """For each arm: seconds_per_step, tokens_per_second, and the losses of its first pass."""
    seconds: dict[str, dict[int, list[float]]] = {name: defaultdict(list) for name in steps}
    losses: dict[str, list[float]] = {name: [] for name in steps}
    count = len(plan["T"])
    for repeat in range(repeats):
        for index in range(count):
            for name, step in steps.items():
                spent, loss = step(plan.get(name, plan["T"])[index])
                seconds[name][index].append(spent)
                losses[name].append(loss)
            shown = ", ".join(f"{name} {seconds[name][index][-1]:.2f}" for name in steps)
            print(f"{repeat * count + index + 1} of {repeats * count}: {shown} s a step", file=sys.stderr, flush=True)
    found = {}
    for name, own in seconds.items():
        medians = [median(times) for times in own.values()]
        tokens = sum(map(size_of, plan.get(name, plan["T"])))
        found[name] = {
            "seconds_per_step": median(medians),
            "tokens_per_second": tokens / sum(medians),
            "losses": losses[name][:count],
        }
    return found


def furthest(found: Sequence[float], expected: Sequence[float]) -> float:
    """The largest relative difference of two arms' losses."""
    return float(np.max(np.abs(np.array(found) - expected) / np.array(expected)))


def section(method: str, found: dict[str, dict[str, Any]]) -> tuple[str, dict[str, Any]]:
    """A method's table, and its part of the last line."""
    result: dict[str, Any] = {
        name: {key: arm[key] for key in ("seconds_per_step", "tokens_per_second")} for name, arm in found.items()
    }
    rows = []
    for name, arm in found.items():
        compared = "T" in found and name != "T2"
        if compared:
            result[name]["loss_difference"] = furthest(arm["losses"], found["T"]["losses"])
        apart = f"{result[name]['loss_difference']:.1e}" if compared else "-"
        rows.append((name, f"{arm['seconds_per_step']:.3f}", f"{arm['tokens_per_second']:,.0f}", apart))
    for above, below in RATIOS:
        if above in found and below in found:
            result[f"{above}/{below}"] = found[above]["tokens_per_second"] / found[below]["tokens_per_second"]
    ratios = ", ".join(f"{key} {tables.ratio(value)}" for key, value in result.items() if "/" in key)
    header = ("arm", "s/step", "real tokens/s", "losses apart from T's")
    return f"## {method}\n\n{tables.table(header, rows)}\n\nReal tokens/s: {ratios}.\n", result


def train(method: Method, backbone: Backbone, objective: Objective, loader: Loader, options: Any) -> dict[str, Any]:
    """Measure every arm of one method."""
    steps, plan = EPOCHS * loader.steps_per_epoch, schedules(loader, options.steps)
    with ExitStack() as stack:
        arms: dict[str, Step] = {}
        for name in options.arms:
            print(f"{method.name}: preparing {name}", file=sys.stderr, flush=True)
            if name in ("C", "D"):
                dtype = "float32" if name == "C" else "auto"
                arms[name] = Ours(backbone, objective, method, steps, dtype).step
            else:
                arm = theirs(name, backbone.path, method, backbone, steps, options.trl)
                stack.callback(arm.close)
                arms[name] = taken(arm)
        return measure(arms, plan, options.repeats)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Training speed on texts beside trl's SFTTrainer.")
    parser.add_argument("--trl", default=sys.executable, metavar="PYTHON", help="an interpreter that has trl")
    parser.add_argument("--steps", type=int, default=16, help="batches an arm")
    parser.add_argument("--repeats", type=int, default=3, help="how often each batch is timed")
    parser.add_argument("--methods", type=lambda text: text.split(","), default=list(METHODS))
    parser.add_argument("--arms", type=lambda text: text.split(","), default=list(ARMS))
    parser.add_argument("--backbone", default="embedded")
    parser.add_argument("--task", default="e2e:../shared/data/e2e")
    parser.add_argument("--template", help="as in afina train; default: the usual one for the columns")
    parser.add_argument("--markdown", type=Path, help="write the tables and the machine to this file")
    options = parser.parse_args()
    if unknown := set(options.arms) - set(ARMS):
        parser.error(f"--arms: {', '.join(sorted(unknown))} is none of {', '.join(ARMS)}")
    return options


def main() -> None:
    """Measure, print, and write."""
    options = parse()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    began, backbone = meter.now(), Backbone.load(options.backbone)
    sections, results = [], {}
    for name in options.methods:
        method = make(name, {"dropout": 0.0} if name == "lora" else None).for_family(backbone.family)
        run = RunSpec(backbone=options.backbone, task=options.task, method=name, ask=Ask(template=options.template))
        task = encoded(run)
        objective, _ = aim_of(run, task)
        loader = loader_of(run, task.train, objective)
        text, results[name] = section(name, train(method, backbone, objective, loader, options))
        sections.append(text)
    lengths = loader.encoded.lengths + 1
    report = "\n".join(
        [
            *machine.describe(),
            f"- backbone `{options.backbone}`, task `{Path(options.task).name}`: {len(lengths):,} rows of "
            f"{lengths.min()} to {lengths.max()} tokens, {lengths.mean():.1f} on average",
            f"- {options.steps} batches of {BATCH_SIZE}, each timed {options.repeats} times; "
            f"{(meter.now() - began) / 60:.0f} minutes in all",
            "",
            *(f"- {name}: {ARMS[name]}" for name in options.arms),
            "",
            *sections,
        ]
    )
    print(report)
    if options.markdown:
        options.markdown.write_text(report, encoding="utf-8")
    print(json.dumps(results))


if __name__ == "__main__":
    main()
