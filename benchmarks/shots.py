"""Examples in the prompt: the accuracy and the time of an untrained model with and without them.

    python benchmarks/shots.py --tasks snippets:movies --arms zero-shot,4,8,16,nearest-4 --out results/shots.jsonl
    python benchmarks/shots.py --arms zero-shot,16,whole-16 --texts 200 --repeats 3

An arm is a number of examples: the same for all texts, drawn with the seed, or the nearest ones (`nearest-16`). The arm
`whole-16` computes every prompt whole, without a common beginning that is computed once. Every arm answers the same
held-out texts, once in each repeat; the arms take turns, so that another load of the machine slows all of them. Seconds
are those of the processor for the measuring thread, without tokenization: set OMP_NUM_THREADS=1 for them. With `--out`,
an arm is not measured again if the file has its record. Batch calibration adds to each label's logit the offset that
makes the labels equally probable on average over the held-out texts. The last line of the output is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from transformers.utils import logging as transformers_logging

import machine
import tables
from afina import Backbone, Task, meter, processor
from afina.data.kinds import DRAWS
from afina.data.prompt_encoding import PromptEncoding
from afina.data.shots import Shots
from afina.data.tokenize import Encoded, encode
from afina.models import shared_beginning
from afina.models.classifier import Classifier
from afina.models.verbalizer import Verbalizer
from afina.predicting.predictor import logits
from afina.predicting.prompting import shift_of
from afina.stats.comparison import compare
from afina.stats.intervals import Interval, accuracy_estimate

REFERENCE = "zero-shot"
_ARM = re.compile(r"(?:(nearest|whole)-)?([1-9]\d*)")
LENGTH = 512


@dataclass(frozen=True)
class Arm:
    """Examples in the prompt.

    Attributes:
        whole: Whether every prompt is computed whole.
    """

    name: str
    shots: Shots
    whole: bool = False

    @classmethod
    def of(cls, name: str, seed: int) -> Arm:
        if name == REFERENCE:
            return cls(name, Shots())
        found = _ARM.fullmatch(name)
        if found is None:
            raise ValueError(f"{name} is no arm, such as {REFERENCE}, 16, nearest-16 or whole-16")
        draw = DRAWS[found[1] == "nearest"]
        return cls(name, Shots(int(found[2]), draw, seed), whole=found[1] == "whole")

    @property
    def depends_on_seed(self) -> bool:
        return self.shots.count > 0 and self.shots.draw == DRAWS[0]


@dataclass(frozen=True)
class Bench:
    """A task's held-out texts and the untrained model that is asked about them."""

    task: Task
    backbone: Backbone
    question: Verbalizer
    classifier: Classifier

    @classmethod
    def of(cls, address: str, options: argparse.Namespace) -> Bench:
        task, backbone = Task.load(address, evaluation_examples=options.texts), Backbone.load(options.backbone)
        question = Verbalizer.of(task.label_names, backbone.tokenizer, pairs=task.pairs, head="words")
        classifier = Classifier.open(backbone, task.label_names, 0, question.tokens, exact=True).eval()
        if options.dtype == "bfloat16":
            classifier.lower(torch.bfloat16)
        return cls(task, backbone, question, classifier)

    def encoded(self, arm: Arm) -> Encoded:
        split, tokenizer, template = self.task.evaluation, self.backbone.tokenizer, self.question.template
        assert template is not None
        plain = encode(tokenizer, split.texts, split.pairs, max_length=LENGTH, template=template)
        if not arm.shots.count:
            return plain
        examples = arm.shots.of(self.task, template, self.question.words)
        return PromptEncoding(examples, tokenizer, LENGTH, self.backbone.longest).encode(split, plain, "text")

    def outputs(self, arm: Arm, encoded: Encoded) -> tuple[np.ndarray, float]:
        """Return the logits and the processor seconds."""
        usual, shared_beginning.LEAST = shared_beginning.LEAST, 10**9 if arm.whole else shared_beginning.LEAST
        began = meter.processor_seconds()
        found = logits(self.classifier, encoded)
        shared_beginning.LEAST = usual
        return found, meter.processor_seconds() - began


def measure(bench: Bench, arms: list[Arm], repeats: int) -> Iterator[dict[str, Any]]:
    """Yield the record of each arm; the arms take turns in each repeat."""
    prompts = [bench.encoded(arm) for arm in arms]
    seconds: list[list[float]] = [[] for _ in arms]
    outputs: list[np.ndarray] = []
    for repeat in range(repeats):
        for number, (arm, encoded) in enumerate(zip(arms, prompts, strict=True)):
            found, taken = bench.outputs(arm, encoded)
            seconds[number].append(taken)
            outputs = outputs if repeat else [*outputs, found]
            print(f"{bench.task.address} {arm.name} seed {arm.shots.seed}: {taken:.1f} s", file=sys.stderr, flush=True)
            if repeat == repeats - 1:
                yield record(bench, arm, encoded, outputs[number], median(seconds[number]))


