"""The class `Study`: the runs that a TOML file or a preset describes; recorded runs are not executed again.

An executor executes each run, so the module can be imported without torch. If the study has a section [tune], each
method's hyperparameters are tuned before the runs (`tuning.py`).
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Self, TypeVar

from pydantic import Strict, ValidationError

from afina.data.reading_options import ReadingOptions
from afina.errors import AfinaError, UnknownName
from afina.methods import METHODS, accepted, asks_endpoint, make
from afina.models import objectives
from afina.models.backbone_spec import FLOAT
from afina.models.decoding import GREEDY, Decoding
from afina.models.objective import metric_for
from afina.repr_html import ReprCard
from afina.schema import Frozen
from afina.sentence import Sentence
from afina.studies import baselines, problems, schedule, trials, tuning
from afina.studies.backbones import (
    BACKBONES,
    BY_BACKBONE,
    backbones_of,
    check_backbones,
    check_family,
    narrow,
    on_backbone,
    settled_tables,
    table_on,
)
from afina.studies.baselines import MeasuredBaseline
from afina.studies.descriptions import Failure, StudyRequest
from afina.studies.event_file import EventFile
from afina.studies.executors import by_name
from afina.studies.executors.executor import Executor
from afina.studies.published import Published
from afina.studies.results import RecordedRuns, Results
from afina.studies.runs.endpoint_run import Inquiry, endpoint_of, repriced
from afina.studies.runs.inputs import may_start_from_words, usual_training
from afina.studies.runs.output_directory import OutputLock, check_name
from afina.studies.runs.run import MOST_SEED, Run
from afina.studies.runs.spec import Ask, RunSpec, Teacher, with_address
from afina.studies.schedule import other_data_note
from afina.studies.study_file import check_asked, check_no_consent, check_template, checked, explain, override, read
from afina.studies.teachers import TEACHER, Arm, found_runs, named_teacher, of_adapter, teachers_first
from afina.studies.trials import Space, Tune, Tuned, candidate_run
from afina.studies.watcher import Watcher, WithBackbones, watching
from afina.training.settings import Training

Part = TypeVar("Part", bound=Frozen)

TWO_SEEDS = (
    "Two seeds say little about other seeds: intervals over two seeds are wide, and few verdicts will be significant. "
    "With one seed, intervals are narrower, because they are about other texts only. Three seeds or more say both."
)

WITHOUT = "without"
"""The key of a method's table in a study file that names rows to leave out, in place of `data.without`."""

BEFORE = "-before-tuning-students"
"""The end of the name of a teacher's run that was trained without the validation texts on which students are tuned."""


