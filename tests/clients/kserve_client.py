"""InferenceRESTClient of kserve."""
# /// script
# dependencies = ["kserve"]
# ///

import numpy as np
from checks import ANSWERS, KEY, URL, check, main, same
from kserve import InferenceRESTClient, InferInput, InferRequest, RESTConfig

PROMPT = ANSWERS["prompt"]
HEADERS = {"Authorization": f"Bearer {KEY}"}


def client():
    return InferenceRESTClient(RESTConfig(protocol="v2", retries=0))


def request(*, binary, model="acme/reviews"):
    tensor = InferInput("text", [2], "BYTES")
    tensor.set_data_from_numpy(np.array([PROMPT, PROMPT], dtype=object), binary_data=binary)
    return InferRequest(model_name=model, infer_inputs=[tensor])


def right(found):
    best = max(ANSWERS["reviews"], key=ANSWERS["reviews"].get)
    (labels,) = [one for one in found.outputs if one.name == "label"]
    same({one.decode() if isinstance(one, bytes) else str(one) for one in labels.as_numpy().reshape(-1)}, {best})


@check
async def health():
    """is_server_live, is_server_ready, is_model_ready"""
    made = client()
    assert await made.is_server_live(URL)
    assert await made.is_server_ready(URL)
    assert await made.is_model_ready(URL, "acme/reviews", headers=HEADERS)


@check
async def as_json():
    """infer with tensors in JSON"""
    right(await client().infer(URL, request(binary=False), model_name="acme/reviews", headers=HEADERS))


@check
async def binary():
    """infer with binary tensors"""
    right(await client().infer(URL, request(binary=True), model_name="acme/reviews", headers=HEADERS))


@check
async def unanswered():
    """infer of texts that the adapter does not answer"""
    name = "acme/careful"
    found = await client().infer(URL, request(binary=True, model=name), model_name=name, headers=HEADERS)
    right(found)
    (answered,) = [one for one in found.outputs if one.name == "answered"]
    same(answered.as_numpy().tolist(), [False, False])


main()
