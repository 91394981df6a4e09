"""Distillation: the loss and gradients of a student, the texts that it reads, and the teachers that it may have."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from afina import Backbone, Run, Study, Task
from afina.data.batch import Loader, SoftTargets
from afina.data.text_hashes import TextHashes
from afina.errors import AfinaError, InvalidData, InvalidStudy, Leakage
from afina.events import ignore
from afina.methods import make
from afina.models.adapter import Adapter
from afina.models.objective import Objective
from afina.models.objectives import Classes, Labels, Number
from afina.models.predictions import Predictions
from afina.predicting.teacher import check_teacher
from afina.report.arms import arms
from afina.report.sections import Notes, what_was_run
from afina.studies.results import Results
from afina.studies.runs.execute import execute
from afina.studies.runs.record import UnlabelledCounts, read_records
from afina.studies.runs.spec import Teacher
from afina.studies.study import BEFORE
from afina.studies.teachers import of_adapter
from afina.studies.trials import LESSONS
from afina.studies.watcher import Watcher
from afina.training.settings import Training
from command import HereExecutor, InventedExecutor
from fakes import BATCH, Backbones, Runs, changed, encoded, fit_of, opened, sentences, write_csv
from raises import raises

NAMES = ("a", "b", "c")
COUNT = 6
GENERATOR = torch.Generator().manual_seed(0)
STUDENT, TEACHER = (torch.randn(COUNT, 3, generator=GENERATOR) * scale for scale in (1, 3))
LABELLED = torch.tensor([1.0, 1, 0, 1, 0, 0])


def _classes(outputs: Tensor, temperature: float) -> Tensor:
    goal = torch.softmax(TEACHER / temperature, 1)
    return functional.kl_div(torch.log_softmax(outputs / temperature, 1), goal, reduction="none").sum(1)


def _labels(outputs: Tensor, temperature: float) -> Tensor:
    goal, found = torch.sigmoid(TEACHER / temperature), torch.sigmoid(outputs / temperature)
    return -(goal * found.log() + (1 - goal) * (1 - found).log()).mean(1)


def _number(outputs: Tensor, temperature: float) -> Tensor:
    return (outputs[:, 0] - TEACHER[:, 0]) ** 2 / temperature**2  # T^2 of the formula is not for numbers


CASES: dict[str, tuple[Objective, np.ndarray, Callable[[Tensor, float], Tensor]]] = {
    "classes": (Classes(NAMES), np.array([0, 1, 2, 2, 1, 0]), _classes),
    "labels": (Labels(NAMES), np.eye(3, dtype=np.int64)[[0, 1, 2, 2, 1, 0]], _labels),
    "number": (Number(("stars",)), np.linspace(-1.0, 1.0, COUNT), _number),
}


@pytest.mark.parametrize("kind", CASES)
@pytest.mark.parametrize("weights", [None, torch.linspace(0.5, 1.5, COUNT)])
def test_the_gradient_of_a_student_is_that_of_hintons_formula(kind: str, weights: Tensor | None) -> None:
    objective, labels, of_teacher = CASES[kind]
    targets = torch.from_numpy(objective.loss_targets(labels))
    width = objective.width
    soft, given = SoftTargets(TEACHER[:, :width], LABELLED), weights if weights is not None else torch.ones(COUNT)
    for temperature, weight in ((1.0, 0.3), (4.0, 0.9), (2.0, 0.0), (2.0, 1.0)):
        one, other = (STUDENT[:, :width].clone().requires_grad_() for _ in range(2))
        objective.distilled_loss(one, targets, soft, temperature=temperature, weight=weight, weights=weights).backward()
        own = torch.stack([objective.loss(other[[i]], targets[[i]]) for i in range(COUNT)])
        whole = (1 - weight) * LABELLED * own + weight * temperature**2 * of_teacher(other, temperature)
        (whole * given).mean().backward()
        assert one.grad is not None
        assert other.grad is not None
        assert (one.grad - other.grad).abs().max() < 1e-5 * max(1.0, float(other.grad.abs().max()))


def test_a_student_reads_the_labels_of_a_teacher_in_its_own_order_and_the_teachers_numbers_in_its_own_unit() -> None:
    outputs = np.array([[1.0, 2.0, 3.0]], np.float32)
    teacher = Classes(("c", "a", "b"), temperature=2.0)
    assert Classes(NAMES).soft_targets(teacher, Predictions(outputs)).tolist() == [[1.0, 1.5, 0.5]]
    number = Number(("stars",), mean=2.0, scale=0.5)
    found = number.soft_targets(Number(("stars",), mean=1.0, scale=3.0), Predictions(outputs[:, :1]))
    assert found.tolist() == [[4.0]]  # the teacher says 4


@pytest.mark.parametrize("method", ["full", "head"])
def test_micro_batches_of_a_student_add_up(method: str, backbones: Backbones) -> None:
    """With a head that trains alone, features are read in place of texts."""
    backbone = Backbone.load(str(backbones.path("gpt2", dropout=0.0)))
    tokens, labels = encoded(backbone, sentences(BATCH))
    soft = np.linspace(-2, 2, 2 * BATCH).astype(np.float32).reshape(-1, 2)
    loader = Loader(tokens, labels, BATCH, 0, np.linspace(0.5, 1.5, BATCH), soft, labelled=3)
    found = []
    for limit in (1_000_000, 16):
        made = make(method)
        fit = fit_of(opened(backbone, made), made, (tokens, labels), steps=1)
        at_once = replace(fit.recipe.at_once, tokens=limit)
        fit = changed(fit, loader, distil_weight=0.7, distil_temperature=2.0, at_once=at_once)
        fit.advance(1)
        found.append(fit.account.losses[0])
    assert found[0] == pytest.approx(found[1], rel=1e-5)


# In a study

NEW = [(f"a {thing} that nobody has labelled, number {i}",) for i, thing in enumerate(("film", "book", "song") * 8)]


@pytest.fixture(scope="module")
def unlabelled(toy: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 new texts among repetitions and texts of the task, some of which its evaluation split has."""
    task = Task.load(toy)
    rows = [*NEW, NEW[0], *((text.upper(),) for text in [*task.evaluation.texts[:5], *task.train.texts[:3]])]
    return write_csv(tmp_path_factory.mktemp("unlabelled") / "more.csv", rows, ("text",))


