"""Tables of a report as renderables of the package rich, for a terminal. The module prints nothing.

A number in a table is never cut or wrapped. If a table is wider than the terminal, names and texts are wrapped between
words. If the wrapped table is still too wide, the table is split into parts that repeat the first columns. If a part is
still too wide, each table row is printed as several lines, one per column.
"""

from __future__ import annotations

import re
import textwrap
from typing import TYPE_CHECKING

from afina.report.tables import Table

if TYPE_CHECKING:
    from rich.console import RenderableType

GAP = 2
"""The number of spaces between two columns of a table."""

NARROW, UNBROKEN = 16, 24
"""The least width of a text column, and the longest word that is not broken, both in characters."""

Widths = dict[int, int]
"""The widths of columns in characters, by the index of the column."""


def rendered(shown: Table, width: int) -> RenderableType:
    """Return a table of at most `width` characters with its notes; rich markup in cells has no effect."""
    from rich.console import Group
    from rich.text import Text

    parts = layout(shown, width)
    grids: list[RenderableType] = []
    for number, widths in enumerate(parts):
        title = Text(f"{shown.title}, continued" if number else shown.title, style="italic")
        grids += [*([Text()] if number else []), title, _grid(shown, widths)]
    if not parts:
        grids = [
            Text(shown.title, style="italic"),
            *(Text(line) for row in shown.rows for line in _stacked(shown, row, width)),
        ]
    said = (textwrap.wrap(f"- {note}", width, initial_indent=" ", subsequent_indent="   ") for note in shown.notes)
    return Group(*grids, *(Text(line) for lines in said for line in lines))


def layout(shown: Table, width: int) -> list[Widths]:
    """Return the parts into which a table is split, each with the widths of its columns; empty if no split fits.

    The table is one part if it fits, if necessary without its minor columns. Each part has the columns that name a row.
    """
    natural = {place: _natural(shown, place) for place in range(len(shown.columns))}
    least = {place: _least(shown, place, natural[place]) for place in natural}
    essential = {place: needed for place, needed in least.items() if not shown.columns[place].minor}
    for candidate in (least, essential):
        if _taken(candidate) <= width:
            return [_widened(candidate, natural, width)]
    whole = _parts(shown, natural, least, width)  # names stay unwrapped if that needs no more parts
    broken = _parts(shown, least, least, width)
    parts = whole if whole and len(whole) <= len(broken) else broken
    return [_widened(part, natural, width) for part in parts]


def _parts(shown: Table, names: Widths, least: Widths, width: int) -> list[Widths]:
    naming = next((place for place, one in enumerate(shown.columns) if one.align == "right"), 1)
    naming = min(naming, len(least))
    repeated, parts = {place: names[place] for place in range(naming)}, list[Widths]()
    for place in range(naming, len(least)):
        if not parts or _taken({**parts[-1], place: least[place]}) > width:
            parts.append(dict(repeated))
        parts[-1][place] = least[place]
    return [] if any(_taken(part) > width for part in parts) else parts


def _taken(widths: Widths) -> int:
    return sum(widths.values()) + GAP * (len(widths) - 1)


def _natural(shown: Table, place: int) -> int:
    """Return the width of a column without wrapping: its longest cell, or the longest word of its heading."""
    return max(map(len, [*shown.columns[place].heading.split(), *(row[place] for row in shown.rows)]), default=0)


def _least(shown: Table, place: int, natural: int) -> int:
    """Return the least width of a column: that of its longest number, or for texts enough for the longest word."""
    if shown.columns[place].align == "right":
        return natural
    words = [word for row in shown.rows for word in re.split(r"\s+|(?<=-)", row[place])]
    longest = min(UNBROKEN, max(map(len, words), default=0))
    return min(natural, max(NARROW, longest, *map(len, shown.columns[place].heading.split()), 0))


def _widened(widths: Widths, natural: Widths, width: int) -> Widths:
    """Return the widths of columns after the most wrapped columns got the characters that were left of `width`."""
    made = dict(widths)
    for _ in range(width - _taken(made)):
        place = max(made, key=lambda one: natural[one] - made[one])
        if made[place] < natural[place]:
            made[place] += 1
    return made


def _grid(shown: Table, widths: Widths) -> RenderableType:
    from rich import box
    from rich.table import Table as RichTable
    from rich.text import Text

    grid = RichTable(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, GAP - 1, 0, 0))
    for place, needed in widths.items():
        column = shown.columns[place]
        grid.add_column(Text(column.heading), justify=column.align, width=needed, overflow="fold")
    for row in shown.rows:
        grid.add_row(*(Text("\n".join(_broken(row[place], needed))) for place, needed in widths.items()))
    return grid


def _broken(cell: str, width: int) -> list[str]:
    """Return a table cell as wrapped lines; lines after the first are indented, so that they do not look like a row."""
    return textwrap.wrap(cell, width, subsequent_indent=" ") if len(cell) > width else [cell]


def _stacked(shown: Table, row: tuple[str, ...], width: int) -> list[str]:
    name, *cells = row
    lines = textwrap.wrap(name, width)
    for column, cell in zip(shown.columns[1:], cells, strict=True):
        lines += textwrap.wrap(f"{column.heading}: {cell}", width, initial_indent="  ", subsequent_indent="    ")
    return lines
