"""Requests for many adapters of `afina serve` over HTTP, with Zipf's law; arrivals do not wait for answers.

    python benchmarks/traffic.py --adapters 1000 --seconds 60
    python benchmarks/traffic.py --adapters 100 --seconds 300 --churn
    python benchmarks/traffic.py --adapters 100 --texts 20 --clients 20 --seconds 300 --churn

Latency counts from the time when a request was due, so that a stall is not hidden. With `--churn`, one change happens
every second: a version is published, an alias is moved or rolled back, or the least popular adapters receive requests
so that others are evicted. With `--texts`, a share of the requests is for adapters that generate: half of them are
streamed, and half are sampled with a seed. Each answer is compared with what the adapter in its receipt computes alone.
Client and server share the machine. The last line of the output is one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import httpx2
import numpy as np

import machine
import tables
from afina import AdapterStore, Backbone, Predictor, Task, meter
from afina.errors import AfinaError
from afina.server.receipts import Receipt
from afina.server.replay import replayed
from serve import DATA, publish

EXPONENT = 1.1
"""The exponent of Zipf's law: the n-th adapter has a popularity of n to the minus EXPONENT."""

TEXTS = 40
"""Distinct texts; what adapters compute of them alone is what answers are compared with."""

NEAR = 1e-3
"""Probabilities that differ by less are the same: a packed row rounds otherwise than a text alone."""

KEPT = 40
"""MiB for adapters while they churn, so that there are evictions."""


SAMPLED = {"temperature": 0.7, "top_k": 10}
"""How half of the texts are generated; the others are greedy."""


class Request(NamedTuple):
    """due: seconds from the start. body: of a request for a generated text; None: a classification."""

    due: float
    name: str
    text: str
    body: dict[str, Any] | None = None

    @property
    def client(self) -> str:
        """Whose adapter it is."""
        return self.name.partition("/")[0]


@dataclass(frozen=True)
class Answer:
    """latency: seconds from when it was due; error: a status, or what the connection ended in.

    first    seconds from when it was due to the first piece of a streamed text
    written  a generated text
    tokens   its number of tokens
    after    seconds after which a refused request may be sent again, as the server said
    repeats  how often the request was sent again
    sent     when it was first sent, and `ended` when it was answered, in seconds of `meter.now`
    """

    request: Request
    latency: float
    error: str = ""
    receipt: Receipt | None = None
    scores: tuple[tuple[str, float], ...] = ()
    first: float | None = None
    written: str | None = None
    tokens: int = 0
    after: float | None = None
    repeats: int = 0
    sent: float = 0.0
    ended: float = 0.0


class Move(NamedTuple):
    """An alias `production` that was moved to a version, between two times in seconds of `meter.now`."""

    version: str
    begun: float
    done: float


class Names(NamedTuple):
    """How many adapters there are of each kind, and of how many clients."""

    classes: int
    texts: int = 0
    clients: int = 1

    def classifier(self, index: int) -> str:
        """The name of the index-th classifier, the most popular first."""
        return f"client-{index % self.clients:02}/task-{index:04}"

    def writer(self, index: int) -> str:
        """The name of the index-th adapter that generates, the most popular first."""
        return f"client-{index % self.clients:02}/text-{index:04}"

    @property
    def published(self) -> list[tuple[str, str]]:
        """Each name, and the directory of its adapter below the root."""
        classes = [(self.classifier(index), f"classes/{index}") for index in range(self.classes)]
        return classes + [(self.writer(index), f"texts/{index}") for index in range(self.texts)]


def text_task(new: int) -> dict[str, Any]:
    """Fields of the manifest of a text task with answers of at most so many tokens."""
    return {"objective": {"kind": "text", "answer_tokens": new}, "template": "{text}\n\nReply:"}


def fill(store: AdapterStore, backbone: Backbone, names: Names, root: Path, new: int) -> None:
    """Publish all adapters, each as `production`."""
    store.init()
    publish(backbone, names.classes, root / "classes")
    if names.texts:
        publish(backbone, names.texts, root / "texts", **text_task(new))
    for name, place in names.published:
        store.publish(root / place, name, message="benchmark")
        store.alias(f"{name}@1", "production")


@contextmanager
def serving(backbone: str, store: Path, memory: int | None) -> Iterator[str]:
    """A server of its own process; its URL."""
    with started(backbone, store, memory) as (url, _):
        yield url


