"""The file of kept answers: what is written before a request, and what happens if nothing can be written."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from afina.endpoints import kept_answers
from afina.endpoints.kept_answers import Budget, BudgetSpent, KeptAnswers, Reply, Spending
from afina.errors import Busy, CannotWrite, InvalidData
from raises import raises

REPLY = Reply("positive", "stop", False, 0.5, 20, 3, "tiny", True, True, "max_tokens")


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    return tmp_path / "answers.sqlite"


def test_a_request_counts_with_the_most_that_it_may_cost_until_its_cost_is_known(kept: Path) -> None:
    with KeptAnswers(kept) as file:
        first, second = (file.reserve("s", name, 10.0, Budget()) for name in ("a", "b"))
        file.reserve("other", "a", 99.0, Budget())
        assert file.spent("s") == Spending(2, 20.0)
        file.settle(first, 3.0, REPLY)
        file.settle(second, None)  # no cost is known
        assert file.spent("s") == Spending(2, 13.0)
    with KeptAnswers(kept) as file:  # as after a kill
        assert file.spent("s") == Spending(2, 13.0)
        assert file.replies(["a", "b"]) == {"a": REPLY}
        file.reserve("s", "c", 7.0, Budget(3, 20.0))
        for budget, option in ((Budget(3), "max_requests"), (Budget(None, 20.0), "max_cost")):
            with pytest.raises(BudgetSpent) as ended:
                file.reserve("s", "d", 0.1, budget)
            assert ended.value.option == option
        assert file.spent("s") == Spending(3, 20.0)


def test_an_answer_that_an_earlier_version_kept_has_no_moment(kept: Path) -> None:
    earlier = {name: value for name, value in asdict(REPLY).items() if name != "at"}
    with KeptAnswers(kept) as file:
        row = ("s", "a", 1.0, json.dumps(earlier))
        file._file.execute("insert into requests (server, question, most, answer) values (?, ?, ?, ?)", row)
        assert file.reply("a") == REPLY
        file.settle(file.reserve("s", "b", 1.0, Budget()), 1.0, dated := replace(REPLY, at="2026-11-30T09:00:00+00:00"))
        assert file.reply("b") == dated


def test_a_full_disk_is_reported_and_earlier_answers_stay(kept: Path) -> None:
    with KeptAnswers(kept) as file:
        file.settle(file.reserve("s", "a", 1.0, Budget()), 1.0, REPLY)
        file._file.execute("pragma max_page_count = 4")

        def fill() -> None:
            for number in range(1000):
                file.reserve("s", f"{number:09}" * 50, 1.0, Budget())

        with pytest.raises(CannotWrite, match="full"):
            fill()
        assert file.reply("a") == REPLY
    with KeptAnswers(kept) as file:
        assert file.reply("a") == REPLY
        assert file.reserve("s", "b", 1.0, Budget()) > 1


def test_a_file_that_another_process_has_locked_is_busy(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    KeptAnswers(kept).__exit__()
    monkeypatch.setattr(kept_answers, "_PATIENCE", 0.01)
    other = sqlite3.connect(kept, isolation_level=None)
    other.execute("begin immediate")
    with raises(Busy, code="endpoint.answers-busy", path=kept.name):
        KeptAnswers(kept)
    other.close()


@pytest.mark.parametrize("answer", ["{", "[]", '{"text": "x"}'])
def test_a_damaged_answer_is_reported(answer: str, kept: Path) -> None:
    with KeptAnswers(kept) as file:
        file.settle(file.reserve("s", "a", 1.0, Budget()), 1.0, REPLY)
        file._file.execute("update requests set answer = ?", (answer,))
        with raises(InvalidData, code="endpoint.answers-damaged"):
            file.reply("a")
