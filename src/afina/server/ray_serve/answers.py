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

CLIENT_ID = b"afina-request-id"  # the header with which the proxy tells a replica the request id for the client

UNAVAILABLE = "unavailable"

BROKEN = "the server that computed the answer ended. Send the request again."
BROKEN_LINES = "the server that computed the answers ended. Send the lines from this one on again."


def refusal(path: str, status: int, kind: str, message: str, **headers: str) -> Response:
    """Return an error response in the format of the path's protocol, with the headers of the server's own errors."""
    content = routes.route_of(path).protocol.error(status, kind, message)
    return JSONResponse(content, status, {routes.ERROR_KIND: kind, **routes.ALWAYS, **headers})


def unavailable(path: str, message: str) -> Response:
    """Return a response with status 503, which asks the client to repeat the request after a second."""
    return refusal(path, 503, UNAVAILABLE, message, **{"Retry-After": "1"})


def header(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> bytes | None:
    """Return the first value of a header, or None. `name`: in lower case."""
    return next((value for named, value in headers if named.lower() == name), None)


def broken_end(path: str, media_type: bytes, events: int = 0) -> bytes | None:
    """Return an error as the last bytes of a response whose replica died; None: the format allows none at the end."""
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
"""The states of a shadow version; of those that the replicas report, the first one here is returned."""


def summed_shadows(replicas: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Return the sum of the replicas' counts of a shadow version; None for a moment after an alias was moved."""
    from afina.server.versions.shadow_counts import ShadowCounts

    if len({(counts["name"], counts["current"], counts["shadow"]) for counts in replicas}) > 1:
        return None
    total = ShadowCounts()
    for counts in replicas:
        total = total.plus(ShadowCounts.of(counts))
    states = {counts["state"]: counts for counts in replicas}
    chosen = states[next(state for state in (*STATES, *states) if state in states)]
    return {**chosen, **total.as_json(), "servers": len(replicas)}


def summed_answers(replicas: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Return the sum of the replicas' counts of a version's answers; None for a moment after an alias was moved."""
    from afina.server.versions.served_answers import ServedAnswers, summed

    total = summed([ServedAnswers.of(counts) for counts in replicas])
    return None if total is None else total.as_json()


def is_last(message: Message) -> bool:
    return message["type"] == "http.response.body" and not message.get("more_body", False)
