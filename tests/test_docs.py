"""What the documentation tells a person to type, works."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

from afina import Study, assets, cli
from afina.errors import NotFound
from pages import ROOT, blocks, commands

WRITTEN = [path for path in (ROOT / "docs").rglob("*.md") if not path.parent.name.endswith("-report")]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *WRITTEN])
COMMANDS: Any = typer.main.get_command(cli.app)


def shell_lines() -> Iterator[tuple[str, list[str]]]:
    """(page, words) of every line in a block of shell."""
    return ((page.name, words) for page in PAGES for words in commands(page))


AFINA = [
    (page, words[1:])
    for page, words in shell_lines()
    if Path(words[0]).name == "afina" and not {"|", ">", "&&"} & set(words)
]


def test_the_readme_has_commands_and_an_example_to_check() -> None:
    assert len([words for page, words in AFINA if page == "README.md"]) >= 3
    assert blocks(ROOT / "README.md", "python")


@pytest.mark.parametrize(("page", "words"), AFINA, ids=lambda value: " ".join(value) if isinstance(value, list) else "")
def test_a_command_line_in_the_documentation_exists(page: str, words: list[str]) -> None:
    assert words[0] in COMMANDS.commands
    command, given = COMMANDS.commands[words[0]], words[1:]
    context = command.make_context(words[0], given)  # fails on unknown or missing options
    if words[0] in ("store", "keys"):
        name, command, given = command.resolve_command(context, [*context._protected_args, *context.args])
        command.make_context(name, given, parent=context)
    if words[0] == "study" and not words[1].endswith(".toml"):
        Study.load(words[1], context.params["overrides"] or [])


def test_tests_named_in_the_text_exist_once() -> None:
    """What is said to be protected, is: by a test of that name."""
    there = [
        name
        for path in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"^def (test_\w+)", path.read_text(encoding="utf-8"), re.MULTILINE)
    ]
    named = {name for page in PAGES for name in re.findall(r"`(test_\w+)`", page.read_text(encoding="utf-8"))}
    assert len(named) >= 30
    assert {name: there.count(name) for name in named if there.count(name) != 1} == {}


def test_commands_named_in_the_text_exist() -> None:
    named = {name for page in PAGES for name in re.findall(r"`afina ([a-z-]+)[^`]*`", page.read_text(encoding="utf-8"))}
    assert named
    assert named <= COMMANDS.commands.keys()


def test_options_named_in_the_readme_exist() -> None:
    every = [*COMMANDS.commands.values(), *COMMANDS.commands["store"].commands.values()]
    options = {name for command in every for parameter in command.params for name in parameter.opts}
    named = set(re.findall(r"`(--[a-z-]+)", (ROOT / "README.md").read_text(encoding="utf-8")))
    assert named
    assert named <= options


def test_settings_named_in_the_text_are_fields_of_a_study() -> None:
    """Those of `afina train`, which have no dot, are typed in tests/test_typed_pages.py."""
    texts = [page.read_text(encoding="utf-8") for page in PAGES]
    settings = {name for text in texts for name in re.findall(r"--set ([a-z_0-9-]+\.[a-z_.0-9-]+=[^\s`]+)", text)}
    assert settings
    for setting in settings:
        Study.load("quickstart", [setting])


def test_targets_of_make_that_the_documentation_names_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    named = {words[1] for _, words in shell_lines() if words[0] == "make" and len(words) > 1}
    named |= {name for page in PAGES for name in re.findall(r"`make ([a-z-]+)[^`]*`", page.read_text(encoding="utf-8"))}
    assert {"study", "test"} <= named
    assert named <= targets


def test_links_between_pages_lead_somewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    from site_pages import GENERATED

    links = [
        (page, target)
        for page in PAGES
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    ]
    assert links
    generated = {ROOT / "docs" / page for page in GENERATED}
    files = [(page.name, (page.parent / target).resolve()) for page, target in links]
    assert [(page, path) for page, path in files if not path.exists() and path not in generated] == []


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub and the site make them."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_links_lead_to_headings_that_exist() -> None:
    links = [
        (page, page.parent / target if target else page, anchor)
        for page in PAGES
        for target, anchor in re.findall(r"\]\(([^)#:]*)#([^)]*)\)", page.read_text(encoding="utf-8"))
    ]
    assert links
    dead = [(page.name, str(to), anchor) for page, to, anchor in links if to.exists() and anchor not in anchors(to)]
    assert dead == []


def test_files_that_the_documentation_names_are_there() -> None:
    named = {
        (page.name, path)
        for page in PAGES
        for path in re.findall(r"`((?:[a-z_]+/)+[a-z_]+\.(?:py|toml))`", page.read_text(encoding="utf-8"))
    }
    assert len(named) > 30
    roots = (ROOT, ROOT / "src" / "afina")
    assert [(page, path) for page, path in sorted(named) if not any((root / path).is_file() for root in roots)] == []


def test_the_readme_has_at_most_150_lines() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


def test_figures_of_the_readme_are_those_of_the_report_that_its_picture_is_from() -> None:
    """The README's table has its columns from several tables of the report; the means are without their deviation."""
    (said,) = re.findall(
        r"(?m)(?:^\| (?:no f|zero|full f|LoRA|PreL).*\n)+", (ROOT / "README.md").read_text(encoding="utf-8")
    )
    report = (ROOT / "docs" / "example-report" / "report.md").read_text(encoding="utf-8").split("<details>")
    rows: dict[str, set[str]] = {}
    tables = [part.rpartition("</details>")[2] for part in report]  # without the rows of single seeds
    for line in "\n".join(tables).splitlines():
        cells = [cell.partition("±")[0].strip() for cell in line.strip("|").split("|")]
        rows.setdefault(cells[0], set()).update(cells[1:])
    for line in said.splitlines():
        title, *cells = [cell.strip().removesuffix(" s") for cell in line.strip("|").split("|")]
        assert len(cells) == 5
        assert set(cells) <= rows[title]


