"""The answer of a run: its page, the texts behind the figures, tests on other files, and downloads."""

from __future__ import annotations

import io
import json
import re
import tomllib
import zipfile
from collections.abc import Callable
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from afina import file_io
from afina.report.report import Report
from afina.studies.results import Results
from afina.studies.runs.output_directory import OutputDirectory
from afina.studies.study import Study
from afina.studio.command_process import CommandProcess
from afina.studio.folder import Project
from afina.studio.kept_answer import KeptAnswer
from afina.studio.run_queue import ProjectRun
from afina.studio.zip_stream import PART, zipped
from command import Command, GuessingExecutor
from fakes import Backbones, sentences

LABELS = ("a & b", "<i>fair</i>", "good")
TEXTS = "text,label\n" + "".join(f"text {i} <b>of</b> {LABELS[i % 3]},{LABELS[i % 3]}\n" for i in range(90))

Make = Callable[..., Project]


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch, answered: Any) -> list[list[str]]:
    """Commands are carried out at once, in this process; the list has the arguments of each."""
    every: list[list[str]] = []

    def start(process: CommandProcess, arguments: Any, environment: Any = None, memory: Any = None) -> None:
        every.append([*arguments])
        answered(process, arguments)

    monkeypatch.setattr(CommandProcess, "start", start)
    return every


def ended(project: Project, status: int = 0, number: int = 1) -> ProjectRun:
    """A run of a project, whose command has ended; its results are to be made."""
    run = ProjectRun(project, number)
    run.ask(["study", "mine.toml", "--out", str(run.out)])
    (run.process.directory / "command.json").write_text(json.dumps({"arguments": ["study"]}))
    (run.process.directory / "exit.json").write_text(json.dumps({"status": status}))
    return run


@pytest.fixture
def run(project: Make) -> ProjectRun:
    """A run that has compared two methods."""
    made = ended(project(TEXTS.encode()))
    study = Study(name="mine", backbone="gpt2", task=made.project.address, methods={"full": {}, "lora": {}})
    study.run(made.out, executor=GuessingExecutor())
    return made


def links(page: str, begin: str) -> list[str]:
    return [unescape(one) for one in re.findall(r'href="([^"]*)"', page) if one.startswith(begin)]


def test_the_answer_is_computed_once_and_again_when_the_results_change(
    web: TestClient, run: ProjectRun, started: list[list[str]]
) -> None:
    page = web.get("/reviews/runs/1/answer").text
    assert "accuracy" in re.findall(r"<h1>(.*)</h1>", page)[0]
    assert web.get("/reviews/runs/1/answer").text == page
    assert [one[0] for one in started] == ["report"]
    records = run.out / "records.jsonl"
    records.write_text("\n".join(records.read_text(encoding="utf-8").splitlines()[:1]) + "\n", encoding="utf-8")
    assert web.get("/reviews/runs/1/answer").text != page
    assert [one[0] for one in started] == ["report", "report"]


