"""afina store: init, publish, list, show, history, alias, rollback, canary; and how versions are shown.

The other commands of `afina store` are in `store_exchange` and `store_maintenance`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import wraps
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from afina.cli import problems
from afina.cli.help import CommandGroup
from afina.cli.options import Json, MethodOption, SeedOption, StudyBackbone
from afina.cli.terminal import print_choice, print_columns, print_created, printable

if TYPE_CHECKING:
    from afina.store.adapter_store import AdapterStore
    from afina.store.versions import AliasMove, Version


StoreOption = Annotated[
    str | None,
    typer.Option(
        "--store",
        help="Store: a directory, or postgresql://USER:PASSWORD@HOST/DATABASE. Default: the variable AFINA_STORE, "
        "else a directory in your data folder.",
        metavar="URL",
    ),
]
CreateOption = Annotated[bool, typer.Option("--create", help="Create the store's directory if it does not exist.")]
NameArgument = Annotated[str, typer.Argument(help="Name of an adapter: CLIENT/TASK, in lower case.", metavar="NAME")]
VersionArgument = Annotated[
    str,
    typer.Argument(
        help="Version of an adapter: CLIENT/TASK@NUMBER or CLIENT/TASK@ALIAS. CLIENT/TASK: the newest version.",
        metavar="NAME[@VERSION]",
    ),
]
MessageOption = Annotated[str, typer.Option("--message", "-m", help="Message for the history.")]
NoteOption = Annotated[str | None, typer.Option("--message", "-m", help="Message for the history.")]
ReasonOption = Annotated[str, typer.Option("--reason", help="Reason for the audit log.")]
ForceOption = Annotated[
    bool,
    typer.Option(
        "--force", help="Move the alias even if the latest check of the version failed. The audit log records this."
    ),
]
BlobsOption = Annotated[
    str | None,
    typer.Option(
        "--blobs", help="Place of the blobs: a directory, s3://BUCKET/PREFIX, gs://... or az://...", metavar="URL"
    ),
]
NoHashes = Annotated[
    bool,
    typer.Option(
        "--no-texts",
        help="Leave out the hashes of the training texts. Without these, `evaluate` cannot detect training texts.",
    ),
]
AliasOption = Annotated[str, typer.Option("--alias", help="Alias to move.")]


@dataclass(frozen=True)
class StoreOptions:
    """The options that are typed between `afina store` and the name of its command."""

    url: str | None
    who: str | None
    limits: str | None

    @property
    def store(self) -> AdapterStore:
        from afina.store.adapter_store import AdapterStore
        from afina.store.intake import IntakeLimits

        return AdapterStore(self.url, who=self.who, limits=IntakeLimits.parse(self.limits) if self.limits else None)


app = typer.Typer(
    name="store",
    help="Keep adapters in a store, with versions, aliases, rollback and an audit log.",
    cls=CommandGroup,
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.callback()
def store_options(
    context: typer.Context,
    store: StoreOption = None,
    who: Annotated[str | None, typer.Option("--who", help="Actor for the audit log; default: your user name.")] = None,
    limits: Annotated[
        str | None,
        typer.Option(
            "--limit",
            help="Limits for adapters that are published or imported, such as tensors=30000,bytes=100GiB.",
            metavar="KEY=VALUE,...",
        ),
    ] = None,
) -> None:
    """Keep the options that are typed between `afina store` and the name of its command."""
    context.obj = StoreOptions(store, who, limits)


def with_store(command: Callable[..., None]) -> Callable[..., None]:
    """Return a command of `afina store` that also takes `--store` after its own name."""

    @wraps(command)
    def run(*given: Any, store: str | None = None, **options: Any) -> None:
        context = options["context"]
        if store is not None:
            if context.obj.url not in (None, store):
                raise problems.STORE_TWICE(found=context.obj.url, store=store)
            context.obj = replace(context.obj, url=store)
        command(*given, **options)

    hints = get_type_hints(command, include_extras=True)
    parameters = [each.replace(annotation=hints[each.name]) for each in signature(command).parameters.values()]
    last = Parameter("store", Parameter.KEYWORD_ONLY, default=None, annotation=StoreOption)
    run.__signature__ = Signature([*parameters, last], return_annotation=None)  # type: ignore[attr-defined]
    run.__annotations__ = {**hints, "store": StoreOption}
    return run


def opened(context: typer.Context) -> AdapterStore:
    """Return the store that `--store` or AFINA_STORE names."""
    options: StoreOptions = context.obj
    return options.store


def init(
    context: typer.Context,
    blobs: BlobsOption = None,
    as_json: Json = False,
) -> None:
    """Create a store.

    `afina store publish` also creates a store, if the directory has no store yet.
    """
    store = opened(context)
    store.init(blobs)
    print_answer({"store": store.address.shown}, f"store {store.address.shown}: created", as_json)


def publish(
    context: typer.Context,
    adapter: Annotated[Path, typer.Argument(help="Directory of an adapter or of a study.")],
    name: NameArgument,
    message: MessageOption,
    method: MethodOption = None,
    seed: SeedOption = None,
    backbone: StudyBackbone = None,
    no_texts: NoHashes = False,
    as_json: Json = False,
) -> None:
    """Publish an adapter as the next version of a name.

    If the name already has this adapter, no new version is made.
    """
    from afina.studies.adapter_paths import find_adapter

    store = opened(context)
    found = find_adapter(adapter, method, seed, backbone)
    is_new = not store.exists()
    print_choice(str(adapter), found.note)
    made = store.publish(found.path, name, message=message, texts=not no_texts)
    if is_new:
        print_created(store.address.shown)
    if as_json:
        print_object(made.as_json())
        return
    note = "" if made.created else ", already published"
    print(f"{made.version} {made.version.digest[:19]}, {size(made.version.size)}{note}")
    manifest = made.version.manifest
    if manifest.get("method") == "full":
        print("The adapter is a full fine-tune, so the store keeps all weights of the model.")
    shots = manifest.get("hyperparameters", {}).get("shots")
    if isinstance(shots, int) and shots:
        print(f"The template has {shots} training texts, so everyone who can read this version can read these texts.")


def ready(store: AdapterStore, create: bool) -> None:
    """Create the store if `--create` is given. Raises NotFound if there is no store, and `--create` is not given."""
    if not create and not store.exists():
        how = "create one with --create" if store.address.directory else "create one: afina store init --blobs URL"
        raise problems.STORE_MISSING(store=store.address.shown, _how=how)
    store.make_ready()


def list_names(
    context: typer.Context,
    client: Annotated[str | None, typer.Argument(help="List only the names of this client.")] = None,
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
        print("The store has no adapter yet. Publish an adapter: afina store publish ADAPTER CLIENT/TASK --message WHY")


def show(
    context: typer.Context,
    version: VersionArgument,
    card: Annotated[
        bool, typer.Option("--card", help="Print a model card in the format of the Hugging Face Hub.")
    ] = False,
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
    alias: Annotated[str | None, typer.Option("--alias", help="Show only the moves of this alias.")] = None,
    as_json: Json = False,
) -> None:
    """Show the history of a name: versions, moves of aliases, checks."""
    store = opened(context)
    done = store.history(name, alias=alias)
    if as_json:
        versions = [one.as_json() for one in store.versions(name)]
        print_object({"name": name, "versions": versions, "events": [one.as_json() for one in done]})
        return
    rows = [(minute(one.time), one.event, one.summary, one.who or "-", one.why or "-") for one in done]
    print_columns(("time (UTC)", "event", "what", "who", "why"), rows)


def alias(
    context: typer.Context,
    version: Annotated[
        str,
        typer.Argument(
            help="New version: CLIENT/TASK@NUMBER, or CLIENT/TASK@ALIAS for the version of another alias.",
            metavar="NAME@VERSION",
        ),
    ],
    alias: Annotated[str, typer.Argument(help="Name of the alias, such as production or staging.", metavar="ALIAS")],
    expect: Annotated[
        int | None,
        typer.Option(
            "--expect",
            min=0,
            help="Move the alias only if it points to this version number now; 0: only if the alias is new.",
        ),
    ] = None,
    share: Annotated[
        float | None,
        typer.Option(
            "--share",
            help="For the alias canary: the percentage of production's requests that the version answers.",
            metavar="PERCENT",
        ),
    ] = None,
    force: ForceOption = False,
    message: NoteOption = None,
    as_json: Json = False,
) -> None:
    """Move an alias to a version.

    If the alias does not exist, the command creates the alias.
    """
    from afina.store.aliases import ANY

    expected = ANY if expect is None else expect or None
    made = opened(context).alias(version, alias, expected=expected, share=share, force=force, message=message)
    _moved(made, as_json)
    if share is not None and not as_json:
        print(f"servers send it {share:g} % of the requests for {made.name}@production. To promote it or to end this:")
        print(f"afina store canary {made.name} --promote")
        print(f"afina store canary {made.name} --off")


def canary(
    context: typer.Context,
    name: NameArgument,
    promote: Annotated[
        bool, typer.Option("--promote", help="Move production to the canary version, and end the canary.")
    ] = False,
    off: Annotated[bool, typer.Option("--off", help="End the canary: production answers all requests again.")] = False,
    force: ForceOption = False,
    message: NoteOption = None,
    as_json: Json = False,
) -> None:
    """Promote or end the canary version of an adapter, which answers a share of the requests for production.

    Without an option, the command prints the canary version. A canary version is set by
    `afina store alias NAME@VERSION canary --share PERCENT`.
    """
    from afina.store.versions import CANARY, Name

    store = opened(context)
    if promote and off:
        raise problems.CANARY_CHOICE_MISSING()
    if promote:
        _moved(store.promote(name, force=force, message=message), as_json)
        return
    if off:
        ended = store.unalias(name, CANARY, message=message)
        text = f"{name}: production answers all requests again; version {ended.before} is no longer the canary"
        print_answer(ended.as_json(), text, as_json)
        return
    found = store.canary(Name.parse(name))
    if found is None:
        print_answer({"name": name, "number": None, "share": None}, f"{name}: no canary is set", as_json)
        return
    text = f"{name}: version {found.number} answers {found.share:g} % of the requests for production"
    print_answer(found.as_json(), text, as_json)


def rollback(
    context: typer.Context,
    name: NameArgument,
    alias: AliasOption = "production",
    force: ForceOption = False,
    message: NoteOption = None,
    as_json: Json = False,
) -> None:
    """Move an alias back to its previous version.

    Each further call moves the alias back by one more version.
    """
    _moved(opened(context).rollback(name, alias, force=force, message=message), as_json)


def print_object(value: Mapping[str, Any]) -> None:
    """Print one line of JSON."""
    print(json.dumps(value, ensure_ascii=False))


def print_answer(content: Mapping[str, Any], text: str, as_json: bool) -> None:
    """Print an answer as one line of JSON, or as a text."""
    if as_json:
        print_object(content)
    else:
        print(text)


def _moved(made: AliasMove, as_json: bool) -> None:
    print_answer(made.as_json(), f"{made.name}@{made.alias}: {made.before or 'new'} -> {made.after}", as_json)


def version_summary(found: Version) -> list[tuple[str, Any]]:
    """Return the fields of a version that `afina store show` prints, with their labels."""
    from afina.store import card_kinds

    manifest = found.manifest
    checked = found.checked
    environment = manifest.get("environment") or {}
    return [
        ("version", f"{found}{' (deleted)' if found.deleted else ''}"),
        ("digest", found.digest),
        ("aliases", ", ".join(found.aliases)),
        ("created", f"{minute(found.created)} UTC by {found.who or 'somebody'}"),
        ("message", found.why),
        ("method", f"{manifest.get('method')} {_inline(manifest.get('hyperparameters') or {})}"),
        *card_kinds.summary(manifest),
        ("task", manifest.get("task")),
        ("training texts", manifest.get("train_digest")),
        ("evaluation", manifest.get("evaluation_digest")),
        ("seed", manifest.get("seed")),
        ("backbone", manifest.get("backbone")),
        ("backbone digest", manifest.get("backbone_digest")),
        ("chat template", card_kinds.chat_template(manifest)),
        ("source", environment.get("git_commit")),
        ("bytes", f"{found.size:,}: " + ", ".join(f"{role} {part.size:,}" for role, part in found.parts.items())),
        ("checked", f"{'passed' if checked['passed'] else 'FAILED'} {minute(checked['time'])} UTC" if checked else ""),
    ]


def _inline(settings: dict[str, Any]) -> str:
    return ", ".join(f"{key}={json.dumps(value)}" for key, value in settings.items())


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
