"""Inputs of training steps: packed texts or pairs for the whole model, or features if only the head trains.

Features are the outputs of the frozen body. The features of each text are computed once and kept, so that all training
steps of a head together take one forward pass over each text. Features are computed without dropout, in the batches
used for prediction, and in the compute dtype of training.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor

from afina.data.batch import Loader, Packed, SoftTargets, by_length, each_of, starts_of
from afina.data.pairs import PairCounts, PairLoader, cut_pairs
from afina.digest import derive_seed
from afina.methods.method import Method
from afina.models.classifier import Classifier
from afina.models.kernels.dropout_masks import TextMasks, generators_of
from afina.models.kernels.layout import Layout
from afina.training.recipe import Recipe


@dataclass(frozen=True, eq=False)
class TextBatch:
    """A packed batch of texts, or a micro-batch.

    Attributes:
        layout: None: it was not computed yet.
        numbers: The number of each text in the training batch, int64 [B]. None: the texts are all texts of the batch.
    """

    packed: Packed
    layout: Layout | None = None
    numbers: np.ndarray | None = None

    @property
    def targets(self) -> Tensor:
        return self.packed.learnt_targets

    @property
    def weights(self) -> Tensor | None:
        return self.packed.weights

    @property
    def soft(self) -> SoftTargets | None:
        return self.packed.soft

    @property
    def learnt(self) -> int:
        return self.packed.learnt

    def __len__(self) -> int:
        return len(self.packed)


class Inputs(ABC):
    """The inputs of all steps of a training session: packed texts or features.

    Attributes:
        by_text: Whether dropout masks are drawn for each text, so that they do not depend on the number of processes.
    """

    by_text: bool = False

    def __init__(self, classifier: Classifier, loader: Loader, recipe: Recipe) -> None:
        self.classifier, self.loader, self.recipe = classifier, loader, recipe

    @property
    def device(self) -> torch.device:
        return next(self.classifier.parameters()).device

    @property
    def held(self) -> Sequence[Tensor]:
        """The tensors that are kept between steps in addition to weights."""
        return ()

    @property
    def pair_counts(self) -> PairCounts | None:
        """The numbers of pairs of texts on which the session trains. None: the session trains on single texts."""
        return None

    @abstractmethod
    def begin(self) -> None:
        """Prepare the model for training steps; the model may be in any mode before."""

    @abstractmethod
    def batches(self, start: int, stop: int) -> Iterator[Any]:
        """Yield the batches of the steps `start` to `stop - 1`."""

    @abstractmethod
    def parts(self, batch: Any) -> Sequence[MicroBatch]:
        """Return the micro-batches of this process's share of a batch, on the model's device; may be empty."""

    @abstractmethod
    def learnt(self, batch: Any) -> int:
        """Return the number of targets of the whole batch, over which the mean loss is computed."""

    @abstractmethod
    def tokens(self, batch: Any) -> int:
        """Return the number of tokens in the texts of the batch."""

    @abstractmethod
    def prepare(self, step: int) -> None:
        """Compute what a step needs before its forward pass; the time counts as time of the step."""

    def idle_passes(self, own: int) -> int:
        """Return the number of passes of a step that this process computes without a text, for other processes.

        `own` is the number of micro-batches of this process.
        """
        return 0

    @abstractmethod
    def outputs(self, part: Any) -> Tensor:
        """Return the logits of a micro-batch, float32 [B, width of the head]."""

    @abstractmethod
    def stand_in(self, largest: Packed) -> MicroBatch:
        """Return a micro-batch of the same size as `largest`, to measure activations."""

    @abstractmethod
    def rehearse(self, made: Sequence[TextBatch]) -> Sequence[MicroBatch]:
        """Compute what a step needs on the fake tensors from `rehearsal`, for a dry run; return the micro-batches."""

    @classmethod
    @abstractmethod
    def largest(cls, loader: Loader, recipe: Recipe) -> Packed:
        """Return the micro-batch with the most tokens among all steps."""

    @classmethod
    @abstractmethod
    def computed(cls, loader: Loader, steps: int) -> int:
        """Return the number of tokens that the model computes in `steps` steps."""

    @classmethod
    @abstractmethod
    def rehearsal(cls, loader: Loader, recipe: Recipe, layout: Callable[[Packed], Layout]) -> list[TextBatch]:
        """Return the batches for `rehearse`, as real tensors; `layout` is `Classifier.layout`."""


class PackedInputs(Inputs):
    """Packed batches of texts, which the whole model computes in each step."""

    _seed = 0

    def begin(self) -> None:
        """Switch the model to training mode, with dropout."""
        self.classifier.train()

    def batches(self, start: int, stop: int) -> Iterator[Packed]:
        return self.loader.batches(start, stop)

    def parts(self, batch: Packed) -> Sequence[TextBatch]:
        """Split this process's share of the batch into micro-batches within the recipe's limits."""
        cut = self.recipe.at_once.cut(batch.lengths)
        return [TextBatch(part.to(self.device), None, numbers) for numbers, part in batch.parts(cut)]

    def learnt(self, batch: Packed) -> int:
        return batch.learnt

    def tokens(self, batch: Packed) -> int:
        return len(batch.tokens)

    def prepare(self, step: int) -> None:
        """Seed the generator of dropout for the step, so that dropout does not depend on earlier random numbers."""
        self._seed = derive_seed(self.recipe.seed, "dropout", step)
        torch.manual_seed(self._seed)

    def idle_passes(self, own: int) -> int:
        """Return how many more micro-batches another process has, if the weights are sharded over the processes."""
        sharding = self.classifier.sharding
        return 0 if sharding is None else sharding.most(own) - own

    def outputs(self, part: TextBatch) -> Tensor:
        with self._drawing(part) as layout:
            logits: Tensor = self.classifier(part.packed, layout)
        return logits

    @contextmanager
    def _drawing(self, part: TextBatch) -> Iterator[Layout | None]:
        """Draw the dropout masks of a micro-batch for each text if `by_text`; yield its layout, if it is known."""
        if not self.by_text:
            yield part.layout
            return
        layout = part.layout or self.classifier.layout(part.packed)
        numbers = np.arange(len(part)) if part.numbers is None else part.numbers
        masks = TextMasks(self._seed, torch.from_numpy(numbers).to(self.device), layout)
        with masks.drawn(self._generators):
            yield layout

    @cached_property
    def _generators(self) -> Sequence[torch.Generator]:
        return generators_of(self.classifier)

    def stand_in(self, largest: Packed) -> TextBatch:
        self.prepare(self.recipe.steps)
        return TextBatch(largest.to(self.device))

    def rehearse(self, made: Sequence[TextBatch]) -> Sequence[TextBatch]:
        """Return the micro-batches unchanged, because packed texts need no further computation."""
        return made

    @classmethod
    def largest(cls, loader: Loader, recipe: Recipe) -> Packed:
        return loader.largest(recipe.steps, recipe.at_once)

    @classmethod
    def computed(cls, loader: Loader, steps: int) -> int:
        return loader.tokens(steps)

    @classmethod
    def rehearsal(cls, loader: Loader, recipe: Recipe, layout: Callable[[Packed], Layout]) -> list[TextBatch]:
        """Return the largest micro-batch of texts, twice if a batch has several micro-batches.

        From the second micro-batch on, memory also holds the gradients of the earlier micro-batches.
        """
        largest = cls.largest(loader, recipe)
        return [TextBatch(largest, layout(largest).made())] * min(2, loader.most_parts(recipe.steps, recipe.at_once))


class PairInputs(PackedInputs):
    """Packed batches of pairs of texts, of which the whole model computes the embeddings in each step."""

    loader: PairLoader

    @property
    def pair_counts(self) -> PairCounts:
        """The numbers of pairs of texts on which the session trains."""
        return self.loader.pairs.counts

    def parts(self, batch: Packed) -> Sequence[TextBatch]:
        """Split this process's share of the batch into micro-batches of whole pairs within the recipe's limits."""
        cut = cut_pairs(batch.lengths, self.recipe.at_once)
        return [TextBatch(part.to(self.device), None, numbers) for numbers, part in batch.parts(cut)]

    def outputs(self, part: TextBatch) -> Tensor:
        """Return the embeddings of the texts, the input of the head, float32 [B, width]."""
        with self._drawing(part) as layout:
            return self.classifier.features(part.packed, layout)


_STEPS_TOGETHER = 64
"""Maximum number of steps for whose texts features are computed together. The texts of 64 steps are enough for batches
of similar lengths, and few enough that a paused run loses little."""


def inputs_of(method: Method) -> type[Inputs]:
    """Return the class of inputs (packed texts, pairs or features) for the training steps of `method`."""
    if method.is_fitted:
        return AllFeatures
    if method.pairs is not None:
        return PairInputs
    return FeatureInputs if method.trains_head and not method.trains_body else PackedInputs


@dataclass(frozen=True, eq=False)
class FeatureBatch:
    """A batch of features: one row for each text, or one row for each word that is read in the texts.

    Attributes:
        rows: Place of each row among all features, int64 [B].
        targets: The targets of the rows, [B, ...].
        tokens: Number of tokens of the texts, for the session's `Account`.
        weights: The weight of each text in the loss, float32 [B]. None: all weights are 1.
        soft: A teacher's outputs for the texts. None: there is no teacher.
    """

    rows: Tensor
    targets: Tensor
    tokens: int
    weights: Tensor | None = None
    soft: SoftTargets | None = None

    @property
    def learnt(self) -> int:
        return len(self)

    def __len__(self) -> int:
        return len(self.targets)

    def take(self, chosen: np.ndarray) -> FeatureBatch:
        """Return the rows with the indices `chosen`, int64 [M]."""
        index = torch.from_numpy(chosen)
        weights = None if self.weights is None else self.weights[index]
        soft = None if self.soft is None else self.soft.take(chosen)
        return FeatureBatch(self.rows[index], self.targets[index], self.tokens, weights, soft)


MicroBatch = TextBatch | FeatureBatch
"""The part of a batch that is computed in one forward pass; its length is its number of texts, or of rows."""


class FeatureInputs(Inputs):
    """The features of the texts of all steps, float32 [N, width], for training the head alone.

    A text has one row of features, or one row for each word that is read in it.

    The first epoch computes the features in groups of steps. The groups of steps depend only on the total number of
    steps, so that a paused or resumed run has bitwise the same result.
    """

    def __init__(self, classifier: Classifier, loader: Loader, recipe: Recipe) -> None:
        super().__init__(classifier, loader, recipe)
        self._examples = self._texts_of_steps()
        self._counts = loader.encoded.output_counts
        self._starts = np.zeros(len(loader.encoded), np.int64)
        self._starts[self._examples] = starts_of(self._counts[self._examples])
        self._targets, self._targets_from = loader.learnt_targets, starts_of(self._counts)
        self._lengths = loader.encoded.lengths
        self._missing = list(step_groups(min(recipe.steps, loader.steps_per_epoch)))
        self._kept: Tensor | None = None

    def _texts_of_steps(self) -> np.ndarray:
        """Return the indices of the texts whose features are computed, in the order of their features."""
        return first_epoch_texts(self.loader, self.recipe.steps)

    def _rows(self, texts: np.ndarray) -> np.ndarray:
        """Return the places of the rows of these texts among all features, int64 [B]."""
        return each_of(self._starts[texts], self._counts[texts])

    @property
    def held(self) -> Sequence[Tensor]:
        return () if self._kept is None else (self._kept,)

    def begin(self) -> None:
        """Switch the model to evaluation mode, without dropout."""
        self.classifier.eval()
        if self._kept is None:
            shape = int(self._counts[self._examples].sum()), self.classifier.model.config.hidden_size
            self._kept = torch.empty(shape, device=self.device)

    def batches(self, start: int, stop: int) -> Iterator[FeatureBatch]:
        for chosen in self.loader.chosen(start, stop):
            places = each_of(self._targets_from[chosen], self._counts[chosen])
            rows, targets = torch.from_numpy(self._rows(chosen)), torch.from_numpy(self._targets[places])
            given = self.loader.weights
            weights = None if given is None else torch.from_numpy(given[chosen].astype(np.float32))
            tokens, soft = int(self._lengths[chosen].sum()), self.loader.soft_targets(chosen)
            yield FeatureBatch(rows, targets, tokens, weights, soft)

    def parts(self, batch: FeatureBatch) -> Sequence[FeatureBatch]:
        """Return this process's share of the rows of the batch."""
        ranks = self.recipe.ranks
        if ranks.count > 1:
            own = ranks.share(np.ones(len(batch), np.int64))
            if not len(own):
                return []
            batch = batch.take(own)
        weights = None if batch.weights is None else batch.weights.to(self.device)
        soft = None if batch.soft is None else batch.soft.to(self.device)
        return [FeatureBatch(batch.rows.to(self.device), batch.targets.to(self.device), batch.tokens, weights, soft)]

    def learnt(self, batch: FeatureBatch) -> int:
        return batch.learnt

    def tokens(self, batch: FeatureBatch) -> int:
        return batch.tokens

    def prepare(self, step: int) -> None:
        """Compute missing features: in the first epoch for the step's group of texts, later for all texts."""
        late = step >= self.loader.steps_per_epoch
        for start, stop in [each for each in self._missing if late or each[0] <= step < each[1]]:
            for _ in self._shared(group_batches(self.loader, start, stop)):
                pass
            self._missing.remove((start, stop))

    def _shared(self, batches: Iterator[tuple[np.ndarray, Packed]]) -> Iterator[tuple[np.ndarray, Packed]]:
        """Compute the features of batches, and yield each batch after its features are computed.

        If several processes train together, each of them computes some of the batches. All processes have the features
        of all batches after the last one.
        """
        assert self._kept is not None
        ranks, texts = self.recipe.ranks, []
        with self.classifier.apart():
            for number, (indices, packed) in enumerate(batches):
                rows = torch.from_numpy(self._rows(indices))
                if number % ranks.count == ranks.rank:
                    self._compute(TextBatch(packed), rows)
                else:
                    self._kept.index_fill_(0, rows.to(self.device), 0.0)
                texts.append(rows)
                yield indices, packed
        if ranks.count > 1:
            rows = torch.cat(texts).to(self.device)
            found = self._kept.index_select(0, rows)
            ranks.sum_([found])
            self._kept.index_copy_(0, rows, found)

    def _compute(self, laid: TextBatch, rows: Tensor) -> None:
        assert self._kept is not None
        with torch.inference_mode():
            self._kept.index_copy_(0, rows.to(self.device), self._features(laid))

    def _features(self, laid: TextBatch) -> Tensor:
        """Return the features of a batch, float32 [N, width]."""
        return self.classifier.features(laid.packed.to(self.device), laid.layout)

    def outputs(self, part: FeatureBatch) -> Tensor:
        assert self._kept is not None
        return self.classifier.answer(self._kept.index_select(0, part.rows))

    def stand_in(self, largest: Packed) -> FeatureBatch:
        """Return a batch of as many rows of features as `largest` has texts, or words that are read in them."""
        rows = torch.zeros(largest.learnt, dtype=torch.int64, device=self.device)
        soft = None if largest.soft is None else largest.soft.to(self.device)
        return FeatureBatch(rows, largest.learnt_targets.to(self.device), len(largest.tokens), soft=soft)

    def rehearse(self, made: Sequence[TextBatch]) -> Sequence[FeatureBatch]:
        """Compute the features of the largest batch of texts; the last item of `made` is the batch of the step."""
        texts, batch = made
        self._compute(texts, torch.zeros(texts.learnt, dtype=torch.int64))
        return [self.stand_in(batch.packed)]

    @classmethod
    def largest(cls, loader: Loader, recipe: Recipe) -> Packed:
        return loader.largest(recipe.steps)

    @classmethod
    def computed(cls, loader: Loader, steps: int) -> int:
        """Return the number of tokens of all texts that the steps use, each text counted once."""
        return int(loader.encoded.lengths[first_epoch_texts(loader, steps)].sum())

    @classmethod
    def rehearsal(cls, loader: Loader, recipe: Recipe, layout: Callable[[Packed], Layout]) -> list[TextBatch]:
        """Return the largest batch for which features are computed at once, and the largest batch of a step."""
        groups = step_groups(min(recipe.steps, loader.steps_per_epoch))
        read = chain.from_iterable(group_batches(loader, start, stop) for start, stop in groups)
        heaviest = max((packed for _, packed in read), key=lambda packed: len(packed.tokens))
        step = cls.largest(loader, recipe)
        _ = step.learnt  # a dry run reads no values of tensors later
        return [TextBatch(heaviest, layout(heaviest).made()), TextBatch(step)]


