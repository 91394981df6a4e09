"""Answer: what a run has found, its figures by label, the texts behind them, tests on other files, and downloads.

`afina report --content` computes the page in a process of its own, and its answer is kept until the results change.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from starlette.responses import Response, StreamingResponse

from afina import __version__, digest, file_io
from afina.data.addresses import stamp
from afina.errors import CorruptAdapter
from afina.report.formatting import headline_first, metric_heading, share, span
from afina.report.report import FILES
from afina.stats.metrics import METRICS
from afina.studies.runs.output_directory import OutputDirectory
from afina.studio import problems
from afina.studio.folder import Project
from afina.studio.forms import Form, safe_name
from afina.studio.kept_answer import KeptAnswer
from afina.studio.option_labels import in_words
from afina.studio.page import ComputedFacts, PageRouter, Visit, download, json_answer
from afina.studio.run_queue import ENDED, ProjectRun, State, run_of
from afina.studio.zip_stream import zipped

TEMPLATE, TEXTS, TEST = "answer.html.j2", "answer_texts.html.j2", "answer_test.html.j2"

MOST_TEXTS, LONGEST = 200, 2000
"""The most texts of a page, and the most characters of a text."""

MOST_IN_MATRIX = 30
"""The most labels of a confusion matrix on a page."""

ADDRESS = "/{project}/runs/{number}"

router = PageRouter()


@dataclass(frozen=True)
class AnswerFacts(ComputedFacts):
    """The results of a run.

    Attributes:
        has_results: Whether the run has ended with a result, so that there is an answer.
        found: The answer of `afina report --content --json`; None while it is computed.
        shown: The run of `found["answered"]` whose confusions are shown; None if the task has no labels.
        tests: The tests on other files, the latest first: `number`, `name` of the file, and in `words` the headline
            figure with its interval, or the state.
    """

    project: Project
    number: int
    command: str
    state: State
    has_results: bool
    found: Mapping[str, Any] | None = None
    problem: str = ""
    shown: Mapping[str, Any] | None = None
    files: Sequence[str] = ()
    tests: Sequence[Mapping[str, Any]] = ()

    @property
    def is_final(self) -> bool:
        return super().is_final or not self.has_results


def _inputs(found: ProjectRun) -> str:
    """Return a key of the results and texts of a run that changes when they change."""
    out, project = OutputDirectory(found.out), found.project
    files = (out.records, out.study, out.recommendation, out.baselines, out.tuning)
    seen = [(path.name, path.stat().st_mtime_ns, path.stat().st_size) for path in files if path.is_file()]
    return digest.of_json([__version__, seen, stamp(project.address, project.options.get("evaluation"))])


def content_of(found: ProjectRun) -> KeptAnswer:
    """Return the content of the answer's page of a run, which a process computes."""
    process = found.project.process(f"answer-{found.number}")
    return KeptAnswer(process, ["report", str(found.out.absolute()), "--content"], _inputs(found))


def has_results(found: ProjectRun) -> bool:
    return found.state in ENDED and OutputDirectory(found.out).holds_results


@router.live(f"{ADDRESS}/answer/live", "answer_live.html.j2")
@router.page(f"{ADDRESS}/answer", TEMPLATE, twin=False)
def answer(visit: Visit, project: str, number: str) -> AnswerFacts:
    """Return what a run has found; begin to compute the page if it was not computed yet."""
    run = run_of(visit.project(project), number)
    command = f"afina show {run.out.absolute()}"
    if not has_results(run):
        return AnswerFacts(run.project, run.number, command, run.state, False)
    content = content_of(run)
    content.begin()
    found = content.found
    return AnswerFacts(
        project=run.project,
        number=run.number,
        command=command,
        state=run.state,
        has_results=True,
        found=found,
        problem=in_words(run.project, content.problem),
        shown=_shown(found["answered"], visit.query.get("method", "")) if found else None,
        files=[name for name in FILES if (run.out / name).is_file()],
        tests=[_summary(run, one) for one in _tests(run)],
    )


def _shown(answered: Sequence[Mapping[str, Any]], key: str) -> Mapping[str, Any] | None:
    return next((one for one in answered if key and one["key"] == key), next(iter(answered), None))


@router.answers(f"{ADDRESS}/answer.json")
def answer_json(visit: Visit, project: str, number: str) -> Response:
    """Return what `afina show OUT --json` prints."""
    return json_answer(_printed(_answered(visit, project, number), "show"))


