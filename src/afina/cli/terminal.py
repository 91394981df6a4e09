"""Functions that all commands share on the terminal: arguments, streams, signals, errors and printing.

Tables and paragraphs are as wide as the variable COLUMNS says, else as the terminal, else 80 characters.
"""

from __future__ import annotations

import codecs
import errno
import json
import os
import re
import signal
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial, wraps
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import typer

from afina import allocator, file_io
from afina.cli import problems
from afina.cli.option_names import flag, with_flags
from afina.errors import AfinaError, CannotWrite, InvalidData
from afina.events import STATE_DIRECTORY
from afina.pages.marked_text import JOINERS, MarkedText
from afina.sentence import Sentence, visible

if TYPE_CHECKING:
    from afina.events import Says
    from afina.report.tables import Table


_EMPTY = re.compile(r"--[a-z-]+=")
"""Pattern of an option with an empty value, such as `--task=`."""

_JSON_ESCAPES = "afina.json"
"""Name of the codec error handler that writes JSON escapes (`escape_unwritable`)."""


def check_arguments(arguments: Sequence[str]) -> None:
    """Raise InvalidData for an empty option or argument, and for bytes that are not text in the terminal's encoding.

    An unset shell variable leaves an empty argument. An argument with bytes that are not text could not be recorded.
    """
    for number, argument in enumerate(arguments, start=1):
        before = arguments[number - 2] if number > 1 else ""
        if _EMPTY.fullmatch(argument) or (not argument and (number <= 2 or before.startswith("--"))):
            option = argument.removesuffix("=") or before
            place = option if option.startswith("--") and "=" not in option else f"argument {number}"
            raise problems.ARGUMENT_EMPTY(argument=place)
        try:
            argument.encode("utf-8")
        except UnicodeEncodeError:
            shown = os.fsencode(argument).decode("utf-8", "backslashreplace")
            raise problems.NOT_TEXT(found=shown, argument=number) from None


def check_surroundings() -> None:
    """Raise NotFound if the current directory was deleted, and Refused if Python removes all docstrings."""
    try:
        Path.cwd()
    except FileNotFoundError:
        raise problems.CURRENT_DIRECTORY_DELETED() from None
    if sys.flags.optimize > 1:
        raise problems.DOCSTRINGS_REMOVED()


def check_streams() -> None:
    """Open the null device for each closed standard stream, so that no later file gets its file descriptor (0 to 2).

    Raises CannotWrite if standard output is closed, because the output would be lost silently.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, which is `descriptor`
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - open to the end
    if sys.stdin is None:
        sys.stdin = open(os.devnull, encoding="utf-8")  # noqa: SIM115
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
        raise CannotWrite("standard output", "it is closed", advice="Leave out '>&-'")


def escape_unwritable(*streams: TextIO) -> None:
    r"""Let streams escape characters that their encoding lacks (`\u00e9`), so that JSON output stays valid JSON."""
    codecs.register_error(_JSON_ESCAPES, _escaped)
    for stream in streams:
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors=_JSON_ESCAPES)


def _escaped(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)
    units = error.object[error.start : error.end].encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[i]:02x}{units[i + 1]:02x}" for i in range(0, len(units), 2)), error.end


INTERRUPTED, TERMINATED = 130, 143
"""Exit statuses after SIGINT and SIGTERM, as in shells: 128 plus the signal's number."""


class Terminated(KeyboardInterrupt):
    """SIGTERM, which ends a command in the same way as Ctrl-C."""


def _raise(*_: object) -> None:
    raise Terminated


@contextmanager
def sigterm_as_ctrl_c() -> Iterator[None]:
    """Raise Terminated in the block if the process gets SIGTERM, with which services and schedulers end processes."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, _raise)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def exit_status(ended: KeyboardInterrupt) -> int:
    """Return the exit status of a command that Ctrl-C or SIGTERM ended."""
    return TERMINATED if isinstance(ended, Terminated) else INTERRUPTED


@contextmanager
def ends_with(hint: str) -> Iterator[None]:
    """If Ctrl-C or SIGTERM interrupts the block, print the line `hint`, and exit with the signal's status."""
    try:
        with sigterm_as_ctrl_c():
            yield
    except KeyboardInterrupt as ended:
        print(f"\n{hint}", file=sys.stderr)
        raise typer.Exit(exit_status(ended)) from None


@contextmanager
def long_names_refused() -> Iterator[None]:
    """Raise an AfinaError in place of the operating system's error for a file name that is too long."""
    try:
        yield
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        name = os.fsdecode(error.filename or "")[:40]
        raise problems.FILE_NAME_TOO_LONG(found=name) from None


