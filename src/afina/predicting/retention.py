"""Retention: the language-model loss of a backbone, or of a trained model, on neutral sentences."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from afina import meter
from afina.data.batch import by_length
from afina.data.tokenize import Encoded
from afina.models import verbalizer
from afina.models.backbone import Backbone
from afina.models.classifier import Classifier
from afina.models.kernels.token_loss import token_losses
from afina.models.language_model import LanguageModel
from afina.predicting import problems
from afina.ranks import ALONE, Ranks
from afina.stats.answered import of_ratio
from afina.stats.intervals import around_mean


@dataclass(frozen=True, eq=False)
class SentenceLosses:
    """Language-model losses on N sentences, in nats.

    Attributes:
        sums: The loss of each sentence, summed over its predicted tokens, float64 [N].
        tokens: The number of predicted tokens of each sentence, int64 [N].
    """

    sums: np.ndarray
    tokens: np.ndarray
    seconds: float

    def mean(self) -> tuple[float, tuple[float, float]]:
        """Return the mean loss of a token, and its 95 % confidence interval over sentences."""
        return _mean(self.sums, self.tokens)

    def change_from(self, before: SentenceLosses) -> tuple[float, tuple[float, float]]:
        """Return the mean change of a token's loss, and its 95 % confidence interval over the same sentences."""
        return _mean(self.sums - before.sums, self.tokens)


def _mean(sums: np.ndarray, tokens: np.ndarray) -> tuple[float, tuple[float, float]]:
    values = of_ratio(sums, tokens.astype(np.float64))
    mean = float(values.mean())
    found = around_mean(mean, float(np.square(values - mean).sum()), len(values))
    return mean, (found.low, found.high)


def check_measurable(encoded: Encoded, source: str) -> Encoded:
    """Return the sentences of two tokens or more, as a first token has no loss.

    Raises InvalidData for fewer than two.
    """
    kept = [encoded[place] for place in range(len(encoded)) if len(encoded[place]) > 1]
    if len(kept) < 2:
        raise problems.TOO_FEW_SENTENCES(source=source, sentences=len(kept))
    return Encoded.of(kept)


def sentence_losses(
    classifier: Classifier, backbone: Backbone, encoded: Encoded, ranks: Ranks = ALONE
) -> SentenceLosses:
    """Return the loss of each token of the sentences given the tokens before it, in the dtype of the weights.

    For a classifier, the losses are computed with the backbone's output embedding. If the output embedding is tied to
    the input embedding, the classifier's own (trained) embedding is used.

    Args:
        classifier: The model to measure, with a causal backbone.
        encoded: N tokenised sentences of two tokens or more.

    Raises NotFound if the backbone's weight files have no output embedding.
    """
    began, device, training = meter.now(), next(classifier.parameters()).device, classifier.training
    if isinstance(classifier, LanguageModel):
        head = classifier.output_embedding
    else:
        head = verbalizer.output_embedding(backbone.path, backbone.config, classifier.body).to(device)
    classifier.eval()
    made = ranks.of_shares(
        encoded.lengths, lambda start, stop: _summed_losses(classifier, head, encoded.part(start, stop))
    )
    classifier.train(training)
    return SentenceLosses(np.concatenate(made), encoded.lengths - 1, meter.now() - began)


def _summed_losses(classifier: Classifier, head: Any, encoded: Encoded) -> np.ndarray:
    """Return the loss of each sentence, summed over its predicted tokens, float64 [N]; `head` is a linear layer."""
    sums, device = np.zeros(len(encoded)), next(classifier.parameters()).device
    with torch.inference_mode():
        for indices, packed in by_length(encoded, before=classifier.before):
            ends = packed.bounds[1:].long() - 1
            targets = packed.tokens.roll(-1)
            read = torch.ones(len(packed.tokens), dtype=torch.bool)
            read[ends] = False
            cells = read.nonzero()[:, 0]
            hidden = classifier.states(packed.to(device), cells.to(device))
            found = token_losses(hidden.to(head.weight.dtype), head.weight, targets[cells].to(device), head.bias)
            owners = torch.searchsorted(packed.bounds[1:].long(), cells, right=True).numpy()
            sums[indices] = np.bincount(owners, found.double().cpu().numpy(), len(indices))
    return sums
