"""`Sharding`: the weights of a model, of which each rank of a run keeps a part.

torch's `fully_shard` (FSDP2) shards each transformer block, the token embedding and the output layer. The weights of
one block are gathered before the block is computed, and freed afterwards; so a rank's memory is its part of all weights
and the whole of one or two blocks. Each rank reads only its part of a weight from the backbone's files.

A block or an embedding all of whose weights train, as in full fine-tuning, is sharded in float32: `fully_shard` gathers
its weights in the dtype of the training, and leaves each rank its part of the summed gradients. Otherwise, only frozen
weights are sharded, and what trains is on every rank. Also on every rank are small weights outside the blocks, tied
embeddings, an output layer that trains, and what a method adds.

The ranks gather a block's weights together. A rank that computes fewer forward passes than the others would leave them
waiting; `Sharding.apart` lets such a rank take part with a forward pass of its own. The module `sharding` does not
know methods or batches.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, Shard
from torch.nn import Parameter

from afina.models.architectures import architecture_of, blocks_of
from afina.models.kernels import patches
from afina.models.kernels.layout import Layout
from afina.models.kernels.linear import HeldWeight, held_by
from afina.models.weights.unread import Unread, UnreadWeight
from afina.ranks import Ranks

Hold = Callable[[Tensor], HeldWeight]
Read = Callable[[int, int], Tensor]
"""A function that reads the part [start:stop] of the first dimension of a tensor."""


def is_sharded(tensor: Tensor) -> bool:
    """Whether this process keeps only a part of a tensor."""
    return isinstance(tensor, DTensor)


def own_part(tensor: Tensor) -> Tensor:
    """Return this process's part of a sharded tensor, in the same memory; of any other tensor, the tensor itself."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def gathered(part: Tensor, of: Tensor) -> Tensor:
    """Return a tensor of which each rank has a part, as of the sharded tensor `of`; all ranks call this."""
    assert isinstance(of, DTensor)
    about: dict[str, Any] = {"run_check": False, "shape": of.shape, "stride": of.stride()}
    return DTensor.from_local(part, of.device_mesh, of.placements, **about).full_tensor()


def part_of(tensor: Tensor, of: Tensor) -> Tensor:
    """Return this rank's part of a whole tensor, the same rows as of the sharded tensor `of`."""
    assert isinstance(of, DTensor)
    mesh = of.device_mesh
    start, stop = _rows_of(tensor.shape[0], mesh.get_local_rank(), mesh.size())
    return tensor[start:stop].clone()


