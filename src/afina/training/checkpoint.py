"""Checkpoints: parameters, optimizer state and step, from which an interrupted run continues with the same result.

A checkpoint has no random state, because the order of texts and the dropout masks depend only on the seed and the step
(`afina.digest`). The masks of a step also depend on whether they are drawn for each text, which the account says.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
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
        ranks: The number of processes that train.
        keeps_trunk: Whether the outputs of frozen lower blocks are kept.
    """

    step: int = 0
    tokens: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    losses: list[float] = field(default_factory=list)
    rss_peak: int = 0
    by_text: bool = False
    ranks: int = 1
    keeps_trunk: bool = False

    def continues(self, now: Account) -> bool:
        """Return whether the session `now` may continue from this checkpoint.

        Kept outputs of lower blocks differ by rounding from those that a step computes. So the result is that of an
        uninterrupted session, bit for bit, only if both keep them or neither does; with another number of processes,
        the result is equal up to rounding anyway.
        """
        return self.ranks != now.ranks or self.keeps_trunk == now.keeps_trunk


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
    now: Account,
) -> Account:
    """Restore parameters, optimizer state and averaged weights from the checkpoint with this key; return its account.

    Args:
        now: The account of the session that continues. If the checkpoint is missing, damaged, from another run or not
            one from which the session may continue, no parameter is changed and `now` is returned.
    """
    try:
        tensors, metadata = tensorfile.read(path) if path.exists() else ({}, {})
    except CorruptAdapter:
        return now
    if metadata.get("key") != key or {n for n in tensors if n.startswith("parameter/")} != {
        f"parameter/{name}" for name in parameters
    }:
        return now
    try:
        account = Account(**json.loads(metadata["account"]))
    except (KeyError, TypeError, ValueError, RecursionError):
        return now  # written by another version of afina
    if not account.continues(now):
        return now
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
    return replace(account, ranks=now.ranks, keeps_trunk=now.keeps_trunk)


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
