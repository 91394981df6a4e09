"""Fakes: tiny random models of every family and a tokenizer trained here; nothing comes from a network."""

from __future__ import annotations

import gc
import logging
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from filelock import FileLock

from afina import allocator
from shares import in_shares, shuffled

if TYPE_CHECKING:  # torch is imported by the fixtures that need it, so that the other tests start at once
    import torch
    from playwright.sync_api import Browser

    from afina import Backbone
    from command import Command
    from fakes import Backbones, Runs
    from services import S3, Postgres

# Clients of the Hub's API ask servers that tests start. huggingface_hub reads these when it is imported.
for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
    os.environ.pop(name, None)

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


def pytest_configure() -> None:
    """Hear Ctrl-C, and so the processes that tests start: in the background of a script, it is ignored.

    Python's collector runs as seldom as in processes of afina. Files are not synced: tests end processes, and no
    machine. `TEST_FSYNC` keeps syncs, and makes them slow (`node_site/sitecustomize.py`).
    """
    allocator.collect_seldom()
    if "TEST_FSYNC" not in os.environ:
        os.fsync = lambda fd: None
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Keep the bytecode of the tests' modules, whatever the environment says of the modules that a test writes.

    Compiling them takes nine seconds of a processor in each worker.
    """
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, False
    try:
        return (yield)
    finally:
        sys.dont_write_bytecode = before


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put slow tests that several processes carry out in another order; the others are short in any order.

    `TEST_ORDER` is the seed of a random order, in which no test may fail.
    """
    if seed := os.environ.get("TEST_ORDER"):
        items[:] = shuffled(items, int(seed))
    count = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    if count > 1 and all(item.get_closest_marker("slow") for item in items):
        items[:] = in_shares(items, count, by_size=not seed)


def pytest_collection_finish() -> None:
    """Save each test what it would pay for the modules that were imported.

    What they hold is left out of later collections, which Trainer and others ask for: each took 0.2 s. In each phase of
    each test, pytest attaches its handlers to all loggers that do not propagate, of which torch has 56.
    """
    gc.freeze()
    for logger in logging.root.manager.loggerDict.values():
        if isinstance(logger, logging.Logger):
            logger.propagate = True


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Iterator[object]:
    """A test marked `gpu` fails if it does not call the functions that its mark names (`tests/test_gpu_law.py`)."""
    named = {name for mark in pyfuncitem.iter_markers("gpu") for name in mark.args}
    if not named:
        return (yield)
    from devices import called

    with called() as found:
        result = yield
    assert named <= found, f"not called: {', '.join(sorted(named - found))}"
    return result


@pytest.fixture
def shared() -> Path:
    """SST-2 and GPT-2's tokenizer, which are not part of the repository."""
    if not (SHARED / "sst2").is_dir():
        pytest.skip("SST-2 and GPT-2's tokenizer are not in ../shared/data")
    return SHARED


@pytest.fixture(autouse=True)
def _alone(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[None]:
    """Keep tests out of the user's cache and store, and those that need what is in it from each other's way.

    The latter take gigabytes and fill that cache, so one at a time of all workers. Processes get one thread, as here.
    """
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("AFINA_STORE", str(tmp_path_factory.getbasetemp() / "store"))
    if not request.node.get_closest_marker("assets"):
        monkeypatch.setenv("AFINA_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
        yield
        return
    with FileLock(of_all_workers(tmp_path_factory) / "assets.lock"):
        yield


def of_all_workers(factory: pytest.TempPathFactory) -> Path:
    """A directory of this run of pytest, in which all its workers find what one of them has made."""
    base = factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@pytest.fixture(scope="session")
def backbones(tmp_path_factory: pytest.TempPathFactory) -> Backbones:
    """Tiny models by family, with every dropout on or off."""
    import torch
    from torch.nn import init

    from fakes import Backbones

    torch.set_num_threads(1)  # threads cost more than they give at this size, ten times more on a busy machine
    # Without weights there is nothing to draw, which torch does in Python: a third of the time of opening GPT-2.
    draw = init._no_grad_normal_
    init._no_grad_normal_ = lambda tensor, *given: tensor if tensor.is_meta else draw(tensor, *given)
    return Backbones(of_all_workers(tmp_path_factory) / "backbones")


@pytest.fixture
def gpu() -> torch.device:
    """A CUDA device, which the tests marked `gpu` need."""
    import torch

    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    return torch.device("cuda")


@pytest.fixture(scope="session")
def gpt2(backbones: Backbones) -> Backbone:
    from afina import Backbone

    return Backbone.load(str(backbones.path("gpt2")))


@pytest.fixture(scope="session")
def llama(backbones: Backbones) -> Backbone:
    from afina import Backbone

    return Backbone.load(str(backbones.path("llama")))


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Address of a csv of 120 invented sentences, labelled `bad` and `good`."""
    from fakes import made_once, sentences, write_csv

    rows = [(text, ("bad", "good")[label]) for text, label in sentences(120)]
    path = of_all_workers(tmp_path_factory) / "toy" / "toy.csv"
    return str(made_once(path, lambda part: write_csv(part, rows)))


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory, backbones: Backbones, toy: str) -> Runs:
    """Finished runs on the toy task, shared by the tests that only read them."""
    from fakes import Runs

    return Runs(of_all_workers(tmp_path_factory) / "runs", backbones, toy)


@pytest.fixture
def afina(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path, gpt2: Backbone
) -> Command:
    """The command line, in this process and in an empty directory."""
    from command import Command

    monkeypatch.chdir(tmp_path)
    return Command(monkeypatch, capfd)


@pytest.fixture
def trained(runs: Runs) -> Path:
    """The directory of a LoRA adapter of the tiny GPT-2, trained on `toy`. Copy it before you change it."""
    return runs.adapter("gpt2", "lora")


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL of these tests' own: `postgres.database()` is the URL of a new and empty database."""
    from services import Postgres, postgres_programs

    programs = postgres_programs()
    if programs is None:
        pytest.skip("PostgreSQL is not installed (Debian: apt install postgresql)")
    running = Postgres(programs)
    yield running
    running.stop()


@pytest.fixture(scope="session")
def _s3() -> Iterator[S3]:
    from services import S3, moto_is_there

    if not moto_is_there():
        pytest.skip("moto is not installed (pip install 'moto[server]')")
    running = S3()
    yield running
    running.stop()


@pytest.fixture
def s3(_s3: S3, monkeypatch: pytest.MonkeyPatch) -> S3:
    """An S3 of these tests' own, in the environment: `s3.bucket()` is an address in a new bucket."""
    for name, value in _s3.environment.items():
        monkeypatch.setenv(name, value)
    return _s3


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """The system's browser; not for longer than a module, for its thread runs no other event loop meanwhile."""
    import browser

    program = browser.find()
    if program is None:
        absent = "no Chromium: set AFINA_BROWSER, or put chromium on the PATH"
        pytest.fail(absent) if os.environ.get("CI") == "true" else pytest.skip(absent)  # .ci/run sees to one
    with browser.opened(program) as opened:
        yield opened
