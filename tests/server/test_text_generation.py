"""The Hub's task text-generation: answers of adapters that write, in the form of text-generation-inference (TGI)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from afina import Adapter, Backbone
from afina.server.receipts import Receipt
from crowd import adapter
from servers import TOLD, Served, predictor, serving

PATH, PROMPT = "/models/acme/told", "the soup was bright."
LANGCHAIN = {"top_k": 10, "top_p": 0.95, "typical_p": 0.95, "temperature": 0.8, "watermark": False}
"""What HuggingFaceEndpoint of langchain-huggingface sends, beside `do_sample` false."""


@pytest.fixture(scope="module")
def served(chatting: Backbone, crowd: dict[str, Adapter], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    beams = {**TOLD, "objective": {**TOLD["objective"], "decoding": {"beams": 2}}}
    made = {
        "acme/told@1": adapter(chatting, "lora", {"r": 2}, seed=2, **TOLD),
        "acme/beams@1": adapter(chatting, "lora", {"r": 2}, seed=2, **beams),
        "acme/reviews@1": adapter(chatting, "lora", {"r": 2}, seed=1),
    }
    with serving(chatting, made, tmp_path_factory.mktemp("told")) as served:
        yield served


def alone(served: Served, **decoding: Any) -> str:
    (answer,) = predictor(served.adapters["acme/told@1"], served.backbone).generating(**decoding)([PROMPT])
    return str(answer["answer"])


@pytest.mark.parametrize(
    ("asked", "decoding"),
    [
        ({}, {}),
        ({"max_new_tokens": 20}, {"max_new_tokens": 20}),
        ({"do_sample": False, **LANGCHAIN}, {}),
        ({"temperature": 1.5, "seed": 3, "max_new_tokens": 20}, {"temperature": 1.5, "seed": 3, "max_new_tokens": 20}),
        ({"top_k": 9, "seed": 3}, {"temperature": 1.0, "top_k": 9, "seed": 3}),
        ({"do_sample": True, "seed": 3}, {"temperature": 1.0, "seed": 3}),
    ],
)
def test_a_text_adapter_generates_as_alone(served: Served, asked: dict[str, Any], decoding: dict[str, Any]) -> None:
    found = served.post(PATH, {"inputs": PROMPT, "parameters": asked})
    assert found.json() == [{"generated_text": alone(served, **decoding)}]
    facts = Receipt.parse(found.headers["Afina-Receipt"]).generation
    assert facts is not None
    assert facts.max_new_tokens == decoding.get("max_new_tokens", 8)
    full = served.post(PATH, {"inputs": PROMPT, "parameters": {**asked, "return_full_text": True}}).json()
    assert full[0]["generated_text"].startswith(PROMPT)
    assert full[0]["generated_text"][len(PROMPT) :].lstrip() == alone(served, **decoding)


def test_what_clients_of_tgi_send_without_being_asked_changes_no_answer(served: Served) -> None:
    options = dict.fromkeys(("best_of", "truncate", "typical_p", "top_n_tokens", "grammar", "seed", "adapter_id"))
    asked = {**options, "watermark": False, "decoder_input_details": False, "details": False, "stop": []}
    wishes = {"use_cache": False, "wait_for_model": True, "use_gpu": False}
    found = served.post(PATH, {"inputs": PROMPT, "parameters": asked, "options": wishes})
    assert found.json() == [{"generated_text": alone(served)}]
    labels = served.post("/models/acme/reviews", {"inputs": PROMPT, "options": wishes})
    assert labels.json() == served.post("/models/acme/reviews", {"inputs": PROMPT}).json()


def test_a_stream_and_the_details_tell_each_token_as_tgi(served: Served) -> None:
    asked = {"max_new_tokens": 20, "temperature": 2.0, "seed": 3}
    text = alone(served, **asked)
    body = {"inputs": PROMPT, "parameters": asked, "stream": True}
    lines = served.post(PATH, body).text.strip().split("\n\n")
    events = [json.loads(line.removeprefix("data:")) for line in lines]
    assert "".join(one["token"]["text"] for one in events) == text
    assert [one["generated_text"] for one in events] == [None] * (len(events) - 1) + [text]
    (whole,) = served.post(PATH, {"inputs": PROMPT, "parameters": {**asked, "details": True}}).json()
    details = whole["details"]
    assert whole["generated_text"] == text
    assert details["generated_tokens"] == len(details["tokens"]) == events[-1]["index"]
    assert {name: details[name] for name in events[-1]["details"]} == events[-1]["details"]
    assert events[-1]["details"]["seed"] == 3
    assert sum(one["token"]["logprob"] for one in events) == pytest.approx(
        sum(one["logprob"] for one in details["tokens"])
    )


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        (PATH, {"inputs": [PROMPT]}, "inputs"),
        (PATH, {"inputs": PROMPT, "parameters": {"typical_p": 0.9}}, "parameters.typical_p"),
        (PATH, {"inputs": PROMPT, "parameters": {"best_of": 2}}, "parameters.best_of"),
        (PATH, {"inputs": PROMPT, "parameters": {"truncate": 5}}, "parameters.truncate"),
        (PATH, {"inputs": PROMPT, "parameters": {"decoder_input_details": True}}, "parameters.decoder_input_details"),
        (PATH, {"inputs": PROMPT, "parameters": {"max_new_tokens": 10**6}}, "parameters.max_new_tokens"),
        (PATH, {"inputs": PROMPT, "parameters": {"stop": ["a" * 99]}}, "parameters.stop"),
        (PATH, {"inputs": PROMPT, "parameters": {"function_to_apply": "none"}}, "parameters.function_to_apply"),
        (PATH, {"inputs": PROMPT, "parameters": {"grammar": {"type": "regex", "value": "("}}}, "parameters.grammar"),
        ("/models/acme/beams", {"inputs": PROMPT, "stream": True}, "stream"),
        ("/models/acme/reviews", {"inputs": PROMPT, "stream": True}, "stream"),
        ("/models/acme/reviews", {"inputs": PROMPT, "parameters": {"max_new_tokens": 3}}, "max_new_tokens"),
        ("/models/acme/reviews", {"inputs": PROMPT, "normalize": True}, "feature-extraction"),
    ],
)
def test_an_option_that_is_not_obeyed_is_refused_by_its_name(
    served: Served, path: str, body: dict[str, Any], field: str
) -> None:
    found = served.post(path, body)
    assert found.status_code == 422
    assert field in found.json()["error"]


@pytest.mark.parametrize("model", ["reviews", "told"])
def test_feature_extraction_of_huggingface_hub_is_refused(served: Served, model: str) -> None:
    def asked(**body: Any) -> Any:
        headers = {**served.auth(), "User-Agent": "unknown/None; hf_hub/2.4.0; python/3.13.12"}
        return served.web.post(f"/models/acme/{model}", json={"inputs": PROMPT, **body}, headers=headers)

    assert asked().status_code == 422
    assert "feature-extraction" in asked().json()["error"]
    assert asked(parameters={}).status_code == 200
    assert served.post(f"/models/acme/{model}", {"inputs": PROMPT}).status_code == 200
