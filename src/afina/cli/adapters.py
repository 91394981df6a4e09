"""Commands that open an adapter: evaluate, predict."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from afina.cli.options import AllowLeakage, Json, LabelColumn, Labels, PairColumn, TaskOption, TextColumn, data_options
from afina.errors import InvalidData


def evaluate(
    adapter: Annotated[Path, typer.Argument(help="Directory of an adapter, made by afina or by peft.")],
    task: TaskOption,
    backbone: Annotated[
        str | None, typer.Option("--backbone", help="Where its backbone is, if not at the address it names.")
    ] = None,
    check_probe: Annotated[
        bool, typer.Option("--check-probe", help="First check that the built-in sentences give the recorded logits.")
    ] = False,
    text: TextColumn = None,
    text_pair: PairColumn = None,
    label: LabelColumn = None,
    labels: Labels = None,
    allow_leakage: AllowLeakage = False,
    as_json: Json = False,
) -> None:
    """Measure an adapter on a task's evaluation split."""
    from afina.inference.evaluation import evaluate

    options = data_options(text, text_pair, label, labels, allow_leakage)
    result = evaluate(adapter, task, options, backbone_address=backbone, check_probe=check_probe)
    if as_json:
        print(json.dumps(result))
    else:
        print(f"accuracy {result['accuracy']:.4f}, F1 {result['f1']:.4f} on {result['examples']:,} texts of {task}")


def predict(
    adapter: Annotated[Path, typer.Argument(help="Directory of an adapter, made by afina or by peft.")],
    texts: Annotated[list[str] | None, typer.Argument(help="Texts to label.", metavar="TEXT...")] = None,
    file: Annotated[
        Path | None,
        typer.Option(
            "--file", help="One text a line, or .jsonl with 'text' and perhaps 'text_pair'; - for standard input."
        ),
    ] = None,
    backbone: Annotated[
        str | None, typer.Option("--backbone", help="Where its backbone is, if not at the address it names.")
    ] = None,
    check_probe: Annotated[
        bool, typer.Option("--check-probe", help="First check that the built-in sentences give the recorded logits.")
    ] = False,
) -> None:
    """Label texts: one JSON object a line, with the label and the probability of each."""
    from afina.inference.evaluation import predict_texts, read_texts

    if bool(texts) == bool(file):
        raise InvalidData("afina predict: give texts, or --file FILE (- for standard input), and not both.")
    given, pairs = read_texts(file) if file else (list(texts or []), None)
    for result in predict_texts(adapter, given, pairs, backbone_address=backbone, check_probe=check_probe):
        print(json.dumps(result, ensure_ascii=False))
