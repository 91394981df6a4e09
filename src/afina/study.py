"""Study: many runs, described by one TOML file or preset; skips those already recorded.

Starts without torch: each run is a process of its own (`afina.worker`), so that its peak memory is its
own and a crash takes nothing else with it.
"""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields, replace
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import Any, Self

from filelock import FileLock, Timeout
from pydantic import BaseModel, ValidationError

from afina import durable, record, report
from afina.errors import AfinaError, Busy, InvalidData, InvalidStudy, NotFound, RunFailed, UnknownName
from afina.methods import METHODS, make
from afina.progress import Progress
from afina.record import Frozen, Record
from afina.report import Evaluated, Failure, Report, Table
from afina.run import Data, Run, Training

RECORDS = "records.jsonl"


STUDY = "study.json"


@dataclass(frozen=True)
class Outcome:
    """What has come of a study: the records in the order of its runs, and the runs that failed this time.

    command  the argument list that repeats it, empty where not known
    """

    name: str
    out: Path
    records: tuple[Record, ...]
    failed: tuple[Failure, ...] = ()
    command: tuple[str, ...] = ()

    @classmethod
    def read(cls, out: Path) -> Outcome:
        """From the files of a study, finished or not. Raises NotFound, InvalidData."""
        if not (out / RECORDS).is_file():
            raise NotFound(f"{out}: no {RECORDS} there, so no finished run to show. Give a study's --out directory.")
        records = record.read(out / RECORDS)
        try:
            content = json.loads((out / STUDY).read_text(encoding="utf-8"))
            study, command = Study.parse(content["study"], str(out / STUDY)), tuple(content["command"])
        except (OSError, ValueError, KeyError, TypeError, AfinaError):
            raise InvalidData(
                f"{out / STUDY}: missing or damaged. Run the study again; it skips what is recorded."
            ) from None
        by_key = {entry.key: entry for entry in records}
        chosen = tuple(by_key[run.key] for run in study.runs() if run.key in by_key)
        return cls(study.name, out, chosen, (), command)

    @property
    def report_path(self) -> Path:
        """Where the Markdown report is."""
        return self.out / "report.md"

    @property
    def page_path(self) -> Path:
        """Where the report with plots is, once it is written."""
        return self.out / report.PAGE

    @cached_property
    def report(self) -> Report:
        """What there is to say, with row numbers in the place of texts."""
        return Report(self.name, self.records, self.command, self.failed)

    def tables(self) -> list[Table]:
        """The tables that the terminal and the report show."""
        return self.report.tables

    def findings(self) -> list[Table]:
        """Verdicts, and the published study's claims where they can be tested."""
        return self.report.findings

    def markdown(self) -> str:
        """The report's text."""
        return self.report.markdown()

    def summary(self) -> dict[str, object]:
        """The object that `--json` prints."""
        made = self.report
        return report.summary(
            self.name, self.out, self.report_path, self.records, self.failed, made.verdicts, made.claims
        )

    def write_report(self, *, texts: bool = True) -> list[Path]:
        """Write every file of the report anew; their paths. `texts` false keeps evaluation texts out of them."""
        made = replace(self.report, evaluated=_evaluated(self.out) if texts else WITHHELD)
        paths = []
        for name, content in made.files().items():
            durable.write_text(self.out / name, content)
            paths.append(self.out / name)
        return paths


WITHHELD = Evaluated(reason="texts were left out on request")


def _evaluated(out: Path) -> Evaluated:
    """The texts of a study's evaluation split, read again; the reason where that fails or would take a network."""
    from afina import tasks

    study = Study.parse(json.loads((out / STUDY).read_text(encoding="utf-8"))["study"], str(out / STUDY))
    if not tasks.is_at_hand(study.task):
        return Evaluated(reason="the task is not on this machine, and a report uses no network")
    try:
        split = tasks.load(study.task, **study.data.model_dump()).evaluation
    except AfinaError:
        return Evaluated(reason="the task could not be read again")
    pairs = split.pairs
    texts = split.texts if pairs is None else [f"{a} ⏎ {b}" for a, b in zip(split.texts, pairs, strict=True)]
    return Evaluated(texts, split.digest)


class Watcher:
    """What a study tells while it runs. Does nothing; override what is of interest."""

    def started(self, run: Run, number: int, total: int) -> None:
        """A run begins."""

    def progress(self, run: Run, progress: Progress) -> None:
        """A run goes on."""

    def finished(self, run: Run, record: Record, *, now: bool) -> None:
        """A run is recorded; `now` is false where it was recorded already."""

    def failed(self, run: Run, message: str) -> None:
        """A run could not be carried out; the study goes on with the next."""

    def stop(self) -> None:
        """The study is interrupted."""


