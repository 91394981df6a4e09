"""Counts of answers: what is counted for each kind of task, and what a manifest keeps of them."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from afina.models.answer_profile import CONFIDENCE_EDGES, TOKEN_GROUPS, AnswerProfile
from afina.models.counted_kinds import COUNTED_KINDS, profile
from afina.models.manifest import Manifest
from afina.models.objectives import Classes, Labels, Number, Texts
from afina.models.predictions import Predictions

NAMES = ("a", "b", "c")
RANDOM = np.random.default_rng(0)
OUTPUTS = 3 * RANDOM.normal(size=(200, 3)).astype(np.float32)
TOKENS = [RANDOM.integers(0, 5000, RANDOM.integers(1, 20)).astype(np.int32) for _ in range(200)]


@pytest.mark.parametrize("objective", [Classes(NAMES, temperature=2.0), Labels(NAMES, thresholds=(0.5, 0.9, 0.1))])
def test_probabilities_are_counted_by_confidence_labels_and_tokens(objective: Classes | Labels) -> None:
    predictions = Predictions(OUTPUTS)
    found = profile(objective, predictions, TOKENS)
    assert found is not None
    confidence = objective.confidence(predictions)
    assert confidence is not None
    bins = np.searchsorted(CONFIDENCE_EDGES, confidence, side="left")
    assert found.scores == tuple(np.bincount(bins, minlength=len(CONFIDENCE_EDGES) + 1).tolist())
    decoded = objective.decode(predictions)
    one_hot = decoded if decoded.ndim == 2 else np.eye(3, dtype=int)[decoded]
    assert found.labels == dict(zip(NAMES, one_hot.sum(axis=0).tolist(), strict=True))
    groups = Counter(group for ids in TOKENS for group in {one % TOKEN_GROUPS for one in ids.tolist()})
    assert found.tokens == tuple(groups[group] for group in range(TOKEN_GROUPS))
    assert found.texts == 200


def test_numbers_are_counted_in_bins_of_equal_size() -> None:
    objective, predictions = Number(("price",), 10.0, 2.0), Predictions(OUTPUTS[:, :1])
    found = profile(objective, predictions, TOKENS)
    assert found is not None
    assert {*found.scores} <= {9, 10, 11}
    assert found.labels == {}
    again = profile(objective, predictions, TOKENS, edges=found.edges)
    assert again == found
    same = profile(objective, Predictions(np.zeros((5, 1), np.float32)), TOKENS[:5])
    assert same is not None
    assert (same.edges, same.scores) == ((10.2,), (5, 0)), "numbers that do not vary have one edge"
    assert COUNTED_KINDS["number"].edges(objective)[20] == pytest.approx(10.0)


def test_what_has_no_confidence_is_not_counted() -> None:
    assert profile(Texts(("told",)), Predictions(np.array(["x"], dtype=object)), TOKENS[:1]) is None
    assert profile(Classes(NAMES), Predictions(np.array([0, 1])), TOKENS[:2]) is None, "labels without probabilities"
    assert profile(Classes(NAMES), Predictions(OUTPUTS[:0]), []) is None
    bag = profile(Classes(NAMES), Predictions(OUTPUTS), [np.zeros(0, np.int32)] * 200)
    assert bag is not None
    assert bag.tokens == ()


def test_a_text_that_is_left_unanswered_is_counted_with_its_best_guess() -> None:
    plain, abstaining = (Classes(NAMES, abstain_below=below) for below in (None, 0.9))
    assert profile(plain, Predictions(OUTPUTS), TOKENS) == profile(abstaining, Predictions(OUTPUTS), TOKENS)


def test_counts_add_up_and_differ_where_texts_differ() -> None:
    objective = Classes(NAMES)
    first, second = (
        profile(objective, Predictions(OUTPUTS[part]), TOKENS[part]) for part in (slice(0, 120), slice(120, 200))
    )
    whole = profile(objective, Predictions(OUTPUTS), TOKENS)
    assert first is not None
    assert second is not None
    assert first.plus(second) == whole
    same = first.drift(second, one_label=True)
    assert [one.of for one in same.tests] == ["scores", "labels", "tokens"]
    assert (same.state, same.reference, same.texts) == ("few", 120, 80)
    other = profile(objective, Predictions(np.abs(OUTPUTS) * (0, 0, 1e-3)), [ids * 0 + 7 for ids in TOKENS])
    assert other is not None
    changed = first.drift(other, one_label=True)
    assert changed.state == "drift"
    assert [one.of for one in changed.tests if one.adjusted <= 0.01] == ["scores", "labels", "tokens"]
    assert changed.tests[1].most == "c"
    with pytest.raises(ValueError, match="same bins"):
        first.drift(AnswerProfile(edges=(0.5,), scores=(1, 2)), one_label=True)


@pytest.mark.parametrize(
    "given",
    [
        {"edges": (0.5,), "scores": (1, 2, 3)},
        {"edges": (0.5, 0.5), "scores": (1, 2, 3)},
        {"edges": (0.5, float("nan")), "scores": (1, 2, 3)},
        {"edges": (), "scores": (1,)},
        {"edges": (0.5,), "scores": (-1, 2)},
        {"edges": (0.5,), "scores": (1, 2), "labels": {"a": 4}},
        {"edges": (0.5,), "scores": (1, 2), "tokens": (1, 2)},
        {"edges": (0.5,), "scores": (1, 2**63)},
    ],
)
def test_counts_that_contradict_each_other_are_refused(given: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        AnswerProfile(**given)


def test_a_manifest_keeps_the_counts_as_a_claim_outside_the_adapters_digest() -> None:
    facts: dict[str, Any] = {"method": "lora", "hyperparameters": {}, "label_names": NAMES, "backbone": None}
    facts |= {"backbone_digest": None, "tokenizer_digest": None, "family": None, "tensor_file": "t", "max_length": 0}
    plain = Manifest(**facts, tensors_digest="sha256:1")
    counted = Manifest(
        **facts, tensors_digest="sha256:1", answers=profile(Classes(NAMES), Predictions(OUTPUTS), TOKENS)
    )
    assert plain.digest == counted.digest
    assert plain.sealed().claims_digest != counted.sealed().claims_digest
    with pytest.raises(ValidationError, match="other labels"):
        Manifest(**facts, tensors_digest="sha256:1", answers=AnswerProfile(edges=(0.5,), scores=(1, 2)))
