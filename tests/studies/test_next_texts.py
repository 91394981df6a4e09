"""The texts to label next are new, uncertain or random, and the random ones show the accuracy on all texts."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from afina import Backbone, Task, next_texts
from afina.data.readers.splitting import rank
from afina.data.split import Example, Split
from afina.errors import InvalidData, Refused
from afina.predicting.text_features import FeatureModel
from afina.report.texts_to_label import sentences as sentences_of
from afina.stats.linear_models import LinearClasses, fit_dense
from afina.studies.labelling.next_texts import (
    CHOSEN,
    DIVERSE,
    PURPOSE,
    RANDOM,
    RESERVED,
    UNCERTAIN,
    NextTexts,
    _Features,
)
from fakes import sentences
from raises import raises
from tagging import OBJECTIVE

WORDS = ("bad", "good")
ROWS = [(text, WORDS[label]) for text, label in dict(sentences(400)).items()][:100]
TRUTH = dict(ROWS)


def write(path: Path, names: Sequence[str], rows: Sequence[Sequence[str]]) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([names, *rows])
    return path


def filled(path: Path) -> list[list[str]]:
    """The rows of a file of texts to label, with their labels."""
    with path.open(newline="") as file:
        return [[row["text"], TRUTH[row["text"]], row[CHOSEN]] for row in csv.DictReader(file)]


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    return write(tmp_path / "pool.csv", ["text"], [[text] for text, _ in ROWS])


@pytest.fixture
def address(gpt2: Backbone) -> str:
    return str(gpt2.path)


def test_rounds_of_labelling_bring_new_texts_and_an_estimate(pool: Path, tmp_path: Path, address: str) -> None:
    labelled = tmp_path / "labelled.csv"
    first = next_texts(pool, count=40, backbone=address)
    assert first.counts == {RANDOM: 4, DIVERSE: 36}
    first.write(labelled)
    write(labelled, ["text", "label", CHOSEN], filled(labelled))
    second = next_texts(pool, labelled, count=25, backbone=address)
    assert second.counts == {RANDOM: 3, UNCERTAIN: 22}
    assert not {*first.texts.texts} & {*second.texts.texts}
    assert second.continues
    assert second.sample is not None
    assert len(next_texts(pool, labelled, count=25, backbone=address)) == 25
    ranks = {text: rank(Example(text, 0), PURPOSE) for text, _ in ROWS}
    drawn = [text for text, why in zip(second.texts.texts, second.chosen, strict=True) if why == RANDOM]
    left = [text for text, _ in ROWS if text not in first.texts.texts]
    assert sorted(drawn, key=ranks.__getitem__) == sorted(left, key=ranks.__getitem__)[:3]
    second.write(tmp_path / "next.csv")
    write(labelled, ["text", "label", CHOSEN], [*filled(labelled), *filled(tmp_path / "next.csv")])
    third = next_texts(pool, labelled, count=10, backbone=address)
    assert third.sample is not None
    assert (third.sample.texts, third.sample.trained_on, third.sample.estimate) == (7, 58, None)
    others = [text for text, _, why in filled(labelled) if why != RANDOM]
    assert min(ranks[text] for text in others) >= RESERVED * 2**64


@pytest.mark.slow
def test_the_random_texts_are_predicted_by_a_probe_of_the_other_texts(tmp_path: Path, pool: Path, address: str) -> None:
    rows = [[*row, RANDOM if number < 12 else UNCERTAIN] for number, row in enumerate(ROWS[:50])]
    labelled = write(tmp_path / "labelled.csv", ["text", "label", CHOSEN], rows)
    sample = next_texts(pool, labelled, count=5, backbone=address).sample
    assert sample is not None
    assert sample.estimate is not None
    features = FeatureModel(Backbone.load(address)).of_texts([text for text, _ in ROWS[:50]])
    labels = np.array([WORDS.index(label) for _, label in ROWS[:50]])
    fit = fit_dense(LinearClasses(), features[12:], labels[12:], 2, intercept=True)
    right = (features[:12] @ fit.weights.T + fit.biases).argmax(axis=1) == labels[:12]
    assert (sample.texts, sample.trained_on, sample.metric) == (12, 38, "accuracy")
    assert sample.estimate.mean == pytest.approx(right.mean(), abs=1 / 12)
    assert sample.estimate.interval.contains(sample.estimate.mean)


@pytest.mark.parametrize("of_words", [False, True])
def test_features_are_announced_once_and_come_in_parts_if_they_are_of_words(
    gpt2: Backbone, monkeypatch: pytest.MonkeyPatch, of_words: bool
) -> None:
    monkeypatch.setattr("afina.studies.labelling.next_texts.PART", 3)
    split = Split([text for text, _ in ROWS[:7]], np.zeros(7, np.int64))
    model = FeatureModel(gpt2, OBJECTIVE if of_words else None)
    monkeypatch.setattr("afina.predicting.text_features.Classifier.open", None)
    told: list[str] = []
    parts = [*_Features(model, "gpt2", told.append).parts(split)]
    assert [len(part) for part in parts] == ([3, 2, 2] if of_words else [7])
    assert told == ["computing the features of 7 texts on gpt2"]
    whole = model.of(split).rows
    np.testing.assert_allclose(np.concatenate([part.rows for part in parts]), whole, atol=1e-5)


def test_suggestions_are_written_only_if_asked_for(pool: Path, tmp_path: Path, address: str) -> None:
    labelled = write(tmp_path / "labelled.csv", ["body", "tone", "text"], [[*row, "x"] for row in ROWS[:30]])
    found = next_texts(pool, labelled, count=10, backbone=address, text="body", label="tone")
    assert (found.text, found.labels, found.header) == ("body", ("tone",), ("body", "tone", "text", CHOSEN))
    assert not found.continues
    found.write(tmp_path / "plain.csv")
    assert (tmp_path / "plain.csv").read_text().splitlines()[0] == "body,tone,text,chosen"
    found.write(tmp_path / "next.json", suggest=True)
    made = json.loads((tmp_path / "next.json").read_text())
    assert {one["predictions"][0]["result"][0]["value"]["choices"][0] for one in made} <= {*WORDS}
    assert all(0.5 <= one["predictions"][0]["score"] <= 1 for one in made)
    with raises(Refused, code="out.exists"):
        found.write(tmp_path / "plain.csv")


def test_what_is_labelled_already_or_repeated_is_left_out_and_counted(tmp_path: Path, address: str) -> None:
    rows = [[text, ""] for text, _ in ROWS[:40]] + [[ROWS[39][0].upper(), "good"]]
    mixed = write(tmp_path / "mixed.csv", ["text", "label"], rows)
    labelled = write(tmp_path / "labelled.csv", ["text", "label"], ROWS[:20])
    found = next_texts(mixed, labelled, count=5, backbone=address)
    assert not {*found.texts.texts} & {text for text, _ in ROWS[:20]}
    assert "4 in the evaluation split, 16 in the labelled texts, 1 repeated" in " ".join(found.notes)
    assert "column 'label' has a value in 1 row" in found.notes[-1]


def test_numbers_are_chosen_by_difference_alone(tmp_path: Path, pool: Path, address: str) -> None:
    scored = [(text, f"{len(text) / 7:.2f}") for text, _ in ROWS[:20]]
    reasons = [RANDOM] * 10 + [DIVERSE] * 10
    rows = [[*row, why] for row, why in zip(scored, reasons, strict=True)]
    labelled = write(tmp_path / "labelled.csv", ["text", "score", CHOSEN], rows)
    found = next_texts(pool, labelled, count=5, backbone=address)
    assert found.sample is not None
    assert (found.sample.texts, found.sample.metric) == (10, "pearson")
    assert found.counts == {RANDOM: 1, DIVERSE: 4}
    assert "have no probabilities" in found.notes[-1]
    with raises(InvalidData, code="argument.invalid", option="suggest"):
        found.write(tmp_path / "next.csv", suggest=True)


def test_a_label_with_a_single_text_is_no_obstacle(tmp_path: Path, pool: Path, address: str) -> None:
    rows = [*ROWS[:8], ("the only one", "rare")]
    labelled = write(tmp_path / "labelled.csv", ["text", "label"], rows)
    with raises(InvalidData, code="data.too-few-texts"):
        Task.load(labelled)
    found = next_texts(pool, labelled, count=5, backbone=address)
    assert found.counts == {RANDOM: 1, UNCERTAIN: 4}
    assert "8 in the labelled texts" in " ".join(found.notes)
    assert "A label has a single text" in " ".join(found.notes)


@pytest.mark.parametrize(("count", "texts"), [(0, None), (True, None), (101, 100)])
def test_a_count_that_cannot_be_met_is_refused(pool: Path, count: int, texts: int | None, address: str) -> None:
    more = {} if texts is None else {"texts": texts}
    with raises(InvalidData, code="argument.invalid", option="count", **more):
        next_texts(pool, count=count, backbone=address)


def test_a_file_of_lines_is_enough_to_begin(tmp_path: Path, address: str) -> None:
    path = tmp_path / "pool.txt"
    path.write_text("\n".join(text for text, _ in ROWS[:12]))
    found = next_texts(path, count=12, backbone=address)
    assert isinstance(found, NextTexts)
    assert (found.header, len(found), repr(found)) == (
        ("text", "label", CHOSEN),
        12,
        "<NextTexts texts: 12, random: 2, diverse: 10>",
    )


def test_the_first_texts_for_entities_have_a_column_of_entities_that_can_be_filled(
    tmp_path: Path, address: str
) -> None:
    pool = write(tmp_path / "pool.csv", ["text"], [["Maria lives here."], ["Nobody does."], ["Maria left."]])
    found = next_texts(pool, count=3, kind="entities", backbone=address)
    assert (found.header, found.labels) == (("text", "entities", CHOSEN), ("entities",))
    first = tmp_path / "first.csv"
    found.write(first)
    said = sentences_of(found, first, None, 0)[-1]
    cell = said[said.index("[{") : said.index("]") + 1]
    assert ("'entities'" in said, "Label Studio" in said) == (True, True)
    with first.open(newline="") as file:
        cells = [[row["text"], cell if "Maria" in row["text"] else "[]"] for row in csv.DictReader(file)]
    task = Task.load(write(first, ["text", "entities"], cells), evaluation=str(first), allow_leakage=True)
    assert task.train.labels.tolist() == [((0, 5, "PER"),), (), ((0, 5, "PER"),)]


def test_a_column_that_is_named_for_the_first_labels_is_written(tmp_path: Path, address: str) -> None:
    pool = write(tmp_path / "pool.csv", ["text"], [["a b"], ["c d"]])
    assert next_texts(pool, count=1, label="tone", backbone=address).header == ("text", "tone", CHOSEN)
    with raises(InvalidData, code="data.column-repeated", field="label", column="text"):
        next_texts(pool, count=1, label="text", backbone=address)


@pytest.mark.slow
def test_each_kind_of_task_and_pairs_have_next_texts(tmp_path: Path, address: str) -> None:
    tags = [[text, f"{label};long" if number % 3 else label] for number, (text, label) in enumerate(ROWS[:30])]
    written = [[text, f"It is {label}."] for text, label in ROWS[:30]]
    pool = write(tmp_path / "pool.csv", ["text"], [[text] for text, _ in ROWS[30:50]])
    several = next_texts(pool, write(tmp_path / "tags.csv", ["text", "tags"], tags), count=5, backbone=address)
    assert several.counts == {RANDOM: 1, UNCERTAIN: 4}
    assert several.suggested is not None
    assert {name for names in several.suggested for name in names} <= {*WORDS, "long"}
    answers = write(tmp_path / "answers.csv", ["input", "output"], written)
    to_write = next_texts(pool, answers, count=5, backbone=address)
    assert to_write.counts == {RANDOM: 1, DIVERSE: 4}
    assert (to_write.labels, to_write.suggested) == (("output",), None)
    pairs = write(tmp_path / "pairs.csv", ["text", "text_pair", "label"], [[a, a[::-1], b] for a, b in ROWS[:30]])
    more = write(tmp_path / "more.csv", ["text", "text_pair"], [[a, a[::-1]] for a, _ in ROWS[30:50]])
    both = next_texts(more, pairs, count=5, backbone=address)
    assert both.header == ("text", "text_pair", "label", CHOSEN)
    with raises(InvalidData, code="data.pairs-mismatch"):
        next_texts(pool, pairs, count=5, backbone=address)


def test_texts_are_chosen_by_their_words_and_suggested_entities_can_be_read_again(
    tmp_path: Path, pool: Path, address: str
) -> None:
    labelled, place = tmp_path / "labelled.jsonl", {"bad": "LOW", "good": "HIGH"}
    rows = [
        {"text": text, "entities": [{"start": 0, "end": len(text.split()[0]), "label": place[word]}]}
        for text, word in ROWS[:40]
    ]
    labelled.write_text("\n".join(map(json.dumps, rows)))
    found = next_texts(pool, labelled, count=10, backbone=address)
    assert found.counts == {RANDOM: 1, UNCERTAIN: 9}
    said = {suffix: sentences_of(found, Path(f"next{suffix}"), labelled, 0)[-1] for suffix in (".csv", ".json")}
    assert ("Give `out`" in said[".csv"], "out" in said[".json"]) == (True, False)
    assert found.suggested is not None
    assert any(found.suggested)
    found.write(tmp_path / "next.json", suggest=True)
    made = json.loads((tmp_path / "next.json").read_text())
    controls = {one["from_name"] for task in made for one in task["predictions"][0]["result"]}
    assert all(f"is named {name!r}" in said[".json"] for name in controls)
    spans = [[one["value"] for one in task["predictions"][0]["result"]] for task in made]
    assert sum(map(len, spans)) == sum(map(len, found.suggested))
    for task, each in zip(made, spans, strict=True):
        assert all(task["data"]["text"][one["start"] : one["end"]] == one["text"] for one in each)
        assert {label for one in each for label in one["labels"]} <= {"LOW", "HIGH"}
    found.write(tmp_path / "next.csv", suggest=True)
    again = next_texts(pool, labelled, count=10, backbone=address)
    assert (again.texts.texts, again.suggested) == (found.texts.texts, found.suggested)
    with (tmp_path / "next.csv").open(newline="") as file:
        rows = [{"text": row["text"], "entities": json.loads(row["suggested"])} for row in csv.DictReader(file)]
    (tmp_path / "taken.jsonl").write_text("\n".join(map(json.dumps, rows)))
    taken = Task.load(tmp_path / "taken.jsonl", evaluation=str(labelled), kind="entities")
    assert [[*map(tuple, each)] for each in taken.train.labels.tolist()] == [
        [(one["start"], one["end"], one["label"]) for one in each] for each in found.suggested
    ]
