"""Models that are loaded, and have passed their golden tests, before the server is ready."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest
from starlette.testclient import TestClient

from afina import Adapter, Backbone
from afina.errors import CorruptAdapter, InvalidName, NotFound
from afina.server.http.app import make_app
from afina.server.versions.preloading import check_models
from raises import raises
from servers import Held, Served, logged, prepared, within


def test_the_server_is_ready_once_its_models_are_loaded_and_tested(
    gpt2: Backbone, crowd: dict[str, Adapter], tmp_path: Any
) -> None:
    models = ("acme/reviews", "bolt/mail@1")
    with prepared(gpt2, crowd, tmp_path, preload=models) as (core, _), ExitStack() as stack:
        held = Held(core)
        web = stack.enter_context(TestClient(make_app(core)))
        stack.callback(held.go.set)
        assert held.began.wait(20), "a golden test is computed, though nobody has asked"
        assert (web.get("/health/ready").status_code, web.get("/health/live").status_code) == (503, 200)
        assert not core.tried_preloading
        held.go.set()
        assert within(20, lambda: web.get("/health/ready").status_code == 200)
        assert core.held_names == {"acme/reviews", "bolt/mail"}
        assert core.tried_preloading


def test_a_model_that_fails_its_golden_test_keeps_the_server_from_being_ready(
    serve: Callable[..., Served], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    failing = [True]

    def run(tests: Any, version: Any) -> None:
        if failing[0]:
            raise CorruptAdapter("it differs", code="adapter.probe-differs")

    monkeypatch.setattr("afina.server.versions.golden_tests.GoldenTests.run", run)
    served = serve(preload=["acme/reviews"])
    assert within(20, lambda: any("not preloaded" in line["message"] for line in logged(caplog)))
    assert served.web.get("/health/ready").status_code == 503
    assert within(20, lambda: served.core.tried_preloading)  # so that a replica on Ray answers for the other models
    failing[0] = False
    assert within(20, lambda: served.web.get("/health/ready").status_code == 200)


def test_a_model_that_the_store_does_not_have_is_an_error_before_anything_is_loaded(served: Served) -> None:
    check_models(served.store, ["acme/reviews", "acme/reviews@2", "bolt/mail"])
    with raises(NotFound, code="store.name-missing"):
        check_models(served.store, ["acme/revews"])
    with raises(NotFound, code="version.missing"):
        check_models(served.store, ["acme/reviews@9"])
    with raises(InvalidName, code="store.name-malformed"):
        check_models(served.store, ["reviews"])
