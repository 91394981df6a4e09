"""Tables and plots of what only some runs measure: fitted heads, retention and models behind an API."""

from __future__ import annotations

import json
import re
from typing import Any

from afina.report.details.endpoints import ENDPOINTS
from afina.report.details.fitted_heads import FITTED
from afina.report.details.retention import RETENTION
from afina.report.examples.disagreements import WITHHELD
from afina.report.plots import comparison, svg
from afina.report.report import JSON, Report
from afina.report.tables import COST, MEMORY, Table
from afina.studies.runs.record import HeadFit, Result, Retention, UnlabelledCounts
from records import answering, asked, endpoint_use, results


def fitted(**changes: Any) -> HeadFit:
    told = {"parameter": "C", "strength": 0.01, "seconds": 0.4, "iterations": 30, "converged": True}
    return HeadFit(**(told | {"pooling": "mean", "normalize": True} | changes))


def retained(change: float) -> Retention:
    return Retention(
        source="snippets:editorials",
        texts_digest="sha256:texts",
        sentences=200,
        tokens=4_321,
        before=3.5,
        after=3.5 + change,
        change=change,
        before_interval=(3.4, 3.6),
        after_interval=(3.4 + change, 3.6 + change),
        change_interval=(change - 0.02, change + 0.02),
        seconds=2.0,
    )


def table(report: Report, title: str) -> Table:
    return next(one for one in report.tables if one.title == title)


def test_a_report_on_other_runs_has_neither_table_and_no_plot() -> None:
    report = Report.of(results([answering("lora", range(10)), answering("head", range(20))]))
    assert {FITTED, RETENTION}.isdisjoint(one.title for one in report.tables)
    assert RETENTION not in report.markdown()
    assert "retention" not in json.loads(report.files(("tables.json",))["tables.json"])["tables"]


def test_linear_probes_say_how_they_were_fitted_and_whether_gradient_steps_are_better() -> None:
    probe = answering("linear_probe", range(5), steps=1, fitted=fitted())
    report = Report.of(results([probe, answering("head", range(60)), answering("lora", range(10))]))
    found = table(report, FITTED)
    assert [column.heading for column in found.columns] == [
        "Method", "Pooling", "Normalized", "C", "Fit (s)", "Converged",
    ]  # fmt: skip
    assert found.rows == (("linear probe", "mean", "yes", "0.01", "0.40", "yes"),)
    (sentence,) = [note for note in found.notes if note.startswith("The same linear head")]
    assert "linear probe is better than head only" in sentence
    assert "LoRA" not in " ".join(found.notes)


def test_a_fit_that_did_not_converge_is_said() -> None:
    probe = answering("linear_probe", range(5), steps=1, fitted=fitted(converged=False, iterations=1000))
    (note,) = [note for note in table(Report.of(results([probe])), FITTED).notes if "converged" in note]
    assert note.startswith("linear probe: the solver stopped before it converged")


def test_the_table_of_fitted_heads_says_for_how_many_texts_label_names_count() -> None:
    named = fitted(label_texts={"a": ("a",), "b": ("b",)})
    made = {"hyperparameters": {"label_examples": 8.0}, "fitted": named}
    probe = answering("linear_probe", range(5), steps=1, **made)
    rival = answering("setfit", range(9), steps=1, fitted=fitted())
    found = table(Report.of(results([probe, rival])), FITTED)
    assert found.columns[3].heading == "Label names"
    assert [row[3] for row in found.rows] == ["8 texts each", "not used"]


def test_retention_is_a_table_a_plot_and_rows_of_json() -> None:
    runs = [
        answering("lora", range(10), retention=retained(0.3)),
        answering("head", range(20), retention=retained(0.0)),
        answering("full", range(5)),
    ]
    report = Report.of(results(runs))
    found = table(report, RETENTION)
    assert [row[0] for row in found.rows] == ["LoRA", "head only"]
    assert found.rows[0][2:] == ("3.500", "3.800", "+0.300", "+0.280 to +0.320")
    rows = json.loads(report.files(("tables.json",))["tables.json"])["tables"]["retention"]
    assert [row["method"] for row in rows] == ["LoRA", "head only"]
    assert (rows[0]["change"], round(rows[0]["change_low"], 6)) == (0.3, 0.28)
    with svg.drawing():
        drawn = comparison.against_retention(report.arms)
    assert drawn is not None
    assert drawn.title.endswith("against forgetting")


