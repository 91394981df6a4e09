"""Which pairs are compared, which claims of the published study hold, and on which texts methods disagree."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from afina.report.arms import arms
from afina.report.examples.disagreements import WITHHELD, EvaluationTexts, disagreement_table, disagreements
from afina.report.paper import CLAIMS, STUDY, Claim
from afina.report.report import Report
from afina.report.verdicts import Verdicts, verdict_table
from afina.report.writers.terminal import findings
from afina.studies.runs.record import Result, Seconds
from records import TEXTS, answering, environment, memory, record, results


def report(*made: Result) -> Report:
    return Report.of(results(made))


def verdicts(made: list[Result]) -> Verdicts:
    return report(*made).verdicts


def of_the_paper(*made: Result) -> list[Result]:
    return [replace(one, record=one.record.model_copy(update={"study": STUDY})) for one in made]


def claims_of(made: list[Result]) -> dict[str, list[Claim]]:
    found: dict[str, list[Claim]] = {}
    for one in report(*of_the_paper(*made)).claims:
        found.setdefault(one.number, []).append(one)
    return found


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


def test_one_run_alone_has_no_verdicts() -> None:
    assert verdict_table(verdicts([answering("lora", [])])) is None


# The published claims


def test_each_claim_is_tested_by_name_on_the_methods_it_is_about() -> None:
    records = [
        answering("full", range(60), memory=memory(state_bytes=1000, activation_bytes=1000)),
        answering(
            "lora",
            range(10),
            memory=memory(state_bytes=100, activation_bytes=900),
            seconds=Seconds(load=1, encode=1, train=50, evaluate=1, save=1),
        ),
        answering("prelayer", range(60)),
    ]
    found = claims_of(records)
    assert {number: one[0].status for number, one in found.items()} == {
        "1": "supported",
        "2": "supported",
        "3a": "supported",
        "3b": "supported",
        "4": "supported",
        "5": "not tested",
    }
    assert found["1"][0].figure == pytest.approx(0.125)
    assert found["2"][0].figure == pytest.approx(0.5)
    assert found["2"][0].interval == pytest.approx((0.45, 0.55))
    assert found["3a"][0].figure == pytest.approx(0.5)
    assert found["3b"][0].figure == pytest.approx(0.1)
    assert found["3b"][0].interval is None
    assert "no GPU memory was measured" in found["3b"][0].evidence
    assert "learning rate of at most 5e-05, or for more epochs" in found["5"][0].evidence


def test_claims_that_do_not_hold_are_contradicted() -> None:
    gentle = {**record().training, "learning_rate": 2e-5}
    records = [
        answering("full", range(10)),
        answering("lora", range(60)),
        answering("prelayer", range(80)),
        answering("full", range(100, 250), name="gentle", training=gentle),
    ]
    found = claims_of(records)
    assert [one.status for one in found["1"]] == ["contradicted", "supported"]
    assert {one.status for number in ("2", "3a", "3b") for one in found[number]} == {"contradicted"}
    assert found["4"][0].status == "contradicted"
    assert [(one.methods[0], one.status) for one in found["5"]] == [("full fine-tuning (gentle)", "contradicted")]


def test_full_fine_tuning_with_a_small_rate_or_more_epochs_tests_the_fifth_claim() -> None:
    for change in ({"learning_rate": 2e-5}, {"epochs": 5}):
        full = answering("full", range(10), training={**record().training, **change})
        assert claims_of([full, answering("lora", range(60))])["5"][0].status == "supported"
    assert claims_of([answering("full", range(10)), answering("lora", range(60))])["5"][0].status == "not tested"


def test_a_timing_close_to_the_claim_is_undecided_and_several_seeds_give_their_own_interval() -> None:
    def lasting(method: str, seconds: float, seed: int = 0) -> Result:
        taken = Seconds(load=1, encode=1, train=seconds, evaluate=1, save=1)
        return answering(method, range(9), seed=seed, seconds=taken)

    assert claims_of([lasting("full", 100), lasting("lora", 70)])["2"][0].status == "undecided"
    seeds = [
        *(lasting("full", seconds, seed) for seed, seconds in enumerate((99, 100, 101))),
        *(lasting("lora", seconds, seed) for seed, seconds in enumerate((64, 65, 66))),
    ]
    one = claims_of(seeds)["2"][0]
    assert one.status == "supported"
    assert one.interval is not None
    assert 0.62 < one.interval[0] < 0.65 < one.interval[1] < 0.69


def test_times_of_different_machines_are_not_set_against_each_other() -> None:
    records = [answering("full", []), answering("lora", [], environment=environment(threads=8))]
    assert claims_of(records)["2"][0].evidence == "the two were measured on different machines"


def test_the_terminal_says_what_is_missing_for_a_test() -> None:
    made = report(*of_the_paper(answering("full", []), answering("lora", [])))
    console = Console(width=100, record=True, file=io.StringIO())
    for table in made.findings:
        console.print(findings(table, 100))
    shown = " ".join(console.export_text().split())
    assert "4 is not tested: no run of PreLayer in this study." in shown
    assert "5 is not tested: missing is a run of full fine-tuning at a learning rate of at most 5e-05" in shown
    assert "Remarks" not in shown


def test_a_study_without_the_methods_has_no_claims() -> None:
    made = report(*of_the_paper(answering("lora", [])))
    assert made.claims == []
    assert CLAIMS not in made.markdown()


def test_only_the_published_studys_own_report_speaks_of_it() -> None:
    methods = [answering(name, range(number)) for name, number in (("full", 9), ("lora", 60), ("baseline", 200))]
    mine, theirs = report(*methods), report(*of_the_paper(*methods))
    for text in (mine.markdown(), mine.page(), str(mine.summary())):
        assert "published" not in text.lower()
    assert mine.claims == []
    assert CLAIMS in theirs.markdown()


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
