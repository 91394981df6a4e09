"""Forms that a browser sends: fields, and an uploaded file that is written to disk as it arrives.

An upload has a limit, is never held in memory, and its name is never a path: `safe_name` makes a file name from it. The
module does not know what a page does with a form.
"""

from __future__ import annotations

import asyncio
import re
import unicodedata
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import IO
from urllib.parse import parse_qsl

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect, Request

from afina import file_io
from afina.data.readers import conll, source
from afina.studio import problems
from afina.studio.folder import StudioFolder
from afina.studio.option_labels import label

MOST_FIELD_BYTES = 2**21
"""The most bytes of all fields of a form that are no file."""

MOST_FIELDS = 200
"""The most fields of a form."""

STALL_SECONDS = 60.0
"""Seconds without a byte after which a form is given up."""

SUFFIXES = (".csv", ".tsv", ".jsonl", ".json", ".parquet", ".xlsx", *conll.SUFFIXES, conll.PLAIN)
"""The suffixes of files that can be uploaded; each may be followed by one of a compressed file."""


@dataclass
class Upload:
    """A file that was sent: the name that the browser gave, and where its content is on this machine."""

    name: str
    path: Path


@dataclass
class Form:
    """The fields of a form by name, and the uploaded file; None if no file was chosen."""

    fields: dict[str, str] = field(default_factory=dict)
    upload: Upload | None = None

    def __getitem__(self, name: str) -> str:
        """Return a field without spaces around it. Raises InvalidData if it is missing or empty."""
        found = self.get(name)
        if not found:
            raise problems.FIELD_MISSING(field=name)
        return found

    def get(self, name: str) -> str:
        """Return a field without spaces around it; empty if it is missing."""
        return self.fields.get(name, "").strip()

    def number(self, name: str) -> float | None:
        """Return a field as a number; None if it is missing or empty. Raises InvalidData for NaN and other text."""
        found = self.get(name)
        with suppress(ValueError):
            value = float(found) if found else None
            if value is None or isfinite(value):
                return value
        raise problems.NOT_A_NUMBER(field=label(name), found=found)

    def drop(self) -> None:
        """Remove the uploaded file, unless it was moved."""
        if self.upload is not None:
            self.upload.path.unlink(missing_ok=True)


async def read_form(request: Request, folder: StudioFolder, limit: int) -> Form:
    """Read the form of a request of at most `limit` bytes; the caller removes the upload by `Form.drop`.

    uvicorn receives and drops the rest of a form that is refused, so that a browser shows the answer. Raises Refused
    (too large, or stalled), InvalidData (malformed or incomplete) and CannotWrite.
    """
    stated = request.headers.get("content-length", "")
    if stated.isdecimal() and int(stated) > limit:
        raise problems.UPLOAD_TOO_LARGE(limit=limit / 10**6)
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    if kind == b"multipart/form-data":
        return await _Multipart(options.get(b"boundary", b""), folder, limit).read(arriving(request))
    fields = bytearray()
    async for chunk in arriving(request):
        fields += chunk
        if len(fields) > min(limit, MOST_FIELD_BYTES):
            raise problems.FORM_MALFORMED(reason="its fields are too long")
    return Form(_fields(bytes(fields)))


async def arriving(request: Request) -> AsyncIterator[bytes]:
    """Yield a request's body. Raises Refused after STALL_SECONDS without a byte, InvalidData at an early end."""
    stream = aiter(request.stream())
    while True:
        try:
            async with asyncio.timeout(STALL_SECONDS):
                chunk = await anext(stream)
        except StopAsyncIteration:
            return
        except TimeoutError:
            raise problems.UPLOAD_STALLED(seconds=round(STALL_SECONDS)) from None
        except ClientDisconnect:
            raise problems.FORM_MALFORMED(reason="the connection ended before its end") from None
        yield chunk


def _fields(body: bytes) -> dict[str, str]:
    try:
        found = dict(parse_qsl(body.decode("ascii"), keep_blank_values=True, max_num_fields=MOST_FIELDS))
    except ValueError:
        raise problems.FORM_MALFORMED(reason="it is not URL-encoded") from None
    return _checked(found)


def _checked(fields: dict[str, str]) -> dict[str, str]:
    """Return the fields, unless one has a NUL character, which neither a path nor an argument can have."""
    if any("\0" in text for text in (*fields, *fields.values())):
        raise problems.FORM_MALFORMED(reason="it has a NUL character")
    return fields


