"""The speed of generation compared with the usual alternatives: texts in, answers out, including tokenisation.

    afina train e2e:../shared/data/e2e --out results/e2e
    python benchmarks/generate.py results/e2e/adapters/NAME --inputs ../shared/data/e2e/testset.csv

The adapter is a LoRA of afina or peft on its backbone. Each arm has a separate process. The arms take turns on the same
prompts, in a random order. The time of an arm is the median of its turns. Answers are greedy; an answer has at most
`--new` tokens. transformers' `generate` gets the weights with the LoRA merged, and its batches are sorted by length.
`--llama PYTHON MODEL.gguf` names an interpreter that has llama-cpp-python, and the merged model in its format
(benchmarks/llama_arm.py says how it is made). The last line of the output is one JSON object.
"""

from __future__ import annotations

import argparse
import csv
import json
import multiprocessing
import random
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from transformers.utils import logging as transformers_logging

import machine
import tables
from afina import Adapter, Predictor, meter
from afina.generating.generation import answers
from afina.models.decoding import Decoding
from afina.predicting.predictor import ModelPredictor
from elsewhere import Elsewhere

LOWERED, INT8 = "-bf16", "-int8"
"""Ends the names of arms in bfloat16, and of afina's arms in int8, which only `--arms` takes."""

OURS = "D"
"""Begins the names of afina's arms; a number is that of the sequences that take a step together."""

Tokens = list[list[int]]
"""The new tokens of each prompt, its end token included."""

Turn = Callable[[], tuple[float, Tokens]]
"""An arm answers the prompts once: seconds, and new tokens."""


def names(batches: Sequence[int]) -> dict[str, str]:
    """The arms and what they are."""
    arms = {}
    for size in batches:
        padded = "alone" if size == 1 else f"in padded batches of {size}, sorted by length"
        arms[str(size)] = f"transformers generate on the merged model, prompts {padded}, fp32"
        arms[f"{size}{LOWERED}"] = "the same, the model opened in bfloat16"
    for size in (*batches, None):
        rows = "as shipped" if size is None else f"at most {size} sequences a step"
        arms[f"{OURS}{size or ''}"] = f"afina.generating.generation, the LoRA not merged, {rows}, fp32"
        arms[f"{OURS}{size or ''}{LOWERED}"] = "the same, --dtype bfloat16"
        arms[f"{OURS}{size or ''}{INT8}"] = "the same, --dtype int8"
    return arms


def padded(model: Any, prompts: Sequence[np.ndarray], end: int, size: int, new: int) -> Tokens:
    """The code of a careful user: sort, pad each batch on the left, generate, cut each answer at its end."""
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    found: Tokens = [[] for _ in prompts]
    for start in range(0, len(order), size):
        part = order[start : start + size]
        longest = max(len(prompts[i]) for i in part)
        tokens = torch.full((len(part), longest), end)
        for row, i in enumerate(part):
            tokens[row, longest - len(prompts[i]) :] = torch.from_numpy(prompts[i].astype(np.int64))
        mask = torch.tensor([[0] * (longest - len(prompts[i])) + [1] * len(prompts[i]) for i in part])
        with torch.inference_mode():
            made = model.generate(
                tokens.to(model.device),
                attention_mask=mask.to(model.device),
                do_sample=False,
                max_new_tokens=new,
                eos_token_id=end,
                pad_token_id=end,
            )
        for i, whole in zip(part, made[:, longest:].tolist(), strict=True):
            found[i] = whole[: whole.index(end) + 1] if end in whole else whole
    return found


def opened(adapter: str, backbone: str | None) -> ModelPredictor:
    """The adapter on its backbone."""
    predictor = Predictor.load(adapter, backbone)
    assert isinstance(predictor, ModelPredictor)
    return predictor


