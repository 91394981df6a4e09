"""`afina predict` on files of every kind: the same texts, the same answers."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from afina.data.readers.texts import MOST
from afina.inference.predictor import Predictor
from command import Command

SAID = ["What a warm ferry!", 'a "quoted" text, with a comma', "naïve café ☕", "the novel was dull."]


def write(name: str, column: str = "review") -> str:
    rows = [{"stars": number % 5, column: text, "label": "good"} for number, text in enumerate(SAID)]
    if name.endswith("parquet"):
        parquet.write_table(pyarrow.Table.from_pylist(rows), name)
    elif name.endswith("jsonl"):
        Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    else:
        with Path(name).open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]), delimiter="\t" if name.endswith("tsv") else ",")
            writer.writeheader()
            writer.writerows(rows)
    return name


@pytest.mark.parametrize("name", ["new.csv", "new.tsv", "new.jsonl", "new.parquet", "new.CSV"])
def test_a_table_is_answered_like_its_texts_on_the_command_line(afina: Command, trained: Path, name: str) -> None:
    expected = afina("predict", trained, *SAID).lines()
    assert afina("predict", trained, "--file", write(name)).lines() == expected
    assert afina("predict", trained, "--file", write(name, "said"), "--text", "said").lines() == expected
    told = afina("predict", trained, "--file", name).error
    assert told.startswith(f"{name}{', line 1' * name.endswith('jsonl')}: no text column. Found: stars, said, label.")
    assert told.endswith("name another one with --text.")


def test_a_long_table_is_answered_from_its_first_rows_on(afina: Command, trained: Path) -> None:
    lines = [f"a warm play number {number},good\n" for number in range(40)]
    Path("long.csv").write_text("text,label\n" + "".join(lines) + "one field too many,good,x\n", encoding="utf-8")
    answer = afina("predict", trained, "--file", "long.csv")
    assert answer.error.startswith("long.csv, line 42: found 3 fields, expected 2 (text, label).")
    assert [json.loads(line)["text"] for line in answer.out.splitlines()] == [
        f"a warm play number {number}" for number in range(16)
    ]
    assert MOST > 40


def test_a_predictor_names_a_blank_text_by_its_place(trained: Path) -> None:
    predictor = Predictor.load(trained)
    for texts in (["a text", " \n"], ["a text", ""]):
        with pytest.raises(Exception, match=r"text 2: '.*' is blank\. Give it some content, or leave it out\."):
            predictor(texts)
