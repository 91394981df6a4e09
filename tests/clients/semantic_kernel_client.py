"""semantic-kernel."""
# /// script
# dependencies = ["semantic-kernel"]
# ///

import json
from typing import Literal

from checks import ANSWERS, KEY, URL, check, check_agent, main, review, same, save
from openai import AsyncOpenAI
from pydantic import BaseModel
from semantic_kernel import Kernel
from semantic_kernel.agents import ChatCompletionAgent
from semantic_kernel.connectors.ai.open_ai import (
    OpenAIChatCompletion,
    OpenAIChatPromptExecutionSettings,
    OpenAITextCompletion,
    OpenAITextPromptExecutionSettings,
)
from semantic_kernel.contents import ChatHistory
from semantic_kernel.functions import KernelArguments, KernelPlugin, kernel_function

PROMPT = ANSWERS["prompt"]


class Review(BaseModel):
    mood: Literal["angry", "calm"]
    stars: Literal[1, 2, 3]


def to():
    return AsyncOpenAI(base_url=f"{URL}/v1", api_key=KEY, max_retries=0)


def service(model="acme/talk"):
    return OpenAIChatCompletion(ai_model_id=model, async_client=to())


def history():
    made = ChatHistory()
    made.add_user_message(PROMPT)
    return made


def settings(tokens=60, **more):
    return OpenAIChatPromptExecutionSettings(max_tokens=tokens, **more)


@check
async def chat():
    """get_chat_message_content"""
    same((await service().get_chat_message_content(history(), settings())).content, ANSWERS["talk"])


@check
async def stream():
    """get_streaming_chat_message_content"""
    pieces = [one async for one in service().get_streaming_chat_message_content(history(), settings())]
    same("".join(one.content for one in pieces if one), ANSWERS["talk"])


@check
async def schema():
    """response_format of a pydantic model"""
    found = await service().get_chat_message_content(history(), settings(400, response_format=Review))
    review(json.loads(found.content))


@check
async def kernel():
    """Kernel.invoke_prompt"""
    made = Kernel()
    made.add_service(service())
    same(str(await made.invoke_prompt(PROMPT, arguments=KernelArguments(settings()))), ANSWERS["talk"])


@check
async def agent():
    """ChatCompletionAgent"""
    made = ChatCompletionAgent(service=service(), name="a", arguments=KernelArguments(settings()))
    same(str((await made.get_response(messages=PROMPT)).content), ANSWERS["talk"])


@check
async def completion():
    """get_text_content"""
    made = OpenAITextCompletion(ai_model_id="acme/told", async_client=to())
    found = await made.get_text_content(PROMPT, OpenAITextPromptExecutionSettings(max_tokens=60))
    same(found.text, ANSWERS["told"])


@check_agent
async def tools(model):
    """ChatCompletionAgent with a plugin"""

    @kernel_function(name="save")
    def saver(mood: str, stars: int) -> str:
        return save(mood, stars)

    plugin = KernelPlugin("reviews", functions=[saver])
    made = ChatCompletionAgent(service=service(model), plugins=[plugin], arguments=KernelArguments(settings(200)))
    return str((await made.get_response(messages=PROMPT)).content)


main()
