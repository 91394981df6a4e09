"""In what environment a run takes place: versions, device, source revision. No host name, no path."""

from __future__ import annotations

import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version

import torch

from afina import device as devices

_PACKAGES = ("afina", "torch", "transformers", "peft", "tokenizers", "numpy", "scikit-learn")


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that a result depends on."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def git_state() -> tuple[str | None, bool | None]:
    """Commit of the repository around the working directory, and whether it has changes; None without one."""
    commit = _git("rev-parse", "HEAD")
    if commit is None:
        return None, None
    return commit.strip(), bool((_git("status", "--porcelain", "--untracked-files=no") or "").strip())


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def describe(device: torch.device, dtype: torch.dtype) -> dict[str, object]:
    """The fields of `Environment` that do not depend on the data."""
    commit, dirty = git_state()
    return {
        "versions": versions(),
        "platform": f"{platform.system()} {platform.machine()}",
        "processor": devices.processor(),
        "device": devices.describe(device),
        "threads": torch.get_num_threads(),
        "dtype": str(dtype).removeprefix("torch."),
        "git_commit": commit,
        "git_dirty": dirty,
    }
