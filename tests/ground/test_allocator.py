"""How much a process keeps of what it has made: kernels, by what it is for; and how often it looks for garbage."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import pytest

from afina import allocator

BOTH = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY")


@pytest.fixture(autouse=True)
def _unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allocator, "_chosen_here", {})
    for name in BOTH:
        monkeypatch.delenv(name, raising=False)


def test_the_first_to_choose_has_its_way_unless_another_chooses_anew() -> None:
    allocator.keep_kernels(allocator.FEW)
    allocator.keep_kernels(allocator.SOME, anew=False)
    assert [os.environ[name] for name in BOTH] == [str(allocator.FEW)] * 2
    allocator.keep_kernels(allocator.MANY)
    assert [os.environ[name] for name in BOTH] == [str(allocator.MANY)] * 2


def test_what_the_user_has_set_stays_also_for_the_process_of_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(BOTH[0], "77")
    allocator.keep_kernels(allocator.FEW)
    assert [os.environ[name] for name in BOTH] == ["77", str(allocator.FEW)]
    assert allocator.environment_of_one_run()[BOTH[0]] == "77"


def test_what_this_process_chose_for_itself_is_nothing_to_the_process_of_a_run() -> None:
    allocator.keep_kernels(allocator.FEW)
    given = allocator.environment_of_one_run()
    assert given[BOTH[0]] == str(allocator.MANY)
    assert BOTH[1] not in given
    assert given["PATH"] == os.environ["PATH"]


def test_kernels_for_ever_other_numbers_of_tokens_take_a_bounded_amount_of_memory() -> None:
    """A thousand of a third of a MiB each would be 300."""
    script = """
        import torch
        from afina import meter
        from afina.models.kernels.linear import PackedWeight, can_pack, multiply

        layer = torch.nn.Linear(96, 160).bfloat16()
        if not can_pack(layer, torch.bfloat16):
            raise SystemExit("no oneDNN for bfloat16")
        weight = PackedWeight(layer.weight.detach()).weight
        for tokens in range(1, 301):
            multiply(torch.zeros(tokens, 96, dtype=torch.bfloat16), weight)
        before = meter.rss()
        for tokens in range(301, 1001):
            multiply(torch.zeros(tokens, 96, dtype=torch.bfloat16), weight)
        print(meter.rss() - before)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True)
    if "no oneDNN" in done.stderr:
        pytest.skip(done.stderr.strip())
    assert int(done.stdout) < 80 * 2**20, done.stderr


GARBAGE = """
    import gc, sys
    from afina import allocator

    class Cycle:
        def __init__(self):
            self.cycle = self

        def __del__(self):
            print("collected", flush=True)

    for step in sys.argv[1:]:
        getattr(allocator, step)()
        print(*gc.get_threshold(), flush=True)
    kept = [Cycle()]
    kept.clear()
    others = [[] for _ in range(50_000)]
    print("ends", flush=True)
"""


SELDOM = "100000 20 20"
USUAL = " ".join(map(str, allocator._THRESHOLDS))


@pytest.mark.parametrize(
    ("steps", "printed"),
    [
        ((), ["collected", "ends"]),
        (("collect_seldom",), [SELDOM, "ends"]),
        (("collect_seldom", "collect_as_usual"), [SELDOM, USUAL, "collected", "ends"]),
    ],
)
def test_a_process_of_afina_looks_for_garbage_seldom_and_not_at_its_end_and_a_server_as_usual(
    steps: tuple[str, ...], printed: list[str]
) -> None:
    command = [sys.executable, "-c", textwrap.dedent(GARBAGE), *steps]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == printed
