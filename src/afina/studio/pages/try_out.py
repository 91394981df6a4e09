"""Try: versions of a project's adapters answer a text side by side; a wrong answer becomes a correction.

The server of the studio answers texts of the form, with the studio's own key; `afina predict` answers those of a file.
"""

from __future__ import annotations

import asyncio
import json
import re
import secrets
import shlex
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from http.client import HTTPResponse
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from afina import file_io
from afina.data.kinds import CLASSES
from afina.errors import AfinaError
from afina.pages.marked_text import MarkedText
from afina.studio import problems
from afina.studio.access import status_of
from afina.studio.answer_kinds import ANSWER_KINDS
from afina.studio.command_process import CommandProcess
from afina.studio.corrections import Correction, Corrections
from afina.studio.folder import Project
from afina.studio.forms import Form, arriving, safe_name
from afina.studio.option_labels import label
from afina.studio.page import PageRouter, Visit, download, studio_of
from afina.studio.pages.data import arguments_of
from afina.studio.published import (
    UNTRAINED,
    PublishedVersion,
    base_of,
    directory_of,
    finished_adapters,
    publish,
    publishing,
    versions_of,
)
from afina.studio.questions import FileAnswers, Question, Questions, in_words, is_answered
from afina.studio.right_answer import lined, right_answer
from afina.studio.server_process import StudioServer
from afina.studio.text_changes import changing

TEMPLATE = "try.html.j2"

PATIENCE, WRITING_PATIENCE = 30.0, 150.0
"""Seconds for an answer of the server, and for a text that is written."""

MOST_VERSIONS = 12
"""The newest versions that can be chosen."""

MOST_CHOSEN = 4
"""The most versions that answer at once."""

MOST_BODY = 1 << 20
"""The most bytes of a request for a text that is streamed."""

UNTRAINED_MESSAGE = "The untrained model, for comparison"

LATEST = 5
"""The latest corrections that are shown."""

router = PageRouter()


@dataclass(frozen=True)
class VersionAnswer:
    """The answer of a version.

    Attributes:
        labels: The answer in words: one label, several labels, a number or a text; for entities, their texts with
            their labels.
        marked: The text with the entities of the answer; None if the answer has none to mark.
        answered: Whether the version is sure enough to answer; if not, `labels` is its best guess.
        chances: `label`, `probability` and `change`, its difference from the version before, the most probable first.
        differs: Whether the answer differs from that of the version before.
        receipt: What computed the answer, as JSON for `afina replay`; empty if the server gave none.
        model: The version whose text the page's script streams; empty if the answer is here.
    """

    title: str
    labels: Sequence[str] = ()
    marked: MarkedText | None = None
    answered: bool = True
    chances: Sequence[Mapping[str, Any]] = ()
    cut: bool = False
    differs: bool = False
    problem: str = ""
    receipt: str = ""
    model: str = ""


@dataclass(frozen=True)
class TryFacts:
    """The versions, the question and its answers.

    Attributes:
        chosen: The references that are asked if nothing else is chosen.
        untrained: What the project has of the untrained model: "published", "finished" by a run, "possible" to
            measure (for labels, on the backbone of the newest version), or empty.
        problem_found: Why there is no answer.
        label_names: The labels to choose the right one from.
    """

    project: Project
    command: str
    versions: Sequence[PublishedVersion]
    chosen: Sequence[str]
    untrained: str
    publishing: bool
    measuring: bool
    state: str
    backbone: str
    question: Question | None = None
    answers: Sequence[VersionAnswer] = ()
    in_file: FileAnswers | None = None
    problem_found: str = ""
    kind: str = CLASSES
    pairs: bool = False
    label_names: Sequence[str] = ()
    corrections: Sequence[Correction] = ()
    corrected: int = 0

    @property
    def marks_text(self) -> bool:
        return ANSWER_KINDS[self.kind].marks_text

    @property
    def proposed(self) -> str:
        """The entities of the last version as JSON, from which a correction begins; empty without entities."""
        last = self.answers[-1].marked if self.answers else None
        spans = [{"start": one.start, "end": one.end, "label": one.label} for one in last.marks] if last else []
        return json.dumps(spans, ensure_ascii=False)

    @property
    def is_final(self) -> bool:
        in_file = self.in_file is not None and not self.in_file.is_done
        for_server = self.state == "starting" and self.question is not None
        return not (in_file or for_server or self.publishing or self.measuring)


@router.live("/{project}/try/live", "try_live.html.j2")
def progress(visit: Visit, project: str) -> TryFacts:
    """Return what the page waits for; no version is asked."""
    return _facts(visit, project, asks=False)