class _Multipart:
    """The parts of a form as they arrive."""

    def __init__(self, boundary: bytes, folder: StudioFolder, limit: int) -> None:
        self._folder, self._limit = folder, limit
        self._form = Form()
        self._header, self._value = b"", b""
        self._disposition = b""
        self._name, self._field = "", bytearray()
        self._parts, self._field_bytes, self._ended = 0, 0, False
        self._file: IO[bytes] | None = None
        self._boundary = boundary

    def _parser(self) -> MultipartParser:
        if not self._boundary:
            raise problems.FORM_MALFORMED(reason="it has no boundary")
        return MultipartParser(
            self._boundary,
            {
                "on_part_begin": self._begin,
                "on_header_field": self._on_header_field,
                "on_header_value": self._on_header_value,
                "on_header_end": self._on_header_end,
                "on_headers_finished": self._on_headers,
                "on_part_data": self._on_data,
                "on_part_end": self._end,
                "on_end": self._on_end,
            },
        )

    async def read(self, stream: AsyncIterator[bytes]) -> Form:
        got = 0
        try:
            parser = self._parser()
            async for chunk in stream:
                got += len(chunk)
                if got > self._limit:
                    raise problems.UPLOAD_TOO_LARGE(limit=self._limit / 10**6)
                with file_io.writing("the upload"):
                    parser.write(chunk)
            if not self._ended:
                raise problems.FORM_MALFORMED(reason="its end is missing")
            _checked(self._form.fields)
        except FormParserError:
            self._give_up()
            raise problems.FORM_MALFORMED(reason="its parts cannot be read") from None
        except BaseException:
            self._give_up()
            raise
        return self._form

    def _give_up(self) -> None:
        if self._file is not None:
            with suppress(OSError):  # a full disk takes no more of what is to be removed
                self._file.close()
        self._form.drop()

    def _begin(self) -> None:
        self._disposition, self._header, self._value = b"", b"", b""
        self._parts += 1
        if self._parts > MOST_FIELDS:
            raise problems.FORM_MALFORMED(reason="it has too many fields")

    def _on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _on_header_end(self) -> None:
        if self._header.lower() == b"content-disposition":
            self._disposition = self._value
        self._header, self._value = b"", b""

    def _on_headers(self) -> None:
        _, options = parse_options_header(self._disposition)
        self._name = options.get(b"name", b"").decode("utf-8", "replace")
        self._field, self._file = bytearray(), None
        name = options.get(b"filename", b"").decode("utf-8", "replace")
        if not name:
            return
        if self._form.upload is not None:
            raise problems.FORM_MALFORMED(reason="it has two files")
        self._form.upload = Upload(name, self._folder.upload())
        self._file = self._form.upload.path.open("xb")

    def _on_data(self, data: bytes, start: int, end: int) -> None:
        if self._file is not None:
            self._file.write(data[start:end])
            return
        self._field += data[start:end]
        self._field_bytes += end - start
        if self._field_bytes > MOST_FIELD_BYTES:
            raise problems.FORM_MALFORMED(reason="its fields are too long")

    def _end(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
        else:
            self._form.fields[self._name] = self._field.decode("utf-8", "replace")

    def _on_end(self) -> None:
        self._ended = True


def safe_name(name: str) -> str:
    """Return a file name for an upload: its own letters, digits and suffix. Raises InvalidData for another suffix."""
    last = re.split(r"[/\\]", name)[-1]
    suffix = source_suffix(last)
    if suffix is None:
        raise problems.SUFFIX_UNKNOWN(found=last, expected=SUFFIXES)
    plain = unicodedata.normalize("NFKD", last[: -len(suffix)]).encode("ascii", "ignore").decode()
    return (re.sub(r"[^A-Za-z0-9_-]+", "-", plain).strip("-")[:60] or "texts") + suffix


def source_suffix(name: str) -> str | None:
    """Return the suffixes of format and compression, in lower case, such as `.csv.gz`; None for another file."""
    lower = name.lower()
    packed = next((one for one in (*source.COMPRESSED, source.ARCHIVE) if lower.endswith(one)), "")
    inside = lower.removesuffix(packed)
    found = next((one for one in SUFFIXES if inside.endswith(one)), None)
    if found is not None:
        return found + packed
    return packed if packed == source.ARCHIVE else None
