"""Processes for tests: at once, with an error of ours as a fact, and killed at any time."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
from processes import Crew

from afina.errors import Conflict


def count(number: int, most: int) -> Iterator[int]:
    yield from range(number, most)


def meet(number: int, place: str, count: int) -> bool:
    """Whether all are there at the same time."""
    Path(place, str(number)).touch()
    deadline = time.monotonic() + 30
    while len(list(Path(place).iterdir())) < count and time.monotonic() < deadline:
        time.sleep(0.001)
    return len(list(Path(place).iterdir())) == count


def conflict(number: int) -> None:
    raise Conflict(f"process {number} came late")


def fail(number: int) -> None:
    raise ValueError("a mistake of a test's own")


def tick(number: int) -> Iterator[int]:
    for each in range(10_000):
        yield each
        time.sleep(0.01)


def surroundings(number: int) -> list[str]:
    return [os.environ["WORD"], os.getcwd()]


def test_what_processes_yield_comes_back_in_the_order_of_their_numbers(crew: Crew) -> None:
    assert [ended.values for ended in crew.run(count, 3, 3)] == [[0, 1, 2], [1, 2], [2]]


def test_they_run_at_the_same_time(crew: Crew, tmp_path: Path) -> None:
    assert [ended.value for ended in crew.run(meet, 8, str(tmp_path), 8)] == [True] * 8


def test_an_error_of_ours_is_told_and_any_other_is_a_failure(crew: Crew) -> None:
    (ours,) = crew.run(conflict, 1)
    assert (ours.status, ours.error, ours.message) == (0, "Conflict", "process 0 came late")
    (other,) = crew.run(fail, 1)
    assert (other.status, other.error) == (1, None)
    assert "a mistake of a test's own" in other.said
    with pytest.raises(AssertionError):
        _ = other.value


def test_a_killed_process_leaves_what_it_yielded_before(crew: Crew) -> None:
    workers = crew.start(tick, 4)
    crew.kill_at_random(workers, Random(0), within_s=0.5)
    for ended in (worker.wait() for worker in workers):
        assert ended.status == -9
        assert ended.values == list(range(len(ended.values)))


def test_they_have_the_environment_and_the_directory_of_the_test(
    crew: Crew, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("WORD", "seen")
    monkeypatch.chdir(tmp_path)
    assert crew.run(surroundings, 1)[0].value == ["seen", str(tmp_path)]


def test_none_outlives_its_crew() -> None:
    with Crew() as crew:
        (worker,) = crew.start(tick, 1)
    with pytest.raises(ProcessLookupError):
        os.kill(worker.pid, 0)
