"""The address, the key and the settings of a model behind an API."""

from __future__ import annotations

from typing import Any

import pytest

from afina.endpoints.endpoint import Endpoint
from afina.errors import InvalidStudy, NotFound
from chat_servers import SECRET
from raises import raises

OPENAI = "https://api.openai.com/v1"


@pytest.mark.parametrize(
    "url",
    [
        "https://me:word@api.openai.com/v1",
        "https://word@api.openai.com/v1",
        f"{OPENAI}?key=word",
        f"{OPENAI}?",
        f"{OPENAI}#word",
        f"{OPENAI}/chat/completions",
        f"{OPENAI}/completions/",
        "api.openai.com/v1",
        "ftp://word/v1",
        "https:///v1",
        "https://host:word/v1",
        "https://a host/v1",
        "https://höst/v1",
    ],
)
def test_an_address_with_a_password_a_query_or_a_path_of_a_protocol_is_refused_and_not_repeated(url: str) -> None:
    with raises(InvalidStudy, code="endpoint.address-invalid") as refused:
        Endpoint(url, "m")
    assert "word" not in str(refused.value).replace("password", "")


@pytest.mark.parametrize("host", ["api.openai.com", "8.8.8.8", "box", "0.0.0.0", "[2001:4860:4860::8888]"])
def test_http_to_another_machine_is_refused(host: str) -> None:
    with raises(InvalidStudy, code="endpoint.address-invalid"):
        Endpoint(f"http://{host}/v1", "m")


@pytest.mark.parametrize("host", ["localhost:8000", "127.0.0.1", "[::1]:80", "10.0.0.5", "192.168.1.2:1234"])
def test_http_to_this_machine_and_to_private_addresses_needs_no_key(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)  # a key of OpenAI is for OpenAI
    made = Endpoint(f"http://{host}/v1/", "m")
    assert (made.host, made.secret(), made.url[-3:]) == (host, None, "/v1")


def test_a_key_is_read_from_the_named_variable_and_is_no_part_of_an_endpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "ELSEWHERE_KEY"):
        monkeypatch.delenv(name, raising=False)
    own, other = Endpoint(OPENAI, "m"), Endpoint("https://api.openai.com.example.org/v1", "m")
    with raises(NotFound, code="endpoint.key-missing", variable="OPENAI_API_KEY"):
        own.secret()
    monkeypatch.setenv("OPENAI_API_KEY", f" {SECRET}\n")
    assert own.secret() == SECRET
    assert SECRET not in repr(own)
    with raises(NotFound, code="endpoint.key-missing", host="api.openai.com.example.org"):
        other.secret()  # the variable of OpenAI is for OpenAI
    named = Endpoint("https://api.example.org/v1", "m", key="ELSEWHERE_KEY")
    with raises(NotFound, code="endpoint.key-missing", variable="ELSEWHERE_KEY"):
        named.secret()
    monkeypatch.setenv("ELSEWHERE_KEY", f"{SECRET}\u00e4")
    with raises(InvalidStudy, code="endpoint.key-malformed") as refused:
        named.secret()
    assert SECRET not in str(refused.value)


def test_a_key_in_place_of_the_name_of_a_variable_is_refused_and_not_repeated() -> None:
    with raises(InvalidStudy, code="option.invalid") as refused:
        Endpoint(OPENAI, "m", key=SECRET)
    assert SECRET not in str(refused.value)
    assert SECRET not in str(refused.value.fields)


@pytest.mark.parametrize(
    "given",
    [
        {"model": " "},
        {"protocol": "responses"},
        {"at_once": 0},
        {"at_once": 1000},
        {"timeout": 0},
        {"timeout": float("nan")},
        {"max_tokens": 0},
        {"shots": -1},
        {"draw": "random"},
        {"max_requests": 0},
        {"price_in": -1.0},
        {"price_out": float("nan")},
        {"model": 4},
        {"max_tokens": "5"},
        {"at_once": 2.5},
        {"max_requests": True},
        {"timeout": None},
        {"price_in": "0.1"},
    ],
)
def test_a_setting_out_of_its_range_is_refused_by_name(given: dict[str, Any]) -> None:
    with raises(InvalidStudy, code="option.invalid", option=next(iter(given))):
        Endpoint(**{"url": OPENAI, "model": "m"} | given)


def test_a_budget_needs_prices() -> None:
    with raises(InvalidStudy, code="endpoint.prices-missing"):
        Endpoint(OPENAI, "m", price_in=1.0, max_cost=1.0)
    assert Endpoint(OPENAI, "m", price_in=0.5, price_out=2.0, max_cost=1.0).cost(2e6, 1e6) == 3.0
    assert Endpoint(OPENAI, "m", price_in=0.5).cost(1, 1) is None
