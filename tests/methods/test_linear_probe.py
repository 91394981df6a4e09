"""A linear probe: features of each text once, a head by scikit-learn, and the same answers everywhere."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch.nn.functional import normalize
from transformers import AutoModelForSequenceClassification

from afina import Backbone, Predictor, Run
from afina.data.batch import Loader, Packed
from afina.data.task import Task
from afina.data.tokenize import encode
from afina.engine.engine import Engine
from afina.errors import InvalidStudy, Refused
from afina.methods import make
from afina.methods.attachment import attach
from afina.methods.pooled_features import sentence_pooling
from afina.models import objectives
from afina.models.adapter import Adapter
from afina.models.classifier import Classifier
from afina.models.language_model import open_model
from afina.models.objectives import Classes
from afina.predicting import golden_test
from afina.stats.linear_models import LinearClasses, fit_dense
from afina.store.exchange.merging import MERGE_TOLERANCE, merge
from afina.training.probe_fit import fit_of
from fakes import LONG, Backbones, difference, encoded, logits_of, opened, recipe, sentences, write_csv
from grid import some_slow, thinned
from raises import raises

TEXTS = [text for text, _ in sentences(20, seed=5)] + [LONG]
KINDS = {
    "classes": lambda label, place: label,
    "number": lambda label, place: 3.0 * label + place % 7 / 10,
    "labels": lambda label, place: json.dumps([["odd", "even"][place % 2]] + ["good"] * label),
}


def run(
    backbones: Backbones, task: Path, family: str = "gpt2", training: dict[str, Any] | None = None, **probe: Any
) -> Run:
    return Run(
        backbone=str(backbones.path(family)),
        task=str(task),
        method="linear_probe",
        hyperparameters=probe,
        training={"dtype": "float32"} | (training or {}),
    )


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_csv(tmp_path_factory.mktemp("probe") / "task.csv", sentences(90))


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("probes")


def hidden(backbone: Backbone, texts: list[str]) -> list[torch.Tensor]:
    """Each text's last hidden states, by transformers, alone."""
    model, _ = backbone.open(("bad", "good"), 0)
    model.config._attn_implementation = "sdpa"
    rows = encode(backbone.tokenizer, texts, max_length=backbone.longest)
    with torch.inference_mode():
        return [
            model.base_model(torch.from_numpy(rows[place].astype(np.int64))[None]).last_hidden_state[0]
            for place in range(len(rows))
        ]


ENCODERS = ("bert", "roberta", "modernbert")


POOLED: list[tuple[dict[str, Any], Any]] = [
    ({"pooling": "last"}, lambda states: states[-1]),
    ({"pooling": "mean"}, lambda states: states.mean(0)),
    ({"pooling": "mean", "normalize": True}, lambda states: normalize(states.mean(0), dim=0)),
    ({"pooling": "last", "normalize": True}, lambda states: normalize(states[-1], dim=0)),
]


@pytest.mark.parametrize(("family", "pooled"), thinned(("gpt2", "llama", *ENCODERS), POOLED, share=2))
def test_a_head_reads_what_transformers_gives_pooled_as_the_settings_say(
    backbones: Backbones, family: str, pooled: tuple[dict[str, Any], Any]
) -> None:
    assert_reads(Backbone.load(str(backbones.path(family))), *pooled)


@pytest.mark.parametrize("family", ENCODERS)
def test_a_head_reads_the_first_token_of_an_encoder(backbones: Backbones, family: str) -> None:
    assert_reads(Backbone.load(str(backbones.path(family))), {"pooling": "first"}, lambda states: states[0])


def assert_reads(backbone: Backbone, settings: dict[str, Any], pooled: Any) -> None:
    method = make("linear_probe", settings).for_backbone(backbone)
    classifier = opened(backbone, method)
    features = torch.stack([pooled(each) for each in hidden(backbone, TEXTS)])
    expected = classifier.output_layer(features)
    assert difference(logits_of(classifier, backbone, TEXTS), expected.detach()) < 1e-5