def test_the_list_of_runs_has_the_headline_with_what_is_undecided(
    web: TestClient, run: ProjectRun, started: list[list[str]]
) -> None:
    headline = unescape(re.findall(r"<h1>(.*)</h1>", web.get("/reviews/runs/1/answer").text)[0])
    assert "accuracy" in headline
    assert web.get("/reviews/runs.json").json()["runs"][0]["answer"] == headline
    assert headline in unescape(web.get("/reviews/runs").text)
    assert [one[0] for one in started] == ["report"], "the list shows what is kept"


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ("another text", "cannot be compared: they were evaluated on different texts."),
        ("text", "run 2 (full fine-tuning) on 999 texts. A part of a difference may come from the number"),
    ],
)
def test_runs_side_by_side_have_their_figures_and_a_verdict_or_the_reason_why_there_is_none(
    web: TestClient, run: ProjectRun, started: list[list[str]], changed: str, said: str
) -> None:
    second, file = ended(run.project, number=2), run.out / "second.csv"
    file.write_text(TEXTS.replace("\ntext", f"\n{changed}"), encoding="utf-8")
    study = Study(name="mine", backbone="gpt2", task=str(file), methods={"full": {}})
    study.run(second.out, executor=GuessingExecutor())
    directory = OutputDirectory(second.out)
    directory.write([one.model_copy(update={"train_examples": 999}).sealed() for one in directory.read()])
    assert 'name="run-2"' in web.get("/reviews/runs").text
    facts = web.get("/reviews/side-by-side.json?run-1=yes&run-2=yes").json()
    assert facts["is_final"]
    assert [one["number"] for one in facts["runs"]] == [1, 2]
    assert [one["problem"] for one in facts["runs"]] == ["", ""]
    assert all("95 % interval" in one["figures"][0][2] for one in facts["runs"])
    words = " ".join(facts["said"])
    assert said in words
    assert ("Undecided between run 1" in words) == (changed == "text")
    page = unescape(web.get("/reviews/side-by-side?run-1=yes&run-2=yes").text)
    assert all(one in page for one in facts["said"])
    assert "Choose two runs or more" in web.get("/reviews/side-by-side").text


def test_every_link_of_the_page_leads_somewhere(
    web: TestClient, run: ProjectRun, started: list[list[str]], afina: Command
) -> None:
    assert afina("report", run.out).code == 0
    page = web.get("/reviews/runs/1/answer").text
    own = links(page, "/reviews/runs/1")
    assert {"/reviews/runs/1/adapter.zip", "/reviews/runs/1/study.toml", "/reviews/runs/1/files/report.html"} <= {*own}
    assert {address: web.get(address).status_code for address in own} == dict.fromkeys(own, 200)
    ids = re.findall(r'\bid="([^"]*)"', page)
    assert len({*ids}) == len(ids)
    assert {one[1:] for one in links(page, "#")} <= {*ids}


def test_the_twin_in_json_is_what_show_prints(
    web: TestClient, run: ProjectRun, started: list[list[str]], afina: Command
) -> None:
    assert web.get("/reviews/runs/1/answer.json").json() == afina("show", run.out.absolute(), "--json").object()


def test_what_texts_and_labels_hold_is_never_markup_and_no_style_element_is_on_the_page(
    web: TestClient, run: ProjectRun, started: list[list[str]]
) -> None:
    pages = [web.get(f"/reviews/runs/1/{one}").text for one in ("answer", "texts")]
    assert all("&lt;i&gt;fair&lt;/i&gt;" in page for page in pages)
    assert not any("<i>" in page or "<b>" in page or "<style" in page for page in pages)


def test_a_cell_of_the_confusion_matrix_opens_as_many_texts_as_it_counts(
    web: TestClient, run: ProjectRun, started: list[list[str]]
) -> None:
    page = web.get("/reviews/runs/1/answer").text
    cells = re.findall(
        r'<a href="(/reviews/runs/1/texts\?[^"]*)" aria-label="(\d+) texts: right ([^"]*), answered', page
    )
    assert len(cells) >= 4
    for address, count, given in cells:
        shown = web.get(unescape(address)).text
        texts = re.findall(r'<article class="example">\s*<p>(.*)</p>', shown)
        assert len(texts) == int(count)
        assert all(text.endswith(f"of {given}".replace("of", "&lt;b&gt;of&lt;/b&gt;", 1)) for text in texts)


def test_another_method_can_be_chosen(web: TestClient, run: ProjectRun, started: list[list[str]]) -> None:
    page = web.get("/reviews/runs/1/answer").text
    keys = dict(re.findall(r'<option value="(sha256:[^"]*)"[^>]*>(.*)</option>', page))
    assert len(keys) == 2
    for key, title in keys.items():
        shown = web.get("/reviews/runs/1/answer", params={"method": key}).text
        assert f"<p>{title}, seed 0, on the held-out texts.</p>" in shown
    assert len(started) == 1


