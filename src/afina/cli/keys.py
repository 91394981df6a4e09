"""afina keys: create, list and revoke the keys of a server's clients."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from afina import file_io
from afina.cli.help import CommandGroup
from afina.cli.options import Json
from afina.cli.store import CreateOption, NoteOption, minute, opened, print_answer, print_object, ready, store_options
from afina.cli.terminal import print_columns

app = typer.Typer(
    name="keys",
    help="Create, list and revoke the keys of a server's clients. The store has only hashes of keys.",
    cls=CommandGroup,
    no_args_is_help=True,
    rich_markup_mode=None,
)
app.callback()(store_options)

HEADINGS = (
    *("id", "client", "name", "scopes", "tokens a minute", "tokens a text"),
    *("created (UTC)", "expires", "revoked", "who", "why"),
)
ClientArgument = Annotated[
    str, typer.Argument(help="Name of the client: the part of its adapters' names before the slash.", metavar="CLIENT")
]


def create_key(
    context: typer.Context,
    client: ClientArgument,
    scope: Annotated[
        list[str],
        typer.Option("--scope", help="Scope: predict, publish, metrics or admin; may be repeated."),
    ] = ["predict"],  # noqa: B006 - typer copies it
    rate: Annotated[
        int | None,
        typer.Option("--rate", help="Most tokens per minute for this key; default: the rate of the server."),
    ] = None,
    text_tokens: Annotated[
        int | None,
        typer.Option("--text-tokens", help="Most tokens of a text of this key; default: the limits of the server."),
    ] = None,
    name: Annotated[str | None, typer.Option("--name", help="Name of the key, such as 'billing service'.")] = None,
    expires: Annotated[
        str | None,
        typer.Option("--expires", help="When the key expires: after 90d or 12h, or on a date (UTC).", metavar="WHEN"),
    ] = None,
    to: Annotated[
        Path | None,
        typer.Option(
            "--to",
            help="Write the key to a new file that only this user can read (mode 0600); default: print the key.",
            metavar="FILE",
        ),
    ] = None,
    create: CreateOption = False,
    message: NoteOption = None,
    as_json: Json = False,
) -> None:
    """Create a key for a client.

    The command prints the key once, alone on standard output, or writes the key to a file. The store keeps only a hash
    of the key.
    """
    store = opened(context)
    ready(store, create)
    with nullcontext() if to is None else file_io.private(to) as file:
        made = store.create_key(
            client, scope, rate=rate, text_tokens=text_tokens, name=name, expires=expires, message=message
        )
        if file is not None:
            print(made.secret, file=file)
    if as_json:
        print_object({**made.key.as_json(), **({"secret": made.secret} if to is None else {"to": str(to)})})
    else:
        scopes = ", ".join(made.key.scopes)
        ends = f", until {minute(made.key.expires)} UTC" if made.key.expires else ""
        where = "afina does not show the key again:" if to is None else f"The key is in {to}."
        print(f"key {made.key.id} of {client} ({scopes}){ends}. {where}", file=sys.stderr)
        if to is None:
            print(made.secret)  # standard output has only the key, for KEY=$(afina keys create CLIENT)


def list_keys(
    context: typer.Context,
    client: Annotated[str | None, typer.Argument(help="List only the keys of this client.", metavar="CLIENT")] = None,
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
            *(
                "damaged" if one.problem else "-" if limit is None else f"{limit:,}"
                for limit in (one.rate, one.text_tokens)
            ),
            minute(one.created),
            "-"
            if one.expires is None
            else f"{minute(one.expires)}{'' if one.is_valid or one.revoked else ', expired'}",
            "-" if one.revoked is None else minute(one.revoked),
            one.who or "-",
            one.why or "-",
        )
        for one in found
    ]
    print_columns(HEADINGS, rows)
    for one in found:
        if one.problem:
            print(f"Key {one.id}: {one.problem}. Servers refuse this key. Revoke the key: afina keys revoke {one.id}")
    if not found:
        print("The store has no key yet. Create a key: afina keys create CLIENT")


def revoke(
    context: typer.Context,
    key: Annotated[str, typer.Argument(help="Id of the key, as in `afina keys list`.", metavar="ID")],
    message: NoteOption = None,
    as_json: Json = False,
) -> None:
    """Revoke a key.

    Servers refuse the revoked key within a second.
    """
    found = opened(context).revoke_key(key, message=message)
    print_answer(found.as_json(), f"key {found.id} of {found.client}: revoked", as_json)
