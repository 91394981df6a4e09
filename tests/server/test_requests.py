"""Requests that cost a server more than their client, or that HTTP leaves open: refused at once, in plain words."""

from __future__ import annotations

import gc
import json
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from afina import server
from afina.engine.encoding import EncodedText
from afina.errors import InvalidData
from afina.generating import guides
from afina.server.http import bodies
from afina.server.http.bodies import count_values, parse_body
from afina.server.http.refusals import Refusal
from afina.server.protocols import huggingface, kserve, vllm
from afina.server.requests import RequestEncoder, Text, TextRequest, tokens_of
from afina.server.settings import Settings
from crowd import adapter
from servers import Held, Listening, accepting, logged, within

BODY = {"inputs": "the soup was bright.", "model": "acme/reviews"}
NUMBERS = b'{"model": "acme/reviews", "input": [' + b"1," * 524_000 + b'1], "inputs": [' + b"1]}"


def refused(content: bytes, kind: Any = huggingface.Predict) -> Refusal:
    with pytest.raises(Refusal) as found:
        parse_body(content, kind)
    return found.value


def quickest(ask: Callable[[], Any]) -> float:
    """Seconds of the best of three."""
    times = []
    for _ in range(3):
        began = time.perf_counter()
        ask()
        times.append(time.perf_counter() - began)
    return min(times)


@pytest.mark.parametrize("kind", [huggingface.Predict, vllm.Classify, huggingface.Classification, kserve.Infer])
def test_a_body_of_half_a_million_numbers_is_refused_before_it_is_read(kind: Any) -> None:
    assert refused(NUMBERS, kind).message == "The body has more than 8192 JSON values. Send less at once."
    assert quickest(lambda: refused(NUMBERS, kind)) < 0.1


@pytest.mark.parametrize("kind", [huggingface.Predict, vllm.Classify, huggingface.Classification, kserve.Infer])
def test_the_first_wrong_element_is_the_last_that_is_looked_at(kind: Any) -> None:
    field = "input" if kind is vllm.Classify else "inputs"
    wrong = json.dumps({field: [1] * (bodies.MOST_VALUES - 10), "model": "acme/reviews"}).encode()
    assert refused(wrong, kind).status == 422
    assert quickest(lambda: refused(wrong, kind)) < 0.02


@pytest.mark.parametrize(
    ("content", "least", "most"),
    [
        (b'{"inputs": ["a", "b", "c"]}', 3, 8),
        (rb'{"inputs": ["a, [\" {", "\\", "b\\\"[[["]}', 3, 8),
        (b'{"inputs": "' + b"a,[{" * 9000 + b'"}', 1, 8),
        (b"[" * 9000, 9000, 9000),
        (b'["",' * 20_000, 20_000, 60_000),
        (b'"' * 60_000, 30_000, 30_000),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_values_are_counted_outside_of_strings(content: bytes, least: int, most: int) -> None:
    assert least <= count_values(content) <= most


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"inputs": NaN}', "Not valid JSON: NaN is not allowed."),
        (b"{", "Not valid JSON: Expecting property name enclosed in double quotes at line 1, column 2."),
        (b"[" * 8000, "Not valid JSON: the nesting is too deep."),
        (b'{"inputs": ' + b"9" * 9000 + b"}", "Not valid JSON: a number has too many digits."),
        (b"\xff", "The body is not UTF-8."),
        (b"[]", "The body must be a JSON object."),
        (b'{"inputs": "a", "inputs": "b"}', "`inputs`: occurs twice in the same object. Leave one out."),
        (b'{"\\ud800": 1, "\\ud800": 2}', "`\\ud800`: occurs twice in the same object. Leave one out."),
        (b'{"inputs": ["a", {"b": "\\ud800"}]}', "`inputs[1].b`: has a lone surrogate (half a character)."),
        (b'{"inputs": "a", "\\udc00": 1}', "`body`: has a lone surrogate (half a character)."),
        (b'{"a":' * 900 + b'"\\ud800"' + b"}" * 900, f"`{'a.' * 39}a`: has a lone surrogate (half a character)."),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_what_is_wrong_with_a_body_is_said(content: bytes, message: str) -> None:
    found = refused(content)
    assert (found.message, found.status) == (message, 422 if "half" in message or "must be" in message else 400)


def test_an_escape_of_a_whole_character_is_read() -> None:
    assert parse_body(rb'{"inputs": "\ud83d\ude00"}', huggingface.Predict).inputs == "\U0001f600"


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ([["a"], ["b"], ["c"], [" "], ["d"]], "Text 4 of 5 is empty."),
        ([["a"], ["b", ""]], "The pair of text 2 of 2 is empty."),
        ("", "The text is empty."),
        ("\u200b", "The text is empty."),
        ("a" * 100_001, "The text has 100001 characters, expected at most 100000."),
    ],
)
def test_the_text_that_cannot_be_read_is_named(served: Any, inputs: Any, message: str) -> None:
    response = served.post("/predict", {**BODY, "inputs": inputs})
    assert (response.status_code, response.json()["error"]) == (400 if "empty" in message else 422, message)
    assert response.headers["afina-error"] == "invalid"


