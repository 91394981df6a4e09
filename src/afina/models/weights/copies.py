"""Quantised copies of a backbone in the cache, so that afina does not quantise the backbone at each opening.

A quantised copy is one safetensors file with the int8 or NF4 weight of each linear layer and the digest of the
backbone's float weights; all other tensors are read from the backbone's own files. One copy serves classifiers and
language models.

The name of a copy is a digest of everything that decides its content, including the sha256 of all weight files, because
times and sizes may stay the same when the bytes change. Each opening hashes the weight files, except files in the Hub's
cache, whose names are their sha256. The Hub's client does not check these names, and a user may write into the files:
all files are hashed before a copy is written, also to see that no file changed in the meantime, and a copy records
size, inode and times of files in the Hub's cache, which are hashed again if one of these differs.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from types import EllipsisType

import torch
from torch import Tensor

from afina import assets, digest, file_io, tensorfile
from afina.errors import CannotWrite
from afina.models.kernels.linear import HeldWeight
from afina.models.weights.stored import StoredTensor

LEAST = 1 << 30
"""Size of weight files in bytes below which no int8 copy is kept: a copy of 0.5 GiB saves no time (docs/LOG.md)."""

LIMIT = 16 << 30
"""Maximum size of all quantised copies in bytes; beyond this, the least recently used copies are deleted."""

_FORMAT = 1
_ABOUT, _CHECKSUM = "about", "checksum"


class DamagedCopy(Exception):
    """Raised if a quantised copy cannot be read, or has other content than was written.

    The original weights are read then.
    """


@dataclass(frozen=True)
class StandIn:
    """Stands in for a stored tensor whose quantised form is in a copy; has only the tensor's shape."""

    stored: StoredTensor

    def __getitem__(self, all_of_it: EllipsisType) -> Tensor:
        return torch.zeros(()).expand(self.stored.shape)


@dataclass(frozen=True)
class HeldCopy:
    """A quantised copy in the cache, with the digest of each weight's tensors, by its name in the backbone's files."""

    path: Path
    weights_digest: str
    layers: Mapping[str, str]

    def fill(self, held: HeldWeight, source: str) -> HeldWeight:
        """Put the copy's tensors into a weight on the `meta` device, by its name in the files. Raises DamagedCopy."""
        try:
            mapped = tensorfile.read_named(self.path, {name: f"{source}:{name}" for name, _ in held.named_buffers()})
            tensors = {name: tensor.clone() for name, tensor in mapped.items()}  # the file is unmapped
            if digest.of_tensors(tensors) != self.layers.get(source):
                raise DamagedCopy(f"{source} is not what was written")
            held.restore(tensors)
        except (OSError, KeyError, ValueError, tensorfile.SafetensorError) as error:
            raise DamagedCopy(str(error).partition("\n")[0]) from None
        return held


@dataclass(frozen=True)
class CopyPlace:
    """Where the cache has, or will have, a quantised copy.

    Attributes:
        key: Digest of everything that decides the content of the copy.
        key_of: Returns the key, given the digest of each weight file.
    """

    path: Path
    key: str
    files: tuple[Path, ...]
    key_of: Callable[[list[str]], str]

    @classmethod
    def of(
        cls,
        directory: Path,
        stored: Mapping[str, StoredTensor],
        form: Mapping[str, object],
        model: object,
        cost: int = 1,
    ) -> CopyPlace | None:
        """Return the place of a backbone's quantised copy; None: the weight files are so small that no copy is kept.

        Args:
            stored: All tensors in the directory's weight files, by name.
            form: The precision, and everything besides the weights that decides the result of quantising.
            model: Everything that decides which layers are quantised, and which tensors the digest of float weights
                covers.
            cost: Time to quantise the weights, as a multiple of the time for int8.
        """
        files = tuple(sorted({each.file for each in stored.values()}))
        if sum(file.stat().st_size for file in files) < LEAST // cost:
            return None
        names = [file.relative_to(directory).as_posix() for file in files]
        rest = {"format": _FORMAT, "transformers": version("transformers"), "form": form, "model": model}
        key_of = partial(_key, rest, names)
        key = key_of([_stated(file) or digest.of_file(file) for file in files])
        name = f"{key.removeprefix(digest.PREFIX)[:32]}.safetensors"
        return cls(assets.cache_directory() / "quantised" / name, key, files, key_of)

    def read(self) -> HeldCopy | None:
        """Return the quantised copy; None if there is no copy yet. Raises DamagedCopy."""
        try:
            if not self.path.exists():
                return None
            metadata = tensorfile.metadata(self.path)
            if digest.of_strings([metadata[_ABOUT]]) != metadata[_CHECKSUM]:
                raise DamagedCopy("its description is not what was written")
            about = json.loads(metadata[_ABOUT])
            if about["key"] != self.key:
                raise DamagedCopy("it is of other weights")
            states = self._states()
            if states and states != about["states"] and not self._is_right():
                raise DamagedCopy("the backbone's files are not what their names in the Hub's cache say")
            with suppress(OSError):
                self.path.touch()  # marks the copy as used most recently
            return HeldCopy(self.path, about["weights_digest"], about["layers"])
        except (OSError, KeyError, ValueError, tensorfile.SafetensorError) as error:
            raise DamagedCopy(str(error).partition("\n")[0]) from None

    def write(self, held: Mapping[str, HeldWeight], weights_digest: str) -> str:
        """Write the copy, and return a sentence that says where it is, or why no copy was kept."""
        states = self._states()
        if not self._is_right():
            return (
                "no quantised copy is kept: the backbone's files changed while they were read, or are not what their "
                "names in the Hub's cache say"
            )
        layers = {source: digest.of_tensors(dict(each.named_buffers())) for source, each in held.items()}
        about = json.dumps({"key": self.key, "weights_digest": weights_digest, "states": states, "layers": layers})
        tensors = {f"{source}:{name}": tensor for source, each in held.items() for name, tensor in each.named_buffers()}
        try:
            file_io.sweep_killed(self.path)
            with file_io.replacing(self.path) as fresh:
                tensorfile.write(fresh, tensors, {_ABOUT: about, _CHECKSUM: digest.of_strings([about])})
            size = self.path.stat().st_size
            file_io.trim(self.path, LIMIT)
        except (OSError, CannotWrite) as error:
            why = error.reason if isinstance(error, CannotWrite) else file_io.reason(error)
            return f"no quantised copy is kept: {self.path.parent} cannot be written to ({why})"
        return f"keeps a quantised copy of {size / 2**20:,.0f} MiB, which the next opening reads: {self.path}"

    def _is_right(self) -> bool:
        """Hash all weight files, and return whether the digest is the `key` of this `CopyPlace`."""
        return self.key_of([digest.of_file(file) for file in self.files]) == self.key

    def _states(self) -> list[list[int]]:
        """Return size, inode, mtime and ctime of the weight files in the Hub's cache; no program can set the ctime."""
        found = [file.stat() for file in self.files if _stated(file) is not None]
        return [[each.st_size, each.st_ino, each.st_mtime_ns, each.st_ctime_ns] for each in found]


def _stated(file: Path) -> str | None:
    """Return the digest that is a file's name in the Hub's cache; None: the file is elsewhere or has another name."""
    target = file.resolve()
    named = file.is_symlink() and target.parent.name == "blobs" and re.fullmatch("[0-9a-f]{64}", target.name)
    return f"{digest.PREFIX}{target.name}" if named else None


def _key(rest: Mapping[str, object], names: list[str], digests: list[str]) -> str:
    return digest.of_json({**rest, "files": dict(zip(names, digests, strict=True))})
