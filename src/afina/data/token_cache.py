"""Encodings of splits, kept in the cache: each is made once, and read from disk as training needs it.

One folder an encoding, `<cache>/encodings/<key>`, named by all that decides its content. Whatever is wrong with the
cache - damaged, full, not writable - costs time or memory, never a run.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Self

import numpy as np

from afina import assets, digest, file_io
from afina.data.batch import Loader
from afina.data.kinds import CLASSES, Kind
from afina.data.leakage import TextHashes
from afina.data.readers.target_kinds import TARGETS
from afina.data.split import Split
from afina.data.task import Task
from afina.data.tokenize import Encoded, Template, encode, pieces
from afina.errors import CannotWrite

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CACHE_LIMIT = 4 * 2**30
"""Bytes of encodings that are kept; beyond, those unused for longest are removed."""

_FORMAT = 1
_TOKENS, _OFFSETS, _ABOUT = "tokens.npy", "offsets.npy", "about.json"


@dataclass(frozen=True, eq=False)
class EncodedSplit:
    """All that a run keeps of a split: no text.

    labels  as in `Split`;  digest  the split's
    """

    encoded: Encoded
    labels: np.ndarray
    digest: str

    def __len__(self) -> int:
        return len(self.labels)

    def loader(self, targets: np.ndarray, batch_size: int, seed: int) -> Loader:
        """Its training batches; targets: the labels in the form in which a loss takes them."""
        return Loader(self.encoded, targets, batch_size, seed)


@dataclass(frozen=True, eq=False)
class EncodedTask:
    """All that a run keeps of a task; fields as in `afina.data.task.Task`.

    pairs       whether its examples are pairs of texts
    trained_on  hashes of the training texts, those for calibration included
    """

    address: str
    label_names: tuple[str, ...]
    train: EncodedSplit
    evaluation: EncodedSplit
    leaked: int
    kind: Kind = CLASSES
    metric: str | None = None
    ceiling: Mapping[str, float] = field(default_factory=dict)
    separator: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    calibration: EncodedSplit | None = None
    selection: EncodedSplit | None = None
    data_digest: str | None = None
    trained_on: TextHashes | None = None
    pairs: bool = False

    @property
    def found(self) -> dict[str, str]:
        """What was found of how its labels are written, as arguments of `Task.load`; nothing of classes."""
        found = {"kind": TARGETS[self.kind].told, "separator": self.separator}
        return {name: value for name, value in found.items() if value}

    @classmethod
    def of(
        cls,
        task: Task,
        tokenizer: PreTrainedTokenizerBase,
        tokenizer_digest: str,
        max_length: int,
        template: Template | None = None,
    ) -> Self:
        """Encode its splits, or find them in the cache. Raises what `encode` does."""

        def encoded(split: Split, where: str) -> EncodedSplit:
            how = {"max_length": max_length, "template": template, "where": where}
            return EncodedSplit(encode_split(tokenizer, tokenizer_digest, split, **how), split.labels, split.digest)  # type: ignore[arg-type]

        calibration, selection = (
            None if kept is None else encoded(kept, "training text") for kept in (task.calibration, task.selection)
        )
        return cls(
            task.address,
            task.label_names,
            encoded(task.train, "training text"),
            encoded(task.evaluation, "evaluation text"),
            task.leaked,
            task.kind,
            task.metric,
            task.ceiling,
            task.separator,
            task.columns,
            task.notes,
            calibration,
            selection,
            task.data_digest,
            TextHashes.of([*task.train, *(task.calibration or ())]),
            task.train.pairs is not None,
        )


def encode_split(
    tokenizer: PreTrainedTokenizerBase,
    tokenizer_digest: str,
    split: Split,
    *,
    max_length: int,
    template: Template | None = None,
    where: str = "text",
) -> Encoded:
    """`afina.data.tokenize.encode` of a split, as arrays that lie in files of the cache and are read from there."""
    if not len(split):
        return encode(tokenizer, [], max_length=max_length)
    asked = {
        "format": _FORMAT,
        "split": split.digest,
        "tokenizer": tokenizer_digest,
        # what the digest of a tokenizer does not hold, and its call depends on
        "truncation_side": tokenizer.truncation_side,
        "split_special_tokens": tokenizer.split_special_tokens,
        "max_length": max_length,
        **({"template": template.source} if template else {}),
        "versions": {name: version(name) for name in ("tokenizers", "transformers")},
    }
    place = assets.cache_directory() / "encodings" / digest.of_json(asked).removeprefix(digest.PREFIX)[:32]
    texts, pairs = split.texts, split.pairs
    found = _open(place, len(split))
    if found is None:
        with suppress(OSError, CannotWrite):  # not writable, full, or another process was faster
            _make(place, pieces(tokenizer, texts, pairs, max_length=max_length, template=template, where=where))
            _trim(place)
        found = _open(place, len(split))
    return found or encode(tokenizer, texts, pairs, max_length=max_length, template=template, where=where)


def _open(place: Path, count: int) -> Encoded | None:
    """The encoding there, of `count` texts; None where there is none, or not as it was written."""
    try:
        about = json.loads((place / _ABOUT).read_text(encoding="utf-8"))
        if about["files"] != digest.of_files(place, (_TOKENS, _OFFSETS)):
            return None
        tokens, offsets = (np.load(place / name, mmap_mode="r") for name in (_TOKENS, _OFFSETS))
        encoded = Encoded(tokens, offsets, about["truncated"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    with suppress(OSError):
        place.touch()  # used last
    return encoded if len(encoded) == count else None


def _make(place: Path, parts: Iterator[tuple[np.ndarray, np.ndarray, int]]) -> None:
    with file_io.replacing(place) as fresh:
        fresh.mkdir()
        truncated = 0
        with (fresh / _TOKENS).open("wb") as tokens, (fresh / _OFFSETS).open("wb") as offsets:
            _header(tokens, np.int32, 0)
            _header(offsets, np.int64, 0)
            offsets.write(np.zeros(1, np.int64).tobytes())
            total, count = 0, 0
            for ids, lengths, cut in parts:
                tokens.write(ids.tobytes())
                offsets.write((total + np.cumsum(lengths)).tobytes())
                total, count, truncated = total + len(ids), count + len(lengths), truncated + cut
            _header(tokens, np.int32, total)
            _header(offsets, np.int64, count + 1)
        about = {"truncated": truncated, "files": digest.of_files(fresh, (_TOKENS, _OFFSETS))}
        (fresh / _ABOUT).write_text(json.dumps(about), encoding="utf-8")


def _header(file: BinaryIO, dtype: type, length: int) -> None:
    """Write the header of a .npy file of that length at its beginning; numpy leaves room for every length."""
    file.seek(0)
    descr = np.lib.format.dtype_to_descr(np.dtype(dtype))
    np.lib.format.write_array_header_1_0(file, {"descr": descr, "fortran_order": False, "shape": (length,)})


def _trim(kept: Path) -> None:
    """Remove the encodings that were used least lately, but for `kept`, until the rest are within CACHE_LIMIT."""
    sizes = {}
    for place in sorted(kept.parent.iterdir(), key=lambda place: place.stat().st_mtime, reverse=True):
        if place != kept:
            sizes[place] = sum(file.stat().st_size for file in place.rglob("*") if file.is_file())
    room = CACHE_LIMIT - sum(file.stat().st_size for file in kept.iterdir())
    for place, size in sizes.items():
        room -= size
        if room < 0:
            shutil.rmtree(place, ignore_errors=True)
