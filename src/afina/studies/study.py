"""Study: many runs that one TOML file or preset describes. Runs that have a record are skipped.

Starts without torch: an executor carries out each run. If the study has a [tune] section, each method's settings are
chosen first (`tuning.py`). The module does not know reports.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar

from pydantic import ValidationError

from afina.errors import AfinaError, InvalidStudy, UnknownName
from afina.methods import METHODS, accepted, make
from afina.models import objectives
from afina.models.decoding import GREEDY, Decoding
from afina.models.objective import metric_for
from afina.repr_html import ReprCard
from afina.schema import Frozen, Sparing
from afina.studies import baselines, schedule, trials, tuning
from afina.studies.results import Failure, RecordedRuns, Results, StudyRequest
from afina.studies.runs import executors
from afina.studies.runs.executor import Executor
from afina.studies.runs.output_directory import OutputLock, check_name
from afina.studies.runs.run import MOST_SEED, Run
from afina.studies.runs.spec import Ask, Data, Training
from afina.studies.schedule import Watcher, other_data_note, watching
from afina.studies.study_file import check_asked, check_template, explain, override, read
from afina.studies.trials import Space, Tune, Tuned

Part = TypeVar("Part", bound=Frozen)


class Study(ReprCard, Sparing):
    """A comparison of methods on one task with one backbone.

    Attributes:
        name: The study's name, and the default name of its output directory.
        backbone, task: Addresses of the pretrained model and of the task.
        seeds: Seeds of the head, the order of texts and dropout. Every run is made with each seed.
        metric: The headline metric of tables, tuning and verdicts. None: the default of the task or of its kind.
        sizes: Numbers of training texts. Every run is made with each size, with as many steps as the largest size
            takes. A smaller set of texts is part of each larger set.
        ask: How the model is asked about a text.
        generate: How answers that are texts are generated.
        baselines: Also fit and measure baselines without a language model, which the report compares with the runs.
        tune: Choose each method's settings first, on a validation split cut from the training split.
        executor: Where runs are executed: `local` (this machine, the default), `ray` or `ray=ADDRESS` (a Ray cluster).
            No result depends on the executor.
        methods: A table for each run. `method` names the method (default: the table's own name). Other keys are
            hyperparameters of the method, and fields of [train] and [ask] that differ for this run. `search` is a table
            of the values that tuning may choose.
    """

    unwritten: ClassVar[frozenset[str]] = frozenset({"generate", "baselines", "executor"})

    name: str
    backbone: str
    task: str
    seeds: tuple[int, ...] = (0,)
    metric: str | None = None
    sizes: tuple[int, ...] = ()
    data: Data = Data()
    train: Training = Training()
    ask: Ask = Ask()
    generate: Decoding = GREEDY
    baselines: bool = False
    tune: Tune | None = None
    executor: str | None = None
    methods: dict[str, dict[str, Any]]

    def facts(self) -> dict[str, object]:
        """Return the facts that the repr shows."""
        return {
            "name": self.name,
            "backbone": self.backbone,
            "task": self.task,
            "methods": tuple(self.methods),
            "seeds": self.seeds,
        }

    @classmethod
    def load(cls, source: str | Path, overrides: str | Iterable[str] = ()) -> Self:
        """Read a study from a TOML file or a preset. Raises NotFound, UnknownName or InvalidStudy.

        Args:
            source: A path, or the name of a preset.
            overrides: Changes to single fields, such as `train.epochs=1`: a dotted key and a value.
        """
        content, where = read(str(source))
        for item in [overrides] if isinstance(overrides, str) else overrides:
            override(content, str(item))
        return cls.parse(content, where)

    @classmethod
    def parse(cls, content: Mapping[str, Any], where: str) -> Self:
        """Make a study of `content`, the fields of a study file; `where` begins the error messages.

        Raises UnknownName or InvalidStudy.
        """
        if not isinstance(content, Mapping) or not all(isinstance(key, str) for key in content):
            raise InvalidStudy(
                f"{where}: found {content!r:.80}. Expected a table of fields by name, such as methods.",
                code="study.malformed",
                where=where,
            )
        return cls(where, **content)

    def __init__(self, where: str = "study", /, **fields: Any) -> None:
        try:
            super().__init__(**fields)
        except ValidationError as error:
            raise explain(error, type(self), where) from None
        self._check(where)

    def _check(self, where: str) -> None:
        check_name(self.name, f"{where}: name")
        executors.check_executor(self.executor, f"{where}: executor")
        if not self.methods:
            raise InvalidStudy(
                f"{where}: no methods. Add a table such as [methods.lora]. Known methods: {', '.join(METHODS)}.",
                code="study.malformed",
                where=where,
                known=list(METHODS),
            )
        for name in self.methods:
            check_name(name, f"{where}: methods")
        if wrong := next((seed for seed in self.seeds if not 0 <= seed < MOST_SEED), None):
            raise InvalidStudy(
                f"{where}: seed {wrong}. Expected 0 or more, below 2**63.", code="study.value-invalid", where=where
            )
        if not self.seeds:
            raise InvalidStudy(
                f"{where}: no seeds. Give at least one, such as seeds = [0].", code="study.value-invalid", where=where
            )
        if len(set(self.seeds)) < len(self.seeds):
            again = next(seed for seed in self.seeds if self.seeds.count(seed) > 1)
            raise InvalidStudy(
                f"{where}: seed {again} is given more than once, which would repeat the same run. Give each seed once.",
                code="study.value-invalid",
                where=where,
                seed=again,
            )
        self._check_sizes(where)
        self.runs(where)
        if self.tune:
            self._check_budgets(where)
            self.spaces(where)
        elif searching := next((name for name, entry in self.methods.items() if "search" in entry), None):
            raise InvalidStudy(
                f"{where}: methods.{searching}.search has no effect without a [tune] section. "
                "Add a [tune] section, or remove search.",
                code="study.contradiction",
                where=where,
                keys=[f"methods.{searching}.search", "tune"],
            )

    def _check_sizes(self, where: str) -> None:
        if not self.sizes:
            return
        if min(self.sizes) < 1 or len(set(self.sizes)) < len(self.sizes):
            raise InvalidStudy(
                f"{where}: sizes = {list(self.sizes)}. Expected different numbers of texts, from 1 up.",
                code="study.value-invalid",
                where=where,
                found=self.sizes,
            )
        if self.data.train_examples is not None:
            raise InvalidStudy(
                f"{where}: data.train_examples and sizes both set the number of training texts. Remove one of them.",
                code="study.contradiction",
                where=where,
                keys=["data.train_examples", "sizes"],
            )

    def _check_budgets(self, where: str) -> None:
        for name, entry in self.methods.items():
            for key in ("epochs", "batch_size", "accumulate", "max_steps"):
                if key in entry:
                    raise InvalidStudy(
                        f"{where}, methods.{name}: {key} differs from the other methods, so a budget in steps would "
                        f"not be the same for all. Set train.{key} instead.",
                        code="study.contradiction",
                        where=where,
                        keys=[f"methods.{name}.{key}", f"train.{key}"],
                    )
        if self.data.validation is not None:
            raise InvalidStudy(
                f"{where}: data.validation cannot be combined with a [tune] section. Set tune.validation instead.",
                code="study.contradiction",
                where=where,
                keys=["data.validation", "tune"],
            )

    def spaces(self, where: str = "study") -> dict[str, tuple[Run, Space | None]]:
        """Return each run that is tuned with its search space, by the names in `methods`; None: nothing to tune."""
        found = {}
        for name, entry in self.methods.items():
            place = f"{where}, methods.{name}"
            run, search = self._run(name, self.seeds[0], place, max(self.sizes, default=None)), entry.get("search", {})
            if not isinstance(search, Mapping):
                raise InvalidStudy(
                    f"{place}.search = {search!r}: expected a table.",
                    code="study.value-invalid",
                    where=place,
                    found=search,
                )
            found[name] = (run, Space.of(run, search, place))
        return found

    def settle(self, chosen: Iterable[Tuned]) -> Self:
        """Return the study with the settings that tuning chose, for those methods that have a chosen setting."""
        settings = {one.name: one.setting for one in chosen if one.setting is not None}
        methods = {name: entry | settings[name] for name, entry in self.methods.items() if name in settings}
        return self.model_copy(update={"methods": methods})

    def runs(self, where: str = "study") -> list[Run]:
        """Return every run, with the settings in `methods`: by seed, then by size, then in the order of the methods."""
        return [
            self._run(name, seed, f"{where}, methods.{name}", size)
            for seed in self.seeds
            for size in self.sizes or (None,)
            for name in self.methods
        ]

    def _run(self, name: str, seed: int, where: str, size: int | None = None) -> Run:
        entry = {key: value for key, value in self.methods[name].items() if key != "search"}
        method = entry.pop("method", name)
        own = accepted(str(method), where)
        hyperparameters = {key: entry.pop(key) for key in list(entry) if key in own}
        made = make(str(method), hyperparameters, where)
        check_asked(made, entry, where)
        for key in entry:
            if key not in (*Training.model_fields, *Ask.model_fields):
                known = [*own, *Training.model_fields, *Ask.model_fields, "method", "search"]
                raise UnknownName("key", key, known, where)
        # a random head does not use the label words of the other methods
        shared = Ask(template=self.ask.template) if entry.get("head") == "random" else self.ask
        training, ask = _changed(self.train, entry, where), _changed(shared, entry, where)
        check_template(ask.template)
        return Run(
            backbone=self.backbone,
            task=self.task,
            method=method,
            hyperparameters=made.hyperparameters,
            data=self.data if size is None else self.data.model_copy(update={"train_examples": size}),
            training=training if size is None else training.as_long_as(max(self.sizes)),
            ask=ask,
            generate=self.generate,
            seed=seed,
            name="" if name == method else name,
            metric=self.metric,
        )

    def run(
        self,
        out: str | Path,
        watcher: Watcher | None = None,
        command: Sequence[str] = (),
        executor: Executor | None = None,
        *,
        fresh: bool = False,
    ) -> Results:
        """Execute every run whose record, adapter or predictions are missing in `out`.

        A record counts only if the data are the same now. If files of the task changed, the runs are new runs and stand
        beside the recorded ones. A run that fails is listed in `failed` of the results, and the other runs continue.

        Args:
            out: The output directory.
            watcher: Receives the progress. None: a notebook shows a progress display, and a script shows nothing.
                `Lines(print)` prints lines.
            command: The command line arguments that repeat the study, for the report.
            executor: None: the study's `executor`; by default each run in a process of its own on this machine.
            fresh: Execute all runs again; the new records replace the old ones.

        Raises:
            NotFound: `out` cannot be created, or the task or the backbone does not exist.
            Busy: Another process writes to `out`.
            InvalidData: Records in `out` are damaged, or the task cannot be read.
            AfinaError: Any other error that would end every run.
        """
        with Results.hold(out) as held, watching(watcher) as watcher, self._opened(executor, watcher) as executor:
            recorded = RecordedRuns(held, executor.look)
            self._check_data(recorded)
            if (fresh or not self._is_done(recorded)) and (warning := executor.check(self.runs()[0])):
                watcher.says(warning)
            tuned, failed = self._tune(recorded, executor, watcher, fresh=fresh)
            settled = self.settle(tuned) if self.tune else self
            runs = [recorded.find(run) for run in settled.runs()]
            _check_metric(runs, held)
            if changed := recorded.of_other_data(runs):
                watcher.says(other_data_note(changed, held.out))
            request = settled._request(runs, tuple(command))
            held.describe(held.directory.study, request.model_dump_json())
            so_far = Results(
                *(request.name, held.out, (), failed, request.command, tuned), task=request.task, data=request.data
            )
            if self.baselines:
                watcher.says("fitting baselines without a language model")
                largest = max(runs, key=lambda run: run.data.train_examples or 0)
                so_far = replace(so_far, baselines=baselines.measure(largest, held, fresh=fresh))
            return schedule.carry_out(runs, held, so_far, executor, watcher, fresh=fresh)

    def _opened(self, executor: Executor | None, watcher: Watcher) -> AbstractContextManager[Executor]:
        return nullcontext(executor) if executor else executors.opened(self.executor, says=watcher.says)

    def _check_data(self, recorded: RecordedRuns) -> None:
        """Read the data as they are now; if that fails, the error also says how to read the earlier results."""
        try:
            recorded.find(self.runs()[0])
        except AfinaError as error:
            if recorded.held.records:
                out = recorded.held.out
                error.args = (f"{error} The results in {out} stay readable: afina show {shlex.quote(str(out))}",)
            raise

    def _is_done(self, recorded: RecordedRuns) -> bool:
        """Return whether all runs are recorded, so the backbone and data from the network are not needed."""
        settled = self.settle(trials.read_tuned(recorded.held.out)) if self.tune else self
        done = (recorded.held.has(recorded.find(run).key) for run in settled.runs())
        return len(settled.methods) == len(self.methods) and all(done)

    def _request(self, runs: Sequence[Run], command: tuple[str, ...]) -> StudyRequest:
        keys = tuple(run.key for run in runs)
        study = self.model_dump(mode="json")
        return StudyRequest(name=self.name, task=self.task, data=self.data, keys=keys, study=study, command=command)

    def _tune(
        self, recorded: RecordedRuns, executor: Executor, watcher: Watcher, *, fresh: bool
    ) -> tuple[tuple[Tuned, ...], tuple[Failure, ...]]:
        if self.tune is None:
            return (), ()
        out = recorded.held.out
        found: dict[str, Tuned] = {}
        failed: list[Failure] = []

        def keep(so_far: Tuned) -> None:
            found[so_far.name] = so_far
            trials.write_tuned(out, found.values())

        for asked, space in self.spaces().values():
            run = recorded.to_tune(asked)
            try:
                keep(tuning.tune(run, space, self.tune, out, executor, watcher, keep, fresh=fresh))
            except AfinaError as error:
                watcher.failed(run, str(error))
                failed.append(Failure(run.title, run.method, run.seed, str(error)))
                if run.title in found:  # a choice made with part of the budget would not be fair
                    keep(found[run.title].model_copy(update={"setting": None}))
        return tuple(found.values()), tuple(failed)


def _changed(part: Part, entry: Mapping[str, Any], where: str) -> Part:
    """Return a section of the study, with the fields that the method's table overrides."""
    kind = type(part)
    own = {key: value for key, value in entry.items() if key in kind.model_fields}
    try:
        return kind.model_validate(part.model_dump() | own)
    except ValidationError as error:
        raise explain(error, kind, where) from None


def _check_metric(runs: Iterable[Run], held: OutputLock) -> None:
    """Raise InvalidStudy if the study asks for a metric that a recorded run lacks."""
    asked = {run.key: run.metric for run in runs}
    for one in held.records:
        if (metric := asked.get(one.key)) is None:
            continue
        metric_for(objectives.make(one.label_names, one.objective), metric)
        if metric not in one.metrics:  # of an earlier version
            raise InvalidStudy(
                f"`metric` {metric}: the record of {one.name} lacks this metric. Train again with `fresh`.",
                code="metric.not-recorded",
                metric=metric,
                run=one.name,
            )
