"""What a backbone's address names, a directory or something to fetch, and whether it can be a backbone at all.

Reads no weights. Starts without torch, so that a study can look before its first run is begun.
"""

from __future__ import annotations

import json
from pathlib import Path

from afina import assets, digest, hub
from afina.errors import NotFound
from afina.models.architectures import supported

EMBEDDED = "embedded"
RANDOM = "random:"


def check(address: str) -> None:
    """Raise what every run on that backbone would end with: NotFound, InvalidStudy. Asks the Hub where need be."""
    if address == EMBEDDED:
        return
    path = directory(address) or hub.snapshot(address, weights=False)
    check_config(path, address)
    try:
        check_family(json.loads((path / "config.json").read_bytes()).get("model_type"), address)
    except (ValueError, AttributeError):
        return  # whoever opens it says what is wrong


def directory(address: str) -> Path | None:
    """The directory that the address names; None for the embedded model and those of the Hub. Raises NotFound."""
    if address == EMBEDDED:
        return None
    path = address.removeprefix(RANDOM)
    if Path(path).is_dir():
        return Path(path)
    if path != address or address.startswith((".", "/", "~")) or address.count("/") > 1:
        raise NotFound(
            f"backbone {address}: there is no directory {path}. Give a directory that save_pretrained wrote.",
            code="backbone.missing",
            backbone=address,
        )
    return None


def own_files(address: str) -> list[Path]:
    """The files that make a backbone in a directory of the user's; none where every machine can get it.

    With `random:` the weights are drawn, so theirs are not among them.
    """
    path = directory(address)
    if path is None:
        return []
    patterns = hub.SMALL if address.startswith(RANDOM) else hub.SAFE
    found = [file for pattern in patterns for file in sorted(path.glob(pattern)) if file.is_file()]
    if not address.startswith(RANDOM) and not any(path.glob("*.safetensors")):
        found += sorted(path.glob("pytorch_model*.bin"))
    return found


def moved(address: str, directory: Path) -> str:
    """The address of the same backbone where its own files lie in `directory`."""
    return f"{RANDOM}{directory}" if address.startswith(RANDOM) else str(directory)


def revision(address: str) -> str | None:
    """The pin of a backbone that every machine can get: the digest of a package, the commit of a copy from the Hub.

    None for a directory, and where this machine has no copy.
    """
    if address == EMBEDDED:
        return digest.PREFIX + assets.ASSETS["smollm2"].sha256
    if directory(address) is not None:
        return None
    config = hub.cached(address, "config.json")
    return None if config is None else config.parent.name


def check_config(path: Path, address: str) -> None:
    """Raises NotFound where there is no configuration."""
    if not (path / "config.json").is_file():
        raise NotFound(
            f"backbone {address}: no config.json in {path}. Give a directory that save_pretrained wrote.",
            code="backbone.missing",
            backbone=address,
            file="config.json",
        )


def check_family(model_type: str | None, address: str) -> None:
    """Raises InvalidStudy where afina does not support such models."""
    supported(model_type, f"backbone {address}")
