"""Commands that train nothing: inspect, ask, params, plan, methods."""

from __future__ import annotations

import json
import shlex
import sys
from dataclasses import MISSING, asdict, fields
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from afina.cli import problems
from afina.cli.option_names import option_flag, with_flags
from afina.cli.options import (
    EMBEDDED,
    BackbonesOption,
    Json,
    OneBackbone,
    TaskOption,
    WordsOption,
    asking,
    asking_endpoint,
    check_different,
    only,
    reading,
    reading_flags,
    takes,
    template_option,
    train_command,
    words_option,
)
from afina.cli.terminal import print_item, print_prose, print_tables
from afina.errors import UnknownName

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from afina.data.inspection import Inspection
    from afina.data.task import Task
    from afina.data.token_lengths import TokenLengths
    from afina.endpoints.answers import EndpointForecast
    from afina.methods.method import Method
    from afina.predicting.prompting import Answer
    from afina.studies.planning.forecast import Forecast


_MOST = 2**31 - 1
"""The largest whole number that `Training` accepts, repeated here so that `--help` does not load `Training`."""


def _amount(flag: str, help_text: str) -> Any:
    return typer.Option(flag, help=help_text, min=1, max=_MOST)


MOST_DEVICES = 4096
"""The largest number of devices for which `afina plan` makes a forecast."""

MemoryOption = Annotated[
    str | None, typer.Option("--memory", help="Memory limit, such as 8GiB; default: all memory of this machine.")
]


@takes(data=reading)
def inspect(
    task: TaskOption,
    backbone: Annotated[
        list[str] | None,
        typer.Option(
            "--backbone",
            help="Count texts that are longer than this pretrained model reads; may be repeated. No download.",
            metavar="ADDRESS",
        ),
    ] = None,
    as_json: Json = False,
    *,
    data: dict[str, Any],
) -> None:
    """Show how texts are read: columns, kind, labels with their counts, and what is doubtful.

    Nothing is trained or changed. Each doubt names the option that mends it. Lengths in tokens are measured on at most
    2,000 texts.
    """
    from afina.data.inspection import inspect
    from afina.data.reading_options import ReadingOptions

    def says(words: str) -> None:
        print(f"inspect: {with_flags(words)}", file=sys.stderr, flush=True)

    found = inspect(
        task,
        ReadingOptions(**data),
        measured=partial(_token_lengths, check_different(backbone or []), says),
        says=says,
    )
    if as_json:
        print(json.dumps(found.as_json(), ensure_ascii=False))
    else:
        _print_inspection(found)


def _token_lengths(backbones: Sequence[str], says: Callable[[str], None], task: Task) -> list[TokenLengths]:
    """Return the token lengths of a task for each backbone that is on this machine."""
    from afina.models.backbone_spec import is_at_hand

    made = []
    for address in backbones:
        if not is_at_hand(address):
            says(f"the tokenizer of {address} is not on this machine, so its lengths in tokens are unknown")
            continue
        says(f"measuring texts with the tokenizer of {address}")
        from afina.data.token_lengths import TokenLengths
        from afina.models.backbone import Backbone  # torch and transformers, which take seconds

        opened = Backbone.load(address, weights=False)
        made.append(TokenLengths.of(task, opened.tokenizer, opened.longest, address))
    return made


def _print_inspection(found: Inspection) -> None:
    for line in found.words:
        print_prose(with_flags(line))
    if found.kind:
        print(f"{found.train:,} training and {found.evaluation:,} held-out texts")
        middle, most, longest = found.characters
        print(f"lengths in characters: median {middle:,}, 95 of 100 texts at most {most:,}, longest {longest:,}")
    for one in found.tokens:
        print(
            f"lengths in tokens of {one.backbone}: median {one.median:,}, longest {one.longest:,} "
            f"({one.sampled:,} texts); it reads {one.most:,}"
        )
    for label in found.labels:
        print_item(label.label, f"{label.train:,} training and {label.evaluation:,} held-out {found.counted}")
    if found.further:
        print(f"and {found.further:,} further labels")
    for doubt in found.doubts:
        print_prose(f"{doubt.heading}: {with_flags(doubt.words)}")
        for remedy in doubt.remedies:
            flags = " ".join(_flag(name, value) for name, value in remedy.options.items())
            print(f"  {flags}: {remedy.words}")


