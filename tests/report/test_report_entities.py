"""How a report shows entities: figures of labels, errors, texts with marks, and what a model cannot see."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from afina.pages.marked_text import Mark
from afina.report import entity_errors
from afina.report.examples.disagreements import DISAGREEMENTS, ERRORS, EvaluationTexts, sections_of
from afina.report.examples.marked_answers import MarkedAnswers, MarkedExamples, marked_answer
from afina.report.plots import predictions, svg
from afina.report.presentation import PRESENTATIONS
from afina.report.report import Report
from afina.report.writers.html import fragment
from afina.stats.entities import errors
from records import entities, results, sentences_with_entities

TEXT = "Maria Silva went to Rio Tinto with Ana."
RIGHT = ((0, 11, "PER"), (20, 29, "LOC"), (35, 38, "PER"))
NAMES = ("LOC", "PER")


def report(*methods: str, texts: bool = True) -> Report:
    made = results([entities(method, noise=1 + 0.3 * place) for place, method in enumerate(methods)])
    record = made.results[0].record
    shown = EvaluationTexts(sentences_with_entities()[0], record.environment.evaluation_digest)
    return Report.of(made, shown if texts else EvaluationTexts(reason="the texts are secret", withheld=True))


@pytest.mark.parametrize(
    ("answer", "marks"),
    [
        (RIGHT, [(0, 11, "PER", ""), (20, 29, "LOC", ""), (35, 38, "PER", "")]),
        (
            ((0, 5, "PER"), (20, 29, "PER")),
            [(0, 5, "PER", "wrong border"), (20, 29, "PER", "wrong label"), (35, 38, "PER", "missed")],
        ),
        (
            ((12, 16, "LOC"), *RIGHT),
            [(0, 11, "PER", ""), (12, 16, "LOC", "spurious"), (20, 29, "LOC", ""), (35, 38, "PER", "")],
        ),
        # the second target of a long answer is missed, and has no place of its own
        (((0, 29, "PER"), (35, 38, "PER")), [(0, 29, "PER", "wrong border"), (35, 38, "PER", "")]),
        ((), [(0, 11, "PER", "missed"), (20, 29, "LOC", "missed"), (35, 38, "PER", "missed")]),
    ],
)
def test_an_answer_is_marked_with_its_errors(answer: tuple, marks: list) -> None:
    shown = marked_answer(TEXT, answer, errors([RIGHT], [answer]))
    assert list(shown.marks) == [Mark(*one) for one in marks]


def test_counts_are_means_over_seeds_of_entities_and_not_of_texts() -> None:
    targets = np.fromiter([RIGHT, ()], dtype=object)
    answers = np.empty((2, 2), object)
    answers[0] = [((0, 11, "PER"), (20, 29, "PER")), ((0, 1, "LOC"),)]
    answers[1] = [RIGHT, ()]
    assert entity_errors.as_json(targets, answers) == {
        **{"missed": 0.5, "spurious": 0.5, "wrong_label": 0.5},
        **{"wrong_border": 0, "wrong_label_and_border": 0},
    }
    place, person = entity_errors.label_figures(NAMES, targets, answers)
    assert (place.support, person.support) == (1, 2)
    assert (place.precision, place.recall) == (0.5, 0.5)
    assert person.precision == (0.5 + 1) / 2
    shown = PRESENTATIONS["entities"].as_json(NAMES, targets, answers[:1])
    assert shown["errors"] == {
        "missed": 1,
        "spurious": 1,
        "wrong_label": 1,
        "wrong_border": 0,
        "wrong_label_and_border": 0,
    }
    assert shown["confusion"] is None
    by_label, kinds = PRESENTATIONS["entities"].terminal_tables(NAMES, targets, answers[:1])
    assert [column.heading for column in by_label.columns][-1] == "Entities"
    assert ("Wrong label", "1") in kinds.rows


def test_a_report_shows_texts_with_errors_and_those_on_which_methods_differ() -> None:
    made = report("full", "lora")
    titles = {one.title: one for one in sections_of(made.arms, made.evaluated)}
    assert [*titles] == [ERRORS, DISAGREEMENTS]
    answered = MarkedAnswers(made.arms)
    assert f"an error on {len(answered.wrong)} of 60 evaluation texts" in titles[ERRORS].blocks[0].items[0]
    (examples,) = (one for one in titles[ERRORS].blocks if isinstance(one, MarkedExamples))
    texts, right = sentences_with_entities()
    for one in examples.items:
        row = int(one.title.removeprefix("Row "))
        assert [line.text.text for line in one.lines] == [texts[row]] * 3
        assert [(mark.start, mark.end, mark.label) for mark in one.lines[0].text.marks] == [*map(tuple, right[row])]
        for found, line in zip(answered.errors, one.lines[1:], strict=True):
            assert line.remark.split()[0] == str(len(found.get(row, ())))
    page, text = fragment("errors", [], list(titles.values())), made.markdown()
    assert '<mark class="wrong"><bdi>' in page
    assert " PER]" in text
    assert "missed]" in text
    assert "## Errors of entities" in text
    assert "## Figures by label" in text
    assert "nan" not in text.lower().split()


def test_the_plot_of_errors_says_its_figures_in_words() -> None:
    made = report("full", "lora")
    with svg.drawing():
        shown = predictions.entity_errors(made.arms)
    counts = entity_errors.mean_counts(made.arms[0].targets, made.arms[0].answers)
    assert f"missed {counts['missed']:.3g}" in shown.svg


def test_a_report_without_texts_has_places_only() -> None:
    made = report("full", "lora", texts=False)
    (section,) = sections_of(made.arms, made.evaluated)
    assert section.title == DISAGREEMENTS
    shown = made.markdown()
    assert "Maria" not in shown
    assert "Row numbers only: the texts are secret." in shown
    assert "PER 0–" in shown


def test_what_a_run_says_of_words_after_a_word_is_in_the_report() -> None:
    told = "gpt2 is a causal language model, so it tags each word without the words after it."
    both = [entities("lora", notes=(told,)), entities("full", backbone="distilbert-base-uncased")]
    assert f"LoRA on gpt2: {told}" in " ".join(Report.of(results(both)).markdown().split())


def test_the_decoding_of_tags_is_told_by_method() -> None:
    (note,) = PRESENTATIONS["entities"].metric_notes(report("full", "lora").arms)
    assert note.endswith("I- follows B- or I- (Viterbi).")
    greedy = entities("full")
    told = greedy.record.model_copy(update={"objective": {**greedy.record.objective, "viterbi": False}})
    made = Report.of(results([entities("lora"), replace(greedy, record=told)]))
    note = PRESENTATIONS["entities"].metric_notes(made.arms)[0]
    assert note.startswith("For full fine-tuning, each word has its most probable tag, because F1 was higher so")
    assert note.endswith("for the others, the tags are the most probable valid sequence (Viterbi).")


def test_a_run_that_finds_nothing_is_told() -> None:
    made = entities("lora", noise=0.0)
    outside = [np.eye(5, dtype=np.float32)[np.zeros(len(one), int)] for one in made.predictions.outputs]
    nothing = replace(made, predictions=replace(made.predictions, outputs=np.fromiter(outside, dtype=object)))
    assert "LoRA, seed 0, answered no entity to every text." in Report.of(results([nothing])).markdown()


def test_texts_with_errors_are_found_by_the_label_of_the_error(monkeypatch: pytest.MonkeyPatch) -> None:
    made = report("lora")
    monkeypatch.setattr(EvaluationTexts, "read", lambda *_: made.evaluated)
    every = made.texts()
    assert every.count == len(MarkedAnswers(made.arms).wrong)
    sizes = [sum(bool(mark.remark) for mark in one.answer.marks) for one in every.texts]
    assert sizes[0] >= sizes[-1] > 0
    missed = made.texts("PER")
    assert 0 < missed.count < every.count
    assert missed.count == len(
        {
            one.text
            for one in errors(made.arms[0].targets, made.arms[0].answers[0])
            if one.target and one.target[2] == "PER"
        }
    )
    first = missed.texts[0]
    assert first.right.text == first.text
    assert "PER" in first.given
    cut = made.texts("PER", most=1, longest=12).texts
    assert len(cut) == 1
    assert len(cut[0].right.text) < len(first.text)