@contextmanager
def started(
    backbone: str, store: Path, memory: int | None, *more: str, program: Sequence[str] = ("-m", "afina")
) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Likewise, with more options; its URL and its process. `program`: what Python runs."""
    command = [sys.executable, *program, "serve", "--backbone", backbone, "--store", str(store), "--port", "0"]
    limit = [] if memory is None else ["--memory", str(memory)]
    with (
        tempfile.TemporaryFile("w+") as log,
        subprocess.Popen([*command, *limit, *more], stdout=subprocess.PIPE, stderr=log, text=True) as process,
    ):
        assert process.stdout
        found = re.search(r"on (http://\S+)", process.stdout.readline())
        if not found:
            log.seek(0)
            raise SystemExit(f"the server did not start: {log.read()[-2000:]}")
        try:
            yield found[1], process
        finally:
            process.send_signal(signal.SIGTERM)


def planned(texts: Sequence[str], names: Names, options: argparse.Namespace) -> list[Request]:
    """Arrivals at random, `rate` a second, of adapters by their popularity."""
    draw = np.random.default_rng(0)
    due = np.cumsum(draw.exponential(1 / options.rate, int(options.rate * options.seconds)))
    popular, which = _popular(draw, names.classes, len(due)), draw.integers(0, len(texts), len(due))
    made = [
        Request(float(at), names.classifier(int(name)), texts[int(text)])
        for at, name, text in zip(due, popular, which, strict=True)
    ]
    if not names.texts:
        return made
    draw = np.random.default_rng(2)  # the classifications that remain are those of traffic without texts
    for place, index in enumerate(_popular(draw, names.texts, len(made))):
        writes, samples, streams = draw.random(3) < (options.share, 0.5, 0.5)
        body: dict[str, Any] = {"prompt": made[place].text}
        body |= SAMPLED | {"seed": int(draw.integers(1000))} if samples else {}
        body |= {"stream": True, "stream_options": {"include_usage": True}} if streams else {}
        if writes:
            made[place] = made[place]._replace(name=names.writer(int(index)), body=body)
    return made


def _popular(draw: np.random.Generator, adapters: int, count: int) -> np.ndarray:
    """So many adapters by their popularity, int64 [count]."""
    shares = np.arange(1, adapters + 1) ** -EXPONENT
    return draw.choice(adapters, count, p=shares / shares.sum())


async def asked(url: str, secrets: dict[str, str], requests: Sequence[Request], tries: int = 1) -> list[Answer]:
    """Send each when it is due, no matter how those before went.

    Args:
        url: The server.
        secrets: A key of each client.
        requests: The requests.
        tries: How often a request is sent, while the answer is 503 with `Retry-After`.
    """
    limits = httpx2.Limits(max_connections=None, max_keepalive_connections=64)
    async with httpx2.AsyncClient(base_url=url, timeout=60, limits=limits) as client:
        start = meter.now()

        async def one(request: Request) -> Answer:
            due = start + request.due
            await asyncio.sleep(due - meter.now())
            head, sent = {"Authorization": f"Bearer {secrets[request.client]}"}, meter.now()
            for repeats in range(tries):
                found = replace(await _asked_once(client, request, head, due), repeats=repeats, sent=sent)
                if found.after is None or repeats + 1 == tries:
                    break
                await asyncio.sleep(found.after)
            return replace(found, ended=meter.now())

        return await asyncio.gather(*map(one, requests))


async def _asked_once(client: httpx2.AsyncClient, request: Request, head: dict[str, str], due: float) -> Answer:
    try:
        if request.body is not None:
            return await _written(client, request, head, due)
        found = await client.post(
            "/predict", json={"model": f"{request.name}@production", "inputs": request.text}, headers=head
        )
    except httpx2.HTTPError as error:
        return Answer(request, meter.now() - due, type(error).__name__)
    if found.status_code != 200:
        return _refused(request, due, found, found.text)
    scores = tuple(sorted((each["label"], each["score"]) for each in found.json()))
    return Answer(request, meter.now() - due, "", Receipt.parse(found.headers["Afina-Receipt"]), scores)


def _refused(request: Request, due: float, found: httpx2.Response, said: str) -> Answer:
    told = found.headers.get("Retry-After") if found.status_code == 503 else None
    error = f"{found.status_code} {said[:200]}"
    return Answer(request, meter.now() - due, error, after=None if told is None else float(told))


async def _written(client: httpx2.AsyncClient, request: Request, head: dict[str, str], due: float) -> Answer:
    """The answer to a request for a text, whole or in pieces."""
    assert request.body is not None
    body = request.body | {"model": f"{request.name}@production"}
    first, pieces, usage = None, list[str](), {"completion_tokens": 0}
    async with client.stream("POST", "/v1/completions", json=body, headers=head) as found:
        if found.status_code != 200:
            return _refused(request, due, found, (await found.aread()).decode())
        receipt = Receipt.parse(found.headers["Afina-Receipt"])
        if "stream" not in body:
            whole = json.loads(await found.aread())
            pieces, usage = [whole["choices"][0]["text"]], whole["usage"]
        else:
            over = False
            async for line in found.aiter_lines():
                over |= line == "data: [DONE]"
                if over or not line.startswith("data: "):
                    continue
                event = json.loads(line.removeprefix("data: "))
                if "error" in event:
                    after = 1.0 if event["error"]["code"] == "unavailable" else None
                    return Answer(request, meter.now() - due, json.dumps(event), after=after)
                first = first or meter.now() - due
                pieces += [choice["text"] for choice in event["choices"]]
                usage = event.get("usage") or usage
            if not over:
                return Answer(request, meter.now() - due, "the stream ended early")
    latency, tokens = meter.now() - due, usage["completion_tokens"]
    return Answer(request, latency, "", receipt, first=first, written="".join(pieces), tokens=tokens)


async def churn(
    store: AdapterStore, root: Path, names: Names, seconds: float, moves: list[Move] | None = None
) -> dict[str, int]:
    """Every second something changes, of the popular ones most often; how often each was done.

    `moves`: where each move of an alias is noted.
    """
    draw, done = np.random.default_rng(1), {"publish": 0, "alias": 0, "rollback": 0}
    for _ in range(int(seconds)):
        await asyncio.sleep(1)
        writes = bool(names.texts and draw.random() < 0.5)
        count = names.texts if writes else names.classes
        index, other = min(int(draw.geometric(0.2)) - 1, count - 1), int(draw.integers(count))
        name, place = (names.writer(index), "texts") if writes else (names.classifier(index), "classes")
        what, begun = str(draw.choice([*done])), meter.now()
        try:
            version = await asyncio.to_thread(_change, store, root / place / str(other), name, what, other)
        except AfinaError as error:
            if what != "rollback":  # there may be nothing to go back to
                raise
            print(f"{name}: {error}", file=sys.stderr)
        else:
            done[what] += 1
            if moves is not None:
                moves.append(Move(version, begun, meter.now()))
    return done


def _change(store: AdapterStore, made: Path, name: str, what: str, other: int) -> str:
    """Return the version that is in production afterwards."""
    if what == "rollback":
        return f"{name}@{store.rollback(name, 'production').after}"
    numbers = [one.number for one in store.versions(name)]
    if what == "publish":
        numbers = [store.publish(made, name, message="benchmark").version.number]
    return f"{name}@{store.alias(f'{name}@{numbers[other % len(numbers)]}', 'production').after}"


def wrong(answers: Sequence[Answer], store: AdapterStore, backbone: Backbone) -> int:
    """The number of wrong answers: not what the adapter in the receipt computes alone, or a wrong version."""
    found, by_version = 0, dict[str, list[Answer]]()
    for one in answers:
        if one.receipt:
            by_version.setdefault(one.receipt.version, []).append(one)
    for version, theirs in by_version.items():
        adapter = store.adapter(version)
        predictor = Predictor.of(adapter, backbone)
        texts = sorted({one.request.text for one in theirs if one.request.body is None})
        alone = dict(zip(texts, predictor(texts), strict=True))
        for one in theirs:
            assert one.receipt
            if one.request.body is None:
                expected = alone[one.request.text]["probabilities"]
                same = all(abs(expected[label] - score) < NEAR for label, score in one.scores)
            else:
                again = replayed(predictor, one.receipt.generation, one.request.text)["answer"]
                same = again == one.written
                if not same:
                    print(f"{one.receipt}: {one.written!r}, but alone {again!r}", file=sys.stderr)
            mine = version.partition("@")[0] == one.request.name and one.receipt.adapter == adapter.digest
            found += not (same and mine)
    return found


def resident(url: str, secret: str, size: int) -> dict[str, float]:
    """The server's adapters: bytes of each relative to a file of `size` bytes, loads and evictions."""
    text = httpx2.get(f"{url}/metrics", headers={"Authorization": f"Bearer {secret}"}).text
    told = {name: float(value) for name, value in re.findall(r"^(afina_\w+) (\S+)$", text, re.MULTILINE)}
    return {
        "resident": told["afina_adapters"],
        "resident_relative_to_file": told["afina_adapter_bytes"] / max(1, told["afina_adapters"]) / size,
        "loads": told["afina_adapter_loads"],
        "evictions": told["afina_adapter_evictions"],
    }


