"""Commands about a server: serve, replay."""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import fields
from enum import StrEnum
from inspect import Parameter, Signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from afina import file_io
from afina.cli import problems
from afina.cli.help import GroupedCommand
from afina.cli.options import BackboneOption, Json, OwnBackbone, takes, template_option
from afina.cli.store import CreateOption, StoreOption, ready
from afina.cli.terminal import reword_value_error
from afina.events import STATE_DIRECTORY
from afina.sentence import Sentence
from afina.server.settings import Settings

if TYPE_CHECKING:
    from afina.engine.engine import Engine
    from afina.store.adapter_store import AdapterStore

DtypeOption = Annotated[str, typer.Option("--dtype", help="Precision: float32, bfloat16, int8 or auto.")]


MemoryOption = Annotated[
    int | None,
    typer.Option(
        "--memory",
        envvar="AFINA_MEMORY",
        min=1,
        help="Most memory for adapters in MiB; one copy of the backbone comes on top.",
    ),
]


class LogFormat(StrEnum):
    """The format of log lines: text or JSON."""

    json = "json"
    text = "text"


LogFormatOption = Annotated[
    LogFormat, typer.Option("--log-format", help="Format of the log: JSON objects or plain text.")
]
RayOption = Annotated[
    bool,
    typer.Option("--ray", help="Serve on a Ray cluster, with several replicas. Default: in this process."),
]
RayAddressOption = Annotated[
    str | None,
    typer.Option(
        "--ray-address",
        help="Address of the Ray cluster. Default: the variable RAY_ADDRESS, else a cluster that runs on "
        "this machine, else a new one.",
        metavar="HOST:PORT",
    ),
]
ReplicasOption = Annotated[
    str | None,
    typer.Option(
        "--replicas",
        help="With --ray: number of replicas, or the least and the most number. Each replica has the whole model. "
        "Default: 1.",
        metavar="N|MIN:MAX",
    ),
]

SETTINGS = {"auto_envvar_prefix": "AFINA"}
"""click's settings of `serve`: a variable such as AFINA_LOG_FORMAT gives the default of an option (`--log-format`)."""


class Settable(GroupedCommand):
    """A command whose options can be set by environment variables."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the options. An error in the value of an environment variable names the variable."""
        try:
            return super().parse_args(ctx, args)
        except typer.BadParameter as error:
            reword_value_error(error)
            source = ctx.get_parameter_source(getattr(error.param, "name", None) or "")
            if source is not None and source.name == "ENVIRONMENT":
                variable = variable_of(error.param)
                error.message = f"{error.message.rstrip('.')}. The variable {variable} is {os.environ.get(variable)!r}."
            raise


def variable_of(option: Any) -> str:
    """Return the environment variable of an option of `serve`."""
    return str(option.envvar or f"{SETTINGS['auto_envvar_prefix']}_{option.name.upper()}")


OTHERS = frozenset({"AFINA_STORE", "AFINA_CACHE", STATE_DIRECTORY})
"""Environment variables AFINA_... that the library itself reads."""


def _settings() -> Callable[..., Settings]:
    """Return a function that takes the options that stand for fields of `Settings`, and returns the settings."""
    types = get_type_hints(Settings) | {"preload": list[str]}
    parameters = []
    for setting in (setting for setting in fields(Settings) if setting.metadata):
        name = "rate" if setting.name == "tokens_per_minute" else setting.name
        shown = typer.Option(
            f"--{name.replace('_', '-')}", help=setting.metadata["help"], min=setting.metadata["least"]
        )
        parameters.append(
            Parameter(
                name, Parameter.KEYWORD_ONLY, default=setting.default, annotation=Annotated[types[setting.name], shown]
            )
        )

    def made(**options: Any) -> Settings:
        options["tokens_per_minute"] = options.pop("rate")
        options["shared_tokens"] = min(options["batch_tokens"], options["shared_tokens"])
        return Settings(**options | {"preload": tuple(options["preload"])})

    made.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
    return made


@takes(settings=_settings())
def serve(
    context: typer.Context,
    backbone: BackboneOption,
    store: StoreOption = None,
    create: CreateOption = False,
    host: Annotated[str, typer.Option("--host", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="Port to listen on; 0: any free port.")] = 8000,
    dtype: DtypeOption = "float32",
    limit: MemoryOption = None,
    *,
    settings: Settings,
    log_format: LogFormatOption = LogFormat.json,
    ray: RayOption = False,
    ray_address: RayAddressOption = None,
    replicas: ReplicasOption = None,
) -> None:
    """Serve the adapters of a store over HTTP.

    All adapters must have the same backbone. Adapters on int8 share one int8 copy. Clients need keys: see `afina keys`.
    """
    _needs_packages(ray, {"ray_address": ray_address, "replicas": replicas})
    from afina.store.adapter_store import AdapterStore

    _begin_logging(context, log_format)
    if ray:
        given = {"backbone": backbone, "store": store, "dtype": dtype, "memory": limit, "log_format": log_format.value}
        _open_store(opened := AdapterStore(store), create, settings)
        _on_ray(opened, given | {"replicas": replicas or "1"}, settings, ray_address, host, port)
        return
    _on_this_machine(AdapterStore(store), create, backbone, dtype, limit, settings, host, port)


