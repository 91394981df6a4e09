"""Data sets of the Hub, by the parquet files that it makes of them. Knows columns, and no name of a data set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from afina.data.kinds import CLASSES
from afina.data.readers import columns, files, table
from afina.data.readers.files import ReadOptions
from afina.data.readers.splitting import TaskData
from afina.data.readers.table import Table
from afina.data.readers.target_kinds import of_kind
from afina.errors import NotFound

UNLABELLED = -1
"""Of a class, where a test split keeps it back."""


@dataclass(frozen=True)
class HubDataset:
    """`owner/name:config` on the Hub; no config: the only one, or `default`."""

    repository: str
    config: str | None = None

    @classmethod
    def parse(cls, told: str) -> HubDataset:
        """Raises NotFound where it cannot be one."""
        repository, _, config = told.partition(":")
        owner, slash, name = repository.partition("/")
        if not (owner and slash and name) or "/" in name or " " in repository:
            raise NotFound(
                f"no data set is called {repository!r}. Expected hub:OWNER/NAME or hub:OWNER/NAME:CONFIG.",
                code="task.missing",
            )
        return cls(repository, config or None)


def load(
    place: HubDataset, asked: ReadOptions, labels: Sequence[str] | None = None, *, offline: bool = False
) -> TaskData:
    """The training split, and its validation split or else its test split; without either, a part of the former.

    A column of classes has the names that the data set gives them, in its order. Columns and kind are found as those
    of a file. Raises NotFound, InvalidData.
    """
    from afina import hub  # takes a fifth of a second, which other tasks need not spend

    found = hub.converted(place.repository, place.config, offline=offline)
    tables = [
        table.joined(f"{place.repository}, {split}", [table.read(path) for path in paths])
        for split, paths in found.items()
    ]
    chosen = columns.choose(tables[0], asked.text, asked.text_pair, asked.label, first=True)
    named = chosen.labels[0] if len(chosen.labels) == 1 else ""
    names = tables[0].classes.get(named, ())
    if not names or (asked.kind is not None and not of_kind(asked.kind).named):
        return files.of_tables(*tables, asked=asked, names=labels, published=True)
    tables = [_labelled(_named(each, named, names), named) for each in tables]
    if len(tables) == 2 and not tables[1].places:  # a test split whose labels are kept back
        tables = tables[:1]
    single = not any(isinstance(value, list) for value in tables[0].columns[named])
    if labels is None:
        occurring = {name for value in tables[0].columns[named] for name in ([value] if single else value or ())}
        labels = [name for name in names if name in occurring]
    asked = replace(asked, kind=CLASSES) if single and asked.kind is None else asked
    return files.of_tables(*tables, asked=asked, names=labels, published=True)


def is_cached(place: HubDataset) -> bool:
    """Whether `load` needs no network."""
    from afina import hub

    try:
        hub.converted(place.repository, place.config, offline=True)
    except NotFound:
        return False
    return True


def _named(found: Table, column: str, names: Sequence[str]) -> Table:
    """The names of classes in place of their numbers."""

    def name(value: Any) -> Any:
        if isinstance(value, list):
            return [name(each) for each in value]
        return names[value] if isinstance(value, int) and 0 <= value < len(names) else value

    if column not in found.columns:  # which is told where the columns are chosen
        return found
    return replace(found, columns=found.columns | {column: [name(value) for value in found.columns[column]]})


def _labelled(found: Table, column: str) -> Table:
    kept = [i for i, value in enumerate(found.columns.get(column, found.places)) if value != UNLABELLED]
    return replace(
        found,
        columns={name: [values[i] for i in kept] for name, values in found.columns.items()},
        places=[found.places[i] for i in kept],
    )