class Study(ReprCard, Frozen):
    """A comparison of methods on one task, with one backbone or several.

    Attributes:
        name: The study's name, and the default name of its output directory.
        backbone: The address of the pretrained model.
        backbones: The addresses of several pretrained models, given instead of `backbone`. By default, every method
            runs on each of the models in `backbones`.
        task: The address of the task, or a `Task` of `Task.load` or `Task.of`.
        seeds: The random seeds of the head, the order of texts and dropout. Every run is executed with each seed.
        metric: The headline metric of tables, tuning and comparisons. If `metric` is not given, the headline metric is
            the default metric of the task or of its kind.
        sizes: Numbers of training texts. Every run is executed with each size, with as many steps as the largest size
            takes. The texts of a smaller size are part of the texts of each larger size. All sizes above the training
            split are one size with all texts of the split.
        ask: The prompt template, the label words, and whether the head starts from label words.
        generate: The decoding with which target texts are generated, such as greedy search.
        baselines: Whether baselines without a language model are also fitted and measured. The report compares the
            methods with these baselines. Names, such as ["crf"] for token classification, add baselines that take
            minutes.
        tune: The options of tuning each method's hyperparameters on a validation split cut from the training split.
            None: hyperparameters are not tuned.
        published: Figures that others have published for methods of the study, which the report shows beside the
            study's own. None: there are no such figures.
        executor: The machines that execute the runs: `local` (this machine, the default), `ray` or `ray=ADDRESS` (a
            Ray cluster). No result depends on the executor.
        methods: A table for each method of the study. The key `method` names the method; its default is the name of
            the table. The key `teacher` names another table, or the directory of an adapter, from whose outputs the
            method learns. The key `search` is a table of the values that tuning may choose. The key `backbones` lists
            the study's backbones that the method runs on (default: all). A table `by_backbone.ADDRESS` has settings
            that differ on one backbone. All other keys of a method's table are hyperparameters of the method, and
            fields of [train] and [ask] that differ for this method.
    """

    name: str
    backbone: str | None = None
    backbones: tuple[str, ...] = ()
    task: str
    seeds: tuple[Annotated[int, Strict()], ...] = (0,)
    metric: str | None = None
    sizes: tuple[int, ...] = ()
    data: ReadingOptions = ReadingOptions()
    train: Training = Training()
    ask: Ask = Ask()
    generate: Decoding = GREEDY
    baselines: Annotated[bool, Strict()] | tuple[str, ...] = False
    tune: Tune | None = None
    published: Published | None = None
    executor: str | None = None
    methods: dict[str, dict[str, Any]]

    def facts(self) -> dict[str, object]:
        return {
            "name": self.name,
            "backbone": self.backbone,
            "backbones": self.backbones,
            "task": self.task,
            "methods": tuple(self.methods),
            "seeds": self.seeds,
        }

    @property
    def addresses(self) -> tuple[str, ...]:
        return self.backbones if self.backbone is None else (self.backbone,)

    @property
    def _endpoints(self) -> list[str]:
        return [name for name, entry in self.methods.items() if asks_endpoint(str(entry.get("method", name)))]

    @classmethod
    def load(cls, source: str | Path, overrides: str | Iterable[str] = ()) -> Self:
        """Read a study from a TOML file or a preset. Raises NotFound, UnknownName or InvalidStudy.

        Args:
            source: The path of a study file, or the name of a preset.
            overrides: Changes to single fields, such as `train.epochs=1`: a dotted key and a value. If an override
                shortens `backbones`, the settings for the removed backbones are removed from the tables of methods.
        """
        content, where = read(str(source))
        before = content.get(BACKBONES)
        override(content, [overrides] if isinstance(overrides, str) else map(str, overrides))
        narrow(content, before)
        return cls.parse(content, where)

    @classmethod
    def parse(cls, content: Mapping[str, Any], where: str) -> Self:
        """Return the study with the fields `content` of a study file; error messages begin with `where`.

        Raises UnknownName or InvalidStudy.
        """
        if not isinstance(content, Mapping) or not all(isinstance(key, str) for key in content):
            raise problems.STUDY_NOT_TABLE(found=content, where=where)
        return cls(where, **content)

    def __init__(self, where: str = "study", /, **fields: Any) -> None:
        check_no_consent(fields, where)
        try:
            super().__init__(**with_address(fields))
        except ValidationError as error:
            raise explain(error, type(self), where) from None
        self._check(where)

    def _check(self, where: str) -> None:
        check_name(self.name, f"{where}: name")
        by_name.check_executor(self.executor, f"{where}: executor")
        needed = len(self._endpoints) < len(self.methods) or not self.methods
        check_backbones(self.backbone, self.backbones, where, needed=needed)
        if not self.methods:
            raise problems.NO_METHODS(where=where, known=list(METHODS))
        for name in self.methods:
            check_name(name, f"{where}: methods")
        if self.published:
            self.published.check(self.methods, where)
        _check_seeds(self.seeds, where)
        _check_sizes(self.sizes, self.data.train_examples, where)
        runs = self.runs(where)
        _check_prices([run for run in runs if run.asks_endpoint], where)
        if self.data.unlabelled is not None and all(run.teacher is None for run in runs):
            other = " or another method of the study" if len(self.methods) > 1 else ""
            raise problems.UNLABELLED_WITHOUT_TEACHER(where=where, _or_method=other)
        if self.tune:
            _check_budgets(self.methods, self.data.validation, where)
            self.spaces(where)
        elif searching := next((name for name, entry in self.methods.items() if "search" in entry), None):
            raise problems.SEARCH_WITHOUT_TUNE(
                method=searching, where=where, keys=[f"methods.{searching}.search", "tune"]
            )

    def spaces(self, where: str = "study") -> dict[str, tuple[Run, Space | None]]:
        """Return the runs to tune by name (`NAME on BACKBONE` for several), each with its search space, if any."""
        found = {}
        for backbone, name in self._arms(where):
            if backbone is None:
                continue
            place, search = f"{where}, methods.{name}", self.methods[name].get("search", {})
            run = self._run(name, backbone, self.seeds[0], place, max(self.sizes, default=None))
            if not isinstance(search, Mapping):
                raise problems.FORM_WRONG(_place=f"{place}.search", _expected="a table", where=place, found=search)
            found[on_backbone(name, backbone) if self.backbones[1:] else name] = (run, Space.of(run, search, place))
        return found

    def settle(self, chosen: Iterable[Tuned]) -> Self:
        """Return the study with the tuned settings, without the methods that have none."""
        settings = {(one.name, one.backbone): one.setting for one in chosen if one.setting is not None}
        settled = settled_tables(self.methods, settings, self.addresses)
        settled |= {name: self.methods[name] for name in self._endpoints}  # an endpoint has nothing to tune
        methods = {name: settled[name] for name in self.methods if name in settled}
        published = self.published.of(methods) if self.published else None
        return self.model_copy(update={"methods": methods, "published": published})

    def runs(self, where: str = "study") -> list[Run]:
        """Return every run of the study, ordered by seed, then size, then backbone, then method.

        A method that asks an endpoint has one run for all seeds and sizes that do not change its prompts.
        """
        arms = self._arms(where)
        made = [
            self._run(name, backbone, seed, f"{where}, methods.{name}", size)
            for seed in self.seeds
            for size in self.sizes or (None,)
            for backbone, name in arms
        ]
        return [*{(run.title, run.key): run for run in made}.values()]

    def _arms(self, where: str) -> list[tuple[str | None, str]]:
        """Return pairs (backbone, name in `methods`) by backbone; methods that ask an endpoint come last, with None."""
        known, endpoints = self.addresses, self._endpoints
        asked = {
            name: backbones_of(one, known, f"{where}, methods.{name}")
            for name, one in self.methods.items()
            if name not in endpoints
        }
        if unused := [address for address in known if not any(address in each for each in asked.values())]:
            why = "" if asked else ", because every method asks an endpoint"
            raise problems.BACKBONE_UNUSED(backbone=unused[0], _why=why, where=where, keys=[BACKBONES])
        arms = [(address, name) for address in known for name in asked if address in asked[name]]
        return [*arms, *((None, name) for name in endpoints)]

    def _run(
        self,
        name: str,
        backbone: str | None,
        seed: int,
        where: str,
        size: int | None = None,
        students: tuple[Arm, ...] = (),
    ) -> Run:
        """Return a run of the study; `students` are the tables that learn from it, each from the table after it."""
        if backbone is None or name in self._endpoints:
            return self._run_of_endpoint(name, seed, where, size)
        entry = table_on(self.methods[name], backbone, where)
        entry.pop("search", None)
        taught, without = entry.pop(TEACHER, None), entry.pop(WITHOUT, self.data.without)
        teacher = None if taught is None else self._teacher(taught, (name, backbone), seed, where, size, students)
        method = entry.pop("method", name)
        own = accepted(str(method), where)
        hyperparameters = {key: entry.pop(key) for key in list(entry) if key in own}
        made = make(str(method), hyperparameters, where)
        check_asked(made, entry, where)
        for key in entry:
            if key not in (*Training.model_fields, *Ask.model_fields):
                known = [*own, *Training.model_fields, *Ask.model_fields, "method", "search", TEACHER]
                known += [WITHOUT, BACKBONES, BY_BACKBONE]
                raise UnknownName("key", key, known, where)
        # a random head does not use the label words of the other methods
        shared = Ask(template=self.ask.template) if entry.get("head") == "random" else self.ask
        training, ask = _changed(self.train, entry, where), _changed(shared, entry, where)
        check_template(ask.template)
        data = checked(ReadingOptions, self.data.given | {WITHOUT: without}, where)
        data = data if teacher is not None else replace(data, unlabelled=None)
        training = usual_training(training, made, backbone)
        # a student takes its epochs over the texts without labels too, and a training on pairs has no epochs
        if size is not None and teacher is None and made.pairs is None:
            training = training.as_long_as(max(self.sizes))
        return Run(
            backbone=backbone,
            task=self.task,
            method=method,
            hyperparameters=made.hyperparameters,
            data=data if size is None else replace(data, train_examples=size),
            training=training,
            ask=ask,
            generate=self.generate,
            seed=seed,
            name="" if name == method else name,
            metric=self.metric,
            teacher=teacher,
        )

    def _teacher(
        self, asked: object, own: Arm, seed: int, where: str, size: int | None, students: tuple[Arm, ...]
    ) -> Teacher:
        """Return the teacher that the table of `own` names. Raises InvalidStudy for teachers in a circle."""
        found = named_teacher(asked, own, self.methods, self.addresses, where)
        if isinstance(found, Path):
            return of_adapter(found)
        if found in (chain := (*students, own)):
            names = " learns from ".join(on_backbone(*arm) for arm in (*chain[chain.index(found) :], found))
            raise problems.TEACHER_CIRCLE(where=where, found=asked, method=own[0], _circle=names)
        name, backbone = found
        made = self._run(name, backbone, seed, where, size, chain)
        if not make(made.method, made.hyperparameters).has_adapter:
            raise problems.TEACHER_WITHOUT_ADAPTER(where=where, found=asked, method=made.method)
        return Teacher(run=made.key)

    def _run_of_endpoint(self, name: str, seed: int, where: str, size: int | None) -> Run:
        entry = dict(self.methods[name])
        method = str(entry.pop("method", name))
        own = accepted(method, where)
        made = make(method, {key: entry.pop(key) for key in list(entry) if key in own}, where)
        for key in entry:
            if key in (*Training.model_fields, "head", "offset", "search", BACKBONES, BY_BACKBONE):
                raise problems.KEY_OF_ENDPOINT(method=method, key=key, where=where, keys=[f"methods.{name}.{key}"])
            if key not in ("template", "words"):
                raise UnknownName("key", key, [*own, "template", "words", "method"], where)
        ask = _changed(Ask(template=self.ask.template, words=self.ask.words), entry, where)
        check_template(ask.template)
        if size is not None and not made.reads_training_texts:
            size = max(self.sizes)
        return Run(
            task=self.task,
            method=method,
            hyperparameters=made.hyperparameters,
            data=self.data if size is None else replace(self.data, train_examples=size),
            ask=ask,
            seed=seed if made.depends_on_seed else self.seeds[0],
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
        send_texts: bool = False,
    ) -> Results:
        """Execute every run of the study whose record, adapter or predictions are missing in `out`.

        A recorded run is skipped only if its data have not changed. If files of the task have changed, new runs are
        recorded beside the earlier runs. A run that fails is listed in `failed` of the results; other runs continue.

        Args:
            out: The output directory.
            watcher: The receiver of the progress. If `watcher` is None, a notebook shows a progress display, and a
                script shows nothing. `Lines(print)` prints lines.
            command: The command line arguments that repeat the study, for the report.
            executor: The executor of the runs; None means the executor that the study's field `executor` names.
            fresh: Whether all runs are executed again; the new records replace the old records.
            send_texts: Whether texts may be sent to the endpoints that methods of the study ask. Kept answers need no
                permission.

        Raises:
            Refused: Texts would be sent to an endpoint, and `send_texts` is not set.
            NotFound: `out` cannot be created, or the task or the backbone does not exist.
            Busy: Another process writes to `out`.
            InvalidData: Records in `out` are damaged, or the task cannot be read.
            AfinaError: Any other error that would end every run.
        """
        with Results.hold(out) as held, watching(watcher) as watcher, self._opened(executor, watcher) as executor:
            watcher = EventFile(held.directory.events, WithBackbones.of(watcher, self.addresses), anew=False)
            recorded = RecordedRuns(held, executor.look)
            self._check_data(recorded)
            study = self._checked(recorded, executor, watcher, fresh=fresh, send_texts=send_texts)
            tuned, failed = study._tune(recorded, executor, watcher, fresh=fresh)
            settled = study.settle(tuned) if study.tune else study
            runs = [
                run.model_copy(update={"send_texts": send_texts and run.asks_endpoint})
                for run in found_runs(settled.runs(), recorded.find)
            ]
            _reprice([run for run in runs if run.asks_endpoint], held, watcher)
            notes = (*_sizes_notes(self.sizes, study.sizes), *_notes(runs, self.seeds))
            for note in (*notes, *([TWO_SEEDS] if len(self.seeds) == 2 else [])):
                watcher.says(note)
            _check_metric(runs, held)
            if changed := recorded.of_other_data(runs):
                watcher.says(other_data_note(changed, held.out))
            request = settled._request(runs, tuple(command), notes)
            describe = partial(_describe, held, request)
            describe(failed)
            so_far = Results.of_request(held.out, request, failed=failed, tuned=tuned)
            if self.baselines:
                so_far = replace(so_far, baselines=self._measured_baselines(runs, held, watcher, fresh=fresh))
            return schedule.Schedule(runs, held, so_far, executor, watcher, describe).carry_out(fresh=fresh)

    def _measured_baselines(
        self, runs: Sequence[Run], held: OutputLock, watcher: Watcher, *, fresh: bool
    ) -> tuple[MeasuredBaseline, ...]:
        watcher.says("fitting baselines without a language model")
        largest = max(runs, key=lambda run: run.data.train_examples or 0)
        slow = () if isinstance(self.baselines, bool) else self.baselines
        return baselines.measure(largest, held, slow, fresh=fresh)

    def _opened(self, executor: Executor | None, watcher: Watcher) -> AbstractContextManager[Executor]:
        return nullcontext(executor) if executor else closing(by_name.make(self.executor, says=watcher.says))

    def _check_data(self, recorded: RecordedRuns) -> None:
        """Check that the present data can be read; otherwise, say how to show the earlier results."""
        try:
            recorded.find(self.runs()[0])
        except AfinaError as error:
            if recorded.held.records:
                out = recorded.held.out
                error.advising(f" The results in {out} stay readable: afina show {shlex.quote(str(out))}")
            raise

    def _check_runs(self, executor: Executor, watcher: Watcher) -> None:
        """Check the task and each backbone by one of its runs, and that no run needs label words on an encoder."""
        first: dict[str, Run] = {}
        runs = self.runs()
        opened, alone = [run for run in runs if not run.asks_endpoint], len(self.addresses) == 1
        for run in opened:
            check_family(run, alone=alone)
        for products in dict.fromkeys(run.training.products for run in runs):
            executor.check_products(products)
        for run in sorted(runs, key=lambda run: (not may_start_from_words(run), run.teacher is None)):
            first.setdefault(run.backbone, run)
        if said := dict.fromkeys(line for run in first.values() for line in executor.check(run)):
            watcher.says(Sentence.joined(said, "\n"))
        for run in opened:  # the check of a backbone of the Hub has fetched its configuration
            check_family(run, alone=alone)

    def _checked(
        self, recorded: RecordedRuns, executor: Executor, watcher: Watcher, *, fresh: bool, send_texts: bool
    ) -> Self:
        """Check the runs that are to be executed; return the study with `sizes` limited to the training split."""
        study = self._within_the_data(executor)
        if not fresh and study._is_done(recorded):
            return study
        study._check_runs(executor, watcher)
        study = study._within_the_data(executor)  # a download may have been missing before
        study._check_sending(recorded, watcher, fresh=fresh, send_texts=send_texts)
        return study

    def _check_sending(self, recorded: RecordedRuns, watcher: Watcher, *, fresh: bool, send_texts: bool) -> None:
        """Say what will be sent, before any run begins. Raises Refused without `send_texts`, or NotFound."""
        for run in self.runs():
            if run.asks_endpoint and (fresh or not recorded.held.has(recorded.find(run).key)):
                allowed = run.model_copy(update={"send_texts": send_texts})
                if told := Inquiry.of(allowed, recorded.held.out).check_permission():
                    watcher.says(told)

    def _is_done(self, recorded: RecordedRuns) -> bool:
        """Return whether all runs are recorded, so that no backbone or data have to be downloaded."""
        tuned = trials.read_tuned(recorded.held.out)
        settled = self.settle(tuned) if self.tune else self
        runs = found_runs(settled.runs(), recorded.find) if settled.methods else []
        done = (recorded.held.has(run.key) for run in runs)
        return len(settled.methods) == len(self.methods) and all(done)

    def _within_the_data(self, executor: Executor) -> Self:
        """Return the study with each of its `sizes` limited to the training split, if its length is known."""
        largest = max(self.sizes, default=None)
        there = executor.count_texts(self.runs()[0]) if largest is not None else None
        if largest is None or there is None or largest <= there:
            return self
        return self.model_copy(update={"sizes": tuple(dict.fromkeys(min(size, there) for size in self.sizes))})

    def _request(self, runs: Sequence[Run], command: tuple[str, ...], notes: tuple[str, ...]) -> StudyRequest:
        return StudyRequest(
            name=self.name,
            task=self.task,
            data=self.data,
            keys=tuple(run.key for run in runs),
            names=tuple(run.title for run in runs),
            notes=notes,
            published=self.published,
            study=self.model_dump(mode="json") | {"train": self.train.stated},
            command=command,
        )

    def _tune(
        self, recorded: RecordedRuns, executor: Executor, watcher: Watcher, *, fresh: bool
    ) -> tuple[tuple[Tuned, ...], tuple[Failure, ...]]:
        if self.tune is None:
            return (), ()
        out, several = recorded.held.out, len(self.addresses) > 1
        found: dict[tuple[str, str | None], Tuned] = {}
        failed: list[Failure] = []

        def keep(on: str | None, so_far: Tuned) -> None:
            found[so_far.name, on] = so_far.on(on)
            trials.write_tuned(out, found.values())

        spaces = [*self.spaces().values()]
        teachers = {asked.key: asked for asked, _ in spaces}

        def taught(asked: Run, run: Run, how: Tune) -> Run:
            """Return the run with a teacher that was trained without the texts of the validation split."""
            if run.teacher is None or run.teacher.run is None:
                return run
            own = teachers[run.teacher.run]
            chosen = found.get((own.title, own.backbone if several else None))
            if chosen is None or chosen.setting is None:
                raise problems.TEACHER_FAILED(run=asked.title, teacher=own.title)
            before = candidate_run(taught(own, recorded.to_tune(own), how), chosen.setting, how)
            before = before.model_copy(update={"name": f"{own.title}{BEFORE}"})
            record = schedule.recorded_alone(before, recorded.held, executor, watcher, fresh=fresh)
            path = str((out / str(record.adapter)).absolute())
            return run.model_copy(update={"teacher": Teacher(run=before.key, path=path)})

        for asked, space in teachers_first(spaces, lambda item: item[0]):
            run, on = recorded.to_tune(asked), asked.backbone if several else None
            kept = partial(keep, on)
            try:
                run = run if space is None else taught(asked, run, self.tune)
                kept(tuning.tune(run, space, self.tune, out, executor, watcher, kept, fresh=fresh))
            except AfinaError as error:
                watcher.failed(run, error.sentence)
                failed.append(Failure(run.title, run.method, run.seed, str(error), on))
                if (run.title, on) in found:  # a choice made with part of the budget would not be fair
                    kept(found[run.title, on].model_copy(update={"setting": None}))
        return tuple(found.values()), tuple(failed)


