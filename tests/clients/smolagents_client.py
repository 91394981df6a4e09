"""smolagents."""
# /// script
# dependencies = ["smolagents[openai]"]
# ///

import json

from checks import ANSWERS, KEY, REVIEW, URL, check, main, review, same, save
from smolagents import OpenAIModel, ToolCallingAgent, tool

PROMPT = ANSWERS["prompt"]
USER = [{"role": "user", "content": [{"type": "text", "text": PROMPT}]}]


def model(tokens=60, **more):
    return OpenAIModel("acme/talk", api_base=f"{URL}/v1", api_key=KEY, max_tokens=tokens, **more)


@check
def generate():
    """OpenAIModel.generate"""
    same(model().generate(USER).content, ANSWERS["talk"])


@check
def stream():
    """OpenAIModel.generate_stream"""
    same("".join(one.content or "" for one in model().generate_stream(USER)), ANSWERS["talk"])


@check
def schema():
    """response_format beside stop_sequences, as a CodeAgent sends them"""
    asked = {"type": "json_schema", "json_schema": {"name": "review", "schema": REVIEW, "strict": True}}
    found = model(400).generate(USER, stop_sequences=["Observation:"], response_format=asked)
    review(json.loads(found.content))


@check
def agent():
    """ToolCallingAgent with a tool, a model that was not trained to call"""
    made = model(200, tool_choice="auto")  # its default requires a call, and the server refuses that
    assert ToolCallingAgent([tool(save)], made, max_steps=1, verbosity_level=0).run(PROMPT)


main()
