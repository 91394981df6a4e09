"""The results of a study or of a recommendation, and the directory that holds them.

`RecordedRuns` says which runs have a record that was made from the data as the data are now. The module knows facts
only: `afina.report` makes words, tables and pages. Starts without torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from afina import repr_html
from afina.data.addresses import reads_files
from afina.errors import InvalidData, InvalidStudy, NotFound, UnknownName
from afina.models.adapter import check_there
from afina.repr_html import ReprCard, figure
from afina.schema import Frozen
from afina.stats.metrics import METRICS
from afina.studies import baselines, trials
from afina.studies.baselines import MeasuredBaseline
from afina.studies.choosing.recommendation import Recommendation
from afina.studies.runs import output_directory
from afina.studies.runs.inputs import DataDigests
from afina.studies.runs.output_directory import OutputDirectory, OutputLock
from afina.studies.runs.record import Record, Result
from afina.studies.runs.run import Run
from afina.studies.runs.spec import Data
from afina.studies.trials import Tuned


@dataclass(frozen=True)
class Failure:
    """A run that ended in an error. A failed run has no record, so the next call of the study tries the run again."""

    name: str
    method: str
    seed: int
    error: str


class StudyRequest(Frozen):
    """The request of a study: the content of `study.json`.

    Attributes:
        keys: The keys of the study's runs, in the study's order.
        study: The fields of `Study`, with the settings that tuning chose.
        command: The command line arguments that repeat the study; empty if unknown.
    """

    name: str
    task: str
    data: Data
    keys: tuple[str, ...]
    study: dict[str, Any]
    command: tuple[str, ...] = ()


@dataclass(frozen=True, repr=False)
class Results(ReprCard):
    """The results so far, in the order of the study's runs, and the runs that failed in this call.

    Attributes:
        command: The command line arguments that repeat the study; empty if unknown.
        tuned: The settings that tuning tried and chose for each method; empty if the study does not tune.
        recommendation: The recommendation, if the directory holds one. Then `results` has its contenders.
        baselines: The baselines without a language model, if the study asks for them.
        waiting: The number of runs that have no result and, in this call, no error.
    """

    name: str
    out: Path
    results: tuple[Result, ...] = ()
    failed: tuple[Failure, ...] = ()
    command: tuple[str, ...] = ()
    tuned: tuple[Tuned, ...] = ()
    recommendation: Recommendation | None = None
    task: str = ""
    data: Data = field(default_factory=Data)
    waiting: int = 0
    baselines: tuple[MeasuredBaseline, ...] = ()

    @property
    def records(self) -> tuple[Record, ...]:
        """The records of the results."""
        return tuple(result.record for result in self.results)

    @property
    def unsealed(self) -> tuple[Record, ...]:
        """Records of earlier versions of afina, which lack a digest of their own content.

        When such a record is read, its metrics are compared with the stored predictions.
        """
        return tuple(one for one in self.records if one.content_digest is None)

    def facts(self) -> dict[str, object]:
        """Return the facts that the repr shows."""
        return {
            "name": self.name,
            "directory": self.out,
            "task": self.task,
            "recommended": self.recommendation.recommended if self.recommendation else None,
            "results": tuple(
                f"{one.name}, seed {one.seed}: {one.metric} {figure(one.metrics[one.metric])}" for one in self.records
            ),
            "failed": tuple(f"{one.name}, seed {one.seed}" for one in self.failed),
        }

    def _repr_html_(self) -> str:
        return repr_html.results_as_html(self) or super()._repr_html_()

    def adapter(self, name: str | None = None, seed: int | None = None) -> Path:
        """Return the directory of an adapter, for `Predictor.load`. Raises UnknownName or NotFound.

        Args:
            name: The name of the run, such as `lora`. Default: the recommended method, or the only name in the results.
            seed: The seed of the run. Default: the first seed of that name.
        """
        records = self.records
        if name is None:
            name = self.recommendation.recommended if self.recommendation else None
            name = name or (records[0].name if len({one.name for one in records}) == 1 else None)
        if name is None or name not in {one.name for one in records}:
            raise UnknownName("run", str(name), [one.name for one in records], str(self.out))
        found = [one for one in records if one.name == name and seed in (None, one.seed)]
        if not found:
            raise NotFound(
                f"{self.out}: no run {name} with seed {seed}. Give the seed of a run in this directory.",
                code="run.missing",
                path=self.out,
                run=name,
                seed=seed,
            )
        return self.out / found[0].adapter

    @staticmethod
    def hold(out: str | Path) -> AbstractContextManager[OutputLock]:
        """Lock the directory `out` for writing, as a context manager: `lock_output` has the details."""
        return output_directory.lock_output(Path(out))

    @classmethod
    def read(cls, out: str | Path) -> Results:
        """Read the results that a study, finished or not, or a recommendation left in `out`.

        Raises NotFound if `out` holds no finished run, InvalidData if a file is damaged or was changed by hand.
        """
        directory = OutputDirectory(Path(out))
        if not directory.holds_results:
            raise NotFound(
                f"{out}: the directory has no {directory.records.name}, so there is no finished run to show. "
                "Give the `out` of a study or a recommendation.",
                code="results.missing",
                path=out,
            )
        held = OutputLock(directory, directory.read())
        if directory.recommendation.is_file():
            return of_recommendation(held, read_recommendation(directory.recommendation))
        return cls._of_study(held, read_request(directory.study))

    @classmethod
    def _of_study(cls, held: OutputLock, request: StudyRequest) -> Results:
        finished = _of_keys(held, request.keys, request.study.get("metric"))
        return cls(
            name=request.name,
            out=held.out,
            results=finished,
            waiting=len(request.keys) - len(finished),
            command=request.command,
            tuned=trials.read_tuned(held.out) if request.study.get("tune") else (),
            task=request.task,
            data=request.data,
            baselines=baselines.read(held.directory) if request.study.get("baselines") else (),
        )


def of_recommendation(held: OutputLock, made: Recommendation) -> Results:
    """Return the results of a recommendation's contenders, in the recommendation's order."""
    keys = [one.key for one in made.contenders if one.key is not None]
    return Results(
        name=made.name,
        out=held.out,
        results=_of_keys(held, keys),
        command=made.command,
        recommendation=made,
        task=made.task,
        data=made.data,
    )


def _of_keys(held: OutputLock, keys: tuple[str, ...] | list[str], metric: str | None = None) -> tuple[Result, ...]:
    """Return the results with these keys; `metric` replaces the headline metric that the runs recorded."""
    by_key = {one.key: one for one in held.records}
    return tuple(measured_in(held.result(by_key[key]), metric) for key in keys if key in by_key)


def measured_in(result: Result, metric: str | None) -> Result:
    """Return the result with `metric` as its headline, if the record has it and methods can be compared by it."""
    there = result.record.metrics
    if metric in (None, result.record.metric) or metric not in there or metric not in METRICS:
        return result
    if METRICS[metric].values is None:
        return result
    return replace(result, record=result.record.model_copy(update={"metric": metric}))


def read_request(path: Path) -> StudyRequest:
    """Read a `study.json`. Raises InvalidData if the file is missing or damaged."""
    try:
        return StudyRequest.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        raise InvalidData(
            f"{path}: the file is missing or damaged. Run the study again; recorded runs are skipped.",
            code="results.damaged",
            path=path,
        ) from None


def read_recommendation(path: Path) -> Recommendation:
    """Read a `recommendation.json`. Raises InvalidData if the file is damaged or was changed by hand."""
    try:
        text = path.read_bytes()
        made = Recommendation.model_validate_json(text)
    except (OSError, ValidationError):
        raise InvalidData(
            f"{path}: the file is damaged. Ask for the recommendation again.", code="results.damaged", path=path
        ) from None
    if problem := made.refuses(text):
        raise InvalidData(
            f"{path}: the file was changed after afina wrote it: {problem}. Restore the file, or ask for the "
            "recommendation again.",
            code="results.changed",
            path=path,
        )
    return made


def find_adapter(place: str | Path, method: str | None = None, seed: int | None = None) -> Path:
    """Return the adapter's directory: `place` itself, or a directory within the results in `place`.

    Args:
        place: An adapter's directory, or the output directory of a study or a recommendation.
        method: The method's name in the study. Default: the recommended method, or the only method that was trained. If
            the study has several sizes of the training split, the largest counts.
        seed: Default: the first seed of the study.

    Raises NotFound, UnknownName, InvalidData or InvalidStudy; the message lists the adapters that exist.
    """
    place = Path(place)
    directory = OutputDirectory(place)
    if not directory.holds_results:
        if place.is_dir() and (method is not None or seed is not None):
            option = "method" if method is not None else "seed"
            raise InvalidData(
                f"{place}: the directory has no results of a study, so `{option}` has nothing to choose from. "
                f"Remove `{option}`.",
                code="data.option-inapplicable",
                path=place,
                option=option,
            )
        check_there(place)
        return place
    records = directory.read()
    if directory.recommendation.is_file():
        made = read_recommendation(directory.recommendation)
        keys = tuple(one.key for one in made.contenders if one.key is not None)
        records = _first(records, keys)
        if method is None and seed is None:
            return place / _recommended(place, made, records)
        name = method or made.recommended
    else:
        keys = read_request(directory.study).keys
        records = _first(records, keys)
        asked = [one for one in records if one.key in keys]
        name = method or _only(place, asked or records)  # the last request may have no finished run
    return place / _of(place, records, keys, name, seed).adapter


def _first(records: Sequence[Record], keys: Sequence[str]) -> list[Record]:
    """Return the records with these keys in the keys' order, then the records that were made earlier."""
    order = {key: place for place, key in enumerate(keys)}
    return sorted(records, key=lambda one: order.get(one.key, len(order)))


