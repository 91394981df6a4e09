"""tritonclient over HTTP, with tensors as bytes (its default) and as JSON."""
# /// script
# dependencies = ["tritonclient[http]"]
# ///

import numpy as np
import tritonclient.http as triton
from checks import ANSWERS, KEY, URL, check, main, same

PROMPT = ANSWERS["prompt"]
HEADERS = {"Authorization": f"Bearer {KEY}"}  # infer adds to the headers that it is given
client = triton.InferenceServerClient(URL.partition("//")[2])


def asked(*, binary, outputs=None, model="acme/reviews", **more):
    tensor = triton.InferInput("text", [2], "BYTES")
    tensor.set_data_from_numpy(np.array([PROMPT, PROMPT], dtype=object), binary_data=binary)
    wanted = outputs and [triton.InferRequestedOutput(one, binary_data=binary) for one in outputs]
    return client.infer(model, [tensor], outputs=wanted, headers=dict(HEADERS), **more)


def right(found):
    labels, scores = found.as_numpy("label"), found.as_numpy("probabilities")
    best = max(ANSWERS["reviews"], key=ANSWERS["reviews"].get)
    said = {one.decode() if isinstance(one, bytes) else str(one) for one in labels.reshape(-1)}
    same(said, {best})
    assert abs(float(scores.max()) - ANSWERS["reviews"][best]) < 1e-4, scores


@check
def health():
    """is_server_live, is_server_ready, is_model_ready"""
    assert client.is_server_live() and client.is_server_ready()
    assert client.is_model_ready("acme/reviews", headers=dict(HEADERS))


@check
def metadata():
    """get_server_metadata, get_model_metadata"""
    same(client.get_server_metadata(headers=dict(HEADERS))["name"], "afina")
    same(client.get_model_metadata("acme/reviews", headers=dict(HEADERS))["name"], "acme/reviews")


@check
def binary():
    """infer with binary tensors"""
    right(asked(binary=True))


@check
def as_json():
    """infer with tensors in JSON"""
    right(asked(binary=False, outputs=["label", "probabilities"]))


@check
def compressed():
    """infer, compressed both ways"""
    right(asked(binary=True, request_compression_algorithm="gzip", response_compression_algorithm="gzip"))


@check
def unanswered():
    """infer of texts that the adapter does not answer"""
    found = asked(binary=True, model="acme/careful")
    same(found.as_numpy("answered").tolist(), [False, False])
    right(found)


@check
def classified():
    """infer with class_count, priority and timeout, and an input of another name"""
    tensor = triton.InferInput("INPUT0", [1], "BYTES")
    tensor.set_data_from_numpy(np.array([PROMPT], dtype=object))
    wanted = [triton.InferRequestedOutput("probabilities", class_count=1)]
    more = {"outputs": wanted, "priority": 1, "timeout": 10_000_000, "headers": dict(HEADERS)}
    (said,) = client.infer("acme/reviews", [tensor], **more).as_numpy("probabilities").reshape(-1)
    best = max(ANSWERS["reviews"], key=ANSWERS["reviews"].get)
    assert said.decode().endswith(f":{best}"), said


@check
def described():
    """get_model_config, get_model_repository_index, get_inference_statistics"""
    found = client.get_model_config("acme/reviews", headers=dict(HEADERS))
    same([one["name"] for one in found["output"]], ["label", "probabilities"])
    listed = client.get_model_repository_index(headers=dict(HEADERS))
    assert {"name": "acme/reviews", "version": "1", "state": "READY", "reason": ""} in listed, listed
    (one,) = client.get_inference_statistics("acme/reviews", headers=dict(HEADERS))["model_stats"]
    assert one["inference_stats"]["success"]["count"] > 0, one


@check
def version():
    """infer with a version"""
    same(asked(binary=True, model_version="1").get_response()["model_version"], "1")


main()
