"""The body of an error response in the format of each protocol, by path. Knows no route, and imports no model.

A proxy in front of the server writes errors in these formats too, and starts without torch.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

NO_MODEL = "no such model"
"""The message for a model that the key's client does not have."""

KIND = "Afina-Error"
"""Header of a refused request with the kind of refusal: one word for programs."""

_PARAM = re.compile(r"`([A-Za-z_.0-9\[\]-]{1,60})`")
"""The field at the beginning of a message."""


def native(status: int, kind: str, message: str) -> dict[str, Any]:
    """Return an error in afina's own protocol."""
    return {"error": message, "kind": kind}


def kserve(status: int, kind: str, message: str) -> dict[str, Any]:
    """Return an error in the Open Inference Protocol."""
    return {"error": message}


def vllm(status: int, kind: str, message: str) -> dict[str, Any]:
    """Return an error in the protocol of vLLM."""
    return {"error": {"message": message, "type": kind, "param": None, "code": status}}


def predict(status: int, kind: str, message: str) -> dict[str, Any]:
    """Return an error in the protocol of text-embeddings-inference."""
    kinds = {429: "Overloaded", 422: "Validation", 400: "Validation", 413: "Validation"}
    return {"error": message, "error_type": kinds.get(status, "Backend")}


def classification(status: int, kind: str, message: str) -> dict[str, Any]:
    """Return an error in the format of the Hub's text-classification task."""
    return {"error": message}


def openai(status: int, kind: str, message: str) -> dict[str, Any]:
    """Return an error in the protocol of OpenAI. An unknown model has the code `model_not_found`."""
    field = _PARAM.match(message)
    of = "rate_limit_error" if status == 429 else "invalid_request_error" if status < 500 else "server_error"
    missing = kind == "not_found" and message.startswith(NO_MODEL)
    code, param = ("model_not_found", "model") if missing else (kind, field[1] if field else None)
    return {"error": {"message": message, "type": of, "param": param, "code": code}}


SHAPES = (
    ("/predict", predict),
    ("/classify", vllm),
    ("/v1/models/", openai),
    ("/v1/models", vllm),
    ("/v1/", openai),
    ("/models/", classification),
    ("/v2", kserve),
)
"""Beginnings of paths, with the format of their errors. Other paths have the format of afina's own protocol."""


def status_of(path: str, status: int) -> int:
    """Return the status of an error in the protocol of a path: OpenAI's clients take 422 for another error than 400."""
    return 400 if status == 422 and _shape(path) is openai else status


def error_body(path: str, status: int, kind: str, message: str) -> dict[str, Any]:
    """Return an error in the format of a path's protocol."""
    return _shape(path)(status, kind, message)


def _shape(path: str) -> Callable[[int, str, str], dict[str, Any]]:
    return next((shape for prefix, shape in SHAPES if path.startswith(prefix)), native)
