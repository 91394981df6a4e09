"""instructor, in three of its modes."""
# /// script
# dependencies = ["instructor"]
# ///

from typing import Literal

import instructor
from checks import ANSWERS, KEY, URL, check, main, review
from openai import OpenAI
from pydantic import BaseModel

USER = [{"role": "user", "content": ANSWERS["prompt"]}]


class Review(BaseModel):
    mood: Literal["angry", "calm"]
    stars: Literal[1, 2, 3]


def asked(mode):
    client = instructor.from_openai(OpenAI(base_url=f"{URL}/v1", api_key=KEY, max_retries=0), mode=mode)
    found = client.chat.completions.create(
        model="acme/talk", messages=USER, response_model=Review, max_tokens=400, max_retries=0
    )
    review(found.model_dump())


@check
def tools():
    """mode TOOLS"""
    asked(instructor.Mode.TOOLS)


@check
def schema():
    """mode JSON_SCHEMA"""
    asked(instructor.Mode.JSON_SCHEMA)


@check
def responses():
    """mode RESPONSES_TOOLS"""
    asked(instructor.Mode.RESPONSES_TOOLS)


main()
