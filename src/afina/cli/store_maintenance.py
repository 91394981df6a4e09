"""afina store: verify, backup, recover, delete, gc, erase, export-audit."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from afina.cli.options import Json
from afina.cli.store import BlobsOption, ReasonOption, opened, print_answer, print_object, size
from afina.errors import AfinaError, CorruptStore


def verify(
    context: typer.Context,
    last: Annotated[
        str | None,
        typer.Option(
            "--last",
            help="Last hash that an earlier run printed. The audit log must contain this hash.",
            metavar="HASH",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Check the digest of every blob, manifest and log entry.

    If there is damage, the command lists the damage and exits with status 2.
    """
    store = opened(context)
    with suppress(CorruptStore):  # `verify` lists the damage
        newest = store.log()[-1].hash  # read before verifying, so that this entry is verified too
    damaged = store.verify(last=last)
    if as_json:
        known = {} if damaged else {"last": newest}
        print_object({"ok": not damaged, "damaged": [one.as_json() for one in damaged], **known})
    elif not damaged:
        print(f"store {store.address.shown}: no damage. The last hash of the audit log is {newest}")
    else:
        for one in damaged:
            about = f" (of {', '.join(one.versions)})" if one.versions and (one.id,) != one.versions else ""
            print(f"{one.kind} {one.id}{about}: {one.problem}")
    if damaged:
        raise typer.Exit(AfinaError.exit_code)


def backup(
    context: typer.Context,
    place: Annotated[
        Path, typer.Argument(help="A new directory, or the directory of an earlier backup.", metavar="PLACE")
    ],
    as_json: Json = False,
) -> None:
    """Copy the store to a directory and verify the copy.

    Other processes can write to the store during the backup.
    """
    made = opened(context).backup(place)
    text = (
        f"{made.place}: {made.versions} versions, {made.blobs} blobs, {size(made.bytes)} ({made.copied} blobs were "
        f"copied), verified. The last hash of the audit log is {made.last}"
    )
    print_answer(made.as_json(), text, as_json)


def recover(
    context: typer.Context,
    place: Annotated[Path, typer.Argument(help="Directory that `afina store backup` wrote.", metavar="PLACE")],
    blobs: BlobsOption = None,
    as_json: Json = False,
) -> None:
    """Create a store from a backup and verify it."""
    store = opened(context)
    made = store.recover(place, blobs)
    text = (
        f"store {store.address.shown}: {made.versions} versions, {made.blobs} blobs, {size(made.bytes)}, recovered "
        f"from {made.place} and verified."
    )
    print_answer(made.as_json(), text, as_json)


def delete(
    context: typer.Context,
    version: Annotated[str, typer.Argument(help="Version, with its number: CLIENT/TASK@3.", metavar="NAME@VERSION")],
    reason: ReasonOption,
    as_json: Json = False,
) -> None:
    """Delete a version.

    The number of the version is never used again. The audit log keeps the digests of the version.
    """
    found = opened(context).delete(version, reason=reason)
    content = {"name": found.name, "version": found.number, "digest": found.digest}
    text = f"{found} deleted. `afina store gc` removes the blobs that no other version uses."
    print_answer(content, text, as_json)


def gc(context: typer.Context, as_json: Json = False) -> None:
    """Remove blobs that no version uses."""
    removed = opened(context).gc()
    print_answer(removed.as_json(), f"{removed.blobs} blobs removed, {size(removed.bytes)}.", as_json)


def erase(
    context: typer.Context,
    client: Annotated[
        str,
        typer.Argument(help="Name of the client: the part of its adapters' names before the slash.", metavar="CLIENT"),
    ],
    reason: ReasonOption,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")] = False,
    as_json: Json = False,
) -> None:
    """Remove all data of a client: versions, texts, names and blobs.

    Blobs that another client uses are kept. The audit log can still be verified.
    """
    if not yes:
        typer.confirm(f"Permanently remove all data of client {client}?", abort=True, err=True)
    removed = opened(context).erase(client, reason=reason)
    several = "s" if removed.versions != 1 else ""
    text = f"client {client}: {removed.versions} version{several} and {removed.blobs} blobs permanently removed."
    print_answer({"client": client, **removed.as_json()}, text, as_json)


def export_audit(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="File to write.", metavar="FILE")],
    as_json: Json = False,
) -> None:
    """Write the audit log as JSON lines.

    docs/reference/store.md has a script of thirty lines that verifies the file.
    """
    count = opened(context).export_audit(file)
    print_answer({"file": str(file), "entries": count}, f"{file}: {count:,} entries", as_json)
