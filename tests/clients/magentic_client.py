"""magentic."""
# /// script
# dependencies = ["magentic"]
# ///

from typing import Literal

from checks import ANSWERS, KEY, URL, check, check_agent, main, review, same, save
from magentic import FunctionCall, OpenaiChatModel, StreamedStr, prompt, prompt_chain
from pydantic import BaseModel

PROMPT = ANSWERS["prompt"]


class Review(BaseModel):
    mood: Literal["angry", "calm"]
    stars: Literal[1, 2, 3]


def model(tokens=60, name="acme/talk"):
    return OpenaiChatModel(name, base_url=f"{URL}/v1/", api_key=KEY, max_tokens=tokens)


@check
def text():
    """prompt that returns str"""

    @prompt("{text}", model=model())
    def answer(text: str) -> str: ...

    same(answer(PROMPT), ANSWERS["talk"])


@check
def stream():
    """prompt that returns StreamedStr"""

    @prompt("{text}", model=model())
    def answer(text: str) -> StreamedStr: ...

    same("".join(answer(PROMPT)), ANSWERS["talk"])


@check
def schema():
    """prompt that returns a pydantic model"""

    @prompt("{text}", model=model(400))
    def answer(text: str) -> Review: ...

    review(answer(PROMPT).model_dump())


@check
def function():
    """prompt that returns FunctionCall"""

    def save(mood: Literal["angry", "calm"], stars: Literal[1, 2, 3]) -> dict:
        """Save a review."""
        return {"mood": mood, "stars": stars}

    @prompt("{text}", functions=[save], model=model(400))
    def answer(text: str) -> FunctionCall[dict]: ...

    review(answer(PROMPT)())


@check_agent
def chain(name):
    """prompt_chain with a function"""

    @prompt_chain("{text}", functions=[save], model=model(200, name))
    def answer(text: str) -> str: ...

    return answer(PROMPT)


main()
