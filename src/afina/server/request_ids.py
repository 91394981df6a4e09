"""The id of a request: the client's own, or a new one. Imports no model, since a proxy needs it too."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable

HEADER = b"x-request-id"
"""Header of requests and answers with the id."""

_ACCEPTED = re.compile(rb"(?!.*afina_[0-9a-f]{16}_)[A-Za-z0-9._:;=+/@-]{1,128}")
"""Ids of clients that are taken: they stand in log lines, traces, headers and the ids of answers.

An id with a key in it is not taken.
"""


def id_of(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """Return the id that the client gave, or make a new one.

    The client's id is not taken if it is too long, or has other characters or a key.

    Args:
        headers: the headers of the request, with lower-case names.
    """
    given = [value for name, value in headers if name == HEADER]
    if len(given) == 1 and _ACCEPTED.fullmatch(given[0]):
        return given[0].decode()
    return secrets.token_hex(8)
