"""`Client`: requests to a server with OpenAI's protocols, by the package openai, which only this module imports.

The package repeats requests after status 408, 409, 429 and 5xx, after time-outs and cut connections, and waits as
`Retry-After` says. A hook sees each request that the package sends, so that repetitions count in a budget. The key is
in no exception, answer or log: exceptions of the package are replaced, and the key is cut out of everything that the
server sends.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Self

from afina import meter
from afina.endpoints import problems
from afina.endpoints.endpoint import Endpoint
from afina.endpoints.kept_answers import BudgetSpent, Limit, Reply
from afina.endpoints.questions import EndpointQuestion
from afina.errors import AfinaError

if TYPE_CHECKING:
    import openai

REPETITIONS = 4
"""The largest number of repetitions of a failed request."""

LONGEST_WAIT = 120.0
"""The package openai waits for so many seconds at most where a server sends `Retry-After`."""

MOST_BYTES = 1 << 20
"""The largest number of bytes that are read of an answer."""

_SAID = 200
"""The largest number of characters of a server's message in an error message."""

NO_CONNECTION = "no connection"
"""The reason of a `RequestFailed` if the server could not be reached."""

_RAW = "x-stainless-raw-response"
"""The header by which the package openai remembers that a response's bytes are asked for."""

_SENT = frozenset(
    ("host", "content-type", "content-length", "accept", "user-agent", "connection", "idempotency-key", "authorization")
) | {_RAW}
"""The headers that are sent. All others, such as those that the package makes of environment variables, are removed."""


@dataclass(frozen=True)
class Dialect:
    """The settings that a server takes. Some servers refuse temperature 0, JSON schemas or the setting `max_tokens`."""

    temperature: bool = True
    structured: bool = True
    limit: Limit = "max_tokens"

    def without(self, refused: RequestRejected, *, guess: bool) -> Dialect | None:
        """Return the dialect without the setting that a server refuses; None: there is no such setting.

        `guess`: Whether a message that names no setting is about the schema or else about the temperature.
        """
        if refused.names("max_tokens") and self.limit == "max_tokens":
            return replace(self, limit="max_completion_tokens")
        if refused.names("temperature") and self.temperature:
            return replace(self, temperature=False)
        if refused.names("response_format", "json_schema", "schema") and self.structured:
            return replace(self, structured=False)
        if guess and self.structured:
            return replace(self, structured=False)
        return replace(self, temperature=False) if guess and self.temperature else None


class RequestFailed(Exception):
    """Raised if a request has no answer after all repetitions.

    Attributes:
        reason: Why, such as "HTTP 500", "time-out", "no connection" or "malformed answer".
        status: The HTTP status. None: there was no response.
        said: The server's message, shortened, without the key.
    """

    def __init__(self, reason: str, status: int | None = None, said: str = "") -> None:
        super().__init__(reason)
        self.reason, self.status, self.said = reason, status, said


class RequestRejected(RequestFailed):
    """Raised if the server rejects a request as malformed (status 400 or 422), maybe because of one of its settings."""

    def __init__(self, status: int, said: str, param: str | None) -> None:
        super().__init__(f"HTTP {status}", status, said)
        self._param = param

    def names(self, *settings: str) -> bool:
        """Whether the server names one of the settings."""
        if self._param is not None:
            return self._param.partition(".")[0] in settings
        return any(setting in self.said for setting in settings)


class _Stopped(BaseException):
    """Raised by hooks to end a request.

    It is no Exception, because openai 2 repeats a request after every Exception.
    """

    def __init__(self, error: Exception) -> None:
        super().__init__(error)
        self.error = error


@contextmanager
def _stopping() -> Iterator[None]:
    """Return a context manager that ends a request at errors of the block: a spent budget, a full disk."""
    try:
        yield
    except (AfinaError, BudgetSpent) as error:
        raise _Stopped(error) from None


