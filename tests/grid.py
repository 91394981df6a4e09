"""Grids of cases, of which every test run takes a few and `make test-slow` the others."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import pytest


def by_family(cases: Iterable[Any], slow: Collection[str]) -> list[Any]:
    """Parameters of a test or fixture: families, or tuples that begin with one. Those of `slow` families are slow."""
    return [
        pytest.param(*each, marks=pytest.mark.slow if each[0] in slow else ())
        for each in ((case,) if isinstance(case, str) else case for case in cases)
    ]


def thinned(
    firsts: Iterable[Any], seconds: Iterable[Any], *, whole: Collection[Any] = (), share: int = 3
) -> list[tuple[Any, Any]]:
    """A product without most of its pairs: each first with one second of `share`, in turn; those of `whole` with all.

    So each second is also met by one first of `share`.
    """
    seconds = list(seconds)
    return [
        (one, other)
        for i, one in enumerate(firsts)
        for j, other in enumerate(seconds)
        if one in whole or (i + j) % share == 0
    ]


def some_slow(cases: Iterable[Any], quick: Collection[Any]) -> list[Any]:
    """Parameters of a test: each case that is not in `quick` is marked slow, which says nothing of what it finds."""
    cases = list(cases)
    assert set(quick) <= set(cases), f"{set(quick) - set(cases)} is no case"
    return [
        case if case in quick else pytest.param(*(case if isinstance(case, tuple) else (case,)), marks=pytest.mark.slow)
        for case in cases
    ]
