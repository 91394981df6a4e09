"""Names, references, aliases and addresses: what can be one, and what is said of what cannot."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from afina.errors import AfinaError, InvalidName
from afina.store.database.engine import Address, default
from afina.store.versions import LONGEST_NAME, Name, Reference, check_alias, check_client
from raises import raises

WORDS = st.from_regex(r"[a-z0-9]([a-z0-9._-]{0,62}[a-z0-9])?", fullmatch=True)
TEXTS = st.one_of(st.text(), st.text("az09.-_/@v: \n", max_size=12))


def _or_refusal(parse: Callable[[str], Any], text: str) -> Any:
    """What comes of a text; or the words in which it is refused, a str."""
    try:
        return parse(text)
    except InvalidName as error:
        return str(error)


@given(WORDS, WORDS)
def test_a_name_is_a_client_and_a_task(client: str, task: str) -> None:
    name = Name.parse(f"{client}/{task}")
    assert (name.client, name.task, str(name)) == (client, task, f"{client}/{task}")


@given(WORDS, WORDS, st.one_of(st.none(), st.integers(1, 999_999_999), st.sampled_from(["production", "a", "v", "v0"])))
def test_a_reference_says_itself(client: str, task: str, which: int | str | None) -> None:
    text = f"{client}/{task}" if which is None else f"{client}/{task}@{which}"
    for written in (text, f"store:{text}", text.replace("@", "@v") if isinstance(which, int) else text):
        found = Reference.parse(written)
        assert str(found) == text
        assert (found.number or found.alias) == which
        assert Reference.parse(str(found)) == found


@given(TEXTS)
def test_whatever_is_written_is_a_reference_or_is_refused_in_one_line(text: str) -> None:
    found = _or_refusal(Reference.parse, text)
    if isinstance(found, str):
        assert "\n" not in found
        assert "Expected" in found
    else:
        # What is stored and shown has no letter that a path, a URL or a terminal reads in its own way.
        assert re.fullmatch(r"[a-z0-9._-]{1,64}/[a-z0-9._-]{1,64}(@[a-z0-9._-]{1,64})?", str(found), re.ASCII)
        assert ".." not in (found.name.client, found.name.task)
        assert Reference.parse(str(found)) == found


@given(TEXTS)
def test_an_alias_never_looks_like_a_number(text: str) -> None:
    found = _or_refusal(lambda text: [check_alias(text)], text)
    if isinstance(found, str):
        assert "is not an alias. Expected a word such as production" in found
    else:
        assert Reference.parse(f"a/b@{text}") == Reference(Name("a", "b"), alias=text)


@pytest.mark.parametrize(
    "text",
    [
        *("", "/", "acme", "acme/", "/reviews", "acme/reviews/x", "Acme/reviews", "acme/re views", "acme/reviews\n"),
        *("../etc/passwd", "acme/..", "acme/.hidden", "acme/reviews.", "acme\\reviews", "acme/ревью", "acme/reviews\0"),
        *(f"{'a' * (LONGEST_NAME + 1)}/reviews", f"acme/{'a' * (LONGEST_NAME + 1)}", "-/a", "a/_"),
    ],
)
def test_what_is_no_name_is_shown_with_what_one_looks_like(text: str) -> None:
    with raises(InvalidName, code="store.name-malformed"):
        Name.parse(text)


@pytest.mark.parametrize("which", ["", "0", "01", "-1", "1.0", "Production", "3x", "v3 ", "a@b", "1" * 10])
def test_what_is_no_version_is_refused_as_an_alias(which: str) -> None:
    with raises(InvalidName, code="alias.malformed"):
        Reference.parse(f"acme/reviews@{which}")


@pytest.mark.parametrize("alias", ["3", "v3", "", "A", "a" * (LONGEST_NAME + 1), "a-", "store:", "né"])
def test_what_is_no_alias(alias: str) -> None:
    with raises(InvalidName, code="alias.malformed"):
        check_alias(alias)


@pytest.mark.parametrize("client", ["", "acme/reviews", "A", "a b", "*", "%"])
def test_what_is_no_client(client: str) -> None:
    with raises(InvalidName, code="client.malformed"):
        check_client(client)


@given(TEXTS)
@example("a" * 300)
def test_whatever_is_written_is_an_address_or_is_refused(text: str) -> None:
    found = _or_refusal(Address.parse, text)
    assert "`store`" in found if isinstance(found, str) else found.shown


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://ada:secret@db.example/store", "postgresql://ada:***@db.example/store"),
        ("postgres://ada:s:e/cret@db.example/store", "postgresql://ada:***@db.example/store"),
        ("postgresql://ada:secret@/store?host=/run", "postgresql://ada:***@/store?host=/run"),
        ("postgresql://db/store?user=ada&password=secret", "postgresql://db/store?user=ada&password=***"),
    ],
)
def test_an_address_is_shown_without_its_password(url: str, shown: str) -> None:
    made = Address.parse(url)
    assert (made.directory, made.shown) == (None, shown)
    assert made.url.startswith("postgresql+psycopg://")


@pytest.mark.parametrize("url", ["mysql://ada:secret@host/db", "s3://bucket/prefix", " ", "a\0b"])
def test_what_is_no_address_of_a_store(url: str) -> None:
    with raises(InvalidName, code="store.address-malformed") as caught:
        Address.parse(url)
    assert "secret" not in str(caught.value)


def test_the_store_without_an_address_is_the_users_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AFINA_STORE", str(tmp_path / "named"))
    assert Address.parse(default()).directory == tmp_path / "named"
    monkeypatch.delenv("AFINA_STORE")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    assert Path(default()).name == "store"
    assert issubclass(InvalidName, AfinaError)
