"""crewai."""
# /// script
# dependencies = ["crewai"]
# ///

import os
from typing import Literal

from checks import ANSWERS, KEY, URL, check, main, review, same, save

os.environ |= {"CREWAI_DISABLE_TELEMETRY": "true", "CREWAI_TRACING_ENABLED": "false", "OTEL_SDK_DISABLED": "true"}

from crewai import LLM, Agent, Crew, Task
from crewai.tools import tool
from pydantic import BaseModel

PROMPT = ANSWERS["prompt"]


class Review(BaseModel):
    mood: Literal["angry", "calm"]
    stars: Literal[1, 2, 3]


def model(tokens=60, **more):
    to = {"base_url": f"{URL}/v1", "api_key": KEY, "custom_openai": True}
    return LLM(model="openai/acme/talk", max_tokens=tokens, **to, **more)


@check
def call():
    """LLM.call"""
    same(model().call(PROMPT), ANSWERS["talk"])


@check
def stream():
    """LLM.call, streamed"""
    same(model(stream=True).call(PROMPT), ANSWERS["talk"])


@check
def schema():
    """LLM.call with response_model"""
    found = model(400).call(PROMPT, response_model=Review)
    review((found if isinstance(found, Review) else Review.model_validate_json(found)).model_dump())


@check
def crew():
    """Crew.kickoff"""
    agent = Agent(role="Critic", goal="Answer.", backstory="You answer.", llm=model(), max_iter=1, verbose=False)
    task = Task(description=PROMPT, expected_output="An answer.", agent=agent)
    assert Crew(agents=[agent], tasks=[task], verbose=False).kickoff().raw


@check
def pydantic():
    """Crew.kickoff of a task with output_pydantic"""
    agent = Agent(role="Critic", goal="Answer.", backstory="You answer.", llm=model(400), max_iter=1, verbose=False)
    task = Task(description=PROMPT, expected_output="A review.", agent=agent, output_pydantic=Review)
    review(Crew(agents=[agent], tasks=[task], verbose=False).kickoff().pydantic.model_dump())


@check
def tools():
    """Crew.kickoff with a tool, a model that was not trained to call"""
    about = {"role": "Critic", "goal": "Answer.", "backstory": "You answer."}
    agent = Agent(**about, llm=model(), tools=[tool(save)], max_iter=2, verbose=False)
    task = Task(description=PROMPT, expected_output="An answer.", agent=agent)
    assert Crew(agents=[agent], tasks=[task], verbose=False).kickoff().raw


main()
