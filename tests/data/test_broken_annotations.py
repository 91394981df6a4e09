"""A broken file of entities is an error that names the row and says what to do, or it is repaired if that is asked.

No file is read in a way that its author did not mean: `--repair` mends only what has one right repair.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from afina.data.readers import files, formats
from afina.data.readers.rows import Spellings
from afina.data.readers.splitting import LabelledRows
from afina.data.reading_options import ReadingOptions
from afina.data.remedies import remedies_of
from afina.errors import InvalidData

TEXT = "Maria flew to Rome"
PER, LOC = (0, 5, "PER"), (14, 18, "LOC")
BORDERS, PLACE, ENTITY = "data.entity-borders", "data.entity-misplaced", "data.entity-malformed"
TAGS, ORDER, WORDS = "data.tags-malformed", "data.tags-impossible", "data.words-malformed"


@dataclass(frozen=True)
class Broken:
    """A broken file.

    Attributes:
        content: The file's content.
        code: The code of the error.
        place: The place that the error names.
        repaired: The entities of the broken text with `repair`. None: `repair` changes nothing.
        options: Reading options.
    """

    name: str
    file: str
    content: str
    code: str
    place: str
    repaired: Sequence[tuple[int, int, str]] | None = None
    options: tuple[tuple[str, Any], ...] = ()


def spans(name: str, found: Any, code: str, repaired: Any = None, text: str = TEXT, **more: Any) -> Broken:
    """A jsonl file whose second line has the spans `found`."""
    rows = [{"text": TEXT, "entities": [PER, LOC]}, {"text": text, "entities": found, **more}]
    content = "".join(json.dumps(row) + "\n" for row in rows)
    return Broken(name, "a.jsonl", content, code, "line 2", repaired)


def conll(name: str, lines: str, code: str, line: int, repaired: Any = None, before: str = "B") -> Broken:
    """A file of CoNLL columns with a right sentence before `lines`, which are separated by bars.

    Args:
        before: The letter of the tag of the sentence before.
    """
    content = f"Rome {before}-LOC\nis O\n\n" + lines.replace("|", "\n") + "\n"
    return Broken(name, "a.conll", content, code, f"line {line + 3}", repaired)


def words(name: str, tokens: Any, tags: Any, code: str, place: str = "line 2", **options: Any) -> Broken:
    rows = [{"tokens": ["Rome", "is"], "ner_tags": ["B-LOC", "O"]}, {"tokens": tokens, "ner_tags": tags}]
    content = "".join(json.dumps(row) + "\n" for row in rows)
    return Broken(name, "a.jsonl", content, code, place, None, tuple(options.items()))


def whole(name: str, file: str, content: str, code: str, place: str, **options: Any) -> Broken:
    return Broken(name, file, content, code, place, None, tuple(options.items()))


BROKEN = [
    # Spans of a text.
    spans("end beyond the text", [(14, 19, "LOC")], PLACE),
    spans("start beyond the text", [(30, 35, "LOC")], PLACE),
    spans("a negative start", [(-4, 5, "PER")], PLACE),
    spans("a negative end", [(0, -1, "PER")], PLACE),
    spans("an empty span", [(5, 5, "PER")], PLACE),
    spans("start after end", [(5, 0, "PER")], PLACE),
    spans("a blank span", [(5, 6, "PER")], PLACE),
    spans("an invisible span", [(5, 6, "PER")], PLACE, text="Maria\u200bflew"),
    spans("a space before", [(5, 10, "X")], BORDERS, [(6, 10, "X")]),
    spans("a space behind", [(0, 6, "PER")], BORDERS, [PER]),
    spans("spaces at both borders", [(5, 11, "X")], BORDERS, [(6, 10, "X")]),
    spans("a line end behind", [(0, 6, "PER")], BORDERS, [PER], text="Maria\nflew"),
    spans("a no-break space behind", [(0, 6, "PER")], BORDERS, [PER], text="Maria\u00a0flew"),
    spans("a mark of direction before", [(0, 6, "PER")], BORDERS, [(1, 6, "PER")], text="\u200fMaria flew"),
    spans("a part of a word", [(0, 3, "PER")], BORDERS, [PER]),
    spans("the end of a word", [(2, 5, "PER")], BORDERS, [PER]),
    spans("the middle of a word", [(1, 4, "PER")], BORDERS, [PER]),
    spans("a word and a part", [(0, 8, "X")], BORDERS, [(0, 10, "X")]),
    spans("half of an emoji", [(0, 1, "X")], BORDERS, [(0, 2, "X")], text="👍🏽 ok"),
    spans("a letter without its mark", [(0, 4, "X")], BORDERS, [(0, 5, "X")], text="Zoee\u0308 flew"),
    spans("a number and not its unit", [(0, 2, "X")], BORDERS, [(0, 4, "X")], text="10kg of it"),
    spans("the same span twice", [PER, PER], BORDERS, [PER]),
    spans("the same span twice, once with a space", [PER, (0, 6, "PER")], BORDERS, [PER]),
    spans("one span with two labels", [PER, (0, 5, "LOC")], "data.entities-overlap"),
    spans("nested spans", [(0, 10, "X"), PER], "data.entities-overlap"),
    spans("spans that overlap", [(0, 10, "X"), (6, 13, "Y")], "data.entities-overlap"),
    spans("spans that meet in a word", [(0, 3, "X"), (3, 5, "Y")], BORDERS),
    spans("another text than there", [{"start": 0, "end": 5, "label": "PER", "text": "Mario"}], PLACE),
    spans("offsets from one", [{"start": 1, "end": 6, "label": "PER", "text": "Maria"}], PLACE),
    spans("an inclusive end", [{"start": 14, "end": 17, "label": "LOC", "text": "Rome"}], PLACE),
    spans("no label", [{"start": 0, "end": 5}], ENTITY),
    spans("no start", [{"end": 5, "label": "PER"}], ENTITY),
    spans("no end", [{"start": 0, "label": "PER"}], ENTITY),
    spans("null as the label", [(0, 5, None)], ENTITY),
    spans("a number as the label", [(0, 5, 3)], ENTITY),
    spans("an empty label", [(0, 5, "")], ENTITY),
    spans("the tag of no entity as the label", [(0, 5, "O")], ENTITY),
    spans("a blank label", [(0, 5, " ")], ENTITY),
    spans("two labels", [{"start": 0, "end": 5, "labels": ["PER", "LOC"]}], ENTITY),
    spans("half a surrogate pair in the label", [(0, 5, "\ud83d")], ENTITY),
    spans("a start with a fraction", [(0.5, 5, "PER")], ENTITY),
    spans("words as offsets", [("0", "5", "PER")], ENTITY),
    spans("a truth value as an offset", [(False, 5, "PER")], ENTITY),
    spans("an infinite offset", [(0, float("inf"), "PER")], ENTITY),
    spans("a list of two", [(0, 5)], ENTITY),
    spans("a list of four", [(0, 5, "PER", "x")], ENTITY),
    spans("the label first", [("PER", 0, 5)], ENTITY),
    spans("a span without its list", [0, 5, "PER"], ENTITY),
    spans("names instead of spans", ["Maria"], ENTITY),
    spans("a sentence instead of spans", "Maria", ENTITY),
    spans("a broken JSON text", '[[0, 5, "PER"]', ENTITY),
    spans("an object instead of spans", {"PER": "Maria"}, ENTITY),
    spans("nothing instead of spans", None, "data.value-missing"),
    spans("an empty cell", "", "data.value-missing"),
    spans("no text", [PER], "data.value-missing", text=" "),
    spans("half a surrogate pair in the text", [], "data.surrogate", text="Maria \ud83d"),
    # Words with tags.
    conll("a tag of the label O", "Maria B-PER|x B-O", TAGS, 2),
    conll("I after O", "to O|Rome I-LOC", ORDER, 2, [(3, 7, "LOC")]),
    conll("I at the beginning", "Rome I-LOC|now O", ORDER, 1, [(0, 4, "LOC")]),
    conll("I of another label", "Maria B-PER|Rome I-LOC", ORDER, 2, [(0, 5, "PER"), (6, 10, "LOC")]),
    conll(
        "B without an end", "a B-X|b E-X|c S-X|d B-X|e O", ORDER, 5, [(0, 3, "X"), (4, 5, "X"), (6, 7, "X")], before="S"
    ),
    conll(
        "B at the end without an end",
        "a B-X|b E-X|c S-X|d B-X",
        ORDER,
        4,
        [(0, 3, "X"), (4, 5, "X"), (6, 7, "X")],
        before="S",
    ),
    conll("E without a beginning", "a S-X|b E-X", ORDER, 2, [(0, 1, "X"), (2, 3, "X")], before="S"),
    conll("E of another label", "a S-X|b B-X|c E-Y", ORDER, 3, [(0, 1, "X"), (2, 3, "X"), (4, 5, "Y")], before="S"),
    conll("L without a beginning", "a U-X|b O|c L-X", ORDER, 3, [(0, 1, "X"), (4, 5, "X")], before="U"),
    conll("an unknown letter", "a X-LOC", TAGS, 1),
    conll("a tag without a hyphen", "a LOC", TAGS, 1),
    conll("a tag without a label", "a B-", TAGS, 1),
    conll("a tag in lower case", "a b-LOC", TAGS, 1),
    conll("a zero for O", "a 0", TAGS, 1),
    conll("an underscore in a tag", "a B_LOC", TAGS, 1),
    conll("the label before the letter", "a LOC-B", TAGS, 1),
    conll("tags of two schemes", "a E-LOC|b L-LOC", TAGS, 2),
    conll("a line without a tag", "a O|b", WORDS, 2),
    conll("a line with a column more", "a O|b NN O", WORDS, 2),
    conll("tabs among spaces", "a O|b\tO", WORDS, 2),
    conll("a label in two spellings", "Lima B-loc|is O", "data.labels-alike", 1),
    words("a tag too few", ["Rome", "is", "big"], ["B-LOC", "O"], TAGS),
    words("a tag too many", ["Rome"], ["B-LOC", "O"], TAGS),
    words("an empty word", ["Rome", ""], ["B-LOC", "O"], WORDS, "line 2: column 'tokens', word 2"),
    words("an invisible word", ["Rome", "\u200b"], ["B-LOC", "O"], WORDS, "line 2: column 'tokens', word 2"),
    words("two words in one", ["New York"], ["B-LOC"], WORDS, "line 2: column 'tokens', word 1"),
    words("a line end in a word", ["a\nb"], ["O"], WORDS, "line 2: column 'tokens', word 1"),
    words("a number as a word", ["Rome", 3], ["B-LOC", "O"], WORDS, "line 2: column 'tokens', word 2"),
    words("half a surrogate pair in a word", ["\ud83d"], ["O"], "data.surrogate", "line 2: column 'tokens', word 1"),
    words("no words", [], [], WORDS),
    words("a sentence instead of words", "Rome is", ["B-LOC", "O"], WORDS),
    words("a sentence instead of tags", ["Rome", "is"], "B-LOC O", TAGS),
    words("null as a tag", ["Rome", "is"], ["B-LOC", None], TAGS, "line 2: column 'ner_tags', word 2"),
    words("a number among names", ["Rome", "is"], [3, 0], TAGS),
    words("a number without a name", ["a"], [5], TAGS, "word 1", labels=("O", "B-LOC")),
    words("a negative number", ["a"], [-100], TAGS, "word 1", labels=("O", "B-LOC")),
    words("nothing instead of tags", ["a"], None, "data.value-missing"),
    # Whole files.
    whole("no file content", "a.conll", "", "data.no-rows", "a.conll"),
    whole("only blank lines", "a.conll", "\n\n \n", "data.no-rows", "a.conll"),
    whole("words without tags", "a.conll", "Rome\nis\n", "data.column-missing", "a.conll"),
    whole("word classes", "a.conll", "Rome NN\nis VB\n", TAGS, "a.conll"),
    whole("numbered words", "a.conll", "1 Rome B-LOC\n2 is O\n3 big O\n", WORDS, "a.conll"),
    whole("numbers whose names are not given", "a.conll", "Rome 3\nis 0\n", TAGS, "line 1"),
    whole("all tags in another notation", "a.conll", "Rome B_LOC\nis O\n", TAGS, "line 1"),
    whole(
        "words as their own tags",
        "a.jsonl",
        json.dumps({"tokens": ["O", "B-X"]}),
        "data.column-repeated",
        "a.jsonl",
        kind="entities",
        label="tokens",
    ),
    whole("tags without labels", "a.conll", "Rome B\nLima I\nis O\n", TAGS, "line 1"),
    whole("an empty tag among labels", "a.conll", "Rome\tLOC\nis\tO\nbig\t\n", TAGS, "line 1"),
    whole("commas between word and tag", "a.iob", "Rome,B-LOC\nis,O\n", "data.column-missing", "a.iob"),
    whole("a NUL character", "a.bio", "Rome O\n\0 O\n", "data.encoding-wrong", "line 2"),
    whole("a text file without columns", "a.txt", "Maria flew to Rome\n", "data.format-unknown", "a.txt"),
    whole(
        "a pair of texts",
        "a.jsonl",
        json.dumps({"question": "Rome", "sentence": "Rome", "entities": [[0, 4, "X"]]}),
        ENTITY,
        "a.jsonl",
    ),
    whole(
        "spans of words",
        "a.jsonl",
        json.dumps({"tokens": ["Rome", "is"], "entities": [[0, 1, "X"]]}),
        ENTITY,
        "a.jsonl",
    ),
    whole(
        "two columns of entities",
        "a.jsonl",
        json.dumps({"text": TEXT, "entities": [PER], "spans": [LOC]}),
        "data.column-ambiguous",
        "a.jsonl",
    ),
    whole(
        "classes of words beside their tags",
        "a.jsonl",
        json.dumps({"tokens": TEXT.split(), "label": "good", "ner_tags": ["B-PER", "O", "O", "O"]}),
        "data.column-ambiguous",
        "a.jsonl",
    ),
    whole(
        "classes for the kind entities",
        "a.jsonl",
        json.dumps({"text": TEXT, "label": "good"}),
        ENTITY,
        "a.jsonl",
        kind="entities",
    ),
    whole(
        "annotations that nobody accepted",
        "a.jsonl",
        json.dumps({"text": TEXT, "spans": [{"start": 0, "end": 5, "label": "X"}], "answer": "reject"}),
        "data.no-labels",
        "a.jsonl",
    ),
    whole(
        "a broken list in a csv file",
        "a.csv",
        'text,entities\na b,"[[0, 1, ""X""]]"\nc d,"[[0, 1,"\n',
        ENTITY,
        "line 3",
    ),
    whole(
        "a broken item of a JSON file",
        "a.json",
        json.dumps([{"text": TEXT, "entities": [PER]}, {"text": TEXT, "entities": [[0, 99, "X"]]}]),
        PLACE,
        "item 2",
    ),
    whole(
        "a span of Label Studio without a label",
        "a.json",
        json.dumps(
            [
                {
                    "id": 5,
                    "data": {"text": TEXT},
                    "annotations": [
                        {
                            "result": [
                                {"from_name": "n", "to_name": "t", "type": "labels", "value": {"start": 0, "end": 5}}
                            ]
                        }
                    ],
                }
            ]
        ),
        ENTITY,
        "task 5",
    ),
]


def read(directory: Path, broken: Broken, **more: Any) -> LabelledRows:
    path = directory / broken.file
    path.write_text(broken.content, encoding="utf-8")
    reading = files.TableReading.of([formats.read(path)], ReadingOptions(**dict(broken.options), **more))
    rows = reading.rows()
    Spellings.of(rows, None, merge=False)
    return rows


VERBS = ("Correct", "Remove", "Name", "Expected", "Give", "Repair", "Convert", "Divide", "Spell", "Fill", "Save")


@pytest.mark.parametrize("broken", BROKEN, ids=lambda broken: broken.name)
def test_a_broken_file_is_an_error_with_its_row_and_what_to_do(tmp_path: Path, broken: Broken) -> None:
    with pytest.raises(InvalidData) as caught:
        read(tmp_path, broken)
    said = str(caught.value)
    assert caught.value.code == broken.code, said
    assert broken.place in said
    assert any(f"{verb} " in said for verb in VERBS), said
    offered = any(one.options == {"repair": True} for one in remedies_of(caught.value))
    if broken.repaired is None:
        with pytest.raises(InvalidData) as again:
            read(tmp_path, broken, repair=True)
        assert again.value.code in (broken.code, "data.entities-overlap"), again.value
    else:
        assert offered
        rows = read(tmp_path, broken, repair=True)
        assert list(rows.labels[-1]) == list(map(tuple, broken.repaired))  # type: ignore[arg-type]
        assert sum("repaired: " in note for note in rows.notes) == 1
