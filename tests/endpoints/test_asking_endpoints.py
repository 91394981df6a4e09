"""Asking a server: answers that are kept, budgets, and servers that answer badly. The server is on this machine."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from afina.data.kinds import Kind
from afina.data.split import Split, as_references
from afina.data.task import Task
from afina.endpoints.answers import EndpointAnswers
from afina.endpoints.asking import ask, foresee, prompts_of, templates_of
from afina.endpoints.endpoint import Endpoint
from afina.endpoints.kept_answers import FORMAT, KeptAnswers
from afina.endpoints.questions import EndpointQuestion
from afina.errors import Busy, CannotWrite, InvalidData, NotFound, Refused
from afina.events import Progress
from afina.models.objective import Objective
from afina.models.objectives import Classes, Labels, Number, Texts
from chat_servers import SECRET, Answered, ChatServer, Seen, chat, chat_server, failed
from raises import raises

NAMES = ("negative", "positive")
QUESTION = EndpointQuestion.of("classes", NAMES, pairs=False)


def texts(count: int, start: int = 0) -> Split:
    """Texts with a number each, whose labels alternate."""
    numbers = range(start, start + count)
    return Split([f"text {number}" for number in numbers], np.array([number % 2 for number in numbers]))


def number_of(seen: Seen) -> int:
    return int(seen.prompt.split("text ")[1].split("\n")[0])


def right(seen: Seen) -> Answered:
    return chat(NAMES[number_of(seen) % 2])


def asked(server: ChatServer, kept: Path, split: Split | int = 4, **given: Any) -> EndpointAnswers:
    split = texts(split) if isinstance(split, int) else split
    return ask(Endpoint(server.url, "tiny", **given), QUESTION, split, Classes(NAMES), kept)


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    return tmp_path / "out" / "answers.sqlite"


def test_every_kind_of_missing_answer_is_listed_by_its_reason_and_counts_as_wrong(kept: Path) -> None:
    answers = [
        chat("negative"),
        chat('{"answer": "positive"}'),
        chat(None, refusal="I will not."),
        chat("It is positive"),
        chat("negative", finish="content_filter"),
        chat("posit", finish="length"),
        chat(" "),
        chat(None),
    ]
    with chat_server(lambda seen: answers[number_of(seen)]) as server:
        found = asked(server, kept, 8, price_in=1.0, price_out=10.0)
    assert found.predictions.outputs.tolist() == [0, 1, -1, -1, -1, -1, -1, -1]
    assert found.predictions.missing.tolist() == [False] * 2 + [True] * 6
    facts = found.facts
    assert facts.missing == {
        "content filter": (4,),
        "cut at max_tokens": (5,),
        "empty": (6, 7),
        "no label": (3,),
        "refusal": (2,),
    }
    assert (facts.missing_texts, facts.examples, facts.requests, facts.retries, facts.kept) == (6, 8, 8, 0, 0)
    assert facts.unread == ("It is positive",)
    assert (facts.tokens_in, facts.tokens_out, facts.models) == (160, 24, ("tiny-2026",))
    assert (facts.cost, facts.cost_per_1000) == (pytest.approx(400e-6), pytest.approx(50e-3))
    assert facts.seconds_p50 is not None
    assert facts.seconds_p95 is not None
    assert 0 < facts.seconds_p50 <= facts.seconds_p95 < 30
    assert Classes(NAMES).metrics(found.predictions)["accuracy"] == 0.25


def test_a_repeated_run_asks_for_nothing_and_a_longer_one_for_what_is_new(kept: Path) -> None:
    with chat_server(right) as server:
        twice = Split(["text 0", "text 1", "text 0"], np.array([0, 1, 0]))
        first = asked(server, kept, twice)
        assert (first.facts.requests, first.facts.kept, len(server.seen)) == (2, 1, 2)  # equal texts once
        again = asked(server, kept, twice)
        assert (again.facts.requests, again.facts.kept, len(server.seen)) == (0, 3, 2)
        assert again.predictions.outputs.tolist() == first.predictions.outputs.tolist() == [0, 1, 0]
        assert again.facts.seconds_p50 == first.facts.seconds_p50
        planned = foresee(Endpoint(server.url, "tiny"), QUESTION, texts(4), kept)
        assert (planned.texts, planned.requests, planned.cost) == (4, 2, None)
        assert asked(server, kept, 4).facts.requests == planned.requests
        assert asked(server, kept, 4, max_tokens=9).facts.requests == 4  # another setting, another answer
    assert foresee(Endpoint(server.url, "tiny"), QUESTION, texts(4), kept.with_name("none")).requests == 4
    assert not kept.with_name("none").exists()


def test_no_more_requests_than_allowed_are_sent_at_once(kept: Path) -> None:
    def slowly(seen: Seen) -> Answered:
        time.sleep(0.02)
        return right(seen)

    with chat_server(slowly) as server:
        asked(server, kept, 8, at_once=3)
    assert server.most_at_once == 3


def test_settings_that_a_server_refuses_are_left_out_and_said(kept: Path) -> None:
    def picky(seen: Seen) -> Answered:
        if "max_tokens" in seen.body:
            return failed(400, "Unsupported parameter: use 'max_completion_tokens'.", "max_tokens")
        if "temperature" in seen.body:
            return failed(400, "Unsupported value: 'temperature' does not support 0.", "temperature")
        return failed(422, "extra fields") if "response_format" in seen.body else right(seen)

    with chat_server(picky) as server:
        found = asked(server, kept)
        assert (found.facts.temperature, found.facts.structure, found.facts.requests) == (False, "refused", 7)
        asked(server, kept, 6)
        assert len(server.seen) == 9  # what it refuses is known from the kept answers
    assert found.predictions.outputs.tolist() == [0, 1, 0, 1]
    assert set(server.seen[-1].body) == {"model", "messages", "max_completion_tokens"}


def test_a_text_that_the_server_rejects_changes_no_setting(kept: Path) -> None:
    def rejects(seen: Seen) -> Answered:
        return failed(400, f"too long: {seen.prompt}") if number_of(seen) in (0, 2) else right(seen)

    with chat_server(rejects) as server:
        found = asked(server, kept)
    assert found.facts.missing == {"HTTP 400": (0, 2)}
    assert (found.facts.temperature, found.facts.structure) == (True, "used")


def test_a_prompt_that_is_continued_ends_at_a_line(kept: Path) -> None:
    with chat_server(right) as server:
        found = asked(server, kept, 2, protocol="completions")
    [body, _] = [seen.body for seen in server.seen]
    assert (body["stop"], body["temperature"], "response_format" in body) == (["\n"], 0, False)
    assert (server.seen[0].path, found.facts.structure) == ("/v1/completions", "none")
    assert found.predictions.outputs.tolist() == [0, 1]


GARBAGE: list[Any] = [
    b"<html>",
    b"",
    b"[" * 50_000,
    [],
    {},
    {"choices": []},
    {"choices": [{"message": {"content": 7}, "finish_reason": "stop"}]},
    {"choices": [{"message": None}]},
    {"choices": {"0": 1}},
    {"error": "none"},
]


def test_what_is_no_answer_of_the_protocol_is_a_missing_answer_that_is_asked_for_again(kept: Path) -> None:
    def garbage(seen: Seen) -> Answered:
        place = number_of(seen) - 1
        return Answered(GARBAGE[place]) if place in broken else right(seen)

    broken = {*range(len(GARBAGE))}
    with chat_server(garbage) as server:
        split = texts(9), texts(1 + len(GARBAGE))  # nine in a row are not many
        found = asked(server, kept, split[0], at_once=1)
        assert found.facts.missing == {"malformed answer": tuple(range(1, 9))}
        broken = {len(GARBAGE) - 2, len(GARBAGE) - 1}
        found = asked(server, kept, split[1])
    assert (found.facts.missing, found.facts.kept) == ({"malformed answer": (9, 10)}, 1)


def test_busy_servers_are_asked_again_and_every_request_counts(kept: Path) -> None:
    tries = Counter[int]()

    def busy(seen: Seen) -> Answered:
        tries[number_of(seen)] += 1
        return [failed(429), failed(500), failed(503), right(seen)][tries[number_of(seen)] - 1]

    with chat_server(busy) as server:
        found = asked(server, kept, 2, price_in=1.0, price_out=1.0)
        spent = KeptAnswers(kept).spent(f"{server.url} tiny")
    assert (found.facts.missing, found.facts.requests, found.facts.retries) == ({}, 8, 6)
    assert (spent.requests, spent.cost) == (8, pytest.approx(2 * 23e-6))  # a refused request costs nothing


@pytest.mark.parametrize(
    ("status", "code"), [(401, "endpoint.refused"), (404, "endpoint.refused"), (307, "endpoint.refused")]
)
def test_a_server_that_refuses_everything_is_asked_once(status: int, code: str, kept: Path) -> None:
    with chat_server(right) as other, chat_server(lambda _: failed(status, "no", location=f"{other.url}/x")) as server:
        with raises(Refused, code=code, status=status, answered=0, texts=4) as caught:
            asked(server, kept)
        assert ("No key was sent" in str(caught.value)) == (status == 401)
        assert (len(server.seen), len(other.seen)) == (1, 0)


def test_failures_in_a_row_end_the_run_and_single_ones_do_not(kept: Path) -> None:
    def dies(seen: Seen) -> Answered:
        return failed(500, x_should_retry="false") if number_of(seen) in failing else right(seen)

    failing = {2, *range(8, 20)}
    with chat_server(dies) as server:
        with raises(Busy, code="endpoint.failing", texts=20, answered=7, missing=13):
            asked(server, kept, 20, at_once=1)
        assert len(server.seen) == 18
        failing = {2}
        found = asked(server, kept, 20)
    assert (found.facts.missing, found.facts.kept, found.facts.requests) == ({"HTTP 500": (2,)}, 7, 13)


def test_a_budget_is_never_passed_and_counts_earlier_runs(kept: Path) -> None:
    with chat_server(right) as server:
        with raises(Refused, code="endpoint.budget-spent", option="max_requests", answered=5, missing=5, requests=5):
            asked(server, kept, 10, max_requests=5)
        with raises(Refused, code="endpoint.budget-spent", answered=5):
            asked(server, kept, 10, max_requests=5)
        assert len(server.seen) == 5
        # A request may cost 1 for each byte of its prompt and 256 more, and 256 for its answer; it costs 23.
        prices: dict[str, Any] = {"price_in": 1e6, "price_out": 1e6, "max_cost": 1000.0}
        with raises(Refused, code="endpoint.budget-spent", option="max_cost") as ended:
            asked(server, kept.with_name("other"), 40, **prices)
        spent = KeptAnswers(kept.with_name("other")).spent(f"{server.url} tiny")
        assert spent.cost == 23 * ended.value.fields["answered"]
        assert 350 < spent.cost <= 1000  # the next request could cost more than 600
        assert asked(server, kept.with_name("other"), 1, **prices).facts.requests == 0  # what is kept costs nothing


def test_processes_that_share_a_file_share_the_budget(kept: Path) -> None:
    with chat_server(right) as server:

        def one(start: int) -> None:
            with raises(Refused, code="endpoint.budget-spent"):
                asked(server, kept, texts(12, start), max_requests=9)

        threads = [threading.Thread(target=one, args=(start,)) for start in (0, 100)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(server.seen) == 9


def test_the_key_is_nowhere_but_in_the_request(
    kept: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The server sends the key back, in answers and errors."""
    for name in ("OPENAI_ORG_ID", "OPENAI_PROJECT_ID", "OPENAI_ADMIN_KEY"):
        monkeypatch.setenv(name, f"{name}-of-mine")
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "X-Custom: of-mine")
    monkeypatch.setenv("OPENAI_API_KEY", "another-of-mine")
    monkeypatch.setenv("A_KEY", SECRET)
    caplog.set_level(logging.DEBUG)

    def echo(seen: Seen) -> Answered:
        sent = seen.headers["authorization"]
        return chat(f"positive {sent}") if number_of(seen) == 0 else failed(401, f"Wrong key {sent}")

    with chat_server(echo) as server, pytest.raises(Refused) as refused:
        asked(server, kept, 2, key="A_KEY")
    sent = [seen.headers for seen in server.seen]
    assert [one["authorization"] for one in sent] == [f"Bearer {SECRET}"] * 2
    assert "of-mine" not in str(sent)
    error = refused.value
    told = "".join(traceback.format_exception(error)) + repr(error) + str(error.fields) + caplog.text
    assert "Wrong key Bearer ***" in told
    assert SECRET not in told
    assert error.__cause__ is None
    files = [path for path in kept.parent.iterdir() if path.is_file()]
    assert b"positive Bearer ***" in b"".join(path.read_bytes() for path in files)
    assert not any(SECRET.encode() in path.read_bytes() for path in files)


