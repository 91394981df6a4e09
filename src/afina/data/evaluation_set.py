"""Labelled texts for evaluating an adapter, without the texts on which the adapter was trained.

The training texts are read again from the adapter's task, or recognised by their hashes (`text_hashes`).
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from afina.data import problems
from afina.data.addresses import find, is_at_hand, named
from afina.data.kinds import CLASSES, WRITTEN, Kind, Long
from afina.data.readers import files
from afina.data.readers.label_column import Label, LabelFormat
from afina.data.readers.splitting import LabelledRows, repeated
from afina.data.readers.target_kind import in_words
from afina.data.readers.target_kinds import TARGETS, check_long
from afina.data.reading_options import OF_FILES, USUAL, ReadingOptions, shows_options
from afina.data.split import Example, Split, key
from afina.data.task import WHOLE, Cuts, Task, how_read
from afina.data.text_hashes import TextHashes
from afina.errors import AfinaError
from afina.sentence import Sentence


@dataclass(frozen=True)
class TrainingInfo:
    """Facts from an adapter's manifest about the adapter's training texts; an unknown fact is None or empty."""

    width: int
    label_names: Sequence[str] | None = None
    task: str | None = None
    data: ReadingOptions = USUAL
    train_digest: str | None = None
    kind: Kind = CLASSES
    cuts: Cuts = field(default_factory=lambda: WHOLE)
    trained_on: TextHashes | None = None

    def saw(self, split: Split) -> np.ndarray | None:
        """Return for each example whether the adapter was trained on its text, bool [N]; None if this is unknown."""
        if self.trained_on is not None:
            return self.trained_on.among(split)
        before = _training(self)
        if before is None:
            return None
        keys = {key(example) for example in before} - {""}
        return np.array([key(example) in keys for example in split], dtype=bool)


@dataclass(frozen=True, eq=False)
class EvaluationSet:
    """Labelled texts for evaluating an adapter; labels of kind "classes" are indices into `label_names`.

    Attributes:
        where: The file or task from which the texts come.
        kind: The kind of the labels, such as "classes" or "number".
        held_out: Whether the texts are only the part of the file that training held out, not the whole file.
        leaked: The number of texts in the file or task on which the adapter was trained. None: unknown.
        left_out: The number of texts that were left out of this set because the adapter was trained on them.
        metric: The standard metric of a benchmark's task. None: the task is no benchmark.
        columns, notes: The same as the fields of `Task`: columns by role, and sentences about unexpected findings.
        long: How to treat target texts of too many tokens: "refuse" (error) or "skip" (leave out).
        unmeasured: Labels of the adapter that are missing in `label_names`, because the data do not say which texts
            have these labels.
        chosen: Whether the user chose the order of the labels, so that the second of two labels is positive.
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
    long: Long = "refuse"
    unmeasured: tuple[str, ...] = ()
    chosen: bool = False

    @property
    def told(self) -> Sentence:
        what = TARGETS[self.kind].shown(self.label_names, self.split.labels)
        first = how_read(self.where, self.columns, len(self.split) + self.left_out, what, self.kind)
        return Sentence.joined([first, *self.notes], "\n")

    @property
    def repeated(self) -> int:
        return repeated(self.split)

    @classmethod
    @shows_options(measuring=True)
    def read(
        cls,
        address: str | os.PathLike[str],
        trained: TrainingInfo,
        options: ReadingOptions | None = None,
        **by_name: Any,
    ) -> EvaluationSet:
        """Read evaluation texts from a file, from the evaluation file of a directory, or from a named task.

        If the adapter was trained on the file at `address`, only the texts that training held out are read. From other
        files and tasks, texts on which the adapter was trained are left out, unless `allow_leakage` keeps these texts.
        If the file has the columns of the adapter's task, reading options that are not given are those of the adapter's
        task.

        Args:
            options, by_name: Reading options, as in `Task.load`, except those that choose or divide a task's texts.

        Raises the errors of `Task.load`, and Leakage if the adapter was trained on all texts.
        """
        asked, address = ReadingOptions.of(options, by_name, measuring=True), os.fspath(address)
        allow_leakage, labels = asked.allow_leakage, asked.labels
        if asked.kind not in (None, trained.kind):
            if asked.kind == WRITTEN:
                raise problems.TARGET_OF_OTHER_KIND(column=asked.label, found=trained.kind)
            raise problems.KIND_OF_ADAPTER_OTHER(task=address, found=trained.kind, expected=asked.kind)
        how = check_long(address, trained.kind, asked.long or trained.data.long)
        asked = replace(asked, labels=None, long=None, allow_leakage=False)
        if named(address) is None and find(address).is_file():
            again = _read(address, trained, asked.given)
            if again and trained.data.evaluation is None:
                more: dict[str, Any] = {"columns": again.columns, "notes": again.notes, "metric": again.metric}
                given = address, address, again.label_names, again.evaluation, again.kind, True
                own = cls(*given, long=how, **more).in_order(labels)
                return own.unseen_by(trained, allow_leakage=allow_leakage)
        listed = labels if labels is not None else trained.data.labels
        rows, where, metric = _rows(address, asked, trained, listed)
        kind = TARGETS[trained.kind]
        if trained.label_names is None:
            read = kind.splits(rows, rows, labels)
            label_names, split = read.label_names, read.evaluation
            if len(label_names) != trained.width:
                raise problems.ADAPTER_LABELS_UNNAMED(
                    expected=trained.width, where=where, found=label_names, _known=label_names[:20]
                )
        else:
            label_names = tuple(trained.label_names)
            split = kind.matched(rows, label_names, listed)
            rows = replace(rows, notes=(*rows.notes, *_renamed(where, rows, kind.spelled(label_names, split.labels))))
        unsaid = kind.unsaid(rows, label_names)
        more = {"columns": rows.columns, "notes": rows.notes, "long": how}
        found = cls(address, where, label_names, split, trained.kind, metric=metric, **more).without(unsaid)
        return found.in_order(labels).unseen_by(trained, allow_leakage=allow_leakage)

    def without(self, unsaid: Sequence[str]) -> EvaluationSet:
        if not unsaid:
            return self
        kept = tuple(name for name in self.label_names if name not in unsaid)
        split = TARGETS[self.kind].about(self.split, self.label_names, kept)
        return replace(self, label_names=kept, split=split, unmeasured=tuple(unsaid))

    def in_order(self, labels: Sequence[str] | None) -> EvaluationSet:
        """Return the evaluation set with the classes in the order of `labels`, if given. Raises InvalidData."""
        if labels is None:
            return self
        return self._ordered(TARGETS[self.kind].ordered(self.label_names, labels))

    def with_positive(self, label: str) -> EvaluationSet:
        """Return the evaluation set with `label` as the second, positive label of two. Raises InvalidData."""
        return self._ordered(TARGETS[self.kind].with_positive(self.label_names, label, self.where))

    def _ordered(self, names: Sequence[str]) -> EvaluationSet:
        split = TARGETS[self.kind].about(self.split, self.label_names, names)
        return replace(self, label_names=tuple(names), split=split, chosen=True)

    def unseen_by(self, trained: TrainingInfo, *, allow_leakage: bool = False) -> EvaluationSet:
        """Return the evaluation set without texts on which the adapter is known to have been trained.

        With `allow_leakage`, all texts are returned. Raises Leakage if the adapter was trained on all texts.
        """
        saw = trained.saw(self.split)
        if saw is None:
            return replace(self, leaked=None)
        leaked = int(saw.sum())
        if allow_leakage or not leaked:
            return replace(self, leaked=leaked + self.left_out)
        if leaked == len(saw):
            raise problems.ALL_TRAINED_ON(where=self.where, leaked=leaked)
        left = self.left_out + leaked
        return replace(self, split=self.split.take(np.flatnonzero(~saw)), leaked=left, left_out=left)


