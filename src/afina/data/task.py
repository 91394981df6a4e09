"""Task: a text task, read from its address, with a training split and an evaluation split.

A task has texts and labels; the module `token_cache.py` tokenizes the texts.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypedDict

import numpy as np

from afina import digest
from afina.data import problems
from afina.data.addresses import Origin, find, named
from afina.data.kinds import ALL_DUPLICATES, CLASSES, WRITTEN, Kind, Long, columns_in_words, one_of
from afina.data.readers import files, frames, splitting
from afina.data.readers.formats import named_file
from afina.data.readers.further_files import LeftOutRows, UnlabelledTexts, change_rows, read_unlabelled
from afina.data.readers.label_column import LabelFormat, OtherKind
from afina.data.readers.rows import Contradictions, contradictions, rows_of, without_duplicates
from afina.data.readers.splitting import TaskData
from afina.data.readers.target_kinds import TARGETS, check_long
from afina.data.reading_options import OF_FILES, ReadingOptions, shows_options
from afina.data.split import Example, Split, key
from afina.events import Says, silent
from afina.repr_html import ReprCard
from afina.sentence import Sentence

CALIBRATION = 0.1
"""The share of the training texts that is set aside to fit a temperature; models are not trained on this share."""

ABSTENTION = 0.2
"""The share of the training texts that is set aside to choose the threshold below which a model does not answer.

