"""A head that trains alone on words has one row of features for each word, and the fit of a probe is scikit-learn's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from afina import Backbone
from afina.data.batch import IGNORED, Loader, pack_some
from afina.data.tokenize import Encoded
from afina.data.word_tokens import WordTokens
from afina.errors import InvalidStudy
from afina.events import Progress
from afina.methods import make
from afina.predicting.predictor import word_predictions
from afina.predicting.text_features import FeatureModel
from afina.stats.linear_models import LinearTags, fit_bytes
from afina.training.dry_run import dry_run
from afina.training.fit import Fit
from afina.training.inputs import FeatureInputs
from afina.training.probe_fit import ProbeFit
from fakes import Backbones, sentences
from raises import raises
from tagging import OBJECTIVE, fit_of, loader, opened


def session(backbone: Backbone, name: str, batches: Loader, **changes: float) -> Fit:
    method = make(name).for_opening(OBJECTIVE.opening).for_backbone(backbone)
    return fit_of(opened(backbone, method), method, batches, **changes)


@pytest.mark.parametrize("longest", [0, 12], ids=["whole", "windows"])
def test_a_head_of_words_learns_from_the_features_of_each_word(gpt2: Backbone, longest: int) -> None:
    """At a rate that moves nothing, losses are those of predicted logits."""
    batches = loader(gpt2, 24, longest=longest)
    steps = batches.steps_per_epoch
    fit = session(gpt2, "head", batches, steps=steps, learning_rate=0.0)
    assert isinstance(fit.inputs, FeatureInputs)
    words = int(batches.encoded.output_counts.sum())
    fit.advance()
    (held,) = fit.inputs.held
    assert held.shape == (words, 32)
    for step, packed in enumerate(batches.batches(0, steps)):
        with torch.inference_mode():
            expected = OBJECTIVE.loss(fit.classifier(packed), packed.learnt_targets)
        assert fit.account.losses[step] == pytest.approx(float(expected), rel=1e-4)
    assert fit.measure().activation_bytes


def test_a_probe_of_words_predicts_as_the_logistic_regression_on_their_features(gpt2: Backbone) -> None:
    batches = loader(gpt2, 40)
    fit = session(gpt2, "linear_probe", batches)
    assert isinstance(fit, ProbeFit)
    fit.advance()
    features, targets = fit.inputs.computed_features, batches.learnt_targets
    assert len(features) == len(targets) == int(batches.encoded.output_counts.sum())
    assert fit.beside_bytes == fit_bytes(LinearTags(), *features.shape) == 5 * features.nbytes
    scaled = (features - features.mean(0)) / features.std(0)
    assert fit.fitted is not None
    expected = LogisticRegression(C=fit.fitted.strength, max_iter=1000).fit(scaled, targets)
    chances = torch.from_numpy(np.concatenate(word_predictions(fit.classifier, batches.encoded).outputs)).softmax(1)
    found = chances.numpy()[:, expected.classes_]
    assert np.abs(found - expected.predict_proba(scaled)).max() < 2e-3
    assert (expected.classes_[found.argmax(1)] == targets).mean() > (targets == 0).mean() + 0.1


def test_a_probe_of_words_has_no_pooling(backbones: Backbones) -> None:
    for settings in ({"pooling": "mean"}, {"normalize": True}):
        with raises(InvalidStudy, code="method.setting-invalid", method="linear_probe"):
            make("linear_probe", settings).for_opening(OBJECTIVE.opening)
    made = make("linear_probe").for_opening(OBJECTIVE.opening)
    assert (made.hyperparameters["pooling"], made.hyperparameters["normalize"]) == ("family", False)
    assert made.for_backbone(Backbone.load(str(backbones.path("bert")))) == made


def test_texts_whose_words_all_have_one_tag_cannot_be_fitted(gpt2: Backbone) -> None:
    batches = loader(gpt2, 8)
    tags = batches.labels
    tags.tokens[tags.tokens >= 0] = 0  # type: ignore[union-attr]
    with raises(InvalidStudy, code="method.one-label", method="linear_probe"):
        session(gpt2, "linear_probe", batches).advance()


def test_progress_and_errors_count_texts_and_not_windows(gpt2: Backbone) -> None:
    batches = loader(gpt2, 8, longest=12)
    assert len(batches.encoded) > 8
    fit = session(gpt2, "linear_probe", batches)
    told: list[Progress] = []
    fit.advance(listen=told.append)
    assert isinstance(batches.encoded, WordTokens)
    word_predictions(fit.classifier, batches.encoded, listen=told.append)
    FeatureModel(gpt2, OBJECTIVE).of_words([text for text, _ in sentences(8)], listen=told.append)
    for phase in ("train", "evaluate"):
        steps = [one.step for one in told if one.phase == phase]
        assert max(steps) == steps[-1] == 8
    assert {one.steps for one in told} == {8}
    some = np.ones(len(batches.encoded), bool)
    some[batches.encoded.windows_of(3)[-1]] = False
    assert batches.encoded.whole_texts(some) == 7
    batches.labels.tokens[batches.labels.tokens >= 0] = 0  # type: ignore[union-attr]
    with raises(InvalidStudy, code="method.one-label", texts=8):
        session(gpt2, "linear_probe", batches).advance()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "name"),
    [("gpt2", "head"), ("gpt2", "linear_probe"), ("bert", "lora")],
)
def test_the_memory_of_a_training_on_words_is_foreseen(backbones: Backbones, family: str, name: str) -> None:
    backbone = Backbone.load(str(backbones.path(family)))
    method = make(name).for_opening(OBJECTIVE.opening).for_backbone(backbone)
    batches = loader(backbone, 24, taken=method.takes_positions)
    fit = fit_of(opened(backbone, method), method, batches, steps=4)
    packed = pack_some(batches.encoded, np.arange(8))
    assert packed.per_token
    foreseen = dry_run(backbone.address, method, OBJECTIVE, batches, fit.recipe, packed, torch.float32)
    fit.advance()
    measured = fit.measure()
    assert foreseen.state_bytes == measured.state_bytes
    assert foreseen.activation_bytes == measured.activation_bytes
    assert foreseen.counts.head == (32 + 1) * OBJECTIVE.width


@pytest.mark.slow
def test_a_batch_in_which_no_word_is_read_changes_no_weight(gpt2: Backbone) -> None:
    batches = loader(gpt2, 2, batch_size=2)
    assert isinstance(batches.labels, Encoded)
    batches.labels.tokens[:] = IGNORED
    fit = session(gpt2, "lora", batches, steps=1, weight_decay=0.0)
    before = {name: weight.detach().clone() for name, weight in fit.parameters.items()}
    fit.advance()
    assert fit.account.losses == [0.0]
    assert all(torch.equal(weight, before[name]) for name, weight in fit.parameters.items())
