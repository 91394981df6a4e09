"""Files from the Hugging Face Hub. Knows repositories and revisions, not models."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, RepositoryNotFoundError

from afina.errors import NotFound

_SMALL = ["*.json", "*.txt", "*.model", "*.jinja"]


def snapshot(address: str, *, weights: bool = True) -> Path:
    """The local copy of a model repository, `owner/name` or `name`, optionally `@revision`.

    Uses what is cached where the Hub cannot be reached. Raises NotFound.
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
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError):
        raise NotFound(
            f"backbone {address}: no such directory here, and the Hub cannot be reached and no copy is cached. "
            "Save the model with save_pretrained on a machine that can, and give its directory; or use 'embedded', "
            "which comes from the package index."
        ) from None
    return path


def _download(repository: str, revision: str, patterns: list[str]) -> Path:
    return Path(snapshot_download(repository, revision=revision or None, allow_patterns=patterns, etag_timeout=5))