def _printed(run: ProjectRun, name: str, *options: str) -> Mapping[str, Any]:
    """Return what `afina show` prints with these options, in a process of this name. Raises Conflict if it fails."""
    process = run.project.process(f"{name}-{run.number}")
    shown = KeptAnswer(process, ["show", str(run.out.absolute()), *options], _inputs(run))
    found = shown.waited_for()
    if found is None:
        raise problems.ANSWER_FAILED(run=run.number, reason=shown.problem)
    return found


def _answered(visit: Visit, project: str, number: str) -> ProjectRun:
    """Return a run that has results. Raises NotFound, or Conflict if it has none."""
    run = run_of(visit.project(project), number)
    if not has_results(run):
        raise problems.NO_ANSWER(run=run.number, found=run.state)
    return run


# Downloads


@router.answers(f"{ADDRESS}/files/{{name}}")
def results_file(visit: Visit, project: str, number: str, name: str) -> Response:
    """Return a file of the report."""
    run = _answered(visit, project, number)
    if name not in FILES or not (run.out / name).is_file():
        raise problems.PAGE_MISSING()
    return download(run.out / name, f"{run.project.name}-{run.number}-{name}")


@router.answers(f"{ADDRESS}/study.toml")
def study_file(visit: Visit, project: str, number: str) -> Response:
    """Return the study file that repeats the run."""
    content = _printed(_answered(visit, project, number), "study-file", "--study-file")["study_file"]
    return _attached(iter([content.encode()]), "application/toml", f"{project}-study.toml")


@router.answers(f"{ADDRESS}/adapter.zip")
def adapter_file(visit: Visit, project: str, number: str) -> Response:
    """Return the adapter to use as a zip file, which is written while it is sent."""
    run = _answered(visit, project, number)
    adapter = _adapter(run, content_of(run).waited_for())
    return _attached(zipped(adapter), "application/zip", f"{project}-{adapter.name}.zip")


def _attached(parts: Iterator[bytes], kind: str, name: str) -> Response:
    headers = {"Content-Disposition": f"attachment; filename*=UTF-8''{quote(name)}"}
    return StreamingResponse(parts, media_type=kind, headers=headers)


def _adapter(run: ProjectRun, found: Mapping[str, Any] | None) -> Path:
    """Return the directory of the adapter to use. Raises NotFound."""
    path = run.out.absolute() / str(found["adapter"]) if found and found["adapter"] else None
    if path is None or not path.is_dir():
        raise problems.NO_ADAPTER(run=run.number)
    return path


# The texts behind the figures


@dataclass(frozen=True)
class TextsFacts(ComputedFacts):
    """The texts that a method answered in a certain way: the answer of `afina texts --json`.

    None while they are read.
    """

    project: Project
    number: int
    command: str
    given: str
    predicted: str
    found: Mapping[str, Any] | None
    problem: str
    live: str


@router.live(f"{ADDRESS}/texts/live", "answer_texts_live.html.j2")
@router.page(f"{ADDRESS}/texts", TEXTS)
def texts(visit: Visit, project: str, number: str) -> TextsFacts:
    """Return the held-out texts with a right label and an answer; without both, the texts with a wrong answer."""
    run = _answered(visit, project, number)
    asked = {
        name: visit.query[name]
        for name in ("given", "predicted", "method", "backbone", "seed")
        if visit.query.get(name)
    }
    arguments = ["texts", str(run.out.absolute()), *(f"--{name}={value}" for name, value in asked.items())]
    arguments += ["--most", str(MOST_TEXTS), "--longest", str(LONGEST)]
    kept = KeptAnswer(run.project.process(f"texts-{run.number}", asked), arguments, _inputs(run))
    kept.begin()
    return TextsFacts(
        project=run.project,
        number=run.number,
        command=kept.command,
        given=asked.get("given", ""),
        predicted=asked.get("predicted", ""),
        found=kept.found,
        problem=in_words(run.project, kept.problem),
        live=f"/{project}/runs/{number}/texts/live?{urlencode(asked)}",
    )


# Tests on other files


