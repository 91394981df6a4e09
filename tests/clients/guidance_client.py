"""guidance."""
# /// script
# dependencies = ["guidance", "openai"]
# ///

import json

import guidance
from checks import ANSWERS, KEY, REVIEW, URL, check, main, review, same
from guidance import assistant, gen, user

PROMPT = ANSWERS["prompt"]


def asked(wanted):
    lm = guidance.models.OpenAI("acme/talk", api_key=KEY, base_url=f"{URL}/v1", echo=False)
    with user():
        lm += PROMPT
    with assistant():
        lm += wanted
    return lm


@check
def text():
    """gen"""
    found = asked(gen("found", max_tokens=60))["found"]
    # guidance joins the tokens of the log-probabilities, the end token among them
    same(found.strip().removesuffix("<|endoftext|>"), ANSWERS["talk"])


@check
def schema():
    """guidance.json"""
    review(json.loads(asked(guidance.json("found", schema=REVIEW, max_tokens=400))["found"]))


main()
