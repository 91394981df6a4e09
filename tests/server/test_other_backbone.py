"""Versions of another backbone in the same store: another server answers them; this one says so and raises no alarm."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from afina import Adapter, Backbone
from crowd import adapter
from fakes import Backbones
from servers import Served, logged, serving, within

REVIEWS = "acme/reviews@production"


@pytest.fixture
def fresh(backbones: Backbones, crowd: dict[str, Adapter], tmp_path: Path) -> Iterator[Callable[..., Served]]:
    """A server whose backbone was not hashed yet."""
    with ExitStack() as stack:
        backbone = Backbone.load(str(backbones.path("gpt2")))
        yield lambda **settings: stack.enter_context(serving(backbone, crowd, tmp_path, **settings))


@pytest.fixture(params=["another family", "other weights"])
def other(request: pytest.FixtureRequest, backbones: Backbones, llama: Backbone) -> Backbone:
    return llama if request.param == "another family" else Backbone.load(str(backbones.path("gpt2", seed=1)))


def alarms(served: Served, caplog: pytest.LogCaptureFixture) -> list[Any]:
    figures = served.get("/metrics", "acme-admin").text.splitlines()
    wrong = ('afina_probes_total{outcome="failed"}', "afina_version", "afina_references_behind", "afina_shadows_failed")
    found = [line for line in figures if line.startswith(wrong) and not line.endswith(" 0.0")]
    return found + [one for one in logged(caplog) if one["message"] == "version not served"]


def test_a_version_of_another_backbone_is_not_listed_and_is_404_without_an_alarm(
    fresh: Callable[..., Served], other: Backbone, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    served = fresh()
    served.publish(adapter(other, "lora", {"r": 2}), "acme/other")
    for _ in range(2):
        refused = served.post("/predict", {"inputs": "a", "model": "acme/other"})
        assert (refused.status_code, refused.headers["afina-error"]) == (404, "not_found")
        assert served.backbone.path.name in refused.json()["error"]
        assert str(served.backbone.path) not in refused.text
    completion = served.post("/v1/completions", {"prompt": "a", "model": "acme/other"})
    assert (completion.status_code, completion.json()["error"]["code"]) == (404, "model_not_found")
    assert served.get("/v2/models/acme/other/ready").status_code == 404
    listed = [one["id"] for one in served.get("/v1/models").json()["data"]]
    assert "acme/reviews" in listed
    assert "acme/other" not in listed
    assert served.post("/predict", {"inputs": "a", "model": REVIEWS}).status_code == 200
    assert alarms(served, caplog) == []


def test_an_alias_that_moves_to_another_backbone_is_404_here_and_200_once_it_is_back(
    fresh: Callable[..., Served], other: Backbone, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    served = fresh()
    answered = lambda: served.post("/predict", {"inputs": "a", "model": REVIEWS}).status_code  # noqa: E731
    assert answered() == 200
    served.publish(adapter(other, "lora", {"r": 2}))
    served.store.alias("acme/reviews@3")
    assert within(10, lambda: answered() == 404)
    assert served.get("/v2/models/acme/reviews/versions/1").json()["versions"] == ["1", "2"]
    served.store.alias("acme/reviews@3", "shadow")
    served.store.alias("acme/reviews@2")
    assert within(10, lambda: answered() == 200)
    assert within(10, lambda: served.get("/shadows/acme/reviews", "acme-publish").json()["state"] == "none")
    assert within(10, lambda: alarms(served, caplog) == [])
