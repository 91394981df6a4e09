"""pydantic-ai, with chat completions and responses."""
# /// script
# dependencies = ["pydantic-ai-slim[openai]"]
# ///

from functools import partial
from typing import Literal

from checks import ANSWERS, KEY, URL, check, check_agent, main, review, same, save
from pydantic import BaseModel
from pydantic_ai import Agent, NativeOutput, ToolOutput
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.openai import OpenAIProvider

PROMPT = ANSWERS["prompt"]


class Review(BaseModel):
    mood: Literal["angry", "calm"]
    stars: Literal[1, 2, 3]


def agent(kind, output=str, tokens=60, name="acme/talk", tools=()):
    model = kind(name, provider=OpenAIProvider(base_url=f"{URL}/v1", api_key=KEY))
    return Agent(model, output_type=output, model_settings={"max_tokens": tokens}, retries=0, tools=tools)


async def answered(kind):
    same((await agent(kind).run(PROMPT)).output, ANSWERS["talk"])


async def again(kind):
    made = agent(kind)
    await made.run("And?", message_history=(await made.run(PROMPT)).all_messages())


async def streamed(kind):
    async with agent(kind).run_stream(PROMPT) as found:
        same(await found.get_output(), ANSWERS["talk"])


async def native(kind):
    review((await agent(kind, NativeOutput(Review), 400).run(PROMPT)).output.model_dump())


async def by_tool(kind):
    review((await agent(kind, ToolOutput(Review), 400).run(PROMPT)).output.model_dump())


for kind, name in ((OpenAIChatModel, "chat completions"), (OpenAIResponsesModel, "responses")):
    for what, function in (
        ("an answer", answered),
        ("an answer with a history", again),
        ("a streamed answer", streamed),
        ("a native output", native),
        ("an output by a tool", by_tool),
    ):

        async def checked(function=function, kind=kind):
            await function(kind)

        checked.__doc__ = f"{what} ({name})"
        check(checked)


async def loop(kind, model):
    return (await agent(kind, tokens=200, name=model, tools=[save]).run(PROMPT)).output


for kind, name in ((OpenAIChatModel, "chat completions"), (OpenAIResponsesModel, "responses")):
    looped = partial(loop, kind)
    looped.__doc__ = f"an agent with a tool ({name})"
    check_agent(looped)


main()