def test_each_text_is_read_once_and_the_fit_is_the_same_twice(
    backbones: Backbones, task: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    head_input = Classifier.head_input

    def watched(self: Classifier, packed: Packed, *given: Any) -> torch.Tensor:
        read.append(len(packed))
        return head_input(self, packed, *given)

    monkeypatch.setattr(Classifier, "head_input", watched)
    first = run(backbones, task).execute(tmp_path / "1")
    assert sum(read) == first.train_examples
    again = (
        run(backbones, task, training={"epochs": 7, "batch_size": 3})
        .model_copy(update={"seed": 1})
        .execute(tmp_path / "2")
    )
    assert (first.digest, first.predictions_digest) == (again.digest, again.predictions_digest)
    assert (first.steps, first.body, first.head, first.trainable) == (1, 0, 64, 64)
    assert first.training["learning_rate"] is None
    assert first.fitted is not None
    assert (first.fitted.parameter, first.fitted.pooling, first.fitted.normalize) == ("C", "last", False)
    assert first.fitted.converged
    assert first.fitted.seconds <= first.seconds.train


def test_the_head_is_scikit_learns_regression_at_the_chosen_strength(
    backbones: Backbones, task: Path, out: Path
) -> None:
    made = run(backbones, task).execute(out)
    assert made.fitted is not None
    backbone = Backbone.load(made.backbone)
    train = Task.load(str(task)).train
    features = torch.stack([states[-1] for states in hidden(backbone, list(train.texts))]).numpy().astype(np.float64)
    scale = features.std(0)
    fitted = LogisticRegression(C=made.fitted.strength, fit_intercept=False, max_iter=1000)
    fitted.fit(features / scale, train.labels)
    head = Adapter.load(out / made.adapter).tensors["score.weight"].numpy()
    assert difference(head[1] - head[0], fitted.coef_[0] / scale) < 1e-3


@pytest.mark.parametrize(
    ("family", "kind"), some_slow([("llama", "labels"), ("gpt2", "number"), ("bert", "classes")], {("bert", "classes")})
)
@pytest.mark.slow
def test_every_kind_is_answered_alike_by_predictor_engine_and_in_a_mixed_batch(
    backbones: Backbones, family: str, kind: str, tmp_path: Path
) -> None:
    rows = [(text, KINDS[kind](label, place)) for place, (text, label) in enumerate(sentences(90))]
    task = write_csv(tmp_path / "task.csv", rows)
    records = [
        run(backbones, task, family=family, **settings).execute(tmp_path)
        for settings in ({"pooling": "mean"}, {"pooling": "last", "normalize": True})
    ]
    assert {record.kind for record in records} == {kind}
    head = Run(backbone=records[0].backbone, task=str(task), method="lora", training={"max_steps": 2})
    adapters = [str(tmp_path / record.adapter) for record in (*records, head.execute(tmp_path))]
    predictors = [Predictor.load(adapter) for adapter in adapters]
    expected = [predictor.outputs(TEXTS) for predictor in predictors]
    with Engine(records[0].backbone) as engine:
        asked = [(adapter, text) for text in TEXTS for adapter in adapters]
        found = np.stack([answer.outputs for answer in engine.predict(asked)]).reshape(len(TEXTS), 3, -1)
        assert all(resident.shares_model for resident in engine.residents)
    for place, right in enumerate(expected):
        assert difference(found[:, place], right) < 1e-5
    for predictor in predictors:
        golden_test.check(predictor)


def test_a_label_without_training_texts_is_never_answered_and_prevents_export(
    backbones: Backbones, out: Path, tmp_path: Path
) -> None:
    rows = [*sentences(90), ("A last word.", 2), ("Another last word.", 2)]
    task = write_csv(tmp_path / "task.csv", rows)
    rare = run(backbones, task)
    rare = rare.model_copy(update={"data": replace(rare.data, train_examples=40)})
    assert Task.load(str(task), train_examples=40).train.labels.max() == 1
    unseen = Predictor.load(out / rare.execute(out).adapter)
    probabilities = np.array([list(one["probabilities"].values()) for one in unseen(TEXTS)])
    assert probabilities[:, 2].max() < 1e-10
    assert np.abs(probabilities[:, :2].sum(1) - 1).max() < 1e-6
    with raises(Refused, code="merge.impossible", field="offset"):
        merge(unseen, tmp_path / "unseen")


def test_the_first_token_of_a_causal_model_is_no_feature() -> None:
    with raises(InvalidStudy, code="method.setting-invalid", pooling="first"):
        make("linear_probe", {"pooling": "first"}).for_family("gpt2")


@pytest.mark.slow
def test_a_merged_probe_opens_with_transformers_and_another_pooling_is_refused(
    backbones: Backbones, task: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    predictor = Predictor.load(out / run(backbones, task).execute(out).adapter)
    merge(predictor, tmp_path / "merged")
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged").eval()
    rows = encode(Backbone.load(str(tmp_path / "merged")).tokenizer, TEXTS, max_length=256)
    with torch.inference_mode():
        found = [model(torch.from_numpy(rows[i].astype(np.int64))[None]).logits[0].numpy() for i in range(len(rows))]
    # Features that hardly vary have large weights and a large bias against them: rounding is 1.2e-5 of a logit here.
    assert difference(np.stack(found), predictor.outputs(TEXTS)) < MERGE_TOLERANCE
    for settings in ({"pooling": "mean"}, {"pooling": "last", "normalize": True}):
        other = Predictor.load(out / run(backbones, task, **settings).execute(out).adapter)
        with raises(Refused, code="merge.impossible"):
            merge(other, tmp_path / "other")


def files(directory: Path, *kinds: str, pooling: dict[str, Any] | None = None) -> Path:
    """Write sentence-transformers' files with modules of these kinds."""
    directory.mkdir(exist_ok=True)
    modules = [
        {"idx": n, "name": str(n), "path": f"{n}_{kind}" if n else "", "type": f"st.models.{kind}"}
        for n, kind in enumerate(kinds)
    ]
    (directory / "modules.json").write_text(json.dumps(modules))
    for module in modules:
        if module["type"].endswith("Pooling"):
            (directory / str(module["path"])).mkdir(exist_ok=True)
            (directory / str(module["path"]) / "config.json").write_text(json.dumps(pooling))
    return directory


def test_sentence_transformers_files_say_how_a_probe_pools(tmp_path: Path) -> None:
    assert sentence_pooling(tmp_path) is None
    mean = {"word_embedding_dimension": 8, "pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}
    assert sentence_pooling(files(tmp_path / "a", "Transformer", "Pooling", pooling=mean)) == ("mean", False)
    named = {"embedding_dimension": 8, "pooling_mode": "cls"}
    assert sentence_pooling(files(tmp_path / "b", "Transformer", "Pooling", "Normalize", pooling=named)) == (
        "first",
        True,
    )
    wrong = [
        files(tmp_path / "c", "Transformer", "Pooling", "Dense", pooling=mean),
        files(tmp_path / "d", "Transformer", "Pooling", pooling={"pooling_mode_max_tokens": True}),
        files(tmp_path / "e", "Transformer", "Pooling", pooling=mean | {"pooling_mode_lasttoken": True}),
        files(tmp_path / "f", "Transformer"),
        files(tmp_path / "g", "Transformer", "Pooling", pooling=None),
    ]
    for directory in wrong:
        with raises(InvalidStudy, code="method.setting-invalid"):
            sentence_pooling(directory)


def test_a_run_and_its_adapter_keep_the_pooling_that_the_files_said(
    tmp_path: Path, backbones: Backbones, task: Path
) -> None:
    place = tmp_path / "model"
    shutil.copytree(backbones.path("gpt2"), place)
    files(place, "Transformer", "Pooling", "Normalize", pooling={"pooling_mode_mean_tokens": True})
    made = run(backbones, task).model_copy(update={"backbone": str(place)}).execute(tmp_path / "out")
    assert made.hyperparameters == {"pooling": "mean", "normalize": True}
    assert made.fitted is not None
    assert (made.fitted.pooling, made.fitted.normalize) == ("mean", True)
    adapter = tmp_path / "out" / made.adapter
    expected = Predictor.load(adapter).outputs(TEXTS)
    (place / "modules.json").unlink()
    assert np.array_equal(Predictor.load(adapter).outputs(TEXTS), expected)


@pytest.fixture(scope="module")
def encoder_of_sentences(tmp_path_factory: pytest.TempPathFactory, backbones: Backbones) -> Path:
    place = tmp_path_factory.mktemp("sentences") / "model"
    shutil.copytree(backbones.path("bert"), place)
    return files(place, "Transformer", "Pooling", "Normalize", pooling={"pooling_mode_cls_token": True})


def test_a_run_on_an_encoder_of_sentences_states_its_defaults(
    encoder_of_sentences: Path, backbones: Backbones, task: Path
) -> None:
    def key(backbone: Path, **probe: Any) -> tuple[dict[str, Any], str]:
        made = Run(backbone=str(backbone), task=str(task), method="linear_probe", hyperparameters=probe)
        return made.hyperparameters, made.key

    stated, now = key(encoder_of_sentences)
    assert stated == {"label_examples": 8, "common_scale": True}
    assert key(encoder_of_sentences, **stated) == (stated, now)
    assert key(encoder_of_sentences, label_examples=0, common_scale=False)[1] != now
    assert key(encoder_of_sentences, pooling="mean")[0] == {"pooling": "mean", "label_examples": 8}
    assert [key(backbones.path(family))[0] for family in ("bert", "gpt2")] == [{}, {}]


@pytest.mark.parametrize(
    ("words", "label_texts"),
    [
        (None, {"bad": ("bad",), "good": ("good",)}),
        ({"bad": (" poor",), "good": (" fine", " great")}, {"bad": ("poor",), "good": ("fine", "great")}),
    ],
)
def test_label_names_are_further_examples(
    encoder_of_sentences: Path, tmp_path: Path, words: Any, label_texts: dict[str, tuple[str, ...]]
) -> None:
    task = write_csv(tmp_path / "named.csv", [(text, ("bad", "good")[label]) for text, label in sentences(60)])
    shared: dict[str, Any] = {"backbone": str(encoder_of_sentences), "task": str(task), "method": "linear_probe"}
    made = Run(**shared, ask={"words": words}, training={"dtype": "float32"}).execute(tmp_path)
    assert made.fitted is not None
    assert made.fitted.label_texts == label_texts
    assert made.ask.words is None
    backbone, read = Backbone.load(str(encoder_of_sentences)), Task.load(task)
    texts = [*read.train.texts, *(text for given in label_texts.values() for text in given)]
    features = torch.stack([normalize(one[0], dim=0) for one in hidden(backbone, texts)]).double().numpy()
    owners = [place for place, given in enumerate(label_texts.values()) for _ in given]
    weights = np.array([1.0] * len(read.train) + [8 / len(given) for given in label_texts.values() for _ in given])
    expected = fit_dense(
        LinearClasses(),
        features,
        np.array([*read.train.labels, *owners]),
        2,
        intercept=True,
        weights=weights,
        common_scale=True,
        label_texts=len(owners),
    )
    assert made.fitted.strength == expected.strength
    head = Predictor.load(tmp_path / made.adapter).classifier.output_layer
    assert np.abs(head.weight.detach().numpy() - expected.weights).max() < 1e-2 * np.abs(expected.weights).max()


def test_labels_that_are_no_words_are_no_examples(encoder_of_sentences: Path, tmp_path: Path) -> None:
    numbers = write_csv(tmp_path / "numbers.csv", [(text, f"L{label}") for text, label in sentences(40)])
    made = Run(backbone=str(encoder_of_sentences), task=str(numbers), method="linear_probe").execute(tmp_path)
    assert made.fitted is not None
    assert made.fitted.label_texts is None


def test_a_causal_model_takes_no_label_examples(backbones: Backbones, task: Path, tmp_path: Path) -> None:
    with raises(InvalidStudy, code="method.setting-invalid", label_examples=2):
        run(backbones, task, label_examples=2).execute(tmp_path)


@pytest.mark.parametrize(
    ("changes", "option"),
    [
        ({"training": {"label_smoothing": 0.1}}, "label_smoothing"),
        ({"training": {"average": 0.5}}, "average"),
        ({"training": {"pull": 0.1}}, "pull"),
        ({"training": {"learning_rate": 0.1}}, "learning_rate"),
        ({"training": {"warmup": 0.1}}, "warmup"),
        ({"ask": {"head": "words"}}, "head"),
        ({"ask": {"words": {"a": ("x",), "b": ("y",)}}}, "words"),
        ({"ask": {"offset": True}}, "offset"),
    ],
)
def test_a_setting_without_effect_on_a_fitted_head_is_refused(changes: dict[str, Any], option: str) -> None:
    with raises(InvalidStudy, code="option.inapplicable", option=option):
        Run(backbone="gpt2", task="sst2", method="linear_probe", **changes)


def test_texts_of_one_label_are_refused(gpt2: Backbone) -> None:
    method = make("linear_probe").for_family("gpt2")
    tokens, _ = encoded(gpt2, sentences(9))
    loader = Loader(tokens, np.ones(9, np.int64), 4, 0)
    with raises(InvalidStudy, code="method.one-label"):
        fit_of(method)(opened(gpt2, method), method, Classes(("bad", "good")), loader, recipe()).advance()


def test_a_fit_that_is_stopped_starts_again(gpt2: Backbone) -> None:
    method = make("linear_probe").for_family("gpt2")
    loader = Loader(*encoded(gpt2, sentences(200)), 4, 0)
    fits = [fit_of(method)(opened(gpt2, method), method, Classes(("bad", "good")), loader, recipe()) for _ in range(2)]
    with pytest.raises(KeyboardInterrupt):
        fits[0].advance(stopped=lambda: True)
    assert fits[0].account.step == 0
    for fit in fits:
        fit.advance()
        fit.advance()  # nothing is left to do
        assert fit.account.step == 1
    weights = [fit.classifier.output_layer.weight for fit in fits]
    assert torch.equal(*weights)


def test_what_cannot_be_combined_or_has_no_labels_is_refused(gpt2: Backbone) -> None:
    with raises(InvalidStudy, code="method.sum-contradiction"):
        make("lora+linear_probe")
    opening = objectives.make(("answer",), {"kind": "text"}).opening
    language_model = open_model(gpt2, ("answer",), 0, opening)
    with raises(InvalidStudy, code="method.head-missing"):
        attach(language_model, make("linear_probe").for_family("gpt2"))