def _recommended(place: Path, made: Recommendation, records: Sequence[Record]) -> str:
    if made.adapter is None:
        raise NotFound(
            f"{place}: the recommended {made.recommended} has no adapter. "
            f"Name another method with `method`: {_names(records)}.",
            code="adapter.missing",
            path=place,
            method=made.recommended,
        )
    return made.adapter


def _only(place: Path, records: Sequence[Record]) -> str:
    trained = [one for one in records if one.steps]
    names = {one.name for one in trained or records}
    if len(names) != 1:
        raise InvalidStudy(
            f"{place}: several adapters. Choose with `method`: {_names(records)}.", code="adapter.ambiguous", path=place
        )
    return names.pop()


def _of(place: Path, records: Sequence[Record], keys: Sequence[str], name: str, seed: int | None) -> Record:
    """Return the record of this name and seed; runs of the last request come before runs on earlier data."""
    named = [one for one in records if one.name == name]
    named.sort(key=lambda one: (one.key not in keys, -one.train_examples))
    if not named:
        raise UnknownName("method", name, {one.name for one in records}, str(place))
    found = next((one for one in named if seed is None or one.seed == seed), None)
    if found is None:
        seeds = ", ".join(map(str, sorted({one.seed for one in named})))
        raise NotFound(
            f"{place}: no adapter of {name} with `seed` {seed}. Available seeds: {seeds}.",
            code="adapter.missing",
            path=place,
            method=name,
            seed=seed,
        )
    return found


