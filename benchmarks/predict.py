"""The speed of prediction compared with the usual alternatives: texts in, labels out, including tokenisation.

    python benchmarks/predict.py --onnx VENV/bin/python
    python benchmarks/predict.py --backbone minilm --encode VENV/bin/python

Each arm has a separate process. The arms take turns on the same texts: a random sample of the evaluation split with its
mean number of real tokens. The time of an arm is the median of its turns. All arms have the same weights, and their
labels are compared. `--onnx` names an interpreter that has optimum-onnx and ONNX Runtime. `--encode` names one that has
sentence-transformers, for a backbone with its files: `encode` and afina then pool the mean and normalise, so their
labels are other ones. The last line of the output is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import tempfile
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
from transformers import AutoModelForSequenceClassification, PreTrainedTokenizerBase, pipeline
from transformers.utils import logging as transformers_logging

import machine
import tables
from afina import Backbone, Task, meter
from afina import device as devices
from afina.data.tokenize import encode
from afina.errors import AfinaError
from afina.methods import make
from afina.models.classifier import Classifier
from afina.predicting import predictor
from arm import CPU, LENGTH, SEED
from elsewhere import Elsewhere
from sample import choose

DATA = "../shared/data"
BATCH_SIZE = 32
ARMS = {
    "pipeline": f'transformers pipeline("text-classification", batch_size={BATCH_SIZE}), fp32',
    "padded": f"batches of {BATCH_SIZE} padded to their longest text, in the given order, fp32",
    "sorted": "the same, sorted by length",
    "sorted-bf16": "the same, the model opened in bfloat16",
    "D": "afina.predicting.predictor, fp32 as shipped",
    "D-bf16": "the same, --dtype bfloat16",
    "D-int8": "the same, --dtype int8",
}
ONNX = {
    "onnx": "the same model in ONNX Runtime, fp32, padded batches in the given order",
    "onnx-sorted": "the same, sorted by length",
    "onnx-int8": "the given order, products in int8 (dynamic quantisation)",
    "onnx-int8-sorted": "the same, sorted by length",
}
MEAN = {
    "encode": f"SentenceTransformer.encode(batch_size={BATCH_SIZE}), fp32, which sorts by length, and a linear head",
    "D-mean": "afina.predicting.predictor with the same pooling, normalisation and head, fp32",
}
LOWERED, INT8 = "-bf16", "-int8"
"""Ends the names of arms in bfloat16, and of afina's arm in int8, which a processor without int8 lacks."""

PROBE = make("linear_probe", {"pooling": "mean", "normalize": True})

Answer = Callable[[list[str]], list[int]]
"""Texts to labels."""

Turn = Callable[[], tuple[float, list[int]]]
"""An arm predicts the texts once: seconds, and labels."""


def padded(model: Any, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], longest: int, sort: bool) -> list[int]:
    """The code of a careful user: tokenise, optionally sort, pad each batch, take the best label."""
    encodings = tokenizer(list(texts), truncation=True, max_length=longest)["input_ids"]
    order = sorted(range(len(texts)), key=lambda i: len(encodings[i])) if sort else list(range(len(texts)))
    labels = [0] * len(texts)
    with torch.inference_mode():
        for start in range(0, len(order), BATCH_SIZE):
            part = order[start : start + BATCH_SIZE]
            inputs = tokenizer.pad({"input_ids": [encodings[i] for i in part]}, return_tensors="pt")
            inputs = inputs.to(model.device)
            for index, label in zip(part, model(**inputs).logits.argmax(-1).tolist(), strict=True):
                labels[index] = label
    return labels


def reference(
    classifier: Classifier, backbone: Backbone, label_names: Sequence[str], attention: str | None = None
) -> Any:
    """transformers' own model with the same weights. `attention`: the name of its attention."""
    plain = AutoModelForSequenceClassification.from_pretrained(
        backbone.path,
        num_labels=len(label_names),
        pad_token_id=backbone.tokenizer.pad_token_id,
        dtype=torch.float32,
        attn_implementation=attention,
    ).eval()
    plain.load_state_dict(classifier.model.state_dict())
    return plain


