"""Which device and which precision a run computes in. Knows the hardware, not the model."""

from __future__ import annotations

import platform
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
