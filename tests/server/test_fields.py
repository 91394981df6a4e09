"""No field is ignored: an unknown one is refused, and each declared one changes the answer or says that it does not."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, get_args

import jsonschema
import pytest
from pydantic import BaseModel

from afina import Adapter, Backbone
from afina.predicting.predictor import ModelPredictor
from afina.predicting.reading import Truncation
from afina.server.http.app import PROTOCOLS
from afina.server.protocols import bulk, huggingface, keys, kserve, native, openai, openai_bodies, responses, vllm
from afina.server.receipts import Receipt
from afina.server.replay import replayed
from crowd import adapter
from servers import PLACES, Served, probed, serving
from servers import TOLD as TOLD_OBJECTIVE


@pytest.fixture(scope="module")
def served(gpt2: Backbone, crowd: dict[str, Adapter], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server that also has an adapter for entities, and one that writes texts."""
    places = probed(adapter(gpt2, "lora", {"r": 2}, seed=8, **PLACES), gpt2)
    told = adapter(gpt2, "lora", {"r": 2}, seed=6, **TOLD_OBJECTIVE)
    others = {"acme/places@1": places, "acme/told@1": told}
    with serving(gpt2, {**crowd, **others}, tmp_path_factory.mktemp("fields")) as made:
        yield made


BODIES = [body for one in PROTOCOLS for body in one.router.bodies]
LONG = "soup ferry bright dull " * 40
TENSOR = {"name": "text", "shape": [1], "datatype": "BYTES", "data": [LONG]}
OUTPUT = {"name": "label"}

ROUTES: dict[str, tuple[type[BaseModel], dict[str, Any]]] = {
    "/predict": (huggingface.Predict, {"model": "acme/reviews", "inputs": LONG}),
    "/classify": (vllm.Classify, {"model": "acme/reviews", "input": LONG}),
    "/models/acme/reviews": (huggingface.Classification, {"inputs": LONG, "parameters": {}}),
    "/models/acme/places": (huggingface.Classification, {"inputs": LONG, "parameters": {}}),
    "/models/acme/told": (huggingface.Classification, {"inputs": "the soup was bright.", "parameters": {}}),
    "/pooling": (vllm.Pooling, {"model": "acme/places", "input": "soup ferry bright dull"}),
    "/v2/models/acme/reviews/infer": (kserve.Infer, {"inputs": [TENSOR], "outputs": [OUTPUT]}),
    "/tasks": (native.Tasks, {"text": LONG, "models": ["acme/reviews"]}),
    "/bulk": (bulk.Line, {"text": LONG, "model": "acme/reviews"}),
}
"""A body of each route that does not answer in OpenAI's protocol, and a request."""

WITHOUT_EFFECT = "accepted without effect"

DROP: Any = object()


INFER, HUB, SPANS = "/v2/models/acme/reviews/infer", "/models/acme/reviews", "/models/acme/places"
TELLS = "/models/acme/told"

