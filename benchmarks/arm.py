"""Arm: one way to train that `train_step.py` measures, and the code that all arms share. Does not know any arm."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from sample import Batch

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


class Watched:
    """The dtype of what the first linear layer gives, seen once."""

    def __init__(self, model: nn.Module) -> None:
        layer: Any = next(module for module in model.modules() if isinstance(module, nn.Linear | Conv1D))
        self.seen: torch.dtype = next(model.parameters()).dtype
        self._hook = layer.register_forward_hook(self._see)

    def _see(self, module: nn.Module, inputs: Any, output: torch.Tensor) -> None:
        self.seen = output.dtype
        self._hook.remove()