class AllFeatures(FeatureInputs):
    """Features of all texts or words [N, width] for a head that scikit-learn fits: the head's last layer reads them."""

    def _texts_of_steps(self) -> np.ndarray:
        return np.arange(len(self.loader.encoded))

    def compute(self) -> Iterator[tuple[np.ndarray, Packed]]:
        """Compute the features of all texts, and yield each batch (`by_length`) after its features are computed."""
        return self._shared(by_length(self.loader.encoded))

    @property
    def computed_features(self) -> np.ndarray:
        """The features of all texts or words in the order of the loader, float32 [N, width], after `compute`."""
        assert self._kept is not None
        return self._kept.cpu().numpy()

    def _features(self, laid: TextBatch) -> Tensor:
        return self.classifier.head_input(laid.packed.to(self.device), laid.layout)

    @classmethod
    def computed(cls, loader: Loader, steps: int) -> int:
        return int(loader.encoded.lengths.sum())

    @classmethod
    def rehearsal(cls, loader: Loader, recipe: Recipe, layout: Callable[[Packed], Layout]) -> list[TextBatch]:
        """Return the largest batch for which features are computed at once, which also stands for the step's batch."""
        heaviest = max((packed for _, packed in by_length(loader.encoded)), key=lambda packed: len(packed.tokens))
        return [TextBatch(heaviest, layout(heaviest).made())] * 2


def first_epoch_texts(loader: Loader, steps: int) -> np.ndarray:
    """Return the index of each text of the first `steps` steps once, in the order of the first epoch."""
    return loader.examples_of(loader.order(0)[: steps * loader.batch_size])


def step_groups(steps: int) -> Iterator[tuple[int, int]]:
    """Yield groups (first, last + 1) of the first epoch's steps, small groups first, as a few steps need few texts."""
    start = 0
    while start < steps:
        stop = min(start + min(max(start, 1), _STEPS_TOGETHER), steps)
        yield start, stop
        start = stop


def group_batches(loader: Loader, start: int, stop: int) -> Iterator[tuple[np.ndarray, Packed]]:
    """Yield the texts of the first epoch's steps `start` to `stop - 1` in batches as for prediction (`by_length`)."""
    return by_length(loader.encoded, among=np.concatenate([*loader.chosen(start, stop)]))
