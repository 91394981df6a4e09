"""The command line, which passes arguments to the library and prints results. No other package of afina prints.

Each module has a group of commands; this file lists all commands and prints errors. The package `cli` does not know how
results are computed. The command line starts without torch: each command imports the modules that it needs.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from functools import cache
from typing import Annotated, Any, NoReturn

import typer
from typer.main import get_command

from afina import __version__, allocator, file_io, openmp
from afina.cli import (
    adapters,
    asking,
    doubts,
    drift,
    inspection,
    keys,
    methods,
    next_texts,
    option_names,
    plan,
    serving,
    shadow,
    store,
    store_exchange,
    store_maintenance,
    studies,
    studio,
    torchrun,
)
from afina.cli.help import START, GroupedCommand
from afina.cli.terminal import (
    USAGE_ERROR,
    as_usage_error,
    check_arguments,
    check_streams,
    check_surroundings,
    escape_unwritable,
    long_names_refused,
    print_json_error,
    printable,
    with_room,
)
from afina.errors import AfinaError, OutOfMemory
from afina.events import Listener, downloads_told

COMMANDS = (
    *(studies.study, studies.train, studies.choose),
    *(inspection.inspect, doubts.doubts, asking.ask, next_texts.next_),
    *(adapters.evaluate, adapters.compare, adapters.predict),
    *(methods.params, plan.plan, methods.methods),
    *(studies.show, studies.report, studies.texts),
    *(serving.serve, serving.replay, shadow.shadow, drift.drift),
    studio.studio,
)
"""Commands in the order of `afina --help`."""

LIGHT = (
    methods.methods,
    inspection.inspect,
    studies.show,
    studies.report,
    studies.texts,
    shadow.shadow,
    drift.drift,
    studio.studio,
)
"""The functions of COMMANDS that open no model."""

STORE: dict[str, Callable[..., None]] = {
    **{"init": store.init, "publish": store.publish, "list": store.list_names, "show": store.show},
    **{"history": store.history, "alias": store.alias, "canary": store.canary, "rollback": store.rollback},
    **{"diff": store_exchange.diff, "check": store_exchange.check, "verify": store_maintenance.verify},
    **{"backup": store_maintenance.backup, "recover": store_maintenance.recover},
    **{"delete": store_maintenance.delete, "gc": store_maintenance.gc, "erase": store_maintenance.erase},
    **{"import": store_exchange.import_adapter, "export": store_exchange.export_adapter},
    **{"export-audit": store_maintenance.export_audit},
}
"""Commands of `afina store`, in the order of `afina store --help`."""

KEYS: dict[str, Callable[..., None]] = {"create": keys.create_key, "list": keys.list_keys, "revoke": keys.revoke}
"""Commands of `afina keys`, in the order of `afina keys --help`."""

app = typer.Typer(
    name="afina",
    help="Find the best way to adapt a language model to your texts, with its costs and its confidence.",
    invoke_without_command=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

OWN: dict[Callable[..., None], dict[str, Any]] = {
    next_texts.next_: {"name": "next"},
    serving.serve: {"cls": serving.Settable, "context_settings": serving.SETTINGS},
    drift.drift: {"cls": drift.DriftCommand},
}
"""The arguments with which commands are added that need others than the rest."""

for command in COMMANDS:
    run = command if command in LIGHT else with_room(command)
    app.command(**{"cls": GroupedCommand, **OWN.get(command, {})})(run)
for name, of_store in STORE.items():
    store.app.command(name, cls=GroupedCommand)(store.with_store(of_store))
app.add_typer(store.app)
for name, of_keys in KEYS.items():
    keys.app.command(name, cls=GroupedCommand)(store.with_store(of_keys))
app.add_typer(keys.app)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"afina {__version__}")
        raise typer.Exit


@app.callback()
def _top(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    if context.invoked_subcommand is None:
        print(START)


def _status(error: AfinaError) -> int:
    """Return the exit status after an error, also after one that was found before the command began."""
    commands: dict[str, Any] = get_command(app).commands  # type: ignore[attr-defined]
    own = getattr(commands.get(next(iter(sys.argv[1:]), "")), "error_status", None)
    return error.exit_code if own is None else own


def main() -> None:
    """Run the command line. For an AfinaError, print one or two lines and exit with the error's status (usually 2)."""
    allocator.collect_seldom()
    openmp.wait_briefly()
    option_names.begin(None)
    try:
        check_streams()
        file_io.drop_unwritable_messages()
        escape_unwritable(sys.stdout, sys.stderr)
        check_arguments(sys.argv[1:])
        check_surroundings()
        told = downloads_told(lambda download: _downloads()(download))
        with file_io.writing("standard output"), told, allocator.memory_errors(), long_names_refused():
            try:
                torchrun.begin(sys.argv[1:])
                status = app(standalone_mode=False)  # the errors of this mode are raised
            finally:
                torchrun.end()
                sys.stdout.flush()
    except AfinaError as error:
        print(f"Error: {printable(error.said(option_names.flag), lines=True)}", file=sys.stderr)
        print_json_error(error)
        if isinstance(error, OutOfMemory):
            allocator.end_at_once(_status(error))
        _leave(_status(error))
    except USAGE_ERROR as error:
        found = as_usage_error(error)
        error.show()  # type: ignore[attr-defined]
        print_json_error(found)
        _leave(_status(found))
    except BrokenPipeError:
        _leave(1)  # the reader of the pipe has ended, as in `afina show OUT | head`
    except typer.Abort:  # a question was not answered with yes
        print("Aborted.", file=sys.stderr)
        _leave(1)
    if status:
        _leave(status)


@cache
def _downloads() -> Listener:
    from afina.cli.progress import Downloads  # its imports take time that most commands do not need

    return Downloads()


def _leave(code: int) -> NoReturn:
    """Exit with `code`. Output that cannot be written is dropped, so that the interpreter does not fail at its end."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(code)
