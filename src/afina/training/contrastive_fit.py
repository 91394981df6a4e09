"""`ContrastiveFit`: gradient steps on pairs of texts train the body, then scikit-learn fits the head (SetFit).

The loss is the mean squared error between the cosine similarity of a pair's embeddings and the pair's target: 1 for two
texts of the same label, 0 for two texts of different labels (`CosineSimilarityLoss` of sentence-transformers). The
module `contrastive_fit` does not know tasks or runs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import islice

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, mse_loss

from afina import meter
from afina.data.pairs import PairLoader
from afina.data.token_cache import EncodedSplit
from afina.errors import Diverged
from afina.events import Listener, ValidationScore, ignore
from afina.models.classifier import Classifier
from afina.models.predictions import Predictions
from afina.training.checkpoint import Account
from afina.training.fit import Fit, Pace
from afina.training.head_fit import FittedHead, check_labels, fit_head, head_fit_bytes
from afina.training.inputs import AllFeatures, MicroBatch

STRENGTH = 0.01
"""The inverse strength of regularization `C` of the head's fit.

Cross-validation cannot choose `C` here: the body was trained on the labels of the validation texts too, so that every
fold is separable and large values of `C` seem best. All features are divided by one number, because the training has
made the variance of the directions that tell labels apart large (docs/LOG.md).
"""


def contrastive_loss(embeddings: Tensor, targets: Tensor) -> Tensor:
    """Return the mean loss of a batch of pairs, a float32 scalar; the texts 2 i and 2 i + 1 are pair i.

    `embeddings` are float32 [2 B, width], `targets` the target of the pair of each text, float32 [2 B].
    """
    return mse_loss(cosine_similarity(embeddings[0::2], embeddings[1::2]), targets[0::2])


class ContrastiveFit(Fit):
    """A training session that trains the body on pairs of texts, and then fits the head's last layer.

    The head is fitted to features of all training texts that the trained body computes without dropout.
    """

    loader: PairLoader

    def advance(
        self,
        stop: int | None = None,
        *,
        keep: Callable[[Account], None] | None = None,
        listen: Listener = ignore,
        stopped: Callable[[], bool] = lambda: False,
    ) -> None:
        """Take all remaining steps, or those up to `stop`; after the last step, fit the head.

        Ctrl-C while the head is fitted leaves the last checkpoint. Raises Diverged if a loss or a feature is NaN or
        infinite, and InvalidStudy if all texts have the same class.
        """
        check_labels(self.objective, self.loader, self.method.name)
        super().advance(stop, keep=keep, listen=listen, stopped=stopped)
        if self.account.step == self.recipe.steps and self.fitted is None:
            began = meter.now()
            self.fitted = self._fit_head(stopped)
            self.account.seconds["train"] += meter.now() - began

    def _fit_head(self, stopped: Callable[[], bool] = lambda: False) -> FittedHead:
        features = AllFeatures(self.classifier, self.loader.texts, self.recipe)
        features.begin()
        for _ in features.compute():
            if stopped():
                raise KeyboardInterrupt
        self.inputs.begin()  # with dropout again, for later steps and for the measured activations
        given = self.classifier, self.objective, self.loader, features.computed_features
        return fit_head(*given, self.method.name, STRENGTH, self.recipe.ranks, common_scale=True)

    def _loss(self, part: MicroBatch) -> Tensor:
        return contrastive_loss(self.inputs.outputs(part), part.targets)

    def score(
        self,
        split: EncodedSplit,
        metric: str,
        predict: Callable[[Classifier, EncodedSplit, Listener], Predictions],
        listen: Listener = ignore,
    ) -> ValidationScore:
        """Evaluate the current body on `split` by `metric`, with a head that is fitted to its features."""
        if self.fitted is None:
            try:
                self._fit_head()
            except Diverged:
                return ValidationScore(self.account.step, self.recipe.steps, len(split), None, None)
        return super().score(split, metric, predict, listen)

    @property
    def beside_bytes(self) -> int:
        texts, width = len(self.loader.encoded), int(self.classifier.output_layer.in_features)
        copies = head_fit_bytes(self.classifier, self.objective, self.loader, STRENGTH)
        return copies + texts * width * torch.float32.itemsize

    def pace(self, first: int, count: int) -> Pace:
        """Measure the seconds per token over `count` steps after `first` steps, and of the features of the texts."""
        self.recipe = replace(self.recipe, steps=first + count + 1)  # the last step, which fits the head, is not taken
        steps = super().pace(first, count)
        features = AllFeatures(self.classifier, self.loader.texts, self.recipe)
        features.begin()
        began, tokens = meter.now(), 0
        for _, packed in islice(features.compute(), count):
            tokens += len(packed.tokens)
        return Pace(steps.step, (meter.now() - began) / tokens)
