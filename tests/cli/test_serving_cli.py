"""afina serve as a process, asked by Hugging Face's own client; afina replay."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import httpx2
import pytest
from huggingface_hub import InferenceClient
from huggingface_hub.errors import HfHubHTTPError

from afina import AdapterStore, Backbone, Predictor
from afina.models.decoding import Decoding
from afina.predicting.predictor import ModelPredictor
from afina.predicting.reading import Truncation
from afina.server.receipts import GenerationFacts, Receipt, TruncationFacts
from command import Command
from crowd import adapter
from servers import TOLD, started

TEXT = "the soup was bright."


class Server(NamedTuple):
    process: subprocess.Popen[str]
    url: str
    secret: str
    answer: dict[str, Any]


@pytest.fixture
def server(
    gpt2: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Iterator[Server]:
    """With variables of the environment where a test gives some."""
    monkeypatch.setenv("AFINA_STORE", str(tmp_path / "store"))
    for name, value in getattr(request, "param", {}).items():
        monkeypatch.setenv(name, value)
    made = adapter(gpt2, "lora", {"r": 2})
    made.save(tmp_path / "adapter")
    store = AdapterStore()
    store.publish(tmp_path / "adapter", "acme/reviews", message="first")
    secret = store.create_key("acme", ["predict"]).secret
    with started(gpt2) as (process, url):
        (answer,) = Predictor.of(made, gpt2)([TEXT])
        yield Server(process, url, secret, answer)


@pytest.mark.slow
def test_it_answers_hugging_faces_client_and_ends_when_it_is_told_to(server: Server, afina: Command) -> None:
    client = InferenceClient(model=f"{server.url}/models/acme/reviews", token=server.secret)
    best, _ = client.text_classification(TEXT)
    assert best.label == server.answer["label"]
    assert best.score == pytest.approx(server.answer["probabilities"][best.label], abs=1e-5)
    with pytest.raises(HfHubHTTPError, match="401"):
        InferenceClient(model=f"{server.url}/models/acme/reviews", token="wrong").text_classification(TEXT)
    headers = {"Authorization": f"Bearer {server.secret}"}
    lines = "".join(json.dumps({"text": TEXT}) + "\n" for _ in range(500))
    bulk = httpx2.post(f"{server.url}/bulk?model=acme/reviews", content=lines.encode(), headers=headers, timeout=60)
    assert {json.loads(line)["label"] for line in bulk.text.splitlines()} == {server.answer["label"]}
    assert bulk.text.count("\n") == 500
    response = httpx2.post(
        f"{server.url}/predict", json={"inputs": TEXT, "model": "acme/reviews"}, headers=headers, timeout=60
    )
    server.process.send_signal(signal.SIGTERM)
    _, errors = server.process.communicate(timeout=60)
    assert server.process.returncode in (0, -signal.SIGTERM), errors
    logged = [json.loads(line) for line in errors.splitlines()]
    assert [one["status"] for one in logged if "status" in one] == [200, 401, 200, 200]
    said = [one["message"] for one in logged if one.get("logger") == "uvicorn.error"]
    assert said[0].startswith("Started server process")
    assert said[-1].startswith("Finished server process")
    assert "soup" not in errors
    again = afina("replay", response.headers["afina-receipt"], TEXT)
    assert again.code == 0, again.err
    assert json.loads(again.out)["probabilities"] == pytest.approx(server.answer["probabilities"], abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("server", [{"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}], indirect=True)
def test_its_lines_are_json_whatever_it_is_asked_and_however_it_ends(server: Server) -> None:
    """Traces that nobody takes are no exception."""
    host, port = server.url.removeprefix("http://").split(":")
    for sent in (
        b"no request\r\n\r\n",
        b"GET /v1/models HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: soup\r\n\r\n",
    ):
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(sent)
            assert connection.recv(100).startswith(b"HTTP/1.1 4")
    server.process.send_signal(signal.SIGINT)
    said, errors = server.process.communicate(timeout=60)
    assert (server.process.returncode, said) == (0, "")
    logged = [json.loads(line) for line in errors.splitlines()]
    assert [one["status"] for one in logged if "status" in one] == [401]
    assert ("connections were closed", "malformed") in {(one["message"], one.get("reason")) for one in logged}
    assert any(one.get("logger", "").startswith("opentelemetry.") for one in logged)
    assert "soup" not in errors


@pytest.fixture
def receipt(gpt2: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Receipt:
    monkeypatch.setenv("AFINA_STORE", str(tmp_path / "store"))
    made = adapter(gpt2, "lora", {"r": 2})
    made.save(tmp_path / "adapter")
    AdapterStore().publish(tmp_path / "adapter", "acme/reviews", message="first")
    return Receipt(version="acme/reviews@1", adapter=made.digest, base=gpt2.digest, dtype="float32")


def test_a_receipt_is_computed_again(gpt2: Backbone, afina: Command, receipt: Receipt) -> None:
    answer = json.loads(afina("replay", receipt, TEXT).out)
    (alone,) = Predictor.of(adapter(gpt2, "lora", {"r": 2}), gpt2)([TEXT])
    assert answer == alone
    found = afina("replay", receipt, TEXT, "--backbone", gpt2.address, "--json").object()
    assert found == {**alone, "receipt": receipt.as_json()}
    pair = json.loads(afina("replay", receipt, TEXT, "--pair", "a").out)
    assert pair != answer


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_truncation_that_a_request_asked_for_is_applied_again(
    gpt2: Backbone, afina: Command, receipt: Receipt, side: Literal["left", "right"]
) -> None:
    asked = receipt.model_copy(update={"truncation": TruncationFacts(max_length=2, side=side)})
    predictor = ModelPredictor.of(adapter(gpt2, "lora", {"r": 2}), gpt2)
    (alone,) = replace(predictor, truncation=Truncation(2, side))([TEXT])
    assert json.loads(afina("replay", asked, TEXT).out) == alone
    assert alone != json.loads(afina("replay", receipt, TEXT).out)
    assert Receipt.parse(str(asked)) == asked


def test_a_generated_text_is_written_again_from_its_receipt(
    gpt2: Backbone, afina: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AFINA_STORE", str(tmp_path / "store"))
    made = adapter(gpt2, "lora", {"r": 2}, seed=6, **TOLD)
    made.save(tmp_path / "adapter")
    AdapterStore().publish(tmp_path / "adapter", "acme/told", message="first")
    decoding = Decoding(max_new_tokens=6, temperature=1.5, seed=3, stop=("\n", "."))
    facts = GenerationFacts.of(decoding, 2)
    receipt = Receipt(version="acme/told@1", adapter=made.digest, base=gpt2.digest, dtype="float32", generation=facts)
    (alone,) = Predictor.of(made, gpt2).generating(**decoding.model_dump() | {"seed": 4})([TEXT])
    found = afina("replay", receipt, TEXT, "--choice", 1, "--stop", "\\n", "--stop", ".", "--json").object()
    assert found == {**alone, "receipt": receipt.as_json()}
    assert "Give each stop string of the request, in its order, with --stop." in afina("replay", receipt, TEXT).error
    refused = afina("replay", receipt, TEXT, "--choice", 2, "--stop", "\\n", "--stop", ".").error
    assert "Give another with --choice." in refused


def test_a_receipt_of_something_else_is_refused(afina: Command, receipt: Receipt) -> None:
    given = receipt.as_json()
    for change, said in (
        ({"adapter": "sha256:0"}, "the adapter is sha256"),
        ({"base": "sha256:0"}, "the backbone is sha256"),
        ({"version": "acme/reviews@2"}, "version 2 does not exist"),
        ({"dtype": "float8"}, "float8"),
    ):
        assert said in afina("replay", json.dumps({**given, **change}), TEXT).error
    for text in ("{", "[]", "{}", '{"version": 1, "adapter": "", "base": "", "dtype": ""}', "[" * 100_000):
        assert "is not a receipt" in afina("replay", text, TEXT).error


def test_a_mistyped_store_is_not_begun_by_a_server(
    afina: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "afina.server.logs_and_traces.begin_logging", lambda form: None
    )  # the log of this process stays as it is
    answer = afina("serve", "--backbone", "embedded", "--store", "typo", "--port", 0)
    assert answer.error == "store typo: there is no store. Give another with --store, or create one with --create."
    assert not (tmp_path / "typo").exists()


def test_models_to_preload_are_checked_at_the_start(
    afina: Command, gpt2: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = list[Any]()
    monkeypatch.setattr("afina.server.logs_and_traces.begin_logging", lambda form: None)
    monkeypatch.setattr("afina.server.running.serve", lambda core, *rest: given.append(core.settings.preload))
    adapter(gpt2, "lora", {"r": 2}).save(tmp_path / "adapter")
    AdapterStore(tmp_path / "store").publish(tmp_path / "adapter", "acme/reviews", message="first")
    command = ("serve", "--backbone", gpt2.address, "--store", tmp_path / "store", "--port", 0)
    answer = afina(*command, "--preload", "acme/revews")
    assert (answer.code, given) == (2, [])
    assert "acme/revews" in answer.error
    monkeypatch.setenv("AFINA_PRELOAD", "acme/reviews acme/reviews@1")
    afina(*command)
    assert given == [("acme/reviews", "acme/reviews@1")]