def _renamed(where: str, rows: LabelledRows, names: Sequence[Label]) -> list[str]:
    """Return a note about the labels of the rows that have other names in the adapter, such as `0` and `negative`."""
    kind = TARGETS[rows.kind]
    each = zip(rows.labels, names, rows.texts, strict=True)
    both = {(kind.same(label, text), kind.same(name, text)) for label, name, text in each} if kind.named else ()
    read = in_words(sorted(f"{label} as {name}" for label, name in both if label != name))
    return [f"{where}: the labels have other names than the adapter's: {read}."] if read else []


def _rows(
    address: str, asked: ReadingOptions, trained: TrainingInfo, labels: tuple[str, ...] | None
) -> tuple[LabelledRows, str, str | None]:
    """Return labelled rows, their origin, and a benchmark's metric."""
    origin = named(address)
    if origin is not None:
        read = replace(asked, kind=None, allow_leakage=True)  # only the adapter's own training matters
        if origin.chooses:
            own = trained.data if trained.task == address else ReadingOptions()
            read = replace(own.part(OF_FILES), **read.given, kind=trained.kind)
        task = Task.load(address, read)
        split = task.evaluation
        if task.kind != trained.kind:
            raise problems.KIND_OF_TASK_OTHER(task=address, found=task.kind, expected=trained.kind)
        spelled = TARGETS[task.kind].spelled(task.label_names, split.labels)
        names = task.label_names if TARGETS[task.kind].several else ()
        rows = LabelledRows(
            split.texts, split.pairs, spelled, lambda i: f"{address}, evaluation text {i + 1}", task.kind, names=names
        )
        rows = replace(rows, spaced=split.spaced, groups=split.groups if TARGETS[task.kind].of_words else None)
        return replace(rows, columns=task.columns, notes=task.notes), address, task.metric
    usual = trained.data.part(("text", "text_pair", "label", "missing", "merge_labels", "repair"))
    keeps = (asked.missing or usual.missing) == "keep"
    form = LabelFormat(trained.kind, asked.separator or trained.data.separator, keeps=keeps)
    known = trained.label_names or ()
    found, path = files.to_measure(find(address), replace(asked, labels=labels), form, known, usual)
    return found, address if path == Path(address).expanduser() else str(path), None


def _read(address: str, trained: TrainingInfo, changed: Mapping[str, Any]) -> Task | None:
    """Return the task at `address` if the adapter was trained on the task's training split, else None."""
    if trained.train_digest is None:
        return None
    try:
        # A manifest does not say that whole numbers were read as classes.
        known = {"kind": trained.data.kind or trained.kind, "allow_leakage": True}
        asked = replace(trained.data, **known | dict(changed))
        found = Task.load(address, asked, **trained.cuts, offline=True)
    except AfinaError:
        return None
    return found if found.train.digest == trained.train_digest else None


def _training(trained: TrainingInfo) -> list[Example] | None:
    """Return the adapter's training texts, with those set aside; None if the texts are gone or have changed."""
    if trained.task is None or not is_at_hand(trained.task):
        return None
    # The evaluation file may be gone. The training texts do not depend on it, so the task's own file replaces it.
    own = {"evaluation": trained.task} if trained.data.evaluation is not None and Path(trained.task).is_file() else {}
    found = _read(trained.task, trained, own)
    return [*found.train, *(found.calibration or ()), *(found.abstention or ())] if found else None