def _describe(held: OutputLock, request: StudyRequest, failed: tuple[Failure, ...]) -> None:
    held.describe(held.directory.study, request.model_copy(update={"failed": failed}).model_dump_json())


def _changed(part: Part, entry: Mapping[str, Any], where: str) -> Part:
    own = {key: value for key, value in entry.items() if key in type(part).model_fields}
    return checked(type(part), part.model_dump(exclude_unset=True) | own, where)


def _check_prices(asking: Iterable[Run], where: str) -> None:
    """Raise InvalidStudy if two names of the same run, which has one record, have different prices."""
    first: dict[str, Run] = {}
    for run in asking:
        other = first.setdefault(run.key, run)
        one, two = endpoint_of(other), endpoint_of(run)
        if (one.price_in, one.price_out) != (two.price_in, two.price_out):
            keys = [f"methods.{run.title}"]
            raise problems.PRICES_DIFFER(where=where, method=other.title, other=run.title, keys=keys)


def _reprice(asking: Iterable[Run], held: OutputLock, watcher: Watcher) -> None:
    """Compute the costs of recorded runs again whose endpoint has other prices now."""
    for run in asking:
        for one in held.records:
            if one.key == run.key and (now := repriced(one, run)) is not one:
                held.rewrite(now)
                watcher.says(f"{run.title}: the costs of kept answers are computed again with the changed prices.")


