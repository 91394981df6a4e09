"""A server on this machine that answers OpenAI's protocols as a test says, well or badly."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

SECRET = "sk-test-0123456789abcdef"


@dataclass
class Answered:
    """What the server sends: a status, headers, and a body of JSON or bytes. `cut`: the connection ends early."""

    body: Any = None
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    cut: bool = False


def chat(
    text: str | None, finish: str = "stop", refusal: str | None = None, usage: tuple[int, int] | None = (20, 3)
) -> Answered:
    """The answer to a chat, and to a prompt that is continued."""
    choice = {"index": 0, "text": text, "message": {"role": "assistant", "content": text, "refusal": refusal}}
    counted = None if usage is None else {"prompt_tokens": usage[0], "completion_tokens": usage[1]}
    return Answered(
        {"id": "1", "model": "tiny-2026", "choices": [choice | {"finish_reason": finish}], "usage": counted}
    )


def failed(status: int, message: str = "no", param: str | None = None, **headers: str) -> Answered:
    """An error in OpenAI's form; the package openai repeats some at once, as `retry-after-ms` asks for."""
    body = {"error": {"message": message, "type": "error", "param": param, "code": None}}
    return Answered(
        body, status, {"retry-after-ms": "1", **{name.replace("_", "-"): one for name, one in headers.items()}}
    )


@dataclass
class Seen:
    """A request that the server received."""

    path: str
    headers: Mapping[str, str]
    body: dict[str, Any]

    @property
    def prompt(self) -> str:
        given: str = self.body["messages"][0]["content"] if "messages" in self.body else self.body["prompt"]
        return given


@dataclass
class ChatServer:
    """A running server: its address, and the requests that it has received."""

    url: str
    seen: list[Seen]
    most_at_once: int = 0


@contextmanager
def chat_server(answer: Callable[[Seen], Answered]) -> Iterator[ChatServer]:
    """A server that answers each request as `answer` says."""
    lock, open_now = threading.Lock(), [0]

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1  # head and body in one packet, or the system waits 40 ms between them

        def do_POST(self) -> None:
            content = self.rfile.read(int(self.headers["content-length"]))
            one = Seen(self.path, dict(self.headers.items()), json.loads(content))
            with lock:
                made.seen.append(one)
                open_now[0] += 1
                made.most_at_once = max(made.most_at_once, open_now[0])
            try:
                self._send(answer(one))
            finally:
                with lock:
                    open_now[0] -= 1

        def _send(self, given: Answered) -> None:
            body = given.body if isinstance(given.body, bytes) else json.dumps(given.body).encode()
            with suppress(OSError):
                self.send_response(given.status)
                for name, value in given.headers.items():
                    self.send_header(name, value)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(body) + 1000 * given.cut))
                self.end_headers()
                self.wfile.write(body)
            if given.cut:
                self.close_connection = True

        def log_message(self, *_: Any) -> None:
            """Nothing is printed."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        made = ChatServer(f"http://127.0.0.1:{server.server_address[1]}/v1", [])
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        try:
            yield made
        finally:
            server.shutdown()
            thread.join()
