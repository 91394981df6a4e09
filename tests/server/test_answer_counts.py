"""What a server counts of its answers, to notice drift: for whom, for how long, and who may read it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from afina import Adapter, Backbone
from afina.data.tokenize import encode
from afina.models import objectives
from afina.models.answer_profile import AnswerProfile
from afina.models.counted_kinds import profile
from afina.models.predictions import Predictions
from afina.server.metrics import LABELS_NAMED, OTHERS, _named_labels
from afina.server.ray_serve import answers as merged
from afina.server.versions import answer_counts
from afina.server.versions.answer_counts import AnswerCounts, VersionCounts
from afina.server.versions.served_answers import KEPT_DAYS, ServedAnswers, summed
from servers import Served, predictor, probed, serving, within

TEXTS = [f"the {noun} was {word}." for noun in ("soup", "road", "sky", "film") for word in ("bright", "late", "bad")]


def referenced(made: Adapter, backbone: Backbone) -> Adapter:
    """With the counts of TEXTS, as training has them of the evaluation texts."""
    opened = predictor(made, backbone)
    outputs = Predictions(np.asarray(opened.outputs(TEXTS)))
    tokens = encode(backbone.tokenizer, TEXTS, None, max_length=backbone.longest)
    counts = profile(opened.objective, outputs, tokens.each)
    manifest = made.manifest.model_copy(update={"answers": counts}).sealed()
    return probed(replace(made, manifest=manifest), backbone)


@pytest.fixture(scope="module")
def counted(gpt2: Backbone, crowd: dict[str, Adapter]) -> dict[str, Adapter]:
    """Adapters of three kinds, with the counts of TEXTS."""
    names = ("acme/reviews@1", "acme/reviews@2", "acme/tags@1", "acme/price@1")
    return {name: referenced(crowd[name], gpt2) for name in names}


@pytest.fixture(scope="module")
def served(gpt2: Backbone, counted: dict[str, Adapter], tmp_path_factory: pytest.TempPathFactory) -> Any:
    with serving(gpt2, counted, tmp_path_factory.mktemp("counted")) as made:
        for name in ("acme/tags@1", "acme/price@1"):
            made.store.alias(name)
        yield made


def ask(served: Served, model: str, texts: list[str]) -> None:
    response = served.post("/classify", {"model": model, "input": texts})
    assert response.status_code == 200, response.text


def told(served: Served, name: str, alias: str = "production", who: str = "acme-metrics", **query: int) -> Any:
    asked = "&".join(f"{key}={value}" for key, value in query.items())
    return served.get(f"/drift/{name}/{alias}?{asked}", who)


@pytest.mark.parametrize("name", ["acme/reviews", "acme/tags", "acme/price"])
@pytest.mark.slow
def test_the_same_texts_as_in_the_evaluation_are_counted_alike(served: Served, name: str) -> None:
    before = told(served, name).json()
    assert (before["since"], sum(before["answers"]["scores"]), before["drift"]["state"]) == (None, 0, "few")
    for text in TEXTS:
        assert served.post("/tasks", {"text": text, "models": [name]}).status_code == 200
    assert within(10, lambda: sum(told(served, name).json()["answers"]["scores"]) == len(TEXTS))
    found = told(served, name).json()
    assert found["answers"] == found["reference"]
    assert found["drift"]["state"] == "few"
    assert all(one["distance"] == 0 and one["p"] == 1 for one in found["drift"]["tests"])
    assert (found["name"], found["alias"], found["version"], found["days"]) == (name, "production", 1, 7)


@pytest.mark.slow
def test_only_answers_of_versions_with_an_alias_are_counted(gpt2: Backbone, counted: Any, tmp_path: Path) -> None:
    with serving(gpt2, counted, tmp_path) as served:
        ask(served, "acme/reviews@2", TEXTS[:4])
        ask(served, "acme/reviews@1", TEXTS[:3])
        assert within(10, lambda: sum(told(served, "acme/reviews").json()["answers"]["scores"]) == 3)
        served.store.alias("acme/reviews@2", "shadow")
        assert within(10, lambda: served.get("/shadows/acme/reviews", "acme-publish").json()["state"] == "riding")
        ask(served, "acme/reviews@production", TEXTS[:5])
        compared = lambda: served.get("/shadows/acme/reviews", "acme-publish").json()["texts"] == 5  # noqa: E731
        assert within(10, compared)
        assert sum(told(served, "acme/reviews").json()["answers"]["scores"]) == 8
        found = told(served, "acme/reviews", "shadow").json()
        assert (found["version"], sum(found["answers"]["scores"])) == (2, 0), "a shadow's texts do not count"
        served.store.alias("acme/reviews@2")
        assert within(10, lambda: told(served, "acme/reviews").json()["version"] == 2)
        assert sum(told(served, "acme/reviews").json()["answers"]["scores"]) == 0


def test_who_may_read_the_counts_and_what_is_refused(served: Served) -> None:
    assert [told(served, "acme/reviews", who=who).status_code for who in ("acme-metrics", "acme-admin")] == [200, 200]
    assert [told(served, "acme/reviews", who=who).status_code for who in ("acme", "acme-publish")] == [403, 403]
    for name, alias in (("acme/none", "production"), ("acme/reviews", "none"), ("acme/reviews", "3"), ("A", "B")):
        assert told(served, name, alias).status_code == 404, (name, alias)
    unknown = served.get("/drift/acme/reviews/production?day=3", "acme-metrics")
    assert (unknown.status_code, unknown.json()["error"][:5]) == (422, "`day`")
    for days in ("0", "36", "x", "-1", "1.5", "9" * 50):
        refused = served.get(f"/drift/acme/reviews/production?days={days}", "acme-metrics")
        assert (refused.status_code, refused.json()["error"][:6]) == (422, "`days`"), days


def test_metrics_have_the_counts_of_each_version(served: Served) -> None:
    ask(served, "acme/reviews", TEXTS)
    name = 'afina_answer_labels_total{label="good",version="acme/reviews@1"}'
    assert within(10, lambda: served.figure(name) > 0)
    text = served.get("/metrics", "acme-admin").text
    assert "soup" not in text
    for wanted in (
        'afina_answer_confidence_bucket{le="+Inf",version="acme/reviews@1"}',
        'afina_answer_confidence_sum{version="acme/reviews@1"}',
        'afina_drift_distance{of="tokens",version="acme/reviews@1"}',
        'afina_drift_p{version="acme/reviews@1"} 1.0',
        'afina_drift_noticed{version="acme/reviews@1"} 0.0',
    ):
        assert wanted in text


CLASSES = objectives.make(tuple(f"label {number}" for number in range(30)))


def answer(label: int, confidence: float = 0.5) -> dict[str, Any]:
    return {"label": f"label {label}", "probabilities": {f"label {label}": confidence}}


def test_counts_are_kept_by_day_and_for_some_weeks() -> None:
    now = [datetime(2026, 1, 1, 23, 59, tzinfo=UTC)]
    counts = VersionCounts(CLASSES, None, lambda: now[0])
    groups = np.array([1, 2])
    for _ in range(KEPT_DAYS + 10):
        counts.count(answer(0), groups)
        now[0] += timedelta(days=1)
    now[0] -= timedelta(days=1)
    assert counts.within(1).texts == 1
    assert counts.within(7).labels["label 0"] == 7
    assert counts.within(KEPT_DAYS).tokens[1] == KEPT_DAYS
    assert len(counts._by_day) == KEPT_DAYS
    assert counts.for_metrics("v").answers.texts == KEPT_DAYS + 10


def test_the_metrics_compute_the_drift_at_most_once_a_minute() -> None:
    now = [datetime(2026, 1, 1, tzinfo=UTC)]
    reference = AnswerProfile(edges=(0.6,), scores=(400, 0), labels=dict.fromkeys(CLASSES.label_names, 400 // 30))
    counts = VersionCounts(CLASSES, reference, lambda: now[0])
    states = []
    for seconds in (0, 59, 2):
        now[0] += timedelta(seconds=seconds)
        for _ in range(200):
            counts.count(answer(0, 0.9), np.zeros(0, np.int64))
        found = counts.for_metrics("v").drift
        assert found is not None
        states.append((found.texts, found.state))
    assert states == [(200, "drift"), (200, "drift"), (600, "drift")]


def test_rare_labels_share_a_label_value() -> None:
    counts = VersionCounts(CLASSES, None, lambda: datetime(2026, 1, 1, tzinfo=UTC))
    for label in range(30):
        for _ in range(label + 1):
            counts.count(answer(label), np.zeros(0, np.int64))
    named = dict(_named_labels(counts.for_metrics("v").answers.labels))
    assert len(named) == LABELS_NAMED + 1
    assert named["label 29"] == 30
    assert named[OTHERS] == sum(range(1, 11))


def test_the_version_that_was_counted_first_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answer_counts, "MOST_VERSIONS", 2)
    counts = AnswerCounts()
    for number in range(3):
        counts._by_version_of(f"acme/reviews@{number}", "sha256:1", CLASSES, None)
    assert [version for version, _ in counts._by_version] == ["acme/reviews@1", "acme/reviews@2"]


def test_the_counts_of_several_servers_are_added(served: Served) -> None:
    ask(served, "acme/tags", TEXTS[:2])
    found = told(served, "acme/tags").json()
    texts = sum(found["answers"]["scores"])
    total = merged.summed_answers([found, found])
    assert total is not None
    assert (sum(total["answers"]["scores"]), total["servers"], total["drift"]["texts"]) == (2 * texts, 2, 2 * texts)
    assert merged.summed_answers([found, {**found, "version": 2}]) is None
    assert summed([ServedAnswers.of(found)]) == ServedAnswers.of(found)
