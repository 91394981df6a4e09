"""OpenAI's protocol, asked with the package `openai`: the answers are those of each adapter alone."""

from __future__ import annotations

import asyncio
import json
import re
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import jsonschema
import numpy as np
import openai
import pytest
import torch
from jsonschema import Draft202012Validator
from openai import OpenAI
from openai.types import CompletionChoice

from afina import Adapter, Backbone
from afina.data.batch import pack
from afina.data.template import Template
from afina.errors import InvalidData
from afina.generating import guides
from afina.generating.guides import Grammar
from afina.predicting.predictor import ModelPredictor
from afina.server.protocols import openai_bodies
from afina.server.protocols.openai_answers import CompletionFormat, WrittenAnswer
from afina.server.protocols.openai_bodies import CompletionRequest
from afina.server.receipts import Receipt
from crowd import adapter
from fakes import VOCABULARY
from servers import TOLD, Listening, Served, listening, predictor, serving, talk, within

PROMPT = "the soup was bright."


@pytest.fixture(scope="module")
def talkers(chatting: Backbone) -> dict[str, Adapter]:
    """Adapters that answer with texts: from a template, from a chat, and drawn at random; and others."""
    drawn = {**TOLD, "objective": {**TOLD["objective"], "decoding": {"temperature": 0.9, "top_k": 40, "seed": 3}}}
    return {
        "acme/reviews@1": adapter(chatting, "lora", {"r": 2}, seed=1),
        "acme/told@1": adapter(chatting, "lora", {"r": 2}, seed=2, **TOLD),
        "acme/drawn@1": adapter(chatting, "lora", {"r": 4}, seed=3, **drawn),
        "acme/talk@1": adapter(chatting, "lora", {"r": 2}, seed=4, **talk(chatting)),
        "bolt/told@1": adapter(chatting, "ia3", seed=5, **TOLD),
    }


