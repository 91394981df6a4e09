"""benchmarks/cluster.py measures what it says, on a few runs that sleep; its figures are not looked at."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.bench

BENCHMARK = Path(__file__).resolve().parents[2] / "benchmarks" / "cluster.py"


def test_the_benchmark_of_studies_on_ray_ends_in_its_figures() -> None:
    pytest.importorskip("ray")
    command = [sys.executable, BENCHMARK, "--parts", "overhead", "--runs", "2", "--repeats", "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    *_, row, last = done.stdout.splitlines()
    found = json.loads(last)["overhead"]
    assert found["runs"] == 2
    ratio = found["ray"]["work"] / found["local"]["work"] - 1
    assert found["beyond_startup"] == pytest.approx(ratio)
    assert row.startswith("| 2 runs that sleep for 1 s, 2 slots | ")
    for arm in ("local", "ray"):
        assert found[arm]["work"] > 0.9  # from the first message of a run, which arrives after its sleep has begun