EFFECTS: dict[str, tuple[str, dict[str, Any]]] = {
    "Predict.inputs": ("/predict", {"inputs": "a"}),
    "Predict.model": ("/predict", {"model": "acme/tags"}),
    "Predict.raw_scores": ("/predict", {"raw_scores": True}),
    "Predict.truncate": ("/predict", {"truncate": False}),
    "Predict.truncation_direction": ("/predict", {"truncation_direction": "Left"}),
    "Classify.model": ("/classify", {"model": "acme/tags"}),
    "Classify.input": ("/classify", {"input": "a"}),
    "Classify.messages": ("/classify", {"input": DROP, "messages": [{"role": "user", "content": "a"}]}),
    "ClassifiedMessage.role": ("/classify", {"input": DROP, "messages": [{"role": "system", "content": LONG}]}),
    "ClassifiedMessage.content": ("/classify", {"input": DROP, "messages": [{"role": "user", "content": "b"}]}),
    "Classify.use_activation": ("/classify", {"use_activation": False}),
    "Classify.truncate_prompt_tokens": ("/classify", {"truncate_prompt_tokens": 3}),
    "Classify.truncation_side": ("/classify", {"truncation_side": "left"}),
    "Classify.add_special_tokens": ("/classify", {"add_special_tokens": True}),
    "Classify.priority": ("/classify", {"priority": 0}),
    "Classify.user": ("/classify", {"user": "somebody"}),
    "Classification.inputs": (HUB, {"inputs": "a"}),
    "Classification.parameters": (HUB, {"parameters": {"top_k": 1}}),
    "Parameters.top_k": (HUB, {"parameters": {"top_k": 1}}),
    "Parameters.function_to_apply": (HUB, {"parameters": {"function_to_apply": "none"}}),
    "Parameters.aggregation_strategy": (SPANS, {"parameters": {"aggregation_strategy": "none"}}),
    "Parameters.ignore_labels": (SPANS, {"parameters": {"ignore_labels": []}}),
    "Classification.stream": (TELLS, {"stream": True}),
    "Classification.options": (HUB, {"options": {}}),
    **{f"ClientOptions.{wish}": (HUB, {"options": {wish: True}}) for wish in huggingface.ClientOptions.model_fields},
    **{
        f"Parameters.{option}": (TELLS, {"parameters": {option: value}})
        for option, value in {
            "max_new_tokens": 2,
            "return_full_text": True,
            "do_sample": True,
            "temperature": 2.0,
            "top_p": 0.9,
            "typical_p": 0.9,
            "stop": ["8"],
            "repetition_penalty": 100.0,
            "frequency_penalty": 2.0,
            "grammar": {"type": "regex", "value": "yes"},
            "details": True,
            "watermark": False,
            "decoder_input_details": False,
            **dict.fromkeys(("best_of", "truncate", "adapter_id", "top_n_tokens")),
        }.items()
    },
    "Parameters.seed": (TELLS, {"parameters": {"seed": 1, "temperature": 2.0}}),
    "HubGrammar.type": (TELLS, {"parameters": {"grammar": {"type": "json", "value": "yes"}}}),
    "HubGrammar.value": (TELLS, {"parameters": {"grammar": {"type": "regex", "value": "no"}}}),
    "Pooling.model": ("/pooling", {"model": "acme/reviews"}),
    "Pooling.input": ("/pooling", {"input": "a"}),
    "Pooling.task": ("/pooling", {"task": "token_classify"}),
    "Pooling.use_activation": ("/pooling", {"use_activation": False}),
    "Pooling.encoding_format": ("/pooling", {"encoding_format": "float"}),
    "Pooling.add_special_tokens": ("/pooling", {"add_special_tokens": True}),
    "Pooling.priority": ("/pooling", {"priority": 0}),
    "Pooling.user": ("/pooling", {"user": "somebody"}),
    "Infer.id": (INFER, {"id": "42"}),
    "Infer.inputs": (INFER, {"inputs": [{**TENSOR, "data": ["a"]}]}),
    "Infer.model_name": (INFER, {"model_name": "acme/tags"}),
    "Infer.parameters": (INFER, {"parameters": {"binary_data_output": True}}),
    "InferParameters.binary_data_output": (INFER, {"parameters": {"binary_data_output": True}}),
    "InferParameters.content_type": (INFER, {"parameters": {"content_type": "str"}}),
    "InferParameters.priority": (INFER, {"parameters": {"priority": 3}}),
    "InferParameters.timeout": (INFER, {"parameters": {"timeout": 5_000_000}}),
    "Infer.outputs": (INFER, {"outputs": DROP}),
    "Tensor.name": (INFER, {"inputs": [{**TENSOR, "name": "pair"}]}),
    "Tensor.shape": (INFER, {"inputs": [{**TENSOR, "shape": [2]}]}),
    "Tensor.datatype": (INFER, {"inputs": [{**TENSOR, "datatype": "FP32"}]}),
    "Tensor.data": (INFER, {"inputs": [{**TENSOR, "data": ["a"]}]}),
    "Tensor.parameters": (INFER, {"inputs": [{**TENSOR, "parameters": {"binary_data_size": 7}}]}),
    "TensorParameters.binary_data_size": (INFER, {"inputs": [{**TENSOR, "parameters": {"binary_data_size": 7}}]}),
    "TensorParameters.content_type": (INFER, {"inputs": [{**TENSOR, "parameters": {"content_type": "str"}}]}),
    "Output.parameters": (INFER, {"outputs": [{**OUTPUT, "parameters": {"binary_data": True}}]}),
    "OutputParameters.binary_data": (INFER, {"outputs": [{**OUTPUT, "parameters": {"binary_data": True}}]}),
    "OutputParameters.classification": (
        INFER,
        {"outputs": [{"name": "probabilities", "parameters": {"classification": 1}}]},
    ),
    "OutputParameters.content_type": (INFER, {"outputs": [{**OUTPUT, "parameters": {"content_type": "str"}}]}),
    "Output.name": (INFER, {"outputs": [{"name": "probabilities"}]}),
    "Tasks.text": ("/tasks", {"text": "a"}),
    "Tasks.pair": ("/tasks", {"pair": "a"}),
    "Tasks.models": ("/tasks", {"models": ["acme/tags"]}),
    "Line.text": ("/bulk", {"text": "a"}),
    "Line.pair": ("/bulk", {"pair": "a"}),
    "Line.model": ("/bulk", {"model": "acme/tags"}),
}
"""By field: a change of a route's request that only this field makes."""


