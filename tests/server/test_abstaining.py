"""Adapters that leave texts unanswered: each protocol says so, as `predict` does, and everything else is as before."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from huggingface_hub import TextClassificationOutputElement
from jsonschema import Draft202012Validator
from test_protocols import near

from afina import Adapter, Backbone, Predictor
from afina.engine.mixed_batches import Prediction
from afina.models import objectives
from afina.server.answer_formats import ANSWER_FORMATS, NOT_ANSWERED, compared
from afina.server.versions.shadow_counts import AnswerDifference, ShadowCounts
from crowd import adapter
from servers import TAGS, Served, logged, probed, serving

TEXTS = [f"the {noun} was {word}." for noun in ("soup", "road", "sky") for word in ("bright", "late", "bad")]
NAMES = ("acme/careful@1", "acme/careful_tags@1")


def abstaining(backbone: Backbone, **given: Any) -> Adapter:
    """An adapter that answers about half of TEXTS."""
    settings = dict(given.pop("objective", {"kind": "classes", "temperature": 1.0}))
    plain = Predictor.of(adapter(backbone, "lora", {"r": 2}, objective=settings, **given), backbone)
    confidence = plain.objective.confidence(plain.predict(TEXTS)[0])
    assert confidence is not None
    below = float(np.sort(confidence)[len(TEXTS) // 2 - 1 :][:2].mean())
    settings["abstain_below"] = below
    return probed(adapter(backbone, "lora", {"r": 2}, objective=settings, **given), backbone)


@pytest.fixture(scope="module")
def careful(gpt2: Backbone, crowd: dict[str, Adapter], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Adapters with and without a threshold; `acme/reviews@1` has the weights of `acme/careful@1`."""
    made = {
        "acme/reviews@1": crowd["acme/reviews@1"],
        "acme/careful@1": abstaining(gpt2, seed=1),
        "acme/careful_tags@1": abstaining(gpt2, seed=3, **TAGS),
    }
    with serving(gpt2, made, tmp_path_factory.mktemp("careful")) as served:
        yield served


def tensor(*texts: str) -> dict[str, Any]:
    return {"inputs": [{"name": "text", "shape": [len(texts)], "datatype": "BYTES", "data": [*texts]}]}


@pytest.mark.slow
def test_answers_of_several_models_and_lines_are_those_of_predict(careful: Served) -> None:
    names = [*NAMES, "acme/reviews@1"]
    alone = {name: careful.alone(name, *TEXTS) for name in names}
    for name in NAMES:
        assert {one["answered"] for one in alone[name]} == {True, False}, "a case of both"
    lines = [{"model": name, "text": text} for text in TEXTS for name in names]
    content = "\n".join(map(json.dumps, lines)).encode()
    response = careful.web.post("/bulk", content=content, headers=careful.auth())
    tasks = careful.post("/tasks", {"text": TEXTS[0], "models": names}).json()["results"]
    answers = [*tasks, *map(json.loads, response.text.splitlines())]
    expected = [*(alone[name][0] for name in names), *(alone[name][row] for row in range(len(TEXTS)) for name in names)]
    for answer, own in zip(answers, expected, strict=True):
        assert near({key: answer[key] for key in answer if key not in ("model", "truncated", "receipt")}, own)


def test_vllm_has_a_field(careful: Served) -> None:
    for name in NAMES:
        alone = careful.alone(name, *TEXTS)
        found = careful.post("/classify", {"model": name, "input": TEXTS}).json()["data"]
        assert [one["answered"] for one in found] == [one["answered"] for one in alone]
        for one, other in zip(found, alone, strict=True):
            assert one["probs"] == pytest.approx([*other["probabilities"].values()], abs=1e-5)
    plain = careful.post("/classify", {"model": "acme/reviews", "input": TEXTS}).json()["data"]
    assert all([*one] == ["index", "label", "probs", "num_classes"] for one in plain)


@pytest.mark.parametrize("name", NAMES)
def test_lists_of_labels_begin_with_a_label_of_its_own(careful: Served, name: str) -> None:
    alone = careful.alone(name, *TEXTS)
    batch = careful.post("/predict", {"inputs": [[text] for text in TEXTS], "model": name}).json()
    hub = careful.post(f"/models/{name}", {"inputs": TEXTS}).json()
    top = careful.post(f"/models/{name}", {"inputs": TEXTS, "parameters": {"top_k": 1}}).json()
    for ranked in (batch, hub):
        for one, expected in zip(ranked, alone, strict=True):
            assert (one[0] == {"label": NOT_ANSWERED, "score": 1.0}) == (not expected["answered"])
            scores = [each["score"] for each in one]
            assert scores == sorted(scores, reverse=True)
            own = {each["label"]: each["score"] for each in one if each["label"] != NOT_ANSWERED}
            assert own == pytest.approx(expected["probabilities"], abs=1e-5)
    said = [TextClassificationOutputElement.parse_obj_as_instance(one[0]).label for one in top]
    assert [label == NOT_ANSWERED for label in said] == [not one["answered"] for one in alone]
    raw = careful.post("/predict", {"inputs": [[text] for text in TEXTS], "model": name, "raw_scores": True}).json()
    for one, expected in zip(raw, alone, strict=True):
        assert (one[0]["label"] == NOT_ANSWERED) == (not expected["answered"])
        assert one[0]["score"] == max(each["score"] for each in one)


