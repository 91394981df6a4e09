"""Kept copies of held weights, so that the next opening does not quantise a backbone again.

A copy is one safetensors file in the cache: the held weight of each linear layer, and the backbone's float digest. All
other tensors (embeddings, norms, biases, head) are read from the backbone's own files at each opening: a copy then
serves classifiers and language models, and memory stays the model as held and one tensor.

The name of a copy is a digest of everything that decides its content, with the sha256 of all weight files. Names, times
and sizes of files are no part of it, since these can stay the same when bytes change. Each opening computes the sha256,
except of files in the Hub's cache, which are named by their sha256. The Hub's client does not check these names, and a
user may write into such a file. So before a copy is written, all files are hashed, also to see that none changed while
it was quantised. The copy records size, inode and times of such files; if one differs, the files are hashed again.

The module does not know families or heads.
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
"""Bytes of weight files below which no int8 copy is kept: a copy of 0.5 GiB of files saves nothing (docs/LOG.md)."""

LIMIT = 16 << 30
"""Bytes of copies that are kept; beyond this, the least recently used copies are removed."""

_FORMAT = 1
_ABOUT, _CHECKSUM = "about", "checksum"


class DamagedCopy(Exception):
    """A copy cannot be read, or is not what was written. Never reaches a user: the weights are then read instead."""


@dataclass(frozen=True)
class StandIn:
    """Takes the place of a stored tensor whose held form is in a copy: the shape without the values."""

    stored: StoredTensor

    def __getitem__(self, all_of_it: EllipsisType) -> Tensor:
        return torch.zeros(()).expand(self.stored.shape)


@dataclass(frozen=True)
class HeldCopy:
    """A copy in the cache.

    Attributes:
        weights_digest: Digest of the backbone's float weights (`Backbone.weights_digest`).
        layers: Digest of the tensors of each held weight, by the name that the weight has in the backbone's files.
    """

    path: Path
    weights_digest: str
    layers: Mapping[str, str]

    def fill(self, held: HeldWeight, source: str) -> HeldWeight:
        """Give a held weight without values its tensors. Raises DamagedCopy.

        Args:
            held: Holds a weight on the `meta` device.
            source: The weight's name in the backbone's files.
        """
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
    """Where the copy of a backbone in a precision is or will be.

    Attributes:
        key: Digest of all that decides the copy's content.
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
        """Return the place for a backbone; None: its weight files are so small that no copy is kept.

        Args:
            stored: All tensors in the directory's files by name.
            form: How weights are held: name of the precision, and all that decides codes beside the weights.
            model: JSON value of all that decides which layers are held, and what the float digest is of.
            cost: Time to compute the held form, as a multiple of int8's.
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
        """Return the copy; None if there is no copy yet. Raises DamagedCopy."""
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
        """Write the copy, and return a sentence on it: where it is, or why no copy was kept.

        Args:
            held: All held weights by the name that each has in the backbone's files.
            weights_digest: Digest of the backbone's float weights, computed from the same files.
        """
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
        """Hash all weight files, and return whether they have the place's key."""
        return self.key_of([digest.of_file(file) for file in self.files]) == self.key

    def _states(self) -> list[list[int]]:
        """Return size, inode and times of the files that were not hashed; no program can set a file's last time."""
        found = [file.stat() for file in self.files if _stated(file) is not None]
        return [[each.st_size, each.st_ino, each.st_mtime_ns, each.st_ctime_ns] for each in found]


def _stated(file: Path) -> str | None:
    """Return the digest by which the Hub's cache names a file; None: it is not in that cache, or has another name."""
    target = file.resolve()
    named = file.is_symlink() and target.parent.name == "blobs" and re.fullmatch("[0-9a-f]{64}", target.name)
    return f"{digest.PREFIX}{target.name}" if named else None


def _key(rest: Mapping[str, object], names: list[str], digests: list[str]) -> str:
    return digest.of_json({**rest, "files": dict(zip(names, digests, strict=True))})
