"""Runs one after the other, whose state on disk survives everything: states of invented processes, and real ones."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient
from waiting import family, kill, nothing_left_below, read, until

from afina import Backbone, Study
from afina.errors import Conflict, CorruptAdapter, NotFound
from afina.studies.results import Results
from afina.studio.command_process import CommandProcess
from afina.studio.folder import Project, StudioFolder
from afina.studio.page import Studio
from afina.studio.run_queue import TRIES, ProjectRun, RunQueue, run_of, runs_of
from command import study_file
from raises import raises
from workers import checkpoints_below

COMMAND = ["choose", "--task", "sst2"]


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[StudioFolder]:
    made = StudioFolder(tmp_path / "studio")
    made.own.mkdir(parents=True)
    with nothing_left_below(tmp_path):
        yield made


@pytest.fixture
def queue(folder: StudioFolder) -> RunQueue:
    return RunQueue(folder)


@pytest.fixture
def project(folder: StudioFolder) -> Project:
    return folder.create("reviews", "sst2")


class Invented:
    """Processes that do what a test says, instead of starting."""

    def __init__(self) -> None:
        self.started: list[str] = []

    def start(self, process: CommandProcess, arguments: Any, environment: Any = None, memory: Any = None) -> None:
        self.started.append(process.directory.name)
        process.directory.mkdir(parents=True, exist_ok=True)
        (process.directory / "command.json").write_text(json.dumps({"arguments": [*arguments]}), encoding="utf-8")
        (process.directory / "exit.json").unlink(missing_ok=True)


@pytest.fixture
def invented(monkeypatch: pytest.MonkeyPatch) -> Invented:
    """Each process that is started is lost at once; `ends` gives it an exit status."""
    made = Invented()
    monkeypatch.setattr(CommandProcess, "start", lambda *given, **limits: made.start(*given, **limits))
    return made


def ends(run: ProjectRun, status: int) -> ProjectRun:
    (run.process.directory / "exit.json").write_text(json.dumps({"status": status}), encoding="utf-8")
    return run


def test_a_run_is_queued_started_and_done(project: Project, queue: RunQueue, invented: Invented) -> None:
    run = queue.add(project, COMMAND)
    out = str((project.directory / "runs" / "1").absolute())
    assert (run.number, run.command, run.state) == (1, "choose", "queued")
    assert run.arguments == [*COMMAND, "--out", out]
    queue.look()
    assert invented.started == ["run-1"]
    assert ends(run, 0).state == "done"
    queue.look()
    assert invented.started == ["run-1"]
    assert [one.number for one in runs_of(project)] == [1]
    assert run_of(project, "1") == run
    for number in ("2", "01", "x", "-1", ""):
        with raises(NotFound, code="studio.missing"):
            run_of(project, number)


@pytest.mark.parametrize(
    ("status", "state"), [(0, "done"), (1, "failed"), (2, "failed"), (-9, "failed"), (130, "queued"), (-15, "queued")]
)
def test_the_state_of_a_run_follows_from_the_exit_status(
    project: Project, queue: RunQueue, invented: Invented, status: int, state: str
) -> None:
    run = queue.add(project, COMMAND)
    queue.look()
    assert ends(run, status).state == state
    if state == "queued":
        queue.look()
        assert invented.started == ["run-1", "run-1"]


def test_a_run_whose_process_is_lost_five_times_fails_with_a_sentence_and_can_go_on(
    project: Project, queue: RunQueue, invented: Invented
) -> None:
    run = queue.add(project, COMMAND)
    for _ in range(TRIES + 3):
        queue.look()
    assert invented.started == ["run-1"] * TRIES
    assert run.state == "failed"
    assert "lost each time" in run.failure
    run.resume()
    assert run.state == "queued"
    queue.look()
    assert len(invented.started) == TRIES + 1


def test_why_a_run_has_failed_is_shown_on_its_page(studio: Studio, web: TestClient, invented: Invented) -> None:
    made = studio.folder.create("reviews", "sst2")
    lost, killed, wrong = (studio.queue.add(made, COMMAND) for _ in range(3))
    for _ in range(TRIES + 1):
        studio.queue.look()
    ends(killed, -9)
    ends(wrong, 2)
    (wrong.process.directory / "log").write_text("Error: <b>sst2</b> is gone.", encoding="utf-8")
    for run, words in ((lost, "lost each time"), (killed, "signal 9"), (wrong, "&lt;b&gt;sst2&lt;/b&gt; is gone")):
        page = web.get(f"/{made.name}/runs/{run.number}")
        assert page.status_code == 200
        assert words in page.text


def test_the_page_of_a_run_says_from_the_first_second_what_is_computed_and_the_minutes_that_are_left(
    studio: Studio, web: TestClient, invented: Invented, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = studio.folder.create("reviews", "sst2")
    run = studio.queue.add(made, [*COMMAND, "--backbone", "minilm", "--minutes", "10"])
    studio.queue.look()
    monkeypatch.setattr(CommandProcess, "is_running", True)
    page = " ".join(web.get(f"/{made.name}/runs/1").text.split())
    assert "Finds the method and learning rate that suit the texts best on minilm. It was given 10 minutes." in page
    assert re.search(r"9:5\d of 10 minutes left|10:00 of 10 minutes left", page)
    assert "The run begins and reads the texts." in page
    training = {"run": "a", "title": "lora-0.003", "method": "lora", "backbone": "minilm", "seed": 0}
    steps = [{"event": "begun"}, {"event": "started", **training, "number": 2, "total": 9}]
    for step, loss in ((10, 0.7), (20, 0.5)):
        empty = {"tokens_per_second": None, "seconds_left": 61.0, "note": ""}
        steps.append(
            {"event": "progress", **training, "phase": "train", "step": step, "steps": 40, "loss": loss, **empty}
        )
    run.out.mkdir(parents=True)
    lines = [json.dumps({"at": "2026-01-01T00:00:00+00:00", **one}) for one in steps]
    (run.out / "events.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    page = " ".join(web.get(f"/{made.name}/runs/1").text.split())
    assert "Training 2 of 9: LoRA at learning rate 0.003 trains, loss 0.500, 1:01 left" in page
    assert 'aria-label="Loss of LoRA at learning rate 0.003 so far: from 0.700 to 0.500"' in page
    assert 'points="0.0,1.0 100.0,29.0"' in page
    assert "<button>End with the best so far</button>" in page
    assert "So far the best" not in page
    so_far = {"name": "linear_probe-on-minilm", "metric": "accuracy", "value": 0.75, "examples": 60, "next": ["lora"]}
    lines.append(json.dumps({"at": "2026-01-01T00:00:05+00:00", "event": "answered", **so_far}))
    (run.out / "events.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    page = " ".join(web.get(f"/{made.name}/runs/1").text.split())
    figure = "accuracy 0.75 (0.63 to 0.84) on 60 held-out texts"
    assert f"So far the best: linear probe on minilm, {figure}; next, if there is time: LoRA" in page
    interrupted: list[str] = []
    monkeypatch.setattr(CommandProcess, "interrupt", lambda self: interrupted.append(self.directory.name))
    web.post(f"/{made.name}/runs/1/stop", data={})
    assert interrupted == ["run-1"]
    assert "The run ends with the best so far." in web.get(f"/{made.name}/runs/1").text
    monkeypatch.undo()
    assert ends(run, 0).state == "done"


def test_a_run_is_named_copied_and_deleted_with_all_that_is_its_own(
    studio: Studio, web: TestClient, invented: Invented
) -> None:
    made = studio.folder.create("reviews", "sst2")
    run = ends(studio.queue.add(made, COMMAND), 0)
    run.process.directory.joinpath("command.json").write_text(json.dumps({"arguments": COMMAND}), encoding="utf-8")
    (run.out / "adapters").mkdir(parents=True)
    own, others = ("answer-1", "test-1-2", "texts-1-0a"), ("diff-1-1", "answer-11", "run-11x")
    for name in (*own, *others):
        made.process(name).directory.mkdir()
    here = f"/{made.name}/runs/1"
    assert web.post(f"{here}/name", data={"title": "first <try>"}).headers["location"] == here
    assert "run 1, first &lt;try&gt;</h1>" in web.get(here).text
    assert "Run 1: first &lt;try&gt;" in web.get(f"/{made.name}/runs").text
    assert web.post(f"{here}/copy", data={}).headers["location"] == f"/{made.name}/runs/2"
    copy = run_of(made, "2")
    assert copy.arguments == [*COMMAND, "--out", str(copy.out.absolute())]
    page = web.get(here).text
    assert "Delete run 1 for ever" in page
    assert "Versions that were published stay." in page
    assert web.post(f"{here}/delete", data={}).headers["location"] == f"/{made.name}/runs"
    assert [one.number for one in runs_of(made)] == [2]
    assert not run.out.exists()
    left = {path.name for path in run.process.directory.parent.iterdir()}
    assert left == {*others, "run-2"}


def test_a_run_that_goes_on_and_its_project_are_not_deleted(
    studio: Studio, web: TestClient, invented: Invented, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = studio.folder.create("reviews", "sst2")
    studio.queue.add(made, COMMAND)
    studio.queue.look()
    monkeypatch.setattr(CommandProcess, "is_running", True)
    answer = web.post(f"/{made.name}/runs/1/delete", data={})
    assert (answer.status_code, "is running, so it cannot be deleted" in answer.text) == (409, True)
    answer = web.post(f"/{made.name}/delete", data={})
    assert (answer.status_code, "so the project cannot be deleted" in answer.text) == (409, True)
    assert runs_of(made)


def test_a_project_is_named_copied_without_its_runs_and_deleted(
    studio: Studio, web: TestClient, invented: Invented
) -> None:
    upload = studio.folder.upload()
    upload.write_text("text,label\na,bad\n", encoding="utf-8")
    made = studio.folder.create("reviews", "reviews.csv", upload)
    made = made.with_options({"text": "text", "without": str(made.directory.absolute() / "changes" / "a.csv")})
    ends(studio.queue.add(made, COMMAND), 0)
    assert web.post("/reviews/name", data={"title": ""}).status_code == 422
    assert web.post("/reviews/name", data={"title": "Films"}).headers["location"] == "/reviews/runs"
    assert studio.folder.project("reviews").title == "Films"
    where = web.post("/reviews/copy", data={}).headers["location"]
    copy = studio.folder.project(where.split("/")[1])
    assert (copy.title, copy.options, runs_of(copy)) == ("Films (copy)", {"text": "text"}, [])
    assert (copy.data / copy.task).read_text(encoding="utf-8") == "text,label\na,bad\n"
    assert "1 run with all adapters" in web.get("/reviews/runs").text
    assert web.post("/reviews/delete", data={}).headers["location"] == "/"
    assert [one.name for one in studio.folder.projects()] == [copy.name]
    assert not made.directory.exists()


def test_a_failure_that_would_repeat_is_said_beside_go_on(studio: Studio, web: TestClient, invented: Invented) -> None:
    made = studio.folder.create("reviews", "sst2")
    of_data, of_memory = (ends(studio.queue.add(made, COMMAND), 2) for _ in range(2))
    for run, kind, words in ((of_data, "InvalidData", "no column."), (of_memory, "OutOfMemory", "no room.")):
        run.process.directory.joinpath("command.json").write_text(json.dumps({"arguments": COMMAND}), encoding="utf-8")
        error = json.dumps({"error": {"class": kind, "parts": [words]}})
        run.process.directory.joinpath("error.json").write_text(error, encoding="utf-8")
    assert "would fail again" in web.get(f"/{made.name}/runs/1").text
    page = web.get(f"/{made.name}/runs/2").text
    assert "no room." in page
    assert "fail again" not in page
    of_memory.resume()
    assert of_memory.would_repeat == ""
    ends(of_memory, 2)
    assert "failed twice for the same reason" in web.get(f"/{made.name}/runs/2").text


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"what": "choose", "minutes": "abc"}, "The field Minutes is &#39;abc&#39;, not a number."),
        ({"what": "choose", "minutes": "-3"}, "The field Minutes is -3. Give a number above 0 and up to 1440."),
        ({"what": "choose", "minutes": "0"}, "The field Minutes is 0."),
        (
            {"what": "study", "preset": "../../etc"},
            "The field Study is &#39;../../etc&#39;. Expected one of: quickstart",
        ),
        ({"what": "else"}, "The field What to find out is &#39;else&#39;."),
    ],
)
def test_a_form_with_values_that_cannot_be_is_refused_when_it_is_sent(
    studio: Studio, web: TestClient, fields: dict[str, str], said: str
) -> None:
    made = studio.folder.create("reviews", "sst2")
    answer = web.post(f"/{made.name}/runs", data=fields)
    assert answer.status_code == 422
    assert said in answer.text
    assert runs_of(made) == []


def test_a_task_of_texts_to_write_offers_no_encoder_and_refuses_one(
    studio: Studio, web: TestClient, invented: Invented
) -> None:
    made = studio.folder.create("reviews", "pairs.csv").with_options({"target": "answer"})
    for page in ("plan", "runs"):
        text = web.get(f"/{made.name}/{page}").text
        assert 'name="backbone-embedded"' in text
        assert 'name="backbone-minilm"' not in text
    assert web.post(f"/{made.name}/runs", data={"what": "choose"}).status_code == 303
    (asked,) = runs_of(made)
    assert asked.arguments[-6:-2] == ["--backbone", "embedded", "--minutes", "5"]
    asked.delete()
    for path, fields in (("runs", {"what": "choose"}), ("plan/backbones", {})):
        answer = web.post(f"/{made.name}/{path}", data={**fields, "others": "minilm"})
        assert answer.status_code == 422
        assert "The pretrained model minilm is an encoder, which cannot write texts" in answer.text
    assert runs_of(made) == []


def test_a_run_that_is_stopped_is_not_started_and_goes_on_when_it_is_asked_to(
    project: Project, queue: RunQueue, invented: Invented
) -> None:
    first, second = queue.add(project, COMMAND), queue.add(project, COMMAND)
    first.stop()
    assert first.state == "stopped"
    first.start()  # a look that found it queued before
    assert invented.started == []
    queue.look()
    assert invented.started == ["run-2"]
    for change in (first.stop, second.resume):
        with raises(Conflict, code="studio.run-state"):
            change()
    first.resume()
    ends(second, 0)
    for change in (second.stop, second.resume, first.resume):
        with raises(Conflict, code="studio.run-state"):
            change()
    queue.look()
    assert invented.started == ["run-2", "run-1"]


def test_runs_of_all_projects_are_started_in_the_order_in_which_they_were_asked_for(
    folder: StudioFolder, queue: RunQueue, invented: Invented
) -> None:
    projects = [folder.create(name, "sst2", None) for name in ("b", "a")]
    runs = [queue.add(one, COMMAND) for one in (projects[0], projects[1], projects[0])]
    for run in runs:
        queue.look()
        ends(run, 0)
    assert [one.state for one in runs] == ["done"] * 3
    runs[1].project.directory.rename(folder.root / "elsewhere")
    queue.look()


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "null", "{}", '{"arguments": 5}', '{"arguments": []}', '{"arguments": "choose", "starts": "x"}'],
)
def test_a_damaged_request_is_a_failed_run_with_a_sentence_and_delays_no_other(
    studio: Studio, web: TestClient, invented: Invented, content: str
) -> None:
    made = studio.folder.create("reviews", "sst2")
    broken, other = studio.queue.add(made, COMMAND), studio.queue.add(made, COMMAND)
    (broken.process.directory / "request.json").write_text(content, encoding="utf-8")
    studio.queue.look()
    assert invented.started == ["run-2"]
    assert (broken.state, other.state) == ("failed", "queued")
    with raises(CorruptAdapter, code="studio.damaged"):
        broken.resume()
    page = web.get("/reviews/runs/1")
    assert page.status_code == 200
    assert "request.json: the file of the run is damaged" in page.text
    assert web.get("/reviews/runs").status_code == 200
    assert web.get("/").status_code == 200
    assert web.post("/reviews/runs/1/resume").status_code == 422


def test_odd_values_in_a_request_and_odd_names_are_sane(project: Project, queue: RunQueue, invented: Invented) -> None:
    run = queue.add(project, COMMAND)
    content = {"arguments": ["choose", 5], "starts": "many", "asked": None, "wanted": "yes"}
    (run.process.directory / "request.json").write_text(json.dumps(content), encoding="utf-8")
    for name in ("run-x", "run-", "run-01", "run--1", "run-1e3", "run-٣", "run-99999999999999"):
        (run.process.directory.parent / name).mkdir()
        (run.process.directory.parent / name / "request.json").write_text("{}", encoding="utf-8")
    (run.process.directory.parent / "run-2").mkdir()  # a studio that was killed between two files
    assert [one.number for one in runs_of(project)] == [1]
    queue.look()
    assert invented.started == ["run-1"]
    assert queue.add(project, COMMAND).number == 3


# Real processes


@pytest.fixture
def study(gpt2: Backbone, toy: str, tmp_path: Path) -> Path:
    train = {"max_steps": 400, "batch_size": 4, "checkpoint_seconds": 0}
    content: dict[str, Any] = {"name": "resumed", "backbone": gpt2.address, "task": toy, "baselines": False}
    return study_file(tmp_path / "study.toml", **content, train=train, methods={"lora": {}})


def step_reached(run: ProjectRun) -> int:
    return len(checkpoints_below(run.out)) and b'"train"' in read(run.out / "events.jsonl")


@pytest.mark.slow
def test_after_a_reboot_and_a_stop_a_study_goes_on_from_its_checkpoint_to_the_same_digest(
    folder: StudioFolder, project: Project, study: Path, tmp_path: Path
) -> None:
    (reference,) = Study.load(str(study)).runs()
    undisturbed = reference.execute(tmp_path / "undisturbed")

    queue = RunQueue(folder)
    run = queue.add(project, ["study", str(study)])
    waits = queue.add(project, ["no-such-command"])
    queue.look()
    until(lambda: step_reached(run))
    queue.look()
    assert (run.state, waits.state) == ("running", "queued")

    killed = family(run.process.pid or 0)
    assert len(killed) >= 2
    kill(*killed)  # all processes, the supervisor first: a reboot
    assert not any(one.is_running() for one in killed)
    assert run.state == "queued"
    assert not (run.out / "records.jsonl").exists()

    queue = RunQueue(folder)  # of another studio
    queue.look()
    assert (run.state, waits.state) == ("running", "queued")
    until(lambda: read(run.out / "events.jsonl").count(b'"begun"') == 2 and run.process.memory > 2**20)
    until(lambda: read(run.out / "events.jsonl").rpartition(b'"begun"')[2].count(b'"phase": "train"'))
    run.stop()
    assert run.state in ("stopping", "stopped")
    until(lambda: run.state == "stopped")
    assert (run.process.status, run.process.log.count("Traceback")) == (130, 0)

    queue.look()
    assert waits.state in ("running", "failed")
    run.resume()
    until(lambda: waits.state == "failed")
    queue.look()
    until(lambda: run.state == "done")
    (record,) = Results.read(run.out).records
    same = {"digest", "losses", "steps", "tokens", "metrics", "predictions_digest", "key"}
    assert record.model_dump(include=same) == undisturbed.model_dump(include=same)
