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
in that place (`afina.cli.hints`). It prints the message on one or two lines and exits with `exit_code`. This module
knows no other module.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

LESS_MEMORY = "Set token_budget=1024 or checkpointing=true (in a study: train.token_budget=1024)"
"""What to do where memory is not enough."""


class AfinaError(Exception):
    """Base of all: the command line prints its text, without a traceback, and exits 2."""

    exit_code = 2


class NotFound(AfinaError):
    """Something named by the user is not there, or cannot be reached."""


class UnknownName(AfinaError):
    """A name outside a fixed set.

    `kind` says what was looked for ("method"), `known` what exists, `where` the file or option.
    """

    def __init__(self, kind: str, name: str, known: Iterable[str], where: str = "") -> None:
        known = sorted(known)
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
        place = f"{where}: " if where else ""
        guess = f"Did you mean {near[0]!r}? " if near else ""
        super().__init__(f"{place}unknown {kind} {name!r}. {guess}Known: {', '.join(known)}.")
        self.kind, self.name, self.known, self.nearest = kind, name, known, near[0] if near else None


class InvalidData(AfinaError):
    """A task's data cannot be used as they are."""


class Leakage(InvalidData):
    """Evaluation texts occur in the training split."""


class InvalidStudy(AfinaError):
    """Settings that cannot be run."""


class CorruptAdapter(AfinaError):
    """An adapter's files do not hold what its manifest says."""


class WrongBackbone(AfinaError):
    """An adapter was made for another backbone."""


class OutOfMemory(AfinaError):
    """A GPU's memory is not enough for the run of that title."""

    def __init__(self, title: str) -> None:
        super().__init__(f"run {title}: the GPU's memory is not enough. {LESS_MEMORY}.")


class Diverged(AfinaError):
    """Training produced a loss that is not a finite number."""


class RunFailed(AfinaError):
    """One run of a study could not be carried out."""


class Busy(AfinaError):
    """Another process holds the place that this one would write to."""


class Overloaded(Busy):
    """More is waiting than a server takes, or a client has asked for more than it may. `after`: seconds to wait."""

    def __init__(self, message: str, after: float) -> None:
        super().__init__(message)
        self.after = after


class CannotWrite(AfinaError):
    """A place takes no more. What was to be written there is not, and what was there before is as it was.

    `reason` says why, in some words.
    """

    def __init__(self, place: object, reason: str) -> None:
        super().__init__(f"{place}: cannot be written ({reason}). Make room there, or write elsewhere; then try again.")
        self.reason = reason


class InvalidName(AfinaError):
    """What can be no name, alias or address in a store."""


class Conflict(AfinaError):
    """What was to be changed in a store is not what the caller took it to be."""


class Refused(AfinaError):
    """What a store will not keep, or will not do as it is."""


class CorruptStore(AfinaError):
    """A store's bytes are not what its log says."""
