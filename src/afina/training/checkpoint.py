"""Checkpoints: parameters, optimizer state and step, from which an interrupted run continues with the same result.

A checkpoint has no random state, because the order of texts and the dropout masks depend only on the seed and the step
(`afina.digest`). The masks of a step also depend on whether they are drawn for each text, which the account says.
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
from afina.ranks import Ranks

_AVERAGE = "average/"


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
) -> None:
    """Write a checkpoint atomically, in place of the previous one.

    A checkpoint has the parameters, the optimizer state, the averaged weights and the `Account`.
    """
    tensors: dict[str, torch.Tensor] = {}
    for name, parameter in parameters.items():
        tensors[f"parameter/{name}"] = parameter
        for item, value in optimizer.state[parameter].items():
            tensors[f"{item}/{name}"] = value
    tensors |= {f"{_AVERAGE}{name}": mean for name, mean in average.items()}
    with file_io.replacing(path) as fresh:
        tensorfile.write(fresh, tensors, {"key": key, "account": json.dumps(asdict(account))})


def load(
    path: Path,
    key: str,
    parameters: Mapping[str, Parameter],
    optimizer: torch.optim.Optimizer,
    average: Mapping[str, Tensor],
) -> Account:
    """Restore parameters, optimizer state and averaged weights from the checkpoint with this key; return its account.

    If the checkpoint is missing, damaged, or from another run, no parameter is changed and the returned `Account` is
    empty.
    """
    try:
        tensors, metadata = tensorfile.read(path) if path.exists() else ({}, {})
    except CorruptAdapter:
        return Account()
    if metadata.get("key") != key or {n for n in tensors if n.startswith("parameter/")} != {
        f"parameter/{name}" for name in parameters
    }:
        return Account()
    try:
        account = Account(**json.loads(metadata["account"]))
    except (KeyError, TypeError, ValueError, RecursionError):
        return Account()  # written by another version of afina
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(tensors.pop(f"parameter/{name}"))
        for name, mean in average.items():
            mean.copy_(tensors.pop(f"{_AVERAGE}{name}"))
    by_name: dict[str, dict[str, torch.Tensor]] = {}
    for label, tensor in tensors.items():
        item, _, name = label.partition("/")
        by_name.setdefault(name, {})[item] = tensor
    for name, state in by_name.items():
        parameter = parameters[name]
        optimizer.state[parameter] = {item: value.to(parameter.device) for item, value in state.items()}
    return account


def receive(
    ranks: Ranks, parameters: Mapping[str, Parameter], optimizer: torch.optim.Optimizer, average: Mapping[str, Tensor]
) -> None:
    """Copy what rank 0 has loaded to the other ranks: parameters, optimizer state and averaged weights."""
    named = list(parameters.values())
    state = [{item: (each.dtype, each.shape) for item, each in optimizer.state[one].items()} for one in named]
    for one, items in zip(named, ranks.from_first(state), strict=True):
        for item, (dtype, shape) in items.items():
            if item not in optimizer.state[one]:
                optimizer.state[one][item] = torch.empty(shape, dtype=dtype, device=one.device)
    kept = [each for one in named for _, each in sorted(optimizer.state[one].items())]
    ranks.first_([*(one.data for one in named), *kept, *average.values()])
