"""The page on models behind an API, with a server of this machine in place of OpenAI's; and a study that is killed."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from afina import Backbone, Results
from chat_servers import SECRET, Answered, ChatServer, Seen, chat, chat_server, failed
from command import PROGRAM, Command, study_file
from pages import ROOT, blocks, commands

PAGE = ROOT / "docs" / "how-to" / "compare-with-an-api.md"
OPENAI = "https://api.openai.com/v1"

pytestmark = pytest.mark.slow


@pytest.fixture
def good() -> Iterator[ChatServer]:
    with chat_server(lambda seen: chat("good")) as made:
        yield made


def test_the_study_and_the_commands_of_the_page_run(
    afina: Command, good: ChatServer, toy: str, gpt2: Backbone, tmp_path: Path
) -> None:
    (content,) = blocks(PAGE, "toml")
    for found, other in ((OPENAI, good.url), ('"embedded"', f'"{gpt2.address}"'), ("reviews.csv", toy)):
        assert found in content
        content = content.replace(found, other)
    Path("rivals.toml").write_text(content, encoding="utf-8")
    typed = [words[1:] for words in commands(PAGE) if words[0] == "afina"]
    assert [words[0] for words in typed] == ["study", "plan", "choose"]
    there = {OPENAI: good.url, "reviews.csv": toy}
    study, plan, _ = ([there.get(word, word) for word in words] for words in typed)
    assert "--send-texts" in afina(*[word for word in study if word != "--send-texts"]).error
    answer = afina(*study, "--set", "train.max_steps=2", "--set", "seeds=[0]", "--json")
    assert [one["name"] for one in answer.object()["records"]] == ["lora", "zero-shot", "gpt", "gpt-shots"]
    assert "api.openai.com" not in answer.out
    found = afina(*plan, "--method", "lora", "--backbone", gpt2.address, "--no-calibrate", "--json").object()
    assert found["endpoint"]["requests"] == found["endpoint"]["texts"]


class Bad:
    """A server that answers well, slowly, and in every wrong way; it says when it has received so many requests."""

    def __init__(self) -> None:
        self.numbers, self.at = itertools.count(), {60: threading.Event(), 130: threading.Event()}

    def __call__(self, seen: Seen) -> Answered:
        number = next(self.numbers)
        if number in self.at:
            self.at[number].set()
        threading.Event().wait(0.03)
        wrong = {
            3: failed(429),
            5: failed(500),
            7: Answered(b"<html>no json"),
            9: chat(None, refusal="no"),
            11: chat("I think it is good"),
            13: Answered({"choices": []}),
            15: Answered({}, cut=True),
        }
        return wrong.get(number % 31, chat("good" if len(seen.prompt) % 2 else "bad", usage=(50, 1)))


def test_a_study_that_is_killed_twice_asks_only_for_what_is_missing_and_writes_no_key(tmp_path: Path) -> None:
    bad, out = Bad(), tmp_path / "out"
    environment = os.environ | {"A_KEY": SECRET}
    with chat_server(bad) as server:
        gpt = {"method": "endpoint", "url": server.url, "model": "tiny", "key": "A_KEY", "price_in": 1, "price_out": 2}
        data = {"train_examples": 50, "evaluation_examples": 250}
        file = study_file(tmp_path / "s.toml", name="s", task="snippets:movies", data=data, methods={"gpt": gpt})
        command = [*PROGRAM, "study", str(file), "--out", str(out), "--send-texts"]
        for at, how in ((60, signal.SIGKILL), (130, signal.SIGINT)):
            with subprocess.Popen(command, env=environment, start_new_session=True, stderr=subprocess.DEVNULL) as run:
                assert bad.at[at].wait(120)
                os.killpg(run.pid, how)
            assert run.returncode != 0
        small = subprocess.run(
            [*command, "--set", "methods.gpt.max_requests=140"], env=environment, capture_output=True
        )
        assert b"max_requests" in small.stderr
        assert len(server.seen) <= 140
        subprocess.run(command, env=environment, check=True, capture_output=True)
    (record,) = Results.read(out).records
    assert record.endpoint is not None
    assert {"refusal", "no label"} <= record.endpoint.missing.keys()
    assert record.endpoint.kept > 100
    assert len(server.seen) < 1.6 * 250, "what was answered is not asked for again"
    assert "Models behind an API" in (out / "report.md").read_text(encoding="utf-8")
    for path in out.rglob("*"):
        assert not path.is_file() or SECRET.encode() not in path.read_bytes(), path
