"""`afina predict` on files of every kind: the same texts, the same answers."""

from __future__ import annotations

import csv
import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from afina import Backbone
from afina.models.weights import copies
from afina.predicting.predictor import Predictor
from command import PROGRAM, Command
from raises import raises

SAID = ["What a warm ferry!", 'a "quoted" text, with a comma', "naïve café ☕", "the novel was dull."]


def write(name: str, column: str = "review") -> str:
    rows = [{"stars": number % 5, column: text, "label": "good"} for number, text in enumerate(SAID)]
    if name.endswith("parquet"):
        parquet.write_table(pyarrow.Table.from_pylist(rows), name)
    elif name.endswith("jsonl"):
        Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    else:
        with Path(name).open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    return name


@pytest.mark.parametrize("name", ["new.csv", "new.jsonl", "new.parquet"])
def test_a_table_is_answered_like_its_texts_on_the_command_line(afina: Command, trained: Path, name: str) -> None:
    expected = afina("predict", trained, *SAID).lines()
    assert afina("predict", trained, "--file", write(name)).lines() == expected
    assert afina("predict", trained, "--file", write(name, "said"), "--text", "said").lines() == expected
    told = afina("predict", trained, "--file", name).error
    assert told.startswith(f"{name}{', line 1' * name.endswith('jsonl')}: no text column. Found: stars, said, label.")
    assert told.endswith("Name another column with --text.")


UNNEEDED = (
    *("scipy.stats", "sklearn", "re2", "rich", "pandas", "pyarrow", "matplotlib", "optuna", "sqlalchemy", "fastapi"),
    *("openpyxl", "datasets", "ray", "bitsandbytes", "llguidance", "opentelemetry"),
)
"""Libraries that take long to import, and that a prediction for texts on the command line does not need.

transformers imports scipy.optimize, torch._dynamo and torch.distributed.tensor in any case.
"""


@pytest.mark.slow
def test_a_prediction_for_a_few_texts_imports_no_library_that_it_does_not_need(trained: Path) -> None:
    code = f"import sys; from afina.cli import main; main(); print(*(n for n in {UNNEEDED} if n in sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code, "predict", str(trained), *SAID], capture_output=True, text=True, check=True
    )
    *answers, imported = done.stdout.splitlines()
    assert [json.loads(answer)["text"] for answer in answers] == SAID
    assert imported == ""


def test_every_row_has_an_answer_with_its_number_and_blank_ones_a_reason(afina: Command, trained: Path) -> None:
    Path("gaps.csv").write_text('id,text\n7,a warm play\n8,\n9,"  "\n10,a dull novel\n', encoding="utf-8")
    answer = afina("predict", trained, "--file", "gaps.csv")
    rows = answer.lines()
    assert [row["row"] for row in rows] == [1, 2, 3, 4]
    assert [row["label"] is None for row in rows] == [False, True, True, False]
    assert rows[1] == {
        "row": 2, "text": None, "label": None, "probabilities": None, "reason": "gaps.csv, line 3: no text there"
    }  # fmt: skip
    assert answer.err.splitlines() == [
        "text: column 'text'.",
        "gaps.csv, line 3: no text there, as in 1 more, so no answer.",
    ]
    assert afina("predict", trained, "--file", "gaps.csv", "--out", "done.csv").out == (
        "done.csv: 4 rows, 2 with an answer\n"
    )
    with Path("done.csv").open(newline="", encoding="utf-8") as file:
        done = list(csv.DictReader(file))
    assert [(row["id"], row["predicted_label"]) for row in done] == [
        ("7", rows[0]["label"]), ("8", ""), ("9", ""), ("10", rows[3]["label"]),
    ]  # fmt: skip


def test_a_guessed_precision_of_a_base_is_said_once_and_beside_the_answers(
    afina: Command, trained: Path, tmp_path: Path
) -> None:
    shutil.copytree(trained, "by-peft", ignore=shutil.ignore_patterns("manifest.json", "training_texts.json"))
    table = tmp_path / "labelled.csv"
    table.write_text("text,label\n" + "".join(f"a cold ferry {n},LABEL_{n % 2}\n" for n in range(40)), encoding="utf-8")
    asked = (("predict", "by-peft", *SAID[:2]), ("evaluate", "by-peft", "--task", str(table), "--json"))
    for command in asked:
        guessed, given = afina(*command), afina(*command, "--precision", "float")
        assert guessed.err.count("taken as float") == 1
        assert "--precision nf4" in guessed.err
        assert "taken as float" not in given.err
        assert "taken as float" not in guessed.out
        assert len(guessed.lines()) == (2 if command[0] == "predict" else 1)
    assert "taken as float" not in afina("predict", trained, SAID[0]).err
    assert "taken as float" in afina("compare", "by-peft", "by-peft", "--task", str(table)).err


