"""The page docs/reference/studio.md says of limits, states, files and options what the code does."""

from __future__ import annotations

import re
from typing import Any, get_args

import typer.main

from afina import cli
from afina.allocator import LEAST_ADDRESS_SPACE
from afina.cli.studio import MOST_MB
from afina.server.settings import Settings
from afina.studio import access, app, forms
from afina.studio.folder import MOST_TITLE, STEM
from afina.studio.pages.data import MOST_INSPECTIONS
from afina.studio.run_queue import TRIES, State
from pages import ROOT

TEXT = (ROOT / "docs" / "reference" / "studio.md").read_text(encoding="utf-8")


def rows(heading: str) -> list[tuple[str, str]]:
    """The first two cells of each row of the table below a heading."""
    section = TEXT.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    found = re.findall(r"^\| ([^|]+) \| ([^|]+) \|$", section, re.MULTILINE)
    return [row for row in found[1:] if not row[0].startswith("---")]


def test_limits_are_those_of_the_code() -> None:
    first_numbers = [re.findall(r"[\d,]+", value)[0].replace(",", "") for _, value in rows("Limits")]
    assert [int(one) for one in first_numbers] == [
        app.CONNECTIONS,
        Settings.head_seconds,
        MOST_MB,
        forms.STALL_SECONDS,
        forms.MOST_FIELDS,
        MOST_TITLE,
        access.LEAST,
        access.TRIES,
        access.MOST_SESSIONS,
        access.SESSION_DAYS,
        MOST_INSPECTIONS,
        LEAST_ADDRESS_SPACE >> 20,
        TRIES,
    ]
    assert f"together {forms.MOST_FIELD_BYTES >> 20} MiB" in TEXT
    assert f"refused for {access.PAUSE:g} seconds" in TEXT
    assert f"at most {STEM} characters" in TEXT
    assert all(f"`{suffix}`" in TEXT for suffix in forms.SUFFIXES)


def test_every_state_of_a_run_has_its_row() -> None:
    assert [state for state, _ in rows("The queue")] == list(get_args(State))


def test_every_option_of_the_command_has_its_row() -> None:
    commands: Any = typer.main.get_command(cli.app)
    options = {name for one in commands.commands["studio"].params for name in one.opts if name.startswith("--")}
    assert {re.findall(r"--[a-z-]+", option)[0] for option, _ in rows("Start and stop")} == options - {"--help"}
