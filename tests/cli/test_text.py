"""Between afina and a terminal that is not in UTF-8."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from command import PROGRAM, Command


def ran(*arguments: str, encoding: str = "utf-8", **variables: str) -> subprocess.CompletedProcess[bytes]:
    environment = {**os.environ, "PYTHONIOENCODING": encoding, **variables}
    return subprocess.run([*PROGRAM, *arguments], capture_output=True, env=environment, check=False)


@pytest.mark.slow
def test_an_error_about_a_name_that_the_output_lacks_is_in_one_line_and_json_remains_json() -> None:
    done = ran("train", "--task", "日\N{GRINNING FACE}.csv", "--json", encoding="latin-1")
    assert done.returncode == 2
    assert "日\N{GRINNING FACE}.csv: no such file" in json.loads(done.stdout.decode("latin-1"))["error"]["message"]
    assert b"\\u65e5\\ud83d\\ude00.csv: no such file" in done.stderr
    assert b"Traceback" not in done.stderr


@pytest.mark.parametrize("arguments", [["train", "--task", "x\udcff.csv"], ["predict", "x", "\udcff"], ["\udcff"]])
def test_an_argument_that_is_no_text_is_refused(afina: Command, arguments: list[str]) -> None:
    answer = afina(*arguments)
    assert answer.error.startswith(f"argument {len(arguments)}, ")
    assert "\\xff" in answer.error
    assert answer.err.count("\n") == 1


def test_the_plain_locale_is_no_reason_to_fail(afina: Command) -> None:
    done = ran("methods", LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("arguments", "place"),
    [
        (("train", "--task", "x.csv", "--out", ""), "--out"),
        (("train", "--task="), "--task"),
        (("plan", "--memory", ""), "--memory"),
        (("choose", "--task", "x.csv", "--labels", ""), "--labels"),
        (("show", ""), "argument 2"),
        (("evaluate", "", "--task", "x.csv"), "argument 2"),
    ],
)
def test_an_empty_argument_is_refused(afina: Command, arguments: tuple[str, ...], place: str) -> None:
    assert afina(*arguments).error == f"{place}: is empty. Give a value, or leave it out."
    assert list(Path().iterdir()) == []
