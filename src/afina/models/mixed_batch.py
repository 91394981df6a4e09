"""Mixed batch: one frozen model computes one batch of texts for several adapters at once.

A mixed batch is one padding-free row that is sorted by adapter, so that each adapter has one contiguous segment. Layers
that no adapter changes are computed once for the whole row. The module does not know adaptation methods or tasks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from itertools import groupby, pairwise
from threading import Lock
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor, nn

from afina.allocator import keep_freed
from afina.data.tokenize import seconds_of
from afina.models import verbalizer
from afina.models.added_modules import key_value_cache
from afina.models.architectures import architecture_of
from afina.models.backbone import Backbone
from afina.models.classifier import Classifier, types_of
from afina.models.kernels.decoding_step import DecodingStep
from afina.models.kernels.dora import prepare_dora
from afina.models.kernels.key_values import KeyValueCache, KeyValueRow, RowSegment, TokenChunk
from afina.models.kernels.layer_changes import BatchedAdapter, PlacedChange, RowChanges, changed_forward
from afina.models.kernels.layout import Layout, Pooled
from afina.models.kernels.linear import is_linear
from afina.models.kernels.lora import Masks, share_products
from afina.models.kernels.patches import Patch, call_of, patch, patches_of


class AdapterChunk(NamedTuple):
    """The next tokens of a text that is computed in chunks, int64 [T], with the adapter that answers the text.

    `each`: return the body's outputs at all tokens, instead of only at the last token.
    """

    adapter: BatchedAdapter
    tokens: np.ndarray
    chunk: TokenChunk
    each: bool = False


class AdapterGroup(NamedTuple):
    """An adapter and its texts in a mixed batch.

    Attributes:
        sequences: The texts, each an integer array of one or more token ids.
        second: For each text, the index of the first token of the second text of a pair (token type 1), or None. None:
            the texts have no token types.
        chunks: For each text, the cached keys and values that it continues, or None if it is computed whole.
        read: For each text, the indices of the tokens whose outputs are the head's input, int64 [M] in rising order, or
            None if the head's input is the pooled output.
    """

    adapter: BatchedAdapter
    sequences: Sequence[np.ndarray]
    second: Sequence[int | None] | None = None
    chunks: Sequence[TokenChunk | None] | None = None
    read: Sequence[np.ndarray | None] | None = None

    @classmethod
    def of(cls, parts: Sequence[AdapterChunk]) -> Self:
        """Return the group of the given chunks, which must belong to one adapter."""
        return cls(parts[0].adapter, [one.tokens for one in parts], None, [one.chunk for one in parts])


class MixedBatchModel:
    """A frozen model that computes mixed batches for several adapters, which bring their own heads.

    Thread-safe: one batch is computed at a time.

    Attributes:
        computing: Lock that is held during a forward pass. Models that share a lock compute one after the other.
        output_embedding: The layer that returns the logits of all tokens. None: `open_output` was not called.
    """

    def __init__(self, classifier: Classifier, computing: Lock) -> None:
        self.classifier = classifier.eval()
        self._modules: dict[str, nn.Module] = dict(classifier.model.named_modules())
        self._row_changes = RowChanges()
        self.computing, self._patching = computing, Lock()
        self.output_embedding: nn.Linear | None = None
        for layer in classifier.body.modules():
            if is_linear(layer):
                prepare_dora(layer)

    @property
    def model(self) -> Any:
        """The frozen transformers model, whose layers adapters name by path."""
        return self.classifier.model

    @property
    def _weight(self) -> Tensor:
        found: Tensor = next(self.classifier.body.parameters())
        return found

    @property
    def device(self) -> torch.device:
        return self._weight.device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype in which the body computes; features are always float32."""
        return self._weight.dtype

    @property
    def computes(self) -> str:
        """Name of the type in which the body computes: "float32", "bfloat16" or "int8"."""
        return self.classifier.computes

    def admit(self, adapter: BatchedAdapter) -> BatchedAdapter:
        """Return the adapter on the model's device and in its dtype, after preparing the layers that it changes."""
        with self._patching:
            for path in adapter.changes:
                module = self._modules[path]
                if Patch.MIXED_BATCH not in patches_of(module):
                    patch(module, Patch.MIXED_BATCH, changed_forward, path, self._row_changes, call_of(module))
        return adapter.to(self.device, self.dtype)

    def open_output(self, backbone: Backbone) -> int:
        """Open the language model's output embedding, and return the bytes that this adds. Raises NotFound."""
        with self._patching:
            if self.output_embedding is not None:
                return 0
            layer = verbalizer.output_embedding(backbone.path, backbone.config, self.classifier.body)
            own = layer.weight is not self.classifier.body.get_input_embeddings().weight
            self.output_embedding = layer.to(self.device, self.dtype) if own else layer
            return sum(one.numel() * one.element_size() for one in layer.parameters()) if own else 0

    def features(
        self, groups: Sequence[AdapterGroup], cached: KeyValueRow | None = None, tokens: Tensor | None = None
    ) -> Tensor:
        """Compute a mixed batch in one forward pass: return the head's input for each text, float32 [B, width].

        The rows of the result are in the order of the groups. A text of which tokens are read (`AdapterGroup.read`) has
        a row for each of these tokens; every other text has one row. Each adapter must have been admitted (`admit`),
        and be in one group only. NaN in the texts of one adapter may spread to those of other adapters.

        Args:
            cached: The cache in which the keys and values are kept. None: keys and values are not kept.
            tokens: Indices of tokens in the row, int64 [M] in rising order, without counting virtual tokens: the result
                is then the body's output at these tokens, float32 [M, width]. None: the output is pooled for each text.
        """
        row = _Row.of(groups, self.device)
        with self._computing(row.length, row.changes):
            options = {"segments": self._segments(row), "cached": cached}
            given = self._given(row, groups)
            if tokens is not None:
                made = self._at(tokens, given, row, **options)
            elif row.read is not None:
                made = self._pooled_or_read(row.read, given, row, **options)
            else:
                made = self._pooled(given, row, **options)
        for chunk, (start, stop) in zip(row.chunks, pairwise(row.bounds), strict=True):
            if chunk is not None:
                chunk.done(stop - start)
        return made

    def chunk_features(self, parts: Sequence[AdapterChunk]) -> list[Tensor]:
        """Return the head's input after each chunk, float32 [1, width], as if the chunk's text ended there.

        For a chunk with `each`, return the body's output at each token of the chunk, [T, width]. If the result has NaN
        or infinity, each adapter is computed again alone, so that NaN does not spread to the texts of other adapters.
        """
        by_adapter: dict[int, list[int]] = {}
        for index, one in enumerate(parts):
            by_adapter.setdefault(id(one.adapter), []).append(index)
        groups = [[parts[index] for index in mine] for mine in by_adapter.values()]
        made = self._of_chunks(groups)
        if len(groups) > 1 and not all(bool(torch.isfinite(one).all()) for one in made):
            made = [one for mine in groups for one in self._of_chunks([mine])]
        places = [index for mine in by_adapter.values() for index in mine]
        return [one for _, one in sorted(zip(places, made, strict=True), key=lambda two: two[0])]

    def _of_chunks(self, groups: Sequence[Sequence[AdapterChunk]]) -> list[Tensor]:
        parts = [one for mine in groups for one in mine]
        counts = [len(one.tokens) if one.each else 1 for one in parts]
        tokens = None
        if any(one.each for one in parts):
            ends = np.cumsum([len(one.tokens) for one in parts]).tolist()
            tokens = torch.cat([torch.arange(end - count, end) for end, count in zip(ends, counts, strict=True)])
        return [*self.features([AdapterGroup.of(mine) for mine in groups], None, tokens).split(counts)]

    def _pooled(self, given: dict[str, Tensor], row: _Row, **options: Any) -> Tensor:
        own = architecture_of(self.classifier.body).pooling_of(self.classifier.body.config)
        ways = [adapter.pooled for adapter, _ in row.placed]
        layout = row.layout.pooling(*(own if way is None else way.pooling for way in ways))
        if not any(ways):
            return self.classifier.read(given, layout, **options)
        return self._of_ways(self.classifier.hidden(given, layout, **options), layout, row)

    def _of_ways(self, hidden: Tensor, layout: Layout, row: _Row) -> Tensor:
        """Return the pooled output of each text, float32 [B, width], by the pooling of the text's adapter."""
        own = Pooled(architecture_of(self.classifier.body).pooling_of(self.classifier.body.config))
        ways = [adapter.pooled for adapter, _ in row.placed]
        made = {way: (way or own).of(hidden, layout) for way in set(ways)}
        return torch.cat([made[way][texts] for way, (_, texts) in zip(ways, row.placed, strict=True)])

    def _pooled_or_read(
        self, read: Sequence[Tensor | None], given: dict[str, Tensor], row: _Row, **options: Any
    ) -> Tensor:
        """Return the head's input of a row with texts of which tokens are read; `read`: the cells of these tokens."""
        layout = row.layout.reading(torch.arange(row.length, device=self.device))
        hidden = self.classifier.hidden(given, layout, **options)
        features = self._of_ways(hidden, layout, row).split(1) if any(cells is None for cells in read) else ()
        return torch.cat(
            [features[text] if cells is None else hidden[cells].float() for text, cells in enumerate(read)]
        )

    def _at(self, tokens: Tensor, given: dict[str, Tensor], row: _Row, **options: Any) -> Tensor:
        # All cells are read: a change knows its rows among all cells, or among one of each sequence.
        layout = row.layout.reading(torch.arange(row.length, device=self.device))
        cells = (~row.virtual).nonzero()[:, 0].index_select(0, tokens.to(self.device))
        return self.classifier.hidden(given, layout, **options).index_select(0, cells).float()

    @cached_property
    def _decoding_step(self) -> DecodingStep | None:
        return DecodingStep.of(self.classifier.body, {module: path for path, module in self._modules.items()})

    @cached_property
    def opened(self) -> KeyValueCache:
        """The empty cache of keys and values from which texts that are computed in chunks start."""
        return key_value_cache(self.classifier.body)

    def next_features(
        self, tokens: Tensor, positions: Tensor, changes: dict[str, list[PlacedChange]], cached: KeyValueRow
    ) -> Tensor:
        """Compute the next token of each running text in one forward pass: return the head's input, float32 [B, width].

        `tokens` and `positions` are int64 [B], sorted by adapter; a position counts the virtual tokens before the text.
        """
        layout = Layout(torch.arange(len(tokens) + 1, dtype=torch.int32, device=self.device))
        with self._computing(len(tokens), changes):
            if self._decoding_step is not None and self._decoding_step.takes(changes):
                return self._decoding_step(tokens, positions, cached, changes).float()
            row = {"input_ids": tokens[None], "position_ids": positions[None]}
            return self.classifier.read(row, layout, cached=cached)

    @contextmanager
    def _computing(self, length: int, changes: dict[str, list[PlacedChange]]) -> Iterator[None]:
        with self.computing, torch.inference_mode():
            keep_freed()
            self._row_changes.length, self._row_changes.changes = length, changes
            try:
                yield
            finally:
                self._row_changes.changes = {}

    def _given(self, row: _Row, groups: Sequence[AdapterGroup]) -> dict[str, Tensor]:
        given = {"position_ids": row.positions[None], **types_of(self.classifier.body, row.types)}
        if all(group.adapter.prompt is None for group in groups):
            return {"input_ids": row.tokens[None], **given}
        embedded = self.classifier.body.get_input_embeddings()(row.tokens)
        rows = embedded.new_empty(row.length, embedded.shape[1])
        rows[~row.virtual] = embedded
        prompts = [(adapter.prompt, sum(begins(one) for one in row.chunks[texts])) for adapter, texts in row.placed]
        rows[row.virtual] = torch.cat([prompt.repeat(count, 1) for prompt, count in prompts if prompt is not None])
        return {"inputs_embeds": rows[None], **given}

    def _segments(self, row: _Row) -> list[RowSegment] | None:
        """Return the segments for the attention: one for each prefix and chunk, and one for each run of other texts."""
        if not any(adapter.prefix for adapter, _ in row.placed) and not any(row.chunks):
            return None
        found = []
        texts = ((adapter, index) for adapter, mine in row.placed for index in range(mine.start, mine.stop))
        runs = groupby(texts, key=lambda one: (id(one[0]) if one[0].prefix else None, id(row.chunks[one[1]])))
        for _, run in runs:
            (adapter, first), *others = run
            bounds = row.layout.bounds[first : first + len(others) + 2]
            cells = slice(int(bounds[0]), int(bounds[-1]))
            prefix = {self._modules[path]: columns for path, columns in adapter.prefix.items()}
            layout = Layout(bounds - bounds[0], prefix=adapter.prefix_length)
            found.append(RowSegment(cells, layout, prefix or None, row.chunks[first]))
        return found


