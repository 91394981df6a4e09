"""Commands about a server: serve, replay."""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from afina import file_io
from afina.cli import problems
from afina.cli.help import GroupedCommand
from afina.cli.options import BackboneOption, Json, OwnBackbone, template_option
from afina.cli.store import CreateOption, StoreOption, ready
from afina.cli.terminal import reword_value_error
from afina.sentence import Sentence

if TYPE_CHECKING:
    from afina.engine.engine import Engine
    from afina.server.settings import Settings
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
RateOption = Annotated[
    int | None, typer.Option("--rate", min=1, help="Tokens per minute for clients whose key has no rate.")
]


class LogFormat(StrEnum):
    """The format of log lines: text or JSON."""

    json = "json"
    text = "text"


SharedTokensOption = Annotated[
    int, typer.Option("--shared-tokens", min=1, help="Most tokens in a batch while several clients have requests.")
]
PreloadOption = Annotated[
    list[str] | None,
    typer.Option(
        "--preload",
        help="Model that is loaded, and has passed its golden test, before the server is ready; may be repeated.",
        metavar="NAME",
    ),
]
WholeTokensOption = Annotated[
    int,
    typer.Option(
        "--whole-tokens",
        min=1,
        help="Most tokens of a text that cannot be computed in chunks, as by an encoder. Nobody else is answered while "
        "such a text is computed.",
    ),
]
GenerationTimeoutOption = Annotated[
    float, typer.Option("--generation-timeout", min=0.1, help="Most seconds for an answer that is generated.")
]
AnswerTokensOption = Annotated[
    int, typer.Option("--max-new-tokens", min=1, help="Most tokens of an answer that is generated.")
]
DrainOption = Annotated[
    float,
    typer.Option(
        "--drain", min=0, help="Seconds after SIGTERM during which the server still answers but is not ready."
    ),
]
ShutdownOption = Annotated[
    float,
    typer.Option(
        "--shutdown",
        min=0.1,
        help="Most seconds from SIGTERM to the end, including --drain. Choose fewer seconds than the time after which "
        "the container is killed (30 in Kubernetes, 10 in Docker).",
    ),
]
KeySecondsOption = Annotated[
    float,
    typer.Option(
        "--key-seconds",
        min=5,
        help="Seconds for which known keys are accepted while the store does not answer.",
    ),
]
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
DescriptionOption = Annotated[
    bool, typer.Option("--public-description", help="Return /openapi.json, which describes the API, without a key.")
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


OTHERS = frozenset({"AFINA_STORE", "AFINA_CACHE"})
"""Environment variables AFINA_... that the library itself reads."""


def serve(
    context: typer.Context,
    backbone: BackboneOption,
    store: StoreOption = None,
    create: CreateOption = False,
    host: Annotated[str, typer.Option("--host", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="Port to listen on; 0: any free port.")] = 8000,
    dtype: DtypeOption = "float32",
    limit: MemoryOption = None,
    preload: PreloadOption = None,
    rate: RateOption = None,
    timeout: Annotated[float, typer.Option("--timeout", min=0.1, help="Most seconds for a request.")] = 30.0,
    generation_timeout: GenerationTimeoutOption = 120.0,
    max_new_tokens: AnswerTokensOption = 1024,
    batch_tokens: Annotated[int, typer.Option("--batch-tokens", min=1, help="Most tokens in a batch.")] = 1024,
    shared_tokens: SharedTokensOption = 64,
    whole_tokens: WholeTokensOption = 1024,
    drain: DrainOption = 0.0,
    shutdown: ShutdownOption = 25.0,
    key_seconds: KeySecondsOption = 300.0,
    public_description: DescriptionOption = False,
    log_format: LogFormatOption = LogFormat.json,
    ray: RayOption = False,
    ray_address: RayAddressOption = None,
    replicas: ReplicasOption = None,
) -> None:
    """Serve the adapters of a store over HTTP.

    All adapters must have the same backbone. Adapters on int8 share one int8 copy. Clients need keys: see `afina keys`.
    """
    _needs_packages(ray, {"ray_address": ray_address, "replicas": replicas})
    from afina.server.settings import Settings
    from afina.store.adapter_store import AdapterStore

    seconds: dict[str, Any] = {
        "timeout": timeout,
        "generation_timeout": generation_timeout,
        "drain": drain,
        "shutdown": shutdown,
    }
    chosen = Settings(
        tokens_per_minute=rate,
        preload=tuple(preload or ()),
        max_new_tokens=max_new_tokens,
        batch_tokens=batch_tokens,
        shared_tokens=min(batch_tokens, shared_tokens),
        whole_tokens=whole_tokens,
        key_seconds=key_seconds,
        public_description=public_description,
        **seconds,
    )
    _begin_logging(context, log_format)
    if ray:
        given = {"backbone": backbone, "store": store, "dtype": dtype, "memory": limit, "log_format": log_format.value}
        _open_store(opened := AdapterStore(store), create, chosen)
        _on_ray(opened, given | {"replicas": replicas or "1"}, chosen, ray_address, host, port)
        return
    _on_this_machine(AdapterStore(store), create, backbone, dtype, limit, chosen, host, port)


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
    """Raise NotFound if a package of the server is missing, or InvalidStudy if `others` are given without `ray`.

    Args:
        ray: Whether the server runs on Ray.
        others: The values of `--ray-address` and `--replicas`, which need `ray`; None for an option that is not given.
    """
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
    from dataclasses import fields

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
