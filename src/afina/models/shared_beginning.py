"""`SharedBeginning`: the tokens with which several texts begin, computed once for all of them.

Prompts with the same instruction or the same examples begin with the same tokens. In a causal model, keys and values
of these tokens do not depend on the tokens after them, so they are computed once, and each text attends to them. The
module does not know prompts, templates or tokenizers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from torch import Tensor, nn

from afina.data.batch import Packed
from afina.data.tokenize import Encoded
from afina.models.added_modules import activations, attentions
from afina.models.classifier import Classifier
from afina.models.kernels.key_values import RowSegment
from afina.models.kernels.layer_changes import KeyValues
from afina.models.kernels.layout import Layout

LEAST = 64
"""Smallest number of common tokens that are computed once. Fewer would pay too (docs/LOG.md), but most templates share
fewer, and their predictions stay the same to the last bit."""


def common_tokens(encoded: Encoded) -> int:
    """Return the number of tokens with which all sequences begin; each sequence has at least one token more."""
    starts, most, count = encoded.offsets[:-1], int(encoded.lengths.min()) - 1, 0
    while count < most and (encoded.tokens[starts + count] == encoded.tokens[starts[0] + count]).all():
        count += 1
    return count


def shared_tokens(classifier: Classifier, encoded: Encoded) -> int:
    """Return the number of tokens that are computed once for all sequences; 0 if each sequence is computed whole.

    A model with virtual tokens, an encoder, and a head that reads more than the last token compute whole sequences.
    """
    if len(encoded) < 2 or not classifier.takes_chunks or classifier.before:
        return 0
    count = common_tokens(encoded)
    return count if count >= LEAST else 0


@dataclass(frozen=True, eq=False)
class SharedBeginning:
    """The keys and values of the first `count` tokens of several texts.

    Attributes:
        prefix: The keys and values by attention module.
    """

    classifier: Classifier
    count: int
    prefix: Mapping[nn.Module, KeyValues]

    @classmethod
    def of(cls, classifier: Classifier, encoded: Encoded) -> Self | None:
        """Compute the common beginning of the sequences; None if nothing can be computed once (`shared_tokens`)."""
        count = shared_tokens(classifier, encoded)
        if not count:
            return None
        body = classifier.body
        tokens = torch.from_numpy(encoded[0][:count].astype(np.int64))
        rows: Tensor = body.get_input_embeddings()(tokens.to(next(body.parameters()).device))
        found = (KeyValues(key.transpose(0, 1), value.transpose(0, 1)) for key, value in activations(body, rows))
        return cls(classifier, count, dict(zip(attentions(body), found, strict=True)))

    def rest(self, encoded: Encoded) -> Encoded:
        """Return the sequences without their common beginning."""
        return Encoded.of([encoded[index][self.count :] for index in range(len(encoded))], encoded.truncated)

    def outputs(self, packed: Packed) -> np.ndarray:
        """Return the logits, float32 [B, number of labels], of the texts whose rests (`rest`) are in a batch."""
        layout = Layout(packed.bounds, 0, self.count)
        segment = RowSegment(slice(0, len(packed.tokens)), layout, self.prefix, begins=True)
        computed: Tensor = self.classifier.answer(self.classifier.features(packed, layout, segments=[segment]))
        return computed.cpu().numpy()