def percentiles(seconds: Sequence[float]) -> dict[str, float]:
    """Percentiles in milliseconds."""
    return {f"p{each}": 1000 * float(np.percentile(seconds, each)) for each in (50, 95, 99)}


def summary(answers: Sequence[Answer], options: argparse.Namespace, bad: int) -> dict[str, Any]:
    """The last line, without what the server tells."""
    told = [one for one in answers if one.request.body is None]
    texts = [one for one in answers if one.request.body is not None]
    result: dict[str, Any] = {
        "adapters": options.adapters,
        "requests": len(answers),
        "per_second": options.rate,
        "errors": sum(bool(one.error) for one in answers),
        "wrong": bad,
        "milliseconds": percentiles([one.latency for one in told]),
    }
    if not texts:
        return result
    firsts = [one.first for one in texts if one.first is not None]
    tokens, spent = sum(one.tokens for one in texts), [one.latency for one in texts if one.tokens]
    return result | {
        "clients": options.clients,
        "text_adapters": options.texts,
        "text_requests": len(texts),
        "streamed": sum("stream" in (one.request.body or {}) for one in texts),
        "text_milliseconds": percentiles([one.latency for one in texts]),
        "first_token_milliseconds": percentiles(firsts) if firsts else {},
        "generated_tokens": tokens,
        "generated_per_second": tokens / options.seconds,
        "tokens_per_second_of_an_answer": tokens / sum(spent) if spent else 0.0,
    }


