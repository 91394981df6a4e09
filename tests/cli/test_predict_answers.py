"""`afina predict` where answers are generated: options, order, columns."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from afina import Adapter, Backbone, Predictor
from afina.generating.generation import answers
from afina.models.classifier import Classifier
from afina.models.decoding import Decoding
from command import Command
from fakes import Backbones, Runs, write_csv

ASKED = [f"{thing}, {word}" for thing in ("soup", "play", "ferry") for word in ("warm", "dull", "a very long list")]


@pytest.fixture(scope="module")
def writer(runs: Runs, backbones: Backbones, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a LoRA adapter of the tiny GPT-2 that answers with texts."""
    path = tmp_path_factory.mktemp("writer")
    rows = [(f"{number} {asked}", f"the {asked} was {number}") for number in range(4) for asked in ASKED]
    task = write_csv(path / "rows.csv", rows, ("prompt", "completion"))
    run = Runs(path / "runs", backbones, str(task)).run("gpt2", "lora", max_length=64)
    return path / run.execute(path).adapter


def generated(writer: Path, decoding: Decoding) -> list[str]:
    """What the library generates for each text alone."""
    predictor = Predictor.load(writer)
    model, prompts = predictor.classifier, predictor.encode(ASKED)  # type: ignore[attr-defined]
    assert isinstance(model, Classifier)
    words = Backbone.load(predictor.manifest.backbone or "").tokenizer
    found = []
    for number in range(len(ASKED)):
        (one,) = answers(model, [prompts[number]], decoding, [words.eos_token_id], words)
        found.append(str(words.decode(one.tokens, skip_special_tokens=True)).strip())
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "decoding"),
    [
        (["--max-new-tokens", "7"], Decoding(max_new_tokens=7)),
        (
            ["--max-new-tokens", "6", "--beams", "3", "--length-penalty", "0", "--no-repeat-ngram", "2"],
            Decoding(max_new_tokens=6, beams=3, length_penalty=0, no_repeat_ngram=2),
        ),
        (
            ["--max-new-tokens", "9", "--temperature", "1.5", "--top-k", "40", "--top-p", "0.9", "--sample-seed", "4"],
            Decoding(max_new_tokens=9, temperature=1.5, top_k=40, top_p=0.9, seed=4),
        ),
    ],
)
def test_options_of_generation_reach_the_answers(
    afina: Command, writer: Path, options: list[str], decoding: Decoding
) -> None:
    expected = generated(writer, decoding)
    rows = afina("predict", writer, *ASKED, *options).lines()
    assert [row["answer"] for row in rows] == expected
    assert len(set(expected)) > 1


def test_stop_strings_end_answers_before_them(afina: Command, writer: Path) -> None:
    free = [row["answer"] for row in afina("predict", writer, *ASKED, "--max-new-tokens", "12").lines()]
    # Not the sign that stands for a part of a character: while an answer is written, it can stand in other places.
    stop = next(pair for start in range(2, 20) if "\ufffd" not in (pair := free[0][start : start + 2]))
    cut = [row["answer"] for row in afina("predict", writer, *ASKED, "--max-new-tokens", "12", "--stop", stop).lines()]
    assert cut == [each.partition(stop)[0].strip() for each in free]
    assert cut[0] != free[0]


def test_rows_of_a_file_keep_their_order_and_columns(afina: Command, writer: Path) -> None:
    write_csv(Path("new.csv"), [(number, text) for number, text in enumerate(ASKED)], ("id", "prompt"))
    expected = [row["answer"] for row in afina("predict", writer, *ASKED).lines()]
    said = afina("predict", writer, "--file", "new.csv", "--out", "done.csv").out
    assert said == f"done.csv: {len(ASKED)} rows, {len(ASKED)} with an answer\n"
    with Path("done.csv").open(newline="", encoding="utf-8") as file:
        done = list(csv.DictReader(file))
    assert [row["id"] for row in done] == [str(number) for number in range(len(ASKED))]
    assert [row["predicted_answer"] for row in done] == expected
    afina("predict", writer, "--file", "new.csv", "--out", "done.jsonl")
    lines = Path("done.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["predicted_answer"] for line in lines] == expected


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--beams", "0"], "--beams"),
        (["--temperature", "-1"], "--temperature"),
        (["--top-p", "0", "--temperature", "1"], "--top-p"),
        (["--max-new-tokens", "0"], "--max-new-tokens"),
        (["--beams", "2", "--temperature", "1"], "--temperature"),
        (["--top-k", "4"], "--top-k"),
        (["--stop", ""], "--stop"),
    ],
)
def test_invalid_options_are_refused(afina: Command, writer: Path, options: list[str], named: str) -> None:
    assert afina("predict", writer, "the soup", *options).error.startswith(named)


def test_an_adapter_that_generates_nothing_refuses_options_of_generation(afina: Command, trained: Path) -> None:
    told = afina("predict", trained, "the soup", "--beams", "2").error
    assert told == "--beams: an adapter of kind classes does not generate its answers. Leave it out."


def test_a_predictor_with_other_settings_leaves_the_first_as_it_was(writer: Path) -> None:
    first = Predictor.of(Adapter.load(writer), Backbone.load(Adapter.load(writer).manifest.backbone or ""))
    before = first(ASKED)
    other = first.generating(max_new_tokens=2)
    assert other(ASKED) != before
    assert other.generating(max_new_tokens=None)(ASKED) == before
    assert first(ASKED) == before
