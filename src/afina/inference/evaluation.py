"""An adapter on disk and texts, to figures or labels."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from afina import device
from afina.data.task import Task
from afina.data.tokenize import encode
from afina.errors import InvalidData, NotFound
from afina.inference import predictor
from afina.models.adapter import Adapter
from afina.models.backbone import Backbone
from afina.models.classifier import Classifier
from afina.stats import metrics


def evaluate(
    path: Path,
    task_address: str,
    data: Mapping[str, Any] | None = None,
    *,
    backbone_address: str | None = None,
    check_probe: bool = False,
) -> dict[str, Any]:
    """Accuracy and F1 of the adapter at `path` on the evaluation split of a task, in float32.

    The task's labels must be the adapter's; an adapter made by peft names none and takes the task's.
    """
    adapter = Adapter.load(path)
    task = Task.load(task_address, **(data or {}))
    if adapter.manifest.backbone_digest is None and len(task.label_names) == len(adapter.manifest.label_names):
        adapter = replace(adapter, manifest=adapter.manifest.model_copy(update={"label_names": task.label_names}))
    if task.label_names != adapter.manifest.label_names:
        raise InvalidData(
            f"task {task_address}: its labels are {', '.join(task.label_names)}; the adapter's are "
            f"{', '.join(adapter.manifest.label_names)}. Give the labels in the adapter's order with --labels."
        )
    classifier, backbone, length = _open(adapter, backbone_address, check_probe)
    split = task.evaluation
    encoded = encode(
        backbone.tokenizer, split.texts, split.pairs, max_length=length, where=f"task {task_address}, evaluation text"
    )
    predicted = predictor.logits(classifier, encoded).argmax(axis=1)
    return {
        "adapter": str(path),
        "digest": adapter.digest,
        "task": task_address,
        "accuracy": metrics.accuracy(split.labels, predicted),
        "f1": metrics.f1(split.labels, predicted, len(task.label_names)),
        "examples": len(split),
        "truncated": encoded.truncated,
    }


def predict_texts(
    path: Path,
    texts: Sequence[str],
    pairs: Sequence[str] | None = None,
    *,
    backbone_address: str | None = None,
    check_probe: bool = False,
) -> Iterator[dict[str, Any]]:
    """For each text its label and the probability of every label, by the adapter at `path`, in float32."""
    adapter = Adapter.load(path)
    classifier, backbone, length = _open(adapter, backbone_address, check_probe)
    names = adapter.manifest.label_names
    chances = predictor.probabilities(predictor.of_texts(classifier, backbone, texts, pairs, length))
    for index, (text, row) in enumerate(zip(texts, chances.tolist(), strict=True)):
        pair = {} if pairs is None else {"text_pair": pairs[index]}
        yield {
            "text": text,
            **pair,
            "label": names[max(range(len(row)), key=row.__getitem__)],
            "probabilities": dict(zip(names, row, strict=True)),
        }


def read_texts(file: Path) -> tuple[list[str], list[str] | None]:
    """Texts of a file, one a line, or of a .jsonl file with `text` and, in all lines or none, `text_pair`."""
    try:
        content = sys.stdin.read() if str(file) == "-" else file.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise NotFound(f"--file {file}: cannot be read ({error.strerror}).") from None
    except UnicodeDecodeError as error:
        raise InvalidData(f"--file {file}: not UTF-8 text (byte {error.start}). Save it as UTF-8.") from None
    lines = content.split("\n")
    if lines and not lines[-1]:
        lines.pop()
    lines = [line.removesuffix("\r") for line in lines]
    if file.suffix not in {".jsonl", ".ndjson"}:
        return lines, None
    texts, pairs = [], []
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
            texts.append(str(row["text"]))
        except (ValueError, KeyError, TypeError):
            raise InvalidData(f'--file {file}, line {number}: expected an object with "text".') from None
        pairs.append(row.get("text_pair"))
    if any(pair is None for pair in pairs):
        if any(pair is not None for pair in pairs):
            raise InvalidData(f'--file {file}: some lines have "text_pair" and some have not.')
        return texts, None
    return texts, [str(pair) for pair in pairs]


def _open(adapter: Adapter, address: str | None, check_probe: bool) -> tuple[Classifier, Backbone, int]:
    backbone = Backbone.load(address or adapter.manifest.backbone)
    classifier, _ = predictor.open_adapter(adapter, backbone, check_probe=check_probe)
    classifier.to(device.choose())
    return classifier, backbone, adapter.manifest.max_length or backbone.longest