def test_texts_that_changed_since_the_run_and_unknown_labels_are_refused_in_a_sentence(
    web: TestClient, run: ProjectRun, started: list[list[str]]
) -> None:
    assert "unknown label" in web.get("/reviews/runs/1/texts", params={"given": "--help"}).text
    Path(run.project.address).write_text(TEXTS.replace("text ", "other "), encoding="utf-8")
    assert "no longer those of these runs" in web.get("/reviews/runs/1/texts").text


def test_a_run_without_results_has_no_answer_yet(web: TestClient, project: Make, started: list[list[str]]) -> None:
    ended(project(TEXTS.encode()), status=2)
    page = web.get("/reviews/runs/1/answer")
    assert page.status_code == 200
    assert "has no results yet" in page.text
    for path in ("answer.json", "adapter.zip", "study.toml", "files/report.html", "texts"):
        assert web.get(f"/reviews/runs/1/{path}").status_code == 409
    assert web.get("/reviews/runs/2/answer").status_code == 404
    assert started == []


def test_downloads_are_the_files_of_the_results(
    web: TestClient, run: ProjectRun, started: list[list[str]], afina: Command
) -> None:
    assert afina("report", run.out).code == 0
    for name in ("report.html", "report.md", "tables.csv", "tables.json"):
        sent = web.get(f"/reviews/runs/1/files/{name}")
        assert sent.content == (run.out / name).read_bytes()
        assert sent.headers["content-disposition"].startswith("attachment")
    assert web.get("/reviews/runs/1/files/records.jsonl").status_code == 404
    assert web.get("/reviews/runs/1/files/..%2Frecords.jsonl").status_code == 404
    study = tomllib.loads(web.get("/reviews/runs/1/study.toml").text)
    assert (study["task"], {*study["methods"]}) == (run.project.address, {"full", "lora"})
    archive = zipfile.ZipFile(io.BytesIO(web.get("/reviews/runs/1/adapter.zip").content))
    best = Report.of(Results.read(run.out)).of_use
    assert best
    adapter = run.out / str(best.adapter)
    found = {Path(name).name: archive.read(name) for name in archive.namelist()}
    assert found == {path.name: path.read_bytes() for path in adapter.iterdir()}


