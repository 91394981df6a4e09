"""Tensors that are written one at a time are in the same file as tensors that are written together."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from afina import tensorfile
from afina.errors import CorruptAdapter

TENSORS = {"b/weight": torch.randn(3, 5), "a": torch.tensor(7.0), "c": torch.empty(0, 4), "ä": torch.arange(9.0)}
ABOUT = {"key": 'a "key"'}


def written(path: Path) -> Path:
    shapes = {name: each.shape for name, each in TENSORS.items()}
    tensorfile.write_in_turn(path, shapes, lambda name: TENSORS[name], ABOUT)
    return path


def test_tensors_written_one_at_a_time_are_read_as_those_written_together(tmp_path: Path) -> None:
    tensorfile.write(tmp_path / "together", TENSORS, ABOUT)
    expected, found = (tensorfile.read(path) for path in (tmp_path / "together", written(tmp_path / "in-turn")))
    assert found[1] == expected[1] == {"format": "pt", **ABOUT}
    assert found[0].keys() == expected[0].keys()
    assert all(torch.equal(found[0][name], each) for name, each in expected[0].items())


def test_the_contents_are_metadata_and_shapes(tmp_path: Path) -> None:
    metadata, shapes = tensorfile.contents(written(tmp_path / "file"))
    assert metadata == {"format": "pt", **ABOUT}
    assert shapes == {name: tuple(each.shape) for name, each in TENSORS.items()}


def test_a_file_that_is_cut_short_has_no_contents(tmp_path: Path) -> None:
    whole = written(tmp_path / "file").read_bytes()
    for size in (0, 5, 60, len(whole) - 1):
        (tmp_path / "cut").write_bytes(whole[:size])
        with pytest.raises(CorruptAdapter):
            tensorfile.contents(tmp_path / "cut")


@pytest.mark.parametrize("wrong", [torch.zeros(3, 4), torch.zeros(3, 5, dtype=torch.float64)])
def test_another_shape_or_dtype_than_that_of_the_header_is_refused(tmp_path: Path, wrong: Tensor) -> None:
    with pytest.raises(ValueError, match="expected float32"):
        tensorfile.write_in_turn(tmp_path / "file", {"a": (3, 5)}, lambda name: wrong, {})
