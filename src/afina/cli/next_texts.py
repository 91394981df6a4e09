"""The command that chooses the texts to label next: next."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from afina.cli.option_names import with_flags
from afina.cli.options import Json, labelling, takes
from afina.cli.terminal import print_progress, print_prose, print_reading

_COUNT = typer.Option("--count", help="Number of texts to choose.", min=1, metavar="N")


@takes(data=labelling)
def next_(
    unlabelled: Annotated[
        Path,
        typer.Argument(
            help="File of texts: csv, tsv, jsonl, json, parquet, xlsx, or one text per line.", metavar="POOL"
        ),
    ],
    labelled: Annotated[
        str | None,
        typer.Option(
            "--labelled",
            help="Texts that are labelled already, as for 'afina train'. Without this option, nothing is labelled yet.",
            metavar="ADDRESS",
        ),
    ] = None,
    count: Annotated[int, _COUNT] = 50,
    out: Annotated[
        Path,
        typer.Option("--out", help="New file of the texts: FILE.csv, or FILE.json for tasks of Label Studio."),
    ] = Path("next.csv"),
    suggest: Annotated[
        bool, typer.Option("--suggest", help="Write predicted labels, too. People accept wrong suggestions.")
    ] = False,
    backbone: Annotated[
        str, typer.Option("--backbone", help="Pretrained model whose features are compared.", metavar="ADDRESS")
    ] = "bge",
    as_json: Json = False,
    *,
    data: dict[str, Any],
) -> None:
    """Choose the texts to label next: uncertain ones that differ from each other, and a tenth at random.

    Nothing is changed; a person fills the label column of the new file.
    """
    from afina.data.texts_to_label import check_new
    from afina.studies.labelling.next_texts import next_texts

    check_new(out)
    found = next_texts(unlabelled, labelled, count, backbone=backbone, says=print_progress("next"), **data)
    for note in found.notes:
        print_reading(note)
    protected = found.write(out, suggest=suggest)
    from afina.report import texts_to_label

    if as_json:
        print(json.dumps(texts_to_label.as_json(found, out), ensure_ascii=False))
        return
    for line in texts_to_label.sentences(found, out, Path(labelled) if labelled else None, protected):
        print_prose(with_flags(line))
