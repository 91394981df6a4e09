"""Adapters for entities, asked by each protocol: the answers are those of `predict`, and the rest is refused."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_protocols import check_receipt, near
from transformers import AutoConfig, AutoModelForTokenClassification, pipeline

from afina import Adapter, Backbone, Predictor
from afina.errors import Refused
from afina.server.receipts import Receipt
from afina.server.replay import replayed
from crowd import adapter
from fakes import Backbones
from raises import raises
from servers import PLACES, Served, probed, serving, within

TEXTS = ("the soup was bright.", "Zoë’s café – naïve, 50 € … 日本 bicycle")
LONG = " ".join(TEXTS) * 4
NAME = "acme/places@1"
SPAN = ("entity_group", "start", "end")


@pytest.fixture(scope="module")
def crowd_of_words(gpt2: Backbone) -> dict[str, Adapter]:
    made = {
        "acme/places@1": adapter(gpt2, "lora", {"r": 2}, seed=1, **PLACES),
        "acme/places@2": adapter(gpt2, "head", seed=2, **PLACES),
        "acme/short@1": adapter(gpt2, "lora", {"r": 2}, seed=1, max_length=20, **PLACES),
        "acme/reviews@1": adapter(gpt2, "lora", {"r": 2}, seed=3),
    }
    return {name: probed(one, gpt2) for name, one in made.items()}


@pytest.fixture(scope="module")
def words(
    gpt2: Backbone, crowd_of_words: dict[str, Adapter], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    root = tmp_path_factory.mktemp("words")
    with serving(gpt2, crowd_of_words, root, batch_tokens=48, shared_tokens=48, whole_tokens=64) as made:
        yield made


def entities(served: Served, *texts: str, name: str = NAME) -> list[list[dict[str, Any]]]:
    """The entities that the adapter finds by itself."""
    return [answer["entities"] for answer in served.alone(name, *texts)]


def groups(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {"entity_group": one["label"], "score": one["score"], "word": one["text"], "start": one["start"]}
        | {"end": one["end"]}
        for one in found
    ]


@pytest.mark.slow
def test_the_native_protocol_answers_as_predict(words: Served) -> None:
    expected = entities(words, *TEXTS)
    assert all(expected), "a text without entities shows nothing"
    found = words.post("/tasks", {"text": TEXTS[1], "models": [NAME, "acme/reviews"]}).json()["results"]
    assert near(found[0]["entities"], expected[1])
    assert (found[0]["truncated"], found[0]["receipt"]["version"]) == (False, NAME)
    assert found[1]["label"] in ("bad", "good")
    lines = [{"text": text, "model": one} for text in TEXTS for one in (NAME, "acme/reviews")]
    content = "\n".join(map(json.dumps, lines)).encode()
    answers = words.web.post("/bulk", content=content, headers=words.auth()).text.splitlines()
    assert near([json.loads(one)["entities"] for one in answers[::2]], expected)


def test_the_hub_protocol_answers_as_predict(words: Served) -> None:
    expected = [groups(one) for one in entities(words, *TEXTS)]
    path = f"/models/{NAME}"
    single = words.post(path, {"inputs": TEXTS[0]})
    assert near(single.json(), expected[0])
    check_receipt(words, single, NAME)
    assert near(words.post(path, {"inputs": [*TEXTS]}).json(), expected)


@pytest.mark.parametrize(
    ("model", "parameters"),
    [
        (NAME, {"aggregation_strategy": "average"}),
        (NAME, {"aggregation_strategy": "max"}),
        (NAME, {"top_k": 1}),
        (NAME, {"function_to_apply": "softmax"}),
        ("acme/reviews", {"aggregation_strategy": "first"}),
        ("acme/reviews", {"ignore_labels": ["bad"]}),
    ],
)
def test_options_that_the_hubs_task_does_not_have_here_are_refused_before_anything_is_computed(
    words: Served, monkeypatch: pytest.MonkeyPatch, model: str, parameters: dict[str, Any]
) -> None:
    submitted: list[Any] = []
    monkeypatch.setattr(words.core, "submit", submitted.append)
    found = words.post(f"/models/{model}", {"inputs": "a", "parameters": parameters})
    assert (found.status_code, submitted) == (422, [])
    assert next(iter(parameters)) in found.json()["error"]


def test_the_open_inference_protocol_has_the_entities_as_json(words: Served) -> None:
    tensor = {"name": "text", "shape": [2], "datatype": "BYTES", "data": [*TEXTS]}
    (output,) = words.post("/v2/models/acme/places/versions/1/infer", {"inputs": [tensor]}).json()["outputs"]
    assert (output["name"], output["datatype"], output["shape"]) == ("entities", "BYTES", [2])
    assert near([json.loads(one) for one in output["data"]], entities(words, *TEXTS))
    told = words.get("/v2/models/acme/places").json()
    assert told["outputs"] == [{"name": "entities", "datatype": "BYTES", "shape": [-1]}]
    assert told["parameters"] == {"labels": ["LOC", "PER"], "kind": "entities"}


def test_vllms_pooling_has_a_row_for_each_token(words: Served) -> None:
    body = {"model": NAME, "input": [*TEXTS], "task": "token_classify", "encoding_format": "float"}
    found = words.post("/pooling", body).json()
    assert [one["index"] for one in found["data"]] == [0, 1]
    counts = [len(words.backbone.tokenizer(text)["input_ids"]) for text in TEXTS]
    assert [np.shape(one["data"]) for one in found["data"]] == [(count, 5) for count in counts]
    assert np.sum(found["data"][1]["data"], axis=1) == pytest.approx(1.0)
    assert found["usage"]["prompt_tokens"] == found["usage"]["total_tokens"] == sum(counts)
    raw = words.post("/pooling", {"model": NAME, "input": TEXTS[0], "use_activation": False}).json()["data"][0]["data"]
    chances = np.exp(raw) / np.exp(raw).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(found["data"][0]["data"], chances, atol=1e-5)
    tags = words.post(f"/models/{NAME}", {"inputs": TEXTS[0], "parameters": {"aggregation_strategy": "none"}}).json()
    assert {round(one["score"], 4) for one in tags} <= {round(each, 4) for row in chances.tolist() for each in row}


def test_the_receipt_of_outputs_of_tokens_gives_them_again(words: Served) -> None:
    answer = words.post("/pooling", {"model": "acme/short", "input": TEXTS[0]})
    receipt = Receipt.parse(answer.headers["afina-receipt"])
    assert receipt.as_json()["each_token"] is True
    predictor = Predictor.of(words.store.adapter(receipt.version), words.backbone)
    again = replayed(predictor, None, TEXTS[0], each_token=receipt.each_token)
    np.testing.assert_allclose(again["data"], answer.json()["data"][0]["data"], atol=1e-5)
    with raises(Refused, code="receipt.mismatch"):
        replayed(predictor, None, LONG, each_token=True)
    of_entities = words.post("/tasks", {"text": TEXTS[0], "models": ["acme/short"]}).json()["results"][0]["receipt"]
    assert "each_token" not in of_entities


def test_what_does_not_suit_entities_is_refused_before_anything_is_computed(
    words: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    submitted: list[Any] = []
    monkeypatch.setattr(words.core, "submit", submitted.append)
    for path, body, status in (
        ("/predict", {"model": NAME, "inputs": "a"}, 422),
        ("/classify", {"model": NAME, "input": "a"}, 400),
        ("/v1/completions", {"model": NAME, "prompt": "a"}, 400),
        ("/pooling", {"model": "acme/reviews", "input": "a"}, 400),
        ("/pooling", {"model": "acme/short", "input": LONG}, 400),
        ("/pooling", {"model": NAME, "input": "a", "encoding_format": "base64"}, 400),
        ("/pooling", {"model": NAME, "input": "a", "dimensions": 3}, 400),
        ("/tasks", {"text": "a", "pair": "b", "models": [NAME]}, 422),
    ):
        found = words.post(path, body)
        assert found.status_code == status, (path, body, found.text)
    assert submitted == []
    assert "/models/" in words.post("/classify", {"model": NAME, "input": "a"}).json()["error"]["message"]


def test_a_long_text_is_computed_in_windows_and_all_its_tokens_count(words: Served) -> None:
    before = words.core.engine.compute_chunks
    parts: list[int] = []

    def noted(chunks: Any) -> Any:
        parts.extend(count for _, count in chunks)
        return before(chunks)

    words.core.engine.compute_chunks = noted  # type: ignore[method-assign]
    try:
        found = words.post("/tasks", {"text": LONG, "models": ["acme/short"]}).json()["results"][0]
    finally:
        words.core.engine.compute_chunks = before  # type: ignore[method-assign]
    assert near(found["entities"], entities(words, LONG, name="acme/short@1")[0])
    assert found["truncated"] is False
    assert len(parts) > 3
    assert max(parts) <= 48
    limited = words.store.create_key("acme", ["predict"], text_tokens=sum(parts) - 1)
    words.core.tenants.refresh()
    headers = {"Authorization": f"Bearer {limited.secret}"}
    refused = words.post("/tasks", {"text": LONG, "models": ["acme/short"]}, headers=headers)
    assert (refused.status_code, f"{sum(parts):,} tokens" in refused.text) == (413, True), refused.text
    whole = words.post("/tasks", {"text": LONG, "models": [NAME]})
    assert whole.status_code == 413, "a window of more tokens than this server computes at once"


@pytest.mark.slow
def test_a_shadow_version_is_compared_by_its_entities(words: Served) -> None:
    words.store.alias(NAME, "production")
    words.store.shadow("acme/places@2")

    def told() -> Any:
        return words.get("/shadows/acme/places", "acme-publish").json()

    assert within(10, lambda: told()["state"] == "riding")
    path = "/models/acme/places@production"
    for text in TEXTS:
        assert words.post(path, {"inputs": text}).status_code == 200
    assert words.post("/pooling", {"model": "acme/places@production", "input": TEXTS[0]}).status_code == 200
    assert within(10, lambda: told()["texts"] == 2)
    places = [
        [[(one["start"], one["end"], one["label"]) for one in each] for each in entities(words, *TEXTS, name=name)]
        for name in (NAME, "acme/places@2")
    ]
    assert told()["flips"] == sum(one != other for one, other in zip(*places, strict=True))
    assert (told()["faults"], told()["state"]) == (0, "riding")


def test_drift_is_not_measured(words: Served) -> None:
    words.store.alias(NAME, "production")
    found = words.get("/drift/acme/places/production", "acme-metrics")
    assert (found.status_code, "entities" in found.json()["error"]) == (422, True), found.text


@pytest.mark.slow
def test_the_hub_protocol_groups_words_as_transformers_does(backbones: Backbones, tmp_path: Path) -> None:
    """Its pipeline and this server find the same words if a text has no punctuation."""
    backbone = Backbone.load(str(backbones.path("bert")))
    made = adapter(
        backbone, "full", seed=5, labels=PLACES["labels"], objective={**PLACES["objective"], "viterbi": False}
    )
    names = Predictor.of(made, backbone).objective.output_names
    model = AutoModelForTokenClassification.from_config(
        AutoConfig.from_pretrained(backbone.path, id2label=dict(enumerate(names)))
    )
    found = model.load_state_dict(made.tensors, strict=False)
    assert found.unexpected_keys == []
    plain = pipeline("token-classification", model=model.eval(), tokenizer=backbone.tokenizer)
    text = "the soup was bright and our garden turned out sour in the end"
    crowd = {NAME: probed(made, backbone), "acme/reviews@1": adapter(backbone, "head")}
    with serving(backbone, crowd, tmp_path) as served, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a tokenizer of bytes does not know words, says transformers
        for ignored in (["O"], []):
            expected = plain(text, aggregation_strategy="first", ignore_labels=ignored)
            parameters = {"aggregation_strategy": "first", "ignore_labels": ignored}
            answer = served.post("/models/acme/places", {"inputs": text, "parameters": parameters}).json()
            places = [(one["entity_group"], one["start"], one["end"]) for one in answer]
            assert places == [(one["entity_group"], one["start"], one["end"]) for one in expected]
            assert [one["score"] for one in answer] == pytest.approx(
                [float(one["score"]) for one in expected], abs=1e-5
            )
