"""ReadingOptions: the options of reading a task, such as the label column and the kind of task.

The library, study files, the command line and manifests all use this declaration of the reading options: their names,
`--help` texts, and which options exclude each other. This module can be imported without pydantic, which checks the
options' types and limits when a study file is read.
"""

from __future__ import annotations

import codecs
import inspect
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import Field, InitVar, dataclass, field, replace
from typing import Any, TypeVar

from afina import digest
from afina.data import problems
from afina.data.kinds import KINDS, WRITTEN, Duplicates, How, Kind, Long
from afina.errors import UnknownName
from afina.sentence import Sentence

MOST = 2**31 - 1
"""The largest value of a reading option that is a number of texts; numpy and torch could not use a greater number."""


def _option(
    about: str,
    *,
    default: Any = None,
    metavar: str | None = None,
    flag: bool = True,
    measures: bool = True,
    of_file: bool = False,
    **limits: Any,
) -> Any:
    """Return the dataclass field that declares a reading option.

    Args:
        flag: Whether the command line has the option; study files have all options.
        measures: Whether the option also applies to reading labelled texts for evaluating an adapter.
        of_file: Whether the option says how a file's columns are read; a task with fixed columns refuses such options.
        limits: Limits of the option's value, by pydantic's names, such as `ge`.
    """
    about_flag = {"metavar": metavar, "flag": flag, "measures": measures, "of_file": of_file}
    return field(default=default, metadata={"description": about, **about_flag, **limits})


@dataclass(frozen=True, kw_only=True)
class ReadingOptions:
    """Options of reading a task: the [data] section of a study file, and keyword arguments of `Task.load`.

    The descriptions of attributes below complete the `--help` texts in the declarations of the fields.

    Attributes:
        text, text_pair: By default, the columns of the texts have usual names (`columns.TEXT` and `columns.PAIRS`).
        label: By default, the column of the label has a usual name (`columns.LABEL`). A value such as `a,b,c` names
            several columns, each with 0 or 1 for one label.
        target: The name of the target column is stored in `label`, and `kind` becomes "text".
        labels: Labels are spelled as in the data. If the data have integers or multi-hot lists, `labels` names the
            integers 0 to n-1 or the positions of the lists.
        separator: By default, the separator of labels is recognised.
        missing, long: By default, a missing value or a target text that is too long is an error ("refuse").
        duplicates: By default, all rows are kept. No row of the evaluation split is left out.
        merge_labels: Labels that are merged have their most frequent spelling.
        sheet: By default, the only sheet of an xlsx file that is not empty is read.
        encoding: By default, a file that is neither UTF-8 nor UTF-16 with a byte order mark is read as Windows-1252, if
            that is plausible. JSON files are UTF-8.
        train_examples, evaluation_examples, unlabelled_examples: A stable hash of each text decides which texts are
            kept.
        unlabelled: The file has columns, as a file of labelled texts, or one text a line. Texts that the task has
            already are left out.
        without: The file has columns `file`, `row` and `text`, and `text_pair` for pairs. A row is found by all of
            them. Rows of the evaluation split, and of parts that are set aside, are kept and counted. A row with a
            label in a column `corrected` is not left out: training texts that equal its text get this label. If `file`
            and `row` are empty and the task does not have the text, the text joins the training texts.
        validation: If a share for validation is given, the evaluation split of the task is not used at all.
        selection: The trained model is also scored on the texts that were set aside, so that the best model can be
            selected.
    """

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012 - an annotation would make it a field

    text: str | None = _option("Column of the text.", metavar="NAME", of_file=True)
    text_pair: str | None = _option("Column of a second text.", metavar="NAME", of_file=True)
    label: str | None = _option("Column of the label.", metavar="NAME", of_file=True)
    target: InitVar[str | None] = _option(
        "Column of texts to learn to write (kind text).", metavar="NAME", of_file=True
    )
    labels: tuple[str, ...] | None = _option(
        "Labels in order, separated by commas; the second is the positive label.", metavar="LABEL,..."
    )
    kind: Kind | None = _option(
        f"Kind of task: {', '.join(KINDS[:-1])} or {KINDS[-1]}; by default inferred from columns and labels.",
        metavar="KIND",
    )
    separator: str | None = _option(
        "Separator between the labels of one text, such as ';'.", metavar="MARK", of_file=True, min_length=1
    )
    missing: How | None = _option(
        "Rows without text or label: refuse (error), skip (leave out) or keep (read words such as 'NA' as text).",
        metavar="HOW",
        of_file=True,
    )
    long: Long | None = _option(
        "Target texts of more than half of max_length tokens: refuse (error) or skip (leave out and count).",
        metavar="HOW",
    )
    duplicates: Duplicates | None = _option(
        "Training rows with the text of another row: keep, once (leave out rows that repeat a text and its label, or a "
        "held-out text) or agreed (leave out texts with different labels, too).",
        metavar="HOW",
        measures=False,
    )
    merge_labels: bool = _option("Merge labels that differ only by case or spaces.", default=False, of_file=True)
    repair: bool = _option(
        "Repair what has one right repair in annotated entities: borders inside words or at white space, repeated "
        "spans, and tags that cannot follow each other.",
        default=False,
        of_file=True,
    )
    sheet: str | None = _option("Sheet of an xlsx file with several sheets.", metavar="NAME", of_file=True)
    encoding: str | None = _option(
        "Encoding of files that are not UTF-8, such as windows-1251, koi8-r, shift_jis or gb18030.",
        metavar="NAME",
        of_file=True,
    )
    train_examples: int | None = _option("Largest number of training texts.", flag=False, measures=False, ge=1, le=MOST)
    evaluation_examples: int | None = _option(
        "Largest number of evaluation texts.", flag=False, measures=False, ge=1, le=MOST
    )
    unlabelled_examples: int | None = _option(
        "Largest number of texts without labels.", flag=False, measures=False, ge=1, le=MOST
    )
    validation: float | None = _option(
        "Share of the training split that replaces the evaluation split.", flag=False, measures=False, gt=0, lt=1
    )
    evaluation: str | None = _option(
        "File to evaluate on. All texts of the task are then used for training.", metavar="FILE", measures=False
    )
    unlabelled: str | None = _option(
        "File of texts without labels. With a teacher, the trained model learns the teacher's predictions for these "
        "texts.",
        metavar="FILE",
        measures=False,
    )
    without: str | None = _option(
        "File of rows to leave out of the training texts, such as the list that 'afina doubts' writes; rows with a "
        "label in a column 'corrected' get this label instead.",
        metavar="FILE",
        measures=False,
    )
    selection: float | None = _option(
        "Share of the training split that is set aside to select a model.", flag=False, measures=False, gt=0, lt=1
    )
    positive: str | None = _option(
        "Positive label for F1 and AUROC; by default the second.", metavar="LABEL", measures=False
    )
    allow_leakage: bool = _option("Accept evaluation texts that also occur in the training split.", default=False)

    def __post_init__(self, target: str | None) -> None:
        if target is not None:
            _check_target(target, self.label, self.kind)
            self._set(label=target, kind=WRITTEN)
        if isinstance(self.labels, str):
            raise problems.ONE_STRING(found=self.labels[:40], argument="labels", _name=_LABELS, _items="names")
        if self.labels is not None:
            self._set(labels=tuple(map(str, self.labels)))
        if self.encoding is not None and not _is_encoding(self.encoding):
            raise UnknownName("encoding", self.encoding, _ENCODINGS)
        for name in ("evaluation", "unlabelled", "without"):
            if isinstance(given := getattr(self, name), os.PathLike):
                self._set(**{name: os.fspath(given)})

    def _set(self, **values: Any) -> None:
        for name, value in values.items():
            object.__setattr__(self, name, value)

    @classmethod
    def of(cls, options: ReadingOptions | None, named: Mapping[str, Any], *, measuring: bool = False) -> ReadingOptions:
        """Return reading options with the values in `named` replaced.

        Args:
            measuring: Whether only options of reading texts for evaluating an adapter are allowed.

        Raises InvalidData for an invalid value, and UnknownName for a name that is no reading option.
        """
        made = options or cls()
        known = _known(measuring)
        for name in (*named, *made.given):
            if name not in known:
                raise UnknownName("option", name, known)
        return replace(made, **named)

    def part(self, names: Iterable[str]) -> ReadingOptions:
        return ReadingOptions(**{name: getattr(self, name) for name in names})

    @property
    def given(self) -> dict[str, Any]:
        """The reading options that differ from their defaults, by name, as JSON values."""
        return digest.non_defaults(self)


