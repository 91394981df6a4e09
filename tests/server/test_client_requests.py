"""Requests that real clients sent are answered with the status that these clients got.

`make clients ONLY="--record tests/server/client_requests.jsonl"` writes the requests anew.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from afina.engine.engine import Engine
from afina.server.core import Core
from afina.server.http.app import make_app
from afina.server.settings import Settings
from clients.run import published, speakers

REQUESTS = [
    json.loads(line)
    for line in Path(__file__).with_name("client_requests.jsonl").read_text(encoding="utf-8").splitlines()
]


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    root = tmp_path_factory.mktemp("clients")
    backbone, made = speakers(root)
    store, key = published(made, root)
    with Engine(backbone, store) as engine, TestClient(make_app(Core(engine, store, Settings(delay=0.001)))) as web:
        web.headers["Authorization"] = f"Bearer {key}"
        yield web


@pytest.mark.parametrize(
    "asked", REQUESTS, ids=[f"{one['client']} {number} {one['path']}" for number, one in enumerate(REQUESTS)]
)
def test_a_request_of_a_client_is_answered(web: TestClient, asked: dict[str, Any]) -> None:
    body = asked["body"]
    if isinstance(body, dict):  # a short answer says as much as one of 400 tokens
        body = {name: 6 if "tokens" in name and value in (60, 400) else value for name, value in body.items()}
    if body is None:
        content = b""
    elif isinstance(body, dict) and body.keys() == {"base64"}:
        content = base64.b64decode(body["base64"])
    else:
        content = json.dumps(body).encode()
    found = web.request(asked["method"], asked["path"], content=content, headers=asked["headers"])
    assert found.status_code == asked["status"], found.text
    assert "response.failed" not in found.text
    assert 'data: {"error"' not in found.text
