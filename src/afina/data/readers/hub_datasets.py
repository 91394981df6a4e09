"""Read data sets of the Hugging Face Hub: GLUE's tasks, and other data sets in the Hub's conversion to parquet.

GLUE is read from the Hub's copy or from a directory of GLUE's own files (A. Wang et al., GLUE: A Multi-Task Benchmark
and Analysis Platform for Natural Language Understanding, ICLR 2019). This module contains the names of GLUE's columns
and labels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from afina.data import problems
from afina.data.kinds import CLASSES, NUMBER, Kind
from afina.data.readers import files, formats, source
from afina.data.readers.formats import FileTable
from afina.data.readers.label_column import Label
from afina.data.readers.splitting import LabelledRows, TaskData
from afina.data.readers.target_kinds import TARGETS
from afina.data.reading_options import ReadingOptions
from afina.errors import NotFound

REPOSITORY = "nyu-mll/glue"

GLUE_UNLABELLED = ("-", "-1", -1)
"""The values of the label column for GLUE's rows without a label: annotators disagreed, or GLUE keeps the label secret.
"""

DAMAGED = 0.01
"""The largest accepted share of a GLUE file's lines with too few fields: QQP's `train.tsv` has a few such lines."""


@dataclass(frozen=True)
class GlueTask:
    """The columns, labels and files of one GLUE task.

    texts       the names of the text columns on the Hub; the label column on the Hub is `label`
    own, label  the names of the text columns and of the label column in GLUE's own files
    names       the label names, in the order of the Hub's integers; empty if the targets are numbers
    config      the folder on the Hub
    dev         the name of the evaluation file among GLUE's own files
    header      the columns of GLUE's own files if these have no header line
    """

    config: str
    texts: tuple[str, ...]
    own: tuple[str, ...]
    label: str
    names: tuple[str, ...]
    metric: str
    validation: str = "validation"
    dev: str = "dev.tsv"
    header: tuple[str, ...] = ()

    @property
    def kind(self) -> Kind:
        return CLASSES if self.names else NUMBER

    def patterns(self) -> dict[str, str]:
        return {split: f"{self.config}/{split}-*.parquet" for split in ("train", self.validation)}


_ONE, _TWO, _ENTAILED = ("sentence",), ("sentence1", "sentence2"), ("entailment", "not_entailment")
_COLA = ("source", "label", "star", "sentence")

GLUE: dict[str, GlueTask] = {
    "cola": GlueTask("cola", _ONE, _ONE, "label", ("unacceptable", "acceptable"), "mcc", header=_COLA),
    "sst2": GlueTask("sst2", _ONE, _ONE, "label", ("negative", "positive"), "accuracy"),
    "mrpc": GlueTask("mrpc", _TWO, ("#1 String", "#2 String"), "Quality", ("not_equivalent", "equivalent"), "f1"),
    "stsb": GlueTask("stsb", _TWO, _TWO, "score", (), "pearson"),
    "qqp": GlueTask(
        "qqp",
        ("question1", "question2"),
        ("question1", "question2"),
        "is_duplicate",
        ("not_duplicate", "duplicate"),
        "f1",
    ),
    "mnli": GlueTask(
        "mnli",
        ("premise", "hypothesis"),
        _TWO,
        "gold_label",
        ("entailment", "neutral", "contradiction"),
        "accuracy",
        validation="validation_matched",
        dev="dev_matched.tsv",
    ),
    "qnli": GlueTask("qnli", ("question", "sentence"), ("question", "sentence"), "label", _ENTAILED, "accuracy"),
    "rte": GlueTask("rte", _TWO, _TWO, "label", _ENTAILED, "accuracy"),
    "wnli": GlueTask("wnli", _TWO, _TWO, "label", ("not_entailment", "entailment"), "accuracy"),
}
GLUE["mnli-mm"] = replace(GLUE["mnli"], validation="validation_mismatched", dev="dev_mismatched.tsv")

SCALE = "similarity"
"""The name of the target of GLUE's task STS-B: a number from 0 to 5."""


