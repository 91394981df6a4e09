"""Keep and serve: versions of a project's adapters, aliases, the server of the studio, its keys and its traffic."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from afina.errors import AfinaError, UnknownName
from afina.server import routes
from afina.server.metrics import Traffic
from afina.server.versions.shadow_counts import ShadowCounts
from afina.store.adapter_store import AdapterStore
from afina.store.api_keys import PREDICT, SCOPES, Key
from afina.store.versions import PRODUCTION, SHADOW
from afina.studio import problems
from afina.studio.answer_kinds import ANSWER_KINDS
from afina.studio.folder import CLIENT, Project, StudioFolder
from afina.studio.forms import Form
from afina.studio.option_labels import label
from afina.studio.page import PageRouter, ShownOnce, Visit
from afina.studio.published import (
    FinishedAdapter,
    PublishedVersion,
    directory_of,
    finished_adapters,
    minute,
    publish,
    publishing,
    versions_of,
)
from afina.studio.server_process import StudioServer

TEMPLATE = "keep.html.j2"

EXAMPLE, PAIR = "It broke on the second day.", "The product is durable."
"""The texts of the example requests."""

PATIENCE = 2.0
"""Seconds for the server's figures; a page without figures is better than a page that waits."""

SAID = 40
"""The last entries of the audit log that are shown at first."""

router = PageRouter()


@dataclass(frozen=True)
class KeepFacts:
    """Everything that was published (versions newest first), and the server.

    Attributes:
        failed: Why the last adapter could not be published.
        history: The audit log, the newest entry first.
        keys: Keys without their secrets; `own`: the key of the studio's own pages.
        programs: Programs that ask the server, for copying: `title` and `text`.
        shadow: The comparison of the shadow version with production; `state` as in `GET /shadows`, or empty.
        unanswered: Why the server gives no figures.
    """

    project: Project
    command: str
    adapters: Sequence[FinishedAdapter]
    publishing: bool
    failed: str
    versions: Sequence[PublishedVersion]
    aliases: Mapping[str, int]
    history: Sequence[Mapping[str, str]]
    server: Mapping[str, Any]
    keys: Sequence[Mapping[str, Any]]
    programs: Sequence[Mapping[str, str]]
    traffic: Traffic | None
    shadow: Mapping[str, Any] | None
    unanswered: str = ""
    scopes: Sequence[str] = SCOPES
    said: int = SAID

    @property
    def is_final(self) -> bool:
        return not self.publishing and self.server["state"] != "starting"


@router.live("/{project}/keep/live", "keep_live.html.j2")
@router.page("/{project}/keep", TEMPLATE)
def keep(visit: Visit, project: str) -> KeepFacts:
    """Return the versions, the server, the keys and the audit log of a project."""
    opened = visit.project(project)
    versions, server = versions_of(visit.folder, opened.adapters), StudioServer(visit.folder)
    aliases = {alias: one.number for one in versions for alias in one.aliases}
    traffic, shadow, unanswered = _figures(server, opened, aliases)
    process = publishing(opened)
    return KeepFacts(
        project=opened,
        command=_commands(visit.folder, opened, server, versions),
        adapters=finished_adapters(opened),
        publishing=process.is_running,
        failed=process.problem.named(label),
        versions=versions,
        aliases=aliases,
        history=_history(visit.folder, opened) if versions else [],
        server=_server(server, versions),
        keys=_keys(visit.folder, server) if versions else [],
        programs=_programs(server.url, versions[0]) if versions and server.state == "running" else [],
        traffic=traffic,
        shadow=shadow,
        unanswered=unanswered,
    )


def _commands(
    folder: StudioFolder, project: Project, server: StudioServer, versions: Sequence[PublishedVersion]
) -> str:
    """Return the commands that do what the page does."""
    name, number = project.adapters, versions[0].number if versions else 1
    adapter = next((str(directory_of(project, one)) for one in finished_adapters(project)), "ADAPTER")
    of_store = [
        ["store", "publish", adapter, name, "--message", "WHY"],
        ["store", "alias", f"{name}@{number}", PRODUCTION],
        ["store", "rollback", name],
        ["store", "history", name],
        ["keys", "create", CLIENT],
    ]
    made = [shlex.join(["afina", *words, "--store", str(folder.store)]) for words in of_store]
    return "\n".join([*made, *map(server.command, _backbones(versions)[:1])])