def prepare(name: str, backbone: Backbone, label_names: Sequence[str]) -> Answer:
    """The arm of that name. All have the same weights."""
    classifier = Classifier.open(backbone, label_names, SEED)
    tokenizer, longest = backbone.tokenizer, min(LENGTH, backbone.longest)
    dtype = torch.bfloat16 if name.endswith(LOWERED) else torch.float32
    if name.startswith("D"):
        if name == "D-mean":
            classifier.wrap(PROBE.for_family(backbone.family).attach)
        if name.endswith(INT8):
            classifier.use_int8(predictor.int8_factors(backbone, "float", classifier))
            dtype = devices.compute_type("int8", CPU).dtype
        if dtype != torch.float32:
            classifier.lower(dtype)

        def ours(texts: Sequence[str]) -> list[int]:
            found = predictor.logits(classifier, encode(tokenizer, texts, max_length=longest)).argmax(axis=1)
            return [int(label) for label in found]

        return ours
    plain = reference(classifier, backbone, label_names).to(dtype)
    if name != "pipeline":
        return lambda texts: padded(plain, tokenizer, texts, longest, sort=name.startswith("sorted"))
    pipe = pipeline("text-classification", model=plain, tokenizer=tokenizer, batch_size=BATCH_SIZE, device=CPU)
    known = plain.config.label2id
    return lambda texts: [known[found["label"]] for found in pipe(texts, truncation=True, max_length=longest)]


def serve(turns: Connection, name: str, address: str, label_names: Sequence[str], texts: list[str]) -> None:
    """A process of one arm: at each sign, predict, and answer with the seconds and the labels.

    Of its own, because afina tells the C library to keep what is freed, and the other arms would gain by it.
    """
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    arm = prepare(name, Backbone.load(address), label_names)
    arm(texts[:BATCH_SIZE])  # warms up, not counted
    turns.send(None)
    while turns.recv():
        start = meter.now()
        labels = arm(texts)
        turns.send((meter.now() - start, labels))


@contextmanager
def here(name: str, address: str, label_names: Sequence[str], texts: list[str]) -> Iterator[Turn]:
    """An arm in a process of this interpreter."""
    spawn = multiprocessing.get_context("spawn")
    turns, theirs = spawn.Pipe()
    spawn.Process(target=serve, args=(theirs, name, address, label_names, texts), daemon=True).start()
    theirs.close()
    turns.recv()

    def turn() -> tuple[float, list[int]]:
        turns.send(True)
        answer: tuple[float, list[int]] = turns.recv()
        return answer

    yield turn
    turns.send(False)


@contextmanager
def onnx(python: str, address: str, label_names: Sequence[str], texts: list[str]) -> Iterator[dict[str, Turn]]:
    """ONNX Runtime's arms, those of one precision in one process."""
    backbone = Backbone.load(address)
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as stack:
        reference(Classifier.open(backbone, label_names, SEED), backbone, label_names).save_pretrained(scratch)
        backbone.tokenizer.save_pretrained(scratch)
        turns: dict[str, Turn] = {}
        for kind in ("fp32", "int8"):
            arm = Elsewhere(python, "onnx_arm.py", scratch, kind, str(BATCH_SIZE), str(min(LENGTH, backbone.longest)))
            stack.callback(arm.close)
            for name in ONNX:
                if ("int8" in name) == (kind == "int8"):
                    turns[name] = partial(told, arm, {"texts": texts, "sort": name.endswith("sorted")})
        yield turns


@contextmanager
def encode_arm(python: str, address: str, label_names: Sequence[str], texts: list[str]) -> Iterator[dict[str, Turn]]:
    """sentence-transformers' arm, and afina's with the same pooling."""
    backbone = Backbone.load(address)
    with tempfile.TemporaryDirectory() as scratch, here("D-mean", address, label_names, texts) as ours:
        layer, file = Classifier.open(backbone, label_names, SEED).output_layer, Path(scratch) / "head.npz"
        np.savez(file, weight=layer.weight.detach().numpy(), bias=layer.bias.detach().numpy())
        arm = Elsewhere(python, "encode_arm.py", str(backbone.path), str(file), str(min(LENGTH, backbone.longest)))
        yield {"encode": partial(told, arm, {"texts": texts}), "D-mean": ours}
        arm.close()


def told(arm: Elsewhere, asked: dict[str, Any]) -> tuple[float, list[int]]:
    """A turn of it."""
    answer = arm(asked)
    return answer["seconds"], answer["labels"]


def has_int8() -> bool:
    """Whether this processor computes int8."""
    try:
        devices.check_int8(CPU)
    except AfinaError:
        return False
    return True


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Prediction speed beside transformers' pipeline and padded batches.")
    parser.add_argument("--texts", type=int, default=256, help="how many of the evaluation texts")
    parser.add_argument("--repeats", type=int, default=3, help="how often each arm predicts them")
    parser.add_argument("--backbone", default=f"random:{DATA}/gpt2")
    parser.add_argument("--task", default=f"glue/sst2:{DATA}/sst2")
    parser.add_argument("--onnx", metavar="PYTHON", help="an interpreter that has optimum-onnx and ONNX Runtime")
    parser.add_argument("--encode", metavar="PYTHON", help="an interpreter that has sentence-transformers")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=[*ARMS], help="only these arms, and `padded`")
    parser.add_argument("--markdown", type=Path, help="write the table and the machine to this file")
    options = parser.parse_args()
    if not has_int8():
        options.arms.remove("D-int8")
    if min(options.texts, options.repeats) < 1:
        parser.error("--texts and --repeats must be at least 1")
    return options


