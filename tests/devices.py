"""Which functions of afina a test calls, for tests that need a device."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import afina

SOURCE = Path(afina.__file__).parent


@contextmanager
def called() -> Iterator[set[str]]:
    """The functions that this thread, and threads that it starts, call: "meter.Meter.phase"."""
    seen: set[CodeType] = set()
    names: set[str] = set()

    def note(frame: FrameType, event: str, given: Any) -> None:
        if event == "call":
            seen.add(frame.f_code)

    before = sys.getprofile()
    sys.setprofile(note)
    threading.setprofile(note)
    try:
        yield names
    finally:
        sys.setprofile(before)
        threading.setprofile(None)
        for code in seen:
            if (path := Path(code.co_filename)).is_relative_to(SOURCE):
                names.add(f"{module_of(path)}.{code.co_qualname}")


def module_of(path: Path) -> str:
    """The name of a module of afina without its first part: "models.kernels.attention"."""
    return ".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__")
