"""Files and directories appear whole or not at all."""

import subprocess
import sys
from pathlib import Path

import pytest

from afina import file_io


def contents(root: Path) -> dict[str, str]:
    return {str(path.relative_to(root)): path.read_text() for path in sorted(root.rglob("*")) if path.is_file()}


def test_a_file_is_written_with_the_folders_above_it_and_nothing_beside_it(tmp_path: Path) -> None:
    file_io.write_text(tmp_path / "a" / "b.txt", "grüße\n")
    assert (tmp_path / "a" / "b.txt").read_bytes() == "grüße\n".encode()
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["b.txt"]


def test_a_file_is_replaced(tmp_path: Path) -> None:
    file_io.write_text(tmp_path / "b", "old")
    file_io.write_text(tmp_path / "b", "new")
    assert contents(tmp_path) == {"b": "new"}


def test_a_directory_is_replaced_as_a_whole(tmp_path: Path) -> None:
    for name in ("old", "new"):
        with file_io.replacing(tmp_path / "d") as fresh:
            (fresh / "deep").mkdir(parents=True)
            (fresh / "deep" / name).write_text(name)
    assert contents(tmp_path) == {"d/deep/new": "new"}


@pytest.mark.parametrize("existed", [False, True])
def test_a_failure_leaves_everything_as_it_was(tmp_path: Path, existed: bool) -> None:
    if existed:
        (tmp_path / "d").mkdir()
        (tmp_path / "d" / "kept").write_text("kept")
    before = contents(tmp_path)

    def fail() -> None:
        with file_io.replacing(tmp_path / "d") as fresh:
            fresh.mkdir()
            (fresh / "half").write_text("half")
            raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        fail()
    assert contents(tmp_path) == before
    assert [path.name for path in tmp_path.iterdir()] == (["d"] if existed else [])


def test_a_block_that_writes_nothing_is_an_error_and_keeps_the_old_file(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("old")
    with pytest.raises(FileNotFoundError), file_io.replacing(tmp_path / "f"):
        pass
    assert contents(tmp_path) == {"f": "old"}


def test_nothing_is_visible_under_the_name_before_the_block_ends(tmp_path: Path) -> None:
    with file_io.replacing(tmp_path / "f") as fresh:
        fresh.write_text("all of it")
        assert not (tmp_path / "f").exists()
    assert (tmp_path / "f").read_text() == "all of it"


def test_what_a_killed_process_left_behind_is_swept_and_nothing_else(tmp_path: Path) -> None:
    script = (
        "import os, pathlib, sys; from afina import file_io\n"
        "with file_io.replacing(pathlib.Path(sys.argv[1]) / 'f') as fresh:\n"
        "    fresh.write_text('half'); os._exit(9)\n"
    )
    (tmp_path / "other").write_text("kept")
    assert subprocess.run([sys.executable, "-c", script, str(tmp_path)]).returncode == 9
    assert len(list(tmp_path.iterdir())) == 2
    assert not (tmp_path / "f").exists()
    file_io.sweep(tmp_path)
    assert contents(tmp_path) == {"other": "kept"}


def test_a_directory_stays_as_it_was_when_the_new_one_cannot_take_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "old").write_text("kept")

    def refuse(self: Path, target: Path) -> None:
        raise PermissionError(target)

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(PermissionError), file_io.replacing(tmp_path / "d") as fresh:
        fresh.mkdir()
    assert contents(tmp_path) == {"d/old": "kept"}
