"""Digests: the same value gives the same digest, another value another one."""

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from afina import digest


def test_bytes_and_files_have_the_sha256_that_other_tools_show(tmp_path: Path) -> None:
    file = tmp_path / "data"
    file.write_bytes(b"abc")
    expected = "sha256:" + hashlib.sha256(b"abc").hexdigest()
    assert digest.of_bytes(b"abc") == digest.of_file(file) == expected


def test_the_order_in_which_files_are_named_does_not_matter_but_names_and_contents_do(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("one")
    (tmp_path / "b").write_text("two")
    before = digest.of_files(tmp_path, ["a", "b"])
    assert digest.of_files(tmp_path, ["b", "a"]) == before
    (tmp_path / "a").write_text("two")
    (tmp_path / "b").write_text("one")
    assert digest.of_files(tmp_path, ["a", "b"]) != before


def test_json_is_spelled_one_way_only() -> None:
    assert digest.canonical_json({"b": [1, 2.5], "a": "ü"}) == '{"a":"ü","b":[1,2.5]}'
    assert digest.of_json({"a": 1, "b": 2}) == digest.of_json({"b": 2, "a": 1})
    assert digest.of_json([1, 2]) != digest.of_json([2, 1])


def test_not_a_number_has_no_digest() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        digest.of_json({"loss": float("nan")})


def test_strings_are_not_joined_ambiguously() -> None:
    assert digest.of_strings(["ab", "c"]) != digest.of_strings(["a", "bc"])
    assert digest.of_strings(["ab"]) != digest.of_strings(["ab", ""])
    assert digest.of_strings(iter(["ab", "c"])) == digest.of_strings(("ab", "c"))


def test_half_a_surrogate_pair_has_a_digest() -> None:
    assert digest.of_strings(["\ud83d"]) != digest.of_strings(["\ude00"])


@pytest.fixture
def tensors() -> dict[str, torch.Tensor]:
    return {"b": torch.arange(6.0).reshape(2, 3), "a": torch.tensor(1.5, dtype=torch.bfloat16), "empty": torch.empty(0)}


def test_a_tensor_set_does_not_depend_on_order_or_memory_layout(tensors: dict[str, torch.Tensor]) -> None:
    rearranged = {name: tensors[name] for name in reversed(tensors)}
    rearranged["b"] = tensors["b"].t().contiguous().t()
    assert not rearranged["b"].is_contiguous()
    assert digest.of_tensors(rearranged) == digest.of_tensors(tensors)


@pytest.mark.parametrize(
    "change",
    [
        {"b": torch.arange(6.0).reshape(3, 2)},
        {"b": torch.arange(6, dtype=torch.int32).reshape(2, 3)},
        {"b": torch.arange(6.0).reshape(2, 3).nextafter(torch.tensor(9.0))},
        {"c": torch.empty(0)},
    ],
    ids=["shape", "dtype", "bytes", "name"],
)
def test_a_tensor_set_depends_on(tensors: dict[str, torch.Tensor], change: dict[str, torch.Tensor]) -> None:
    assert digest.of_tensors(tensors | change) != digest.of_tensors(tensors)


def test_a_parameter_counts_as_its_tensor() -> None:
    tensor = torch.ones(2)
    assert digest.of_tensors({"w": torch.nn.Parameter(tensor)}) == digest.of_tensors({"w": tensor})


def test_importing_it_does_not_import_torch() -> None:
    check = "import sys, afina.digest, afina.file_io, afina.errors, afina.data.task; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check]).returncode == 0
