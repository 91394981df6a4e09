"""The command line: arguments to the nouns of the library, results to the terminal. The only place that prints.

Starts without torch; what a command needs is imported by the command.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from afina import __version__
from afina.errors import AfinaError, InvalidData, UnknownName

if TYPE_CHECKING:
    from collections.abc import Callable

    from afina.report.tables import Table
    from afina.studies.results import Results
    from afina.studies.study import Study

app = typer.Typer(
    name="afina",
    help="Which way of adapting a language model to your texts is best, what it costs, and how sure that is.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output, and nothing else there.")]
BackboneOption = Annotated[
    str, typer.Option("--backbone", help="Hub id, directory, 'embedded', or random:DIRECTORY.", metavar="ADDRESS")
]
TaskOption = Annotated[
    str,
    typer.Option(
        "--task", help="csv, tsv, jsonl or parquet file, directory, sst2, or snippets:NAME.", metavar="ADDRESS"
    ),
]
TextColumn = Annotated[str | None, typer.Option("--text", help="Column of the text.", metavar="NAME")]
PairColumn = Annotated[str | None, typer.Option("--text-pair", help="Column of a second text.", metavar="NAME")]
LabelColumn = Annotated[str | None, typer.Option("--label", help="Column of the label.", metavar="NAME")]
Labels = Annotated[
    str | None, typer.Option("--labels", help="Labels in their order, comma separated; the second is 'positive'.")
]
NoTexts = Annotated[
    bool, typer.Option("--no-texts", help="Row numbers instead of texts in the report, so that it may be passed on.")
]
AllowLeakage = Annotated[
    bool, typer.Option("--allow-leakage", help="Go on though evaluation texts occur in the training split.")
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", help="Override a field of the study, such as train.epochs=1.", metavar="KEY=VALUE"),
]


def _version(wanted: bool) -> None:
    if wanted:
        print(f"afina {__version__}")
        raise typer.Exit


@app.callback()
def _top(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@app.command()
def study(
    source: Annotated[
        str, typer.Argument(help="A study file (TOML), or a preset: quickstart, fair, paper.", metavar="STUDY")
    ],
    out: Annotated[Path | None, typer.Option("--out", help="Where results go; by default results/NAME.")] = None,
    overrides: Overrides = None,
    backbone: Annotated[str | None, typer.Option("--backbone", help="Use another backbone.", metavar="ADDRESS")] = None,
    task: Annotated[str | None, typer.Option("--task", help="Use another task.", metavar="ADDRESS")] = None,
    allow_leakage: AllowLeakage = False,
    no_texts: NoTexts = False,
    as_json: Json = False,
) -> None:
    """Compare methods: run every method and seed of a study, skipping what is recorded, and show the tables.

    Interrupted at any moment, the same command goes on from the last checkpoint.
    """
    from afina.studies.study import Study

    given = list(overrides or [])
    given += [f"{key}={json.dumps(value)}" for key, value in (("backbone", backbone), ("task", task)) if value]
    given += ["data.allow_leakage=true"] if allow_leakage else []
    _carry_out(Study.load(source, given), out, as_json, texts=not no_texts)


@app.command()
def train(
    task: TaskOption,
    backbone: BackboneOption = "embedded",
    method: Annotated[str, typer.Option("--method", help="See 'afina methods'.")] = "lora",
    out: Annotated[Path, typer.Option("--out", help="Where results go.")] = Path("results/train"),
    seed: Annotated[int, typer.Option("--seed", help="Of the head, the order and the dropout.")] = 0,
    overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="A hyperparameter or training setting, such as r=8 or epochs=3; token_budget=1024 and "
            "checkpointing=true save memory.",
            metavar="KEY=VALUE",
        ),
    ] = None,
    text: TextColumn = None,
    text_pair: PairColumn = None,
    label: LabelColumn = None,
    labels: Labels = None,
    allow_leakage: AllowLeakage = False,
    as_json: Json = False,
) -> None:
    """Train one adapter on your texts, and evaluate it."""
    from afina.studies.study import Study
    from afina.studies.study_file import override

    settings: dict[str, Any] = {}
    for item in overrides or []:
        override(settings, item)
    content = {
        "name": "train",
        "backbone": backbone,
        "task": task,
        "seeds": [seed],
        "data": _data(text, text_pair, label, labels, allow_leakage),
        "methods": {method: settings},
    }
    _carry_out(Study.parse(content, "afina train"), out, as_json)


@app.command()
def choose(
    task: TaskOption,
    minutes: Annotated[float, typer.Option("--minutes", help="How long it may take; of use from 5 up.")] = 30.0,
    memory: Annotated[
        str | None, typer.Option("--memory", help="What a run may have, such as 8GiB; by default what is free here.")
    ] = None,
    backbone: BackboneOption = "embedded",
    out: Annotated[Path, typer.Option("--out", help="Where results go.")] = Path("results/choose"),
    text: TextColumn = None,
    text_pair: PairColumn = None,
    label: LabelColumn = None,
    labels: Labels = None,
    allow_leakage: AllowLeakage = False,
    as_json: Json = False,
) -> None:
    """Recommend a way of adapting for your texts, with evidence and an adapter, within a number of minutes."""
    from afina import meter
    from afina.cli.display import Minutes
    from afina.studies.forecast import read_size
    from afina.studies.recommend import recommend

    began = meter.now()
    limit = read_size(memory) if memory else None
    data = _data(text, text_pair, label, labels, allow_leakage)
    watching = Minutes(began, lambda line: print(line, file=sys.stderr))
    command = ["afina", *sys.argv[1:]]
    results = recommend(
        task,
        minutes,
        memory=limit,
        backbone=backbone,
        out=out,
        data=data,
        watcher=watching,
        command=command,
        began=began,
    )
    _show(results, as_json)


@app.command()
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

    options = _data(text, text_pair, label, labels, allow_leakage)
    result = evaluate(adapter, task, options, backbone_address=backbone, check_probe=check_probe)
    if as_json:
        print(json.dumps(result))
    else:
        print(f"accuracy {result['accuracy']:.4f}, F1 {result['f1']:.4f} on {result['examples']:,} texts of {task}")


@app.command()
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


@app.command()
def params(backbone: BackboneOption = "embedded", as_json: Json = False) -> None:
    """Count what each method trains, from the backbone's configuration alone: no weights, and no network for gpt2.

    PreLayer is counted as the paper does, without the head.
    """
    from afina.methods.parameters import count

    counted = count(backbone)
    if as_json:
        print(json.dumps(counted))
        return
    print(f"{backbone}: {counted['total']:,} parameters with a head for two labels")
    width = max(len(name) for name in counted["methods"])
    for name, one in counted["methods"].items():
        share = 100 * one["trainable"] / counted["total"]
        print(
            f"  {name:<{width}} {one['trainable']:>15,}  {share:8.4f} %  (body {one['body']:,}, head {one['head']:,})"
        )


@app.command()
def plan(
    backbone: BackboneOption = "embedded",
    task: Annotated[str | None, typer.Option("--task", help="Plan for its texts.", metavar="ADDRESS")] = None,
    method: Annotated[
        list[str] | None, typer.Option("--method", help="One of 'afina methods'; may be repeated. By default all.")
    ] = None,
    dtype: Annotated[str, typer.Option("--dtype", help="float32, bfloat16, or auto: what training would choose.")] = (
        "float32"
    ),
    memory: Annotated[
        str | None, typer.Option("--memory", help="What must suffice, as 8GiB; by default all of this machine's.")
    ] = None,
    batch_size: Annotated[int, typer.Option("--batch-size", help="Texts of a training batch.", min=1)] = 16,
    length: Annotated[
        int | None,
        typer.Option("--length", help="Tokens of each text (128); with a task, where texts are truncated.", min=1),
    ] = None,
    epochs: Annotated[int, typer.Option("--epochs", help="Of the training whose time is foreseen.", min=1)] = 2,
    calibrate: Annotated[
        bool, typer.Option("--calibrate/--no-calibrate", help="With a task and weights: take a few steps for the time.")
    ] = True,
    text: TextColumn = None,
    text_pair: PairColumn = None,
    label: LabelColumn = None,
    labels: Labels = None,
    allow_leakage: AllowLeakage = False,
    as_json: Json = False,
) -> None:
    """Foresee what each method costs in memory, disk and time, before anything is trained.

    Memory comes from the backbone's configuration alone: no weights, and no network for gpt2.
    """
    from afina.methods import make
    from afina.report.forecasts import forecast_table
    from afina.studies.cost import forecast
    from afina.studies.forecast import read_size
    from afina.studies.spec import DTYPES, Data, Training

    if dtype not in DTYPES:
        raise UnknownName("dtype", dtype, DTYPES, "plan")
    found = forecast(
        backbone,
        [make(name) for name in method] if method else None,
        task=task,
        data=Data(**_data(text, text_pair, label, labels, allow_leakage)),
        training=Training(dtype=dtype, batch_size=batch_size, max_length=length, epochs=epochs),
        memory=read_size(memory) if memory else None,
        calibrate=calibrate,
    )
    if as_json:
        print(json.dumps({**asdict(found[0].terms), "methods": {one.method: one.summary for one in found}}))
    else:
        _print(forecast_table(found))


@app.command()
def methods() -> None:
    """List the ways of adapting, with their hyperparameters and defaults."""
    from dataclasses import fields

    from afina.methods import METHODS

    for name, method in METHODS.items():
        print(f"{name:<16}{method.summary}")
        defaults = {field.name: getattr(method(), field.name) for field in fields(method)}
        settings = [f"{key}={'by family' if value == () else repr(value)}" for key, value in defaults.items()]
        print(f"{'':<16}{', '.join([*settings, f'learning_rate={method.learning_rate:g}'])}")
    print("\nlora's default targets are the attention input projections of each model family:")
    from afina.models.families import FAMILIES

    for family, entry in FAMILIES.items():
        print(f"  {family:<14}{', '.join(entry.lora_targets)}")


@app.command()
def show(
    out: Annotated[Path, typer.Argument(help="A study's --out directory.", metavar="OUT")], as_json: Json = False
) -> None:
    """Show the tables of a study again, finished or not."""
    from afina.studies.results import Results

    _show(Results.read(out), as_json)


@app.command()
def report(
    out: Annotated[Path, typer.Argument(help="A study's --out directory.", metavar="OUT")], no_texts: NoTexts = False
) -> None:
    """Write a study's report anew, finished or not: report.html, report.md, tables.csv and tables.json."""
    from afina.studies.results import Results

    for path in write_report(Results.read(out), texts=not no_texts):
        print(path)