def record(bench: Bench, arm: Arm, encoded: Encoded, found: np.ndarray, seconds: float) -> dict[str, Any]:
    """Return the facts about an arm, with whether each answer is right, without and with batch calibration."""
    labels = bench.task.evaluation.labels
    right, shifted = found.argmax(1) == labels, (found + shift_of(found)).argmax(1) == labels
    return {
        "task": bench.task.address,
        "backbone": bench.backbone.address,
        "dtype": bench.classifier.computes,
        "arm": arm.name,
        "seed": arm.shots.seed,
        "texts": len(labels),
        "tokens": float(encoded.lengths.mean()),
        "seconds": seconds,
        "accuracy": float(right.mean()),
        "calibrated": float(shifted.mean()),
        "right": "".join(map(str, right.astype(int))),
        "calibrated_right": "".join(map(str, shifted.astype(int))),
    }


def ends(interval: Interval) -> list[float]:
    """The two ends of an interval."""
    return [interval.low, interval.high]


def verdicts(records: list[dict[str, Any]], field: str) -> dict[str, Any]:
    """Return each arm's accuracy with its interval, and its comparison with the arm without examples.

    An arm that does not depend on the seed counts once for each seed of the arm that it is compared with.
    """
    tables = {name: [one for one in records if one["arm"] == name] for name in dict.fromkeys(r["arm"] for r in records)}
    right = {name: np.array([[int(bit) for bit in one[field]] for one in some]) for name, some in tables.items()}
    found: dict[str, Any] = {}
    for name, table in right.items():
        found[name] = {"accuracy": float(table.mean()), "seeds": len(table), "texts": table.shape[1]}
        found[name]["interval"] = ends(accuracy_estimate(table.astype(bool), 0.95).interval)
        if name != REFERENCE and REFERENCE in right:
            plain = np.repeat(right[REFERENCE][:1, : table.shape[1]], len(table), 0)
            (one,) = compare({name: table.astype(bool), REFERENCE: plain.astype(bool)}, references=(REFERENCE,))
            found[name] |= {
                "difference": one.difference,
                "difference_interval": ends(one.interval),
                "verdict": one.verdict,
            }
    return found


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Accuracy and time of an untrained model with examples in its prompt.")
    parser.add_argument("--backbone", default="embedded")
    parser.add_argument("--tasks", type=lambda text: text.split(","), default=["snippets:movies"])
    parser.add_argument("--texts", type=int, default=1000, help="held-out texts")
    parser.add_argument("--arms", type=lambda text: text.split(","), default=[REFERENCE, "16"])
    parser.add_argument("--seeds", type=int, default=1, help="draws of the examples")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--out", type=Path, help="a file of records, which are not measured again")
    return parser.parse_args()


def gather(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Return the records of all tasks and arms: those of the file `--out`, and those that are measured now."""
    lines = options.out.read_text().splitlines() if options.out and options.out.exists() else []
    kept = [json.loads(line) for line in lines]
    same = ("task", "backbone", "dtype", "texts", "arm", "seed")
    found = []
    for address in options.tasks:
        bench = Bench.of(address, options)
        facts = (address, options.backbone, options.dtype, len(bench.task.evaluation))
        every = [Arm.of(name, seed) for seed in range(options.seeds) for name in options.arms]
        wanted = {(arm.name, arm.shots.seed): arm for arm in every if arm.depends_on_seed or not arm.shots.seed}
        known = {tuple(one[name] for name in same): one for one in kept}
        here = [known.get((*facts, *key)) for key in wanted]
        missing = [arm for arm, one in zip(wanted.values(), here, strict=True) if one is None]
        found += [one for one in here if one is not None]
        for one in measure(bench, missing, options.repeats) if missing else ():
            found.append(one)
            if options.out:
                options.out.parent.mkdir(parents=True, exist_ok=True)
                with options.out.open("a") as file:
                    file.write(json.dumps(one) + "\n")
    return found


def main() -> None:
    """Measure, print."""
    options = parse()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    found, result = gather(options), {}
    print("\n".join([*machine.describe(), ""]))
    for address in options.tasks:
        some = [one for one in found if one["task"] == address]
        plain, shifted = verdicts(some, "right"), verdicts(some, "calibrated_right")
        speed = {name: median(one["seconds"] / one["texts"] for one in some if one["arm"] == name) for name in plain}
        rows = []
        for name, one in plain.items():
            low, high = (f"{end:.4f}" for end in one["interval"])
            verdict = f"{one['verdict']} ({100 * one['difference']:+.1f})" if "verdict" in one else "–"
            cost = f"{1000 * speed[name]:.1f}", tables.ratio(speed[name] / speed.get(REFERENCE, speed[name]))
            rows.append((name, f"{one['accuracy']:.4f}", f"{low} to {high}", f"{shifted[name]['accuracy']:.4f}"))
            rows[-1] = (*rows[-1], verdict, *cost)
        header = ("examples", "accuracy", "95 %", "calibrated", f"than {REFERENCE}", "ms a text", "times")
        print(f"{address}, {options.texts} texts, {options.dtype}\n\n{tables.table(header, rows)}\n")
        result[address] = {"plain": plain, "calibrated": shifted, "seconds": speed}
    print(json.dumps(result | {"threads": torch.get_num_threads(), "processor": processor.name()}))


if __name__ == "__main__":
    main()
