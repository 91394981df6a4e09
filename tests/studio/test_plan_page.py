"""The page of a plan: pretrained models, costs of methods, and what minutes buy."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from afina.studio.command_process import CommandProcess
from afina.studio.folder import Project
from afina.studio.measurements import measurement_of
from afina.studio.page import Studio
from afina.studio.pages import plan
from afina.studio.run_queue import ProjectRun
from servers import within

REVIEWS = b"text,label\n" + b"".join(b"review number %d,%s\n" % (i, (b"bad", b"good")[i % 2]) for i in range(60))

FIGURES = {"peak": 2**30, "gpu_peak": 2**29, "disk_bytes": 2**20, "train_seconds": 90.0, "fits": True, "fits_gpu": None}
METHODS = ("linear_probe", "head", "full", "lora", "ia3", "prelayer")

Make = Callable[..., Project]


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The arguments of commands that would have been started; they go on until the end of the test."""
    found: list[list[str]] = []

    def start(process: CommandProcess, arguments: Any, environment: Any = None, memory: Any = None) -> None:
        process.directory.mkdir(parents=True, exist_ok=True)
        (process.directory / "command.json").write_text(json.dumps({"arguments": [*arguments]}))
        found.append([*arguments])

    monkeypatch.setattr(CommandProcess, "start", start)
    monkeypatch.setattr(CommandProcess, "is_running", property(lambda self: self.was_started and self.status is None))
    return found


def measured(project: Project, backbone: str, left_out: Sequence[Any] = (), **changed: Any) -> None:
    """Leave the answer of `afina plan` for a model; `changed` are figures of full fine-tuning, or terms."""
    process = measurement_of(project, backbone)
    process.directory.mkdir(parents=True, exist_ok=True)
    terms = {"memory": 2**31, "gpu": None, "epochs": 2} | {
        name: changed.pop(name) for name in ("gpu",) if name in changed
    }
    titles = {name: {"title": name, **FIGURES} for name in METHODS}
    answer: dict[str, Any] = {**terms, "methods": titles, "left_out": [*left_out]}
    answer["methods"]["full"] |= changed
    contents = {"command.json": {"arguments": ["plan"]}, "output": answer, "exit.json": {"status": 0}}
    for name, content in contents.items():
        (process.directory / name).write_text(json.dumps(content))


def test_models_are_measured_one_after_the_other(web: TestClient, project: Make, started: list[list[str]]) -> None:
    made = project(REVIEWS, backbones=("embedded", "minilm"))
    page = web.get("/reviews/plan").text
    assert len(started) == 1
    assert started[0][-4:] == ["--backbone", "embedded", "--considered", "--json"]
    assert "Not measured yet." in page
    assert 'data-events="/reviews/plan/live?minutes=5"' in page
    web.get("/reviews/plan")
    assert len(started) == 1
    measured(made, "embedded")
    web.get("/reviews/plan")
    assert [one[one.index("--backbone") + 1] for one in started] == ["embedded", "minilm"]


def test_while_methods_are_measured_the_page_shows_the_last_words(
    web: TestClient, project: Make, started: list[list[str]]
) -> None:
    made = project(REVIEWS, backbones=("minilm",))
    web.get("/reviews/plan")
    said = '{"parts": ["lora: measuring a few steps to forecast the time"], "share": null}'
    (measurement_of(made, "minilm").directory / "progress.json").write_text(said)
    assert "Measuring: lora: measuring a few steps" in web.get("/reviews/plan").text


