"""Runs with examples in the prompt: the prompts, what the adapter contains, and what is refused."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from afina import Backbone, Predictor, Record, Run
from afina.data.kinds import Draw
from afina.data.shots import BETWEEN, Shots
from afina.data.task import Task
from afina.data.template import Template
from afina.data.tokenize import Encoded, encode
from afina.errors import AfinaError, InvalidStudy
from afina.methods import make
from afina.models.label_prompts import GENERAL
from afina.models.predictions import Predictions
from afina.predicting.predictor import ModelPredictor, logits
from afina.predicting.prompting import shift_of
from afina.report.details.plans import forecast_table
from afina.studies.planning.forecast_runs import Encodings, forecast_methods, forecast_run
from afina.studies.runs.spec import Ask
from afina.training.settings import Training
from fakes import LONGEST, Runs, difference
from raises import raises

FEW = {"shots": 2}


def shots_run(runs: Runs, hyperparameters: dict[str, Any], **fields: Any) -> Run:
    path = str(runs.backbones.path("llama"))
    return Run(backbone=path, task=runs.task, method="zero-shot", hyperparameters=hyperparameters, **fields)


def outputs(record: Record, out: Path) -> np.ndarray:
    return Predictions.read(out / record.predictions, record.predictions_digest).outputs


def asked(runs: Runs, templates: Sequence[Template], texts: Sequence[str]) -> np.ndarray:
    """The outputs of the untrained model for whole prompts, each alone."""
    predictor = Predictor.load(runs.adapter("llama", "zero-shot"))
    assert isinstance(predictor, ModelPredictor)
    tokenizer = predictor.backbone.tokenizer
    each = [
        encode(tokenizer, [text], max_length=LONGEST, template=template)[0]
        for template, text in zip(templates, texts, strict=True)
    ]
    return np.concatenate([logits(predictor.classifier, Encoded.of([ids])) for ids in each])


def test_the_fixed_examples_are_in_the_template_of_the_adapter_and_not_in_the_record(
    runs: Runs, tmp_path: Path
) -> None:
    record = shots_run(runs, FEW, seed=3).execute(tmp_path)
    task = Task.load(runs.task)
    examples = Shots(2, seed=3).of(task, Template(GENERAL))
    expected = asked(runs, examples.templates(task.evaluation.texts), task.evaluation.texts)
    assert difference(outputs(record, tmp_path), expected) < 1e-5
    assert record.ask.template == GENERAL
    assert record.hyperparameters == FEW
    assert [note for note in record.notes if note == examples.note]
    assert not [text for text in examples.drawn.texts if text in record.model_dump_json()]
    assert record.adapter is not None
    predictor = Predictor.load(tmp_path / record.adapter)
    assert predictor.manifest.template == examples.fixed.source
    assert predictor.manifest.max_length == LONGEST
    assert difference(predictor.outputs(task.evaluation.texts), expected) < 1e-5


def test_the_nearest_examples_give_each_text_a_prompt_of_its_own_and_the_run_no_adapter(
    runs: Runs, tmp_path: Path
) -> None:
    record = shots_run(runs, FEW | {"draw": "nearest"}).execute(tmp_path)
    task = Task.load(runs.task)
    examples = Shots(2, "nearest").of(task, Template(GENERAL))
    templates = examples.templates(task.evaluation.texts)
    assert len(set(templates)) > len(task.evaluation) // 2
    assert difference(outputs(record, tmp_path), asked(runs, templates, task.evaluation.texts)) < 1e-5
    assert (record.adapter, record.digest) == (None, None)


def test_a_run_without_shots_has_the_key_that_it_had_before(runs: Runs) -> None:
    plain, stated = shots_run(runs, {}), shots_run(runs, {"shots": 0, "draw": "fixed"})
    assert plain.key == stated.key
    assert make("zero-shot").hyperparameters == {}
    assert make("zero-shot", {"shots": 4, "draw": "nearest"}).title == "few-shot (4 nearest examples)"
    assert plain.key != shots_run(runs, FEW).key != shots_run(runs, FEW | {"draw": "nearest"}).key


@pytest.mark.slow
def test_the_offset_is_estimated_on_prompts_with_examples(runs: Runs, tmp_path: Path) -> None:
    record = shots_run(runs, FEW, ask=Ask(offset=True)).execute(tmp_path)
    task = Task.load(runs.task)
    examples = Shots(2).of(task, Template(GENERAL))
    texts = [text for text in task.train.texts if text not in examples.drawn.texts]
    assert len(texts) == len(task.train) - 2
    shift = shift_of(asked(runs, examples.templates(texts), texts))
    assert record.ask.offset == pytest.approx(shift, abs=1e-4)


def test_a_text_that_is_too_long_is_cut_as_without_examples(runs: Runs, tmp_path: Path) -> None:
    training = Training(max_length=36)
    plain = shots_run(runs, {}, training=training).execute(tmp_path)
    record = shots_run(runs, FEW, training=training).execute(tmp_path)
    assert record.truncated == plain.truncated > 0
    assert record.training["max_length"] == 36
    assert record.adapter is not None
    manifest = Predictor.load(tmp_path / record.adapter).manifest
    assert manifest.template is not None
    assert manifest.max_length > 2 * 36
    assert manifest.template.count(BETWEEN) == 2


def test_examples_that_do_not_fit_are_refused_with_the_number_that_fits(runs: Runs, tmp_path: Path) -> None:
    with pytest.raises(InvalidStudy) as caught:
        shots_run(runs, {"shots": 40}).execute(tmp_path)
    assert caught.value.code == "shots.too-long"
    fits = caught.value.fields["fits"]
    assert isinstance(fits, int)
    assert 1 < fits < 40
    shots_run(runs, {"shots": fits}).execute(tmp_path)
    with raises(InvalidStudy, code="shots.too-long"):
        shots_run(runs, {"shots": fits + 1}).execute(tmp_path)


def test_a_plan_encodes_the_examples_in_the_prompts(runs: Runs) -> None:
    run, task, cache = shots_run(runs, FEW, seed=3), Task.load(runs.task), Encodings()
    texts = [*task.evaluation.texts[:4]]
    examples = Shots(2, seed=3).of(task, Template(GENERAL)).templates(texts)
    lengths = prompt_lengths(run, texts * 2, [*examples, *[Template(GENERAL)] * 4])
    assert cache.of(run).evaluation.encoded.lengths[:4].tolist() == lengths[:4]
    assert cache.of(shots_run(runs, {}, seed=3)).evaluation.encoded.lengths[:4].tolist() == lengths[4:]
    assert cache.of(run) is cache.of(shots_run(runs, FEW, seed=3)) is not cache.of(shots_run(runs, FEW, seed=4))


def prompt_lengths(run: Run, texts: Sequence[str], templates: Sequence[Template]) -> list[int]:
    """The number of tokens of each text, encoded alone in its template."""
    tokenizer = Backbone.load(run.backbone, weights=False).tokenizer
    pairs = zip(templates, texts, strict=True)
    return [len(encode(tokenizer, [text], max_length=LONGEST, template=template)[0]) for template, text in pairs]


@pytest.mark.slow
@pytest.mark.parametrize("draw", ["fixed", "nearest"])
def test_a_plan_says_what_prompts_with_examples_take(runs: Runs, draw: Draw) -> None:
    run, task = shots_run(runs, FEW | {"draw": draw}, seed=3), Task.load(runs.task)
    templates = Shots(2, draw, seed=3).of(task, Template(GENERAL)).templates(task.evaluation.texts)
    prompts = prompt_lengths(run, task.evaluation.texts, templates)
    plain, found = forecast_run(shots_run(runs, {}), calibrate=False), forecast_run(run, calibrate=draw == "fixed")
    assert plain.prompts is None
    assert found.prompts is not None
    counted = (found.prompts.texts, found.prompts.tokens, found.prompts.longest)
    assert counted == (len(prompts), sum(prompts), max(prompts))
    assert found.gpu_evaluation > plain.gpu_evaluation, "the batches of the evaluation have the examples too"
    assert (found.prompts.seconds is not None) == (draw == "fixed")
    told = " ".join(forecast_table([found]).notes)
    assert f"have {sum(prompts):,} tokens with the examples, {max(prompts)} in the longest" in told
    assert "Activations are those of" not in told


def test_a_plan_without_texts_refuses_examples(runs: Runs) -> None:
    with raises(InvalidStudy, code="option.inapplicable", shots=2):
        forecast_methods(str(runs.backbones.path("llama")), [make("zero-shot", FEW)])


def test_a_draw_without_shots_and_a_negative_number_are_refused(runs: Runs) -> None:
    with raises(AfinaError, code="method.setting-invalid", shots=-1):
        shots_run(runs, {"shots": -1})
    with raises(AfinaError, code="method.setting-invalid", draw="nearest"):
        shots_run(runs, {"draw": "nearest"})


@pytest.mark.slow
def test_texts_are_written_after_examples_too(runs: Runs, tmp_path: Path) -> None:
    with (tmp_path / "made.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("question", "answer"))
        writer.writerows((f"what is number {one}?", f"it is {one}") for one in range(30))
    task = Task.load(tmp_path / "made.csv", target="answer")
    record = Run(
        backbone=str(runs.backbones.path("llama")),
        task=str(tmp_path / "made.csv"),
        data={"target": "answer"},
        method="zero-shot",
        hyperparameters=FEW,
        generate={"max_new_tokens": 3},
    ).execute(tmp_path)
    assert record.adapter is not None
    predictor = Predictor.load(tmp_path / record.adapter)
    assert (predictor.manifest.template or "").count("\nAnswer: it is") == 2
    found = predictor.measure(task.evaluation)[0]
    assert record.metrics["chrf"] == pytest.approx(predictor.objective.metrics(found)["chrf"])
