"""A flood of requests to a server on this machine, in a separate process.

    flooder.py PORT KIND SECONDS SHARE KEY MODEL
    flooder.py --burn CORES SECONDS

The first command sends requests to 127.0.0.1 only, for the given seconds and at most `MOST` requests. It uses the given
share of the connections of that kind. The second command computes on the given number of cores and sends nothing. The
last line of the output is a JSON object: the number of answers by status, and the seconds of processor time.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress

MOST = 200_000
SENTENCE = "The soup was bright, and nobody had told us that it would be like that."


def post(key: str, content: object, path: str = "/predict") -> bytes:
    """A whole request."""
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    lines = (f"POST {path} HTTP/1.1", "Host: flood", f"Authorization: Bearer {key}", f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode() + body


def texts(key: str, model: str) -> bytes:
    """32 short texts."""
    return post(key, {"model": model, "inputs": [[SENTENCE]] * 32})


def long(key: str, model: str) -> bytes:
    """20 texts of 3,000 words."""
    return post(key, {"model": model, "inputs": [["word " * 3000]] * 20})


def longest(key: str, model: str) -> bytes:
    """One text of 4,000 words, which are as many tokens."""
    return post(key, {"model": model, "inputs": "word " * 4000})


def numbers(key: str, model: str) -> bytes:
    """524,000 numbers, which is 1 MiB."""
    return post(key, b'{"model": "' + model.encode() + b'", "inputs": [' + b"1," * 523_999 + b"1]}")


def wrong(key: str, model: str) -> bytes:
    """A key that nobody has."""
    return post(f"afina_{'0' * 16}_{'x' * 43}", {"model": model, "inputs": SENTENCE})


KINDS: dict[str, tuple[int, Callable[[str, str], bytes]]] = {
    "texts": (100, texts),
    "long": (4, long),
    "longest": (1, longest),
    "numbers": (8, numbers),
    "wrong": (60, wrong),
    "heads": (2000, lambda key, model: b"GET /health/live HTTP/1.1\r\nX-Slow: "),
}
"""The number of connections, and the request that each sends again and again."""


async def flood(port: int, kind: str, until: float, count: int, request: bytes) -> Counter[str]:
    """Send until that time, by the loop's clock."""
    found: Counter[str] = Counter()
    loop = asyncio.get_running_loop()

    async def one() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            while sum(found.values()) < MOST:
                writer.write(request)
                await writer.drain()
                while kind == "heads":  # a byte now and then, of a head that never ends
                    await asyncio.sleep(1.0)
                    writer.write(b"y")
                    await writer.drain()
                head = await reader.readuntil(b"\r\n\r\n")
                length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
                await reader.readexactly(int(length.partition(b":")[2]))
                found[head.split(b" ", 2)[1].decode()] += 1
        finally:
            writer.close()

    async def again() -> None:
        while loop.time() < until:
            try:
                await one()
            except (OSError, EOFError):
                found["closed"] += 1
                await asyncio.sleep(0.05)

    tasks = [asyncio.create_task(again()) for _ in range(count)]
    await asyncio.sleep(max(0.0, until - loop.time()))
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return found


def burn(seconds: float, cores: float) -> None:
    """Compute for that share of each twentieth of a second, on several cores where it is more than one."""
    until, share = time.perf_counter() + seconds, min(1.0, cores)
    if cores > 1.0 and os.fork() == 0:
        burn(seconds, cores - 1.0)
        os._exit(0)
    while (now := time.perf_counter()) < until:
        while time.perf_counter() - now < 0.05 * share:
            sum(range(500))
        time.sleep(0.05 * max(0.0, 1 - share))


def main() -> None:
    """Flood, or burn, and say what came of it."""
    if sys.argv[1] == "--burn":
        print("begun", flush=True)
        burn(float(sys.argv[3]), float(sys.argv[2]))
        print(json.dumps({"statuses": {}, "cpu": time.process_time()}))
        return
    port, kind, seconds, share, key, model = sys.argv[1:]
    connections, make = KINDS[kind]
    with suppress(ValueError, OSError):
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(most, 8192), most))
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    count = max(1, min(round(connections * float(share)), files - 100))
    request = make(key, model)
    print("begun", flush=True)
    until = time.monotonic() + float(seconds)
    before = time.process_time()
    found = asyncio.run(flood(int(port), kind, until, count, request))
    print(json.dumps({"statuses": dict(found), "cpu": time.process_time() - before, "connections": count}))


if __name__ == "__main__":
    main()
