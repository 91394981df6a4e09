"""inspect_ai, with its models for OpenAI and for compatible servers, and its evaluation."""
# /// script
# dependencies = ["inspect-ai", "openai"]
# ///

import json
import os
import tempfile

from checks import ANSWERS, KEY, REVIEW, URL, check, check_agent, main, review, same, save

os.environ |= {"AFINA_API_KEY": KEY, "AFINA_BASE_URL": f"{URL}/v1", "INSPECT_DISPLAY": "none"}

from inspect_ai import Task, eval
from inspect_ai.dataset import Sample
from inspect_ai.model import GenerateConfig, ResponseSchema, get_model
from inspect_ai.scorer import exact
from inspect_ai.solver import generate, use_tools
from inspect_ai.tool import ToolFunction, ToolInfo, ToolParams
from inspect_ai.tool import tool as tool_of
from inspect_ai.util import JSONSchema

PROMPT = ANSWERS["prompt"]
SHORT = GenerateConfig(max_tokens=60)


def model(**more):
    return get_model("openai-api/afina/acme/talk", **more)


@check
async def answered():
    """generate"""
    same((await model().generate(PROMPT, config=SHORT)).completion, ANSWERS["talk"])


@check
async def responses():
    """generate (responses)"""
    made = get_model("openai/acme/talk", base_url=f"{URL}/v1", api_key=KEY, responses_api=True)
    same((await made.generate(PROMPT, config=SHORT)).completion, ANSWERS["talk"])


@check
async def schema():
    """response_schema"""
    asked = ResponseSchema(name="review", json_schema=JSONSchema.model_validate(REVIEW))
    found = await model().generate(PROMPT, config=GenerateConfig(max_tokens=400, response_schema=asked))
    review(json.loads(found.completion))


@check
async def tool():
    """a forced tool"""
    parameters = ToolParams.model_validate({"type": "object", **REVIEW})
    save = ToolInfo(name="save", description="Save a review.", parameters=parameters)
    asked = {"tools": [save], "tool_choice": ToolFunction("save"), "config": GenerateConfig(max_tokens=400)}
    (call,) = (await model().generate(PROMPT, **asked)).message.tool_calls
    review(call.arguments)


@check
def evaluation():
    """eval of a task"""
    samples = [Sample(input=PROMPT, target=ANSWERS["talk"])]
    task = Task(dataset=samples, solver=generate(), scorer=exact(), config=SHORT)
    (log,) = eval(task, model=model(), log_dir=tempfile.mkdtemp(), max_samples=1)
    same(log.status, "success")
    same(log.samples[0].output.completion, ANSWERS["talk"])


@check_agent
def tools(model):
    """eval of a task with a tool"""

    @tool_of(name="save")
    def saver():
        async def execute(mood: str, stars: int):
            """Save a review.

            Args:
                mood: the mood of the review
                stars: the number of stars
            """
            return save(mood, stars)

        return execute

    task = Task(dataset=[Sample(input=PROMPT)], solver=[use_tools(saver()), generate()])
    asked = get_model(f"openai-api/afina/{model}", config=GenerateConfig(max_tokens=200))
    (log,) = eval(task, model=asked, log_dir=tempfile.mkdtemp(), max_samples=1)
    same(log.status, "success")
    return log.samples[0].output.completion


main()
