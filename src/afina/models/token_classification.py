"""`Entities`: the objective of token classification, in which a model gives a BIO tag to each word of a text.

Only the first token of each word is read (Devlin et al. 2019, section 5.3). The module does not import torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from afina.data.entities import as_entities, entities_of, numbered, tag_names, tags_of
from afina.data.kinds import ENTITIES, Kind
from afina.models import losses, problems
from afina.models.feature_rows import FeatureRows
from afina.models.objective import AutoClass, Objective
from afina.models.predictions import Predictions
from afina.stats import classification
from afina.stats.answered import Answered
from afina.stats.linear_models import LinearKind, LinearTags

if TYPE_CHECKING:
    from torch import Tensor

    from afina.data.template import Template
    from afina.data.tokenize import Tokenizer

_TOGETHER = 1024
"""The number of texts that `viterbi` decodes at once; texts of similar length are decoded together."""


@dataclass(frozen=True)
class Entities(Objective):
    """Token classification: each text has any number of labelled parts (entities) that do not overlap.

    Targets are object [N], tuples of `Entity`. The outputs of a text are the logits of the tags of its words, float32
    [W, width].

    Attributes:
        viterbi: Whether tags are decoded as the most probable valid sequence of BIO tags, in which I- only follows B-
            or I- of the same label. False: each word has its most probable tag.
        temperature: Number by which outputs are divided before the softmax (Guo et al. 2017).
    """

    kind: ClassVar[Kind] = ENTITIES
    problem_type: ClassVar[str] = ""
    auto_class: ClassVar[AutoClass] = "token_classifier"
    column: ClassVar[str] = "entities"
    linear: ClassVar[LinearKind] = LinearTags()
    has_probabilities: ClassVar[bool] = False
    texts_can_be_weighted: ClassVar[bool] = False
    can_be_distilled: ClassVar[bool] = False  # student and teacher may divide a text into other tokens and windows
    reads_words: ClassVar[bool] = True

    viterbi: bool = True
    temperature: float = 1.0

    @classmethod
    def takes(cls, labels: int) -> bool:
        return labels > 0

    @property
    def width(self) -> int:
        return 1 + 2 * len(self.label_names)

    @property
    def output_names(self) -> tuple[str, ...]:
        """The BIO tags, such as O, B-LOC, I-LOC."""
        return tag_names(self.label_names)

    @property
    def settings(self) -> dict[str, Any]:
        """The kind of task, the way of decoding and the temperature."""
        return {"kind": self.kind, "viterbi": self.viterbi, "temperature": self.temperature}

    @classmethod
    def prompt(
        cls, asked: str | None, columns: Mapping[str, str], *, pairs: bool, tokenizer: Tokenizer
    ) -> Template | None:
        """Return None. Raises InvalidStudy for a template, whose words would get tags, and for pairs of texts."""
        if asked is not None:
            raise problems.TEMPLATE_OF_ENTITIES(kind=cls.kind, option="template")
        if pairs:
            raise problems.PAIRS_OF_ENTITIES(kind=cls.kind)
        return None

    def check(
        self, *, smoothing: float, temperature: bool, abstention: bool = False, class_weights: str | None = None
    ) -> None:
        """Raise InvalidStudy for abstention and class weights; tags can be smoothed, and their logits calibrated."""
        super().check(smoothing=0.0, temperature=False, abstention=abstention, class_weights=class_weights)

    def loss_targets(self, targets: np.ndarray) -> np.ndarray:
        """Return the start, end and label number of each entity, object [N] of int32 [E, 3].

        The batches have the tags of the tokens, which depend on the tokenizer (`WordTokens.tagged`).
        """
        return numbered(targets, self.label_names)

    def loss(self, outputs: Tensor, targets: Tensor, smoothing: float = 0.0, weights: Tensor | None = None) -> Tensor:
        """Return the mean cross-entropy of M words, [M, width], as transformers' token classifiers do."""
        return losses.cross_entropy(outputs, targets, smoothing=smoothing)

    def calibrated_outputs(self, predictions: Predictions) -> np.ndarray:
        """Return the logits of each text's words divided by the temperature of calibration, object [N]."""
        return np.fromiter((each / self.temperature for each in predictions.outputs), dtype=object)

    def mean_loss(self, predictions: Predictions) -> float:
        """Return the mean cross-entropy of the words' tags, in nats."""
        tags, outputs = self._tags(predictions, predictions.right), np.concatenate(predictions.outputs)
        return classification.log_loss(np.concatenate(tags), outputs)

    def _tags(self, predictions: Predictions, entities: np.ndarray) -> list[np.ndarray]:
        pairs = zip(predictions.extras["words"], numbered(entities, self.label_names), strict=True)
        return [tags_of(words, found) for words, found in pairs]

    def of_answers(self, answers: Sequence[Any], targets: np.ndarray | None = None) -> Predictions:
        """Return predictions of entities (start, end, label) that are certain; each entity is a word of its own."""
        found = as_entities(answer or () for answer in answers)
        words = [np.array([one[:2] for one in each], np.int32).reshape(-1, 2) for each in found]
        outputs = [np.full((len(each), self.width), -CERTAIN, np.float32) for each in found]
        for rows, each in zip(outputs, found, strict=True):
            for row, one in zip(rows, each, strict=True):
                row[1 + 2 * self.label_names.index(one.label)] = CERTAIN
        extras = {
            "words": np.fromiter(words, dtype=object),
            "missing": np.array([answer is None for answer in answers], dtype=bool),
        }
        return Predictions(np.fromiter(outputs, dtype=object), targets, extras)

    def decode(self, predictions: Predictions) -> np.ndarray:
        """Return the entities of each text, object [N]."""
        made = [
            entities_of(words, tags, self.label_names)
            for words, tags in zip(predictions.extras["words"], self.tags(predictions), strict=True)
        ]
        return np.fromiter(made, dtype=object)

    def tags(self, predictions: Predictions) -> list[np.ndarray]:
        """Return the decoded tag of each word of each text, int64 [W]."""
        if self.viterbi:
            return viterbi(predictions.outputs)
        return [each.argmax(axis=1) for each in predictions.outputs]

    def tag_probabilities(self, predictions: Predictions) -> list[np.ndarray]:
        """Return the probability of each tag of each word of each text, float64 [W, width]."""
        return [classification.probabilities(each) for each in self.calibrated_outputs(predictions)]

    def confidence(self, predictions: Predictions) -> np.ndarray:
        """Return the product of the probabilities of a text's decoded tags, [N], as if words were independent."""
        pairs = zip(self.tag_probabilities(predictions), self.tags(predictions), strict=True)
        return np.array([chances[np.arange(len(tags)), tags].prod() for chances, tags in pairs])

    def margin(self, predictions: Predictions) -> np.ndarray:
        """Return the smallest difference of the two largest probabilities of any word of a text, [N]."""
        found = [np.sort(chances, axis=1)[:, -2:] for chances in self.tag_probabilities(predictions)]
        return np.array([(two[:, 1] - two[:, 0]).min(initial=1.0) for two in found])

    def calibrated(self, predictions: Predictions) -> Self:
        """Return the objective with the temperature of lowest loss.

        The decoding of higher entity F1, else Viterbi's.
        """
        tags = np.concatenate(self._tags(predictions, predictions.right))
        outputs = np.concatenate(predictions.outputs)

        def loss(divisor: float) -> float:
            return classification.log_loss(tags, outputs / divisor)

        made = replace(self, temperature=classification.fit_temperature(loss))
        greedy = replace(made, viterbi=False)
        return greedy if greedy.value(self.metric, predictions) > made.value(self.metric, predictions) else made

    def row_targets(self, targets: np.ndarray, features: FeatureRows) -> np.ndarray:
        """Return the tag of each word of all texts, int64 [M]."""
        assert features.words is not None
        return np.concatenate(self._tags(Predictions(targets, extras={"words": features.words}), targets))

    def of_rows(self, outputs: np.ndarray, targets: np.ndarray | None, features: FeatureRows) -> Predictions:
        assert features.words is not None
        parts = np.split(outputs.astype(np.float32), np.cumsum(features.counts)[:-1])
        return Predictions(np.fromiter(parts, dtype=object), targets, {"words": features.words})

    def fits(self, predictions: Predictions) -> bool:
        """Whether the predictions have targets, and finite logits of every tag for every word."""
        if predictions.targets is None or not predictions.finite or len(predictions) != len(predictions.targets):
            return False
        words = predictions.extras.get("words", ())
        return len(words) == len(predictions) and all(
            each.shape == (len(found), self.width) for each, found in zip(predictions.outputs, words, strict=True)
        )

    def perfect(self, targets: np.ndarray) -> Answered:
        """Return answers that equal the targets; each entity counts as one word."""
        words = [np.array([one[:2] for one in each], np.int32).reshape(-1, 2) for each in targets]
        return Answered(targets, targets, None, {"words": np.fromiter(words, dtype=object)})

    def _answers(self, predictions: Predictions) -> Iterator[dict[str, Any]]:
        parts = zip(
            predictions.extras["words"], self.tags(predictions), self.tag_probabilities(predictions), strict=True
        )
        for words, tags, chances in parts:
            scores = chances[np.arange(len(tags)), tags]
            found = []
            for one in entities_of(words, tags, self.label_names):
                within = (words[:, 0] < one.end) & (words[:, 1] > one.start)
                found.append({**one._asdict(), "score": float(scores[within].mean())})
            yield {"entities": found}