def bodies(kind: Any) -> dict[str, type[BaseModel]]:
    """A body and those inside it, by name."""
    if not (isinstance(kind, type) and issubclass(kind, BaseModel)):
        return {name: one for part in get_args(kind) for name, one in bodies(part).items()}
    found: dict[str, type[BaseModel]] = {kind.__name__: kind}
    for field in kind.model_fields.values():
        found |= bodies(field.annotation)
    return found


def changed(body: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in {**body, **change}.items() if value is not DROP}


def answered(served: Any, route: str, body: dict[str, Any]) -> tuple[int, str]:
    """Status and content, without what differs each time."""
    response = served.post(route, body)
    if response.headers["content-type"] != "application/json":
        return response.status_code, response.text
    found = response.json()
    if isinstance(found, dict):
        found = {
            name: value
            for name, value in found.items()
            if not (route in ("/classify", "/pooling") and name in ("id", "created"))
        }
    return response.status_code, json.dumps(found)


FIELDS = {
    f"{name}.{field}": one.model_fields[field].description or ""
    for kind, _ in ROUTES.values()
    for name, one in bodies(kind).items()
    for field in one.model_fields
}


def test_every_body_of_a_label_is_looked_at() -> None:
    others = {native.Alias, keys.NewKey, kserve.ModelIndex, *openai.router.bodies, *responses.router.bodies}
    assert {kind for kind, _ in ROUTES.values()} | others >= {*BODIES}
    assert FIELDS.keys() == EFFECTS.keys()


@pytest.mark.parametrize("field", EFFECTS)
def test_a_field_changes_the_answer_or_says_that_it_does_not(served: Any, field: str) -> None:
    route, change = EFFECTS[field]
    _, body = ROUTES[route]
    before, after = answered(served, route, body), answered(served, route, changed(body, change))
    assert before[0] == 200, before
    if WITHOUT_EFFECT in FIELDS[field]:
        assert after == before
    else:
        assert after != before


def places(body: Any) -> list[list[Any]]:
    """The path of every object in a body."""
    if isinstance(body, dict):
        return [[], *([name, *rest] for name, one in body.items() for rest in places(one))]
    if isinstance(body, list):
        return [[index, *rest] for index, one in enumerate(body) for rest in places(one)]
    return []