@dataclass(frozen=True)
class AdapterTestFacts(ComputedFacts):
    """A test of the run's adapter on another file: the answer of `afina evaluate --json`; None while it is computed.

    Attributes:
        figures: `name`, `value` and `interval` of each metric in words, the headline first. Some metrics have an empty
            interval.
        matrix: None without a confusion matrix, or with many labels.
    """

    project: Project
    number: int
    test: int
    name: str
    command: str
    found: Mapping[str, Any] | None
    problem: str
    figures: Sequence[Mapping[str, str]] = ()
    matrix: Mapping[str, Any] | None = None


def _tests(run: ProjectRun) -> list[int]:
    """The numbers of the tests of a run, the latest first."""
    begin = f"test-{run.number}-"
    found = (run.project.directory / "processes").glob(f"{begin}*/request.json")
    return sorted((int(path.parent.name.removeprefix(begin)) for path in found), reverse=True)


def _place(run: ProjectRun, test: int) -> str:
    """The name of a test's process, and of the directory of its uploaded file."""
    return f"test-{run.number}-{test}"


def _test(run: ProjectRun, test: int) -> tuple[str, KeptAnswer]:
    """The name of a test's file, and the answer of the command. Raises NotFound."""
    process = run.project.process(_place(run, test))
    try:
        request = file_io.read_object(process.directory / "request.json")
    except CorruptAdapter:
        raise problems.TEST_MISSING(run=run.number, test=test) from None
    return str(request["name"]), KeptAnswer(process, [str(one) for one in request["arguments"]])


def _summary(run: ProjectRun, test: int) -> dict[str, Any]:
    name, kept = _test(run, test)
    words = "failed" if kept.problem else "in progress"
    if (found := kept.found) is not None:
        first = _figures(found)[0]
        words = f"{first['name']} {first['value']}" + (f" ({first['interval']})" if first["interval"] else "")
    return {"number": test, "name": name, "words": words}


def _figures(found: Mapping[str, Any]) -> list[dict[str, str]]:
    names = headline_first([name for name in found if name in METRICS], found["metric"])
    return [
        {
            "name": metric_heading(name),
            "value": "undefined" if found[name] is None else share(found[name]),
            "interval": f"95 % interval {span((low, high))}" if low is not None else "",
        }
        for name in names
        for low, high in [found.get("intervals", {}).get(name, (None, None))]
    ]


@router.live(f"{ADDRESS}/tests/{{test}}/live", "answer_test_live.html.j2")
@router.page(f"{ADDRESS}/tests/{{test}}", TEST)
def adapter_test(visit: Visit, project: str, number: str, test: str) -> AdapterTestFacts:
    """Return the figures of the adapter on another file; a test that was killed begins again."""
    run = run_of(visit.project(project), number)
    if test not in map(str, _tests(run)):
        raise problems.TEST_MISSING(run=run.number, test=test)
    name, kept = _test(run, int(test))
    kept.begin()
    found = kept.found
    small = found and found["confusion"] and len(found["labels"]) <= MOST_IN_MATRIX
    return AdapterTestFacts(
        project=run.project,
        number=run.number,
        test=int(test),
        name=name,
        command=kept.command,
        found=found,
        problem=in_words(run.project, kept.problem).replace(f"{_place(run, int(test))}/", ""),
        figures=_figures(found) if found else (),
        matrix={"names": [*found["labels"]], "counts": found["confusion"]} if found and small else None,
    )


@router.form(f"{ADDRESS}/tests", answer, TEMPLATE)
def begin_test(visit: Visit, form: Form, project: str, number: str) -> str:
    """Measure the adapter to use on the uploaded file, or on the texts at an address."""
    run = _answered(visit, project, number)
    adapter = _adapter(run, content_of(run).found)
    test = max(_tests(run), default=0) + 1
    if form.upload is not None:
        name = safe_name(form.upload.name)
        place = run.project.data / _place(run, test)
        place.mkdir(parents=True, exist_ok=True)
        address = str((form.upload.path.replace(place / name)).absolute())
    else:
        name = address = form.get("address")
        if not address:
            raise problems.NO_FILE()
        visit.check_address(address)
    arguments = ["evaluate", str(adapter), f"--task={address}"]
    arguments += [f"--{option}={value}" for option in ("text", "label") if (value := form.get(option))]
    process = run.project.process(_place(run, test))
    process.directory.mkdir(parents=True, exist_ok=True)
    content = {"name": name, "arguments": arguments}
    file_io.write_text(process.directory / "request.json", json.dumps(content, ensure_ascii=False))
    KeptAnswer(process, arguments).begin()
    return f"/{project}/runs/{number}/tests/{test}"
