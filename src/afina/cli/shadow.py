"""afina shadow: compute a candidate version beside the production version, and compare their answers."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from afina.cli import problems
from afina.cli.options import Json
from afina.cli.store import ForceOption, NoteOption, StoreOption, print_answer, print_object

if TYPE_CHECKING:
    from afina.server.versions.shadow_counts import ShadowCounts
    from afina.store.adapter_store import AdapterStore


KEY = "AFINA_KEY"
"""The environment variable with the API key, which is used if `--key-file` is not given."""


KeyFileOption = Annotated[
    Path | None,
    typer.Option("--key-file", help=f"File with a key of the server; default: the variable {KEY}.", metavar="FILE"),
]


def shadow(
    name: Annotated[str, typer.Argument(help="Name of an adapter: CLIENT/TASK, in lower case.", metavar="CLIENT/TASK")],
    version: Annotated[
        str | None,
        typer.Argument(
            help="Candidate version: a number or an alias. Without it, the command prints the shadow that is set.",
            metavar="VERSION",
        ),
    ] = None,
    store: StoreOption = None,
    off: Annotated[bool, typer.Option("--off", help="End the comparison.")] = False,
    server: Annotated[
        list[str],
        typer.Option(
            "--server",
            help="Print the counts of a server. Repeat to add up the counts of several servers.",
            metavar="URL",
        ),
    ] = [],  # noqa: B006 - typer copies it
    key_file: KeyFileOption = None,
    force: ForceOption = False,
    message: NoteOption = None,
    as_json: Json = False,
) -> None:
    """Compare a candidate version with production on live requests.

    Clients receive only the answers of production.
    """
    if (version is not None) + off + bool(server) > 1:
        raise problems.SHADOW_CHOICE_MISSING()
    if server:
        from afina.server.client import ServerClient

        key = read_key(key_file, "publish")
        _print_counts([ServerClient(address, key).shadow(name) for address in server], as_json)
        return
    from afina.store.adapter_store import AdapterStore
    from afina.store.versions import SHADOW

    opened = AdapterStore(store)
    if version is None and not off:
        _print_pointing(opened, name, as_json)
        return
    if off:
        moved = opened.unalias(name, SHADOW, message=message)
    else:
        moved = opened.shadow(f"{name}@{version}", force=force, message=message)
    text = f"{name}: version {moved.before} is no longer compared"
    if not off:
        text = (
            f"{name}: version {moved.after} is now compared with production. To print how often their answers differ:\n"
            f"afina shadow {name} --server URL --key-file FILE"
        )
    print_answer(moved.as_json(), text, as_json)


def _print_pointing(store: AdapterStore, name: str, as_json: bool) -> None:
    """Print which versions the aliases `shadow` and `production` point to in the store."""
    from afina.store.versions import PRODUCTION, SHADOW

    pointing = {alias: one.number for one in store.versions(name) for alias in one.aliases}
    candidate, current = pointing.get(SHADOW), pointing.get(PRODUCTION)
    if as_json:
        print_object({"name": name, "current": current, "shadow": candidate})
    elif candidate is None:
        print(f"{name}: no shadow is set")
    elif candidate == current:
        print(f"{name}: version {candidate} is both shadow and production, so nothing is compared")
    else:
        print(f"{name}: version {candidate} is compared with {f'version {current}' if current else 'production'}")


def read_key(file: Path | None, scope: str) -> str:
    """Return the key in a file, or in the environment variable if `file` is None; `scope`: for the error message."""
    if file is None:
        if found := os.environ.get(KEY):
            return found.strip()
        raise problems.KEY_MISSING(scope=scope)
    try:
        return file.read_text(encoding="utf-8-sig").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise problems.KEY_UNREADABLE(reason=error, path=file) from None


def _print_counts(found: Sequence[Mapping[str, Any]], as_json: bool) -> None:
    """Print the comparison of shadow and production, summed over the servers.

    Raises Conflict if their versions differ.
    """
    from afina.server.versions.shadow_counts import ShadowCounts

    compared = {(one["name"], one["current"], one["shadow"]) for one in found}
    if len(compared) > 1:
        raise problems.VERSIONS_DIFFER()
    total = ShadowCounts()
    for one in found:
        total = total.plus(ShadowCounts.of(one))
    states = {one["state"]: one for one in found}
    chosen = states[next(state for state in (*WORDS, *states) if state in states)]
    if as_json:
        print_object({**chosen, **total.as_json(), "servers": len(found)})
        return
    fields = {key: chosen[key] for key in ("name", "current", "shadow")}
    print(
        WORDS.get(chosen["state"], "{name}").format(**fields) + (f": {chosen['problem']}" if chosen["problem"] else "")
    )
    for line in _lines(total, chosen["current"]):
        print(line)


WORDS = {
    "failed": "{name}: version {shadow} is not compared with version {current}",
    "loading": "{name}: version {shadow} is being loaded, to be compared with version {current}",
    "riding": "{name}: version {shadow} is compared with version {current}",
    "promoted": "{name}: version {shadow} is in production now, so nothing is compared",
    "none": "{name}: no shadow is compared with version {current}",
}
"""The sentence for each state of a shadow version; if servers differ, the state that is first here is printed."""


def _lines(total: ShadowCounts, current: int) -> Sequence[str]:
    made = []
    if total.flip_rate is not None and total.flip_interval is not None:
        ends = total.flip_interval
        both = " that both versions answered" if total.both < total.texts else ""
        made.append(
            f"flip rate: {total.flip_rate:.2%} of {total.both:,} texts{both} have another label "
            f"(95 % interval {ends.low:.2%} to {ends.high:.2%})"
        )
    if total.both < total.texts:
        made.append(
            f"abstention: of {total.texts:,} texts, both versions answered {total.both:,}, only version {current} "
            f"answered {total.only_current:,}, only the shadow {total.only_shadow:,}, and neither {total.unanswered:,}"
        )
    if total.texts:
        what = "the value" if total.flips is None else f"the probability of version {current}'s label"
        drift = total.drift_interval
        where = "" if drift is None else f" (95 % interval {drift.low:+.4g} to {drift.high:+.4g})"
        made.append(f"score drift: {what} differs by {total.drift:+.4g} on average{where}")
    if total.faults:
        made.append(f"texts that the shadow failed to answer: {total.faults:,}")
    if total.left_out:
        made.append(
            f"texts that were not compared, as the shadow was not in memory or the queue was full: {total.left_out:,}"
        )
    return made
