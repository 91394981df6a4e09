"""How OpenMP's threads wait, in each kind of process that computes."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from afina import openmp

OF_THE_USER = {"GOMP_SPINCOUNT": "7", "OMP_WAIT_POLICY": "passive", "KMP_BLOCKTIME": "0"}

PROCESSES = {
    "a command": "from afina.cli import main; sys.argv = ['afina', '--version']",
    "a worker": "from afina.studies.executors.worker import main",
}


@pytest.fixture(autouse=True)
def _unset(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in OF_THE_USER:
        monkeypatch.setenv(name, "")  # so that a value that a test sets is removed after it
        monkeypatch.delenv(name)


def test_threads_wait_briefly_unless_the_user_says_how(monkeypatch: pytest.MonkeyPatch) -> None:
    assert openmp.in_force() == "the library's default"
    openmp.wait_briefly()
    openmp.wait_briefly()
    assert {name: os.environ.get(name) for name in OF_THE_USER} == dict.fromkeys(OF_THE_USER) | openmp.SPINS
    monkeypatch.setenv("GOMP_SPINCOUNT", "7")
    assert openmp.variables() == {"GOMP_SPINCOUNT": "7"}
    assert openmp.in_force() == "GOMP_SPINCOUNT=7"


@pytest.mark.parametrize("name", OF_THE_USER)
def test_what_the_user_has_set_stays_alone(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, OF_THE_USER[name])
    openmp.wait_briefly()
    assert {other: os.environ.get(other) for other in OF_THE_USER} == dict.fromkeys(OF_THE_USER) | {
        name: OF_THE_USER[name]
    }


@pytest.mark.parametrize("kind", PROCESSES)
def test_a_process_that_computes_has_the_variable_before_it_imports_torch(kind: str) -> None:
    code = f"""
import os, sys
{PROCESSES[kind]}
try:
    main()
except SystemExit:
    pass
print(os.environ.get("GOMP_SPINCOUNT"), "torch" in sys.modules, file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", code], stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert done.stderr.split() == [openmp.SPINS["GOMP_SPINCOUNT"], "False"]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="torch has libgomp on Linux only")
def test_the_variable_takes_effect_if_it_is_set_before_torch_is_imported() -> None:
    code = "from afina import openmp; openmp.wait_briefly(); import torch"
    environment = os.environ | {"OMP_DISPLAY_ENV": "verbose"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert f"GOMP_SPINCOUNT = '{openmp.SPINS['GOMP_SPINCOUNT']}'" in done.stderr
