"""The command line: arguments to the nouns of the library, results to the terminal. The only place that prints.

One file a group of commands; this one holds the list of them and what an error looks like. Knows no way of computing
anything. Starts without torch; what a command needs is imported by the command.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Annotated, NoReturn

import typer

from afina import __version__, file_io
from afina.cli import adapters, keys, plan, serving, shadow, store, store_exchange, store_maintenance, studies
from afina.cli.terminal import check_arguments, check_streams, escape_unwritable, with_flags, with_json_errors
from afina.errors import AfinaError

COMMANDS = (
    *(studies.study, studies.train, studies.choose),
    plan.ask,
    *(adapters.evaluate, adapters.compare, adapters.predict),
    *(plan.params, plan.plan, plan.methods),
    *(studies.show, studies.report),
    *(serving.serve, serving.replay, shadow.shadow),
)
"""In the order of `afina --help`."""

STORE: dict[str, Callable[..., None]] = {
    **{"init": store.init, "publish": store.publish, "list": store.list_names, "show": store.show},
    **{"history": store.history, "alias": store.alias, "rollback": store.rollback},
    **{"diff": store_exchange.diff, "check": store_exchange.check, "verify": store_maintenance.verify},
    **{"backup": store_maintenance.backup, "recover": store_maintenance.recover},
    **{"delete": store_maintenance.delete, "gc": store_maintenance.gc, "erase": store_maintenance.erase},
    **{"import": store_exchange.import_adapter, "export": store_exchange.export_adapter},
    **{"export-audit": store_maintenance.export_audit},
}
"""In the order of `afina store --help`."""

KEYS: dict[str, Callable[..., None]] = {"create": keys.create_key, "list": keys.list_keys, "revoke": keys.revoke}
"""In the order of `afina keys --help`."""

app = typer.Typer(
    name="afina",
    help="Which way of adapting a language model to your texts is best, what it costs, and how sure that is.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

for command in COMMANDS:
    if command is serving.serve:
        app.command(cls=serving.Settable, context_settings=serving.SETTINGS)(command)
    else:
        app.command()(with_json_errors(command))
for name, of_store in STORE.items():
    store.app.command(name)(with_json_errors(store.with_store(of_store)))
app.add_typer(store.app)
for name, of_keys in KEYS.items():
    keys.app.command(name)(with_json_errors(store.with_store(of_keys)))
app.add_typer(keys.app)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"afina {__version__}")
        raise typer.Exit


@app.callback()
def _top(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command line; an error of the user's is one or two lines and exit status 2."""
    try:
        check_streams()
        escape_unwritable(sys.stdout, sys.stderr)
        check_arguments(sys.argv[1:])
        with file_io.writing("standard output"):
            try:
                app()
            finally:
                sys.stdout.flush()
    except AfinaError as error:
        print(f"Error: {with_flags(str(error))}", file=sys.stderr)
        _leave(error.exit_code)
    except BrokenPipeError:
        _leave(1)  # the reader of our output has left (`afina show OUT | head`); there is nobody to tell


def _leave(code: int) -> NoReturn:
    """Exit; what standard output did not take goes nowhere, instead of failing once more at the interpreter's end."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(code)
