"""The plan of `train_step.py`: the data, each arm's schedule and a sample of it. Does not know how arms compute."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn

from afina import Backbone, Task
from afina.data.batch import Loader
from afina.data.tokenize import encode
from afina.models.classifier import Classifier
from arm import BATCH_SIZE, EPOCHS, LENGTH, SEED
from sample import Batch, choose

SHARE_OF_A = 5
"""A takes a fifth of the sample."""


@dataclass
class Plan:
    """The plan of a measurement.

    schedule, chosen  by arm: the full batches of its first epoch, and which of them are measured
    tokens            real tokens of the training split
    """

    backbone: Backbone
    label_names: tuple[str, ...]
    tokens: int
    examples: int
    body: int
    schedule: dict[str, list[Batch]]
    chosen: dict[str, list[int]]

    @classmethod
    def of(cls, backbone_address: str, task_address: str, arms: Sequence[str], steps: int) -> Plan:
        """Load, encode, and sample `steps` batches."""
        backbone, task = Backbone.load(backbone_address), Task.load(task_address)
        labels = task.train.labels
        encoded = encode(
            backbone.tokenizer, task.train.texts, task.train.pairs, max_length=min(LENGTH, backbone.longest)
        )
        loader = Loader(encoded, labels, BATCH_SIZE, SEED)
        orders: dict[str, Any] = {"shuffled": [loader.indices(step) for step in range(loader.steps_per_epoch)]}
        if "B2" in arms:
            from padded_arm import grouped

            orders["grouped"] = grouped(encoded, backbone.tokenizer)
        mean = float(encoded.lengths.mean()) * BATCH_SIZE
        schedules, samples = {}, {}
        few = max(1, steps // SHARE_OF_A)
        for name, order in orders.items():
            schedules[name] = [Batch.of(encoded, labels, part) for part in order if len(part) == BATCH_SIZE]
            sizes = np.array([batch.tokens for batch in schedules[name]])
            samples[name] = choose(sizes, mean, steps, SEED, few if name == "shuffled" else None)
            off = sizes[samples[name]].mean() / mean - 1
            print(
                f"{name}: {len(samples[name])} of {len(sizes)} batches, mean of real tokens {off:+.1%} of the data's",
                file=sys.stderr,
            )
        order_of = {arm: "grouped" if arm == "B2" else "shuffled" for arm in arms}
        chosen = {arm: samples[order][: few if arm == "A" else None] for arm, order in order_of.items()}
        return cls(
            backbone,
            task.label_names,
            int(encoded.lengths.sum()),
            len(encoded),
            body_parameters(backbone, task.label_names),
            {arm: schedules[order] for arm, order in order_of.items()},
            chosen,
        )

    @property
    def steps(self) -> int:
        """The steps of the whole training."""
        return EPOCHS * -(-self.examples // BATCH_SIZE)

    def heaviest(self, arm: str) -> list[Batch]:
        """An ordinary batch, so that the optimiser's state exists, then those with the most real and padded tokens."""
        every = self.schedule[arm]
        most = max(every, key=lambda batch: batch.tokens)
        widest = max(every, key=lambda batch: batch.cells)
        return [every[self.chosen[arm][0]], most, *([] if widest is most or arm == "A" else [widest])]


def body_parameters(backbone: Backbone, label_names: Sequence[str]) -> int:
    """Parameters of the body without its embeddings: 85,056,000 of GPT-2 small."""
    body = Classifier.open(backbone, label_names, SEED).body
    embeddings = {id(m.weight) for m in body.modules() if isinstance(m, nn.Embedding)}
    return sum(p.numel() for p in body.parameters() if id(p) not in embeddings)
