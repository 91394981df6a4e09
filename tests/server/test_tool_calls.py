"""Functions that a model may call by its own choice: a scripted model answers, and clients get calls or texts."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter
from transformers import AutoTokenizer

from afina import Backbone
from afina.server.protocols import openai
from afina.server.protocols.openai_bodies import ChatRequest
from afina.server.protocols.tool_calls import (
    FORMS,
    Call,
    CallReader,
    CallStream,
    Said,
    chat_messages,
    chat_prompt,
    form_of,
)
from afina.server.replay import _chat_prompt
from calling import CALLING, LLAMA
from crowd import adapter
from fakes import Backbones, tokenizer
from servers import Served, serving, talk

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER = {"name": "weather", "description": "The weather.", "parameters": SCHEMA}
SAID = [{"role": "user", "content": "the soup was bright."}]
EVENTS: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
HERMES, LLAMA_3 = FORMS


def called(arguments: str = '{"city": "Rome"}', name: str = "weather") -> str:
    return f'<tool_call>\n{{"name": "{name}", "arguments": {arguments}}}\n</tool_call>'


ROME = Call("weather", '{"city": "Rome"}')
ANSWERS: list[tuple[str, Said]] = [
    (called(), Said("", [ROME])),
    (f"Let me look.\n\n{called()}", Said("Let me look.", [ROME])),
    (f"{called()}\n{called('{}', 'clock')}", Said("", [ROME, Call("clock", "{}")])),
    ('<tool_call>{"type": "function", "name":"weather","arguments":{"city":"a</tool_call>b"}}</tool_call>',
     Said("", [Call("weather", '{"city":"a</tool_call>b"}')])),
    ('<tool_call>\n{ "arguments": {"city": "Rome"}, "name": "weather"}\n</tool_call> ', Said("", [ROME])),
    *((one, Said(one)) for one in (
        "", "It is warm.", "a < b <tool", "<tool_call>", called()[:-3], called("{"), f"{called()} done",
        called('{"city": 5}'), called("{}"), called('["Rome"]'), called("NaN"), called(name="other"),
        called(name='weather", "a": "'), called().replace('"weather"', "[]"), "<tool_call>5</tool_call>",
        f"{called()}{called('{}')}", f"<tool_call>hm</tool_call> {called()}",
        '{"name": "weather", "arguments": {"city": "Rome"}}',
        f"<tool_call>{'[' * 100_000}", called('{"city": "Rome", "a": ' + "[" * 5000 + "]" * 5000 + "}"),
    )),
]  # fmt: skip
OF_LLAMA: list[tuple[str, Said]] = [
    ('{"name": "weather", "parameters": {"city": "Rome"}}', Said("", [ROME])),
    *((one, Said(one)) for one in (
        '{"name": "weather", "parameters": {"city": "Rome"}} {"name": "clock", "parameters": {}}',
        'Look: {"name": "weather", "parameters": {"city": "Rome"}}', '{"name": "weather"}', "{soup}", "{", called(),
    )),
]  # fmt: skip


@pytest.mark.parametrize(
    ("form", "text", "said"),
    [*((HERMES, *one) for one in ANSWERS), *((LLAMA_3, *one) for one in OF_LLAMA)],
    ids=lambda value: repr(value)[:40],
)
def test_an_answer_is_a_call_only_if_all_of_it_is_in_the_form_and_holds_to_the_schema(
    form: Any, text: str, said: Said
) -> None:
    reader = CallReader(form, {"weather": SCHEMA, "clock": {"type": "object"}})
    assert reader.read(text) == said
    for size in (1, 7, len(text) or 1):
        stream, pieces = CallStream(reader), [text[at : at + size] for at in range(0, len(text), size)]
        begun = "".join(stream.add(one) for one in pieces)
        assert not form.begin or form.begin not in begun
        ended = stream.end("")
        assert (begun + ended.text, ended.calls) == (said.text, said.calls)


def test_text_that_cannot_begin_a_call_is_not_held_back() -> None:
    for form, pieces in ((HERMES, ["It", " is", " <b", "> warm"]), (LLAMA_3, ["{s", 'oup {"name": "a"'])):
        stream = CallStream(CallReader(form, {"weather": SCHEMA}))
        assert "".join(stream.add(one) for one in pieces) == "".join(pieces)
    stream = CallStream(CallReader(HERMES, {"weather": SCHEMA}))
    assert [stream.add(one) for one in ("a ", "<", "b>", "\n<tool_", "call>", "...")] == [
        "a",
        "",
        " <b>",
        "",
        "",
        "",
    ]


@pytest.mark.parametrize(
    ("template", "form"),
    [(CALLING, HERMES), (LLAMA, LLAMA_3), ("{% for m in messages %}{{ m.content }}{% endfor %}", None),
     ("{{ tools | tojson }}{% for m in messages %}{{ m.content }}{{ m.tool_calls | tojson }}{% endfor %}", None),
     ("{% if tools %}{{ raise_exception('no') }}{% endif %}", None)],
)  # fmt: skip
def test_a_template_teaches_the_form_in_which_it_renders_a_call(template: str, form: Any) -> None:
    words = tokenizer(begin=True)
    words.chat_template = template
    assert form_of(words) is form


# Served


class Script:
    """A guide to one answer."""

    def __init__(self, tokens: Sequence[int]) -> None:
        self.left = [*tokens]

    @property
    def finished(self) -> bool:
        return not self.left

    def mask(self, logits: np.ndarray) -> None:
        value = logits[self.left[0]]
        logits[:] = -np.inf
        logits[self.left[0]] = value

    def accept(self, token: int) -> None:
        assert self.left.pop(0) == token


Say = Callable[[str], None]


@pytest.fixture
def says(served: Served, monkeypatch: pytest.MonkeyPatch) -> Say:
    """Let the model give an answer, to any request."""

    def say(text: str) -> None:
        tokens = served.backbone.tokenizer(text, add_special_tokens=False)["input_ids"]
        monkeypatch.setattr(
            openai, "_options", lambda *given: replace(options(*given), make_guide=lambda: Script(tokens))
        )

    options = openai._options
    return say


def with_template(backbones: Backbones, template: str, path: Path) -> Backbone:
    shutil.copytree(backbones.path("gpt2"), path)
    words = AutoTokenizer.from_pretrained(path)
    words.chat_template = template
    words.save_pretrained(path)
    return Backbone.load(str(path))


@pytest.fixture(scope="module")
def served(backbones: Backbones, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    root = tmp_path_factory.mktemp("calling")
    backbone = with_template(backbones, CALLING, root / "gpt2")
    adapters = {
        "acme/reviews@1": adapter(backbone, "lora", {"r": 2}, seed=1),
        "acme/talk@1": adapter(backbone, "lora", {"r": 2}, seed=4, **talk(backbone)),
    }
    with serving(backbone, adapters, root / "served") as made:
        yield made


def tools(*functions: Any) -> list[Any]:
    return [{"type": "function", "function": one} for one in functions]


CLOCK = {"name": "clock"}
BODY: dict[str, Any] = {"model": "acme/talk", "messages": SAID, "max_tokens": 190, "tools": tools(WEATHER, CLOCK)}
INPUT: dict[str, Any] = {
    "model": "acme/talk", "input": SAID[0]["content"], "max_output_tokens": 190,
    "tools": [{"type": "function", **one} for one in (WEATHER, CLOCK)],
}  # fmt: skip


def events(served: Served, path: str, body: Any) -> list[dict[str, Any]]:
    text = served.post(path, {**body, "stream": True}).text
    lines = [one.removeprefix("data: ") for one in text.splitlines() if one.startswith("data: {")]
    return [json.loads(one) for one in lines]


SERVED = [ANSWERS[0], ANSWERS[1], ANSWERS[2], ("It is warm.", Said("It is warm.")), (called("{}"), Said(called("{}")))]


@pytest.mark.parametrize(("text", "said"), SERVED, ids=lambda value: repr(value)[:30])
def test_a_chat_answers_by_calls_or_by_a_text_also_in_a_stream(
    served: Served, says: Say, text: str, said: Said
) -> None:
    says(text)
    found = served.post("/v1/chat/completions", BODY)
    ChatCompletion.model_validate(found.json())
    assert "Afina-Tools-Unused" not in found.headers
    (choice,) = found.json()["choices"]
    assert choice["finish_reason"] == ("tool_calls" if said.calls else "stop")
    message, calls = choice["message"], choice["message"].get("tool_calls", [])
    assert [Call(**one["function"]) for one in calls] == said.calls or not said.calls
    assert message["content"] == (said.text or None)
    assert len({one["id"] for one in calls}) == len(calls) == len(said.calls)
    chunks = events(served, "/v1/chat/completions", BODY)
    for one in chunks:
        ChatCompletionChunk.model_validate(one)
    deltas = [one["choices"][0]["delta"] for one in chunks]
    assert "".join(one.get("content") or "" for one in deltas) == said.text
    assert [one["function"] for each in deltas for one in each.get("tool_calls", [])] == [
        one["function"] for one in calls
    ]
    assert [one["index"] for each in deltas for one in each.get("tool_calls", [])] == [*range(len(calls))]
    assert [one["role"] for one in deltas if "role" in one] == ["assistant"]
    assert chunks[-1]["choices"][0]["finish_reason"] == choice["finish_reason"]


@pytest.mark.parametrize(("text", "said"), SERVED, ids=lambda value: repr(value)[:30])
def test_a_response_has_an_item_for_the_text_and_one_for_each_call(
    served: Served, says: Say, text: str, said: Said
) -> None:
    says(text)
    found = served.post("/v1/responses", INPUT).json()
    Response.model_validate(found, strict=True)
    items = found["output"]
    kinds = [*(["message"] if said.text else []), *["function_call"] * len(said.calls)]
    assert [one["type"] for one in items] == kinds
    assert [Call(one["name"], one["arguments"]) for one in items if "name" in one] == [*said.calls]
    assert [one["content"][0]["text"] for one in items if "content" in one] == [said.text] * bool(said.text)
    several = events(served, "/v1/responses", INPUT)
    for number, one in enumerate(several):
        EVENTS.validate_python(one, strict=True)
        assert one["sequence_number"] == number
    done = [one for one in several if one["type"] == "response.output_item.done"]
    added = [one for one in several if one["type"] == "response.output_item.added"]
    assert [one["output_index"] for one in done] == [one["output_index"] for one in added] == [*range(len(items))]
    assert [one["item"] for one in done] == several[-1]["response"]["output"]

    def bare(item: Any) -> Any:
        return {name: value for name, value in item.items() if name not in ("id", "call_id")}

    assert [bare(one["item"]) for one in done] == [bare(one) for one in items]


def test_the_calls_and_their_results_go_through_the_template(served: Served, says: Say) -> None:
    says(f"Look.{called()}{called('{}', 'clock')}")
    message = served.post("/v1/chat/completions", BODY).json()["choices"][0]["message"]
    results = [{"role": "tool", "tool_call_id": one["id"], "content": "12"} for one in message["tool_calls"]]
    says("It is warm.")
    found = served.post("/v1/chat/completions", {**BODY, "messages": [*SAID, message, *results]})
    assert found.json()["choices"][0]["message"]["content"] == "It is warm."
    prompt = (
        f"<tools>weather clock <user>{SAID[0]['content']}<assistant>Look.\n{called()}\n{called('{}', 'clock')}"
        "<|endoftext|><tool>12<tool>12<assistant>"
    )
    expected = len(served.backbone.tokenizer(prompt, add_special_tokens=False)["input_ids"])
    assert found.json()["usage"]["prompt_tokens"] == expected
    fields = {**BODY, "messages": [*SAID, message, *results]}
    named = chat_messages(ChatRequest.model_validate(fields), HERMES)
    assert [one.get("name") for one in named] == [None, None, "weather", "clock"]
    assert _chat_prompt(served.backbone.tokenizer, json.dumps(fields)) == prompt
    items = served.post("/v1/responses", {**INPUT, "input": [
        *SAID, {"role": "assistant", "content": "Look."},
        *({"type": "function_call", "call_id": one["id"], **one["function"]} for one in message["tool_calls"]),
        *({"type": "function_call_output", "call_id": one["tool_call_id"], "output": "12"} for one in results),
    ]})  # fmt: skip
    assert items.json()["usage"]["input_tokens"] == expected


@pytest.mark.parametrize(
    ("more", "calls", "unused"),
    [({"parallel_tool_calls": False}, 1, None), ({"parallel_tool_calls": True, "tool_choice": "auto"}, 2, None),
     ({"tool_choice": "none"}, 0, None), ({"response_format": {"type": "text"}}, 2, None),
     ({"structured_outputs": {"regex": "a+"}}, 0, "grammar")],
)  # fmt: skip
def test_other_fields_of_the_request_limit_the_calls(
    served: Served, says: Say, more: Any, calls: int, unused: str | None
) -> None:
    says(called() + called("{}", "clock"))
    found = served.post("/v1/chat/completions", {**BODY, **more})
    assert found.headers.get("Afina-Tools-Unused") == unused
    assert len(found.json()["choices"][0]["message"].get("tool_calls", [])) == calls
    if "parallel_tool_calls" in more:
        also = served.post("/v1/responses", {**INPUT, **more}).json()["output"]
        assert [one["type"] for one in also] == ["function_call"] * calls


def test_a_call_at_the_limit_of_tokens_says_so(served: Served, says: Say) -> None:
    says(called())
    (choice,) = served.post("/v1/chat/completions", {**BODY, "max_tokens": 20}).json()["choices"]
    assert (choice["finish_reason"], choice["message"].get("tool_calls")) == ("length", None)
    assert called().startswith(choice["message"]["content"])


def test_logprobs_of_a_call_are_all_reported(served: Served, says: Say) -> None:
    says(called())
    body = {**BODY, "logprobs": True}
    (choice,) = served.post("/v1/chat/completions", body).json()["choices"]
    tokens = [one["token"] for one in choice["logprobs"]["content"]]
    assert "".join(tokens) == called()
    streamed = [one["choices"][0]["logprobs"]["content"] for one in events(served, "/v1/chat/completions", body)]
    assert [one["token"] for each in streamed for one in each] == tokens


def test_without_tools_in_the_template_the_answer_is_a_text_and_a_header_says_so(chatting: Backbone) -> None:
    body = ChatRequest.model_validate(BODY)
    prompt = chat_prompt(chatting.tokenizer, body)
    assert prompt.text == f"<user>{SAID[0]['content']}<assistant>"
    assert (prompt.reader, prompt.headers) == (None, {"Afina-Tools-Unused": "template"})


@pytest.mark.parametrize(
    "function",
    [{**WEATHER, "description": "a<|endoftext|>b"}, {**WEATHER, "parameters": {"type": "array"}},
     {**WEATHER, "parameters": {"properties": 5}}],
    ids=["special", "array", "malformed"],
)  # fmt: skip
def test_functions_that_could_forge_a_message_or_have_no_schema_are_refused(served: Served, function: Any) -> None:
    found = served.post("/v1/chat/completions", {**BODY, "tools": tools(function)})
    assert (found.status_code, found.json()["error"]["param"]) == (400, "tools"), found.text
