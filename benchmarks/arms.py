"""The arms of `train_step.py`: one model each, ready to train, whose single steps can be timed.

C and D are afina's own loop, `afina.training.loop.train`, given one batch at a time; their seconds are the ones that a
record reports. The Trainer arms are in `padded.py`, imported only where one is built, so that afina's memory is
measured without it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import torch
from afina.training.loop import Recipe, make_optimizer, train
from torch import nn
from transformers.pytorch_utils import Conv1D

from afina import Backbone
from afina import device as devices
from afina.data.batch import Packed, pack
from afina.methods import make
from afina.methods.method import Method
from afina.models.classifier import Classifier
from afina.seeds import derive
from afina.studies.spec import Training
from afina.training.checkpoint import Account
from afina.training.mixed_precision import Working
from sample import Batch

ARMS = {
    "A": "transformers Trainer + peft, the paper's recipe: padded to 128, fp32",
    "B1": "the same, padded to each batch's longest text, bf16 autocast where the CPU has it; A's batches",
    "B2": 'B1 with train_sampling_strategy="group_by_length": batches of its own',
    "C": "afina, fp32; A's batches",
    "D": "afina as shipped (train.dtype auto); A's batches",
}
LENGTH = 128
"""The paper's: longer texts are truncated, in every arm."""

BATCH_SIZE = 16
EPOCHS = 2
SEED = 0
CPU = torch.device("cpu")


class Arm(Protocol):
    """dtype: what the body's matrix products compute in; known after the first step."""

    dtype: torch.dtype

    def step(self, batch: Batch) -> float:
        """Train on a batch; seconds from batch ready to step done."""


def build(name: str, method_name: str, backbone: Backbone, label_names: Sequence[str], steps: int) -> Arm:
    """The arm of that name. steps: in the whole training, the horizon of the decay."""
    method = make(method_name).for_family(backbone.family)
    if name in ("C", "D"):
        setting = Training(dtype="float32") if name == "C" else Training()
        return AfinaArm(backbone, label_names, method, setting, steps)
    from padded import TrainerArm

    return TrainerArm(backbone, label_names, method, Training(), steps, paper=name == "A")


class AfinaArm:
    """A classifier in training, as `afina.studies.execute` prepares it."""

    def __init__(
        self, backbone: Backbone, label_names: Sequence[str], method: Method, setting: Training, steps: int
    ) -> None:
        self.classifier = Classifier.open(backbone, label_names, SEED)
        torch.manual_seed(derive(SEED, "adapter"))
        self.classifier.wrap(method.attach)
        self.recipe = Recipe(
            steps=steps,
            learning_rate=setting.learning_rate or method.learning_rate,
            weight_decay=setting.weight_decay,
            clip=setting.clip,
            seed=SEED,
        )
        parameters = method.trainable(self.classifier.model)
        self.working = Working(self.classifier.model, parameters, devices.precision(setting.dtype, CPU))
        self.optimizer = make_optimizer(self.classifier, self.working.trained, self.recipe)
        self.account = Account()
        self._dtype = Watched(self.classifier.model)

    @property
    def dtype(self) -> torch.dtype:
        """Seen in the first step."""
        return self._dtype.seen

    def step(self, batch: Batch) -> float:
        """The loop's own figure, so whatever it does between steps is not counted, nor is packing."""
        before = self.account.seconds.get("train", 0.0)
        only = _Only(pack(batch.rows, batch.labels))
        train(self.classifier, self.working, self.optimizer, only, self.recipe, account=self.account)  # type: ignore[arg-type]
        return self.account.seconds["train"] - before


class _Only:
    """A loader of one batch."""

    def __init__(self, packed: Packed) -> None:
        self.packed = packed

    def batches(self, start: int, stop: int) -> Iterator[Packed]:
        yield self.packed


class Watched:
    """The dtype of what the first linear layer gives, seen once."""

    def __init__(self, model: nn.Module) -> None:
        layer: Any = next(module for module in model.modules() if isinstance(module, nn.Linear | Conv1D))
        self.seen: torch.dtype = layer.weight.dtype
        self._hook = layer.register_forward_hook(self._see)

    def _see(self, module: nn.Module, inputs: Any, output: torch.Tensor) -> None:
        self.seen = output.dtype
        self._hook.remove()


def body_parameters(backbone: Backbone, label_names: Sequence[str]) -> int:
    """Parameters of the body without its embeddings: 85,056,000 of GPT-2 small."""
    body = Classifier.open(backbone, label_names, SEED).body
    embeddings = {id(m.weight) for m in body.modules() if isinstance(m, nn.Embedding)}
    return sum(p.numel() for p in body.parameters() if id(p) not in embeddings)
