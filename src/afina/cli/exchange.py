"""afina store, as far as it compares, computes or carries: diff, check, import, export."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from afina.cli.opening import locate
from afina.cli.options import (
    Json,
    KeepTrained,
    LabelColumn,
    Labels,
    MetricOption,
    PairColumn,
    PositiveOption,
    SeparatorOption,
    TaskOption,
    TextColumn,
    data_options,
)
from afina.cli.output import print_prose, say_begun
from afina.cli.store import MessageOption, NameArgument, NoHashes, VersionArgument, opened
from afina.cli.text import printable
from afina.cli.versions import fields, layers
from afina.errors import AfinaError, InvalidData

if TYPE_CHECKING:
    from afina.store.replay import Flips

BackboneOption = Annotated[
    str | None, typer.Option("--backbone", help="Where its backbone is, if not at the address it names.")
]
MANY = 5
"""Layers and flips that are shown: those that changed most, and those that were right."""


def diff(
    context: typer.Context,
    first: VersionArgument,
    second: VersionArgument,
    task: Annotated[
        str | None, typer.Option("--task", help="Labelled texts: which predictions flip.", metavar="ADDRESS")
    ] = None,
    backbone: BackboneOption = None,
    text: TextColumn = None,
    text_pair: PairColumn = None,
    label: LabelColumn = None,
    labels: Labels = None,
    separator: SeparatorOption = None,
    allow_leakage: KeepTrained = False,
    as_json: Json = False,
) -> None:
    """Compare two versions: what they are made of, how far the weights went; with --task, which predictions flip."""
    given = data_options(text, text_pair, label, labels, allow_leakage, separator=separator)
    if task is None and (named := next((name for name, value in given.items() if value), None)):
        raise InvalidData(
            f"`{named}` says how a `task` is read, and there is none. Name one, or leave it out.",
            code="data.option-inapplicable",
            option=named,
        )
    made = opened(context).diff(first, second, task=task, backbone=backbone, **(given if task else {}))
    if as_json:
        print(json.dumps(made.as_json(), ensure_ascii=False))
        return
    print(f"{made.first} -> {made.second}")
    for line in (*fields(made.difference.fields), *layers(made.difference.layers, MANY)):
        print(printable(line))
    for note in made.difference.notes:
        print_prose(note)
    if made.flips is not None:
        _print_flips(made.flips)


def _print_flips(flips: Flips) -> None:
    found: dict[str, Any] = flips.as_json()
    if found["flipped"] is not None:
        how = [
            f"{found[key]} {key.replace('_', ' ')}"
            for key in ("right_to_wrong", "wrong_to_right", "wrong_to_wrong")
            if found.get(key) is not None
        ]
        print(f"{found['flipped']} of {found['examples']} predictions flip: {', '.join(how)}")
    for row in flips.rows[:MANY]:
        print(printable(f"  {row.before} -> {row.after} (right: {row.label}): {row.text[:70]}"))
    if found["flipped"] and found["flipped"] > MANY:
        print("  ...; --json has more")
    print_prose(flips.words)


def compare(
    first: Annotated[str, typer.Argument(help="Directory of an adapter, or store:CLIENT/TASK@VERSION.", metavar="A")],
    second: Annotated[str, typer.Argument(help="The other one.", metavar="B")],
    task: TaskOption,
    backbone: BackboneOption = None,
    text: TextColumn = None,
    text_pair: PairColumn = None,
    label: LabelColumn = None,
    labels: Labels = None,
    separator: SeparatorOption = None,
    metric: MetricOption = None,
    positive: PositiveOption = None,
    allow_leakage: KeepTrained = False,
    as_json: Json = False,
) -> None:
    """Compare two adapters on the same labelled texts: which is better, how sure that is, and which answers differ."""
    from afina.data.addresses import check_address

    open_both = [locate(each, None, None) for each in (first, second)]
    check_address(task)
    one, other = (open_it() for open_it in open_both)
    from afina.report import evaluation
    from afina.report.formatting import metric_figure
    from afina.store import replay

    data = data_options(text, text_pair, label, labels, allow_leakage, separator=separator)
    texts = replay.read_texts(task, (one, other), names=(first, second), **data)
    if positive is not None:
        texts = texts.with_positive(positive)
    flips = replay.flips_between(one, other, texts, backbone, names=(first, second), metric=metric)
    if as_json:
        seen = {"task": task, "file": texts.where, "leaked": texts.leaked, "left_out": texts.left_out}
        told = {"first": first, "second": second, **seen, **flips.as_json()}
        print(json.dumps(told, ensure_ascii=False, allow_nan=False))
        return
    for name, figure in zip(flips.names, flips.figures, strict=True):
        measured = metric_figure(flips.metric, figure, texts.label_names)
        print(printable(f"{name}: {measured} on {evaluation.which(texts.where, flips.examples, texts.held_out)}"))
    if one.digest == other.digest:
        print(f"Both are the same adapter, {one.digest[:19]}.")
    _print_flips(flips)
    for line in evaluation.seen(texts.where, texts.leaked, texts.left_out, "an adapter was"):
        print(line)
    if texts.leaked is None:
        print("Whether the training of both saw any of these texts is not known.", file=sys.stderr)


def check(
    context: typer.Context, version: VersionArgument, backbone: BackboneOption = None, as_json: Json = False
) -> None:
    """Compute the sentences that training recorded again, on this machine. The outcome is logged; 2 where it failed."""
    found = opened(context).check(version, backbone=backbone)
    if as_json:
        print(json.dumps(found.as_json()))
    elif found.passed:
        print(f"passed: the logits differ by {found.difference:.1e} of their scale, at most {found.tolerance:.0e} may")
    else:
        how = f"they differ by {found.difference:.1e}, at most {found.tolerance:.0e} may"
        print(f"FAILED: {found.problem or how}")
    if not found.passed:
        raise typer.Exit(AfinaError.exit_code)


def bring_in(
    context: typer.Context,
    source: Annotated[
        str,
        typer.Argument(
            help="Directory of afina's, peft's or save_pretrained's; bundle, FILE.tar; or hub:OWNER/NAME[@REVISION].",
            metavar="SOURCE",
        ),
    ],
    name: NameArgument,
    message: MessageOption,
    backbone: Annotated[
        str | None, typer.Option("--backbone", help="What a model of transformers was fine-tuned from.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Publish what another library made, what is on the Hub, or what another store exported."""
    store = opened(context)
    begins = not store.exists()
    made = store.import_from(source, name, message=message, backbone=backbone)
    if begins:
        say_begun(store.address.shown)
    if as_json:
        print(json.dumps(made.as_json()))
    else:
        print(f"{made.version} {made.version.digest[:19]}{'' if made.created else ', which it had already'}")


def send_out(
    context: typer.Context,
    version: VersionArgument,
    target: Annotated[
        str,
        typer.Argument(help="A new directory; a bundle, FILE.tar; or hub:OWNER/NAME[@BRANCH].", metavar="TARGET"),
    ],
    merged: Annotated[
        bool, typer.Option("--merged", help="Fold it into its backbone: a model for servers that know no adapters.")
    ] = False,
    backbone: BackboneOption = None,
    public: Annotated[bool, typer.Option("--public", help="A repository of the Hub that is made is public.")] = False,
    no_texts: NoHashes = False,
    as_json: Json = False,
) -> None:
    """Write a version as peft or transformers open it, as a bundle that verifies itself, or to the Hub."""
    store = opened(context)
    where, notes = store.export(
        version, target, merged=merged, backbone=backbone, private=not public, texts=not no_texts
    )
    if as_json:
        print(json.dumps({"target": where, "notes": list(notes)}))
        return
    print(where)
    for note in notes:
        print_prose(note)
