"""Download files from the Hugging Face Hub, and upload files to it."""

from __future__ import annotations

import glob
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import Any

from huggingface_hub import EvalResult, HfApi, ModelCardData, snapshot_download, try_to_load_from_cache
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    LocalTokenNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.errors import StrictDataclassError as StrictDataclassError
from huggingface_hub.utils.tqdm import tqdm

from afina import events, file_io, problems
from afina.errors import AfinaError, CannotWrite, NotFound, nearest

SAFE = ("*.safetensors", "*.json", "*.txt", "*.model", "*.jinja")
"""Patterns for the names of files of adapters and models that contain only data. Weight files in other formats, such as
pickle, may contain code, so they are neither downloaded nor uploaded.
"""

CARD = "README.md"

SMALL = ["*.json", "*.txt", "*.model", "*.jinja"]
"""Patterns for the names of a model's files other than its weights."""

CONVERTED, PARTIAL = "refs/convert/parquet", "partial-"
"""CONVERTED is the branch with the Hub's conversions of data sets to parquet, PARTIAL the prefix of the names of splits
that the Hub has converted only in part."""

TRAIN, EVALUATION = "train", ("validation", "dev", "valid", "val", "test")
"""The name of the training split of a data set, and the names of evaluation splits in the order of preference."""

_SENT = [*SAFE, CARD]

_UNREACHABLE = (LocalEntryNotFoundError, HfHubHTTPError, OSError)


def snapshot(address: str, *, weights: bool = True, known: Iterable[str] = ()) -> Path:
    """Download a model repository, and return the local copy; cached files are used if the Hub cannot be reached.

    Args:
        address: the repository, `owner/name` or `name`, optionally with `@revision`.
        known: other addresses of backbones, of which the error message suggests the most similar.

    Raises NotFound.
    """
    repository, _, revision = address.partition("@")
    near = nearest(address, known)
    meant = f"Did you mean {near!r}? " if near else ""
    try:
        path = _download(repository, revision, [*SMALL, "*.safetensors"] if weights else SMALL)
        if weights and not any(path.glob("*.safetensors")):
            path = _download(repository, revision, [*SMALL, "pytorch_model*.bin"])
    except (RepositoryNotFoundError, HFValidationError):
        raise problems.BACKBONE_MISSING(_meant=meant, backbone=address) from None
    except _UNREACHABLE:
        raise problems.BACKBONE_UNREACHABLE(_meant=meant, backbone=address) from None
    return path


def cached(address: str, name: str) -> Path | None:
    """Return the cached copy of a file of a model repository, without using the network; None if it is not cached."""
    repository, _, revision = address.partition("@")
    try:
        path = try_to_load_from_cache(repository, name, revision=revision or None)
    except HFValidationError:
        return None
    return Path(path) if isinstance(path, str) else None


def dataset_snapshot(repository: str, patterns: Sequence[str], *, offline: bool = False) -> Path:
    """Download the files of a data set on the Hub that match `patterns`, and return the local copy.

    Cached files are used if the Hub cannot be reached, or if `offline` is true. Raises NotFound if no file matches one
    of the patterns.
    """
    try:
        path = _download(repository, "", list(patterns), kind="dataset", offline=offline)
    except _UNREACHABLE as error:
        raise _unreachable(repository, type(error).__name__) from error
    for pattern in patterns:
        if not any(path.glob(pattern)):  # the folder may exist with other files of the repository
            raise _unreachable(repository, f"{pattern} is missing", file=pattern)
    return path


def converted(repository: str, config: str | None, *, offline: bool = False) -> dict[str, list[Path]]:
    """Download the parquet files to which the Hub has converted a data set, and return the files by split.

    The splits are the training split and, if there is one, an evaluation split. Cached files are used if the Hub cannot
    be reached, or if `offline` is true. Raises NotFound.

    Args:
        config: the name of the configuration. None: the only configuration, or `default`.
    """
    try:
        names = _cached_conversion(repository) if offline else _conversion(repository)
        folder, chosen = _chosen(repository, config, names)
        path = _download(
            repository, CONVERTED, [f"{glob.escape(place)}/*.parquet" for place in chosen.values()], "dataset", offline
        )
    except GatedRepoError:
        raise problems.DATA_SET_GATED(repository=repository) from None
    except (RepositoryNotFoundError, HFValidationError):
        raise problems.REPOSITORY_MISSING(repository=repository, what="data set") from None
    except RevisionNotFoundError:
        reason = "; only public data sets without a loading script have them"
        raise problems.NO_PARQUET(repository=repository, _reason=reason) from None
    except _UNREACHABLE as error:
        raise _unreachable(repository, type(error).__name__) from error
    parts = {split: sorted((path / place).glob("*.parquet")) for split, place in chosen.items()}
    empty = [split for split, files in parts.items() if not files]
    if empty:
        raise _unreachable(repository, f"{folder}/{empty[0]} is missing")
    return parts