def _rows_of(rows: int, rank: int, count: int) -> tuple[int, int]:
    """Return the first row of a rank's part and the row after the last; torch's `Shard(0)` cuts a tensor so."""
    each = -(-rows // count)
    start = min(rank * each, rows)
    return start, min(start + each, rows)


def whole(tensor: Tensor) -> Tensor:
    """Return a sharded tensor gathered from all ranks, which all call this; of any other tensor, the tensor itself."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


@dataclass(frozen=True, eq=False)
class _Part:
    """A tensor of which each rank keeps a part: the parameter `name` of `module`, and how a part is read."""

    module: nn.Module
    name: str
    read: Read

    def fill(self, ranks: Ranks, device: torch.device) -> None:
        """Read the part of this rank."""
        sharded: Any = self.module._parameters[self.name]
        start, stop = _rows_of(sharded.shape[0], ranks.rank, ranks.count)
        local = torch.empty((stop - start, *sharded.shape[1:]), dtype=sharded.dtype, device=device)
        if stop > start:
            local.copy_(self.read(start, stop))
        made = DTensor.from_local(
            local, sharded.device_mesh, [Shard(0)], run_check=False, shape=sharded.shape, stride=sharded.stride()
        )
        self.module._parameters[self.name] = Parameter(made, requires_grad=sharded.requires_grad)


_NOTHING, _EMBEDDING, _BLOCKS, _OUTPUT = range(4)
"""The weights that a rank gathers next: no weights, the token embedding, all blocks in turn, or the output layer."""


class Sharding:
    """The sharded weights of a model; made by `shard`."""

    def __init__(self, ranks: Ranks, body: Any, output: nn.Module | None, dtype: torch.dtype) -> None:
        self.ranks, self._body, self._output, self._dtype = ranks, body, output, dtype
        self._apart = self._has_output = False
        gathered = [(body.get_input_embeddings(), _EMBEDDING), (blocks_of(body)[0], _BLOCKS)]
        for module, what in [*gathered, *([] if output is None else [(output, _OUTPUT)])]:
            module.register_forward_pre_hook(partial(self._before, what), prepend=True)

    def _before(self, what: int, *_: Any) -> None:
        """Wait until all ranks are about to gather the weights `what`, and take part in gathering other weights."""
        if what == _OUTPUT and self._has_output:
            return
        while self._apart and (wanted := self.most(what)) != what:
            self._take_part(wanted)

    @contextmanager
    def whole_output(self) -> Iterator[None]:
        """Return a context manager inside which this rank has the whole output layer of a language model."""
        if self._output is None:
            yield
            return
        sharded: Any = self._output
        self._before(_OUTPUT)
        sharded.unshard()
        self._has_output = True
        try:
            yield
        finally:
            self._has_output = False
            sharded.reshard()

    @contextmanager
    def apart(self) -> Iterator[None]:
        """Return a context in which each rank computes its own forward passes, as many as it needs, without gradients.

        The ranks agree which weights they gather next; a rank that needs others, or none, takes part with a forward
        pass whose result is not used. The context ends for all ranks together.
        """
        self._apart = True
        try:
            yield
            while (wanted := self.most(_NOTHING)) != _NOTHING:
                self._take_part(wanted)
        finally:
            self._apart = False

    def most(self, own: int) -> int:
        """Return the largest number of all ranks, given this rank's `own`."""
        return self.ranks.most(own)

    @torch.no_grad()
    def _take_part(self, what: int) -> None:
        """Gather weights that another rank needs."""
        self._apart = False
        embedding, output = self._body.get_input_embeddings(), self._output
        weight, config = embedding.weight, self._body.config
        if what == _OUTPUT:
            cast(Any, output).unshard()
            cast(Any, output).reshard()
        elif what == _EMBEDDING:
            embedding(torch.zeros(1, dtype=torch.int64, device=weight.device))
        else:
            entry = architecture_of(self._body)
            self._body(
                inputs_embeds=torch.zeros(1, 1, weight.shape[1], dtype=self._dtype, device=weight.device),
                position_ids=torch.full((1, 1), entry.position_offset(config), device=weight.device),
                use_cache=False,
                layout=Layout(torch.tensor([0, 1], dtype=torch.int32, device=weight.device)),
                causal=not entry.is_encoder,
            )
        self._apart = True


def shard(
    model: nn.Module,
    body: Any,
    output: nn.Module | None,
    unread: Unread,
    ranks: Ranks,
    *,
    dtype: torch.dtype,
    device: torch.device,
    hold: Hold | None = None,
    unlowered: Collection[str] = (),
) -> Sharding:
    """Read this rank's part of the weights for which a model has stand-ins, after a method may be attached.

    `output` is a language model's output layer. `dtype` is that of the frozen weights, in which blocks that train
    compute too; `unlowered` names parameters that stay float32. `hold` converts the float32 weights of layers with an
    `UnreadWeight`.
    """
    embedding = body.get_input_embeddings()
    tied = output is not None and output.weight is embedding.weight
    frozen_output = [] if output is None or output.weight.requires_grad else [output]
    outer = [] if tied else [embedding, *frozen_output]
    groups = [*outer, *blocks_of(body)]
    parts: list[_Part] = []
    inside = {module for group in groups for module in group.modules()}
    training = [group for group in groups if _trains_whole(group, unread)]
    trained = {module for group in training for module in group.modules()}
    names = {id(each): name for name, each in model.named_parameters()}
    for module in list(model.modules()):
        held = held_by(module)
        if isinstance(held, UnreadWeight):
            assert hold is not None
            parts += _held(module, held, hold, dtype, device, sharded=module in inside)
        for name, parameter in list(module._parameters.items()):
            if parameter is None or (source := unread.source(parameter)) is None:
                continue
            of = torch.float32 if parameter.requires_grad or names[id(parameter)] in unlowered else dtype
            if module in trained or (module in inside and not parameter.requires_grad):
                empty = torch.empty(parameter.shape, dtype=of, device="meta")
                module._parameters[name] = Parameter(empty, requires_grad=parameter.requires_grad)
                parts.append(_Part(module, name, source.rows))
            else:
                parameter.data = source[...].to(device, of, copy=True)
    _to_device(model, device)
    warnings.filterwarnings("ignore", f".*\\(FSDP{type(body).__name__}\\) returned a view tensor", UserWarning)
    policies = dict.fromkeys(training, _policy(dtype))
    _fully_shard(groups, body, {(part.module, part.name) for part in parts}, policies, device, ranks)
    for part in parts:
        part.fill(ranks, device)
    _begin([body, *outer[1:]], groups)
    everywhere = {name: each for name, each in model.named_parameters() if not is_sharded(each)}
    ranks.check_equal(everywhere | dict(model.named_buffers()))
    return Sharding(ranks, body, output if output in outer else None, dtype)


def _trains_whole(group: nn.Module, unread: Unread) -> bool:
    """Return whether all weights of a block or an embedding that were not read train."""
    own = [parameter for parameter in group.parameters() if unread.source(parameter) is not None]
    return bool(own) and all(parameter.requires_grad for parameter in own)


def _policy(dtype: torch.dtype) -> MixedPrecisionPolicy:
    """Return how a block with trained float32 weights computes: in `dtype`; its gradients are summed in float32."""
    lower = None if dtype == torch.float32 else dtype
    return MixedPrecisionPolicy(param_dtype=lower, reduce_dtype=torch.float32, cast_forward_inputs=False)


def _held(
    layer: Any, unread: UnreadWeight, hold: Hold, dtype: torch.dtype, device: torch.device, *, sharded: bool
) -> Iterator[_Part]:
    """Replace a layer's `UnreadWeight` by the int8 or NF4 form, whose tensors become parameters if it is sharded."""
    if not sharded:
        patches.hold(layer, hold(unread.read()).to(device, dtype))
        return
    made = hold(torch.empty(unread.shape, device="meta")).to(dtype)
    patches.hold(layer, made)
    values = _HeldValues(unread, hold, made.by_rows)
    for name, tensor in list(made._buffers.items()):
        assert tensor is not None
        if tensor.dim() and tensor.numel():
            del made._buffers[name]
            made.register_parameter(name, Parameter(tensor, requires_grad=False))
            yield _Part(made, name, values.reader(name))
        elif not tensor.numel():
            made._buffers[name] = torch.empty_like(tensor, device=device)
        else:
            made._buffers[name] = values.whole(name).to(device)


class _HeldValues:
    """The tensors of one int8 or NF4 weight; only this rank's rows are read if each row is quantised alone."""

    def __init__(self, unread: UnreadWeight, hold: Hold, by_rows: bool) -> None:
        self._unread, self._hold, self._by_rows = unread, hold, by_rows

    def whole(self, name: str) -> Tensor:
        found: Tensor = getattr(self._hold(self._unread.read()), name)
        return found

    def reader(self, name: str) -> Read:
        """Return the function that reads a part of the tensor `name`."""

        def read(start: int, stop: int) -> Tensor:
            if not self._by_rows:
                return self.whole(name)[start:stop]
            found: Tensor = getattr(self._hold(self._unread.read(start, stop)), name)
            return found

        return read


def _to_device(model: nn.Module, device: torch.device) -> None:
    """Move everything that is on every rank to the device."""
    for module in model.modules():
        for parameter in module._parameters.values():
            if parameter is not None and not parameter.is_meta:
                parameter.data = parameter.data.to(device)
        for name, buffer in module._buffers.items():
            if buffer is not None and not buffer.is_meta:
                module._buffers[name] = buffer.to(device)


def _begin(roots: list[Any], groups: list[Any]) -> None:
    for root in roots:
        root._get_fsdp_state()._lazy_init()  # before a module inside is called alone, which would be another root
    for group in groups:  # not first in inference mode, whose tensors no gradient could pass
        group.unshard()
        group.reshard()


def _fully_shard(
    groups: list[Any],
    body: Any,
    sharded: set[tuple[nn.Module, str]],
    policies: Mapping[Any, MixedPrecisionPolicy],
    device: torch.device,
    ranks: Ranks,
) -> None:
    mesh = ranks.mesh(device)
    for group in (*groups, body):
        everywhere = {
            parameter
            for module in group.modules()
            for name, parameter in module._parameters.items()
            if parameter is not None and (module, name) not in sharded
        }
        policy = policies.get(group, MixedPrecisionPolicy())
        fully_shard(group, mesh=mesh, reshard_after_forward=True, ignored_params=everywhere, mp_policy=policy)
        if group in policies:
            group.set_gradient_divide_factor(1.0)  # the loss is a mean over the targets of the whole batch
            group.set_force_sum_reduction_for_comms(True)  # gloo knows no mean
    for group in groups:
        if not any(True for _ in group.children()):
            group.set_unshard_in_backward(False)
