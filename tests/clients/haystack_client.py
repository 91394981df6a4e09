"""haystack."""
# /// script
# dependencies = ["haystack-ai"]
# ///

from checks import ANSWERS, KEY, URL, check, check_agent, main, same, save
from haystack.components.agents import Agent
from haystack.components.generators.chat import OpenAIChatGenerator, OpenAIResponsesChatGenerator
from haystack.dataclasses import ChatMessage
from haystack.tools import create_tool_from_function
from haystack.utils import Secret

PROMPT = ANSWERS["prompt"]
TO = {"model": "acme/talk", "api_base_url": f"{URL}/v1", "api_key": Secret.from_token(KEY), "max_retries": 0}


def asked(made, *before):
    return made.run([*before, ChatMessage.from_user(PROMPT)])["replies"][0]


@check
def chat():
    """OpenAIChatGenerator"""
    same(asked(OpenAIChatGenerator(generation_kwargs={"max_tokens": 60}, **TO)).text, ANSWERS["talk"])


@check
def again():
    """OpenAIChatGenerator with its own answer"""
    made = OpenAIChatGenerator(generation_kwargs={"max_tokens": 60}, **TO)
    asked(made, ChatMessage.from_user(PROMPT), asked(made))


@check
def stream():
    """OpenAIChatGenerator, streamed"""
    pieces = []
    made = OpenAIChatGenerator(
        generation_kwargs={"max_tokens": 60}, streaming_callback=lambda one: pieces.append(one.content), **TO
    )
    same(asked(made).text, ANSWERS["talk"])
    same("".join(pieces), ANSWERS["talk"])


@check
def responses():
    """OpenAIResponsesChatGenerator"""
    made = OpenAIResponsesChatGenerator(generation_kwargs={"max_output_tokens": 60}, **TO)
    same(asked(made).text, ANSWERS["talk"])


@check_agent
def agent(model):
    """Agent with a tool"""
    made = OpenAIChatGenerator(generation_kwargs={"max_tokens": 200}, **{**TO, "model": model})
    found = Agent(chat_generator=made, tools=[create_tool_from_function(save)])
    return found.run(messages=[ChatMessage.from_user(PROMPT)])["last_message"].text


main()
