"""Keys over HTTP: an administrator creates, lists and revokes the keys of all clients; a secret is shown once."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest

from afina.errors import CannotWrite, CorruptStore, NotFound
from afina.store.api_keys import MadeKey
from servers import Served, logged


def ask(served: Served, method: str, path: str, body: Any = None, who: str = "acme-admin") -> Any:
    return served.web.request(method, path, json=body, headers=served.auth(who))


def passes(served: Served, secret: str, path: str = "/v1/models") -> int:
    return int(served.web.get(path, headers={"Authorization": f"Bearer {secret}"}).status_code)


def test_a_key_of_any_client_is_created_listed_used_at_once_and_revoked_at_once(
    serve: Callable[..., Served], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    served = serve(every=60.0)  # the server itself does not wait until it follows the store
    asked = {"client": "corp", "scopes": ["predict"], "rate": 500, "text_tokens": 90, "name": "till", "expires": "90d"}
    made = ask(served, "POST", "/keys", {**asked, "message": "new"})
    assert made.status_code == 200
    assert made.headers["cache-control"] == "no-store"
    key = made.json()
    secret = key.pop("secret")
    assert passes(served, secret) == 200
    (admin,) = [one for one in served.store.keys("acme") if one.scopes == ("admin",)]
    assert {**asked, "expires": key["expires"]}.items() <= key.items()
    assert (key["who"], key["why"]) == (f"key {admin.id}", "new")
    listed = ask(served, "GET", "/keys")
    assert [one for one in listed.json()["keys"] if one["client"] == "corp"] == [key]
    assert {one["client"] for one in listed.json()["keys"]} == {"acme", "bolt", "corp"}
    revoked = ask(served, "DELETE", f"/keys/{key['id']}?message=lost")
    assert revoked.json()["revoked"] is not None
    assert passes(served, secret) == 401
    assert ask(served, "DELETE", f"/keys/{key['id']}").status_code == 409
    assert served.store.verify() == []
    texts = [listed.text, revoked.text, *map(str, logged(caplog)), *(one.getMessage() for one in caplog.records)]
    assert not any(secret[23:] in text for text in texts)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"client": "corp", "scopes": []}, 422),
        ({"client": "no/name", "scopes": ["predict"]}, 422),
        ({"client": "corp", "scopes": ["predict"], "rate": 0}, 422),
        ({"client": "corp", "scopes": ["predict"], "expires": "2020-01-01"}, 422),
        ({"scopes": ["predict"]}, 422),
    ],
    ids=str,
)
def test_what_can_be_no_key_is_refused_and_nothing_is_created(served: Served, body: Any, status: int) -> None:
    before = served.store.keys()
    refused = ask(served, "POST", "/keys", body)
    assert refused.status_code in (status, 400)
    assert served.store.keys() == before


def test_a_key_that_does_not_exist_cannot_be_revoked(served: Served) -> None:
    for id in ("0" * 16, "x", "a" * 5000):
        assert ask(served, "DELETE", f"/keys/{id}").status_code == 404


def test_changes_of_keys_are_limited_except_revocations_and_a_full_disk_is_said(
    serve: Callable[..., Served], monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that a stolen key of an administrator that floods keeps nobody from revoking it."""
    served = serve(writes_per_minute=2)
    stolen = served.store.create_key("acme", ["admin"])
    body = {"client": "corp", "scopes": ["predict"]}

    def full(*_: Any, **__: Any) -> Any:
        raise CannotWrite("the store", "database or disk is full", full=True)

    assert ask(served, "POST", "/keys", body).status_code == 200
    monkeypatch.setattr("afina.store.api_keys.create", full)
    assert ask(served, "POST", "/keys", body).status_code == 507
    limited = ask(served, "POST", "/keys", body)
    assert limited.status_code == 429
    assert int(limited.headers["retry-after"]) >= 1
    assert ask(served, "DELETE", f"/keys/{stolen.key.id}").status_code == 200


def test_a_damaged_store_is_not_called_a_damaged_model(serve: Callable[..., Served], monkeypatch: Any) -> None:
    def damaged(*_: Any, **__: Any) -> Any:
        raise CorruptStore("database disk image is malformed")

    served = serve()
    monkeypatch.setattr("afina.store.api_keys.create", damaged)
    answer = ask(served, "POST", "/keys", {"client": "corp", "scopes": ["predict"]})
    assert (answer.status_code, answer.headers["afina-error"]) == (503, "unservable")
    assert "model" not in answer.json()["error"]


@pytest.mark.parametrize("query", ["message=a&message=b", "message=" + 1001 * "a"])
def test_a_revocation_has_one_short_reason(served: Served, query: str) -> None:
    made = served.store.create_key("acme", ["predict"])
    assert ask(served, "DELETE", f"/keys/{made.key.id}?{query}").status_code == 422
    assert ask(served, "DELETE", f"/keys/{made.key.id}?message=lost").status_code == 200


def test_a_key_that_was_created_is_answered_even_if_the_store_then_fails(
    serve: Callable[..., Served], monkeypatch: pytest.MonkeyPatch
) -> None:
    served = serve(every=60.0)

    def unreachable(*_: Any) -> Any:
        raise NotFound("the database does not respond", code="store.unreachable")

    monkeypatch.setattr(served.store, "news", unreachable)
    made = ask(served, "POST", "/keys", {"client": "corp", "scopes": ["predict"]})
    assert made.status_code == 200
    monkeypatch.undo()
    served.core.tenants.refresh()
    assert passes(served, made.json()["secret"]) == 200


def test_a_new_key_shows_its_secret_nowhere_but_in_its_field(served: Served) -> None:
    made = served.store.create_key("acme", ["predict"])
    assert isinstance(made, MadeKey)
    assert made.secret not in repr(made)