def test_a_kept_answer_has_no_text_of_the_prompt(kept: Path) -> None:
    with chat_server(lambda _: chat("positive")) as server:
        asked(server, kept, Split(["a secret of a client"], np.array([1])))
    assert not any(b"secret of a client" in path.read_bytes() for path in kept.parent.iterdir())


def test_answers_of_other_kinds_are_read_and_missing_ones_count_as_documented(kept: Path) -> None:
    def found(kind: Kind, names: tuple[str, ...], labels: Any, objective: Objective, *written: str) -> EndpointAnswers:
        question, split = (
            EndpointQuestion.of(kind, names, pairs=False),
            Split([f"text {n}" for n in range(len(labels))], labels),
        )
        with chat_server(lambda seen: chat(written[number_of(seen)])) as server:
            return ask(Endpoint(server.url, "tiny"), question, split, objective, kept)

    numbers = found(
        "number", ("stars",), np.array([1.0, 2.0, 9.0]), Number(("stars",), 4.0, 2.0), "1", "no", '{"answer": 8}'
    )
    assert Number(("stars",), 4.0, 2.0).decode(numbers.predictions).tolist() == [1.0, 4.0, 8.0]
    assert numbers.predictions.missing.tolist() == [False, True, False]
    several = found("labels", NAMES, np.array([[0, 1], [0, 0], [0, 0]]), Labels(NAMES), "positive", "none", "no")
    assert several.predictions.outputs.tolist() == [[0, 1], [0, 0], [-1, -1]]
    references = as_references([("a b",), ("c",)])
    written = found("text", ("told",), references, Texts(("told",)), "a b", "")
    assert written.predictions.outputs.tolist() == ["a b", ""]
    assert (written.facts.missing, written.predictions.extras["ended"].tolist()) == ({"empty": (1,)}, [True, True])
    assert Texts(("told",)).metrics(written.predictions)["exact_answer"] == 0.5


