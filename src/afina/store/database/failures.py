"""What a database says where it fails, in our words and without its password. Knows no table."""

from __future__ import annotations

from sqlalchemy.exc import DBAPIError

from afina.errors import AfinaError, Busy, CannotWrite, CorruptStore, NotFound
from afina.store.database.address import Address

# Of SQLite its names, of PostgreSQL its SQLSTATE, or how these begin.
_BUSY = ("SQLITE_BUSY", "SQLITE_LOCKED", "55P03", "40")  # lock not available, transaction rolled back
_CLOSED = (
    *("SQLITE_FULL", "SQLITE_IOERR", "SQLITE_READONLY", "SQLITE_PERM", "SQLITE_NOLFS"),
    *("53", "25006", "42501", "58030"),  # insufficient resources, read only, no privilege, I/O error
)
_ABSENT = ("3D000", "42P01", "3F000")  # no such database, table, schema


def told(error: DBAPIError, address: Address, secret: object, patience: float) -> AfinaError:
    """The error to raise instead. patience: the seconds that were waited for others."""
    where, said = f"store {address.shown}", " ".join(str(error.orig).split())[:200]
    if secret:
        said = said.replace(str(secret), "***")
    code = getattr(error.orig, "sqlite_errorname", None) or getattr(error.orig, "sqlstate", None) or ""
    if code.startswith(_BUSY):
        return busy(address, patience)
    if code.startswith(_CLOSED):
        return CannotWrite(where, said)
    if code.startswith("SQLITE_CANTOPEN"):
        return NotFound(
            f"{where}: {address.url} cannot be opened. It has to be a file that you may read.",
            code="store.unreachable",
            store=address.shown,
        )
    if address.directory is not None:
        return CorruptStore(damaged(address, said), code="store.database-damaged", store=address.shown)
    if code.startswith(_ABSENT):
        return NotFound(
            f"{where}: {said}. Begin one: afina store init --blobs URL.", code="store.missing", store=address.shown
        )
    return NotFound(
        f"{where}: the database does not answer as expected ({said}). Try again; if it was to be changed, look first "
        "whether it was.",
        code="store.unreachable",
        store=address.shown,
    )


def damaged(address: Address, problem: str) -> str:
    """What to say of a database that is not as it was left."""
    where = address.url if address.directory is not None else "it"
    return (
        f"store {address.shown}: its database is damaged ({problem}). Restore {where} from a backup; the blobs are as "
        "they were."
    )


def foreign(address: Address) -> str:
    """What to say of a database in which other tables are."""
    return f"store {address.shown}: holds tables of another program. Give an empty database, or another directory."


def busy(address: Address, patience: float) -> Busy:
    """Others did not come to an end."""
    return Busy(
        f"store {address.shown}: others use it, and did not end within {patience:g} seconds. Try again.",
        code="store.busy",
        store=address.shown,
        seconds=patience,
    )