@pytest.mark.parametrize("name", NAMES)
def test_the_open_inference_protocol_has_a_further_tensor(careful: Served, name: str) -> None:
    task = name.partition("@")[0]
    expected = [one["answered"] for one in careful.alone(name, *TEXTS)]
    path = f"/v2/models/{task}"
    outputs = careful.post(f"{path}/infer", tensor(*TEXTS)).json()["outputs"]
    assert [one["name"] for one in outputs][1:] == ["probabilities", "answered"]
    assert outputs[2] == {"name": "answered", "shape": [len(TEXTS)], "datatype": "BOOL", "data": expected}
    assert careful.get(path).json()["outputs"][2] == {"name": "answered", "datatype": "BOOL", "shape": [-1]}
    asked = {"name": "answered", "parameters": {"binary_data": True}}
    binary = careful.post(f"{path}/infer", {**tensor(*TEXTS), "outputs": [asked]})
    length = int(binary.headers["Inference-Header-Content-Length"])
    assert np.frombuffer(binary.content[length:], "?").tolist() == expected
    assert [one["name"] for one in careful.get("/v2/models/acme/reviews").json()["outputs"]] == [
        "label",
        "probabilities",
    ]


def test_responses_are_as_described(careful: Served) -> None:
    said = careful.get("/openapi.json").json()
    bodies = {
        "/tasks": {"text": TEXTS[0], "models": [*NAMES, "acme/reviews"]},
        "/classify": {"model": NAMES[0], "input": TEXTS},
        "/predict": {"model": NAMES[1], "inputs": [[text] for text in TEXTS]},
    }
    for path, body in bodies.items():
        shape = said["paths"][path]["post"]["responses"]["200"]["content"]["application/json"]["schema"]
        assert "answered" in json.dumps(shape), path
        Draft202012Validator({**shape, "components": said.get("components", {})}).validate(
            careful.post(path, body).json()
        )


def test_texts_that_are_not_answered_are_counted_by_version_and_in_the_log(
    careful: Served, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    expected = sum(not one["answered"] for one in careful.alone("acme/careful@1", *TEXTS))
    figures = [f'afina_abstaining_texts_total{{answered="{one}",version="acme/careful@1"}}' for one in ("no", "yes")]
    before = [careful.figure(one) for one in figures]
    careful.post("/classify", {"model": "acme/careful", "input": TEXTS})
    careful.post("/classify", {"model": "acme/reviews", "input": TEXTS})
    after = [careful.figure(one) for one in figures]
    assert [new - old for new, old in zip(after, before, strict=True)] == [expected, len(TEXTS) - expected]
    lines = careful.get("/metrics", "acme-admin").text.splitlines()
    assert not [line for line in lines if line.startswith("afina_abstaining_texts") and "acme/reviews" in line]
    requests = [one for one in logged(caplog) if one["message"] == "request" and one["route"] == "/classify"]
    assert [one.get("unanswered") for one in requests] == [expected, None]


def test_a_label_of_the_same_name_is_another_one() -> None:
    objective = objectives.make((NOT_ANSWERED, "good"), {"kind": "classes", "temperature": 1.0, "abstain_below": 0.9})
    answer = {"label": "good", "probabilities": {NOT_ANSWERED: 0.4, "good": 0.6}, "answered": False}
    one = Prediction(answer, "classes", np.zeros(2), "sha256:a", None, truncated=False)
    ranked = ANSWER_FORMATS["classes"].ranked(objective, one)
    assert [each.label for each in ranked] == [f"({NOT_ANSWERED})", "good", NOT_ANSWERED]


def said(label: str, chance: float, answered: bool | None) -> Prediction:
    rest = {} if answered is None else {"answered": answered}
    other = {"good": "bad", "bad": "good"}[label]
    answer = {"label": label, "probabilities": {label: chance, other: 1 - chance}, **rest}
    return Prediction(answer, "classes", np.zeros(2), "sha256:a", None, truncated=False)


def test_a_shadow_flips_only_what_both_answer() -> None:
    pairs = [
        (said("good", 0.75, None), said("bad", 0.75, True)),
        (said("good", 0.75, None), said("bad", 0.625, False)),
        (said("good", 0.5, False), said("good", 0.75, None)),
        (said("good", 0.5, False), said("bad", 0.5, False)),
        (said("good", 0.75, True), said("good", 0.75, None)),
    ]
    seen = [compared(*pair) for pair in pairs]
    assert seen[1] == AnswerDifference(True, -0.375, by_current=True, by_shadow=False)
    counts = ShadowCounts()
    for one in seen:
        counts = counts.seen(one)
    assert (counts.texts, counts.both, counts.flips, counts.flip_rate) == (5, 2, 1, 0.5)
    assert (counts.only_current, counts.only_shadow, counts.unanswered) == (1, 1, 1)
    assert ShadowCounts.of(counts.as_json()) == counts
    twice = counts.plus(counts)
    assert (twice.both, twice.only_current, twice.only_shadow, twice.unanswered) == (4, 2, 2, 2)
    older = {key: value for key, value in ShadowCounts(3, 1).as_json().items() if not key.startswith(("only", "un"))}
    assert ShadowCounts.of(older) == ShadowCounts(3, 1), "counts of a server that does not know abstention"