def download(address: str, patterns: Sequence[str] = SAFE) -> Path:
    """Download the files of a model repository that match a pattern, and return the directory of the local copy.

    The directory contains links into the Hub's cache, may also contain files from earlier downloads, and its name is
    the commit. Cached files are used if the Hub cannot be reached. Raises InvalidName, NotFound, CannotWrite, and
    Refused for patterns of other formats than SAFE.
    """
    repository, _, revision = address.partition("@")
    kinds = tuple(pattern.removeprefix("*") for pattern in SAFE)
    if unsafe := [pattern for pattern in patterns if not pattern.endswith(kinds)]:
        raise problems.PATTERN_UNSAFE(expected=SAFE, address=address, file=unsafe[0])
    try:
        path = _download(repository, revision, list(patterns))
    except HFValidationError:
        raise problems.HUB_NAME_MALFORMED(repository=repository) from None
    except RevisionNotFoundError:
        advice = "Name a branch, a tag or a commit."
        raise _part_missing(repository, f"revision {revision}", advice, revision=revision) from None
    except RepositoryNotFoundError:
        raise problems.REPOSITORY_MISSING(repository=repository, what="repository") from None
    except _UNREACHABLE as error:
        raise _unreachable(repository, type(error).__name__) from error
    if not any(file.is_file() for pattern in patterns for file in path.rglob(pattern)):
        what = f"file that matches {', '.join(patterns)}"
        raise _part_missing(repository, what, "Name another repository.", address=address, expected=patterns)
    return path


def upload(folder: Path, repository: str, *, revision: str | None = None, message: str, private: bool = True) -> str:
    """Upload all files of `folder` to the model repository `owner/name` in one commit; return the URL of the commit.

    Args:
        folder: a directory with data files and, optionally, a model card. Raises Refused for other files.
        revision: the branch, which is created if it does not exist. None: the main branch.
        private: whether a new repository is private. An existing repository keeps its visibility.

    Raises NotFound if the Hub cannot be reached, and CannotWrite without the right to write.
    """
    files = [file for file in sorted(folder.rglob("*")) if not file.is_dir()]
    unsafe = [file for file in files if file.name != CARD and not any(file.match(kind) for kind in SAFE)]
    if unsafe or not files:
        found = f"{unsafe[0].relative_to(folder)}, which may hold a program" if unsafe else "nothing"
        raise problems.UPLOAD_UNSAFE(expected=SAFE, path=folder, found=found)
    with _sending(repository):
        api = HfApi()
        api.create_repo(repository, private=private, exist_ok=True)
        if revision is not None:
            api.create_branch(repository, branch=revision, exist_ok=True)
        done = api.upload_folder(
            repo_id=repository, folder_path=folder, commit_message=message, revision=revision, allow_patterns=_SENT
        )
        return str(done.commit_url)


@contextmanager
def _sending(repository: str) -> Iterator[None]:
    """Turn the errors of an upload to the Hub into errors of afina."""
    place = f"the Hub's {repository}"
    try:
        yield
    except AfinaError:
        raise
    except HFValidationError:
        raise problems.HUB_NAME_MALFORMED(repository=repository) from None
    except LocalTokenNotFoundError:
        raise CannotWrite(place, "nobody is logged in here; " + _LOG_IN, code="hub.login-needed") from None
    except HfHubHTTPError as error:
        status = error.response.status_code
        if status == 401:
            raise CannotWrite(place, "the Hub rejects this login; " + _LOG_IN, code="hub.login-needed") from None
        if status in (403, 404):
            reason = "this login may not write there; use a token with write access, or another name"
            raise CannotWrite(place, reason, code="hub.write-refused") from None
        if status < 500:
            reason = f"the Hub refuses it: {error.server_message or f'status {status}'}"
            raise CannotWrite(place, reason, code="hub.write-refused") from None
        raise problems.UPLOAD_BROKEN_OFF(repository=place, reason=f"status {status}", status=status) from error
    except Exception as error:
        # Connection errors are those of the HTTP library that the Hub's client uses, as in `_listed`.
        raise problems.UPLOAD_BROKEN_OFF(reason=type(error).__name__, repository=place) from error


_LOG_IN = "log in with `hf auth login`"


def front_matter(facts: Mapping[str, Any], results: Sequence[Mapping[str, Any]]) -> str:
    """Return the YAML header of a model card, with the `---` lines around it.

    Args:
        facts: the arguments of huggingface_hub's `ModelCardData`; None leaves a field out.
        results: the arguments of huggingface_hub's `EvalResult`, for each metric.
    """
    figures = [EvalResult(**result) for result in results]
    return f"---\n{ModelCardData(**facts, eval_results=figures or None).to_yaml()}\n---\n"


