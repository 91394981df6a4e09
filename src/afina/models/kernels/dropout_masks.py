"""Dropout masks: drawn from torch's generator for a whole batch, or drawn for each text.

If one process computes a batch, all masks come from torch's seeded generator in the order in which they are needed.
`TextMasks` draws masks that do not depend on how a batch is divided into micro-batches or among processes: an element
is a hash (two rounds of the finalizer of SplitMix64, Steele et al. 2014) of the step's seed, the number of the text in
the whole batch, the number of the draw, and the element's place in the text.

An element is kept if a random word of 16 bits is at least rate * 2^16. Raw words take a tenth of the time of torch's
`bernoulli_`. The dropout rate is rounded to a multiple of 2^-16, and the scale uses the rounded rate, so that the
expectation is exact.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

from afina.models import problems
from afina.models.kernels.layout import Layout

_WORDS = 1 << 16
_LANES = 4
"""Number of random words of 16 bits in an int64."""


def scaled_mask(shape: Sequence[int], rate: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return a mask for dropout: 0 with probability `rate`, otherwise 1 / (1 - rate).

    Inside `TextMasks.drawn`, the mask is drawn for each text; the rows of the shape [..., width] are then the
    tokens of a packed row, the tokens that are read, or the texts. Otherwise, torch's default generator draws the mask.
    """
    masks = _ACTIVE.get()
    if masks is not None:
        return masks.of_rows(shape, rate, dtype)
    count = math.prod(shape)
    words = torch.empty(-(-count // _LANES), dtype=torch.int64, device=device).random_(-(2**63), None)
    mask = torch.empty(*shape, dtype=dtype, device=device)
    return _kept(words.view(torch.int16)[:count].view(*shape), rate, mask)


def weights_mask(shape: Sequence[int], layout: Layout, rate: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return a mask like `scaled_mask` for attention weights [H * N, L, P + L] in the grid `layout.shared`."""
    masks = _ACTIVE.get()
    if masks is not None:
        return masks.of_weights(shape, layout, rate, dtype)
    return scaled_mask(shape, rate, dtype, device)


def _kept(words: Tensor, rate: float, mask: Tensor) -> Tensor:
    """Write the mask for random words, int16 [...], into `mask`, and return it.

    Writing in the dtype of the mask takes a quarter of the time of comparing to bool and converting on a CPU.
    """
    dropped = min(round(rate * _WORDS), _WORDS - 1)
    torch.ge(words, dropped - _WORDS // 2, out=mask)
    return mask.mul_(_WORDS / (_WORDS - dropped))


def _signed(number: int) -> int:
    return (number + (1 << 63)) % (1 << 64) - (1 << 63)


_FIRST, _SECOND = _signed(0xBF58476D1CE4E5B9), _signed(0x94D049BB133111EB)

_TEXT, _PLACE, _DRAW, _HEADS, _COLUMN = (_signed(0x9E3779B97F4A7C15 * odd) for odd in (1, 3, 5, 7, 11))
"""Odd multipliers, by which different numbers become different inputs of the hash."""


def _mixed(keys: Tensor) -> Tensor:
    """Replace each int64 by its hash, in place.

    The shifts are arithmetic, because torch has no logical shift of an int64: the hash of a key and that of another key
    are equal, and the last step adds instead of XOR, which would clear the highest bit.
    """
    shifted = keys >> 30
    keys.bitwise_xor_(shifted).mul_(_FIRST)
    torch.bitwise_right_shift(keys, 27, out=shifted)
    keys.bitwise_xor_(shifted).mul_(_SECOND)
    torch.bitwise_right_shift(keys, 32, out=shifted)
    return keys.add_(shifted)


class TextMasks:
    """The dropout masks of the texts of a micro-batch, independent of the other texts in the micro-batch.

    Two draws of the same forward pass have different masks; activation checkpointing draws the same masks again
    (`repeatable`). `numbers` has the number of each text in the whole batch of the step, int64 [B], on the device of
    the row.
    """

    def __init__(self, seed: int, numbers: Tensor, layout: Layout) -> None:
        self._layout, self._draws = layout, 0
        self._texts = _mixed(numbers * _TEXT + seed)
        self._columns = _mixed(torch.arange(1, 1 + layout.prefix + layout.longest, device=numbers.device) * _COLUMN)
        self._rows: dict[int, Tensor] = {}

    @contextmanager
    def drawn(self, others: Sequence[torch.Generator] = ()) -> Iterator[None]:
        """Draw the masks of the forward pass in the `with` block for each text.

        Raises InvalidStudy if the forward pass draws from one of the generators `others`: such numbers would depend on
        the micro-batch.
        """
        before = [each.get_state() for each in others]
        with self._active():
            yield
        if any(not torch.equal(state, each.get_state()) for state, each in zip(before, others, strict=True)):
            raise problems.DRAWS_NOT_BY_TEXT()

    @contextmanager
    def _active(self) -> Iterator[None]:
        token = _ACTIVE.set(self)
        try:
            yield
        finally:
            _ACTIVE.reset(token)

    def of_rows(self, shape: Sequence[int], rate: float, dtype: torch.dtype) -> Tensor:
        """Return the mask for a tensor [..., width] whose rows are all tokens, the tokens that are read, or texts.

        Raises InvalidStudy if the tensor has another number of rows.
        """
        *leading, width = shape
        rows = _mixed(self._keys_of(math.prod(leading)) + self._next())
        words = _mixed(rows[:, None] + self._keys_of_columns(-(-width // _LANES)))
        mask = torch.empty(len(rows), width, dtype=dtype, device=words.device)
        return _kept(words.view(torch.int16)[:, :width], rate, mask).view(*shape)

    def of_weights(self, shape: Sequence[int], layout: Layout, rate: float, dtype: torch.dtype) -> Tensor:
        """Return the mask for attention weights [H * N, L, P + L] in the grid of `layout`, in which texts share lines.

        A weight's place in its text is the place of its query and the place of its key, after the prefix. Four heads
        share an int64, because texts may begin anywhere in a line.
        """
        grid = layout.shared
        heads, before = shape[0] // grid.lines, shape[2] - grid.length
        rows = (self._keys_of(len(layout.sequences)) + self._next()).index_select(0, grid.tokens)
        places = layout.positions.index_select(0, grid.tokens).view(grid.lines, grid.length)
        first = torch.arange(before, device=places.device).expand(grid.lines, -1)
        columns = self._keys_of_columns(before + grid.length)[torch.cat([first, places], 1)]
        mask = torch.empty(heads, grid.lines, grid.length, shape[2], dtype=dtype, device=places.device)
        for start in range(0, heads, _LANES):
            queries = _mixed(rows + _signed(start * _HEADS)).view(grid.lines, grid.length, 1)
            words = _mixed(queries + columns[:, None]).view(torch.int16).unflatten(-1, (-1, _LANES))
            for head in range(start, min(start + _LANES, heads)):
                _kept(words[..., head - start], rate, mask[head])
        return mask.view(*shape)

    def _next(self) -> int:
        self._draws += 1
        return _signed(self._draws * _DRAW)

    def _keys_of(self, count: int) -> Tensor:
        """Return a key for each of `count` rows of a tensor, int64 [count]: of the row's text and its place in it."""
        if count not in self._rows:
            layout = self._layout
            if count == len(layout.sequences):
                texts, places = layout.sequences, layout.positions - layout.prefix
            elif layout.by_token and count == len(layout.read):
                cells = layout.read
                texts, places = layout.sequences[cells], layout.positions[cells] - layout.prefix
            elif not layout.by_token and count == len(self._texts):
                texts = torch.arange(count, device=self._texts.device)
                places = torch.zeros_like(texts)
            else:
                raise problems.DRAWS_NOT_BY_TEXT()
            self._rows[count] = _mixed(self._texts.index_select(0, texts) + (places + 1) * _PLACE)
        return self._rows[count]

    def _keys_of_columns(self, count: int) -> Tensor:
        """Return a key for each of `count` columns, int64 [count]."""
        if count > len(self._columns):
            self._columns = _mixed(torch.arange(1, count + 1, device=self._columns.device) * _COLUMN)
        return self._columns[:count]

    def repeated(self, call: Callable[..., Any]) -> Callable[..., Any]:
        first = self._draws

        def again(*inputs: Any, **options: Any) -> Any:
            self._draws = first
            with self._active():
                return call(*inputs, **options)

        return again


_ACTIVE: ContextVar[TextMasks | None] = ContextVar("_ACTIVE", default=None)
"""The masks of the forward pass that the current thread computes. None: torch's default generator draws masks."""


def by_text() -> bool:
    """Whether masks are drawn for each text, so that no kernel of torch may draw its own masks."""
    return _ACTIVE.get() is not None


def repeatable(call: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that calls `call`, and draws the same masks each time it is called.

    The function is for activation checkpointing: the second call is a part of the backward pass, which may run in
    another thread. torch's own checkpointing restores the state of torch's generator.
    """
    masks = _ACTIVE.get()
    return call if masks is None else masks.repeated(call)


def generators_of(model: nn.Module) -> list[torch.Generator]:
    """Return the generators from which a model may draw: torch's default generators, and those that modules have.

    A model in a dry run (`afina.training.dry_run`) draws from no generator, because no random number has a value.
    """
    weight = next(model.parameters())
    if isinstance(getattr(weight, "_local_tensor", weight), FakeTensor):  # the part of a sharded weight
        return []
    found = [torch.default_generator]
    if weight.device.type == "cuda":
        found.append(torch.cuda.default_generators[weight.device.index or 0])
    for module in model.modules():
        for value in vars(module).values():
            held = value.values() if type(value) is dict else (value,)
            found += [each for each in held if isinstance(each, torch.Generator)]
    return found