def _check_metric(runs: Iterable[Run], held: OutputLock) -> None:
    asked = {run.key: run.metric for run in runs}
    for one in held.records:
        if (metric := asked.get(one.key)) is None:
            continue
        metric_for(objectives.make(one.label_names, one.objective), metric)
        if metric not in one.metrics:
            raise problems.METRIC_NOT_RECORDED(metric=metric, run=one.name)


def _check_seeds(seeds: Sequence[int], where: str) -> None:
    if wrong := next((seed for seed in seeds if not 0 <= seed < MOST_SEED), None):
        expected = "expected whole numbers from 0 to 2**63 - 1."
        raise problems.VALUE_INVALID(where=where, key="seeds", found=wrong, expected=expected)
    if not seeds:
        expected = "expected at least one seed, such as seeds = [0]."
        raise problems.VALUE_INVALID(where=where, key="seeds", found=[], expected=expected)
    if len(set(seeds)) < len(seeds):
        again = next(seed for seed in seeds if seeds.count(seed) > 1)
        raise problems.GIVEN_TWICE(_what=f"{where}: seed {again}", _kind="seed", where=where, seed=again)


def _check_sizes(sizes: Sequence[int], train_examples: int | None, where: str) -> None:
    """Raise InvalidStudy for `sizes` that are not positive, repeated, or contradict `train_examples`."""
    if not sizes:
        return
    if min(sizes) < 1 or len(set(sizes)) < len(sizes):
        expected = "expected different numbers of texts, from 1 up."
        raise problems.VALUE_INVALID(where=where, key="sizes", found=sizes, expected=expected)
    if train_examples is not None:
        raise problems.BOTH_GIVEN(
            _first="data.train_examples", _second="sizes", where=where, keys=["data.train_examples", "sizes"]
        )


