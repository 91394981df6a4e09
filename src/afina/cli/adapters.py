"""Commands that open adapters: evaluate, predict, compare."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from afina import allocator
from afina.cli import problems
from afina.cli.options import (
    AdapterArgument,
    Json,
    MethodOption,
    MetricOption,
    OwnBackbone,
    PeftPrecisionOption,
    SeedOption,
    decoding,
    locate,
    measuring,
    reading_option,
    required_task,
    takes,
)
from afina.cli.store_exchange import print_flips
from afina.cli.terminal import print_marked, print_reading, print_tables, printable
from afina.data.reading_options import ReadingOptions
from afina.pages.marked_text import MarkedText

if TYPE_CHECKING:
    from afina.data.readers.texts import Chunk
    from afina.models.adapter import Adapter
    from afina.predicting.predictor import Predictor


DtypeOption = Annotated[
    str,
    typer.Option(
        "--dtype",
        help="Precision: float32, bfloat16, auto (bfloat16 if the device supports it, about twice as fast), or int8.",
    ),
]


CheckProbeOption = Annotated[
    bool,
    typer.Option(
        "--check-probe",
        help="First run the golden test: compare the outputs for built-in sentences with the recorded outputs.",
    ),
]


@takes(task=required_task, data=measuring)
def evaluate(
    adapter: AdapterArgument,
    task: str,
    backbone: OwnBackbone = None,
    method: MethodOption = None,
    seed: SeedOption = None,
    check_probe: CheckProbeOption = False,
    dtype: DtypeOption = "float32",
    precision: PeftPrecisionOption = None,
    positive: Annotated[str | None, reading_option("positive")] = None,
    metric: MetricOption = None,
    as_json: Json = False,
    *,
    data: dict[str, Any],
) -> None:
    """Measure an adapter on labelled texts.

    Texts that the adapter was trained on are left out.
    """
    from afina.data.addresses import check_address

    open_adapter = locate(adapter, method, seed, backbone, precision)
    check_address(task)  # before anything that takes time
    opened = open_adapter()
    from afina.data.evaluation_set import EvaluationSet
    from afina.predicting.evaluation import evaluate, trained

    texts = EvaluationSet.read(task, trained(opened), **data)
    print_reading(texts.told)
    found = evaluate(
        opened, texts, backbone=backbone, check_probe=check_probe, dtype=dtype, metric=metric, positive=positive
    )
    from afina.report import evaluation

    if as_json:
        print(json.dumps(evaluation.as_json(found), ensure_ascii=False, allow_nan=False))
        return
    if found.leaked is None:
        print(evaluation.leakage_unknown(opened), file=sys.stderr)
    for line in evaluation.sentences(found):
        print(printable(line))
    if shown := evaluation.tables(found):
        print()
        print_tables(*shown)


@takes(generation=decoding)
def predict(
    adapter: AdapterArgument,
    *,
    texts: Annotated[list[str] | None, typer.Argument(help="Texts to label.", metavar="TEXT...")] = None,
    file: Annotated[
        Path | None,
        typer.Option(
            "--file",
            help="File of texts: csv, tsv, jsonl, parquet, xlsx, or one text per line; - for lines of standard input.",
        ),
    ] = None,
    pair: Annotated[
        tuple[str, str] | None,
        typer.Option("--pair", help="A pair of texts, for an adapter of pairs.", metavar="FIRST SECOND"),
    ] = None,
    backbone: OwnBackbone = None,
    method: MethodOption = None,
    seed: SeedOption = None,
    check_probe: CheckProbeOption = False,
    dtype: DtypeOption = "float32",
    precision: PeftPrecisionOption = None,
    text: Annotated[str | None, reading_option("text")] = None,
    text_pair: Annotated[str | None, reading_option("text_pair")] = None,
    sheet: Annotated[str | None, reading_option("sheet")] = None,
    encoding: Annotated[str | None, reading_option("encoding")] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Write the columns of the file and the answers to FILE.csv or FILE.jsonl."),
    ] = None,
    generation: dict[str, Any],
    as_json: Json = False,
) -> None:
    """Label texts, or write answers to them; print one JSON object per line.

    Each JSON object has the predicted label and the probability of each label. For an adapter of kind number, each
    JSON object has the predicted number; for an adapter of kind text, the answer. For an adapter of kind entities, each
    JSON object has the entities with their places; a terminal shows the text with the entities marked instead. For an
    adapter that was trained with --abstain-error, the field answered says whether the adapter is sure enough of the
    label.
    """
    from afina.data.readers.texts import Chunk, check_there, chunks, refuse_blank

    columns = ReadingOptions(text=text, text_pair=text_pair, sheet=sheet, encoding=encoding)
    firsts, seconds = ([pair[0]], [pair[1]]) if pair else (texts or [], None)
    _check_given({"texts": bool(texts), "a pair": pair is not None, "a file": file is not None}, columns.given)
    refuse_blank(firsts, seconds)
    if file is not None:
        check_there(file)  # before anything that takes time
    opened = locate(adapter, method, seed, backbone, precision)()
    said = _Answers(opened, as_json=as_json)
    own, alone = opened.manifest.data, nullcontext([Chunk.of(firsts, seconds)])
    with chunks(file, columns, own, written=_writes(opened)) if file else alone as parts:
        allocator.keep_kernels(allocator.FEW)
        from afina.predicting import golden_test, prediction_files

        if out is not None:
            prediction_files.check_out(out, file)
        predictor = golden_test.opened(opened, backbone, dtype, checked=check_probe)
        _write(parts, predictor.generating(**generation) if generation else predictor, said, file, out)


def _write(parts: Iterable[Chunk], predictor: Predictor, said: _Answers, file: Path | None, out: Path | None) -> None:
    from afina.data.readers.texts import TextStream
    from afina.predicting import prediction_files
    from afina.report.formatting import texts_cut

    backbone = getattr(predictor, "backbone", None)  # a bag of words has no backbone
    if backbone is not None and backbone.copy_note:
        print(f"Note: backbone {backbone.address}: {backbone.copy_note}", file=sys.stderr)
    separator = predictor.manifest.data.separator
    made = prediction_files.writing_rows(out, predictor.objective, separator) if out else nullcontext(said.add)
    with made as write:
        _answer(parts, predictor, said, write)
    if isinstance(parts, TextStream) and parts.note:
        print(parts.note, file=sys.stderr)
    elif not said.rows:
        print(f"{file}: the file has no text, so there is no answer.", file=sys.stderr)
    if said.truncated:
        print(texts_cut(said.truncated, said.texts, getattr(predictor, "max_length", None)), file=sys.stderr)
    if note := said.note():
        print(note, file=sys.stderr)
    said.end(out)


def _writes(adapter: Adapter) -> bool:
    from afina.data.readers.target_kinds import TARGETS
    from afina.models import objectives

    return TARGETS[objectives.make(adapter.manifest.label_names, adapter.manifest.objective).kind].written


def _check_given(inputs: Mapping[str, bool], columns: Mapping[str, str]) -> None:
    """Raise InvalidData unless one of the inputs is given, and for columns without a file."""
    given = [name for name, is_given in inputs.items() if is_given]
    if len(given) != 1:
        raise problems.TEXTS_OR_FILE(found=" and ".join(given) or "no texts and no file")
    for name, column in columns.items():
        if given != ["a file"]:
            raise problems.COLUMN_WITHOUT_FILE(column=column, option=name)


@dataclass
class _Answers:
    """Prints predictions, after each chunk of texts or as one JSON object at the end, and counts rows and texts."""

    adapter: Adapter
    as_json: bool
    kept: list[dict[str, Any]] = field(default_factory=list)
    rows: int = 0
    texts: int = 0
    truncated: int = 0
    answered: int = 0

    @property
    def abstains(self) -> bool:
        """Whether the adapter leaves texts unanswered."""
        return "abstain_below" in (self.adapter.manifest.objective or {})

    def note(self) -> str:
        """Return how many texts the adapter answered; empty if it answers every text."""
        if not (self.abstains and self.texts):
            return ""
        left = self.texts - self.answered
        below = (self.adapter.manifest.objective or {})["abstain_below"]
        why = "no threshold kept the promise of the training" if below > 1 else f"confidence below {below:.4g}"
        return f"{self.answered:,} of {self.texts:,} text{'s' * (self.texts != 1)} answered, {left:,} not ({why})."

    def add(self, chunk: Chunk, answers: Sequence[dict[str, Any]]) -> None:
        if self.as_json:
            self.kept += answers
            return
        for answer in answers:
            if sys.stdout.isatty() and answer.get("entities") is not None:
                found = MarkedText.of_json(answer["text"], answer["entities"])
                print_marked(found, self.adapter.manifest.label_names)
            else:
                print(json.dumps(answer, ensure_ascii=False))
        sys.stdout.flush()  # the reader of a pipe gets each chunk at once; a closed pipe raises an error here

    def end(self, out: Path | None) -> None:
        if self.as_json:
            counts = {"rows": self.rows, "without_text": self.rows - self.texts, "truncated": self.truncated}
            counts |= {"answered": self.answered} if self.abstains else {}
            about = {"adapter": self.adapter.where, "digest": self.adapter.digest, **counts}
            print(json.dumps({**about, **({"answers": self.kept} if out is None else {"out": str(out)})}))
        elif out is not None:
            print(f"{out}: {self.rows:,} row{'s' * (self.rows != 1)}, {self.texts:,} with an answer")


def _progress() -> AbstractContextManager[Callable[[Chunk], None]]:
    from afina.cli.progress import file_progress  # its imports take time that a few texts do not need

    return file_progress()


def _unseen(chunk: Chunk) -> None:
    """Show no progress: texts of the command line are one chunk."""


def _answer(
    parts: Iterable[Chunk],
    predictor: Predictor,
    said: _Answers,
    write: Callable[[Chunk, Sequence[dict[str, Any]]], None],
) -> None:
    from afina.data.readers.texts import TextStream
    from afina.predicting import prediction_files

    with _progress() if isinstance(parts, TextStream) else nullcontext(_unseen) as read:
        for chunk in parts:
            print_reading(parts.news() if isinstance(parts, TextStream) else "")
            answers, truncated = prediction_files.answered_rows(predictor, chunk)
            said.rows, said.texts = said.rows + len(chunk.rows), said.texts + len(chunk.texts)
            said.truncated += truncated
            said.answered += sum(answer.get(prediction_files.ANSWERED) is True for answer in answers)
            write(chunk, answers)
            read(chunk)


@takes(task=required_task, data=measuring)
def compare(
    first: Annotated[
        str, typer.Argument(help="First adapter: its directory, or store:CLIENT/TASK@VERSION.", metavar="A")
    ],
    second: Annotated[str, typer.Argument(help="Second adapter.", metavar="B")],
    task: str,
    backbone: OwnBackbone = None,
    metric: MetricOption = None,
    positive: Annotated[str | None, reading_option("positive")] = None,
    as_json: Json = False,
    *,
    data: dict[str, Any],
) -> None:
    """Compare two adapters on the same labelled texts.

    Prints which adapter is better, with an interval, and the texts with different answers.
    """
    from afina.data.addresses import check_address

    open_both = [locate(each, None, None, backbone) for each in (first, second)]
    check_address(task)
    one, other = (open_it() for open_it in open_both)
    from afina.report import evaluation
    from afina.report.formatting import metric_figure, too_few
    from afina.store import recompute

    texts = recompute.read_texts(task, (one, other), names=(first, second), **data)
    if positive is not None:
        texts = texts.with_positive(positive)
    flips = recompute.flips_between(one, other, texts, backbone, names=(first, second), metric=metric)
    if as_json:
        seen = {"task": task, "file": texts.where, "leaked": texts.leaked, "left_out": texts.left_out}
        content = {"first": first, "second": second, **seen, **flips.as_json()}
        print(json.dumps(content, ensure_ascii=False, allow_nan=False))
        return
    where = evaluation.texts_evaluated(texts.where, flips.examples, texts.held_out)
    for name, figure in zip(flips.names, flips.figures, strict=True):
        measured = metric_figure(flips.metric, figure, texts.label_names)
        print(printable(f"{name}: {measured} on {where}{too_few(flips.examples)}"))
    print_flips(flips)
    if texts.leaked is None:
        print("It is unknown whether both adapters were trained on any of these texts.", file=sys.stderr)
