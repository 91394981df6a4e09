"""afina drift: compare the texts that servers answered with the evaluation texts of the adapter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from afina.cli import problems
from afina.cli.help import GroupedCommand
from afina.cli.options import Json, OwnBackbone, measuring, takes
from afina.cli.shadow import KeyFileOption, read_key
from afina.cli.store import print_object
from afina.cli.terminal import print_columns, print_prose, print_reading, printable
from afina.errors import AfinaError

if TYPE_CHECKING:
    from afina.models.answer_profile import AnswerProfile
    from afina.server.versions.served_answers import ServedAnswers


class DriftCommand(GroupedCommand):
    """The command `drift`: its exit status 2 says that there is drift, so that an error has another status."""

    error_status = 1


@takes(data=measuring)
def drift(
    name: Annotated[
        str,
        typer.Argument(
            help="Name of an adapter with an alias: CLIENT/TASK@ALIAS; without @ALIAS: production.", metavar="NAME"
        ),
    ],
    server: Annotated[
        list[str],
        typer.Option(
            "--server", help="Address of a server. Repeat to add up the counts of several servers.", metavar="URL"
        ),
    ],
    key_file: KeyFileOption = None,
    days: Annotated[
        int | None,
        typer.Option("--days", help="Number of days, today included (UTC), 1 to 35; default: 7.", metavar="N"),
    ] = None,
    level: Annotated[
        float, typer.Option("--level", help="Probability of a false alarm of one call, over all tests.", metavar="P")
    ] = 0.01,
    effect: Annotated[
        float,
        typer.Option(
            "--effect", help="Difference, as a share of texts, below which a difference is called small.", metavar="X"
        ),
    ] = 0.1,
    task: Annotated[
        str | None,
        typer.Option(
            "--task",
            help="Compare with the labelled texts of this file instead. AFINA_STORE must be the server's store.",
            metavar="ADDRESS",
        ),
    ] = None,
    backbone: OwnBackbone = None,
    as_json: Json = False,
    *,
    data: dict[str, Any],
) -> None:
    """Compare the texts of the last days, and their answers, with the evaluation texts of the adapter.

    The server has only counts. The exit status is 0 without drift, 2 if there is drift, and 1 after an error.
    """
    if task is None and (option := next(iter(data), None) or (backbone and "backbone")):
        raise problems.OPTION_WITHOUT_TASK(option=option)
    _check_share("level", level)
    _check_share("effect", effect)
    found = _served_answers(name, server, read_key(key_file, "metrics"), days)
    if task is not None:
        found = found.model_copy(update={"reference": _reference(found, task, backbone, data)})
    if as_json:
        print_object(found.as_json(level, effect))
    else:
        _print(found, level, effect)
    _exit(found, level, effect)


def _exit(found: ServedAnswers, level: float, effect: float) -> None:
    """Exit with an error if there is drift. Raises NotFound if the answers cannot be compared."""
    compared = found.drift(level, effect)
    if compared is None:
        raise problems.REFERENCE_MISSING(version=f"{found.name}@{found.version}")
    if compared.state == "drift":
        raise typer.Exit(AfinaError.exit_code)


def _reference(found: ServedAnswers, task: str, backbone: str | None, data: Mapping[str, Any]) -> AnswerProfile:
    """Return the counts of the evaluation texts of a task, which the version in this machine's store answers.

    Raises Conflict if the store has another adapter than the server.
    """
    from afina.data.evaluation_set import EvaluationSet
    from afina.predicting.evaluation import trained
    from afina.predicting.golden_test import opened
    from afina.store.adapter_store import AdapterStore

    store, version = AdapterStore(), f"{found.name}@{found.version}"
    adapter = store.adapter(store.show(version))
    if adapter.digest != found.digest:
        raise problems.VERSION_CHANGED(version=version, found=found.digest, expected=adapter.digest)
    texts = EvaluationSet.read(task, trained(adapter), **data)
    print_reading(texts.told)
    counts = opened(adapter, backbone).profile(texts.split, found.answers.edges, where=f"{texts.where}, text")
    assert counts is not None  # the server has refused other kinds of task
    return counts


def _check_share(option: str, found: float) -> None:
    if not 0 < found < 1:
        raise problems.SHARE_INVALID(option=option, found=found)


def _served_answers(name: str, servers: Sequence[str], key: str, days: int | None) -> ServedAnswers:
    """Return the counts of all servers together. Raises Conflict if the servers count different versions."""
    from afina.server.client import ServerClient
    from afina.server.versions.served_answers import ServedAnswers, days_of, summed
    from afina.store.versions import PRODUCTION, Reference

    asked = Reference.parse(name)
    if asked.number is not None:
        raise problems.ALIAS_MISSING(found=name, name=asked.name)
    wanted = days_of(None if days is None else str(days))
    given = [ServerClient(one, key).drift(str(asked.name), asked.alias or PRODUCTION, wanted) for one in servers]
    total = summed([ServedAnswers.of(one) for one in given])
    if total is None:
        raise problems.VERSIONS_DIFFER()
    return total


def _print(found: ServedAnswers, level: float, effect: float) -> None:
    from afina.report import drift as words
    from afina.report.formatting import number_of_texts

    when = "" if found.since is None else f" (counted since {found.since:%Y-%m-%d %H:%M} UTC)"
    where = "" if found.servers == 1 else f" on {found.servers} servers"
    days = "today" if found.days == 1 else f"in the last {found.days} days"
    texts = number_of_texts(found.answers.texts)
    print(f"{found.name}@{found.alias}, version {found.version}: {texts} {days}{where}{when}")
    compared = found.drift(level, effect)
    if compared is None:
        return
    print(f"compared with {number_of_texts(compared.reference)} of evaluation; level {level:g} for all tests together")
    print_columns(words.HEADINGS, words.rows(compared, found.score, found.answers.edges))
    print_prose(printable(words.verdict(compared, found.score)))
