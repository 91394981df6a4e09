"""`LanguageModel`: a causal language model over packed batches, for tasks whose answers are texts.

The names of its parameters and saved files are those of transformers and peft.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor

from afina.data.batch import IGNORED, Packed, pack
from afina.models.architectures import output_embedding_of
from afina.models.backbone import Backbone
from afina.models.backbone_spec import FLOAT
from afina.models.classifier import Classifier
from afina.models.kernels.layout import Layout
from afina.models.kernels.token_loss import token_losses
from afina.models.objective import Opening
from afina.models.pretrained import meta_model


class LanguageModel(Classifier):
    """A causal language model that takes a packed batch and returns the loss of each target token.

    A language model has no classification head. Where `Classifier` uses its head, `LanguageModel` uses the output
    embedding, which counts as a part of the body.
    """

    def forward(self, packed: Packed, layout: Layout | None = None) -> Tensor:
        """Return the negative log-likelihood of each target token, float32 [M], in the order of the batch.

        `packed.targets[t]` is the token that follows token t, or IGNORED.
        """
        hidden = self.features(packed, layout)
        head = self.output_embedding
        targets = packed.targets.index_select(0, packed.learnt_at)
        with self._whole_output(), torch.autocast(hidden.device.type, enabled=False):
            return token_losses(hidden.to(head.weight.dtype), head.weight, targets, head.bias)

    def idle_pass(self) -> Tensor:
        text = pack([np.zeros(2, np.int64)], [np.array([0, IGNORED])], per_token=True).to(self.device)
        zero: Tensor = self(text).sum() * 0
        return zero

    def answer(self, features: Tensor) -> Tensor:
        """Return the logits of the next token, float32 [B, vocabulary], for hidden states [B, width]."""
        head = self.output_embedding
        with self._whole_output():
            logits: Tensor = head(features.to(head.weight.dtype)).float()
        return logits

    def _whole_output(self) -> AbstractContextManager[None]:
        return nullcontext() if self.sharding is None else self.sharding.whole_output()

    @property
    def output_embedding(self) -> Any:
        """The linear layer that returns the logits of all tokens; its weight may be that of the input embedding."""
        return output_embedding_of(self.model)


def open_model(
    backbone: Backbone,
    label_names: Sequence[str],
    seed: int,
    opening: Opening,
    tokens: Sequence[Sequence[int]] | None = None,
    *,
    exact: bool = False,
    precision: str = FLOAT,
    unread: bool = False,
) -> Classifier:
    """Open a backbone as a classifier with a new head, or as a language model with its own head (`opening`).

    `Classifier.open` describes the arguments.
    """
    kind = _wrapper(opening)
    return kind.open(
        backbone, label_names, seed, tokens, exact=exact, opening=opening, precision=precision, unread=unread
    )


def open_without_weights(address: str, labels: int, opening: Opening) -> Classifier:
    """Return the model of `open_model` on the `meta` device, from the configuration at `address`."""
    return _wrapper(opening)(meta_model(address, labels, opening))


def _wrapper(opening: Opening) -> type[Classifier]:
    return LanguageModel if opening.auto_class == "language_model" else Classifier