def _flag(name: str, value: object) -> str:
    """Return a reading option as the command line has it."""
    if value is None:
        return f"without {option_flag(name)}"
    return option_flag(name) if value is True else shlex.join([option_flag(name), str(value)])


def params(backbone: OneBackbone = EMBEDDED, as_json: Json = False) -> None:
    """Count the parameters that each method trains.

    Only the configuration of the backbone is read, not its weights; well-known models need no network. PreLayer is
    counted in two ways: as afina trains it, and as in the published study.
    """
    from afina.methods.attachment import count
    from afina.report.tables import PUBLISHED_HYPERPARAMETERS, counts_as_json, counts_table

    address = only(backbone)
    counted = count(address, PUBLISHED_HYPERPARAMETERS)
    if as_json:
        print(json.dumps(counts_as_json(address, counted)))
    else:
        print_tables(counts_table(address, counted))


DtypeOption = Annotated[str, typer.Option("--dtype", help="Precision: float32, bfloat16, or auto (as in training).")]
PrecisionsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--precision",
        help="Storage of the backbone's frozen weights: float, or int8 to use less memory. Several are compared.",
    ),
]
ProductsOption = Annotated[
    str,
    typer.Option(
        "--products", help="Products with frozen weights in training: float, or int8 on processors that support it."
    ),
]
CalibrateOption = Annotated[
    bool,
    typer.Option(
        "--calibrate/--no-calibrate",
        help="Measure the time of a few training steps, if a task and the weights are available.",
    ),
]


DevicesOption = Annotated[
    int,
    typer.Option(
        "--devices",
        help="Plan the memory of each of up to this many devices that train together; --memory is then that of each.",
        min=1,
        max=MOST_DEVICES,
        metavar="N",
    ),
]

MethodsOption = Annotated[
    list[str] | None,
    typer.Option("--method", help="Method of 'afina methods'; may be repeated. Default: all methods."),
]

LayersOption = Annotated[
    str | None,
    typer.Option(
        "--layers",
        help="Blocks that the methods adapt: 'upper half', 'upper quarter', or a number of upper blocks. Without "
        "--method, the methods that have this setting are planned.",
        metavar="BLOCKS",
    ),
]


SettingsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        help="A hyperparameter of the planned methods, such as r=8 or shots=16; may be repeated. Without --method, the "
        "methods that have this setting are planned.",
        metavar="KEY=VALUE",
    ),
]


@takes(data=reading, ask=asking, endpoint=asking_endpoint)
def plan(
    *,
    backbone: BackbonesOption = None,
    task: Annotated[str | None, typer.Option("--task", help="Labelled texts to plan for.", metavar="ADDRESS")] = None,
    method: MethodsOption = None,
    layers: LayersOption = None,
    overrides: SettingsOption = None,
    dtype: DtypeOption = "auto",
    precision: PrecisionsOption = None,
    products: ProductsOption = "float",
    memory: MemoryOption = None,
    devices: DevicesOption = 1,
    batch_size: Annotated[int, _amount("--batch-size", "Texts in a training batch.")] = 16,
    max_length: Annotated[
        int | None,
        _amount("--length", "Tokens per text, by default 128; with --task, the length to which texts are truncated."),
    ] = None,
    epochs: Annotated[int, _amount("--epochs", "Epochs of the training whose time is estimated.")] = 2,
    calibrate: CalibrateOption = True,
    considered: Annotated[
        bool, typer.Option("--considered", help="Leave out methods that 'afina choose' does not consider.")
    ] = False,
    ask: dict[str, Any],
    endpoint: dict[str, Any] | None,
    as_json: Json = False,
    data: dict[str, Any],
) -> None:
    """Estimate memory, disk and time of each method before training, on each backbone.

    Memory is computed without the weights of the backbone. With --endpoint, the cost of asking it is estimated too.
    """
    _check_there(task, data.get("evaluation"))
    asked_for = None if endpoint is None else _endpoint_forecast(endpoint, task, data, ask)
    from afina.cli.progress import print_progress
    from afina.data.reading_options import ReadingOptions
    from afina.schema import read_size
    from afina.studies.executors import worker_memory

    worker_memory.prepare()
    from afina.studies.planning.forecast_runs import forecast_methods
    from afina.studies.runs.spec import Ask
    from afina.studies.study_file import checked
    from afina.training.settings import Training

    precisions = _different(precision)
    planned = _planned(method, layers, overrides or [])
    asked: dict[str, Any] = {"methods": planned, "data": checked(ReadingOptions, data, "plan")}
    asked |= {"ask": Ask(**ask), "memory": read_size(memory) if memory is not None else None}
    trains = partial(Training, **_known(dtype, products), batch_size=batch_size, max_length=max_length, epochs=epochs)
    asked |= {"calibrate": calibrate, "considered": considered, "compares": len(precisions) > 1, "devices": devices}
    backbones = check_different(backbone or EMBEDDED)
    asked |= {"says": print_progress("plan"), "among": len(backbones) > 1}
    found = [
        [forecast_methods(one, task=task, training=trains(precision=each), **asked) for each in precisions]
        for one in backbones
    ]
    _print_plans(_planned_plans(found, method, backbones), asked_for, as_json=as_json)


