"""Which pairs are compared, and on which texts methods disagree."""

from __future__ import annotations

import numpy as np

from afina.report.arms import arms
from afina.report.examples.disagreements import WITHHELD, EvaluationTexts, disagreement_table, disagreements
from afina.report.report import ANSWER, Report
from afina.report.tables import PERFORMANCE
from afina.report.verdicts import Verdicts, verdict_table
from afina.studies.runs.record import Result
from records import TEXTS, answering, environment, results


def report(*made: Result) -> Report:
    return Report.of(results(made))


def verdicts(made: list[Result]) -> Verdicts:
    return report(*made).verdicts


# Verdicts


def test_every_pair_of_methods_has_a_verdict_and_those_with_an_untrained_one_come_last() -> None:
    records = [answering("baseline", range(200)), answering("full", range(10)), answering("lora", range(60))]
    found = verdicts(records)
    assert [(one.first, one.second, one.verdict) for one in found.compared] == [
        ("full fine-tuning", "LoRA", "better"),
        ("no fine-tuning", "full fine-tuning", "worse"),
        ("no fine-tuning", "LoRA", "worse"),
    ]
    assert found.not_comparable == ()
    table = verdict_table(found)
    assert table is not None
    assert table.rows[0][:4] == ("full fine-tuning", "LoRA", "better", "+12.50")


def test_an_undecided_pair_says_what_would_settle_it_in_report_and_json() -> None:
    made = report(answering("full", range(20)), answering("lora", range(15, 40)))
    (one,) = made.verdicts.compared
    assert one.verdict == "undecided"
    assert one.more_examples
    assert f"{one.sentence}." in made.findings[0].details
    assert f"about {one.more_examples:,} more examples" in " ".join(made.markdown().split())


def test_runs_on_other_texts_or_with_other_seeds_are_not_compared_and_the_reason_is_named() -> None:
    elsewhere = answering("lora", range(9), environment=environment(evaluation_digest="sha256:other"))
    found = verdicts([answering("full", range(9)), elsewhere])
    assert found.compared == ()
    assert [one.reason for one in found.not_comparable] == ["they were evaluated on different texts"]
    seeds = [answering("full", range(9)), answering("lora", range(9)), answering("lora", range(8), seed=1)]
    found = verdicts(seeds)
    assert [one.reason for one in found.not_comparable] == ["their seeds differ: 0 against 0, 1"]
    table = verdict_table(found)
    assert table is not None
    assert table.rows == (("full fine-tuning", "LoRA", "not comparable", "–", "–", "–"),)
    assert "full fine-tuning and LoRA cannot be compared: their seeds differ: 0 against 0, 1." in table.notes


def test_methods_that_were_trained_on_different_numbers_of_texts_are_said_in_charts_and_verdicts() -> None:
    said = "Not all methods were trained on the same texts: full fine-tuning on 184; LoRA on 149 texts."
    made = report(answering("full", range(20), train_examples=184), answering("lora", range(9), train_examples=149))
    table = verdict_table(made.verdicts)
    assert table is not None
    assert said in table.notes[-1]
    plots = made._plots((ANSWER, PERFORMANCE))
    assert [said in plots[title][0].caption for title in (ANSWER, PERFORMANCE)] == [True, True]
    assert "full fine-tuning, on 184 texts" in plots[ANSWER][0].svg
    assert not report(answering("full", range(20)), answering("lora", range(9))).verdicts.trained_on


def test_one_run_alone_has_no_verdicts() -> None:
    assert verdict_table(verdicts([answering("lora", [])])) is None


# Disagreements


def test_the_texts_on_which_answers_are_most_evenly_split_come_first_and_untrained_methods_have_no_say() -> None:
    records = [
        answering("baseline", range(TEXTS)),
        answering("full", [3, 7]),
        answering("lora", [7, 9]),
        answering("prelayer", [9]),
        answering("prelayer-46080", [5]),
    ]
    compared, found = disagreements(arms(records))
    assert [arm.label for arm in compared] == [
        "full fine-tuning",
        "LoRA",
        "PreLayer (head frozen)",
        "PreLayer (46,080, head frozen)",
    ]
    assert [one.index for one in found] == [7, 9, 3, 5]
    assert [next(iter(counted)) for counted in found[0].answers] == ["negative"] * 2 + ["positive"] * 2


def test_texts_are_shown_only_where_they_are_those_of_the_runs() -> None:
    both = arms([answering("full", [3]), answering("lora", [])])
    texts = [f"text {index}" for index in range(TEXTS)]
    shown = disagreement_table(both, EvaluationTexts(texts, "sha256:d1"))
    assert shown is not None
    assert shown.rows == (("3", "text 3", "positive", "negative", "positive"),)
    changed = disagreement_table(both, EvaluationTexts(texts, "sha256:changed"))
    withheld = disagreement_table(both, WITHHELD)
    assert changed is not None
    assert withheld is not None
    assert changed.rows == withheld.rows == (("3", "positive", "negative", "positive"),)
    assert "Row numbers only: the task's evaluation texts are no longer those of these runs." in changed.notes
    assert "Row numbers only: texts were left out on request." in withheld.notes


def test_methods_that_agree_everywhere_have_no_such_table() -> None:
    assert disagreement_table(arms([answering("full", [3]), answering("lora", [3])]), EvaluationTexts()) is None


def test_seeds_have_one_vote_together() -> None:
    records = [*(answering("full", [3] if seed < 2 else [], seed=seed) for seed in range(3)), answering("lora", [])]
    table = disagreement_table(arms(records), EvaluationTexts())
    assert table is not None
    assert table.rows == (("3", "positive", "negative ×2, positive ×1", "positive"),)
    assert np.mean([one.record.accuracy for one in records]) < 1
