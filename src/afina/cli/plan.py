"""afina plan: estimate memory, disk and time of methods before training."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from afina.cli import problems
from afina.cli.option_names import flag
from afina.cli.options import (
    EMBEDDED,
    BackbonesOption,
    Json,
    asking,
    asking_endpoint,
    check_different,
    reading,
    takes,
    task_if_given,
)
from afina.cli.terminal import print_progress, print_tables
from afina.data.reading_options import MOST
from afina.errors import AfinaError, UnknownName
from afina.sentence import Sentence

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from afina.endpoints.answers import EndpointForecast
    from afina.events import Says
    from afina.methods.method import Method
    from afina.studies.planning.forecast import Forecast
    from afina.training.settings import Training


def _amount(option: str, help_text: str) -> Any:
    return typer.Option(option, help=help_text, min=1, max=MOST)


MOST_DEVICES = 4096
"""The largest number of devices for which `afina plan` makes a forecast."""

MemoryOption = Annotated[
    str | None, typer.Option("--memory", help="Memory limit, such as 8GiB; default: all memory of this machine.")
]


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
EpochsOption = Annotated[
    int | None, _amount("--epochs", "Epochs of the training whose time is estimated; default 2, on an encoder 4.")
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


@takes(task=task_if_given, data=reading, ask=asking, endpoint=asking_endpoint)
def plan(
    *,
    task: str | None,
    backbone: BackbonesOption = None,
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
        _amount("--length", "Tokens per text, by default 128; with FILE, the length to which texts are truncated."),
    ] = None,
    epochs: EpochsOption = None,
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
    if task is not None:
        from afina.data.addresses import check_address

        check_address(task, data.get("evaluation"))  # before anything that takes time
    asked_for = None if endpoint is None else _endpoint_forecast(endpoint, task, data, ask)
    from afina.data.reading_options import ReadingOptions
    from afina.schema import read_size
    from afina.studies.executors import worker_memory

    worker_memory.prepare()
    from afina.studies.runs.spec import Ask
    from afina.studies.study_file import checked
    from afina.training.settings import Training

    precisions = _different(precision)
    planned = _planned(method, layers, overrides or [])
    asked: dict[str, Any] = {"methods": planned, "data": checked(ReadingOptions, data, "plan")}
    asked |= {"ask": Ask(**ask), "memory": read_size(memory) if memory is not None else None}
    trains = partial(Training, **_known(dtype, products, epochs), batch_size=batch_size, max_length=max_length)
    asked |= {"calibrate": calibrate, "considered": considered, "compares": len(precisions) > 1, "devices": devices}
    backbones = check_different(backbone or EMBEDDED)
    says = print_progress("plan")
    asked |= {"task": task, "says": says, "among": len(backbones) > 1}
    plans = [[_plan(one, trains(precision=each), says, asked) for each in precisions] for one in backbones]
    suited = [[plan for plan in of_backbone if plan.forecasts] for of_backbone in plans]
    if not any(suited):
        raise problems.NO_METHOD_SUITS(methods=method or ["any method"], backbones=backbones)
    _print_plans(suited, asked_for, as_json=as_json)


def _known(dtype: str, products: str, epochs: int | None) -> dict[str, Any]:
    """Return the settings that are given. Raises UnknownName."""
    from afina.training.settings import DTYPES, PRODUCTS

    if dtype not in DTYPES:
        raise UnknownName("dtype", dtype, DTYPES, "plan")
    if products not in PRODUCTS:
        raise UnknownName("products", products, PRODUCTS, "plan")
    return {"dtype": dtype, "products": products} | ({} if epochs is None else {"epochs": epochs})


@dataclass(frozen=True)
class _Plan:
    """The forecasts on a backbone in a precision, and why other methods have none, by method."""

    forecasts: Sequence[Forecast]
    left_out: Mapping[str, AfinaError]

    @property
    def as_json(self) -> dict[str, Any]:
        from afina.studies.planning.forecast import shared_terms

        return {
            **shared_terms(self.forecasts).summary,
            "methods": {one.method: {"title": one.title, **one.summary} for one in self.forecasts},
            "left_out": [{"method": name, **error.as_json(flag)} for name, error in self.left_out.items()],
        }


def _plan(backbone: str, training: Training, says: Says, asked: Mapping[str, Any]) -> _Plan:
    from afina.studies.planning.forecast_runs import forecast_methods

    left_out: dict[str, AfinaError] = {}

    def leaves_out(method: str, error: AfinaError) -> None:
        left_out[method] = error
        says(Sentence(["left out: ", error.sentence]))

    return _Plan(forecast_methods(backbone, training=training, leaves_out=leaves_out, **asked), left_out)


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
    override(given, overrides)
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


def _print_plans(plans: Sequence[Sequence[_Plan]], asked_for: EndpointForecast | None, *, as_json: bool) -> None:
    """Print the plans of each backbone, one for each precision."""
    from afina.report.details.endpoints import endpoint_forecast_table
    from afina.report.details.plans import devices_table, forecast_table, gpu_table, precision_table

    every = [plan for of_backbone in plans for plan in of_backbone]
    if as_json:
        content = {"backbones": [plan.as_json for plan in every]} if every[1:] else every[0].as_json
        endpoint = {} if asked_for is None else {"endpoint": asdict(asked_for)}
        print(json.dumps(content | endpoint, ensure_ascii=False))
        return
    forecasts = [[plan.forecasts for plan in of_backbone] for of_backbone in plans]
    for plan in (plan for of_backbone in forecasts for plan in of_backbone):
        kinds = (False, True) if plan[0].runs_on_gpu else (False,)
        print_tables(forecast_table(plan), *([gpu_table(plan)] if plan[0].runs_on_gpu else []))
        if any(one.on_devices for one in plan):
            print_tables(*(devices_table(plan, on_gpu=on_gpu) for on_gpu in kinds))
    print_tables(*(precision_table(in_precisions) for in_precisions in forecasts if len(in_precisions) > 1))
    if asked_for is not None:
        print_tables(endpoint_forecast_table(asked_for))
