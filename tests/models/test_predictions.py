"""Predictions: length, selection, and a file that gives them back, be they rows of numbers or strings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from afina import digest, tensorfile
from afina.data.split import as_references
from afina.errors import InvalidData
from afina.models.objectives import Classes, Labels, Number
from afina.models.predictions import Predictions
from raises import raises

ROWS = Predictions(np.array([[0.5, -1.0], [2.0, 3.0], [1.0, 0.0]], np.float32), np.array([0, 1, 1]))
STRINGS = Predictions(
    np.array(["a ferry", "", "größer\n"], dtype=object), np.array(["a boat", "x", "größer"], dtype=object)
)
TEXTS = Predictions(
    STRINGS.outputs,
    as_references([("a boat", "a ferry"), ("x",), ("größer", "grösser", "größer!")]),
    {"nll": np.array([1.5, 0.25, 3.0]), "ended": np.array([True, False, True])},
)


@pytest.mark.parametrize("given", [ROWS, STRINGS, TEXTS], ids=["rows", "strings", "texts"])
def test_they_have_a_length_a_selection_and_a_file(given: Predictions, tmp_path: Path) -> None:
    assert len(given) == 3
    chosen = given.take([2, 0])
    first, _, last = given.outputs.tolist()
    assert chosen.outputs.tolist() == [last, first]
    assert chosen.right.tolist() == [given.right[2], given.right[0]]
    written = given.write(tmp_path / "predictions.safetensors")
    found = Predictions.read(tmp_path / "predictions.safetensors", written)
    assert found.outputs.tolist() == given.outputs.tolist()
    assert found.right.tolist() == given.right.tolist()
    assert found.outputs.dtype == given.outputs.dtype
    assert given.finite


def test_extras_are_kept_beside_the_answers(tmp_path: Path) -> None:
    found = Predictions.read(tmp_path / "p", TEXTS.write(tmp_path / "p"))
    assert found.extras.keys() == TEXTS.extras.keys()
    for name, array in TEXTS.extras.items():
        assert found.extras[name].dtype == array.dtype
        assert found.extras[name].tolist() == array.tolist()
    assert found.take([2, 0]).extras["nll"].tolist() == [3.0, 1.5]
    assert TEXTS.against(STRINGS.right).extras == TEXTS.extras


def test_targets_of_one_reference_each_stay_tuples(tmp_path: Path) -> None:
    one = Predictions(STRINGS.outputs, as_references([("a",), ("b",), ("c",)]))
    found = Predictions.read(tmp_path / "p", one.write(tmp_path / "p"))
    assert found.right.tolist() == [("a",), ("b",), ("c",)]
    joined, apart = as_references([("a", "b"), ("c",)]), as_references([("a",), ("b", "c")])
    assert Predictions(joined, joined).right_as_bytes != Predictions(apart, apart).right_as_bytes


def test_a_file_of_rows_holds_outputs_and_targets_and_nothing_else(tmp_path: Path) -> None:
    written = ROWS.write(tmp_path / "one")
    assert ROWS.targets is not None
    tensorfile.write_arrays(tmp_path / "other", {"outputs": ROWS.outputs, "targets": ROWS.targets})
    assert written == digest.of_file(tmp_path / "other")


def test_what_was_right_may_not_be_known(tmp_path: Path) -> None:
    alone = Predictions(ROWS.outputs)
    with pytest.raises(ValueError, match="targets"):
        alone.right  # noqa: B018
    found = Predictions.read(tmp_path / "p", alone.write(tmp_path / "p"))
    assert found.targets is None
    assert found.against(np.array([1, 1, 1])).right.tolist() == [1, 1, 1]


@pytest.mark.parametrize("given", [ROWS, STRINGS, TEXTS], ids=["rows", "strings", "texts"])
def test_targets_are_equal_as_bytes_where_they_are_equal(given: Predictions, tmp_path: Path) -> None:
    found = Predictions.read(tmp_path / "p", given.write(tmp_path / "p"))  # other objects, with the same content
    assert found.right_as_bytes == given.right_as_bytes
    assert given.take([1, 0, 2]).right_as_bytes != given.right_as_bytes
    moved = np.array(["ab", "c"], dtype=object), np.array(["a", "bc"], dtype=object)
    assert Predictions(moved[0], moved[0]).right_as_bytes != Predictions(moved[1], moved[1]).right_as_bytes


def test_a_changed_file_is_refused(tmp_path: Path) -> None:
    written = STRINGS.write(tmp_path / "p")
    ROWS.write(tmp_path / "p")
    with raises(InvalidData, code="results.changed", path="p"):
        Predictions.read(tmp_path / "p", written)
    with raises(InvalidData, code="results.damaged", path="nothing"):
        Predictions.read(tmp_path / "nothing", written)


def test_an_objective_says_whether_predictions_can_be_its_own() -> None:
    assert Classes(("no", "yes")).fits(ROWS)
    assert not Classes(("no", "yes")).fits(ROWS.against(np.array([0, 1, 2])))
    assert not Classes(("no", "yes")).fits(Predictions(ROWS.outputs))
    assert not Classes(("a", "b", "c")).fits(ROWS)
    assert not Number(("price",)).fits(ROWS)
    assert Labels(("a", "b")).fits(ROWS.against(np.eye(3, 2, dtype=np.int64)))
    assert not Classes(("no", "yes")).fits(Predictions(np.full((3, 2), np.nan, np.float32), ROWS.targets))
    assert not Classes(("no", "yes")).fits(STRINGS)
