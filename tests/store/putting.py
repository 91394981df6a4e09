"""What processes do with blobs in tests; without pytest, which would take them long to import."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from random import Random

from afina.blobs import Blobs
from afina.blobs.remote import open_blobs


def content(seed: int, size: int) -> bytes:
    return Random(seed).randbytes(size)


def place_of(data: bytes, word: str = "00000000") -> str:
    return f"sha256-{hashlib.sha256(data).hexdigest()}-{word}"


def put(blobs: Blobs, data: bytes, word: str = "00000000") -> str:
    """Keep the bytes; returns their place."""
    place = place_of(data, word)
    with blobs.scratch() as directory:
        file = directory / "made"
        file.write_bytes(data)
        blobs.put(place, file)
    return place


def put_again_and_again(number: int, address: str, size: int, times: int) -> int:
    """The same content at the same place, as every other process does; returns how often it was there whole."""
    blobs, data = open_blobs(address), content(0, size)
    found = 0
    for _ in range(times):
        place = put(blobs, data)
        with blobs.file(place) as path:
            found += path.read_bytes() == data
    return found


def put_many(number: int, address: str, size: int) -> Iterator[list[str]]:
    """One content after another, without end: what is begun, and then that it is done."""
    blobs = open_blobs(address)
    for each in range(10_000):
        data = content(number * 10_000 + each, size)
        yield ["begun", place_of(data)]
        yield ["done", put(blobs, data)]


def verify(blobs: Blobs, place: str) -> bool:
    """Whether what lies there is what its place says; True where nothing does."""
    if blobs.size(place) is None:
        return True
    with blobs.file(place) as path:
        return place_of(Path(path).read_bytes()) == place