Nothing else is fitted or chosen on this share, so that the threshold keeps its promise."""

LEAKAGE_LIMIT = 0.01
"""The largest share of evaluation texts that may also occur in the training split without an error."""


class Cuts(TypedDict):
    calibration: bool
    abstention: bool


WHOLE = Cuts(calibration=False, abstention=False)
"""Nothing is set aside from the training split."""


@dataclass(frozen=True, eq=False, repr=False)
class Task(ReprCard):
    """A text task with a training split and an evaluation split.

    Attributes:
        address: The address from which the task was read, such as `sst2`, `snippets:movies` or `my.csv`.
        label_names: The name of each integer label; of two classes, label 1 is the positive class. If the targets are
            numbers, `label_names` has the name of the target.
        leaked: The number of evaluation texts that also occur in the training split, compared in normalised form.
        metric: The standard metric of a benchmark's task. None: the default metric of the kind of task.
        ceiling: For some tasks, by metric, how well one human predicts what other humans say about the evaluation
            texts.
        separator: The text between the labels of a cell, if the file has such a separator.
        columns: For a file, the names of the columns by role: `text`, `text_pair`, `label` or `target`, `group` (rows
            of a group stay together if a split is divided), and `others`, which are not read.
        other: Other kinds as which the labels can be read, if the kind of task was uncertain.
        notes: Sentences about unexpected findings in the data.
        calibration: Texts set aside from the training split to fit a temperature.
        abstention: Texts set aside from the training split to choose a threshold of abstention.
        selection: Texts set aside from the training split to select a model.
        unlabelled: Texts without labels that are in no split of the task, from which a student learns. None: the
            reading options name no file of such texts.
        left_out: The rows that the reading option `without` leaves out of the training split. None: there is no such
            option.
        data_digest: The digest of both splits as they were read at the address, before they were shortened or divided.
        long: How to treat a target text of too many tokens when the task is tokenized: "refuse" or "skip".
        data: The reading options with which `load` read the task. None: the task was constructed directly.
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
    other: tuple[OtherKind, ...] = ()
    notes: tuple[str, ...] = ()
    calibration: Split | None = None
    abstention: Split | None = None
    selection: Split | None = None
    unlabelled: UnlabelledTexts | None = None
    left_out: LeftOutRows | None = None
    data_digest: str | None = None
    long: Long = "refuse"
    data: ReadingOptions | None = None

    def __post_init__(self) -> None:
        for split in (self.train, self.evaluation):
            if not TARGETS[self.kind].holds(split.labels):
                raise problems.LABELS_DTYPE(
                    kind=self.kind,
                    task=self.address,
                    found=split.labels.dtype,
                    _where=f"the labels of task {self.address}, of kind {self.kind}",
                )

    def facts(self) -> dict[str, object]:
        return {
            "address": self.address,
            "kind": TARGETS[self.kind].told,
            "labels": self.label_names,
            "training texts": len(self.train),
            "evaluation texts": len(self.evaluation),
            "leaked": self.leaked or None,
        }

    @classmethod
    @shows_options()
    def load(
        cls,
        address: str | os.PathLike[str],
        options: ReadingOptions | None = None,
        *,
        calibration: bool = False,
        abstention: bool = False,
        offline: bool = False,
        says: Says = silent,
        **named: Any,
    ) -> Task:
        """Load the task at `address`: a named task such as `sst2`, a directory, or a file.

        Args:
            options: How to read the task.
            calibration: Whether to set aside a share of 0.1 of the training split to fit a temperature.
            abstention: Whether to set aside a share of 0.2 of the training split to choose a threshold of abstention.
            offline: Whether to stay offline; NotFound is raised if the task would have to be downloaded.
            says: Called with lines about the progress of a large file.
            named: Single reading options, which replace those of `options`: `Task.load("x.csv", label="stars")`.

        Raises UnknownName, NotFound, InvalidData or Leakage.
        """
        address, asked = as_address(address), ReadingOptions.of(options, named)
        cuts = Cuts(calibration=calibration, abstention=abstention)
        return cls._made(address, _found(address, asked, offline, says), asked, cuts)

    @classmethod
    def _made(cls, address: str, found: TaskData, asked: ReadingOptions, cuts: Cuts) -> Task:
        found = _with_positive(address, found, asked.positive)
        train = splitting.first(found.train, asked.train_examples, "train_examples")
        held_out = splitting.first(found.evaluation, asked.evaluation_examples, "evaluation_examples")
        found = found if asked.validation is None else replace(found, ceiling={})
        shares = {"validation": asked.validation, "selection": asked.selection}
        train, aside = set_aside(train, found.kind, cuts, shares)
        if TARGETS[found.kind].of_words:
            for name, part in aside.items():
                aside[name], said = splitting.without_known(part, train, name)
                found = replace(found, notes=(*found.notes, *said))
        left_out = None
        if asked.without is not None:
            train, aside, left_out = change_rows(address, asked.without, found, train, aside)
            found = replace(found, notes=(*found.notes, left_out.note))
        held_out = aside.get("validation", held_out)
        if (how := one_of("duplicates", asked.duplicates or "keep", ALL_DUPLICATES)) != "keep":
            train, said = without_duplicates(train, held_out, found.kind, found.label_names, how)
            found = replace(found, notes=(*found.notes, *said))
        if asked.without is not None or asked.duplicates is not None:
            found = _with_contradictions(found, [train, *aside.values(), held_out])
        TARGETS[found.kind].check_varied(address, found.label_names, train.labels)
        leaked = check_leakage(address, train, held_out, allow=asked.allow_leakage)
        told, long = _told(found, aside, asked), check_long(address, found.kind, asked.long)
        if asked.unlabelled is not None:
            told |= _with_unlabelled(address, asked, found, train, aside)
        return cls(address, train=train, evaluation=held_out, long=long, leaked=leaked, left_out=left_out, **told)

    @classmethod
    @shows_options()
    def of(
        cls,
        data: Any,
        targets: Any = None,
        /,
        options: ReadingOptions | None = None,
        *,
        evaluation: Any = None,
        calibration: bool = False,
        abstention: bool = False,
        **named: Any,
    ) -> Task:
        """Make a task from data in memory; the task is the same as if `load` read the rows from a file.

        The columns of the task are written to a file in the cache (`$AFINA_CACHE`), whose path is the task's address.
        Other processes, which execute the runs, read the task at this address, and the same data have the same address.

        Args:
            data: A frame of pandas or polars, a Dataset or DatasetDict of `datasets`, a table of pyarrow, a relation of
                DuckDB, a dict of columns, or a list of dicts. If `targets` is given, `data` is a list, array or Series
                of texts, or rows of two texts.
            targets: The target of each text of `data`: a label, a number, a list of labels, or a text to write.
            evaluation: Data that replace the evaluation split: data of the same form as `data`, a tuple (texts,
                targets), or the path of a file.
            options, calibration, abstention, named: The same as the arguments of `load`.

        Raises InvalidData, Leakage, or CannotWrite if the cache cannot be written to.
        """
        asked = ReadingOptions.of(options, named)
        notes: tuple[str, ...] = ()
        if targets is None and (parts := frames.splits_of(data)) is not None:
            chosen = files.splits_read(list(parts), "DatasetDict")[: 1 + (evaluation is None)]
            data, *further = [parts[name] for name in chosen]
            evaluation, notes = further[0] if further else evaluation, (files.splits_note("DatasetDict", chosen),)
        tables = [replace(frames.table_of(data, targets), notes=notes)]
        of_file = isinstance(evaluation, str | os.PathLike)
        if of_file:
            tables.append(files.evaluation_table(named_file("evaluation", evaluation), asked))
        elif evaluation is not None:
            both = evaluation if isinstance(evaluation, tuple) and len(evaluation) == 2 else (evaluation,)
            tables.append(frames.table_of(*both))
        reading = files.TableReading.of(tables, asked)
        found, asked = reading.splits(), reading.asked
        if asked.labels is None and reading.tables[0].classes:  # the file that is kept has no order of classes
            asked = replace(asked, labels=found.label_names)
        paths = [str(frames.kept(table, reading.columns.read)) for table in reading.tables[: 2 - of_file]]
        file = evaluation if of_file or evaluation is None else paths[1]
        columns = {role: name for role, name in found.columns.items() if role != "others"}  # those that are kept
        found = replace(found, columns=columns, train=_of_file_kept(found.train, paths[0]))
        if not of_file:
            found = replace(found, evaluation=_of_file_kept(found.evaluation, paths[-1]))
        cuts = Cuts(calibration=calibration, abstention=abstention)
        return cls._made(paths[0], found, replace(asked, evaluation=file), cuts)

    @property
    def pairs(self) -> bool:
        return self.train.pairs is not None

    @property
    def known_texts(self) -> Sequence[Example]:
        """The training texts, and the rows that `without` leaves out, on which no model is evaluated as on new texts.

        An evaluation on rows with doubtful labels alone would say nothing about other texts.
        """
        return [*self.train, *(self.left_out.split if self.left_out else ())]

    @property
    def aside(self) -> tuple[Split, ...]:
        return tuple(split for split in (self.calibration, self.abstention, self.selection) if split is not None)

    @property
    def repetitions(self) -> list[str]:
        repeated, where = splitting.repeated(self.evaluation), f"the evaluation split of {self.address}"
        return splitting.repetition_notes(repeated, len(self.evaluation), where)

    @property
    def told(self) -> Sentence:
        return Sentence.joined(self.lines, "\n")

    @property
    def lines(self) -> list[str]:
        """How columns, rows and labels were read, and notes about unexpected findings."""
        fitted = (split for split in (self.calibration, self.abstention) if split is not None)
        parts = (self.train, *fitted, self.evaluation)
        both = np.concatenate([part.labels for part in parts])
        what = TARGETS[self.kind].shown(self.label_names, both)
        other = [" (", other_kinds(self.other), ")"] if self.other else []
        first = Sentence([how_read(self.address, self.columns, len(both), what, self.kind), *other])
        return [first, *self.notes, *self.repetitions]


