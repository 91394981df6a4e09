"""A package that openapi-python-client generates from the description of the server."""
# /// script
# dependencies = ["openapi-python-client"]
# ///

import io
import json
import os
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path

from checks import ANSWERS, KEY, URL, check, main, same

PROMPT = ANSWERS["prompt"]
ROOT = Path(tempfile.mkdtemp())
sys.path.insert(0, str(ROOT))


def description():
    asked = urllib.request.Request(f"{URL}/openapi.json", headers={"Authorization": f"Bearer {KEY}"})
    with urllib.request.urlopen(asked) as answer:
        return answer.read()


def client():
    from made import AuthenticatedClient

    return AuthenticatedClient(URL, KEY)


@check
def generated():
    """a function for each operation"""
    (ROOT / "openapi.json").write_bytes(description())
    (ROOT / "config.json").write_text('{"post_hooks": []}')
    command = [f"{os.environ['AFINA_PATH']}/openapi-python-client", "generate", "--meta", "none"]
    files = {"--path": "openapi.json", "--config": "config.json", "--output-path": "made"}
    options = [part for option, name in files.items() for part in (option, str(ROOT / name))]
    done = subprocess.run([*command, *options], capture_output=True, text=True, check=False)
    assert done.returncode == 0, (done.stderr or done.stdout)[-300:]
    functions = [one for one in (ROOT / "made" / "api").glob("*/*.py") if one.name != "__init__.py"]
    paths = json.loads((ROOT / "openapi.json").read_text())["paths"]
    same(len(functions), sum(len(methods) for methods in paths.values()))


@check
def predict():
    """POST /predict, with a side of truncation"""
    from made.api.text_embeddings_inference import predict_predict_post
    from made.models import Predict, PredictTruncationDirectionType0

    side = PredictTruncationDirectionType0.LEFT
    body = Predict(inputs=[[PROMPT]], model="acme/reviews", truncation_direction=side)
    ((*found,),) = predict_predict_post.sync(client=client(), body=body)
    same({one.label: round(one.score, 5) for one in found}, ANSWERS["reviews"])


@check
def classify():
    """POST /classify"""
    from made.api.v_llm import classify_classify_post
    from made.models import Classify

    found = classify_classify_post.sync(client=client(), body=Classify(model="acme/reviews", input_=PROMPT))
    same(found.data[0].label, max(ANSWERS["reviews"], key=ANSWERS["reviews"].get))


@check
def infer():
    """POST /v2/models/.../infer of a version"""
    from made.api.open_inference_protocol import infer_v2_models_client_task_versions_version_infer_post as infer
    from made.models import Infer, Tensor

    body = Infer(inputs=[Tensor(name="text", shape=[1], datatype="BYTES", data=[PROMPT])])
    found = infer.sync("acme", "reviews", "1", client=client(), body=body)
    same((found.model_name, found.model_version), ("acme/reviews", "1"))


@check
def bulk():
    """POST /bulk"""
    from made.api.afina import bulk_bulk_post
    from made.types import File

    lines = "".join(json.dumps({"text": text}) + "\n" for text in ANSWERS["texts"])
    body = File(io.BytesIO(lines.encode()))
    found = bulk_bulk_post.sync_detailed(client=client(), body=body, model="acme/reviews")
    same(["label" in json.loads(line) for line in found.content.splitlines()], [True] * len(ANSWERS["texts"]))


@check
def completions():
    """POST /v1/completions"""
    from made.api.open_ai import completions_v1_completions_post
    from made.models import CompletionRequest

    body = CompletionRequest(model="acme/told", prompt=PROMPT, max_tokens=60)
    found = completions_v1_completions_post.sync(client=client(), body=body)
    same(found.choices[0].text, ANSWERS["told"])


@check
def chat():
    """POST /v1/chat/completions"""
    from made.api.open_ai import chat_v1_chat_completions_post
    from made.models import ChatRequest, UserMessage

    messages = [UserMessage(role="user", content=PROMPT)]
    body = ChatRequest(model="acme/talk", messages=messages, max_completion_tokens=60)
    found = chat_v1_chat_completions_post.sync(client=client(), body=body)
    same(found.choices[0].message.content, ANSWERS["talk"])


@check
def responses():
    """POST /v1/responses"""
    from made.api.open_ai import respond_v1_responses_post
    from made.models import ResponsesRequest

    body = ResponsesRequest(model="acme/talk", input_=PROMPT, max_output_tokens=60)
    found = respond_v1_responses_post.sync(client=client(), body=body)
    same(found.output[0].content[0].text, ANSWERS["talk"])


@check
def refused():
    """the description of an error"""
    from made.api.open_inference_protocol import metadata_v2_models_client_task_get

    found = metadata_v2_models_client_task_get.sync_detailed("acme", "none", client=client())
    same(found.status_code, 404)
    assert found.parsed.error


main()
