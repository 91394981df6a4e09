"""Fakes: tiny random models of every family and a tokenizer trained here; nothing comes from a network."""

from __future__ import annotations

from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture
def shared() -> Path:
    """SST-2 and GPT-2's tokenizer, which are not part of the repository."""
    if not (SHARED / "sst2").is_dir():
        pytest.skip("SST-2 and GPT-2's tokenizer are not in ../shared/data")
    return SHARED
