"""Files of the current folder are data: no process that afina starts imports them."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import afina as package
from afina import Backbone
from afina.studies.executors import fork_server, worker_memory
from afina.studies.executors.worker import Foresee
from afina.studies.executors.worker_process import WorkerProcess

SOURCE = Path(package.__file__).parent


@pytest.fixture
def hostile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with files that are named like modules; a file `ran` is there after one was imported."""
    folder = tmp_path / "data"
    folder.mkdir()
    for name in ("numpy", "re", "json"):
        (folder / f"{name}.py").write_text(f"open({str(folder / 'ran')!r}, 'a').write({name!r})\nraise SystemExit(3)\n")
    monkeypatch.chdir(folder)
    return folder


def _is_interpreter(node: ast.AST) -> bool:
    return isinstance(node, ast.Attribute) and node.attr == "executable"


def _commands(tree: ast.Module) -> list[list[ast.expr]]:
    """The words of each list or tuple that names the interpreter."""
    lists = [node.elts for node in ast.walk(tree) if isinstance(node, ast.List | ast.Tuple)]
    return [words for words in lists if any(_is_interpreter(word) for word in words)]


def test_every_python_process_is_started_with_a_safe_path() -> None:
    texts = {path: path.read_text(encoding="utf-8") for path in SOURCE.rglob("*.py")}
    found = 0
    for path, text in texts.items():
        if "executable" not in text:
            continue
        tree = ast.parse(text)
        commands = _commands(tree)
        for words in commands:
            assert _is_interpreter(words[0]), path
            assert ast.literal_eval(words[1]) in ("-P", "-I"), path
        assert sum(map(_is_interpreter, ast.walk(tree))) == len(commands), f"{path}: the interpreter in no list"
        found += len(commands)
    assert found >= 4


@pytest.mark.slow
@pytest.mark.parametrize("forks", [True, False])
def test_a_worker_does_not_import_from_the_current_folder(
    hostile: Path, monkeypatch: pytest.MonkeyPatch, forks: bool
) -> None:
    monkeypatch.setattr(fork_server, "_FORKS", forks)
    with WorkerProcess(Foresee(runs=()), None, None) as worker:
        assert isinstance(worker.process, fork_server.ForkedWorker) == forks
    assert worker.process.returncode == 1, "its input closes before it has a request, so it ends after its imports"
    assert not (hostile / "ran").exists()


@pytest.mark.slow
def test_a_fresh_process_is_measured_in_a_folder_with_files_named_like_modules(hostile: Path) -> None:
    worker_memory.worker_memory.cache_clear()
    assert worker_memory.worker_memory() > 2**26
    assert not (hostile / "ran").exists()


@pytest.mark.slow
@pytest.mark.parametrize("executor", ["local", "ray=local"])
def test_train_imports_nothing_from_the_current_folder(
    hostile: Path, gpt2: Backbone, toy: str, executor: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    command = [str(Path(sys.executable).with_name("afina")), "train", "--task", toy, "--backbone", gpt2.address]
    options = ["--method", "head", "--set", "max_steps=1", "--executor", executor, "--out", "out"]
    done = subprocess.run([*command, *options], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert not (hostile / "ran").exists()
