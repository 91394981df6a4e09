"""OpenAI's responses and forced functions, asked with the package `openai`, whose own models check each answer."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import jsonschema
import openai
import pytest
from jsonschema import Draft202012Validator
from openai import OpenAI
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import BaseModel, TypeAdapter

from afina import Backbone
from afina.errors import InvalidData
from afina.server.protocols.openai_answers import WrittenAnswer
from afina.server.receipts import Receipt
from crowd import adapter
from servers import TOLD, Served, serving, talk

PROMPT = "the soup was bright."
EVENTS: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)


@pytest.fixture(scope="module")
def served(chatting: Backbone, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    adapters = {
        "acme/reviews@1": adapter(chatting, "lora", {"r": 2}, seed=1),
        "acme/talk@1": adapter(chatting, "lora", {"r": 2}, seed=4, **talk(chatting)),
        "acme/told@1": adapter(chatting, "lora", {"r": 2}, seed=2, **TOLD),
    }
    with serving(chatting, adapters, tmp_path_factory.mktemp("responding")) as made:
        yield made


@pytest.fixture(scope="module")
def client(served: Served) -> OpenAI:
    return OpenAI(api_key=served.secrets["acme"], base_url="http://test/v1", http_client=served.web, max_retries=0)


def chat(client: OpenAI, messages: list[Any], **more: Any) -> Any:
    return client.chat.completions.create(model="acme/talk", messages=messages, **more)


SAID = [{"role": "user", "content": PROMPT}]

# Responses


def test_a_response_is_the_chats_answer(client: OpenAI) -> None:
    raw = client.responses.with_raw_response.create(model="acme/talk", input=PROMPT, max_output_tokens=10)
    found = raw.parse()
    Response.model_validate(json.loads(raw.text), strict=True)
    other = chat(client, SAID, max_tokens=10)
    assert found.output_text == other.choices[0].message.content
    assert (found.status, found.incomplete_details is None) == (
        ("completed", True) if other.choices[0].finish_reason == "stop" else ("incomplete", False)
    )
    assert found.usage is not None
    assert (found.usage.input_tokens, found.usage.output_tokens) == (
        other.usage.prompt_tokens,
        other.usage.completion_tokens,
    )
    assert Receipt.parse(raw.headers["Afina-Receipt"]).version == "acme/talk@1"
    said = json.loads(raw.text)
    assert (said["store"], said["temperature"], said["tool_choice"]) == (False, 0.0, "auto")


def test_instructions_and_items_are_the_messages_of_the_chat(client: OpenAI) -> None:
    items: list[Any] = [
        {"role": "user", "content": [{"type": "input_text", "text": one} for one in ("What a ", "ferry!")]},
        {"type": "message", "role": "assistant", "id": "msg_1", "status": "completed",
         "content": [{"type": "output_text", "text": "dull", "annotations": [], "logprobs": []}]},
        {"role": "user", "content": PROMPT},
    ]  # fmt: skip
    found = client.responses.create(model="acme/talk", instructions="Be warm.", input=items, max_output_tokens=6)
    messages = [
        {"role": "system", "content": "Be warm."},
        {"role": "user", "content": "What a ferry!"},
        {"role": "assistant", "content": "dull"},
        *SAID,
    ]
    other = chat(client, messages, max_tokens=6)
    assert found.output_text == other.choices[0].message.content
    assert found.usage is not None
    assert found.usage.input_tokens == other.usage.prompt_tokens


def test_a_response_is_accepted_as_items_of_the_next_request(client: OpenAI) -> None:
    first = client.responses.create(model="acme/talk", input=PROMPT, max_output_tokens=6)
    items: list[Any] = [*SAID, *(one.model_dump() for one in first.output), {"role": "user", "content": "And?"}]
    second = client.responses.create(model="acme/talk", input=items, max_output_tokens=6)
    messages = [*SAID, {"role": "assistant", "content": first.output_text}, {"role": "user", "content": "And?"}]
    assert second.output_text == chat(client, messages, max_tokens=6).choices[0].message.content


def events_of(served: Served, **body: Any) -> list[dict[str, Any]]:
    """The events of a stream, each checked by the models of the package."""
    text = served.post("/v1/responses", {"model": "acme/talk", "input": PROMPT, "stream": True, **body}).text
    found = []
    for block in text.strip().split("\n\n"):
        name, data = block.split("\n")
        event = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        EVENTS.validate_python(event, strict=True)
        found.append(event)
    assert [one["sequence_number"] for one in found] == [*range(len(found))]
    return found


def test_a_stream_has_the_events_of_openai_and_ends_with_the_whole_response(served: Served, client: OpenAI) -> None:
    asked: dict[str, Any] = {"max_output_tokens": 12, "include": ["message.output_text.logprobs"], "top_logprobs": 2}
    found = events_of(served, **asked)
    kinds = [one["type"].removeprefix("response.") for one in found]
    assert kinds[:4] == ["created", "in_progress", "output_item.added", "content_part.added"]
    assert {*kinds[4:-4]} == {"output_text.delta"}
    assert kinds[-4:-1] == ["output_text.done", "content_part.done", "output_item.done"]
    whole = client.responses.create(model="acme/talk", input=PROMPT, **asked)
    assert "".join(one["delta"] for one in found[4:-4]) == found[-4]["text"] == whole.output_text
    tokens = [token for one in found[4:-4] for token in one["logprobs"]]
    last = found[-1]["response"]
    assert last["status"] == kinds[-1] == whole.status
    said = json.loads(whole.model_dump_json())
    assert last["output"][0]["content"] == said["output"][0]["content"]
    assert last["output"][0]["content"][0]["logprobs"] == tokens
    assert len(tokens) == last["usage"]["output_tokens"]
    assert whole.usage is not None
    assert last["usage"]["total_tokens"] == whole.usage.total_tokens
    assert all(len(one["top_logprobs"]) == 2 for one in tokens)


class Mood(BaseModel):
    """What a client of `openai` parses answers into."""

    warm: bool
    stars: int


@pytest.mark.slow
def test_the_package_follows_a_stream(client: OpenAI) -> None:
    with client.responses.stream(model="acme/talk", input=PROMPT, text_format=Mood, max_output_tokens=200) as stream:
        pieces = [event.delta for event in stream if event.type == "response.output_text.delta"]
        found = stream.get_final_response()
    assert "".join(pieces) == found.output_text
    assert isinstance(found.output_parsed, Mood)


def test_an_answer_that_reaches_the_limit_is_incomplete(client: OpenAI) -> None:
    found = client.responses.create(model="acme/talk", input=PROMPT, max_output_tokens=1)
    assert found.status == "incomplete"
    assert found.incomplete_details is not None
    assert found.incomplete_details.reason == "max_output_tokens"


REASONING = {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "Hm."}]}
CALL = {"type": "function_call", "call_id": "call_1", "name": "rate", "arguments": '{"stars":1}'}


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"background": True}, "background"),
        ({"reasoning": {"effort": "lots"}}, "reasoning.effort"),
        ({"input": [REASONING]}, "input"),
        ({"text": {"format": {"type": "json_schema"}}}, "text.format"),
        ({"text": {"format": {"type": "json_schema", "name": "a", "schema": {"type": "array", "uniqueItems": True}}}},
         "text.format"),
        ({"include": ["file_search_call.results"]}, "include.0"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"max_output_tokens": 10**9}, "max_output_tokens"),
        ({"instruction": "a"}, "instruction"),
        ({"input": []}, "input"),
        ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "input.0"),
        ({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "a"}]}]},
         "input.0.content.0.type"),
        ({"input": [{"type": "function_call_output", "call_id": "call_2", "output": "a"}]}, "input.0.call_id"),
        ({"input": ["a"]}, "input.0"),
        ({"input": [{"type": 5, "role": "user", "content": "a"}]}, "input.0"),
        ({"input": "a<|endoftext|>b"}, "input"),
        ({"instructions": "a<|endoftext|>b"}, "instructions"),
        ({"instructions": "Be warm.", "input": "a<|endoftext|>b"}, "input"),
        ({"seed": 2**63 - 1}, "seed"),
        ({"input": "soup " * 400}, "input"),
        ({"stream_options": {"include_obfuscation": True}, "stream": True}, "stream_options.include_obfuscation"),
        ({"model": "acme/told"}, "input"),
        ({"model": "acme/reviews"}, "model"),
    ],
    ids=lambda value: repr(value)[:50],
)  # fmt: skip
def test_a_request_for_a_response_that_is_wrong_is_refused(served: Served, more: dict[str, Any], param: str) -> None:
    refused = served.post("/v1/responses", {"model": "acme/talk", "input": PROMPT, **more})
    assert refused.status_code == 400, refused.text
    error = refused.json()["error"]
    assert (error["type"], error["param"]) == ("invalid_request_error", param), error


def test_fields_that_change_no_answer_are_accepted(served: Served, client: OpenAI) -> None:
    unused: dict[str, Any] = {
        "store": True, "metadata": {"a": "b"}, "user": "ada", "parallel_tool_calls": False, "truncation": "disabled",
        "include": ["reasoning.encrypted_content"], "reasoning": {"effort": "low", "summary": "concise"},
        "tools": [], "tool_choice": "auto",
        "previous_response_id": None, "conversation": None, "background": False, "service_tier": "auto",
        "prompt_cache_key": "a", "safety_identifier": "b", "max_tool_calls": 3, "text": {"format": {"type": "text"}},
    }  # fmt: skip
    unused["input"] = [{"role": "user", "content": PROMPT}, REASONING]
    found = served.post("/v1/responses", {"model": "acme/talk", "max_output_tokens": 6, **unused})
    assert found.status_code == 200, found.text
    plain = client.responses.create(model="acme/talk", input=PROMPT, max_output_tokens=6)
    said = Response.model_validate(found.json())
    assert said.output_text == plain.output_text
    assert (found.json()["store"], said.metadata, said.user) == (False, {"a": "b"}, "ada")


def test_an_error_after_the_first_event_is_the_last_event(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    end = WrittenAnswer.end

    def broken(self: WrittenAnswer, outcome: Any) -> str:
        end(self, outcome)
        raise InvalidData("the tokenizer changed earlier text.", code="request.stream-differs")

    monkeypatch.setattr(WrittenAnswer, "end", broken)
    last = events_of(served, max_output_tokens=12)[-1]
    assert (last["type"], last["response"]["status"]) == ("response.failed", "failed")
    assert "changed earlier text" in last["response"]["error"]["message"]


def test_a_stored_response_is_not_found(client: OpenAI) -> None:
    for ask in (client.responses.retrieve, client.responses.delete, client.responses.cancel):
        with pytest.raises(openai.NotFoundError):
            ask("resp_1")


# Functions

RATE = {
    "name": "rate",
    "description": "Rates a text.",
    "parameters": {
        "type": "object",
        "properties": {"stars": {"type": "integer", "minimum": 1, "maximum": 5}, "mood": {"enum": ["warm", "cold"]}},
        "required": ["stars", "mood"],
        "additionalProperties": False,
    },
}
OTHER = {"name": "other"}
NAMED = {"type": "function", "function": {"name": "rate"}}


def tools(*functions: Any) -> list[Any]:
    return [{"type": "function", "function": one} for one in functions]


@pytest.mark.parametrize(
    "choice", ["required", NAMED, {"function": {"name": "rate"}}], ids=["required", "named", "bare"]
)
def test_a_chat_calls_the_function_that_the_request_forces(client: OpenAI, choice: Any) -> None:
    functions = tools(RATE) if choice == "required" else tools(OTHER, RATE)
    asked: Any = {"tools": functions, "tool_choice": choice, "max_tokens": 200, "temperature": 1, "seed": 2}
    asked |= {"stop": ["Observation:", "Calling tools:"]}
    (choice,) = chat(client, SAID, **asked).choices
    assert (choice.finish_reason, choice.message.content) == ("tool_calls", None)
    (call,) = choice.message.tool_calls
    assert call.function.name == "rate"
    jsonschema.validate(json.loads(call.function.arguments), RATE["parameters"])
    pieces, name, ends = list[str](), list[str](), list[str]()
    for event in chat(client, SAID, **asked, stream=True):
        (one,) = event.choices
        (piece,) = one.delta.tool_calls
        pieces.append(piece.function.arguments)
        name += [piece.function.name] if piece.id else []
        ends += [one.finish_reason] if one.finish_reason else []
        assert one.delta.content is None
    assert "".join(pieces) == call.function.arguments
    assert (name, ends) == (["rate"], ["tool_calls"])


def test_the_call_and_its_result_are_messages_of_the_next_request(client: OpenAI) -> None:
    forced: Any = {"tools": tools(RATE), "tool_choice": "required", "max_tokens": 200}
    (first,) = chat(client, SAID, **forced).choices
    call = first.message.tool_calls[0]
    messages = [*SAID, first.message.model_dump(), {"role": "tool", "tool_call_id": call.id, "content": "rated"}]
    second = chat(client, messages, tools=tools(RATE), tool_choice="none", max_tokens=4)
    assert second.choices[0].message.tool_calls is None
    written = [*SAID, {"role": "assistant", "content": call.function.arguments}]
    tool = {"role": "tool", "tool_call_id": "x", "content": "rated"}
    assert chat(client, [*written, tool], max_tokens=4).usage == second.usage
    response = client.responses.create(
        model="acme/talk",
        input=[
            *SAID,  # type: ignore[list-item]
            {"type": "function_call", "call_id": call.id, "name": "rate", "arguments": call.function.arguments},
            {"type": "function_call_output", "call_id": call.id, "output": "rated"},
        ],
        max_output_tokens=4,
    )
    assert response.output_text == second.choices[0].message.content


def test_a_response_calls_the_function_that_the_request_forces(served: Served, client: OpenAI) -> None:
    asked: dict[str, Any] = {
        "tools": [{"type": "function", **OTHER}, {"type": "function", "strict": True, **RATE}],
        "tool_choice": {"type": "function", "name": "rate"},
        "max_output_tokens": 200,
    }
    found = client.responses.create(model="acme/talk", input=PROMPT, **asked)
    (call,) = found.output
    assert call.type == "function_call"
    assert (call.name, call.status, found.output_text) == ("rate", "completed", "")
    jsonschema.validate(json.loads(call.arguments), RATE["parameters"])
    events = events_of(served, **asked)
    kinds = [one["type"].removeprefix("response.") for one in events]
    assert kinds[:3] == ["created", "in_progress", "output_item.added"]
    assert {*kinds[3:-3]} == {"function_call_arguments.delta"}
    assert kinds[-3:] == ["function_call_arguments.done", "output_item.done", "completed"]
    assert "".join(one["delta"] for one in events[3:-3]) == events[-3]["arguments"] == call.arguments
    (last,) = events[-1]["response"]["output"]
    assert events[-2]["item"] == last
    assert last["call_id"].startswith("call_")
    items: list[Any] = [*SAID, last, {"type": "function_call_output", "call_id": last["call_id"], "output": "rated"}]
    assert client.responses.create(model="acme/talk", input=items, max_output_tokens=2).usage


def test_a_function_without_parameters_has_no_arguments(client: OpenAI) -> None:
    (choice,) = chat(client, SAID, tools=tools(OTHER), tool_choice="required", max_tokens=20).choices
    assert json.loads(choice.message.tool_calls[0].function.arguments) == {}


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"tools": tools(RATE, OTHER), "tool_choice": "required"}, "tool_choice"),
        ({"tools": tools(OTHER), "tool_choice": NAMED}, "tool_choice"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": tools(RATE), "tool_choice": {"type": "allowed_tools"}}, "tool_choice.type"),
        ({"tools": tools(RATE, RATE), "tool_choice": "none"}, "tools"),
        ({"tools": tools({"name": "a b"}), "tool_choice": "none"}, "tools.0.function.name"),
        ({"tools": tools({**OTHER, "parameters": {"type": "array"}}), "tool_choice": "required"}, "tools"),
        ({"tools": tools({**OTHER, "parameters": {"type": "object", "properties": {"a": {"type": "array",
          "uniqueItems": True}}}}), "tool_choice": "required"}, "tools"),
        ({"tools": tools(RATE), "tool_choice": NAMED, "structured_outputs": {"choice": ["a"]}}, "structured_outputs"),
        ({"tools": tools(RATE), "tool_choice": NAMED, "stop_token_ids": [5]}, "stop_token_ids"),
    ],
    ids=lambda value: repr(value)[:60],
)  # fmt: skip
def test_tools_that_the_server_cannot_use_are_refused(served: Served, more: dict[str, Any], param: str) -> None:
    body = {"model": "acme/talk", "messages": SAID, **more}
    refused = served.post("/v1/chat/completions", body)
    assert refused.status_code == 400, refused.text
    error = refused.json()["error"]
    assert (error["type"], error["param"]) == ("invalid_request_error", param), error


@pytest.mark.slow
def test_responses_and_events_are_as_described(served: Served) -> None:
    said = served.get("/openapi.json").json()["paths"]["/v1/responses"]["post"]["responses"]["200"]["content"]
    forced = {"tools": [{"type": "function", **RATE}], "tool_choice": "required", "max_output_tokens": 60}
    named = {**forced, "tool_choice": {"type": "function", "name": "rate"}, "metadata": {"a": "b"}}
    schema = {"type": "json_schema", "name": "rate", "schema": RATE["parameters"]}
    formed = {"text": {"format": schema}, "max_output_tokens": 60}
    logprobs = {"include": ["message.output_text.logprobs"], "instructions": "a"}
    whole = Draft202012Validator(said["application/json"]["schema"])
    _, shape = said["text/event-stream"]["schema"]["properties"]["data"]["anyOf"]
    one_event = Draft202012Validator(shape["contentSchema"])
    for more, field in (({}, "text"), (logprobs, "instructions"), (named, "tool_choice"), (formed, "text")):
        body = {"max_output_tokens": 6, **more}
        found = served.post("/v1/responses", {"model": "acme/talk", "input": PROMPT, **body}).json()
        whole.validate(found)
        Response.model_validate(found, strict=True)
        assert found[field] == more.get(field, {"format": {"type": "text"}})
        for event in events_of(served, **body):
            one_event.validate(event)


@pytest.mark.parametrize(
    ("path", "param", "text"),
    [
        ("/v1/responses", "input", PROMPT),
        ("/v1/completions", "prompt", PROMPT),
    ],
)
def test_a_keys_limit_of_tokens_a_text_holds_for_prompts(served: Served, path: str, param: str, text: Any) -> None:
    made = served.store.create_key("acme", ["predict"], text_tokens=3)
    served.core.tenants.refresh()
    body = {"model": "acme/talk", param: text}
    refused = served.post(path, body, headers={"Authorization": f"Bearer {made.secret}"})
    assert refused.status_code == 400, refused.text
    error = refused.json()["error"]
    assert error["param"] == param
    assert "key" in error["message"]
    assert "3 tokens" in error["message"]
    assert served.post(path, body).status_code == 200
