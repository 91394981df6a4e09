"""What a studio has published and serves, for tests of its pages."""

from __future__ import annotations

import fcntl
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from afina import Adapter, AdapterStore, Backbone
from afina.engine.engine import Engine
from afina.server.core import Core
from afina.server.settings import Settings
from afina.studies.runs.output_directory import OutputDirectory
from afina.studio.command_process import LOCK
from afina.studio.folder import Project, StudioFolder
from fakes import Runs
from servers import running, share_models

TEXT = "the soup was bright."
"""A text that the two versions of the fixture `reviews` give different labels."""


def publish(folder: StudioFolder, made: Adapter, name: str) -> str:
    """Publish an adapter in the studio's store; its version."""
    place = folder.own / f"made-{made.digest[-12:]}"
    made.save(place)
    found = AdapterStore(folder.store, who="ada").publish(place, name, message=f"why {made.manifest.method}")
    shutil.rmtree(place)
    return str(found.version)


def finished_run(project: Project, runs: Runs, method: str = "lora", number: int = 1) -> Path:
    """Give a project a run of the tiny GPT-2 that has ended; the directory of its adapter."""
    record, out = runs.record("gpt2", method), project.directory / "runs" / str(number)
    shutil.copytree(runs.adapter("gpt2", method), out / record.adapter)
    OutputDirectory(out).write([record])
    process = project.process(f"run-{number}")
    process.directory.mkdir(parents=True)
    contents: Mapping[str, Mapping[str, object]] = {
        "request.json": {"arguments": ["study"], "wanted": True, "starts": 1, "asked": "2026-01-01T00:00:00+00:00"},
        "command.json": {"arguments": ["study"], "environment": {}},
        "exit.json": {"status": 0},
    }
    for name, content in contents.items():
        (process.directory / name).write_text(json.dumps(content))
    return out / record.adapter


@contextmanager
def served(folder: StudioFolder, backbone: Backbone) -> Iterator[str]:
    """The studio's server in a thread of this process, which the studio takes for its own process; its URL."""
    process, store = folder.server, AdapterStore(folder.store, who="ada")
    process.directory.mkdir(parents=True, exist_ok=True)
    with Engine(backbone, store) as engine, (process.directory / LOCK).open("w") as lock:
        share_models(engine)
        fcntl.flock(lock, fcntl.LOCK_EX)
        with running(Core(engine, store, Settings(delay=0.001, every=0.05))) as (url, _):
            port = url.rpartition(":")[2]
            arguments = ["serve", "--backbone", backbone.address, "--port", port]
            command = {"arguments": arguments, "environment": {}}
            (process.directory / "command.json").write_text(json.dumps(command))
            (process.directory / "output").write_text(f"serving {folder.store} on {url}\n")
            yield url