class Study(Frozen):
    """What to compare.

    methods  a table per run: `method` (by default its own name), the method's hyperparameters, and any field of
             [train] that this run has otherwise
    """

    name: str
    backbone: str
    task: str
    seeds: tuple[int, ...] = (0,)
    data: Data = Data()
    train: Training = Training()
    methods: dict[str, dict[str, Any]]

    @classmethod
    def load(cls, source: str, overrides: Iterable[str] = ()) -> Self:
        """Read a TOML file or a preset; overrides are `key=value` with a dotted key. Raises NotFound, InvalidStudy."""
        content, where = _read(source)
        for item in overrides:
            override(content, item)
        return cls.parse(content, where)

    @classmethod
    def parse(cls, content: Mapping[str, Any], where: str) -> Self:
        """Check `content`; `where` begins the messages. Raises UnknownName, InvalidStudy."""
        try:
            study = cls.model_validate(content)
        except ValidationError as error:
            raise _explain(error, cls, where) from None
        if not study.methods:
            raise InvalidStudy(f"{where}: no methods. Add a table such as [methods.lora]. Known: {', '.join(METHODS)}.")
        if not study.seeds:
            raise InvalidStudy(f"{where}: no seeds. Give at least one, such as seeds = [0].")
        study.runs(where)
        return study

    def runs(self, where: str = "study") -> list[Run]:
        """Every run, seed by seed, in the order of the methods."""
        return [self._run(name, seed, f"{where}, methods.{name}") for seed in self.seeds for name in self.methods]

    def _run(self, name: str, seed: int, where: str) -> Run:
        entry = dict(self.methods[name])
        method = entry.pop("method", name)
        if method not in METHODS:
            raise UnknownName("method", str(method), METHODS, where)
        own = {field.name for field in fields(METHODS[method])}
        hyperparameters = {key: entry.pop(key) for key in list(entry) if key in own}
        for key in entry:
            if key not in Training.model_fields:
                raise UnknownName("key", key, [*own, *Training.model_fields, "method"], where)
        try:
            training = Training.model_validate(self.train.model_dump() | entry)
        except ValidationError as error:
            raise _explain(error, Training, where) from None
        return Run(
            backbone=self.backbone,
            task=self.task,
            method=method,
            hyperparameters=make(method, hyperparameters, where).hyperparameters,
            data=self.data,
            training=training,
            seed=seed,
            name="" if name == method else name,
        )

    def run(self, out: str | Path, watcher: Watcher | None = None, command: Sequence[str] = ()) -> Outcome:
        """Carry out every run that `out/records.jsonl` lacks; `out/report.md` is written anew after each.

        A run that fails is in the outcome's `failed`; the others go on. `command` is what a reader may type to repeat
        the study. Raises NotFound, Busy, InvalidData.
        """
        out, watcher = Path(out), watcher or Watcher()
        fresh = not out.exists()
        try:
            out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise NotFound(f"--out {out}: cannot be made a directory ({error.strerror}).") from None
        try:
            with FileLock(out / ".lock", timeout=0):
                for place in (out, out / "adapters", out / "checkpoints"):
                    durable.sweep(place)
                outcome = self._run_all(out, watcher, command)
        except Timeout:
            raise Busy(f"--out {out}: another study is writing there. Wait for it, or name another --out.") from None
        if fresh and not outcome.records and not any((out / "checkpoints").glob("*.safetensors")):
            shutil.rmtree(out)  # nothing came of it, and it was not there before
        return outcome

    def _run_all(self, out: Path, watcher: Watcher, command: Sequence[str]) -> Outcome:
        runs = self.runs()
        kept = record.read(out / RECORDS)
        known = {entry.key: entry for entry in kept if (out / entry.adapter).is_dir()}
        durable.write_text(out / STUDY, json.dumps({"study": self.model_dump(mode="json"), "command": list(command)}))
        outcome = Outcome(self.name, out, (), (), tuple(command))
        for number, run in enumerate(runs, start=1):
            made = known.get(run.key)
            if made is None:
                watcher.started(run, number, len(runs))
                try:
                    made = _carry_out(run, out, self.name, watcher)
                except AfinaError as error:
                    watcher.failed(run, str(error))
                    failure = Failure(run.title, run.method, run.seed, str(error))
                    outcome = replace(outcome, failed=(*outcome.failed, failure))
                    continue
                kept = [entry for entry in kept if entry.key != run.key] + [made]
                record.write(out / RECORDS, kept)
                (out / "checkpoints" / f"{run.label}.safetensors").unlink(missing_ok=True)
            watcher.finished(run, made, now=run.key not in known)
            outcome = replace(outcome, records=(*outcome.records, made))
            durable.write_text(outcome.report_path, outcome.markdown())
        durable.write_text(outcome.report_path, outcome.markdown())
        return outcome


