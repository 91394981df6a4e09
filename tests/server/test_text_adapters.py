"""A store with an adapter that answers with texts: a server refuses that adapter, and serves the others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from crowd import adapter
from servers import TOLD, logged, within

CODE = "serving.kind-unsupported"


@pytest.fixture
def told(serve: Any, gpt2: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> Any:
    """A server whose store got the adapter before the server read the store."""
    caplog.set_level("INFO", "afina")
    served = serve(every=0.5)
    adapter(gpt2, "lora", {"r": 2}, seed=6, **TOLD).save(tmp_path / "told")
    served.store.publish(tmp_path / "told", "acme/told", message="why")
    return served


def test_every_protocol_refuses_the_adapter_with_a_code_and_serves_the_others(told: Any) -> None:
    bodies = {
        "/predict": {"inputs": "warm soup", "model": "acme/told@1"},
        "/classify": {"input": "warm soup", "model": "acme/told@1"},
        "/v2/models/acme%2Ftold@1/infer": {
            "inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "data": ["warm soup"]}]
        },
    }
    for path, body in bodies.items():
        refused = told.post(path, body)
        assert refused.status_code == 422, (path, refused.text)
        assert CODE in refused.text
        assert "warm soup" not in refused.text
    answered = told.post("/predict", {"inputs": "warm soup", "model": "acme/reviews@1"})
    assert answered.status_code == 200
    assert told.core.ready


def test_the_log_names_the_adapter_once_the_server_runs(told: Any, caplog: pytest.LogCaptureFixture) -> None:
    def said() -> list[dict[str, Any]]:
        return [line for line in logged(caplog) if line["message"] == "version not served"]

    assert within(20.0, lambda: bool(said()))
    (line,) = said()
    assert line["version"] == "acme/told@1"
    assert "answers with texts" in line["problem"]


def test_an_alias_that_moves_to_the_adapter_is_not_followed(told: Any, gpt2: Any, tmp_path: Path) -> None:
    body = {"inputs": "warm soup", "model": "acme/reviews@production"}
    assert told.post("/predict", body).status_code == 200
    adapter(gpt2, "lora", {"r": 2}, seed=7, **TOLD).save(tmp_path / "next")
    told.store.alias(str(told.store.publish(tmp_path / "next", "acme/reviews", message="why").version))
    assert within(20.0, lambda: told.core.current.behind == 1)
    assert told.post("/predict", body).status_code == 200


def test_the_page_shows_the_refusal_beside_the_answers_of_other_adapters(told: Any) -> None:
    shown = told.post("/page/answers", {"text": "warm soup"})
    assert shown.status_code == 200
    assert CODE in shown.text
    assert "acme/reviews" in shown.text
