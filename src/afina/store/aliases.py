"""Aliases that point to versions, such as `production`.

An alias is moved by compare-and-swap, and the audit log records every move.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from enum import Enum
from typing import Any

from sqlalchemy import Connection, delete, insert, select, update

from afina.store import audit_log, catalog, problems
from afina.store.catalog import NameRow
from afina.store.database import Database
from afina.store.database.tables import ALIASES, LIVE, VERSIONS
from afina.store.versions import CANARY, PRODUCTION, AliasMove, Canary, Name, Reference, check_alias


class Anything(Enum):
    """The type of ANY, the value of `expected` that lets an alias point to any version before the move."""

    ANY = "any"


ANY = Anything.ANY

ALIAS, ROLLBACK, UNALIAS = "alias", "rollback", "unalias"
"""Events of the audit log: an alias was set, rolled back or removed."""


def move(
    database: Database,
    reference: Reference,
    alias: str,
    *,
    expected: int | Anything | None,
    share: float | None,
    force: bool,
    who: str | None,
    why: str | None,
) -> AliasMove:
    """Point an alias to a version.

    Args:
        expected: the number of the version that the alias must point to before the move. None: the alias must not
            exist. ANY: no condition.
        share: for the alias `canary`, the percentage of the requests for `production` that the version answers.
        force: whether to move the alias even if the latest golden test of the version failed.

    Raises:
        Conflict: the alias does not point to the expected version.
        Refused: the latest golden test of the version failed, or the reference has no version.
        InvalidName: the share is missing, is not between 0 and 100, or the alias is not `canary`.
    """
    check_alias(alias)
    _check_share(alias, share)
    with _moving(database) as connection:
        named, number = catalog.resolve(connection, reference)
        if reference == Reference(reference.name):
            raise problems.NUMBER_MISSING(name=reference.name, reference=str(reference), number=number)
        before = catalog.aliases_of(connection, named).get(alias)
        if not isinstance(expected, Anything) and expected != before:
            raise problems.ALIAS_MOVED(found=_shown(before), expected=_shown(expected), name=named.name, alias=alias)
        made = replace(_point(connection, named, alias, before, number, force=force), share=share)
        _log(connection, ALIAS, named, made, force, who, why)
        return made


@contextmanager
def _moving(database: Database) -> Iterator[Connection]:
    """Begin a write transaction with crash points around the commit."""
    with database.writing() as connection:
        yield connection
        audit_log.crash_point("alias: in the transaction")
    audit_log.crash_point("alias: committed")


def _check_share(alias: str, share: float | None) -> None:
    if (share is not None) != (alias == CANARY):
        raise problems.SHARE_OF_ALIAS(found="none" if share is None else f"{share:g}", alias=alias, share=share)
    if share is not None and not 0 < share < 100:
        raise problems.SHARE_INVALID(alias=alias, share=share)


def canary(connection: Connection, name: Name) -> Canary | None:
    """Return the canary version of a name and its share of the requests; None if the name has no canary version."""
    named = catalog.name_row(connection, name)
    number = None if named is None else catalog.aliases_of(connection, named).get(CANARY)
    if named is None or number is None:
        return None
    moves = [
        entry.payload
        for entry in audit_log.entries(connection, (ALIAS,), named.subject)
        if entry.payload["alias"] == CANARY
    ]
    return Canary(str(name), number, float(moves[-1]["share"]))


def promote(database: Database, name: Name, *, force: bool, who: str | None, why: str | None) -> AliasMove:
    """Point `production` to the canary version, and remove the alias `canary`.

    Raises:
        NotFound: the name has no canary version.
        Refused: the latest golden test of the version failed.
    """
    with _moving(database) as connection:
        named, number = catalog.resolve(connection, Reference(name, alias=CANARY))
        before = catalog.aliases_of(connection, named).get(PRODUCTION)
        made = _point(connection, named, PRODUCTION, before, number, force=force)
        _log(connection, ALIAS, named, made, force, who, why)
        _drop(connection, named, CANARY, number, who, why)
        return made


def roll_back(
    database: Database, name: Name, alias: str, *, force: bool, who: str | None, why: str | None
) -> AliasMove:
    """Point an alias to the version that it pointed to before.

    Deleted versions are skipped. A second rollback goes back one version further.

    Raises:
        NotFound: the alias has no earlier version.
    """
    check_alias(alias)
    if alias == CANARY:
        raise problems.CANARY_WITHOUT_ROLLBACK(name=name)
    with _moving(database) as connection:
        named, before = catalog.resolve(connection, Reference(name, alias=alias))
        asked = select(VERSIONS.c.number).where(VERSIONS.c.name == named.id, VERSIONS.c.state == LIVE)
        live = set(connection.execute(asked).scalars())
        earlier = [number for number in _path(connection, named, alias)[:-1] if number in live and number != before]
        if not earlier:
            raise problems.NO_EARLIER_VERSION(before=before, name=name, alias=alias)
        made = _point(connection, named, alias, before, earlier[-1], force=force)
        _log(connection, ROLLBACK, named, made, force, who, why)
        return made


def remove(database: Database, name: Name, alias: str, *, who: str | None, why: str | None) -> AliasMove:
    """Remove an alias; its earlier versions no longer count for a rollback. Raises NotFound without the alias."""
    check_alias(alias)
    with _moving(database) as connection:
        named, before = catalog.resolve(connection, Reference(name, alias=alias))
        made = _drop(connection, named, alias, before, who, why)
        return made


def _drop(
    connection: Connection, named: NameRow, alias: str, before: int, who: str | None, why: str | None
) -> AliasMove:
    connection.execute(delete(ALIASES).where((ALIASES.c.name == named.id) & (ALIASES.c.alias == alias)))
    made = AliasMove(str(named.name), alias, before, None)
    _log(connection, UNALIAS, named, made, False, who, why)
    return made


def _path(connection: Connection, named: NameRow, alias: str) -> list[int]:
    """Return the versions that an alias pointed to, up to the current one, without those it was rolled back from."""
    path: list[int] = []
    for entry in audit_log.entries(connection, (ALIAS, ROLLBACK, UNALIAS), named.subject):
        if entry.payload["alias"] != alias:
            continue
        target = entry.payload["to"]
        if entry.event == UNALIAS:
            path = []
        elif entry.event == ROLLBACK:
            while path and path[-1] != target:
                path.pop()
            path = path or [target]
        elif not path or path[-1] != target:
            path.append(target)
    return path


def _point(
    connection: Connection, named: NameRow, alias: str, before: int | None, number: int, *, force: bool
) -> AliasMove:
    checked = catalog.checks(connection, named).get(number)
    if checked and not checked["passed"] and not force:
        raise problems.CHECK_FAILED(reason=_why(checked), alias=alias, name=named.name, version=number)
    key = {"name": named.id, "alias": alias}
    if before is None:
        connection.execute(insert(ALIASES), {**key, "number": number})
    else:
        which = (ALIASES.c.name == named.id) & (ALIASES.c.alias == alias)
        connection.execute(update(ALIASES).where(which).values(number=number))
    return AliasMove(str(named.name), alias, before, number)


def _why(checked: dict[str, Any]) -> str:
    if checked.get("problem"):
        return str(checked["problem"])
    return f"difference {checked['difference']:.1e}; tolerance {checked['tolerance']:.0e}"


def _log(
    connection: Connection, event: str, named: NameRow, made: AliasMove, force: bool, who: str | None, why: str | None
) -> None:
    details: dict[str, Any] = {"alias": made.alias, "from": made.before, "to": made.after, "forced": force}
    if made.share is not None:
        details["share"] = made.share
    audit_log.append(connection, event, {**named.payload, **details}, named.attribution(who, why))


def _shown(number: int | None) -> str:
    return "no version" if number is None else f"version {number}"
