"""Entities as JSON, tensors and words with tags, and the difference of two versions, without a model or a server."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import numpy as np
import pytest

from afina.data.entities import with_texts
from afina.data.words import words_of
from afina.engine.mixed_batches import Prediction
from afina.errors import InvalidData
from afina.models.token_classification import Entities
from afina.server.answer_formats import ANSWER_FORMATS, TensorType, compared
from afina.server.json_shapes import record
from afina.server.protocols import huggingface
from afina.server.protocols.huggingface import Classification
from afina.server.requests import ServedAnswer
from raises import raises

TEXT = "Zoë 👩‍🚀 met Ana Sá in Faro."
OBJECTIVE = Entities(("LOC", "PER"), viterbi=False)
TAGS = [3, 0, 0, 3, 4, 0, 1, 0]
FORMAT = ANSWER_FORMATS["entities"]


def prediction(tags: list[int] = TAGS, sure: float = 4.0) -> Prediction:
    """An adapter's answer to TEXT, whose words have these tags with the same probability."""
    outputs = np.zeros((len(tags), OBJECTIVE.width), np.float32)
    outputs[np.arange(len(tags)), tags] = sure
    one = Prediction({}, "entities", outputs, "sha256:0", "acme/places@1", False, 9, words_of(TEXT))
    (answer,) = OBJECTIVE.answers(one.as_predictions())
    one.answer.update(with_texts(answer, TEXT))
    return one


CHANCE = float(np.exp(4) / (np.exp(4) + 4))


def test_an_answer_has_the_places_of_its_entities_in_the_text_as_sent() -> None:
    found = prediction().answer
    assert [(one["text"], one["label"]) for one in found["entities"]] == [
        ("Zoë", "PER"),
        ("Ana Sá", "PER"),
        ("Faro", "LOC"),
    ]
    assert all(one["score"] == pytest.approx(CHANCE) for one in found["entities"])
    assert all(TEXT[one["start"] : one["end"]] == one["text"] for one in found["entities"])
    jsonschema.validate(found, record(**FORMAT.fields))
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"entities": [{"start": 0, "end": 3}]}, record(**FORMAT.fields))


def test_words_have_the_tags_that_the_objective_decodes() -> None:
    words = FORMAT.words(OBJECTIVE, prediction())
    assert [TEXT[one.start : one.end] for one in words] == ["Zoë", "👩‍🚀", "met", "Ana", "Sá", "in", "Faro", "."]
    assert [one.tag for one in words] == ["B-PER", "O", "O", "B-PER", "I-PER", "O", "B-LOC", "O"]
    assert all(one.score == pytest.approx(CHANCE) for one in words)


def test_scores_of_tags_are_probabilities_or_logits() -> None:
    one = prediction()
    chances = FORMAT.tag_scores(OBJECTIVE, one)
    assert np.sum(chances, axis=1) == pytest.approx(1.0)
    assert FORMAT.tag_scores(OBJECTIVE, one, raw=True) == one.outputs.tolist()


def test_a_tensor_has_the_json_of_the_entities_of_each_text() -> None:
    several = [prediction(), prediction([0] * 8)]
    assert FORMAT.tensor_types(OBJECTIVE) == [TensorType("entities", "BYTES")]
    ((first, second),) = FORMAT.tensors(OBJECTIVE, several)
    assert json.loads(first) == several[0].answer["entities"]
    assert json.loads(second) == []


def test_an_answer_has_no_score_for_each_label_of_the_text() -> None:
    with raises(InvalidData, code="data.kind-mismatch", found="entities", expected="label"):
        FORMAT.scores(OBJECTIVE, prediction())
    for kind in ("classes", "labels", "number", "text"):
        with raises(InvalidData, code="data.kind-mismatch", expected="entities"):
            ANSWER_FORMATS[kind].words(OBJECTIVE, prediction())
        with raises(InvalidData, code="data.kind-mismatch", expected="entities"):
            ANSWER_FORMATS[kind].tag_scores(OBJECTIVE, prediction())


def test_versions_differ_if_places_or_labels_of_entities_differ() -> None:
    same = compared(prediction(), prediction(sure=2.0))
    assert (same.flipped, same.drift < 0) == (False, True)
    for other in ([3, 0, 0, 3, 0, 0, 1, 0], [1, 0, 0, 3, 4, 0, 1, 0], [0] * 8):
        assert compared(prediction(), prediction(other)).flipped, other
    assert compared(prediction(), prediction([0] * 8)).drift == pytest.approx(-CHANCE), "an entity that is not found"
    none = compared(prediction([0] * 8), prediction([0] * 8))
    assert (none.flipped, none.drift) == (False, 0.0)


def hub(parameters: dict[str, Any] | None = None, inputs: Any = TEXT) -> Any:
    body = Classification(inputs=inputs, parameters=parameters)
    answers: Any = [ServedAnswer(TEXT, prediction(), OBJECTIVE, None, 9)] * len(body.batch)  # type: ignore[arg-type]
    made = huggingface._entities(body, answers)
    jsonschema.validate(made, huggingface.CLASSIFICATION_ANSWER)
    return made


def test_the_hub_gets_entities_with_their_groups() -> None:
    found = hub()
    assert [(one["entity_group"], one["word"], one["start"], one["end"]) for one in found] == [
        ("PER", "Zoë", 0, 3),
        ("PER", "Ana Sá", 12, 18),
        ("LOC", "Faro", 22, 26),
    ]
    for strategy in ("simple", "first"):
        assert hub({"aggregation_strategy": strategy}) == found
    assert hub(inputs=[TEXT, TEXT]) == [found, found]
    assert hub(inputs=[TEXT]) == [found]


def test_the_hub_gets_words_and_words_in_no_entity_if_asked() -> None:
    words = hub({"aggregation_strategy": "none"})
    assert [(one["entity"], one["word"]) for one in words] == [
        ("B-PER", "Zoë"),
        ("B-PER", "Ana"),
        ("I-PER", "Sá"),
        ("B-LOC", "Faro"),
    ]
    every = hub({"aggregation_strategy": "none", "ignore_labels": []})
    assert [one["word"] for one in every] == ["Zoë", "👩‍🚀", "met", "Ana", "Sá", "in", "Faro", "."]
    without = hub({"aggregation_strategy": "none", "ignore_labels": ["B-PER", "O"]})
    assert [one["entity"] for one in without] == ["I-PER", "B-LOC"]


def test_labels_that_are_ignored_are_left_out() -> None:
    assert [one["word"] for one in hub({"ignore_labels": ["PER", "O"]})] == ["Faro"]
    groups = hub({"ignore_labels": []})
    assert [(one["entity_group"], one["word"]) for one in groups] == [
        ("PER", "Zoë"),
        ("O", "👩‍🚀 met"),
        ("PER", "Ana Sá"),
        ("O", "in"),
        ("LOC", "Faro"),
        ("O", "."),
    ]
    assert all(one["score"] == pytest.approx(CHANCE) for one in groups)
