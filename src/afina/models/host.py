"""Host: one frozen model that computes a packed row for several adapters at once. Knows no method, no task, no text.

The row is sorted by adapter, so that each has one stretch of it; whatever lets no adapter in is computed as for one.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby, pairwise
from threading import Lock
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from afina.allocator import keep_freed
from afina.models.classifier import Classifier
from afina.models.kernels.dora import prepare
from afina.models.kernels.frozen import is_linear
from afina.models.kernels.layout import Layout
from afina.models.kernels.low_rank import Masks, joined
from afina.models.kernels.patches import Patch, call_of, patch, patches_of
from afina.models.kernels.riding import Ridden, Seats, Stretch, ridden
from afina.models.rider import Rider


class Party(NamedTuple):
    """A rider and its texts: token sequences, each an integer array of length >= 1."""

    rider: Rider
    sequences: Sequence[np.ndarray]


class Host:
    """A classifier that nothing is attached to, whose own head is not used. One row at a time; callers may be many.

    computing  held while it does
    """

    def __init__(self, classifier: Classifier) -> None:
        self.classifier = classifier.eval()
        self._modules: dict[str, nn.Module] = dict(classifier.model.named_modules())
        self._seats = Seats()
        self.computing, self._patching = Lock(), Lock()
        for layer in classifier.body.modules():
            if is_linear(layer):
                prepare(layer, layer)

    @property
    def model(self) -> Any:
        """The frozen model, whose layers riders name by path."""
        return self.classifier.model

    @property
    def _weight(self) -> Tensor:
        found: Tensor = next(self.classifier.body.parameters())
        return found

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self._weight.device

    @property
    def dtype(self) -> torch.dtype:
        """What it computes in; features are float32."""
        return self._weight.dtype

    def admit(self, rider: Rider) -> Rider:
        """The rider with its weights where the model's are, and every layer that it changes ready for that."""
        with self._patching:
            for path in rider.changes:
                module = self._modules[path]
                if Patch.RIDDEN not in patches_of(module):
                    patch(module, Patch.RIDDEN, ridden, path, self._seats, call_of(module))
        return rider.to(self.device, self.dtype)

    def features(self, parties: Sequence[Party]) -> Tensor:
        """What a head is given for each text, float32 [B, width], in the parties' order; one packed forward pass.

        A rider has to be admitted, and is in one party. Of what is no number in one, others may get some.
        """
        row = _Row.of(parties, self.device)
        with self.computing, torch.inference_mode():
            keep_freed()
            self._seats.length, self._seats.changes = row.length, row.changes
            try:
                return self.classifier.read(self._given(row, parties), row.layout, stretches=self._stretches(row))
            finally:
                self._seats.changes = {}

    def _given(self, row: _Row, parties: Sequence[Party]) -> dict[str, Tensor]:
        positions = row.positions[None]
        if all(party.rider.prompt is None for party in parties):
            return {"input_ids": row.tokens[None], "position_ids": positions}
        embedded = self.classifier.body.get_input_embeddings()(row.tokens)
        rows = embedded.new_empty(row.length, embedded.shape[1])
        rows[~row.virtual] = embedded
        prompts = [(one.rider.prompt, len(one.sequences)) for one in parties]
        rows[row.virtual] = torch.cat([prompt.repeat(count, 1) for prompt, count in prompts if prompt is not None])
        return {"inputs_embeds": rows[None], "position_ids": positions}

    def _stretches(self, row: _Row) -> list[Stretch] | None:
        """One for each prefix, and one for all neighbours without."""
        if not any(rider.prefix for rider, _ in row.seated):
            return None
        found = []
        runs = groupby(row.seated, key=lambda one: id(one[0]) if one[0].prefix else None)
        for _, run in runs:
            parts = list(run)
            rider, first, last = parts[0][0], parts[0][1].start, parts[-1][1].stop
            bounds = row.layout.bounds[first : last + 1]
            cells = slice(int(bounds[0]), int(bounds[-1]))
            prefix = {self._modules[path]: columns for path, columns in rider.prefix.items()}
            found.append(Stretch(cells, Layout(bounds - bounds[0], prefix=rider.columns), prefix or None))
        return found


class _Row(NamedTuple):
    """Where everything is.

    tokens     int64 [texts' tokens];  positions  int64 [T], of each cell in its text, counted from its prefix
    virtual    bool [T], whether a cell is a prompt's
    seated     each party's rider, and where its sequences are among all
    """

    tokens: Tensor
    positions: Tensor
    virtual: Tensor
    layout: Layout
    seated: Sequence[tuple[Rider, slice]]
    changes: dict[str, list[Ridden]]

    @property
    def length(self) -> int:
        """T."""
        return len(self.positions)

    @classmethod
    def of(cls, parties: Sequence[Party], device: torch.device) -> _Row:
        sequences = [sequence for party in parties for sequence in party.sequences]
        counts = [len(party.sequences) for party in parties]
        before = np.repeat([party.rider.before for party in parties], counts)
        columns = np.repeat([party.rider.columns for party in parties], counts)
        lengths = np.array([len(sequence) for sequence in sequences]) + before
        bounds = np.concatenate([[0], np.cumsum(lengths)])
        steps = np.arange(bounds[-1]) - np.repeat(bounds[:-1], lengths)
        ends = np.concatenate([[0], np.cumsum(counts)]).tolist()
        seated = [(party.rider, slice(*two)) for party, two in zip(parties, pairwise(ends), strict=True)]

        def there(array: np.ndarray) -> Tensor:
            return torch.from_numpy(array).to(device)

        return cls(
            tokens=there(np.concatenate(sequences).astype(np.int64)),
            positions=there((steps + np.repeat(columns, lengths)).astype(np.int64)),
            virtual=there(steps < np.repeat(before, lengths)),
            layout=Layout(there(bounds.astype(np.int32))),
            seated=seated,
            changes=_changes(seated, bounds.tolist()),
        )


def _changes(seated: Sequence[tuple[Rider, slice]], bounds: Sequence[int]) -> dict[str, list[Ridden]]:
    found: dict[str, list[Ridden]] = {}
    for rider, sequences in seated:
        tokens = slice(bounds[sequences.start], bounds[sequences.stop])
        for path, changes in rider.changes.items():
            found.setdefault(path, []).extend(Ridden(change, tokens, sequences) for change in changes)
    masks: Masks = {}
    return {path: joined(riding, masks) for path, riding in found.items()}