@pytest.mark.parametrize("who", ["acme", "acme-publish", "acme-admin"])
def test_a_stroke_too_many_is_no_other_path_and_not_forbidden(served: Any, who: str) -> None:
    response = served.web.post("/predict/", json=BODY, headers=served.auth(who), follow_redirects=False)
    if who == "acme":
        assert (response.status_code, response.json()["error"]) == (
            404,
            "No such path. Leave out the last `/`: /predict.",
        )
    else:
        assert (response.status_code, response.json()["error"]) == (403, "This key lacks the scope `predict`.")
    assert served.web.post("/predict/", json=BODY).status_code == 401


@pytest.mark.parametrize("path", ["/health/live", "/health/ready", "/v2/health/live", "/"])
def test_head_is_answered_as_get_without_a_body(served: Any, path: str) -> None:
    head, get = served.web.head(path), served.web.get(path)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == get.headers["content-length"]


@pytest.mark.parametrize(("path", "coding"), [("/predict", "br"), ("/predict", "br, gzip"), ("/bulk", "gzip")])
def test_a_body_in_a_coding_that_is_not_supported_is_not_read(served: Any, path: str, coding: str) -> None:
    response = served.web.post(path, content=b"\x1f\x8b", headers={**served.auth(), "Content-Encoding": coding})
    assert response.status_code == 415
    assert response.headers["Afina-Error"] == "unsupported"
    plain = served.post("/predict", BODY, headers={"Content-Encoding": "identity"})
    assert plain.status_code == 200


@pytest.mark.parametrize("version", ["1.1", "1.0"])
def test_a_request_whose_body_may_end_at_two_places_ends_the_connection(
    listen: Callable[..., Listening], version: str
) -> None:
    server, content = listen(), json.dumps(BODY).encode()
    length = f"Content-Length: {len(content)}\r\n" if version == "1.1" else ""
    head = server.head(None).decode().replace("HTTP/1.1", f"HTTP/{version}").replace("Host:", f"{length}Host:")
    smuggled = b"0\r\n\r\nGET /health/live HTTP/1.1\r\nHost: test\r\n\r\n"
    with server.connect() as connection:
        connection.sendall(head.encode() + smuggled)
        found = b""
        while more := connection.recv(1 << 16):
            found += more
    assert found.startswith(b"HTTP/1.1 400 ")
    assert b"HTTP/1.1 200" not in found
    assert b"\r\nconnection: close" in found.lower()


def test_who_leaves_in_the_middle_of_a_body_is_no_fault_of_the_server(
    listen: Callable[..., Listening], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "afina.server")
    server = listen()
    with server.connect() as connection:
        connection.sendall(server.head(100) + b'{"inputs"')
        time.sleep(0.1)
    gone = server.core.metrics.refused.labels("gone")
    assert within(10, lambda: gone._value.get() == 1)
    assert within(10, lambda: 499 in [one.get("status") for one in logged(caplog)])
    assert "error" not in {one["level"] for one in logged(caplog)}


LONG = " ".join(["soup"] * 3000)


def of(client: str) -> TextRequest:
    """A request of a client, as far as its texts are read by it."""
    key: Any = SimpleNamespace(client=client)
    return TextRequest(key, "acme/one", [])


class Reads:
    """An engine that reads a token a word, and notes what it reads at a time; the longest text has eight."""

    def __init__(self) -> None:
        self.read, self.at_once, self.most = list[list[str]](), Counter[str](), Counter[str]()

    def encode(self, resident: str, texts: Any, pairs: Any, **reading: Any) -> list[EncodedText]:
        self.at_once[resident] += 1
        self.most[resident] = max(self.most[resident], self.at_once[resident])
        self.read.append(texts)
        time.sleep(0.01)
        self.at_once[resident] -= 1
        return [
            EncodedText(np.arange(min(8, len(one.split()))), len(one.split()) > 8, one, pair)
            for one, pair in zip(texts, pairs, strict=True)
        ]


