"""autogen."""
# /// script
# dependencies = ["autogen-agentchat", "autogen-ext[openai]"]
# ///

import json
from typing import Literal

from autogen_agentchat.agents import AssistantAgent
from autogen_core.models import UserMessage
from autogen_ext.models.openai import OpenAIChatCompletionClient
from checks import ANSWERS, KEY, URL, check, check_agent, main, review, same, save
from pydantic import BaseModel

PROMPT = ANSWERS["prompt"]
INFO = {
    "vision": False,
    "function_calling": True,
    "json_output": True,
    "family": "unknown",
    "structured_output": True,
}


class Review(BaseModel):
    mood: Literal["angry", "calm"]
    stars: Literal[1, 2, 3]


def model(tokens=60, name="acme/talk"):
    return OpenAIChatCompletionClient(
        model=name, base_url=f"{URL}/v1", api_key=KEY, model_info=INFO, max_tokens=tokens, max_retries=0
    )


@check
async def create():
    """create"""
    same((await model().create([UserMessage(content=PROMPT, source="user")])).content, ANSWERS["talk"])


@check
async def stream():
    """create_stream"""
    pieces = [one async for one in model().create_stream([UserMessage(content=PROMPT, source="user")])]
    same(pieces[-1].content, ANSWERS["talk"])


@check
async def schema():
    """create with a pydantic model"""
    found = await model(400).create([UserMessage(content=PROMPT, source="user")], json_output=Review)
    review(json.loads(found.content))


@check
async def agent():
    """AssistantAgent"""
    found = await AssistantAgent("a", model(), system_message=None).run(task=PROMPT)
    same(found.messages[-1].content, ANSWERS["talk"])


@check_agent
async def tools(name):
    """AssistantAgent with a tool"""
    made = AssistantAgent("a", model(200, name), tools=[save], system_message=None, reflect_on_tool_use=True)
    return (await made.run(task=PROMPT)).messages[-1].content


main()
