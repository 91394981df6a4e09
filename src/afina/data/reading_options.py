"""ReadingOptions: how a task is read. One declaration for the library, study files, the command line and manifests.

The module declares the options' names, `--help` texts, and which values may be given together. The module loads without
pydantic, which checks types and limits where a study is read.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import Field, InitVar, dataclass, field, replace
from typing import Any, TypeVar

from afina import digest
from afina.data import problems
from afina.data.kinds import KINDS, WRITTEN, How, Kind, Long
from afina.errors import UnknownName

MOST = 2**31 - 1
"""The upper limit of every count; a greater number is a typing error, and numpy and torch could not use it."""


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
    """Return an option's declaration.

    Args:
        about: What it says in `--help`.
        metavar: The word for its value in `--help`.
        flag: Whether the command line has it; all options are keys of a study file.
        measures: Whether it also says how labelled texts are read on which an adapter is measured.
        of_file: Whether it says how a file's columns are read, so that a task with fixed columns refuses it.
        limits: Limits of the value, by pydantic's names.
    """
    about_flag = {"metavar": metavar, "flag": flag, "measures": measures, "of_file": of_file}
    return field(default=default, metadata={"description": about, **about_flag, **limits})


@dataclass(frozen=True, kw_only=True)
class ReadingOptions:
    """How to read a task: the [data] section of a study, and keyword arguments of `Task.load`.

    Attributes:
        text, text_pair: None: the column with a usual name (`columns.TEXT`, `columns.PAIRS`).
        label: None: the column with a usual name. `a,b,c` names several columns, each with 0 or 1 for one label.
        target: The name is stored in `label`, and `kind` becomes `text`.
        labels: Labels are spelled as in the data; or they are names for 0 to n-1, or for the positions of multi-hot
            lists.
        separator: None: the separator is recognised.
        missing, long: None: refuse.
        merge_labels: Merged labels have their most frequent spelling.
        sheet: None: the only sheet that is not empty.
        train_examples, evaluation_examples: Texts are chosen by a stable hash of the text.
        validation: With a validation share, the evaluation split is not used at all.
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
    merge_labels: bool = _option("Merge labels that differ only by case or spaces.", default=False, of_file=True)
    sheet: str | None = _option("Sheet of an xlsx file with several sheets.", metavar="NAME", of_file=True)
    train_examples: int | None = _option("Largest number of training texts.", flag=False, measures=False, ge=1, le=MOST)
    evaluation_examples: int | None = _option(
        "Largest number of evaluation texts.", flag=False, measures=False, ge=1, le=MOST
    )
    validation: float | None = _option(
        "Share of the training split that replaces the evaluation split.", flag=False, measures=False, gt=0, lt=1
    )
    evaluation: str | None = _option(
        "File to evaluate on. All texts of the task are then used for training.", metavar="FILE", measures=False
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
            raise problems.LABELS_ONE_STRING(found=self.labels[:40], argument="labels")
        if self.labels is not None:
            self._set(labels=tuple(map(str, self.labels)))
        if isinstance(self.evaluation, os.PathLike):
            self._set(evaluation=os.fspath(self.evaluation))

    def _set(self, **values: Any) -> None:
        for name, value in values.items():
            object.__setattr__(self, name, value)

    @classmethod
    def of(cls, options: ReadingOptions | None, named: Mapping[str, Any], *, measuring: bool = False) -> ReadingOptions:
        """Return options with changes by name. Raises InvalidData, and UnknownName for a name that is no option.

        Args:
            measuring: Whether only the options are known that say how texts are read to measure an adapter.
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
        """The options that differ from their defaults, as values of JSON, by name."""
        return digest.non_defaults(self)


USUAL = ReadingOptions()
"""The defaults."""

OPTIONS: Mapping[str, Field[Any]] = ReadingOptions.__dataclass_fields__
"""The declaration of each option."""

OF_FILES = tuple(name for name, one in OPTIONS.items() if one.metadata["of_file"])
"""Options that say how a file's columns are read."""


def _known(measuring: bool) -> list[str]:
    return [name for name, one in OPTIONS.items() if one.metadata["measures"] or not measuring]


def _check_target(target: str, label: str | None, kind: str | None) -> None:
    if label not in (None, target):
        raise problems.TARGET_AND_LABEL(label=label, field="target", column=target)
    if kind is not None and kind not in KINDS:
        raise UnknownName("kind", kind, KINDS)
    if kind not in (None, WRITTEN):
        raise problems.TARGET_OF_OTHER_KIND(column=target, found=kind)


Function = TypeVar("Function", bound=Callable[..., Any])


def shows_options(*, measuring: bool = False) -> Callable[[Function], Function]:
    """Return a decorator: the signature of a function that takes options by name shows them, for `help` and notebooks.

    Args:
        measuring: Whether to show only the options for measuring an adapter.
    """

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