def _carry_out(run: Run, out: Path, study: str, watcher: Watcher) -> Record:
    with _ctrl_c_later():
        worker = subprocess.Popen(
            [sys.executable, "-m", "afina.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
        )
    assert worker.stdin is not None
    assert worker.stdout is not None
    made: Record | None = None
    problem: str | None = None
    try:
        with suppress(BrokenPipeError):  # it may be killed before it has read anything
            worker.stdin.write(json.dumps({"run": run.model_dump(mode="json"), "out": str(out), "study": study}) + "\n")
            worker.stdin.flush()
        for line in worker.stdout:
            if not line.endswith("\n"):
                break  # it was killed while it wrote
            message = json.loads(line)
            if "progress" in message:
                watcher.progress(run, Progress(**message["progress"]))
            made = Record.model_validate(message["record"]) if "record" in message else made
            problem = message.get("error", problem)
    finally:
        with suppress(BrokenPipeError):
            worker.stdin.close()  # the worker ends when this closes, also when we were interrupted
        status = worker.wait()
        worker.stdout.close()
    if made is not None:
        return made
    if problem is not None:
        raise RunFailed(problem)
    if status < 0:
        raise RunFailed(
            f"run {run.title}: its process was killed by signal {-status}, most likely for want of memory. "
            "Set train.token_budget=1024 or train.checkpointing=true, then start the study again."
        )
    raise RunFailed(f"run {run.title}: a fault in afina (above). Please report it; the other runs are not affected.")


@contextmanager
def _ctrl_c_later() -> Iterator[None]:
    """Ctrl-C reaches the whole process group. A process started in the block never hears it; this one does after it.

    So it is the study alone that decides what becomes of a run, however early in its life.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def presets() -> list[str]:
    """Names of the shipped studies."""
    return sorted(
        entry.name.removesuffix(".toml") for entry in files("afina.presets").iterdir() if entry.name.endswith(".toml")
    )


def _read(source: str) -> tuple[dict[str, Any], str]:
    if source in presets():
        return tomllib.loads((files("afina.presets") / f"{source}.toml").read_text()), f"preset {source}"
    path = Path(source)
    if path.is_file():
        try:
            return tomllib.loads(path.read_text(encoding="utf-8")), source
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise InvalidStudy(f"{source}: not valid TOML: {error}.") from None
    if path.suffix == ".toml" or len(path.parts) > 1:
        raise NotFound(f"study file {source} is not there. Presets: {', '.join(presets())}.")
    raise UnknownName("preset", source, presets())


def override(content: dict[str, Any], item: str) -> None:
    """Set one `key=value` in `content`; the value is TOML where it can be read as such, else text."""
    key, found, text = item.partition("=")
    parts = key.strip().split(".")
    if not found or not all(parts):
        raise InvalidStudy(f"--set {item}: expected key=value, such as train.epochs=1.")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    table = content
    for part in parts[:-1]:
        table = table.setdefault(part, {})
        if not isinstance(table, dict):
            raise InvalidStudy(f"--set {item}: {part} is a value, not a table.")
    table[parts[-1]] = value


def _explain(error: ValidationError, model: type[BaseModel], where: str) -> AfinaError:
    first = error.errors()[0]
    place = [str(part) for part in first["loc"]]
    if first["type"] == "extra_forbidden":
        level: Any = model
        for part in place[:-1]:
            level = level.model_fields[part].annotation
        known = [".".join([*place[:-1], field]) for field in level.model_fields]
        return UnknownName("key", ".".join(place), known, where)
    if first["type"] == "missing":
        return InvalidStudy(f"{where}: {'.'.join(place)} is missing.")
    message = first["msg"][0].lower() + first["msg"][1:]
    return InvalidStudy(f"{where}: {'.'.join(place)} = {first['input']!r}: {message}.")
