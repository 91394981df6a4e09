"""Texts to measure an adapter on, without those that its training saw: by its task, or by hashes of its training texts.

The hashes stand beside an adapter's tensors, and tell whether a text was among its training texts, without keeping
these. A text is hashed as it is compared (`afina.data.split.key`), under a salt, to 64 bits: of a million texts, two
that differ are taken for the same with a chance below one in ten million. The salt follows from the texts, so the same
training gives the same file; it keeps one table of hashes from serving for several adapters, and no more. Whoever has
the hashes can test whether a text that they already have was trained on. Knows no adapter, only what it says of itself.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import numpy as np

from afina import digest, file_io
from afina.data.addresses import find, is_at_hand, named
from afina.data.kinds import CLASSES, Kind, columns_in_words
from afina.data.readers import files
from afina.data.readers.files import ReadOptions
from afina.data.readers.labels import LabelFormat
from afina.data.readers.splitting import LabelledRows
from afina.data.readers.target_kinds import TARGETS, matched, splits
from afina.data.split import Example, Split, key
from afina.data.task import Task, names_of
from afina.errors import AfinaError, CorruptAdapter, InvalidData, Leakage


@dataclass(frozen=True)
class TrainingInfo:
    """What an adapter tells of the texts that it learnt from; None, or nothing, where it does not.

    label_names   its labels, or None where their number alone is known
    width         how many there are
    data          the arguments of `Task.load` with which its task was read
    train_digest  of the training split
    kind          what was learnt
    calibrated    whether some of the training texts were set aside, to fit a temperature on
    trained_on    hashes of its training texts
    """

    width: int
    label_names: Sequence[str] | None = None
    task: str | None = None
    data: Mapping[str, Any] = field(default_factory=dict)
    train_digest: str | None = None
    kind: Kind = CLASSES
    calibrated: bool = False
    trained_on: TextHashes | None = None

    def saw(self, split: Split) -> np.ndarray | None:
        """Of each example whether its training saw it, bool [N]; None where that is not known."""
        if self.trained_on is not None:
            return self.trained_on.among(split)
        before = _training(self)
        if before is None:
            return None
        keys = {key(example) for example in before} - {""}
        return np.array([key(example) in keys for example in split], dtype=bool)


@dataclass(frozen=True, eq=False)
class EvaluationSet:
    """Texts with labels as the adapter's kind has them, of which classes are indices into `label_names`.

    where     the file or task that they come from
    kind      of the labels
    held_out  whether they are what training left out of that file, and not all of it
    leaked    how many of the texts there training saw; None where that is not known
    left_out  how many of those are not among these texts
    metric    the standard one of a benchmark's task
    columns, notes  of a file, as of `Task`
    """

    address: str
    where: str
    label_names: tuple[str, ...]
    split: Split
    kind: Kind = CLASSES
    held_out: bool = False
    leaked: int | None = None
    metric: str | None = None
    left_out: int = 0
    columns: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def told(self) -> str:
        """What was read as what, and what the user may not expect, a line each; "" where there is nothing to say."""
        return "\n".join([*([f"{columns_in_words(self.columns)}."] if self.columns else []), *self.notes])

    @classmethod
    def read(
        cls,
        address: str | os.PathLike[str],
        trained: TrainingInfo,
        *,
        text: str | None = None,
        text_pair: str | None = None,
        label: str | None = None,
        labels: Iterable[str] | None = None,
        separator: str | None = None,
        missing: str | None = None,
        merge_labels: bool | None = None,
        sheet: str | None = None,
        allow_leakage: bool = False,
    ) -> EvaluationSet:
        """All of a file, the evaluation file of a directory, or the evaluation split of a named task.

        Of the file that the adapter learnt from, what its training left out. Texts that it was trained on are left out
        of any other, as far as they are known, unless `allow_leakage` keeps them. labels: what the integers 0..n-1 of
        the data stand for; what else is not said is as the adapter's own task was read, where the file has these
        columns.
        Raises what `Task.load` does; Leakage where it was trained on all of the texts.
        """
        address, labels = os.fspath(address), names_of(labels)
        asked = ReadOptions(text, text_pair, label, None, separator, missing, merge_labels, sheet)
        if named(address) is None and find(address).is_file():
            again = _read(address, trained, {key: value for key, value in vars(asked).items() if value is not None})
            if again and "evaluation" not in trained.data:
                told: dict[str, Any] = {"columns": again.columns, "notes": again.notes}
                found = cls(
                    address, address, again.label_names, again.evaluation, again.kind, True, metric=again.metric, **told
                )
                return found.unseen_by(trained, allow_leakage=allow_leakage)
        given = labels if labels is not None else trained.data.get("labels")
        rows, names, where, metric = _rows(address, asked, trained, given)
        if trained.label_names is None:
            read = splits(rows, rows, labels, names)
            label_names, split = read.label_names, read.train
            if len(label_names) != trained.width:
                raise InvalidData(
                    f"{where}: its labels are {', '.join(label_names[:20])}; the adapter has {trained.width}, and does "
                    "not name them. Name them in their order with `labels`.",
                    code="data.labels-mismatch",
                    where=where,
                    found=label_names,
                )
        else:
            label_names = tuple(trained.label_names)
            split = matched(rows, label_names, given, names)
        told = {"columns": rows.columns, "notes": rows.notes}
        found = cls(address, where, label_names, split, trained.kind, metric=metric, **told)
        return found.unseen_by(trained, allow_leakage=allow_leakage)

    def with_positive(self, label: str) -> EvaluationSet:
        """With that label second of two. Raises InvalidData."""
        names = self.label_names
        if TARGETS[self.kind].check_positive(names):
            raise InvalidData(
                f"{self.where}: `positive` says which of two classes is, and there are not two. Leave it out.",
                code="data.option-inapplicable",
                where=self.where,
            )
        if label not in names:
            raise InvalidData(
                f"{self.where}: `positive` {label!r} is no label of it. Give {' or '.join(names)}.",
                code="data.label-unknown",
                where=self.where,
                label=label,
                known=names,
            )
        if label == names[1]:
            return self
        return replace(self, label_names=names[::-1], split=replace(self.split, labels=1 - self.split.labels))

    def unseen_by(self, trained: TrainingInfo, *, allow_leakage: bool = False) -> EvaluationSet:
        """Those that the training of an adapter did not see, as far as that is known; all, where leakage is allowed.

        Raises Leakage where it saw all of them.
        """
        saw = trained.saw(self.split)
        if saw is None:
            return replace(self, leaked=None)
        leaked = int(saw.sum())
        if allow_leakage or not leaked:
            return replace(self, leaked=leaked + self.left_out)
        if leaked == len(saw):
            raise Leakage(
                f"task {self.where}: the adapter was trained on all of its {leaked:,} texts, so they say nothing of "
                "how good it is. Give other texts, or pass `allow_leakage` to go on.",
                where=self.where,
                leaked=leaked,
            )
        left = self.left_out + leaked
        return replace(self, split=self.split.take(np.flatnonzero(~saw)), leaked=left, left_out=left)


def _rows(
    address: str, asked: ReadOptions, trained: TrainingInfo, labels: Sequence[str] | None
) -> tuple[LabelledRows, Sequence[str], str, str | None]:
    """The rows, what 0, 1, ... are called in them, where they come from, and a benchmark's metric."""
    origin = named(address)
    if origin is not None:
        read = vars(asked)
        if origin.chooses:
            own = trained.data if trained.task == address else {}
            read = {key: value if value is not None else own.get(key) for key, value in read.items()}
            read["kind"] = trained.kind
        task = Task.load(address, **read, labels=None, allow_leakage=True)  # what counts is what the adapter saw
        split = task.evaluation
        if task.kind != trained.kind:
            raise InvalidData(
                f"task {address}: its kind is {task.kind}, and the adapter learnt {trained.kind}.",
                code="data.kind-mismatch",
                task=address,
                found=task.kind,
                expected=trained.kind,
            )
        rows = LabelledRows(
            split.texts,
            split.pairs,
            TARGETS[task.kind].spelled(task.label_names, split.labels),
            _place(address),
            task.kind,
        )
        return replace(rows, columns=task.columns, notes=task.notes), (), address, task.metric
    usual = ReadOptions(
        **{key: trained.data.get(key) for key in ("text", "text_pair", "label", "missing", "merge_labels")}
    )
    keeps = (asked.missing or usual.missing) == "keep"
    form = LabelFormat(trained.kind, asked.separator or trained.data.get("separator"), keeps=keeps)
    known = trained.label_names or ()
    found, names, path = files.to_measure(find(address), asked, usual, form, labels, known)
    return found, names, address if path == Path(address).expanduser() else str(path), None


