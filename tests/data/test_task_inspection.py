"""What `inspect` finds in the texts of a task, and the options that mend a doubt."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from openpyxl import Workbook

from afina.data.inspection import LONGEST, LONGEST_WORDS, MOST_COLUMNS, MOST_LABELS, Doubt, Inspection, inspect
from afina.data.readers import formats
from afina.data.reading_options import ReadingOptions
from afina.data.task import Task
from afina.data.token_lengths import SAMPLE, TokenLengths
from afina.errors import NotFound

ROWS = [(f"text number {i}", "ny"[i % 2]) for i in range(40)]


def csv(path: Path, rows: Sequence[Sequence[Any]], header: str = "text,label") -> str:
    path.write_text("\n".join([header, *(",".join(map(str, row)) for row in rows)]) + "\n", encoding="utf-8")
    return str(path)


def doubts(found: Inspection) -> dict[str, Doubt]:
    return {one.code: one for one in found.doubts}


def mended(found: Inspection, number: int = 0) -> Inspection:
    """What is found with the options of a remedy of the first doubt."""
    remedy = found.doubts[0].remedies[number]
    given = {name: value for name, value in {**found.options, **remedy.options}.items() if value is not None}
    return inspect(found.address, ReadingOptions(**given))


def test_an_inspection_has_counts_lengths_examples_and_the_first_values_of_columns(tmp_path: Path) -> None:
    found = inspect(csv(tmp_path / "a.csv", [(f"t {i}", "ny"[i % 2], i) for i in range(40)], "text,label,id"))
    assert (found.kind, found.train, found.evaluation) == ("classes", 32, 8)
    assert [(one.label, one.train, one.evaluation) for one in found.labels] == [("n", 16, 4), ("y", 16, 4)]
    assert list(found.characters) == [4, 4, 4]
    assert [(one.name, one.first) for one in found.file_columns] == [("text", "t 0"), ("label", "n"), ("id", "0")]
    assert found.columns == {"text": "text", "label": "label", "others": "id"}
    assert found.examples[0].target in ("n", "y")


def test_columns_are_named_although_a_row_is_malformed_and_for_a_directory(tmp_path: Path) -> None:
    broken = inspect(csv(tmp_path / "a.csv", [*ROWS[:2], ("a", "b", "c")]))
    assert [(one.name, one.first) for one in broken.file_columns] == [("text", "text number 0"), ("label", "n")]
    (tmp_path / "d").mkdir()
    csv(tmp_path / "d" / "train.csv", ROWS)
    csv(tmp_path / "d" / "dev.csv", [("new text", "y")])
    assert [one.name for one in inspect(str(tmp_path / "d")).file_columns] == ["text", "label"]


def test_the_same_facts_are_json_with_the_options_of_a_doubt_apart(tmp_path: Path) -> None:
    address = csv(tmp_path / "a.csv", [(f"text number {i}", i % 5) for i in range(40)])
    found = json.loads(json.dumps(inspect(address).as_json()))
    doubt = found["doubts"][0]
    assert (found["kind"], doubt["code"]) == ("classes", "data.kind-ambiguous")
    assert {"option": "kind"} in doubt["parts"]
    assert {"option": "kind"} in found["parts"][0]
    assert "`kind` number reads them as numbers" in doubt["words"]
    assert [one["options"] for one in doubt["remedies"]] == [{"kind": "classes"}, {"kind": "number"}]


def test_an_address_without_texts_is_an_error_and_a_file_that_cannot_be_read_a_doubt(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        inspect(str(tmp_path / "a.csv"))
    found = inspect(csv(tmp_path / "a.csv", []))
    assert found.kind is None
    assert [(one.code, one.refuses) for one in found.doubts] == [("data.no-rows", True)]


@pytest.mark.parametrize(
    ("header", "rows", "code", "number", "kind"),
    [
        (
            "text,label",
            [(t, label.upper() if i == 3 else label) for i, (t, label) in enumerate(ROWS)],
            "labels-alike",
            0,
            "classes",
        ),
        ("text,label", [*ROWS, ("one more", "")], "value-missing", 0, "classes"),
        ("text,label", [*ROWS, ("", "y")], "value-missing", 0, "classes"),
        ("review,title,label", [(t, t, label) for t, label in ROWS], "column-ambiguous", 0, "classes"),
        ("review,title,label", [(t, t, label) for t, label in ROWS], "column-ambiguous", 2, "classes"),
        (
            "text,label,stars",
            [(t, label, i % 3) for i, (t, label) in enumerate(ROWS)],
            "column-ambiguous",
            0,
            "classes",
        ),
        (
            "text,label,target",
            [(t, i % 2, i % 3 % 2) for i, (t, _) in enumerate(ROWS)],
            "column-ambiguous",
            2,
            "labels",
        ),
        ("words,label", ROWS, "column-missing", 0, "classes"),
        ("text,label", [(t, i % 23) for i, (t, _) in enumerate(ROWS * 2)], "kind-ambiguous", 1, "number"),
    ],
)
def test_a_remedy_mends_what_refuses(
    tmp_path: Path, header: str, rows: Sequence[Sequence[Any]], code: str, number: int, kind: str
) -> None:
    found = inspect(csv(tmp_path / "a.csv", rows, header))
    assert (found.kind, found.doubts[0].code, found.doubts[0].refuses) == (None, f"data.{code}", True)
    again = mended(found, number)
    assert again.kind == kind, again.doubts


def test_words_among_numbers_can_be_names_of_classes(tmp_path: Path) -> None:
    rows = [*((text, f"{i / 7:.3f}") for i, (text, _) in enumerate(ROWS)), ("one more", "good"), ("another", "good")]
    found = inspect(csv(tmp_path / "a.csv", rows))
    assert found.doubts[0].code == "data.number-malformed"
    assert [one.options for one in found.doubts[0].remedies] == [{"kind": "classes"}]


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"separator": ";"}, "data.option-inapplicable"),
        ({"labels": ("a", "b")}, "data.labels-mismatch"),
        ({"labels": ("n", "n")}, "argument.invalid"),
        ({"sheet": "One"}, "data.option-inapplicable"),
        ({"text": "body"}, "data.column-missing"),
        ({"text_pair": "text"}, "data.column-repeated"),
        ({"positive": "z"}, "data.label-unknown"),
        ({"kind": "number"}, "data.number-malformed"),
    ],
)
def test_an_option_that_does_not_fit_is_taken_back_by_its_remedy(
    tmp_path: Path, options: dict[str, Any], code: str
) -> None:
    found = inspect(csv(tmp_path / "a.csv", ROWS), ReadingOptions(**options))
    assert found.doubts[0].code == code
    assert mended(found).kind == "classes"


def test_sheets_are_named_and_chosen_by_a_remedy(tmp_path: Path) -> None:
    book = Workbook()
    for sheet in (book.active, book.create_sheet("Two & more")):
        for row in (("text", "label"), *ROWS):
            sheet.append(row)
    book.save(tmp_path / "a.xlsx")
    found = inspect(str(tmp_path / "a.xlsx"))
    assert list(found.sheets) == ["Sheet", "Two & more"]
    assert mended(found, 1).kind == "classes"
    lost = inspect(str(tmp_path / "a.xlsx"), ReadingOptions(sheet="Three"))
    assert [one.options for one in lost.doubts[0].remedies] == [{"sheet": "Sheet"}, {"sheet": "Two & more"}]


def test_the_column_of_few_values_is_offered_as_that_of_labels_and_the_text_is_not(tmp_path: Path) -> None:
    rows = [(f"T{number}", f"text number {number}", "ab"[number % 2]) for number in range(12)]
    found = inspect(csv(tmp_path / "a.csv", rows, "id,body,department"))
    assert "with `label`, such as department, or a column" in found.doubts[0].words
    assert [one.options for one in found.doubts[0].remedies][:2] == [{"label": "department"}, {"label": "id"}]
    assert {"label": "body"} not in [one.options for one in found.doubts[0].remedies]


def test_texts_in_both_splits_refuse_and_can_be_accepted_at_a_cost_that_is_said(tmp_path: Path) -> None:
    other = csv(tmp_path / "dev.csv", ROWS[:10])
    found = inspect(csv(tmp_path / "a.csv", ROWS), ReadingOptions(evaluation=other))
    assert (found.doubts[0].code, found.doubts[0].refuses) == ("data.leakage", True)
    once, accepted = mended(found), mended(found, 1)
    assert (once.leaked, once.train, once.evaluation) == (0, 30, 10)
    assert accepted.leaked == 10
    assert "figures on them are too high" in doubts(accepted)["data.leakage"].words
    assert not doubts(accepted)["data.leakage"].refuses


def test_a_label_with_few_held_out_texts_is_named(tmp_path: Path) -> None:
    rows = [*ROWS, *((f"rare {number}", "z") for number in range(5))]
    words = doubts(inspect(csv(tmp_path / "a.csv", rows)))["data.few-of-label"].words
    assert words.startswith("Fewer than 5 held-out texts have the label ")
    assert "'z' (" in words
    other = [(f"held {number}", label) for label in "nyz" for number in range(5)]
    options = ReadingOptions(evaluation=csv(tmp_path / "dev.csv", other))
    assert "data.few-of-label" not in doubts(inspect(csv(tmp_path / "b.csv", rows), options))


def test_repeated_texts_and_texts_with_two_labels_are_counted(tmp_path: Path) -> None:
    found = inspect(csv(tmp_path / "a.csv", [*ROWS, *ROWS[:3], ("text number 5", "n"), ("Text number 5!", "y")]))
    assert found.repeated == 5
    assert "5 of 45 rows repeat the text of an earlier row." in doubts(found)["data.repeated"].words
    notes = [one.words for one in found.doubts if one.code == "note"]
    assert any("with different labels" in one and "line" in one for one in notes)
    for how, train in (("keep", found.train), ("once", found.train - 4), ("agreed", found.train - 6)):
        read = inspect(found.address, ReadingOptions(duplicates=how))
        assert (read.train, read.evaluation) == (train, found.evaluation), how
        offered = [remedy.options for one in read.doubts for remedy in one.remedies]
        assert offered == [{"duplicates": one} for one in ("once", "agreed") if how in ("keep", "once") and one != how]
    assert inspect(csv(tmp_path / "b.csv", ROWS)).repeated == 0


def test_another_kind_that_is_possible_is_offered(tmp_path: Path) -> None:
    found = inspect(csv(tmp_path / "a.csv", [(text, i % 2) for i, (text, _) in enumerate(ROWS)]))
    assert found.kind == "classes"
    confirmed, other = mended(found, 0), mended(found, 1)
    assert (confirmed.kind, other.kind) == ("classes", "number")
    assert "data.kind-ambiguous" not in {**doubts(confirmed), **doubts(other)}


class Words:
    """A tokenizer that gives a token for each word."""

    def __init__(self) -> None:
        self.asked = 0

    def __call__(self, texts: list[str], pairs: list[str] | None = None, **_: Any) -> dict[str, list[list[int]]]:
        self.asked += len(texts)
        both = texts if pairs is None else [f"{one} {two}" for one, two in zip(texts, pairs, strict=True)]
        return {"input_ids": [[0] * len(one.split()) for one in both]}


def test_the_share_of_truncated_texts_is_measured(tmp_path: Path) -> None:
    rows = [("a b c d e " * (3 if i % 4 == 0 else 1) + f"{i}", "ny"[i // 4 % 2]) for i in range(80)]
    tokenizer = Words()
    found = inspect(csv(tmp_path / "a.csv", rows), measured=lambda task: [TokenLengths.of(task, tokenizer, 10, "tiny")])
    (one,) = found.tokens
    assert (one.sampled, one.longest, one.median) == (found.train, 16, 6)
    words = doubts(found)["data.truncated"].words
    assert f"{one.truncated / one.sampled:.0%} of the texts have more than the 10 tokens that tiny reads" in words
    assert tokenizer.asked == found.train


def test_at_most_a_sample_of_texts_and_of_characters_is_tokenized(tmp_path: Path) -> None:
    tokenizer = Words()
    many = Task.load(csv(tmp_path / "a.csv", [(f"text {i}", "ny"[i % 2]) for i in range(5000)]))
    assert TokenLengths.of(many, tokenizer, 8192, "tiny").sampled == SAMPLE == tokenizer.asked
    long = Task.load(csv(tmp_path / "b.csv", [(f"{i} " + "word " * 200_000, "ny"[i % 2]) for i in range(20)]))
    found = TokenLengths.of(long, tokenizer, 100_000, "tiny")
    assert found.sampled < len(long.train)
    assert found.truncated == found.sampled


def test_target_texts_that_training_would_refuse_are_counted_and_can_be_left_out(tmp_path: Path) -> None:
    rows = [(f"text {i}", "word " * (9 if i % 2 else 3) + str(i)) for i in range(40)]

    def measured(task: Task) -> list[TokenLengths]:
        return [TokenLengths.of(task, Words(), 12, "tiny")]

    address = csv(tmp_path / "a.csv", rows, "prompt,completion")
    found = inspect(address, measured=measured)
    assert found.kind == "text"
    doubt = doubts(found)["data.target-long"]
    assert [one.options for one in doubt.remedies] == [{"long": "skip"}]
    again = inspect(address, ReadingOptions(long="skip", kind="text"), measured=measured)
    assert "data.target-long" not in doubts(again)


def test_reading_a_large_file_says_how_far_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "SAID_SECONDS", 0.0)
    said: list[str] = []
    inspect(csv(tmp_path / "a.csv", [(f"text {i}", "ny"[i % 2]) for i in range(4000)]), says=said.append)
    assert said[0].startswith("a.csv: 1,024 rows read, ")
    assert 0 < said[0].share <= said[2].share <= 1  # type: ignore[attr-defined]
    assert [one.rpartition(", ")[2] for one in said[:3]] == sorted(one.rpartition(", ")[2] for one in said[:3])
    assert said[3:] == ["looking at the texts and labels of 4,000 rows", "counting labels and repeated texts"]


def test_an_inspection_of_long_names_and_many_columns_stays_small(tmp_path: Path) -> None:
    from dataclasses import asdict

    long, many = "x" * 100_000, 5_000
    header = ",".join(["text", "label", long, *(f"column {i}" for i in range(many))])
    rows = [(f"{text} {long}", f"{label} {long}", "1", *["1"] * many) for text, label in ROWS[:10]]
    found = inspect(csv(tmp_path / "a.csv", rows, header))
    assert (len(found.file_columns), found.further_columns) == (MOST_COLUMNS, many + 3 - MOST_COLUMNS)
    assert max(len(one.label) for one in found.labels) == LONGEST
    assert max(map(len, found.words)) <= LONGEST_WORDS + 1
    assert len(json.dumps(asdict(found))) < 100_000


def test_labels_beyond_the_most_are_counted_together(tmp_path: Path) -> None:
    rows = [(f"text {i} {twice}", f"label {i}") for i in range(MOST_LABELS + 50) for twice in "ab"]
    found = inspect(csv(tmp_path / "a.csv", rows))
    assert (len(found.labels), found.further) == (MOST_LABELS, 50)