def test_a_file_that_is_no_file_of_answers_is_refused_and_left(kept: Path, tmp_path: Path) -> None:
    kept.parent.mkdir()
    kept.write_bytes(b"no database" * 100)
    with chat_server(right) as server:
        with raises(InvalidData, code="endpoint.answers-damaged", path=kept.name):
            asked(server, kept)
        other = kept.with_name("other")
        with sqlite3.connect(other) as file:
            file.execute("pragma user_version = 99")
        with raises(InvalidData, code="endpoint.answers-format-unknown", found=99, expected=FORMAT):
            asked(server, other)
        with pytest.raises(CannotWrite):
            asked(server, tmp_path)  # a directory
        assert server.seen == []
    assert kept.read_bytes() == b"no database" * 100


def test_a_notebook_whose_event_loop_runs_can_ask(kept: Path) -> None:
    async def notebook() -> EndpointAnswers:
        return asked(server, kept, 1)

    with chat_server(right) as server:
        assert asyncio.run(notebook()).facts.requests == 1


def test_without_the_package_openai_the_error_names_the_extra(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openai", None)
    with chat_server(right) as server, raises(NotFound, code="extra.missing", extra="api"):
        asked(server, kept)


def test_an_answer_without_an_end_is_not_read_to_its_end(kept: Path) -> None:
    with chat_server(lambda seen: right(seen) if number_of(seen) == 0 else chat("x" * (1 << 21))) as server:
        found = asked(server, kept, 2)
    assert found.facts.missing == {"answer too long": (1,)}


def test_a_server_that_counts_no_tokens_has_no_cost(kept: Path) -> None:
    with chat_server(lambda _: chat("positive", usage=None)) as server:
        found = asked(server, kept, 1, price_in=1.0, price_out=1.0)
        spent = KeptAnswers(kept).spent(f"{server.url} tiny")
    assert (found.facts.tokens_in, found.facts.cost, found.facts.cost_per_1000) == (None, None, None)
    assert spent.cost > 500e-6  # the most that it may have cost


def test_examples_of_the_training_texts_stand_between_the_instruction_and_the_text() -> None:
    train = Split(["awful", "great", "poor", "lovely"], np.array([0, 1, 0, 1]))
    task = Task("t", NAMES, train, texts(2))
    endpoint = Endpoint("http://127.0.0.1/v1", "m", shots=2)
    templates = templates_of(endpoint, QUESTION, task, task.evaluation, seed=0)
    assert templates is not None
    [prompt, _] = prompts_of(QUESTION, task.evaluation, templates)
    instruction, *examples, asked_text = prompt.split("\n\n")
    assert instruction.startswith("Answer with one of these words")
    assert asked_text == "Text: text 0\nSentiment:"
    right = {f"Text: {text}\nSentiment: {NAMES[label]}" for text, label in zip(train.texts, train.labels, strict=True)}
    assert len(examples) == len(set(examples) & right) == 2
    assert templates_of(replace(endpoint, shots=0), QUESTION, task, task.evaluation, seed=0) is None
    planned = foresee(endpoint, QUESTION, task.evaluation, templates=templates)
    assert planned.tokens_in > foresee(endpoint, QUESTION, task.evaluation).tokens_in


# Slow: real waits and real kills


@pytest.mark.slow
def test_slow_answers_and_cut_connections_are_asked_again_and_end(kept: Path) -> None:
    tries = Counter[int]()

    def bad(seen: Seen) -> Answered:
        number = number_of(seen)
        tries[number] += 1
        if number == 1 and tries[number] < 3:
            return Answered({}, cut=True)
        if number == 2 and tries[number] < 2:
            time.sleep(2)
        if number == 3:
            time.sleep(1.5)
        return right(seen)

    with chat_server(bad) as server:
        found = asked(server, kept, 4, timeout=1.0)
    assert found.facts.missing == {"time-out": (3,)}
    assert (tries[1], tries[2], tries[3]) == (3, 2, 5)


@pytest.mark.slow
def test_retry_after_is_waited_for(kept: Path) -> None:
    times: list[float] = []

    def limited(seen: Seen) -> Answered:
        times.append(time.monotonic())
        return right(seen) if len(times) > 1 else Answered({}, 429, {"retry-after": "2"})

    told: list[Progress] = []
    with chat_server(limited) as server:
        model = Endpoint(server.url, "tiny")
        ask(model, QUESTION, texts(1), Classes(NAMES), kept, listen=told.append)
    assert [one.note for one in told if one.phase == "wait"] == [f"{model.host}, which gave no answer"]
    assert 2.0 <= times[1] - times[0] < 20


@pytest.mark.slow
def test_a_server_that_drops_the_answer_byte_by_byte_is_left(kept: Path) -> None:
    import socket

    def drip(listener: socket.socket) -> None:
        with listener.accept()[0] as peer:
            peer.recv(65536)
            peer.sendall(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 100000\r\n\r\n")
            try:
                while True:
                    peer.sendall(b" ")
                    time.sleep(0.1)
            except OSError:
                return

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=drip, args=(listener,), daemon=True).start()
        server = ChatServer(f"http://127.0.0.1:{listener.getsockname()[1]}/v1", [])
        begun = time.monotonic()
        with raises(Busy, code="endpoint.failing", reason="time-out"):
            asked(server, kept, 1, timeout=1.0)
    assert time.monotonic() - begun < 60


CHILD = """
    import sys
    from pathlib import Path
    sys.path[:0] = sys.argv[3:]
    from test_asking_endpoints import asked
    from chat_servers import ChatServer
    found = asked(ChatServer(sys.argv[1], []), Path(sys.argv[2]), 60, at_once=4, max_requests=75)
    print(found.facts.requests, found.facts.kept, sum(found.predictions.outputs.tolist()), found.facts.missing_texts)
"""


def child(server: ChatServer, kept: Path) -> subprocess.Popen[str]:
    here = Path(__file__).parent
    command = [sys.executable, "-c", textwrap.dedent(CHILD), server.url, str(kept), str(here), str(here.parent)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.slow
def test_a_run_that_is_killed_twice_loses_no_answer_and_two_at_once_ask_within_the_budget(kept: Path) -> None:
    def slowly(seen: Seen) -> Answered:
        time.sleep(0.05)
        return right(seen)

    with chat_server(slowly) as server:
        for until in (15, 30):
            process = child(server, kept)
            wait_until(lambda until=until: len(server.seen) >= until)
            os.kill(process.pid, signal.SIGKILL)
            process.communicate()
        both = [child(server, kept) for _ in range(2)]
        told = [process.communicate(timeout=120) for process in both]
        asked_so_far = Counter(seen.prompt for seen in server.seen)
        with KeptAnswers(kept) as file:
            spent = file.spent(f"{server.url} tiny").requests
    assert len(server.seen) <= 75
    assert spent >= len(server.seen)  # a request that was killed before it was sent counts
    for process, (out, error) in zip(both, told, strict=True):
        # Two runs at once may ask for the same text; a budget may end one of them, or both.
        assert (
            (process.returncode == 0 and out.split()[2:] == ["30", "0"]) or "BudgetSpent" in error or "budget" in error
        )
    assert len(asked_so_far) <= 60


@pytest.mark.slow
def test_an_interrupted_run_ends_at_once_and_goes_on_later(kept: Path) -> None:
    def slowly(seen: Seen) -> Answered:
        time.sleep(0.1 if number_of(seen) < 5 else 20)
        return right(seen)

    with chat_server(slowly) as server:
        process = child(server, kept)
        wait_until(lambda: len(server.seen) >= 9)
        begun = time.monotonic()
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=15)
        assert time.monotonic() - begun < 15
        assert "KeyboardInterrupt" in error
        with KeptAnswers(kept) as file:
            assert file.spent(f"{server.url} tiny").requests >= 9
        server.seen.clear()
        assert asked(server, kept, 5).facts.requests == 0