@pytest.fixture(scope="module")
def served(
    chatting: Backbone, talkers: dict[str, Adapter], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    with serving(chatting, talkers, tmp_path_factory.mktemp("talking")) as made:
        yield made


@pytest.fixture(scope="module")
def client(served: Served) -> OpenAI:
    return OpenAI(api_key=served.secrets["acme"], base_url="http://test/v1", http_client=served.web, max_retries=0)


@pytest.fixture(scope="module")
def listened(
    chatting: Backbone, talkers: dict[str, Adapter], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Listening]:
    with listening(chatting, talkers, tmp_path_factory.mktemp("listened"), max_new_tokens=200) as made:
        yield made


def alone(served: Served, name: str, text: str, **decoding: Any) -> str:
    """The answer of an adapter by itself."""
    (answer,) = predictor(served.adapters[name], served.backbone).generating(**decoding)([text])
    return str(answer["answer"])


# Completions


def test_a_completion_is_the_adapters_own_answer(served: Served, client: OpenAI) -> None:
    raw = client.completions.with_raw_response.create(model="acme/told", prompt=PROMPT, max_tokens=12)
    found = raw.parse()
    (choice,) = found.choices
    assert choice.text == alone(served, "acme/told@1", PROMPT, max_new_tokens=12)
    assert (choice.index, choice.logprobs, found.model, found.object) == (0, None, "acme/told", "text_completion")
    assert choice.finish_reason in ("stop", "length")
    prompt = Template(TOLD["template"]).render(PROMPT)
    assert found.usage is not None
    assert found.usage.prompt_tokens == len(served.backbone.tokenizer(prompt)["input_ids"])
    assert 1 <= found.usage.completion_tokens <= 12
    assert found.usage.total_tokens == found.usage.prompt_tokens + found.usage.completion_tokens
    assert found.system_fingerprint == Receipt.parse(raw.headers["Afina-Receipt"]).adapter
    receipt = Receipt.parse(raw.headers["Afina-Receipt"])
    assert receipt.version == "acme/told@1"
    assert receipt.generation is not None
    assert receipt.generation.max_new_tokens == 12


def test_without_settings_the_adapters_own_hold(served: Served, client: OpenAI) -> None:
    for name in ("told", "drawn"):
        found = client.completions.create(model=f"acme/{name}@1", prompt=PROMPT)
        assert found.choices[0].text == alone(served, f"acme/{name}@1", PROMPT)


def test_several_prompts_have_an_answer_each_in_their_order(served: Served, client: OpenAI) -> None:
    prompts = [PROMPT, "a dull play", "What a warm ferry!"]
    found = client.completions.create(model="acme/told", prompt=prompts, max_tokens=6)
    assert [one.text for one in found.choices] == [
        alone(served, "acme/told@1", prompt, max_new_tokens=6) for prompt in prompts
    ]
    assert [one.index for one in found.choices] == [0, 1, 2]


def test_a_seed_gives_the_same_answers_and_another_seed_others(served: Served, client: OpenAI) -> None:
    def drawn(seed: int, **more: Any) -> list[str]:
        found = client.completions.create(
            model="acme/told", prompt=PROMPT, temperature=1.5, top_p=0.95, seed=seed, max_tokens=12, **more
        )
        return [one.text for one in found.choices]

    first = drawn(7, n=3)
    assert first == drawn(7, n=3)
    assert len({*first}) == 3
    assert drawn(7) == first[:1]
    assert first[0] == alone(served, "acme/told@1", PROMPT, temperature=1.5, top_p=0.95, seed=7, max_new_tokens=12)
    assert drawn(8) != drawn(7)


def test_temperature_0_is_greedy_also_where_the_adapter_draws(served: Served, client: OpenAI) -> None:
    found = client.completions.create(model="acme/drawn", prompt=PROMPT, temperature=0, top_p=0.5, max_tokens=8)
    greedy = alone(served, "acme/drawn@1", PROMPT, temperature=0, top_k=0, max_new_tokens=8)
    assert found.choices[0].text == greedy


def test_a_stop_string_ends_the_answer_before_it(client: OpenAI) -> None:
    whole = client.completions.create(model="acme/told", prompt=PROMPT, max_tokens=30).choices[0].text
    stop = whole[len(whole) // 2 :][:2]
    found = client.completions.create(model="acme/told", prompt=PROMPT, max_tokens=30, stop=[stop, "never said"])
    assert found.choices[0].text == whole[: whole.index(stop)].strip()
    assert found.choices[0].finish_reason == "stop"


def test_without_the_template_the_prompt_is_taken_as_it_is(client: OpenAI) -> None:
    whole = Template(TOLD["template"]).render(PROMPT)
    raw = client.completions.create(model="acme/told", prompt=whole, extra_body={"template": False}, max_tokens=8)
    usual = client.completions.create(model="acme/told", prompt=PROMPT, max_tokens=8)
    assert raw.choices[0].text == usual.choices[0].text
    with pytest.raises(openai.BadRequestError) as refused:  # a prompt that is taken as it is, is never cut
        client.completions.create(model="acme/told", prompt="soup " * 400, extra_body={"template": False})
    assert (refused.value.code, refused.value.param) == ("context_length_exceeded", "prompt")


def test_a_prompt_that_leaves_no_room_for_an_answer_is_too_long(served: Served) -> None:
    for stream in (False, True):
        body = {"model": "acme/told", "prompt": "soup " * 3_000, "stream": stream}
        error = served.post("/v1/completions", body).json()["error"]
        assert (error["code"], error["param"]) == ("context_length_exceeded", "prompt")


def test_logprobs_of_a_completion(client: OpenAI) -> None:
    found = client.completions.create(model="acme/told", prompt=PROMPT, max_tokens=10, logprobs=3)
    (choice,) = found.choices
    said = choice.logprobs
    assert said is not None
    assert found.usage is not None
    assert len(said.tokens or []) == found.usage.completion_tokens
    for token, value, top in zip(said.tokens or [], said.token_logprobs or [], said.top_logprobs or [], strict=True):
        assert value <= 0
        assert top[token] == value == max(top.values())  # greedy
        assert len(top) == 3
    offsets = said.text_offset or []
    assert offsets == sorted(offsets)
    assert offsets[0] == 0
    assert offsets[-1] <= len(choice.text) + 1


CHANGED: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "presence": ({"presence_penalty": 2}, {"presence_penalty": 2}),
    "frequency": ({"frequency_penalty": 1.5}, {"frequency_penalty": 1.5}),
    "repetition": ({"repetition_penalty": 1.8}, {"repetition_penalty": 1.8}),
    "bias": ({"logit_bias": {"97": 100, "5": -3.5}}, {"logit_bias": {97: 100, 5: -3.5}}),
    "min-p": (
        {"min_p": 0.4, "top_k": -1, "temperature": 1.5, "seed": 3},
        {"min_p": 0.4, "temperature": 1.5, "seed": 3},
    ),
    "length": ({"min_tokens": 12, "ignore_eos": True}, {"min_new_tokens": 12, "ignore_eos": True}),
}


def completed(served: Served, client: OpenAI, body: dict[str, Any], decoding: dict[str, Any]) -> CompletionChoice:
    """A completion of the prompt, which is that of the adapter alone and whose receipt has the decoding."""
    raw = client.completions.with_raw_response.create(model="acme/told", prompt=PROMPT, max_tokens=12, extra_body=body)
    (choice,) = raw.parse().choices
    assert choice.text == alone(served, "acme/told@1", PROMPT, max_new_tokens=12, **decoding)
    facts = Receipt.parse(raw.headers["Afina-Receipt"]).generation
    assert facts is not None
    assert facts.model_dump(exclude_defaults=True) == {"max_new_tokens": 12, **decoding}
    return choice


@pytest.mark.parametrize("name", CHANGED)
def test_what_changes_the_logits_gives_the_answer_of_the_adapter_alone(
    served: Served, client: OpenAI, name: str
) -> None:
    choice = completed(served, client, *CHANGED[name])
    usual = alone(served, "acme/told@1", PROMPT, max_new_tokens=12)
    assert choice.text != usual or name == "length"


def test_a_stop_token_of_the_usual_answer_ends_it_early(served: Served, client: OpenAI) -> None:
    usual = alone(served, "acme/told@1", PROMPT, max_new_tokens=12)
    token = served.backbone.tokenizer(usual)["input_ids"][-2]
    choice = completed(served, client, {"stop_token_ids": [token]}, {"stop_token_ids": (token,)})
    assert choice.finish_reason == "stop"
    assert usual.startswith(choice.text)
    assert choice.text != usual


def test_prompts_of_token_ids_are_taken_as_they_are(served: Served, client: OpenAI) -> None:
    words, texts = (
        served.backbone.tokenizer,
        [Template(TOLD["template"]).render(one) for one in (PROMPT, "a dull play")],
    )
    ids = [list(words(text)["input_ids"]) for text in texts]
    raw = client.completions.create(model="acme/told", prompt=texts, extra_body={"template": False}, max_tokens=8)
    found = client.completions.create(model="acme/told", prompt=ids, max_tokens=8)
    assert [one.text for one in found.choices] == [one.text for one in raw.choices]
    assert found.usage == raw.usage
    alone = client.completions.with_raw_response.create(model="acme/told", prompt=ids[1], max_tokens=8)
    assert alone.parse().choices[0].text == found.choices[1].text
    facts = Receipt.parse(alone.headers["Afina-Receipt"]).generation
    assert facts is not None
    assert facts.prompt == "tokens"
    streamed = client.completions.create(model="acme/told", prompt=ids[0], max_tokens=8, stream=True)
    assert "".join(one.text for event in streamed for one in event.choices) == found.choices[0].text


def logprobs_alone(served: Served, name: str, prompt: list[int]) -> torch.Tensor:
    """Log-probabilities of the tokens after each token of a prompt but the last, by the adapter alone, [L - 1, V]."""
    found = predictor(served.adapters[name], served.backbone)
    assert isinstance(found, ModelPredictor)
    model = found.classifier.eval()
    with torch.inference_mode():
        rows = [np.array(prompt[:count]) for count in range(1, len(prompt))]
        return model.answer(model.features(pack(rows))).log_softmax(-1)


@pytest.mark.parametrize(("most", "logprobs"), [(0, 1), (1, 5), (4, 0)])
def test_an_echoed_prompt_has_its_log_probabilities(served: Served, client: OpenAI, most: int, logprobs: int) -> None:
    words = served.backbone.tokenizer
    ids = [list(words(text)["input_ids"]) for text in (PROMPT, "What a warm ferry! Zoë")]
    found = client.completions.create(
        model="acme/told", prompt=ids, max_tokens=most, echo=True, logprobs=logprobs, temperature=0
    )
    plain = client.completions.create(model="acme/told", prompt=ids, max_tokens=max(most, 1), logprobs=logprobs)
    assert found.usage is not None
    assert found.usage.prompt_tokens == sum(map(len, ids))
    assert most or not found.usage.completion_tokens
    for choice, prompt, other in zip(found.choices, ids, plain.choices, strict=True):
        said, rows = choice.logprobs, logprobs_alone(served, "acme/told@1", prompt)
        assert said is not None
        assert other.logprobs is not None
        values, tops = said.token_logprobs or [], said.top_logprobs or []
        answer = slice(0, most)
        assert values[len(prompt) :] == pytest.approx((other.logprobs.token_logprobs or [])[answer], abs=1e-5)
        assert (said.tokens or [])[len(prompt) :] == (other.logprobs.tokens or [])[answer]
        assert values[0] is None
        assert tops[0] is None
        for row, token, value, top in zip(rows, prompt[1:], values[1:], tops[1:], strict=False):
            assert value == pytest.approx(float(row[token]), abs=1e-4)
            assert max(top.values()) == (pytest.approx(float(row.max()), abs=1e-4) if logprobs else value)
            assert max(logprobs, 1) <= len(top) <= logprobs + 1
        text = words.decode(prompt)
        assert choice.text.startswith(text)
        assert choice.text[len(text) :].strip() == (other.text if most else "")
        offsets = said.text_offset or []
        assert len(offsets) == len(said.tokens or []) == len(values) == len(tops)
        assert offsets == sorted(offsets)
        assert [choice.text[one:][:1] for one in offsets[:3]] == [token[:1] for token in (said.tokens or [])[:3]]


def test_an_echoed_text_is_the_text_and_its_answer_continues_it(served: Served, client: OpenAI) -> None:
    more = {"template": False, "echo": True}
    found = client.completions.create(
        model="acme/told", prompt="A warm ferry, Zoë", max_tokens=6, n=2, temperature=1, extra_body=more
    )
    assert [one.text.startswith("A warm ferry, Zoë") for one in found.choices] == [True, True]
    assert [one.logprobs for one in found.choices] == [None, None]
    ids = [list(served.backbone.tokenizer("A warm ferry, Zoë")["input_ids"])]
    whole = client.completions.create(model="acme/told", prompt=ids, max_tokens=6, n=2, temperature=1, echo=True)
    assert [one.text for one in whole.choices] == [one.text for one in found.choices]


def test_log_probabilities_are_written_in_a_thread_beside_the_event_loop(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads, response = list[str](), CompletionFormat.response

    def noted(*given: Any) -> Any:
        threads.append(threading.current_thread().name)
        return response(*given)

    monkeypatch.setattr(CompletionFormat, "response", noted)
    asking = {"model": "acme/told", "prompt": [5, 6, 7], "echo": True, "max_tokens": 1, "logprobs": 1}
    assert served.post("/v1/completions", asking).status_code == 200
    assert threads[0].startswith("afina-desk")


def test_an_echo_in_a_stream_or_with_too_many_log_probabilities_is_refused(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    asking = {"model": "acme/told", "prompt": [[5, 6, 7]] * 4, "echo": True, "max_tokens": 1, "logprobs": 1}
    refused = served.post("/v1/completions", {**asking, "stream": True})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "echo")
    monkeypatch.setattr(openai_bodies, "ECHOED", 23)
    refused = served.post("/v1/completions", asking)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "echo")
    monkeypatch.setattr(openai_bodies, "ECHOED", 24)
    assert served.post("/v1/completions", asking).status_code == 200


def test_more_values_than_other_bodies_may_have_are_a_prompt_of_token_ids(served: Served) -> None:
    many = {"model": "acme/told", "prompt": [[5] * 200] * 50, "max_tokens": 1}
    assert served.post("/v1/completions", many).status_code == 200
    assert served.post("/v1/completions", {**many, "prompt": [[5] * 1400] * 50}).status_code == 400


@pytest.mark.parametrize("count", [0, 1])
def test_a_drawn_token_is_among_the_reported_ones(client: OpenAI, count: int) -> None:
    more: Any = {"max_tokens": 8, "temperature": 2, "seed": 1}
    said = client.completions.create(model="acme/told", prompt=PROMPT, logprobs=count, **more).choices[0].logprobs
    assert said is not None
    tops = said.top_logprobs or []
    assert [top[token] for token, top in zip(said.tokens or [], tops, strict=True)] == said.token_logprobs
    assert max(map(len, tops)) == count + 1
    assert min(map(len, tops)) >= max(count, 1)


# Chats


def test_a_chat_of_one_message_is_the_adapters_own_answer(served: Served, client: OpenAI) -> None:
    raw = client.chat.completions.with_raw_response.create(
        model="acme/talk", messages=[{"role": "user", "content": PROMPT}], max_completion_tokens=10
    )
    found = raw.parse()
    (choice,) = found.choices
    assert choice.message.role == "assistant"
    assert choice.message.content == alone(served, "acme/talk@1", PROMPT, max_new_tokens=10)
    assert found.object == "chat.completion"
    assert Receipt.parse(raw.headers["Afina-Receipt"]).version == "acme/talk@1"


def test_a_chat_without_a_limit_may_be_longer_than_the_longest_training_target(served: Served) -> None:
    def limits(path: str, **asked: Any) -> tuple[int, int]:
        found = served.post(path, {"model": "acme/talk", **asked})
        facts, used = Receipt.parse(found.headers["Afina-Receipt"]).generation, found.json()["usage"]
        assert facts is not None
        return facts.max_new_tokens, used.get("prompt_tokens") or used["input_tokens"]

    for most, prompt in (
        limits("/v1/chat/completions", messages=[{"role": "user", "content": PROMPT}]),
        limits("/v1/responses", input=PROMPT),
    ):
        assert most == served.backbone.longest - prompt
    assert limits("/v1/completions", prompt=PROMPT)[0] == TOLD["objective"]["answer_tokens"]


def test_a_chat_with_the_model_of_the_path_is_that_of_its_model(served: Served) -> None:
    asked = {"messages": [{"role": "user", "content": PROMPT}], "max_tokens": 6}
    path = "/models/acme/talk/v1/chat/completions"
    expected = served.post("/v1/chat/completions", {**asked, "model": "acme/talk"}).json()
    for model in ("dummy", "acme/talk"):
        found = served.post(path, {**asked, "model": model}).json()
        assert (found["choices"], found["model"]) == (expected["choices"], "acme/talk")
    refused = served.post(path, {**asked, "model": "acme/told"})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "model")


