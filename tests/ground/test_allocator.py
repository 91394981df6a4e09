"""What a process keeps of what it has made, how often it looks for garbage, and what it says when memory runs out."""

from __future__ import annotations

import errno
import mmap
import os
import resource
import subprocess
import sys
import textwrap
import weakref
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from afina import allocator
from afina.errors import OutOfMemory
from raises import raises

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


@pytest.mark.slow
def test_the_environment_of_a_run_is_the_same_before_and_after_torch_is_imported(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    script = """
        import os
        from afina import allocator

        before = allocator.environment_of_one_run()
        import torch._inductor.runtime.cache_dir_utils as places
        places.cache_dir()
        assert "TORCHINDUCTOR_CACHE_DIR" in os.environ
        assert allocator.environment_of_one_run() == before
    """
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=True)
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "/mine")
    assert allocator.environment_of_one_run()["TORCHINDUCTOR_CACHE_DIR"] == "/mine"


@pytest.mark.slow
def test_kernels_for_ever_other_numbers_of_tokens_take_a_bounded_amount_of_memory() -> None:
    """450 of a third of a MiB each would be 150."""
    script = """
        import torch
        from afina import meter
        from afina.models.kernels.linear import PackedWeight, can_pack, multiply

        layer = torch.nn.Linear(96, 160).bfloat16()
        if not can_pack(layer, torch.bfloat16):
            raise SystemExit("no oneDNN for bfloat16")
        weight = PackedWeight(layer.weight.detach()).weight
        for tokens in range(1, 151):
            multiply(torch.zeros(tokens, 96, dtype=torch.bfloat16), weight)
        before = meter.rss()
        for tokens in range(151, 601):
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


PETABYTE = 1 << 50


def _text(message: str) -> Callable[[], object]:
    def fails() -> None:
        raise RuntimeError(message)

    return fails


@pytest.mark.parametrize(
    "fails",
    [
        lambda: torch.empty(PETABYTE, dtype=torch.uint8),
        lambda: np.empty(PETABYTE, dtype=np.uint8),
        lambda: bytearray(PETABYTE << 10),
        lambda: mmap.mmap(-1, PETABYTE << 10),
        _text("unable to mmap 195350672 bytes from file <model.safetensors>: Cannot allocate memory (12)"),
        _text("can't start new thread"),
        _text("std::bad_alloc"),
    ],
)
def test_memory_that_runs_out_is_an_error_of_the_user(fails: Callable[[], object]) -> None:
    with raises(OutOfMemory, code="run.out-of-memory", run="lora", limit=None), allocator.memory_errors("lora"):
        fails()


def test_what_the_failed_work_held_is_freed_at_once() -> None:
    class Model:
        pass

    held: list[weakref.ref[Model]] = []

    def fails() -> None:
        model = Model()
        held.append(weakref.ref(model))
        raise MemoryError

    with pytest.raises(OutOfMemory) as caught, allocator.memory_errors():
        fails()
    assert isinstance(caught.value.__context__, MemoryError), "its traceback does not live, so this test shows nothing"
    assert held[0]() is None


def test_a_gpu_without_memory_is_told_from_main_memory() -> None:
    with pytest.raises(OutOfMemory, match="GPU"), allocator.memory_errors("lora"):
        raise torch.OutOfMemoryError("CUDA out of memory")


@pytest.mark.parametrize(
    "error", [RuntimeError("shapes differ"), FileNotFoundError(errno.ENOENT, "no file"), ImportError("no such module")]
)
def test_other_errors_stay_as_they_are(error: Exception) -> None:
    with pytest.raises(type(error)) as caught, allocator.memory_errors():
        raise error
    assert caught.value is error


@pytest.mark.skipif(sys.platform != "linux", reason="another system may not hold a process to RLIMIT_AS")
@pytest.mark.parametrize("command", ["predict", "serve"])
def test_a_command_that_may_use_too_little_memory_says_so_before_it_imports_torch(command: str, tmp_path: Path) -> None:
    program = [str(Path(sys.executable).with_name("afina")), command]
    arguments = ["adapter", "a text"] if command == "predict" else ["--backbone", "gpt2", "--store", "store"]
    done = subprocess.run(
        [*program, *arguments],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (800 << 20, 800 << 20)),
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("Error: main memory ran out (this process may use 0.78 GiB")
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.platform != "linux", reason="another system may not hold a process to RLIMIT_AS")
def test_a_command_without_memory_ends_without_what_libraries_do_at_the_end() -> None:
    script = """
        import atexit, resource, sys
        from afina import cli

        atexit.register(lambda: 1 / 0)
        resource.setrlimit(resource.RLIMIT_AS, (800 << 20, 800 << 20))
        sys.argv = ["afina", "predict", "adapter", "a text"]
        cli.main()
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