def _place(address: str) -> Callable[[int], str]:
    return lambda i: f"{address}, evaluation text {i + 1}"


def _read(address: str, trained: TrainingInfo, changed: Mapping[str, Any]) -> Task | None:
    """The task at `address`, where it is the one that the adapter learnt from: its training split is the same."""
    if trained.train_digest is None:
        return None
    try:
        kept = {"calibration": trained.calibrated, "allow_leakage": True, "offline": True}
        # Adapters of earlier versions do not tell that whole numbers were read as classes.
        found = Task.load(address, **{"kind": trained.kind, **trained.data, **changed, **kept})
    except (AfinaError, TypeError):  # or how it was read is of another version
        return None
    return found if found.train.digest == trained.train_digest else None


def _training(trained: TrainingInfo) -> list[Example] | None:
    """The texts that the adapter learnt from, its temperature's too, where they are at hand as they were."""
    if trained.task is None or not is_at_hand(trained.task):
        return None
    # The texts that it was evaluated on may be gone; which are trained on does not depend on what is in their place.
    own = {"evaluation": trained.task} if "evaluation" in trained.data and Path(trained.task).is_file() else {}
    found = _read(trained.task, trained, own)
    return [*found.train, *(found.calibration or ())] if found else None


HASHES_FILE = "training_texts.json"
FORMAT = 1
MOST_BYTES = 256 << 20
"""Of the file, at most: those of 24 million texts."""

