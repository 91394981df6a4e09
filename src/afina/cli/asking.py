"""The command that asks an untrained model: ask."""

from __future__ import annotations

import json
import shlex
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from afina.cli.hints import with_flags
from afina.cli.options import (
    AllowLeakage,
    BackboneOption,
    EvaluationOption,
    Json,
    KindOption,
    LabelColumn,
    Labels,
    MergeOption,
    MissingOption,
    PairColumn,
    SheetOption,
    TaskOption,
    TextColumn,
    WordsOption,
    data_options,
    file_options,
    template_option,
    words_option,
)
from afina.cli.output import print_prose, print_tables

if TYPE_CHECKING:
    from afina.inference.asking import Answer


def ask(
    task: TaskOption,
    template: Annotated[
        list[str] | None,
        typer.Option(
            "--template",
            help=r"What a text is put in, as 'Review: {text}\nSentiment:'; several are compared, on training texts.",
            metavar="TEMPLATE",
        ),
    ] = None,
    words: WordsOption = None,
    offset: Annotated[
        bool, typer.Option("--offset", help="Shift each label's output so that training texts are spread evenly.")
    ] = False,
    backbone: BackboneOption = "embedded",
    evaluation: EvaluationOption = None,
    text: TextColumn = None,
    text_pair: PairColumn = None,
    label: LabelColumn = None,
    labels: Labels = None,
    kind: KindOption = None,
    missing: MissingOption = None,
    merge_labels: MergeOption = False,
    sheet: SheetOption = None,
    allow_leakage: AllowLeakage = False,
    as_json: Json = False,
) -> None:
    """Ask a model in words, before anything is trained: how often its answer is right, in seconds."""
    from afina.cli.display import telling
    from afina.data.task import Task

    how = data_options(text, text_pair, label, labels, allow_leakage, evaluation, kind)
    read = Task.load(task, **how, **file_options(missing, merge_labels, sheet))
    from afina.inference.asking import ask  # these take seconds, and a mistake is told before
    from afina.models.backbone import Backbone
    from afina.report.evaluation import answer_sentence, template_tables
    from afina.report.formatting import split_of

    print(with_flags(read.told), split_of(task, len(read.train), len(read.evaluation)), sep="\n", file=sys.stderr)
    templates = [*map(template_option, template or [])]
    answer = ask(Backbone.load(backbone), read, templates, words_option(words), offset=offset, says=telling("ask"))
    if as_json:
        print(json.dumps({"task": task, **_as_json(answer)}))
        return
    print_tables(*template_tables(answer))
    print_prose(answer_sentence(answer))
    named = {
        "--backbone": backbone if backbone != "embedded" else None,
        "--template": answer.template.replace("\n", "\\n") if answer.template != answer.usual else None,
        **{"--eval": evaluation, "--text": text, "--text-pair": text_pair, "--label": label, "--labels": labels},
        **{"--kind": kind, "--missing": missing, "--sheet": sheet},
        "--set": "offset=true" if offset else None,
    }
    chosen = [part for flag, value in named.items() if value is not None for part in (flag, value)]
    chosen += [part for item in words or [] for part in ("--words", item)]
    chosen += ["--allow-leakage"] * allow_leakage + ["--merge-labels"] * merge_labels
    print(f"To train from there: {shlex.join(['afina', 'train', '--task', task, *chosen])}")


def _as_json(answer: Answer) -> dict[str, Any]:
    from afina.schema import figures_as_json

    compared = [asdict(one) for one in answer.compared]
    asked = {"template": answer.template, "usual": answer.usual, "words": answer.words, "offset": answer.offset}
    return {**figures_as_json(answer.metrics), "examples": answer.examples, **asked, "compared": compared}