def test_a_zip_file_holds_a_directory_and_is_sent_in_parts(tmp_path: Path) -> None:
    directory = tmp_path / "adapter"
    (directory / "inside").mkdir(parents=True)
    contents = {"a.bin": bytes(range(256)) * (PART // 64), "inside/é.txt": b"text", "empty": b""}
    for name, content in contents.items():
        (directory / name).write_bytes(content)
    (directory / "link").symlink_to("/etc/hostname")
    parts = list(zipped(directory))
    assert max(map(len, parts)) < 1.1 * PART
    archive = zipfile.ZipFile(io.BytesIO(b"".join(parts)))
    assert archive.testzip() is None
    assert {name: archive.read(name) for name in archive.namelist()} == {
        f"adapter/{name}": content for name, content in contents.items()
    }


def test_a_kept_answer_is_computed_again_after_a_kill_and_says_an_error(
    tmp_path: Path, started: list[list[str]]
) -> None:
    kept = KeptAnswer(CommandProcess(tmp_path / "kept"), ["methods"], "one")
    kept.begin()
    assert kept.found is not None
    assert "lora" in kept.found
    (tmp_path / "kept" / "exit.json").unlink()
    assert kept.found is None
    kept.begin()
    assert kept.found is not None
    wrong = KeptAnswer(kept.process, ["show", str(tmp_path / "none")], "two")
    assert (wrong.found, wrong.problem) == (None, "")
    wrong.begin()
    assert "no finished run" in wrong.problem
    assert [one[0] for one in started] == ["methods", "methods", "show"]


@pytest.mark.slow
def test_the_adapter_is_measured_on_another_file(
    web: TestClient, project: Make, started: list[list[str]], afina: Command, backbones: Backbones
) -> None:
    rows = [(text, ("bad", "good")[label]) for text, label in sentences(120)]
    made = ended(project(("text,label\n" + "".join(f'"{text}",{label}\n' for text, label in rows[:80])).encode()))
    trained = afina(
        *("train", "--task", made.project.address, "--backbone", backbones.path("gpt2"), "--out", made.out),
        *("--set", "max_steps=2", "--set", "dtype=float32"),
    )
    assert trained.code == 0, trained.err
    other = "words,label\n" + "".join(f'"{text} again",{label}\n' for text, label in rows[80:])
    address = "/reviews/runs/1/tests"
    assert web.post(address, files={"file": ("other.csv", other)}).status_code == 404  # the answer was never opened
    web.get("/reviews/runs/1/answer")
    sent = web.post(address, files={"file": ("../../other.csv", other)})
    assert (sent.status_code, sent.headers["location"]) == (303, f"{address}/1")
    page = web.get(f"{address}/1").text
    assert "“Column of the text”" in page
    assert str(made.project.directory) not in re.findall(r'role="alert">([^<]*)', page)[0]
    web.post(address, files={"file": ("other.csv", other)}, data={"text": "words"})
    found = web.get(f"{address}/2.json").json()["found"]
    page = web.get(f"{address}/2").text
    assert (found["examples"], f"{found['accuracy']:.4f}" in page) == (40, True)
    assert found["intervals"]["accuracy"] == found["interval"]
    assert len(found["intervals"]) > 4
    for low, high in found["intervals"].values():
        assert f"95 % interval {low:.4f} to {high:.4f}" in page
    listed = web.get("/reviews/runs/1/answer").text
    assert f'<a href="{address}/2">other.csv</a>: Accuracy {found["accuracy"]:.4f}' in listed
    assert f'<a href="{address}/1">other.csv</a>: failed' in listed
    assert web.post(address, data={"address": ""}).status_code == 422
    assert web.get(f"{address}/3").status_code == 404
    assert file_io.read_object(made.process.directory / "exit.json") == {"status": 0}


KINDS = {
    "number": ("--kind=number", "text,label\n" + "".join(f"text {i} and more,{i % 7}.5\n" for i in range(80))),
    "labels": (
        "--separator=;",
        "text,label\n" + "".join(f"text {i} and more,{'a;b' if i % 2 else 'c'}\n" for i in range(80)),
    ),
    "text": ("--target=summary", "text,summary\n" + "".join(f"text {i} and more,text {i}\n" for i in range(80))),
    "entities": (
        "--kind=entities",
        "text,entities\n" + "".join(f'text {i} and more,"[[0, 4, ""{"AB"[i % 2]}""]]"\n' for i in range(80)),
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_task_has_an_answer_and_a_test_on_another_file(
    kind: str, web: TestClient, project: Make, started: list[list[str]], afina: Command, backbones: Backbones
) -> None:
    option, content = KINDS[kind]
    made = ended(project(content.encode()))
    model = ("--backbone", backbones.path("gpt2"), "--set", "max_steps=2", "--set", "dtype=float32")
    trained = afina("train", "--task", made.project.address, option, *model, "--out", made.out)
    assert trained.code == 0, trained.err
    page = web.get("/reviews/runs/1/answer").text
    assert '<h2 id="downloads">' in page
    assert ('id="by-label"' in page, 'class="matrix"' in page) == (kind in ("labels", "entities"), False)
    shown = web.get("/reviews/runs/1/texts").text
    if kind == "entities":
        assert "All texts with a wrong answer" in page
        assert '<mark class="wrong"><bdi>' in shown
    else:
        assert f"the task is of kind {kind}" in shown
    other = content.replace(" and more", " again")
    sent = web.post("/reviews/runs/1/tests", files={"file": ("other.csv", other)})
    page = web.get(sent.headers["location"])
    assert (page.status_code, "On 80 texts" in page.text) == (200, True), page.text
    assert ("Errors of entities" in page.text) == (kind == "entities")