def measure(texts: list[str], label_names: Sequence[str], options: argparse.Namespace) -> Any:
    """For each arm, the seconds of each turn, and labels int [N]."""
    seconds: dict[str, list[float]] = defaultdict(list)
    labels: dict[str, np.ndarray] = {}
    with ExitStack() as stack:
        common = (options.backbone, label_names, texts)
        turns = {name: stack.enter_context(here(name, *common)) for name in ARMS if name in {*options.arms, "padded"}}
        if options.onnx:
            turns |= stack.enter_context(onnx(options.onnx, *common))
        if options.encode:
            turns |= stack.enter_context(encode_arm(options.encode, *common))
        for repeat in range(options.repeats):
            for name, turn in turns.items():
                spent, found = turn()
                labels[name] = np.array(found)
                seconds[name].append(spent)
                print(f"{repeat + 1} of {options.repeats}: {name} {spent:.2f} s", file=sys.stderr, flush=True)
    return seconds, labels


def summary(seconds: dict[str, list[float]], labels: dict[str, np.ndarray], tokens: int) -> dict[str, Any]:
    """The last line."""
    result: dict[str, Any] = {}
    for name, times in seconds.items():
        spent = median(times)
        result[name] = {
            "seconds": spent,
            "texts_per_second": len(labels[name]) / spent,
            "tokens_per_second": tokens / spent,
            "agreement": float((labels[name] == labels["encode" if name in MEAN else "padded"]).mean()),
        }
    quotients = [("D", other) for other in ("pipeline", "padded", "sorted")]
    quotients += [("D-bf16", other) for other in ("pipeline", "padded", "sorted", "sorted-bf16", "D")]
    quotients += [("D-int8", other) for other in ("sorted", "sorted-bf16", "D", "D-bf16")]
    quotients += [(ours, other) for ours in ("D", "D-bf16", "D-int8") for other in ONNX]
    quotients += [("D-mean", "encode")]
    for ours, other in [pair for pair in quotients if result.keys() >= set(pair)]:
        result[f"{ours}/{other}"] = result[ours]["tokens_per_second"] / result[other]["tokens_per_second"]
    return result


def tabled(arms: Sequence[str], result: dict[str, Any]) -> str:
    """The table, and the quotients of its speeds."""
    rows = [
        (
            name,
            f"{result[name]['seconds']:.2f}",
            f"{result[name]['texts_per_second']:,.1f}",
            f"{result[name]['tokens_per_second']:,.0f}",
            f"{result[name]['agreement']:.1%}",
        )
        for name in arms
    ]
    header = ("arm", "seconds", "texts/s", "real tokens/s", "labels as `padded` or `encode`")
    ratios = ", ".join(f"{key} {tables.ratio(result[key])}" for key in sorted(result) if "/" in key)
    return f"{tables.table(header, rows)}\n\nReal tokens/s: {ratios}."


def main() -> None:
    """Measure, print, and write."""
    options = parse()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    backbone, task = Backbone.load(options.backbone), Task.load(options.task)
    if task.evaluation.pairs is not None:
        raise SystemExit(f"{options.task}: a task of text pairs; the pipeline's call here takes single texts only.")
    every = list(task.evaluation.texts)
    lengths = encode(backbone.tokenizer, every, max_length=min(LENGTH, backbone.longest)).lengths
    chosen = choose(lengths, float(lengths.mean()), options.texts, SEED)
    texts, tokens = [every[index] for index in chosen], int(lengths[chosen].sum())
    seconds, labels = measure(texts, task.label_names, options)
    result = summary(seconds, labels, tokens)
    report = "\n".join(
        [
            *machine.describe(),
            f"- backbone `{options.backbone}`, task `{Path(options.task).name}`: {len(texts)} of {len(every)} "
            f"evaluation texts, {tokens:,} tokens, predicted {options.repeats} times",
            "",
            *(f"- {name}: {(ARMS | ONNX | MEAN)[name]}" for name in seconds),
            "",
            tabled([*seconds], result),
            "",
        ]
    )
    print(report)
    if options.markdown:
        options.markdown.write_text(report, encoding="utf-8")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