@router.page("/{project}/try", TEMPLATE)
def try_out(visit: Visit, project: str) -> TryFacts:
    """Return the answers of the versions to the question of the address."""
    return _facts(visit, project, asks=True)


def _facts(visit: Visit, project: str, *, asks: bool) -> TryFacts:
    opened = visit.project(project)
    versions = versions_of(visit.folder, opened.adapters)[:MOST_VERSIONS]
    base = versions_of(visit.folder, base_of(opened))
    newest, server = _newest([*versions, *base]), StudioServer(visit.folder)
    questions = Questions(opened)
    asked, answers, in_file, problem = questions.find(visit.query.get("asked", "")), [], None, ""
    state = server.state
    if asked is not None and asked.file:
        in_file, problem = questions.file_answers(asked, asks), questions.file_problem(asked)
    elif asked is not None and state == "running" and asks and newest is not None:
        streams = ANSWER_KINDS[newest.kind].writes and not newest.pairs and not visit.query.get("whole")
        answers = _streamed(asked) if streams else _answers(server, asked, newest.kind)
    elif asked is not None and state in ("off", "failed"):
        problem = server.problem.named(label) or "The server does not run. Ask again to start it."
    measured = _untrained_process(opened)
    if not base:
        _publish_measured(visit, opened, measured)
        of_base = publishing(opened) if base_of(opened) in publishing(opened).arguments else measured
        problem = problem or of_base.problem.named(label)
    kept = Corrections(opened).read()
    return TryFacts(
        project=opened,
        command=_command(visit, versions, asked),
        versions=versions,
        chosen=[version["reference"] for version in asked.versions] if asked else _default(versions, base),
        untrained="published" if base else _untrained(opened, newest),
        publishing=publishing(opened).is_running,
        measuring=measured.is_running,
        state=state,
        backbone=server.backbone,
        question=asked,
        answers=answers,
        in_file=in_file,
        problem_found=problem,
        kind=newest.kind if newest else CLASSES,
        pairs=bool(newest and newest.pairs),
        label_names=newest.labels if newest else (),
        corrections=kept[: -LATEST - 1 : -1],
        corrected=len(kept),
    )


def _newest(versions: Sequence[PublishedVersion]) -> PublishedVersion | None:
    return versions[0] if versions else None


def _command(visit: Visit, versions: Sequence[PublishedVersion], asked: Question | None) -> str:
    """Return the commands that give the same answers without a server."""
    named, what = [version.reference for version in versions[:1]], ["TEXT"]
    if asked:
        named = [version["reference"] for version in asked.versions]
        what = ["--file", asked.file] if asked.file else [asked.text]
    store = f"AFINA_STORE={shlex.quote(str(visit.folder.store))} "
    return "\n".join(store + shlex.join(["afina", "predict", f"store:{name}", *what]) for name in named)


def _default(versions: Sequence[PublishedVersion], base: Sequence[PublishedVersion]) -> list[str]:
    """Return the untrained model, the version in production, and the newest; or else the two newest."""
    current = next((one for one in versions if "production" in one.aliases), None)
    chosen = [*versions[:1], *([current] if current not in (None, *versions[:1]) else versions[1:2])]
    return [one.reference for one in [*chosen, *base[:1]] if one is not None]


def _untrained(project: Project, newest: PublishedVersion | None) -> str:
    if any(one.method == UNTRAINED for one in finished_adapters(project)):
        return "finished"
    can_be = newest is not None and ANSWER_KINDS[newest.kind].can_be_asked_untrained and newest.backbone
    return "possible" if can_be else ""


def _untrained_process(project: Project) -> CommandProcess:
    """The process that measures the untrained model; its results are in `PROJECT/untrained`."""
    return project.process("untrained")


def _publish_measured(visit: Visit, project: Project, measured: CommandProcess) -> None:
    """Publish the untrained model once it is measured; a publication that has failed is not repeated."""
    last = publishing(project)
    if measured.status == 0 and base_of(project) not in last.arguments and not last.is_running:
        publish(visit.folder, project, project.directory / "untrained", UNTRAINED_MESSAGE, base_of(project))


