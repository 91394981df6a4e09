"""A wheel built from the checkout is all of afina: installed elsewhere, it runs a study without the checkout."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

from afina import assets
from afina.errors import NotFound

ROOT = Path(__file__).resolve().parents[1]
SMALL = ("train.max_steps=2", "data.train_examples=64", "data.evaluation_examples=64")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("wheel")
    _pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(target), str(ROOT))
    (built,) = target.iterdir()
    return built


@pytest.fixture(scope="module")
def bin(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Programs of a new environment that has the wheel, and of this one only what afina depends on."""
    home = tmp_path_factory.mktemp("environment")
    venv.create(home, symlinks=True)
    _pip("--python", str(home / "bin" / "python"), "install", "--no-deps", "--no-index", str(wheel))
    (packages,) = home.glob("lib/python*/site-packages")
    # The folders alone: of the files in them that lead to editable installs, python reads none.
    here = dict.fromkeys(sysconfig.get_path(kind) for kind in ("purelib", "platlib"))
    (packages / "dependencies.pth").write_text("\n".join(here) + "\n", encoding="utf-8")
    return home / "bin"


def _pip(*arguments: str) -> None:
    quiet = ("--quiet", "--disable-pip-version-check")
    subprocess.run([sys.executable, "-m", "pip", *quiet, *arguments], check=True)


def _run(command: list[str | Path], directory: Path) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True)


@pytest.mark.slow
def test_the_wheel_holds_every_file_of_the_package_and_the_licence(wheel: Path) -> None:
    source = ROOT / "src"
    files = {path for path in (source / "afina").rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    with zipfile.ZipFile(wheel) as archive:
        inside = {name for name in archive.namelist() if ".dist-info/" not in name}
        beside = {name.partition(".dist-info/")[2] for name in archive.namelist() if ".dist-info/" in name}
    assert inside == {path.relative_to(source).as_posix() for path in files}
    assert {Path(name).suffix for name in inside} >= {".py", ".toml", ".j2"}
    assert {"licenses/LICENSE", "entry_points.txt"} <= beside


@pytest.mark.slow
def test_what_runs_is_the_wheels(bin: Path, tmp_path: Path) -> None:
    done = _run([bin / "python", "-c", "import afina; print(afina.__file__)"], tmp_path)
    assert Path(done.stdout.strip()).is_relative_to(bin.parent), done.stderr
    helped = _run([bin / "afina", "--help"], tmp_path)
    assert (helped.returncode, helped.stderr) == (0, "")
    assert "study" in helped.stdout


@pytest.mark.slow
@pytest.mark.assets
def test_it_runs_a_study_to_its_report_outside_the_checkout(bin: Path, tmp_path: Path) -> None:
    try:
        assets.fetch("smollm2")
        assets.fetch("snippets")
    except NotFound as error:
        pytest.skip(str(error))
    settings = [word for setting in SMALL for word in ("--set", setting)]
    done = _run([bin / "afina", "study", "quickstart", *settings, "--json"], tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert [one["method"] for one in found["records"]] == ["baseline", "zero-shot", "full", "lora", "prelayer"]
    page = (tmp_path / "results" / "quickstart" / "report.html").read_text(encoding="utf-8")
    assert page.startswith("<!DOCTYPE html>")
    assert "PreLayer" in page
