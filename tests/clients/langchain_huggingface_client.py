"""langchain-huggingface."""
# /// script
# dependencies = ["langchain-huggingface"]
# ///

import os

from checks import ANSWERS, KEY, URL, check, main, same

os.environ["HF_TOKEN"] = KEY  # the package sends no other key to a URL that is not of Hugging Face

from langchain_huggingface import ChatHuggingFace, HuggingFaceEndpoint

PROMPT = ANSWERS["prompt"]


def endpoint(name, **more):
    return HuggingFaceEndpoint(endpoint_url=f"{URL}/models/acme/{name}", max_new_tokens=60, **more)


@check
def invoke():
    """HuggingFaceEndpoint.invoke"""
    same(endpoint("told").invoke(PROMPT), ANSWERS["told"])


@check
async def ainvoke():
    """HuggingFaceEndpoint.ainvoke"""
    same(await endpoint("told").ainvoke(PROMPT), ANSWERS["told"])


@check
def stream():
    """HuggingFaceEndpoint.stream"""
    same("".join(endpoint("told").stream(PROMPT)), ANSWERS["told"])


@check
def sampled():
    """HuggingFaceEndpoint with do_sample"""
    asked = {"do_sample": True, "typical_p": None, "seed": 3, "temperature": 1.5}
    same(endpoint("told", **asked).invoke(PROMPT), endpoint("told", **asked).invoke(PROMPT))


@check
def typical():
    """typical_p with do_sample is refused"""
    try:
        endpoint("told", do_sample=True).invoke(PROMPT)
    except OSError as error:  # of an HTTP status
        assert "typical_p" in str(error), error
    else:
        raise AssertionError("an answer without typical_p")


@check
def chat():
    """ChatHuggingFace.invoke"""
    same(ChatHuggingFace(llm=endpoint("talk", temperature=0.00001)).invoke(PROMPT).content, ANSWERS["talk"])


@check
def chat_stream():
    """ChatHuggingFace.stream"""
    made = ChatHuggingFace(llm=endpoint("talk", temperature=0.00001))
    same("".join(one.content for one in made.stream(PROMPT)), ANSWERS["talk"])


main()
