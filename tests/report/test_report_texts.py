"""The report of a task whose answers are texts: examples side by side, disagreement, lengths; no texts on request."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from afina.predicting.evaluation import Evaluation
from afina.report import evaluation
from afina.report.examples.disagreements import WITHHELD, EvaluationTexts
from afina.report.examples.side_by_side import SideBySide
from afina.report.examples.word_differences import COMPARED, Words, cut, nearest, pieces
from afina.report.plots import svg
from afina.report.plots.predictions import answer_lengths
from afina.report.report import FILES, JSON, MARKDOWN, Report
from afina.stats.answered import Answered
from afina.stats.intervals import Interval
from afina.stats.metrics import METRICS
from afina.studies.runs.record import Result
from records import results, texts

SIZE = 60
INPUTS = EvaluationTexts([f"name[Blue Spice {number}]" for number in range(SIZE)], "sha256:d1")


@pytest.fixture
def three() -> list[Result]:
    return [texts("full", noise=0.1), texts("lora", noise=0.4), texts("zero-shot", noise=0.9)]


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ("A warm soup.", "a WARM soup", 1.0),
        ("a warm soup", "a soup warm", 2 / 3),
        ("", "", 1.0),
        ("", "soup", 0.0),
        ("...", "...", 1.0),
        ("\u6e29\u304b\u3044\u30b9\u30fc\u30d7", "\u6e29\u304b\u3044\u30d1\u30f3", 6 / 11),
    ],
)
def test_likeness_counts_words_in_the_same_order(first: str, second: str, expected: float) -> None:
    assert Words.of(first).likeness(Words.of(second)) == pytest.approx(expected)
    assert Words.of(second).likeness(Words.of(first)) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("answer", "reference"),
    [
        ("There is a warm soup here", "There was a soup, here and now"),
        ("", "a reference"),
        ("nothing shared", "other words"),
        ("same words", "Same words!"),
        ("\u6e29\u304b\u3044\u30b9\u30fc\u30d7", "\u6e29\u304b\u3044\u30d1\u30f3"),
    ],
)
def test_pieces_make_up_the_answer_and_the_reference(answer: str, reference: str) -> None:
    found = pieces(Words.of(answer), Words.of(reference))
    assert "".join(one.text for one in found if one.state != "missing").strip() == answer
    others = "".join(one.text for one in found if one.state != "added")
    assert Words.of(others).keys == Words.of(reference).keys


def test_words_are_on_one_line_without_control_characters_and_not_endless() -> None:
    assert "".join(Words.of("a\x1b[31m\nb\tc").shown) == "a[31m b c "
    assert len(Words.of("word " * (COMPARED + 5)).keys) == COMPARED
    long = pieces(Words.of("one two three four"), Words.of("one two five four"))
    assert "".join(one.text for one in cut(long, 9)) == "one two f…"


def test_the_nearest_reference_is_the_likeliest_and_the_first_of_equals() -> None:
    several = [Words.of(one) for one in ("cold tea", "warm soup", "warm soup")]
    assert nearest(Words.of("a warm soup"), several) == 1
    assert nearest(Words.of("nothing"), several) == 0


def test_the_markdown_shows_answers_below_each_other_with_differences_marked(three: list[Result]) -> None:
    three[1].predictions.outputs[0] = "Novel **soup** out\nthere"
    reference = three[1].targets[0][0]
    three[0].predictions.outputs[0] = f"Indeed {reference}"
    text = Report.of(results(three), INPUTS).markdown()
    found = text.split("### Row 0\n")[1].split("### Row")[0]
    assert f"- Input: name[Blue Spice 0]\n- Reference: {reference}\n" in found
    assert f": **Indeed** {reference}\n" in found
    assert "\\*\\*soup\\*\\*" in found
    assert found.count("\n- ") == 5


@pytest.mark.slow
def test_the_page_marks_words_accessibly_and_escapes_them(three: list[Result]) -> None:
    three[0].predictions.outputs[0] = f"{three[0].targets[0][0]} <script>`x`"
    three[1].predictions.outputs[0] = ""
    page = Report.of(results(three), INPUTS).page()
    assert "<ins>&lt;script&gt;`x`</ins>" in page
    assert "<em>empty answer</em>" in page
    assert "<script" not in page
    assert 'ins::before { content: " [added: "; }' in page


def test_texts_on_which_answers_differ_most_come_first(three: list[Result]) -> None:
    for one in three[:2]:
        one.predictions.outputs[:] = "the same words everywhere"
    three[1].predictions.outputs[7] = "something else"
    three[1].predictions.outputs[9] = "the same words nowhere"
    three[1].predictions.outputs[11] = "The same words, everywhere."
    beside = SideBySide(Report.of(results(three[:2])).arms)
    assert beside.most_apart() == [7, 9]
    text = Report.of(results(three), INPUTS).markdown()
    assert "answers of full fine-tuning and LoRA differ most" in text
    assert "### Row 7, disagreement 1.00" in text


def test_a_single_method_has_examples_and_no_disagreement(three: list[Result]) -> None:
    text = Report.of(results(three[:1]), INPUTS).markdown()
    assert "## Examples" in text
    assert "## Where the methods disagree" not in text


@pytest.mark.parametrize("shown", [WITHHELD, EvaluationTexts(), EvaluationTexts(["other"] * SIZE, "sha256:other")])
@pytest.mark.slow
def test_without_texts_no_file_has_an_input_a_reference_or_an_answer(
    three: list[Result], shown: EvaluationTexts, tmp_path: Path
) -> None:
    for one in three:
        for place in range(SIZE):
            one.predictions.outputs[place] = f"secret{place} {one.record.method}secret"
    made = Report.of(results(three, out=tmp_path), shown)
    files = made.files(FILES if shown.withheld else [MARKDOWN, JSON]) | {"summary": json.dumps(made.summary())}
    rare = {"secret", "Blue Spice", "bright", "garden", "ferry", "novel end"}
    assert {name: word for name, text in files.items() for word in rare if word in text} == {}
    assert "## Where the methods disagree" in files["report.md"]
    held = "The files in `predictions` hold the answers and the references: do not share these files."
    assert (held in files["report.md"].replace("\n  ", " ")) is shown.withheld


def test_the_report_says_which_metric_decides_and_which_are_of_all_answers(three: list[Result]) -> None:
    made = Report.of(results(three))
    assert made.headline is not None
    assert made.headline.text.startswith("Use full fine-tuning: ROUGE-L 0.")
    notes = " ".join(made.tables[0].notes)
    assert "Verdicts are about ROUGE-L" in notes
    assert "Of all answers together: BLEU, chrF and NIST. Their intervals and verdicts are from jackknife" in notes
    assert "BLEU `nrefs:var|case:mixed|eff:no|tok:13a|smooth:exp|version:" in notes
    assert "Answers are generated by greedy search" in notes
    assert "at most 40 tokens" in notes
    headings = [column.heading for table in made.tables for column in table.columns]
    assert "chrF" in headings
    assert "of which head" not in headings
    assert "head" not in " ".join(note for table in made.tables for note in table.notes).split()


def test_an_evaluation_prints_a_table_of_metrics_and_none_of_labels(three: list[Result]) -> None:
    result = three[0]
    answered = Answered(result.answered.targets, result.answered.answers)  # without likelihoods
    metrics = {name: METRICS[name].value(answered) for name in result.objective.measures}
    found = Evaluation(
        adapter="adapter", digest="sha256:a", task="task.csv", metric="bleu", metrics=metrics,
        interval=Interval(0.5, 0.7), examples=SIZE, truncated=0, dtype="float32", where="task.csv", held_out=False,
        leaked=0, left_out=0, kind="text", label_names=("ref",), answered=answered, max_length=None, chosen=False,
    )  # fmt: skip
    (said,) = evaluation.sentences(found)
    assert said.startswith(
        f"BLEU {metrics['bleu']:.4f}, ROUGE-L {metrics['rouge_l']:.4f} on 60 texts of task.csv (95 %"
    )
    (table,) = evaluation.tables(found)
    assert {*dict(table.rows)} >= {"Token F1", "chrF", "Length ratio", "Share of repeated 4-grams"}
    assert dict(table.rows)["Perplexity"] == "undefined"
    assert "Perplexity is undefined: it needs answers of a language model." in table.notes
    told = evaluation.as_json(found)
    assert (told["labels"], told["confusion"], told["loss"]) == (None, None, None)


def test_lengths_are_drawn_for_all_methods_and_for_each(three: list[Result]) -> None:
    three[1].predictions.outputs[3] = "soup " * 99
    with svg.drawing():
        together, *each = answer_lengths(Report.of(results(three)).arms)
    assert [one.title for one in each] == ["full fine-tuning", "LoRA", "zero-shot"]
    assert "references half of them from" in together.text
    assert "answers of 6 to 99 words" in each[1].text
