"""Parts of responses that a proxy writes: errors in each protocol's format, ends of broken streams, merged metrics."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from starlette.responses import JSONResponse, Response
from starlette.types import Message

from afina.server import routes

REPLICA = b"afina-replica"
"""Header of an answer with the name of the replica that answered. Answers of Ray Serve itself have no such header."""

ID = routes.REQUEST_ID
"""Header with the id of a request. Ray Serve reads it too: in the proxy, its value is an id for Serve alone."""

CLIENT_ID = b"afina-request-id"
"""Header from the proxy to a replica with the id that the client gave, or gets."""

UNAVAILABLE = "unavailable"

BROKEN = "the server that computed the answer ended. Send the request again."
BROKEN_LINES = "the server that computed the answers ended. Send the lines from this one on again."


def refusal(path: str, status: int, kind: str, message: str, **headers: str) -> Response:
    """Return an error in the format of the path's protocol, with the headers of the server's own errors."""
    named = {
        routes.ERROR_KIND: kind,
        **routes.ALWAYS,
        **{name.replace("_", "-"): value for name, value in headers.items()},
    }
    return JSONResponse(routes.route_of(path).protocol.error(status, kind, message), status, named)


def unavailable(path: str, message: str) -> Response:
    """Return a response with status 503, after which a client should repeat the request in a second."""
    return refusal(path, 503, UNAVAILABLE, message, Retry_After="1")


def header(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> bytes | None:
    """Return the first value of a header; `name` is in lower case."""
    return next((value for found, value in headers if found.lower() == name), None)


def single_id(headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Return headers without the second request id, which Ray Serve appends."""
    found, seen = list[tuple[bytes, bytes]](), False
    for name, value in headers:
        if name.lower() == ID:
            if seen:
                continue
            seen = True
        found.append((name, value))
    return found


def broken_end(path: str, media_type: bytes, events: int = 0) -> bytes | None:
    """Return the last piece of a response that a replica left unfinished. None: its format has no error at the end.

    Args:
        path: path of the request.
        media_type: value of the header Content-Type.
        events: number of server-sent events sent before.
    """
    if routes.route_of(path) is routes.RESPONSES and media_type.startswith(b"text/event-stream"):
        error = {"type": "error", "code": UNAVAILABLE, "message": BROKEN, "param": None, "sequence_number": events}
        return f"event: error\ndata: {json.dumps(error)}\n\n".encode()
    if media_type.startswith(b"text/event-stream"):
        content = routes.OPENAI.error(503, UNAVAILABLE, BROKEN)
        return f"data: {json.dumps(content)}\n\ndata: [DONE]\n\n".encode()
    if media_type.startswith(b"application/x-ndjson"):
        return f"{json.dumps(routes.AFINA.error(503, UNAVAILABLE, BROKEN_LINES))}\n".encode()
    return None


def merged_metrics(texts: Mapping[str, str], silent: Sequence[str] = ()) -> str:
    """Return the metrics of several replicas as one text in Prometheus' format, with the label `replica`.

    Args:
        texts: the metrics of each replica, by its name.
        silent: names of replicas that did not answer.
    """
    families: dict[str, tuple[list[str], list[str]]] = {}
    for replica, text in texts.items():
        head, samples = list[str](), list[str]()
        for line in text.splitlines():
            if line.startswith("#"):
                _, word, name, *_ = line.split(" ", 3)
                if word == "HELP" or name not in families:
                    head, samples = families.setdefault(name, ([], []))
                if line not in head:
                    head.append(line)
            elif line:
                samples.append(_labelled(line, replica))
    up = [f'afina_replica_up{{replica="{name}"}} {int(name in texts)}.0' for name in sorted({*texts, *silent})]
    about = ["# HELP afina_replica_up Whether a replica answered.", "# TYPE afina_replica_up gauge"]
    lines = [line for head, samples in families.values() for line in (*head, *samples)]
    return "\n".join([*about, *up, *lines, ""])


def _labelled(sample: str, replica: str) -> str:
    name, brace, rest = sample.partition("{")
    if brace:
        return f'{name}{{replica="{replica}",{rest}'
    name, _, value = sample.partition(" ")
    return f'{name}{{replica="{replica}"}} {value}'


STATES = ("failed", "loading", "riding", "promoted", "none")
"""States of a shadow. If replicas have different states, the first of these is that of all."""


def summed_shadows(found: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Return the counts of a shadow version, summed over all replicas.

    Returns None if the replicas compare different versions, as for a moment after an alias was moved.
    """
    from afina.server.versions.shadow_counts import ShadowCounts

    if len({(one["name"], one["current"], one["shadow"]) for one in found}) > 1:
        return None
    total = ShadowCounts()
    for one in found:
        total = total.plus(ShadowCounts.of(one))
    states = {one["state"]: one for one in found}
    chosen = states[next(state for state in (*STATES, *states) if state in states)]
    return {**chosen, **total.as_json(), "servers": len(found)}


def is_last(message: Message) -> bool:
    """Return whether an ASGI message is the last of a response."""
    return message["type"] == "http.response.body" and not message.get("more_body", False)
