"""No program reads a sentence: with other words in every message, remedies, faces and codes are the same."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import chdir
from pathlib import Path
from typing import Any

import pytest

from afina.data.inspection import inspect
from afina.data.reading_options import ReadingOptions
from afina.errors import AfinaError
from command import Command
from fakes import sentences, write_csv
from rewording import WORD, in_both_words


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[1] / "benchmarks"))


def test_the_remedies_of_every_odd_file_are_those_of_its_fields(tmp_path: Path) -> None:
    import reader_corpus

    words, remedies = [], 0
    with chdir(tmp_path):
        for group in (reader_corpus.delimited, reader_corpus.targets, reader_corpus.columns, reader_corpus.annotated):
            for number, case in enumerate(group()):
                home = Path(group.__name__, f"{number:03}")
                for name, content in case.files.items():
                    (home / name).parent.mkdir(parents=True, exist_ok=True)
                    (home / name).write_bytes(content)
                if not home.is_dir():
                    continue
                with chdir(home):
                    plain, other = in_both_words(lambda case=case: doubts(case.address, case.options))
                assert [doubt[:-1] for doubt in other] == [doubt[:-1] for doubt in plain], case.name
                remedies += sum(len(doubt[2]) for doubt in plain)
                words += [doubt[-1] for doubt in other]
    assert remedies > 100
    assert sum(WORD in each for each in words) > 100


def doubts(address: str, options: Mapping[str, Any]) -> list[tuple[Any, ...]]:
    """Code, whether it refuses, the options of each remedy, and the words of every doubt."""
    try:
        asked = ReadingOptions.of(None, options)
        found = inspect(address, asked).doubts
    except (AfinaError, ValueError) as error:
        return [(getattr(error, "code", ""), True, [], str(error))]
    return [(each.code, each.refuses, [dict(remedy.options) for remedy in each.remedies], each.words) for each in found]


WRONG = {
    "column": ["train", "--task", "reviews.csv", "--label", "stars"],
    "kind": ["train", "--task", "reviews.csv", "--kind", "number"],
    "setting": ["train", "--task", "reviews.csv", "--set", "epochs=-1"],
    "method": ["train", "--task", "reviews.csv", "--method", "loar"],
    "backbone": ["plan", "--backbone", "nowhere/at-all"],
    "file": ["predict", "nowhere", "--file", "nothing.csv"],
    "study": ["study", "nothing.toml"],
    "minutes": ["choose", "--task", "reviews.csv", "--minutes", "0"],
    "store": ["store", "show", "acme/none@1", "--store", "none"],
}
"""Command lines that end with an error."""


@pytest.mark.parametrize("arguments", WRONG.values(), ids=WRONG)
def test_a_command_that_fails_says_the_same_in_other_words(
    afina: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_csv(tmp_path / "reviews.csv", [(text, ("bad", "good")[label]) for text, label in sentences(40)])
    plain, other = in_both_words(lambda: afina(*arguments, "--json"))
    assert plain.code == other.code == 2
    first, second = (json.loads(answer.out.splitlines()[-1])["error"] for answer in (plain, other))
    assert WORD in second["message"]
    for field in ("class", "code", "fields"):
        assert second[field] == first[field]
    options = [[part["option"] for part in error["parts"] if isinstance(part, dict)] for error in (first, second)]
    assert options[0] == options[1]
    assert [word for word in second["message"].split() if word.startswith("--")] == [
        word for word in first["message"].split() if word.startswith("--")
    ]