USUAL = ReadingOptions()
"""Reading options that all have their default values."""

OPTIONS: Mapping[str, Field[Any]] = ReadingOptions.__dataclass_fields__
"""The dataclass field that declares each reading option, by the option's name."""

OF_FILES = tuple(name for name, one in OPTIONS.items() if one.metadata["of_file"])
"""The names of the reading options that say how a file's columns are read."""


def _known(measuring: bool) -> list[str]:
    return [name for name, one in OPTIONS.items() if one.metadata["measures"] or not measuring]


_ENCODINGS = (
    *("big5", "cp437", "euc_jp", "euc_kr", "gb18030", "iso8859-2", "koi8-r", "mac-roman", "shift_jis"),
    *("utf-8", "utf-16", "utf-16-le", *(f"windows-{number}" for number in range(1250, 1259))),
)
"""Usual encodings, which an error names; Python knows more."""


def _is_encoding(name: str) -> bool:
    try:
        return bool(codecs.lookup(name)._is_text_encoding)
    except (LookupError, ValueError):
        return False


_LABELS = Sentence.of("`labels`: ")


def _check_target(target: str, label: str | None, kind: str | None) -> None:
    if label not in (None, target):
        raise problems.TARGET_AND_LABEL(label=label, field="target", column=target)
    if kind is not None and kind not in KINDS:
        raise UnknownName("kind", kind, KINDS)
    if kind not in (None, WRITTEN):
        raise problems.TARGET_OF_OTHER_KIND(column=target, found=kind)


Function = TypeVar("Function", bound=Callable[..., Any])


def shows_options(*, measuring: bool = False) -> Callable[[Function], Function]:
    """Return a decorator that replaces `**kwargs` in a function's signature by the reading options, for `help`."""

    def shown(function: Function) -> Function:
        own = inspect.signature(function)
        before = [one for one in own.parameters.values() if one.kind is not inspect.Parameter.VAR_KEYWORD]
        options = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=OPTIONS[name].default)
            for name in _known(measuring)
            if name not in own.parameters
        ]
        function.__signature__ = own.replace(parameters=[*before, *options])  # type: ignore[attr-defined]
        return function

    return shown
