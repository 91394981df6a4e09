"""Checkpoints: parameters, optimizer state and step, from which an interrupted run continues with the same result.

A checkpoint has no random state, because the order of texts and the dropout masks depend only on the seed, the step and
whether masks are drawn for each text, which the account says.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import Parameter

from afina import file_io, tensorfile
from afina.errors import CorruptAdapter
from afina.models.weights.sharding import gathered, part_of
from afina.ranks import Ranks

_PARAMETER, _AVERAGE = "parameter/", "average/"


@dataclass
class Account:
    """The work of a training session so far: steps, tokens, seconds by phase, loss of each step, peak RSS in bytes.

    Attributes:
        by_text: Whether several processes have trained, which draw dropout masks for each text (`TextMasks`). A single
            process that continues then draws its masks in the same way.
    """

    step: int = 0
    tokens: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    losses: list[float] = field(default_factory=list)
    rss_peak: int = 0
    by_text: bool = False


def save(
    path: Path,
    key: str,
    parameters: Mapping[str, Parameter],
    optimizer: torch.optim.Optimizer,
    account: Account,
    average: Mapping[str, Tensor],
    ranks: Ranks,
    parts: Mapping[str, Tensor],
) -> None:
    """Write a checkpoint atomically, in place of the previous one. All ranks call this, and rank 0 writes.

    Tensors of which each rank has a part (`parts`, by name) are gathered and written one at a time.
    """
    tensors: dict[str, Tensor] = {f"{_AVERAGE}{name}": mean for name, mean in average.items()}
    for name, parameter in parameters.items():
        tensors[f"{_PARAMETER}{name}"] = parameter
        tensors |= {f"{item}/{name}": value for item, value in optimizer.state[parameter].items()}
    sharded = {label: of for label, tensor in tensors.items() if (of := _sharded(label, tensor, parts)) is not None}

    def tensor(label: str) -> Tensor:
        return gathered(tensors[label].detach(), sharded[label]) if label in sharded else tensors[label]

    if ranks.is_first:
        shapes = {label: sharded.get(label, each).shape for label, each in tensors.items()}
        with file_io.replacing(path) as fresh:
            tensorfile.write_in_turn(fresh, shapes, tensor, {"key": key, "account": json.dumps(asdict(account))})
    else:
        for label in sorted(sharded):
            tensor(label)
    ranks.from_first(None)  # no process ends before the checkpoint is written


def load(
    path: Path,
    key: str,
    parameters: Mapping[str, Parameter],
    optimizer: torch.optim.Optimizer,
    average: Mapping[str, Tensor],
    now: Account,
    ranks: Ranks,
    parts: Mapping[str, Tensor],
) -> Account:
    """Restore parameters, optimizer state and averaged weights from the checkpoint with this key; return its account.

    All ranks call this. Rank 0 reads the checkpoint, and the others receive its tensors, one at a time; of those in
    `parts`, each rank keeps its part. If the checkpoint is missing, damaged or from another run, no parameter is
    changed and `now` is returned.
    """
    account, shapes = ranks.from_first(_contents(path, key, parameters, now) if ranks.is_first else (now, {}))
    for label, shape in shapes.items():
        item, _, name = label.partition("/")
        parameter = parameters[name]
        tensor = tensorfile.read_named(path, {"": label})[""] if ranks.is_first else torch.empty(shape)
        tensor = tensor.to(parameter.device)
        ranks.first_([tensor])
        if (of := _sharded(label, tensor, parts)) is not None:
            tensor = part_of(tensor, of)
        with torch.no_grad():
            if label.startswith(_PARAMETER):
                parameter.copy_(tensor)
            elif label.startswith(_AVERAGE):
                average[name].copy_(tensor)
            else:
                optimizer.state[parameter][item] = tensor
    return account


def _sharded(label: str, tensor: Tensor, parts: Mapping[str, Tensor]) -> Tensor | None:
    """Return the sharded tensor whose parts a tensor of a checkpoint is made of; None: each rank has the whole."""
    return parts.get(label.partition("/")[2]) if tensor.dim() else None  # the number of steps is a scalar


def _contents(
    path: Path, key: str, parameters: Mapping[str, Parameter], now: Account
) -> tuple[Account, dict[str, tuple[int, ...]]]:
    """Return the account and the shapes of a checkpoint; `now` and {} if the session `now` cannot continue from it."""
    nothing: tuple[Account, dict[str, tuple[int, ...]]] = now, {}
    try:
        metadata, shapes = tensorfile.contents(path) if path.exists() else ({}, {})
    except CorruptAdapter:
        return nothing
    if metadata.get("key") != key or {n for n in shapes if n.startswith(_PARAMETER)} != {
        f"{_PARAMETER}{name}" for name in parameters
    }:
        return nothing
    try:
        return Account(**json.loads(metadata["account"])), shapes
    except (KeyError, TypeError, ValueError, RecursionError):
        return nothing  # written by another version of afina
