"""The responses that the proxy itself writes: errors, ends of streams whose replica died, and merged metrics."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from starlette.responses import JSONResponse, Response
from starlette.types import Message

from afina.server import routes

REPLICA = b"afina-replica"
"""The response header with the name of the replica that answered. Responses of Ray Serve itself do not have it."""

ID = routes.REQUEST_ID
"""The header with the id of a request. Ray Serve reads this header too, so the proxy replaces the client's id by an id
that only Ray Serve uses."""

CLIENT_ID = b"afina-request-id"
"""The header with which the proxy tells a replica the request id for the client."""

UNAVAILABLE = "unavailable"

BROKEN = "the server that computed the answer ended. Send the request again."
BROKEN_LINES = "the server that computed the answers ended. Send the lines from this one on again."


def refusal(path: str, status: int, kind: str, message: str, **headers: str) -> Response:
    """Return an error response in the format of the path's protocol, with the headers of the server's own errors."""
    named = {
        routes.ERROR_KIND: kind,
        **routes.ALWAYS,
        **{name.replace("_", "-"): value for name, value in headers.items()},
    }
    return JSONResponse(routes.route_of(path).protocol.error(status, kind, message), status, named)


def unavailable(path: str, message: str) -> Response:
    """Return a response with status 503, which asks the client to repeat the request after a second."""
    return refusal(path, 503, UNAVAILABLE, message, Retry_After="1")


def header(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> bytes | None:
    """Return the first value of a header, or None. `name`: in lower case."""
    return next((value for found, value in headers if found.lower() == name), None)


def single_id(headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Return the headers of a response without the second request id, which Ray Serve has appended."""
    found, seen = list[tuple[bytes, bytes]](), False
    for name, value in headers:
        if name.lower() == ID:
            if seen:
                continue
            seen = True
        found.append((name, value))
    return found


def broken_end(path: str, media_type: bytes, events: int = 0) -> bytes | None:
    """Return an error as the last bytes of a response whose replica died; None: the format allows no error at the end.

    `events`: the number of server-sent events that were sent before the replica died.
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
    """Return the metrics of replicas in Prometheus' format, with the label `replica`. `silent`: without answer."""
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
"""The states of a shadow version. If replicas report different states, the state that comes first in `STATES` is
returned."""


def summed_shadows(found: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Return the state and the counts of a shadow version, with the counts summed over all replicas.

    Returns None if the replicas compare different versions, which happens for a moment after an alias was moved.
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


def summed_answers(found: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Return the counts of a version's answers, summed over all replicas, and the drift of their sum.

    Returns None if the replicas count different versions, which happens for a moment after an alias was moved.
    """
    from afina.server.versions.served_answers import ServedAnswers, summed

    total = summed([ServedAnswers.of(one) for one in found])
    return None if total is None else total.as_json()


def is_last(message: Message) -> bool:
    return message["type"] == "http.response.body" and not message.get("more_body", False)