def test_seeds_are_averaged_in_the_table_of_retention() -> None:
    runs = [answering("lora", range(10), seed=seed, retention=retained(0.1 + 0.2 * seed)) for seed in (0, 1)]
    found = table(Report.of(results(runs)), RETENTION)
    assert found.rows[0][-2:] == ("+0.200 ± +0.141", "+0.180 to +0.220")
    assert len(found.singles) == 2


def test_a_model_behind_an_api_is_compared_and_what_it_wrote_is_shown_unless_texts_are_withheld() -> None:
    use = endpoint_use(missing={"no label": (0, 2)}, unread=("I think so",))
    arms = [answering("lora", range(5)), answering("head", range(9)), asked(range(20), endpoint=use)]
    made = results([*arms, answering("zero-shot", range(30))])
    report = Report.of(made)
    shown = table(report, ENDPOINTS)
    assert "Local (s per 1,000 texts)" in [one.heading for one in shown.columns]
    told = " ".join(shown.notes)
    assert "400 requests, with repetitions; all answers cost 0.0416" in told
    assert "answers are of" not in told
    assert '"I think so"' in told
    dated = {"first_answer": "2026-11-29T23:30:00-01:00", "last_answer": "2026-12-01T08:00:00+00:00", "retries": 3}
    notes = table(Report.of(results([*arms[:2], asked(range(20), endpoint=endpoint_use(**dated))])), ENDPOINTS).notes
    assert any("400 requests, 3 of them retries of failed requests" in note for note in notes)
    assert any("The answers are of 2026-11-30 to 2026-12-01 (UTC)." in note for note in notes)
    held = Report.of(made, WITHHELD)
    assert "I think so" not in held.markdown()
    assert "I think so" not in held.files([JSON])[JSON]
    text = report.markdown()
    assert "LoRA | m (endpoint)" in re.sub(" +", " ", text.replace("head only | ", "")).split("Where the methods")[1]
    assert "Not compared here: zero-shot" in text
    assert "m (endpoint) was asked with the template" in text
    assert "m (endpoint) has no answer" not in text


def test_only_what_can_be_asked_in_words_is_suggested_and_examples_in_the_prompt_are_named() -> None:
    def text(*made: Result) -> str:
        return " ".join(Report.of(results([*made])).markdown().split())

    assert "`afina ask sst2`" in text(answering("lora", range(5)))
    assert "afina ask" not in text(answering("lora", range(5), backbone="minilm"))
    few = {"hyperparameters": {"shots": 4}, "notes": ("Each prompt has 4.",), "name": "few", "key": "sha256:few"}
    said = text(
        answering("zero-shot", range(9)), answering("zero-shot", range(5), title="few-shot (4 examples)", **few)
    )
    assert "few-shot (4 examples, few) asks the same model in words with training texts in each prompt (4)" in said
    assert "- few-shot (4 examples, few): Each prompt has 4." in said
    assert "shots 4, draw fixed" in said


def test_a_student_alone_says_from_what_it_learned() -> None:
    taught = {"teacher": "sha256:t", "unlabelled": UnlabelledCounts(texts=400)}
    record = answering("lora", range(5), **taught)
    record.record.training.update(distil_temperature=2.0, distil_weight=0.9)
    report = Report.of(results([record]))
    assert any("texts and 400 texts without labels, with the answers of a teacher, in" in one for one in report.brief)
    assert "distil_temperature 2, distil_weight 0.9" in " ".join(report.markdown().split())


def test_a_model_without_any_answer_is_said_first() -> None:
    use = endpoint_use(missing={"HTTP 500": (*range(400),)})
    report = Report.of(results([answering("lora", range(5)), asked(range(400), endpoint=use)]))
    alone = Report.of(results([asked(range(9))]))
    assert {COST, MEMORY}.isdisjoint(one.title for one in alone.tables)
    assert any("400 requests" in sentence for sentence in alone.brief)
    assert report.sentences[0] == (
        "m (endpoint) has no answer to any of 400 texts (HTTP 500): its figures say nothing about the model."
    )
