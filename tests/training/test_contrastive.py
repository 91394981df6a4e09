"""SetFit: the loss is that of padded embeddings, the head is fitted afterwards, and the adapter is like any other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import cosine_similarity, mse_loss, normalize
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModel

from afina import Backbone, Predictor, Run, Study
from afina.data.batch import Loader, MicroBatchLimits
from afina.data.pairs import PairLoader
from afina.data.token_cache import EncodedSplit
from afina.engine.engine import Engine
from afina.errors import InvalidStudy, Refused
from afina.events import Progress
from afina.methods import make
from afina.methods.attachment import applicable
from afina.models import objectives
from afina.predicting import golden_test
from afina.store.exchange.merging import merge
from afina.training.contrastive_fit import ContrastiveFit
from afina.training.fit import Fit
from fakes import BATCH, Backbones, changed, difference, encoded, fit_of, opened, predict, sentences, write_csv
from grid import some_slow
from raises import raises

TEXTS = [text for text, _ in sentences(20, seed=5)]
TOLERANCE = 1e-5


def session(backbone: Backbone, settings: dict[str, Any] | None = None, **changes: Any) -> Fit:
    method = make("setfit", settings).for_backbone(backbone)
    return fit_of(opened(backbone, method), method, encoded(backbone, sentences(24)), **changes)


def padded(backbone: Backbone, fit: Fit, pooling: str, *, normalized: bool) -> tuple[float, dict[str, torch.Tensor]]:
    """Loss and gradients of the first batch by transformers, with padding."""
    model = AutoModel.from_pretrained(backbone.path, dtype=torch.float32).eval()
    own = {name: each for name, each in fit.classifier.body.state_dict().items() if name in model.state_dict()}
    model.load_state_dict(own, strict=False)
    (batch,) = fit.loader.batches(0, 1)
    rows = batch.by_sequence(batch.tokens)

    def embeddings(chosen: list[torch.Tensor]) -> torch.Tensor:
        mask = pad_sequence([torch.ones_like(row) for row in chosen], True)
        pad = backbone.tokenizer.pad_token_id
        states = model(pad_sequence(chosen, True, pad), attention_mask=mask).last_hidden_state
        weights = mask[..., None].float()
        found = states[:, 0] if pooling == "first" else (states * weights).sum(1) / weights.sum(1)
        return normalize(found, dim=1) if normalized else found

    loss = mse_loss(cosine_similarity(embeddings(rows[0::2]), embeddings(rows[1::2])), batch.targets[0::2])
    loss.backward()
    return loss.item(), {name: each.grad for name, each in model.named_parameters() if each.grad is not None}


CASES = [("bert", "mean", True), ("electra", "first", True), ("modernbert", "mean", False)]


@pytest.mark.parametrize(("family", "pooling", "normalized"), some_slow(CASES, CASES[:1]))
def test_loss_and_gradients_are_those_of_padded_embeddings(
    backbones: Backbones, family: str, pooling: str, normalized: bool
) -> None:
    backbone = Backbone.load(str(backbones.path(family, dropout=0.0)))
    fit = session(backbone, {"pooling": pooling, "normalize": normalized})
    loss, gradients = padded(backbone, fit, pooling, normalized=normalized)
    (part,) = fit.inputs.parts(next(iter(fit.loader.batches(0, 1))))
    fit.begin()
    found = fit._loss(part)
    found.backward()
    assert found.item() == pytest.approx(loss, rel=TOLERANCE)
    stepped = fit.method.by_gradient(fit.classifier.model)
    prefix = f"{fit.classifier.model.base_model_prefix}."
    assert {name.removeprefix(prefix) for name in stepped} == gradients.keys()
    scale = max(float(each.abs().max()) for each in gradients.values())
    for name, parameter in stepped.items():
        assert parameter.grad is not None
        assert (parameter.grad - gradients[name.removeprefix(prefix)]).abs().max() <= TOLERANCE * scale, name


@pytest.mark.slow
def test_parts_of_whole_pairs_give_the_gradient_of_the_batch(backbones: Backbones) -> None:
    backbone = Backbone.load(str(backbones.path("bert", dropout=0.0)))
    found = []
    for limits in (MicroBatchLimits(), MicroBatchLimits(examples=3), MicroBatchLimits(tokens=30)):
        fit = session(backbone, at_once=limits)
        batch = next(iter(fit.loader.batches(0, 1)))
        parts = fit.inputs.parts(batch)
        assert all(len(part) % 2 == 0 for part in parts)
        fit.begin()
        loss = float(fit._backward(parts, fit.inputs.learnt(batch)))
        trained = fit.method.by_gradient(fit.classifier.model)
        found.append((len(parts), loss, torch.cat([each.grad.flatten() for each in trained.values()])))
    assert [count for count, *_ in found] == [1, -(-BATCH // 3), found[2][0]]
    assert found[2][0] > 2
    for _, loss, gradient in found[1:]:
        assert loss == pytest.approx(found[0][1], rel=TOLERANCE)
        assert difference(gradient, found[0][2]) < TOLERANCE


def test_the_head_is_fitted_to_the_trained_body_and_a_score_in_between_changes_nothing(backbones: Backbones) -> None:
    backbone = Backbone.load(str(backbones.path("bert")))
    whole, paused = session(backbone), session(backbone)
    start = whole.classifier.output_layer.weight.detach().clone()
    whole.advance()
    assert whole.fitted is not None
    assert not torch.equal(whole.classifier.output_layer.weight, start)
    paused.advance(2)
    assert paused.fitted is None
    tokens, labels = encoded(backbone, sentences(12, seed=3))
    score = paused.score(EncodedSplit(tokens, labels, ""), "accuracy", predict)
    assert (score.step, score.value is not None, paused.fitted) == (2, True, None)
    paused.advance()
    assert paused.account.losses == whole.account.losses
    for name, parameter in whole.parameters.items():
        assert torch.equal(paused.parameters[name], parameter), name


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_csv(tmp_path_factory.mktemp("setfit") / "task.csv", sentences(40)))


def run(backbones: Backbones, task: str, **changes: Any) -> Run:
    training = {"max_steps": 3, "dtype": "float32"} | changes.pop("training", {})
    backbone = str(backbones.path("bert"))
    return Run(**({"backbone": backbone, "task": task, "method": "setfit", "training": training} | changes))


@pytest.mark.slow
def test_the_adapter_answers_alike_in_predictor_and_engine_and_is_not_exported(
    backbones: Backbones, task: str, tmp_path: Path
) -> None:
    told: list[Progress] = []
    record = run(backbones, task).execute(tmp_path, told.append)
    assert record.fitted is not None
    assert (record.fitted.pooling, record.fitted.normalize, record.steps) == ("mean", False, 3)
    assert record.pairs is not None
    assert record.pairs.positive == record.pairs.negative
    (note,) = [one.note for one in told if one.phase == "pairs"]
    assert note.startswith(f"trains on {record.pairs.positive:,} pairs with equal labels")
    adapter = str(tmp_path / record.adapter)
    predictor = Predictor.load(adapter)
    golden_test.check(predictor)
    expected = predictor.outputs(TEXTS)
    with Engine(record.backbone) as engine:
        found = np.stack([answer.outputs for answer in engine.predict([(adapter, text) for text in TEXTS])])
        assert not any(resident.shares_model for resident in engine.residents)
    assert difference(found, expected) < TOLERANCE
    with raises(Refused, code="merge.impossible"):
        merge(predictor, tmp_path / "merged")


@pytest.mark.slow
def test_without_max_steps_every_drawn_pair_is_used_once(backbones: Backbones, task: str, tmp_path: Path) -> None:
    record = run(
        backbones, task, hyperparameters={"max_pairs": 40}, training={"max_steps": None, "batch_size": 8}
    ).execute(tmp_path)
    assert record.pairs is not None
    assert (record.pairs.positive + record.pairs.negative, record.steps) == (40, 5)


@pytest.mark.parametrize(
    ("changes", "option"),
    [
        ({"epochs": 3}, "epochs"),
        ({"label_smoothing": 0.1}, "label_smoothing"),
        ({"average": 0.5}, "average"),
    ],
)
def test_a_setting_without_effect_is_refused(backbones: Backbones, changes: dict[str, Any], option: str) -> None:
    with raises(InvalidStudy, code="option.inapplicable", option=option):
        run(backbones, "sst2", training=changes)


def test_models_and_tasks_without_a_meaning_are_refused_with_a_reason(
    backbones: Backbones, task: str, tmp_path: Path
) -> None:
    with raises(InvalidStudy, code="method.family-unsupported", family="gpt2"):
        make("setfit").for_family("gpt2")
    causal = str(backbones.path("gpt2"))
    with raises(InvalidStudy, code="method.family-unsupported", method="setfit"):
        Study(name="s", backbone=causal, task=task, methods={"setfit": {}}).run(tmp_path)
    assert not [*tmp_path.glob("*.jsonl")], "before the baselines"
    numbers = str(
        write_csv(tmp_path / "numbers.csv", [(text, place / 7) for place, (text, _) in enumerate(sentences(30))])
    )
    with raises(InvalidStudy, code="method.kind-unsupported", kind="number", known=["classes"]):
        run(backbones, numbers).execute(tmp_path)
    number = objectives.make(("y",), {"kind": "number"}).opening
    assert applicable(str(backbones.path("bert")), ["setfit", "full"], number) == ["full"]
    for settings in ({"num_iterations": 0}, {"max_pairs": 1}, {"sampling_strategy": "all"}):
        with raises(InvalidStudy, code="method.setting-invalid", setting=next(iter(settings))):
            make("setfit", settings, where="study.toml")


def test_texts_of_one_label_are_refused_before_a_step(backbones: Backbones) -> None:
    backbone = Backbone.load(str(backbones.path("bert")))
    fit = session(backbone)
    assert isinstance(fit, ContrastiveFit)
    assert fit.method.pairs is not None
    texts = Loader(fit.loader.encoded, np.ones(24, np.int64), BATCH, 0)
    one = changed(fit, PairLoader.of(texts, fit.method.pairs))
    with raises(InvalidStudy, code="method.one-label"):
        one.advance()
    assert one.account.step == 0


def test_sentence_transformers_files_say_the_pooling(backbones: Backbones, tmp_path: Path) -> None:
    backbone = Backbone.load(str(backbones.path("bert")))
    assert make("setfit").for_backbone(backbone).hyperparameters["pooling"] == "mean"
    modules = [{"type": f"st.models.{kind}", "path": kind} for kind in ("Transformer", "Pooling", "Normalize")]
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    (tmp_path / "Pooling").mkdir()
    (tmp_path / "Pooling" / "config.json").write_text(json.dumps({"pooling_mode": "cls"}))
    object.__setattr__(backbone, "path", tmp_path)
    made = make("setfit").for_backbone(backbone)
    assert (made.hyperparameters["pooling"], made.hyperparameters["normalize"]) == ("first", True)
    assert not make("setfit", {"normalize": False}).for_backbone(backbone).hyperparameters["normalize"]
