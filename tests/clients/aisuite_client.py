"""aisuite."""
# /// script
# dependencies = ["aisuite[openai]"]
# ///

import json

import aisuite
from checks import ANSWERS, KEY, REVIEW, URL, check, check_agent, main, review, same, save

USER = [{"role": "user", "content": ANSWERS["prompt"]}]
client = aisuite.Client({"openai": {"base_url": f"{URL}/v1", "api_key": KEY, "max_retries": 0}})


def asked(tokens=60, model="acme/talk", **more):
    return client.chat.completions.create(model=f"openai:{model}", messages=USER, max_tokens=tokens, **more)


@check
def chat():
    """chat.completions.create"""
    same(asked().choices[0].message.content, ANSWERS["talk"])


@check
def stream():
    """chat.completions.create, streamed"""
    same("".join(one.choices[0].delta.content or "" for one in asked(stream=True)), ANSWERS["talk"])


@check
def schema():
    """response_format"""
    found = asked(
        400,
        response_format={"type": "json_schema", "json_schema": {"name": "review", "schema": REVIEW, "strict": True}},
    )
    review(json.loads(found.choices[0].message.content))


@check_agent
def tools(model):
    """chat.completions.create with a tool and turns"""
    return asked(200, model, tools=[save], max_turns=3).choices[0].message.content


main()