@pytest.mark.parametrize("route", ROUTES)
def test_an_unknown_field_is_refused_wherever_it_stands(served: Any, route: str) -> None:
    _, body = ROUTES[route]
    for place in places(body):
        for name, value in (("candidate_labels", ["x"]), ("unknown", None)):
            wrong = copy.deepcopy(body)
            inside: Any = wrong
            for part in place:
                inside = inside[part]
            inside[name] = value
            status, said = answered(served, route, wrong)
            assert status == (400 if route in ("/classify", "/pooling") else 422) or (
                route == "/bulk" and json.loads(said)["kind"] == "unsupported"
            ), (place, said)
            assert name in said


@pytest.mark.parametrize("route", ROUTES)
def test_a_parameter_in_the_query_that_the_route_does_not_have_is_refused(served: Any, route: str) -> None:
    _, body = ROUTES[route]
    unknown = ["raw_scores=true", "unknown", "Model=acme/reviews", "\ud800=1"]
    if route not in ("/predict", "/bulk"):
        unknown.append("model=acme/tags")
    for name in unknown:
        query = name.encode("utf-8", "surrogatepass").decode("latin-1")
        response = served.post(f"{route}?{query}", body)
        assert response.status_code in (400, 422), (name, response.text)
    assert served.get("/v1/models?unknown").status_code == 200


def test_no_body_of_any_route_has_room_for_an_unknown_field() -> None:
    for kind in {one for body in BODIES for one in bodies(body).values()}:
        # Of messages, `check_unread` refuses the fields that the chat template reads.
        wanted = "allow" if issubclass(kind, openai_bodies.Message) else "forbid"
        assert kind.model_config["extra"] == wanted, kind


def test_logits_are_returned_if_the_activation_is_switched_off(served: Any) -> None:
    body = {"model": "acme/reviews", "input": "the soup was bright."}
    (logits,) = served.post("/classify", {**body, "use_activation": False}).json()["data"]
    raw = served.post("/predict", {"model": "acme/reviews", "inputs": body["input"], "raw_scores": True}).json()
    assert sorted(logits["probs"], reverse=True) == pytest.approx([one["score"] for one in raw])
    (value,) = served.post("/classify", {**body, "model": "acme/price"}).json()["data"]
    for change in ({"use_activation": False}, {"use_activation": True}, {"use_activation": None}):
        (same,) = served.post("/classify", {**body, **change, "model": "acme/price"}).json()["data"]
        assert same["probs"] == pytest.approx(value["probs"])
    same = served.post("/predict", {"model": "acme/price", "inputs": body["input"], "raw_scores": True}).json()
    assert [one["score"] for one in same] == pytest.approx(value["probs"])


def test_a_message_is_classified_as_its_text(served: Any) -> None:
    chat = {"model": "acme/reviews", "messages": [{"role": "user", "content": "the soup was bright."}]}
    text = {"model": "acme/reviews", "input": "the soup was bright."}
    assert answered(served, "/classify", chat) == answered(served, "/classify", text)
    for wrong in (
        {**chat, **text},
        {"model": "acme/reviews"},
        {**chat, "messages": []},
        {**chat, "messages": chat["messages"] * 2},
    ):
        assert answered(served, "/classify", wrong)[0] == 400, wrong


@pytest.mark.parametrize(("most", "side"), [(None, None), (None, "left"), (1, "right"), (3, "left")])
def test_a_text_is_truncated_as_asked_and_the_receipt_computes_it_again(
    served: Any, most: int | None, side: Any
) -> None:
    words = served.backbone.tokenizer
    texts = [f"ferry {LONG} bright.", "the soup was bright."]
    body = {"model": "acme/reviews", "input": texts, "truncate_prompt_tokens": most, "truncation_side": side}
    response = served.post("/classify", body)
    assert response.status_code == 200, response.text
    longest = served.backbone.longest
    kept = min(most or longest, longest)
    receipt = Receipt.parse(response.headers["afina-receipt"])
    predictor = ModelPredictor.of(served.adapters["acme/reviews@1"], served.backbone)
    asked = None if receipt.truncation is None else receipt.truncation.truncation
    for text, found in zip(texts, response.json()["data"], strict=True):
        ids = words(text)["input_ids"]
        ids = ids[-kept:] if side == "left" else ids[:kept]
        alone = replayed(predictor, None, text, truncation=asked)
        assert found["probs"] == pytest.approx([*alone["probabilities"].values()], abs=1e-5)
        assert replace(predictor, truncation=asked or Truncation()).encode([text])[0].tolist() == ids
    assert response.json()["usage"]["prompt_tokens"] == sum(min(kept, len(words(text)["input_ids"])) for text in texts)
    expected = Truncation(most if kept < longest else None, "left" if side == "left" else None)
    assert asked == (None if expected == Truncation() else expected)