def test_a_chat_has_the_earlier_messages_in_its_prompt(served: Served, client: OpenAI) -> None:
    messages: list[Any] = [
        {"role": "system", "content": "Be warm."},
        {"role": "user", "content": [{"type": "text", "text": "What a "}, {"type": "text", "text": "ferry!"}]},
        {"role": "assistant", "content": "dull"},
        {"role": "user", "content": PROMPT},
    ]
    found = client.chat.completions.create(model="acme/talk", messages=messages, max_tokens=6)
    prompt = f"<system>Be warm.<user>What a ferry!<assistant>dull<|endoftext|><user>{PROMPT}<assistant>"
    expected = len(served.backbone.tokenizer(prompt, add_special_tokens=False)["input_ids"])
    assert found.usage is not None
    assert found.usage.prompt_tokens == expected


def test_the_server_accepts_its_own_answers(served: Served) -> None:
    """Clients append the message of an answer to `messages` as it is."""
    user = {"role": "user", "content": PROMPT}
    asked = {"model": "acme/talk", "messages": [user], "max_tokens": 6}
    for more in ({}, {"logprobs": True}, {"n": 2, "temperature": 1.5}, {"response_format": {"type": "json_object"}}):
        for choice in served.post("/v1/chat/completions", {**asked, **more}).json()["choices"]:
            messages = [user, choice["message"], user]
            again = served.post("/v1/chat/completions", {**asked, "messages": messages})
            assert again.status_code == 200, again.text
            plain = [user, {"role": "assistant", "content": choice["message"]["content"]}, user]
            assert (
                again.json()["usage"]
                == served.post("/v1/chat/completions", {**asked, "messages": plain}).json()["usage"]
            )


