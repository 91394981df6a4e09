"""The package openai-agents, with the responses that are its default and with chat completions."""
# /// script
# dependencies = ["openai-agents"]
# ///

from typing import Literal

from agents import (
    Agent,
    ModelSettings,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    Runner,
    function_tool,
    set_tracing_disabled,
)
from checks import ANSWERS, KEY, URL, check, main, review, same
from openai import AsyncOpenAI
from pydantic import BaseModel

set_tracing_disabled(True)
SHORT = ModelSettings(max_tokens=60)


class Review(BaseModel):
    mood: Literal["angry", "calm"]
    stars: Literal[1, 2, 3]


@function_tool
def save(mood: Literal["angry", "calm"], stars: Literal[1, 2, 3]) -> str:
    """Save a review."""
    return "saved"


def model(kind):
    return kind(model="acme/talk", openai_client=AsyncOpenAI(base_url=f"{URL}/v1", api_key=KEY, max_retries=0))


async def answered(kind):
    agent = Agent(name="a", model=model(kind), model_settings=SHORT)
    same((await Runner.run(agent, ANSWERS["prompt"])).final_output, ANSWERS["talk"])


async def streamed(kind):
    agent = Agent(name="a", model=model(kind), model_settings=SHORT)
    running = Runner.run_streamed(agent, ANSWERS["prompt"])
    async for _ in running.stream_events():
        pass
    same(running.final_output, ANSWERS["talk"])


async def structured(kind):
    agent = Agent(name="a", model=model(kind), output_type=Review, model_settings=ModelSettings(max_tokens=400))
    review((await Runner.run(agent, ANSWERS["prompt"])).final_output.model_dump())


async def tool(kind):
    agent = Agent(
        name="a",
        model=model(kind),
        tools=[save],
        tool_use_behavior="stop_on_first_tool",
        model_settings=ModelSettings(max_tokens=400, tool_choice="save"),
    )
    same((await Runner.run(agent, ANSWERS["prompt"])).final_output, "saved")


for kind, name in ((OpenAIResponsesModel, "responses"), (OpenAIChatCompletionsModel, "chat completions")):
    for what, function in (
        ("an answer", answered),
        ("a streamed answer", streamed),
        ("a structured output", structured),
        ("a tool that is forced", tool),
    ):

        async def checked(function=function, kind=kind):
            await function(kind)

        checked.__doc__ = f"{what} ({name})"
        check(checked)

main()
