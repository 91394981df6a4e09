"""The tables of kinds of task below the report: an entry is of its own kind, and no two have a name in common."""

from __future__ import annotations

from typing import Any

import pytest

from afina.data.kinds import KINDS
from afina.data.readers.target_kinds import TARGETS
from afina.models.objectives import OBJECTIVES, of_problem
from afina.stats.metrics import METRICS, OF_KIND
from afina.studies.choosing.floors import CONSTANTS


@pytest.mark.parametrize("kind", KINDS)
def test_an_entry_is_of_its_kind(kind: Any) -> None:
    assert TARGETS[kind].kind == OBJECTIVES[kind].kind == kind
    assert {metric.kind for metric in OF_KIND[kind]} == {kind}


def test_one_kind_is_what_a_manifest_that_names_none_is_of() -> None:
    assert [kind for kind in KINDS if TARGETS[kind].told is None] == ["classes"]


def test_every_metric_has_one_kind_and_every_kind_a_name_and_an_opening_of_its_own() -> None:
    assert sum(map(len, OF_KIND.values())) == len(METRICS)
    assert len({(kind.problem_type, kind.auto_class) for kind in OBJECTIVES.values()}) == len(KINDS)
    assert len({kind.column for kind in OBJECTIVES.values()}) == len(KINDS)
    assert len(CONSTANTS) == len(KINDS) - 1, "the constant prediction of entities finds none, and is no baseline"


@pytest.mark.parametrize("kind", [kind for kind in KINDS if OBJECTIVES[kind].problem_type])
def test_a_model_of_transformers_is_of_the_kind_that_its_problem_type_says(kind: Any) -> None:
    names = ("price",) if OBJECTIVES[kind].takes(1) and not OBJECTIVES[kind].takes(2) else ("a", "b")
    assert of_problem(names, OBJECTIVES[kind].problem_type, "config.json").kind == kind
