"""`benchmarks/unchanged.py` tells facts that must not change from names of content, absent fields and words."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest


@pytest.fixture
def unchanged(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[1] / "benchmarks"))
    import unchanged

    return unchanged


def test_facts_of_two_checkouts_are_compared_by_their_paths(unchanged: ModuleType) -> None:
    found = dict(unchanged.leaves({"a": [1, {"b": None}], "c": "x"}))
    assert found == {"/a/#": 2, "/a/0": 1, "/a/1/b": None, "/c": "x"}


@pytest.mark.parametrize(
    ("then", "now", "changed"),
    [
        ({"run key": "a"}, {"run key": "b"}, 0),
        ({"adapter": "lora-0123456789"}, {"adapter": "lora-abcdef0123"}, 0),
        ({"sheet": None}, {}, 0),
        ({"words of error": "No."}, {"words of error": "Never."}, 0),
        ({"code": "no"}, {"code": "never"}, 1),
        ({"rows": ["a", "b"]}, {"rows": ["a"]}, 1),
        ({"keyboard": "a"}, {"keyboard": "b"}, 1),
        ({"accuracy": 0.5}, {"accuracy": 0.25}, 1),
    ],
)
def test_only_names_of_content_absent_fields_and_words_of_errors_may_differ(
    unchanged: ModuleType, then: Any, now: Any, changed: int
) -> None:
    assert unchanged.compared(then, now) == changed