def test_a_tool_call_and_its_result_are_read_as_texts(served: Served) -> None:
    called = {"role": "assistant", "content": None, "refusal": None, "tool_calls": [CALL], "function_call": None}
    result = {"role": "tool", "tool_call_id": "call-1", "content": "4 stars"}
    messages = [{"role": "user", "content": PROMPT}, called, result]
    found = served.post("/v1/chat/completions", {"model": "acme/talk", "messages": messages, "max_tokens": 1})
    prompt = f'<user>{PROMPT}<assistant>{{"warm": true}}<|endoftext|><tool>4 stars<assistant>'
    expected = len(served.backbone.tokenizer(prompt, add_special_tokens=False)["input_ids"])
    assert found.json()["usage"]["prompt_tokens"] == expected


def test_the_chat_template_reads_developer_as_system_and_the_name(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer, asked = served.backbone.tokenizer, list[Any]()
    apply = tokenizer.apply_chat_template
    monkeypatch.setattr(
        tokenizer, "apply_chat_template", lambda given, **more: asked.append(given) or apply(given, **more)
    )
    messages = [{"role": "developer", "content": "Be warm."}, {"role": "user", "content": PROMPT, "name": "Zoë"}]
    asking = {"model": "acme/talk", "messages": messages, "max_tokens": 1}
    assert served.post("/v1/chat/completions", asking).status_code == 200
    assert asked[-1] == [{"role": "system", "content": "Be warm."}, {"role": "user", "content": PROMPT, "name": "Zoë"}]


def test_fields_that_change_no_answer_are_accepted(served: Served) -> None:
    plain = {"model": "acme/told", "prompt": PROMPT, "max_tokens": 6}
    both = {
        **dict.fromkeys(("temperature", "seed", "stop", "n", "logprobs", "stream", "stream_options", "never_heard_of")),
        **{"user": "u", "safety_identifier": "u", "metadata": {"a": "b"}, "store": True, "service_tier": "auto"},
        **{"prompt_cache_key": "a", "prompt_cache_retention": "24h", "prompt_cache_options": {"mode": "implicit"}},
        **{"frequency_penalty": 0, "presence_penalty": 0.0, "logit_bias": {}, "response_format": {"type": "text"}},
        **{"skip_special_tokens": True, "spaces_between_special_tokens": True, "use_beam_search": False},
        "include_stop_str_in_output": False,
    }
    found = served.post(
        "/v1/completions", {**plain, **both, "echo": False, "best_of": 1, "suffix": "", "stream_options": {}}
    )
    assert found.status_code == 200, found.text
    assert found.json()["choices"] == served.post("/v1/completions", plain).json()["choices"]
    chat: dict[str, Any] = {"model": "acme/talk", "messages": [{"role": "user", "content": PROMPT}], "max_tokens": 6}
    more = {
        **{"tools": [], "tool_choice": "none", "parallel_tool_calls": True, "functions": [], "function_call": "auto"},
        **{
            "modalities": ["text"],
            "audio": None,
            "prediction": {"type": "content", "content": "a"},
            "moderation": None,
        },
        **{"reasoning_effort": "high", "verbosity": "medium", "web_search_options": None, "top_logprobs": None},
        **{"add_generation_prompt": True, "continue_final_message": False, "chat_template_kwargs": {"thinking": True}},
        "messages": [{**chat["messages"][0], "id": "m1", "reasoning_content": "hm", "created": 5}],
    }
    found = served.post("/v1/chat/completions", {**chat, **both, **more})
    assert found.status_code == 200, found.text
    assert found.json()["choices"] == served.post("/v1/chat/completions", chat).json()["choices"]


def test_a_stop_string_of_the_request_ends_an_answer_with_a_grammar(client: OpenAI) -> None:
    guided: Any = {
        "model": "acme/told",
        "prompt": PROMPT,
        "extra_body": {"structured_outputs": {"choice": ["the soup"]}},
    }
    for stop, text in ((["play"], "the soup"), (["soup", "play"], "the")):
        (choice,) = client.completions.create(**guided, stop=stop, max_tokens=40).choices
        assert (choice.text, choice.finish_reason) == (text, "stop")


def test_logprobs_of_a_chat(client: OpenAI) -> None:
    found = client.chat.completions.create(
        model="acme/talk", messages=[{"role": "user", "content": PROMPT}], max_tokens=10, logprobs=True, top_logprobs=2
    )
    (choice,) = found.choices
    assert choice.logprobs is not None
    content = choice.logprobs.content or []
    assert found.usage is not None
    assert len(content) == found.usage.completion_tokens
    for one in content:
        assert len(one.top_logprobs) == 2
        assert one.top_logprobs[0].logprob == one.logprob
        assert one.top_logprobs[0].bytes == one.bytes
    written = bytes(byte for one in content for byte in one.bytes or []).decode("utf-8", "replace")
    assert (choice.message.content or "") in written


def test_a_chat_needs_a_model_that_was_trained_on_chats(client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(model="acme/told", messages=[{"role": "user", "content": PROMPT}])
    assert "/v1/completions" in refused.value.message
    assert repr(TOLD["template"]) in refused.value.message


# Streams


@pytest.mark.parametrize("more", [{}, {"n": 2, "temperature": 1.2, "seed": 4}, {"stop": ["a", "é"]}])
def test_the_pieces_of_a_stream_are_the_whole_answer(client: OpenAI, more: Any) -> None:
    asked: Any = {"model": "acme/told", "prompt": [PROMPT, "a cold lamp"], "max_tokens": 20, "logprobs": 1, **more}
    whole = client.completions.create(**asked)
    texts, tokens, ends, usage = dict[int, str](), dict[int, list[str]](), dict[int, str](), []
    for event in client.completions.create(**asked, stream=True, stream_options={"include_usage": True}):
        usage.append(event.usage)
        for one in event.choices:
            texts[one.index] = texts.get(one.index, "") + one.text
            assert one.logprobs is not None
            tokens.setdefault(one.index, []).extend(one.logprobs.tokens or [])
            ends |= {one.index: one.finish_reason} if one.finish_reason else {}
    assert texts == {one.index: one.text for one in whole.choices}
    assert ends == {one.index: one.finish_reason for one in whole.choices}
    assert tokens == {one.index: (one.logprobs.tokens if one.logprobs else None) for one in whole.choices}
    assert usage[-1] == whole.usage
    assert {*usage[:-1]} == {None}


def test_the_pieces_of_a_streamed_chat(client: OpenAI) -> None:
    asked: Any = {"model": "acme/talk", "messages": [{"role": "user", "content": PROMPT}], "max_tokens": 20}
    whole = client.chat.completions.create(**asked).choices[0]
    raw = client.chat.completions.with_raw_response.create(**asked, stream=True)
    assert raw.headers["content-type"].startswith("text/event-stream")
    assert Receipt.parse(raw.headers["Afina-Receipt"]).version == "acme/talk@1"
    events = [*raw.parse()]
    assert [event.choices[0].delta.role for event in events] == ["assistant", *[None] * (len(events) - 1)]
    assert "".join(event.choices[0].delta.content or "" for event in events) == whole.message.content
    assert events[-1].choices[0].finish_reason == whole.finish_reason


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_ends_its_generation(
    listened: Listening, monkeypatch: pytest.MonkeyPatch, stream: bool
) -> None:
    generations, dropped, begun = listened.core.batching.computer.generations, list[Any](), threading.Event()
    cancel, step = generations.cancel, generations.step

    def dropping(generation: Any) -> None:
        dropped.append(generation)
        cancel(generation)

    def slowly(*arguments: Any) -> Any:
        begun.set()
        time.sleep(0.02)  # the generation lasts longer than the client, also on a busy machine
        return step(*arguments)

    monkeypatch.setattr(generations, "cancel", dropping)
    monkeypatch.setattr(generations, "step", slowly)
    more = {"max_tokens": 200, "temperature": 2, "n": 8, "stream": stream}
    content = json.dumps({"model": "acme/told", "prompt": PROMPT, **more}).encode()
    with listened.connect() as connection:
        connection.sendall(listened.head(len(content), "/v1/completions") + content)
        if stream:
            assert connection.recv(100).startswith(b"HTTP/1.1 200")
        assert begun.wait(10)
    assert within(20.0, lambda: listened.core.batching.generating == (0, 0))
    assert len(dropped) > 4  # a few may have ended by themselves
    client = OpenAI(api_key=listened.secrets["acme"], base_url=f"http://127.0.0.1:{listened.port}/v1", max_retries=0)
    assert client.completions.create(model="acme/told", prompt=PROMPT, max_tokens=2).usage


def test_each_event_has_the_tokens_so_far(client: OpenAI) -> None:
    asked: Any = {"model": "acme/told", "prompt": [PROMPT, "a cold lamp"], "max_tokens": 20, "stream": True}
    options: Any = {"include_usage": True, "continuous_usage_stats": True}
    usage = [event.usage for event in client.completions.create(**asked, stream_options=options)]
    alone = client.completions.create(**asked, stream_options={**options, "include_usage": False})
    assert {event.usage for event in alone} == {None}
    counts = [one.completion_tokens for one in usage if one is not None]
    assert len(counts) == len(usage)
    assert counts == sorted(counts)
    assert usage[-1] == usage[-2]
    assert {one.prompt_tokens for one in usage if one is not None} == {usage[-1].prompt_tokens if usage[-1] else 0}


# Structured outputs

SCHEMA = {
    "type": "object",
    "properties": {"mood": {"enum": ["warm", "cold"]}, "stars": {"type": "integer", "minimum": 1, "maximum": 5}},
    "required": ["mood", "stars"],
    "additionalProperties": False,
}


def test_a_choice_a_regular_expression_and_a_schema_as_in_vllm(client: OpenAI) -> None:
    def asked(**form: Any) -> str:
        body = {"structured_outputs": form}
        found = client.completions.create(model="acme/told", prompt=PROMPT, max_tokens=200, extra_body=body)
        return found.choices[0].text

    assert asked(choice=["yes", "Zoë", 'a "no"']) in ("yes", "Zoë", 'a "no"')
    assert re.fullmatch(r"[0-9]{2}:[0-9]{2}", asked(regex=r"[0-9]{2}:[0-9]{2}"))
    jsonschema.validate(json.loads(asked(json=SCHEMA)), SCHEMA)


@pytest.mark.parametrize(
    ("form", "grammar"),
    [
        ({"type": "json", "value": SCHEMA}, Grammar.of_schema(SCHEMA)),
        ({"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA}}, Grammar.of_schema(SCHEMA)),
        ({"type": "json_object", "value": SCHEMA}, Grammar.of_schema(SCHEMA)),  # huggingface_hub makes this of a schema
        ({"type": "json_object"}, Grammar.of_schema({"type": "object"})),
        ({"type": "regex", "value": "[0-9]{3}"}, Grammar.of_regex("[0-9]{3}")),
        ({"type": "text"}, None),
    ],
)
def test_response_formats_as_huggingface_hub_sends_them(form: Any, grammar: Grammar | None) -> None:
    body = CompletionRequest(model="acme/told", prompt=PROMPT, response_format=form)
    assert openai_bodies.grammar_of(body) == grammar


def test_without_llguidance_the_refusal_names_the_extra(client: OpenAI, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with pytest.raises(openai.BadRequestError, match=re.escape("afina[guided]")):
        client.completions.create(
            model="acme/told", prompt=PROMPT, extra_body={"structured_outputs": {"choice": ["a"]}}
        )


# Refusals


@pytest.mark.parametrize("path", ["/v1/embeddings", "/v1/chat/completions/1", "/v1/x", "/v1/completions/"])
def test_a_path_of_openai_that_there_is_not_is_not_found(served: Served, path: str) -> None:
    """And not a matter of the key's scopes, which would send its owner to look for a better key."""
    refused = served.post(path, {"model": "acme/told", "input": PROMPT})
    assert (refused.status_code, refused.json()["error"]["code"]) == (404, "not_found")
    assert served.web.post(path, json={}).status_code == 401


@pytest.mark.parametrize("model", ["acme/none", "bolt/told", "bolt/told@1", "acme/told@9", "gpt-4o", "", "told", "/"])
def test_a_model_that_is_missing_or_somebody_elses_is_not_found(client: OpenAI, model: str) -> None:
    """The base model never answers in its place."""
    for stream in (False, True):
        with pytest.raises(openai.NotFoundError) as refused:
            client.completions.create(model=model, prompt=PROMPT, stream=stream)
        assert (refused.value.code, refused.value.param) == ("model_not_found", "model")
        with pytest.raises(openai.NotFoundError) as refused:
            client.chat.completions.create(model=model, messages=[{"role": "user", "content": PROMPT}], stream=stream)
        assert (refused.value.code, refused.value.type) == ("model_not_found", "invalid_request_error")


def test_a_classifier_gives_no_text_and_a_text_is_no_class(served: Served, client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError):
        client.completions.create(model="acme/reviews", prompt=PROMPT)
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(model="acme/reviews", messages=[{"role": "user", "content": PROMPT}])
    refused = served.post("/classify", {"model": "acme/told", "input": PROMPT})
    assert refused.status_code == 400


CALL = {"id": "call-1", "type": "function", "function": {"name": "mood", "arguments": '{"warm": true}'}}
CHOICE = {"structured_outputs": {"choice": ["a"]}}


@pytest.mark.parametrize(
    ("more", "code", "param"),
    [
        ({"prompt": [1, 2, VOCABULARY]}, "invalid", "prompt"),
        ({"prompt": [1, -2]}, "invalid", "prompt.1"),
        ({"prompt": [5] * 400}, "context_length_exceeded", "prompt"),
        ({"prompt": [1, 2], "pair": "a"}, "invalid", "pair"),
        ({"prompt": [1, 2], "template": True}, "invalid", "template"),
        ({"prompt": ""}, "invalid", "prompt"),
        ({"prompt": ["a", " "]}, "invalid", "prompt"),
        ({"prompt": None}, "invalid", "prompt"),
        ({"prompt": ["a"] * 20, "n": 8, "temperature": 1}, "invalid", "n"),
        ({"n": 2, "temperature": 0}, "invalid", "n"),
        ({"n": 9, "temperature": 1}, "invalid", "n"),
        ({"max_tokens": 10**9}, "invalid", "max_tokens"),
        ({"temperature": 10**400}, "invalid", "temperature"),
        ({"top_k": 5}, "invalid", "top_k"),
        ({"stop": [""]}, "invalid", "stop"),
        ({"stop": ["a"] * 70_000}, "invalid", None),
        ({"stop": "a" * 65}, "invalid", "stop"),
        ({"echo": True}, "invalid", "echo"),
        ({"prompt": [1] * 60_000}, "context_length_exceeded", "prompt"),
        ({"best_of": 3}, "unsupported", "best_of"),
        ({"stream_options": {"continuous_usage_stats": True}}, "invalid", "stream_options"),
        ({"stream_options": {"include_usage": None}}, "invalid", "stream_options"),
        ({"stream_options": {"include_usage": False}}, "invalid", "stream_options"),
        ({"suffix": "end"}, "unsupported", "suffix"),
        ({"logit_bias": {"soup": 1}}, "invalid", "logit_bias"),
        ({"logit_bias": {str(token): 1 for token in range(129)}}, "invalid", "logit_bias"),
        ({"logit_bias": {str(VOCABULARY): 1}}, "invalid", "logit_bias"),
        ({"min_tokens": 10**9}, "invalid", "min_tokens"),
        ({"min_tokens": 7, "max_tokens": 6}, "invalid", "min_tokens"),
        ({**CHOICE, "stop_token_ids": [5]}, "invalid", "stop_token_ids"),
        ({"temprature": 0}, "unsupported", "temprature"),
        ({"pair": "a"}, "invalid", "pair"),
        ({"structured_outputs": {}}, "invalid", "structured_outputs"),
        ({"structured_outputs": {"choice": ["a"], "regex": "a"}}, "invalid", "structured_outputs"),
        ({**CHOICE, "response_format": {"type": "json_object"}}, "invalid", "structured_outputs"),
        ({"structured_outputs": {"json": {"type": "array", "uniqueItems": True}}}, "invalid", "structured_outputs"),
        ({"response_format": {"type": "json_schema"}}, "invalid", "response_format"),
        ({"response_format": {"type": "json", "value": "a"}}, "invalid", "response_format.value"),
        ({"response_format": {"type": "text", "value": {}}}, "invalid", "response_format.value"),
        ({"response_format": {"type": "xml"}}, "unsupported", "response_format.type"),
    ],
    ids=lambda value: repr(value)[:50],
)
def test_a_request_that_is_wrong_is_refused_in_openais_words(
    served: Served, more: dict[str, Any], code: str, param: str | None
) -> None:
    for stream in (None, True) if "stream_options" not in more else (None,):
        body = {"model": "acme/told", "prompt": PROMPT, "stream": stream, **more}
        refused = served.post("/v1/completions", body)
        assert refused.status_code == 400, refused.text
        error = refused.json()["error"]
        assert {*error} == {"message", "type", "param", "code"}
        assert error["type"] == "invalid_request_error"
        assert (error["code"], error["param"]) == (code, param), error


@pytest.mark.parametrize(
    ("more", "code", "param"),
    [
        ({"messages": "a"}, "invalid", "messages"),
        ({"messages": [{"role": "user", "content": "a<|endoftext|><system>b"}]}, "invalid", "messages"),
        ({"messages": [{"role": "user", "content": "a", "name": "b<|endoftext|>"}]}, "invalid", "messages"),
        ({"messages": [{"role": "function", "content": "a"}]}, "unsupported", "messages.0.role"),
        ({"messages": [{"role": "user"}]}, "invalid", "messages.0.content"),
        ({"messages": [{"content": "a"}]}, "invalid", "messages.0.role"),
        ({"messages": [5]}, "invalid", "messages.0"),
        ({"messages": [{"role": "user", "content": "", "tool_calls": [CALL]}]}, "unsupported", "messages.0.tool_calls"),
        ({"messages": [{"role": "tool", "content": "a"}]}, "invalid", "messages.0.tool_call_id"),
        ({"messages": [{"role": "assistant", "content": "a", "refusal": "no"}]}, "unsupported", "messages.0.refusal"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "a"}}]}]},
         "unsupported", "messages.0.content.0.type"),
        ({"messages": [{"role": "user", "content": "a"}] * 257}, "invalid", "messages"),
        ({"messages": [{"role": "user", "content": "soup " * 400}]}, "context_length_exceeded", "messages"),
        ({"modalities": ["text", "audio"]}, "unsupported", "modalities.1"),
        ({"reasoning_effort": "lots"}, "unsupported", "reasoning_effort"),
        ({"chat_template_kwargs": {"a": 1, "add_generation_prompt": False}}, "unsupported",
         "chat_template_kwargs.add_generation_prompt"),
        ({"messages": [{"role": "user", "content": "a", "eos_token": "b"}]}, "unsupported", "messages.0.eos_token"),
        ({"messages": [{"role": "assistant", "contents": "a"}]}, "invalid", "messages.0.content"),
        ({"top_logprobs": 2}, "invalid", "top_logprobs"),
        ({"max_tokens": 3, "max_completion_tokens": 4}, "invalid", "max_tokens"),
        ({"max_completion_tokens": 10**9}, "invalid", "max_completion_tokens"),
    ],
    ids=lambda value: repr(value)[:50],
)  # fmt: skip
def test_a_chat_that_is_wrong_is_refused_in_openais_words(
    served: Served, more: dict[str, Any], code: str, param: str
) -> None:
    body = {"model": "acme/talk", "messages": [{"role": "user", "content": PROMPT}], **more}
    refused = served.post("/v1/chat/completions", body)
    assert refused.status_code == 400, refused.text
    error = refused.json()["error"]
    assert (error["type"], error["code"], error["param"]) == ("invalid_request_error", code, param), error


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"prompt": []}, "`prompt`: found an array of 0, expected at least 1."),
        ({"prompt": ["a"] * 65}, "`prompt`: found an array of 65, expected at most 64."),
        ({"prompt": 3}, "`prompt`: found 3, expected a string or an array."),
        ({"prompt": ["a", None]}, "`prompt.1`: found null, expected a string."),
        ({"stop": ["a"] * 17}, "`stop`: found an array of 17, expected at most 16."),
        ({"max_tokens": 10**9}, "`max_tokens` is 1000000000. This server allows at most 200."),
        ({"temprature": 0}, "`temprature`: this server has no such field. Leave it out."),
        ({"min_tokens": 4, "max_tokens": 3}, "`min_tokens` 4: is more than the 3 of `max_tokens`. Give another value."),
        ({"logit_bias": {"a": 1, "b": 1}},
         "`logit_bias`: found 'a' and 'b', expected token ids as names such as 50256."),
        ({"use_beam_search": True}, "`use_beam_search`: found true, expected false."),
        ({"top_p": 0.5}, "`top_p` 0.5: has no effect without a temperature above 0. Give another value."),
    ],
    ids=lambda value: repr(value)[:50],
)  # fmt: skip
def test_a_refusal_says_what_was_found_and_what_is_expected(served: Served, more: Any, words: str) -> None:
    most = served.core.settings.max_new_tokens
    refused = served.post("/v1/completions", {"model": "acme/told", "prompt": PROMPT, **more})
    assert refused.json()["error"]["message"] == words.replace("200", str(most))


