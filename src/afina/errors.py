"""Every error that a user can cause, and nothing else.

    AfinaError
    ├── NotFound           a file, directory, package or Hub id that is not there or cannot be reached
    ├── UnknownName        a method, key, task or preset that does not exist; names the nearest that does
    ├── InvalidData        a task that cannot be learnt from: missing column, unknown label, empty split, ...
    │   └── Leakage        evaluation texts that occur in the training split
    ├── InvalidStudy       settings that contradict each other or the method
    ├── CorruptAdapter     an adapter whose bytes are not what its manifest says
    ├── WrongBackbone      an adapter for another base than the one given
    ├── OutOfMemory        a run that this device cannot hold
    ├── Diverged           a loss that is no longer a number
    ├── RunFailed          a run of a study whose process reported an error or was killed
    ├── Busy               another process is writing to the same place
    │   └── Overloaded     more is asked of a server than it takes at the moment
    ├── CannotWrite        a place that takes no more: a full disk, a limit, a file system that is read only
    ├── InvalidName        what can be no name, alias or address in a store
    ├── Conflict           an alias that another process has moved meanwhile
    ├── Refused            what a store will not do: keep an unsafe file, serve a version that failed its check, ...
    └── CorruptStore       a store whose bytes are not what its log says

Each message names where, what was found, what was expected and what to do next. What the caller has set, or may set, is
named by the library's word in backquotes, as in "Name the right one with `text`."; the command line shows its own flag
in that place (`afina.cli.terminal`). It prints the message on one or two lines and exits with `exit_code`.

Programs read `code` and `fields` instead of the message, whose words may change. `error_codes.py` lists all codes. This
module knows no other module.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping, Sequence, Set
from numbers import Integral, Real
from typing import Self

Json = str | int | float | bool | None | list["Json"] | dict[str, "Json"]
"""A JSON value."""

LESS_MEMORY = "Set token_budget=1024 or checkpointing=true (in a study: train.token_budget=1024)"
"""What to do where memory is not enough."""


class AfinaError(Exception):
    """Base of all: the command line prints its text, without a traceback, and exits 2.

    code    the situation, such as "data.column-missing": stable, and listed in `error_codes.py`
    fields  what the message is about, as JSON values: paths, names, rows, counts

    A class whose situation is always the same has a `code` of its own; "error" stands for an error of another package.
    """

    exit_code = 2
    code: str = "error"

    def __init__(self, message: str = "", /, *, code: str | None = None, **fields: object) -> None:
        super().__init__(message)
        if code is not None:
            self.code = code
        self.fields: dict[str, Json] = {name: _as_json(value) for name, value in fields.items()}

    def reworded(self, message: str) -> Self:
        """This error with another message. Class, code and fields stay."""
        self.args = (message,)
        return self

    def as_json(self, message: str | None = None) -> dict[str, Json]:
        """Class, code, fields and the message, or the one given."""
        told = str(self) if message is None else message
        return {"class": type(self).__name__, "code": self.code, "message": told, "fields": self.fields}


class NotFound(AfinaError):
    """Something named by the user is not there, or cannot be reached."""


class UnknownName(AfinaError):
    """A name outside a fixed set.

    `kind` says what was looked for ("method"), `known` what exists, `where` the file or option.
    """

    code = "name.unknown"

    def __init__(self, kind: str, name: str, known: Iterable[str], where: str = "") -> None:
        known = sorted(known)
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
        place = f"{where}: " if where else ""
        guess = f"Did you mean {near[0]!r}? " if near else ""
        nearest = near[0] if near else None
        super().__init__(
            f"{place}unknown {kind} {name!r}. {guess}Known: {', '.join(known)}.",
            kind=kind,
            name=name,
            known=known,
            nearest=nearest,
            where=where,
        )


class InvalidData(AfinaError):
    """A task's data cannot be used as they are."""


class Leakage(InvalidData):
    """Evaluation texts occur in the training split."""

    code = "data.leakage"


class InvalidStudy(AfinaError):
    """Settings that cannot be run."""


class CorruptAdapter(AfinaError):
    """An adapter's files do not hold what its manifest says."""


class WrongBackbone(AfinaError):
    """An adapter was made for another backbone."""

    code = "backbone.mismatch"


class OutOfMemory(AfinaError):
    """A GPU's memory is not enough for the run of that title."""

    code = "run.out-of-memory"

    def __init__(self, title: str) -> None:
        super().__init__(f"run {title}: the GPU's memory is not enough. {LESS_MEMORY}.", run=title)


class Diverged(AfinaError):
    """Training produced a loss that is not a finite number."""

    code = "run.diverged"


class RunFailed(AfinaError):
    """One run of a study could not be carried out.

    Where its process reported an error, `fields` has the code of that error as `cause`, and its fields as `of_cause`.
    """

    code = "run.failed"


class Busy(AfinaError):
    """Another process holds the place that this one would write to."""


class Overloaded(Busy):
    """More is waiting than a server takes, or a client has asked for more than it may. `after`: seconds to wait."""

    code = "server.overloaded"

    def __init__(self, message: str, after: float, *, code: str | None = None) -> None:
        super().__init__(message, code=code, after=after)
        self.after = after


class CannotWrite(AfinaError):
    """A place takes no more. What was to be written there is not, and what was there before is as it was.

    `reason` says why, in some words.
    """

    code = "file.cannot-write"

    def __init__(self, place: object, reason: str, *, code: str | None = None) -> None:
        super().__init__(
            f"{place}: cannot be written ({reason}). Make room there, or write elsewhere; then try again.",
            code=code,
            path=str(place),
            reason=reason,
        )
        self.reason = reason


class InvalidName(AfinaError):
    """What can be no name, alias or address in a store."""


class Conflict(AfinaError):
    """What was to be changed in a store is not what the caller took it to be."""


class Refused(AfinaError):
    """What a store will not keep, or will not do as it is."""


class CorruptStore(AfinaError):
    """A store's bytes are not what its log says."""


def _as_json(value: object) -> Json:
    match value:
        case None | str() | bool():
            return value
        case Integral():
            return int(value)
        case Real() if math.isfinite(value):
            return float(value)
        case Mapping():
            return {str(key): _as_json(each) for key, each in value.items()}
        case Sequence() | Set():
            return [_as_json(each) for each in value]
        case _:
            return str(value)
