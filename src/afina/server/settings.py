"""Settings: what a server takes, how much at once, and for how long. Knows no server."""

from __future__ import annotations

import math
from dataclasses import dataclass

from afina.errors import InvalidStudy


@dataclass(frozen=True)
class Settings:
    """Tokens are the backbone's, times are seconds.

    batch_tokens    computed at once while one client asks
    shared_tokens   the same while several do: less, so that nobody waits long for a batch of somebody else's texts; a
                    quiet client waits for at most one such batch and then for its own
    delay           for which a text waits for company where nothing is computed
    queue_tokens    that may wait, of a client alone; where several wait, each has its share of it
    timeout         after which a request is given up
    connections     that may be open, where the process may open twice as many files
    at_once         requests of a client that are being answered
    head_seconds    in which a request's head has to come
    body_bytes      of a request, or of a line of `/bulk`;  body_seconds  in which all of it has to come
    bytes_a_second  of bodies that a client's requests are read, once twice as many are; beyond, they are read later
    refusals_a_second  of a client that are answered at once, once four times as many are; beyond, within two seconds
    texts           in a request;  characters  of a text
    tokens_per_minute  that a client may ask for where its key says nothing; None: no limit
    writes_per_minute  aliases that a client may move
    every           in which the store is asked for news: so late is a moved alias, or a revoked key, noticed
    window          lines of a `/bulk` that are being answered
    drain           between SIGTERM and the end of listening: not ready, but answering;  shutdown  between SIGTERM and
                    the end of the process, draining included
    """

    batch_tokens: int = 1024
    shared_tokens: int = 64
    delay: float = 0.004
    queue_tokens: int = 65_536
    timeout: float = 30.0
    connections: int = 2000
    at_once: int = 256
    head_seconds: float = 10.0
    body_bytes: int = 1 << 20
    body_seconds: float = 10.0
    bytes_a_second: int = 2 << 20
    refusals_a_second: int = 50
    texts: int = 256
    characters: int = 100_000
    tokens_per_minute: int | None = None
    writes_per_minute: int = 30
    every: float = 0.4
    window: int = 64
    drain: float = 0.0
    shutdown: float = 25.0

    def __post_init__(self) -> None:
        for name in ("timeout", "drain", "shutdown"):
            if not math.isfinite(found := getattr(self, name)):
                raise InvalidStudy(
                    f"`{name}` is {found}. Give a number of seconds.", code="option.invalid", option=name
                )
        if not 0 <= self.drain < self.shutdown:
            raise InvalidStudy(
                f"`drain` is {self.drain:g} seconds, of a `shutdown` of {self.shutdown:g} in all. Draining has to be "
                "the shorter: lower `drain`, or raise `shutdown`.",
                code="option.invalid",
                options=["drain", "shutdown"],
            )