def _sizes_notes(asked: Sequence[int], trained: Sequence[int]) -> list[str]:
    """Return a note on requested `sizes` above the training split."""
    if tuple(asked) == tuple(trained):
        return []
    there = max(trained)
    above = ", ".join(f"{size:,}" for size in asked if size > there)
    return [f"sizes: {above} texts were asked for, and the training split has {there:,}: all {there:,} are one size."]


def _equal_runs_notes(runs: Sequence[RunSpec]) -> list[str]:
    alike: dict[str, list[RunSpec]] = {}
    for run in runs:
        alike.setdefault(run.key, []).append(run)
    equal = dict.fromkeys(
        (", ".join(run.title for run in several), several[0].backbone) for several in alike.values() if len(several) > 1
    )
    return [
        f"{names} have the same settings on {backbone}: one run is shown under each name." for names, backbone in equal
    ]


def _notes(runs: Sequence[RunSpec], seeds: Sequence[int]) -> list[str]:
    return [*_equal_runs_notes(runs), *_products_notes(runs), *_once_notes(runs, seeds)]


def _once_notes(runs: Sequence[RunSpec], seeds: Sequence[int]) -> list[str]:
    """Return a note on the runs that ask an endpoint without examples, whose prompts do not depend on the seed."""
    once = [run for run in runs if run.asks_endpoint and not make(run.method, run.hyperparameters).depends_on_seed]
    names = ", ".join(dict.fromkeys(run.title for run in once))
    return [f"{names}: no prompt depends on the seed, so one run stands for all seeds."] if names and seeds[1:] else []


def _products_notes(runs: Sequence[RunSpec]) -> list[str]:
    """Return a note on the methods that compute products with frozen weights in int8, if any."""
    found: dict[str, dict[str, None]] = {}
    for run in runs:
        if run.training.products != FLOAT and not make(run.method, run.hyperparameters).trains_nothing:
            found.setdefault(run.training.products, {})[run.title] = None
    return [
        f"Training computes products with frozen weights in {products}: {', '.join(names)}."
        for products, names in found.items()
    ]


def _check_budgets(methods: Mapping[str, Mapping[str, Any]], validation: float | None, where: str) -> None:
    """Raise InvalidStudy for settings that contradict [tune], which sets steps and the validation split for all."""
    for name, entry in methods.items():
        for key in ("epochs", "batch_size", "accumulate", "max_steps"):
            if key in entry or any(key in table for table in entry.get(BY_BACKBONE, {}).values()):
                raise problems.BUDGET_DIFFERS(
                    method=name, key=key, where=where, keys=[f"methods.{name}.{key}", f"train.{key}"]
                )
    if validation is not None:
        raise problems.VALIDATION_AND_TUNE(where=where, keys=["data.validation", "tune"])
