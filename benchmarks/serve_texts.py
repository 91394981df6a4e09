"""Many adapters that generate texts at once, compared with one adapter merged into the model and with peft's own batch.

    python benchmarks/serve_texts.py --adapters 1,8,32

A batch is 32 prompts for K distinct adapters (LoRA, r = 4), greedy, with a fixed number of new tokens, including
tokenisation. Each arm has a separate process. The arms take turns in random order; the time of an arm is the median of
its turns. All arms have the same weights, and their answers are compared. Then `afina serve` answers one classification
after the other, alone and beside running generations of another client. The last line of the output is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import tempfile
import threading
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any

import httpx2
import numpy as np
import torch
from transformers.utils import logging as transformers_logging

import machine
import tables
from afina import AdapterStore, Backbone, Predictor, Task, meter
from afina.engine.encoding import EncodedText
from afina.engine.engine import Engine
from afina.engine.generations import Generation
from afina.generating.generation import answers
from afina.models.decoding import Decoding
from afina.models.language_model import LanguageModel
from afina.predicting.predictor import ModelPredictor
from generate import padded
from serve import DATA, publish
from traffic import serving, text_task

BATCH = 32
ARMS = {
    "mixed": "afina's Engine, K adapters in one packed step",
    "merged": "afina's packed step, one adapter merged into the model",
    "padded": "the same model in transformers, generate on a padded batch",
    "peft": "peft's generate on a mixed batch (adapter_names), K adapters, padded",
}
FIXED = ("merged", "padded")
"""Arms to which K is no matter."""

ASKED = 60
"""Classifications that are timed, alone and beside generations."""

Tokens = list[list[int]]
"""The new tokens of each prompt, its end token included."""

Write = Callable[[Sequence[str], Sequence[int]], Tokens]
"""Prompts, and which adapter each is for, to new tokens."""


def mixed(backbone: Backbone, root: Path, count: int, new: int, dtype: str) -> Write:
    """The arm of the engine."""
    engine = Engine(backbone, dtype=dtype)
    engine.load(*(root / str(index) for index in range(count)))
    leases = [engine.lease(root / str(index)) for index in range(count)]

    def write(texts: Sequence[str], which: Sequence[int]) -> Tokens:
        made: list[Generation] = []
        for text, one in zip(texts, which, strict=True):
            (encoded,) = engine.encode(leases[one].resident(), [text])
            assert isinstance(encoded, EncodedText)
            made.append(Generation(leases[one], encoded, Decoding(max_new_tokens=new)))
            engine.generations.add(made[-1])
        found: dict[Generation, list[int]] = {}
        while engine.generations.active:
            for ended, outcome in engine.generations.step():
                found[ended] = outcome.tokens.tolist()
        return [found[one] for one in made]

    return write


def prepare(name: str, backbone: Backbone, root: Path, count: int, new: int, dtype: str) -> Write:
    """The arm of that name."""
    if name == "mixed":
        return mixed(backbone, root, count, new, dtype)
    predictor = Predictor.load(root / "0", backbone.address)
    assert isinstance(predictor, ModelPredictor)
    end = int(backbone.tokenizer.eos_token_id)

    def prompts(texts: Sequence[str]) -> list[np.ndarray]:
        encoded = predictor.encode(texts)
        return [encoded[number] for number in range(len(encoded))]

    if name == "merged":
        model = LanguageModel(predictor.method.merged(predictor.classifier.model))
        if dtype != "float32":
            model.lower(getattr(torch, dtype))
        decoding = Decoding(max_new_tokens=new)
        return lambda texts, _: [one.tokens.tolist() for one in answers(model, prompts(texts), decoding, [end])]
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    plain: Any = AutoModelForCausalLM.from_pretrained(backbone.path, dtype=torch.float32)
    plain = PeftModel.from_pretrained(plain, root / "0", adapter_name="0")
    if name == "padded":
        plain = plain.merge_and_unload().to(getattr(torch, dtype)).eval()
        return lambda texts, _: padded(plain, prompts(texts), end, len(texts), new)
    for index in range(1, count):
        plain.load_adapter(root / str(index), adapter_name=str(index))
    plain = plain.to(getattr(torch, dtype)).eval()
    return lambda texts, which: grouped(plain, prompts(texts), which, end, new)


def grouped(model: Any, prompts: Sequence[np.ndarray], which: Sequence[int], end: int, new: int) -> Tokens:
    """Generate by peft's mixed batch: the names of adapters are in the order of the padded rows."""
    order = sorted(range(len(prompts)), key=lambda place: len(prompts[place]))
    generate = partial(model.generate, adapter_names=[str(which[place]) for place in order])
    return padded(argparse.Namespace(generate=generate, device=model.device), prompts, end, len(prompts), new)