def _conversion(repository: str) -> list[str]:
    """Return the names of the files in the Hub's conversion, or of the cached ones if the Hub cannot be reached."""
    try:
        return _listed(repository)
    except (RepositoryNotFoundError, RevisionNotFoundError, HFValidationError):
        raise
    except _UNREACHABLE as error:
        try:
            return _cached_conversion(repository)
        except LocalEntryNotFoundError:
            raise error from None


def _listed(repository: str) -> list[str]:
    try:
        siblings = HfApi().dataset_info(repository, revision=CONVERTED, timeout=5).siblings
    except (HfHubHTTPError, HFValidationError):
        raise
    except Exception as error:
        # Connection errors are those of the HTTP library, and which library depends on the version of huggingface_hub.
        raise ConnectionError(type(error).__name__) from error
    return [file.rfilename for file in siblings or ()]


def _cached_conversion(repository: str) -> list[str]:
    path = _download(repository, CONVERTED, ["nothing, but the folder"], "dataset", offline=True)
    return [file.relative_to(path).as_posix() for file in path.rglob("*.parquet")]


def _chosen(repository: str, config: str | None, names: Sequence[str]) -> tuple[str, dict[str, str]]:
    """Return the configuration, and the folders of its training and evaluation splits, of the names of all files."""
    places: dict[str, dict[str, str]] = {}
    for name in sorted(names):  # `partial-train` comes before `train`, so the complete split replaces the partial one
        if name.count("/") == 2 and name.endswith(".parquet"):
            folder, place, _ = name.split("/")
            places.setdefault(folder, {})[place.removeprefix(PARTIAL)] = f"{folder}/{place}"
    if not places:
        reason = f" on its branch {CONVERTED}"
        raise problems.NO_PARQUET(repository=repository, _reason=reason, revision=CONVERTED)
    if config is None:
        config = next(iter(places)) if len(places) == 1 else "default"
        if config not in places:
            raise problems.SEVERAL_CONFIGURATIONS(found=sorted(places), repository=repository)
    if config not in places:
        found = sorted(places)
        advice = f"Found: {', '.join(found)}."
        raise _part_missing(repository, f"configuration {config!r}", advice, config=config, found=found)
    splits = places[config]
    if TRAIN not in splits:
        advice = f"Found: {', '.join(splits)}. Expected one called {TRAIN}. {problems.SAVE_IT}"
        what = f"training split in {config}"
        raise _part_missing(repository, what, advice, expected=TRAIN, config=config, found=list(splits))
    return config, {split: splits[split] for split in splits_read(splits)}


def splits_read(splits: Collection[str]) -> list[str]:
    """Return those of the splits of a data set that a task has: for training, and the first of EVALUATION."""
    return [*({TRAIN} & {*splits}), *[split for split in EVALUATION if split in splits][:1]]


def _part_missing(repository: str, what: str, advice: str, **fields: object) -> NotFound:
    return problems.HUB_PART_MISSING(repository=repository, what=what, _advice=advice, **fields)


def _unreachable(repository: str, reason: str, **fields: object) -> NotFound:
    return problems.HUB_UNREACHABLE(reason=reason, repository=repository, **fields)


def _download(repository: str, revision: str, patterns: list[str], kind: str = "model", offline: bool = False) -> Path:
    what = repository if kind == "model" else f"the data set {repository}"
    with file_io.writing("the Hub's cache (HF_HOME)"), events.download(what) as tell:
        return Path(
            snapshot_download(
                repository,
                repo_type=kind,
                revision=revision or None,
                allow_patterns=patterns,
                etag_timeout=5,
                local_files_only=offline,
                tqdm_class=_told_by(tell),
            )
        )


LEAST = 1_000_000
"""The size in bytes below which the progress of a download is not reported."""


def _told_by(tell: Callable[[int, int], None]) -> type[tqdm]:
    """Return a class of tqdm progress bars that show nothing and call `tell` with the bytes done and in total."""
    lock = Lock()  # files are downloaded in several threads

    class Told(tqdm):  # type: ignore[misc]
        def __init__(self, *arguments: Any, **options: Any) -> None:
            self.bytes, self.done = options.get("unit") == "B", 0.0
            super().__init__(*arguments, **{**options, "disable": True})  # type: ignore[no-untyped-call]

        def update(self, n: float | None = 1) -> bool | None:
            with lock:
                self.done += n or 0
                if self.bytes and (self.total or 0) >= LEAST:
                    tell(int(self.done), int(self.total))
            return None

    return Told
