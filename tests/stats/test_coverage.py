"""A few cells of docs/background/coverage.md simulated again, by the script that made them."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "coverage.py"


@pytest.fixture(scope="module")
def coverage() -> ModuleType:
    """The script, under a name that no package has."""
    spec = importlib.util.spec_from_file_location("coverage_of_intervals", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def simulated(coverage: ModuleType, place: int, cell: tuple[int, int], studies: int) -> dict[str, tuple[float, float]]:
    task = coverage.TASKS[place]
    known = replace(task, many=min(task.many, 100_000))
    return coverage.coverage(task, coverage.truth(known, task.metrics, seeds_vary=cell[0] > 1), *cell, studies)


@pytest.mark.slow
@pytest.mark.parametrize("place", [1, 2, 3])
def test_intervals_of_one_seed_cover_the_truth(place: int, coverage: ModuleType) -> None:
    """Of 500 studies: the standard error is 0.010."""
    for name, shares in simulated(coverage, place, (1, 200), 500).items():
        assert min(shares) >= 0.91, name


@pytest.mark.slow
def test_intervals_of_texts_cover_the_truth(coverage: ModuleType) -> None:
    """Of 80 studies: the standard error is 0.024."""
    for name, shares in simulated(coverage, 4, (1, 100), 80).items():
        assert min(shares) >= 0.89, name


@pytest.mark.slow
@pytest.mark.parametrize("place", [7, 8])
def test_intervals_of_entities_cover_the_truth_also_in_documents(place: int, coverage: ModuleType) -> None:
    """Of 200 studies, with about 40 documents: the standard error is 0.015."""
    for name, shares in simulated(coverage, place, (1, 400), 200).items():
        assert min(shares) >= 0.90, name


@pytest.mark.slow
@pytest.mark.parametrize(("place", "cell"), [(1, (3, 200)), (2, (5, 1000)), (3, (3, 200))])
def test_intervals_cover_the_truth(place: int, cell: tuple[int, int], coverage: ModuleType) -> None:
    """Of 400 studies: the standard error is 0.011."""
    for name, shares in simulated(coverage, place, cell, 400).items():
        assert min(shares) >= 0.92, name


def test_simulated_studies_are_as_described(coverage: ModuleType) -> None:
    generator = np.random.default_rng(0)
    seeds = coverage.drawn(generator, 2, vary=False)
    rare, several = (coverage.TASKS[place].make(generator, seeds, 20_000) for place in (1, 3))
    assert np.mean(rare[0][0].targets) == pytest.approx(0.1, abs=0.01)
    assert several[0][0].targets.mean(axis=0) == pytest.approx(coverage.LABEL_SHARES, abs=0.01)
    top, found = rare[0][0].chances[:, 1], rare[0][0].targets
    assert found[top > 0.8].mean() == pytest.approx(top[top > 0.8].mean(), abs=0.04)
    balanced = coverage.truth(coverage.TASKS[0], ["accuracy"], seeds_vary=False)["accuracy"]
    assert balanced == pytest.approx([0.88, 0.87], abs=0.003)


def test_texts_of_a_group_share_a_part_of_the_variance(coverage: ModuleType) -> None:
    """The design effect: the variance of a mean of groups, as a multiple of that of independent texts."""
    found = {}
    for task in coverage.TASKS[4:7]:
        generator = np.random.default_rng(0)
        (answers,), _ = task.make(generator, coverage.drawn(generator, 1, vary=False), 1500)
        values = coverage.METRICS["loss"].values(answers)
        sums = np.bincount(np.arange(1500) // 25, values - values.mean())
        found[task.name] = float(np.mean(sums**2) / 25 / values.var())
    assert found["texts"] < 1.6
    assert found["texts in groups of 25"] > 4