def test_a_truncation_without_effect_is_not_in_the_receipt(served: Any) -> None:
    body = {"model": "acme/reviews", "input": "soup", "truncate_prompt_tokens": 50, "truncation_side": "left"}
    receipt = Receipt.parse(served.post("/classify", body).headers["afina-receipt"])
    assert receipt.truncation is None


@pytest.mark.parametrize("most", [0, -2, True, 1.5, "3", 10_000])
def test_a_truncation_to_nothing_or_to_more_than_the_model_reads_is_refused(served: Any, most: Any) -> None:
    body = {"model": "acme/reviews", "input": "soup", "truncate_prompt_tokens": most}
    refused = served.post("/classify", body)
    assert (refused.status_code, refused.json()["error"]["type"]) == (400, "BadRequestError")
    longest = served.get("/v1/models/acme/reviews").json()["max_model_len"]
    assert served.post("/classify", {**body, "truncate_prompt_tokens": longest}).status_code == 200


@pytest.mark.parametrize(
    ("route", "change"),
    [
        ("/predict", {"truncate": False}),
        ("/models/acme/reviews", {"parameters": {"function_to_apply": "sigmoid"}}),
        ("/v2/models/acme/reviews/infer", {"outputs": [{"name": "logits"}]}),
    ],
)
def test_what_does_not_suit_the_model_is_refused_before_anything_is_computed(
    served: Any, monkeypatch: pytest.MonkeyPatch, route: str, change: dict[str, Any]
) -> None:
    submitted: list[Any] = []
    monkeypatch.setattr(served.core, "submit", submitted.append)
    assert served.post(route, changed(ROUTES[route][1], change)).status_code == 422
    assert submitted == []