def _on_this_machine(
    store: AdapterStore,
    create: bool,
    backbone: str,
    dtype: str,
    memory: int | None,
    settings: Settings,
    host: str,
    port: int,
) -> None:
    from afina.server import logs_and_traces
    from afina.server.core import Core
    from afina.server.running import serve as run
    from afina.server.sockets import bind

    with ExitStack() as stack:
        # First: a port that is in use is said before the backbone is loaded.
        sockets = [stack.enter_context(one) for one in bind(host, port)]
        _open_store(store, create, settings)
        engine = stack.enter_context(_opened(backbone, store, dtype, memory))
        core = Core(engine, store, settings, logs_and_traces.make_traces())
        core.open_backbone()
        run(core, sockets, lambda url: _say(store.address.shown, url))


def _open_store(store: AdapterStore, create: bool, settings: Settings) -> None:
    from afina.server.versions.preloading import check_models

    ready(store, create)
    check_models(store, settings.preload)


def _needs_packages(ray: bool, others: Mapping[str, str | None]) -> None:
    """Raise NotFound for a missing package, and InvalidStudy for one of the options `others` without `ray`."""
    if not ray and (alone := [name for name, given in others.items() if given is not None]):
        raise problems.OPTIONS_NEED_RAY(given=Sentence.of(", ".join(f"`{name}`" for name in alone)))
    extra = "ray" if ray else "serve"
    try:
        if ray:
            import afina.server.ray_serve.lifecycle
        import afina.server.running  # noqa: F401
    except ModuleNotFoundError as error:
        if str(error.name).partition(".")[0] == "afina":
            raise
        raise problems.PACKAGE_MISSING(package=error.name, extra=extra) from None


def _on_ray(
    store: AdapterStore, given: dict[str, Any], settings: Settings, address: str | None, host: str, port: int
) -> None:
    """Serve on a Ray cluster; `given` has all fields of `DeploymentOptions` except `settings`."""
    from afina.server.ray_serve.deployment import DeploymentOptions
    from afina.server.ray_serve.lifecycle import serve_on_ray

    changed = {one.name: found for one in fields(settings) if (found := getattr(settings, one.name)) != one.default}
    if store.address.directory is not None:  # replicas have other working directories
        given["store"] = str(store.address.directory.absolute())
    options = DeploymentOptions(**given, settings=changed)
    serve_on_ray(options, address, host, port, lambda url: _say(store.address.shown, url))


def _opened(backbone: str, store: AdapterStore, dtype: str, memory: int | None) -> Engine:
    from afina.engine.engine import Engine

    return Engine(backbone, store, dtype=dtype, limit=None if memory is None else memory << 20)


def _say(store: str, url: str) -> None:
    from afina.server import logs_and_traces

    with suppress(OSError):
        print(f"serving {store} on {url}", flush=True)
    logs_and_traces.note("serving", store=store, url=url)


def _begin_logging(context: typer.Context, log_format: LogFormat) -> None:
    """Configure the log, and log a warning for each environment variable AFINA_... that afina does not read."""
    from afina.server import logs_and_traces

    logs_and_traces.begin_logging(log_format)
    for name in _unread(context):
        logs_and_traces.note(f"{name} is set, but `afina serve` does not read this variable", logging.WARNING)


def _unread(context: typer.Context) -> list[str]:
    """Return the environment variables AFINA_... that afina does not read, except those that Kubernetes sets."""
    read = {variable_of(option) for option in context.command.params} | OTHERS
    named = (name for name in os.environ if name.startswith("AFINA_"))
    return sorted(name for name in named if name not in read and not re.search("_(SERVICE|PORT)(_|$)", name))


def replay(
    receipt: Annotated[str, typer.Argument(help="Receipt: the header Afina-Receipt of the answer.", metavar="RECEIPT")],
    text: Annotated[str, typer.Argument(help="Text of the request.")],
    pair: Annotated[str | None, typer.Option("--pair", help="Second text of the request, if it had two.")] = None,
    stop: Annotated[
        list[str] | None,
        typer.Option("--stop", help="A stop string of the request; may be repeated.", metavar="STRING"),
    ] = None,
    choice: Annotated[
        int, typer.Option("--choice", min=0, help="Number of the choice, from 0, if the request had several.")
    ] = 0,
    guide: Annotated[
        Path | None,
        typer.Option(
            "--guide",
            help="JSON file with the fields of the request that gave the answer a form, if it had such fields: "
            "structured_outputs, response_format, text, or tools and tool_choice.",
            metavar="FILE",
        ),
    ] = None,
    store: StoreOption = None,
    backbone: OwnBackbone = None,
    as_json: Json = False,
) -> None:
    """Compute a served answer again from its receipt.

    The receipt names the adapter, the backbone and the precision. A receipt of a generated text also has the settings
    of generation, but no texts: give the stop strings of the request with `--stop`, and its grammar with `--guide`.
    """
    from afina.server.receipts import Receipt

    asked = Receipt.parse(receipt)
    from afina.store.adapter_store import AdapterStore

    adapter = AdapterStore(store).adapter(asked.version)
    asked.check(adapter.digest, adapter.manifest)
    from afina.predicting.predictor import Predictor, backbone_of
    from afina.server.replay import grammar_of, replayed

    predictor = Predictor.of(adapter, backbone_of(adapter, backbone), asked.dtype)
    stops = [template_option(one) for one in stop] if stop else None
    grammar = None if guide is None else grammar_of(file_io.read_object(guide))
    cut = None if asked.truncation is None else asked.truncation.truncation
    answer = replayed(predictor, asked.generation, text, pair, stops, choice, grammar, cut, each_token=asked.each_token)
    print(json.dumps({**answer, "receipt": asked.as_json()} if as_json else answer, ensure_ascii=False))