def test_all_unknown_tokens_are_named(served: Served) -> None:
    more = {"logit_bias": {str(VOCABULARY): 1, "3": 1, "900001": 1}}
    refused = served.post("/v1/completions", {"model": "acme/told", "prompt": PROMPT, **more})
    assert f"found {VOCABULARY}, 900001, not in the model's vocabulary" in refused.json()["error"]["message"]


DEEP = b'{"items":' * 900 + b"{}" + b"}" * 900


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b'{"model": "acme/told", "prompt": "a", "structured_outputs": {"json": ' + DEEP + b"}}", 400),
        (b'{"prompt": "\\ud800", "model": "acme/told"}', 400),
        (b'{"prompt": "a\\u0000b", "model": "acme/told", "max_tokens": 2}', 200),
    ],
    ids=lambda value: repr(value)[:60],
)
def test_bodies_that_mean_no_good_are_refused(served: Served, content: bytes, status: int) -> None:
    for path in ("/v1/completions", "/v1/chat/completions"):
        headers = {"Content-Type": "application/json", **served.auth()}
        response = served.web.post(path, content=content, headers=headers)
        assert response.status_code == (400 if path.endswith("chat/completions") else status)
        if response.status_code != 200:
            assert {*response.json()["error"]} == {"message", "type", "param", "code"}
    assert served.post("/v1/completions", {"model": "acme/told", "prompt": "a", "max_tokens": 1}).status_code == 200


