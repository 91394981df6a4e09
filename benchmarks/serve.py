"""Many adapters in a batch, compared with one adapter merged into the model and with peft's own mixed batch.

A batch is 32 real sentences with K distinct adapters (LoRA, r = 4, each with its own head), including tokenisation.
Each arm has a separate process. The arms take turns in any order, batch by batch; the time of an arm for a batch is the
median of its turns. All arms have the same weights, and their predictions are compared. In int8, transformers' and
peft's arms compute in bfloat16. Then one text is sent to one
adapter after the other, and adapters are loaded from a store. The last line of the output is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForSequenceClassification
from transformers.utils import logging as transformers_logging

import machine
import tables
from afina import Adapter, AdapterStore, Backbone, Predictor, Task, digest, meter
from afina import device as devices
from afina.engine.engine import Engine
from afina.methods import make
from afina.models import objectives
from afina.models.classifier import Classifier
from afina.models.language_model import open_model
from afina.models.manifest import Manifest
from afina.predicting.predictor import ModelPredictor, int8_factors, logits

DATA = "../shared/data"
BATCH = 32
LABELS = ("negative", "positive")
ARMS = {
    "mixed": "afina's Engine, K adapters in one packed row",
    "merged": "afina's packed row, one adapter merged into the model",
    "padded": "the same model in transformers, a padded batch",
    "peft": "peft's mixed batch (adapter_names), K adapters, padded",
}
SWITCHES = 200
"""Times that the adapter is changed."""

FIXED = ("merged", "padded")
"""Arms to which K is no matter."""

Answer = Callable[[Sequence[str], Sequence[int]], np.ndarray]
"""Texts, and which adapter each is for, to logits."""


def publish(backbone: Backbone, count: int, root: Path, **text: Any) -> None:
    """Adapters 0, 1, ... with random weights, as peft opens them too. `text`: fields of the manifest of a text task."""
    method, labels = make("lora").for_family(backbone.family), ("text",) if text else LABELS
    classifier = open_model(backbone, labels, 0, objectives.make(labels, text.get("objective")).opening)
    classifier.wrap(method.attach)
    torch.manual_seed(0)
    for index in range(count):
        shapes = method.state(classifier.model)
        tensors = {name: torch.randn_like(tensor) * 0.02 for name, tensor in shapes.items()}
        manifest = Manifest(
            method=method.name,
            hyperparameters=method.hyperparameters,
            label_names=labels,
            backbone=backbone.address,
            backbone_digest=backbone.digest,
            tokenizer_digest=backbone.tokenizer_digest,
            family=backbone.family,
            tensor_file=method.tensor_file,
            tensors_digest=digest.of_tensors(tensors),
            max_length=0,
            **text,
        )
        made = Adapter(manifest, tensors)
        made.save(root / str(index), lambda fresh: method.accompany(classifier.model, backbone, fresh))


def merged(backbone: Backbone, root: Path) -> tuple[Any, ModelPredictor]:
    """transformers' model with adapter 0 in its weights, and the predictor of that adapter."""
    predictor = Predictor.of(Adapter.load(root / "0"), backbone)
    assert isinstance(predictor, ModelPredictor)
    return predictor.method.merged(predictor.classifier.model), predictor