def merged(predictor: ModelPredictor, adapter: str, dtype: torch.dtype) -> Any:
    """transformers' own model with the LoRA merged."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    plain = AutoModelForCausalLM.from_pretrained(predictor.backbone.path, dtype=torch.float32)
    return PeftModel.from_pretrained(plain, Adapter.load(adapter).where).merge_and_unload().to(dtype).eval()


def prepare(name: str, adapter: str, backbone: str | None, new: int) -> Callable[[list[str]], Tokens]:
    """The arm of that name."""
    predictor = opened(adapter, backbone)
    kind, end = name.removesuffix(LOWERED).removesuffix(INT8), int(predictor.backbone.tokenizer.eos_token_id)
    lowered = name.endswith(LOWERED)

    def prompts(texts: list[str]) -> list[np.ndarray]:
        encoded = predictor.encode(texts)
        return [encoded[number] for number in range(len(encoded))]

    if kind.startswith(OURS):
        if lowered or name.endswith(INT8):
            predictor.lower("bfloat16" if lowered else "int8")
        limits = {"rows": int(kind[1:])} if kind[1:] else {}

        def ours(texts: list[str]) -> Tokens:
            decoding = Decoding(max_new_tokens=new)
            found = answers(predictor.classifier, prompts(texts), decoding, [end], **limits)
            return [one.tokens.tolist() for one in found]

        return ours
    model = merged(predictor, adapter, torch.bfloat16 if lowered else torch.float32)
    return lambda texts: padded(model, prompts(texts), end, int(kind), new)


def serve(turns: Connection, name: str, texts: list[str], adapter: str, backbone: str | None, new: int) -> None:
    """A process of one arm: at each sign, answer the prompts, and send the seconds and the tokens."""
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    arm = prepare(name, adapter, backbone, new)
    arm(texts[:2])  # warms up, not counted
    turns.send(None)
    while turns.recv():
        start = meter.now()
        tokens = arm(texts)
        turns.send((meter.now() - start, tokens))


@contextmanager
def here(*given: Any) -> Iterator[Turn]:
    """An arm in a process of this interpreter."""
    spawn = multiprocessing.get_context("spawn")
    turns, theirs = spawn.Pipe()
    spawn.Process(target=serve, args=(theirs, *given), daemon=True).start()
    theirs.close()
    turns.recv()

    def turn() -> tuple[float, Tokens]:
        turns.send(True)
        answer: tuple[float, Tokens] = turns.recv()
        return answer

    yield turn
    turns.send(False)


def told(arm: Elsewhere, asked: dict[str, Any]) -> tuple[float, Tokens]:
    """A turn of an arm of another interpreter."""
    answer = arm(asked)
    return answer["seconds"], answer["tokens"]


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Generation speed beside transformers' generate.")
    parser.add_argument("adapter", help="the directory of a LoRA adapter of afina")
    parser.add_argument("--inputs", type=Path, required=True, help="a csv file whose first column has the inputs")
    parser.add_argument("--backbone", help="the adapter's backbone, if it has moved")
    parser.add_argument("--texts", type=int, default=64, help="how many different inputs")
    parser.add_argument("--new", type=int, default=96, help="most tokens of an answer")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 16], help="sizes of padded batches")
    parser.add_argument("--arms", nargs="+", help="only these arms")
    parser.add_argument("--repeats", type=int, default=3, help="how often each arm answers them")
    parser.add_argument("--llama", nargs=2, metavar=("PYTHON", "MODEL"), help="an interpreter and a model of llama.cpp")
    parser.add_argument("--markdown", type=Path, help="write the table and the machine to this file")
    return parser.parse_args()


def measure(texts: list[str], arms: Sequence[str], options: argparse.Namespace) -> Any:
    """For each arm, the seconds of each turn, and the new tokens of each prompt."""
    seconds: dict[str, list[float]] = defaultdict(list)
    tokens: dict[str, Tokens] = {}
    with ExitStack() as stack:
        given = texts, options.adapter, options.backbone, options.new
        turns = {name: stack.enter_context(here(name, *given)) for name in arms}
        if options.llama:
            python, model = options.llama
            arm = Elsewhere(python, "llama_arm.py", model, str(torch.get_num_threads()))
            stack.callback(arm.close)
            encoded = opened(options.adapter, options.backbone).encode(texts)
            prompts = [encoded[number].tolist() for number in range(len(texts))]
            turns["llama.cpp"] = partial(told, arm, {"prompts": prompts, "new": options.new})
        for repeat in range(options.repeats):
            for name in random.Random(repeat).sample(sorted(turns), len(turns)):
                spent, tokens[name] = turns[name]()
                seconds[name].append(spent)
                print(f"{repeat + 1} of {options.repeats}: {name} {spent:.2f} s", file=sys.stderr, flush=True)
    return {name: seconds[name] for name in turns}, tokens


def summary(seconds: dict[str, list[float]], tokens: dict[str, Tokens]) -> dict[str, Any]:
    """The last line."""
    result: dict[str, Any] = {}
    first = tokens.get("1", next(iter(tokens.values())))
    for name, times in seconds.items():
        spent, found = median(times), tokens[name]
        result[name] = {
            "seconds": spent,
            "tokens": sum(map(len, found)),
            "tokens_per_second": sum(map(len, found)) / spent,
            "agreement": sum(one == other for one, other in zip(found, first, strict=True)) / len(first),
        }
    for ours in [name for name in result if name.startswith(OURS)]:
        for other in [name for name in result if not name.startswith(OURS)]:
            result[f"{ours}/{other}"] = result[ours]["tokens_per_second"] / result[other]["tokens_per_second"]
    return result


def tabled(result: dict[str, Any]) -> str:
    """The table, and the quotients of speeds."""
    arms = [name for name in result if "/" not in name]
    rows = [
        (
            name,
            f"{result[name]['seconds']:.2f}",
            f"{result[name]['tokens']:,}",
            f"{result[name]['tokens_per_second']:,.1f}",
            f"{result[name]['agreement']:.0%}",
        )
        for name in arms
    ]
    header = ("arm", "seconds", "new tokens", "new tokens/s", "answers as arm 1")
    others = [name for name in arms if not name.startswith(OURS)]
    ratios = [
        (ours, *(tables.ratio(result[f"{ours}/{other}"]) for other in others))
        for ours in arms
        if ours.startswith(OURS) and others
    ]
    return f"{tables.table(header, rows)}\n\nNew tokens/s, divided by:\n\n{tables.table(('arm', *others), ratios)}"


def main() -> None:
    """Measure, print, and write."""
    options = parse()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    with options.inputs.open(newline="", encoding="utf-8") as file:
        inputs = [row[0] for row in csv.reader(file)][1:]
    texts = list(dict.fromkeys(inputs))[: options.texts]
    every = names(options.batches)
    arms = options.arms or [name for name in every if not name.endswith(INT8)]
    seconds, tokens = measure(texts, arms, options)
    result = summary(seconds, tokens)
    lengths = opened(options.adapter, options.backbone).encode(texts).lengths
    report = "\n".join(
        [
            *machine.describe(),
            f"- {len(texts)} prompts of {lengths.min()} to {lengths.max()} tokens, greedy, at most {options.new} new "
            f"tokens, answered {options.repeats} times",
            "",
            *(f"- {name}: {every.get(name, 'llama.cpp on the merged model')}" for name in seconds),
            "",
            tabled(result),
            "",
        ]
    )
    print(report)
    if options.markdown:
        options.markdown.write_text(report, encoding="utf-8")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
