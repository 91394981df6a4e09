"""litellm."""
# /// script
# dependencies = ["litellm"]
# ///

import json

import litellm
from checks import ANSWERS, KEY, REVIEW, URL, check, main, review, same

PROMPT = ANSWERS["prompt"]
TO = {"api_base": f"{URL}/v1", "api_key": KEY, "max_retries": 0}
USER = [{"role": "user", "content": PROMPT}]


@check
def chat():
    """completion (chat)"""
    found = litellm.completion(model="openai/acme/talk", messages=USER, max_tokens=60, **TO)
    same(found.choices[0].message.content, ANSWERS["talk"])


@check
def hosted():
    """completion (provider hosted_vllm)"""
    found = litellm.completion(model="hosted_vllm/acme/talk", messages=USER, max_tokens=60, **TO)
    same(found.choices[0].message.content, ANSWERS["talk"])


@check
def stream():
    """completion, streamed"""
    found = litellm.completion(model="openai/acme/talk", messages=USER, max_tokens=60, stream=True, **TO)
    same("".join(one.choices[0].delta.content or "" for one in found), ANSWERS["talk"])


@check
def text():
    """text_completion"""
    found = litellm.text_completion(model="text-completion-openai/acme/told", prompt=PROMPT, max_tokens=60, **TO)
    same(found.choices[0].text, ANSWERS["told"])


@check
def schema():
    """response_format"""
    asked = {"type": "json_schema", "json_schema": {"name": "review", "schema": REVIEW, "strict": True}}
    found = litellm.completion(model="openai/acme/talk", messages=USER, max_tokens=400, response_format=asked, **TO)
    review(json.loads(found.choices[0].message.content))


@check
def responses():
    """responses"""
    found = litellm.responses(model="openai/acme/talk", input=PROMPT, max_output_tokens=60, **TO)
    same(found.output[0].content[0].text, ANSWERS["talk"])


main()