def prepare(name: str, backbone: Backbone, root: Path, count: int, dtype: str) -> Answer:
    """The arm of that name."""
    types, tokenizer = devices.compute_type(dtype, devices.choose()), backbone.tokenizer
    if name == "mixed":
        engine = Engine(backbone, dtype=dtype)
        adapters = [root / str(index) for index in range(count)]
        engine.load(*adapters)

        def mixed(texts: Sequence[str], which: Sequence[int]) -> np.ndarray:
            found = engine.predict([(adapters[one], text) for one, text in zip(which, texts, strict=True)])
            return np.stack([one.outputs for one in found])

        return mixed
    model, predictor = merged(backbone, root)
    if name == "merged":
        classifier = Classifier(model)
        if dtype == devices.INT8:
            classifier.use_int8(int8_factors(backbone, "float"))
        if types.dtype != torch.float32:
            classifier.lower(types.dtype)
        return lambda texts, _: logits(classifier, predictor.encode(texts))
    plain: Any = AutoModelForSequenceClassification.from_pretrained(
        backbone.path, num_labels=len(LABELS), pad_token_id=tokenizer.pad_token_id, dtype=torch.float32
    ).eval()
    if name == "padded":
        plain.load_state_dict(model.state_dict())
    else:
        from peft import PeftModel

        plain = PeftModel.from_pretrained(plain, root / "0", adapter_name="0")
        for index in range(1, count):
            plain.load_adapter(root / str(index), adapter_name=str(index))
    plain = plain.to(devices.choose(), types.dtype).eval()

    def padded(texts: Sequence[str], which: Sequence[int]) -> np.ndarray:
        given = {"truncation": True, "max_length": backbone.longest, "padding": True, "return_tensors": "pt"}
        inputs = tokenizer(list(texts), **given).to(plain.device)
        names = {} if name == "padded" else {"adapter_names": [str(one) for one in which]}
        with torch.inference_mode():
            found: np.ndarray = plain(**inputs, **names).logits.float().cpu().numpy()
        return found

    return padded


def serve(turns: Connection, name: str, address: str, root: Path, count: int, dtype: str) -> None:
    """A process of one arm: for each batch that comes, the seconds that it took and the logits."""
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    answer = prepare(name, Backbone.load(address), root, count, dtype)
    answer(["Warms up."] * 2, [0, count - 1])
    turns.send(None)
    while (asked := turns.recv()) is not None:
        start = meter.now()
        found = answer(*asked)
        turns.send((meter.now() - start, found))


def switching(backbone: Backbone, root: Path, options: argparse.Namespace) -> dict[str, float]:
    """Return two medians in milliseconds: loading an adapter, and switching between adapters.

    Loading is from a store and includes checking the adapter. Switching is the additional time of a request to another
    adapter than before, both in memory, compared with a second request to the same adapter.
    """
    store = AdapterStore(root / "store")
    store.init()
    names = [f"acme/task-{index}" for index in range(max(2, *options.adapters))]
    for index, name in enumerate(names):
        store.publish(root / str(min(index, max(options.adapters) - 1)), name, message="benchmark")
    loads, same, other = list[float](), list[float](), list[float]()
    with Engine(backbone, store, dtype=options.dtype, fresh=math.inf) as engine:
        for name in names:
            start = meter.now()
            engine.load(f"store:{name}")
            loads.append(meter.now() - start)
        text = "The same sentence each time."
        for turn in range(SWITCHES):
            for times, name in ((other, names[turn % len(names)]), (same, names[turn % len(names)])):
                start = meter.now()
                engine.predict([(f"store:{name}", text)])
                times.append(meter.now() - start)
    return {
        "load": 1000 * median(loads[1:]),  # the first opens the store
        "ask": 1000 * median(same),
        "switch": 1000 * (median(other) - median(same)),
    }


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Batches of many adapters beside one merged, and beside peft's.")
    parser.add_argument("--backbone", default=f"random:{DATA}/gpt2")
    parser.add_argument("--task", default=f"glue/sst2:{DATA}/sst2")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "int8"), default="float32")
    parser.add_argument("--adapters", type=lambda text: [*map(int, text.split(","))], default=[1, 2, 4, 8, 16, 32])
    parser.add_argument("--batches", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3, help="how often each batch is timed")
    parser.add_argument("--markdown", type=Path, help="write the table and the machine to this file")
    options = parser.parse_args()
    if min(options.batches, options.repeats, *options.adapters) < 1 or max(options.adapters) > BATCH:
        parser.error(f"--batches and --repeats must be at least 1, --adapters 1 to {BATCH}")
    return options


