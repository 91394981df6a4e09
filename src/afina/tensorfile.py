"""Read and write safetensors files: named tensors, and a few strings. This module can be imported without torch."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from safetensors import SafetensorError as SafetensorError
from safetensors import safe_open
from safetensors.numpy import save_file

from afina import file_io, problems
from afina.errors import CorruptAdapter

if TYPE_CHECKING:
    from torch import Tensor


def write(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write named tensors, and optionally strings (`metadata`), to a safetensors file.

    Tensors are copied to the CPU and made contiguous. The file is not durable until it is synced (`afina.file_io`).
    """
    from safetensors.torch import save_file as save_tensors

    ready = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    path.touch()
    mode = path.stat().st_mode
    with system_errors():
        save_tensors(ready, path, metadata={"format": "pt", **(metadata or {})})
    path.chmod(mode)  # safetensors makes the file readable by its owner only, and ignores the umask


def write_in_turn(
    path: Path, shapes: Mapping[str, Sequence[int]], tensor: Callable[[str], Tensor], metadata: Mapping[str, str]
) -> None:
    """Write named float32 tensors and strings (`metadata`) to a safetensors file, with one tensor in memory at a time.

    The function `tensor` is called once for each name, in sorted order. Raises ValueError if a tensor has another shape
    or is not float32.
    """
    import torch

    with path.open("wb") as file:
        file.write(_header(shapes, metadata))
        for name in sorted(shapes):
            values = tensor(name).detach().cpu().contiguous()
            if values.dtype != torch.float32 or tuple(values.shape) != tuple(shapes[name]):
                raise ValueError(f"{name}: {values.dtype} {[*values.shape]}, expected float32 {[*shapes[name]]}")
            file.write(values.reshape(-1).view(torch.uint8).numpy().data)


def size(tensors: Mapping[str, Tensor]) -> int:
    """Return the size in bytes of the file that `write` would make of these tensors in float32, also on meta."""
    return len(_header(_shapes(tensors))) + sum(4 * tensor.numel() for tensor in tensors.values())


def has_header(path: Path, tensors: Mapping[str, Tensor]) -> bool:
    """Return whether a file has the header that `write` would write for these tensors; False unless all are float32."""
    import torch

    if any(tensor.dtype != torch.float32 for tensor in tensors.values()):
        return False
    expected = _header(_shapes(tensors))
    with path.open("rb") as file:
        return file.read(len(expected)) == expected


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, Sequence[int]]:
    return {name: tensor.shape for name, tensor in tensors.items()}


def _header(shapes: Mapping[str, Sequence[int]], metadata: Mapping[str, str] = MappingProxyType({})) -> bytes:
    # 8 bytes of length, a JSON header padded to a multiple of 8, then the data in the order of the names:
    # https://github.com/huggingface/safetensors#format
    header: dict[str, object] = {"__metadata__": {"format": "pt", **metadata}}
    end = 0
    for name, shape in sorted(shapes.items()):
        start, end = end, end + 4 * math.prod(shape)
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [start, end]}
    content = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    content += b" " * (-len(content) % 8)
    return len(content).to_bytes(8, "little") + content


def _malformed(path: Path, error: Exception) -> CorruptAdapter:
    return problems.FILE_MALFORMED(path=path, reason=f"damaged, or not a safetensors file ({error})")


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read the tensors and the strings (metadata) of a safetensors file. Raises CorruptAdapter."""
    return _read(path, "pt")


def contents(path: Path) -> tuple[dict[str, str], dict[str, tuple[int, ...]]]:
    """Read the strings (metadata) of a safetensors file, and the shapes of its tensors. Raises CorruptAdapter."""
    file_io.check_plain(path)
    try:
        with safe_open(path, framework="pt") as file:
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 - not a dict
            return dict(file.metadata() or {}), shapes
    except (SafetensorError, OSError) as error:
        raise _malformed(path, error) from None


def names(path: Path) -> list[str]:
    """Return the names of the tensors in a safetensors file. Raises SafetensorError or OSError."""
    with safe_open(path, framework="pt") as file:
        return list(file.keys())


def metadata(path: Path) -> dict[str, str]:
    """Return the strings (metadata) in a safetensors file. Raises SafetensorError or OSError."""
    with safe_open(path, framework="pt") as file:
        return dict(file.metadata() or {})


def shape(path: Path, name: str) -> tuple[int, ...]:
    """Return the shape of a tensor in a safetensors file. Raises SafetensorError or OSError."""
    with safe_open(path, framework="pt") as file:
        return tuple(file.get_slice(name).get_shape())


def read_named(path: Path, wanted: Mapping[str, str]) -> dict[str, Tensor]:
    """Read tensors, given by their new names, under new names. Raises SafetensorError or OSError."""
    with safe_open(path, framework="pt") as file:
        return {key: file.get_tensor(name) for key, name in wanted.items()}


def read_rows(path: Path, name: str, rows: Sequence[int] | None) -> Tensor | None:
    """Read the rows of a tensor with some indices, or all; None if the file has no tensor of this name."""
    import torch

    with safe_open(path, framework="pt") as file:
        if name not in file.keys():  # noqa: SIM118 - not a dict
            return None
        if rows is None:
            return cast("Tensor", file.get_tensor(name))
        whole = file.get_slice(name)
        return torch.cat([whole[row : row + 1] for row in rows])


def read_part(path: Path, name: str, start: int, stop: int) -> Tensor:
    """Read the part [start:stop] of the first dimension of a tensor. Raises SafetensorError or OSError."""
    with safe_open(path, framework="pt") as file:
        return cast("Tensor", file.get_slice(name)[start:stop])


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write named numpy arrays to a safetensors file, without torch."""
    path.touch()
    mode = path.stat().st_mode
    with system_errors():
        save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, path)
    path.chmod(mode)


@contextmanager
def system_errors() -> Iterator[None]:
    """Turn system errors in safetensors' messages, such as a full disk, into OSError."""
    try:
        yield
    except SafetensorError as error:
        stated = re.search(r"os error (\d+)", str(error))
        if stated is None:
            raise
        number = int(stated[1])
        raise OSError(number, os.strerror(number)) from None


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Read a safetensors file as numpy arrays, without torch. Raises CorruptAdapter."""
    arrays: dict[str, np.ndarray] = _read(path, "np")[0]
    return arrays


def _read(path: Path, framework: str) -> tuple[dict[str, Any], dict[str, str]]:
    file_io.check_plain(path)
    try:
        with safe_open(path, framework=framework) as file:
            return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118 - not a dict
    except (SafetensorError, OSError) as error:
        raise _malformed(path, error) from None