def serve(turns: Connection, name: str, address: str, root: Path, count: int, new: int, dtype: str) -> None:
    """A process of one arm: for each batch that comes, the seconds that it took and the new tokens."""
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    write = prepare(name, Backbone.load(address), root, count, new, dtype)
    write(["Warms up."] * 2, [0, count - 1])
    turns.send(None)
    while (asked := turns.recv()) is not None:
        start = meter.now()
        found = write(*asked)
        turns.send((meter.now() - start, found))


def measure(texts: list[str], root: Path, options: argparse.Namespace) -> tuple[dict[str, float], dict[str, Tokens]]:
    """New tokens a second by `arm` or `arm K`, and by the latter the new tokens."""
    spawn, turns = multiprocessing.get_context("spawn"), {}
    for name in options.arms:
        turns[name], theirs = spawn.Pipe()
        given = (theirs, name, options.backbone, root, max(options.adapters), options.new, options.dtype)
        spawn.Process(target=serve, args=given, daemon=True).start()
        theirs.close()
        turns[name].recv()
    seconds, tokens = defaultdict[str, list[float]](list), dict[str, Tokens]()
    asked = [(name, count) for name in options.arms for count in ([1] if name in FIXED else options.adapters)]
    draw = np.random.default_rng(1)
    for repeat in range(options.repeats):
        for place in draw.permutation(len(asked)):  # an arm is slower after some than after others
            name, count = asked[place]
            key = name if name in FIXED else f"{name} {count}"
            turns[name].send((texts, [row % count for row in range(len(texts))]))
            spent, tokens[key] = turns[name].recv()
            seconds[key].append(spent)
        print(f"{repeat + 1} of {options.repeats}", file=sys.stderr, flush=True)
    for turn in turns.values():
        turn.send(None)
    return {key: sum(map(len, tokens[key])) / median(times) for key, times in seconds.items()}, tokens


def beside(texts: list[str], root: Path, options: argparse.Namespace) -> dict[str, float]:
    """Milliseconds of one classification after the other on `afina serve`: alone, and beside running generations."""
    backbone, store = Backbone.load(options.backbone), AdapterStore(root / "store")
    store.init()
    publish(backbone, 1, root / "classes")
    for name, made in (("acme/classes", root / "classes" / "0"), ("bolt/texts", root / "0")):
        store.publish(made, name, message="benchmark")
    secrets = {client: store.create_key(client, ["predict"]).secret for client in ("acme", "bolt")}
    heads = {client: {"Authorization": f"Bearer {secret}"} for client, secret in secrets.items()}
    found, over, written, problems = dict[str, float](), threading.Event(), list[int](), list[str]()

    def writes(url: str, text: str) -> None:
        body = {"model": "bolt/texts", "prompt": text, "max_tokens": options.new}
        while not over.is_set():
            answer = httpx2.post(f"{url}/v1/completions", json=body, headers=heads["bolt"], timeout=120)
            if answer.status_code != 200:
                problems.append(answer.text)
                return
            written.append(answer.json()["usage"]["completion_tokens"])

    with serving(options.backbone, root / "store", None) as url, httpx2.Client(headers=heads["acme"]) as client:

        def asked(count: int) -> list[float]:
            times = []
            for number in range(count):
                start = meter.now()
                body = {"model": "acme/classes", "inputs": texts[number % len(texts)]}
                client.post(f"{url}/predict", json=body, timeout=60).raise_for_status()
                times.append(1000 * (meter.now() - start))
            return times

        asked(5)  # warms up, not counted
        found |= percentiles("alone", asked(options.asked))
        threads = [threading.Thread(target=writes, args=(url, text)) for text in texts[: options.running]]
        for thread in threads:
            thread.start()
        asked(5)
        before, start = sum(written), meter.now()
        found |= percentiles("beside", asked(options.asked))
        found["generated_per_second"] = (sum(written) - before) / (meter.now() - start)
        over.set()
        for thread in threads:
            thread.join()
    if problems:
        raise SystemExit(f"generations failed: {problems[0]}")
    return found | {"p95_ratio": found["beside_p95"] / found["alone_p95"], "running": options.running}


