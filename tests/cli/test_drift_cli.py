"""afina drift: what servers counted, beside the evaluation texts."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest

from afina import AdapterStore, Backbone, Predictor, cli
from afina.cli import drift as drift_command
from afina.data.split import Split
from afina.errors import AfinaError, InvalidData, OutOfMemory
from afina.models.answer_profile import CONFIDENCE_EDGES, AnswerProfile
from canned_server import CannedServer
from command import Answer, Command
from crowd import adapter
from fakes import sentences, write_csv

ALIKE = AnswerProfile(edges=(0.6, 0.9), scores=(200, 300, 500), labels={"bad": 400, "good": 600})
FEWER = AnswerProfile(edges=(0.6, 0.9), scores=(6, 9, 15), labels={"bad": 12, "good": 18})
OTHER = AnswerProfile(edges=(0.6, 0.9), scores=(600, 250, 150), labels={"bad": 410, "good": 590})


class Counting(CannedServer):
    """A server that has counted what a test says."""

    def says(self, answers: AnswerProfile, reference: AnswerProfile | None = ALIKE, **changes: Any) -> None:
        head = {"name": "acme/reviews", "alias": "production", "version": 3, "digest": "sha256:1", "kind": "classes"}
        head |= {"score": "confidence", "one_label": True, "days": 7, "since": "2026-11-23T08:00:00Z", "drift": None}
        known = None if reference is None else reference.model_dump(mode="json")
        content = {**head, "reference": known, "answers": answers.model_dump(mode="json"), **changes}
        self.body = json.dumps(content).encode()


@pytest.fixture
def counting(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counting]:
    monkeypatch.setenv("AFINA_KEY", "afina_key")
    made = Counting()
    yield made
    made.close()


def test_texts_that_are_answered_alike_are_no_drift(counting: Counting, afina: Command) -> None:
    counting.says(ALIKE)
    head, compared, _, confidence, labels, verdict = afina(
        "drift", "acme/reviews", "--server", counting.url
    ).out.splitlines()
    assert head == (
        "acme/reviews@production, version 3: 1,000 texts in the last 7 days (counted since 2026-11-23 08:00 UTC)"
    )
    assert compared == "compared with 1,000 texts of evaluation; level 0.01 for all tests together"
    assert confidence.split()[:4] == ["confidence", "0.0", "points", "1.000"]
    assert labels.split()[:4] == ["labels", "0.0", "points", "1.000"]
    assert verdict == "No drift was found; a difference of at least 8.4 points would probably be noticed."
    assert counting.asked == [("/drift/acme/reviews/production?days=7", "Bearer afina_key")]


def test_drift_is_said_and_is_the_exit_status(counting: Counting, afina: Command) -> None:
    counting.says(OTHER)
    words = ("drift", "acme/reviews@production", "--server", counting.url, "--days", "35")
    done = afina(*words)
    assert done.code == 2
    assert "at most 0.6: 20.0% of the evaluation texts, now 60.0%" in done.out
    assert "Drift: the confidences differ from those of the evaluation texts." in done.out
    found = json.loads(afina(*words, "--json").out)
    assert (found["drift"]["state"], found["drift"]["tests"][0]["of"]) == ("drift", "scores")
    small = afina(*words, "--effect", "0.5").out
    assert (
        "No drift above 50.0 points: the confidences differ from those of the evaluation texts significantly, but"
        in small
    )


def test_counts_of_two_servers_are_added(counting: Counting, afina: Command) -> None:
    counting.says(FEWER)
    words = ("drift", "acme/reviews", "--server", counting.url)
    few = afina(*words).out.splitlines()[-1]
    assert few == (
        "No drift was found, but only a difference of at least 35.0 points would probably be noticed: 555 texts are "
        "needed to notice one of 10.0 points."
    )
    found = afina(*words, "--server", counting.url, "--json").object()
    assert (sum(found["answers"]["scores"]), found["servers"]) == (60, 2)
    counting.says(AnswerProfile.empty((0.6, 0.9), ("bad", "good")), since=None)
    assert afina(*words).out.splitlines()[-1] == "No text was answered, so nothing can be compared."


@pytest.mark.slow
def test_evaluation_texts_are_counted_now_for_an_adapter_without_counts(
    counting: Counting, afina: Command, gpt2: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AFINA_STORE", str(tmp_path / "store"))
    store, made = AdapterStore(), adapter(gpt2, "lora", {"r": 2})
    made.save(tmp_path / "adapter")
    version = store.publish(tmp_path / "adapter", "acme/reviews", message="made up").version
    rows = [(text, ("bad", "good")[label]) for text, label in sentences(60)]
    write_csv(tmp_path / "more.csv", rows)
    split = Split([text for text, _ in rows], np.zeros(len(rows), np.int64))
    found = Predictor.of(made, gpt2).profile(split, CONFIDENCE_EDGES)
    assert found is not None
    counting.says(found, None, version=version.number, digest=version.digest)
    words = ("drift", "acme/reviews", "--server", counting.url, "--task", str(tmp_path / "more.csv"))
    answer = afina(*words, "--json").object()
    assert answer["reference"] == answer["answers"]
    assert max(answer["reference"]["tokens"]) > 0
    counting.says(found, None, version=version.number, digest="sha256:other")
    assert "the server has another adapter (sha256:other) than this store" in refusal(afina(*words))
    assert "--text-column" in refusal(afina(*words[:-2], "--text-column", "text"))


def refusal(answer: Answer) -> str:
    """The message of an error, whose exit status is not that of drift."""
    assert answer.code == 1
    return replace(answer, code=2).error


@pytest.mark.parametrize("error", [InvalidData("too many"), OutOfMemory()])
def test_no_error_has_the_exit_status_of_drift(
    afina: Command, monkeypatch: pytest.MonkeyPatch, error: AfinaError
) -> None:
    monkeypatch.setattr(cli.allocator, "end_at_once", sys.exit)
    monkeypatch.setattr(drift_command, "_served_answers", Mock(side_effect=error))
    assert afina("drift", "acme/reviews", "--server", "http://127.0.0.1:9").code == 1
    monkeypatch.setattr(cli, "check_surroundings", Mock(side_effect=error))  # before the command is known
    assert afina("drift", "--days", "2").code == 1
    assert afina("show").code == 2


def test_what_cannot_be_compared_is_said(counting: Counting, afina: Command) -> None:
    counting.says(ALIKE, None)
    words = ("drift", "acme/reviews", "--server", counting.url)
    assert "acme/reviews@3: the adapter has no counts of its evaluation texts" in refusal(afina(*words))
    counting.body = json.dumps({"name": "acme/reviews"}).encode()
    assert "the counts that a server sent are malformed" in refusal(afina(*words))
    assert "acme/reviews@3: a version number" in refusal(afina("drift", "acme/reviews@3", "--server", counting.url))
    assert "--days 36: expected a whole number from 1 to 35" in refusal(afina(*words, "--days", "36"))
    assert "--level 1.5: expected a number between 0 and 1" in refusal(afina(*words, "--level", "1.5"))
    assert "--effect 0.0: expected a number between 0 and 1" in refusal(afina(*words, "--effect", "0"))
    assert "no answer from a server of afina" in refusal(afina(*words[:-1], "http://127.0.0.1:9"))
    assert afina(*words, "--nothing").code == 1