def load_glue(name: str, labels: Sequence[str] | None = None, *, offline: bool = False) -> TaskData:
    """Return the training and validation splits of a GLUE task; `name` is a key of GLUE, such as "cola".

    Raises NotFound if there is neither a network nor a cached copy, and InvalidData if the copy is damaged.
    """
    from afina import hub  # takes a fifth of a second, which other tasks need not spend

    form = GLUE[name]
    patterns = form.patterns()
    try:
        path = hub.dataset_snapshot(REPOSITORY, list(patterns.values()), offline=offline)
    except NotFound as error:
        advice = f"\nGive a directory with GLUE's own {_listed(form)} instead: glue/{name}:DIRECTORY."
        raise error.advising(advice) from None
    train, evaluation = (
        formats.joined(f"glue/{name}, {split}", [formats.read(file) for file in sorted(path.glob(pattern))])
        for split, pattern in patterns.items()
    )
    return _read(form, _rows(form, train, form.texts, "label"), _rows(form, evaluation, form.texts, "label"), labels)


def load_glue_files(name: str, directory: Path, labels: Sequence[str] | None = None) -> TaskData:
    """Return the training and evaluation splits of a GLUE task from GLUE's own files, `train.tsv` and `dev.tsv`.

    The evaluation file of MNLI is `dev_matched.tsv` or `dev_mismatched.tsv`. For MRPC, the original files
    `msr_paraphrase_train.txt` and `msr_paraphrase_test.txt` are read if there is no `train.tsv`. Quotation marks in
    GLUE's files are part of the text. Raises NotFound, InvalidData.
    """
    form = GLUE[name]
    files = glue_files(name, directory)
    train, evaluation = (_rows(form, _tsv(file, form), form.own, form.label) for file in files)
    return _read(form, train, evaluation, labels)


def glue_files(name: str, directory: Path) -> list[Path]:
    form = GLUE[name]
    if not directory.is_dir():
        raise problems.GLUE_DIRECTORY_MISSING(expected=_listed(form), path=directory)
    names = ["train.tsv", form.dev]
    if name == "mrpc" and not (directory / names[0]).is_file():
        names = ["msr_paraphrase_train.txt", "msr_paraphrase_test.txt"]
    for file in names:
        if not (directory / file).is_file():
            raise problems.BENCHMARK_FILE_MISSING(
                found=source.names_in(directory), path=directory, file=file, _expected=f"GLUE's {_listed(form)}"
            )
    return [directory / file for file in names]


def _listed(form: GlueTask) -> str:
    return f"train.tsv and {form.dev}"


def _read(form: GlueTask, train: LabelledRows, evaluation: LabelledRows, labels: Sequence[str] | None) -> TaskData:
    occurring = set(train.labels)
    known = labels if labels is not None else [name for name in form.names if name in occurring]
    found = TARGETS[form.kind].splits(train, evaluation, None if not form.names and labels is None else known)
    return replace(found, metric=form.metric)


def _tsv(path: Path, form: GlueTask) -> FileTable:
    """Return a table of the text and label columns of a GLUE file, without the lines that have too few fields."""
    wanted = (*form.own, form.label)
    columns: dict[str, list[Any]] = {name: [] for name in wanted}
    places: list[int] = []
    short: list[int] = []
    with source.opened(path) as file:
        lines = enumerate(file.lines(), start=1)
        header = form.header or tuple(_fields(next(lines, (0, ""))[1]))
        missing = [name for name in wanted if name not in header]
        if missing:
            expected = f" Expected GLUE's file, whose columns are separated by tabs, {', '.join(wanted)} among them."
            raise problems.GLUE_COLUMN_MISSING(
                expected=wanted, where=f"{path}, line 1", column=missing[0], found=header, _expected=expected
            )
        at = [header.index(name) for name in wanted]
        for number, line in lines:
            fields = _fields(line)
            if len(fields) <= max(at):
                short += [number] if line.strip() else []
                continue
            for name, index in zip(wanted, at, strict=True):
                columns[name].append(fields[index])
            places.append(number)
    if len(short) > DAMAGED * len(places):
        raise problems.GLUE_FIELDS_TOO_FEW(
            expected=header,
            path=path,
            line=short[0],
            rows=len(short),
            _lines=len(places) + len(short),
            _count=len(header),
        )
    return FileTable(path, columns, places)


