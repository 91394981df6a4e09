"""A text with marked spans: the text is kept as it is, and no mark divides what a reader sees as one character."""

from __future__ import annotations

import re
from html import unescape

import pytest

from afina.cli.terminal import print_marked, printable
from afina.pages.html import spans
from afina.pages.marked_text import Mark, MarkedText

TEXTS = (
    "Maria went to Porto.",
    "  two  spaces\tand\nlines ",
    "Zoë de\u0301ja\u0300 vu",
    "👩\u200d👩\u200d👧 met 👍🏽 in 🇵🇹🇧🇷",
    "משה נסע לחיפה",
    "می\u200cخواهم به تهران بروم",
    "<b>Maria</b> & `x` [1](a)",
    "bell\x07 and \x1b[31mred \u202eback",
)


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_is_kept_exactly_wherever_its_marks_are(text: str) -> None:
    for start in range(len(text)):
        for end in range(start + 1, len(text) + 1):
            found = MarkedText(text, (Mark(start, end, "PER"),))
            pieces = list(found.pieces)
            assert "".join(one.text for one in pieces) == text
            (marked,) = (one.text for one in pieces if one.mark)
            assert text[start:end] in marked
            shown = str(spans(found)).replace(" <bdi>PER</bdi></mark>", "")
            assert unescape(re.sub(r"</?(?:mark|bdi)>", "", shown)) == text


def test_neighbouring_marks_stay_apart_and_sorted() -> None:
    found = MarkedText.of("Ana Porto", [(4, 9, "LOC"), (0, 3, "PER")])
    assert found.plain() == "[Ana PER] [Porto LOC]"
    assert MarkedText.of("AnaPorto", [(3, 8, "LOC"), (0, 3, "PER")]).plain() == "[Ana PER][Porto LOC]"
    for wrong in ([(0, 5, "PER"), (4, 9, "LOC")], [(0, 10, "PER")], [(3, 3, "PER")]):
        with pytest.raises(ValueError, match="sorted spans"):
            MarkedText.of("Ana Porto", wrong)


def test_a_mark_divides_neither_letters_nor_emoji() -> None:
    for text, mark, whole in (
        ("e\u0301a", (0, 1), "[e\u0301 X]a"),
        ("👩\u200d👩\u200d👧!", (2, 3), "[👩\u200d👩\u200d👧 X]!"),
        ("👍🏽!", (0, 1), "[👍🏽 X]!"),
        ("🇵🇹🇧🇷", (2, 3), "🇵🇹[🇧🇷 X]"),
        ("❤\ufe0f ok", (0, 1), "[❤\ufe0f X] ok"),
    ):
        assert MarkedText(text, (Mark(*mark, "X"),)).plain() == whole


def test_two_marks_within_one_character_leave_out_no_text() -> None:
    found = MarkedText("e\u0301", (Mark(0, 1, "A"), Mark(1, 2, "B")))
    assert [one.text for one in found.pieces] == ["e\u0301"]


def test_html_is_escaped_and_says_the_label_in_words() -> None:
    found = MarkedText("<b>&", (Mark(0, 3, "A<", "missed"),))
    assert str(spans(found)) == '<mark class="wrong"><bdi>&lt;b&gt;</bdi> <bdi>A&lt;, missed</bdi></mark>&amp;'


def test_a_notebook_shows_a_text_in_its_own_colours_and_a_terminal_in_brackets() -> None:
    found = MarkedText.of_json("Ana & Rui", [{"start": 0, "end": 3, "label": "PER", "score": 0.9}])
    assert str(found) == "[Ana PER] & Rui"
    shown = found._repr_html_()
    assert '<div dir="auto"' in shown
    assert re.sub("<[^>]+>", "", shown) == "Ana PER &amp; Rui"
    assert "color: inherit" in shown


def test_an_excerpt_has_whole_marks_and_says_what_it_leaves_out() -> None:
    text = f"{'a ' * 100}Maria Silva{' b' * 100}"
    found = MarkedText(text, (Mark(200, 211, "PER"),))
    for near in (0, 195, 203, 211, 400):
        shown = found.excerpt(20, near)
        assert shown.text.strip("…") in text
        for mark in shown.marks:
            assert shown.text[mark.start : mark.end] == "Maria Silva"
    assert found.excerpt(20, 203).marks
    assert found.excerpt(20).marks == ()
    assert found.excerpt(1_000) is found


def test_a_terminal_gets_no_control_characters_of_the_text(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = MarkedText("\x1b[31mAna\u202e 👩\u200d👧\n", (Mark(5, 8, "PER"),))
    print_marked(found, ["PER"])
    assert capsys.readouterr().out == "\\x1b[31m[Ana PER]\\u202e 👩\u200d👧\\n\n"
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    print_marked(found, ["LOC", "PER"])
    assert "\x1b[35m[\x1b[1mAna\x1b[22m PER]\x1b[0m" in capsys.readouterr().out
    monkeypatch.setenv("NO_COLOR", "1")
    print_marked(found, ["PER"])
    assert "\x1b" not in capsys.readouterr().out
    assert printable("a\u200db") == "a\\u200db"
