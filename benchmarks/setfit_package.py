"""Method `setfit` beside the package setfit, on the same draws of a few labelled texts of each label.

    python benchmarks/setfit_package.py --python ELSEWHERE/bin/python

ELSEWHERE is an environment with setfit 1.2.0 (`pip install setfit==1.2.0`). Both train all-MiniLM-L6-v2 with their own
defaults, one after the other on each draw, with one thread, in float32 (`--dtype auto`: afina in its usual dtype).
Seconds are of the training with the fit of the head, without loading. The interval is about the draws and the texts.
The last line of the output is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

import numpy as np
import torch

import machine
import tables
from afina import Backbone, Run, Task, meter
from afina.events import ignore
from afina.stats.comparison import Comparison, compare
from afina.studies.runs.prepared import prepare
from afina.studies.runs.spec import DTYPES, Dtype, Training
from elsewhere import Elsewhere

BACKBONE = "minilm"
ARMS = ("afina", "setfit")
TASKS = ("snippets:movies", "snippets:products", "snippets:domains")
HEADER = (
    *("task", "texts a label", "draws", "accuracy: afina", "setfit", "difference, points", "log loss: afina", "setfit"),
    *("processor seconds: afina", "setfit", "steps"),
)


@dataclass(frozen=True)
class Outcome:
    """The result of a training.

    Attributes:
        right: Whether each evaluation text was answered correctly, bool [N].
        loss: The mean log loss of the evaluation texts.
    """

    right: np.ndarray
    loss: float
    steps: int
    seconds: float
    processor: float


def say(text: str) -> None:
    """Progress."""
    print(text, file=sys.stderr, flush=True)


def drawn(task: Task, each: int, draw: int, evaluation: int) -> Task:
    """A task with `each` training texts of every label and `evaluation` evaluation texts, both drawn by `draw`."""
    generator = np.random.default_rng([draw, each])
    labels = np.asarray(task.train.labels)
    chosen = [generator.permutation(np.flatnonzero(labels == label))[:each] for label in range(len(task.label_names))]
    asked = np.sort(np.random.default_rng(0).permutation(len(task.evaluation))[:evaluation])
    return replace(task, train=task.train.take(np.concatenate(chosen)), evaluation=task.evaluation.take(asked))


def outcome(chances: np.ndarray, labels: np.ndarray, **more: Any) -> Outcome:
    """The outcome of predicted probabilities [N, labels]."""
    own = np.maximum(chances[np.arange(len(labels)), labels], 1e-12)
    return Outcome(chances.argmax(axis=1) == labels, float(-np.log(own).mean()), **more)


def ours(task: Task, seed: int, dtype: Dtype, hyperparameters: dict[str, Any]) -> Outcome:
    """A training of afina, and its predictions in float32."""
    given = {"backbone": BACKBONE, "task": task.address, "method": "setfit", "hyperparameters": hyperparameters}
    run = Run(**given, seed=seed, training=Training(dtype=dtype))
    prepared, fit = prepare(run, meter.Meter(torch.device("cpu")), ignore, given=task)
    began, processor = meter.now(), meter.processor_seconds()
    fit.advance()
    spent = {"seconds": meter.now() - began, "processor": meter.processor_seconds() - processor}
    steps = fit.account.step
    classifier = fit.finish(prepared.trained(fit.classifier).reopen)
    found = prepared.predict(classifier, prepared.task.evaluation)
    chances = fit.objective.probabilities(found)
    assert chances is not None
    return outcome(chances, np.asarray(task.evaluation.labels), steps=steps, **spent)


def theirs(arm: Elsewhere, task: Task, seed: int) -> Outcome:
    """A training of the package setfit."""
    train, evaluation = task.train, task.evaluation
    given = {"texts": list(train.texts), "labels": np.asarray(train.labels).tolist(), "seed": seed}
    answer = arm(given | {"evaluation": list(evaluation.texts)})
    spent = {name: answer[name] for name in ("steps", "seconds", "processor")}
    return outcome(np.array(answer["chances"]), np.asarray(evaluation.labels), **spent)


def row(name: str, each: int, found: dict[str, list[Outcome]], between: Comparison) -> list[str]:
    """A row of the table: accuracies, their difference in points with its interval, log losses, steps and seconds."""
    cells = [name.removeprefix("snippets:"), str(each), str(len(found[ARMS[0]]))]
    cells += [f"{np.mean([one.right.mean() for one in found[arm]]):.3f}" for arm in ARMS]
    low, high = (100 * bound for bound in (between.interval.low, between.interval.high))
    cells.append(f"{100 * between.difference:+.1f} ({low:+.1f} to {high:+.1f})")
    for figure in ("loss", "processor"):
        cells += [f"{median(getattr(one, figure) for one in found[arm]):.{2 - (figure != 'loss')}f}" for arm in ARMS]
    return [*cells, " / ".join(str(found[arm][0].steps) for arm in ARMS)]


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", required=True, help="the Python of an environment with setfit")
    parser.add_argument("--task", action="append", help="the address of a task; may be repeated")
    parser.add_argument("--each", type=int, action="append", help="training texts of each label; may be repeated")
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--evaluation", type=int, default=1000, help="evaluation texts")
    parser.add_argument("--dtype", choices=DTYPES, default="float32")
    parser.add_argument("--set", default="{}", help="hyperparameters of afina's method, as JSON")
    options = parser.parse_args()
    torch.set_num_threads(1)
    backbone = Backbone.load(BACKBONE)
    arm = Elsewhere(options.python, "setfit_arm.py", str(backbone.path), "1")
    rows, facts = [], []
    for each in options.each or (8, 32):
        for address in options.task or TASKS:
            whole = Task.load(address)
            found: dict[str, list[Outcome]] = {name: [] for name in ARMS}
            for draw in range(options.draws):
                task = drawn(whole, each, draw, options.evaluation)
                found[ARMS[0]].append(ours(task, draw, options.dtype, json.loads(options.set)))
                found[ARMS[1]].append(theirs(arm, task, draw))
                accuracies = ", ".join(f"{name} {those[-1].right.mean():.3f}" for name, those in found.items())
                say(f"{address}, {each} texts a label, draw {draw}: {accuracies}")
            (between,) = compare({name: np.stack([one.right for one in those]) for name, those in found.items()})
            rows.append(row(address, each, found, between))
            facts.append(facts_of(address, each, found, between))
            say(" | ".join(rows[-1]))
    arm.close()
    print("\n".join(machine.describe()) + f"\n- setfit {arm.hello['version']}, dtype of afina: {options.dtype}\n")
    print(tables.table(HEADER, rows))
    print(json.dumps({"rows": facts}))


def facts_of(address: str, each: int, found: dict[str, list[Outcome]], between: Comparison) -> dict[str, Any]:
    """The figures of a row as JSON values."""
    figures = {
        name: {
            "accuracy": [float(one.right.mean()) for one in those],
            **{key: [getattr(one, key) for one in those] for key in ("loss", "steps", "seconds", "processor")},
        }
        for name, those in found.items()
    }
    interval = [between.interval.low, between.interval.high]
    return {"task": address, "each": each, "difference": between.difference, "interval": interval, "arms": figures}


if __name__ == "__main__":
    main()
