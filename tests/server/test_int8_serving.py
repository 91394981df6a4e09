"""A server that computes in int8: receipts say so, answers are computed again, golden tests still find damage."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from afina import Predictor, device
from afina.errors import InvalidStudy
from afina.server.receipts import Receipt
from crowd import adapter
from servers import probed

BODY = {"inputs": "the soup was bright.", "model": "acme/reviews@production"}


@pytest.fixture(autouse=True)
def _int8() -> None:
    try:
        device.check_int8(torch.device("cpu"))
    except InvalidStudy:
        pytest.skip("the processor has no instructions for int8")


def test_an_answer_in_int8_is_computed_again_from_its_receipt(serve: Any) -> None:
    served = serve(dtype="int8")
    response = served.post("/predict", BODY)
    assert response.status_code == 200, response.text
    receipt = Receipt.parse(response.headers["afina-receipt"])
    assert receipt.dtype == "int8"
    assert Receipt.parse(str(receipt)) == receipt
    one = served.adapters[receipt.version]
    (again,) = Predictor.of(one, served.backbone, receipt.dtype)([BODY["inputs"]])
    answered = {each["label"]: each["score"] for each in response.json()}
    assert answered == pytest.approx(again["probabilities"], abs=0.02)
    assert 'afina_probes_total{outcome="passed"} 1.0' in served.get("/metrics", "acme-admin").text


def test_a_version_that_computes_something_else_fails_its_golden_test_in_int8(serve: Any) -> None:
    served = serve(dtype="int8")
    bad = served.publish(probed(adapter(served.backbone, "lora", {"r": 3}, seed=9), served.backbone, off=5.0))
    refused = served.post("/predict", {**BODY, "model": bad})
    assert refused.status_code == 503
    assert "its golden test fails" in refused.json()["error"]