def _known(dtype: str, products: str) -> dict[str, Any]:
    """Return the two as settings. Raises UnknownName."""
    from afina.training.settings import DTYPES, PRODUCTS

    if dtype not in DTYPES:
        raise UnknownName("dtype", dtype, DTYPES, "plan")
    if products not in PRODUCTS:
        raise UnknownName("products", products, PRODUCTS, "plan")
    return {"dtype": dtype, "products": products}


def _planned_plans(
    found: Sequence[Sequence[Sequence[Forecast]]], methods: Sequence[str] | None, backbones: Sequence[str]
) -> list[list[Sequence[Forecast]]]:
    """Return the plans that have a method. Raises InvalidStudy if there are none."""
    shown = [[plan for plan in plans if plan] for plans in found]
    if not any(shown):
        raise problems.NO_METHOD_SUITS(methods=methods or ["any method"], backbones=backbones)
    return shown


def _endpoint_forecast(
    table: Mapping[str, Any], task: str | None, data: Mapping[str, Any], ask: Mapping[str, Any]
) -> EndpointForecast:
    """Return what asking a model behind an API would take. Raises InvalidStudy if there is no task."""
    from afina.data.reading_options import ReadingOptions
    from afina.studies.choosing.asked_rival import check_table, forecast_endpoint
    from afina.studies.runs.spec import Ask
    from afina.studies.study_file import checked

    check_table(table)
    if task is None:
        raise problems.ENDPOINT_WITHOUT_TASK(option="endpoint", needed="task")
    return forecast_endpoint(table, task, checked(ReadingOptions, data, "plan"), Ask(**ask))


def _planned(names: Sequence[str] | None, layers: str | None, overrides: Sequence[str]) -> list[Method] | None:
    """Return the methods to plan, with the values of `--layers` and `--set`; None: all methods that suit a backbone.

    Raises UnknownName or InvalidStudy.
    """
    from afina.methods import METHODS, make
    from afina.studies.study_file import override

    given: dict[str, Any] = {}
    for item in overrides:
        override(given, item)
    if layers is not None:
        given["layers"] = int(layers) if layers.isascii() and layers.isdecimal() else layers
    if not given:
        return [make(name) for name in names] if names else None
    chosen = names or [name for name, kind in METHODS.items() if given.keys() <= kind.accepts()]
    for setting in given if not chosen else ():
        chosen = [name for name, kind in METHODS.items() if setting in kind.accepts()]  # `make` names the other one
        if not chosen:
            known = sorted({one for kind in METHODS.values() for one in kind.accepts()})
            raise UnknownName("hyperparameter", setting, known, "plan")
    return [make(name, given, "plan") for name in chosen]