PICTURES = ROOT / "docs" / "pictures"


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The script that draws the pictures of the docs."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("pictures")


def test_the_pictures_are_drawn_from_the_recorded_reports(drawn: Any) -> None:
    """A processor may round the last digit of a place otherwise, so numbers are compared as such."""
    numbers = re.compile(r"(\d+\.\d+)")
    for name, plot in drawn.plots().items():
        for theme in drawn.THEMES:
            text = (PICTURES / f"{name}-{theme}.svg").read_text(encoding="utf-8")
            kept, anew = (numbers.split(one) for one in (text, drawn.standalone(plot, theme)))
            assert kept[::2] == anew[::2], "draw it again: python benchmarks/pictures.py"
            assert [*map(float, kept[1::2])] == pytest.approx([*map(float, anew[1::2])], abs=1e-3)


def test_both_themes_of_a_picture_differ_by_colours_alone() -> None:
    """The records of the learning curve are not kept, so its dark picture is held to the light one."""
    light = sorted(PICTURES.glob("*-light.svg"))
    assert len([*PICTURES.glob("*.svg")]) == 2 * len(light)
    for path in light:
        dark = path.with_name(path.name.replace("-light", "-dark")).read_text(encoding="utf-8")
        first, second = (re.sub(r"#[0-9a-f]{6}", "", one) for one in (path.read_text(encoding="utf-8"), dark))
        assert first == second


def test_the_alternative_text_of_a_picture_says_what_it_shows(drawn: Any) -> None:
    """GitHub and a screen reader show the text in place of the picture. The README has a shorter text."""
    texts = {name: plot.text for name, plot in drawn.plots().items()}
    found = [
        (page.name, name, alt)
        for page in WRITTEN
        for alt, name in re.findall(r'<img alt="([^"]*)" src="[./]*pictures/([\w-]+)-light', page.read_text("utf-8"))
    ]
    assert {name for _, name, _ in found} >= texts.keys()
    assert [(page, name) for page, name, alt in found if alt != texts.get(name, alt)] == []


@pytest.mark.slow
@pytest.mark.assets
@pytest.mark.parametrize("page", ["README.md", "docs/how-to/use-as-a-library.md"])
def test_the_python_of_a_page_runs(page: str, tmp_path: Path) -> None:
    try:
        assets.fetch("smollm2")
        assets.fetch("snippets")
    except NotFound as error:
        pytest.skip(str(error))
    (code,) = blocks(ROOT / page, "python")
    done = subprocess.run(
        [sys.executable, "-W", "error::DeprecationWarning:__main__", "-c", code],
        cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1"},  # more threads than idle cores take minutes
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout.strip()
