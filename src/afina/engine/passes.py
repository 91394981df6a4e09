"""Texts that one forward pass answers, whole or in chunks."""

from __future__ import annotations

from dataclasses import dataclass
from threading import Lock
from typing import Self

import numpy as np

from afina.engine.encoding import EncodedText
from afina.engine.residents import Lease, ReservedMemory
from afina.models.kernels.key_values import KeyValueCache, OpenSequence, TokenChunk
from afina.models.kernels.layer_changes import BatchedAdapter


@dataclass(frozen=True, eq=False)
class SinglePass:
    """A text that one forward pass answers: with classes, labels or a number.

    Attributes:
        lease: A lease on the adapter, which is loaded.
        encoded: The text, encoded for that adapter.
    """

    lease: Lease
    encoded: EncodedText


class ChunkedPass:
    """A text of one forward pass that is computed in chunks, and its keys and values until `close`.

    `close` may be called on any thread, also while a chunk is computed.

    Args:
        memory: Has reserved the bytes of its keys and values, which `close` gives back.

    Attributes:
        computed: Number of tokens that are computed.
    """

    def __init__(self, row: SinglePass, cache: KeyValueCache, memory: ReservedMemory, columns: int) -> None:
        self.row, self.computed = row, 0
        self._cache, self._memory, self._columns = cache, memory, columns
        self._lock, self._closed = Lock(), False
        self._sequence: OpenSequence | None = None

    @classmethod
    def open(cls, row: SinglePass, cache: KeyValueCache, memory: ReservedMemory, before: int) -> Self | None:
        """Return the text with memory for its keys and values; None: there is no memory now.

        Args:
            before: Number of virtual tokens.
        """
        columns = before + len(row.encoded.tokens)
        return cls(row, cache, memory, columns) if memory.take(cache.opened_bytes(columns), None) else None

    def next(
        self, count: int, prefix: int = 0, adapter: BatchedAdapter | None = None
    ) -> tuple[np.ndarray, TokenChunk] | None:
        """Return the next tokens, at most `count`, and what they continue. None: the text was closed.

        Args:
            count: Number of tokens, at least 1.
            prefix: Number of columns of the adapter's prefix.
            adapter: The adapter, if it shares a model.
        """
        with self._lock:
            if self._closed:
                return None
            if self._sequence is None:
                self._sequence = self._cache.open(self._columns, prefix, adapter)
            chunk = self._cache.chunk(self._sequence)
        return self.row.encoded.tokens[self.computed : self.computed + count], chunk

    @property
    def complete(self) -> bool:
        return self.computed == len(self.row.encoded.tokens)

    def close(self) -> None:
        """Drop keys and values; further calls do nothing."""
        with self._lock:
            if not self._closed:
                self._closed, self._sequence = True, None
                self._memory.give_back(self._cache.opened_bytes(self._columns), None)