def how_read(address: str, columns: Mapping[str, str], rows: int, what: str, kind: Kind) -> str:
    where = f"{columns_in_words(columns)}. " if columns else f"{address}: "
    return f"{where}{rows:,} row{'s' * (rows != 1)}, {what}: kind {kind}"


def other_kinds(other: Iterable[OtherKind]) -> Sentence:
    return Sentence.joined((each.words for each in other), ", and ")


def _with_contradictions(found: TaskData, parts: Sequence[Split]) -> TaskData:
    """Return the data with a note about equal texts with different labels as the texts were changed."""
    notes = [note for note in found.notes if not isinstance(note, Contradictions)]
    now = contradictions(*(rows_of(part, found.kind, found.label_names) for part in parts))
    return replace(found, notes=(*notes, *now))


def set_aside(
    train: Split, kind: Kind, cuts: Cuts, shares: Mapping[str, float | None] | None = None
) -> tuple[Split, dict[str, Split]]:
    """Return the rest of the training split, and the splits that were cut from it, by name.

    The split `abstention` is cut first, so other cuts do not change its texts. No validation split, on which a setting
    is chosen, has one of these texts. `shares` are those of further splits; None: the split is not cut.
    """
    train, made = splitting.cuts(train, {"abstention": ABSTENTION} if cuts["abstention"] else {}, "abstention")
    given = {**(shares or {}), "calibration": CALIBRATION if cuts["calibration"] else None}
    rest, cut = splitting.cuts(train, {name: share for name, share in given.items() if share is not None})
    return rest, {name: TARGETS[kind].grouped(split) for name, split in (made | cut).items()}


def _of_file_kept(split: Split, path: str) -> Split:
    """Return a split of data in memory whose rows are those of the file `path`, to which the data were written."""
    return split if split.rows is None else replace(split, rows=split.rows.of_file(path))


def as_address(address: Any) -> str:
    """Return a task's address as a string. Raises InvalidData for data in memory, which `Task.of` reads."""
    if not isinstance(address, str | os.PathLike):
        expected = "Expected the address of a task, such as reviews.csv. For data in memory, use Task.of."
        found = type(address).__name__
        raise problems.ARGUMENT_OF_OTHER_TYPE(argument="address", found=found, _shape="", _expected=expected)
    return str(os.fspath(address))


def _with_positive(address: str, found: TaskData, positive: str | None) -> TaskData:
    """Return the task's data with the label `positive`, if given, as the second of two labels. Raises InvalidData."""
    if positive is None:
        return found
    kind, before = TARGETS[found.kind], found.label_names
    names = kind.with_positive(before, positive, f"task {address}")
    train, evaluation = (kind.about(split, before, names) for split in (found.train, found.evaluation))
    return replace(found, label_names=names, train=train, evaluation=evaluation)