_BYTES = 8
_SALT = re.compile(r"[0-9a-f]{32}", re.ASCII)
_AGAIN = "Copy the adapter again, or remove this file: then it is not known which texts the adapter was trained on."


@dataclass(frozen=True, eq=False)
class TextHashes:
    """salt: 32 hexadecimal digits;  hashes: uint64 [N], rising, each once."""

    salt: str
    hashes: np.ndarray

    def __len__(self) -> int:
        return len(self.hashes)

    @classmethod
    def of(cls, examples: Iterable[Example]) -> Self:
        """Those of examples, whatever their labels; one without letters and digits has none."""
        keys = sorted({key(example) for example in examples} - {""})
        salt = digest.of_strings(keys).removeprefix(digest.PREFIX)[:32]
        return cls(salt, np.unique(_hashed(keys, salt)))

    def among(self, examples: Iterable[Example]) -> np.ndarray:
        """Of each example whether it is one of these, bool [N]."""
        keys = [key(example) for example in examples]
        found: np.ndarray = np.isin(_hashed(keys, self.salt), self.hashes) & np.array([bool(one) for one in keys], bool)
        return found

    def write(self, path: Path) -> None:
        """Write the file, always the same for the same hashes."""
        content = self._content()
        path.write_text(json.dumps(content | {"digest": digest.of_json(content)}) + "\n", encoding="ascii")

    @classmethod
    def read(cls, path: Path) -> Self:
        """Those in a file. Raises CorruptAdapter."""
        content = file_io.read_object(path, MOST_BYTES)
        if content.get("format") != FORMAT or type(content["format"]) is not int:
            raise CorruptAdapter(
                f"{path}: its format is {str(content.get('format'))[:40]!r}, this afina reads {FORMAT}. {_AGAIN}",
                code="adapter.format-unknown",
                path=path,
            )
        salt, text = content.get("salt"), content.get("hashes")
        if not isinstance(salt, str) or not _SALT.fullmatch(salt) or not isinstance(text, str):
            raise CorruptAdapter(
                f"{path}: expected a salt of 32 hexadecimal digits, and hashes in base64. {_AGAIN}",
                code="adapter.file-malformed",
                path=path,
            )
        try:
            data = base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError):
            raise CorruptAdapter(
                f"{path}: its hashes are not base64. {_AGAIN}", code="adapter.file-malformed", path=path
            ) from None
        if len(data) % _BYTES:
            raise CorruptAdapter(
                f"{path}: its hashes have {len(data):,} bytes, no multiple of {_BYTES}. {_AGAIN}",
                code="adapter.file-malformed",
                path=path,
                bytes=len(data),
            )
        made = cls(salt, np.frombuffer(data, "<u8"))
        if content != made._content() | {"digest": digest.of_json(made._content())} or not made._rises():
            raise CorruptAdapter(
                f"{path}: it was changed: it states another digest than it has. {_AGAIN}",
                code="adapter.changed",
                path=path,
            )
        return made

    def _content(self) -> dict[str, object]:
        data = self.hashes.astype("<u8").tobytes()
        return {"format": FORMAT, "salt": self.salt, "hashes": base64.b64encode(data).decode("ascii")}

    def _rises(self) -> bool:
        return bool((self.hashes[1:] > self.hashes[:-1]).all())


def _hashed(keys: Iterable[str], salt: str) -> np.ndarray:
    """uint64 [N]."""
    seed = bytes.fromhex(salt)
    hashed = (
        hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=_BYTES, key=seed).digest() for text in keys
    )
    return np.frombuffer(b"".join(hashed), "<u8").astype(np.uint64)
