"""Compressed HTTP bodies: expand request bodies in gzip or deflate up to a largest size, and compress responses."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence

from afina.server.http.refusals import Refusal

Headers = Sequence[tuple[bytes, bytes]]

FORMATS: Mapping[str, int] = {"gzip": 31, "deflate": 15}
"""The content codings of HTTP that are supported, with the `wbits` argument of zlib for each.

HTTP's "deflate" means the zlib format.
"""

LEAST = 1024  # the smallest size in bytes of a response that is compressed
FAST = 1  # the compression level of zlib for responses, which is the fastest


def coding_of(headers: Headers) -> str | None:
    """Return the content coding of a request's body, "gzip" or "deflate", or None. Raises Refusal for any other."""
    headers_given = [value.decode("latin-1").strip().lower() for name, value in headers if name == b"content-encoding"]
    codings = [coding.removeprefix("x-") for coding in ",".join(headers_given).replace(" ", "").split(",")]
    used = [coding for coding in codings if coding not in ("", "identity")]
    if used and (len(used) > 1 or used[0] not in FORMATS):
        known = " or ".join(FORMATS)
        message = f"the coding of the body is not supported. Send it with Content-Encoding {known}, or without."
        raise Refusal(415, "unsupported", message, {"Accept-Encoding": ", ".join(FORMATS)})
    return used[0] if used else None


class Expansion:
    """A compressed request body that is expanded piece by piece, to at most `most` bytes."""

    def __init__(self, coding: str, most: int) -> None:
        self._inner, self._coding = zlib.decompressobj(FORMATS[coding]), coding
        self._most, self._left = most, most

    def piece(self, compressed: bytes, *, last: bool) -> bytes:
        """Return the bytes of the next piece.

        Raises Refusal for a body that is too large, damaged, incomplete or goes on.
        """
        try:
            expanded = self._inner.decompress(compressed, self._left + 1)
        except zlib.error:
            raise self._damaged("it is damaged") from None
        self._left -= len(expanded)
        if self._left < 0:
            raise Refusal(413, "too_large", f"a request may have at most {self._most} bytes after its expansion.")
        if self._inner.unused_data:
            raise self._damaged("other bytes follow its end")
        if last and not self._inner.eof:
            raise self._damaged("it ends early")
        return expanded

    def _damaged(self, problem: str) -> Refusal:
        return Refusal(400, "invalid", f"The body is not valid {self._coding}: {problem}.")


def accepted(headers: Headers) -> str | None:
    """Return the content coding that a client prefers for the response; None: do not compress it."""
    best, chosen = 0.0, None
    for offer in b",".join(value for name, value in headers if name == b"accept-encoding").split(b",")[:16]:
        coding, _, weight = offer.decode("latin-1").lower().replace(" ", "").partition(";q=")
        try:
            weighted = float(weight or 1)
        except ValueError:
            continue
        if coding in FORMATS and best < weighted <= 1:
            best, chosen = weighted, coding
    return chosen


def compressed(content: bytes, headers: Headers) -> tuple[bytes, dict[str, str]]:
    """Return a response's body, compressed if the client accepts it and it has `LEAST` bytes, and its headers."""
    vary = {"Vary": "Accept-Encoding"}
    coding = accepted(headers)
    if coding is None or len(content) < LEAST:
        return content, vary
    compressor = zlib.compressobj(FAST, wbits=FORMATS[coding])
    return compressor.compress(content) + compressor.flush(), {**vary, "Content-Encoding": coding}