@dataclass
class Attempts:
    """The attempts of one request: each is announced before it is sent.

    Attributes:
        sending: Called before each attempt; returns the attempt's number, or raises.
        refused: Called with an attempt's number if the server answers with an error status.
        begun: When the attempt `current`, the last one, began.
    """

    sending: Callable[[], Awaitable[int]]
    refused: Callable[[int], Awaitable[None]]
    current: int = -1
    begun: float = field(default=0.0)


_ATTEMPTS: ContextVar[Attempts] = ContextVar("_ATTEMPTS")
"""The attempts of the request that the current task sends, for the hooks of the HTTP client."""


class Client:
    """A server, asked with the package openai; an asynchronous context manager."""

    def __init__(self, endpoint: Endpoint, secret: str | None) -> None:
        """Raises NotFound if the package openai is not installed."""
        try:
            import openai
        except ImportError:
            raise problems.EXTRA_MISSING(extra="api") from None
        self._endpoint, self._secret, self._openai = endpoint, secret, openai
        http = openai.DefaultAsyncHttpxClient(
            timeout=endpoint.timeout,
            follow_redirects=False,  # texts and the key go to the given host only
            trust_env=not endpoint.is_private,  # a proxy of the environment is for other hosts
            event_hooks={"request": [self._sending], "response": [self._responding]},
        )
        self._client = openai.AsyncOpenAI(
            api_key=secret or "none",
            base_url=endpoint.url,
            timeout=endpoint.timeout,
            max_retries=REPETITIONS,
            http_client=http,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.close()

    async def reply(self, question: EndpointQuestion, prompt: str, dialect: Dialect, attempts: Attempts) -> Reply:
        """Return the server's answer to a prompt. Raises RequestFailed, or what `attempts.sending` raises."""
        _ATTEMPTS.set(attempts)
        try:
            async with asyncio.timeout((REPETITIONS + 1) * (2 * self._endpoint.timeout + LONGEST_WAIT)):
                content = await self._post(self.body(question, prompt, dialect))
        except _Stopped as stopped:
            raise stopped.error from None
        except self._openai.APIStatusError as error:
            raise self._of_status(error, prompt) from None
        except (self._openai.APITimeoutError, TimeoutError):
            raise RequestFailed("time-out") from None
        except self._openai.APIConnectionError as error:
            raise RequestFailed(NO_CONNECTION, said=self._plain(str(error.__cause__ or ""))) from None
        except self._openai.OpenAIError as error:
            raise RequestFailed("malformed answer", said=self._plain(str(error))) from None
        return self._read(content, meter.now() - attempts.begun, question, dialect)

    def body(self, question: EndpointQuestion, prompt: str, dialect: Dialect) -> dict[str, Any]:
        made: dict[str, Any] = {"model": self._endpoint.model}
        if dialect.temperature:
            made["temperature"] = 0
        if self._endpoint.protocol == "completions":
            ends = {"stop": ["\n"]} if question.one_line else {}
            return made | {"prompt": prompt, "max_tokens": self._endpoint.max_tokens} | ends
        made |= {"messages": [{"role": "user", "content": prompt}], dialect.limit: self._endpoint.max_tokens}
        form = question.response_format if dialect.structured else None
        return made if form is None else made | {"response_format": form}

    async def _post(self, body: Mapping[str, Any]) -> bytes:
        chats = self._endpoint.protocol == "chat"
        way = self._client.chat.completions if chats else self._client.completions
        raw = await way.with_raw_response.create(**body)  # type: ignore[call-overload]  # the settings vary
        content: bytes = raw.content
        return content

    async def _sending(self, request: Any) -> None:
        """Announce an attempt, and remove headers that are not the request's own; a hook of the HTTP client."""
        for name in [name for name in request.headers if name.lower() not in _SENT]:
            del request.headers[name]
        if self._secret is None:
            request.headers.pop("authorization", None)
        else:
            request.headers["authorization"] = f"Bearer {self._secret}"
        attempts = _ATTEMPTS.get()
        with _stopping():
            attempts.current = await attempts.sending()
        attempts.begun = meter.now()

    async def _responding(self, response: Any) -> None:
        """Bound the response, and tell of an error status; a hook of the HTTP client."""
        response.stream = _bounded(response.stream, meter.now() + self._endpoint.timeout)
        if response.status_code >= 300:
            attempts = _ATTEMPTS.get()
            with _stopping():
                await attempts.refused(attempts.current)

    def _of_status(self, error: openai.APIStatusError, prompt: str) -> RequestFailed:
        said = self._plain(error.message.replace(prompt, ""))
        if error.status_code in (400, 422):
            return RequestRejected(error.status_code, said, error.param if isinstance(error.param, str) else None)
        return RequestFailed(f"HTTP {error.status_code}", error.status_code, said)

    def _plain(self, said: str) -> str:
        """Return a server's message on one line, shortened, without the key."""
        line = " ".join(self._without_key(said).split())
        printable = "".join(letter for letter in line if letter.isprintable())
        return printable[:_SAID]

    def _without_key(self, said: str) -> str:
        return said if self._secret is None else said.replace(self._secret, "***")

    def _read(self, content: bytes, seconds: float, question: EndpointQuestion, dialect: Dialect) -> Reply:
        """Return the answer in a response. Raises RequestFailed for a response that is not of the protocol."""
        try:
            given = json.loads(content)
            choice = given["choices"][0]
            message = choice["message"] if self._endpoint.protocol == "chat" else {"content": choice["text"]}
            text, refusal, finish = message.get("content"), message.get("refusal"), choice.get("finish_reason")
        except (ValueError, RecursionError):
            raise RequestFailed("malformed answer", said="no JSON") from None
        except (KeyError, IndexError, TypeError, AttributeError):  # an error in place of an answer, for instance
            raise RequestFailed("malformed answer", said=self._plain(content.decode("utf-8", "replace"))) from None
        if not (text is None or isinstance(text, str)) or not (finish is None or isinstance(finish, str)):
            raise RequestFailed("malformed answer")
        usage = given.get("usage")
        model = given.get("model")
        return Reply(
            text=None if text is None else self._encodable(text),
            finish=None if finish is None else self._plain(finish),
            refused=bool(refusal),
            seconds=seconds,
            tokens_in=_count(usage, "prompt_tokens"),
            tokens_out=_count(usage, "completion_tokens"),
            model=self._plain(model) if isinstance(model, str) else None,
            temperature=dialect.temperature,
            structured=self._endpoint.protocol == "chat" and dialect.structured and bool(question.response_format),
            limit=dialect.limit,
            at=datetime.now(UTC).isoformat(timespec="seconds"),
        )

    def _encodable(self, text: str) -> str:
        """Return a text without the key, and with replacement characters for unpaired surrogates."""
        return self._without_key(text).encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _count(usage: Any, name: str) -> int | None:
    """Return a number of tokens in a response's `usage`; None: the server gave none."""
    found = usage.get(name) if isinstance(usage, dict) else None
    return found if isinstance(found, int) and not isinstance(found, bool) and 0 <= found < 2**53 else None


def _bounded(stream: Any, until: float) -> Any:
    """Return a response's stream with a limit of bytes, which must be read until a time of `meter.now`.

    The class of the HTTP client's streams is found by its name, because it is httpx's or httpx2's, by openai's version.
    """
    base = next(each for each in type(stream).__mro__ if each.__name__ == "AsyncByteStream")

    class Bounded(base):  # type: ignore[misc, valid-type]
        async def __aiter__(self) -> Any:
            size = 0
            async for part in stream:
                size += len(part)
                if size > MOST_BYTES:
                    raise _Stopped(RequestFailed("answer too long"))
                if meter.now() > until:
                    raise _Stopped(RequestFailed("time-out"))
                yield part

        async def aclose(self) -> None:
            await stream.aclose()

    return Bounded()
