"""What a database says where it fails, in our words and without its password. Knows no table."""

from __future__ import annotations

from sqlalchemy.exc import DBAPIError

from afina.errors import AfinaError, Busy, CannotWrite, CorruptStore, NotFound
from afina.store.address import Address

# Of SQLite its names, of PostgreSQL its SQLSTATE, or how these begin.
_BUSY = ("SQLITE_BUSY", "SQLITE_LOCKED", "55P03", "40")  # lock not available, transaction rolled back
_CLOSED = (
    *("SQLITE_FULL", "SQLITE_IOERR", "SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_PERM", "SQLITE_NOLFS"),
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
    if address.directory is not None:
        return CorruptStore(
            f"{where}: its database is damaged ({said}). Restore {address.url} from a backup; the blobs beside it are "
            "as they were."
        )
    if code.startswith(_ABSENT):
        return NotFound(f"{where}: {said}. Begin one: afina store init --blobs URL.")
    return NotFound(
        f"{where}: the database does not answer as expected ({said}). Try again; if it was to be changed, look first "
        "whether it was."
    )


def busy(address: Address, patience: float) -> Busy:
    """Others did not come to an end."""
    return Busy(f"store {address.shown}: others use it, and did not end within {patience:g} seconds. Try again.")
