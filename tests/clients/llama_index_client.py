"""llama-index, with its class for servers that speak OpenAI's protocol."""
# /// script
# dependencies = ["llama-index-core", "llama-index-llms-openai-like"]
# ///

from typing import Literal

from checks import ANSWERS, KEY, URL, check, check_agent, main, review, same, save
from llama_index.core.agent.workflow import FunctionAgent
from llama_index.core.llms import ChatMessage
from llama_index.llms.openai_like import OpenAILike
from pydantic import BaseModel

PROMPT = ANSWERS["prompt"]


class Review(BaseModel):
    mood: Literal["angry", "calm"]
    stars: Literal[1, 2, 3]


def llm(model, **more):
    given = {"max_tokens": 60, "max_retries": 0, "temperature": 0, "context_window": 1000, **more}
    return OpenAILike(model=model, api_base=f"{URL}/v1", api_key=KEY, **given)


@check
def complete():
    """complete"""
    same(llm("acme/told").complete(PROMPT).text, ANSWERS["told"])


@check
def stream_complete():
    """stream_complete"""
    same("".join(one.delta or "" for one in llm("acme/told").stream_complete(PROMPT)), ANSWERS["told"])


@check
def chat():
    """chat"""
    made = llm("acme/talk", is_chat_model=True)
    same(made.chat([ChatMessage(role="user", content=PROMPT)]).message.content, ANSWERS["talk"])


@check
def stream_chat():
    """stream_chat"""
    made = llm("acme/talk", is_chat_model=True)
    pieces = made.stream_chat([ChatMessage(role="user", content=PROMPT)])
    same("".join(one.delta or "" for one in pieces), ANSWERS["talk"])


@check
def structured():
    """structured output by a function"""
    made = llm("acme/talk", is_chat_model=True, is_function_calling_model=True, max_tokens=400)
    found = made.as_structured_llm(Review).chat([ChatMessage(role="user", content=PROMPT)])
    review(found.raw.model_dump())


@check_agent
async def agent(model):
    """FunctionAgent, which streams"""
    made = llm(model, is_chat_model=True, is_function_calling_model=True, max_tokens=200, context_window=4000)
    return str(await FunctionAgent(tools=[save], llm=made).run(PROMPT))


main()
