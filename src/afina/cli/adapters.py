"""Commands that open an adapter: evaluate, predict."""

from __future__ import annotations

import json
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from afina import allocator
from afina.cli.hints import with_flags
from afina.cli.opening import AdapterArgument, locate
from afina.cli.options import (
    AllowLeakage,
    Json,
    LabelColumn,
    Labels,
    MergeOption,
    MethodOption,
    MetricOption,
    MissingOption,
    PairColumn,
    SeedOption,
    SeparatorOption,
    SheetOption,
    TaskOption,
    TextColumn,
    data_options,
    file_options,
)
from afina.errors import InvalidData

if TYPE_CHECKING:
    from afina.data.readers.texts import Chunk
    from afina.models.adapter import Adapter

DtypeOption = Annotated[
    str,
    typer.Option(
        "--dtype",
        help="What to compute in: float32, bfloat16, or auto: bfloat16 where the device has it, twice as fast there.",
    ),
]


def evaluate(
    adapter: AdapterArgument,
    task: TaskOption,
    backbone: Annotated[
        str | None, typer.Option("--backbone", help="Where its backbone is, if not at the address it names.")
    ] = None,
    method: MethodOption = None,
    seed: SeedOption = None,
    check_probe: Annotated[
        bool, typer.Option("--check-probe", help="First check that the built-in sentences give the recorded logits.")
    ] = False,
    dtype: DtypeOption = "float32",
    text: TextColumn = None,
    text_pair: PairColumn = None,
    label: LabelColumn = None,
    labels: Labels = None,
    separator: SeparatorOption = None,
    missing: MissingOption = None,
    merge_labels: MergeOption = False,
    sheet: SheetOption = None,
    metric: MetricOption = None,
    allow_leakage: AllowLeakage = False,
    as_json: Json = False,
) -> None:
    """Measure an adapter on labelled texts: all of a file, or of its own file what training left out."""
    from afina.data.task import check_address

    open_adapter = locate(adapter, method, seed)
    check_address(task)  # before anything that takes time
    opened = open_adapter()
    from afina.data.labelled import Labelled
    from afina.inference.evaluation import evaluate, trained

    _print_notes(opened)
    how = data_options(text, text_pair, label, labels, allow_leakage, separator=separator)
    texts = Labelled.read(task, trained(opened.manifest), **how, **file_options(missing, merge_labels, sheet))
    _print_told(texts.told)
    found = evaluate(opened, texts, backbone=backbone, check_probe=check_probe, dtype=dtype, metric=metric)
    if as_json:
        made = {"adapter": found.adapter, "digest": found.digest, "task": found.task}
        counts = {"examples": found.examples, "truncated": found.truncated, "dtype": found.dtype}
        seen = {"file": found.where, "held_out": found.held_out, "leaked": found.leaked}
        likely = {"interval": [found.interval.low, found.interval.high], "metric": found.metric}
        print(json.dumps({**made, **found.metrics, **likely, **counts, **seen}))
        return
    from afina.report.metrics import in_order, interval_heading, words
    from afina.report.words import number_of_texts, span, too_few

    if found.leaked is None and opened.manifest.task is not None:
        print(
            f"Whether training saw any of these texts is not known: {opened.manifest.task} is not at hand as it was.",
            file=sys.stderr,
        )
    shown = in_order(found.metrics, found.metric)
    told = [f"{words(name)} {found.metrics[name]:.4f}" for name in shown]
    number = number_of_texts(found.examples)
    on = f"the {number} that training left out of {found.where}" if found.held_out else f"{number} of {found.where}"
    where = f"{interval_heading(found.metric)}: {span((found.interval.low, found.interval.high))}"
    print(f"{', '.join(told[:2])} on {on} ({where}){too_few(found.examples)}")
    print(", ".join(told[2:]))


def predict(
    adapter: AdapterArgument,
    texts: Annotated[list[str] | None, typer.Argument(help="Texts to label.", metavar="TEXT...")] = None,
    file: Annotated[
        Path | None,
        typer.Option("--file", help="csv, tsv, jsonl or parquet, or one text a line; - for lines of standard input."),
    ] = None,
    backbone: Annotated[
        str | None, typer.Option("--backbone", help="Where its backbone is, if not at the address it names.")
    ] = None,
    method: MethodOption = None,
    seed: SeedOption = None,
    check_probe: Annotated[
        bool, typer.Option("--check-probe", help="First check that the built-in sentences give the recorded logits.")
    ] = False,
    dtype: DtypeOption = "float32",
    text: TextColumn = None,
    text_pair: PairColumn = None,
) -> None:
    """Answer for texts: one JSON object a line, with the label and the probability of each, or the number."""
    from afina.data.readers.texts import Chunk, Texts, chunks, refuse_blank

    if bool(texts) == bool(file):
        raise InvalidData("afina predict: give texts, or --file FILE (- for standard input), and not both.")
    for name, column in (("text", text), ("text_pair", text_pair)):
        if texts and column is not None:
            raise InvalidData(f"`{name}` {column}: names a column of a `file`, and there is none. Leave it out.")
    refuse_blank(texts or [])
    with chunks(file, text, text_pair) if file else nullcontext([Chunk(list(texts or []))]) as parts:
        allocator.keep_kernels(allocator.FEW)
        from afina.cli.display import reading
        from afina.inference import probes

        opened = locate(adapter, method, seed)()
        _print_notes(opened)
        predictor = probes.opened(opened, backbone, dtype, checked=check_probe)
        answered = 0
        with reading() as read:
            for chunk in parts:
                answered += len(chunk.texts)
                _print_answers(chunk, predictor(chunk.texts, chunk.pairs, before=chunk.before))
                read(chunk)
        if isinstance(parts, Texts) and parts.note:
            print(parts.note, file=sys.stderr)
        elif not answered:
            print(f"{file}: no text in it, so no answer.", file=sys.stderr)


def _print_told(told: str) -> None:
    """What was read as what, where there is something to say."""
    if told:
        print(with_flags(told), file=sys.stderr)


def _print_notes(adapter: Adapter) -> None:
    for note in adapter.manifest.notes:
        print(f"Note: {adapter.where}: {note}", file=sys.stderr)


def _print_answers(chunk: Chunk, answers: list[dict[str, Any]]) -> None:
    for index, (text, answer) in enumerate(zip(chunk.texts, answers, strict=True)):
        pair = {} if chunk.pairs is None else {"text_pair": chunk.pairs[index]}
        print(json.dumps({"text": text, **pair, **answer}, ensure_ascii=False))
    sys.stdout.flush()  # whoever reads a pipe has each chunk at once, or has left, which is told here
