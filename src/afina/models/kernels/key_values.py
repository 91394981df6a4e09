"""The KV cache: keys and values of texts that are being generated, and the attention of the next tokens to them.

Running texts (texts that are being generated, also called sequences) of similar length share a pool. Because a pool's
texts have similar lengths, attention computes few unused positions; a text that grows into a larger pool moves alone.
In a pool, the running texts are in the first slots, without gaps: attention then reads views and copies nothing. Keys
are stored as [D, columns]: bfloat16 products on a CPU read this layout more than twice as fast as [columns, D]. The
module `key_values` does not know models, requests or tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from afina.models.kernels.layer_changes import BatchedAdapter, KeyValues
from afina.models.kernels.layout import Layout

SMALLEST = 64
"""Columns (positions of a text) in the smallest pool: 64, 96, 128, 192 and so on."""


READ_AT_ONCE = 32
"""Attention in bfloat16 on a CPU reads a multiple of this number of columns. oneDNN compiles a kernel for each new
number of columns, which takes longer than the product of one text. The size of each pool is a multiple of 32."""

SLACK = 1.5
"""Maximum ratio of the slots of a pool to its running texts."""


def capacity_for(columns: int) -> int:
    """Return the number of columns of the smallest pool with room for `columns` positions."""
    size = SMALLEST
    while size < columns:
        size = size * 3 // 2 if size & (size - 1) == 0 else size * 4 // 3
    return size


class Pool:
    """The keys and values of running texts (sequences) that have at most L positions (columns) each.

    Attributes:
        keys: The keys [layers, S, G, D, L] for S slots and G key heads of width D.
        values: The values [layers, S, G, L, D].
        owners: The text in each of the first slots.
    """

    def __init__(self, layers: int, groups: int, width: int, columns: int, dtype: torch.dtype, device: Any) -> None:
        self.columns = columns
        self.owners: list[CachedSequence] = []
        self.keys = torch.zeros(layers, 0, groups, width, columns, dtype=dtype, device=device)
        self.values = torch.zeros(layers, 0, groups, columns, width, dtype=dtype, device=device)

    @property
    def bytes(self) -> int:
        return 2 * self.keys.numel() * self.keys.element_size()

    def enter(self, sequence: CachedSequence) -> None:
        """Give a sequence the next slot, whose unwritten positions hold old values, which are finite and not read."""
        if len(self.owners) == self.keys.shape[1]:
            self._resize(len(self.owners) + max(1, len(self.owners) // 4))
        sequence.pool, sequence.slot = self, len(self.owners)
        self.owners.append(sequence)

    def leave(self, slot: int) -> None:
        """Free a slot of the pool; the sequence in the last slot moves to the freed slot."""
        last = self.owners.pop()
        if len(self.owners) != slot:
            self.copy(len(self.owners), last.length, self, slot)
            last.slot = slot
            self.owners[slot] = last
        if len(self.owners) * SLACK < self.keys.shape[1]:
            self._resize(len(self.owners) + len(self.owners) // 4)

    def erase(self, slot: int) -> None:
        self.keys[:, slot].zero_()
        self.values[:, slot].zero_()

    def copy(self, slot: int, columns: int, into: Pool, target: int) -> None:
        into.keys[:, target, :, :, :columns] = self.keys[:, slot, :, :, :columns]
        into.values[:, target, :, :columns] = self.values[:, slot, :, :columns]

    def _resize(self, slots: int) -> None:
        # Zeros, because attention multiplies hidden values by 0, and memory that was never written may hold NaN.
        for name in ("keys", "values"):
            had: Tensor = getattr(self, name)
            made = had.new_zeros(had.shape[0], slots, *had.shape[2:])
            kept = min(slots, had.shape[1])
            made[:, :kept] = had[:, :kept]
            setattr(self, name, made)


@dataclass(eq=False)
class CachedSequence:
    """The place of a running text in the KV cache; `length` counts its columns in use, including a prefix's.

    A sliding window does not hide the columns of a prefix.
    """

    length: int = 0
    prefix: int = 0
    adapter: BatchedAdapter | None = None
    pool: Pool = field(init=False, repr=False)
    slot: int = field(init=False, default=-1)


class KeyValueCache:
    """The keys and values of every running text in every attention of a model: `groups` key heads of a `width`."""

    def __init__(
        self, attentions: Sequence[nn.Module], groups: int, width: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        self._layers = {attention: layer for layer, attention in enumerate(attentions)}
        self._sizes = len(attentions), groups, width
        self._dtype, self._device = dtype, device
        self._pools: dict[int, Pool] = {}

    @property
    def bytes(self) -> int:
        return sum(pool.bytes for pool in self._pools.values())

    @property
    def sequences(self) -> list[CachedSequence]:
        """The running texts, in the order for which `decoding_row` copies least."""
        return [owner for pool in self._pools.values() for owner in pool.owners]

    def open(self, columns: int, prefix: int = 0, adapter: BatchedAdapter | None = None) -> OpenSequence:
        """Return an empty cache for a text of at most `columns` positions that is computed in chunks."""
        layers, groups, width = self._sizes
        keys = torch.empty(layers, groups, columns, width, dtype=self._dtype, device=self._device)
        return OpenSequence(keys, torch.empty_like(keys), prefix, adapter)

    def chunk(self, sequence: OpenSequence) -> TokenChunk:
        return TokenChunk(self._layers, sequence, sequence.length or sequence.prefix, not sequence.length)

    def opened_bytes(self, columns: int) -> int:
        """Return the number of bytes that `open` reserves for a text of up to `columns` positions."""
        layers, groups, width = self._sizes
        return 2 * layers * groups * width * columns * self._dtype.itemsize

    def run(self, opened: OpenSequence, room: int = 0) -> CachedSequence:
        """Copy a chunked text's keys and values into a pool with room for more; return the running text."""
        sequence = self.enter(opened.length, room, opened.prefix, opened.adapter)
        pool, slot, columns = sequence.pool, sequence.slot, slice(opened.length)
        pool.keys[:, slot, :, :, columns] = opened.keys[:, :, columns].transpose(2, 3)
        pool.values[:, slot, :, columns] = opened.values[:, :, columns]
        return sequence

    def most_bytes(self, columns: int) -> int:
        """Return the maximum number of bytes that a text of up to `columns` positions adds to the cache."""
        layers, groups, width = self._sizes
        return int(SLACK * 2 * layers * groups * width * capacity_for(columns) * self._dtype.itemsize)

    def enter(
        self, columns: int, room: int = 0, prefix: int = 0, adapter: BatchedAdapter | None = None
    ) -> CachedSequence:
        sequence = CachedSequence(columns, prefix, adapter)
        self._pool(columns + room).enter(sequence)
        return sequence

    def leave(self, sequence: CachedSequence) -> None:
        self._free(sequence.pool, sequence.slot)

    def erase(self, sequence: CachedSequence) -> None:
        """Set a text's keys and values to 0, so that NaN does not reach the next text in the same slot."""
        sequence.pool.erase(sequence.slot)

    def fork(self, sequence: CachedSequence) -> CachedSequence:
        copy = CachedSequence(sequence.length, sequence.prefix, sequence.adapter)
        sequence.pool.enter(copy)
        sequence.pool.copy(sequence.slot, sequence.length, copy.pool, copy.slot)
        return copy

    def reorder(self, sequences: Sequence[CachedSequence], parents: Sequence[int], start: int) -> None:
        """Let each text i continue the text `sequences[parents[i]]`, for beam search.

        All `sequences` are in one pool and equally long, and their first `start` columns equal.
        """
        moved = [index for index, parent in enumerate(parents) if parent != index]
        stop = sequences[0].length
        if not moved or start >= stop:
            return
        pool = sequences[0].pool
        sources = torch.tensor([sequences[parents[index]].slot for index in moved], device=self._device)
        targets = torch.tensor([sequences[index].slot for index in moved], device=self._device)
        pool.keys[:, targets, :, :, start:stop] = pool.keys[:, sources, :, :, start:stop]
        pool.values[:, targets, :, start:stop] = pool.values[:, sources, :, start:stop]

    def prefill_row(self, sequences: Sequence[CachedSequence]) -> KeyValueRow:
        """Return where the keys and values of a row of new texts are written; the row has no cells for a prefix."""
        counts = [one.length - one.prefix for one in sequences]
        starts = np.cumsum([0, *counts[:-1]])
        cells = np.repeat(np.arange(len(sequences)), counts)
        columns = np.concatenate([np.arange(one.prefix, one.length) for one in sequences])
        slots = np.array([one.slot for one in sequences])
        pools = np.array([one.pool.columns for one in sequences])
        parts = []
        for size in dict.fromkeys(pools.tolist()):
            (new,), (own,) = np.nonzero(pools == size), np.nonzero(pools[cells] == size)
            where = None if len(own) == len(cells) else self._there(own)
            first = list(zip(starts[new].tolist(), slots[new].tolist(), strict=True))
            where_to = self._there(slots[cells[own]]), self._there(columns[own])
            parts.append(_Written(self._pools[size], where, *where_to, first))
        return KeyValueRow(self._layers, written=parts)

    def decoding_row(self, sequences: Sequence[CachedSequence]) -> KeyValueRow:
        """Return where the next token of each running text is written, and what it attends to. Call `make_room` before.

        The length of each running text increases by one position.
        """
        places = {sequence: place for place, sequence in enumerate(sequences)}
        written, read = [], []
        for pool in self._pools.values():
            cells, count = [places[owner] for owner in pool.owners], len(pool.owners)
            where: slice | Tensor = slice(cells[0], cells[0] + count)
            if cells != list(range(cells[0], cells[0] + count)):
                where = self._there(np.array(cells))
            lengths = np.array([one.length for one in pool.owners], dtype=np.int64)
            even = int(lengths[0]) if (lengths == lengths[0]).all() else None
            columns = self._there(lengths)
            written.append(_Written(pool, where, torch.arange(count, device=self._device), columns, even=even))
            prefix = self._there(np.array([one.prefix for one in pool.owners], dtype=np.int64))
            most = int(lengths.max()) + 1
            longest = self._rounded(most)
            read.append(_Read(pool, where, columns, prefix, longest, even is not None and longest == most))
        for sequence in sequences:
            sequence.length += 1
        return KeyValueRow(self._layers, written, read)

    def _rounded(self, columns: int) -> int:
        if self._dtype != torch.bfloat16 or self._device.type != "cpu":
            return columns
        return -(-columns // READ_AT_ONCE) * READ_AT_ONCE

    def make_room(self) -> None:
        """Move every running text whose pool has no room for another token to a larger pool."""
        for sequence in self.sequences:
            if sequence.length == sequence.pool.columns:
                pool, slot = sequence.pool, sequence.slot
                self._pool(sequence.length + 1).enter(sequence)
                pool.copy(slot, sequence.length, sequence.pool, sequence.slot)
                self._free(pool, slot)

    def _free(self, pool: Pool, slot: int) -> None:
        pool.leave(slot)
        if not pool.owners:
            del self._pools[pool.columns]

    def _pool(self, columns: int) -> Pool:
        size = capacity_for(columns)
        if size not in self._pools:
            layers, groups, width = self._sizes
            self._pools[size] = Pool(layers, groups, width, size, self._dtype, self._device)
        return self._pools[size]

    def _there(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(array).to(self._device)


@dataclass(frozen=True, eq=False)
class _Written:
    """Cells of a row (None: all cells), and the slot and column of a pool to which each cell is written.

    `new` has the first cell and the slot of each text that begins in this row; `even` is the common column of all
    cells, if each of the first slots gets one cell.
    """

    pool: Pool
    cells: slice | Tensor | None
    slots: Tensor
    columns: Tensor
    new: Sequence[tuple[int, int]] = ()
    even: int | None = None

    def write_prefix(self, layer: int, key: Tensor, value: Tensor, among: slice | None) -> None:
        """Write a prefix [G, P, D] for the new texts whose first cells are in the slice `among` (None: all)."""
        slots = [slot for cell, slot in self.new if among is None or among.start <= cell < among.stop]
        self.pool.keys[layer][slots, :, :, : key.shape[1]] = key.transpose(1, 2).to(self.pool.keys.dtype)
        self.pool.values[layer][slots, :, : key.shape[1]] = value.to(self.pool.values.dtype)

    def write(self, layer: int, key: Tensor, value: Tensor) -> None:
        if self.cells is not None:
            key, value = key[self.cells], value[self.cells]
        if self.even is not None:
            for into, states in zip(self._columns, (key, value), strict=True):
                into[layer].copy_(states)
        else:
            keys, values = self.pool.keys[layer], self.pool.values[layer]
            keys[self.slots, :, :, self.columns] = key.to(keys.dtype)
            values[self.slots, :, self.columns] = value.to(values.dtype)

    @cached_property
    def _columns(self) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
        """The common column of all cells in each layer: keys and values, [B, G, D]."""
        count = len(self.slots)
        keys, values = self.pool.keys[:, :count, :, :, self.even], self.pool.values[:, :count, :, self.even]
        return keys.unbind(), values.unbind()


def _mask(columns: int, own: Tensor, window: int | None, prefix: Tensor | int, dtype: torch.dtype) -> Tensor:
    """Return a mask [N, columns]: 0 at columns that the token in column `own` [N, 1] attends to, else -inf."""
    steps = torch.arange(columns, device=own.device)
    hidden = steps > own
    if window is not None:
        hidden |= (steps <= own - window) & (steps >= prefix)
    return torch.zeros(hidden.shape, dtype=dtype, device=own.device).masked_fill_(hidden, float("-inf"))


@dataclass(frozen=True, eq=False)
class _Read:
    """Cells of a row, one for each text of a pool in the order of the slots, and what they attend to."""

    pool: Pool
    cells: slice | Tensor
    columns: Tensor
    prefix: Tensor
    longest: int
    even: bool
    _masks: dict[int | None, Tensor | None] = field(default_factory=dict)

    def attend(self, layer: int, query: Tensor, scale: float, window: int | None) -> Tensor:
        count, heads, width = query.shape
        groups = self.pool.keys.shape[2]
        q = query.reshape(count * groups, heads // groups, width)
        keys, values = self._keys[layer], self._values[layer]
        mask = self._mask(None if window is not None and window >= self.longest else window, groups)
        scores = torch.bmm(q, keys).float().mul_(scale) if mask is None else self._masked(mask, q, keys, scale)
        weights = torch.softmax(scores, -1).to(values.dtype)
        return torch.bmm(weights, values).view(count, heads, width)

    @cached_property
    def _keys(self) -> Sequence[Tensor]:
        """The keys of each layer, [B * G, D, longest]."""
        return self.pool.keys[:, : len(self.columns)].flatten(1, 2)[..., : self.longest].unbind()

    @cached_property
    def _values(self) -> Sequence[Tensor]:
        """The values of each layer, [B * G, longest, D]."""
        return self.pool.values[:, : len(self.columns)].flatten(1, 2)[:, :, : self.longest].unbind()

    @staticmethod
    def _masked(mask: Tensor, query: Tensor, keys: Tensor, scale: float) -> Tensor:
        if query.dtype == torch.float32:
            return torch.baddbmm(mask, query, keys, alpha=scale)
        return torch.add(mask, torch.bmm(query, keys), alpha=scale)

    def _mask(self, window: int | None, groups: int) -> Tensor | None:
        """Return a mask, float32 [B * G, 1, longest]: 0 at columns to attend to, else -inf; None: attend to all."""
        if window is None and self.even:
            return None
        if window not in self._masks:
            mask = _mask(self.longest, self.columns[:, None], window, self.prefix[:, None], torch.float32)
            self._masks[window] = mask.repeat_interleave(groups, 0)[:, None]
        return self._masks[window]


@dataclass(eq=False)
class OpenSequence:
    """The keys [layers, G, L, D] and values of a text computed in chunks, of which `length` positions are written."""

    keys: Tensor
    values: Tensor
    prefix: int = 0
    adapter: BatchedAdapter | None = None
    length: int = 0

    @property
    def bytes(self) -> int:
        return 2 * self.keys.numel() * self.keys.element_size()


@dataclass(frozen=True, eq=False)
class TokenChunk:
    """The next tokens of a text that is computed in chunks, which attend to the cached text and to themselves.

    `start` is the column of the first token; `begins`: the first chunk of a text, which has the virtual tokens.
    """

    layers: Mapping[nn.Module, int]
    sequence: OpenSequence
    start: int
    begins: bool
    _masks: dict[int | None, Tensor] = field(default_factory=dict)

    def attend(
        self,
        module: nn.Module,
        row: tuple[Tensor, Tensor, Tensor],
        prefix: tuple[Tensor, Tensor] | None,
        scale: float,
        window: int | None,
    ) -> Tensor:
        """Cache the chunk's keys and values, and return the attention's output for its tokens, [T, H, D].

        The row is the query [H, T, D], key and value [G, T, D]; the prefix, each [G, P, D], is written with the first
        chunk.
        """
        keys, values = (part[self.layers[module]] for part in (self.sequence.keys, self.sequence.values))
        query, key, value = (states.to(keys.dtype) for states in row)
        stop = self.start + query.shape[1]
        if prefix is not None and self.begins:
            keys[:, : self.start], values[:, : self.start] = prefix
        keys[:, self.start : stop], values[:, self.start : stop] = key, value
        mixed = scaled_dot_product_attention(
            query[None],
            keys[None, :, :stop],
            values[None, :, :stop],
            attn_mask=self._mask(None if window is None or window >= stop else window, stop),
            scale=scale,
            enable_gqa=len(query) != len(keys),
        )
        return mixed[0].transpose(0, 1).to(row[0].dtype).contiguous()

    def _mask(self, window: int | None, stop: int) -> Tensor:
        """Return a mask [T, stop] in the keys' dtype: 0 at columns to attend to, else -inf; computed once a row."""
        if window not in self._masks:
            keys = self.sequence.keys
            own = torch.arange(self.start, stop, device=keys.device)[:, None]
            self._masks[window] = _mask(stop, own, window, self.sequence.prefix, keys.dtype)
        return self._masks[window]

    def done(self, count: int) -> None:
        """Count `count` columns as written; the chunk may be computed again until the text's next chunk begins."""
        self.sequence.length = self.start + count


class RowSegment(NamedTuple):
    """A part of a row whose attention is computed in one call, with its prefix or its chunk.

    `begins`: the prefix is the beginning of each text, whose rest is in the segment. A sliding window hides tokens of a
    beginning, and does not hide virtual tokens.
    """

    cells: slice
    layout: Layout
    prefix: Mapping[nn.Module, KeyValues] | None = None
    chunk: TokenChunk | None = None
    begins: bool = False


@dataclass(frozen=True, eq=False)
class KeyValueRow:
    """Where the keys and values of a row are kept, and what its tokens attend to (`read` empty: only to the row)."""

    layers: Mapping[nn.Module, int]
    written: Sequence[_Written]
    read: Sequence[_Read] = ()

    def write(self, module: nn.Module, key: Tensor, value: Tensor) -> None:
        key, value = key.transpose(0, 1), value.transpose(0, 1)
        for part in self.written:
            part.write(self.layers[module], key, value)

    def write_prefix(
        self, module: nn.Module, columns: tuple[Tensor, Tensor] | None, among: slice | None = None
    ) -> None:
        """Cache an attention's prefix (keys, values [G, P, D]) for the new texts in the cells `among` (None: all)."""
        if columns is not None:
            for part in self.written:
                part.write_prefix(self.layers[module], *columns, among)

    def step(
        self, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, scale: float, window: int | None
    ) -> Tensor:
        """Cache keys and values [B, G, D] of one token of each running text, and return the attention [B, H, D]."""
        layer = self.layers[module]
        for part in self.written:
            part.write(layer, key, value)
        return self._attend(layer, query, scale, window)

    def attend(self, module: nn.Module, query: Tensor, scale: float, window: int | None) -> Tensor:
        """Return the attention's output [B, H, D] for the query [H, B, D] of one token of each running text."""
        return self._attend(self.layers[module], query.transpose(0, 1), scale, window)

    def _attend(self, layer: int, rows: Tensor, scale: float, window: int | None) -> Tensor:
        if len(self.read) == 1 and isinstance(self.read[0].cells, slice):
            return self.read[0].attend(layer, rows, scale, window)
        attended = rows.new_empty(rows.shape)
        for part in self.read:
            attended[part.cells] = part.attend(layer, rows[part.cells], scale, window)
        return attended
