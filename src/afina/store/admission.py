"""What may come into a store: looked at before anything of it is read by another library, or kept."""

from __future__ import annotations

from pathlib import Path

from afina.models.adapter import check_there
from afina.store.limits import Limits


def admit(directory: Path, limits: Limits, *, links: bool = False) -> None:
    """Raise Refused for what may do harm or is beyond the limits, NotFound where there is no adapter."""
    check_there(directory)
