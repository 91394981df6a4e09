"""How a model's answers are written as JSON or tensors, and compared: a class for each kind of task.

No other module of the server branches on the kind of task.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, NamedTuple, cast

import numpy as np

from afina.data.kinds import CLASSES, ENTITIES, LABELS, NUMBER, TEXT
from afina.engine.generations import GeneratedText
from afina.engine.mixed_batches import Prediction
from afina.models.objective import Objective
from afina.models.objectives import OBJECTIVES
from afina.models.predictions import Predictions
from afina.models.token_classification import Entities
from afina.server import problems
from afina.server.json_shapes import COUNT, YES_OR_NO, Shape, about, array, by_name, record
from afina.server.json_shapes import NUMBER as ANY_NUMBER
from afina.server.json_shapes import TEXT as ANY_TEXT
from afina.server.versions.shadow_counts import AnswerDifference

_PROBABILITIES = about(by_name(ANY_NUMBER), "the probability of each label, by its name")

ANSWERED: Shape = about(
    YES_OR_NO,
    "false: the adapter is not sure enough, and the other fields are its best guess. Only of adapters that abstain",
)
"""JSON Schema of the field `answered`, which only the answers of adapters that abstain have."""

NOT_ANSWERED = "(not answered)"
"""The label of a text that is not answered, in protocols whose answers are only lists of labels and scores."""

RANKED_SCORES = array(
    record(
        label=about(ANY_TEXT, f"name of the label; {NOT_ANSWERED} comes first if the adapter does not answer"),
        score=about(ANY_NUMBER, "its probability"),
    )
)
"""JSON Schema of an array of labels with scores, for several protocols."""


ENTITY = record(
    start=about(COUNT, "index of the first character (Unicode code point) in the text as sent"),
    end=about(COUNT, "index after the last character"),
    label=about(ANY_TEXT, "name of the label"),
    text=about(ANY_TEXT, "the characters from `start` to `end`"),
    score=about(ANY_NUMBER, "mean over the entity's words of the probability of the word's tag"),
)
"""JSON Schema of an entity."""

HubTask = Literal["text-classification", "token-classification", "text-generation"]
"""The name of a task in the Hugging Face API."""


class TaggedWord(NamedTuple):
    """A word of a text, its BIO tag such as `B-PER`, and the probability of the tag. `end`: index after the word."""

    start: int
    end: int
    tag: str
    score: float


class LabelScore(NamedTuple):
    """A label and its probability. For regression, `label` is the name of the number and `score` is its value."""

    label: str
    score: float


class TensorType(NamedTuple):
    """An output tensor in the Open Inference Protocol.

    `width`: the values for one text, None for a tensor of one axis.
    """

    name: str
    datatype: str
    width: int | None = None

    def shape(self, texts: int) -> list[int]:
        """Return the tensor's shape for a number of texts; -1 stands for any number of texts."""
        return [texts] if self.width is None else [texts, self.width]


ANSWERED_TENSOR = TensorType("answered", "BOOL")
"""The output tensor of adapters that abstain; false: the adapter is not sure enough, and the others are its guess."""


class AnswerFormat(ABC):
    """The base class of formats; a format writes the answers of one kind of task, such as single-label classification.

    Attributes:
        fields: JSON Schema of the fields of an answer that `afina predict` prints.
        optional_fields: JSON Schema of the fields that only the answers of some adapters have.
        function: the function from logits to scores, by its name in the Hugging Face API, such as "softmax".
        has_scores: whether an answer has a score for each label of the text.
        hub_task: the task of the Hugging Face API as which the answers are written.
    """

    fields: ClassVar[Mapping[str, Shape]]
    optional_fields: ClassVar[Mapping[str, Shape]] = {}
    function: ClassVar[str]
    has_scores: ClassVar[bool] = True
    hub_task: ClassVar[HubTask] = "text-classification"

    @abstractmethod
    def scores(self, objective: Objective, one: Prediction) -> Sequence[LabelScore]:
        """Return the score of each label, in the order of the adapter's labels."""

    def raw_scores(self, objective: Objective, one: Prediction) -> Sequence[LabelScore]:
        """Return the logit of each label, in the order of the adapter's labels."""
        return [LabelScore(*each) for each in zip(objective.label_names, one.outputs.tolist(), strict=True)]

    def label(self, objective: Objective, one: Prediction) -> str:
        """Return the label of an answer: by default the label with the highest score."""
        return max(self.scores(objective, one), key=lambda each: each.score).label

    def ranked(self, objective: Objective, one: Prediction, *, raw: bool = False) -> Sequence[LabelScore]:
        """Return the score of each label, or with `raw` the logit, the highest first.

        The list for a text that is not answered begins with the label `NOT_ANSWERED`, for protocols without a field for
        it. Its score is 1, or of logits the highest logit, so that no label has a higher score.
        """
        scores = (self.raw_scores if raw else self.scores)(objective, one)
        ordered = sorted(scores, key=lambda each: -each.score)
        if one.is_answered:
            return ordered
        name = NOT_ANSWERED
        while name in objective.label_names:
            name = f"({name})"
        return [LabelScore(name, ordered[0].score if raw else 1.0), *ordered]

    def words(self, objective: Objective, one: Prediction) -> Sequence[TaggedWord]:
        """Return the words of the text with their tags. Raises InvalidData for kinds of task without tags."""
        raise problems.NO_TAGS(found=objective.column, expected="entities")

    def tag_scores(self, objective: Objective, one: Prediction, *, raw: bool = False) -> list[list[float]]:
        """Return the probabilities, or with `raw` the logits, of all tags of each word.

        Raises InvalidData without tags.
        """
        raise problems.NO_TAGS(found=objective.column, expected="entities")

    def tensor_types(self, objective: Objective) -> Sequence[TensorType]:
        """Return each output tensor of a task in the Open Inference Protocol."""
        return [*self._tensor_types(objective), *([ANSWERED_TENSOR] if objective.abstain_below is not None else [])]

    def tensors(self, objective: Objective, several: Sequence[Prediction]) -> Sequence[list[Any]]:
        """Return the values of each output tensor for several predictions, in row-major order."""
        answered = [[one.is_answered for one in several]] if objective.abstain_below is not None else []
        return [*self._tensors(objective, several), *answered]

    @abstractmethod
    def _tensor_types(self, objective: Objective) -> Sequence[TensorType]:
        """Return the output tensors of this kind of task, without the tensor `answered`."""

    @abstractmethod
    def _tensors(self, objective: Objective, several: Sequence[Prediction]) -> Sequence[list[Any]]:
        """Return the values of the tensors that `_tensor_types` lists."""

    @abstractmethod
    def compared(self, current: Mapping[str, Any], candidate: Mapping[str, Any]) -> AnswerDifference:
        """Return how a shadow version's answer (`candidate`) differs from the production version's (`current`)."""


