"""The effect of bfloat16 on quality: `python benchmarks/precision.py [--method lora] [--train 2000] [--evaluate 1000]`.

Trains a method on real sentences, once in float32 and once in bfloat16, and compares the two on held-out sentences.
Then predicts with the adapter of the bfloat16 run in both precisions, and counts how often the labels agree.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from afina import Adapter, Backbone, Run, Task
from afina.data.reading_options import ReadingOptions
from afina.models.predictions import Predictions
from afina.predicting import predictor
from afina.stats.comparison import compare
from afina.studies.runs.record import Result
from afina.training.mixed_precision import WorkingWeights
from afina.training.settings import Training

BACKBONE, TASK = "embedded", "snippets:movies"


@dataclass(frozen=True)
class Quality:
    """Quality and time of a run in float32 and one in bfloat16.

    The accuracy of both runs, their paired difference (bfloat16 - float32) and its 95 % interval; the share of
    held-out sentences on which one adapter predicts the same in both precisions; training seconds of both runs.
    """

    float32: float
    bfloat16: float
    difference: float
    low: float
    high: float
    agreement: float
    float32_seconds: float
    bfloat16_seconds: float


def measure(method: str, train: int, evaluate: int, learning_rate: float | None = None) -> Quality:
    """Two runs, and two predictions with the second's adapter."""
    data = ReadingOptions(train_examples=train, evaluation_examples=evaluate)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        full, low = (_train(method, data, dtype, learning_rate, out) for dtype in ("float32", "bfloat16"))
        adapter = Adapter.load(out / low.record.adapter)
    (comparison,) = compare({"bfloat16": low.scores[None], "float32": full.scores[None]})
    return Quality(
        full.record.accuracy,
        low.record.accuracy,
        comparison.difference,
        comparison.interval.low,
        comparison.interval.high,
        _agreement(adapter, data, low.answers),
        full.record.seconds.train,
        low.record.seconds.train,
    )


def _train(method: str, data: ReadingOptions, dtype: str, learning_rate: float | None, out: Path) -> Result:
    training = Training(epochs=1, max_length=128, dtype=dtype, learning_rate=learning_rate)
    record = Run(backbone=BACKBONE, task=TASK, method=method, data=data, training=training).execute(out)
    return Result(record, Predictions.read(out / record.predictions, record.predictions_digest))


def _agreement(adapter: Adapter, data: ReadingOptions, in_float32: np.ndarray) -> float:
    backbone = Backbone.load(BACKBONE)
    texts = Task.load(TASK, data).evaluation.texts
    opened = predictor.Predictor.of(adapter, backbone)
    classifier = opened.classifier
    WorkingWeights.of(opened.method, classifier.model, torch.bfloat16).refresh()
    encoded = opened.encode(texts)
    return float((predictor.logits(classifier, encoded).argmax(axis=1) == in_float32).mean())


def main() -> None:
    """Print one line of prose and one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", default="lora")
    parser.add_argument("--train", type=int, default=2000)
    parser.add_argument("--evaluate", type=int, default=1000)
    parser.add_argument("--learning-rate", type=float)
    asked = parser.parse_args()
    found = measure(asked.method, asked.train, asked.evaluate, asked.learning_rate)
    print(
        f"{asked.method}, {asked.train} training and {asked.evaluate} held-out sentences: float32 {found.float32:.4f}, "
        f"bfloat16 {found.bfloat16:.4f}, difference {found.difference:+.4f} ({found.low:+.4f} to {found.high:+.4f}); "
        f"one adapter in both: {found.agreement:.2%} the same; "
        f"trained in {found.float32_seconds:.0f} and {found.bfloat16_seconds:.0f} s."
    )
    print(json.dumps({"method": asked.method, "train": asked.train, "evaluate": asked.evaluate, **asdict(found)}))


if __name__ == "__main__":
    main()
