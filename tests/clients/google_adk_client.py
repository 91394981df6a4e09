"""google-adk, with its models of litellm."""
# /// script
# dependencies = ["google-adk", "litellm"]
# ///

from typing import Literal

from checks import ANSWERS, KEY, URL, check, check_agent, main, review, same, save
from google.adk.agents import LlmAgent
from google.adk.agents.run_config import RunConfig, StreamingMode
from google.adk.models.lite_llm import LiteLlm
from google.adk.runners import InMemoryRunner
from google.genai import types
from pydantic import BaseModel

PROMPT = ANSWERS["prompt"]


class Review(BaseModel):
    mood: Literal["angry", "calm"]
    stars: Literal[1, 2, 3]


async def said(text, tokens=60, how=StreamingMode.NONE, model="acme/talk", **more):
    made = LiteLlm(model=f"openai/{model}", api_base=f"{URL}/v1", api_key=KEY, max_tokens=tokens, num_retries=0)
    runner = InMemoryRunner(agent=LlmAgent(name="a", model=made, **more), app_name="checks")
    session = await runner.session_service.create_session(app_name="checks", user_id="u")
    asked = {
        "user_id": "u",
        "session_id": session.id,
        "new_message": types.Content(role="user", parts=[types.Part(text=text)]),
        "run_config": RunConfig(streaming_mode=how),
    }
    events = [one async for one in runner.run_async(**asked)]
    if failed := [
        one.error_message for one in events if one.error_code and one.error_code not in ("STOP", "MAX_TOKENS")
    ]:
        raise RuntimeError(failed)
    return "".join(part.text or "" for one in events if not one.partial for part in one.content.parts)


@check
async def answered():
    """LlmAgent"""
    assert await said(PROMPT)


@check
async def streamed():
    """LlmAgent, streamed"""
    same(await said(PROMPT, how=StreamingMode.SSE), await said(PROMPT))


@check
async def structured():
    """output_schema"""
    review(Review.model_validate_json(await said(PROMPT, 400, output_schema=Review)).model_dump())


@check_agent
async def tools(model):
    """LlmAgent with a tool"""
    return await said(PROMPT, 200, model=model, tools=[save])


main()