def test_a_quantised_copy_is_told_once_and_beside_the_answers(
    afina: Command, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copies, "LEAST", 0)
    monkeypatch.setenv("AFINA_CACHE", str(tmp_path / "cache"))
    shutil.copytree(trained, "by-peft", ignore=shutil.ignore_patterns("manifest.json", "training_texts.json"))
    command = ("predict", "by-peft", SAID[0], "--precision", "int8")
    first, second = afina(*command), afina(*command)
    (copy,) = (tmp_path / "cache" / "quantised").iterdir()
    assert "keeps a quantised copy of" in first.err
    assert first.err.count(str(copy)) == 1
    assert "quantised copy" not in second.err + first.out
    assert second.lines() == first.lines()


def test_predict_gives_one_object_where_that_is_asked_for(afina: Command, trained: Path) -> None:
    found = afina("predict", trained, *SAID, "--json").object()
    assert found["answers"] == afina("predict", trained, *SAID).lines()
    assert (found["rows"], found["without_text"], found["truncated"]) == (4, 0, 0)
    assert found["digest"].startswith("sha256:")
    to_file = afina("predict", trained, *SAID, "--json", "--out", "answers.jsonl").object()
    assert (to_file["out"], to_file["rows"]) == ("answers.jsonl", 4)
    assert "answers" not in to_file


def test_what_predict_cannot_write_is_told_before_anything_is_computed(afina: Command, trained: Path) -> None:
    before = Path(write("new.csv")).read_bytes()
    told = "--out new.csv: the texts are read from this file. Give another name."
    assert afina("predict", trained, "--file", "new.csv", "--out", "new.csv").error == told
    assert Path("new.csv").read_bytes() == before
    assert "ends in one of .csv, .jsonl" in afina("predict", trained, "x", "--out", "answers.txt").error


def test_texts_that_were_cut_are_counted(afina: Command, trained: Path) -> None:
    answer = afina("predict", trained, "a short text", "a long text " * 300)
    assert answer.err == "1 of 2 texts cut at the maximum length of 256 tokens.\n"


@pytest.mark.slow
def test_a_closed_standard_output_is_an_error_and_nothing_is_lost_without_a_word() -> None:
    done = subprocess.run(
        f"{shlex.join(PROGRAM)} methods >&-", shell=True, capture_output=True, text=True, check=False
    )  # closed by the shell
    assert done.returncode == 2
    assert done.stderr.startswith("Error: standard output: cannot be written (it is closed)")
    assert "disk" not in done.stderr
    quiet = subprocess.run(f"{shlex.join(PROGRAM)} methods 2>&- <&-", shell=True, capture_output=True, check=False)
    assert (quiet.returncode, quiet.stderr) == (0, b"")
    assert b"lora" in quiet.stdout


def test_a_predictor_names_a_blank_text_by_its_place(trained: Path) -> None:
    predictor = Predictor.load(trained)
    for texts in (["a text", " \n"], ["a text", ""]):
        with raises(Exception, code="data.text-empty", row=2):
            predictor(texts)


def test_predict_says_which_columns_it_reads_and_takes_those_of_the_adapter(afina: Command, gpt2: Backbone) -> None:
    rows = [(f"note {number} {'bright' if number % 2 else 'dull'}", "x", "yn"[number % 2]) for number in range(20)]
    Path("mine.csv").write_text("note,text,label\n" + "".join(",".join(row) + "\n" for row in rows), encoding="utf-8")
    train = ("--backbone", gpt2.address, "--set", "max_steps=1", "--out", "made")
    assert afina("train", "--task", "mine.csv", "--text", "note", *train).code == 0
    answer = afina("predict", "made", "--method", "lora", "--file", "mine.csv")
    assert answer.err.splitlines()[0] == "text: column 'note'."
    assert [json.loads(line)["text"] for line in answer.out.splitlines()] == [row[0] for row in rows]
    Path("western.csv").write_bytes("text\ncafé\n".encode("latin-1"))
    answer = afina("predict", "made", "--method", "lora", "--file", "western.csv")
    assert answer.err.splitlines()[0] == "text: column 'text'."
    assert "it is read as Windows-1252, in which that line has 'é'" in answer.err
