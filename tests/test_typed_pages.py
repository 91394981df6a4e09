"""README, tutorials and how-to pages: every command is typed in its order, on a tiny model and invented texts."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from afina import AdapterStore, Backbone, Results, assets
from afina.errors import NotFound
from command import PROGRAM, Command
from crowd import adapter
from fakes import Backbones, sentences, write_csv
from pages import ROOT, blocks
from services import free_port

DOCS = ROOT / "docs"
ON_RAY = {"more-than-one-machine.md", "serve-on-ray.md"}
"""Pages whose commands need a Ray cluster: tests in tests/cluster type them."""
ASKING = {"compare-with-an-api.md"}
"""Pages whose commands ask a model behind an API: tests/cli/test_endpoint_page.py types them with a local server."""
PAGES = [
    ROOT / "README.md",
    *sorted((DOCS / "tutorials").glob("*.md")),
    *sorted(page for page in (DOCS / "how-to").glob("*.md") if page.name not in ON_RAY | ASKING),
]
ELSEWHERE = {"make", "pip", "export"}
"""Programs that a page may name and this test does not run: tests/test_wheel.py builds and installs the wheel."""
TINY = {"train", "study", "evaluate", "predict", "ask", "compare", "plan", "next", "doubts"}
FEWER = {"plan": ["--method", "lora"], "study": ["--set", "train.max_steps=2"], "train": ["--set", "max_steps=2"]}
FEW = ["--set", "data.train_examples=64", "--set", "data.evaluation_examples=64"]
SHORTER = {"shots=16": "shots=2", "0.05": "0.5"}
"""Words for which others are typed, because the tiny model takes few tokens and is trained on few texts."""
MODELS = {"embedded", "gpt2", "path/to/gpt2"}
"""Addresses in whose place the tiny model is used."""
ENCODER = "minilm"
"""The address in whose place the tiny encoder is used."""
LLAMA = {"add-a-method"}
"""Pages with a method that peft has for `torch.nn.Linear` alone, which GPT-2 does not use."""
LONG = {"choose", "paper", "fair", "methods", "backbones", "replay", "studio"}
"""Words of commands that take minutes or need the Hub or a browser: other tests type them."""


def lines(page: Path) -> Iterator[str]:
    """Every line in a block of shell, continued lines joined, without comments."""
    for block in blocks(page, "sh"):
        for line in block.replace("\\\n", " ").splitlines():
            if line.strip() and not line.lstrip().startswith("#"):
                yield line.strip()


def invent(line: str) -> None:
    """Write the files that the line reads and that are not there yet."""
    texts = [(text, ("bad", "good")[label]) for text, label in sentences(180)]
    words = shlex.split(line, comments=True)
    for before, word in zip(["", *words], words, strict=False):
        path = Path(word.removeprefix("./"))
        if path.suffix != ".csv" or path.exists() or before == "--out":
            continue
        if "ratings" in path.name:
            write_csv(path, [(text, 1.5 + len(text) / 50) for text, _ in texts], ("text", "rating"))
        elif "stars" in path.name:
            write_csv(path, sentences(120))
        elif "tags" in path.name:
            write_csv(path, [(text, f"{label};long") for text, label in texts], ("text", "tags"))
        else:
            begin = sum(map(ord, path.stem)) % 60
            write_csv(path, texts[begin : begin + 120])


def fetch_snippets() -> None:
    """Fetch the sentences of the package index, or skip the test."""
    try:
        assets.fetch("snippets")
    except NotFound as error:
        pytest.skip(str(error))


def write_files(page: Path, backbone: str, encoder: str, port: str) -> None:
    """Write every file that a page shows: its name in backquotes, a colon, and a block of code."""
    for name, text in re.findall(
        r"`([\w.-]+)`:\n\n```\w+\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    ):
        text = text.replace('"embedded"', f'"{backbone}"').replace("8000", port)
        text = text.replace(f'"{ENCODER}"', f'"{encoder}"').replace(f".{ENCODER}]", f'."{encoder}"]')
        Path(name).write_text(text, encoding="utf-8")


def of_sentences(encoder: Path, place: Path) -> Path:
    """Copy an encoder, with the files that say that it is one of sentences."""
    shutil.copytree(encoder, place / "model")
    modules = {"": "Transformer", "1_Pooling": "Pooling"}
    content = [{"path": path, "type": f"sentence_transformers.models.{kind}"} for path, kind in modules.items()]
    (place / "model" / "modules.json").write_text(json.dumps(content))
    (place / "model" / "1_Pooling").mkdir()
    (place / "model" / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_cls_token": True}))
    return place / "model"


def versions(tiny: Backbone) -> None:
    """Publish two versions of acme/reviews; production has pointed to the first and points to the second."""
    store = AdapterStore("adapters")
    for number in (1, 2):
        adapter(tiny, "lora", {"r": 2}, seed=number).save(Path(f"made-{number}"))
        store.publish(Path(f"made-{number}"), "acme/reviews", message="made up")
        store.alias(f"acme/reviews@{number}", "production")


def candidate(tiny: Backbone) -> None:
    """The same two versions, while production still points to the first."""
    versions(tiny)
    AdapterStore("adapters").rollback("acme/reviews", "production")


def two_results(tiny: Backbone) -> None:
    """Leave adapters of two tasks where results are."""
    for number, task in enumerate(("reviews", "tickets")):
        adapter(tiny, "lora", {"r": 2}, seed=number).save(Path("results") / task)


def texts_written(tiny: Backbone) -> None:
    """Leave an adapter that writes texts where results are."""
    told = {"labels": ("reply",), "objective": {"kind": "text", "answer_tokens": 8}, "template": "{text}\nReply:"}
    adapter(tiny, "lora", {"r": 2}, seed=1, **told).save(Path("results") / "replies")


def pool(tiny: Backbone) -> None:
    """Leave a file of texts without labels, and labels for some of them."""
    texts = [(text, ("bad", "good")[label], "random") for text, label in dict(sentences(240)).items()]
    write_csv(Path("pool.csv"), [(text,) for text, *_ in texts], ("text",))
    write_csv(Path("labelled.csv"), texts[:40], ("text", "label", "chosen"))


BEFORE: dict[str, Callable[[Backbone], None]] = {
    "ask-with-openai": texts_written,
    "call-from-javascript": versions,
    "choose-texts-to-label": pool,
    "serve-several-clients": two_results,
    "try-a-version-on-live-traffic": candidate,
}
"""By page, the state that its first line expects."""

FIRST = {
    "roll-back-a-release": [
        line
        for number in (1, 2)
        for line in (
            f"afina train reviews.csv --seed {number} --out runs/{number}",
            f"afina store publish runs/{number} acme/reviews --message made",
            f"afina store alias acme/reviews@{number} production",
        )
    ],
    "share-a-report": ["afina study quickstart reviews.csv --out results/reviews"],
    "work-without-network": ["afina train reviews.csv"],
}
"""By page, lines that leave the results which the page names."""


class Typist:
    """A person who types the lines of a page, in one directory. `others`: what is typed in the place of other words."""

    def __init__(self, afina: Command, tiny: Backbone, encoder: str, **others: str) -> None:
        self.afina, self.tiny, self.port = afina, tiny, str(free_port())
        self.others = {**dict.fromkeys(MODELS, tiny.address), ENCODER: encoder, **SHORTER, **others}
        self.server: subprocess.Popen[bytes] | None = None
        self.done: list[str] = []

    def type(self, line: str) -> None:
        """Run a line, in this process where it is afina's."""
        line = line.replace("make study", "afina study quickstart")
        words = shlex.split(line.replace("8000", self.port), comments=True)
        if words[0] == "torchrun":
            self._torchrun(words)
            return
        if Path(words[0]).name != "afina":
            if words[0] not in ELSEWHERE and shutil.which(words[0]):
                self._shell(line)
            return
        if "serve" in words:  # adapters of pages were trained on the tiny model, in place of the default encoder
            words = [self.tiny.address if word == "bge" else word for word in words]
        words = [self._path(word) for word in words[1:]]
        if LONG & set(words):
            return
        out = None
        if ">" in words:
            words, (out,) = words[: words.index(">")], words[words.index(">") + 1 :]
        if "serve" in words:
            self._serve(words)
            return
        if words[1:2] == ["quickstart"] and "reviews.csv" not in words:
            fetch_snippets()
        invent(line)
        answer = self.afina(*words, *self._tiny(words))
        assert answer.code == 0, (line, answer.out[-500:], answer.err[-1500:])
        if out:
            Path(out).write_text(answer.out, encoding="utf-8")
        self.done.append(words[0])
        if words[0] == "predict" and "--file" not in words and "--text-pair" not in words:
            assert json.loads(answer.out.splitlines()[-1])

    def _path(self, word: str) -> str:
        if word.endswith("/ADAPTER"):
            return str(min(Path(word).parent.iterdir()))
        return self.others.get(word, word)

    def _tiny(self, words: list[str]) -> list[str]:
        fewer = FEWER.get(words[0], [])
        made = ([] if "--method" in fewer and "--method" in words else fewer) + (
            FEW if words[1:2] == ["quickstart"] and "reviews.csv" not in words else []
        )
        names = any(Path(word).suffix == ".toml" and "backbones = [" in Path(word).read_text() for word in words)
        own = words[0] not in TINY or "--backbone" in words or names
        return [*made, *([] if own else ["--backbone", self.tiny.address])]

    def _serve(self, words: list[str]) -> None:
        with open("server.log", "wb") as log:
            self.server = subprocess.Popen([*PROGRAM, *words], stdout=log, stderr=log)
        until = time.monotonic() + 120
        while time.monotonic() < until:
            assert self.server.poll() is None, Path("server.log").read_text(encoding="utf-8")
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health/ready", timeout=5).close()
                return
            except OSError:
                time.sleep(0.2)
        raise AssertionError("the server was not ready within two minutes")

    def _torchrun(self, words: list[str]) -> None:
        """Run processes that compute one run together: a script of the page, or `afina train`."""
        typed = words[words.index("afina") + 1 :] if "afina" in words else []
        self._shell(shlex.join([*words, *(self._tiny(typed) if typed else [])]))

    def _shell(self, line: str) -> None:
        paths = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        done = subprocess.run(
            ["bash", "-c", line.replace("8000", self.port)],
            env=os.environ | {"PATH": paths},
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, (line, done.stdout[-500:], done.stderr[-1500:])

    def leave(self) -> None:
        """End the server."""
        if self.server:
            self.server.terminate()
            self.server.wait(60)


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_commands_of_a_page_work_in_their_order(
    page: Path, afina: Command, backbones: Backbones, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AFINA_STORE", "adapters")
    tiny = Backbone.load(str(backbones.path("llama" if page.stem in LLAMA else "gpt2")))
    encoder = str(backbones.path("bert"))
    typist = Typist(afina, tiny, encoder, bge=str(of_sentences(backbones.path("bert"), tmp_path / "bge")))
    try:
        write_files(page, tiny.address, encoder, typist.port)
        invent("reviews.csv")
        BEFORE.get(page.stem, lambda _: None)(tiny)
        for line in [*FIRST.get(page.stem, []), *lines(page)]:
            typist.type(line)
    finally:
        typist.leave()
    if page.name == "your-own-csv.md":
        kinds = [Results.read(Path("results") / name).records[0].kind for name in ("train", "ratings", "tags")]
        assert kinds == ["classes", "number", "labels"]
