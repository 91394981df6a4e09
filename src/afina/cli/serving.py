"""Commands about a server: serve, replay."""

from __future__ import annotations

import json
from enum import StrEnum
from typing import Annotated

import typer

from afina.cli.options import BackboneOption, Json
from afina.errors import NotFound, Refused

StoreOption = Annotated[
    str | None,
    typer.Option(
        "--store",
        help="A directory, or postgresql://USER:PASSWORD@HOST/DATABASE; by default what AFINA_STORE says.",
        metavar="URL",
    ),
]
DtypeOption = Annotated[str, typer.Option("--dtype", help="What to compute in: float32, bfloat16, or auto.")]


class LogFormat(StrEnum):
    """How lines of the log are written."""

    json = "json"
    text = "text"


def serve(
    backbone: BackboneOption,
    store: StoreOption = None,
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
    log_format: Annotated[
        LogFormat, typer.Option("--log-format", help="Lines of the log: JSON objects, or words for a person.")
    ] = LogFormat.json,
) -> None:
    """Answer over HTTP for the store's adapters of one backbone, to clients that have keys (afina keys)."""
    try:
        from afina.server.running import serve as run
    except ModuleNotFoundError as error:
        if str(error.name).partition(".")[0] == "afina":
            raise
        raise NotFound(f"a server needs {error.name}. Install it: pip install 'afina[serve]'.") from None
    from afina.server import logs, traces
    from afina.server.core import Core
    from afina.server.settings import Settings
    from afina.serving.engine import Engine
    from afina.store.adapter_store import AdapterStore

    logs.begin(log_format)
    opened = AdapterStore(store)
    opened.make_ready()
    chosen = Settings(
        tokens_per_minute=rate,
        timeout=timeout,
        batch_tokens=batch_tokens,
        shared_tokens=min(batch_tokens, shared_tokens),
    )
    limit = None if memory is None else memory << 20
    with Engine(backbone, opened, dtype=dtype, limit=limit) as engine:
        core = Core(engine, opened, chosen, traces.make())
        run(core, host, port, lambda url: print(f"serving {opened.address.shown} on {url}", flush=True))


def replay(
    receipt: Annotated[str, typer.Argument(help="What an answer had in Afina-Receipt.", metavar="RECEIPT")],
    text: Annotated[str, typer.Argument(help="The text that was asked about.")],
    pair: Annotated[str | None, typer.Option("--pair", help="The second text, where there was one.")] = None,
    store: StoreOption = None,
    backbone: Annotated[
        str | None, typer.Option("--backbone", help="Where its backbone is, if not at the address it names.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Compute an answer again: by the adapter, on the backbone and in the precision that its receipt names."""
    from afina.server.receipt import Receipt

    asked = Receipt.parse(receipt)
    from afina.store.adapter_store import AdapterStore

    adapter = AdapterStore(store).adapter(asked.version)
    for what, found, expected in (
        ("adapter", adapter.digest, asked.adapter),
        ("backbone", adapter.manifest.backbone_digest, asked.base),
    ):
        if found != expected:
            raise Refused(f"{asked.version}: its {what} is {str(found)[:19]}, the receipt is of {expected[:19]}.")
    from afina.inference.predictor import Predictor, backbone_of

    predictor = Predictor.of(adapter, backbone_of(adapter, backbone), asked.dtype)
    (answer,) = predictor([text], None if pair is None else [pair])
    print(json.dumps({**answer, "receipt": asked.as_json()} if as_json else answer, ensure_ascii=False))
