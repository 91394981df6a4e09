"""The results of a study or of a recommendation, read from its output directory.

`RecordedRuns` finds the runs that have a record made from the present content of the data.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from afina import repr_html
from afina.data.addresses import reads_files
from afina.data.reading_options import ReadingOptions
from afina.errors import NotFound, UnknownName
from afina.models.backbone_spec import backbone_revision, files_digest
from afina.repr_html import ReprCard, figure
from afina.stats.metrics import METRICS
from afina.studies import adapter_paths, baselines, problems, trials
from afina.studies.adapter_paths import AdapterChoice
from afina.studies.backbones import backbone_names, on_backbone
from afina.studies.baselines import MeasuredBaseline
from afina.studies.choosing.recommendation import Recommendation
from afina.studies.descriptions import Failure, StudyRequest, read_recommendation, read_request
from afina.studies.published import Published
from afina.studies.runs import output_directory
from afina.studies.runs.inputs import TaskFacts, digests_beside
from afina.studies.runs.output_directory import OutputDirectory, OutputLock
from afina.studies.runs.record import Record, Result
from afina.studies.runs.run import Run
from afina.studies.trials import Tuned


@dataclass(frozen=True, repr=False)
class Results(ReprCard):
    """The results of a study or a recommendation: finished runs in the study's order, and failed runs.

    Attributes:
        command: The command line arguments that repeat the study; empty if unknown.
        tuned: The settings that tuning tried and chose for each method; empty if the study does not tune.
        recommendation: The recommendation, or None for a study. The `results` of a recommendation are the runs of the
            methods that it compares.
        baselines: The measured baselines without a language model; empty if the study does not ask for baselines.
        waiting: The number of runs that have neither a result nor an error.
        backbones: The addresses of the backbones of the study.
        notes: Sentences about what the study did differently from the request.
        published: Figures that others have published for methods of the study; None if there are none.
    """

    name: str
    out: Path
    results: tuple[Result, ...] = ()
    failed: tuple[Failure, ...] = ()
    command: tuple[str, ...] = ()
    tuned: tuple[Tuned, ...] = ()
    recommendation: Recommendation | None = None
    task: str = ""
    data: ReadingOptions = field(default_factory=ReadingOptions)
    waiting: int = 0
    baselines: tuple[MeasuredBaseline, ...] = ()
    backbones: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    published: Published | None = None

    @property
    def records(self) -> tuple[Record, ...]:
        return tuple(result.record for result in self.results)

    def facts(self) -> dict[str, object]:
        names = backbone_names(self.backbones) if self.backbones[1:] else {}
        return {
            "name": self.name,
            "directory": self.out,
            "task": self.task,
            "recommended": self.recommendation.recommended if self.recommendation else None,
            "results": tuple(
                f"{on_backbone(one.name, names[one.backbone]) if one.backbone in names else one.name}, "
                f"seed {one.seed}: {one.metric} "
                f"{figure(one.metrics[one.metric])}"
                for one in self.records
            ),
            "failed": tuple(f"{one.named(names).name}, seed {one.seed}" for one in self.failed),
        }

    def _repr_html_(self) -> str:
        return repr_html.results_as_html(self) or super()._repr_html_()

    def adapter(self, name: str | None = None, seed: int | None = None, backbone: str | None = None) -> Path:
        """Return the directory of an adapter, for `Predictor.load`. Raises UnknownName, NotFound or InvalidStudy.

        If several recorded runs match, a run in these `Results` is preferred to the run that was recorded last.

        Args:
            name: The name of the run, such as `lora`. By default, the run is that of the recommended method, or of the
                only trained method.
            seed: The seed of the run. By default, `seed` is the first seed with which a run of this name was executed.
            backbone: The address of the run's backbone. Default: the only backbone of runs with this name.
        """
        return self.find_adapter(name, seed, backbone).path

    def find_adapter(
        self, name: str | None = None, seed: int | None = None, backbone: str | None = None
    ) -> AdapterChoice:
        """Return an `AdapterChoice`: the adapter's directory as `path`, and a `note` if other recorded runs match."""
        own = {one.key for one in self.records}
        records = [*(one for one in OutputDirectory(self.out).read() if one.key not in own), *self.records]
        if backbone is not None and records and backbone not in {one.backbone for one in records}:
            raise UnknownName("backbone", backbone, [one.backbone for one in records], str(self.out))
        return adapter_paths.choose(self.out, records, self.recommendation or self.records, name, seed, backbone)

    @staticmethod
    def hold(out: str | Path) -> AbstractContextManager[OutputLock]:
        """Return a context manager that locks the output directory `out` for writing, like `lock_output`."""
        return output_directory.lock_output(Path(out))

    @classmethod
    def read(cls, out: str | Path) -> Results:
        """Read the results of a study (finished or not) or of a recommendation from its output directory `out`.

        Raises NotFound if `out` holds no finished run, and InvalidData if a file is damaged or was changed by hand.
        """
        directory = OutputDirectory(Path(out))
        if not directory.holds_results:
            raise problems.RESULTS_MISSING(file=directory.records.name, path=out)
        held = OutputLock(directory, directory.read())
        if directory.recommendation.is_file():
            return of_recommendation(held, read_recommendation(directory.recommendation))
        return cls._of_study(held, read_request(directory.study))

    @classmethod
    def _of_study(cls, held: OutputLock, request: StudyRequest) -> Results:
        metric = request.study.get("metric")
        finished = tuple(measured_in(held.result(one), metric) for one in request.records(held.records))
        recorded = {one.record.key for one in finished}  # also of a run that failed when it was executed again
        failed = tuple(one for one in request.failed if one.key not in recorded)
        return cls.of_request(
            held.out,
            request,
            results=finished,
            failed=failed,
            waiting=len(request.keys) - len(finished) - sum(one.key is not None for one in failed),
            tuned=trials.read_tuned(held.out) if request.study.get("tune") else (),
            baselines=baselines.read(held.directory) if request.study.get("baselines") else (),
        )

    @classmethod
    def of_request(cls, out: Path, request: StudyRequest, **measured: Any) -> Results:
        """Return the results of a study with its request's name, task and notes, and what was `measured` so far."""
        only = request.study.get("backbone")
        return cls(
            name=request.name,
            out=out,
            command=request.command,
            task=request.task,
            data=request.data,
            backbones=tuple(request.study.get("backbones", ())) if only is None else (only,),
            notes=request.notes,
            published=request.published,
            **measured,
        )


