"""agno, with its models for OpenAI, for compatible servers and for vLLM."""
# /// script
# dependencies = ["agno", "openai"]
# ///

from functools import partial
from typing import Literal

from agno.agent import Agent
from agno.models.openai import OpenAILike, OpenAIResponses
from agno.models.vllm import VLLM
from checks import ANSWERS, KEY, URL, check, check_agent, main, review, same, save
from pydantic import BaseModel

PROMPT = ANSWERS["prompt"]


class Review(BaseModel):
    mood: Literal["angry", "calm"]
    stars: Literal[1, 2, 3]


def agent(kind, tokens=60, model="acme/talk", **more):
    limit = {"max_output_tokens" if kind is OpenAIResponses else "max_tokens": tokens}
    if kind is VLLM:
        limit["presence_penalty"] = 0  # its default is 1.5
    made = kind(id=model, base_url=f"{URL}/v1", api_key=KEY, temperature=0, **limit)
    return Agent(model=made, telemetry=False, **more)


def answered(kind):
    same(agent(kind).run(PROMPT).content, ANSWERS["talk"])


def streamed(kind):
    same("".join(one.content or "" for one in agent(kind).run(PROMPT, stream=True)), ANSWERS["talk"])


def structured(kind):
    review(agent(kind, 400, output_schema=Review, structured_outputs=True).run(PROMPT).content.model_dump())


for kind in (OpenAILike, OpenAIResponses, VLLM):
    for what, function in (("run", answered), ("run, streamed", streamed), ("output_schema", structured)):

        def checked(function=function, kind=kind):
            function(kind)

        checked.__doc__ = f"{what} ({kind.__name__})"
        check(checked)


def loop(kind, model):
    return agent(kind, 200, model, tools=[save]).run(PROMPT).content


for kind in (OpenAILike, OpenAIResponses, VLLM):
    looped = partial(loop, kind)
    looped.__doc__ = f"an agent with a tool ({kind.__name__})"
    check_agent(looped)


main()
