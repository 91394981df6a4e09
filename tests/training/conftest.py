"""Fixtures of trainings."""

from __future__ import annotations

import pytest


@pytest.fixture
def steps(request: pytest.FixtureRequest) -> int:
    """Steps of a training beside Trainer's: the law's fifty in slow tests, more than an epoch in quick ones."""
    from trainer import FEW, STEPS

    return STEPS if request.node.get_closest_marker("slow") else FEW
