"""An adapter's files are looked at before anything reads them: what could run a program or lie is refused by name."""

from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import shutil
import struct
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from afina import Adapter, Task
from afina.data import text_hashes
from afina.errors import AfinaError, CorruptAdapter, InvalidStudy, NotFound, Refused, UnknownName
from afina.models.manifest import MANIFEST
from afina.store.intake import IntakeLimits, is_plain_name
from afina.store.intake.inspection import DTYPES, PIECE, PROGRAMS, check_finite, inspect, read_header
from fakes import Runs, tfidf
from raises import raises

OF_TORCH = {"a": torch.ones(2)}


@pytest.fixture
def copy(trained: Path, tmp_path: Path) -> Path:
    """A LoRA adapter to be changed."""
    shutil.copytree(trained, tmp_path / "adapter")
    return tmp_path / "adapter"


def cases(count: int) -> settings:
    return settings(
        max_examples=count,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=[HealthCheck.function_scoped_fixture],
    )


def written(path: Path, header: object, data: bytes = b"") -> Path:
    """A file with that header, JSON or bytes."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def entry(start: int = 0, end: int = 8, dtype: object = "F32", shape: object = (2,)) -> dict[str, object]:
    return {"dtype": dtype, "shape": list(shape) if isinstance(shape, tuple) else shape, "data_offsets": [start, end]}


@pytest.mark.parametrize("method", ["lora", "full", "prelayer", "head", "vera", "prefix"])
def test_what_afina_makes_passes(method: str, runs: Runs) -> None:
    directory = runs.adapter("gpt2", method)
    found = inspect(directory)
    adapter = Adapter.load(directory)
    assert found.manifest == adapter.manifest
    assert found.files == {file.name: file.stat().st_size for file in directory.iterdir()}
    assert {name: each.shape for name, each in found.header.tensors.items()} == {
        name: tuple(tensor.shape) for name, tensor in adapter.tensors.items()
    }
    assert found.header.metadata == {"format": "pt"}


def test_an_adapter_of_words_passes(toy: str, tmp_path: Path) -> None:
    task = Task.load(toy)
    made = tfidf(task.train).model
    assert made
    made.adapter(task.label_names, {"C": 1.0}).save(tmp_path / "words")
    found = inspect(tmp_path / "words")
    assert {each.dtype for each in found.header.tensors.values()} == {"F64"}
    assert found.files.keys() == {MANIFEST, "vocabulary.json", "weights.safetensors"}
    (tmp_path / "words" / "vocabulary.json").write_text("[")
    with raises(CorruptAdapter, code="adapter.file-malformed", path="vocabulary.json"):
        inspect(tmp_path / "words")


def test_what_peft_saved_passes_and_hidden_files_are_no_part_of_it(copy: Path) -> None:
    (copy / MANIFEST).unlink()
    (copy / ".gitattributes").write_bytes(b"\0\xff")
    (copy / ".cache").mkdir()
    (copy / "README.md").write_text("Zoë’s")
    found = inspect(copy)
    assert found.manifest is None
    assert found.files.keys() == {
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
        text_hashes.HASHES_FILE,
    }


# Programs


@pytest.mark.parametrize("name", [f"x{suffix}" for suffix in PROGRAMS] + ["pytorch_model.BIN", "Adapter_Model.Pt"])
def test_a_file_that_can_run_a_program_is_refused_by_its_name(name: str, copy: Path) -> None:
    (copy / name).write_bytes(b"harmless")
    with raises(Refused, code="intake.file-unsafe"):
        inspect(copy)


def _torch(file: io.BytesIO) -> None:
    torch.save(OF_TORCH, file)


def _old_torch(file: io.BytesIO) -> None:
    torch.save(OF_TORCH, file, _use_new_zipfile_serialization=False)


def _pickle(protocol: int) -> Callable[[io.BytesIO], None]:
    return lambda file: pickle.dump({"a": "b" * 99}, file, protocol=protocol)


def _zip(file: io.BytesIO) -> None:
    with zipfile.ZipFile(file, "w") as made:
        made.writestr("a", "b")


def _gzip(file: io.BytesIO) -> None:
    file.write(gzip.compress(b"a" * 99))


@pytest.mark.parametrize("write", [_torch, _old_torch, *map(_pickle, range(2, 6)), _zip, _gzip])
@pytest.mark.parametrize("name", ["adapter_model.safetensors", "tokenizer.model", "README.md"])
def test_a_pickle_under_another_name_is_refused_by_its_content(
    name: str, write: Callable[[io.BytesIO], None], copy: Path
) -> None:
    file = io.BytesIO()
    write(file)
    (copy / name).write_bytes(file.getvalue())
    with raises(Refused, code="intake.file-unsafe"):
        inspect(copy)


@pytest.mark.parametrize("length", [0x280, 0x380, 0x480, 0x580])
def test_a_header_whose_length_begins_like_a_pickle_is_a_header(length: int, copy: Path) -> None:
    text = json.dumps({"score.weight": entry(shape=(1, 2))}).encode().ljust(length)
    written(copy / "adapter_model.safetensors", text, b"\0" * 8)
    assert inspect(copy).header.data_start == length + 8


# Files


def test_links_are_refused_unless_they_are_asked_for_and_stay_where_the_hub_keeps_its_files(
    trained: Path, tmp_path: Path
) -> None:
    cache = tmp_path / "models--a--b"
    snapshot, blobs = cache / "snapshots" / "0123", cache / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for number, file in enumerate(sorted(trained.iterdir())):
        shutil.copyfile(file, blobs / str(number))
        (snapshot / file.name).symlink_to(Path("../../blobs") / str(number))
    with raises(Refused, code="intake.file-unexpected", path="adapter_config.json", found="a link"):
        inspect(snapshot)
    assert inspect(snapshot, links=True).files == inspect(trained).files
    secret = tmp_path / "secret.txt"
    secret.write_text("secret")
    for target in (secret, blobs / "absent", "README.md"):
        (snapshot / "README.md").symlink_to(target)
        with raises(Refused, code="intake.file-unexpected", path="README.md", found="a link"):
            inspect(snapshot, links=True)
        (snapshot / "README.md").unlink()


def test_blobs_beside_what_is_no_snapshot_are_no_place_for_links(copy: Path, tmp_path: Path) -> None:
    (tmp_path.parent / "blobs").mkdir(exist_ok=True)
    (tmp_path.parent / "blobs" / "x").write_text("x")
    (copy / "README.md").symlink_to(tmp_path.parent / "blobs" / "x")
    with raises(Refused, code="intake.file-unexpected", path="README.md", found="a link"):
        inspect(copy, links=True)


def test_folders_pipes_and_odd_names_are_refused(copy: Path) -> None:
    for name in ("checkpoint-3", "x.json"):
        (copy / name).mkdir()
        with raises(Refused, code="intake.file-unexpected", found="a folder"):
            inspect(copy)
        (copy / name).rmdir()
    os.mkfifo(copy / "x.json")
    with raises(Refused, code="intake.file-unexpected", path="x.json", found="a pipe, a socket or a device"):
        inspect(copy)
    (copy / "x.json").unlink()
    for name in ("a b.json", "ü.json", "x", "x.JSON", "x.json\n", "-x.json", "x.exe", "a" * 140 + ".json", "x.json~"):
        (copy / name).write_text("{}")
        with raises(Refused, code="intake.file-unexpected"):
            inspect(copy)
        (copy / name).unlink()
    assert inspect(copy)


@cases(100)
@given(st.text(st.characters(max_codepoint=0x250), min_size=1, max_size=12).map(lambda name: f"{name}.json"))
def test_a_plain_name_leads_nowhere(name: str) -> None:
    if is_plain_name(name):
        assert name.isascii()
        assert Path(name).name == name
        assert name[0] not in ".-"
        assert not set(name) & set("/\\: \n\0")


def test_files_that_are_no_text_are_refused(copy: Path) -> None:
    for data in (b"\xff\xfe", b"a\0b", b"ab\xc3", b"a" * ((1 << 20) - 1) + b"\xc3"):
        (copy / "README.md").write_bytes(data)
        with raises(Refused, code="intake.file-unexpected", path="README.md"):
            inspect(copy)
    (copy / "README.md").write_bytes(b"a" * ((1 << 20) - 1) + "ü".encode())  # a letter that two pieces share
    assert inspect(copy)
    (copy / "tokenizer.model").write_bytes(b"\n\x0e\0\xff")
    assert inspect(copy)


def test_a_second_tensor_file_is_refused(copy: Path) -> None:
    shutil.copyfile(copy / "adapter_model.safetensors", copy / "other.safetensors")
    with raises(Refused, code="intake.file-unexpected", path="other.safetensors"):
        inspect(copy)


def test_a_tensor_file_that_is_not_there_or_no_such_file_is_corrupt(copy: Path) -> None:
    adapter = Adapter.load(copy)
    for name in (".hidden.safetensors", "absent.safetensors", "adapter_config.json"):
        manifest = adapter.manifest.model_copy(update={"tensor_file": name})
        content = manifest.model_dump(mode="json") | {"digest": manifest.digest}
        (copy / MANIFEST).write_text(json.dumps(content))
        shutil.copyfile(copy / "adapter_model.safetensors", copy / ".hidden.safetensors")
        with raises(CorruptAdapter, code="adapter.file-missing", path="adapter"):
            inspect(copy)


def test_settings_that_are_no_json_are_corrupt_and_nothing_at_all_is_not_found(copy: Path, tmp_path: Path) -> None:
    (copy / "adapter_config.json").write_text('{"a": 1, "a": 2}')
    with raises(CorruptAdapter, code="adapter.file-malformed", path="adapter_config.json"):
        inspect(copy)
    with pytest.raises(NotFound):
        inspect(tmp_path / "absent")
    (tmp_path / "file").write_text("")
    with pytest.raises(AfinaError):
        inspect(tmp_path / "file")


# Limits


@pytest.mark.parametrize(
    "limits",
    [
        IntakeLimits(files=2),
        IntakeLimits(bytes=3000),
        IntakeLimits(file_bytes=1000),
        IntakeLimits(tensors=4),
        IntakeLimits(dimensions=1),
        IntakeLimits(header_bytes=400),
    ],
)
def test_more_than_the_limits_is_refused_and_names_the_limit(limits: IntakeLimits, trained: Path) -> None:
    (changed,) = [key for key in vars(limits) if getattr(limits, key) != getattr(IntakeLimits(), key)]
    with raises(Refused, code="intake.too-large", limit=changed):
        inspect(trained, limits)


def test_limits_are_read_from_one_word() -> None:
    assert IntakeLimits.parse("") == IntakeLimits()
    assert IntakeLimits.parse("tensors=100, bytes=1GiB,file_bytes=2 MiB") == IntakeLimits(
        tensors=100, bytes=2**30, file_bytes=2**21
    )
    assert IntakeLimits.parse("header_bytes=1MiB,dimensions=2,files=3") == IntakeLimits(
        header_bytes=2**20, dimensions=2, files=3
    )


@pytest.mark.parametrize(
    ("text", "option"),
    [
        *(("tensors", "limits"), ("tensors=1,", "limits"), ("tensors=1,tensors=2", "tensors")),
        *((f"tensors={count}", "tensors") for count in ("0", "1.5", "-1")),
        *((f"bytes={size}", "limit bytes") for size in ("8", "", "0GiB")),
    ],
)
def test_limits_that_are_none_say_what_there_is(text: str, option: str) -> None:
    with raises(InvalidStudy, code="option.invalid", option=option):
        IntakeLimits.parse(text)
    with raises(InvalidStudy, code="option.invalid", option="files", found=0):
        IntakeLimits(files=0)
    with raises(UnknownName, code="name.unknown", where="limits 'tensor=1'", name="tensor", kind="limit"):
        IntakeLimits.parse("tensor=1")


# Headers

EVIL: dict[str, tuple[object, bytes, type[AfinaError], str]] = {
    "a gap": ({"a": entry(8, 16)}, b"\0" * 16, CorruptAdapter, "leaves a gap"),
    "an overlap": ({"a": entry(), "b": entry(4, 12)}, b"\0" * 12, CorruptAdapter, "overlaps with another"),
    "more data": ({"a": entry()}, b"\0" * 9, CorruptAdapter, "its tensors have 8 bytes, 9 follow the header"),
    "less data": ({"a": entry()}, b"\0" * 7, CorruptAdapter, "its tensors have 8 bytes, 7 follow"),
    "another size": ({"a": entry(shape=(3,))}, b"\0" * 8, CorruptAdapter, r"of shape \[3\] has 12 bytes"),
    "backwards": ({"a": entry(8, 0)}, b"\0" * 8, CorruptAdapter, "has 8 bytes"),
    "a negative offset": ({"a": entry(-8, 0)}, b"\0" * 8, CorruptAdapter, "must be lists of whole numbers"),
    "a truth as a dimension": ({"a": entry(shape=[True, 2])}, b"\0" * 8, CorruptAdapter, "must be lists of"),
    "an overflow": ({"a": entry(0, 8, shape=(2**62, 2**62))}, b"\0" * 8, CorruptAdapter, "bytes, its data_offsets"),
    "a wrapped overflow": ({"a": entry(0, 0, shape=(2**32, 2**32))}, b"", CorruptAdapter, "bytes, its data_offsets"),
    "too large a number": (b'{"a":{"dtype":"F32","shape":[9223372036854775808],"data_offsets":[0,0]}}', b"",
                           CorruptAdapter, "is too large"),
    "no shape": ({"a": {"dtype": "F32", "data_offsets": [0, 8]}}, b"\0" * 8, CorruptAdapter, "must have exactly dtype"),
    "a key twice": (b'{"a":{"dtype":"F32","shape":[0],"data_offsets":[0,0]},"a":3}', b"", CorruptAdapter,
                    "occurs twice"),
    "a list": (b"[]", b"", CorruptAdapter, "not a JSON object"),
    "no JSON": (b"{'a': 3}", b"", CorruptAdapter, "its header: not valid JSON"),
    "half a character": (b'{"\\ud800": 3}', b"", CorruptAdapter, "not valid JSON"),
    "many levels": (b'{"a":' * 9000 + b"1" + b"}" * 9000, b"", CorruptAdapter, "too many levels"),
    "spaces first": (b"  {}", b"", CorruptAdapter, "not a JSON object"),
    "metadata that are no strings": ({"__metadata__": {"a": 1}}, b"", CorruptAdapter, "not a table of strings"),
    "a long name": ({"a" * 513: entry()}, b"\0" * 8, CorruptAdapter, "expected 1 to 512 printable characters"),
    "a name that is a line": ({"a\n": entry()}, b"\0" * 8, CorruptAdapter, "printable characters"),
    "whole numbers": ({"a": entry(dtype="I64", shape=(1,))}, b"\0" * 8, Refused, "has dtype 'I64', expected one of"),
    "many dimensions": ({"a": entry(shape=[1] * 8 + [2])}, b"\0" * 8, Refused, "9 dimensions, more than the limit"),
}  # fmt: skip


@pytest.mark.parametrize("name", EVIL)
def test_a_header_that_lies_is_refused(name: str, tmp_path: Path) -> None:
    header, data, kind, said = EVIL[name]
    with pytest.raises(kind, match=said):
        read_header(written(tmp_path / "x.safetensors", header, data))


def test_a_header_longer_than_its_file_or_the_limit_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    for length in (3, 2**20, 2**63, 2**64 - 1):
        path.write_bytes(struct.pack("<Q", length) + b"{}")
        with raises(CorruptAdapter, code="adapter.file-malformed", path="x.safetensors"):
            read_header(path)
    for data in (b"", b"\x02\0\0"):
        path.write_bytes(data)
        with raises(CorruptAdapter, code="adapter.file-malformed", path="x.safetensors"):
            read_header(path)
    with path.open("wb") as file:  # no bytes on the disk
        file.write(struct.pack("<Q", (8 << 20) + 1))
        file.truncate(1 << 30)
    tracemalloc.start()
    with raises(Refused, code="intake.too-large", path="x.safetensors", found=8388609, limit="header_bytes"):
        read_header(path)
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


def test_empty_tensors_and_files_without_any_are_headers(tmp_path: Path) -> None:
    header = {"a": entry(0, 0, shape=(0, 3)), "b": entry(0, 4, shape=()), "c": entry(4, 4, shape=(0,))}
    found = read_header(written(tmp_path / "x.safetensors", header, b"\0" * 4))
    assert [(name, each.shape) for name, each in found.tensors.items()] == [("a", (0, 3)), ("b", ()), ("c", (0,))]
    assert read_header(written(tmp_path / "x.safetensors", {})).tensors == {}


FLOATS = st.sampled_from([torch.float64, torch.float32, torch.float16, torch.bfloat16])
SHAPES = st.lists(st.integers(0, 4), max_size=4)


@cases(30)
@given(
    tensors=st.dictionaries(
        st.text(st.characters(categories=["L", "N", "P"]), min_size=1, max_size=20),
        st.tuples(FLOATS, SHAPES),
        max_size=6,
    )
)
def test_whatever_the_library_writes_is_read_alike(
    tensors: dict[str, tuple[torch.dtype, list[int]]], tmp_path: Path
) -> None:
    path = tmp_path / "x.safetensors"
    made = {name: torch.ones(shape, dtype=dtype) for name, (dtype, shape) in tensors.items() if name != "__metadata__"}
    save_file(made, path)
    found = read_header(path)
    check_finite(path, found)
    assert {name: each.shape for name, each in found.tensors.items()} == {
        name: tuple(tensor.shape) for name, tensor in made.items()
    }


NUMBERS = st.one_of(st.integers(-2, 20), st.sampled_from([2**31, 2**62, 2**63 - 1]))
ENTRIES = st.one_of(
    st.builds(
        lambda dtype, shape, start, end: entry(start, end, dtype, shape),
        st.sampled_from([*DTYPES, "I8", "F8_E4M3", "", None]),
        st.lists(NUMBERS, max_size=3),
        NUMBERS,
        NUMBERS,
    ),
    st.just(entry()),
    st.just(entry(8, 16)),
    st.none(),
)


@cases(100)
@given(
    header=st.dictionaries(st.sampled_from(["a", "b", "c", "__metadata__"]), ENTRIES, max_size=3),
    size=st.integers(0, 20),
)
def test_what_is_taken_the_library_takes_too_and_reads_alike(header: dict[str, Any], size: int, tmp_path: Path) -> None:
    path = written(tmp_path / "x.safetensors", header, bytes(size))
    try:
        found = read_header(path)
    except (CorruptAdapter, Refused):
        return
    loaded = load_file(path)
    assert {name: each.shape for name, each in found.tensors.items()} == {
        name: tuple(tensor.shape) for name, tensor in loaded.items()
    }


@cases(70)
@given(data=st.data())
def test_a_changed_byte_is_refused_or_read_as_the_library_reads_it(
    trained: Path, tmp_path: Path, data: st.DataObject
) -> None:
    path = tmp_path / "x.safetensors"
    whole = bytearray((trained / "adapter_model.safetensors").read_bytes())
    place = data.draw(st.one_of(st.integers(0, 1200), st.integers(0, len(whole) - 1)))
    whole[place] = data.draw(st.integers(0, 255))
    path.write_bytes(whole[: data.draw(st.sampled_from([len(whole), len(whole), place]))])
    try:
        found = read_header(path)
        check_finite(path, found)
    except (CorruptAdapter, Refused):
        return
    loaded = load_file(path)
    assert found.tensors.keys() == loaded.keys()
    assert all(torch.isfinite(tensor).all() for tensor in loaded.values())


@cases(70)
@given(data=st.binary(max_size=200))
def test_bytes_of_any_kind_are_refused_or_read_as_the_library_reads_them(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(data)
    try:
        found = read_header(path)
    except (CorruptAdapter, Refused):
        return
    with safe_open(path, framework="np") as file:
        assert set(file.keys()) == found.tensors.keys()


# Values


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_values_that_are_no_numbers_are_refused_and_say_of_which_tensor(
    dtype: torch.dtype, value: float, tmp_path: Path
) -> None:
    path = tmp_path / "x.safetensors"
    info = torch.finfo(dtype)
    fine = torch.tensor([info.max, info.min, info.tiny, info.smallest_normal / 2, 0.0, -0.0], dtype=dtype)
    save_file({"a": fine, "b": fine.clone()}, path)
    check_finite(path, read_header(path))
    save_file({"a": fine, "b": torch.cat([fine, torch.tensor([value], dtype=dtype)])}, path)
    with raises(Refused, code="intake.values-not-finite", tensor="b", path="x.safetensors"):
        check_finite(path, read_header(path))


def test_a_large_file_is_looked_at_in_pieces(tmp_path: Path) -> None:
    path, count = tmp_path / "x.safetensors", 5 * PIECE // 4 + 3
    values = np.zeros(count, np.float32)
    values[-1] = np.nan
    written(path, {"a": entry(0, 4 * count, shape=(count,))}, values.tobytes())
    del values
    tracemalloc.start()
    with raises(Refused, code="intake.values-not-finite", tensor="a", path="x.safetensors"):
        check_finite(path, read_header(path))
    assert tracemalloc.get_traced_memory()[1] < 4 * PIECE
    tracemalloc.stop()


def test_an_adapter_with_such_values_is_refused(copy: Path) -> None:
    adapter = Adapter.load(copy)
    adapter.tensors["base_model.model.score.weight"][0, 0] = float("nan")
    save_file(dict(adapter.tensors), copy / "adapter_model.safetensors")
    with raises(
        Refused,
        code="intake.values-not-finite",
        tensor="base_model.model.score.weight",
        path="adapter_model.safetensors",
    ):
        inspect(copy)
