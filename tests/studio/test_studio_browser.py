"""The studio in a real browser: its pages for everybody, without a mouse, without a script; nothing from elsewhere."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
from doubts_of_studios import found
from playwright.sync_api import Browser, expect
from visitors import Visitor, answering, violations

from afina.studies.labelling.doubts import DoubtfulLabel
from afina.studies.study import Study
from afina.studio.access import Access
from afina.studio.command_process import CommandProcess
from afina.studio.folder import Project, StudioFolder
from afina.studio.label_decisions import LabelDecisions
from afina.studio.page import Studio
from afina.studio.run_queue import ProjectRun, RunQueue
from command import GuessingExecutor
from servers import within
from services import free_port

pytestmark = [pytest.mark.browser, pytest.mark.slow]

HOSTILE = '<img src=x onerror="document.title = \'taken\'"><script>document.title = "taken"</script>'
REVIEWS = "text,label\n" + "".join(
    f'"the film number {row} was {("dull", "fine")[row % 2]} {HOSTILE.replace(chr(34), chr(34) * 2)}",'
    f"{('bad', 'good')[row % 2]}\n"
    for row in range(60)
)
RUN = {"method": "lora", "backbone": "gpt2", "seed": 0}
EVENTS: list[dict[str, Any]] = [
    {"event": "begun"},
    {"event": "says", "words": f"reading {HOSTILE}"},
    {
        "event": "finished",
        **RUN,
        "run": "a",
        "title": "lora",
        "metric": "accuracy",
        "value": 0.8,
        "selection": {"value": 0.8, "examples": 40},
        "train_seconds": 3.0,
        "now": True,
    },
    {"event": "failed", **RUN, "run": "b", "title": "full", "message": f"no memory for {HOSTILE}"},
]


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    """A studio with a project of hostile texts and a run that has failed."""
    folder = StudioFolder(tmp_path_factory.mktemp("browser") / "studio")
    with folder.locked():
        made = Studio(folder, Access(folder, "127.0.0.1", free_port()), RunQueue(folder), upload_limit=10**6)
        upload = folder.upload()
        upload.write_text(REVIEWS, encoding="utf-8")
        reviews = folder.create(f"reviews {HOSTILE}", "reviews.csv", upload)
        _failed_run(reviews)
        _finished_run(reviews)
        _doubts(reviews)
        with answering(made):
            yield made
        for directory in folder.root.glob("*/processes/*"):
            process = CommandProcess(directory)
            process.kill()
            assert within(20, lambda: not process.is_running)  # noqa: B023 - called at once


def _failed_run(project: Project) -> None:
    run = ProjectRun(project, 1)
    run.ask(["choose", "--task", project.address, "--out", str(run.out)])
    run.out.mkdir(parents=True)
    lines = [json.dumps({"at": f"2026-01-01T00:00:{second:02}+00:00", **one}) for second, one in enumerate(EVENTS)]
    (run.out / "events.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    for name, content in {"command.json": {"arguments": ["choose"]}, "exit.json": {"status": 2}}.items():
        (run.process.directory / name).write_text(json.dumps(content), encoding="utf-8")


def _finished_run(project: Project) -> None:
    """A run with results, so that it has an answer."""
    run = ProjectRun(project, 2)
    run.ask(["study", "mine.toml", "--out", str(run.out)])
    methods: dict[str, dict[str, Any]] = {"full": {}, "lora": {}}
    Study(name="mine", backbone="gpt2", task=project.address, methods=methods).run(run.out, executor=GuessingExecutor())
    for name, content in {"command.json": {"arguments": ["study"]}, "exit.json": {"status": 0}}.items():
        (run.process.directory / name).write_text(json.dumps(content), encoding="utf-8")


def _doubts(project: Project) -> None:
    """Doubtful labels of hostile texts, of which one is decided."""
    facts = {"file": "reviews.csv", "text": HOSTILE, "label": "bad", "suggested": "good", "reason": f"like {HOSTILE}"}
    labels = [DoubtfulLabel(**facts, row=row, training=row < 4) for row in (2, 3, 4)]
    made = found(project, *labels)
    LabelDecisions(project).decide(made, labels[0], "kept", ["bad", "good"])


@pytest.fixture
def project(studio: Studio) -> Project:
    return studio.folder.projects()[-1]


def addresses(project: Project) -> list[str]:
    """Every page of the studio that a project with a failed run and a finished run has."""
    steps = (
        "data",
        "doubts",
        "label",
        "plan",
        "runs",
        "runs/1",
        "runs/2",
        "runs/2/answer",
        "runs/2/texts",
        "try",
        "keep",
    )
    steps = (*steps, "side-by-side?run-1=yes&run-2=yes")
    return ["", *(f"{project.name}/{step}" for step in steps)]


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (360, "dark")])
def test_pages_are_accessible_fit_the_window_and_load_nothing_from_elsewhere(
    chromium: Browser, studio: Studio, project: Project, width: int, scheme: Literal["light", "dark"]
) -> None:
    visitor = Visitor(chromium, studio, width, color_scheme=scheme, reduced_motion="reduce")
    found = []
    try:
        for path in addresses(project):
            page = visitor.go(path)
            if "/runs/2/" in path:  # computed in a process
                expect(page.locator("[data-events]")).to_have_count(0, timeout=60_000)
                expect(page.locator("article, .matrix").first).to_be_visible()
            page.evaluate("document.querySelectorAll('details').forEach(one => { one.open = true })")
            assert page.evaluate("document.scrollingElement.scrollWidth") <= width, path
            assert page.title() != "taken"
            assert page.locator("h1").count() == 1, path
            found += [(path, violation) for violation in violations(page)]
    finally:
        visitor.context.close()
    assert found == []
    assert visitor.said == []
    assert visitor.elsewhere == []


def test_a_cell_of_the_confusion_matrix_opens_its_texts_without_a_script_too(
    chromium: Browser, studio: Studio, project: Project
) -> None:
    visitor = Visitor(chromium, studio, 1280, java_script_enabled=False)
    try:
        page = visitor.go(f"{project.name}/runs/2/answer")
        cell = page.get_by_role("link", name="right bad, answered good").first
        expect(cell).to_be_visible(timeout=60_000)  # the page asks again by itself
        count = int(cell.inner_text())
        cell.click()
        expect(page.get_by_role("heading", level=1)).to_have_text("Right label bad, answered good")
        expect(page.get_by_role("article")).to_have_count(count, timeout=60_000)
    finally:
        visitor.context.close()


def test_without_a_script_a_project_is_made_read_and_run(chromium: Browser, studio: Studio, tmp_path: Path) -> None:
    file = tmp_path / "quiet.csv"
    rows = [f"film number {row} is {('dull,bad', 'fine,good')[row % 2]}" for row in range(60)]
    file.write_text("\n".join(["text,label", *rows]), encoding="utf-8")
    visitor = Visitor(chromium, studio, 1280, java_script_enabled=False)
    try:
        page = visitor.go("")
        page.set_input_files("input[type=file]", str(file))
        page.get_by_role("button", name="Make the project").click()
        expect(page.get_by_role("heading", level=1)).to_have_text("quiet: data")
        expect(page.get_by_text("Training texts").first).to_be_visible(timeout=60_000)  # the page asks again by itself
        page.get_by_role("link", name="Runs").click()
        page.get_by_role("button", name="Start").click()
        expect(page.get_by_role("status")).to_contain_text("queued")
        page.get_by_role("button", name="Stop").click()
        expect(page.get_by_role("status")).to_contain_text("stop", timeout=60_000)
    finally:
        visitor.context.close()


def test_the_slider_of_the_plan_shows_its_minutes_and_the_form_of_runs_gets_them(
    chromium: Browser, studio: Studio, project: Project
) -> None:
    visitor = Visitor(chromium, studio, 1280)
    try:
        page = visitor.go(f"{project.name}/plan?minutes=10")
        page.get_by_role("slider").focus()
        page.keyboard.press("ArrowRight")
        expect(page.get_by_role("status").first).to_have_text("11 minutes")  # an output is a status
        page.get_by_role("button", name="Go on: start a run").click()
        expect(page.get_by_role("heading", level=1)).to_contain_text("runs")
        expect(page.locator("#minutes")).to_have_value("11")
    finally:
        visitor.context.close()


def test_without_a_mouse_a_project_is_made_of_an_address(chromium: Browser, studio: Studio) -> None:
    visitor = Visitor(chromium, studio, 1280)
    try:
        page = visitor.go("")
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
        for _ in range(40):
            page.keyboard.press("Tab")
            if page.evaluate("document.activeElement.id") == "address":
                break
        page.keyboard.type("snippets:tweets")
        page.keyboard.press("Enter")
        expect(page.get_by_role("heading", level=1)).to_contain_text("snippets:tweets")
    finally:
        visitor.context.close()