def _server(server: StudioServer, versions: Sequence[PublishedVersion]) -> dict[str, Any]:
    state, backbones = server.state, _backbones(versions)
    return {
        "state": state,
        "url": server.url if state == "running" else "",
        "port": server.port,
        "backbone": server.backbone,
        "backbones": backbones,
        "problem": server.problem.named(label),
        "log": server.process.log,
        "memory": server.process.memory,
        "command": server.command(backbones[0]) if backbones else "",
    }


def _backbones(versions: Sequence[PublishedVersion]) -> list[str]:
    """Return the backbones of the versions, that of the newest first."""
    return [*dict.fromkeys(version.backbone for version in versions if version.backbone)]


def _history(folder: StudioFolder, project: Project) -> list[dict[str, str]]:
    return [
        {
            "at": minute(event.time),
            "event": event.event,
            "what": event.summary,
            "who": event.who or "",
            "why": event.why or "",
        }
        for event in reversed(AdapterStore(folder.store).history(project.adapters))
    ]


def _keys(folder: StudioFolder, server: StudioServer) -> list[dict[str, Any]]:
    return [
        {
            "id": key.id,
            "name": key.name or "",
            "scopes": key.scopes,
            "created": minute(key.created),
            "expires": minute(key.expires) if key.expires else "",
            "state": _key_state(key),
            "own": key.id == server.key_id,
        }
        for key in AdapterStore(folder.store).keys(CLIENT)
    ]


def _key_state(key: Key) -> str:
    if key.revoked:
        return "revoked"
    if key.problem:
        return "damaged"
    return "valid" if key.is_valid else "expired"


def _figures(
    server: StudioServer, project: Project, aliases: Mapping[str, int]
) -> tuple[Traffic | None, dict[str, Any] | None, str]:
    """Return the traffic, the comparison of the shadow version, and why the server gives no figures."""
    number = aliases.get(SHADOW)
    shadow = None if number is None else _shadow(number, _NO_ANSWER, ShadowCounts(flips=None))
    if server.state != "running":
        return None, shadow, ""
    try:
        client = server.client(PATIENCE)
        paths = {path for one in routes.ROUTES if (one.method, one.scope) == ("POST", PREDICT) for path in one.paths}
        traffic = Traffic.of(client.read("/metrics").decode(), paths)
        if number is not None:
            found = client.shadow(project.adapters)
            shadow = _shadow(number, found, ShadowCounts.of(found))
    except AfinaError as error:
        return None, shadow, error.said(label)
    return traffic, shadow, ""


_NO_ANSWER = {"state": "", "current": None, "problem": None}


def _shadow(number: int, found: Mapping[str, Any], counts: ShadowCounts) -> dict[str, Any]:
    ends = counts.flip_interval
    return {
        "number": number,
        "state": str(found["state"]),
        "current": found["current"],
        "problem": str(found["problem"] or ""),
        "texts": counts.texts,
        "flips": counts.flips,
        "flip_rate": counts.flip_rate,
        "both": counts.both,
        "only_current": counts.only_current,
        "only_shadow": counts.only_shadow,
        "unanswered": counts.unanswered,
        "interval": [ends.low, ends.high] if ends else [],
    }


def _programs(url: str, newest: PublishedVersion) -> list[dict[str, str]]:
    """Return programs that ask for the version in production, or else for the newest; each reads AFINA_KEY."""
    name = newest.reference.partition("@")[0]
    if ANSWER_KINDS[newest.kind].writes:
        path, body = "/v1/completions", f'{{"model": "{name}", "prompt": "{EXAMPLE}"}}'
    elif ANSWER_KINDS[newest.kind].marks_text:
        path, body = "/tasks", f'{{"models": ["{name}"], "text": "{EXAMPLE}"}}'
    elif newest.pairs:
        path, body = "/tasks", f'{{"models": ["{name}"], "text": "{EXAMPLE}", "pair": "{PAIR}"}}'
    else:
        path, body = "/classify", f'{{"model": "{name}", "input": ["{EXAMPLE}"]}}'
    curl = f"curl --silent --show-error {url}{path} -H \"Authorization: Bearer $AFINA_KEY\" -d '{body}'"
    python = f"""import json, os, urllib.request

body = {body}
headers = {{"Authorization": f"Bearer {{os.environ['AFINA_KEY']}}"}}
request = urllib.request.Request("{url}{path}", json.dumps(body).encode(), headers)
with urllib.request.urlopen(request) as answer:
    print(json.load(answer))"""
    if ANSWER_KINDS[newest.kind].writes:
        call = f'client.completions.create(model="{name}", prompt="{EXAMPLE}").choices[0].text'
        base = f"{url}/v1"
    else:
        call, base = f'client.post("{path}", cast_to=object, body={body})', url
    client = f'client = OpenAI(base_url="{base}", api_key=os.environ["AFINA_KEY"])'
    lines = ["import os", "", "from openai import OpenAI", "", client, f"print({call})"]
    programs = {
        "curl": curl,
        "Python, without packages": python,
        "Python, with the package openai": "\n".join(lines),
    }
    return [{"title": title, "text": text} for title, text in programs.items()]


