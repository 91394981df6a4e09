"""The sentences of a report that the docs quote are those that the report writes today, whatever their figures."""

from __future__ import annotations

import re
from collections.abc import Iterable

import numpy as np
import pytest

from afina.data.reading_options import ReadingOptions
from afina.methods import METHODS
from afina.predicting.prompting import Answer
from afina.report import recommendation
from afina.report.evaluation import answer_sentence
from afina.report.report import Report
from afina.stats.comparison import compare
from afina.studies.choosing.recommendation import Contender, Dropped, Recommendation, Student
from afina.studies.results import Results
from pages import ROOT
from records import answering, results

DOCS = ROOT / "docs"
NAMES = sorted([*(one.title for one in METHODS.values()), "PreLayer (head trained)"], key=len, reverse=True)


def skeleton(text: str) -> str:
    """The words of a text, without names of methods and metrics, and without numbers."""
    text = re.sub("|".join(map(re.escape, NAMES)), "METHOD", " ".join(text.split()))
    text = re.sub(r"METHOD, [\d,]+ texts", "METHOD", text)
    text = re.sub(r"accuracy|Pearson correlation|\bF1\b", "METRIC", text, flags=re.IGNORECASE)
    return re.sub(r"[−+]?\d[\d.,]*(?<![.,])", "N", text)


def quoted(page: str) -> list[str]:
    """The paragraphs of the quotations on a page of the docs, without those that say [...]."""
    text = (DOCS / page).read_text(encoding="utf-8")
    found = re.findall(r"(?m)(?:^>.*\n)+", text)
    paragraphs = [part for block in found for part in re.sub(r"(?m)^> ?", "", block).split("\n\n")]
    return [" ".join(part.split()) for part in paragraphs if part.strip() != "[...]"]


def unknown(quotations: Iterable[str], written: Iterable[str]) -> list[str]:
    known = {skeleton(one) for one in written}
    return [one for one in quotations if skeleton(one) not in known]


def test_the_first_studys_conclusion_is_worded_as_the_report_of_one_seed_is() -> None:
    recorded = Results.read(DOCS / "example-report")
    one_seed = tuple(one for one in recorded.results if one.record.seed == 0)
    made = Report.of(results(one_seed, "quickstart"))
    assert unknown(quoted("tutorials/first-study.md"), made.sentences) == []
    text = (DOCS / "tutorials" / "first-study.md").read_text(encoding="utf-8")
    for table in made.tables[:3]:
        heading = [column.heading for column in table.columns]
        assert re.search(r"\| *" + r" *\| *".join(map(re.escape, heading)) + r" *\|", text), heading


def test_conclusions_on_the_page_of_tasks_are_worded_as_reports_are() -> None:
    best = [
        answering("full", range(10)),
        *(answering(name, range(100, end)) for name, end in (("lora", 170), ("ia3", 190), ("head", 210))),
    ]
    open_ = [
        answering("full", range(20)),
        *(answering(name, range(100, end)) for name, end in (("ia3", 130), ("lora", 131), ("head", 220))),
    ]
    curve = [
        answering(name, range(100 * place, 100 * place + 20 + 5 * place), train_examples=size)
        for place, name in enumerate(("full", "lora", "head"))
        for size in (32, 128, 512)
    ]
    written = [text for made in (best, open_, curve) for text in Report.of(results(made)).sentences]
    assert unknown(quoted("reference/tasks.md"), written) == []


def test_the_recommendation_in_the_tutorial_is_worded_as_choose_words_it() -> None:
    trained = {
        "seconds": 56.0, "steps": 57, "examples": 300, "total": 134_516_160, "trainable": 134_516_160,
        "memory": 2**32, "validation_examples": 44, "ended": 100.0,
    }  # fmt: skip
    figures = {"full": 0.9125, "lora-0.003": 0.8975, "ia3": 0.8875, "head": 0.82}
    contenders = [
        Contender(
            name=name,
            method=name.split("-")[0],
            metrics={"accuracy": value},
            validation=value,
            key="sha256:0",
            adapter=f"adapters/{name}",
            **trained,
        )
        for name, value in figures.items()
    ]
    contenders.append(Contender(name="zero-shot", method="zero-shot", metrics={"accuracy": 0.765}, key="sha256:0"))
    made = Recommendation(
        task="reviews.csv", data=ReadingOptions(), backbone="embedded", recommended="full", adapter="adapters/full",
        contenders=tuple(contenders), comparisons=(), dropped={"prelayer": Dropped(why="train")}, train_examples=300,
        examples=400, minutes=10.0, seconds=590.0,
    )  # fmt: skip
    written = recommendation.sentences(made, (0.88, 0.94))
    (start,) = [place for place, one in enumerate(quoted("tutorials/your-own-csv.md")) if one.startswith("Use ")]
    chosen = quoted("tutorials/your-own-csv.md")[start : start + 4]
    assert chosen[-1].startswith("More minutes")
    assert unknown(chosen, written) == []


def test_the_second_answer_on_the_page_of_texts_without_labels_is_worded_as_choose_words_it() -> None:
    scores = {"distilled-on-minilm": np.arange(233)[None] < 203, "full-on-embedded": np.arange(233)[None] < 210}
    student = Student(
        name="distilled-on-minilm", backbone="minilm", method="full", teacher="full-on-embedded",
        metrics={"accuracy": 0.8712}, comparison=compare(scores)[0], milliseconds=20.0, of_teacher=250.0, examples=500,
        unlabelled=400, available=1_297, steps=171, seconds=75.0, answering=62.0, key="sha256:0",
        adapter="adapters/distilled-on-minilm-seed0-9fb98f53",
    )  # fmt: skip
    contender = Contender(name="full-on-embedded", method="full", metrics={"accuracy": 0.9013}, key="sha256:1")
    made = Recommendation(
        task="reviews.csv", data=ReadingOptions(), backbone="embedded", recommended="full-on-embedded", adapter=None,
        contenders=(contender,), comparisons=(), dropped={}, train_examples=500, examples=233, minutes=10.0,
        seconds=566.0, student=student,
    )  # fmt: skip
    assert unknown(quoted("how-to/use-unlabelled-texts.md"), recommendation.second_answer(made)) == []
    assert len(quoted("how-to/use-unlabelled-texts.md")) == 2


@pytest.mark.parametrize("page", ["tutorials/your-own-csv.md", "how-to/ask-without-training.md"])
def test_the_answer_without_training_is_written_as_ask_writes_it(page: str) -> None:
    template, score = "Text: {text}\nSentiment:", np.arange(60) < 53
    words = {label: (f" {label}",) for label in ("negative", "positive")}
    made = Answer(template, template, words, False, {"accuracy": 53 / 60, "f1": 0.8444}, score, ())
    (found,) = [one for one in quoted(page) if one.startswith("Untrained")]
    assert found == answer_sentence(made)
