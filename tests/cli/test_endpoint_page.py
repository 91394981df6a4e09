"""The page on models behind an API, with a server of this machine in place of OpenAI's."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from afina import Backbone
from chat_servers import ChatServer, chat, chat_server
from command import Command
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