@router.form("/{project}/try", try_out, TEMPLATE)
def ask(visit: Visit, form: Form, project: str) -> str:
    """Ask the chosen versions; the server is started if it does not run."""
    opened = visit.project(project)
    known = [*versions_of(visit.folder, opened.adapters), *versions_of(visit.folder, base_of(opened))]
    if not known:
        raise problems.NOTHING_PUBLISHED(project=opened.name)
    chosen = [one for one in known if form.get(f"ask-{one.reference}")]
    if not chosen or len(chosen) > MOST_CHOSEN:
        raise problems.VERSIONS_CHOSEN(found=len(chosen), most=MOST_CHOSEN)
    chosen.sort(key=lambda one: (not one.reference.startswith(base_of(opened)), one.number))
    questions, id = Questions(opened), secrets.token_hex(8)
    named = [_named(opened, version) for version in chosen]
    if form.upload is not None:
        question = Question(id, named, file=safe_name(form.upload.name))
        questions.keep(question)
        form.upload.path.replace(questions.file(question))
        questions.predict(question, visit.folder.store)
    else:
        question = Question(id, named, text=lined(form["text"]), pair=lined(form.get("pair")))
        server = StudioServer(visit.folder)
        if server.state in ("off", "failed"):
            backbone = next((version.backbone for version in reversed(chosen) if version.backbone), None)
            if backbone is None:
                raise problems.BACKBONE_UNNAMED(name=chosen[-1].reference)
            server.start(backbone)
        questions.keep(question)
    return f"/{project}/try?asked={id}#answers"


def _named(project: Project, version: PublishedVersion) -> dict[str, str]:
    aliases = f" ({', '.join(version.aliases)})" if version.aliases else ""
    is_untrained = version.reference.startswith(f"{base_of(project)}@")
    title = "Untrained model" if is_untrained else f"Version {version.number}{aliases}"
    return {"reference": version.reference, "title": title}


@router.form("/{project}/try/untrained", try_out, TEMPLATE)
def publish_untrained(visit: Visit, form: Form, project: str) -> str:
    """Publish the untrained model, which a run has measured or a command measures now, to ask it beside versions."""
    opened = visit.project(project)
    newest = _newest(versions_of(visit.folder, opened.adapters))
    found = next((one for one in finished_adapters(opened) if one.method == UNTRAINED), None)
    if publishing(opened).is_running or _untrained_process(opened).is_running:
        raise problems.STILL_PUBLISHING(project=opened.name)
    if found is not None:
        publish(visit.folder, opened, directory_of(opened, found), UNTRAINED_MESSAGE, base_of(opened))
    elif _untrained(opened, newest) and newest is not None:
        out = str((opened.directory / "untrained").absolute())
        arguments = ["train", "--method", UNTRAINED, *arguments_of(opened), "--backbone", newest.backbone]
        _untrained_process(opened).start([*arguments, "--out", out, "--json"])
    else:
        raise problems.ADAPTER_MISSING(project=opened.name, adapter=UNTRAINED)
    return f"/{project}/try"


# Answers to a text


def _streamed(question: Question) -> list[VersionAnswer]:
    return [VersionAnswer(version["title"], model=version["reference"]) for version in question.versions]


def _answers(server: StudioServer, question: Question, kind: str) -> list[VersionAnswer]:
    answers: list[VersionAnswer] = []
    before: Mapping[str, Any] | None = None
    replies = _replies(server, question, [version["reference"] for version in question.versions], kind)
    for version, reply in zip(question.versions, replies, strict=True):
        if isinstance(reply, str):
            answers.append(VersionAnswer(version["title"], problem=reply))
            continue
        answers.append(_answer(version["title"], reply, before, question.text))
        before = reply
    return answers


def _replies(
    server: StudioServer, question: Question, versions: Sequence[str], kind: str
) -> list[Mapping[str, Any] | str]:
    """Return what the server answers for each version, or the sentence that says why there is no answer.

    All versions are asked in one request, or one by one if one of them fails.
    """
    try:
        return _asked(server, question, versions, kind)
    except AfinaError as error:
        if len(versions) == 1:
            return [error.said(label)]
        return [reply for version in versions for reply in _replies(server, question, [version], kind)]


def _asked(
    server: StudioServer, question: Question, versions: Sequence[str], kind: str
) -> list[Mapping[str, Any] | str]:
    """Return an answer of each version, with the fields of `afina predict`."""
    pair = {"pair": question.pair} if question.pair else {}
    if ANSWER_KINDS[kind].writes:
        client = server.client(WRITING_PATIENCE)
        bodies = [{"model": version, "prompt": question.text, **pair} for version in versions]
        written = [client.ask("/v1/completions", body) for body in bodies]
        return [{"answer": completion["choices"][0]["text"]} for completion in written]
    body = {"text": question.text, "models": [*versions], **pair}
    return [*server.client(PATIENCE).ask("/tasks", body)["results"]]


