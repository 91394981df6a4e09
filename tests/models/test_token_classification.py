"""The objective of entities: valid sequences of tags, scores, calibration, and predictions in files."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from afina.data.entities import OUTSIDE, as_entities
from afina.errors import InvalidStudy
from afina.models import token_classification
from afina.models.objectives import make
from afina.models.predictions import Predictions
from afina.models.token_classification import Entities, viterbi
from raises import raises

LABELS = ("LOC", "PER")


def is_valid(tags: tuple[int, ...]) -> bool:
    return all(
        tag % 2 or not tag or before in (tag, tag - 1) for before, tag in zip((OUTSIDE, *tags), tags, strict=False)
    )


def drawn(texts: int, seed: int = 0) -> Predictions:
    random = np.random.default_rng(seed)
    outputs = [random.normal(0, 2, (size, 5)).astype(np.float32) for size in random.integers(0, 5, texts)]
    words = [np.stack([np.arange(len(one)) * 2, np.arange(len(one)) * 2 + 1], 1).astype(np.int32) for one in outputs]
    return Predictions(np.fromiter(outputs, dtype=object), None, {"words": np.fromiter(words, dtype=object)})


def test_viterbi_finds_the_best_of_all_valid_sequences() -> None:
    outputs = drawn(40).outputs
    for logits, found in zip(outputs, viterbi(outputs), strict=True):
        valid = [tags for tags in product(range(5), repeat=len(logits)) if is_valid(tags)]
        best = max(valid, key=lambda tags: sum(logits[word, tag] for word, tag in enumerate(tags)))
        assert tuple(found.tolist()) == best


def test_predictions_of_entities_come_back_from_a_file(tmp_path: Path) -> None:
    objective = Entities(LABELS)
    for made in (drawn(20), drawn(2, 3)):
        given = made.against(objective.decode(made))
        back = Predictions.read(tmp_path / "p", given.write(tmp_path / "p"))
        assert back.targets is not None
        assert [*back.targets] == [*given.right]
        assert objective.fits(back)
        assert all(map(np.array_equal, back.outputs, given.outputs))
        assert [*objective.answers(back)] == [*objective.answers(given)]


def test_greedy_and_viterbi_differ_and_the_held_out_texts_choose_the_better() -> None:
    made = drawn(60)
    for viterbi_is_right in (True, False):
        given = made.against(Entities(LABELS, viterbi=viterbi_is_right).decode(made))
        calibrated = Entities(LABELS).calibrated(given)
        assert calibrated.viterbi == viterbi_is_right
        assert calibrated.mean_loss(given) <= Entities(LABELS).mean_loss(given)


def test_the_tags_of_the_words_are_made_once_for_all_trial_temperatures(monkeypatch: pytest.MonkeyPatch) -> None:
    made = drawn(60)
    given, calls = made.against(Entities(LABELS).decode(made)), []
    tagged = token_classification.tags_of
    monkeypatch.setattr(token_classification, "tags_of", lambda *of: (calls.append(0), tagged(*of))[1])
    found = Entities(LABELS).calibrated(given)
    assert len(calls) <= 2 * len(given)
    outputs = np.fromiter((each / found.temperature for each in given.outputs), dtype=object)
    assert found.mean_loss(replace(given, outputs=outputs)) < Entities(LABELS).mean_loss(given)
    assert all(map(np.array_equal, found.calibrated_outputs(given), outputs))


def test_an_answer_has_the_mean_probability_of_its_tags() -> None:
    logits = np.log(np.array([[0.1, 0.6, 0.1, 0.1, 0.1], [0.1, 0.05, 0.8, 0.03, 0.02], [0.9, 0.1, 1e-9, 1e-9, 1e-9]]))
    words = np.array([[0, 3], [4, 7], [8, 9]], np.int32)
    made = Predictions(
        np.fromiter([logits.astype(np.float32)], dtype=object), None, {"words": np.fromiter([words], dtype=object)}
    )
    (answer,) = Entities(LABELS).answers(made)
    (one,) = answer["entities"]
    assert one == {"start": 0, "end": 7, "label": "LOC", "score": pytest.approx(0.7)}
    assert Entities(LABELS).confidence(made) == pytest.approx([0.6 * 0.8 * 0.9])


def test_entities_of_answers_in_words_are_those_given() -> None:
    made = Entities(LABELS).of_answers([[(0, 3, "PER")], None], as_entities([[(0, 3, "PER")], []]))
    assert [*Entities(LABELS).decode(made)] == [*made.right]
    assert made.missing.tolist() == [False, True]


def test_settings_come_back() -> None:
    made = Entities(LABELS, viterbi=False, temperature=2.0)
    assert make(LABELS, made.settings) == made
    assert made.output_names == ("O", "B-LOC", "I-LOC", "B-PER", "I-PER")


def test_a_template_and_pairs_are_refused() -> None:
    given: dict[str, Any] = {"columns": {}, "tokenizer": None}
    assert Entities.prompt(None, pairs=False, **given) is None
    with raises(InvalidStudy, code="option.inapplicable", option="template"):
        Entities.prompt("X {text}", pairs=False, **given)
    with raises(InvalidStudy, code="task.pairs-unsupported"):
        Entities.prompt(None, pairs=True, **given)
