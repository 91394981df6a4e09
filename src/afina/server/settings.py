"""The server's settings, which are mostly limits on batches, requests and connections."""

from __future__ import annotations

import math
import resource
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from afina.server import problems


def _option(default: Any, about: str, least: float | None = None) -> Any:
    """Return a field that `afina serve` has as an option, with its help and the least value."""
    return field(default=default, metadata={"help": about, "least": least})


@dataclass(frozen=True)
class Settings:
    """The settings of a server. Tokens are counted by the backbone's tokenizer, and all times are in seconds.

    Attributes:
        delay: how long a text waits for further texts before a batch starts, while nothing is being computed.
        queue_tokens: most tokens in the queue, of which clients with waiting texts have equal shares.
        max_new_tokens: also the default if neither request nor adapter has a limit.
        choices: most generated answers to one text (`n` in OpenAI's protocol).
        logprobs: most alternatives that are reported for each token of a generated answer.
        connections: most open connections, at most half as many as the process may open files.
        at_once: most open requests of one client.
        head_seconds, body_seconds: the time limits for the arrival of a request's headers, and of its body.
        body_bytes: the largest size of a request's body, or of a line of a `/bulk` request.
        bytes_a_second: what the server reads from bodies, per second and client; twice as many bytes in a burst.
        refusals_a_second: the error responses that the server sends without delay, per second and client; four times as
            many in a burst. Further ones are delayed by at most two seconds.
        texts, characters: most texts of a request, and most characters of a text.
        tokens_per_minute: None: no limit.
        writes_per_minute: most aliases that a client may move and keys that it may create in a minute.
        every: the interval at which the server reads changes from the store, such as a moved alias or a revoked key.
        key_seconds: after it, every request that needs a key is refused, since a key may have been revoked.
        window: most lines of a `/bulk` request that are read before the first of them is answered.
    """

    batch_tokens: int = _option(1024, "Most tokens in a batch.", 1)
    shared_tokens: int = _option(64, "Most tokens in a batch while several clients have requests.", 1)
    whole_tokens: int = _option(
        1024,
        "Most tokens of a text that cannot be computed in chunks, as by an encoder. Nobody else is answered while such "
        "a text is computed.",
        1,
    )
    delay: float = 0.004
    queue_tokens: int = 65_536
    timeout: float = _option(30.0, "Most seconds for a request.", 0.1)
    generation_timeout: float = _option(120.0, "Most seconds for an answer that is generated.", 0.1)
    max_new_tokens: int = _option(1024, "Most tokens of an answer that is generated.", 1)
    choices: int = 8
    logprobs: int = 20
    connections: int = 2000
    at_once: int = 256
    head_seconds: float = 10.0
    body_bytes: int = 1 << 20
    body_seconds: float = 10.0
    bytes_a_second: int = 2 << 20
    refusals_a_second: int = 50
    texts: int = 256
    characters: int = 100_000
    tokens_per_minute: int | None = _option(None, "Tokens per minute for clients whose key has no rate.", 1)
    writes_per_minute: int = 30
    every: float = 0.25
    key_seconds: float = _option(300.0, "Seconds for which known keys are accepted while the store does not answer.", 5)
    public_description: bool = _option(False, "Return /openapi.json, which describes the API, without a key.")
    window: int = 64
    preload: Sequence[str] = _option(
        (), "Model that is loaded, and has passed its golden test, before the server is ready; may be repeated."
    )
    drain: float = _option(0.0, "Seconds after SIGTERM during which the server still answers but is not ready.", 0)
    shutdown: float = _option(
        25.0,
        "Most seconds from SIGTERM to the end, including --drain. Choose fewer seconds than the time after which the "
        "container is killed (30 in Kubernetes, 10 in Docker).",
        0.1,
    )

    def __post_init__(self) -> None:
        for name in ("timeout", "generation_timeout", "drain", "shutdown", "key_seconds"):
            if not math.isfinite(found := getattr(self, name)):
                raise problems.NOT_FINITE(_found=found, option=name)
        if not 0 <= self.drain < self.shutdown:
            raise problems.DRAIN_TOO_LONG(drain=self.drain, shutdown=self.shutdown, options=["drain", "shutdown"])


@dataclass(frozen=True)
class Places:
    """The limits on the number of open connections.

    Attributes:
        clients: the largest number of connections of clients with a valid key. The others, `all` minus `clients`, are
            for requests without a key, such as health probes.
        accepted: the largest number of connections that are accepted in one turn of the event loop. An accepted
            connection is read some turns later, and must not become the oldest, which is closed to make room.
    """

    all: int
    clients: int
    accepted: int

    @classmethod
    def of(cls, most: int) -> Self:
        """Return the limits for `Settings.connections`: at most half as many as this process may open files."""
        files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        found = most if files == resource.RLIM_INFINITY else max(2, min(most, files // 2))
        others = max(1, found // 8)
        return cls(found, found - others, max(1, others // 4))
