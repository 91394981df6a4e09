"""The command doubts: find labels that are probably wrong."""

from __future__ import annotations

import json
import shlex
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from afina.cli.option_names import with_flags
from afina.cli.options import Json, reading_flags, required_task, takes, train_command, whole
from afina.cli.terminal import ends_with, print_progress, print_prose, print_reading, print_tables

if TYPE_CHECKING:
    from afina.studies.labelling.doubts import Doubts

PAGE = "doubts.html"
USUAL_OUT = Path("results/doubts")


@takes(task=required_task, data=whole)
def doubts(
    task: str,
    method: Annotated[
        str, typer.Option("--method", help="Method of the models; other than linear_probe, it is trained in runs.")
    ] = "linear_probe",
    backbone: Annotated[
        str, typer.Option("--backbone", help="Pretrained model of the models.", metavar="ADDRESS")
    ] = "bge",
    folds: Annotated[
        int, typer.Option("--folds", help="Parts of the texts; each is predicted by models trained on the others.")
    ] = 5,
    seed: Annotated[int, typer.Option("--seed", help="Random seed of the parts, and of runs.", min=0)] = 0,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", help="A setting of the method, such as r=8 or epochs=3.", metavar="KEY=VALUE"),
    ] = None,
    out: Annotated[
        Path, typer.Option("--out", help="Directory of the results, or FILE.csv for a copy of the list.")
    ] = USUAL_OUT,
    as_json: Json = False,
    *,
    data: dict[str, Any],
) -> None:
    """Find labels that are probably wrong, in training and in evaluation texts.

    Each text is predicted by a model that did not learn from the text. Prints the most doubtful labels, and writes
    doubts.csv, doubts.html and doubts.json. No file of texts is changed.
    """
    from rich.console import Console

    from afina.cli.progress import watcher
    from afina.studies.labelling.doubts import check_is_list
    from afina.studies.labelling.find_doubts import doubts as find_doubts
    from afina.studies.labelling.find_doubts import read_merged
    from afina.studies.study_file import override

    settings: dict[str, Any] = {}
    override(settings, (item.removeprefix("train.") for item in overrides or []))
    table = out if out.suffix == ".csv" and not out.is_dir() else None
    if table is not None:
        check_is_list(table)
    says = print_progress("doubts")
    read = read_merged(task, None, data, says)
    print_reading(read.told)
    asked: dict[str, Any] = {"method": method, "backbone": backbone, "folds": folds, "seed": seed}
    with ends_with(f"Interrupted. To continue: {shlex.join(['afina', *sys.argv[1:]])}"):
        watching = watcher(Console(stderr=True), lambda results: None)
        directory = out if table is None else USUAL_OUT
        found = find_doubts(read, **asked, settings=settings, out=directory, watcher=watching, says=says)
    _show(found, directory, table, as_json)


def _show(found: Doubts, out: Path, table: Path | None, as_json: bool) -> None:
    """Write the page beside the other files, and the list into `table` too, and print the doubts."""
    from afina import file_io
    from afina.report import doubts as words
    from afina.studies.labelling.doubts import CSV_FILE, JSON_FILE

    csv, page = table or out / CSV_FILE, out / PAGE
    if table is not None:
        with file_io.replacing(table) as fresh:
            shutil.copyfile(out / CSV_FILE, fresh)
    command = train_command(found.task, {**reading_flags(found.data.given), "--without": str(csv)})
    file_io.write_text(page, words.page(found, str(csv), command, with_flags))
    files = [str(page), str(csv), str(out / JSON_FILE)]
    if as_json:
        print(json.dumps({**found.model_dump(mode="json"), "files": files}, ensure_ascii=False))
        return
    for sentence in words.sentences(found):
        print_prose(with_flags(sentence))
    print()
    if found.labels:
        print_tables(words.table(found, words.PRINTED, words.PRINTED_CHARACTERS, reasons=False))
        print_prose(words.next_steps(found, str(csv)))
        print(f"To train without the rows that are left: {command}")
    print(f"Written: {', '.join(files)}")
