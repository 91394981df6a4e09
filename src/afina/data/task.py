"""Task: a named text task by address, with a training and an evaluation split.

Knows texts and labels; not tokens or models.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from afina import digest
from afina.data.addresses import Origin, evaluation_file, find, named
from afina.data.kinds import CLASSES, Kind, columns_in_words
from afina.data.readers import files, splitting
from afina.data.readers.files import ReadOptions
from afina.data.readers.labels import LabelFormat
from afina.data.readers.splitting import TaskData
from afina.data.readers.target_kinds import TARGETS, matched
from afina.data.split import Example, Split, key
from afina.errors import InvalidData, Leakage
from afina.repr_html import ReprCard

CALIBRATION = 0.1
"""Share of the training texts that a temperature is fitted on, which then train nothing."""

LEAKAGE_LIMIT = 0.01
"""Share of evaluation texts that may occur in the training split."""


@dataclass(frozen=True, eq=False, repr=False)
class Task(ReprCard):
    """A problem with a training and an evaluation split.

    address      how the user named it, such as `sst2`, `snippets:movies`, `my.csv`
    label_names  name of each integer label; index 1 is the positive class in binary F1; of a number, its own
    leaked       evaluation texts that also occur in the training split (normalised)
    metric, ceiling, separator  as in `TaskData`
    columns      of a file, by what was taken as what: `text`, `text_pair`, `label`, and `others`, which are not read
    other        in words, how to have the labels read otherwise, where that is a question
    notes        in sentences, what was found or done in reading that the user may not expect
    calibration, selection  texts set aside from the training split: to fit a temperature, to select a model by
    data_digest  digest of all that was read at the address, before any part of it was taken
    """

    address: str
    label_names: tuple[str, ...]
    train: Split
    evaluation: Split
    leaked: int = 0
    kind: Kind = CLASSES
    metric: str | None = None
    ceiling: Mapping[str, float] = field(default_factory=dict)
    separator: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    other: str = ""
    notes: tuple[str, ...] = ()
    calibration: Split | None = None
    selection: Split | None = None
    data_digest: str | None = None

    def __post_init__(self) -> None:
        for split in (self.train, self.evaluation):
            if not TARGETS[self.kind].holds(split.labels):
                raise InvalidData(
                    f"task {self.address}: its labels are {split.labels.dtype}, and its kind is {self.kind}. Expected "
                    "indices, numbers, or rows of 0 and 1.",
                    code="data.type-wrong",
                    task=self.address,
                    found=split.labels.dtype,
                )

    def facts(self) -> dict[str, object]:
        """The facts that its repr shows."""
        return {
            "address": self.address,
            "kind": TARGETS[self.kind].told,
            "labels": self.label_names,
            "training texts": len(self.train),
            "evaluation texts": len(self.evaluation),
            "leaked": self.leaked or None,
        }

    @classmethod
    def load(
        cls,
        address: str | os.PathLike[str],
        *,
        text: str | None = None,
        text_pair: str | None = None,
        label: str | None = None,
        labels: Iterable[str] | None = None,
        kind: str | None = None,
        separator: str | None = None,
        missing: str | None = None,
        merge_labels: bool | None = None,
        sheet: str | None = None,
        train_examples: int | None = None,
        evaluation_examples: int | None = None,
        validation: float | None = None,
        evaluation: str | os.PathLike[str] | None = None,
        selection: float | None = None,
        positive: str | None = None,
        calibration: bool = False,
        allow_leakage: bool = False,
        offline: bool = False,
    ) -> Task:
        """The task at `address`: one that names an origin, a directory, or a file.

        text, text_pair, label  columns; the usual names are found without (`columns.TEXT`, ...). A label `a,b,c` names
                      several columns, which say 1 or 0 of one label each
        labels        in their order, as they stand in the data; or a name for each of 0..n-1, or multi-hot place
        kind          of KINDS: classes, number or labels; None: what the labels look like
        separator     between the labels of a text
        missing       of HOWS: "refuse" (None), "skip" rows without a text or label, "keep" words such as `NA`
        merge_labels  read labels that differ only by case, spaces or Unicode form as the most frequent of them
        sheet         of an xlsx file; None: the only one that holds something
        train_examples, evaluation_examples  at most so many, by a hash of the normalised text, in original order
        validation    share of the training split, as used, that stands in for the evaluation split, which is not used
        evaluation    a file, all of which stands in for the evaluation split; all of a file at `address` then trains
        selection, calibration  set this share, or CALIBRATION, of the training split, as used, aside: see `Task`
        positive      of two labels, the one that is put second: F1 and AUROC are about that
        allow_leakage  go on where over 1 % of the evaluation texts occur in the training split
        offline       ask nothing of the network; NotFound where `is_at_hand` says no

        Raises UnknownName, NotFound, InvalidData or Leakage.
        """
        address = os.fspath(address)
        asked = ReadOptions(text, text_pair, label, kind, separator, missing, merge_labels, sheet)
        found = _with_positive(address, _found(address, asked, names_of(labels), evaluation, offline), positive)
        train = splitting.first(found.train, train_examples, "train_examples")
        held_out = splitting.first(found.evaluation, evaluation_examples, "evaluation_examples")
        if validation is not None:
            found = replace(found, ceiling={})
        shares = {"validation": validation, "selection": selection, "calibration": CALIBRATION if calibration else None}
        train, aside = splitting.cuts(train, {name: share for name, share in shares.items() if share is not None})
        held_out = aside.get("validation", held_out)
        TARGETS[found.kind].check_varied(address, found.label_names, train.labels)
        leaked = check_leakage(address, train, held_out, allow=allow_leakage)
        return cls(address=address, train=train, evaluation=held_out, leaked=leaked, **_told(found, aside))

    @property
    def pairs(self) -> bool:
        """Whether its examples are pairs of texts."""
        return self.train.pairs is not None

    @property
    def told(self) -> str:
        """What was read as what, and what was found beside the texts; a line each.

        `text: column 'body'; label: column 'stars'; not read: id. 3,412 rows, numbers from 1 to 5: kind number (...).`
        """
        parts = (self.train, *([self.calibration] if self.calibration else []), self.evaluation)
        both = np.concatenate([part.labels for part in parts])
        what = TARGETS[self.kind].shown(self.label_names, both)
        other = f" ({self.other})" if self.other else ""
        where = f"{columns_in_words(self.columns)}. " if self.columns else f"{self.address}: "
        return "\n".join([f"{where}{len(both):,} rows, {what}: kind {self.kind}{other}", *self.notes])


def names_of(labels: Iterable[str] | None) -> tuple[str, ...] | None:
    """The labels that a user gave in any iterable, once for all. Raises InvalidData for one string."""
    if isinstance(labels, str):
        raise InvalidData(
            f"`labels` is one string, {labels[:40]!r}: expected a list of names.",
            code="data.type-wrong",
            argument="labels",
        )
    return None if labels is None else tuple(map(str, labels))


def _with_positive(address: str, found: TaskData, positive: str | None) -> TaskData:
    """The same with that label, if one is given, second of two. Raises InvalidData."""
    names = found.label_names
    if positive is None:
        return found
    if what := TARGETS[found.kind].check_positive(names):
        raise InvalidData(
            f"task {address}: `positive` says which of two classes is; this task has {what}. Leave it out.",
            code="data.option-inapplicable",
            where=f"task {address}",
        )
    if positive not in names:
        raise InvalidData(
            f"task {address}: `positive` {positive!r} is no label of it. Give {' or '.join(names)}.",
            code="data.label-unknown",
            where=f"task {address}",
            label=positive,
            known=names,
        )
    if positive == names[1]:
        return found
    train, evaluation = (replace(split, labels=1 - split.labels) for split in (found.train, found.evaluation))
    return replace(found, label_names=names[::-1], train=train, evaluation=evaluation)


def _told(found: TaskData, aside: Mapping[str, Split]) -> dict[str, Any]:
    """What a task has of what reading it gave, and of what was set aside, beside the two splits."""
    names = ("label_names", "kind", "metric", "ceiling", "separator", "columns", "other", "notes")
    read = {name: getattr(found, name) for name in names}
    kept = {name: aside.get(name) for name in ("calibration", "selection")}
    return {**read, **kept, "data_digest": _data_digest(found)}


def _data_digest(found: TaskData) -> str:
    """Digest of both splits as they were read, and of what their labels are called."""
    return digest.of_json([found.train.digest, found.evaluation.digest, found.kind, list(found.label_names)])


def _found(
    address: str,
    asked: ReadOptions,
    labels: Sequence[str] | None,
    evaluation: str | os.PathLike[str] | None,
    offline: bool,
) -> TaskData:
    origin = named(address)
    if origin is not None:
        return _of_origin(address, origin, asked, labels, evaluation, offline)
    file = None if evaluation is None else evaluation_file(evaluation)
    return files.load(find(address), asked, labels, file)


def _of_origin(
    address: str,
    origin: Origin,
    asked: ReadOptions,
    labels: Sequence[str] | None,
    evaluation: str | os.PathLike[str] | None,
    offline: bool,
) -> TaskData:
    """What an origin gives; `evaluation`, a file, stands in for its evaluation split, and no ceiling is of that."""
    chosen = [field for field, value in vars(asked).items() if value and field != "kind"]
    if chosen and evaluation is None and not origin.chooses:
        raise InvalidData(
            f"task {address}: its columns are known, so `{chosen[0]}` cannot be chosen. Leave it out.",
            code="data.option-inapplicable",
            task=address,
            option=chosen[0],
        )
    found = origin.load(asked, labels, offline)
    if asked.kind not in (None, found.kind):
        raise InvalidData(
            f"task {address}: its kind is {found.kind}, so `kind` cannot be {asked.kind}. Leave it out.",
            code="data.kind-mismatch",
            task=address,
            found=found.kind,
            expected=asked.kind,
        )
    if evaluation is None:
        return found
    split, notes = _of_file(evaluation, asked, address, found)
    return replace(found, evaluation=split, ceiling={}, notes=(*found.notes, *notes))


def _of_file(
    evaluation: str | os.PathLike[str], asked: ReadOptions, address: str, named: TaskData
) -> tuple[Split, tuple[str, ...]]:
    """All of a file, to evaluate on what learns from the named task at `address`."""
    pairs, form = named.train.pairs is not None, LabelFormat(named.kind, asked.separator, keeps=asked.missing == "keep")
    found, names, path = files.to_measure(evaluation_file(evaluation), asked, form=form, known=named.label_names)
    if (found.pairs is not None) != pairs:
        raise InvalidData(
            f"{path}: {'single texts' if pairs else 'pairs of texts'}, and {address} has none of these.",
            code="data.pairs-mismatch",
            path=path,
            task=address,
        )
    split = matched(found, named.label_names, None, names, whose=f"those of {address}")
    return split, (f"{path}: {columns_in_words(found.columns)}.", *found.notes)


def count_leaked(train: Iterable[Example], evaluation: Split) -> int:
    """How many evaluation examples occur in the training split; those without letters or digits do not count."""
    seen = {key(example) for example in train} - {""}
    return sum(key(example) in seen for example in evaluation)


def check_leakage(address: str, train: Split, evaluation: Split, *, allow: bool) -> int:
    """Count leaked examples; raise `Leakage` above `LEAKAGE_LIMIT` unless allowed."""
    leaked = count_leaked(train, evaluation)
    check_leaked(address, leaked, len(evaluation), allow=allow)
    return leaked


def check_leaked(address: str, leaked: int, examples: int, *, allow: bool) -> None:
    """Raise `Leakage` where more than LEAKAGE_LIMIT of the evaluation examples are leaked, unless allowed."""
    if leaked > LEAKAGE_LIMIT * examples and not allow:
        raise Leakage(
            f"task {address}: {leaked} of {examples} evaluation texts also occur in the training split, "
            f"at most {LEAKAGE_LIMIT:.0%} may. Remove the duplicates, or pass `allow_leakage` to go on.",
            task=address,
            leaked=leaked,
            evaluation=examples,
        )