def study(runs: Runs, methods: dict[str, Any], **changes: Any) -> Study:
    fixed = {"name": "taught", "backbone": str(runs.backbones.path("gpt2")), "task": runs.task}
    train = {"epochs": 1, "batch_size": 8, "dtype": "float32", "learning_rate": 5e-3}
    return Study(**(fixed | {"train": train, "methods": methods} | changes))


def executed(made: Study, out: Path) -> Results:
    return made.run(out, watcher=Watcher(), executor=HereExecutor())


@pytest.mark.slow
def test_a_student_learns_from_a_table_that_stands_after_it(runs: Runs, unlabelled: Path, tmp_path: Path) -> None:
    methods = {
        "student": {"method": "bitfit", "teacher": "lora"},
        "lora": {},
        "weightless": {"method": "lora", "teacher": "lora", "distil_weight": 0.0},
    }
    made = study(runs, methods, data={"unlabelled": str(unlabelled)})
    results = executed(made, tmp_path / "out")
    student, teacher, weightless = results.records
    assert student.teacher == teacher.digest
    assert Adapter.load(tmp_path / "out" / student.adapter).manifest.teacher == teacher.digest
    assert student.unlabelled == UnlabelledCounts(texts=24, evaluation=5, training=3, repeated=1)
    assert student.steps == math.ceil((student.train_examples + 24) / 8)
    assert (weightless.digest, weightless.teacher, weightless.unlabelled) == (teacher.digest, None, None)
    assert not {"distil_temperature", "distil_weight"} & teacher.training.keys()
    notes = what_was_run(arms(results.results)).blocks[0]
    assert isinstance(notes, Notes)
    (said,) = (one for one in notes.items if "learned from" in one)
    assert said.startswith("BitFit (student) learned from LoRA (distil_temperature 2, ")
    assert said.endswith("labelled texts and 24 texts without labels")
    (plain,) = study(runs, {"lora": {}}).runs()
    assert plain.with_digests(backbone_files=teacher.backbone_files, data_digest=teacher.data_digest).key == teacher.key


