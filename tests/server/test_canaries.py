"""A canary version answers a share of production's requests, chosen by the request's sticky id."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from afina.errors import InvalidName, NotFound, Refused
from afina.server.receipts import Receipt
from afina.server.versions.canaries import place
from afina.store.versions import Name
from crowd import adapter
from raises import raises
from servers import Served, probed, within
from stores import versioned

NAME = Name("acme", "reviews")
IDS = [f"request-{number}" for number in range(40)]


def answered_by(served: Served, sticky: str, model: str = "acme/reviews") -> str:
    """The version that answers a request with that id."""
    body = {"model": model, "inputs": "the soup was bright."}
    response = served.post("/predict", body, headers={"X-Request-Id": sticky})
    assert response.status_code == 200, response.text
    return Receipt.parse(response.headers["afina-receipt"]).version


def canaries(served: Served) -> float:
    found = [line for line in served.get("/metrics", "acme-admin").text.splitlines() if line.startswith("afina_canar")]
    return float(found[0].rpartition(" ")[2])


@pytest.fixture
def served(serve: Callable[..., Served]) -> Served:
    """Whose second version answers half of the requests."""
    made = serve()
    made.store.alias("acme/reviews@2", "canary", share=50)
    assert "@1" in answered_by(made, "first")
    assert within(10, lambda: canaries(made) == 1)
    return made


@pytest.mark.slow
def test_it_answers_its_share_and_an_id_is_always_answered_by_the_same_version(served: Served) -> None:
    by = {one: answered_by(served, one) for one in IDS}
    assert {one: "@2" in version for one, version in by.items()} == {one: place(NAME, one) < 50 for one in IDS}
    assert 10 < sum("@2" in version for version in by.values()) < 30
    for one in IDS[:8]:
        assert by[one] == answered_by(served, one) == answered_by(served, one, "acme/reviews@production")
        assert answered_by(served, one, "acme/reviews@1") == "acme/reviews@1"


def test_the_shares_of_many_ids_are_even() -> None:
    drawn = [place(NAME, f"{number}") for number in range(4000)]
    assert all(0 <= one < 100 for one in drawn)
    # 4,000 draws: the standard error of a tenth is 0.47 points, so five of them are 2.4
    assert all(abs(sum(low <= one < low + 10 for one in drawn) / 40 - 10) < 2.4 for low in range(0, 100, 10))


@pytest.mark.slow
def test_the_metrics_have_figures_by_version(served: Served) -> None:
    for one in IDS:
        answered_by(served, one)
    text = served.get("/metrics", "acme-admin").text
    counts = {
        number: float(line.rpartition(" ")[2])
        for number in (1, 2)
        for line in text.splitlines()
        if line.startswith(f'afina_version_answers_total{{outcome="answered",version="acme/reviews@{number}"}}')
    }
    of_canary = sum(place(NAME, one) < 50 for one in IDS)
    assert counts[2] == of_canary
    assert counts[1] >= len(IDS) - of_canary
    assert 'afina_version_seconds_count{version="acme/reviews@2"}' in text


def test_off_ends_it_and_promote_moves_production(served: Served) -> None:
    mine = next(one for one in IDS if place(NAME, one) < 50)
    other = next(one for one in IDS if place(NAME, one) >= 50)
    served.store.unalias("acme/reviews", "canary")
    assert within(10, lambda: "@1" in answered_by(served, mine))
    served.store.alias("acme/reviews@2", "canary", share=50)
    assert within(10, lambda: "@2" in answered_by(served, mine))
    moved = served.store.promote("acme/reviews")
    assert (moved.before, moved.after) == (1, 2)
    assert within(10, lambda: "@2" in answered_by(served, other))
    assert served.store.canary(NAME) is None
    assert within(10, lambda: canaries(served) == 0)
    served.store.rollback("acme/reviews")
    assert within(10, lambda: "@1" in answered_by(served, mine))


def test_one_whose_probe_fails_answers_nothing(serve: Callable[..., Served], gpt2: Any) -> None:
    served = serve()
    served.store.alias(
        served.publish(probed(adapter(gpt2, "lora", {"r": 2}, seed=9), gpt2, off=1.0)), "canary", share=99
    )
    assert {answered_by(served, one) for one in IDS[:10]} == {answered_by(served, "first")}
    assert within(10, lambda: "version_not_served{" in served.get("/metrics", "acme-admin").text)
    assert {answered_by(served, one) for one in IDS[:10]} == {answered_by(served, "first")}


def test_another_client_cannot_ask_for_it(served: Served) -> None:
    response = served.post("/predict", {"model": "acme/reviews@canary", "inputs": "a"}, "bolt")
    assert response.status_code == 404


def test_it_is_set_over_http(serve: Callable[..., Served]) -> None:
    served = serve()
    url = "/aliases/acme/reviews/canary"
    moved = served.web.put(url, json={"version": 2, "share": 12.5}, headers=served.auth("acme-publish"))
    assert moved.status_code == 200, moved.text
    assert moved.json()["share"] == 12.5
    found = served.store.canary(NAME)
    assert found is not None
    assert (found.number, found.share) == (2, 12.5)
    refused = served.web.put(url, json={"version": 2}, headers=served.auth("acme-publish"))
    assert refused.status_code == 422
    assert served.store.canary(NAME) == found


@pytest.mark.parametrize(("alias", "share"), [("canary", None), ("canary", 0), ("canary", 100), ("staging", 10)])
def test_a_share_is_of_the_canary_and_between_0_and_100(tmp_path: Path, alias: str, share: float | None) -> None:
    store = versioned(tmp_path, 2)
    with raises(InvalidName, code="alias.share-invalid"):
        store.alias("acme/reviews@2", alias, share=share)
    assert store.canary(NAME) is None


def test_without_a_canary_nothing_is_promoted_and_none_is_rolled_back(tmp_path: Path) -> None:
    store = versioned(tmp_path, 2)
    with raises(NotFound, code="alias.missing"):
        store.promote("acme/reviews")
    with raises(Refused, code="canary.no-rollback"):
        store.rollback("acme/reviews", "canary")
    assert store.verify() == []
