"""afina inspect: show how texts are read, and what is doubtful."""

from __future__ import annotations

import json
import shlex
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from afina.cli.option_names import option_flag, with_flags
from afina.cli.options import Json, check_different, reading, required_task, takes
from afina.cli.terminal import print_item, print_progress, print_prose

if TYPE_CHECKING:
    from collections.abc import Sequence

    from afina.data.inspection import Inspection
    from afina.data.task import Task
    from afina.data.token_lengths import TokenLengths
    from afina.events import Says


@takes(task=required_task, data=reading)
def inspect(
    task: str,
    backbone: Annotated[
        list[str] | None,
        typer.Option(
            "--backbone",
            help="Count texts that are longer than this pretrained model reads; may be repeated. No download.",
            metavar="ADDRESS",
        ),
    ] = None,
    as_json: Json = False,
    *,
    data: dict[str, Any],
) -> None:
    """Show how texts are read: columns, kind, labels with their counts, and what is doubtful.

    Nothing is trained or changed. Each doubt names the option that mends it. Lengths in tokens are measured on at most
    2,000 texts.
    """
    from afina.data.inspection import inspect
    from afina.data.reading_options import ReadingOptions

    says = print_progress("inspect")
    found = inspect(
        task,
        ReadingOptions(**data),
        measured=partial(_token_lengths, check_different(backbone or []), says),
        says=says,
    )
    if as_json:
        print(json.dumps(found.as_json(), ensure_ascii=False))
    else:
        _print_inspection(found)


def _token_lengths(backbones: Sequence[str], says: Says, task: Task) -> list[TokenLengths]:
    """Return the token lengths of a task for each backbone that is on this machine."""
    from afina.models.backbone_spec import is_at_hand

    made = []
    for address in backbones:
        if not is_at_hand(address):
            says(f"the tokenizer of {address} is not on this machine, so its lengths in tokens are unknown")
            continue
        says(f"measuring texts with the tokenizer of {address}")
        from afina.data.token_lengths import TokenLengths
        from afina.models.backbone import Backbone  # torch and transformers, which take seconds

        opened = Backbone.load(address, weights=False)
        made.append(TokenLengths.of(task, opened.tokenizer, opened.longest, address))
    return made


def _print_inspection(found: Inspection) -> None:
    for line in found.words:
        print_prose(with_flags(line))
    if found.kind:
        print(f"{found.train:,} training and {found.evaluation:,} held-out texts")
        middle, most, longest = found.characters
        print(f"lengths in characters: median {middle:,}, 95 of 100 texts at most {most:,}, longest {longest:,}")
    for one in found.tokens:
        print(
            f"lengths in tokens of {one.backbone}: median {one.median:,}, longest {one.longest:,} "
            f"({one.sampled:,} texts); it reads {one.most:,}"
        )
    for label in found.labels:
        print_item(label.label, f"{label.train:,} training and {label.evaluation:,} held-out {found.counted}")
    if found.further:
        print(f"and {found.further:,} further labels")
    for doubt in found.doubts:
        print_prose(f"{doubt.heading}: {with_flags(doubt.words)}")
        for remedy in doubt.remedies:
            flags = " ".join(_flag(name, value) for name, value in remedy.options.items())
            print(f"  {flags}: {remedy.words}")


def _flag(name: str, value: object) -> str:
    """Return a reading option as the command line has it."""
    if value is None:
        return f"without {option_flag(name)}"
    return option_flag(name) if value is True else shlex.join([option_flag(name), str(value)])
