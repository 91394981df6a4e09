"""Each protocol's requests and responses, field by field, on answers that the adapter alone gives."""

from __future__ import annotations

import json
from concurrent.futures import Future
from datetime import datetime
from typing import Any

import pytest

from afina.server.core import Core
from afina.server.requests import Text
from servers import accepting

TEXTS = ("the soup was bright.", "What a dull ferry!")


def near(found: Any, expected: Any) -> bool:
    """The same JSON, where numbers may differ as batches do."""
    if isinstance(expected, dict):
        return (
            isinstance(found, dict)
            and found.keys() == expected.keys()
            and all(near(found[key], value) for key, value in expected.items())
        )
    if isinstance(expected, list):
        return (
            isinstance(found, list)
            and len(found) == len(expected)
            and all(near(one, other) for one, other in zip(found, expected, strict=True))
        )
    if isinstance(expected, float):
        return isinstance(found, float) and found == pytest.approx(expected, abs=1e-5)
    return bool(found == expected and type(found) is type(expected))


def ranked(answer: dict[str, Any]) -> list[dict[str, Any]]:
    scores = answer["probabilities"].items()
    return [{"label": label, "score": score} for label, score in sorted(scores, key=lambda one: -one[1])]


def check_receipt(served: Any, response: Any, version: str) -> None:
    assert json.loads(response.headers["afina-receipt"]) == {
        "version": version,
        "adapter": served.adapters[version].digest,
        "base": served.backbone.digest,
        "dtype": "float32",
    }


def test_text_embeddings_inference(served: Any) -> None:
    one, other = map(ranked, served.alone("acme/reviews@1", *TEXTS))
    model = "acme/reviews@production"
    single = served.post("/predict", {"inputs": TEXTS[0], "model": model, "raw_scores": False, "truncate": True})
    assert single.status_code == 200, single.text
    assert near(single.json(), one)
    check_receipt(served, single, "acme/reviews@1")
    batch = served.post(f"/predict?model={model}", {"inputs": [[text] for text in TEXTS]})
    assert near(batch.json(), [one, other])
    pair = served.post("/predict", {"inputs": [*TEXTS], "model": model})
    assert [one["label"] for one in sorted(pair.json(), key=lambda one: one["label"])] == ["bad", "good"]
    assert not near(pair.json(), one)
    raw = served.post("/predict", {"inputs": TEXTS[0], "model": model, "raw_scores": True}).json()
    assert sum(one["score"] for one in raw) != pytest.approx(1.0)
    long = {"inputs": "soup " * 2000, "model": model}
    assert served.post("/predict", long).status_code == 200
    cut = served.post("/predict", {**long, "truncate": False})
    assert (cut.status_code, cut.json()["error_type"]) == (422, "Validation")


def test_vllm(served: Any) -> None:
    one, other = served.alone("acme/reviews@1", *TEXTS)  # production, which a bare name means
    response = served.post("/classify", {"model": "acme/reviews", "input": [*TEXTS], "user": "somebody"})
    body = response.json()
    assert body.pop("id") == f"classify-{response.headers['x-request-id']}"
    assert isinstance(body.pop("created"), int)
    tokens = body["usage"]["prompt_tokens"]
    assert tokens == sum(len(served.backbone.tokenizer(text)["input_ids"]) for text in TEXTS)
    assert near(
        body,
        {
            "object": "list",
            "model": "acme/reviews",
            "data": [
                {
                    "index": index,
                    "label": answer["label"],
                    "probs": [answer["probabilities"]["bad"], answer["probabilities"]["good"]],
                    "num_classes": 2,
                }
                for index, answer in enumerate((one, other))
            ],
            "usage": {
                "prompt_tokens": tokens,
                "total_tokens": tokens,
                "completion_tokens": 0,
                "prompt_tokens_details": None,
            },
        },
    )
    check_receipt(served, response, "acme/reviews@1")
    listed = served.get("/v1/models").json()
    assert [(model["id"], model["owned_by"]) for model in listed["data"]] == [
        (f"acme/{task}", "acme") for task in ("price", "reviews", "tags")
    ]
    missing = served.post("/classify", {"model": "acme/none", "input": "a"})
    assert missing.json() == {
        "error": {"message": "no such model", "type": "NotFoundError", "param": None, "code": 404}
    }