def measure(texts: list[list[str]], root: Path, options: argparse.Namespace) -> tuple[dict[str, float], dict[str, Any]]:
    """Texts a second by `arm` or `arm K`, and by the latter the logits of all batches."""
    spawn, turns = multiprocessing.get_context("spawn"), {}
    for name in ARMS:
        turns[name], theirs = spawn.Pipe()
        arguments = (theirs, name, options.backbone, root, max(options.adapters), options.dtype)
        spawn.Process(target=serve, args=arguments, daemon=True).start()
        theirs.close()
        turns[name].recv()
    seconds: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    outputs: dict[str, dict[int, np.ndarray]] = defaultdict(dict)
    asked = [(name, count) for name in ARMS for count in ([1] if name in FIXED else options.adapters)]
    draw = np.random.default_rng(1)
    for repeat in range(options.repeats):
        for batch, chosen in enumerate(texts):
            for place in draw.permutation(len(asked)):  # an arm is slower after some than after others
                name, count = asked[place]
                key = name if name in FIXED else f"{name} {count}"
                turns[name].send((chosen, [place % count for place in range(len(chosen))]))
                spent, outputs[key][batch] = turns[name].recv()
                seconds[key][batch].append(spent)
        print(f"{repeat + 1} of {options.repeats}", file=sys.stderr, flush=True)
    for turn in turns.values():
        turn.send(None)
    speeds = {key: BATCH * len(of) / sum(median(times) for times in of.values()) for key, of in seconds.items()}
    return speeds, {key: np.concatenate([*of.values()]) for key, of in outputs.items()}


def summary(speeds: dict[str, float], outputs: dict[str, Any], adapters: Sequence[int]) -> dict[str, Any]:
    """The last line."""
    mixed = {}
    for count in adapters:
        mine, theirs = f"mixed {count}", f"peft {count}"
        mixed[str(count)] = {
            "texts_per_second": speeds[mine],
            "peft_texts_per_second": speeds[theirs],
            "relative_to_merged": speeds[mine] / speeds["merged"],
            "relative_to_peft": speeds[mine] / speeds[theirs],
            "equal_labels": float((outputs[mine].argmax(1) == outputs[theirs].argmax(1)).mean()),
            "difference": float(np.abs(outputs[mine] - outputs[theirs]).max() / np.abs(outputs[theirs]).max()),
        }
    return {"mixed": mixed, "merged": speeds["merged"], "padded": speeds["padded"]}


def report(result: dict[str, Any]) -> str:
    """A table of it."""
    header = ("adapters", "mixed, texts/s", "peft, texts/s", "to merged", "to peft", "equal labels")
    rows = [
        (
            count,
            f"{one['texts_per_second']:.1f}",
            f"{one['peft_texts_per_second']:.1f}",
            tables.ratio(one["relative_to_merged"]),
            tables.ratio(one["relative_to_peft"]),
            f"{one['equal_labels']:.3f}",
        )
        for count, one in result["mixed"].items()
    ]
    said = f"Merged, packed {result['merged']:.1f} texts/s; merged, padded {result['padded']:.1f}."
    moves = result["milliseconds"]
    said += (
        f" An adapter is loaded from a store in {moves['load']:.1f} ms; one text takes {moves['ask']:.1f} ms, and "
        f"{moves['switch']:.2f} ms more where another adapter was asked before."
    )
    arms = "\n".join(f"- {name}: {what}" for name, what in ARMS.items())
    return f"{tables.table(header, rows)}\n\n{said}\n\n{arms}\n\n" + "\n".join(machine.describe()) + "\n"


def main() -> None:
    """Measure and print."""
    options = parse()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    task = Task.load(options.task)
    places = np.random.default_rng(0).choice(len(task.evaluation), BATCH * options.batches, replace=True)
    texts = [[task.evaluation.texts[place] for place in part] for part in np.split(places, options.batches)]
    with tempfile.TemporaryDirectory() as scratch:
        backbone = Backbone.load(options.backbone)
        publish(backbone, max(options.adapters), Path(scratch))
        speeds, outputs = measure(texts, Path(scratch), options)
        moves = switching(backbone, Path(scratch), options)
    result = summary(speeds, outputs, options.adapters) | {"milliseconds": moves}
    text = report(result)
    print(text)
    if options.markdown:
        options.markdown.write_text(text, encoding="utf-8")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