def parser(description: str | None) -> argparse.ArgumentParser:
    """The options of traffic."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default=f"random:{DATA}/gpt2")
    parser.add_argument("--task", default=f"glue/sst2:{DATA}/sst2")
    parser.add_argument("--adapters", type=int, default=1000)
    parser.add_argument("--texts", type=int, default=0, help="adapters that generate, beside the others")
    parser.add_argument("--share", type=float, default=0.25, help="share of the requests for texts")
    parser.add_argument("--new", type=int, default=24, help="most tokens of a text")
    parser.add_argument("--clients", type=int, default=1)
    parser.add_argument("--rate", type=float, default=4.0, help="requests a second")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--churn", action="store_true", help="change something every second")
    parser.add_argument("--markdown", type=Path, help="write the table and the machine to this file")
    return parser


@dataclass(frozen=True)
class Ground:
    """A filled store, and what is asked of it.

    root     the directory of the adapters that were published
    secrets  a key of each client; `admin` is an administrator's
    """

    store: AdapterStore
    root: Path
    names: Names
    backbone: Backbone
    secrets: dict[str, str]
    admin: str
    requests: list[Request]

    @classmethod
    def prepared(cls, options: argparse.Namespace, root: Path) -> Ground:
        """Fill a store below `root`, and draw the requests."""
        task, names = Task.load(options.task), Names(options.adapters, options.texts, options.clients)
        texts = sorted(set(task.evaluation.texts))[:: max(1, len(task.evaluation) // TEXTS)][:TEXTS]
        backbone, store = Backbone.load(options.backbone), AdapterStore(root / "store")
        fill(store, backbone, names, root, options.new)
        clients = sorted({name.partition("/")[0] for name, _ in names.published})
        secrets = {client: store.create_key(client, ["predict"]).secret for client in clients}
        admin = store.create_key(clients[0], ["admin"]).secret
        return cls(store, root, names, backbone, secrets, admin, planned(texts, names, options))

    async def traffic(
        self, url: str, options: argparse.Namespace, tries: int = 1, moves: list[Move] | None = None
    ) -> tuple[list[Answer], dict[str, int]]:
        """Send the requests, while the store changes if the options say so; the answers, and how often it changed."""
        changing = churn(self.store, self.root, self.names, options.seconds, moves) if options.churn else _unchanged()
        found = asyncio.create_task(changing)
        return await asked(url, self.secrets, self.requests, tries), await found


async def _unchanged() -> dict[str, int]:
    return {}


def report(result: dict[str, Any], path: Path | None) -> None:
    """Print a result as a table and as the last line, and write the table to a path."""
    rows = [[key, json.dumps(value) if isinstance(value, dict) else f"{value:,.4g}"] for key, value in result.items()]
    text = f"{tables.table(('', ''), rows)}\n\n" + "\n".join(machine.describe()) + "\n"
    print(text)
    if path:
        path.write_text(text, encoding="utf-8")
    print(json.dumps(result))


def main() -> None:
    """Fill a store, ask, check, and print."""
    options = parser(__doc__).parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        ground = Ground.prepared(options, Path(scratch))
        with serving(options.backbone, ground.root / "store", KEPT if options.churn else None) as url:
            answers, done = asyncio.run(ground.traffic(url, options))
            told = resident(url, ground.admin, ground.store.show(ground.names.classifier(0)).size)
        bad = wrong(answers, ground.store, ground.backbone)
    for one in answers:
        if one.error:
            print(f"{one.request.name}: {one.error}", file=sys.stderr)
    report(summary(answers, options, bad) | told | ({"changes": done} if done else {}), options.markdown)


if __name__ == "__main__":
    main()