class _ByLabel(AnswerFormat):
    """The base class of the answer formats that have a probability for each label."""

    optional_fields: ClassVar[Mapping[str, Shape]] = {"answered": ANSWERED}

    def scores(self, objective: Objective, one: Prediction) -> Sequence[LabelScore]:
        return [LabelScore(*each) for each in one.answer["probabilities"].items()]

    def _probabilities(self, objective: Objective, several: Sequence[Prediction]) -> list[Any]:
        return [each.score for one in several for each in self.scores(objective, one)]


class _Classes(_ByLabel):
    """Single-label classification."""

    fields: ClassVar[Mapping[str, Shape]] = {
        "label": about(ANY_TEXT, "the predicted label: the label with the highest probability"),
        "probabilities": _PROBABILITIES,
    }
    function = "softmax"

    def label(self, objective: Objective, one: Prediction) -> str:
        return str(one.answer["label"])

    def _tensor_types(self, objective: Objective) -> Sequence[TensorType]:
        return TensorType("label", "BYTES"), TensorType("probabilities", "FP32", objective.width)

    def _tensors(self, objective: Objective, several: Sequence[Prediction]) -> Sequence[list[Any]]:
        return [self.label(objective, one) for one in several], self._probabilities(objective, several)

    def compared(self, current: Mapping[str, Any], candidate: Mapping[str, Any]) -> AnswerDifference:
        """Return whether the labels differ, and the difference in probability of production's label."""
        label = current["label"]
        return AnswerDifference(label != candidate["label"], _drift(label, current, candidate))


class _Labels(_ByLabel):
    """Multi-label classification."""

    fields: ClassVar[Mapping[str, Shape]] = {
        "labels": about(array(ANY_TEXT), "the predicted labels; the array may be empty"),
        "probabilities": _PROBABILITIES,
    }
    function = "sigmoid"

    def _tensor_types(self, objective: Objective) -> Sequence[TensorType]:
        return TensorType("labels", "BOOL", objective.width), TensorType("probabilities", "FP32", objective.width)

    def _tensors(self, objective: Objective, several: Sequence[Prediction]) -> Sequence[list[Any]]:
        decoded = objective.decode(Predictions(np.stack([one.outputs for one in several])))
        return decoded.astype(bool).ravel().tolist(), self._probabilities(objective, several)

    def compared(self, current: Mapping[str, Any], candidate: Mapping[str, Any]) -> AnswerDifference:
        """Return whether the label sets differ, and the difference in probability of production's top label."""
        chances = current["probabilities"]
        flipped = {*current["labels"]} != {*candidate["labels"]}
        return AnswerDifference(flipped, _drift(max(chances, key=chances.__getitem__), current, candidate))


class _Number(AnswerFormat):
    """Regression."""

    fields: ClassVar[Mapping[str, Shape]] = {
        "value": about(ANY_NUMBER, "the predicted number, in the unit of the data")
    }
    function = "none"

    def scores(self, objective: Objective, one: Prediction) -> Sequence[LabelScore]:
        return [LabelScore(objective.label_names[0], one.answer["value"])]

    def raw_scores(self, objective: Objective, one: Prediction) -> Sequence[LabelScore]:
        """Return the predicted number: a regression has no logits."""
        return self.scores(objective, one)

    def _tensor_types(self, objective: Objective) -> Sequence[TensorType]:
        return [TensorType("value", "FP64")]

    def _tensors(self, objective: Objective, several: Sequence[Prediction]) -> Sequence[list[Any]]:
        return [[one.answer["value"] for one in several]]

    def compared(self, current: Mapping[str, Any], candidate: Mapping[str, Any]) -> AnswerDifference:
        return AnswerDifference(None, candidate["value"] - current["value"])


