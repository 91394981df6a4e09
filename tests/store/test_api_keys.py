"""Keys: shown once, kept as hashes, told of in the log, gone with their client; what `verify` sees."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from afina.errors import InvalidName, NotFound, Refused, UnknownName
from afina.store import api_keys
from afina.store.adapter_store import AdapterStore
from afina.store.versions import Name
from raises import raises


@pytest.fixture
def begun(store: AdapterStore) -> AdapterStore:
    store.init()
    return store


def _changed(store: AdapterStore, statement: str) -> None:
    with closing(sqlite3.connect(store.address.url)) as raw:
        raw.execute(statement)
        raw.commit()


def test_a_key_is_shown_once_and_is_in_no_byte_of_the_store(begun: AdapterStore) -> None:
    made = begun.create_key("acme", ["publish", "predict"], rate=6000, message="their router")
    (found,) = begun.keys()
    assert found == made.key
    assert (found.client, found.scopes, found.rate, found.revoked) == ("acme", ("predict", "publish"), 6000, None)
    assert found.text_tokens is None
    assert (found.who, found.why) == (begun.who, "their router")
    assert "hash" not in found.as_json()
    secret = made.secret.removeprefix(f"afina_{made.key.id}_").encode()  # which may have "_" inside
    assert begun.address.directory
    written = [path.read_bytes() for path in begun.address.directory.rglob("*") if path.is_file()]
    assert any(found.id.encode() in content for content in written)
    assert not any(secret in content for content in written)


def test_no_two_keys_are_alike_and_only_its_own_secret_matches(begun: AdapterStore) -> None:
    one, other = (begun.create_key("acme", ["predict"]) for _ in range(2))
    assert one.secret != other.secret
    assert api_keys.id_of(one.secret) == one.key.id
    assert api_keys.matches(one.secret, one.key)
    assert not api_keys.matches(one.secret, other.key)
    assert not api_keys.matches(one.secret, None)
    for text in ("", "afina_", one.secret[:-1], one.secret + "x", one.secret.upper(), f"{one.secret}\n", "afina_é_x"):
        assert api_keys.id_of(text) is None, text


def test_a_revoked_key_matches_no_more_and_stays_in_the_list(begun: AdapterStore) -> None:
    made = begun.create_key("acme", ["predict"])
    revoked = begun.revoke_key(made.key.id, message="it was in a log")
    assert revoked.revoked is not None
    assert not api_keys.matches(made.secret, revoked)
    assert begun.keys("acme") == [revoked]
    with raises(Refused, code="key.revoked"):
        begun.revoke_key(made.key.id)
    with raises(NotFound, code="key.unknown", key="0000000000000000"):
        begun.revoke_key("0" * 16)


def test_what_can_be_no_key_is_refused(begun: AdapterStore) -> None:
    with raises(UnknownName, code="name.unknown", name="predicts", kind="scope", nearest="predict"):
        begun.create_key("acme", ["predicts"])
    with raises(InvalidName, code="key.invalid", known=["predict", "publish", "metrics", "admin"]):
        begun.create_key("acme", [])
    with raises(InvalidName, code="key.invalid", found=0):
        begun.create_key("acme", ["predict"], rate=0)
    for limit in (0, -1, 1 << 31):
        with raises(InvalidName, code="key.invalid", found=limit):
            begun.create_key("acme", ["predict"], text_tokens=limit)
    with raises(InvalidName, code="client.malformed", client="A B"):
        begun.create_key("A B", ["predict"])
    assert begun.keys() == []
    assert [entry.event for entry in begun.log()] == ["create"]


def test_the_log_has_each_key_and_its_end_and_not_whose_it_is(begun: AdapterStore) -> None:
    made = begun.create_key("quixotic", ["predict"], rate=10, message="Dulcinea asked")
    begun.revoke_key(made.key.id)
    created, revoked = begun.log()[-2:]
    assert (created.event, revoked.event) == ("key", "revoke")
    assert {name: created.payload[name] for name in ("key", "hash", "scopes", "rate")} == {
        "key": made.key.id,
        "hash": api_keys.hashed(made.secret),
        "scopes": "predict",
        "rate": 10,
    }
    assert revoked.payload["key"] == made.key.id
    assert not any(word in str(entry) for entry in begun.log() for word in ("quixotic", "Dulcinea"))
    assert begun.verify() == []


@pytest.mark.parametrize(
    ("statement", "problem"),
    [
        ("UPDATE keys SET hash = 'sha256:0'", "differs from the audit log in: hash"),
        ("UPDATE keys SET scopes = 'admin predict', rate = NULL", "differs from the audit log in: scopes, rate"),
        ("UPDATE keys SET text_tokens = 9", "differs from the audit log in: text_tokens"),
        ("UPDATE keys SET text_tokens = NULL", "differs from the audit log in: text_tokens"),
        ("UPDATE keys SET revoked = NULL", "differs from the audit log in: revoked"),
        (
            "UPDATE keys SET client = (SELECT id FROM clients WHERE name = 'bolt') WHERE rate = 5",
            "differs from the audit log in: client",
        ),
        ("UPDATE keys SET name = 'another', expires = NULL", "differs from the audit log in: "),
        ("DELETE FROM keys", "the database has no row of this key, but the audit log records it"),
        ("UPDATE keys SET id = '0123456789abcdef' WHERE rate = 5", "the audit log does not record this key"),
    ],
)
def test_verify_sees_a_key_that_was_changed(begun: AdapterStore, statement: str, problem: str) -> None:
    begun.create_key("bolt", ["predict"])
    begun.revoke_key(begun.keys("bolt")[0].id)
    made = begun.create_key("acme", ["predict"], rate=5, text_tokens=7, name="billing", expires="2998-01-31")
    begun.revoke_key(made.key.id)
    assert begun.verify() == []
    _changed(begun, statement)
    found = begun.verify()
    assert any(one.kind == "key" and problem in one.problem for one in found), found


def test_the_log_has_a_keys_tokens_a_text_only_where_they_are_limited(begun: AdapterStore) -> None:
    begun.create_key("acme", ["predict"])
    made = begun.create_key("acme", ["predict"], text_tokens=7)
    assert begun.keys()[1] == made.key
    assert made.key.text_tokens == made.key.as_json()["text_tokens"] == 7
    plain, limited = (entry.payload for entry in begun.log()[-2:])
    assert "text_tokens" not in plain
    assert limited["text_tokens"] == 7
    assert begun.verify() == []


def test_an_erased_client_has_no_keys_and_the_log_still_verifies(
    begun: AdapterStore, made: Callable[..., Path]
) -> None:
    begun.publish(made(), "acme/reviews", message="first")
    gone, kept = begun.create_key("acme", ["predict"], name="xylophone"), begun.create_key("bolt", ["predict"])
    begun.erase("acme", reason="asked to")
    assert begun.keys() == [kept.key]
    assert begun.address.directory
    assert not any(b"xylophone" in path.read_bytes() for path in begun.address.directory.rglob("*") if path.is_file())
    with pytest.raises(NotFound):
        begun.revoke_key(gone.key.id)
    # of the same name, another client
    assert begun.create_key("acme", ["predict"]).key.id != gone.key.id
    assert begun.verify() == []


@pytest.mark.parametrize(
    ("column", "damaged", "problem"),
    [
        *(("rate", rate, "expected a whole number of tokens a minute, at least 1") for rate in ("abc", "-1", "1.5")),
        ("text_tokens", "zzz", "expected a whole number of tokens a text, at least 1"),
        ("expires", "zzz", "expected a time"),
    ],
)
def test_a_key_that_is_damaged_is_told_and_lets_nobody_pass(
    begun: AdapterStore, column: str, damaged: str, problem: str
) -> None:
    good = begun.create_key("acme", ["predict"], rate=10)
    made = begun.create_key("acme", ["predict"], rate=10, text_tokens=7, expires="90d")
    _changed(begun, f"UPDATE keys SET {column} = '{damaged}' WHERE id = '{made.key.id}'")
    first, second = begun.keys()
    assert first == good.key
    assert f"is '{damaged}', {problem}" in second.problem
    assert api_keys.matches(good.secret, first)
    assert not api_keys.matches(made.secret, second)


def test_news_are_of_the_names_that_something_was_done_about(begun: AdapterStore, made: Callable[..., Path]) -> None:
    begun.publish(made(), "acme/reviews", message="first")
    begun.publish(made(), "acme/mail", message="first")
    names = {Name.parse(name) for name in ("acme/reviews", "acme/mail", "bolt/mail")}
    last, _ = begun.news(0, names)
    assert begun.news(last, names) == (last, ())
    begun.alias("acme/reviews@1")
    assert begun.news(last, names) == (last + 1, {Name.parse("acme/reviews"), Name.parse("bolt/mail")})
    begun.erase("acme", reason="asked to")
    assert begun.news(last + 1, names)[1] == names


def test_nobody_but_its_owner_reads_the_database(begun: AdapterStore) -> None:
    begun.create_key("acme", ["predict"])
    path = Path(begun.address.url)
    for one in path.parent.glob(f"{path.name}*"):
        assert one.stat().st_mode & 0o777 == 0o600, one


def test_a_key_has_a_name_and_ends_by_itself(begun: AdapterStore, monkeypatch: pytest.MonkeyPatch) -> None:
    made = begun.create_key("acme", ["predict"], name="billing service", expires="90d")
    assert (made.key.name, made.key.is_valid, api_keys.matches(made.secret, made.key)) == (
        "billing service",
        True,
        True,
    )
    entry = begun.log()[-1].payload
    assert entry["expires"] == made.key.expires
    assert "billing service" not in str(entry)
    assert begun.verify() == []
    for moment, valid in ((89, True), (91, False)):
        then = (datetime.now(UTC) + timedelta(days=moment)).isoformat(timespec="microseconds")
        monkeypatch.setattr("afina.store.audit_log.now", lambda then=then: then)
        assert api_keys.matches(made.secret, made.key) is valid


def test_when_a_key_ends_is_a_time_to_come() -> None:
    assert api_keys.expiry("2998-01-31") == "2998-02-01T00:00:00.000000+00:00"  # at the end of that day
    assert api_keys.expiry("2998-01-31T12:00:00+02:00") == "2998-01-31T10:00:00.000000+00:00"
    assert api_keys.expiry("2998-01-31T12:00") == "2998-01-31T12:00:00.000000+00:00"
    assert api_keys.expiry("12h") < api_keys.expiry("1d")
    for text in ("", "soon", "90", "-3d", "0d", "2001-01-01", "2998-13-01", "1e3d", "9999-12-31"):
        with raises(InvalidName, code="key.invalid"):
            api_keys.expiry(text)
