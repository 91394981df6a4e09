"""Runs of several processes that share the backbone's weights give the adapter and the predictions of one process."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import trainer
from afina import Run
from afina.data.reading_options import ReadingOptions
from afina.events import ignore
from afina.meter import Meter
from afina.models.adapter import Adapter
from afina.models.predictions import Predictions
from afina.models.weights.sharding import gathered
from afina.ranks import ALONE, Ranks
from afina.studies.runs.prepared import prepare
from afina.studies.runs.spec import UNASKED, Ask
from afina.training.fit import Fit
from afina.training.settings import Training
from fakes import Backbones, sentences, write_csv
from language import answer
from together import together
from trainer import BEYOND, MOST, TOLERANCE, compare_weights, loss_difference, well_conditioned

STEPS = 50

CASES: dict[str, tuple[str, str, dict[str, Any], dict[str, Any]]] = {
    "classes lora": ("llama", "lora", {"dropout": 0.0}, {}),
    "classes lora int8": ("gpt2", "lora", {"dropout": 0.0}, {"precision": "int8"}),
    "classes lora of an encoder, recomputed": ("bert", "lora", {"dropout": 0.0}, {"checkpointing": True}),
    "classes ia3 in uneven parts": ("llama", "ia3", {}, {"token_budget": 16}),
    "classes linear_probe": ("llama", "linear_probe", {}, {}),
    "classes full of an encoder, recomputed": ("bert", "full", {}, {"checkpointing": True}),
    "classes full in uneven parts": ("gpt2", "full", {"layer_decay": 0.9}, {"token_budget": 16}),
    "classes setfit": ("bert", "setfit", {"max_pairs": 200}, {"max_steps": 20}),
    "texts full": ("llama", "full", {}, {}),
    "texts lora": ("llama", "lora", {"dropout": 0.0}, {}),
    "texts prompt": ("gpt2", "prompt", {}, {}),
}
"""Family, method, its hyperparameters and settings of the training, by kind of targets."""

BFLOAT16, NF4 = "classes lora in bfloat16", "classes lora nf4"
FULL_BFLOAT16 = "classes full in bfloat16"
OTHERS: dict[str, tuple[str, str, dict[str, Any], dict[str, Any]]] = {
    BFLOAT16: ("llama", "lora", {"dropout": 0.0}, {"dtype": "bfloat16"}),
    FULL_BFLOAT16: ("llama", "full", {}, {"dtype": "bfloat16"}),
    NF4: ("llama", "lora", {"dropout": 0.0}, {"precision": "nf4"}),
}


@dataclass
class Outcome:
    """What a run saved: the adapter's tensors, and its outputs or answers for the evaluation texts; its losses."""

    tensors: dict[str, torch.Tensor]
    outputs: np.ndarray
    losses: list[tuple[int, float]]


def run_of(paths: Mapping[str, str], case: str) -> Run:
    family, method, hyperparameters, settings = (CASES | OTHERS)[case]
    probe = method == "linear_probe"
    training = {"max_steps": STEPS, "batch_size": 8, "dtype": "float32"} | ({} if probe else {"learning_rate": 1e-3})
    return Run(
        backbone=paths[family],
        task=paths[case.split()[0]],
        method=method,
        hyperparameters=hyperparameters,
        training=Training(**(training | settings)),
        ask=UNASKED if case.startswith("classes") else Ask(),
        data=ReadingOptions(kind="text", label="answer") if case.startswith("texts") else ReadingOptions(),
    )


def outcome(ranks: Ranks, paths: Mapping[str, str], case: str, out: str) -> Outcome:
    run, directory = run_of(paths, case), Path(out) / case
    record = run.execute(directory, listen=ignore, ranks=ranks)
    assert record.adapter is not None
    found = Predictions.read(directory / record.predictions, record.predictions_digest)
    adapter = Adapter.load(directory / record.adapter)
    return Outcome(dict(adapter.tensors), found.outputs, list(record.losses))