CERTAIN = 50.0
"""The logit of a tag that is certain, and minus the logit of the other tags."""


def viterbi(outputs: Sequence[np.ndarray] | np.ndarray) -> list[np.ndarray]:
    """Return the most probable valid sequence of BIO tags of each text, int64 [W], given tags' logits [W, width].

    A sequence is valid if each I- follows B- or I- of the same label (Viterbi 1967). Words are independent but for
    this condition, so logits need not be normalised.
    """
    order = np.argsort([len(each) for each in outputs], kind="stable")
    found: list[np.ndarray] = [np.zeros(0, np.int64)] * len(outputs)
    for start in range(0, len(order), _TOGETHER):
        chosen = order[start : start + _TOGETHER]
        for index, tags in zip(chosen.tolist(), _decoded([outputs[index] for index in chosen]), strict=True):
            found[index] = tags
    return found


def _decoded(outputs: Sequence[np.ndarray]) -> list[np.ndarray]:
    lengths = np.array([len(each) for each in outputs])
    most, width = int(lengths.max(initial=0)), outputs[0].shape[1]
    logits = np.zeros((len(outputs), most, width))
    for row, each in enumerate(outputs):
        logits[row, : len(each)] = each
    before = np.zeros((len(outputs), most, width), np.int64)  # the best tag of the word before, for each tag
    score = np.zeros((len(outputs), width))
    every = np.arange(len(outputs))
    begins, insides = np.arange(1, width, 2), np.arange(2, width, 2)
    for word in range(most):
        best = score.argmax(axis=1)
        from_begin = score[:, begins] >= score[:, insides]
        before[:, word] = best[:, None]
        before[:, word, insides] = np.where(from_begin, begins, insides)
        reached = np.repeat(score[every, best][:, None], width, axis=1)
        reached[:, insides] = np.maximum(score[:, begins], score[:, insides]) if word else -np.inf
        running = (lengths > word)[:, None]
        score = np.where(running, reached + logits[:, word], score)
    tags = np.zeros((len(outputs), most), np.int64)
    last = score.argmax(axis=1)
    for word in range(most - 1, -1, -1):
        running = lengths > word
        tags[running, word] = last[running]
        last = np.where(running, before[every, word, last], last)
    return [row[:length] for row, length in zip(tags, lengths.tolist(), strict=True)]