def _data(
    text: str | None, text_pair: str | None, label: str | None, labels: str | None, allow_leakage: bool
) -> dict[str, Any]:
    order = [name.strip() for name in labels.split(",")] if labels else None
    return {"text": text, "text_pair": text_pair, "label": label, "labels": order, "allow_leakage": allow_leakage}


def _carry_out(study: Study, out: Path | None, as_json: bool, *, texts: bool = True) -> None:
    from rich.console import Console

    from afina.cli.display import watcher

    where = out or Path("results") / study.name
    watching = watcher(Console(stderr=True), write_text)
    command = ["afina", *sys.argv[1:]]
    try:
        results = study.run(where, watching, command)
    except KeyboardInterrupt:
        watching.stop()
        print(f"\nInterrupted. To go on from the last checkpoint: {shlex.join(command)}", file=sys.stderr)
        raise typer.Exit(130) from None
    if results.results:
        write_report(results, texts=texts)
    _show(results, as_json)
    if results.failed:
        count, runs = len(results.failed), len(results.failed) + len(results.results)
        if runs > 1:
            print(f"{count} of {runs} runs failed. The same command tries them again.", file=sys.stderr)
        raise typer.Exit(AfinaError.exit_code)


def _show(results: Results, as_json: bool) -> None:
    from afina.report.report import MARKDOWN, PAGE, Report
    from afina.report.writers.terminal import findings

    made = Report.of(results)
    if as_json:
        print(json.dumps(made.summary(), ensure_ascii=False))
        return
    if results.recommendation:
        _print(*made.evidence)
        print(" ".join(made.sentences))
        if results.recommendation.adapter:
            print(f"adapter {results.out / results.recommendation.adapter}")
        return
    _print(*made.tables)
    _print(*made.findings, show=findings)
    for record in results.records:
        print(f"adapter {results.out / record.adapter}")
    for path in (results.out / MARKDOWN, results.out / PAGE):
        if path.exists():
            print(f"{'page' if path.name == PAGE else 'report':<7} {path}")


def write_text(results: Results) -> None:
    """Write the report's text anew, while a study goes on."""
    from afina.report.report import MARKDOWN, Report

    Report.of(results).write([MARKDOWN])


def write_report(results: Results, *, texts: bool = True) -> list[Path]:
    """Write every file of the report anew; their paths. `texts` false keeps evaluation texts out of them."""
    from afina.report.evaluated import WITHHELD, Evaluated
    from afina.report.report import Report

    evaluated = Evaluated.read(results.task, results.data) if texts else WITHHELD
    return Report.of(results, evaluated).write()


def _print(*tables: Table, show: Callable[[Table, int], object] | None = None) -> None:
    from rich.console import Console

    from afina.report.writers.terminal import rendered

    console = Console()
    if not console.is_terminal:
        console = Console(width=120)
    for table in tables:
        console.print((show or rendered)(table, console.width))
        console.print()


def main() -> None:
    """Run the command line; an error of the user's is one or two lines and exit status 2."""
    try:
        app()
    except AfinaError as error:
        print(f"Error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except BrokenPipeError:
        # The reader of our output has left (`afina show OUT | head`); there is nobody to tell.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
