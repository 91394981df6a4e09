"""afina store: verify, backup, recover, delete, gc, erase, export-audit."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from afina.cli.options import Json
from afina.cli.store import BlobsOption, ReasonOption, opened, print_object, size
from afina.errors import AfinaError, CorruptStore


def verify(
    context: typer.Context,
    last: Annotated[
        str | None, typer.Option("--last", help="A last hash that you kept: it has to be in the log.", metavar="HASH")
    ] = None,
    as_json: Json = False,
) -> None:
    """Check the digest of every blob, manifest and log entry.

    Damage is listed, and the exit status is then 2.
    """
    store = opened(context)
    with suppress(CorruptStore):  # `verify` lists the damage
        newest = store.log()[-1].hash  # read before verifying, so that this entry is verified too
    damaged = store.verify(last=last)
    if as_json:
        known = {} if damaged else {"last": newest}
        print_object({"ok": not damaged, "damaged": [one.as_json() for one in damaged], **known})
    elif not damaged:
        print(f"store {store.address.shown}: all is as it was left. The log's last hash is {newest}")
    else:
        for one in damaged:
            about = f" (of {', '.join(one.versions)})" if one.versions and (one.id,) != one.versions else ""
            print(f"{one.kind} {one.id}{about}: {one.problem}")
    if damaged:
        raise typer.Exit(AfinaError.exit_code)


def backup(
    context: typer.Context,
    place: Annotated[Path, typer.Argument(help="A new directory, or that of an earlier backup.", metavar="PLACE")],
    as_json: Json = False,
) -> None:
    """Copy the store to a directory and verify the copy.

    Others can write to the store meanwhile.
    """
    made = opened(context).backup(place)
    if as_json:
        print_object(made.as_json())
    else:
        print(
            f"{made.place}: {made.versions} versions, {made.blobs} blobs, {size(made.bytes)} ({made.copied} blobs were "
            f"copied), verified. The log's last hash is {made.last}"
        )


def recover(
    context: typer.Context,
    place: Annotated[Path, typer.Argument(help="The directory that `afina store backup` wrote.", metavar="PLACE")],
    blobs: BlobsOption = None,
    as_json: Json = False,
) -> None:
    """Create a store from a backup and verify it."""
    store = opened(context)
    made = store.recover(place, blobs)
    if as_json:
        print_object(made.as_json())
    else:
        print(
            f"store {store.address.shown}: {made.versions} versions, {made.blobs} blobs, {size(made.bytes)}, recovered "
            f"from {made.place} and verified."
        )


def delete(
    context: typer.Context,
    version: Annotated[str, typer.Argument(help="By its number: CLIENT/TASK@3.", metavar="NAME@VERSION")],
    reason: ReasonOption,
    as_json: Json = False,
) -> None:
    """Delete a version.

    Its number is never used again, and its digests stay in the audit log.
    """
    found = opened(context).delete(version, reason=reason)
    if as_json:
        print_object({"name": found.name, "version": found.number, "digest": found.digest})
    else:
        print(f"{found} deleted. afina store gc removes the bytes that no other version holds.")


def gc(context: typer.Context, as_json: Json = False) -> None:
    """Remove bytes that no version uses."""
    removed = opened(context).gc()
    if as_json:
        print_object(removed.as_json())
    else:
        print(f"{removed.blobs} blobs removed, {size(removed.bytes)}.")


def erase(
    context: typer.Context,
    client: Annotated[str, typer.Argument(help="What stands before the / of its names.", metavar="CLIENT")],
    reason: ReasonOption,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: Json = False,
) -> None:
    """Remove everything of a client: versions, texts, names, bytes.

    Bytes that another client uses stay. The audit log still verifies.
    """
    if not yes:
        typer.confirm(f"Remove all of client {client} for good?", abort=True, err=True)
    removed = opened(context).erase(client, reason=reason)
    if as_json:
        print_object({"client": client, **removed.as_json()})
    else:
        several = "s" if removed.versions != 1 else ""
        print(f"client {client}: {removed.versions} version{several} and {removed.blobs} blobs removed, for good.")


def export_audit(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="Where to write it.", metavar="FILE")],
    as_json: Json = False,
) -> None:
    """Write the audit log as JSON lines.

    A script of thirty lines can verify the file: see docs/reference/store.md.
    """
    count = opened(context).export_audit(file)
    if as_json:
        print_object({"file": str(file), "entries": count})
    else:
        print(f"{file}: {count:,} entries")
