"""Tables and paragraphs on standard output, as wide as the terminal is: COLUMNS, its own width, or 80.

Knows how, not what.
"""

from __future__ import annotations

import json
import sys
import textwrap
from functools import wraps
from typing import TYPE_CHECKING, Any

from afina.cli.hints import with_flags
from afina.cli.text import printable
from afina.errors import AfinaError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from afina.report.tables import Table


def print_tables(*tables: Table, show: Callable[[Table, int], object] | None = None) -> None:
    """Print tables, each followed by an empty line; `show` draws one in that many columns."""
    from rich.console import Console

    from afina.report.writers.terminal import rendered

    console = Console()
    for table in tables:
        console.print((show or rendered)(table, console.width))
        console.print()


def print_prose(text: str) -> None:
    """Print a paragraph, if there is any: broken between words on a terminal, else one line, for other programs."""
    from rich.console import Console
    from rich.text import Text

    if text:
        Console().print(Text(text), soft_wrap=not sys.stdout.isatty())


def print_item(name: str, *paragraphs: str, indent: int = 16) -> None:
    """Print what there is to say of a name, beside it, broken between words."""
    from rich.console import Console

    width, before = Console().width, f"{name:<{indent}}"
    for paragraph in paragraphs:
        print(textwrap.fill(paragraph, width, initial_indent=before, subsequent_indent=" " * indent))
        before = " " * indent


def print_columns(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows of words in columns, each as wide as its widest; nothing where there is none."""
    if not rows:
        return
    rows = [[printable(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(headings, *rows, strict=True)]
    for row in (headings, *rows):
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        print("  ".join(cells).rstrip())


def say_begun(store: str) -> None:
    """Say on standard error that the store at that address was begun by what was published to it."""
    print(f"store {store}: begun, for there was none", file=sys.stderr)


def with_json_errors(command: Callable[..., None]) -> Callable[..., None]:
    """The command, which under `--json` prints {"error": {class, code, message, fields}} where it fails.

    The error goes on to `main`, so standard error and the exit status are the same as without `--json`.
    """

    @wraps(command)
    def run(*given: Any, **options: Any) -> None:
        try:
            command(*given, **options)
        except AfinaError as error:
            if options.get("as_json"):
                print(json.dumps({"error": error.as_json(with_flags(str(error)))}, ensure_ascii=False))
            raise

    return run
