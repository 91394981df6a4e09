"""The site of the docs: its pages, the pages that are generated from the code, and its links."""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
import tomllib
from importlib.util import find_spec
from pathlib import Path

import pytest
import typer.main
from pydantic import TypeAdapter

import afina
from afina import cli
from afina.methods import METHODS
from afina.stats.metrics import METRICS
from afina.studies.study import Study
from pages import ROOT


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "docs"))


def pages() -> set[str]:
    """Every page, by its path in the site."""
    from site_links import OUTSIDE
    from site_pages import GENERATED

    written = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    return {page for page in written if "-report/" not in page} | {*OUTSIDE.values(), *GENERATED}


def test_the_navigation_names_every_page_once() -> None:
    nav = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").split("\nnav:\n")[1]
    named = re.findall(r"[\w/-]+\.md", nav)
    assert sorted(named) == sorted(pages())


@pytest.mark.slow
def test_the_extra_of_the_docs_has_all_that_the_pages_are_made_with() -> None:
    """Packages of the other extras cannot be imported, as in an environment with `.[docs]` alone."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    named = {extra: {re.split(r"[<>=;]", one)[0].split("[")[0] for one in needs} for extra, needs in extras.items()}
    own = named["docs"] | set().union(*(named[one] for one in re.findall(r"afina\[(\w+)\]", " ".join(extras["docs"]))))
    kept = {"test", "traces"}  # fastapi imports opentelemetry where it is installed
    others = set().union(*(names for extra, names in named.items() if extra not in kept)) - own
    blocked = sorted({one.split("-")[0] for one in others})
    assert {"ray", "obstore"} <= set(blocked)
    code = (
        f"import sys\nsys.modules |= dict.fromkeys({blocked})\nsys.path.insert(0, 'docs')\n"
        "from site_pages import GENERATED\nassert all(made() for made in GENERATED.values())"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_page_of_commands_has_every_command_and_option() -> None:
    from site_pages import cli_page

    page = cli_page()
    top = typer.main.get_command(cli.app)
    groups = [(top, "afina"), (top.commands["store"], "afina store"), (top.commands["keys"], "afina keys")]
    for group, path in groups:
        for name, command in group.commands.items():
            assert f"# {path} {name}\n" in page
            options = [option for each in command.params if not each.hidden for option in each.opts]
            assert [option for option in options if option[0] == "-" and option not in page] == []


def test_the_page_of_study_files_has_every_key_and_method() -> None:
    from site_pages import SECTIONS, study_files_page

    page = study_files_page()
    assert SECTIONS[0][2] is Study
    assert {section for section, _, _ in SECTIONS if section} == {"data", "train", "ask", "tune", "published"}
    properties = (TypeAdapter(model).json_schema()["properties"] for _, _, model in SECTIONS)
    keys = {key for section in properties for key in section} - {"data", "train", "ask", "tune", "published"}
    assert [key for key in [*keys, *METHODS] if f"| `{key}` |" not in page] == []
    assert re.findall(r"^\| `(\w+)` .* \|  \|$", page, re.MULTILINE) == [], "keys without a meaning"
    assert "| `epochs` | integer (≥ 1) | <code>2</code> |" in page


def test_the_page_of_metrics_has_every_metric() -> None:
    from site_pages import metrics_page

    page = metrics_page()
    assert [name for name in METRICS if f"| `{name}` |" not in page] == []
    assert "| `mcc` | Matthews correlation | -1 to 1 | higher |" in page
    assert "| `log_loss` | log loss | 0 to ∞ | lower |" in page


def test_the_python_page_has_every_public_name() -> None:
    from site_pages import python_page

    named = re.findall(r"^(?:::: .*\.|## )(\w+)$", python_page(), re.MULTILINE)
    assert sorted([*named, "__version__"]) == sorted(afina.__all__)


def test_every_public_name_has_a_docstring() -> None:
    """Ruff does not ask for docstrings: the reference shows these, and other names may say all that there is."""
    public = [getattr(afina, name) for name in afina.__all__ if callable(getattr(afina, name))]
    assert [each.__qualname__ for each in public if not inspect.getdoc(each)] == []


def test_the_http_page_has_every_path_with_its_fields() -> None:
    from afina.server.routes import ROUTES
    from site_pages import http_page

    page = http_page()
    described = {path.replace(":path", "") for one in ROUTES if one.method for path in one.paths} - {"/openapi.json"}
    assert {"/predict", "/tasks", "/metrics"} <= described
    assert [path for path in described if f" {path}`\n" not in page] == []
    assert "| `inputs` |" in page
    assert re.findall(r"^\| `[\w.]+` .* \|  \|$", page, re.MULTILINE) == [], "fields without a meaning"


@pytest.mark.parametrize(
    "docstring",
    [
        "A table.\n\n    name, title  what tables\n                 call it\n    size  bytes: all\n\n    More.\n",
        "A.\n\n    Attributes:\n        name, title: what tables\n            call it\n        size (int): bytes: all",
    ],
)
def test_fields_are_read_from_a_docstring_in_columns_or_in_a_section(docstring: str) -> None:
    from site_docstrings import described_fields

    expected = {"name": "what tables call it", "title": "what tables call it", "size": "bytes: all"}
    assert described_fields(docstring) == expected


def test_links_lead_to_pages_of_the_site_or_are_refused() -> None:
    from site_links import rewrite_links

    known = {"index.md", "reference/tasks.md", "contributing.md", "words.svg", "example-report/report.html"}
    given = (
        "[a](docs/reference/tasks.md#x) [b](docs/example-report/report.md) [c](src/afina/cli/keys.py) [d](https://d)"
    )
    expected = "[a](reference/tasks.md#x) [b](example-report/report.html) c [d](https://d)"
    assert rewrite_links(given, "index.md", known) == expected
    assert rewrite_links("[a](../../CONTRIBUTING.md)", "reference/tasks.md", known) == "[a](../contributing.md)"
    picture = '<source srcset="docs/words.svg"> ![w](docs/words.svg)'
    assert rewrite_links(picture, "index.md", known) == '<source srcset="words.svg"> ![w](words.svg)'
    assert rewrite_links('<img src="../words.svg#only-dark">', "reference/tasks.md", known) == (
        '<img src="../words.svg#only-dark">'
    )
    code = "```md\n[a](nowhere.md)\n```\n"
    assert rewrite_links(code, "index.md", known) == code
    with pytest.raises(ValueError, match=r"^docs/LOG.md: link to nowhere.md, which does not exist"):
        rewrite_links("[a](nowhere.md)", "LOG.md", known)


@pytest.mark.slow
@pytest.mark.skipif(find_spec("mkdocs") is None, reason="the extra `docs` is not installed")
def test_the_site_is_built_strictly_and_loads_nothing_from_another_server(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "NO_MKDOCS_2_WARNING": "1"}
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for page in pages():
        html = (tmp_path / page).with_suffix(".html").read_text(encoding="utf-8")
        loaded = re.findall(r'<(?:script|link|img|source|iframe)\b[^>]*?\b(?:src|srcset|href)="(https?:[^"]*)"', html)
        assert loaded == [], page
    assert "afina store rollback" in (tmp_path / "search" / "search_index.js").read_text(encoding="utf-8")
