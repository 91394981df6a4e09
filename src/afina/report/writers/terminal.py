"""Table -> what rich can show. Prints nothing; rich is imported on use.

A figure is never cut short to fit: a table wider than the terminal continues below itself, with its
first columns repeated.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from afina.report.tables import Column, Table

if TYPE_CHECKING:
    from rich.console import RenderableType

GAP = 3
"""Characters that rich puts around and between two columns of this kind of table."""


def rendered(shown: Table, width: int, *, notes: bool = True) -> RenderableType:
    """The table in at most `width` characters, and its notes. Cells are plain text: markup in them has no effect."""
    from rich import box
    from rich.console import Group
    from rich.padding import Padding
    from rich.table import Table as RichTable
    from rich.text import Text

    grids = []
    for part in fitting(shown, width):
        grid = RichTable(title=Text(part.title), title_justify="left", box=box.SIMPLE_HEAD)
        for column, needed in zip(part.columns, _widths(part), strict=True):
            grid.add_column(Text(column.heading), justify=column.align, width=needed, overflow="fold")
        for row in part.rows:
            grid.add_row(*map(Text, row))
        grids.append(grid)
    return Group(*grids, *(Padding(Text(f"- {note}"), (0, 0, 0, 1)) for note in (shown.notes if notes else ())))


def findings(shown: Table, width: int) -> RenderableType:
    """Verdicts or claims, without the remarks, which are sentences; what is missing for a test is a note."""
    headings = [column.heading for column in shown.columns]
    chosen = [index for index, heading in enumerate(headings) if heading != "Remarks"]
    missing = [
        f"{row[0]} is not tested: {row[headings.index('Remarks')]}." for row in shown.rows if row[1] == "not tested"
    ]
    return rendered(_columns(shown, chosen, continued=False, notes=(*shown.notes, *missing)), width)


def fitting(shown: Table, width: int) -> list[Table]:
    """The table in parts that are no wider than `width`, or as narrow as can be; left-aligned columns in each."""
    widths = _widths(shown)
    names = [index for index, column in enumerate(shown.columns) if column.align == "left"]
    figures = [index for index in range(len(shown.columns)) if index not in names]
    room = width - GAP - sum(widths[index] + GAP for index in names)
    parts: list[list[int]] = []
    left = 0
    for index in figures:
        needed = widths[index] + GAP
        if not parts or needed > left:
            parts.append([])
            left = room
        parts[-1].append(index)
        left -= needed
    return [_columns(shown, [*names, *part], continued=number > 0) for number, part in enumerate(parts)] or [shown]


def _columns(shown: Table, chosen: list[int], *, continued: bool, notes: tuple[str, ...] = ()) -> Table:
    title = f"{shown.title}, continued" if continued else shown.title
    columns: tuple[Column, ...] = tuple(shown.columns[index] for index in chosen)
    return Table(title, columns, tuple(tuple(row[index] for index in chosen) for row in shown.rows), notes)


def _widths(shown: Table) -> list[int]:
    """What each column needs: its longest cell, or the longest word of its heading."""
    return [
        max(map(len, [*column.heading.split(), *(row[index] for row in shown.rows)]))
        for index, column in enumerate(shown.columns)
    ]
