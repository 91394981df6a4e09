"""afina store: init, publish, list, show, history, alias, rollback; and how versions are shown.

The other commands are in `store_exchange` and `store_maintenance`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import wraps
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from afina.cli.options import Json
from afina.cli.terminal import print_columns, printable, say_begun
from afina.errors import InvalidName, NotFound
from afina.repr_html import figure

if TYPE_CHECKING:
    from afina.store.adapter_store import AdapterStore
    from afina.store.versions import AliasMove, Version


StoreOption = Annotated[
    str | None,
    typer.Option(
        "--store",
        help="A directory, or postgresql://USER:PASSWORD@HOST/DATABASE; by default what AFINA_STORE says, else a "
        "directory in your data folder.",
        metavar="URL",
    ),
]
CreateOption = Annotated[bool, typer.Option("--create", help="Create the directory of the store if there is none.")]
NameArgument = Annotated[str, typer.Argument(help="CLIENT/TASK, in lower case.", metavar="NAME")]
VersionArgument = Annotated[
    str, typer.Argument(help="CLIENT/TASK@VERSION or CLIENT/TASK@ALIAS; the newest without.", metavar="NAME[@VERSION]")
]
MessageOption = Annotated[str, typer.Option("--message", "-m", help="Message, for the history.")]
NoteOption = Annotated[str | None, typer.Option("--message", "-m", help="Message, for the history.")]
ReasonOption = Annotated[str, typer.Option("--reason", help="Reason, for the audit log.")]
ForceOption = Annotated[
    bool,
    typer.Option("--force", help="Move the alias although the latest check of the version failed; this is logged."),
]
BlobsOption = Annotated[
    str | None,
    typer.Option("--blobs", help="Where the bytes go: a directory, s3://BUCKET/PREFIX, gs://, az://.", metavar="URL"),
]
NoHashes = Annotated[
    bool,
    typer.Option(
        "--no-texts",
        help="Without the hashes of its training texts; then `evaluate` cannot leave out texts that it was trained on.",
    ),
]
AliasOption = Annotated[str, typer.Option("--alias", help="The alias.")]


@dataclass(frozen=True)
class StoreOptions:
    """The options between `afina store` and the command."""

    url: str | None
    who: str | None
    limits: str | None

    @property
    def store(self) -> AdapterStore:
        """The store of these options."""
        from afina.store.adapter_store import AdapterStore
        from afina.store.intake import IntakeLimits

        return AdapterStore(self.url, who=self.who, limits=IntakeLimits.parse(self.limits) if self.limits else None)


app = typer.Typer(
    name="store",
    help="Store adapters: versions, aliases, rollback, audit log.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.callback()
def store_options(
    context: typer.Context,
    store: StoreOption = None,
    who: Annotated[
        str | None, typer.Option("--who", help="Actor for the audit log; by default your user name.")
    ] = None,
    limit: Annotated[
        str | None,
        typer.Option(
            "--limit",
            help="Limits for adapters that come in, such as tensors=30000,bytes=100GiB.",
            metavar="KEY=VALUE,...",
        ),
    ] = None,
) -> None:
    """Keep the options that stand before the command."""
    context.obj = StoreOptions(store, who, limit)


def with_store(command: Callable[..., None]) -> Callable[..., None]:
    """Return the command with the option `--store` also after its name."""

    @wraps(command)
    def run(*given: Any, store: str | None = None, **options: Any) -> None:
        context = options["context"]
        if store is not None:
            if context.obj.url not in (None, store):
                raise InvalidName(
                    f"`store`: found {context.obj.url!r} and {store!r}. Leave one out.", code="store.address-malformed"
                )
            context.obj = replace(context.obj, url=store)
        command(*given, **options)

    hints = get_type_hints(command, include_extras=True)
    parameters = [each.replace(annotation=hints[each.name]) for each in signature(command).parameters.values()]
    last = Parameter("store", Parameter.KEYWORD_ONLY, default=None, annotation=StoreOption)
    run.__signature__ = Signature([*parameters, last], return_annotation=None)  # type: ignore[attr-defined]
    run.__annotations__ = {**hints, "store": StoreOption}
    return run


def opened(context: typer.Context) -> AdapterStore:
    """Return the store that the command works on."""
    found: StoreOptions = context.obj
    return found.store


def init(
    context: typer.Context,
    blobs: BlobsOption = None,
    as_json: Json = False,
) -> None:
    """Create a store.

    Publishing to a directory without a store creates one too.
    """
    store = opened(context)
    store.init(blobs)
    if as_json:
        print_object({"store": store.address.shown})
    else:
        print(f"store {store.address.shown}: begun")


def publish(
    context: typer.Context,
    adapter: Annotated[Path, typer.Argument(help="Directory of an adapter, or of a study.")],
    name: NameArgument,
    message: MessageOption,
    method: Annotated[str | None, typer.Option("--method", help="Of a study's directory: whose adapter.")] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Of a study's directory: which seed's.")] = None,
    no_texts: NoHashes = False,
    as_json: Json = False,
) -> None:
    """Publish an adapter as the next version of a name.

    An adapter that the name already has gets no second version.
    """
    from afina.studies.results import find_adapter

    store = opened(context)
    found = find_adapter(adapter, method, seed)
    begins = not store.exists()
    made = store.publish(found, name, message=message, texts=not no_texts)
    if begins:
        say_begun(store.address.shown)
    if as_json:
        print_object(made.as_json())
        return
    said = "" if made.created else ", which it had already"
    print(f"{made.version} {made.version.digest[:19]}, {size(made.version.size)}{said}")
    manifest = made.version.manifest
    if manifest.get("metrics") and not manifest.get("claims_digest"):
        print(
            "Its figures were not checked: an earlier afina made the adapter, without a digest of them.",
            file=sys.stderr,
        )
    if manifest.get("method") == "full":
        print("A full fine-tune: all of the model's weights are kept, not a difference.")


def ready(store: AdapterStore, create: bool) -> None:
    """Create the store if `--create` is given.

    Raises:
        NotFound: There is no store, and `--create` is not given.
    """
    if not create and not store.exists():
        how = "begin one with --create" if store.address.directory else "begin one: afina store init --blobs URL"
        raise NotFound(
            f"store {store.address.shown}: there is none. Give another with `store`, or {how}.", code="store.missing"
        )
    store.make_ready()


def list_names(
    context: typer.Context,
    client: Annotated[str | None, typer.Argument(help="Only this client's.")] = None,
    as_json: Json = False,
) -> None:
    """List the names with their newest version and aliases."""
    found = opened(context).list(client)
    if as_json:
        print_object({"names": [one.as_json() for one in found]})
        return
    rows = [
        (
            one.name,
            str(one.newest),
            ", ".join(f"{alias}={number}" for alias, number in one.aliases.items()) or "-",
            one.method or "-",
            day(one.created),
        )
        for one in found
    ]
    print_columns(("name", "newest", "aliases", "method", "created"), rows)
    if not found:
        print("No adapter in it yet. Publish one: afina store publish ADAPTER CLIENT/TASK --message WHY")


def show(
    context: typer.Context,
    version: VersionArgument,
    card: Annotated[bool, typer.Option("--card", help="As a model card in the Hub's form.")] = False,
    as_json: Json = False,
) -> None:
    """Show a version: method, origin and metrics."""
    store = opened(context)
    if card:
        print(store.card(version), end="")
        return
    found = store.show(version)
    if as_json:
        print_object({**found.as_json(), "manifest": dict(found.manifest)})
        return
    for label, value in version_summary(found):
        if value not in (None, "", {}, []):
            print(f"{label:<16}{printable(str(value))}")


def history(
    context: typer.Context,
    name: NameArgument,
    alias: Annotated[str | None, typer.Option("--alias", help="Only how this alias moved.")] = None,
    as_json: Json = False,
) -> None:
    """Show the history of a name: versions, moves of aliases, checks."""
    store = opened(context)
    done = store.history(name, alias=alias)
    if as_json:
        versions = [one.as_json() for one in store.versions(name)]
        print_object({"name": name, "versions": versions, "events": [one.as_json() for one in done]})
        return
    rows = [
        (minute(one.time), one.event, event_summary(one.event, one.details), one.who or "-", one.why or "-")
        for one in done
    ]
    print_columns(("time (UTC)", "event", "what", "who", "why"), rows)


def alias(
    context: typer.Context,
    version: Annotated[
        str, typer.Argument(help="CLIENT/TASK@VERSION, or @ALIAS for what another points to.", metavar="NAME@VERSION")
    ],
    alias: Annotated[str, typer.Argument(help="Such as production or staging.", metavar="ALIAS")],
    expect: Annotated[
        int | None,
        typer.Option("--expect", min=0, help="Move it only if it points to this version now; 0: only if it is new."),
    ] = None,
    force: ForceOption = False,
    message: NoteOption = None,
    as_json: Json = False,
) -> None:
    """Move an alias to a version.

    Example: afina store alias acme/reviews@3 production
    """
    from afina.store.aliases import ANY

    expected = ANY if expect is None else expect or None
    _moved(opened(context).alias(version, alias, expected=expected, force=force, message=message), as_json)


def rollback(
    context: typer.Context,
    name: NameArgument,
    alias: AliasOption = "production",
    force: ForceOption = False,
    message: NoteOption = None,
    as_json: Json = False,
) -> None:
    """Move an alias back to its previous version.

    Each further call goes back one more version.
    """
    _moved(opened(context).rollback(name, alias, force=force, message=message), as_json)


def print_object(value: Mapping[str, Any]) -> None:
    """Print one line of JSON."""
    print(json.dumps(value, ensure_ascii=False))


def _moved(made: AliasMove, as_json: bool) -> None:
    if as_json:
        print_object(made.as_json())
    else:
        print(f"{made.name}@{made.alias}: {made.before or 'new'} -> {made.after}")


def version_summary(found: Version) -> list[tuple[str, Any]]:
    """Print a version, one labelled line per field."""
    manifest = found.manifest
    metrics = manifest.get("metrics") or {}
    checked = found.checked
    environment = manifest.get("environment") or {}
    return [
        ("version", f"{found}{' (deleted)' if found.deleted else ''}"),
        ("digest", found.digest),
        ("aliases", ", ".join(found.aliases)),
        ("created", f"{minute(found.created)} UTC by {found.who or 'somebody'}"),
        ("message", found.why),
        ("method", f"{manifest.get('method')} {_inline(manifest.get('hyperparameters') or {})}"),
        ("labels", ", ".join(manifest.get("label_names") or ())),
        ("metrics", ", ".join(f"{name} {figure(value)}" for name, value in list(metrics.items())[:4])),
        ("task", manifest.get("task")),
        ("training texts", manifest.get("train_digest")),
        ("evaluation", manifest.get("evaluation_digest")),
        ("seed", manifest.get("seed")),
        ("backbone", manifest.get("backbone")),
        ("its digest", manifest.get("backbone_digest")),
        ("source", environment.get("git_commit")),
        ("bytes", f"{found.size:,}: " + ", ".join(f"{role} {part.size:,}" for role, part in found.parts.items())),
        ("checked", f"{'passed' if checked['passed'] else 'FAILED'} {minute(checked['time'])} UTC" if checked else ""),
    ]


def _inline(settings: dict[str, Any]) -> str:
    return ", ".join(f"{key}={json.dumps(value)}" for key, value in settings.items())


def event_summary(event: str, details: Any) -> str:
    """Return an entry of the audit log in a few words."""
    if event in ("alias", "rollback"):
        forced = ", forced" if details.get("forced") else ""
        return f"{details['alias']}: {details['from'] or 'new'} -> {details['to']}{forced}"
    if event == "unalias":
        return f"{details['alias']}: {details['from']} -> none"
    outcome = {True: " passed", False: " failed"}.get(details.get("passed"), "")
    return f"version {details.get('version')}{outcome}"


def size(number: int) -> str:
    """Return bytes in a readable unit."""
    size = float(number)
    for unit in ("bytes", "KB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"


def day(time: str) -> str:
    """Return the day of a time."""
    return time[:10]


def minute(time: str) -> str:
    """Return a time without its seconds."""
    return time[:16].replace("T", " ")