def _answer(title: str, found: Mapping[str, Any], before: Mapping[str, Any] | None, text: str = "") -> VersionAnswer:
    earlier = (before or {}).get("probabilities", {})
    chances = sorted(found.get("probabilities", {}).items(), key=lambda chance: -chance[1])
    return VersionAnswer(
        title=title,
        labels=in_words(found),
        marked=None if found.get("entities") is None else MarkedText.of_json(text, found["entities"]),
        answered=is_answered(found),
        chances=[
            {"label": name, "probability": value, "change": value - earlier[name] if name in earlier else None}
            for name, value in chances
        ],
        cut=bool(found.get("truncated")),
        differs=before is not None and _compared_by(before) != _compared_by(found),
        receipt=json.dumps(found["receipt"]) if "receipt" in found else "",
    )


def _compared_by(answer: Mapping[str, Any]) -> tuple[object, ...]:
    """Return what two versions have to agree on."""
    places = [(entity["start"], entity["end"]) for entity in answer.get("entities") or ()]
    return in_words(answer), places, is_answered(answer)


async def completions(request: Request) -> Response:
    """Pass a request for a streamed text on to the server, with the studio's own key."""
    try:
        got = await _passed_on(request)
    except AfinaError as error:
        return JSONResponse({"error": {"message": error.said(label)}}, status_of(error))

    async def pieces() -> AsyncIterator[bytes]:
        try:
            while chunk := await asyncio.to_thread(got.read1, 65536):
                yield chunk
        finally:
            asyncio.get_running_loop().run_in_executor(None, got.close)

    headers = {"Afina-Receipt": got.headers.get("Afina-Receipt", "")}
    return StreamingResponse(pieces(), media_type=got.headers.get_content_type(), headers=headers)


router.routes.append(Route("/{project}/try/completions", completions, methods=["POST"]))


async def _passed_on(request: Request) -> HTTPResponse:
    visit = Visit(studio_of(request))
    project = visit.project(request.path_params["project"])
    content = b""
    async for chunk in arriving(request):
        content += chunk
        if len(content) > MOST_BODY:
            raise problems.FORM_MALFORMED(reason="it is too long")
    body = file_io.parse_json(content, "the request")
    model = body.get("model") if isinstance(body, dict) else None
    if str(model).partition("@")[0] not in (project.adapters, base_of(project)):
        raise problems.VERSION_MISSING(name=project.adapters, version=str(model))
    client = await asyncio.to_thread(StudioServer(visit.folder).client, WRITING_PATIENCE)
    return await asyncio.to_thread(client.open, "/v1/completions", body)


@router.answers("/{project}/try/answers/{id}/{number}")
def answers_file(visit: Visit, project: str, id: str, number: str) -> Response:
    """Return the answers of a version to a file, as lines of JSON."""
    questions = Questions(visit.project(project))
    asked = questions.find(id)
    if asked is None or number not in map(str, range(len(asked.versions))):
        raise problems.PAGE_MISSING()
    output = questions.process(asked, int(number)).directory / "output"
    if not output.is_file():
        raise problems.PAGE_MISSING()
    name = re.sub(r"[^a-z0-9]+", "-", asked.versions[int(number)]["reference"].rpartition("/")[2])
    return download(output, f"{name}.jsonl")


# Corrections


@router.form("/{project}/try/corrections", try_out, TEMPLATE)
def correct(visit: Visit, form: Form, project: str) -> str:
    """Keep the right answer to a text."""
    opened = visit.project(project)
    newest = _newest([*versions_of(visit.folder, opened.adapters), *versions_of(visit.folder, base_of(opened))])
    if newest is None:
        raise problems.NOTHING_PUBLISHED(project=opened.name)
    text = lined(form["text"])
    right = right_answer(form, newest.kind, newest.labels, newest.separator, text)
    made = Correction(text, right, lined(form.get("pair")))
    with changing(opened):
        Corrections(opened).add(made, newest.kind)
    asked = form.get("asked")
    return f"/{project}/try{f'?asked={asked}' if Questions(opened).find(asked) else ''}#corrections"


@router.answers("/{project}/try/corrections.csv")
def corrections_file(visit: Visit, project: str) -> Response:
    """Return the file of corrections."""
    kept = Corrections(visit.project(project))
    if not kept.path.is_file():
        raise problems.NO_CORRECTIONS(project=project)
    return download(kept.path, f"{project}-corrections.csv")