def test_costs_are_shown_and_what_does_not_fit_says_why(web: TestClient, project: Make) -> None:
    made = project(REVIEWS, backbones=("minilm",))
    other = {"devices": 1, "sharded": False, "peak": 1, "gpu_peak": 1, "fits": True, "fits_gpu": None}
    others = [{"precision": "int8", **other}, {"precision": "nf4", **other}]
    left_out = [{"method": "nf4", "parts": ["method nf4 needs a GPU, or another ", {"option": "backbone"}, "."]}]
    measured(made, "minilm", left_out, peak=3 * 2**30, fits=False, train_seconds=None, alternatives=others)
    page = web.get("/reviews/plan").text
    assert '<td class="right">1.00 GiB</td>' in page
    assert '<td class="right">1:30</td>' in page
    assert (
        "The training needs 1.5 times the memory of this machine. With frozen weights in int8 or nf4, the training "
        "fits." in page
    )
    assert "Left out: method nf4 needs a GPU, or another pretrained model." in page
    assert ">unknown</td>" in page
    assert "data-events" not in page


def test_on_a_machine_with_a_gpu_its_memory_counts(web: TestClient, project: Make) -> None:
    made = project(REVIEWS, backbones=("minilm",))
    measured(made, "minilm", gpu=2**28, fits_gpu=False)
    page = web.get("/reviews/plan").text
    assert "Fits into 0.25 GiB" in page
    assert "The training needs 2.0 times the memory of this GPU." in page


def test_the_time_of_all_settings_is_the_sum_of_their_trainings(web: TestClient, project: Make) -> None:
    made = project(REVIEWS, backbones=("minilm",))
    measured(made, "minilm")
    assert web.get("/reviews/plan.json").json()["needed"] == 14  # nine settings of 90 seconds
    measured(made, "minilm", train_seconds=None)
    assert web.get("/reviews/plan.json").json()["needed"] is None


def test_an_error_of_a_model_is_a_sentence_and_the_next_model_is_measured(
    web: TestClient, project: Make, started: list[list[str]]
) -> None:
    made = project(REVIEWS, backbones=("/nowhere", "minilm"))
    web.get("/reviews/plan")
    directory = measurement_of(made, "/nowhere").directory
    error = {"parts": ["no directory. Give another ", {"option": "backbone"}, "."]}
    (directory / "error.json").write_text(json.dumps({"error": error}))
    (directory / "exit.json").write_text(json.dumps({"status": 2}))
    page = web.get("/reviews/plan").text
    assert "no directory. Give another pretrained model." in page
    assert started[-1][-3] == "minilm"
    assert "There are no recorded curves of /nowhere, minilm." in page


def test_while_a_run_is_carried_out_nothing_is_measured_unless_it_is_asked_for(
    web: TestClient, project: Make, started: list[list[str]]
) -> None:
    made = project(REVIEWS, backbones=("minilm",))
    run = ProjectRun(made, 1)
    run.ask(["choose"])
    (run.process.directory / "command.json").write_text("{}")
    page = web.get("/reviews/plan").text
    assert "A measurement now would slow the run" in page
    assert "data-events" not in page
    assert started == []
    web.post("/reviews/plan/again")
    assert len(started) == 1
    assert "data-events" in web.get("/reviews/plan").text


