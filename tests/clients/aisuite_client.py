"""aisuite."""
# /// script
# dependencies = ["aisuite[openai]"]
# ///

import json

import aisuite
from checks import ANSWERS, KEY, REVIEW, URL, check, main, review, same

USER = [{"role": "user", "content": ANSWERS["prompt"]}]
client = aisuite.Client({"openai": {"base_url": f"{URL}/v1", "api_key": KEY, "max_retries": 0}})


def asked(tokens=60, **more):
    return client.chat.completions.create(model="openai:acme/talk", messages=USER, max_tokens=tokens, **more)


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


main()
