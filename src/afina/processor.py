"""The processor's name and instruction sets, as the operating system reports them; the module does not import torch."""

from __future__ import annotations

import platform
from pathlib import Path

INT8_FLAGS = frozenset({"avx512_vnni", "avx_vnni", "amx_int8"})
"""Instructions that multiply int8 and add in int32. Linux and torch have the same names for them."""

BFLOAT16_FLAGS = frozenset({"avx512_bf16", "amx_bf16"})
"""Instructions that multiply bfloat16. Linux and torch have the same names for them."""

_SOURCE = Path("/proc/cpuinfo")


def name() -> str:
    """Return the model name of the processor, or its architecture if the operating system reports no model name."""
    return _field("model name") or platform.processor() or platform.machine()


def flags() -> frozenset[str]:
    """Return the processor's instruction sets by Linux's names, such as `avx512_bf16`; empty on other systems."""
    return frozenset(_field("flags").split())


def _field(wanted: str) -> str:
    """Return a field of the first processor in /proc/cpuinfo; "" if the file or the field does not exist."""
    if _SOURCE.exists():
        for line in _SOURCE.read_text(encoding="utf-8").splitlines():
            field, _, value = line.partition(":")
            if field.strip() == wanted:
                return value.strip()
    return ""
