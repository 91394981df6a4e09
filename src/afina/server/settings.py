"""Settings: the limits of the server on batches, requests and connections."""

from __future__ import annotations

import math
import resource
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from afina.server import problems


@dataclass(frozen=True)
class Settings:
    """Limits of a server. Tokens are tokens of the backbone; times are seconds.

    Attributes:
        batch_tokens: most tokens of a batch while a single client sends requests.
        shared_tokens: most tokens of a batch while several clients send requests. Smaller than `batch_tokens`, so that
            a client with few requests waits for at most one short batch of other clients.
        whole_tokens: most tokens of a text that cannot be computed in chunks, as by an encoder. No other client is
            answered while such a text is computed.
        delay: how long a text waits for other texts before a batch starts, while nothing is being computed.
        queue_tokens: most tokens in the queue. If several clients wait, each has an equal share.
        timeout: time after which a request fails.
        generation_timeout: time after which a generated answer fails.
        max_new_tokens: most tokens of a generated answer; also the default if the request has no limit.
        choices: most generated answers to a text (`n` in OpenAI's protocol).
        logprobs: most alternatives that are reported for each token of a generated answer.
        connections: most open connections; at most half of the files that the process may open.
        at_once: most open requests of one client.
        head_seconds: time limit for a request's headers to arrive.
        body_bytes: most bytes of a request's body, or of a line of `/bulk`.
        body_seconds: time limit for a request's body to arrive.
        bytes_a_second: bytes of bodies read per second and client, with a burst of twice as many. Further bytes wait.
        refusals_a_second: refusals sent at once per second and client, with a burst of four times as many. Further ones
            wait for at most two seconds.
        texts: most texts of a request.
        characters: most characters of a text.
        tokens_per_minute: rate limit of API keys that have no limit of their own; None: no limit.
        writes_per_minute: aliases that the keys of a client may move, and keys that they may create, in a minute.
        every: interval of reading changes from the store. A moved alias or revoked key takes effect after at most this
            interval and the time of reading.
        key_seconds: how long known API keys are accepted while the store does not answer. After this time, every
            request that needs a key is refused, since a key may have been revoked.
        public_description: whether `/openapi.json` needs no key.
        window: most lines of a `/bulk` request that are read ahead of their answers.
        preload: models that are loaded, and have passed their golden tests, before the server is ready.
        drain: time between SIGTERM and the end of listening, in which the server answers but is not ready.
        shutdown: time between SIGTERM and the end of the process, draining included.
    """

    batch_tokens: int = 1024
    shared_tokens: int = 64
    whole_tokens: int = 1024
    delay: float = 0.004
    queue_tokens: int = 65_536
    timeout: float = 30.0
    generation_timeout: float = 120.0
    max_new_tokens: int = 1024
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
    tokens_per_minute: int | None = None
    writes_per_minute: int = 30
    every: float = 0.4
    key_seconds: float = 300.0
    public_description: bool = False
    window: int = 64
    preload: Sequence[str] = ()
    drain: float = 0.0
    shutdown: float = 25.0

    def __post_init__(self) -> None:
        for name in ("timeout", "generation_timeout", "drain", "shutdown", "key_seconds"):
            if not math.isfinite(found := getattr(self, name)):
                raise problems.NOT_FINITE(_found=found, option=name)
        if not 0 <= self.drain < self.shutdown:
            raise problems.DRAIN_TOO_LONG(drain=self.drain, shutdown=self.shutdown, options=["drain", "shutdown"])


@dataclass(frozen=True)
class Places:
    """How many connections may be open.

    Attributes:
        all: most open connections.
        clients: most connections of clients with a valid key. The rest is for new connections, such as health probes.
        accepted: most connections accepted in one turn of the event loop. An accepted connection waits some turns
            before it is read, and must not become the oldest connection in this time.
    """

    all: int
    clients: int
    accepted: int

    @classmethod
    def of(cls, most: int) -> Self:
        """Return the limits for this process: half of the files that it may open are for connections.

        Args:
            most: most open connections (`Settings.connections`).
        """
        files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        found = most if files == resource.RLIM_INFINITY else max(2, min(most, files // 2))
        others = max(1, found // 8)
        return cls(found, found - others, max(1, others // 4))