def of_recommendation(held: OutputLock, made: Recommendation) -> Results:
    """Return the results of the methods that a recommendation compares, in the recommendation's order."""
    by_key = {one.key: one for one in held.records}
    keys = dict.fromkeys(one.key for one in made.contenders)
    return Results(
        name=made.name,
        out=held.out,
        results=tuple(held.result(by_key[key]) for key in keys if key in by_key),
        command=made.command,
        recommendation=made,
        task=made.task,
        data=made.data,
    )


def measured_in(result: Result, metric: str | None) -> Result:
    """Return the result with `metric` as its headline metric, if the record has its per-example values."""
    there = result.record.metrics
    if metric in (None, result.record.metric) or metric not in there or metric not in METRICS:
        return result
    if METRICS[metric].values is None:
        return result
    return replace(result, record=result.record.model_copy(update={"metric": metric}))


Look = Callable[[Run], TaskFacts | None]
"""A function that returns facts about the present content of a run's data.

A `Look` returns None if the run's data cannot change, or if this machine cannot read the data.
"""


@dataclass
class RecordedRuns:
    """The runs of one task that have records in a locked output directory.

    The key of a run depends on the content of files of the task and the backbone. Data at other addresses, such as the
    Hub, are read only if the run has a record.
    """

    held: OutputLock
    look: Look
    _seen: dict[str, TaskFacts | None] = field(default_factory=dict)
    _files: dict[str, str | None] = field(default_factory=dict)
    _beside: dict[tuple[str | None, str | None], dict[str, str | None]] = field(default_factory=dict)

    def find(self, run: Run) -> Run:
        """Return the run with the digests of the backbone's files and of the present data, on which its key depends.

        If the task is not in local files, the digest of the data is set only if the data have changed since the run was
        recorded. Raises the same errors as reading the data of the run.
        """
        run = self._on_files(run)
        if not reads_files(run.task, run.data.evaluation):
            found = self._record(run.key)
            facts = self._facts(run) if found else None
            if found is None or facts is None or facts.are_of(found):
                return run
            return run.with_digests(data_digest=facts.data_digest)  # a run on other data has the same key
        seen = next(iter(self._seen.values()), None) or self._facts(run)
        return run if seen is None else run.with_digests(data_digest=seen.data_digest)

    def to_tune(self, run: Run) -> Run:
        run = self._on_files(run)
        recorded = [
            record
            for record in self.held.records
            if record.data_digest is None
            and (record.name, record.method, record.task) == (run.title, run.method, run.task)
        ]
        if not recorded and not reads_files(run.task, run.data.evaluation):
            return run
        facts = self._facts(run)
        if facts is None or any(facts.are_of(one) for one in recorded):
            return run
        return run.with_digests(data_digest=facts.data_digest)

    def of_other_data(self, runs: Iterable[Run]) -> list[Record]:
        """Return the records of the same runs on earlier data; empty if one of `runs` has a record on current data."""
        runs = list(runs)
        if any(self._record(run.key) for run in runs):
            return []
        return [
            one
            for one in self.held.records
            if any(run.with_digests(data_digest=one.data_digest).key == one.key for run in runs)
        ]

    def _on_files(self, run: Run) -> Run:
        files = (run.data.unlabelled, run.data.without)
        if files not in self._beside:
            self._beside[files] = digests_beside(run.data)
        run = run.with_digests(**self._beside[files])
        if run.asks_endpoint:
            return run
        if run.backbone not in self._files:
            self._files[run.backbone] = self._files_of(run.backbone)
        return run.with_digests(backbone_files=self._files[run.backbone])

    def _files_of(self, address: str) -> str | None:
        """Return the digest of a backbone's files; for a removed directory, the digest that was recorded last."""
        recorded = [one.backbone_files for one in self.held.records if one.backbone == address and one.backbone_files]
        try:
            found = files_digest(address)
            gone = found is None and bool(recorded) and backbone_revision(address) is None
        except NotFound:
            if not recorded:
                raise
            gone = True
        return recorded[-1] if gone else found

    def _record(self, key: str) -> Record | None:
        return next((one for one in self.held.records if one.key == key), None)

    def _facts(self, run: Run) -> TaskFacts | None:
        how = f"{run.training.temperature}{run.data}"
        if how not in self._seen:
            self._seen[how] = self.look(run)
        return self._seen[how]
