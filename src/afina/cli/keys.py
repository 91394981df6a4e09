"""afina keys: who may ask a server, as which client, and for what."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from afina.cli.options import Json
from afina.cli.store import CreateOption, NoteOption, minute, opened, print_object, ready, store_options
from afina.cli.terminal import print_columns

app = typer.Typer(
    name="keys",
    help="Keys of clients for a server: make, list and revoke them. They are in the store, as hashes.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
app.callback()(store_options)

HEADINGS = (
    *("id", "client", "name", "scopes", "tokens a minute", "created (UTC)", "expires", "revoked", "who", "why"),
)
ClientArgument = Annotated[str, typer.Argument(help="What stands before the / of its names.", metavar="CLIENT")]


def create_key(
    context: typer.Context,
    client: ClientArgument,
    scope: Annotated[
        list[str], typer.Option("--scope", help="What it may do: predict, publish, admin; may be repeated.")
    ] = ["predict"],  # noqa: B006 - typer copies it
    rate: Annotated[
        int | None,
        typer.Option("--rate", help="Tokens a minute that it may ask for; by default what the server says."),
    ] = None,
    name: Annotated[str | None, typer.Option("--name", help="What to call it, such as 'billing service'.")] = None,
    expires: Annotated[
        str | None,
        typer.Option("--expires", help="When it ends by itself: 90d, 12h, or a date (UTC).", metavar="WHEN"),
    ] = None,
    create: CreateOption = False,
    message: NoteOption = None,
    as_json: Json = False,
) -> None:
    """Create a key.

    The key is printed once, alone on standard output. The store keeps only its hash.
    """
    store = opened(context)
    ready(store, create)
    made = store.create_key(client, scope, rate=rate, name=name, expires=expires, message=message)
    if as_json:
        print_object({**made.key.as_json(), "secret": made.secret})
    else:
        scopes = ", ".join(made.key.scopes)
        ends = f", until {minute(made.key.expires)} UTC" if made.key.expires else ""
        print(f"key {made.key.id} of {client} ({scopes}){ends}. It is not shown again:", file=sys.stderr)
        print(made.secret)  # alone there, for KEY=$(afina keys create CLIENT)


def list_keys(
    context: typer.Context,
    client: Annotated[str | None, typer.Argument(help="Only this client's.", metavar="CLIENT")] = None,
    as_json: Json = False,
) -> None:
    """List the ids of keys, including revoked keys."""
    found = opened(context).keys(client)
    if as_json:
        print_object({"keys": [one.as_json() for one in found]})
        return
    rows = [
        (
            one.id,
            one.client,
            one.name or "-",
            ", ".join(one.scopes),
            "damaged" if one.problem else "-" if one.rate is None else f"{one.rate:,}",
            minute(one.created),
            "-" if one.expires is None else f"{minute(one.expires)}{'' if one.is_valid or one.revoked else ', past'}",
            "-" if one.revoked is None else minute(one.revoked),
            one.who or "-",
            one.why or "-",
        )
        for one in found
    ]
    print_columns(HEADINGS, rows)
    for one in found:
        if one.problem:
            print(f"Key {one.id}: {one.problem}. No server lets it pass. Revoke it: afina keys revoke {one.id}")
    if not found:
        print("No key yet. Make one: afina keys create CLIENT")


def revoke(
    context: typer.Context,
    key: Annotated[str, typer.Argument(help="Its id, as `afina keys list` shows it.", metavar="ID")],
    message: NoteOption = None,
    as_json: Json = False,
) -> None:
    """Revoke a key. Servers refuse it within a second."""
    found = opened(context).revoke_key(key, message=message)
    if as_json:
        print_object(found.as_json())
    else:
        print(f"key {found.id} of {found.client}: revoked")