def print_json_error(error: AfinaError) -> None:
    """Print {"error": {class, code, message, fields}} if the command line has --json, and leave it as `error.json`."""
    content = {"error": error.as_json(flag)}
    options = sys.argv[1 : sys.argv.index("--")] if "--" in sys.argv else sys.argv[1:]
    if "--json" in options:
        print(json.dumps(content, ensure_ascii=False))
    _leave("error.json", content)


def _leave(name: str, content: Mapping[str, Any]) -> None:
    """Write a file for the program that has started this command, if that program asks for it by STATE_DIRECTORY."""
    if directory := os.environ.get(STATE_DIRECTORY):
        with suppress(CannotWrite):
            file_io.write_text(Path(directory, name), json.dumps(content, ensure_ascii=False))


USAGE_ERROR: type[Exception] = typer.BadParameter.__mro__[2]
"""The base class of errors in the command line's syntax: click's class, or its copy inside newer versions of typer."""


def reword_value_error(error: Any) -> None:
    """If pydantic refused the value of an option, replace the error's message by afina's."""
    if error.__cause__ is not None:
        from pydantic import ValidationError  # typer has imported it

        from afina.schema import WrongValue

        if isinstance(error.__cause__, ValidationError):
            error.message, error.__cause__ = WrongValue.of(error.__cause__).message, None


def as_usage_error(error: Any) -> InvalidData:
    """Return an error in the command line's syntax as an AfinaError with a message for users."""
    reword_value_error(error)
    return problems.WRONG_USAGE(_message=error.format_message())


def with_room(command: Callable[..., None]) -> Callable[..., None]:
    """Return a command that first checks that the process's memory limit (`ulimit -v`) allows to open a model."""

    @wraps(command)
    def run(*given: Any, **options: Any) -> None:
        allocator.check_address_space()
        command(*given, **options)

    return run


def print_tables(*tables: Table) -> None:
    """Print tables, each followed by an empty line."""
    from rich.console import Console

    from afina.report.writers.terminal import rendered

    console = Console()
    for table in tables:
        console.print(rendered(table, console.width))
        console.print()


def print_prose(text: str) -> None:
    """Print a paragraph, wrapped on a terminal and otherwise on one line. For an empty text, print nothing."""
    from rich.console import Console
    from rich.text import Text

    if text:
        Console().print(Text(text), soft_wrap=not sys.stdout.isatty())


def print_item(name: str, *paragraphs: str) -> None:
    """Print a name with wrapped paragraphs in a second column."""
    from rich.console import Console

    width, before = Console().width, f"{name:<16}"
    for paragraph in paragraphs:
        print(textwrap.fill(paragraph, width, initial_indent=before, subsequent_indent=" " * 16))
        before = " " * 16


def print_columns(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print headings and rows in aligned columns. Without rows, print nothing."""
    if not rows:
        return
    rows = [[printable(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(headings, *rows, strict=True)]
    for row in (headings, *rows):
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        print("  ".join(cells).rstrip())


def print_progress(command: str) -> Says:
    """Return a function that prints a message about the progress of `command`, and leaves it as `progress.json`."""

    def says(words: str) -> None:
        print(f"{command}: {with_flags(words)}", file=sys.stderr, flush=True)
        parts = words.as_json() if isinstance(words, Sentence) else [words]
        _leave("progress.json", {"parts": parts, "share": getattr(words, "share", None)})

    return says


def print_created(store: str) -> None:
    """Print on standard error that `publish` created the store."""
    print(f"store {store}: created, because it did not exist", file=sys.stderr)


def print_choice(where: str, note: str | None) -> None:
    """Print on standard error which run's adapter is used, if several recorded runs match the options."""
    if note is not None:
        print(printable(f"Note: {where}: {note}"), file=sys.stderr)


def print_reading(note: str) -> None:
    """Print the note about how a data file was read on standard error, unless the note is empty."""
    if note:
        print(with_flags(note), file=sys.stderr)


def print_assumed_precision(where: str) -> None:
    """Print that afina assumes float weights for the peft adapter at `where`, and how to name another precision."""
    print(
        f"Note: {where}: peft's files do not say how the backbone's frozen weights were stored in training. The "
        "weights are taken as float. If this is wrong, give the option --precision, such as --precision nf4, to "
        "`afina predict`, `afina evaluate` or `afina store import`.",
        file=sys.stderr,
    )


def printable(text: str, *, lines: bool = False, joiners: bool = False) -> str:
    """Return a text with escaped control characters, which could change the terminal.

    Args:
        lines: Whether to keep line breaks.
        joiners: Whether to keep the joiners that emoji and some scripts need to be shown right.
    """
    return visible(text, "\n" * lines + JOINERS * joiners)


def print_marked(found: MarkedText, labels: Sequence[str]) -> None:
    """Print a text with its marked spans on one line; in colours on a terminal, unless NO_COLOR is set."""
    shown = partial(printable, joiners=True)
    in_colours = sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    print(found.coloured(labels, shown) if in_colours else found.plain(shown))