def percentiles(name: str, times: list[float]) -> dict[str, float]:
    """The median and the 95th percentile by name."""
    return {f"{name}_p{each}": float(np.percentile(times, each)) for each in (50, 95)}


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Texts of many adapters beside one merged, and beside peft's.")
    parser.add_argument("--backbone", default=f"random:{DATA}/gpt2")
    parser.add_argument("--task", default=f"{DATA}/sst2")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--adapters", type=lambda text: [*map(int, text.split(","))], default=[1, 8, 32])
    parser.add_argument("--arms", nargs="*", default=[*ARMS], help="only these arms")
    parser.add_argument("--new", type=int, default=48, help="new tokens of each answer")
    parser.add_argument("--repeats", type=int, default=3, help="how often the prompts are answered")
    parser.add_argument("--asked", type=int, default=ASKED, help="classifications that are timed; 0: none")
    parser.add_argument("--running", type=int, default=8, help="generations beside them")
    parser.add_argument("--markdown", type=Path, help="write the table and the machine to this file")
    options = parser.parse_args()
    if min(options.repeats, options.new, *options.adapters) < 1 or max(options.adapters) > BATCH:
        parser.error(f"--repeats and --new must be at least 1, --adapters 1 to {BATCH}")
    return options


def equal(one: Tokens, other: Tokens) -> float:
    """The share of answers that are equal token by token."""
    return sum(mine == theirs for mine, theirs in zip(one, other, strict=True)) / len(one)


def summary(speeds: dict[str, float], tokens: dict[str, Tokens], adapters: Sequence[int]) -> dict[str, Any]:
    """The last line."""
    found: dict[str, Any] = {"tokens_per_second": speeds, "mixed": {}}
    for count in adapters:
        mine = f"mixed {count}"
        if mine not in speeds:
            continue
        one: dict[str, float] = {"tokens_per_second": speeds[mine]}
        for other, key in (("merged", "merged"), ("padded", "padded"), ("peft", f"peft {count}")):
            if key in speeds:
                one[f"relative_to_{other}"] = speeds[mine] / speeds[key]
        if f"peft {count}" in speeds:
            one["equal_answers"] = equal(tokens[mine], tokens[f"peft {count}"])
        found["mixed"][str(count)] = one
    return found


def report(result: dict[str, Any], options: argparse.Namespace) -> str:
    """A table of it."""
    columns = ("tokens_per_second", "relative_to_merged", "relative_to_padded", "relative_to_peft", "equal_answers")
    header = ("adapters", "mixed, tokens/s", "to merged", "to padded", "to peft", "answers as peft's")
    rows = [
        (count, *("" if one.get(column) is None else f"{one[column]:,.2f}" for column in columns))
        for count, one in result["mixed"].items()
    ]
    fixed = ", ".join(f"{name} {result['tokens_per_second'][name]:,.1f}" for name in FIXED if name in options.arms)
    lines = [tables.table(header, rows), "", f"New tokens/s: {fixed}." if fixed else ""]
    if latency := result.get("milliseconds"):
        lines.append(
            f"A classification over HTTP takes {latency['alone_p50']:.1f} ms (p95 {latency['alone_p95']:.1f}) alone, "
            f"and {latency['beside_p50']:.1f} ms (p95 {latency['beside_p95']:.1f}) beside {latency['running']} running "
            f"generations, which write {latency['generated_per_second']:.1f} tokens/s."
        )
    arms = "\n".join(f"- {name}: {ARMS[name]}" for name in options.arms)
    how = f"- {BATCH} prompts, greedy, {options.new} new tokens each, {options.dtype}"
    return "\n".join([*lines, "", arms, "", *machine.describe(), how, ""])


def main() -> None:
    """Measure and print."""
    options = parse()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    task = Task.load(options.task)
    places = np.random.default_rng(0).choice(len(task.evaluation), BATCH, replace=True)
    texts = [task.evaluation.texts[place] for place in places]
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        publish(Backbone.load(options.backbone), max(options.adapters), root, **text_task(options.new))
        result = summary(*measure(texts, root, options), options.adapters)
        if options.asked:
            result["milliseconds"] = beside(texts, root, options)
    text = report(result, options)
    print(text)
    if options.markdown:
        options.markdown.write_text(text, encoding="utf-8")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
