"""afina keys: make, list and revoke, for people and for programs."""

from __future__ import annotations

import re
import sqlite3
import stat
from contextlib import closing
from pathlib import Path

import pytest

from afina.store import api_keys
from afina.store.adapter_store import AdapterStore
from command import Command


@pytest.fixture(autouse=True)
def _store(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AFINA_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("LOGNAME", "ada")


def test_a_key_is_made_listed_and_revoked(afina: Command) -> None:
    said = afina("keys", "create", "acme", "--create", "--rate", 6000, "--text-tokens", 512, "-m", "their router")
    found = re.fullmatch(r"key ([0-9a-f]{16}) of acme \(predict\)\. afina does not show the key again:\n", said.err)
    assert found, said
    (key,) = AdapterStore().keys()
    assert api_keys.matches(said.out.rstrip("\n"), key)
    heading, row = afina("keys", "list").out.splitlines()
    assert re.split(r"  +", heading) == [
        *("id", "client", "name", "scopes", "tokens a minute", "tokens a text"),
        *("created (UTC)", "expires", "revoked", "who", "why"),
    ]
    cells = re.split(r"  +", row)
    assert cells[:6] == [found[1], "acme", "-", "predict", "6,000", "512"]
    assert cells[7:] == ["-", "-", "ada", "their router"]
    assert afina("keys", "revoke", found[1]).out == f"key {found[1]} of acme: revoked\n"
    assert "was already revoked at" in afina("keys", "revoke", found[1]).error


def test_programs_get_objects(afina: Command) -> None:
    made = afina("keys", "create", "acme", "--create", "--scope", "predict", "--scope", "admin", "--json").object()
    assert made["scopes"] == ["admin", "predict"]
    secret = made.pop("secret")
    assert api_keys.id_of(secret) == made["id"]
    assert afina("keys", "list", "acme", "--json").object() == {"keys": [made]}
    assert afina("keys", "list", "bolt", "--json").object() == {"keys": []}
    assert afina("keys", "revoke", made["id"], "--json").object()["revoked"] is not None


def test_errors_name_what_was_typed(afina: Command) -> None:
    refused = afina("keys", "create", "acme", "--store", "typo").error
    assert refused == "store typo: there is no store. Give another with --store, or create one with --create."
    assert not Path("typo").exists()
    AdapterStore().init()
    assert afina("keys", "create", "acme", "--scope", "read").error.startswith("unknown scope 'read'.")
    assert afina("keys", "create", "acme", "--rate", 0).error.startswith("--rate: found 0")
    assert afina("keys", "create", "acme", "--text-tokens", 0).error.startswith("--text-tokens: found 0")
    assert afina("keys", "list").out == "The store has no key yet. Create a key: afina keys create CLIENT\n"
    assert afina("keys", "create", "acme", "--expires", "2001-01-01").error.startswith(
        "--expires: found 2001-01-01, expected a time"
    )
    assert afina("keys", "--store", "other", "create", "acme", "--create").code == 0
    assert afina("keys", "create", "acme", "--store", "other").code == 0
    assert len(AdapterStore("other").keys()) == 2
    assert "Leave one out" in afina("keys", "--store", "other", "list", "--store", "another").error


def test_a_keys_name_and_end_are_shown(afina: Command) -> None:
    said = afina("keys", "create", "acme", "--create", "--name", "billing service", "--expires", "2998-01-31")
    assert "of acme (predict), until 2998-02-01 00:00 UTC. afina does not show the key again" in said.err
    assert re.search(r"acme +billing service +predict .* 2998-02-01 00:00  -", afina("keys", "list").out)


def test_a_key_whose_rate_is_damaged_is_listed_and_said_to_be(afina: Command) -> None:
    afina("keys", "create", "acme", "--create", "--rate", 6000)
    (key,) = AdapterStore().keys()
    with closing(sqlite3.connect(AdapterStore().address.url)) as raw:
        raw.execute("UPDATE keys SET rate = 'abc'")
        raw.commit()
    _, row, problem = afina("keys", "list").out.splitlines()
    assert re.split(r"  +", row)[4] == "damaged"
    assert problem == (
        f"Key {key.id}: its rate is 'abc', expected a whole number of tokens a minute, at least 1. "
        f"Servers refuse this key. Revoke the key: afina keys revoke {key.id}"
    )
    assert afina("keys", "revoke", key.id).code == 0


@pytest.mark.parametrize("more", [(), ("--json",)])
def test_a_key_is_written_to_a_new_file_that_only_this_user_can_read(
    afina: Command, tmp_path: Path, more: tuple[str, ...]
) -> None:
    path = tmp_path / "acme.key"
    said = afina("keys", "create", "acme", "--create", "--to", path, *more)
    secret = path.read_text().removesuffix("\n")
    assert api_keys.matches(secret, AdapterStore().keys()[0])
    assert (said.code, stat.S_IMODE(path.stat().st_mode)) == (0, 0o600)
    assert secret not in said.out + said.err


def test_a_key_replaces_no_file_and_is_not_created_if_it_cannot_be_written(afina: Command, tmp_path: Path) -> None:
    path = tmp_path / "acme.key"
    path.write_text("mine")
    refused = afina("keys", "create", "acme", "--create", "--to", path)
    assert (refused.code, path.read_text(), AdapterStore().keys()) == (2, "mine", [])
    assert afina("keys", "create", "acme", "--to", tmp_path / "none" / "acme.key").code == 2
    assert afina("keys", "create", "acme", "--rate", 0, "--to", tmp_path / "other.key").code == 2
    assert not (tmp_path / "other.key").exists()
    assert AdapterStore().keys() == []
