"""afina ask: measure an untrained model that is asked in words."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from afina.cli.option_names import with_flags
from afina.cli.options import (
    EMBEDDED,
    Json,
    OneBackbone,
    WordsOption,
    only,
    reading,
    reading_flags,
    required_task,
    takes,
    template_option,
    train_command,
    words_option,
)
from afina.cli.terminal import print_progress, print_prose, print_tables

if TYPE_CHECKING:
    from afina.predicting.prompting import Answer


TemplatesOption = Annotated[
    list[str] | None,
    typer.Option(
        "--template",
        help=r"Prompt template, such as 'Review: {text}\nSentiment:'. Several templates are compared on training data.",
        metavar="TEMPLATE",
    ),
]


OffsetOption = Annotated[
    bool,
    typer.Option("--offset", help="Add an offset to each logit, so that training texts spread evenly over the labels."),
]


@takes(task=required_task, data=reading)
def ask(
    task: str,
    template: TemplatesOption = None,
    words: WordsOption = None,
    offset: OffsetOption = False,
    backbone: OneBackbone = EMBEDDED,
    as_json: Json = False,
    *,
    data: dict[str, Any],
) -> None:
    """Measure an untrained model that is asked in words (zero-shot).

    Takes seconds, and trains nothing.
    """
    from afina.data.task import Task

    address = only(backbone)
    read = Task.load(task, **data)
    from afina.models.backbone import Backbone
    from afina.predicting.prompting import ask  # importing these takes seconds: report mistakes before
    from afina.report.evaluation import answer_sentence, template_tables
    from afina.report.formatting import split_of

    print(with_flags(read.told), split_of(task, len(read.train), len(read.evaluation)), sep="\n", file=sys.stderr)
    templates, says = [*map(template_option, template or [])], print_progress("ask")
    answer = ask(Backbone.load(address), read, templates, words_option(words), offset=offset, says=says)
    if as_json:
        print(json.dumps({"task": task, **_answer_as_json(answer)}))
        return
    print_tables(*template_tables(answer))
    print_prose(answer_sentence(answer))
    named = {
        "--backbone": address if address != "embedded" else None,
        "--template": answer.template.replace("\n", "\\n") if answer.template != answer.usual else None,
        **reading_flags(data),
        "--set": "offset=true" if offset else None,
    }
    print(f"To train with this template: {train_command(task, named, words or [])}")


def _answer_as_json(answer: Answer) -> dict[str, Any]:
    from afina.schema import figures_as_json

    compared = [asdict(one) for one in answer.compared]
    asked = {"template": answer.template, "usual": answer.usual, "words": answer.words, "offset": answer.offset}
    return {**figures_as_json(answer.metrics), "examples": answer.examples, **asked, "compared": compared}