def test_texts_are_read_once_and_short_ones_together() -> None:
    engine = Reads()
    texts = [Text("the soup"), Text("a", "b"), Text(LONG), Text(LONG), Text("c")]
    found = RequestEncoder(engine, Settings()).encode(of("acme"), "one", texts, None)
    assert [(one.text, one.pair) for one in found] == [(one.text, one.pair) for one in texts]
    assert [len(one) for one in engine.read] == [2, 1, 1, 1]
    assert [tokens_of(one) for one in found] == [2, 1, 8, 8, 1]


def test_long_texts_of_a_client_are_read_one_at_a_time_and_those_of_others_meanwhile() -> None:
    engine = Reads()
    encoder = RequestEncoder(engine, Settings())
    with ThreadPoolExecutor(8) as pool:
        for client in ("acme", "bolt") * 4:
            pool.submit(encoder.encode, of(client), client, [Text(LONG)] * 3, None)
    assert engine.most == {"acme": 1, "bolt": 1}
    assert sum(map(len, engine.read)) == 24


def test_reading_ends_where_the_key_has_nothing_left() -> None:
    engine = Reads()
    found = RequestEncoder(engine, Settings()).encode(of("acme"), "one", [Text(LONG)] * 40, 20)
    assert (len(found), len(engine.read)) == (3, 3)


def test_a_text_that_cannot_be_read_is_an_error_at_once() -> None:
    class Refuses(Reads):
        def encode(self, *given: Any, **named: Any) -> Any:
            return [InvalidData("no tokens", code="data.text-empty")]

    with pytest.raises(InvalidData, match="no tokens"):
        RequestEncoder(Refuses(), Settings()).encode(of("acme"), "one", [Text("a")], None)


@pytest.mark.parametrize("text", ["the soup was bright.", "a", LONG, LONG[:900], "\U0001f4a9" * 500, " " * 5000 + "a"])
def test_as_many_tokens_are_counted_as_are_computed(served: Any, text: str) -> None:
    """With its template and special tokens, and no more than are read."""
    key = served.key()
    with accepting(served.core, key, "acme/reviews", [Text(text)]) as asked:
        (future,) = served.core.submit(asked)
        assert sum(asked.tokens) == future.result(20).tokens
        whole = len(served.backbone.tokenizer(text, verbose=False)["input_ids"])
        assert asked.tokens == [min(whole, served.backbone.longest)]