def _fields(line: str) -> list[str]:
    return line.removesuffix("\n").removesuffix("\r").split("\t")


def _rows(form: GlueTask, found: FileTable, texts: Sequence[str], label: str) -> LabelledRows:
    _check_columns(found, (*texts, label))
    names = list(_labels(form, found, found.columns[label]))
    kept = [i for i, name in enumerate(names) if name is not None]
    if not kept:
        raise problems.GLUE_UNLABELLED(path=found.path)
    first, *second = ([found.columns[name][i] for i in kept] for name in texts)
    return LabelledRows(
        first,
        second[0] if second else None,
        [name for name in names if name is not None],
        lambda i: found.where(kept[i]),
        form.kind,
        "label" if form.names else SCALE,
        rows=found.rows.take(kept),
    )


def _check_columns(found: FileTable, wanted: Sequence[str]) -> None:
    missing = [name for name in wanted if name not in found.columns]
    if missing:
        raise problems.GLUE_COLUMN_MISSING(where=str(found.path), column=missing[0], found=found.columns, _expected="")


def _labels(form: GlueTask, found: FileTable, values: Sequence[Any]) -> Iterator[Label | None]:
    """Yield the label of each row of a GLUE table; None for a row without a label."""
    names: Mapping[Any, str] = {key: name for i, name in enumerate(form.names) for key in (name, i, str(i))}
    for row, value in enumerate(values):
        if value in GLUE_UNLABELLED:
            yield None
        elif not form.names:
            yield _score(found, row, value)
        elif value in names:
            yield names[value]
        else:
            raise problems.GLUE_LABEL_UNKNOWN(where=found.where(row), label=str(value)[:40], known=form.names)


def _score(found: FileTable, row: int, value: Any) -> float:
    try:
        score = float(value)
    except (TypeError, ValueError):
        score = -1
    if not 0 <= score <= 5:
        raise problems.GLUE_SCORE_MALFORMED(where=found.where(row), found=str(value)[:40])
    return score


@dataclass(frozen=True)
class HubDataset:
    """A data set on the Hub, `owner/name:config`. Without a configuration, the only one or `default` is read."""

    repository: str
    config: str | None = None

    @classmethod
    def parse(cls, address: str) -> HubDataset:
        repository, _, config = address.partition(":")
        owner, slash, name = repository.partition("/")
        if not (owner and slash and name) or "/" in name or " " in repository:
            raise problems.HUB_ADDRESS_MALFORMED(found=repository)
        return cls(repository, config or None)


def load_dataset(place: HubDataset, asked: ReadingOptions, *, offline: bool = False) -> TaskData:
    """Return a task from a data set of the Hub: its training split, and its validation split for evaluation.

    Without a validation split, the test split is used for evaluation. Without a test split, a part of the training
    split is held out. Classes have the data set's names and order. The columns and the kind of task are recognised in
    the same way as for a file. Raises NotFound, InvalidData.
    """
    from afina import hub  # takes a fifth of a second, which other tasks need not spend

    found = hub.converted(place.repository, place.config, offline=offline)
    tables = [
        formats.joined(f"{place.repository}, {split}", [formats.read(path) for path in paths])
        for split, paths in found.items()
    ]
    return files.TableReading.of(tables, asked, published=True).splits()


def is_cached(place: HubDataset | GlueTask) -> bool:
    from afina import hub

    try:
        if isinstance(place, GlueTask):
            hub.dataset_snapshot(REPOSITORY, list(place.patterns().values()), offline=True)
        else:
            hub.converted(place.repository, place.config, offline=True)
    except NotFound:
        return False
    return True
