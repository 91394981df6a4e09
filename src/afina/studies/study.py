"""Study: many runs, described by one TOML file or preset; skips those already recorded.

Starts without torch: each run is a process of its own. Where the study has a [tune] section, each method's
settings are chosen first (`tuning.py`).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Self

from filelock import FileLock, Timeout
from pydantic import ValidationError

from afina import atomic
from afina.errors import AfinaError, Busy, InvalidData, InvalidStudy, NotFound, UnknownName
from afina.events import Progress
from afina.methods import METHODS, make
from afina.report import report
from afina.report.report import Evaluated, Failure, Report, Table
from afina.schema import Frozen
from afina.studies import record, trials, tuning
from afina.studies.executors import local
from afina.studies.record import Record
from afina.studies.run import Run
from afina.studies.spec import Data, Training
from afina.studies.study_file import explain, override, presets, read
from afina.studies.trials import Candidate, Tuned
from afina.studies.tuning import Hearing, Space, Tune

__all__ = ["Outcome", "Study", "Watcher", "override", "presets"]

RECORDS = "records.jsonl"


STUDY = "study.json"


@dataclass(frozen=True)
class Outcome:
    """What has come of a study: the records in the order of its runs, and the runs that failed this time.

    tuned    what choosing each method's settings took, where the study tunes
    command  the argument list that repeats it, empty where not known
    """

    name: str
    out: Path
    records: tuple[Record, ...]
    failed: tuple[Failure, ...] = ()
    command: tuple[str, ...] = ()
    tuned: tuple[Tuned, ...] = ()

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
        return cls(study.name, out, chosen, (), command, trials.read(out) if study.tune else ())

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
        return Report(self.name, self.records, self.command, self.failed, tuned=self.tuned)

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
            self.name, self.out, self.report_path, self.records, self.failed, made.verdicts, made.claims, self.tuned
        )

    def write_report(self, *, texts: bool = True) -> list[Path]:
        """Write every file of the report anew; their paths. `texts` false keeps evaluation texts out of them."""
        made = replace(self.report, evaluated=_evaluated(self.out) if texts else WITHHELD)
        paths = []
        for name, content in made.files().items():
            atomic.write_text(self.out / name, content)
            paths.append(self.out / name)
        return paths


WITHHELD = Evaluated(reason="texts were left out on request")


def _evaluated(out: Path) -> Evaluated:
    """The texts of a study's evaluation split, read again; the reason where that fails or would take a network."""
    from afina.data.task import Task, is_at_hand

    study = Study.parse(json.loads((out / STUDY).read_text(encoding="utf-8"))["study"], str(out / STUDY))
    if not is_at_hand(study.task):
        return Evaluated(reason="the task is not on this machine, and a report uses no network")
    try:
        split = Task.load(study.task, **study.data.model_dump()).evaluation
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

    def trying(self, run: Run, number: int, spent: float) -> None:
        """A candidate of a run's settings begins; `spent` is the share of the method's budget that is gone."""

    def tried(self, run: Run, number: int, candidate: Candidate, length: int) -> None:
        """A candidate took its steps, all of `length` unless it was stopped early."""

    def stop(self) -> None:
        """The study is interrupted."""


