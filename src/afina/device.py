"""The device and the precision that a run computes in, and its environment as a record has it: versions, commit.

Knows the hardware, not the model; of the environment no host name and no path.
"""

from __future__ import annotations

import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from afina.errors import UnknownName

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def choose() -> torch.device:
    """The first CUDA device where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def computes_bfloat16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 natively; elsewhere it is emulated and slower than float32."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    read = getattr(torch.cpu, "get_capabilities", None)  # newer than the oldest torch that afina allows
    capabilities = read() if read else {}
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def precision(setting: str, device: torch.device) -> torch.dtype:
    """The dtype that a setting stands for here: "auto", "float32" or "bfloat16". Raises UnknownName for another."""
    if setting == "auto":
        return torch.bfloat16 if computes_bfloat16(device) else torch.float32
    if setting not in DTYPES:
        raise UnknownName("dtype", setting, ["auto", *DTYPES])
    return DTYPES[setting]


def describe(device: torch.device) -> str:
    """The kind of device, and a GPU's model."""
    return f"cuda ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else "cpu"


def processor() -> str:
    """The processor's model name, as far as the system tells."""
    source = Path("/proc/cpuinfo")
    if source.exists():
        for line in source.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


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


def environment_fields(device: torch.device, dtype: torch.dtype) -> dict[str, object]:
    """The fields of `Environment` that do not depend on the data."""
    commit, dirty = git_state()
    return {
        "versions": versions(),
        "platform": f"{platform.system()} {platform.machine()}",
        "processor": processor(),
        "device": describe(device),
        "threads": torch.get_num_threads(),
        "dtype": str(dtype).removeprefix("torch."),
        "git_commit": commit,
        "git_dirty": dirty,
    }