@router.form("/{project}/keep/publish", keep, TEMPLATE)
def publish_adapter(visit: Visit, form: Form, project: str) -> str:
    """Publish an adapter of a finished run as the next version."""
    opened, wanted = visit.project(project), form["adapter"]
    found = next((one for one in finished_adapters(opened) if one.place == wanted), None)
    if found is None:
        raise problems.ADAPTER_MISSING(project=opened.name, adapter=wanted)
    if publishing(opened).is_running:
        raise problems.STILL_PUBLISHING(project=opened.name)
    publish(visit.folder, opened, directory_of(opened, found), form.get("message") or found.words, opened.adapters)
    return f"/{project}/keep"


def reference_of(visit: Visit, project: Project, number: str) -> str:
    """Return the reference of a version by its number. Raises NotFound."""
    found = next((one for one in versions_of(visit.folder, project.adapters) if str(one.number) == number), None)
    if found is None:
        raise problems.VERSION_MISSING(name=project.adapters, version=number)
    return found.reference


@router.form("/{project}/keep/alias", keep, TEMPLATE)
def move_alias(visit: Visit, form: Form, project: str) -> str:
    """Point an alias to a version. The alias `shadow` begins a comparison with production."""
    opened = visit.project(project)
    reference, alias, why = reference_of(visit, opened, form["version"]), form["alias"], form.get("message") or None
    store = AdapterStore(visit.folder.store)
    if alias == SHADOW:
        store.shadow(reference, message=why)
    else:
        store.alias(reference, alias, share=form.number("share"), message=why)
    return f"/{project}/keep#versions"


@router.form("/{project}/keep/rollback", keep, TEMPLATE)
def roll_back(visit: Visit, form: Form, project: str) -> str:
    """Move an alias back to its version before."""
    opened = visit.project(project)
    store = AdapterStore(visit.folder.store)
    store.rollback(opened.adapters, form.get("alias") or PRODUCTION, message=form.get("message") or None)
    return f"/{project}/keep#versions"


@router.form("/{project}/keep/unshadow", keep, TEMPLATE)
def end_shadow(visit: Visit, form: Form, project: str) -> str:
    """End the comparison of the shadow version."""
    AdapterStore(visit.folder.store).unalias(visit.project(project).adapters, SHADOW)
    return f"/{project}/keep#traffic"


@router.form("/{project}/keep/server", keep, TEMPLATE)
def start_server(visit: Visit, form: Form, project: str) -> str:
    """Start the server of the studio, or start it anew with another backbone."""
    port = form.number("port")
    wanted, versions = form["backbone"], versions_of(visit.folder, visit.project(project).adapters)
    if wanted not in _backbones(versions):
        raise UnknownName("backbone", wanted, _backbones(versions))
    server = StudioServer(visit.folder)
    if form.get("anew"):
        server.stop()
    server.start(wanted, None if port is None else int(port))
    return f"/{project}/keep#server"


@router.form("/{project}/keep/server/stop", keep, TEMPLATE)
def stop_server(visit: Visit, form: Form, project: str) -> str:
    """Stop the server of the studio."""
    StudioServer(visit.folder).stop()
    return f"/{project}/keep#server"


@router.form("/{project}/keep/keys", keep, TEMPLATE)
def create_key(visit: Visit, form: Form, project: str) -> ShownOnce:
    """Create a key, and show it in this answer only."""
    visit.project(project)
    scopes = [one for one in SCOPES if form.get(f"scope-{one}")]
    store = AdapterStore(visit.folder.store)
    made = store.create_key(CLIENT, scopes, name=form.get("name") or None, expires=form.get("expires") or None)
    return ShownOnce({"secret": made.secret, "made": made.key.id})


@router.form("/{project}/keep/keys/revoke", keep, TEMPLATE)
def revoke_key(visit: Visit, form: Form, project: str) -> str:
    """Revoke a key."""
    wanted, store = form["key"], AdapterStore(visit.folder.store)
    if wanted == StudioServer(visit.folder).key_id:
        raise problems.OWN_KEY(key=wanted)
    store.revoke_key(wanted)
    return f"/{project}/keep#keys"