@pytest.mark.slow
def test_a_student_that_is_stopped_goes_on_to_the_same_adapter(
    runs: Runs, trained: Path, unlabelled: Path, tmp_path: Path
) -> None:
    settings = {"method": "lora", "training": Training(epochs=1, batch_size=8), "teacher": of_adapter(trained)}
    run = Run(
        backbone=str(runs.backbones.path("gpt2")), task=runs.task, data={"unlabelled": str(unlabelled)}, **settings
    )
    whole = execute(run, tmp_path / "whole")
    steps = iter(range(whole.steps))
    with pytest.raises(KeyboardInterrupt):
        execute(run, tmp_path / "parts", stopped=lambda: next(steps) == 5)
    again: list[int] = []
    resumed = execute(run, tmp_path / "parts", stopped=lambda: bool(again.append(1)))
    assert len(again) == whole.steps - 6
    assert (resumed.digest, resumed.losses) == (whole.digest, whole.losses)


@pytest.mark.slow
def test_a_student_on_another_machine_is_the_same_and_of_other_texts_another(
    runs: Runs, trained: Path, unlabelled: Path, tmp_path: Path
) -> None:
    texts = tmp_path / "own.csv"
    shutil.copy(unlabelled, texts)
    settings = {"method": "bitfit", "training": Training(epochs=1, dtype="float32"), "teacher": of_adapter(trained)}
    run = Run(backbone=str(runs.backbones.path("gpt2")), task=runs.task, data={"unlabelled": str(texts)}, **settings)
    here = run.execute(tmp_path / "here", listen=ignore)
    inputs = run.inputs()
    there = inputs.materialise(tmp_path / "there", lambda name, path: shutil.copy(inputs.content[name], path))
    texts.unlink()
    elsewhere = execute(run, tmp_path / "out", located=there)
    assert (elsewhere.digest, elsewhere.key) == (here.digest, here.key)
    write_csv(texts, NEW[:5], ("text",))
    assert run.execute(tmp_path / "here", listen=ignore).key != here.key


@pytest.mark.slow
def test_a_student_is_tuned_with_a_teacher_that_has_not_seen_the_validation_texts(
    runs: Runs, unlabelled: Path, tmp_path: Path
) -> None:
    methods = {"student": {"method": "bitfit", "teacher": "lora", "search": {"distil_weight": [0.5, 1.0]}}, "lora": {}}
    made = study(runs, methods, data={"unlabelled": str(unlabelled)}, tune={"candidates": 2})
    results = executed(made, tmp_path)
    student, teacher = results.records
    tuned = {one.name: one.setting for one in results.tuned}
    assert tuned["student"] is not None
    assert tuned["student"]["distil_weight"] in (0.5, 1.0)
    assert tuned["student"].items() >= {name: student.training[name] for name in LESSONS}.items()
    assert student.teacher == teacher.digest
    (before,) = (one for one in read_records(tmp_path / "records.jsonl") if one.name.endswith(BEFORE))
    task = Task.load(runs.task, validation=0.2)
    seen = Adapter.load(tmp_path / str(before.adapter)).trained_on
    assert seen is not None
    assert not seen.among(task.evaluation).any()
    count = len((tmp_path / "records.jsonl").read_text().splitlines())
    assert executed(made, tmp_path).records == results.records
    assert len((tmp_path / "records.jsonl").read_text().splitlines()) == count