def _names(records: Sequence[Record]) -> str:
    return ", ".join(dict.fromkeys(one.name for one in records)) or "none"


Look = Callable[[Run], DataDigests | None]
"""Return the digests of a run's data as the data are now; None if they cannot change or this machine cannot tell."""


@dataclass
class RecordedRuns:
    """The runs of one task that have records in a locked output directory.

    If a task is read from files, a run's key covers the content of the files. Records of earlier versions of afina have
    keys without this content and are recognised by the digests of their splits. Data at other addresses are read only
    if a record of the run exists.
    """

    held: OutputLock
    look: Look
    _seen: dict[str, DataDigests | None] = field(default_factory=dict)

    def find(self, run: Run) -> Run:
        """Return the run as it is recorded, or as it is to be executed if there is no record.

        Raises the same errors as reading the data of the run.
        """
        if not reads_files(run.task, run.data.evaluation):
            found = self._record(run.key)
            digests = self._digests(run) if found else None
            # a run on other data is recorded under the same key
            return run.on(digests.data) if found and digests and not digests.are_of(found) else run
        seen = next(iter(self._seen.values()), None) or self._digests(run)
        if seen is None:
            return run
        now = run.on(seen.data)
        if self._record(now.key) or not (earlier := self._record(run.key)):
            return now
        digests = self._digests(run)
        return run if digests and digests.are_of(earlier) else now

    def to_tune(self, run: Run) -> Run:
        """Return the run whose setting is to be tuned, on the data as they are now."""
        earlier = [one for one in self.held.records if one.data_digest is None and _is_named(one, run)]
        if not earlier and not reads_files(run.task, run.data.evaluation):
            return run
        digests = self._digests(run)
        if digests is None or any(digests.are_of(one) for one in earlier):
            return run
        return run.on(digests.data)

    def of_other_data(self, runs: Iterable[Run]) -> list[Record]:
        """Return records of the same runs on earlier data; empty if one of `runs` is recorded on the current data."""
        runs = list(runs)
        if any(self._record(run.key) for run in runs):
            return []
        return [one for one in self.held.records if any(run.on(one.data_digest).key == one.key for run in runs)]

    def _record(self, key: str) -> Record | None:
        return next((one for one in self.held.records if one.key == key), None)

    def _digests(self, run: Run) -> DataDigests | None:
        how = f"{run.training.temperature}{run.data.model_dump_json()}"
        if how not in self._seen:
            self._seen[how] = self.look(run)
        return self._seen[how]


def _is_named(record: Record, run: Run) -> bool:
    return (record.name, record.method, record.task) == (run.title, run.method, run.task)