def test_a_key_that_has_spent_its_rate_is_refused_before_anything_is_counted_or_loaded(
    serve: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    served = serve(tokens_per_minute=1000)
    served.core.tenants.reserve(served.key(), 1000)
    monkeypatch.setattr(served.core.current, "find", None)
    monkeypatch.setattr(served.core.engine, "encode", None)
    response = served.post("/predict", {**BODY, "inputs": [[LONG]] * 20})
    assert response.status_code == 429, response.text
    assert 1 <= int(response.headers["retry-after"]) <= 60


def test_a_request_that_is_larger_than_the_rate_is_refused_for_good(serve: Any) -> None:
    served = serve(tokens_per_minute=100)
    for _ in range(2):
        response = served.post("/predict", {**BODY, "inputs": [[LONG]] * 20})
        assert response.status_code == 422
        assert "retry-after" not in response.headers
        assert "100 tokens a minute. Send fewer or shorter texts" in response.json()["error"]
        assert served.post("/predict", BODY).status_code == 200  # what is refused is not spent


def test_usage_says_what_was_computed(serve: Any, gpt2: Any) -> None:
    served = serve()
    made = adapter(gpt2, "lora", {"r": 2}, seed=6, max_length=16)
    served.publish(made, "acme/short")
    for model, texts in (
        ("acme/short", [LONG, "a", "the soup was bright."]),
        ("acme/reviews", [LONG, "a"]),
        ("acme/tags", ["the soup was bright."]),
    ):
        longest = 16 if model == "acme/short" else gpt2.longest
        alone = [min(len(gpt2.tokenizer(text, verbose=False)["input_ids"]), longest) for text in texts]
        usage = served.post("/classify", {"model": model, "input": texts}).json()["usage"]
        assert usage["prompt_tokens"] == usage["total_tokens"] == sum(alone), model


@pytest.mark.parametrize(
    ("template", "texts", "message"),
    [
        ("Q: {text}", [["a", "b"]], "This model takes single texts. Leave out `pair`."),
        ("{text} - {text_pair}", [["a"]], "This model takes pairs of texts. Give `pair` too."),
    ],
)
def test_pairs_and_single_texts_are_told_apart_in_words_of_the_request(
    serve: Any, gpt2: Any, template: str, texts: Any, message: str
) -> None:
    served = serve()
    served.publish(adapter(gpt2, "lora", {"r": 2}, seed=7, template=template), "acme/asked")
    response = served.post("/predict", {"model": "acme/asked", "inputs": texts})
    assert (response.status_code, response.json()["error"]) == (400 if "empty" in message else 422, message)


@pytest.mark.slow
def test_who_leaves_before_the_answer_leaves_nothing_in_the_log(
    listen: Callable[..., Listening], caplog: pytest.LogCaptureFixture
) -> None:
    server, content = listen(batch_tokens=1, shared_tokens=1), json.dumps(BODY | {"inputs": [["soup"]] * 200}).encode()
    with accepting(server.core, server.core.tenants.key_of(server.secrets["acme"]), BODY["model"], [Text("a")]):
        pass  # its golden test is done
    held = Held(server.core)
    with server.connect() as connection:
        connection.sendall(server.head(len(content)) + content)
        assert held.began.wait(10)
    assert within(10, lambda: server.core.batching.waiting == (0, 0))
    gone = server.core.metrics.refused.labels("gone")
    assert within(10, lambda: gone._value.get() == 1)
    held.go.set()
    gc.collect()
    time.sleep(0.1)
    assert [one for one in logged(caplog) if one["level"] == "error"] == []
    assert held.asked == [1], "one text was being computed"


def test_a_body_without_lines_is_refused(served: Any) -> None:
    found = served.web.post("/bulk?model=acme/reviews", content=b"", headers=served.auth())
    assert (found.status_code, found.json()["kind"]) == (422, "invalid")


def test_an_answer_to_a_wrong_method_says_all_methods_of_the_path(served: Any) -> None:
    found = served.web.request("PATCH", "/keys", headers=served.auth("acme-admin"))
    assert (found.status_code, found.headers["allow"]) == (405, "GET, HEAD, POST")


def test_a_model_that_is_named_twice_is_not_guessed(served: Any) -> None:
    lines = served.web.post("/bulk?model=acme/reviews&model=acme/tags", content=b'{"text": "a"}', headers=served.auth())
    assert (lines.status_code, lines.json()["error"]) == (422, "`model`: occurs twice in the query. Leave one out.")
    other = served.post("/predict?model=acme/tags", BODY)
    assert (other.status_code, other.json()["error"]) == (
        422,
        "`model`: differs between the body and the query. Leave one of them out.",
    )
    assert served.post("/predict?model=acme/reviews", BODY).status_code == 200
    twice = served.post("/predict?model=acme/reviews&model=acme/tags", BODY)
    assert (twice.status_code, twice.json()["error"][:7]) == (422, "`model`")
    tensor = {"name": "text", "shape": [1], "datatype": "BYTES", "data": ["a"]}
    of_version = served.post("/v2/models/acme/reviews/infer?version=1", {"inputs": [tensor]})
    assert (of_version.status_code, of_version.json()["model_version"]) == (200, "1")


def test_who_asks_for_a_websocket_is_answered_in_http_and_leaves_nothing_in_the_log(
    listen: Callable[..., Listening], caplog: pytest.LogCaptureFixture
) -> None:
    server, content = listen(), json.dumps(BODY).encode()
    head = server.head(len(content)).replace(b"\r\n\r\n", b"\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
    with server.connect() as connection:
        connection.sendall(head + content)
        assert connection.recv(1 << 16).startswith(b"HTTP/1.1 200 ")
    assert [one for one in logged(caplog) if one["level"] != "info"] == []


def test_errors_of_the_server_write_numbers_without_separators() -> None:
    found = [*Path(server.__file__).parent.rglob("*.py"), Path(guides.__file__)]
    assert [path.name for path in found if ":,}" in path.read_text(encoding="utf-8")] == []
