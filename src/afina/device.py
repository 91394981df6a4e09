"""Choose the device and the dtype of a run, and describe the environment: package versions, git commit, processor.

The description of the environment has no host name and no path.
"""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any, TypeVar

import torch

from afina import problems, processor
from afina.errors import UnknownName

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}

INT8 = "int8"
"""The name of 8-bit integers as a type of products: a compute type of predictions, and a value of `train.products`."""

Result = TypeVar("Result")


def in_thread_that_ends(function: Callable[[], Result]) -> Result:
    """Call a function in a new thread, and return the function's result after the thread has ended.

    Each thread that computes keeps its own OpenMP threads until it ends. If there are more OpenMP threads than cores,
    all of them sleep instead of spin at the end of each parallel part: a prediction for a text of about 25 tokens took
    33 ms instead of 25 ms (GPT-2 small in float32, two Zen 5 cores).
    """
    with ThreadPoolExecutor(1, thread_name_prefix="afina-opening") as pool:
        return pool.submit(function).result()


def choose() -> torch.device:
    """Return the first CUDA device, or the CPU if there is no CUDA device."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def computes_bfloat16(device: torch.device) -> bool:
    """Return whether the device multiplies bfloat16 natively; to emulate it is slower than float32."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    capabilities = _capabilities()
    return any(capabilities.get(name) for name in processor.BFLOAT16_FLAGS)


def _capabilities() -> dict[str, Any]:
    """Return the capabilities of the processor by torch's names, such as `avx512_bf16`; empty if torch reports none."""
    read = getattr(torch.cpu, "get_capabilities", None)  # newer than the oldest torch that afina allows
    capabilities: dict[str, Any] = read() if read else {}
    return capabilities


def precision(setting: str, device: torch.device) -> torch.dtype:
    """Return the dtype in which a run computes on a device: "auto", "float32" or "bfloat16". Raises UnknownName.

    "auto" is bfloat16 if the device multiplies bfloat16 natively, else float32.
    """
    if setting == "auto":
        return torch.bfloat16 if computes_bfloat16(device) else torch.float32
    if setting not in DTYPES:
        raise UnknownName("dtype", setting, ["auto", *DTYPES])
    return DTYPES[setting]


@dataclass(frozen=True)
class ComputeType:
    """The types of numbers in which predictions are computed."""

    name: str  # float32, bfloat16 or int8
    dtype: torch.dtype  # of activations and of all weights that are not in int8


def compute_type(setting: str, device: torch.device) -> ComputeType:
    """Return the types in which predictions are computed on a device: "auto", "float32", "bfloat16" or "int8".

    With "int8", the products of the backbone's linear layers are computed in int8, and all else in the dtype of "auto".
    Raises UnknownName; and InvalidStudy if the device does not multiply int8 natively.
    """
    check_compute_type(setting)
    if setting == INT8:
        check_int8(device)
        return ComputeType(INT8, precision("auto", device))
    dtype = precision(setting, device)
    return ComputeType(str(dtype).removeprefix("torch."), dtype)


def check_compute_type(setting: str) -> None:
    if setting not in (known := ["auto", *DTYPES, INT8]):
        raise UnknownName("dtype", setting, known)


def check_int8(device: torch.device) -> None:
    """Raise InvalidStudy, with the reason, if the device does not multiply int8 natively."""
    if (reason := why_no_int8(device)) is not None:
        raise problems.INT8_UNSUPPORTED(reason=reason, dtype=INT8, device=device.type)


def why_no_int8(device: torch.device) -> str | None:
    """Return the reason why the device does not multiply int8 natively, as a clause; None if it does.

    Without native instructions for int8, oneDNN adds products in 16 bits, which overflow.
    """
    if device.type != "cpu":
        return f"products in int8 are computed on a processor only, and this process uses {describe(device)}"
    if not torch.backends.mkldnn.is_available():
        return "this build of torch has no oneDNN, which computes products in int8"
    if not any(_capabilities().get(name) for name in processor.INT8_FLAGS):
        return f"the processor ({processor.name()}) has none of AVX512-VNNI, AVX-VNNI and AMX-int8"
    if not _adds_in_32_bits():
        return "oneDNN does not use the processor's instructions for int8 (ONEDNN_MAX_CPU_ISA may forbid them)"
    return None


@cache
def _adds_in_32_bits() -> bool:
    """Return whether oneDNN's sum of two of the largest products in int8 does not overflow, 255 * 127 + 255 * 127."""
    codes = torch.full((8, 8), 127, dtype=torch.int8)
    packed = torch.ops.onednn.qlinear_prepack(codes, None)
    ones, zeros = torch.ones(8), torch.zeros(8, dtype=torch.int64)
    largest = torch.full((8, 8), 255, dtype=torch.uint8)
    given = (largest, 1.0, 0, packed, ones, zeros, None, 1.0, 0, torch.float32)
    sums = torch.ops.onednn.qlinear_pointwise(*given, "none", [], "")
    return bool((sums == 8 * 255 * 127).all())


def describe(device: torch.device) -> str:
    """Return the type of a device, such as "cpu"; for a GPU, the type and the model name."""
    return f"cuda ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else "cpu"


_PACKAGES = ("afina", "torch", "transformers", "peft", "tokenizers", "numpy", "scikit-learn")


def versions() -> dict[str, str]:
    """Return the versions of Python and of the installed packages that results depend on, by name."""
    return dict(_installed())


@cache  # a tenth of a short run's time
def _installed() -> Mapping[str, str]:
    installed = {"python": platform.python_version()}
    for package in _PACKAGES:
        with suppress(PackageNotFoundError):
            installed[package] = version(package)
    return installed


def git_state() -> tuple[str | None, bool | None]:
    """Return the commit of the working directory, and whether tracked files have changes; None outside of git."""
    commit = _git("rev-parse", "HEAD")
    if commit is None:
        return None, None
    return commit.strip(), bool((_git("status", "--porcelain", "--untracked-files=no") or "").strip())


_GIT = ("git", "--no-optional-locks", "-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null")
"""The git command with options that keep git from running programs that the repository's settings name."""


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run([*_GIT, *arguments], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def environment_fields(device: torch.device, dtype: torch.dtype) -> dict[str, object]:
    """Return those fields of `Environment`, a part of a run's record, that do not depend on the data."""
    commit, dirty = git_state()
    return {
        "versions": versions(),
        "platform": f"{platform.system()} {platform.machine()}",
        "processor": processor.name(),
        "device": describe(device),
        "threads": torch.get_num_threads(),
        "dtype": str(dtype).removeprefix("torch."),
        "git_commit": commit,
        "git_dirty": dirty,
    }
