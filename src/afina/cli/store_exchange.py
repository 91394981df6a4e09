"""afina store: diff, check, import, export."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from afina.cli import problems
from afina.cli.options import Json, OwnBackbone, PeftPrecisionOption, measuring, takes, task_if_given
from afina.cli.store import MessageOption, NameArgument, NoHashes, VersionArgument, opened, size
from afina.cli.terminal import print_assumed_precision, print_created, print_prose, print_reading, printable
from afina.errors import AfinaError

if TYPE_CHECKING:
    from afina.store.flips import AnsweredTexts, Flips


LONGEST = 160
"""The most characters of a text that are printed in the line about a changed prediction."""

MANY = 5
"""The most texts with a changed prediction that `store diff` prints."""


@takes(task=task_if_given, data=measuring)
def diff(
    context: typer.Context,
    first: VersionArgument,
    second: VersionArgument,
    task: str | None,
    backbone: OwnBackbone = None,
    as_json: Json = False,
    *,
    data: dict[str, Any],
) -> None:
    """Compare the settings and the sizes of two versions.

    With FILE, the predictions of the two versions for its texts are compared too.
    """
    if task is None and (named := next((name for name, value in data.items() if value), None)):
        raise problems.OPTION_WITHOUT_TASK(option=named)
    made = opened(context).diff(first, second, task=task, backbone=backbone, **(data if task else {}))
    if as_json:
        print(json.dumps(made.as_json(), ensure_ascii=False))
        return
    print(f"{made.first} -> {made.second}")
    for line in changed_fields(made.fields):
        print(printable(line))
    if made.first.size != made.second.size:
        print(f"{'size':<16}{size(made.first.size)} -> {size(made.second.size)}")
    for note in made.notes:
        print_prose(note)
    if made.flips is not None:
        print_flips(made.flips)


def print_flips(flips: Flips) -> None:
    """Print how many predictions of two versions differ, the first such texts, the verdict, and notes on the data."""
    from afina.data.readers.splitting import repetition_notes
    from afina.report import evaluation
    from afina.report.presentation import PRESENTATIONS
    from afina.store.flips import FLIP_KINDS

    print_reading(flips.texts.told)
    if flips.same:
        print_prose(flips.same)
        return
    if flips.answered is not None:
        _print_abstentions(flips, flips.answered)
    found: dict[str, Any] = flips.as_json()
    kind = FLIP_KINDS[flips.kind]
    writes = kind.writes
    if writes:
        print(
            f"{found['flipped']} of {found['examples']} answers differ; equal to a reference: "
            f"{found['right_to_wrong']} no longer, {found['wrong_to_right']} only now"
        )
    elif found["flipped"] is not None:
        how = [
            f"{found[key]} {key.replace('_', ' ')}"
            for key in ("right_to_wrong", "wrong_to_right", "wrong_to_wrong")
            if found.get(key) is not None
        ]
        among = found["examples"] if flips.answered is None else f"the {flips.answered.both}"
        which = "" if flips.answered is None else " for texts that both answer"
        print(f"{found['flipped']} of {among} predictions{which} flip: {', '.join(how)}")
    if flips.entities is not None:
        print(f"entities: {', '.join(f'{count} {change}' for change, count in flips.entities.items())}")
    for row in flips.rows[:MANY]:
        if writes:
            more = f" (1 of {len(row.label)})" * (len(row.label) > 1)
            lines = {"": row.text, "right": row.label[0] + more, "before": row.before, "after": row.after}
            for name, line in lines.items():
                print(printable(f"    {name:<8}{_line(line)}" if name else f"  {_line(line)}"))
        else:
            before, after, right = (kind.in_words(value, row.text) for value in (row.before, row.after, row.label))
            print(printable(f"  {before} -> {after} (right: {right}): {row.text[:70]}"))
    if found["flipped"] and found["flipped"] > MANY:
        print("  ... (--json prints more)")
    print_prose(flips.words)
    texts = flips.texts
    for line in (
        *PRESENTATIONS[flips.kind].rare(texts.label_names, texts.split.labels, (flips.metric,)),
        *evaluation.label_notes(texts.label_names, texts.unmeasured),
        *evaluation.leakage_notes(texts.where, texts.leaked, texts.left_out, "an adapter was"),
        *repetition_notes(texts.repeated, len(texts.split), texts.where),
    ):
        print(line)


def _print_abstentions(flips: Flips, answered: AnsweredTexts) -> None:
    for name, count, wrong in zip(flips.names, answered.answered, answered.wrong, strict=True):
        print(printable(f"{name} answers {count} of {flips.examples} texts, {wrong} of them wrongly"))
    print(
        printable(
            f"both answer {answered.both} texts, only {flips.names[0]} answers {answered.only_first}, "
            f"only {flips.names[1]} answers {answered.only_second}, and neither {answered.neither}"
        )
    )
    print_prose("The metric is of the predictions for all texts, also those that are not answered.")


def _line(text: str) -> str:
    return " ".join(text.split())[:LONGEST]


def changed_fields(found: Mapping[str, Any]) -> Iterator[str]:
    """Yield a line for each group of fields in which the manifests of two versions differ."""
    for group, content in found.items():
        changes = []
        for key, value in content.items():
            if isinstance(value, list | tuple) and len(value) == 2 and key not in ("added", "removed", "examples"):
                before, after = (_short(one) for one in value)
                changes.append(f"{key} {before} -> {after}")
            elif value not in (None, [], False) and key != "examples":
                changes.append(f"{key} {_short(value)}")
        if changes:
            yield f"{group:<16}{'; '.join(changes)}"


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else f"{value:.4f}" if isinstance(value, float) else json.dumps(value)
    return text[:19] if text.startswith("sha256:") else text[:60]


def check(
    context: typer.Context, version: VersionArgument, backbone: OwnBackbone = None, as_json: Json = False
) -> None:
    """Check that a version computes its recorded outputs on this machine.

    The result is written to the audit log. The exit status is 2 if an output differs.
    """
    found = opened(context).check(version, backbone=backbone)
    if as_json:
        print(json.dumps(found.as_json()))
    else:
        outcome = "passed" if found.passed else "FAILED"
        difference = f"relative difference of the outputs {found.difference or 0:.1e}, tolerance {found.tolerance:.0e}"
        print(f"{outcome}: {found.problem or difference}")
    if not found.passed:
        raise typer.Exit(AfinaError.exit_code)


def import_adapter(
    context: typer.Context,
    source: Annotated[
        str,
        typer.Argument(
            help="An adapter of afina or peft, or a model of transformers: a directory, a bundle FILE.tar, or "
            "hub:OWNER/NAME[@REVISION].",
            metavar="SOURCE",
        ),
    ],
    name: NameArgument,
    message: MessageOption,
    backbone: Annotated[
        str | None, typer.Option("--backbone", help="For a model of transformers: the backbone that was fine-tuned.")
    ] = None,
    precision: PeftPrecisionOption = None,
    as_json: Json = False,
) -> None:
    """Publish an adapter from another library, from the Hugging Face Hub or from another store."""
    from afina.models.backbone_spec import FLOAT

    store = opened(context)
    is_new = not store.exists()
    made = store.import_from(source, name, message=message, backbone=backbone, precision=precision)
    if is_new:
        print_created(store.address.shown)
    manifest = made.version.manifest
    if precision is None and "peft_type" in manifest["hyperparameters"] and manifest.get("precision", FLOAT) == FLOAT:
        print_assumed_precision(source)
    if as_json:
        print(json.dumps(made.as_json()))
    else:
        print(f"{made.version} {made.version.digest[:19]}{'' if made.created else ', already published'}")


def export_adapter(
    context: typer.Context,
    version: VersionArgument,
    target: Annotated[
        str,
        typer.Argument(
            help="Target: a new directory, a bundle FILE.tar, or hub:OWNER/NAME[@BRANCH].", metavar="TARGET"
        ),
    ],
    merged: Annotated[
        bool,
        typer.Option("--merged", help="Merge the adapter into its backbone, for servers that cannot load adapters."),
    ] = False,
    backbone: OwnBackbone = None,
    public: Annotated[
        bool, typer.Option("--public", help="If the command creates a repository on the Hub, make it public.")
    ] = False,
    no_texts: NoHashes = False,
    as_json: Json = False,
) -> None:
    """Export a version for peft or transformers, as a bundle, or to the Hub."""
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