@pytest.mark.parametrize(
    ("methods", "data", "code"),
    [
        ({"a": {"method": "lora", "teacher": "a"}}, {}, "study.teacher-invalid"),
        (
            {"a": {"method": "lora", "teacher": "b"}, "b": {"method": "lora", "teacher": "a"}},
            {},
            "study.teacher-invalid",
        ),
        ({"a": {"method": "lora", "teacher": 3}}, {}, "study.teacher-invalid"),
        ({"a": {"method": "lora", "teacher": "nobody"}}, {}, "study.teacher-invalid"),
        ({"linear_probe": {"teacher": "lora"}, "lora": {}}, {}, "option.inapplicable"),
        ({"lora": {"distil_weight": 0.5}}, {}, "option.inapplicable"),
        ({"lora": {}}, {"unlabelled": "more.csv"}, "study.unlabelled-unused"),
    ],
)
def test_a_teacher_that_cannot_be_is_refused_before_any_run(
    methods: dict[str, Any], data: dict[str, Any], code: str, runs: Runs
) -> None:
    with raises(AfinaError, code=code):
        study(runs, methods, data=data)


def test_a_teacher_on_several_backbones_is_named_with_its_backbone(runs: Runs) -> None:
    addresses = tuple(str(runs.backbones.path(family)) for family in ("gpt2", "llama"))
    several = {"backbone": None, "backbones": addresses}
    for teacher in ("lora", f"lora on {addresses[1]}"):
        methods = {"lora": {}, "student": {"method": "full", "backbones": [addresses[0]], "teacher": teacher}}
        if teacher == "lora":
            with raises(InvalidStudy, code="study.teacher-invalid", found="lora"):
                study(runs, methods, **several)
        else:
            found = {(one.title, one.backbone): one for one in study(runs, methods, **several).runs()}
            assert found["student", addresses[0]].teacher == Teacher(run=found["lora", addresses[1]].key)


def test_a_failed_teacher_fails_its_student_and_nothing_else(runs: Runs, tmp_path: Path) -> None:
    executor = InventedExecutor()
    executor.failing = {"lora"}
    made = study(runs, {"student": {"method": "bitfit", "teacher": "lora"}, "lora": {}, "bitfit": {}})
    results = made.run(tmp_path, watcher=Watcher(), executor=executor)
    assert [one.name for one in results.records] == ["bitfit"]
    assert {one.name for one in results.failed} == {"student", "lora"}


# Which adapter may teach


@pytest.mark.parametrize(
    "other", [{"label_names": ("bad", "great")}, {"objective": {"kind": "labels"}}, {"pairs": True}]
)
def test_an_adapter_of_another_task_is_refused_as_a_teacher(other: dict[str, Any], trained: Path, toy: str) -> None:
    adapter, task = Adapter.load(trained), Task.load(toy)
    check_teacher(adapter, task)
    with raises(InvalidStudy, code="adapter.teacher-unsuited"):
        check_teacher(replace(adapter, manifest=adapter.manifest.model_copy(update=other)), task)


def test_a_teacher_that_was_trained_on_evaluation_texts_is_refused(trained: Path, toy: str) -> None:
    task = Task.load(toy)
    seen = replace(Adapter.load(trained), trained_on=TextHashes.of(task.evaluation))
    with raises(Leakage, code="data.leakage", leaked=len(task.evaluation)):
        check_teacher(seen, task)
    check_teacher(seen, task, allow_leakage=True)


def test_a_teacher_that_was_trained_on_texts_for_the_threshold_of_its_student_is_refused(
    trained: Path, toy: str
) -> None:
    task = Task.load(toy)
    whole, abstaining = Adapter.load(trained), Task.load(toy, abstention=True)
    seen = replace(whole, trained_on=TextHashes.of(task.train))
    check_teacher(seen, task)
    assert abstaining.abstention is not None
    with raises(Leakage, code="data.leakage", leaked=len(abstaining.abstention)):
        check_teacher(seen, abstaining)
    training = {**seen.manifest.training, "abstention": {"error": 0.1}}
    check_teacher(replace(seen, manifest=seen.manifest.model_copy(update={"training": training})), abstaining)


def test_a_changed_teacher_is_refused(runs: Runs, trained: Path, tmp_path: Path) -> None:
    teacher = Teacher(adapter="sha256:0", path=str(trained))
    run = Run(backbone=str(runs.backbones.path("gpt2")), task=runs.task, method="bitfit", teacher=teacher)
    with raises(InvalidData, code="data.changed", expected="sha256:0"):
        run.execute(tmp_path, listen=ignore)