class _Text(AnswerFormat):
    """Text-to-text."""

    fields: ClassVar[Mapping[str, Shape]] = {"answer": about(ANY_TEXT, "the text that the model wrote")}
    function = "none"
    has_scores = False
    hub_task = "text-generation"

    def scores(self, objective: Objective, one: Prediction) -> Sequence[LabelScore]:
        raise problems.NO_SCORES(found=objective.column, expected="label")

    def _tensor_types(self, objective: Objective) -> Sequence[TensorType]:
        return [TensorType("answer", "BYTES")]

    def _tensors(self, objective: Objective, several: Sequence[Prediction]) -> Sequence[list[Any]]:
        return [[one.answer["answer"] for one in several]]

    def compared(self, current: Mapping[str, Any], candidate: Mapping[str, Any]) -> AnswerDifference:
        """Return whether two generated texts differ. The size of the difference is always 0."""
        return AnswerDifference(current["answer"] != candidate["answer"], 0.0)


class _Entities(AnswerFormat):
    """Token classification."""

    fields: ClassVar[Mapping[str, Shape]] = {
        "entities": about(array(ENTITY), "the entities in the order of the text, without overlaps; may be empty")
    }
    function = "softmax"
    has_scores = False
    hub_task = "token-classification"

    def scores(self, objective: Objective, one: Prediction) -> Sequence[LabelScore]:
        raise problems.NO_SCORES(found=objective.column, expected="label")

    def words(self, objective: Objective, one: Prediction) -> Sequence[TaggedWord]:
        assert one.words is not None
        predictions, decoded = one.as_predictions(), cast(Entities, objective)
        (tags,), (chances,) = decoded.tags(predictions), decoded.tag_probabilities(predictions)
        return [
            TaggedWord(place[0], place[1], objective.output_names[tag], float(row[tag]))
            for place, tag, row in zip(one.words.tolist(), tags.tolist(), chances, strict=True)
        ]

    def tag_scores(self, objective: Objective, one: Prediction, *, raw: bool = False) -> list[list[float]]:
        found = [one.outputs] if raw else cast(Entities, objective).tag_probabilities(one.as_predictions())
        made: list[list[float]] = found[0].tolist()
        return made

    def _tensor_types(self, objective: Objective) -> Sequence[TensorType]:
        return [TensorType("entities", "BYTES")]

    def _tensors(self, objective: Objective, several: Sequence[Prediction]) -> Sequence[list[Any]]:
        """Return the JSON array of the entities of each text: the protocol has no tensor with rows of any length."""
        return [[json.dumps(one.answer["entities"], ensure_ascii=False) for one in several]]

    def compared(self, current: Mapping[str, Any], candidate: Mapping[str, Any]) -> AnswerDifference:
        """Return whether the entities differ.

        The mean difference in score of production's entities (0 if one is missing).
        """
        before, after = ({_place(one): one["score"] for one in each["entities"]} for each in (current, candidate))
        drift = sum(after.get(place, 0.0) - score for place, score in before.items())
        return AnswerDifference(before.keys() != after.keys(), drift / max(1, len(before)))


def _place(entity: Mapping[str, Any]) -> tuple[int, int, str]:
    return entity["start"], entity["end"], entity["label"]


def _drift(label: str, current: Mapping[str, Any], candidate: Mapping[str, Any]) -> float:
    """Return a label's probability in the candidate's answer (0 if it lacks the label) minus that in production's."""
    drift: float = candidate["probabilities"].get(label, 0.0) - current["probabilities"][label]
    return drift


ANSWER_FORMATS: Mapping[str, AnswerFormat] = {
    CLASSES: _Classes(),
    LABELS: _Labels(),
    NUMBER: _Number(),
    TEXT: _Text(),
    ENTITIES: _Entities(),
}


def compared(current: Prediction | GeneratedText, candidate: Prediction | GeneratedText) -> AnswerDifference:
    """Return the difference between two versions' answers to a text. Raises InvalidData for different kinds of task."""
    kind, other = (TEXT if isinstance(one, GeneratedText) else one.kind for one in (current, candidate))
    if kind != other:
        named = [OBJECTIVES[one].column for one in (kind, other)]
        raise problems.KINDS_DIFFER(found=named[1], expected=named[0])
    both = (current, candidate)
    said = [{"answer": one.text} if isinstance(one, GeneratedText) else one.answer for one in both]
    answered = [isinstance(one, GeneratedText) or one.is_answered for one in both]
    return ANSWER_FORMATS[kind].compared(*said)._replace(by_current=answered[0], by_shadow=answered[1])
