"""dspy."""
# /// script
# dependencies = ["dspy"]
# ///

import dspy
from checks import ANSWERS, KEY, URL, check, main, same

PROMPT = ANSWERS["prompt"]
TO = {"api_base": f"{URL}/v1", "api_key": KEY, "cache": False, "num_retries": 0, "temperature": None}


@check
def chat():
    """LM (chat)"""
    same(dspy.LM("openai/acme/talk", max_tokens=60, **TO)(PROMPT)[0], ANSWERS["talk"])


@check
def text():
    """LM (text)"""
    lm = dspy.LM("openai/acme/told", model_type="text", max_tokens=60, **TO)
    assert isinstance(lm(PROMPT)[0], str)


@check
def responses():
    """LM (responses)"""
    lm = dspy.LM("openai/acme/talk", model_type="responses", max_tokens=60, **TO)
    found = lm(PROMPT)[0]
    same(found["text"] if isinstance(found, dict) else found, ANSWERS["talk"])


main()
