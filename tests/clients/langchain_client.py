"""langchain-openai."""
# /// script
# dependencies = ["langchain-openai", "langchain"]
# ///

from typing import Literal

from checks import ANSWERS, KEY, URL, check, check_agent, main, review, same, save
from langchain.agents import create_agent
from langchain_openai import ChatOpenAI, OpenAI
from pydantic import BaseModel

PROMPT = ANSWERS["prompt"]


class Review(BaseModel):
    """A review."""

    mood: Literal["angry", "calm"]
    stars: Literal[1, 2, 3]


def chat(**more):
    given = {"model": "acme/talk", "max_tokens": 60, **more}
    return ChatOpenAI(base_url=f"{URL}/v1", api_key=KEY, max_retries=0, **given)


@check
def invoke():
    """ChatOpenAI.invoke"""
    same(chat().invoke(PROMPT).content, ANSWERS["talk"])


@check
def history():
    """its own answer in the next request"""
    said = chat().invoke(PROMPT)
    chat().invoke([("user", PROMPT), said, ("user", "And?")])


@check
def stream():
    """ChatOpenAI.stream"""
    same("".join(one.content for one in chat().stream(PROMPT)), ANSWERS["talk"])


@check
def batch():
    """ChatOpenAI.batch"""
    same([one.content for one in chat().batch([PROMPT, PROMPT])], [ANSWERS["talk"]] * 2)


@check
def schema():
    """with_structured_output (json_schema)"""
    review(chat(max_tokens=400).with_structured_output(Review).invoke(PROMPT).model_dump())


@check
def function():
    """with_structured_output (function_calling)"""
    review(chat(max_tokens=400).with_structured_output(Review, method="function_calling").invoke(PROMPT).model_dump())


@check
def responses():
    """ChatOpenAI with use_responses_api"""
    same(chat(use_responses_api=True).invoke(PROMPT).text, ANSWERS["talk"])


@check
def completion():
    """OpenAI.invoke (completions)"""
    llm = OpenAI(model="acme/told", base_url=f"{URL}/v1", api_key=KEY, max_tokens=60, max_retries=0, temperature=0)
    same(llm.invoke(PROMPT), ANSWERS["told"])


@check_agent
def agent(model):
    """create_agent with a tool"""
    made = create_agent(chat(model=model, max_tokens=200), [save])
    return made.invoke({"messages": [("user", PROMPT)]})["messages"][-1].content


main()