def _different(precisions: Sequence[str] | None) -> list[str]:
    """Return each given `--precision` once; float if none is given. Raises UnknownName for an unknown precision."""
    from afina.models.backbone_spec import FLOAT, precision_of

    found = list(dict.fromkeys(precisions or [FLOAT]))
    for one in found:
        precision_of(one, "plan")
    return found


def _print_plans(
    found: Sequence[Sequence[Sequence[Forecast]]], asked_for: EndpointForecast | None, *, as_json: bool
) -> None:
    from afina.report.details.endpoints import endpoint_forecast_table
    from afina.report.details.plans import devices_table, forecast_table, gpu_table, precision_table
    from afina.studies.planning.forecast import shared_terms

    every = [plan for plans in found for plan in plans]
    if as_json:
        made = [{**shared_terms(each).summary, "methods": {one.method: one.summary for one in each}} for each in every]
        endpoint = {} if asked_for is None else {"endpoint": asdict(asked_for)}
        print(json.dumps(({"backbones": made} if made[1:] else made[0]) | endpoint))
        return
    for plan in every:
        kinds = (False, True) if plan[0].runs_on_gpu else (False,)
        print_tables(forecast_table(plan), *([gpu_table(plan)] if plan[0].runs_on_gpu else []))
        if any(one.on_devices for one in plan):
            print_tables(*(devices_table(plan, on_gpu=on_gpu) for on_gpu in kinds))
    print_tables(*(precision_table(plans) for plans in found if len(plans) > 1))
    if asked_for is not None:
        print_tables(endpoint_forecast_table(asked_for))


def _check_there(task: str | None, evaluation: str | None) -> None:
    """Check that the files of the task and of `--eval` exist, before the slow part of a command."""
    from afina.data.addresses import check_address

    if task is not None:
        check_address(task, evaluation)


def methods(as_json: Json = False) -> None:
    """List the methods with their hyperparameters and defaults.

    `a+b` trains two methods together.
    """
    from afina.methods import METHODS, NEEDS_SETTINGS, REFUSED

    if as_json:
        print(json.dumps({name: _method_as_json(method()) for name, method in METHODS.items()}))
        return
    for name, method in METHODS.items():
        described = _method_as_json(method())
        settings = [
            f"{key}={'by family' if value == [] else repr(value)}" for key, value in described["defaults"].items()
        ]
        rate = [] if described["learning_rate"] is None else [f"learning_rate={described['learning_rate']:g}"]
        print_item(name, method.summary, ", ".join([*settings, *rate]))
    for name, method in NEEDS_SETTINGS.items():
        print_item(name, method.summary, *_needed_settings(method))
    for name, why in REFUSED.items():
        print(f"Cannot be used: method {name} of another package: {why}.", file=sys.stderr)
    print("\nlora's default targets are the attention input projections of each model family:")
    from afina.models.architectures import ARCHITECTURES

    for family, entry in ARCHITECTURES.items():
        print_item(f"  {family}", ", ".join(entry.lora_targets))


def _needed_settings(method: type[Method]) -> tuple[str, str]:
    """Return the required settings of a method that needs settings, and its other settings with their defaults."""
    defaults = {one.name: one.default for one in fields(method) if one.name in method.accepts()}
    needed = [name for name, value in defaults.items() if value is MISSING]
    others = [f"{name}={value!r}" for name, value in defaults.items() if value is not MISSING]
    others += sorted(method.accepts() - defaults.keys())
    others += [] if method.asks_endpoint else [f"learning_rate={method.learning_rate:g}"]
    return f"required: {', '.join(needed)}", ", ".join(others)


def _method_as_json(method: Method) -> dict[str, Any]:
    defaults = {each.name: getattr(method, each.name) for each in fields(method)}
    return {
        "title": method.title,
        "summary": method.summary,
        "trains": not method.trains_nothing,
        "learning_rate": None if method.trains_nothing or method.is_fitted else method.learning_rate,
        "defaults": {key: list(value) if isinstance(value, tuple) else value for key, value in defaults.items()},
        "search": None if method.search is None else {key: list(value) for key, value in method.search.items()},
        "practical": method.practical,
    }


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


@takes(data=reading)
def ask(
    task: TaskOption,
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
    from afina.cli.progress import print_progress
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
