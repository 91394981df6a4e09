"""The package openai of Python."""
# /// script
# dependencies = ["openai"]
# ///

from typing import Literal

import openai
from checks import ANSWERS, KEY, REVIEW, URL, check, main, review, same
from openai import OpenAI
from pydantic import BaseModel

client = OpenAI(base_url=f"{URL}/v1", api_key=KEY, max_retries=0)
PROMPT = ANSWERS["prompt"]
USER = [{"role": "user", "content": PROMPT}]


class Review(BaseModel):
    mood: Literal["angry", "calm"]
    stars: Literal[1, 2, 3]


@check
def completion():
    """completions.create"""
    found = client.completions.create(model="acme/told", prompt=PROMPT, max_tokens=60)
    same(found.choices[0].text, ANSWERS["told"])


@check
def streamed_completion():
    """completions.create, streamed"""
    events = client.completions.create(model="acme/told", prompt=PROMPT, max_tokens=60, stream=True)
    same("".join(one.choices[0].text for one in events), ANSWERS["told"])


@check
def chat():
    """chat.completions.create"""
    found = client.chat.completions.create(model="acme/talk", messages=USER, max_tokens=60)
    same(found.choices[0].message.content, ANSWERS["talk"])


@check
def chat_again():
    """its own answer in the next request"""
    said = client.chat.completions.create(model="acme/talk", messages=USER, max_tokens=60).choices[0].message
    after = client.chat.completions.create(
        model="acme/talk", messages=[*USER, said.model_dump(), {"role": "user", "content": "And?"}], max_tokens=60
    )
    same(after.choices[0].message.role, "assistant")


@check
def streamed_chat():
    """chat.completions.create, streamed"""
    events = client.chat.completions.create(model="acme/talk", messages=USER, max_tokens=60, stream=True)
    same("".join(one.choices[0].delta.content or "" for one in events), ANSWERS["talk"])


@check
def parsed():
    """chat.completions.parse with a pydantic model"""
    found = client.chat.completions.parse(model="acme/talk", messages=USER, response_format=Review, max_tokens=400)
    review(found.choices[0].message.parsed.model_dump())


@check
def function():
    """a forced function"""
    tool = {"type": "function", "function": {"name": "save", "parameters": REVIEW}}
    found = client.chat.completions.create(
        model="acme/talk", messages=USER, tools=[tool], tool_choice="required", max_tokens=400
    )
    (call,) = found.choices[0].message.tool_calls
    same(call.function.name, "save")


@check
def responses():
    """responses.create"""
    found = client.responses.create(model="acme/talk", input=PROMPT, max_output_tokens=60)
    same(found.output_text, ANSWERS["talk"])


@check
def streamed_responses():
    """responses.stream"""
    with client.responses.stream(model="acme/talk", input=PROMPT, max_output_tokens=60) as stream:
        pieces = "".join(one.delta for one in stream if one.type == "response.output_text.delta")
        same(stream.get_final_response().output_text, ANSWERS["talk"])
    same(pieces, ANSWERS["talk"])


@check
def parsed_response():
    """responses.parse with a pydantic model"""
    found = client.responses.parse(model="acme/talk", input=PROMPT, text_format=Review, max_output_tokens=400)
    review(found.output_parsed.model_dump())


@check
def models():
    """models.list and models.retrieve"""
    assert "acme/talk" in {one.id for one in client.models.list()}
    same(client.models.retrieve("acme/talk").id, "acme/talk")


@check
def errors():
    """NotFoundError and BadRequestError"""
    for kind, given in ((openai.NotFoundError, {"model": "acme/none"}), (openai.BadRequestError, {"n": 100})):
        try:
            client.completions.create(**{"model": "acme/told", "prompt": PROMPT, **given})
        except kind as error:
            assert error.code and error.param, error
        else:
            raise AssertionError(f"no {kind.__name__}")


main()