# Answers while they are sent


def reading(served: Served, **more: Any) -> Any:
    """A request that streams to a reader of the test's own: call it with `send`."""
    body = {"model": "acme/told", "prompt": PROMPT, "stream": True, "max_tokens": 120, "temperature": 2, **more}
    content = json.dumps(body).encode()

    async def asked(send: Any) -> None:
        sent = [{"type": "http.request", "body": content, "more_body": False}]

        async def receive() -> Any:
            if sent:
                return sent.pop()
            await asyncio.sleep(60)

        await served.send("/v1/completions", receive, send)

    return asked


def pieces(messages: list[Any]) -> list[str]:
    """The texts in the events of the body."""
    body = b"".join(one.get("body", b"") for one in messages).decode()
    events = [json.loads(line.removeprefix("data: ")) for line in body.split("\n\n")[:-2]]
    assert body.endswith("data: [DONE]\n\n")
    return [one["text"] for event in events for one in event["choices"]]


@pytest.mark.slow
def test_a_reader_that_is_slow_gets_few_long_pieces(served: Served, client: OpenAI) -> None:
    """While it does not read, its answer goes on, and what is new becomes one piece."""
    messages: list[Any] = []

    async def send(message: Any) -> None:
        messages.append(message)
        if message["type"] == "http.response.body" and len(messages) == 2:
            while served.core.batching.generating != (0, 0):
                await asyncio.sleep(0.01)

    asyncio.run(reading(served, seed=5)(send))
    found = pieces(messages)
    whole = client.completions.create(model="acme/told", prompt=PROMPT, max_tokens=120, temperature=2, seed=5)
    assert "".join(found) == whole.choices[0].text
    assert len(found) <= 4


