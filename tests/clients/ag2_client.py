"""ag2, with chat completions and responses."""
# /// script
# dependencies = ["ag2[openai]"]
# ///

from functools import partial
from typing import Literal

from ag2 import Agent, tool
from ag2.config.openai import OpenAIConfig, OpenAIResponsesConfig
from checks import ANSWERS, KEY, URL, check, check_agent, main, review, same, save
from pydantic import BaseModel

PROMPT = ANSWERS["prompt"]


class Review(BaseModel):
    mood: Literal["angry", "calm"]
    stars: Literal[1, 2, 3]


def agent(kind, tokens=60, model="acme/talk", tools=(), **more):
    limit = {"max_tokens" if kind is OpenAIConfig else "max_output_tokens": tokens}
    config = kind(model=model, base_url=f"{URL}/v1", api_key=KEY, max_retries=0, **limit, **more)
    return Agent("a", config=config, tools=tools)


async def answered(kind):
    body = (await agent(kind).ask(PROMPT)).body
    assert body
    if kind is OpenAIResponsesConfig:  # chat completions begin with an empty message of the system
        same(body, ANSWERS["talk"])


async def streamed(kind):
    same((await agent(kind, streaming=True).ask(PROMPT)).body, (await agent(kind).ask(PROMPT)).body)


async def again(kind):
    reply = await agent(kind).ask(PROMPT)
    assert (await reply.ask("And?")).body


async def structured(kind):
    found = await agent(kind, 400).ask(PROMPT, response_schema=Review)
    review((await found.content()).model_dump())


for kind, name in ((OpenAIConfig, "chat completions"), (OpenAIResponsesConfig, "responses")):
    for what, function in (
        ("ask", answered),
        ("ask, streamed", streamed),
        ("ask again", again),
        ("response_schema", structured),
    ):

        async def checked(function=function, kind=kind):
            await function(kind)

        checked.__doc__ = f"{what} ({name})"
        check(checked)


async def loop(kind, model):
    return (await agent(kind, 200, model, [tool(save)]).ask(PROMPT)).body


for kind, name in ((OpenAIConfig, "chat completions"), (OpenAIResponsesConfig, "responses")):
    looped = partial(loop, kind)
    looped.__doc__ = f"an agent with a tool ({name})"
    check_agent(looped)


main()
