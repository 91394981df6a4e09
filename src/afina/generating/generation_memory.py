"""Estimation of the memory of generation, by a dry run of its largest steps on tensors without values.

Tensors without values do not give the next token or the end of a sequence. The dry run therefore takes the longest
prompts, and gives each sequence its longest possible answer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from afina.data.batch import TOKEN_BUDGET, Packed, pack
from afina.data.tokenize import Encoded
from afina.generating.generation import COLUMNS, ROWS
from afina.models.added_modules import key_value_cache
from afina.models.architectures import output_embedding_of
from afina.models.classifier import Classifier
from afina.models.kernels.layout import Layout
from afina.models.kernels.linear import can_pack


@dataclass(frozen=True, eq=False)
class GenerationLoad:
    """Prompts (token ids) whose answers, of at most `most` tokens, are to be generated."""

    prompts: Encoded
    most: int
    beams: int

    def rehearsal(self, before: int, layout: Callable[[Packed], Layout]) -> GenerationRehearsal:
        """Return the dry run for the longest prompts. Do not call this method in torch's fake tensor mode.

        Args:
            before: The number of virtual tokens before each prompt.
            layout: A function that returns the model's layout of a packed batch.
        """
        order = np.argsort(-self.prompts.lengths, kind="stable")
        lengths = self.prompts.lengths[order] + before
        together = np.arange(1, len(order) + 1) * self.beams <= ROWS
        together &= np.cumsum((lengths + self.most) * self.beams) <= COLUMNS
        running = max(1, int(together.sum()))
        at_once = max(1, int((np.cumsum(lengths[:running]) <= TOKEN_BUDGET).sum()))
        entering = pack([self.prompts[int(number)] for number in order[:at_once]])
        rows = Layout(torch.arange(running * self.beams + 1, dtype=torch.int32)).made()
        sizes = tuple(int(length) for length in lengths[:running])
        return GenerationRehearsal(sizes, self.most, self.beams, entering, layout(entering).made(), rows)


@dataclass(frozen=True, eq=False)
class GenerationRehearsal:
    """A dry run of the two largest steps of a generation: computing prompts, and the last step of all sequences.

    A `GenerationRehearsal` needs tensors with values, so it is made before the dry run begins.

    Attributes:
        prompts: The number of tokens of each prompt whose answer is generated at the same time, including virtual
            tokens.
        most: The largest number of tokens of an answer.
        beams: The number of sequences for each prompt.
        entering: The prompts that are computed in one packed batch, whose layout is `layout`.
        decoding: The layout of a step with one token of each sequence.
    """

    prompts: tuple[int, ...]
    most: int
    beams: int
    entering: Packed
    layout: Layout
    decoding: Layout

    def run(self, model: Classifier) -> None:
        """Compute the largest steps of the generation, with a model on torch's fake tensors."""
        head = output_embedding_of(model.model)
        # The copy of the output embedding in oneDNN's order, as NextTokenModel makes it.
        copy = torch.empty_like(head.weight) if can_pack(head, head.weight.dtype) else None
        cache = key_value_cache(model.body)
        sequences = [cache.enter(length, min(self.most, 32), self.layout.prefix) for length in self.prompts]
        chosen = sequences[: len(self.entering)]
        model.answer(model.features(self.entering, self.layout, cached=cache.prefill_row(chosen)))
        for sequence in sequences:
            for _ in range(1, self.beams):
                cache.fork(sequence)
        for _ in range(2, self.most):
            cache.make_room()
            for sequence in cache.sequences:
                sequence.length += 1
        cache.make_room()
        positions = torch.tensor([[sequence.length for sequence in cache.sequences]])
        row = {"input_ids": torch.zeros_like(positions), "position_ids": positions}
        model.answer(model.read(row, self.decoding, cached=cache.decoding_row(cache.sequences)))
        del copy
