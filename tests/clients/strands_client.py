"""strands-agents."""
# /// script
# dependencies = ["strands-agents[openai]"]
# ///

from contextlib import suppress
from typing import Literal

from checks import ANSWERS, KEY, URL, check, check_agent, main, review, same, save
from pydantic import BaseModel
from strands import Agent, tool
from strands.models.openai import OpenAIModel
from strands.types.exceptions import MaxTokensReachedException

PROMPT = ANSWERS["prompt"]


class Review(BaseModel):
    """A review."""

    mood: Literal["angry", "calm"]
    stars: Literal[1, 2, 3]


def agent(tokens=60, model="acme/talk", tools=(), **more):
    to = {"base_url": f"{URL}/v1", "api_key": KEY, "max_retries": 0}
    made = OpenAIModel(client_args=to, model_id=model, params={"max_tokens": tokens}, **more)
    return Agent(model=made, callback_handler=None, tools=[*tools])


def text(found):
    return "".join(one["text"] for one in found.message["content"])


@check
def answered():
    """Agent, streamed"""
    same(text(agent()(PROMPT)), ANSWERS["talk"])


@check
def whole():
    """Agent, not streamed"""
    same(text(agent(stream=False)(PROMPT)), ANSWERS["talk"])


@check
def again():
    """a second question to the same agent"""
    made = agent()
    made(PROMPT)
    with suppress(MaxTokensReachedException):  # an answer that the limit ends, which the agent keeps
        made("And?")
    same([one["role"] for one in made.messages], ["user", "assistant"] * 2)


@check
def structured():
    """structured_output"""
    review(agent(400).structured_output(Review, PROMPT).model_dump())


@check_agent
def tools(model):
    """Agent with a tool"""
    made = agent(200, model, [tool(save)])
    with suppress(MaxTokensReachedException):
        made(PROMPT)
    return "".join(one["text"] for one in made.messages[-1]["content"])


main()
