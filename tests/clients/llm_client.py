"""The package and command llm, with a file of models beside it."""
# /// script
# dependencies = ["llm"]
# ///

import json
import os
import subprocess
import tempfile
from pathlib import Path

from checks import ANSWERS, KEY, REVIEW, URL, check, check_agent, main, review, same, save

PROMPT = ANSWERS["prompt"]
MODELS = [
    {"model_id": "talk", "model_name": "acme/talk", "supports_schema": True, "supports_tools": True},
    {"model_id": "responses", "model_name": "acme/talk", "responses": True, "supports_schema": True},
    {"model_id": "told", "model_name": "acme/told", "completion": True},
    {"model_id": "caller", "model_name": "acme/caller", "supports_tools": True},
]
folder = Path(tempfile.mkdtemp())
os.environ["LLM_USER_PATH"] = str(folder)
lines = [json.dumps({**one, "api_base": f"{URL}/v1", "api_key_name": "afina"}) for one in MODELS]  # JSON is YAML
(folder / "extra-openai-models.yaml").write_text(f"[{','.join(lines)}]")
(folder / "keys.json").write_text(json.dumps({"afina": KEY}))

import llm  # noqa: E402 - reads LLM_USER_PATH

for name in ("talk", "responses"):

    def prompted(name=name):
        same(llm.get_model(name).prompt(PROMPT, stream=False, max_tokens=60).text(), ANSWERS["talk"])

    def streamed(name=name):
        same("".join(llm.get_model(name).prompt(PROMPT, max_tokens=60)), ANSWERS["talk"])

    def schema(name=name):
        found = llm.get_model(name).prompt(PROMPT, schema=REVIEW, stream=False, max_tokens=400)
        review(json.loads(found.text()))

    for what, function in (("prompt", prompted), ("prompt, streamed", streamed), ("schema", schema)):
        function.__doc__ = f"{what} ({name})"
        check(function)


@check
def conversation():
    """conversation"""
    chat = llm.get_model("talk").conversation()
    same(chat.prompt(PROMPT, max_tokens=60).text(), ANSWERS["talk"])
    assert chat.prompt("And?", max_tokens=60).text()


@check
async def awaited():
    """get_async_model"""
    same(await llm.get_async_model("talk").prompt(PROMPT, max_tokens=60).text(), ANSWERS["talk"])


@check
def completion():
    """prompt of a completion model"""
    same(llm.get_model("told").prompt(PROMPT, max_tokens=60).text(), ANSWERS["told"])


@check
def command():
    """the command llm"""
    asked = [f"{os.environ['AFINA_PATH']}/llm", "-m", "talk", "-o", "max_tokens", "60", PROMPT]
    done = subprocess.run(asked, capture_output=True, text=True, check=True)
    same(done.stdout.removesuffix("\n"), ANSWERS["talk"])


@check_agent
def chain(model):
    """chain with a tool"""
    return llm.get_model(model.partition("/")[2]).chain(PROMPT, tools=[save], options={"max_tokens": 200}).text()


main()