@pytest.mark.slow
def test_a_run_that_begins_ends_a_measurement(studio: Studio, project: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    made = project(REVIEWS, backbones=("minilm",))
    measurement = measurement_of(made, "minilm")
    measurement.start(["plan", "--task", made.address, "--backbone", "random:/nowhere", "--json"])
    run = studio.queue.add(made, ["methods"])
    begun: list[int] = []
    monkeypatch.setattr(ProjectRun, "start", lambda one: begun.append(one.number))
    assert within(30, lambda: measurement.pid is not None)
    studio.queue.look()
    assert begun == [run.number]
    assert within(30, lambda: not measurement.is_running)
    assert measurement.status is None


def test_measuring_again_forgets_what_was_measured(web: TestClient, project: Make, started: list[list[str]]) -> None:
    made = project(REVIEWS, backbones=("embedded", "minilm"))
    for one in made.backbones:
        measured(made, one)
    web.post("/reviews/plan/again")
    facts = web.get("/reviews/plan.json").json()
    assert [one["state"] for one in facts["plans"]] == ["running", "waits"]
    assert len(started) == 1


def test_chosen_models_are_kept_in_the_project(web: TestClient, project: Make, started: list[list[str]]) -> None:
    made = project(REVIEWS, backbones=("embedded",))
    sent = {"backbone-minilm": "yes", "others": " a/b , ../models/c,a/b", "minutes": "25"}
    answer = web.post("/reviews/plan/backbones", data=sent)
    assert answer.headers["location"] == "/reviews/plan?minutes=25"
    assert list(Project.read(made.directory).backbones) == ["minilm", "a/b", "../models/c"]
    page = web.get("/reviews/plan").text
    assert 'value="a/b, ../models/c"' in page
    assert re.search(r'name="backbone-minilm" value="yes" checked', page)
    assert not re.search(r'name="backbone-embedded" value="yes" checked', page)


def test_without_a_model_nothing_changes(web: TestClient, project: Make, started: list[list[str]]) -> None:
    made = project(REVIEWS, backbones=("minilm",))
    answer = web.post("/reviews/plan/backbones", data={"others": " , "})
    assert answer.status_code == 422
    assert "Pretrained models is empty" in answer.text
    assert list(Project.read(made.directory).backbones) == ["minilm"]


@pytest.mark.parametrize(
    ("backbones", "minutes", "expected"),
    [
        (("embedded",), "10", "With 10 minutes on embedded, the recommended model was 0.3 points of accuracy worse"),
        (("embedded",), "20", "20 minutes were not recorded: expect a result between those with 10 and 30 minutes."),
        (("embedded",), "60", "60 minutes were not recorded: expect a result as with 30 minutes."),
        (("bge",), "5", "With 5 minutes on bge, the recommended model was 0.2 points of accuracy worse"),
        (("bge", "embedded"), "5", "With 5 minutes on embedded and bge, the recommended model was 0.1 points"),
        (("embedded",), "1", "With 5 minutes"),
        (("embedded",), "x", "With 5 minutes"),
        (("embedded",), "99999", "With 5 minutes"),
    ],
)
def test_the_minutes_say_what_they_buy(
    web: TestClient, project: Make, started: list[list[str]], backbones: tuple[str, ...], minutes: str, expected: str
) -> None:
    project(REVIEWS, backbones=backbones)
    page = web.get("/reviews/plan", params={"minutes": minutes}).text
    assert expected in page


def test_the_form_of_runs_has_the_minutes_and_the_models_of_the_plan(
    web: TestClient, project: Make, started: list[list[str]]
) -> None:
    project(REVIEWS, backbones=("minilm", "../models/c"))
    page = web.get("/reviews/plan?minutes=25").text
    assert 'formaction="/reviews/runs"' in page
    runs = web.get("/reviews/runs?minutes=25").text
    assert re.search(r'name="minutes"[^>]*value="25"', runs)
    assert 'value="../models/c"' in runs
    assert re.search(r'name="backbone-minilm" value="yes" checked', runs)
    assert not re.search(r'name="backbone-embedded" value="yes" checked', runs)


@pytest.mark.slow
def test_the_costs_of_a_model_are_those_of_the_command(
    web: TestClient, studio: Studio, toy: str, backbones: Any, answered: Any
) -> None:
    made = studio.folder.create("toy", toy)
    tiny = str(backbones.path("bert"))
    made = Project(**{**vars(made), "backbones": (tiny,)}).save()
    answer = answered(measurement_of(made, tiny), [*plan.plan_arguments(made, [tiny]), "--json"])
    (plan_of_model,) = web.get("/toy/plan.json").json()["plans"]
    assert plan_of_model["found"] == answer
    assert "bitfit" not in answer["methods"]
    assert set(answer["methods"]) >= {"full", "lora", "linear_probe"}
    assert all(one["train_seconds"] is not None for one in answer["methods"].values())
    assert Path(toy).name in web.get("/toy/plan").text
