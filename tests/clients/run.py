"""Clients that others wrote, each in an environment of its own, ask a server with a tiny model.

    make clients
    make clients ONLY="litellm_client.py openai_client.mjs"

A script here is a client. It names its packages in a block of comments (the format of PEP 723), and checks that the
client gets the answers that the adapters give in afina itself. The environments are in .venv/clients, and are kept. The
results are written to docs/reference/clients.md. The status is 1 if a check fails.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import tomllib
import urllib.error
import urllib.request
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import torch  # noqa: E402
from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: E402

from afina import Adapter, AdapterStore, Backbone, Predictor  # noqa: E402
from afina.models.objective import ANSWERS_NOTHING  # noqa: E402
from afina.store.exchange.merging import merge  # noqa: E402
from calling import CALLING  # noqa: E402
from clients import page  # noqa: E402
from clients.caller import ANSWER, ARGUMENTS, trained_to_call  # noqa: E402
from crowd import adapter  # noqa: E402
from fakes import configuration, save, sentences, tokenizer  # noqa: E402
from servers import PLACES, PRICE, TAGS, TOLD, probed, started, talk  # noqa: E402

PROMPT = "the soup was bright."
POSITIONS = 8192
"""Tokens that the model reads: agents send schemas of tools."""

BLOCK = re.compile(r"^(?:#|//) /// script\n(.*?)^(?:#|//) ///$", re.MULTILINE | re.DOTALL)
UNSURE = {"kind": "classes", "temperature": 1.0, "abstain_below": ANSWERS_NOTHING}
"""The objective of an adapter that leaves every text unanswered."""

PRINTABLE = re.compile("[ -~]+")
SECONDS = 300
"""Time of a client."""


class Client(NamedTuple):
    """A script, and the packages that it needs."""

    script: Path
    packages: Sequence[str]

    @property
    def name(self) -> str:
        """Name of the script."""
        return self.script.name

    @property
    def home(self) -> Path:
        """Directory of its environment."""
        return HERE.parent.parent / ".venv" / "clients" / self.name.replace("_client.", "-")

    @property
    def in_node(self) -> bool:
        """Whether Node runs the script."""
        return self.script.suffix == ".mjs"


def clients(only: Sequence[str]) -> list[Client]:
    """Return the clients, or those of the given names. Raises SystemExit for a name that is none."""
    found = []
    for script in sorted([*HERE.glob("*_client.py"), *HERE.glob("*_client.mjs")]):
        block = BLOCK.search(script.read_text(encoding="utf-8"))
        assert block, script
        lines = [line.removeprefix("//").removeprefix("#").strip() for line in block[1].splitlines()]
        found.append(Client(script, tomllib.loads("\n".join(lines))["dependencies"]))
    if missing := {*only} - {one.name for one in found}:
        sys.exit(f"{', '.join(sorted(missing))}: no client. Known: {', '.join(one.name for one in found)}.")
    return [one for one in found if not only or one.name in only]


def install(client: Client) -> str | None:
    """Make the environment of a client. Return why that failed, or None."""
    stamp = client.home / "installed"
    if stamp.is_file() and json.loads(stamp.read_text()) == [*client.packages]:
        return None
    shutil.rmtree(client.home, ignore_errors=True)
    client.home.mkdir(parents=True)
    if client.in_node:
        if shutil.which("npm") is None:
            return "npm is missing"
        (client.home / "package.json").write_text("{}")
        steps = [["npm", "install", "--silent", "--prefix", str(client.home), *client.packages]]
    else:
        pip = [str(client.home / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        steps = [[sys.executable, "-m", "venv", str(client.home)], [*pip, *client.packages]]
    for step in steps:
        done = subprocess.run(step, capture_output=True, text=True, check=False)
        if done.returncode:
            return f"not installed: {(done.stderr or done.stdout).strip()[-300:]}"
    stamp.write_text(json.dumps(client.packages))
    return None


def versions(client: Client) -> str:
    """Return the packages of a client with their versions."""
    if client.in_node:
        named = [
            client.home / "node_modules" / (one.rpartition("@")[0] or one) / "package.json" for one in client.packages
        ]
        return ", ".join(
            f"{found['name']} {found['version']}" for found in (json.loads(one.read_text()) for one in named)
        )
    names = [re.split(r"[\[<>=!~ ]", one)[0] for one in client.packages]
    code = "import sys, importlib.metadata as m; print(', '.join(f'{n} {m.version(n)}' for n in sys.argv[1:]))"
    command = [str(client.home / "bin" / "python"), "-c", code, *names]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def ask(client: Client, environment: dict[str, str]) -> list[dict[str, Any]]:
    """Run a client. Return its checks, each with a problem or None."""
    if client.in_node:  # Node looks for packages beside the script
        for script in HERE.glob("*.mjs"):
            shutil.copy(script, client.home)
        command = ["node", str(client.home / client.name)]
    else:
        command = [str(client.home / "bin" / "python"), str(client.script)]
    try:
        done = subprocess.run(
            command,
            env={**os.environ, "HF_HUB_OFFLINE": "0", **environment, "AFINA_PATH": str(client.home / "bin")},
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return [{"check": "all", "problem": f"no end within {SECONDS} seconds"}]
    print(done.stderr[-4000:] if os.environ.get("AFINA_TRACE") else "", file=sys.stderr)
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"check"')]
    if done.returncode:
        lines.append({"check": "the script", "problem": done.stderr.strip()[-300:] or f"status {done.returncode}"})
    return lines or [{"check": "the script", "problem": "it checked nothing"}]


def plain_spoken(path: Path) -> Path:
    """Make a tiny model write printable characters of ASCII, so that clients may cut its answers anywhere."""
    model = AutoModelForCausalLM.from_pretrained(path)
    words = AutoTokenizer.from_pretrained(path)
    with torch.no_grad():
        for token in range(model.config.vocab_size):
            if token != words.eos_token_id and not PRINTABLE.fullmatch(words.decode([token])):
                model.lm_head.weight[token] = 0.0  # other tokens have a positive logit
    model.save_pretrained(path)
    return path


def speakers(root: Path) -> tuple[Backbone, dict[str, Adapter]]:
    """Make a tiny model in a directory, and adapters of every kind that clients ask."""
    words = tokenizer(begin=True)
    words.model_max_length = POSITIONS
    words.chat_template = CALLING
    shape = configuration("llama", max_position_embeddings=POSITIONS)
    backbone = Backbone.load(str(plain_spoken(save(shape, words, root / "backbone"))))
    return backbone, {
        "acme/reviews": probed(adapter(backbone, "lora", {"r": 2}, seed=1), backbone),
        "acme/careful": probed(adapter(backbone, "lora", {"r": 2}, seed=1, objective=UNSURE), backbone),
        "acme/tags": probed(adapter(backbone, "lora", {"r": 4}, seed=3, **TAGS), backbone),
        "acme/price": probed(adapter(backbone, "ia3", seed=4, **PRICE), backbone),
        "acme/places": probed(adapter(backbone, "lora", {"r": 2}, seed=5, **PLACES), backbone),
        "acme/told": adapter(backbone, "lora", {"r": 2}, seed=2, **TOLD),
        "acme/talk": adapter(backbone, "lora", {"r": 2}, seed=29, **talk(backbone)),
        "acme/caller": adapter(backbone, "full", **talk(backbone)),  # not trained here
    }


def published(made: Mapping[str, Adapter], root: Path) -> tuple[AdapterStore, str]:
    """Publish adapters in a store below a directory. Return the store and a key."""
    store = AdapterStore(root / "store", who="ada")
    for name, one in made.items():
        path = root / name.replace("/", "-")
        one.save(path)
        store.publish(path, name, message="first")
    return store, store.create_key("acme", ["predict"]).secret


@contextmanager
def served(root: Path) -> Iterator[dict[str, str]]:
    """Serve the adapters. Give the environment of the clients."""
    backbone, made = speakers(root)
    made["acme/caller"] = trained_to_call(backbone)
    _, key = published(made, root)
    os.environ["AFINA_STORE"] = str(root / "store")
    merge(Predictor.of(made["acme/told"], backbone), root / "merged")
    texts = [text for text, _ in sentences(6)]
    answers: dict[str, Any] = {"prompt": PROMPT, "texts": texts, "merged": str(root / "merged")}
    for name in ("told", "talk"):
        predictor = Predictor.of(made[f"acme/{name}"], backbone).generating(max_new_tokens=60)
        answers[name] = predictor([PROMPT])[0]["answer"]
    answers["called"], answers["caller"] = json.loads(ARGUMENTS), ANSWER
    (review,) = Predictor.of(made["acme/reviews"], backbone)([PROMPT])
    (places,) = Predictor.of(made["acme/places"], backbone)([PROMPT])
    answers["places"] = [
        [one["start"], one["end"], one["label"], one["text"], round(one["score"], 5)] for one in places["entities"]
    ]
    answers["reviews"] = {label: round(score, 5) for label, score in review["probabilities"].items()}
    with started(backbone) as (process, url):
        assert process.stderr is not None
        # the server stops at a full pipe
        threading.Thread(target=deque, args=(process.stderr,), kwargs={"maxlen": 0}, daemon=True).start()
        yield {"AFINA_URL": url, "AFINA_KEY": key, "AFINA_ANSWERS": json.dumps(answers)}


class Recorder(BaseHTTPRequestHandler):
    """A proxy before the server that keeps requests of a new form."""

    protocol_version = "HTTP/1.1"
    url, client = "", ""
    kept: ClassVar[dict[str, dict[str, Any]]] = {}

    def log_message(self, *_: Any) -> None:
        """Write no log."""

    def _pass(self) -> None:
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            body = b"".join(iter(self._chunk, b""))
        else:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        asked = urllib.request.Request(f"{self.url}{self.path}", body or None, method=self.command)
        for name, value in self.headers.items():
            if name.lower() not in ("host", "content-length", "transfer-encoding", "connection", "accept-encoding"):
                asked.add_header(name, value)
        try:
            answer = urllib.request.urlopen(asked)
        except urllib.error.HTTPError as error:
            answer = error
        content = answer.read()
        self._keep(body, answer.status)
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            if name.lower() not in ("content-length", "transfer-encoding", "connection", "date", "server"):
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _chunk(self) -> bytes:
        size = int(self.rfile.readline().split(b";")[0], 16)
        content = self.rfile.read(size)
        self.rfile.readline()
        return content

    def _keep(self, body: bytes, status: int) -> None:
        names = ("content-type", "content-encoding", "inference-header-content-length", "accept-encoding")
        headers = {name: self.headers[name] for name in names if name in self.headers}
        try:
            content: Any = json.loads(body) if body else None
        except ValueError:
            content = {"base64": base64.b64encode(body).decode()}
        one = {"client": self.client, "method": self.command, "path": self.path, "headers": headers, "status": status}
        self.kept.setdefault(f"{self.command} {self.path} {status} {form(content)}", {**one, "body": content})

    do_GET = do_POST = do_HEAD = _pass


def form(value: Any) -> str:
    """Return the form of a JSON value: its keys and types, without the texts and numbers in it."""
    if isinstance(value, dict):
        return f"{{{','.join(f'{name}:{form(one)}' for name, one in sorted(value.items()))}}}"
    if isinstance(value, list):
        return f"[{form(value[0]) if value else ''}]"
    return type(value).__name__


@contextmanager
def recording(environment: dict[str, str], file: Path | None) -> Iterator[dict[str, str]]:
    """Let the clients ask a recorder, whose requests are written to a file in the end. None: ask the server itself."""
    if file is None:
        yield environment
        return
    Recorder.url = environment["AFINA_URL"]
    with ThreadingHTTPServer(("127.0.0.1", 0), Recorder) as proxy:
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        yield {**environment, "AFINA_URL": f"http://127.0.0.1:{proxy.server_address[1]}"}
        proxy.shutdown()
    lines = [json.dumps(one, ensure_ascii=False) for one in Recorder.kept.values()]
    file.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def main() -> None:
    """Run the clients, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])  # type: ignore[union-attr]
    parser.add_argument("only", nargs="*", metavar="NAME", help="names of scripts; default: all")
    parser.add_argument("--record", type=Path, metavar="FILE", help="write the requests of every form to a file")
    given = parser.parse_args()
    wanted = clients(given.only)
    failed, rows = 0, dict[str, str]()
    with (
        tempfile.TemporaryDirectory() as root,
        served(Path(root)) as plain,
        recording(plain, given.record) as environment,
    ):
        for client in wanted:
            Recorder.client = client.name
            problem = install(client)
            checks = [{"check": "install", "problem": problem}] if problem else ask(client, environment)
            bad = [one for one in checks if one["problem"]]
            failed += len(bad)
            about = client.name if problem else f"{client.name} ({versions(client)})"
            if not problem:
                rows[client.name] = page.row(client.name, versions(client), checks)
            print(f"{about}: {len(checks) - len(bad)} of {len(checks)} checks pass", flush=True)
            for one in bad:
                print(f"    {one['check']}: {one['problem']}", flush=True)
    page.write(rows)
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
