"""Texts to measure an adapter on, without those that its training saw. Knows no adapter, only what it says."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from afina.data.addresses import find, is_at_hand, named
from afina.data.kinds import CLASSES, Kind, columns_in_words
from afina.data.leakage import TextHashes
from afina.data.readers import files
from afina.data.readers.files import ReadOptions
from afina.data.readers.labels import LabelFormat
from afina.data.readers.splitting import LabelledRows
from afina.data.readers.target_kinds import TARGETS, matched, splits
from afina.data.split import Example, Split, key
from afina.data.task import Task, names_of
from afina.errors import AfinaError, InvalidData, Leakage


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