TOLD = {"model": "acme/told", "prompt": "a"}
TAKEN: list[tuple[str, dict[str, Any]]] = [
    *((route, body) for route, (_, body) in ROUTES.items() if route != "/bulk"),
    ("/predict", {"model": "acme/reviews", "inputs": [["a"], ["b", "c"]]}),
    ("/predict", {"model": "acme/reviews", "inputs": ["b", "c"], "truncation_direction": "right"}),
    ("/classify", {"model": "acme/reviews", "messages": [{"role": "user", "content": "a"}], "input": None}),
    ("/classify", {"model": "acme/reviews", "input": ["a"], "messages": None, "truncate_prompt_tokens": -1}),
    (
        "/models/acme/places",
        {"inputs": ["a"], "parameters": {"aggregation_strategy": "simple", "ignore_labels": ["O"]}},
    ),
    ("/v2/models/acme/reviews/infer", {"inputs": [TENSOR, {**TENSOR, "name": "pair"}]}),
    ("/v2/models/acme/reviews/infer", {"inputs": [{**TENSOR, "shape": [1, 1], "data": [["a"]]}]}),
    ("/v2/models/acme/reviews/infer", {"inputs": [{**TENSOR, "name": "INPUT0"}]}),
]
LEFT: list[tuple[str, dict[str, Any]]] = [
    ("/predict", {"model": "acme/reviews", "inputs": [[]]}),
    ("/predict", {"model": "acme/reviews", "inputs": ["a", "b", "c"]}),
    ("/predict", {"model": "acme/reviews", "inputs": " "}),
    ("/classify", {"model": "acme/reviews"}),
    ("/classify", {"model": "acme/reviews", "input": "a", "messages": [{"role": "user", "content": "a"}]}),
    ("/classify", {"model": "acme/reviews", "input": []}),
    ("/classify", {"model": "acme/reviews", "input": [1, 2]}),
    ("/classify", {"model": "acme/reviews", "input": "a", "truncate_prompt_tokens": 0}),
    ("/classify", {"model": "acme/reviews", "input": "a", "priority": 1}),
    ("/models/acme/places", {"inputs": "a", "parameters": {"aggregation_strategy": "words"}}),
    ("/models/acme/places", {"inputs": "a", "parameters": {"stride": 8}}),
    ("/pooling", {"model": "acme/places", "input": [1, 2]}),
    ("/pooling", {"model": "acme/places", "input": "a", "task": "token_embed"}),
    ("/v2/models/acme/reviews/infer", {"inputs": [{**TENSOR, "name": "pair"}]}),
    ("/v2/models/acme/reviews/infer", {"inputs": [TENSOR, TENSOR]}),
    ("/v2/models/acme/reviews/infer", {"inputs": [TENSOR, {**TENSOR, "name": "INPUT1"}]}),
    ("/v2/models/acme/reviews/infer", {"inputs": [TENSOR], "parameters": {"priority": -1}}),
    ("/v2/models/acme/reviews/infer", {"inputs": [{**TENSOR, "shape": [0], "data": []}]}),
    ("/v2/models/acme/reviews/infer", {"inputs": [{one: TENSOR[one] for one in TENSOR if one != "data"}]}),
    ("/v2/models/acme/reviews/infer", {"inputs": [TENSOR], "outputs": []}),
    ("/tasks", {"text": "a", "models": []}),
    ("/tasks", {"text": "a", "pair": "", "models": ["acme/reviews"]}),
    ("/predict", {"inputs": "a"}),
    ("/classify", {"model": "acme/reviews", "input": "a", "add_special_tokens": 1}),
    ("/v1/completions", {**TOLD, "prompt": ""}),
    ("/v1/completions", {**TOLD, "prompt": ["a", "\u200b"]}),
    ("/v1/completions", {**TOLD, "stop": [""]}),
    ("/v1/completions", {**TOLD, "logit_bias": {"a": 1}}),
    ("/v1/completions", {**TOLD, "use_beam_search": 0}),
    ("/v1/completions", {**TOLD, "stream": True, "stream_options": {"include_obfuscation": 0}}),
    ("/v1/completions", {**TOLD, "structured_outputs": {"regex": "a", "choice": ["a"]}}),
    ("/v1/completions", {**TOLD, "structured_outputs": {"choice": None}}),
    ("/v1/responses", {"model": "acme/talk", "input": "a", "background": 0}),
]


@pytest.fixture(scope="module")
def description(served: Any) -> Any:
    return served.get("/openapi.json").json()


@pytest.mark.parametrize(
    ("route", "body", "fits"),
    [*((*one, True) for one in TAKEN), *((*one, False) for one in LEFT)],
    ids=lambda value: str(value)[:50],
)
def test_the_description_permits_what_the_server_takes(
    served: Any, description: Any, route: str, body: dict[str, Any], fits: bool
) -> None:
    path = re.sub("acme/(reviews|places|told)", "{client}/{task}", route)
    schema = description["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]
    whole = {**schema, "components": description["components"]}
    assert jsonschema.Draft202012Validator(whole).is_valid(body) == fits
    assert (served.post(route, body).status_code == 200) == fits


def test_an_integer_may_be_written_with_a_point(served: Any) -> None:
    text = '{"inputs": "soup", "parameters": {"top_k": %s}}'

    def status(number: str) -> int:
        headers = {**served.auth(), "Content-Type": "application/json"}
        return int(served.web.post("/models/acme/reviews", content=text % number, headers=headers).status_code)

    assert [status(one) for one in ("1", "1.0", "1e0", "10e-1", "2E0")] == [200] * 5
    assert [status(one) for one in ("1.5", "1e-1", "-1.0", "1e999", "1e17", "-0.0")] == [422] * 6
