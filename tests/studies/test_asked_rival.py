"""A model behind an API among the contenders of a recommendation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from afina import Results
from afina.data.reading_options import ReadingOptions
from afina.data.split import Split
from afina.data.task import Task
from afina.errors import InvalidStudy, Refused
from afina.models import objectives
from afina.report.recommendation import sentences
from afina.report.report import Report
from afina.studies import study_toml
from afina.studies.choosing.asked_rival import AskedRival, check_table, run_of
from afina.studies.choosing.recommend import recommend
from afina.studies.choosing.recommendation import Contender, Dropped, Recommendation
from afina.studies.choosing.setup import ChoiceSetup
from afina.studies.choosing.time_budget import TimeBudget
from afina.studies.runs.output_directory import OutputLock
from afina.studies.runs.record import Result
from afina.studies.runs.spec import Ask
from afina.studies.watcher import Watcher
from chat_servers import chat, chat_server
from command import HereExecutor
from fakes import Runs
from raises import raises
from records import answering, endpoint_use, record

TABLE = {"url": "https://api.openai.com/v1", "model": "m", "price_in": 1, "price_out": 2}
NAME = "m (endpoint)"


def rival(tmp_path: Path, wrong: range | None) -> AskedRival:
    """A rival whose run has ended, wrong on those texts of 400; None: without a result."""
    split = Split([f"text {number}" for number in range(400)], np.arange(400) % 2)
    task = Task("texts", ("no", "yes"), split, split, leaked=0)
    objective, clock = objectives.make(task.label_names), TimeBudget(0.0, 1.0)
    given = task, ReadingOptions(), ("b",), Ask(), clock, Watcher(), HereExecutor(), objective, "accuracy"
    setting = ChoiceSetup(*given)
    made = AskedRival(setting, OutputLock(None), run_of(setting, TABLE, send_texts=False))  # type: ignore[arg-type]
    if wrong is None:
        made.dropped = Dropped(why="error", message="the budget is spent")
    else:
        run = {
            "method": "endpoint",
            "title": NAME,
            "adapter": None,
            "digest": None,
            "endpoint": endpoint_use(),
            "key": "asked",
        }
        scored = answering("lora", wrong)
        figures = {"examples": 400, "accuracy": 1 - len(wrong) / 400}
        made.result = Result(record("zero-shot", **figures).model_copy(update=run), scored.predictions)
    return made


def recommendation() -> tuple[Recommendation, dict[str, np.ndarray]]:
    figures = {"steps": 9, "examples": 9, "seconds": 1.0, "trainable": 1, "total": 2, "rate": 1e-3, "validation": 0.8}
    lora = Contender(name="lora", method="lora", metrics={"accuracy": 0.8}, key="l", adapter="adapters/l", **figures)
    made = Recommendation(
        task="t", data=ReadingOptions(), backbone="b", recommended="lora", adapter="adapters/l", contenders=(lora,),
        comparisons=(), dropped={}, train_examples=9, examples=400, minutes=1.0, seconds=1.0,
    )  # fmt: skip
    return made, {"lora": answering("lora", range(80)).scores[None]}


def test_a_significantly_better_endpoint_is_recommended_with_its_cost_and_without_an_adapter(tmp_path: Path) -> None:
    made, scores = recommendation()
    joined = rival(tmp_path, range(8)).joined(made, scores, 400)
    assert (joined.recommended, joined.adapter, joined.instead_of) == (NAME, None, "lora")
    said = " ".join(sentences(joined))
    for words in (
        "Use m (endpoint) at api.openai.com",
        "significantly better than LoRA",
        "its adapter is in adapters/l",
        "It costs 0.104 for 1,000 texts",
        "there is no adapter",
        "every text is sent to api.openai.com",
    ):
        assert words in said


@pytest.mark.parametrize(
    ("wrong", "words"), [(range(4, 82), "not significantly better"), (range(200), "worse than LoRA")]
)
def test_an_endpoint_that_is_not_significantly_better_is_compared_and_not_recommended(
    tmp_path: Path, wrong: range, words: str
) -> None:
    made, scores = recommendation()
    joined = rival(tmp_path, wrong).joined(made, scores, 400)
    assert (joined.recommended, joined.adapter, joined.instead_of) == ("lora", "adapters/l", None)
    assert [one.name for one in joined.contenders] == ["lora", NAME]
    assert words in " ".join(sentences(joined))
    assert len(joined.comparisons) == 1


def test_an_endpoint_without_an_answer_is_left_out_with_the_reason(tmp_path: Path) -> None:
    made, scores = recommendation()
    joined = rival(tmp_path, None).joined(made, scores, 400)
    assert joined.dropped[NAME].message == "the budget is spent"
    assert joined.recommended == "lora"


def test_an_endpoint_is_measured_on_the_texts_of_the_other_contenders(tmp_path: Path) -> None:
    made = rival(tmp_path, range(8))
    fewer = made.on(100)
    assert fewer is not None
    assert fewer.record.examples == len(fewer.predictions) == 100
    assert fewer.record.metrics["accuracy"] == pytest.approx(fewer.scores.mean())


def test_an_endpoint_needs_an_address_and_a_model() -> None:
    with raises(InvalidStudy, code="endpoint.incomplete", missing="model"):
        check_table({"url": TABLE["url"]})


@pytest.mark.slow
def test_choose_asks_an_endpoint_beside_its_trainings(runs: Runs, toy: str, tmp_path: Path) -> None:
    labels = dict(zip((one := Task.load(toy).evaluation).texts, one.labels.tolist(), strict=True))
    backbone = str(runs.backbones.path("gpt2"))
    with chat_server(lambda seen: chat(("bad", "good")[labels[seen.prompt.rsplit("\n", 2)[-2][6:]]])) as server:
        table = {"url": server.url, "model": "tiny", "price_in": 1.0, "price_out": 2.0}
        given: dict[str, Any] = {"backbone": backbone, "executor": HereExecutor(), "endpoint": table}
        with raises(Refused, code="run.texts-not-sent"):
            recommend(toy, 0.2, out=tmp_path / "refused", **given)
        assert server.seen == []
        results = recommend(toy, 0.2, out=tmp_path / "out", send_texts=True, **given)
    made = results.recommendation
    assert made is not None
    asked = made.contender("tiny (endpoint)")
    assert asked.endpoint is not None
    assert (asked.metrics["accuracy"], asked.adapter) == (1.0, None)
    assert any(asked.name in (one.first, one.second) for one in made.comparisons)
    again = Results.read(tmp_path / "out").recommendation
    assert again is not None
    assert again.content_digest == made.content_digest
    report = Report.of(results)
    report.write(["report.md"])
    assert "tiny (endpoint)" in (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    if made.recommended == asked.name:
        assert "[methods.endpoint]" in study_toml.as_toml(study_toml.study_of(tmp_path / "out"))
