"""What is asked of a text: losses, what outputs mean, what is told of them, and what is kept of it."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight
from torch.nn import functional

from afina.errors import InvalidStudy, UnknownName
from afina.models import objectives
from afina.models.objective import ANSWERS_NOTHING, metric_for
from afina.models.objectives import Classes, Labels, Number
from afina.models.predictions import Predictions
from afina.stats import classification
from afina.stats.metrics import METRICS, of_kind
from raises import raises

NAMES = ("a", "b", "c")
RANDOM = np.random.default_rng(0)
OUTPUTS = RANDOM.normal(size=(400, 3)).astype(np.float32)
CLASSES = np.where(RANDOM.random(400) < 0.6, OUTPUTS.argmax(axis=1), RANDOM.integers(0, 3, 400))
SEVERAL = (OUTPUTS + RANDOM.normal(size=(400, 3)) > (0.0, 1.0, 2.0)).astype(np.int64)


def test_a_number_is_learnt_standardised_and_told_in_its_own_unit() -> None:
    targets = np.array([100.0, 200.0, 600.0])
    asked = Number(("price",)).of(targets)
    assert (asked.mean, asked.scale) == (300.0, pytest.approx(targets.std()))
    learnt = asked.loss_targets(targets)
    assert learnt.dtype == np.float32
    assert learnt.mean() == pytest.approx(0, abs=1e-6)
    outputs = learnt[:, None]
    assert asked.decode(Predictions(outputs)) == pytest.approx(targets, rel=1e-6)
    assert [answer["value"] for answer in asked.answers(Predictions(outputs))] == pytest.approx(
        [100, 200, 600], rel=1e-6
    )
    given = asked.loss(torch.tensor(outputs) + 0.5, torch.tensor(learnt))
    assert given.item() == pytest.approx(0.25)
    assert asked.mean_loss(Predictions(outputs + 0.5, targets)) == pytest.approx(0.25, rel=1e-4)


def test_numbers_that_do_not_vary_have_a_scale_of_one() -> None:
    assert Number(("price",)).of(np.full(3, 5.0)).scale == 1.0


def test_several_labels_are_those_that_reach_their_threshold() -> None:
    asked = Labels(NAMES, thresholds=(0.5, 0.9, 0.1))
    outputs = np.array([[0.0, 2.0, -2.0], [-0.1, 3.0, -3.0]], dtype=np.float32)
    assert asked.decode(Predictions(outputs)).tolist() == [[1, 0, 1], [0, 1, 0]]
    first, second = asked.answers(Predictions(outputs))
    assert (first["labels"], second["labels"]) == (["a", "c"], ["b"])
    assert first["probabilities"]["a"] == 0.5
    assert Labels(NAMES).decode(Predictions(outputs)).tolist() == [[1, 1, 0], [0, 1, 0]]


def test_the_loss_of_several_labels_is_that_of_arrays() -> None:
    asked = Labels(NAMES)
    given = asked.loss(torch.tensor(OUTPUTS), torch.tensor(asked.loss_targets(SEVERAL)))
    assert given.item() == pytest.approx(asked.mean_loss(Predictions(OUTPUTS, SEVERAL)), rel=1e-5)
    smoothed = asked.loss(torch.tensor(OUTPUTS), torch.tensor(asked.loss_targets(SEVERAL)), 0.2)
    towards = asked.loss(torch.tensor(OUTPUTS), torch.full(OUTPUTS.shape, 0.5))
    assert smoothed.item() == pytest.approx(0.8 * given.item() + 0.2 * towards.item(), rel=1e-5)


def test_weights_of_texts_multiply_the_losses_of_torch() -> None:
    outputs, weights = torch.tensor(OUTPUTS[:16]), torch.linspace(0.2, 1.8, 16)
    classes, several = torch.tensor(CLASSES[:16]), torch.tensor(SEVERAL[:16].astype(np.float32))
    numbers = torch.linspace(-1, 1, 16)
    plain = {
        Classes(NAMES): (outputs, classes, functional.cross_entropy(outputs, classes, reduction="none")),
        Labels(NAMES): (
            outputs,
            several,
            functional.binary_cross_entropy_with_logits(outputs, several, reduction="none").mean(1),
        ),
        Number(("price",)): (outputs[:, :1], numbers, (outputs[:, 0] - numbers) ** 2),
    }
    for asked, (given, targets, losses) in plain.items():
        assert asked.loss(given, targets).item() == pytest.approx(losses.mean().item(), rel=1e-6)
        weighted = asked.loss(given, targets, weights=weights)
        assert weighted.item() == pytest.approx(((losses * weights).sum() / weights.sum()).item(), rel=1e-6)
    with raises(InvalidStudy, code="option.inapplicable", option="weights"):
        objectives.make(("answer",), {"kind": "text"}).of(np.array([("a",)], dtype=object), weights=np.ones(1))


def test_balanced_weights_are_scikit_learns_and_add_up_over_parts_of_a_batch() -> None:
    targets = np.array([0] * 12 + [1] * 3 + [2])
    asked = Classes(NAMES).of(targets, "balanced")
    expected = compute_class_weight("balanced", classes=np.arange(3), y=targets)
    assert asked.weights == pytest.approx(tuple(expected))
    outputs, given = torch.tensor(OUTPUTS[:16]), torch.tensor(targets)
    whole = asked.loss(outputs, given)
    parts = [asked.loss(outputs[part], given[part]) for part in (slice(0, 4), slice(4, 16))]
    assert whole.item() == pytest.approx((4 * parts[0] + 12 * parts[1]).item() / 16, rel=1e-6)
    assert np.mean(np.array(asked.weights)[targets]) == pytest.approx(1)
    own = np.linspace(0.5, 2, 16)
    expected = compute_class_weight("balanced", classes=np.arange(3), y=targets, sample_weight=own)
    assert Classes(NAMES).of(targets, "balanced", own).weights == pytest.approx(tuple(expected))
    absent = Classes(NAMES).of(np.array([0, 0, 2]), "balanced")
    assert absent.weights is not None
    assert absent.weights[1] == 0.0


@pytest.mark.parametrize("too_sure", [0.4, 1.0, 4.0])
def test_the_temperature_gives_back_what_outputs_were_multiplied_by(too_sure: float) -> None:
    odds = OUTPUTS.astype(np.float64)
    drawn = np.array([RANDOM.choice(3, p=row) for row in classification.probabilities(odds)])
    asked = Classes(NAMES).calibrated(Predictions((odds * too_sure).astype(np.float32), drawn))
    assert asked.temperature == pytest.approx(too_sure, rel=0.3)
    before = classification.log_loss(drawn, OUTPUTS * too_sure)
    assert classification.log_loss(drawn, OUTPUTS * too_sure / asked.temperature) <= before
    assert (asked.decode(Predictions(OUTPUTS)) == Classes(NAMES).decode(Predictions(OUTPUTS))).all()


def test_calibrated_labels_have_thresholds_that_raise_f1() -> None:
    given = Predictions(OUTPUTS, SEVERAL)
    plain, asked = Labels(NAMES), Labels(NAMES).calibrated(given)
    assert asked.thresholds is not None
    macro = METRICS["macro_f1"].value
    assert macro(asked.answered(given)) > macro(plain.answered(given))
    never = Labels(NAMES).calibrated(given.against(np.zeros_like(SEVERAL)))
    assert never.thresholds == (0.5, 0.5, 0.5)


@pytest.mark.parametrize(
    "asked",
    [
        Classes(NAMES),
        Classes(NAMES, temperature=1.5),
        Number(("rating",), mean=3.0, scale=0.5),
        Labels(NAMES),
        Labels(NAMES, temperature=2.0, thresholds=(0.1, 0.2, 0.3)),
        Classes(NAMES, abstain_below=0.9),
        Labels(NAMES, abstain_below=0.25),
    ],
)
def test_what_is_told_of_an_objective_makes_it_again(asked: Classes | Number | Labels) -> None:
    assert objectives.make(asked.label_names, asked.settings) == asked
    assert (asked.settings is None) == (asked == Classes(NAMES))


@pytest.mark.parametrize("told", [{"kind": "ranks"}, {"kind": "classes", "mean": 1}, {}])
def test_what_no_objective_tells_makes_none(told: dict[str, object]) -> None:
    with pytest.raises((KeyError, TypeError)):
        objectives.make(NAMES, told | {"kind": told.get("kind", "nothing")})


TARGETS = {"classes": CLASSES, "number": CLASSES + 0.5, "labels": SEVERAL}


@pytest.mark.parametrize("kind", TARGETS)
def test_every_metric_of_a_kind_is_reported_and_is_the_mean_of_its_values(kind: str) -> None:
    outputs = OUTPUTS[:, :1] if kind == "number" else OUTPUTS
    asked = objectives.make(("rating",) if kind == "number" else NAMES, {"kind": kind}).of(TARGETS[kind])
    given = Predictions(outputs, TARGETS[kind])
    found = asked.metrics(given)
    assert set(found) == set(of_kind(kind)) - {"auroc"}
    for name in found:
        if METRICS[name].values is not None:
            assert asked.values(name, given).mean() == pytest.approx(found[name])
    two = Classes(NAMES[:2])
    assert "auroc" in two.metrics(Predictions(OUTPUTS[:, :2], CLASSES.clip(max=1)))


def test_the_headline_is_what_is_asked_for_or_the_tasks_or_the_kinds() -> None:
    asked = Classes(NAMES)
    assert [metric_for(asked), metric_for(asked, None, "f1"), metric_for(asked, "mcc", "f1")] == [
        "accuracy",
        "f1",
        "mcc",
    ]
    with raises(UnknownName, code="name.unknown", name="f2", kind="metric", nearest="f1"):
        metric_for(asked, "f2")
    with raises(UnknownName, code="name.unknown", name="", kind="metric"):
        metric_for(asked, "")
    with raises(InvalidStudy, code="metric.inapplicable", metric="rmse", kind="classes"):
        metric_for(asked, "rmse")
    with raises(InvalidStudy, code="metric.inapplicable", metric="auroc", kind="classes"):
        metric_for(asked, "auroc")
    with raises(InvalidStudy, code="metric.inapplicable", metric="ece"):
        metric_for(asked, "ece")


def test_settings_that_a_kind_has_not_are_refused() -> None:
    number = Number(("rating",))
    with raises(InvalidStudy, code="option.inapplicable", option="class_weights", kind="number"):
        number.of(np.arange(3.0), "balanced")
    with raises(InvalidStudy, code="option.inapplicable", option="temperature"):
        number.check(smoothing=0.0, temperature=True)
    with raises(InvalidStudy, code="option.inapplicable", option="label_smoothing"):
        number.check(smoothing=0.1, temperature=False)
    Labels(NAMES).check(smoothing=0.1, temperature=True)


def test_a_text_of_little_confidence_keeps_its_best_guess_and_is_not_answered() -> None:
    outputs = Predictions(np.log(np.array([[0.9, 0.06, 0.04], [0.5, 0.3, 0.2], [0.1, 0.1, 0.8]], dtype=np.float32)))
    asked, plain = Classes(NAMES, abstain_below=0.75), Classes(NAMES)
    assert asked.confidence(outputs) == pytest.approx([0.9, 0.5, 0.8])
    answers = list(asked.answers(outputs))
    assert [answer.pop("answered") for answer in answers] == [True, False, True]
    assert answers == list(plain.answers(outputs))  # without a threshold, nothing is said of it
    assert (asked.decode(outputs) == plain.decode(outputs)).all()
    assert plain.abstentions(outputs) is None
    assert asked.empty_answer == {"label": None, "probabilities": None, "answered": None}
    hotter = replace(asked, temperature=2.0).abstentions(outputs)
    assert hotter is not None
    assert hotter.tolist() == [True, True, True]  # the confidence is the probability after the temperature
    labels = asked.of_answers([0, None, 1]).take([0, 1, 2])
    assert [answer["answered"] for answer in asked.answers(labels)] == [False] * 3  # labels without probabilities


def test_the_confidence_in_several_labels_is_that_all_are_right() -> None:
    outputs = np.array([[3.0, -2.0, 0.5], [3.0, -2.0, -4.0]], dtype=np.float32)
    chances = 1 / (1 + np.exp(-outputs.astype(np.float64)))
    asked = Labels(NAMES, thresholds=(0.5, 0.5, 0.7), abstain_below=0.8)
    expected = [chances[0, 0] * (1 - chances[0, 1]) * (1 - chances[0, 2]), chances[1, 0] * np.prod(1 - chances[1, 1:])]
    assert asked.confidence(Predictions(outputs)) == pytest.approx(expected)
    first, second = asked.answers(Predictions(outputs))
    assert (first["labels"], first["answered"]) == (["a"], False)
    assert (second["labels"], second["answered"]) == (["a"], True)


def test_a_margin_is_the_difference_of_the_two_most_probable_answers() -> None:
    outputs = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
    classes, labels = Classes(NAMES), Labels(NAMES)
    two = np.sort(classes.probabilities(Predictions(outputs)), axis=1)
    assert classes.margin(Predictions(outputs)) == pytest.approx(two[:, -1] - two[:, -2])
    chances = labels.probabilities(Predictions(outputs))
    sets = np.array(list(itertools.product((0, 1), repeat=3)))
    of_sets = np.sort([np.where(one, chances, 1 - chances).prod(axis=1) for one in sets], axis=0)
    assert labels.margin(Predictions(outputs)) == pytest.approx(of_sets[-1] - of_sets[-2])
    assert classes.margin(Predictions(np.zeros(2, np.int64))) is None
    assert Number(("price",)).margin(Predictions(outputs[:, :1])) is None


def test_an_objective_that_answers_nothing_says_so_of_every_text() -> None:
    never = Classes(NAMES, abstain_below=ANSWERS_NOTHING)
    certain = Predictions(np.array([[900.0, 0.0, 0.0]], dtype=np.float32))
    assert next(never.answers(certain))["answered"] is False


@pytest.mark.parametrize("kind", ["number", "text"])
def test_kinds_without_probabilities_have_no_threshold(kind: str) -> None:
    with pytest.raises(ValueError, match="abstain_below"):
        objectives.make(("answer",), {"kind": kind, "abstain_below": 0.5})


@pytest.mark.parametrize("threshold", [0.0, -0.5, 2.5, float("nan")])
def test_a_threshold_that_no_confidence_can_have_is_refused(threshold: float) -> None:
    with pytest.raises(ValueError, match="abstain_below"):
        objectives.make(NAMES, {"kind": "classes", "abstain_below": threshold})
