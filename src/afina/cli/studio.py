"""afina studio: the library in a browser."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from afina.cli import problems

if TYPE_CHECKING:
    from afina.studio.access import Access

MOST_MB = 2000
"""The default of the largest upload, in megabytes."""


def studio(
    folder: Annotated[
        Path, typer.Argument(help="Folder of the studio's projects and its store.", metavar="FOLDER")
    ] = Path("studio"),
    host: Annotated[
        str, typer.Option("--host", help="Address to listen on. Other than this machine: needs a password.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=1, max=65535, help="Port to listen on.")] = 8765,
    upload_limit: Annotated[
        int, typer.Option("--upload-limit", min=1, help="Most megabytes of an uploaded file.", metavar="MB")
    ] = MOST_MB,
    files: Annotated[
        Path | None,
        typer.Option(
            "--files",
            help="Only folder whose paths the pages may name; default: every path, and none with another --host.",
            metavar="DIR",
            exists=True,
            file_okay=False,
        ),
    ] = None,
    set_password: Annotated[
        bool, typer.Option("--set-password", help="Ask for a password, keep its hash in FOLDER, and exit.")
    ] = False,
) -> None:
    """Go the whole way in a browser: data, plan, runs, answers, and a served adapter.

    Runs go on if the studio or the browser is closed. Everything in FOLDER can be read by the other commands too.
    """
    try:
        from afina.studio import app
    except ModuleNotFoundError as error:
        if str(error.name).partition(".")[0] == "afina":
            raise
        raise problems.PACKAGE_MISSING(package=error.name, extra="studio") from None
    from afina.studio import access
    from afina.studio.folder import StudioFolder
    from afina.studio.page import Studio
    from afina.studio.run_queue import RunQueue

    opened = StudioFolder(folder)
    with opened.locked():
        if set_password:
            access.set_password(opened, typer.prompt("Password", hide_input=True, confirmation_prompt=True))
            return
        who = access.Access(opened, host, port)
        who.check_guarded()
        sockets = app.listen(host, port)
        app.run(Studio(opened, who, RunQueue(opened), upload_limit * 10**6, files), sockets, lambda: _say(who))


def _say(who: Access) -> None:
    token = f"?token={who.token}" if who.local else ""
    print(f"studio: {who.address}{token}", flush=True)
    print("Ctrl-C ends the studio. Runs go on.", file=sys.stderr, flush=True)