class _Row(NamedTuple):
    """The tokens and layout of a mixed batch as one row of T cells.

    Attributes:
        tokens: Ids of the texts' tokens, int64; without virtual tokens.
        positions: Position of each cell in its text, including the prefix before the text, int64 [T].
        virtual: Whether a cell belongs to a prompt of virtual tokens, bool [T].
        bounds: Index of the first cell of each text, and the end of the last text.
        placed: For each group, the adapter and the slice of its texts.
        chunks: For each text, the cached keys and values that it continues. None: the text is computed whole.
        types: Token types, int64 [T]. None: no text has token types.
        read: For each text, the cells whose outputs are read, int64 [M]; None for a text whose output is pooled.
    """

    tokens: Tensor
    positions: Tensor
    virtual: Tensor
    layout: Layout
    bounds: Sequence[int]
    placed: Sequence[tuple[BatchedAdapter, slice]]
    chunks: Sequence[TokenChunk | None]
    changes: dict[str, list[PlacedChange]]
    types: Tensor | None
    read: Sequence[Tensor | None] | None

    @property
    def length(self) -> int:
        """T, the number of cells of the row."""
        return len(self.positions)

    @classmethod
    def of(cls, groups: Sequence[AdapterGroup], device: torch.device) -> _Row:
        sequences = [sequence for group in groups for sequence in group.sequences]
        counts = [len(group.sequences) for group in groups]
        chunks = [one for group in groups for one in group.chunks or [None] * len(group.sequences)]
        before = np.repeat([group.adapter.prompt_length for group in groups], counts)
        before = before * np.array([begins(one) for one in chunks])
        columns = np.repeat([group.adapter.prefix_length for group in groups], counts)
        columns = np.array([columns[index] if one is None else one.start for index, one in enumerate(chunks)])
        lengths = np.array([len(sequence) for sequence in sequences]) + before
        bounds = np.concatenate([[0], np.cumsum(lengths)])
        steps = np.arange(bounds[-1]) - np.repeat(bounds[:-1], lengths)
        ends = np.concatenate([[0], np.cumsum(counts)]).tolist()
        placed = [(group.adapter, slice(*two)) for group, two in zip(groups, pairwise(ends), strict=True)]
        given = [place for group in groups for place in group.second or [None] * len(group.sequences)]
        second = seconds_of(sequences, given)
        types = None if second is None else (steps >= np.repeat(before + second, lengths)).astype(np.int64)

        wanted = [one for group in groups for one in group.read or [None] * len(group.sequences)]

        def there(array: np.ndarray) -> Tensor:
            return torch.from_numpy(array).to(device)

        starts = bounds[:-1] + before
        read = [None if one is None else there(start + one) for one, start in zip(wanted, starts, strict=True)]

        return cls(
            tokens=there(np.concatenate(sequences).astype(np.int64)),
            positions=there((steps + np.repeat(columns, lengths)).astype(np.int64)),
            virtual=there(steps < np.repeat(before, lengths)),
            layout=Layout(there(bounds.astype(np.int32))),
            bounds=bounds.tolist(),
            placed=placed,
            chunks=chunks,
            changes=_changes(placed, bounds.tolist()),
            types=None if types is None else there(types),
            read=None if all(one is None for one in read) else read,
        )


def begins(chunk: TokenChunk | None) -> bool:
    """Whether virtual tokens come before a chunk: True for the first chunk of a text, and for a whole text (None)."""
    return chunk is None or chunk.begins


def _changes(placed: Sequence[tuple[BatchedAdapter, slice]], bounds: Sequence[int]) -> dict[str, list[PlacedChange]]:
    found: dict[str, list[PlacedChange]] = {}
    for adapter, sequences in placed:
        tokens = slice(bounds[sequences.start], bounds[sequences.stop])
        for path, changes in adapter.changes.items():
            found.setdefault(path, []).extend(PlacedChange(change, tokens, sequences) for change in changes)
    masks: Masks = {}
    return {path: share_products(changes, masks) for path, changes in found.items()}