def test_an_error_after_the_first_piece_is_the_last_event(client: OpenAI, monkeypatch: pytest.MonkeyPatch) -> None:
    end = WrittenAnswer.end

    def broken(self: WrittenAnswer, outcome: Any) -> str:
        end(self, outcome)
        raise InvalidData("the tokenizer changed earlier text.", code="request.stream-differs")

    monkeypatch.setattr(WrittenAnswer, "end", broken)
    stream = client.completions.create(model="acme/told", prompt=PROMPT, max_tokens=20, stream=True)
    with pytest.raises(openai.APIError, match="changed earlier text") as refused:
        list(stream)
    assert refused.value.code == "invalid"


def test_a_generation_that_fails_is_an_error_of_the_request(
    served: Served, client: OpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guides, "STEP_SECONDS", -1.0)
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError, match="the answer was ended"):
            client.completions.create(
                model="acme/told",
                prompt=PROMPT,
                stream=stream,
                extra_body={"structured_outputs": {"choice": ["soup", "play"]}},
            )
    assert within(10.0, lambda: served.core.batching.generating == (0, 0))


SEVEN: Any = {"type": "object", "properties": {"number": {"const": 7}}, "required": ["number"]}
FORM = {"name": "seven", "schema": SEVEN}
SPOKEN: dict[str, Any] = {"model": "acme/talk", "messages": [{"role": "user", "content": PROMPT}], "max_tokens": 60}
RESPONSE: dict[str, Any] = {"model": "acme/talk", "input": PROMPT, "max_output_tokens": 60}
COUNT: dict[str, Any] = {"name": "count", "parameters": SEVEN}
IN_A_SCHEMA = {
    "completion": (
        "completions",
        {"model": "acme/told", "prompt": PROMPT, "max_tokens": 60, "structured_outputs": {"json": SEVEN}},
    ),
    "chat": ("chat/completions", {**SPOKEN, "response_format": {"type": "json_schema", "json_schema": FORM}}),
    "call": (
        "chat/completions",
        {**SPOKEN, "tools": [{"type": "function", "function": COUNT}], "tool_choice": "required"},
    ),
    "response": ("responses", {**RESPONSE, "text": {"format": {"type": "json_schema", **FORM}}}),
    "called": ("responses", {**RESPONSE, "tools": [{"type": "function", **COUNT}], "tool_choice": "required"}),
}