def outcomes(ranks: Ranks, paths: Mapping[str, str], cases: list[str], out: str) -> dict[str, Outcome]:
    return {case: outcome(ranks, paths, case, out) for case in cases}


def same(found: np.ndarray, expected: np.ndarray, most: float = 1e-5) -> None:
    if expected.dtype == object:  # texts
        assert found.tolist() == expected.tolist()
    else:
        np.testing.assert_allclose(found, expected, rtol=most, atol=most)


@pytest.fixture(scope="module")
def paths(backbones: Backbones, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    directory = tmp_path_factory.mktemp("tasks")
    some = sentences(60)
    classes = write_csv(directory / "classes.csv", [(text, ("bad", "good")[label]) for text, label in some])
    texts = write_csv(directory / "texts.csv", [(text, answer(text)) for text, _ in some], ("text", "answer"))
    families = {family: str(backbones.path(family, dropout=0.0)) for family in ("llama", "gpt2", "bert")}
    return {**families, "classes": str(classes), "texts": str(texts)}


@pytest.fixture(scope="module")
def alone(paths: Mapping[str, str], tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Outcome]:
    return outcomes(ALONE, paths, [*CASES], str(tmp_path_factory.mktemp("alone")))


@pytest.mark.slow  # processes that compute together
def test_three_save_what_one_process_saves(
    paths: Mapping[str, str], alone: Mapping[str, Outcome], tmp_path: Path
) -> None:
    for found in together(3, outcomes, paths, [*CASES], str(tmp_path), shards=True):
        for case, expected in alone.items():
            same_outcome(found[case], expected, case)


@pytest.mark.slow  # processes that compute together
def test_two_with_the_parts_of_nf4_weights_save_what_one_process_saves(
    paths: Mapping[str, str], tmp_path: Path
) -> None:
    pytest.importorskip("bitsandbytes", reason="needs the extra afina[quant]")
    expected = outcome(ALONE, paths, NF4, str(tmp_path / "alone"))
    for found in together(2, outcome, paths, NF4, str(tmp_path), shards=True):
        same_outcome(found, expected, NF4)


def same_outcome(found: Outcome, expected: Outcome, case: str) -> None:
    """Assert equal outcomes; if all weights of a block train, single ones may differ, as `compare_weights` says."""
    family, method, *_ = (CASES | OTHERS)[case]
    assert found.tensors.keys() == expected.tensors.keys()
    if method in ("full", "setfit"):
        share, _ = compare_weights(
            trainer.Outcome(after=found.tensors), trainer.Outcome(after=expected.tensors), family
        )
        assert share <= BEYOND
    else:
        for name, tensor in expected.tensors.items():
            torch.testing.assert_close(found.tensors[name], tensor, rtol=1e-5, atol=1e-5)
    same(found.outputs, expected.outputs)
    np.testing.assert_allclose(found.losses, expected.losses, rtol=1e-5, atol=1e-5)


@dataclass
class Step:
    """The loss and gradients of a first batch, the bytes of the state, and the output for one text, in one process."""

    loss: float
    gradients: dict[str, torch.Tensor]
    norm: float
    state_bytes: int
    outputs: np.ndarray


def first_step(ranks: Ranks, paths: Mapping[str, str], case: str) -> Step:
    prepared, fit = prepare(run_of(paths, case), Meter(torch.device("cpu")), ignore, ranks=ranks)
    fit.begin()
    (batch,) = fit.inputs.batches(0, 1)
    fit.weights.clear()
    loss = fit._backward(fit.inputs.parts(batch), fit.inputs.learnt(batch))
    gradients = {name: each.grad for name, each in fit.weights.trained.items() if each.grad is not None}
    gradients |= {name: gathered(gradients[name], of) for name, of in fit.weights.parts.items()}
    norm = float(fit.weights.norm())
    alone = prepared.predict(fit.classifier.eval(), prepared.task.evaluation.part(0, 1))
    return Step(loss.item(), gradients, norm, fit.state_bytes, alone.outputs)


STEPS_OF = ("classes lora", "classes ia3 in uneven parts", "classes full in uneven parts", "texts lora", "texts full")
"""The cases whose first step is looked at, beside those in bfloat16."""


def first_steps(ranks: Ranks, paths: Mapping[str, str]) -> dict[str, Step]:
    return {case: first_step(ranks, paths, case) for case in (*STEPS_OF, BFLOAT16, FULL_BFLOAT16)}


@pytest.mark.slow  # processes that compute together
def test_gradients_are_those_of_the_whole_batch_and_one_text_is_enough(paths: Mapping[str, str]) -> None:
    """A mean over the ranks instead of the sum would be a third of it, which AdamW would not show."""
    alone, every = first_steps(ALONE, paths), together(3, first_steps, paths, shards=True)
    for case, expected in alone.items():
        most = 2**-6 if "bfloat16" in case else 1e-5  # a number in bfloat16 has 8 bits
        for found in (steps[case] for steps in every):
            assert found.loss == pytest.approx(expected.loss, rel=most), case
            assert found.norm == pytest.approx(expected.norm, rel=most), case
            assert found.gradients.keys() == expected.gradients.keys()
            for name, gradient in expected.gradients.items():
                scale = float(gradient.abs().max()) or 1.0
                torch.testing.assert_close(found.gradients[name], gradient, rtol=most, atol=most * scale)
            assert found.state_bytes < 0.6 * expected.state_bytes, case
            same(found.outputs, expected.outputs, most)


CONTINUED = "classes full in uneven parts"


def session(ranks: Ranks, paths: Mapping[str, str]) -> Fit:
    run = run_of(paths, CONTINUED)
    run = run.model_copy(update={"training": run.training.model_copy(update={"average": 0.5, "pull": 0.1})})
    return well_conditioned(prepare(run, Meter(torch.device("cpu")), ignore, ranks=ranks)[1])


def stopped_after_ten(ranks: Ranks, paths: Mapping[str, str], place: str) -> None:
    fit = session(ranks, paths)
    fit.advance(10)
    fit.checkpoint(Path(place), "key")


def continued(ranks: Ranks, paths: Mapping[str, str], place: str) -> tuple[int, trainer.Outcome]:
    """The step from which a training continues, and its losses and weights at the end."""
    fit = session(ranks, paths)
    fit.resume(Path(place), "key")
    first = fit.account.step
    fit.advance(30)
    fit.average.settle()
    whole = {name: gathered(fit.weights.trained[name].detach(), of) for name, of in fit.weights.parts.items()}
    after = {name: each.detach() for name, each in fit.weights.on_every_process.items()} | whole
    return first, trainer.Outcome(fit.account.losses, after=after)


@pytest.mark.slow  # processes that compute together
def test_a_training_of_sharded_weights_continues_with_another_number_of_processes(
    paths: Mapping[str, str], tmp_path: Path
) -> None:
    """All weights train, with weight averaging and L2-SP."""
    first, undisturbed = continued(ALONE, paths, str(tmp_path / "none"))
    assert first == 0
    together(3, stopped_after_ten, paths, str(tmp_path / "three"), shards=True)
    stopped_after_ten(ALONE, paths, str(tmp_path / "alone"))
    found = [
        *together(2, continued, paths, str(tmp_path / "three"), shards=True),
        *together(2, continued, paths, str(tmp_path / "alone"), shards=True),
        continued(ALONE, paths, str(tmp_path / "three")),
    ]
    for step, outcome in found:
        assert step == 10
        assert loss_difference(outcome, undisturbed) <= TOLERANCE
        share, largest = compare_weights(outcome, undisturbed, "gpt2")
        assert share <= BEYOND
        assert largest < MOST
