"""The page "Use more than one machine": its commands are typed, on a cluster of a head and a node on this machine.

The recipes for jobs, Slurm and Kubernetes are not typed, so the head needs no dashboard. `ray stop` is not typed
either, since it ends every cluster.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from afina import Backbone, Study
from afina.studies.runs.record import read_records
from command import HereExecutor
from fakes import Backbones, sentences, write_csv
from pages import ROOT, blocks, commands
from raylets import LONGEST_S, MEMORY, SITE, SOURCE, STORE_BYTES
from services import free_port

pytestmark = pytest.mark.slow

PAGE = ROOT / "docs" / "how-to" / "more-than-one-machine.md"
HEAD = "10.0.0.1:6379"
"""The address on the page."""
FEW_STEPS = ["--set", "train.max_steps=2"]


class Machines:
    """Machines of a cluster on this machine, and a person who types commands on them.

    Args:
        folder: The home directory of the person, and the directory in which the commands are typed.
    """

    def __init__(self, folder: Path, tiny: Backbone) -> None:
        self.folder, self.tiny = folder, tiny
        self.sockets = tempfile.mkdtemp(prefix="ray", dir="/tmp")  # short: the paths of sockets have a limit
        self.port = free_port()
        self.address = ""
        self.started: list[subprocess.Popen[bytes]] = []
        kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        self.environment = kept | {
            "AFINA_CACHE": str(folder / "cache"),
            "HOME": str(folder),
            "OMP_NUM_THREADS": "1",
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(SOURCE),
            "PYTHONWARNINGS": "ignore",
            "RAY_TMPDIR": self.sockets,
            "RAY_USAGE_STATS_ENABLED": "0",
        }

    def type(self, words: list[str]) -> str:
        """Type a line of the page, and return its output. One study forecasts its memory, which takes seconds."""
        words = [self._here(word) for word in words]
        if words[0] == "export":
            name, _, value = words[1].partition("=")
            self.environment[name] = value
            return ""
        if words[:2] == ["ray", "start"]:
            return self._start(words)
        if "afina" in words:
            words += FEW_STEPS
        if "train" in words:
            words += ["--backbone", self.tiny.address]
        if "quickstart" not in words:
            return self.run(words, PYTHONPATH=f"{SITE}:{SOURCE}", AFINA_TEST_SLEEPING=str(self.folder))
        return self.run([*words, "--backbone", self.tiny.address, "--set", "methods={baseline={}, lora={}}"])

    def run(self, words: list[str], code: int = 0, **environment: str) -> str:
        """Run a command that ends with this status, and return its output."""
        mine = self.environment | environment
        done = subprocess.run(words, cwd=self.folder, env=mine, capture_output=True, text=True, timeout=LONGEST_S * 4)
        assert done.returncode == code, f"{words}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
        assert "Traceback" not in done.stderr + done.stdout
        return done.stderr + done.stdout

    def _here(self, word: str) -> str:
        word = word.replace(HEAD, self.address)
        return word.replace("--port=6379", f"--port={self.port}").replace("/data/", f"{self.folder}/data/")

    def _start(self, words: list[str]) -> str:
        """Start Ray as on a machine of its own: with its own ports, and few resources."""
        is_head = "--head" in words
        more = ["--block", "--num-cpus=0" if is_head else "--num-cpus=2", f"--object-store-memory={STORE_BYTES}"]
        more += [f"--memory={MEMORY}", f"--dashboard-agent-listen-port={free_port()}"]
        more += ["--include-dashboard=false"] * is_head
        log = self.folder / f"ray-{len(self.started)}.log"
        with log.open("wb") as out:
            self.started.append(
                subprocess.Popen([*words, *more], cwd=self.folder, env=self.environment, stdout=out, stderr=out)
            )
        deadline = time.monotonic() + LONGEST_S
        while "Ray runtime started" not in (said := log.read_text(encoding="utf-8")):
            assert self.started[-1].poll() is None, said[-2000:]
            assert time.monotonic() < deadline, said[-2000:]
            time.sleep(0.1)
        if is_head:
            (self.address,) = re.findall(r"ray start --address='([\d.]+:\d+)'", said)
        return said

    def leave(self) -> None:
        """End all machines."""
        for process in reversed(self.started):
            process.send_signal(signal.SIGTERM)
        for process in self.started:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(LONGEST_S)
            process.kill()
            process.wait()
        shutil.rmtree(self.sockets, ignore_errors=True)


@pytest.fixture
def machines(backbones: Backbones, tmp_path: Path) -> Iterator[Machines]:
    tiny = Backbone.load(str(backbones.path("gpt2")))
    write_csv(tmp_path / "reviews.csv", [(text, ("bad", "good")[label]) for text, label in sentences(120)])
    (study,) = blocks(PAGE, "toml")
    (tmp_path / "on-ray.toml").write_text(study.replace('"embedded"', f'"{tiny.address}"'), encoding="utf-8")
    made = Machines(tmp_path, tiny)
    try:
        yield made
    finally:
        made.leave()


def test_the_commands_of_the_page_work_in_their_order_and_with_the_right_token_alone(
    machines: Machines, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: dict[str, str] = {}
    for words in commands(PAGE):
        if words[:2] == ["ray", "job"]:
            continue  # Ray nodes on one machine replace each other's copy of a job's working directory
        said[shlex.join(words)] = machines.type(words)
    assert (machines.folder / ".ray" / "auth_token").is_file()
    (first,) = [output for line, output in said.items() if "quickstart" in line]
    cluster = f"Ray cluster at {machines.address} (from RAY_ADDRESS): 1 node"
    assert first.startswith(cluster)
    assert first.count("Ray cluster") == 1

    for wrong in ({"RAY_AUTH_TOKEN": "wrong" * 8}, {"RAY_AUTH_MODE": "disabled"}):
        assert "token" in machines.run(["afina", "study", "on-ray.toml", "--out", "refused"], 2, **wrong)

    monkeypatch.chdir(machines.folder)
    local = Study.load("on-ray.toml", FEW_STEPS[1:]).run("local", executor=HereExecutor())
    digests = {one.name: one.digest for one in local.records}
    found = read_records(machines.folder / "results/on-ray" / "records.jsonl")
    assert {one.name: one.digest for one in found} == digests
    stored = [path for path in (machines.folder / "data" / "afina").rglob("*") if path.is_file()]
    assert [path.read_bytes() for path in stored] == [(machines.folder / "reviews.csv").read_bytes()]