def test_a_model_is_described_by_its_id(served: Any) -> None:
    created = served.store.versions("acme/reviews")[0].created
    for name in ("acme/reviews", "acme/reviews@production", "acme/reviews@1", "acme%2Freviews"):
        found = served.get(f"/v1/models/{name}").json()
        seconds = int(datetime.fromisoformat(created).timestamp())
        assert found == {
            "id": name.replace("%2F", "/"),
            "object": "model",
            "created": seconds,
            "owned_by": "acme",
            "max_model_len": served.backbone.longest,
        }
    listed = {one["id"]: one for one in served.get("/v1/models").json()["data"]}
    assert listed["acme/tags"] == served.get("/v1/models/acme/tags").json()
    for name in ("acme/none", "bolt/mail", "acme/reviews@9", "gpt-4o", "a/b/c"):
        missing = served.get(f"/v1/models/{name}")
        assert missing.status_code == 404
        error = missing.json()["error"]
        assert (error["code"], error["param"], error["type"]) == ("model_not_found", "model", "invalid_request_error")


def test_health_is_empty_and_needs_no_key(served: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    found = served.web.get("/health")
    assert (found.status_code, found.content) == (200, b"")
    monkeypatch.setattr(Core, "follows", False)  # a store that does not answer
    assert served.web.get("/health").status_code == 200
    monkeypatch.setattr(type(served.core.batching), "alive", False)
    assert served.web.get("/health").status_code == 503


def test_the_server_describes_itself_as_tei_and_tgi_do(served: Any) -> None:
    assert served.web.get("/info").status_code == 401
    found = served.get("/info").json()
    assert found["model_id"] == served.backbone.path.name
    assert str(served.backbone.path.parent) not in str(found)
    assert (found["model_sha"], found["model_dtype"]) == (served.backbone.digest, "float32")
    assert found["max_client_batch_size"] == served.core.settings.texts
    assert found["max_input_length"] == served.backbone.longest
    assert found["model_type"] == {"classifier": {"id2label": {}, "label2id": {}}}
    labels = served.get("/info?model=acme/reviews").json()["model_type"]["classifier"]
    assert labels == {"id2label": {"0": "bad", "1": "good"}, "label2id": {"bad": 0, "good": 1}}
    assert served.get("/info?model=bolt/mail").status_code == 404


def test_an_empty_text_is_400_as_in_tei(served: Any) -> None:
    for inputs in ("", [["a"], [" "]]):
        refused = served.post("/predict", {"inputs": inputs, "model": "acme/reviews"})
        assert (refused.status_code, refused.json()["error_type"]) == (400, "Validation")


def test_hugging_face(served: Any) -> None:
    one, other = map(ranked, served.alone("acme/reviews@1", *TEXTS))
    path = "/models/acme/reviews@production"
    assert near(served.post(path, {"inputs": TEXTS[0]}).json(), [one])
    top = served.post(path, {"inputs": [*TEXTS], "parameters": {"top_k": 1}})
    assert near(top.json(), [one[:1], other[:1]])
    check_receipt(served, top, "acme/reviews@1")
    (raw,) = served.post(path, {"inputs": TEXTS[0], "parameters": {"function_to_apply": "none"}}).json()
    assert sum(one["score"] for one in raw) != pytest.approx(1.0)
    other_function = served.post(path, {"inputs": TEXTS[0], "parameters": {"function_to_apply": "sigmoid"}})
    assert other_function.status_code == 422
    assert served.post(path, {"inputs": TEXTS[0], "parameters": {"top_k": 0}}).status_code == 422


def test_open_inference_protocol(served: Any) -> None:
    one, other = served.alone("acme/reviews@1", *TEXTS)
    tensor = {"name": "text", "shape": [2, 1], "datatype": "BYTES", "data": [[text] for text in TEXTS]}
    response = served.post("/v2/models/acme/reviews/versions/1/infer", {"id": "42", "inputs": [tensor]})
    assert near(
        response.json(),
        {
            "model_name": "acme/reviews",
            "model_version": "1",
            "id": "42",
            "outputs": [
                {"name": "label", "shape": [2], "datatype": "BYTES", "data": [one["label"], other["label"]]},
                {
                    "name": "probabilities",
                    "shape": [2, 2],
                    "datatype": "FP32",
                    "data": [*one["probabilities"].values(), *other["probabilities"].values()],
                },
            ],
        },
    )
    check_receipt(served, response, "acme/reviews@1")
    flat = {**tensor, "shape": [2], "data": [*TEXTS]}
    wanted = {"inputs": [flat], "outputs": [{"name": "probabilities"}]}
    bare = served.post("/v2/models/acme%2Freviews/infer", wanted).json()
    assert (bare["model_version"], [one["name"] for one in bare["outputs"]]) == ("1", ["probabilities"])
    pair = {**flat, "name": "pair"}
    assert served.post("/v2/models/acme/reviews/infer", {"inputs": [flat, pair]}).status_code == 200
    for wrong in (
        {"inputs": [{**flat, "shape": [3]}]},
        {"inputs": [{**flat, "datatype": "FP32"}]},
        {"inputs": [flat, {**pair, "shape": [1], "data": ["a"]}]},
        {"inputs": [flat], "outputs": [{"name": "logits"}]},
        {"inputs": []},
    ):
        refused = served.post("/v2/models/acme/reviews/infer", wrong)
        assert (refused.status_code, [*refused.json()]) == (422, ["error"]), wrong


def test_open_inference_protocols_classification_is_the_best_labels_of_each_text(served: Any) -> None:
    def asked(output: str, most: int, **more: Any) -> Any:
        tensor = {"name": "TEXTS", "shape": [2], "datatype": "BYTES", "data": [*TEXTS]}
        outputs = [{"name": output, "parameters": {"classification": most}}]
        return served.post("/v2/models/acme/tags/infer", {"inputs": [tensor], "outputs": outputs, **more})

    wanted = [ranked(one) for one in served.alone("acme/tags@1", *TEXTS)]
    places = ("loud", "late", "rude")
    for most, kept in ((2, 2), (9, 3)):
        (found,) = asked("probabilities", most, parameters={"priority": 1, "timeout": 10_000}).json()["outputs"]
        assert (found["datatype"], found["shape"]) == ("BYTES", [2, kept])
        for said, best in zip(found["data"], [one for row in wanted for one in row[:kept]], strict=True):
            score, index, label = said.split(":")
            assert (label, int(index)) == (best["label"], places.index(label))
            assert float(score) == pytest.approx(best["score"], abs=1e-5)
    assert asked("probabilities", 0).json()["outputs"][0]["datatype"] == "FP32"
    refused = asked("labels", 1)
    assert refused.status_code == 422
    assert "classification" in refused.text


def test_tritons_configuration_of_a_model_names_its_tensors(served: Any) -> None:
    found = served.get("/v2/models/acme/tags/versions/1/config").json()
    assert (found["name"], found["max_batch_size"]) == ("acme/tags", 0)
    assert found["input"] == [{"name": "text", "data_type": "TYPE_STRING", "dims": [-1]}]
    assert found["output"][0] == {"name": "labels", "data_type": "TYPE_BOOL", "dims": [-1, 3]}


def test_tritons_index_lists_the_models_of_the_keys_client(served: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    headers = served.auth()
    found = served.web.post("/v2/repository/index", headers=headers).json()  # tritonclient sends no body
    assert {"name": "acme/reviews", "version": "1", "state": "READY", "reason": ""} in found
    assert {one["name"].partition("/")[0] for one in found} == {"acme"}
    monkeypatch.setitem(served.core.current._damaged, "acme/reviews@1", None)
    (lost,) = [one for one in served.post("/v2/repository/index", {}).json() if one["state"] != "READY"]
    assert (lost["name"], lost["state"]) == ("acme/reviews", "UNAVAILABLE")
    assert lost["name"] not in [one["name"] for one in served.post("/v2/repository/index", {"ready": True}).json()]


def test_tritons_statistics_count_the_requests_of_each_version(
    served: Any,
) -> None:
    def counted(path: str) -> dict[str, Any]:
        (found,) = served.get(path).json()["model_stats"]
        return found

    path = "/v2/models/acme/price/stats"
    before = counted(path)
    assert served.post("/predict", {"inputs": [[one] for one in TEXTS], "model": "acme/price"}).status_code == 200
    after = counted("/v2/models/acme/price/versions/1/stats")
    assert after["inference_count"] == before["inference_count"] + 2
    assert after["inference_stats"]["success"]["count"] == before["inference_stats"]["success"]["count"] + 1
    assert after["inference_stats"]["success"]["ns"] > before["inference_stats"]["success"]["ns"]
    assert after["inference_stats"]["fail"] == before["inference_stats"]["fail"]
    everything = served.get("/v2/models/stats").json()["model_stats"]
    assert after in everything
    assert served.web.get("/v2/models/stats", headers=served.auth("bolt")).json()["model_stats"] == []
    with accepting(served.core, served.key(), "acme/price", [Text(TEXTS[0])]) as left:
        left.futures = [Future()]
        served.core.requests.follow(left)
    assert counted(path)["inference_stats"]["fail"]["count"] == after["inference_stats"]["fail"]["count"] + 1


def test_open_inference_protocols_metadata_and_health(served: Any) -> None:
    assert served.get("/v2/models/acme/reviews").json() == {
        "name": "acme/reviews",
        "versions": ["1", "2"],
        "platform": "afina",
        "inputs": [{"name": "text", "datatype": "BYTES", "shape": [-1]}],
        "outputs": [
            {"name": "label", "datatype": "BYTES", "shape": [-1]},
            {"name": "probabilities", "datatype": "FP32", "shape": [-1, 2]},
        ],
        "parameters": {"labels": ["bad", "good"], "kind": "classes"},
    }
    assert [one["name"] for one in served.get("/v2/models/acme/price").json()["outputs"]] == ["value"]
    assert served.get("/v2/models/acme/tags/versions/1").json()["outputs"][0]["shape"] == [-1, 3]
    assert served.get("/v2/models/acme/tags/ready").json() == {"name": "acme/tags", "ready": True}
    assert served.get("/v2/models/acme/tags/versions/7/ready").status_code == 404
    assert served.web.get("/v2/health/live").json() == {"live": True}
    assert served.web.get("/v2/health/ready").json() == {"ready": True, "writes": True}
    assert served.get("/v2").json()["name"] == "afina"


def test_numbers_and_several_labels_have_their_own_form_in_each(served: Any) -> None:
    (price,), (tags,) = served.alone("acme/price@1", TEXTS[0]), served.alone("acme/tags@1", TEXTS[0])
    assert near(
        served.post("/predict", {"inputs": TEXTS[0], "model": "acme/price"}).json(),
        [{"label": "price", "score": price["value"]}],
    )
    assert near(served.post("/models/acme/tags", {"inputs": TEXTS[0]}).json(), [ranked(tags)])
    tensor = {"name": "text", "shape": [1], "datatype": "BYTES", "data": [TEXTS[0]]}
    value, labels = (
        served.post(f"/v2/models/acme/{task}/infer", {"inputs": [tensor]}).json()["outputs"][0]
        for task in ("price", "tags")
    )
    assert near(value, {"name": "value", "shape": [1], "datatype": "FP64", "data": [price["value"]]})
    assert (labels["name"], labels["datatype"], labels["shape"]) == ("labels", "BOOL", [1, 3])
    names = ("loud", "late", "rude")
    assert [name for name, has in zip(names, labels["data"], strict=True) if has] == tags["labels"]
    (one,) = served.post("/classify", {"model": "acme/tags", "input": TEXTS[0]}).json()["data"]
    assert (one["label"], one["num_classes"]) == (ranked(tags)[0]["label"], 3)


def test_one_text_for_several_of_the_callers_models(served: Any) -> None:
    names = ["acme/reviews@production", "acme/tags", "acme/price@1"]
    found = served.post("/tasks", {"text": TEXTS[0], "models": names}).json()["results"]
    assert [one.pop("model") for one in found] == names
    assert [one.pop("receipt")["version"] for one in found] == ["acme/reviews@1", "acme/tags@1", "acme/price@1"]
    assert [one.pop("truncated") for one in found] == [False] * 3
    alone = [served.alone(name, TEXTS[0])[0] for name in ("acme/reviews@1", "acme/tags@1", "acme/price@1")]
    assert near(found, alone)
    assert served.post("/tasks", {"text": TEXTS[0], "models": [*names, "bolt/mail"]}).status_code == 404


def test_lines_are_answered_in_their_order_and_errors_stand_in_their_place(served: Any) -> None:
    names = ("acme/reviews@1", "acme/tags@1", "acme/price@1")
    lines = [{"model": names[index % 3], "text": TEXTS[index % 2]} for index in range(200)]
    lines[7] = {"model": "bolt/mail", "text": "a"}
    lines[9] = {"text": "a"}
    content = "\n".join([*map(json.dumps, lines), "no json", "", json.dumps(lines[0])])
    response = served.web.post("/bulk", content=content.encode(), headers=served.auth())
    assert response.headers["content-type"] == "application/x-ndjson"
    found = [json.loads(line) for line in response.text.splitlines()]
    assert len(found) == 202
    assert found[7] == {"error": "no such model", "kind": "not_found"}
    assert found[9]["kind"] == found[200]["kind"] == "invalid"
    for index in (0, 1, 2, 3, 50, 199):
        (alone,) = served.alone(names[index % 3], TEXTS[index % 2])
        assert found[index].pop("receipt")["version"] == names[index % 3]
        assert near(found[index], {**alone, "truncated": False})
    assert found[201]["receipt"]["version"] == names[0]