def _told(found: TaskData, aside: Mapping[str, Split], asked: ReadingOptions) -> dict[str, Any]:
    names = ("label_names", "kind", "metric", "ceiling", "separator", "columns", "other", "notes")
    read = {name: getattr(found, name) for name in names}
    kept = {name: aside.get(name) for name in ("calibration", "abstention", "selection")}
    return {**read, **kept, "data": asked, "data_digest": _data_digest(found)}


def _with_unlabelled(
    address: str, asked: ReadingOptions, found: TaskData, train: Split, aside: Mapping[str, Split]
) -> dict[str, Any]:
    """Return the fields `unlabelled` and `notes` of a task with a file of texts without labels.

    No text of the whole evaluation split is kept, also if the task has only a part of this split.
    """
    made = read_unlabelled(
        address,
        str(asked.unlabelled),
        asked,
        found.columns,
        evaluation=[found.evaluation],
        training=[train, *aside.values()],
        written=TARGETS[found.kind].written,
    )
    return {"unlabelled": made, "notes": (*found.notes, made.note)}


def _data_digest(found: TaskData) -> str:
    return digest.of_json([found.train.digest, found.evaluation.digest, found.kind, list(found.label_names)])


def _found(address: str, asked: ReadingOptions, offline: bool, says: Says) -> TaskData:
    origin = named(address)
    if origin is not None:
        return _of_origin(address, origin, asked, offline)
    evaluation = None if asked.evaluation is None else named_file("evaluation", asked.evaluation)
    return files.load(find(address), asked, evaluation, says)


def _of_origin(address: str, origin: Origin, asked: ReadingOptions, offline: bool) -> TaskData:
    """Return the data of a named task; a file in the option `evaluation` replaces its evaluation split."""
    chosen = [name for name in OF_FILES if name in asked.given]
    if chosen and asked.evaluation is None and not origin.chooses:
        option = "target" if asked.kind == WRITTEN and chosen[0] == "label" else chosen[0]
        raise problems.COLUMNS_FIXED(task=address, option=option)
    found = origin.load(asked, offline)
    if asked.kind not in (None, found.kind):
        raise problems.KIND_FIXED(task=address, found=found.kind, expected=asked.kind)
    if asked.evaluation is None:
        return found
    split, notes = _of_file(asked, address, found)
    return replace(found, evaluation=split, ceiling={}, notes=(*found.notes, *notes))


def _of_file(asked: ReadingOptions, address: str, named: TaskData) -> tuple[Split, tuple[str, ...]]:
    """Return all texts of the file `evaluation` as the evaluation split of the named task at `address`."""
    assert asked.evaluation is not None
    pairs, form = named.train.pairs is not None, LabelFormat(named.kind, asked.separator, keeps=asked.missing == "keep")
    path = named_file("evaluation", asked.evaluation)
    found, path = files.to_measure(path, replace(asked, labels=None), form, named.label_names)
    if (found.pairs is not None) != pairs:
        raise problems.PAIRS_MISMATCH(
            found="single texts" if pairs else "pairs of texts",
            expected="pairs of texts" if pairs else "single texts",
            path=path,
            task=address,
        )
    kind = TARGETS[named.kind]
    if unsaid := kind.unsaid(found, named.label_names):
        raise problems.LABELS_UNSAID(task=address, path=path, field="label", columns=unsaid, _s="s" * (len(unsaid) > 1))
    split = kind.matched(found, named.label_names, whose=f"those of {address}")
    return split, (f"{path}: {columns_in_words(found.columns)}.", *found.notes)


def count_leaked(train: Iterable[Example], evaluation: Split) -> int:
    """Return how many evaluation examples, except those without letters and digits, are also training examples."""
    seen = {key(example) for example in train} - {""}
    return sum(key(example) in seen for example in evaluation)


def check_leakage(address: str, train: Split, evaluation: Split, *, allow: bool) -> int:
    """Return how many evaluation examples also occur in the training split. Raises Leakage as `check_leaked` does."""
    leaked = count_leaked(train, evaluation)
    check_leaked(address, leaked, len(evaluation), allow=allow)
    return leaked


def check_leaked(address: str, leaked: int, examples: int, *, allow: bool) -> None:
    """Raise Leakage, unless allowed, if more than LEAKAGE_LIMIT of the evaluation examples are training examples."""
    if leaked > LEAKAGE_LIMIT * examples and not allow:
        raise problems.LEAKED(limit=LEAKAGE_LIMIT, task=address, leaked=leaked, evaluation=examples)
