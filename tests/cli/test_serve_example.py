"""`make serve`: what examples/serve.sh prints works as it is typed."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from afina import AdapterStore, Backbone
from pages import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.assets]


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
    return port


@pytest.fixture
def environment(gpt2: Backbone, tmp_path: Path) -> dict[str, str]:
    """Of a tiny model that trains a step, and the interpreter of these tests."""
    there = os.environ["PATH"]
    own = {"BACKBONE": gpt2.address, "OUT": str(tmp_path / "serve"), "STEPS": "1", "PORT": str(free_port())}
    return os.environ | own | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{there}"}


def test_the_lines_that_it_prints_are_answered(environment: dict[str, str]) -> None:
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
            assert len(typed) == 3, "".join(said)
            answers = [
                json.loads(subprocess.run(["bash", "-c", line], capture_output=True, check=True).stdout)
                for line in typed
            ]
        finally:
            server.terminate()
    movies, tasks, domains = answers
    assert {one["label"] for one in movies} == {"negative", "positive"}
    assert [one["model"] for one in tasks["results"]] == ["acme/products@1", "acme/movies@1"]
    assert {one["label"] for one in domains["data"]} <= {"movies", "products", "tweets"}
    names = [one.name for one in AdapterStore(f"{environment['OUT']}/store").list()]
    assert names == ["acme/movies", "acme/products", "bolt/domains", "bolt/tweets"]
    for who in ("acme", "bolt"):
        assert (Path(environment["OUT"]) / f"{who}.key").stat().st_mode & 0o077 == 0
