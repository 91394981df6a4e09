"""The time of one decoding step: a token for each running text, with and without `DecodingStep`, and many adapters.

    OMP_NUM_THREADS=1 python benchmarks/decoding.py --dtype bfloat16

The arms take turns in one process, step by step, and each arm has its own running texts. The time is the processor time
of the thread, so run the benchmark with one thread. "modules" computes a step by transformers' modules, "direct" by
`DecodingStep`. "mixed K" computes 32 texts of K LoRA adapters of rank 4 by the engine, and "merged" the same texts with
one adapter merged into the model. The last line of the output is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

import machine
import tables
from afina import Backbone, Predictor
from afina.engine.encoding import EncodedText
from afina.engine.engine import Engine
from afina.engine.generations import Generation
from afina.generating.generation import ContinuousBatch
from afina.generating.next_token import OwnNextTokenModel
from afina.models.decoding import Decoding
from afina.models.language_model import LanguageModel, open_model
from afina.models.objective import Opening
from afina.predicting.predictor import ModelPredictor
from serve import publish
from traffic import text_task

Step = Callable[[], object]
"""Computes the next token of each running text of an arm."""

TEXTS = 32
"""Running texts of the arms "merged" and "mixed"."""


def running(model: LanguageModel, prompts: Sequence[np.ndarray], new: int, *, direct: bool = True) -> Step:
    """Return the step of an arm that generates with one model."""
    tokens = OwnNextTokenModel(model)
    if not direct:
        tokens._step = None
    batch = ContinuousBatch[int](tokens, [], None)
    for place, prompt in enumerate(prompts):
        batch.add(place, prompt, Decoding(max_new_tokens=new))
    return batch.step


def alone(options: argparse.Namespace, rows: int, new: int) -> dict[str, Step]:
    """Return the arms "modules" and "direct"."""
    backbone = Backbone.load(options.backbone)
    opened = open_model(backbone, ("text",), 0, Opening("", "language_model")).eval()
    assert isinstance(opened, LanguageModel)
    if options.dtype != "float32":
        opened.lower(getattr(torch, options.dtype))
    draw = np.random.default_rng(0)
    lengths = [options.prompt + place % 16 for place in range(rows)]
    prompts = [draw.integers(5, backbone.config.vocab_size, length).astype(np.int32) for length in lengths]
    return {name: running(opened, prompts, new, direct=name == "direct") for name in ("modules", "direct")}


def mixed(options: argparse.Namespace, root: Path, new: int) -> dict[str, Step]:
    """Return the arms "merged" and "mixed K"."""
    backbone = Backbone.load(options.backbone)
    texts = [f"Text number {place} of this batch" + " and so on" * (place % 9) for place in range(TEXTS)]
    predictor = Predictor.load(root / "0", options.backbone)
    assert isinstance(predictor, ModelPredictor)
    model = LanguageModel(predictor.method.merged(predictor.classifier.model))
    if options.dtype != "float32":
        model.lower(getattr(torch, options.dtype))
    encoded = predictor.encode(texts)
    arms = {"merged": running(model, [encoded[place] for place in range(TEXTS)], new)}
    for count in options.adapters:
        engine = Engine(backbone, dtype=options.dtype)
        engine.load(*(root / str(index) for index in range(count)))
        leases = [engine.lease(root / str(index)) for index in range(count)]
        for place, text in enumerate(texts):
            lease = leases[place % count]
            (one,) = engine.encode(lease.resident(), [text])
            assert isinstance(one, EncodedText)
            engine.generations.add(Generation(lease, one, Decoding(max_new_tokens=new, ignore_eos=True)))
        arms[f"mixed {count}"] = engine.generations.step
    return arms


def measure(arms: Mapping[str, Step], steps: int) -> dict[str, float]:
    """Return the median milliseconds of processor time of a step, by arm."""
    found: dict[str, list[float]] = {name: [] for name in arms}
    for repeat in range(-3, steps):  # the first three steps warm up
        for name, step in arms.items():
            start = time.thread_time()
            step()
            if repeat >= 0:
                found[name].append(1000 * (time.thread_time() - start))
    return {name: median(times) for name, times in found.items()}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="The time of a decoding step.")
    parser.add_argument("--backbone", default="embedded")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="bfloat16")
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 8, 32], help="running texts without adapters")
    parser.add_argument("--adapters", type=int, nargs="*", default=[1, 8, 32], help="adapters of 32 running texts")
    parser.add_argument("--prompt", type=int, default=80, help="tokens of a prompt without an adapter")
    parser.add_argument("--steps", type=int, default=60)
    options = parser.parse_args()
    new, result = options.steps + 10, dict[str, Any]()
    for rows in options.rows:
        result[str(rows)] = measure(alone(options, rows, new), options.steps)
    lines = [(rows, f"{one['modules']:.1f}", f"{one['direct']:.1f}") for rows, one in result.items()]
    print(tables.table(("running texts", "modules: ms", "direct: ms"), lines), "\n")
    if options.adapters:
        with tempfile.TemporaryDirectory() as scratch:
            publish(Backbone.load(options.backbone), max(options.adapters), Path(scratch), **text_task(new))
            times = measure(mixed(options, Path(scratch), new), options.steps)
        result |= {"adapters": times}
        lines = [(name, f"{spent:.1f}", f"{times['merged'] / spent:.2f}") for name, spent in times.items()]
        print(tables.table(("arm", "ms", "speed, divided by merged"), lines), "\n")
    print("\n".join([*machine.describe(), f"- a step of {options.backbone} in {options.dtype}, processor time"]))
    print(json.dumps(result))


if __name__ == "__main__":
    main()
