"""A version that is damaged: named, 503 with a reason, and not read again and again."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from afina import AdapterStore, Backbone, digest
from afina.errors import Busy, CorruptAdapter
from afina.predicting import golden_test
from afina.predicting.predictor import Predictor
from afina.server.metrics import Metrics
from afina.server.receipts import Receipt
from afina.server.versions.served_versions import LONGEST, PAUSE, SHORT, ServedVersions
from afina.store.versions import Reference
from clock import Clock
from crowd import adapter
from raises import raises
from servers import Served, followed, logged, serving, talk
from stores import versioned

BODY = {"inputs": "the soup was bright.", "model": "acme/reviews@2"}


def spoil(store: AdapterStore) -> list[Path]:
    """Change a byte of every blob; where they are."""
    directory = store.address.directory
    assert directory is not None
    found = [one for one in (directory / "blobs").rglob("sha256-*") if one.is_file()]
    for one in found:
        one.chmod(0o644)
        with one.open("r+b") as file:  # not shortened at any time: a server may have the file mapped
            middle = one.stat().st_size // 2
            file.seek(middle)
            (byte,) = file.read(1)
            file.seek(middle)
            file.write(bytes([byte ^ 1]))
    return found


def test_a_damaged_version_is_503_and_named_in_log_and_figures(
    serve: Callable[..., Served], caplog: pytest.LogCaptureFixture
) -> None:
    served = serve()
    spoil(served.store)
    for _ in range(3):
        response = served.post("/predict", BODY)
        assert response.status_code == 503, response.text
        assert response.headers["afina-error"] == "unservable"
        assert "damaged" in response.json()["error"]
        assert served.post("/bulk", None, content='{"text": "a"}').status_code == 200
    lines = [one for one in logged(caplog) if one["message"] == "version not served"]
    assert [(one["version"], one["level"], one["tries"]) for one in lines] == [("acme/reviews@2", "error", 1)]
    assert "sha256" in lines[0]["problem"]
    assert served.figure('afina_probes_total{outcome="damaged"}') == 1
    assert served.figure('afina_probes_total{outcome="failed"}') == 0
    assert served.figure('afina_version_not_served{version="acme/reviews@2"}') == 1
    assert served.figure("afina_versions_not_served") == 1


def test_one_that_is_damaged_while_it_is_served_is_not_read_each_time_and_is_back_once_it_is_mended(
    serve: Callable[..., Served], monkeypatch: pytest.MonkeyPatch
) -> None:
    served = serve()
    clock = Clock()
    monkeypatch.setattr(served.core.current, "_clock", clock)
    assert served.post("/predict", BODY).status_code == 200
    (version,) = [one for one in served.core.current._served.values() if str(one) == BODY["model"]]
    served.core.engine.evict(f"store:{version}")
    spoiled = spoil(served.store)
    loads = served.core.engine.counts.loads
    assert [served.post("/predict", BODY).status_code for _ in range(5)] == [503] * 5
    assert served.core.engine.counts.loads == loads + 1
    spoil(served.store)  # the same byte again: they are as they were
    assert len(spoiled) > 0
    assert served.post("/predict", BODY).status_code == 503
    clock.now += PAUSE
    assert served.post("/predict", BODY).status_code == 200
    assert served.figure("afina_versions_not_served") == 0


@pytest.mark.parametrize(
    ("error", "longest"),
    [(CorruptAdapter("its probe differs"), LONGEST), (Busy("late"), SHORT)],
)
def test_what_could_not_be_served_is_tried_again_after_pauses_that_double(
    tmp_path: Path, error: Exception, longest: float
) -> None:
    store, clock, tried = versioned(tmp_path, 2), Clock(), list[float]()

    class Tests:
        def demand_backbone(self, version: Any) -> None:
            pass

        def run(self, version: Any) -> None:
            if version.number == 2:
                tried.append(clock.now)
                raise error

    current = ServedVersions(store, Tests(), Metrics(), clock=clock)
    production = Reference.parse("acme/reviews@production")
    assert current.find(production).number == 1
    store.alias("acme/reviews@2")
    for _ in range(int(16 * longest)):
        followed(current) if current._due or not tried else None
        clock.now += 0.25
    pauses = [round(after - before, 1) for before, after in itertools.pairwise(tried)]
    assert pauses[:3] == pytest.approx([PAUSE, 2 * PAUSE, 4 * PAUSE], abs=0.26)
    assert max(pauses) == pytest.approx(longest, abs=0.26)
    assert (current.find(production).number, current.behind) == (1, 1)
    # news of something else does not have it read again
    tried.clear()
    current._damaged = {name: one.again(clock.now) for name, one in current._damaged.items()}
    store.create_key("bolt", ["predict"])
    current.refresh()
    assert tried == []


def test_an_edited_chat_template_is_noticed(chatting: Backbone, tmp_path: Path) -> None:
    held = adapter(chatting, "lora", {"r": 2}, seed=1, **talk(chatting), chat_template=chatting.chat_template)
    alone = Predictor.of(held, chatting)
    found = golden_test.outputs(alone.classifier, chatting, alone.max_length, alone.template)
    manifest = held.manifest.model_copy(update={"probe": tuple(map(tuple, found))}).sealed()
    talkers = {
        "acme/reviews@1": replace(held, manifest=manifest),
        "acme/unknown@1": adapter(chatting, "lora", {"r": 2}, seed=2, **talk(chatting)),
    }
    shutil.copytree(chatting.path, tmp_path / "edited")
    (tmp_path / "edited" / "chat_template.jinja").write_text(f"{chatting.chat_template} ", encoding="utf-8")
    edited = Backbone.load(str(tmp_path / "edited"))
    assert edited.digest == chatting.digest
    receipts = list[Any]()
    for backbone, status in ((chatting, 200), (edited, 503)):
        with serving(backbone, talkers, tmp_path / str(status)) as served:
            for model, expected in (("acme/reviews", status), ("acme/unknown", 200)):
                body = {"model": model, "messages": [{"role": "user", "content": "Soup?"}], "max_tokens": 2}
                response = served.post("/v1/chat/completions", body)
                assert response.status_code == expected, response.text
            receipts.append(Receipt.parse(response.headers["afina-receipt"]).generation)
            assert served.figure("afina_versions_not_served") == (status == 503)
            check = served.store.check("acme/reviews@1", backbone=backbone.address)
            assert check.passed == (status == 200), check.problem
    assert [one.chat_template for one in receipts] == [
        digest.of_strings([one.chat_template]) for one in (chatting, edited) if one.chat_template
    ]
    with raises(CorruptAdapter, code="backbone.chat-template"):
        Predictor.of(held, edited)
