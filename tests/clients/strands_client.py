"""strands-agents."""
# /// script
# dependencies = ["strands-agents[openai]"]
# ///

from contextlib import suppress
from typing import Literal

from checks import ANSWERS, KEY, URL, check, main, review, same
from pydantic import BaseModel
from strands import Agent
from strands.models.openai import OpenAIModel
from strands.types.exceptions import MaxTokensReachedException

PROMPT = ANSWERS["prompt"]


class Review(BaseModel):
    """A review."""

    mood: Literal["angry", "calm"]
    stars: Literal[1, 2, 3]


def agent(tokens=60, **more):
    to = {"base_url": f"{URL}/v1", "api_key": KEY, "max_retries": 0}
    model = OpenAIModel(client_args=to, model_id="acme/talk", params={"max_tokens": tokens}, **more)
    return Agent(model=model, callback_handler=None)


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


main()
