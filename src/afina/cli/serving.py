"""Commands about a server: serve, replay."""

from __future__ import annotations

import json
import logging
import os
import re
from contextlib import ExitStack, suppress
from enum import StrEnum
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from afina.cli.options import BackboneOption, Json, OwnBackbone
from afina.cli.store import CreateOption, StoreOption, ready
from afina.errors import NotFound, Refused

DtypeOption = Annotated[str, typer.Option("--dtype", help="What to compute in: float32, bfloat16, or auto.")]


class LogFormat(StrEnum):
    """How lines of the log are written."""

    json = "json"
    text = "text"


DrainOption = Annotated[
    float, typer.Option("--drain", min=0, help="Seconds after SIGTERM in which it is not ready, and still answers.")
]
ShutdownOption = Annotated[
    float,
    typer.Option(
        "--shutdown",
        min=0.1,
        help="Most seconds from SIGTERM to the end, --drain included. Keep it below the time after which what runs the "
        "container kills it (30 in Kubernetes, 10 in Docker).",
    ),
]
LogFormatOption = Annotated[
    LogFormat, typer.Option("--log-format", help="Lines of the log: JSON objects, or words for a person.")
]

SETTINGS = {"auto_envvar_prefix": "AFINA"}
"""Of the command `serve`: an option `--log-format` that is not given is what the variable AFINA_LOG_FORMAT says."""


class Settable(TyperCommand):
    """A command with `SETTINGS`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the options. A wrong value that a variable has is told with that variable's name."""
        try:
            return super().parse_args(ctx, args)
        except typer.BadParameter as error:
            name = getattr(error.param, "name", None) or ""
            source, variable = ctx.get_parameter_source(name), f"{ctx.auto_envvar_prefix}_{name.upper()}"
            if source is not None and source.name == "ENVIRONMENT":
                said = os.environ.get(variable, "")
                error.message = f"{error.message.rstrip('.')}. The variable {variable} says {said!r}."
            raise


OTHERS = frozenset({"AFINA_STORE", "AFINA_CACHE"})
"""Variables that the library reads."""


def serve(
    context: typer.Context,
    backbone: BackboneOption,
    store: StoreOption = None,
    create: CreateOption = False,
    host: Annotated[str, typer.Option("--host", help="Where to listen.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0: any that is free.")] = 8000,
    dtype: DtypeOption = "float32",
    memory: Annotated[
        int | None, typer.Option("--memory", min=1, help="MiB that adapters may take beside the backbone.")
    ] = None,
    rate: Annotated[
        int | None, typer.Option("--rate", min=1, help="Tokens a minute of a client whose key does not say.")
    ] = None,
    timeout: Annotated[float, typer.Option("--timeout", min=0.1, help="Seconds that a request may take.")] = 30.0,
    batch_tokens: Annotated[int, typer.Option("--batch-tokens", min=1, help="Most tokens computed at once.")] = 1024,
    shared_tokens: Annotated[
        int, typer.Option("--shared-tokens", min=1, help="The same, while several clients ask.")
    ] = 64,
    drain: DrainOption = 0.0,
    shutdown: ShutdownOption = 25.0,
    log_format: LogFormatOption = LogFormat.json,
) -> None:
    """Answer over HTTP for the store's adapters of one backbone, to clients that have keys (afina keys)."""
    try:
        from afina.server.running import bind
        from afina.server.running import serve as run
    except ModuleNotFoundError as error:
        if str(error.name).partition(".")[0] == "afina":
            raise
        told = f"a server needs {error.name}. Install it: pip install 'afina[serve]'."
        raise NotFound(told, code="extra.missing", extra="serve", package=error.name) from None
    from afina.server import logs_and_traces
    from afina.server.core import Core
    from afina.server.limits import Settings
    from afina.serving.engine import Engine
    from afina.store.adapter_store import AdapterStore

    chosen = Settings(
        tokens_per_minute=rate,
        timeout=timeout,
        batch_tokens=batch_tokens,
        shared_tokens=min(batch_tokens, shared_tokens),
        drain=drain,
        shutdown=shutdown,
    )
    logs_and_traces.begin_logging(log_format)
    for name in _unread(context):
        logs_and_traces.note(f"{name} is set, but no option of `afina serve` has that variable", logging.WARNING)
    limit = None if memory is None else memory << 20
    with ExitStack() as stack:
        # First: a port that is in use is said before the backbone is loaded.
        sockets = [stack.enter_context(one) for one in bind(host, port)]
        opened = AdapterStore(store)
        ready(opened, create)
        engine = stack.enter_context(Engine(backbone, opened, dtype=dtype, limit=limit))
        core = Core(engine, opened, chosen, logs_and_traces.make_traces())
        run(core, sockets, lambda url: _say(opened.address.shown, url))


def _say(store: str, url: str) -> None:
    """Say where it listens, to a person or a program, and in the log. It listens also where nobody takes the former."""
    from afina.server import logs_and_traces

    with suppress(OSError):
        print(f"serving {store} on {url}", flush=True)
    logs_and_traces.note("serving", store=store, url=url)


def _unread(context: typer.Context) -> list[str]:
    """Variables that look like settings and are none, but for those that Kubernetes makes for a service `afina`."""
    read = {f"AFINA_{option.name.upper()}" for option in context.command.params if option.name} | OTHERS
    named = (name for name in os.environ if name.startswith("AFINA_"))
    return sorted(name for name in named if name not in read and not re.search("_(SERVICE|PORT)(_|$)", name))


def replay(
    receipt: Annotated[str, typer.Argument(help="What an answer had in Afina-Receipt.", metavar="RECEIPT")],
    text: Annotated[str, typer.Argument(help="The text that was asked about.")],
    pair: Annotated[str | None, typer.Option("--pair", help="The second text, where there was one.")] = None,
    store: StoreOption = None,
    backbone: OwnBackbone = None,
    as_json: Json = False,
) -> None:
    """Compute an answer again: by the adapter, on the backbone and in the precision that its receipt names."""
    from afina.server.requests import Receipt

    asked = Receipt.parse(receipt)
    from afina.store.adapter_store import AdapterStore

    adapter = AdapterStore(store).adapter(asked.version)
    for what, found, expected in (
        ("adapter", adapter.digest, asked.adapter),
        ("backbone", adapter.manifest.backbone_digest, asked.base),
        ("precision", adapter.manifest.precision, asked.precision),
    ):
        if found != expected:
            raise Refused(
                f"{asked.version}: its {what} is {str(found)[:19]}, the receipt is of {expected[:19]}.",
                code="receipt.mismatch",
                version=str(asked.version),
                what=what,
            )
    from afina.inference.predictor import Predictor, backbone_of

    predictor = Predictor.of(adapter, backbone_of(adapter, backbone), asked.dtype)
    (answer,) = predictor([text], None if pair is None else [pair])
    print(json.dumps({**answer, "receipt": asked.as_json()} if as_json else answer, ensure_ascii=False))