class Study(Frozen):
    """What to compare.

    tune     choose each method's settings first, by a validation split cut from the training split
    methods  a table per run: `method` (by default its own name), the method's hyperparameters, and any field of
             [train] that this run has otherwise; `search`, a table of what tuning may choose
    """

    name: str
    backbone: str
    task: str
    seeds: tuple[int, ...] = (0,)
    data: Data = Data()
    train: Training = Training()
    tune: Tune | None = None
    methods: dict[str, dict[str, Any]]

    @classmethod
    def load(cls, source: str, overrides: Iterable[str] = ()) -> Self:
        """Read a TOML file or a preset; overrides are `key=value` with a dotted key. Raises NotFound, InvalidStudy."""
        content, where = read(source)
        for item in overrides:
            override(content, item)
        return cls.parse(content, where)

    @classmethod
    def parse(cls, content: Mapping[str, Any], where: str) -> Self:
        """Check `content`; `where` begins the messages. Raises UnknownName, InvalidStudy."""
        try:
            study = cls.model_validate(content)
        except ValidationError as error:
            raise explain(error, cls, where) from None
        if not study.methods:
            raise InvalidStudy(f"{where}: no methods. Add a table such as [methods.lora]. Known: {', '.join(METHODS)}.")
        if not study.seeds:
            raise InvalidStudy(f"{where}: no seeds. Give at least one, such as seeds = [0].")
        study.runs(where)
        if study.tune:
            study._check_budgets(where)
            study.spaces(where)
        elif searching := next((name for name, entry in study.methods.items() if "search" in entry), None):
            raise InvalidStudy(f"{where}: methods.{searching}.search without a [tune] section. Add one, or remove it.")
        return study

    def _check_budgets(self, where: str) -> None:
        for name, entry in self.methods.items():
            for key in ("epochs", "batch_size", "accumulate", "max_steps"):
                if key in entry:
                    raise InvalidStudy(
                        f"{where}, methods.{name}: {key} differs from the other methods', so a budget of steps would "
                        f"not be the same for all. Set train.{key}."
                    )
        if self.data.validation is not None:
            raise InvalidStudy(f"{where}: data.validation with a [tune] section. Set tune.validation.")

    def spaces(self, where: str = "study") -> dict[str, tuple[Run, Space | None]]:
        """What tuning looks through, by the names in `methods`, with the run whose settings it chooses."""
        found = {}
        for name, entry in self.methods.items():
            place = f"{where}, methods.{name}"
            run, search = self._run(name, self.seeds[0], place), entry.get("search", {})
            if not isinstance(search, Mapping):
                raise InvalidStudy(f"{place}.search = {search!r}: expected a table.")
            found[name] = (run, Space.of(run, search, place))
        return found

    def settle(self, chosen: Iterable[Tuned]) -> Self:
        """The study with the chosen settings, of the methods that have one."""
        settings = {one.name: one.setting for one in chosen if one.setting is not None}
        methods = {name: entry | settings[name] for name, entry in self.methods.items() if name in settings}
        return self.model_copy(update={"methods": methods})

    def runs(self, where: str = "study") -> list[Run]:
        """Every run, seed by seed, in the order of the methods; with the settings that stand in `methods`."""
        return [self._run(name, seed, f"{where}, methods.{name}") for seed in self.seeds for name in self.methods]

    def _run(self, name: str, seed: int, where: str) -> Run:
        entry = {key: value for key, value in self.methods[name].items() if key != "search"}
        method = entry.pop("method", name)
        if method not in METHODS:
            raise UnknownName("method", str(method), METHODS, where)
        own = {field.name for field in fields(METHODS[method])}
        hyperparameters = {key: entry.pop(key) for key in list(entry) if key in own}
        for key in entry:
            if key not in Training.model_fields:
                raise UnknownName("key", key, [*own, *Training.model_fields, "method", "search"], where)
        try:
            training = Training.model_validate(self.train.model_dump() | entry)
        except ValidationError as error:
            raise explain(error, Training, where) from None
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
                    atomic.sweep(place)
                outcome = self._run_all(out, watcher, command)
        except Timeout:
            raise Busy(f"--out {out}: another study is writing there. Wait for it, or name another --out.") from None
        kept = (out / trials.FILE).exists() or any((out / "checkpoints").glob("*.safetensors"))
        if fresh and not outcome.records and not kept:
            shutil.rmtree(out)  # nothing came of it, and it was not there before
        return outcome

    def _run_all(self, out: Path, watcher: Watcher, command: Sequence[str]) -> Outcome:
        kept = record.read(out / RECORDS)
        if self.tune:
            choices, failed = self._tune(out, watcher)
            settled = self.settle(choices)
        else:
            choices, failed, settled = (), (), self
        runs = settled.runs()
        known = {entry.key: entry for entry in kept if (out / entry.adapter).is_dir()}
        atomic.write_text(out / STUDY, json.dumps({"study": settled.model_dump(mode="json"), "command": list(command)}))
        outcome = Outcome(self.name, out, (), failed, tuple(command), choices)
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
            atomic.write_text(outcome.report_path, outcome.markdown())
        atomic.write_text(outcome.report_path, outcome.markdown())
        return outcome

    def _tune(self, out: Path, watcher: Watcher) -> tuple[tuple[Tuned, ...], tuple[Failure, ...]]:
        assert self.tune is not None
        found: dict[str, Tuned] = {}
        failed: list[Failure] = []
        hearing = Hearing(watcher.trying, watcher.progress, watcher.tried)

        def keep(so_far: Tuned) -> None:
            found[so_far.name] = so_far
            trials.write(out, found.values())

        for run, space in self.spaces().values():
            try:
                keep(tuning.tune(run, space, self.tune, out, hearing, keep))
            except AfinaError as error:
                watcher.failed(run, str(error))
                failed.append(Failure(run.title, run.method, run.seed, str(error)))
                if run.title in found:  # a choice from a part of the budget would not be a fair one
                    keep(found[run.title].model_copy(update={"setting": None}))
        return tuple(found.values()), tuple(failed)


def _carry_out(run: Run, out: Path, study: str, watcher: Watcher) -> Record:
    return local.carry_out(run, out, study, partial(watcher.progress, run))
