"""Entities are read from the usual files of token classification, and it is said how each file was read."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from openpyxl import Workbook
from pyarrow import parquet

from afina import Task
from afina.data.entities import Entity
from afina.data.evaluation_set import EvaluationSet, TrainingInfo
from afina.data.inspection import inspect
from afina.data.readers import files, formats
from afina.data.readers.splitting import LabelledRows
from afina.data.readers.texts import chunks
from afina.data.reading_options import ReadingOptions
from afina.data.remedies import remedies_of
from afina.errors import InvalidData
from hubs import CONVERTED, Hub, classes, written
from hubs import several as any_number
from pages import ROOT, blocks
from raises import raises

MARIA = "Maria Lopez flew to Rome ."
SPANS = [(0, 11, "PER"), (20, 24, "LOC")]
WORDS = MARIA.split()
TAGS = {
    "BIO (IOB2)": ["B-PER", "I-PER", "O", "O", "B-LOC", "O"],
    "IO": ["I-PER", "I-PER", "O", "O", "I-LOC", "O"],
    "IO (labels alone)": ["PER", "PER", "O", "O", "LOC", "O"],
    "BIOES": ["B-PER", "E-PER", "O", "O", "S-LOC", "O"],
    "BILOU": ["B-PER", "L-PER", "O", "O", "U-LOC", "O"],
    "BMES": ["B-PER", "M-PER", "O", "O", "S-LOC", "O"],
}
TAGS["BMES"][1] = "E-PER"
TAG_NAMES = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
NUMBERS = [1, 2, 0, 0, 3, 0]
ENTITIES = tuple(Entity(*span) for span in SPANS)


def read(path: Path, **options: Any) -> LabelledRows:
    return files.TableReading.of([formats.read(path)], ReadingOptions(**options)).rows()


def jsonl(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def conll(path: Path, *sentences: Sequence[Sequence[str]], mark: str = "\t") -> Path:
    blocks = ["".join(mark.join(word) + "\n" for word in sentence) for sentence in sentences]
    path.write_text("\n".join(blocks), encoding="utf-8")
    return path


def lines_of(sentence: Sequence[Sequence[str]]) -> str:
    return "".join(" ".join(word) + "\n" for word in sentence)


OBJECTS = [{"start": 0, "end": 11, "label": "PER"}, {"start": 20, "end": 24, "label": "LOC"}]
ROWS: dict[str, dict[str, Any]] = {
    "spans as lists": {"text": MARIA, "entities": SPANS},
    "doccano": {"id": 7, "text": MARIA, "label": SPANS, "Comments": []},
    "doccano with relations": {
        "text": MARIA,
        "entities": [
            {"id": 1, "label": "PER", "start_offset": 0, "end_offset": 11},
            {"id": 2, "label": "LOC", "start_offset": 20, "end_offset": 24},
        ],
        "relations": [],
    },
    "Prodigy": {
        "text": MARIA,
        "_input_hash": 1,
        "tokens": [{"text": "Maria", "start": 0, "end": 5, "id": 0}],
        "spans": [{**one, "token_start": 0, "token_end": 1} for one in OBJECTS],
        "answer": "accept",
    },
    "objects of another order": {"text": MARIA, "spans": OBJECTS[::-1]},
    "answers of afina": {"row": 1, "text": MARIA, "entities": [{**one, "score": 0.9} for one in OBJECTS]},
    "an object around the list": {"text": MARIA, "label": {"entities": SPANS}},
    "lists by key": {"text": MARIA, "entities": {"start": [0, 20], "end": [11, 24], "label": ["PER", "LOC"]}},
    "words and tags": {"id": "0", "tokens": WORDS, "ner_tags": TAGS["BIO (IOB2)"]},
    "words and labels": {"words": WORDS, "labels": TAGS["BIO (IOB2)"], "text": MARIA},
}


WORD_ROWS = {
    "first": ["Sentence: 1", "", "", "", "", "", "Sentence: 2"],
    "each": ["7", "7", "7", "7", "7", "7", "8"],
}
"""A column of sentences whose value stands in the first row of a sentence, or in each row."""


@pytest.mark.parametrize("sentence", WORD_ROWS.values(), ids=WORD_ROWS)
def test_a_table_with_one_word_in_each_row_is_read_by_sentences(tmp_path: Path, sentence: list[str]) -> None:
    words = zip(sentence, [*WORDS, "Yes"], [*TAGS["BIO (IOB2)"], "O"], strict=True)
    path = tmp_path / "ner.csv"
    path.write_text("Sentence #,Word,POS,Tag\n" + "".join(f"{one},{word},X,{tag}\n" for one, word, tag in words))
    found = read(path)
    assert found.texts == [MARIA, "Yes"]
    assert [*found.labels] == [ENTITIES, ()]
    assert formats.read(path).places == [2, 8]
    (said,) = (note for note in formats.read(path).notes if "one word in each row" in note)
    assert "column 'Sentence #'" in said
    assert "column 'Word' is called 'tokens'" in said


def test_a_table_whose_sentences_have_one_row_each_stays_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "texts.csv"
    path.write_text("sentence,word,tag\nA long day,day,B-X\nA short night,night,O\n")
    assert [*formats.read(path).columns] == ["sentence", "word", "tag"]


@pytest.mark.parametrize("name", ROWS)
def test_each_tool_s_rows_are_entities_without_an_option(tmp_path: Path, name: str) -> None:
    empty = {"entities": [], "label": [], "spans": [], "ner_tags": ["O"], "labels": ["O"]}
    other = {key: empty.get(key, value) for key, value in ROWS[name].items()}
    other |= {"text": "none"} if "text" in other else {}
    other |= {key: ["none"] for key in ("words", "tokens") if isinstance(other.get(key, [0])[0], str)}
    found = read(jsonl(tmp_path / "a.jsonl", ROWS[name], other))
    assert (found.kind, list(found.texts)) == ("entities", [MARIA, "none"])
    assert list(found.labels) == [ENTITIES, ()]
    assert found.spaced == (found.columns["text"] in ("tokens", "words"))


@pytest.mark.parametrize("scheme", TAGS)
def test_conll_columns_are_read_in_every_scheme_and_the_scheme_is_said(tmp_path: Path, scheme: str) -> None:
    sentence = list(zip(WORDS, TAGS[scheme], strict=True))
    rows = read(conll(tmp_path / "a.conll", sentence, [("none", "O")]))
    assert list(rows.labels) == [ENTITIES, ()]
    assert rows.spaced
    said = "BIOES" if scheme == "BMES" else scheme  # the same tags
    assert any(f"{said} tags" in note for note in rows.notes)


def test_letters_that_only_one_scheme_has_name_it(tmp_path: Path) -> None:
    for letters, name in (("BMES", "BMES"), ("BMEW", "BMEWO"), ("BIES", "BIOES"), ("BILU", "BILOU")):
        first, inside, last, only = letters
        tags = [f"{first}-X", f"{inside}-X", f"{last}-X", f"{only}-X", "O"]
        rows = read(conll(tmp_path / "a.iob", list(zip("abcde", tags, strict=True))))
        assert list(rows.labels) == [((0, 5, "X"), (6, 7, "X"))]
        assert any(f"holds {name} tags" in note for note in rows.notes)


def test_iob1_is_told_from_iob2_by_where_b_stands(tmp_path: Path) -> None:
    one = list(zip("abcd", ["I-X", "B-X", "I-X", "O"], strict=True))
    rows = read(conll(tmp_path / "a.conll", one))
    assert list(rows.labels) == [((0, 1, "X"), (2, 5, "X"))]
    assert any("IOB1 tags" in note for note in rows.notes)
    two = list(zip("abcd", ["B-X", "B-X", "I-X", "O"], strict=True))
    assert any("IOB2" in note for note in read(conll(tmp_path / "b.conll", two)).notes)


def test_conll_2003_has_documents_four_columns_and_spaces(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text(
        "-DOCSTART- -X- -X- O\n\nMaria NNP B-NP B-PER\nsleeps VB B-VP O\n\nRome NNP B-NP B-LOC\n\n"
        "-DOCSTART- -X- -X- O\n\nLima NNP B-NP B-LOC\n. . O O\n",
        encoding="utf-8",
    )
    rows = read(path)
    assert list(rows.texts) == ["Maria sleeps", "Rome", "Lima ."]
    assert rows.groups == ["1", "1", "2"]
    assert rows.columns == {"text": "tokens", "label": "tags", "group": "document", "others": "column 2, column 3"}
    assert [rows.where(row) for row in range(3)] == [f"{path}, line {line}" for line in (3, 6, 10)]
    other = read(path, label="column 3")
    assert other.labels[0] == ((0, 5, "NP"), (6, 12, "VP"))


def test_comments_before_a_sentence_are_said_and_a_hash_sign_is_a_word(tmp_path: Path) -> None:
    path = tmp_path / "a.conll"
    path.write_text("# id 1 domain=en\n#tag _ _ O\nRome _ _ B-LOC\n\n# id 2 domain=en\n# _ _ O\n\n", encoding="utf-8")
    rows = read(path)
    assert list(rows.texts) == ["#tag Rome", "#"]
    assert any("2 comments (lines that begin with #)" in note for note in rows.notes)


def test_windows_line_ends_a_byte_order_mark_and_old_encodings_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.conll"
    path.write_bytes(b"\xef\xbb\xbf" + "Zürich\tB-LOC\r\n.\tO\r\n\r\nx\tO\r\n".encode())
    assert list(read(path).texts) == ["Zürich .", "x"]
    path.write_bytes("Zürich B-LOC\n".encode("latin-1"))
    rows = read(path)
    assert list(rows.texts) == ["Zürich"]
    assert any("Windows-1252" in note for note in rows.notes)


def test_integers_are_tags_whose_names_the_user_or_the_data_set_gives(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", {"tokens": WORDS, "ner_tags": NUMBERS})
    assert read(path, labels=tuple(TAG_NAMES)).labels == [ENTITIES]
    table = pyarrow.table({"tokens": [WORDS] * 2, "ner_tags": [NUMBERS] * 2})
    feature = {"feature": {"names": TAG_NAMES, "_type": "ClassLabel"}, "_type": "Sequence"}
    about = {b"huggingface": json.dumps({"info": {"features": {"ner_tags": feature}}}).encode()}
    parquet.write_table(table.replace_schema_metadata(about), tmp_path / "a.parquet")
    rows = read(tmp_path / "a.parquet")
    assert (list(rows.labels), rows.names) == ([ENTITIES] * 2, ("PER", "LOC"))


def test_a_cell_of_csv_or_xlsx_has_json_or_python_s_notation(tmp_path: Path) -> None:
    for name, cell in {
        "json": json.dumps(SPANS),
        "python": repr(SPANS),
        "objects": repr(OBJECTS),
    }.items():
        path = tmp_path / f"{name}.csv"
        path.write_text(f'text,entities\n{MARIA},"{cell.replace(chr(34), chr(34) * 2)}"\nnone,[]\n', encoding="utf-8")
        assert list(read(path).labels) == [ENTITIES, ()]
    words = tmp_path / "words.csv"
    words.write_text(f'tokens,tags\n"{WORDS}","{TAGS["BIO (IOB2)"]}"\n', encoding="utf-8")
    assert (read(words).texts, read(words).labels) == ([MARIA], [ENTITIES])
    book = Workbook()
    book.active.append(("text", "entities"))
    book.active.append((MARIA, json.dumps(SPANS)))
    book.save(tmp_path / "a.xlsx")
    assert read(tmp_path / "a.xlsx").labels == [ENTITIES]


def test_json_of_spacy_is_pairs_of_a_text_and_its_entities(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps([[MARIA, {"entities": SPANS}], ["none", {"entities": []}]]), encoding="utf-8")
    assert list(read(path).labels) == [ENTITIES, ()]


def studio(number: int, text: str, *annotations: Any) -> dict[str, Any]:
    return {"id": number, "data": {"text": text}, "annotations": [{"result": one} for one in annotations]}


def marked(start: int, end: int, label: str, text: str) -> dict[str, Any]:
    value = {"start": start, "end": end, "labels": [label], "text": text}
    return {"from_name": "ner", "to_name": "text", "type": "labels", "value": value}


def test_spans_of_label_studio_are_entities_and_an_empty_annotation_has_none(tmp_path: Path) -> None:
    both = [marked(20, 24, "LOC", "Rome"), marked(0, 11, "PER", "Maria Lopez")]
    path = tmp_path / "export.json"
    tasks = [studio(11, MARIA, both, both[::-1]), studio(12, "none", []), studio(13, "open"), studio(14, "x", [], both)]
    path.write_text(json.dumps(tasks), encoding="utf-8")
    rows = read(path)
    assert (list(rows.texts), list(rows.labels)) == ([MARIA, "none"], [ENTITIES, ()])
    assert "2 tasks" not in rows.notes[0]
    assert "1 not annotated; 1 on which the annotators disagree" in rows.notes[0]
    small = [{"id": 1, "text": MARIA, "ner": [one["value"] for one in both], "annotator": 1, "annotation_id": 3}]
    path.write_text(json.dumps(small), encoding="utf-8")
    assert read(path).labels == [ENTITIES]


UNICODE = {
    "emoji": ("👩‍👩‍👧 Zoë 👍🏽 Rome", "Rome"),
    "combining marks": ("Ame\u0301lie sees Zoe\u0308", "Zoe\u0308"),
    "a flag": ("🇮🇹 Italia", "🇮🇹"),
    "line ends": ("a\r\nRome\r\n", "Rome"),
    "a no-break space": ("in\u00a0New\u00a0York", "New\u00a0York"),
    "marks of direction": ("\u200fחיפה\u200f יפה", "חיפה"),
    "a zero-width joiner": ("क्\u200dष here", "क्\u200dष"),
    "no spaces": ("我住在北京。", "北京"),
}


@pytest.mark.parametrize("name", UNICODE)
def test_offsets_are_code_points_of_the_text_as_given(tmp_path: Path, name: str) -> None:
    text, part = UNICODE[name]
    start = text.index(part)
    span = [start, start + len(part), "X"]
    found = read(jsonl(tmp_path / "a.jsonl", {"text": text, "entities": [span]}, {"text": text, "entities": []}))
    assert (found.texts[0], found.labels[0]) == (text, (Entity(*span),))


def in_utf16(text: str, part: str) -> dict[str, Any]:
    start = len(text[: text.index(part)].encode("utf-16-le")) // 2
    return {"start": start, "end": start + len(part.encode("utf-16-le")) // 2, "label": "X"}


def test_offsets_in_utf_16_are_recognised_where_all_spans_fit_so(tmp_path: Path) -> None:
    text = "👍🏽 Rome 👍🏽"
    path = jsonl(tmp_path / "a.jsonl", {"text": text, "entities": [in_utf16(text, "Rome")]})
    with raises(InvalidData, code="data.entity-misplaced") as caught:
        read(path)
    assert "count UTF-16 code units" in str(caught.value)
    assert "`repair`" not in str(caught.value)  # which has no proof of it
    with raises(InvalidData, code="data.entity-misplaced") as caught:
        read(path, repair=True)
    assert "the key 'text'" in str(caught.value)
    quoted = {**in_utf16(text, "Rome"), "text": "Rome"}
    path = jsonl(tmp_path / "b.jsonl", {"text": text, "entities": [quoted]})
    with raises(InvalidData, code="data.entity-misplaced") as caught:
        read(path)
    assert "Set `repair`, which converts" in str(caught.value)
    rows = read(path, repair=True)
    assert rows.labels == [(Entity(text.index("Rome"), text.index("Rome") + 4, "X"),)]
    assert any("UTF-16" in note for note in rows.notes)


def test_a_repair_extends_no_span_that_may_count_something_else(tmp_path: Path) -> None:
    text, cut = "😀😀 Maria Silva lives near Porto today", {"text": "Maria flew", "entities": [[0, 3, "PER"]]}
    found = [in_utf16(text, "Maria Silva"), in_utf16(text, "Porto")]
    path = jsonl(tmp_path / "a.jsonl", cut, {"text": text, "entities": found})
    with raises(InvalidData, code="data.entity-misplaced") as caught:
        read(path, repair=True)
    assert "line 2" in str(caught.value)
    assert "UTF-16 code units" in str(caught.value)
    path = jsonl(tmp_path / "b.jsonl", {"text": text, "entities": found}, cut)
    with raises(InvalidData, code="data.entity-misplaced") as caught:
        read(path)
    assert "UTF-16 code units" in str(caught.value)
    spans = [[3, 14, "PER"], [15, 18, "X"]]  # characters, and a part of a word
    rows = read(jsonl(tmp_path / "c.jsonl", cut, {"text": text, "entities": spans}), repair=True)
    assert list(rows.labels[1]) == [(3, 14, "PER"), (15, 20, "X")]
    assert any("2 spans extended to whole words (the first in " in note and "line 1" in note for note in rows.notes)


def several(count: int, **more: Any) -> list[dict[str, Any]]:
    places = ("Rome", "Lima", "Oslo")
    return [
        {"text": f"{places[i % 3]} is no. {i}", "entities": [[0, 4, ("LOC", "CITY")[i % 2]]] if i % 4 else [], **more}
        for i in range(count)
    ]


def test_a_task_of_one_file_is_divided_inspected_and_known_again(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", *several(40))
    task = Task.load(path)
    assert (task.kind, task.label_names, task.train.spaced) == ("entities", ("CITY", "LOC"), False)
    assert len(task.train) + len(task.evaluation) == 40
    assert (
        "30 entities with 2 labels (CITY, LOC), 0.75 in a text; 25% of the texts have none: kind entities" in task.told
    )
    found = inspect(str(path))
    assert (sum(one.train + one.evaluation for one in found.labels), found.counted) == (30, "entities")
    shown = {f"{place} ({label})" for place in ("Rome", "Lima", "Oslo") for label in ("LOC", "CITY")}
    assert {one.target for one in found.examples} <= {"none", *shown}
    known = TrainingInfo(2, task.label_names, str(path), task.data, task.train.digest, kind="entities")
    again = EvaluationSet.read(str(path), known)
    assert (again.held_out, again.split.digest) == (True, task.evaluation.digest)
    other = EvaluationSet.read(str(jsonl(tmp_path / "b.jsonl", *several(3, id=1)[1:])), known, allow_leakage=True)
    assert other.split.labels.tolist() == [((0, 4, "CITY"),), ((0, 4, "LOC"),)]


def test_a_file_without_words_and_words_without_tags_are_named_as_such(tmp_path: Path) -> None:
    path = tmp_path / "train.conll"
    for content, code, said in (
        ("", "data.no-rows", "the file has no words"),
        ("-DOCSTART- O\n\n", "data.no-rows", "the file has no words"),
        ("Rome\nis\n", "data.column-missing", "the words have no tags"),
    ):
        path.write_text(content, encoding="utf-8")
        with raises(InvalidData, code=code) as caught:
            read(path)
        assert said in str(caught.value)


def test_the_sentences_of_a_document_are_kept_together(tmp_path: Path) -> None:
    rows = [{"tokens": [f"w{i}", "Rome"], "tags": ["O", "B-LOC"], "doc_id": f"d{i // 5}"} for i in range(50)]
    task = Task.load(jsonl(tmp_path / "a.jsonl", *rows))
    assert task.train.groups is not None
    assert task.evaluation.groups is not None
    assert not set(task.train.groups) & set(task.evaluation.groups)
    assert "kept together: column 'doc_id'" in task.told


def test_texts_that_documents_share_are_left_out_of_what_is_held_out_and_counted(tmp_path: Path) -> None:
    documents = [[("LONDON", "B-LOC"), ("1996-08-30", "O")], [("-----", "O")]]
    sentences = [[documents[i % 2], [(f"w{i}", "O"), ("Rome", "B-LOC")]] for i in range(40)]
    blocks = ("-DOCSTART- O\n\n" + "\n".join(map(lines_of, one)) for one in sentences)
    path = tmp_path / "a.conll"
    path.write_text("\n".join(blocks), encoding="utf-8")
    task = Task.load(path, selection=0.3)
    for name, part in (("evaluation", task.evaluation), ("selection", task.selection)):
        assert part is not None
        assert set(part.texts) & set(task.train.texts) <= {"-----"}
        own = sum(text.startswith("w") for text in part.texts)
        left_out = own - part.texts.count("-----")
        said = f"{left_out} of {len(part) + left_out} texts of the {name} split also stand in documents of the training"
        assert any(note.startswith(said) for note in task.notes), task.notes
    assert task.leaked == 0
    assert "-----" in task.evaluation.texts  # texts without letters and digits are not compared
    assert "LONDON 1996-08-30" in task.train.texts
    validated = Task.load(path, validation=0.3)
    assert (validated.leaked, validated.train.digest) == (0, task.train.digest)
    assert Task.load(path, allow_leakage=True).evaluation.digest == task.evaluation.digest
    known = TrainingInfo(1, task.label_names, str(path), task.data, task.train.digest, kind="entities")
    found = EvaluationSet.read(str(path), known)
    assert (found.held_out, found.leaked, found.split.digest) == (True, 0, task.evaluation.digest)


def test_documents_that_share_all_texts_are_refused(tmp_path: Path) -> None:
    rows = ({"tokens": ["in", "Rome"], "tags": ["O", "B-LOC"], "doc_id": f"d{i}"} for i in range(9))
    with raises(InvalidData, code="data.leakage"):
        Task.load(jsonl(tmp_path / "a.jsonl", *rows))


def test_a_directory_of_conll_files_is_a_task_and_its_training_texts_are_known(tmp_path: Path) -> None:
    conll(tmp_path / "train.conll", *([(f"w{i}", "O"), ("Rome", "B-LOC")] for i in range(9)), mark=" ")
    conll(tmp_path / "dev.conll", [("Lima", "B-LOC"), ("calls", "O")])
    task = Task.load(tmp_path)
    assert (len(task.train), len(task.evaluation), task.evaluation.spaced) == (9, 1, True)
    conll(tmp_path / "dev.conll", *([(f"w{i}", "O"), ("Rome", "B-LOC")] for i in range(3)))
    with raises(InvalidData, code="data.leakage"):
        Task.load(tmp_path)


def test_data_in_memory_are_as_from_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AFINA_CACHE", str(tmp_path))
    rows = several(20)
    texts, spans = [row["text"] for row in rows], [[tuple(span) for span in row["entities"]] for row in rows]
    given = [
        Task.of(texts, spans),
        Task.of(texts, [[Entity(*span) for span in each] for each in spans]),
        Task.of(texts, [[{"start": a, "end": b, "label": c} for a, b, c in each] for each in spans]),
        Task.of(rows),
        Task.of({"text": texts, "label": spans}),
    ]
    assert len({(task.train.digest, task.evaluation.digest) for task in given}) == 1
    assert Task.load(given[0].address).train.digest == given[0].train.digest
    words = Task.of({"tokens": [["Rome", str(i)] for i in range(9)], "ner_tags": [["B-LOC", "O"]] * 9})
    assert (words.train.spaced, words.label_names) == (True, ("LOC",))


def test_a_data_set_with_features_in_memory_names_its_tags(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AFINA_CACHE", str(tmp_path))

    class Feature:
        def __init__(self, **given: Any) -> None:
            self.__dict__.update(given)

    class Frame(dict[str, Any]):
        column_names = ("tokens", "ner_tags")
        features = {"tokens": Feature(), "ner_tags": Feature(feature=Feature(names=TAG_NAMES))}  # noqa: RUF012

        def __len__(self) -> int:
            return 9

    task = Task.of(Frame(tokens=[[*WORDS, str(i)] for i in range(9)], ner_tags=[[*NUMBERS, 0]] * 9))
    assert task.label_names == ("LOC", "PER")
    assert Task.load(task.address, task.data).train.digest == task.train.digest


def test_words_of_a_file_are_texts_to_predict(tmp_path: Path) -> None:
    conll(tmp_path / "a.conll", [("Maria", "B-PER"), ("sleeps", "O")], [("Rome",) * 2])
    jsonl(tmp_path / "a.jsonl", {"tokens": ["Maria", "sleeps"]}, {"tokens": []})
    conll(tmp_path / "a.txt", [("Maria", "B-PER"), ("sleeps", "O")])
    (tmp_path / "words.bio").write_text("Maria\nsleeps\n\nRome\n", encoding="utf-8")
    for name, expected in {"a.conll": 2, "a.jsonl": 2, "a.txt": 1, "words.bio": 2}.items():
        with chunks(tmp_path / name) as stream:
            (chunk,) = stream
        assert (chunk.texts[0], chunk.spaced, len(chunk.rows)) == ("Maria sleeps", True, expected)
    (tmp_path / "plain.txt").write_text("Maria sleeps\n", encoding="utf-8")
    with chunks(tmp_path / "plain.txt") as stream:
        (chunk,) = stream
    assert (chunk.texts, chunk.spaced) == (["Maria sleeps"], False)


def test_only_accepted_annotations_of_prodigy_are_read_and_the_others_are_counted(tmp_path: Path) -> None:
    verdicts = ("accept", "reject", "ignore", "accept")
    rows = [{**row, "answer": verdict} for row, verdict in zip(several(4), verdicts, strict=True)]
    found = read(jsonl(tmp_path / "a.jsonl", *rows))
    assert len(found) == 2
    assert any("2 rows left out, not accepted" in note for note in found.notes)


def test_a_multi_label_file_with_words_beside_its_texts_stays_one(tmp_path: Path) -> None:
    rows = [{"text": f"a b {i}", "tokens": ["a", "b", str(i)], "tags": ["x", "y"][: i % 3]} for i in range(9)]
    assert read(jsonl(tmp_path / "a.jsonl", *rows)).kind == "labels"


def test_labels_beside_entities_are_read_as_before_and_the_note_names_the_entities(tmp_path: Path) -> None:
    rows = [{**row, "label": ("good", "bad")[i % 2]} for i, row in enumerate(several(9))]
    path = jsonl(tmp_path / "a.jsonl", *rows)
    found = read(path)
    assert (found.kind, found.labels[:2]) == ("classes", ["good", "bad"])
    assert "column 'entities' may hold entities, and is not read. To read it, give `kind` entities." in found.notes[0]
    assert (read(path, kind="entities").kind, read(path, kind="classes").notes) == ("entities", ())
    table = pyarrow.table(
        {"text": ["Rome"] * 2, "spans": [[{"start": 0, "end": 4, "label": "X"}]] * 2, "label": [0, 1]}
    )
    about = {"info": {"features": {"label": {"names": ["bad", "good"], "_type": "ClassLabel"}}}}
    named = table.replace_schema_metadata({b"huggingface": json.dumps(about).encode()})
    parquet.write_table(named, tmp_path / "a.parquet")
    found = read(tmp_path / "a.parquet")
    assert (found.labels, "column 'spans'" in found.notes[0]) == (["bad", "good"], True)
    unlabelled = jsonl(tmp_path / "b.jsonl", *({**row, "label": None} for row in several(9)))
    with raises(InvalidData, code="data.column-ambiguous"):
        read(unlabelled)


def test_as_many_labels_as_words_are_labels_of_the_text_unless_they_look_like_tags(tmp_path: Path) -> None:
    def rows(*labels: Any) -> Path:
        words = ({"text": f"a b {i}", "tokens": ["a", "b", str(i)], "labels": labels} for i in range(9))
        return jsonl(tmp_path / "a.jsonl", *words)

    for given in (("x", "y", "z"), (0, 1, 1)):
        found = read(rows(*given))
        assert (found.kind, list(found.texts)[:2]) == ("labels", ["a b 0", "a b 1"])
        assert "column 'labels' has as many values as 'tokens' has words" in found.notes[0]
    assert read(rows("B-X", "I-X", "O")).kind == "entities"
    assert read(rows("X", "O", "O"), kind="entities").labels == [((0, 1, "X"),)] * 9


def test_the_user_s_order_of_labels_is_kept_and_other_labels_are_refused(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", *several(40))
    assert Task.load(path, labels=["LOC", "CITY"]).label_names == ("LOC", "CITY")
    with raises(InvalidData, code="data.labels-mismatch"):
        Task.load(path, labels=["LOC"])
    with raises(InvalidData, code="data.labels-alike"):
        Task.load(jsonl(tmp_path / "b.jsonl", *several(9), {"text": "Bern", "entities": [[0, 4, "loc"]]}))
    merged = Task.load(tmp_path / "b.jsonl", merge_labels=True)
    assert merged.label_names == ("CITY", "LOC")


def test_two_annotations_of_a_text_are_compared_by_letters(tmp_path: Path) -> None:
    rows = several(9)
    same = [
        {"text": "Go to  Bern !", "entities": [[7, 11, "LOC"]]},
        {"text": "go to bern", "entities": [[6, 10, "LOC"]]},
    ]
    assert not any("different entities" in note for note in Task.load(jsonl(tmp_path / "a.jsonl", *rows, *same)).notes)
    other = {"text": "go to bern", "entities": []}
    notes = Task.load(jsonl(tmp_path / "b.jsonl", *rows, same[0], other)).notes
    assert any("1 text occurs in 2 rows with different entities" in note for note in notes)


def test_a_data_set_of_the_hub_has_words_and_names_of_tags(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = Hub(tmp_path / "hub").install(monkeypatch)
    features = {"ner_tags": any_number(*TAG_NAMES), "pos_tags": any_number("NN", "VB"), "id": classes("x")}
    for split, count in (("train", 9), ("validation", 3)):
        rows = {
            "tokens": [[*WORDS, f"{split} {i}".replace(" ", "-")] for i in range(count)],
            "pos_tags": [[0] * 7] * count,
            "ner_tags": [[*NUMBERS, 0]] * count,
        }
        hub.sets.setdefault(("someone/words", CONVERTED), {})[f"default/{split}/0000.parquet"] = written(rows, features)
    task = Task.load("hub:someone/words")
    assert (task.kind, task.label_names, task.train.spaced) == ("entities", ("LOC", "PER"), True)
    assert (len(task.train), len(task.evaluation), task.train.labels[0]) == (9, 3, ENTITIES)
    assert task.columns["others"] == "pos_tags"
    known = TrainingInfo(2, task.label_names, task.address, task.data, None, kind="entities")
    found = EvaluationSet.read("hub:someone/words", known, allow_leakage=True)
    assert (found.split.spaced, found.split.labels.tolist()) == (True, [ENTITIES] * 3)


PAGE = ROOT / "docs" / "reference" / "tasks.md"
EXAMPLES = [(suffix, text) for suffix in ("conll", "jsonl", "csv", "json") for text in blocks(PAGE, suffix)]


def test_the_page_has_an_example_of_every_format() -> None:
    assert [suffix for suffix, _ in EXAMPLES] == ["conll", *["jsonl"] * 4, "csv", "json"]


@pytest.mark.parametrize(("suffix", "text"), EXAMPLES, ids=str)
def test_an_example_of_the_page_is_read_as_it_says(tmp_path: Path, suffix: str, text: str) -> None:
    path = tmp_path / f"a.{suffix}"
    path.write_text(text, encoding="utf-8")
    rows = read(path)
    assert list(rows.texts) == [MARIA.removesuffix(" ."), "Nothing new"]
    assert list(rows.labels) == [ENTITIES, ()]


def test_an_adapter_is_measured_on_numbers_only_if_they_have_names_of_tags(tmp_path: Path) -> None:
    known = TrainingInfo(2, ("LOC", "PER"), None, ReadingOptions(labels=("PER", "LOC")), None, kind="entities")
    path = jsonl(tmp_path / "a.jsonl", {"tokens": WORDS, "ner_tags": NUMBERS})
    with raises(InvalidData, code="data.tags-malformed"):
        EvaluationSet.read(str(path), known)
    found = EvaluationSet.read(str(path), known, labels=TAG_NAMES)
    assert (found.label_names, found.split.labels.tolist()) == (("LOC", "PER"), [ENTITIES])
    with raises(InvalidData, code="data.label-unknown"):
        EvaluationSet.read(str(path), TrainingInfo(1, ("PER",), kind="entities"), labels=TAG_NAMES)


def test_rows_of_a_list_are_left_out_and_no_label_is_lost(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", *several(40))
    train = Task.load(path).train
    assert train.rows is not None
    lines = [f"{path},{train.rows.numbers[i]},{train.texts[i]},x\n" for i in range(3)]
    (tmp_path / "out.csv").write_text("file,row,text,label\n" + "".join(lines), encoding="utf-8")
    task = Task.load(path, without=tmp_path / "out.csv")
    assert (len(task.train), list(task.train.texts)) == (len(train) - 3, list(train.texts[3:]))
    every = [i for i in range(len(train)) if any(one.label == "LOC" for one in train.labels[i])]
    lines = [f"{path},{train.rows.numbers[i]},{train.texts[i]},x\n" for i in every]
    (tmp_path / "out.csv").write_text("file,row,text,label\n" + "".join(lines), encoding="utf-8")
    with raises(InvalidData, code="data.no-rows", label="LOC"):
        Task.load(path, without=tmp_path / "out.csv")


def test_the_kind_may_be_given_and_repair_is_only_for_entities(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", *({"text": f"Rome {i}", "note": [[0, 4, "LOC"]]} for i in range(9)))
    assert read(path, label="note").kind == "entities"
    assert read(path, label="note", kind="entities").labels == [((0, 4, "LOC"),)] * 9
    empty = jsonl(tmp_path / "b.jsonl", {"text": "Rome", "entities": []}, {"text": "Lima", "entities": []})
    assert read(empty, kind="entities").labels == [(), ()]
    for options in ({}, {"kind": "entities"}):
        with raises(InvalidData, code="data.no-labels"):
            Task.load(empty, **options)
    classes = jsonl(tmp_path / "c.jsonl", {"text": "Rome", "label": "good"})
    with raises(InvalidData, code="data.option-inapplicable"):
        read(classes, repair=True)


@pytest.mark.parametrize("more", [{}, {"text": "tokens"}])
def test_a_label_column_that_words_lack_is_the_one_that_is_named(tmp_path: Path, more: Any) -> None:
    path = conll(tmp_path / "a.conll", [("Rome", "B-LOC")])
    with raises(InvalidData, code="data.column-missing", column="tag", field="label"):
        read(path, label="tag", **more)


def test_an_empty_cell_of_entities_is_not_kept_and_is_left_out_if_asked(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", {"text": MARIA, "entities": SPANS}, {"text": "none", "entities": None})
    with raises(InvalidData, code="data.value-missing") as caught:
        read(path)
    assert [one.options for one in remedies_of(caught.value)] == [{"missing": "skip"}]
    assert "[] " in str(caught.value)


def test_errors_name_a_column_once_and_count_in_the_singular(tmp_path: Path) -> None:
    with raises(InvalidData, code="data.tags-malformed") as caught:
        read(jsonl(tmp_path / "a.jsonl", {"tokens": WORDS, "ner_tags": NUMBERS}))
    assert str(caught.value).count("ner_tags") == 1
    with raises(InvalidData, code="data.tags-malformed", found=1, expected=2) as caught:
        read(
            jsonl(
                tmp_path / "b.jsonl",
                {"tokens": ["a", "b"], "ner_tags": ["O", "B-X"]},
                {"tokens": ["a", "b"], "ner_tags": ["O"]},
            )
        )
    assert "1 tag for 2 words" in str(caught.value)