def checks(served: Served) -> dict[str, int]:
    """The numbers of answers that were checked against their schemas, by outcome."""
    found = re.findall(r'afina_schema_checks_total{outcome="(\w+)"} (\d+)', served.core.metrics.text().decode())
    return {outcome: int(count) for outcome, count in found}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("path", "body"), IN_A_SCHEMA.values(), ids=IN_A_SCHEMA)
def test_an_answer_that_violates_its_schema_is_a_counted_error(
    served: Served, monkeypatch: pytest.MonkeyPatch, path: str, body: dict[str, Any], stream: bool
) -> None:
    before = checks(served)
    held = served.post(f"/v1/{path}", {**body, "stream": stream})
    assert held.status_code == 200
    monkeypatch.setattr(guides, "closed", lambda schema: {"enum": [{"number": 8}]})
    broken = served.post(f"/v1/{path}", {**body, "stream": stream})
    assert "violates its JSON schema" in broken.text
    assert not {'"stop"', '"tool_calls"}', '"completed"'} & {*re.findall(r'"\w+"}?', broken.text)}
    assert broken.status_code == (200 if stream else 500)
    assert checks(served) == {**before, "held": before["held"] + 1, "violated": before["violated"] + 1}


def test_an_answer_that_is_cut_or_cannot_be_checked_is_no_error(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guides, "closed", lambda schema: {"enum": [{"number": 8}]})
    path, body = IN_A_SCHEMA["completion"]
    before = checks(served)
    for more, finish in (({"max_tokens": 2}, "length"), ({"stop": "8"}, "stop")):
        (choice,) = served.post(f"/v1/{path}", {**body, **more}).json()["choices"]
        assert (choice["finish_reason"], "}" in choice["text"]) == (finish, False)
    assert checks(served) == before
    unchecked = {"structured_outputs": {"json": {**SEVEN, "pattern": r"\p{Letter}", "type": "string"}}}
    monkeypatch.setattr(guides, "closed", lambda schema: {"enum": ["x"]})
    assert served.post(f"/v1/{path}", {**body, **unchecked}).json()["choices"][0]["text"] == '"x"'
    assert checks(served) == {**before, "unchecked": before["unchecked"] + 1}


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
def test_answers_and_events_are_as_described(served: Served, path: str) -> None:
    said = served.get("/openapi.json").json()["paths"][path]["post"]["responses"]["200"]["content"]
    whole = Draft202012Validator(said["application/json"]["schema"])
    _, shape = said["text/event-stream"]["schema"]["properties"]["data"]["anyOf"]
    one_event = Draft202012Validator(shape["contentSchema"])
    asked = {"prompt": PROMPT} if path == "/v1/completions" else {"messages": [{"role": "user", "content": PROMPT}]}
    logprobs = {"logprobs": 2} if path == "/v1/completions" else {"logprobs": True, "top_logprobs": 2}
    for more in ({}, logprobs, {**logprobs, "stream_options": {"include_usage": True}}):
        body = {"model": "acme/talk", "max_tokens": 8, **asked, **more}
        if "stream_options" not in more:
            whole.validate(served.post(path, body).json())
        *events, done = served.post(path, {**body, "stream": True}).text.strip().split("\n\n")
        assert done == "data: [DONE]"
        assert events
        for event in events:
            one_event.validate(json.loads(event.removeprefix("data: ")))


@pytest.mark.parametrize("given", [{"max_tokens": 100}, {}])
@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_beyond_the_memory_is_an_invalid_request_that_is_not_sent_again(
    served: Served, client: OpenAI, monkeypatch: pytest.MonkeyPatch, given: dict[str, Any], stream: bool
) -> None:
    chat: Any = {"model": "acme/talk", "messages": [{"role": "user", "content": PROMPT}]}
    client.completions.create(model="acme/told", prompt=PROMPT, max_tokens=1)
    client.chat.completions.create(**chat)
    monkeypatch.setattr(type(served.core.engine._residents), "room", lambda residents, digest: 1000)
    tried, send = list[str](), served.web.send

    def sending(request: Any, **more: Any) -> Any:
        tried.append(request.url.path)
        return send(request, **more)

    monkeypatch.setattr(served.web, "send", sending)
    with pytest.raises(openai.BadRequestError) as caught:
        client.with_options(max_retries=2).completions.create(model="acme/told", prompt=PROMPT, stream=stream, **given)
    assert (caught.value.param, caught.value.code, len(tried)) == ("max_tokens", "invalid", 1)
    assert "`max_tokens`: the answer may need" in str(caught.value)
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(**chat)
    assert caught.value.param == "max_completion_tokens"
