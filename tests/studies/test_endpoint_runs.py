"""A model behind an API as a method of a study: its runs, the permission to send texts, and what the report says."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from afina import Results, Study
from afina.errors import InvalidStudy, NotFound, Refused, UnknownName
from afina.methods import make
from afina.report.details.endpoints import ENDPOINTS
from afina.report.progress import Lines
from afina.report.report import Report
from afina.studies.runs.record import write_records
from afina.studies.runs.run import Run
from afina.studies.study_toml import study_of
from chat_servers import SECRET, Answered, ChatServer, Seen, chat, chat_server, failed
from command import HereExecutor
from fakes import Runs
from raises import raises

HELD_OUT = 24
"""The number of held-out texts of the toy task."""

OPENAI = {"method": "endpoint", "url": "https://api.openai.com/v1", "model": "m"}


def said(seen: Seen) -> Answered:
    """The right answer to the invented sentences, apart from a refusal, a word that is no label and a failure."""
    text = seen.prompt.rsplit("\n", 2)[-2]
    number = sum(map(ord, text))
    if number % 7 == 0:
        return chat(None, refusal="I cannot say")
    if number % 11 == 0:
        return chat("It is good, I think")
    if number % 13 == 0:
        return failed(400)
    return chat("good" if number % 2 else "bad", usage=(50, 1))


@pytest.fixture
def server() -> Iterator[ChatServer]:
    with chat_server(said) as made:
        yield made


def study(server: ChatServer, toy: str, seeds: tuple[int, ...] = (0,), **table: Any) -> Study:
    asked = {"method": "endpoint", "url": server.url, "model": "tiny", **table}
    return Study(name="s", task=toy, seeds=seeds, methods={"gpt": asked})


# The runs of a study


def described(**methods: dict[str, Any]) -> Study:
    asked = {name: {**OPENAI, **one} for name, one in methods.items()}
    return Study(name="s", backbone="b", task="t", seeds=(0, 1), sizes=(8, 4), methods={"full": {}, **asked})


def test_an_endpoint_has_a_run_for_each_seed_and_size_that_changes_its_prompts() -> None:
    runs = described(plain={}, shown={"shots": 2}).runs()
    assert [(run.seed, run.data.train_examples) for run in runs if run.name == "plain"] == [(0, 8)]
    shown = [(run.seed, run.data.train_examples) for run in runs if run.name == "shown"]
    assert shown == [(0, 8), (0, 4), (1, 8), (1, 4)]
    assert {run.backbone for run in runs if run.asks_endpoint} == {"endpoint:api.openai.com/m"}
    assert [run.title for run in runs[:3]] == ["full", "plain", "shown"]


def test_prices_and_limits_change_no_key_and_what_changes_answers_does() -> None:
    def key(**table: Any) -> str:
        return Run(task="t", method="endpoint", hyperparameters={"url": OPENAI["url"], "model": "m", **table}).key

    same = {"price_in": 1, "price_out": 2, "max_cost": 3, "max_requests": 9, "at_once": 2, "timeout": 5, "key": "A_KEY"}
    assert {key(**{name: value, **({"price_in": 1, "price_out": 1} if name == "max_cost" else {})})
            for name, value in same.items()} == {key()}  # fmt: skip
    other = [{"model": "n"}, {"shots": 2}, {"shots": 2, "draw": "nearest"}, {"max_tokens": 9}]
    assert len({key(), *(key(**one) for one in other)}) == 1 + len(other)


@pytest.mark.parametrize("key", ["epochs", "head", "offset", "search", "backbones", "by_backbone", "retention"])
def test_a_setting_without_effect_on_an_endpoint_is_refused(key: str) -> None:
    with raises(InvalidStudy, code="study.key-of-endpoint", key=key):
        described(gpt={key: {} if key in ("search", "by_backbone") else 1})


def test_what_no_endpoint_has_is_refused(tmp_path: Path) -> None:
    with raises(UnknownName, code="name.unknown", name="shot"):
        described(gpt={"shot": 2})
    with raises(InvalidStudy, code="method.asks-endpoint", part="endpoint"):
        make("lora+endpoint", {"endpoint": {"url": OPENAI["url"], "model": "m"}})
    with raises(InvalidStudy, code="study.key-of-endpoint", found="gpt2"):
        Run(backbone="gpt2", task="t", method="endpoint", hyperparameters={"url": OPENAI["url"], "model": "m"})
    with raises(InvalidStudy, code="study.contradiction", method="one", other="two"):
        described(one={"price_in": 1, "price_out": 2}, two={"price_in": 1, "price_out": 3})
    with raises(InvalidStudy, code="study.contradiction", backbone="b"):
        Study(name="s", backbone="b", task="t", methods={"gpt": OPENAI})
    with raises(InvalidStudy, code="method.setting-invalid", setting="url"):
        Study(name="s", task="t", methods={"gpt": {"method": "endpoint", "model": "m"}})
    with raises(InvalidStudy, code="study.key-missing"):
        Study(name="s", task="t", methods={"gpt": OPENAI, "full": {}})


@pytest.mark.parametrize("content", [{"send_texts": True}, {"methods": {"gpt": {**OPENAI, "send-texts": True}}}])
def test_no_study_file_can_allow_to_send_texts(content: dict[str, Any]) -> None:
    with raises(InvalidStudy, code="study.consent-in-file"):
        Study.parse({"name": "s", "task": "t", "methods": {"gpt": OPENAI}, **content}, "study.toml")


# The permission


def test_nothing_is_sent_without_permission_and_kept_answers_need_none(
    server: ChatServer, toy: str, tmp_path: Path
) -> None:
    asked, out = study(server, toy, price_in=1.0, price_out=2.0), tmp_path / "out"
    with raises(Refused, code="run.texts-not-sent", host=server.url.split("/")[2]) as refused:
        asked.run(out, executor=HereExecutor())
    assert f"{HELD_OUT} requests" in str(refused.value)
    assert "cost about" in str(refused.value)
    assert not out.exists()
    (run,) = asked.runs()
    with raises(Refused, code="run.texts-not-sent"):
        run.execute(tmp_path / "alone")
    assert server.seen == []
    first = asked.run(out, executor=HereExecutor(), send_texts=True)
    sent = len(server.seen)
    assert sent >= HELD_OUT
    again = asked.run(out, executor=HereExecutor(), fresh=True, send_texts=True)
    failures = first.records[0].endpoint.missing["HTTP 400"]
    asked_again = {seen.prompt for seen in server.seen[sent:]}
    assert len(asked_again) == len(failures), "a failed request is asked for again, and nothing else"
    assert again.records[0].predictions_digest == first.records[0].predictions_digest
    assert again.records[0].endpoint.kept == HELD_OUT - len(failures)


def test_a_missing_key_ends_a_study_before_its_first_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, toy: str
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    asked = Study(name="s", task=toy, methods={"gpt": OPENAI})
    with raises(NotFound, code="endpoint.key-missing", variable="OPENAI_API_KEY"):
        asked.run(tmp_path / "out", executor=HereExecutor(), send_texts=True)
    assert not (tmp_path / "out").exists()


# A finished run


def test_the_record_says_what_the_answers_took_and_which_are_missing_and_follows_the_prices(
    server: ChatServer, toy: str, tmp_path: Path
) -> None:
    made = study(server, toy, price_in=1.0, price_out=2.0).run(tmp_path, executor=HereExecutor(), send_texts=True)
    (record,) = made.records
    use = record.endpoint
    assert use is not None
    assert (record.adapter, record.steps, record.backbone) == (None, 0, f"endpoint:{use.host}/tiny")
    assert {"HTTP 400", "no label", "refusal"} == {*use.missing}
    answered = made.results[0].answers
    assert sorted(row for rows in use.missing.values() for row in rows) == [*(answered == -1).nonzero()[0]]
    assert (use.structure, use.temperature) == ("used", True)
    assert use.first_answer is not None
    assert use.last_answer is not None
    now = datetime.now(UTC)
    first, last = map(datetime.fromisoformat, (use.first_answer, use.last_answer))
    assert now - timedelta(minutes=10) < first <= last <= now
    assert use.cost == pytest.approx(((use.tokens_in or 0) + 2 * (use.tokens_out or 0)) / 1e6)
    assert record.hyperparameters == {"url": server.url, "model": "tiny"}
    assert record.ask.words == {"bad": ("bad",), "good": ("good",)}
    assert [one.content_digest for one in Results.read(tmp_path).records] == [record.content_digest]
    with raises(NotFound, code="adapter.missing", method="gpt"):
        made.adapter()
    sent, said = len(server.seen), []
    for prices in ({"price_in": 10.0, "price_out": 20.0}, {}, {"price_in": 1, "price_out": 2}):
        again = study(server, toy, **prices)
        (other,) = again.run(tmp_path, Lines(said.append), executor=HereExecutor()).records
        times = prices.get("price_in")
        assert other.endpoint is not None
        costs = (other.endpoint.cost, other.endpoint.cost_per_1000)
        assert costs == (times and pytest.approx(times * use.cost), times and pytest.approx(times * use.cost_per_1000))
        assert [one.content_digest for one in Results.read(tmp_path).records] == [other.content_digest]
    assert (other.content_digest, len(server.seen)) == (record.content_digest, sent)
    assert sum("the costs of kept answers are computed again" in line for line in said) == 3


def test_examples_in_the_prompt_are_training_texts_that_depend_on_the_seed(
    server: ChatServer, toy: str, tmp_path: Path
) -> None:
    made = study(server, toy, (0, 1), shots=2).run(tmp_path, executor=HereExecutor(), send_texts=True)
    assert len(made.records) == 2
    beginnings = {seen.prompt.rsplit("\n", 3)[0] for seen in server.seen}
    assert len(beginnings) == 2, "one for each seed"


def test_a_budget_ends_the_run_and_a_larger_one_continues_it(server: ChatServer, toy: str, tmp_path: Path) -> None:
    asked = study(server, toy, max_requests=10)
    said: list[str] = []
    made = asked.run(tmp_path, Lines(said.append), executor=HereExecutor(), send_texts=True)
    assert any("The limit max_requests=10 is too low" in line for line in said), "before the first request"
    assert "max_requests" in made.failed[0].error
    assert len(server.seen) == 10
    assert (tmp_path / "answers.db").is_file(), "also though the study has no result"
    study(server, toy).run(tmp_path, executor=HereExecutor(), send_texts=True)
    assert len({seen.prompt for seen in server.seen}) == HELD_OUT
    assert len(server.seen) <= HELD_OUT + 10


# The report


@pytest.mark.slow
def test_a_report_compares_an_endpoint_with_other_methods_and_has_no_key(
    runs: Runs, server: ChatServer, toy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("A_KEY", SECRET)
    monkeypatch.setattr(Report, "_plots", lambda report, titles=(): {})
    gpt = {"method": "endpoint", "url": server.url, "model": "tiny", "key": "A_KEY", "price_in": 1, "price_out": 2}
    asked = Study(
        name="s", backbone=str(runs.backbones.path("gpt2")), task=toy, seeds=(0, 1), baselines=True,
        train={"epochs": 1},
        ask={"head": "random"}, methods={"head": {}, "gpt": gpt},
    )  # fmt: skip
    made = asked.run(tmp_path, executor=HereExecutor(), send_texts=True)
    assert [(one.name, one.seed) for one in made.records] == [("head", 0), ("gpt", 0), ("head", 1)]
    assert server.seen[0].headers["authorization"] == f"Bearer {SECRET}"
    report = Report.of(made)
    report.write()
    (compared,) = report.verdicts.compared
    assert {compared.first, compared.second} == {"head only", "tiny (endpoint, gpt)"}, "one seed stands for both"
    (table,) = [one for one in report.tables if one.title == ENDPOINTS]
    row = next(row for row in table.rows if row[0].startswith("tiny"))
    assert row[-1] == str(made.records[1].endpoint.missing_texts)
    assert any("without an answer" in note and "refusal" in note for note in table.notes)
    assert any("one run stands for all seeds" in note for note in made.notes)
    assert report.of_use is not None
    assert report.of_use.name == "head"
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "None" not in text
    assert "on gpt2" not in text, "an endpoint is no second backbone"
    tables = json.loads((tmp_path / "tables.json").read_text(encoding="utf-8"))["tables"]
    assert [one["method"] for one in tables["endpoints"]] == ["head only", "head only", "tiny (endpoint, gpt)"]
    rows = [*csv.DictReader((tmp_path / "tables.csv").read_text(encoding="utf-8").splitlines())]
    assert {one["column"] for one in rows if one["table"] == "endpoints"} >= {"cost_per_1000", "seconds_p95"}
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or SECRET.encode() not in path.read_bytes(), path


def test_a_record_that_asked_twice_is_shown_and_asking_twice_anew_is_refused(
    server: ChatServer, toy: str, tmp_path: Path
) -> None:
    (record,) = study(server, toy).run(tmp_path, executor=HereExecutor(), send_texts=True).records
    assert record.endpoint is not None
    before = record.model_copy(
        update={
            "hyperparameters": {**record.hyperparameters, "ask_again": 0.2},
            "endpoint": record.endpoint.model_copy(update={"asked_again": 5, "differed": 1}),
        }
    )
    write_records(tmp_path / "records.jsonl", [before.sealed()])
    assert Report.of(Results.read(tmp_path)).tables
    described = json.loads((tmp_path / "study.json").read_text(encoding="utf-8"))
    described["study"]["methods"]["gpt"]["ask_again"] = 0.2
    (tmp_path / "study.json").write_text(json.dumps(described), encoding="utf-8")
    assert study_of(tmp_path).methods["gpt"] == {"method": "endpoint", "url": server.url, "model": "tiny"}
    with raises(UnknownName, code="name.unknown", name="ask_again") as caught:
        study(server, toy, ask_again=0.2)
    assert caught.value.sentence.options == ("out",)
    with raises(UnknownName, code="name.unknown", name="ask_again"):
        make("endpoint", {"url": server.url, "model": "m", "ask_again": 0.2})
