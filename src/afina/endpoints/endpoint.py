"""`Endpoint`: a model behind an API, by its address, with prices and limits. No key is ever part of an `Endpoint`."""

from __future__ import annotations

import ipaddress
import math
import os
import re
from dataclasses import dataclass
from numbers import Integral
from typing import Literal, get_args
from urllib.parse import SplitResult, urlsplit

from afina.data.kinds import DRAWS, FIXED, Draw
from afina.endpoints import problems
from afina.schema import is_number

Protocol = Literal["chat", "completions"]
"""OpenAI's protocol of a server: messages of a chat, or a prompt that the model continues."""

OPENAI, OPENAI_KEY = "openai.com", "OPENAI_API_KEY"
"""The domain of OpenAI, and the environment variable with OpenAI's key. No other host gets this key unless the variable
is named."""

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_LONGEST_SECONDS, _MOST_AT_ONCE = 3600.0, 256


@dataclass(frozen=True)
class Endpoint:
    """A model behind an API.

    Attributes:
        url: The address of the API, such as https://api.openai.com/v1, without the path of a protocol. http is allowed
            only to this machine and to private IP addresses.
        model: The server's name of the model.
        protocol: "chat", or "completions" for a language model that continues a prompt.
        key: The name of the environment variable that has the key. None: OPENAI_API_KEY for a host of OpenAI, and no
            key for this machine and private addresses; other hosts need a name.
        at_once: The largest number of requests at a time.
        timeout: Seconds in which the server must begin to answer, and in which an answer must be complete.
        max_tokens: The largest number of tokens of an answer, with the tokens of reasoning.
        price_in, price_out: The prices of a million tokens of prompts and of answers, in any currency. None: unknown.
        max_requests: The largest number of requests, with repetitions, to this model; earlier requests with the same
            file of kept answers count. None: no limit.
        max_cost: The largest cost, in the currency of the prices; counts like `max_requests`. None: no limit.
        shots: The number of training examples in a prompt.
        draw: How examples are drawn.
    """

    url: str
    model: str
    protocol: Protocol = "chat"
    key: str | None = None
    at_once: int = 4
    timeout: float = 60.0
    max_tokens: int = 256
    price_in: float | None = None
    price_out: float | None = None
    max_requests: int | None = None
    max_cost: float | None = None
    shots: int = 0
    draw: Draw = FIXED

    def __post_init__(self) -> None:
        if not isinstance(self.url, str):
            raise problems.ADDRESS_MALFORMED(reason="it is no text")
        object.__setattr__(self, "url", self.url.rstrip("/"))
        host = _checked(self.url)
        if urlsplit(self.url).scheme == "http" and not _is_private(host):
            raise problems.ADDRESS_UNENCRYPTED(host=host)
        if self.key is not None and not (isinstance(self.key, str) and _VARIABLE.fullmatch(self.key)):
            raise problems.KEY_NO_NAME()
        self._check_types()
        self._check("model", bool(self.model.strip()) and self.model.isprintable(), "the server's name of a model")
        self._check("protocol", self.protocol in get_args(Protocol), f"one of {', '.join(get_args(Protocol))}")
        self._check("draw", self.draw in DRAWS, f"one of {', '.join(DRAWS)}")
        self._check("at_once", 1 <= self.at_once <= _MOST_AT_ONCE, f"1 to {_MOST_AT_ONCE}")
        self._check("timeout", 0 < self.timeout <= _LONGEST_SECONDS, f"seconds, at most {_LONGEST_SECONDS:g}")
        self._check("max_tokens", self.max_tokens >= 1, "1 or more")
        self._check("shots", self.shots >= 0, "0 or more")
        self._check("max_requests", self.max_requests is None or self.max_requests >= 1, "1 or more")
        for option in ("price_in", "price_out", "max_cost"):
            value = getattr(self, option)
            self._check(option, value is None or (math.isfinite(value) and value >= 0), "0 or more")
        if self.max_cost is not None and not self.priced:
            raise problems.PRICES_MISSING()

    def _check_types(self) -> None:
        """Raise InvalidStudy for values of another type, such as a number in quotes in a study file."""
        for option in ("model", "protocol", "draw"):
            self._check(option, isinstance(getattr(self, option), str), "a text")
        for option in ("at_once", "max_tokens", "shots", "max_requests"):
            value = getattr(self, option)
            self._check(
                option, is_number(value, Integral) or (value is None and option == "max_requests"), "a whole number"
            )
        for option in ("timeout", "price_in", "price_out", "max_cost"):
            value = getattr(self, option)
            self._check(option, is_number(value) or (value is None and option != "timeout"), "a number")

    def _check(self, option: str, holds: bool, expected: str) -> None:
        if not holds:
            raise problems.SETTING_INVALID(option=option, found=getattr(self, option), expected=expected)

    @property
    def host(self) -> str:
        """The server's name or address, with its port if the address has one."""
        return urlsplit(self.url).netloc

    @property
    def is_private(self) -> bool:
        """Whether the server is on this machine, or has a private IP address."""
        return _is_private(str(urlsplit(self.url).hostname))

    @property
    def priced(self) -> bool:
        return self.price_in is not None and self.price_out is not None

    def cost(self, tokens_in: float, tokens_out: float) -> float | None:
        """Return the cost of tokens, in the currency of the prices; None if a price is unknown."""
        if self.price_in is None or self.price_out is None:
            return None
        return (self.price_in * tokens_in + self.price_out * tokens_out) / 1e6

    def secret(self) -> str | None:
        """Return the key from the environment; None if the server needs none.

        Raises NotFound if there is no key, and InvalidStudy if it cannot be sent.
        """
        name = str(urlsplit(self.url).hostname)
        is_of_openai = name == OPENAI or name.endswith(f".{OPENAI}")
        variable = self.key or (OPENAI_KEY if is_of_openai else None)
        if variable is None:
            if self.is_private:
                return None
            raise problems.KEY_UNNAMED(host=self.host)
        found = os.environ.get(variable, "").strip()
        if not found:
            raise problems.KEY_UNSET(host=self.host, variable=variable)
        if not (found.isascii() and found.isprintable()) or " " in found:
            raise problems.KEY_MALFORMED(host=self.host, variable=variable)
        return found


def _checked(url: str) -> str:
    """Return the host of an address. Raises InvalidStudy, without the address, which may have a password."""
    parts = _split(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise problems.ADDRESS_MALFORMED(reason="it does not begin with https:// and a host")
    if "@" in parts.netloc:
        raise problems.ADDRESS_MALFORMED(reason="it has a user name or a password")
    if "?" in url or "#" in url:
        raise problems.ADDRESS_MALFORMED(reason="it has a query or a fragment")
    if parts.path.endswith(("/completions", "/responses")):
        raise problems.ADDRESS_MALFORMED(reason="it ends with the path of a protocol, such as /chat/completions")
    return parts.hostname


def _split(url: str) -> SplitResult:
    if not url.isascii() or not url.isprintable() or " " in url:
        raise problems.ADDRESS_MALFORMED(reason="it has a space, or a character that is not ASCII")
    try:
        parts = urlsplit(url)
        assert parts.port is None or parts.port >= 0  # reading the port checks it
    except ValueError:
        raise problems.ADDRESS_MALFORMED(reason="its host or port is malformed") from None
    return parts


def _is_private(host: str) -> bool:
    """Return whether a host is this machine, or a private IP address; names of other machines are not."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return (address.is_private or address.is_loopback) and not address.is_unspecified
