"""The commands that `make serve` prints, and those of docs/reference/serve.md, run unchanged against a server."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from afina import AdapterStore, Backbone
from crowd import adapter
from pages import ROOT, blocks
from servers import PLACES, TOLD
from services import free_port

PAGE = ROOT / "docs" / "reference" / "serve.md"


@pytest.fixture
def environment(gpt2: Backbone, tmp_path: Path) -> dict[str, str]:
    """Of a tiny model that trains a step, and the interpreter of these tests."""
    there = os.environ["PATH"]
    own = {"BACKBONE": gpt2.address, "OUT": str(tmp_path / "serve"), "STEPS": "1", "PORT": str(free_port())}
    return os.environ | own | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{there}"}


@pytest.mark.slow
@pytest.mark.assets
def test_the_lines_that_make_serve_prints_are_answered(environment: dict[str, str]) -> None:
    with subprocess.Popen(
        [ROOT / "examples" / "serve.sh"], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as server:
        assert server.stdout
        said: list[str] = []
        for line in server.stdout:
            said.append(line)
            if line.startswith("serving "):
                break
        try:
            typed = [line for line in said if line.startswith("curl ")]
            assert len(typed) == 5, "".join(said)
            answers = [subprocess.run(["bash", "-c", line], capture_output=True, check=True).stdout for line in typed]
            first = said.index("from openai import OpenAI\n")
            python = [sys.executable, "-c", "".join(said[first : first + 3])]
            in_python = subprocess.run(python, capture_output=True, check=True).stdout.decode()
        finally:
            server.terminate()
    events = [line.removeprefix("data: ") for line in answers.pop().decode().splitlines() if line]
    movies, tasks, domains, reply = map(json.loads, answers)
    (written,) = reply["choices"]
    assert in_python == written["text"] + "\n"
    assert events.pop() == "[DONE]"
    assert "".join(one["text"] for event in events for one in json.loads(event)["choices"]) == written["text"]
    assert {one["label"] for one in movies} == {"negative", "positive"}
    assert [one["model"] for one in tasks["results"]] == ["acme/products", "acme/movies"]
    assert {one["label"] for one in domains["data"]} <= {"editorials", "movies", "products", "tweets"}
    names = [one.name for one in AdapterStore(f"{environment['OUT']}/store").list()]
    assert names == ["acme/movies", "acme/products", "acme/replies", "bolt/domains", "bolt/tweets"]
    for who in ("acme", "bolt"):
        assert (Path(environment["OUT"]) / f"{who}.key").stat().st_mode & 0o077 == 0


@pytest.mark.slow
def test_what_the_page_tells_to_type_is_answered(gpt2: Backbone, environment: dict[str, str], tmp_path: Path) -> None:
    """One shell types all of it, but for the line that installs; the server goes on beside the lines after it."""
    store = AdapterStore(tmp_path / "adapters")
    for number in range(1, 6):
        adapter(gpt2, "lora", {"r": 2}, seed=number).save(tmp_path / str(number))
        store.publish(tmp_path / str(number), "acme/urgent" if number == 5 else "acme/reviews", message="made up")
    adapter(gpt2, "lora", {"r": 2}, seed=6, **TOLD).save(tmp_path / "replies")
    store.publish(tmp_path / "replies", "acme/replies", message="made up")
    adapter(gpt2, "lora", {"r": 2}, seed=7, **PLACES).save(tmp_path / "places")
    store.publish(tmp_path / "places", "acme/places", message="made up")
    store.alias("acme/reviews@2", "production")
    port = environment["PORT"]
    ready = f"until curl -sf http://127.0.0.1:{port}/health/ready > ready; do sleep 0.2; kill -0 $!; done"
    typed = ["set -euo pipefail", "trap 'kill $(jobs -p)' EXIT"]
    for line in "".join(blocks(PAGE, "sh")).splitlines():
        if line.startswith("pip "):
            continue  # it is installed here
        line = line.replace("8000", port).replace("--backbone embedded", f"--backbone {gpt2.address}")
        typed += [f"{line} > said 2> log &", ready] if line.startswith("afina serve") else [line]
    assert any("/health/ready" in line for line in typed)
    done = subprocess.run(
        ["bash", "-c", "\n".join(typed)], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, (done.stdout[-2000:], done.stderr[-2000:])
    assert json.loads((tmp_path / "answer.json").read_text(encoding="utf-8"))
    (written,) = json.loads((tmp_path / "reply.json").read_text(encoding="utf-8"))["choices"]
    assert json.loads(done.stdout.splitlines()[-1]) == {"answer": written["text"]}
    assert "data: [DONE]" in done.stdout.splitlines()
    assert '{"name":"acme/reviews","alias":"production","from":2,"to":3}' in done.stdout
    assert len(re.findall(r"[\"']label[\"']", done.stdout)) >= 9
