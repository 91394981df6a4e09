"""afina shadow: what is to ride along, and what servers counted, asked over HTTP."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from afina import AdapterStore
from afina.server.versions.shadow_counts import AnswerDifference, ShadowCounts
from canned_server import CannedServer
from command import Command
from crowd import adapter as made_adapter
from servers import beside, probed, serving
from stores import adapter


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AdapterStore:
    """With two versions, of which the first is production."""
    monkeypatch.setenv("AFINA_STORE", str(tmp_path / "store"))
    made = AdapterStore(who="ada")
    for head in range(2):
        made.publish(adapter(tmp_path / f"adapter-{head}", 0, head), "acme/reviews", message="why")
    made.alias("acme/reviews@1")
    return made


def test_it_is_set_told_and_taken_away(store: AdapterStore, afina: Command) -> None:
    assert afina("shadow", "acme/reviews").out == "acme/reviews: no shadow is set\n"
    first, then = afina("shadow", "acme/reviews", "2", "--message", "a larger rank").out.splitlines()
    assert first.startswith("acme/reviews: version 2 is now compared with production.")
    assert then == "afina shadow acme/reviews --server URL --key-file FILE"
    assert store.show("acme/reviews@shadow").number == 2
    assert store.history("acme/reviews", alias="shadow")[-1].why == "a larger rank"
    assert afina("shadow", "acme/reviews").out == "acme/reviews: version 2 is compared with version 1\n"
    assert afina("shadow", "acme/reviews", "--json").object() == {"name": "acme/reviews", "current": 1, "shadow": 2}
    assert afina("shadow", "acme/reviews", "--off").out == "acme/reviews: version 2 is no longer compared\n"
    assert afina("shadow", "acme/reviews", "--json").object()["shadow"] is None
    assert "shadow: 2 -> none" in afina("store", "history", "acme/reviews").out
    assert afina("shadow", "acme/reviews", "--off").error.startswith("acme/reviews@shadow: no such alias.")
    assert store.verify() == []


def test_json_of_a_move(store: AdapterStore, afina: Command) -> None:
    moved = {"name": "acme/reviews", "alias": "shadow"}
    assert afina("shadow", "acme/reviews", "2", "--json").object() == {**moved, "from": None, "to": 2}
    assert afina("shadow", "acme/reviews", "--off", "--json").object() == {**moved, "from": 2, "to": None}


def test_what_cannot_be_is_told(store: AdapterStore, afina: Command) -> None:
    assert "this version is production itself" in afina("shadow", "acme/reviews", "1").error
    assert "version 7 does not exist" in afina("shadow", "acme/reviews", "7").error
    assert "found more than one of VERSION" in afina("shadow", "acme/reviews", "2", "--off").error
    assert (
        "found more than one of VERSION" in afina("shadow", "acme/reviews", "2", "--server", "http://127.0.0.1:1").error
    )
    store.alias("acme/reviews@2", "shadow")
    store.alias("acme/reviews@2")
    assert "is both shadow and production" in afina("shadow", "acme/reviews").out


SHADOW = ("shadow", "acme/reviews", "--server")


class Told(CannedServer):
    """A server that says what a test puts there, and notes what it was asked."""

    def says(self, tally: ShadowCounts, **changes: Any) -> None:
        head = {"name": "acme/reviews", "current": 1, "shadow": 2, "state": "riding", "problem": None}
        self.body = json.dumps({**head, **tally.as_json(), **changes}).encode()


@pytest.fixture
def two() -> Iterator[tuple[Told, Told]]:
    made = Told(), Told()
    yield made
    for one in made:
        one.close()


@pytest.fixture
def key(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("AFINA_KEY", "afina_key\n")
    return "afina_key"


def counted(*drifts: float, flips: int) -> ShadowCounts:
    tally = ShadowCounts()
    for number, drift in enumerate(drifts):
        tally = tally.seen(AnswerDifference(number < flips, drift))
    return tally


def test_texts_that_one_version_does_not_answer_are_counted_apart(
    two: tuple[Told, Told], afina: Command, key: str
) -> None:
    first, second = two
    first.says(counted(0.25, 0.25, flips=1).seen(AnswerDifference(True, 0.25, by_shadow=False)))
    second.says(counted(0.25, flips=0).seen(AnswerDifference(True, 0.25, by_current=False, by_shadow=False)))
    _, rate, abstained, _ = afina(*SHADOW, first.url, "--server", second.url).out.splitlines()
    assert rate.startswith("flip rate: 33.33% of 3 texts that both versions answered have another label")
    assert abstained == (
        "abstention: of 5 texts, both versions answered 3, only version 1 answered 1, only the shadow 0, and neither 1"
    )


def test_what_several_servers_counted_is_added_up(two: tuple[Told, Told], afina: Command, key: str) -> None:
    first, second = two
    first.says(counted(0.25, -0.25, flips=1).fault())
    second.says(counted(-0.5, -0.5, flips=0).left())
    words = ("shadow", "acme/reviews", "--server", first.url, "--server", f"{second.url}/")
    whole = counted(0.25, -0.25, -0.5, -0.5, flips=1)
    found = afina(*words, "--json").object()
    assert {name: found[name] for name in ("texts", "flips", "faults", "left_out", "servers", "drift")} == {
        **{"texts": 4, "flips": 1, "faults": 1, "left_out": 1, "servers": 2, "drift": -0.25}
    }
    assert whole.flip_interval is not None
    assert found["flip_interval"] == [whole.flip_interval.low, whole.flip_interval.high]
    assert first.asked == second.asked == [("/shadows/acme/reviews", f"Bearer {key}")]
    head, rate, drift, faults, left = afina(*words).out.splitlines()
    assert head == "acme/reviews: version 2 is compared with version 1"
    assert rate.startswith("flip rate: 25.00% of 4 texts have another label (95 % interval 4.56% to 69.94%)")
    assert drift.startswith("score drift: the probability of version 1's label differs by -0.25 on average (95 %")
    assert faults == "texts that the shadow failed to answer: 1"
    assert left == "texts that were not compared, as the shadow was not in memory or the queue was full: 1"


def test_one_of_several_servers_on_which_it_fails_is_told(two: tuple[Told, Told], afina: Command, key: str) -> None:
    first, second = two
    first.says(counted(0.25, flips=1))
    second.says(ShadowCounts(), state="failed", problem="it was not loaded in time.")
    head = afina("shadow", "acme/reviews", "--server", first.url, "--server", second.url).out.splitlines()[0]
    assert head == "acme/reviews: version 2 is not compared with version 1: it was not loaded in time."
    second.says(ShadowCounts(), shadow=3)
    told = afina("shadow", "acme/reviews", "--server", first.url, "--server", second.url).error
    assert told.startswith("the servers compare different versions")


def test_numbers_drift_and_do_not_flip(two: tuple[Told, Told], afina: Command, key: str) -> None:
    two[0].says(ShadowCounts().seen(AnswerDifference(None, 1.0)).seen(AnswerDifference(None, 2.0)))
    _, drift = afina("shadow", "acme/reviews", "--server", two[0].url).out.splitlines()
    assert drift.startswith("score drift: the value differs by +1.5 on average (95 % interval -4.853 to +7.853)")


def test_the_key_goes_nowhere_else(two: tuple[Told, Told], afina: Command, key: str) -> None:
    first, second = two
    first.status, first.headers = 302, {"Location": f"{second.url}/shadows/acme/reviews"}
    assert (
        afina("shadow", "acme/reviews", "--server", first.url).error
        == f"{first.url}: the server refused the request (status 302)."
    )
    assert second.asked == []


@pytest.mark.parametrize(
    ("status", "body", "message"),
    [
        (404, b'{"error": "no such model.", "kind": "not_found"}', ": no such model (status 404)."),
        (500, b"<html>", ": the server refused the request (status 500)."),
        (200, b"<html>", ": no answer from a server"),
        (200, b"[]", ": no answer from a server of afina (another answer)."),
        (
            200,
            b'{"name": 1, "current": 1, "shadow": 2, "state": "riding", "problem": null}',
            "the counts that a server sent are malformed",
        ),
    ],
)
def test_what_is_no_answer_is_an_error_of_one_line(
    two: tuple[Told, Told], afina: Command, key: str, status: int, body: bytes, message: str
) -> None:
    two[0].status, two[0].body = status, body
    assert message in afina("shadow", "acme/reviews", "--server", two[0].url).error


def test_a_key_and_an_address_are_asked_for(afina: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AFINA_KEY", raising=False)
    told = afina("shadow", "acme/reviews", "--server", "http://127.0.0.1:1").error
    assert told.startswith("found no key. The server requires a key of scope publish.")
    asked = ("shadow", "acme/reviews", "--key-file", str(tmp_path / "key"), "--server")
    assert "the key cannot be read" in afina(*asked, "http://127.0.0.1:1").error
    (tmp_path / "key").write_text("afina_key\n", encoding="utf-8")
    assert "no answer from a server" in afina(*asked, "http://127.0.0.1:1").error
    assert "not the address of a server" in afina(*asked, "file:///etc").error
    (tmp_path / "key").write_text("afina\nkey", encoding="utf-8")
    assert "characters that no key has" in afina(*asked, "http://127.0.0.1:1").error


def test_a_server_of_afinas_is_asked(
    gpt2: Any, tmp_path: Path, afina: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    crowd = {f"acme/reviews@{seed}": probed(made_adapter(gpt2, "lora", {"r": 2}, seed=seed), gpt2) for seed in (1, 2)}
    with serving(gpt2, crowd, tmp_path / "served") as served, beside(served) as url:
        monkeypatch.setenv("AFINA_KEY", served.secrets["acme-publish"])
        assert afina("shadow", "acme/reviews", "2", "--store", str(served.store.address.directory)).code == 0
        said = afina("shadow", "acme/reviews", "--server", url).out
        assert re.match(r"acme/reviews: version 2 is (being loaded, to be )?compared with version 1\n", said), said
        monkeypatch.setenv("AFINA_KEY", served.secrets["acme"])
        refused = afina("shadow", "acme/reviews", "--server", url).error
        assert refused.endswith("This key lacks the scope `publish` (status 403).")
