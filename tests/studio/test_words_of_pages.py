"""No answer of a page says an option of the command line: errors and notes have the words of the page's fields."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from html import unescape

import pytest
from starlette.testclient import TestClient

from afina.data import problems
from afina.errors import OutOfMemory
from afina.studio.folder import Project
from afina.studio.option_labels import OPTION_LABELS
from afina.studio.page import Studio
from errors_page import declared

ROWS = "".join(
    f"a {('bad', 'good')[one % 2]} film number {one},{('bad', 'good')[one % 2]},{one}\n" for one in range(40)
)
TABLE = f"text,label,stars\n{ROWS}".encode()

ODD = ("nowhere", "stars", "a,b", "..", "ä" * 300)

FILES = {
    "repeats.csv": b"text,label\n" + b"a,x\na,y\n" * 30,
    "missing.csv": TABLE + b",good,1\nNA,,2\n",
    "ragged.csv": TABLE + b"a,b\n",
    "rare.csv": TABLE + b"only one,odd,1\n",
    "case.csv": TABLE + b"one more,Good,1\ntwo more,Bad,2\n",
    "plain.csv": b"one,two\n" + b"".join(b"%d,%d\n" % (one, one * 7) for one in range(50)),
    "many.csv": b"text,a,b\n" + b"".join(b"word %d,%d,%d\n" % (one, one % 2, one % 3 == 0) for one in range(40)),
    "numbers.csv": b"text,label\n" + b"".join(b"word %d,1.%03d\n" % (one, one) for one in range(40)) + b"word,900\n",
    "decimal.csv": b"text,label\n" + b"".join(b'word %d,"1,%03d"\n' % (one, one) for one in range(40)),
    "write.csv": b"question,answer\n"
    + b"".join(b"what is %d?,it is the number %d of all\n" % (one, one) for one in range(40)),
    "cells.csv": b"text,label\n"
    + b"".join(b"word %d,%s\n" % (one, (b"a;b", b"b", b"a")[one % 3]) for one in range(40)),
    "latin.csv": b"text,label\n"
    + "".join(f"größer {one},{('übel', 'gut')[one % 2]}\n" for one in range(40)).encode("cp1252"),
    "cyrillic.csv": b"text,label\n"
    + "".join(f"хороший фильм {one},{('плохо', 'хорошо')[one % 2]}\n" for one in range(40)).encode("cp1251"),
    "tags.conll": b"".join(b"Maria B-PER\nlives O\nin I-LOC\nPorto B-LOC\n\n" for _ in range(20)) + b"odd X-FOO\n\n",
    "lists.jsonl": b"".join(b'{"text": "word %d", "label": ["a", "b"]}\n' % one for one in range(30))
    + b'{"text": "w", "label": 3}\n',
    "empty.csv": b"",
    "single.csv": b"text,label\n" + b"".join(b"word %d,same\n" % one for one in range(40)),
    "few.csv": b"text,label\na,bad\nb,good\n",
    "ids.csv": b"text,label\n" + b"".join(b"word %d,%d\n" % (one, 100000 + one) for one in range(60)),
    "dup.csv": b"text,text,label\n" + b"a,b,c\n" * 30,
    "head.csv": b"\n\n\n",
}


def said(page: str) -> str:
    """The words of a page, without the commands that it shows on purpose; words in code keep their backquotes."""
    text = re.sub(r"<pre>.*?</pre>|<details class=.command.*?</details>|<head>.*?</head>", "", page, flags=re.DOTALL)
    return unescape(re.sub(r"<[^>]*>", "", re.sub(r"</?code>", "`", text)))


OPTION = re.compile(
    r"(?<![\w-])--[a-z][a-z-]+|\b[a-z]+(?:_[a-z]+)*=\w|`(?:text|label|target|kind|labels|[a-z]+_[a-z_]+)`"
)


def named_options(page: str) -> list[str]:
    return OPTION.findall(said(page))


@pytest.mark.parametrize("name", FILES)
def test_what_is_wrong_with_a_file_is_said_without_options(
    web: TestClient, project: Callable[..., Project], at_once: None, name: str
) -> None:
    made = project(FILES[name], name, ["embedded"])
    assert named_options(web.get(f"/{made.name}/data").text) == []


@pytest.mark.parametrize("option", OPTION_LABELS)
def test_a_wrong_value_of_a_reading_option_is_said_without_options(
    web: TestClient, project: Callable[..., Project], at_once: None, option: str
) -> None:
    made = project(TABLE, "reviews.csv")
    for value in ODD:
        page = web.post(f"/{made.name}/data/options", data={option: value}, follow_redirects=True).text
        assert named_options(page) == [], value


FORMS: Mapping[str, list[dict[str, str]]] = {
    "/": [{}, {"address": "no/such.csv"}, {"title": "a"}],
    "/reviews/data/options": [{"remedy": "{"}, {"remedy": "[]"}],
    "/reviews/runs": [{"minutes": "abc"}, {"minutes": "-3"}, {"what": "x"}, {"what": "study", "preset": "../x"}],
    "/reviews/doubts/decide": [{}, {"key": "x", "decision": "keep"}],
    "/reviews/try": [{}, {"text": "a"}],
    "/reviews/try/corrections": [{}, {"text": "a", "label": "odd"}],
    "/reviews/keep/publish": [{}, {"adapter": "x"}],
    "/reviews/keep/alias": [{}, {"version": "9", "alias": "a"}, {"version": "1", "alias": "A B"}],
    "/reviews/keep/rollback": [{}, {"alias": "nothing"}],
    "/reviews/keep/server": [{}, {"backbone": "x"}, {"backbone": "x", "port": "y"}],
    "/reviews/keep/keys": [
        {},
        {"scope-predict": "yes", "expires": "soon"},
        {"scope-predict": "yes", "expires": "1999-01-01"},
    ],
    "/reviews/keep/keys/revoke": [{}, {"key": "x"}],
}


@pytest.mark.parametrize("path", FORMS)
def test_a_form_with_odd_values_is_refused_without_options(
    web: TestClient, reviews: Project, at_once: None, path: str
) -> None:
    for data in FORMS[path]:
        answer = web.post(path, data=data, follow_redirects=True)
        assert named_options(answer.text) == [], data


def test_the_error_of_a_run_names_the_fields_of_pages(studio: Studio, web: TestClient) -> None:
    run = studio.queue.add(studio.folder.create("reviews", "sst2"), ["choose"])
    (run.process.directory / "exit.json").write_text('{"status": 2}', encoding="utf-8")
    (run.process.directory / "command.json").write_text('{"arguments": []}', encoding="utf-8")
    for error, words in (
        (OutOfMemory("lora"), "a smaller pretrained model"),
        (problems.COLUMN_MISSING(where="a.csv", column="x", found="y", field="text"), "“Column of the"),
    ):
        (run.process.directory / "error.json").write_text(json.dumps({"error": error.as_json()}), encoding="utf-8")
        page = web.get("/reviews/runs/1").text
        assert words in unescape(page)
        assert named_options(page) == []


def test_no_error_that_can_reach_a_page_spells_an_option_of_the_command_line() -> None:
    spelt = re.compile(r"(?<![\w-])--[a-z]|\b[a-z]+_[a-z_]+=\w")
    elsewhere = ("afina.cli.", "afina.server.", "afina.store.", "afina.notebook.")
    found = [name for name, one in declared().items() if spelt.search(one.sentence) and not name.startswith(elsewhere)]
    assert found == []
