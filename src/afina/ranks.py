"""`Ranks`: the processes that compute one run together, on one machine or on several.

The module `ranks` owns torch's process groups. Gradients are always summed, never averaged: a run divides its loss by
the number of targets of the whole batch. The module does not know models, methods or runs.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Self, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch._subclasses.fake_tensor import unset_fake_temporarily
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.rendezvous import rendezvous
from torch.testing._internal.distributed.fake_pg import FakeStore

from afina import digest, meter, problems

BUCKET = 1 << 22
"""Number of elements up to which tensors are summed together, in one buffer. A larger tensor is summed in place."""

TIMEOUT = 1800.0
"""Seconds that a rank waits for another one in a training step. A rank whose process ends is noticed at once."""

PATIENCE = 86_400.0
"""Seconds that a rank waits for the value of another one, which may compute alone before, such as an evaluation."""

Value = TypeVar("Value")


@dataclass(eq=False)
class _Meeting:
    """Where ranks have met; None before."""

    store: Any = None  # torch's store, which has the notes of the ranks
    values: Any = None  # torch's process group for values, whose connections close with the last reference to it


@dataclass(frozen=True)
class Ranks:
    """The processes that compute one run together, as seen by one of them.

    Every rank executes the same run on the same data, and computes its share of the texts of each batch. If there is
    only one rank, no method communicates, and every method returns at once.

    Attributes:
        rank: The number of this process, from 0. Rank 0 writes the files of the run and reports its progress.
        count: The number of ranks.
        shards: Whether each rank keeps only a part of the backbone's weights.
    """

    rank: int = 0
    count: int = 1
    shards: bool = False
    _meeting: _Meeting = field(default_factory=_Meeting, repr=False, compare=False)

    @classmethod
    def joined(
        cls, rank: int, count: int, address: str, *, local: int = 0, shards: bool = False, timeout: float = TIMEOUT
    ) -> Self:
        """Join the process group of a run, and wait until all ranks have joined.

        Args:
            address: Where the ranks meet: "tcp://HOST:PORT" with a free port of the machine of rank 0, or "env://" for
                the environment variables that torchrun sets.
            local: The number of the GPU of this process on its machine.
            timeout: Seconds that a rank waits for another one.

        Raises RunFailed if the ranks do not meet, and InvalidStudy if the machine has a GPU, but none for this process.
        """
        backend = "gloo"
        if torch.cuda.is_available():
            if local >= (gpus := torch.cuda.device_count()):
                raise problems.RANK_WITHOUT_GPU(number=local + 1, gpus=gpus)
            torch.cuda.set_device(local)
            backend = "cpu:gloo,cuda:nccl"
        limit = timedelta(seconds=timeout)
        with _together("join"):
            met, _, _ = next(iter(rendezvous(address, rank, count, timeout=limit)))
            again = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")  # torchrun may keep the store for a new start
            store = dist.PrefixStore(f"afina/{again}", met)  # type: ignore[attr-defined]
            dist.init_process_group(backend, store=store, rank=rank, world_size=count, timeout=limit)
            values = dist.new_group(backend="gloo", timeout=timedelta(seconds=max(timeout, PATIENCE)))
        return cls(rank, count, shards, _Meeting(store, values))

    @classmethod
    def of_environment(cls, *, shards: bool = False, timeout: float = TIMEOUT) -> Self:
        """Join the ranks that torchrun has started; without torchrun, return the only rank of a run."""
        if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
            return cls(shards=shards)
        rank, count, local = (int(os.environ.get(name, "0")) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
        if count == 1:
            return cls(shards=shards)
        return cls.joined(rank, count, "env://", local=local, shards=shards, timeout=timeout)

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    @property
    def sharded(self) -> bool:
        """Whether the backbone's weights are sharded: `shards`, and there are several ranks."""
        return self.shards and self.count > 1

    def close(self) -> None:
        """Leave the process group; a rank that waits for this one notices it. Notes can still be left and read."""
        if self.count > 1 and dist.is_initialized():
            self._meeting.values = None
            dist.destroy_process_group()

    def share(self, sizes: np.ndarray) -> np.ndarray:
        """Return the indices of this rank's items of a batch, int64, ascending and contiguous; may be empty.

        `sizes` are tokens of items, int64 [N]; an item is of the rank in whose part of all tokens its middle falls.
        """
        return np.flatnonzero(owners(sizes, self.count) == self.rank)

    def sum_(self, tensors: Sequence[Tensor]) -> None:
        """Add each tensor over all ranks, in place. All ranks pass tensors of the same shapes in the same order."""
        if self.count == 1:
            return
        with _together("sum"):
            for bucket in _buckets(tensors):
                if len(bucket) == 1 and bucket[0].is_contiguous():
                    self._sum(bucket[0])
                    continue
                flat = torch.cat([tensor.reshape(-1) for tensor in bucket])
                self._sum(flat)
                for tensor, summed in zip(bucket, flat.split([each.numel() for each in bucket]), strict=True):
                    tensor.copy_(summed.view(tensor.shape))

    def sum_gradients(self, weights: Sequence[Tensor], loss: Tensor) -> None:
        """Add the gradients of the weights, and the loss, over all ranks, in place.

        A weight that has a gradient on some rank has one on every rank then; the others keep none, so that the
        optimizer leaves them as they are.
        """
        on_some = self.any_([weight.grad is not None for weight in weights])
        used = [weight for weight, is_used in zip(weights, on_some, strict=True) if is_used]
        for weight in used:
            if weight.grad is None:
                weight.grad = torch.zeros_like(weight)
        self.sum_([loss, *(weight.grad for weight in used if weight.grad is not None)])

    def _sum(self, tensor: Tensor) -> None:
        dist.all_reduce(tensor, op=dist.ReduceOp.SUM)

    def first_(self, tensors: Sequence[Tensor]) -> None:
        """Copy the tensors of rank 0 into those of every other rank, which have the same shapes, dtypes and order."""
        if self.count == 1:
            return
        with _together("copy"):
            for tensor in tensors:
                held = tensor.contiguous()
                dist.broadcast(held, src=0)
                if held is not tensor:
                    tensor.copy_(held)

    def any_(self, flags: Sequence[bool]) -> list[bool]:
        """Return for each flag whether it is set on any rank. All ranks pass the same number of flags."""
        if self.count == 1:
            return list(flags)
        self.sum_([counts := torch.tensor(flags, dtype=torch.float32)])
        return [bool(count) for count in counts.tolist()]

    def mesh(self, device: torch.device) -> DeviceMesh:
        """Return the ranks as torch's device mesh, over which `fully_shard` shards weights on devices of this type."""
        return init_device_mesh(device.type, (self.count,))

    def most(self, number: int) -> int:
        """Return the largest number of all ranks; each rank passes its own number, at least 0."""
        if self.count == 1:
            return number
        numbers = torch.zeros(self.count, dtype=torch.int64)
        numbers[self.rank] = number
        self.sum_([numbers])
        return int(numbers.max())

    def gather(self, value: Value) -> list[Value]:
        """Return the values of all ranks in the order of the ranks, on every rank; values are pickled."""
        if self.count == 1:
            return [value]
        values: list[Any] = [None] * self.count
        with _together("gather"):
            dist.all_gather_object(values, value, group=self._meeting.values)
        return values

    def from_first(self, value: Value) -> Value:
        """Return the value of rank 0 on every rank; values are pickled, and those of other ranks are ignored."""
        if self.count == 1:
            return value
        held: list[Any] = [value if self.is_first else None]
        with _together("broadcast"):
            dist.broadcast_object_list(held, src=0, group=self._meeting.values)
        first: Value = held[0]
        return first

    def of_shares(
        self,
        sizes: np.ndarray,
        compute: Callable[[int, int], Value],
        apart: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> list[Value]:
        """Return the values that the ranks compute for their shares of items, in the order of the items.

        Args:
            sizes: The number of tokens of each item, int64 [N], each at least 1.
            compute: Return the value for the items with the indices `start` to `stop - 1`.
            apart: A context manager in which each rank computes alone, such as `Classifier.apart` for sharded weights.
        """
        if self.count == 1 or not len(sizes):
            return [compute(0, len(sizes))]
        own = self.share(sizes)
        with apart():
            part = (compute(int(own[0]), int(own[-1]) + 1),) if len(own) else ()
        return [value for part in self.gather(part) for value in part]

    @contextmanager
    def notices_loss(self) -> Iterator[None]:
        """Raise RunFailed if torch finds a lost rank in a forward or backward pass, which gathers sharded weights."""
        try:
            yield
        except RuntimeError as error:
            if self.count > 1 and _is_loss(error):
                raise problems.RANK_LOST(step="gather weights", reason=_reason(error)) from error
            raise

    def leave_note(self, name: str, text: str) -> None:
        """Leave a note that the other ranks can read also after this rank has ended."""
        if (store := self._meeting.store) is not None:
            with suppress(RuntimeError):  # the process that keeps the notes has ended
                store.set(f"{_NOTES}{name}", text)

    def note(self, name: str, seconds: float) -> str | None:
        """Return the note of this name; None if no rank leaves it within some seconds."""
        if (store := self._meeting.store) is None:
            return None
        key, until, pause = f"{_NOTES}{name}", meter.now() + seconds, threading.Event()
        with suppress(RuntimeError):
            while not (is_there := store.check([key])) and meter.now() < until:
                pause.wait(_PAUSE)
            return str(store.get(key).decode()) if is_there else None
        return None

    def check_equal(self, tensors: Mapping[str, Tensor]) -> None:
        """Raise RunFailed if the ranks do not have bitwise equal tensors."""
        if self.count > 1 and len(digests := set(self.gather(digest.of_tensors(tensors)))) > 1:
            raise problems.RANKS_DIFFER(ranks=self.count, found=len(digests))


class RehearsedRanks(Ranks):
    """One rank of a dry run: it allocates the memory of a real rank, and no other rank exists."""

    def _sum(self, tensor: Tensor) -> None:
        """Leave the tensor as it is: the sum of a dry run has no values."""

    def first_(self, tensors: Sequence[Tensor]) -> None:
        """Leave the tensors as they are."""

    def any_(self, flags: Sequence[bool]) -> list[bool]:
        return list(flags)

    def mesh(self, device: torch.device) -> DeviceMesh:
        with unset_fake_temporarily():  # making a mesh reads values
            return super().mesh(device)

    def most(self, number: int) -> int:
        return number

    def gather(self, value: Value) -> list[Value]:
        return [value] * self.count

    def from_first(self, value: Value) -> Value:
        return value

    def check_equal(self, tensors: Mapping[str, Tensor]) -> None:
        """Check nothing, because the tensors of a dry run have no values."""


@contextmanager
def rehearsal(ranks: Ranks) -> Iterator[None]:
    """Let a dry run of one of these ranks shard weights without the others, if the weights are sharded.

    Inside, torch's process group is a "fake" one: its collectives allocate memory, and send and receive nothing. Raises
    Refused if this process has another process group.
    """
    if not ranks.sharded:
        yield
        return
    if dist.is_initialized():
        raise problems.REHEARSED_BY_RANK()
    dist.init_process_group("fake", store=FakeStore(), rank=ranks.rank, world_size=ranks.count)
    try:
        yield
    finally:
        dist.destroy_process_group()


_PLACE_IN_SOURCE = re.compile(r"\[[^\]]*\.(?:cc|cpp|hpp|h):\d+\] *")
"""The place in torch's source with which errors of gloo and of the store begin."""

_ADDRESS = re.compile(r"\[[0-9a-fA-F.:%]+\]:\d+|\([^()\s,]+, \d+\)|tcp://\S+")
"""The address of a process in errors of torch."""

_NOTES = "note/"
"""The beginning of the keys of notes in the store that torch's process groups share."""

_PAUSE = 0.05
"""Seconds between two looks for a note."""

ALONE = Ranks()
"""The only rank of a run that one process computes."""


def owners(sizes: np.ndarray, count: int) -> np.ndarray:
    """Return the rank of each item of a batch, int64 [N], ascending, if `count` ranks share the batch by tokens.

    `sizes` are the tokens of each item, int64 [N], each at least 1.
    """
    ends = np.cumsum(sizes, dtype=np.int64)
    total = int(ends[-1]) if len(ends) else 1
    middles = 2 * ends - sizes  # twice the middle of each item, so that all numbers are integers
    ranks: np.ndarray = np.minimum(middles * count // (2 * total), count - 1)
    return ranks


def _buckets(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Yield the tensors in their order, in lists of one dtype with at most BUCKET elements, or with one tensor."""
    bucket: list[Tensor] = []
    for tensor in tensors:
        size = sum(each.numel() for each in bucket) + tensor.numel()
        if bucket and (size > BUCKET or bucket[0].dtype != tensor.dtype):
            yield bucket
            bucket = []
        bucket.append(tensor)
    if bucket:
        yield bucket


@contextmanager
def _together(what: str) -> Iterator[None]:
    """Raise RunFailed if the ranks cannot compute something together."""
    try:
        yield
    except (RuntimeError, ConnectionError, TimeoutError) as error:
        if not _is_loss(error):  # such as too little memory for a bucket
            raise
        raise problems.RANK_LOST(step=what, reason=_reason(error)) from error


def _is_loss(error: Exception) -> bool:
    """Return whether torch raised an error because another rank does not answer."""
    of_network = isinstance(error, (dist.DistError, ConnectionError, TimeoutError))
    return of_network or "gloo" in str(error).casefold()


def _reason(error: Exception) -> str:
    """Return the first sentence of an error of torch, without places in torch's source, advice and names of hosts."""
    text = _ADDRESS.sub("another process", _PLACE_IN_SOURCE.sub("", str(error)))
    lines = text.splitlines() or [type(error).__name__]
    return lines[0].partition(". ")[0][:200]
