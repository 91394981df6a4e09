"""outlines, with its classes for OpenAI and for vLLM's server."""
# /// script
# dependencies = ["outlines", "openai"]
# ///

import json
from typing import Literal

import openai
import outlines
from checks import ANSWERS, KEY, URL, check, main, review, same
from pydantic import BaseModel

PROMPT = ANSWERS["prompt"]
client = openai.OpenAI(base_url=f"{URL}/v1", api_key=KEY, max_retries=0)


class Review(BaseModel):
    mood: Literal["angry", "calm"]
    stars: Literal[1, 2, 3]


@check
def text():
    """from_openai: text"""
    same(outlines.from_openai(client, "acme/talk")(PROMPT, max_tokens=60), ANSWERS["talk"])


@check
def schema():
    """from_openai: a pydantic model"""
    review(json.loads(outlines.from_openai(client, "acme/talk")(PROMPT, Review, max_tokens=400)))


@check
def served():
    """from_vllm: text"""
    same(outlines.from_vllm(client, "acme/talk")(PROMPT, max_tokens=60), ANSWERS["talk"])


@check
def chosen():
    """from_vllm: a choice"""
    assert outlines.from_vllm(client, "acme/talk")(PROMPT, Literal["angry", "calm"]) in ("angry", "calm")


@check
def by_expression():
    """from_vllm: a regular expression"""
    found = outlines.from_vllm(client, "acme/talk")(PROMPT, outlines.types.Regex(r"[0-9]{3}"), max_tokens=20)
    assert found.isdigit() and len(found) == 3, found


@check
def served_schema():
    """from_vllm: a pydantic model"""
    review(json.loads(outlines.from_vllm(client, "acme/talk")(PROMPT, Review, max_tokens=400)))


main()
