"""`afina choose`: a recommendation with evidence, within the minutes given."""

from __future__ import annotations

import math
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import cache, partial
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
from sklearn import clone

import fakes
from afina import METHODS, Adapter, Backbone, Task, meter
from afina.data.evaluation_set import EvaluationSet
from afina.data.label_words import no_words_note
from afina.data.reading_options import ReadingOptions
from afina.data.split import Split
from afina.errors import AfinaError, InvalidData, InvalidStudy, RunFailed
from afina.events import Progress, ValidationScore
from afina.methods import attachment
from afina.models import objectives
from afina.models.backbone_spec import BGE, MINILM
from afina.predicting.evaluation import evaluate, trained
from afina.report.recommendation import evidence, sentences
from afina.report.verdicts import ONE_SEED
from afina.report.writers.recommendation_json import as_json
from afina.stats.comparison import compare
from afina.studies import schedule
from afina.studies.adapter_paths import find_adapter
from afina.studies.choosing import (
    candidate_trainings,
    candidates,
    eligibility,
    floors,
    recorded_curves,
    step_times,
    students,
    time_budget,
)
from afina.studies.choosing import recommend as recommending
from afina.studies.choosing.recommend import recommend
from afina.studies.choosing.recommendation import ENOUGH, EPOCHS, FEW_STEPS, Prior, Recommendation, decide
from afina.studies.choosing.setup import ChoiceSetup, Way
from afina.studies.choosing.step_times import MEASURED, StepTime, StepTimes, Stopwatch
from afina.studies.choosing.time_budget import TimeBudget
from afina.studies.choosing.training_length import training_length
from afina.studies.executors import by_name
from afina.studies.executors.executor import Executor, Overrun
from afina.studies.executors.local_executor import LocalExecutor
from afina.studies.planning import forecast_runs
from afina.studies.results import Results
from afina.studies.runs.output_directory import SCRATCH, OutputDirectory
from afina.studies.runs.prepared import answer_seconds
from afina.studies.runs.record import Record, Seconds, Selection, UnlabelledCounts, read_records, write_records
from afina.studies.runs.run import Run
from afina.studies.runs.spec import Ask, RunSpec
from afina.studies.schedule import Slots
from afina.studies.watcher import Watcher
from command import PROGRAM, Command
from fakes import write_csv
from raises import raises
from records import carried_out, record
from scribe import Scribe

GIB = 2**30
LOAD = Task.load
fit_floors, attachment_applicable, judge = floors.fit, attachment.applicable, eligibility.eligible


LEARNED = [(method, factor) for _, method, factor in recorded_curves.MANY.orders[frozenset({"causal"})][1:]]
"""The learned order, without the linear probe, which comes before all others."""


def in_order(methods: Iterable[str], kind: Any) -> list[candidates.Candidate]:
    """The candidates of these methods on one backbone."""
    setting = SimpleNamespace(objective=SimpleNamespace(kind=kind), backbones=("embedded",), names={"embedded": ""})
    setting.lessons = recorded_curves.lessons(1_000)
    setting.name = partial(ChoiceSetup.name, setting)
    return candidates.in_order([Way("embedded", one) for one in methods], {"embedded": "causal"}, setting)  # type: ignore[arg-type]


@cache
def right_answers(task: str, examples: int | None) -> np.ndarray:
    return LOAD(task, evaluation_examples=examples).evaluation.labels


@cache
def supported(address: str, names: tuple[str, ...], opening: Any) -> list[str]:
    """The methods that support a backbone, found once for all tests: it takes as long as a whole choice."""
    return attachment_applicable(address, names, opening)


FITTED: dict[tuple[str, str], list[floors.Floor]] = {}


def fit_once(train: Split, objective: Any) -> list[floors.Floor]:
    """The baselines of a training split, fitted once for all tests."""
    key = train.digest, repr(objective)
    if key not in FITTED:
        FITTED[key] = fit_floors(train, objective)
    return FITTED[key]


class World(Executor):
    """Invented processes under an invented clock: what each method costs, and how right it is."""

    def __init__(self, task: str, monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
        self.task, self.time, self.patch, self.root = task, 1_000.0, monkeypatch, root
        monkeypatch.setattr(step_times, "STEP_COSTS", {"full": 76, "lora": 47, "ia3": 43, "head": 17})
        self.step = {"full": 1.2, "lora": 0.8, "prelayer": 0.6}
        self.right = {"full": 1.0, "lora": 0.98, "prelayer": 0.9, "head": 0.3, "zero-shot": 0.2, "linear_probe": 0.7}
        self.opening, self.text = 10.0, 0.01
        self.download = 0.0
        self.slower = 1.0
        self.speed: dict[str, float] = {}
        self.worse: dict[str, float] = {}
        self.waits: list[float] = []
        self.largest: int | None = None
        self.enough = 0
        self.best: dict[str, str] = {}
        self.begun: list[Run] = []
        self.carried: list[Run] = []
        self.asked: list[Run] = []
        self.failing: dict[str, str] = {}
        self.needs = {
            "full": int(4.4 * GIB),
            "lora": int(2.6 * GIB),
            "prelayer": int(2.4 * GIB),
            "head": int(1.2 * GIB),
            "linear_probe": int(1.2 * GIB),
            "zero-shot": int(1.2 * GIB),
        }
        self.gpu: int | None = None
        self.foreseen: list[str] = []
        for name in ("head", "ia3", "last", "adapter"):  # these have tests of their own
            monkeypatch.setattr(METHODS[name], "practical", False)
        monkeypatch.setattr(METHODS["linear_probe"], "is_fitted", False)
        monkeypatch.setattr(meter, "now", lambda: self.time)
        monkeypatch.setattr(meter, "gpu_memory", lambda device: self.gpu)
        monkeypatch.setattr(
            attachment, "applicable", lambda address, names, opening: supported(address, tuple(names), opening)
        )
        monkeypatch.setattr(floors, "fit", fit_once)
        monkeypatch.setattr(forecast_runs, "forecast_run", self.forecast_run)
        monkeypatch.setattr(forecast_runs, "encoded", lambda run, texts: texts)

    def forecast_run(self, run: RunSpec, encoded: Task, *, memory: int, calibrate: bool) -> SimpleNamespace:
        assert encoded.address == run.task == self.task
        assert not calibrate
        self.foreseen.append(run.method)
        peak = self.needs[run.method] // (4 if run.training.precision == "int8" else 1)
        return SimpleNamespace(
            method=run.method,
            peak=peak,
            fits=peak <= memory,
            gpu_peak=peak // 2,
            fits_gpu=peak // 2 <= memory,
            terms=SimpleNamespace(memory=memory, dtype="bfloat16"),
        )

    def largest_memory(self) -> int | None:
        return self.largest

    def fetch(self, backbone: str) -> None:
        self.time += self.download

    def places(self, listen: Callable[[Progress], None]) -> None:
        """Wait for a place in a cluster, as long as the next of `waits` says."""
        if self.waits:
            listen(Progress("wait", note="a node with 1 CPU"))
            self.time += self.waits.pop(0)
            listen(Progress("load"))

    def passes(self, seconds: float, until: float | None) -> None:
        self.time += seconds
        if until is not None and self.time > until:
            self.time = until
            raise Overrun

    def counts(self, phase: str, units: int, each: float, listen: Any, until: float | None) -> float:
        """Let steps or texts pass that take `each`, with progress at some of them; return their seconds."""
        done = 0
        for stop in sorted({min(units, some) for some in (1, 1 + MEASURED, units // 3, units)}) if units else ():
            self.passes((stop - done) * each, until)
            done = stop
            listen(Progress(phase, done, units))
        return units * each

    def try_out(self, *given: Any, **options: Any) -> ValidationScore:
        raise AssertionError("no run only measures")

    def carry_out(self, run: Run, out: Path, study: str, listen: Any, until: float | None = None) -> Record:
        assert run.data.validation is None
        if run.method in self.failing:
            raise RunFailed(self.failing[run.method])
        self.places(listen)
        self.begun.append(run)
        gold = right_answers(run.task, run.data.evaluation_examples)
        predicted, right = gold.copy(), self.right[run.method] * self.learnt(run) * self.worse.get(run.backbone, 1.0)
        wrong = round(len(gold) * (1 - right))
        predicted[:wrong] = 1 - predicted[:wrong]
        steps = 1 if run.method == "linear_probe" else run.training.max_steps or 0
        aside = round((run.data.selection or 0) * (run.data.train_examples or 0))
        slower = self.slower / self.speed.get(run.backbone, 1.0)
        texts = (run.data.train_examples or 0) - aside
        units, each = (texts, self.text) if run.method == "linear_probe" else (steps, self.step.get(run.method, 0.0))
        self.passes(self.opening * slower, until)
        train = self.counts("train", units, each * slower, listen, until)
        self.passes(step_times.REOPENING * self.opening * slower, until)
        listen(Progress("evaluate", 0, len(gold) + aside))
        evaluate = self.counts("evaluate", len(gold) + aside, self.text * 3 * slower, listen, until)
        (self.carried if run.method in self.right.keys() - {"zero-shot"} else self.asked).append(run)
        changes = {
            "key": run.key,
            "name": run.title,
            "steps": steps,
            "backbone": run.backbone,
            "training": {"learning_rate": run.training.learning_rate, "max_length": 128},
            "train_examples": texts,
            "examples": len(gold),
            "selection": Selection(value=right, loss=1 - right, examples=aside) if aside else None,
            "seconds": Seconds(load=1.0, encode=2.0, train=train, evaluate=evaluate, save=0.5),
            "unlabelled": UnlabelledCounts(texts=run.data.unlabelled_examples or 600) if run.data.unlabelled else None,
        }
        return carried_out(out, predicted.tolist(), gold.tolist(), run.method, run.label, **changes)

    def learnt(self, run: Run) -> float:
        """Of what there is to be right about: less at half of the texts, and at a rate that is not the best."""
        few = 0.9 if (run.data.train_examples or 0) < self.enough else 1.0
        return few * (1.0 if run.method not in self.step or run.title == self.best.get(run.method, run.title) else 0.95)

    def learn(self, *order: tuple[str, float]) -> None:
        """Replace the order of causal backbones."""
        changed = tuple(("causal", method, factor) for method, factor in order)
        taught = replace(recorded_curves.MANY, orders={frozenset({"causal"}): changed})
        self.patch.setattr(recorded_curves, "lessons", lambda labels: taught)

    def recommend(self, out: str, minutes: float = 10, **options: Any) -> Results:
        began = self.time
        usual = {"memory": 16 * GIB, "backbone": "embedded"}
        made = recommend(self.task, minutes, out=self.root / out, executor=self, **(usual | options))
        assert self.time - began <= 1.05 * 60 * minutes + self.download
        assert made.recommendation is not None
        assert made.recommendation.seconds == pytest.approx(self.time - began - self.download)
        return made

    def choose(self, out: str = "out", minutes: float = 10, **options: Any) -> Recommendation:
        made = self.recommend(out, minutes, **options).recommendation
        assert made is not None
        return made


class Several(World):
    """Trainings at once: time goes on while the recommendation waits, to the end of what ends first."""

    def __init__(self, like: World, slots: int) -> None:
        super().__init__(like.task, like.patch, like.root)
        self.slots, self.waiting, self.ends = slots, False, dict[int, float]()
        self.changed, self.asking = threading.Condition(), threading.current_thread()
        self.patch.setattr(schedule, "_PATIENCE", 0.01)
        self.most = 0
        original = Slots._receive

        def waits(slots: Slots[Any, Any]) -> Any:
            with self.changed:
                self.waiting = True
                self.changed.notify_all()
            return original(slots)

        self.patch.setattr(Slots, "_receive", waits)

    def passes(self, seconds: float, until: float | None) -> None:
        if threading.current_thread() is self.asking:
            super().passes(seconds, until)
            return
        me = threading.get_ident()
        with self.changed:
            end = self.time + seconds
            self.ends[me] = end if until is None else min(end, until)
            self.most = max(self.most, len(self.ends))
            mine = lambda: self.waiting and me == min(self.ends, key=lambda one: self.ends[one])  # noqa: E731
            assert self.changed.wait_for(mine, 60)
            self.time, self.waiting = max(self.time, self.ends.pop(me)), False
        if until is not None and end > until:
            raise Overrun


def reasons(made: Recommendation) -> dict[str, str]:
    """Why methods were dropped, as a user reads it."""
    return as_json(made, Path())["dropped"]


def hard(count: int) -> list[tuple[str, str]]:
    """Texts whose label no single word and no pair of words tells."""
    chance = np.random.default_rng(3)
    words = ["alder", "birch", "cedar", "dogwood", "elm", "fir", "gum", "hazel", "ivy", "juniper"]
    made = []
    for number in range(count):
        chosen = [words[i] for i in chance.integers(0, len(words), 6)]
        made.append((f"{' '.join(chosen)} {number}", ("no", "yes")[int(chance.integers(0, 2))]))
    return made


@pytest.fixture(scope="module", autouse=True)
def _labels_are_not_counted() -> Iterator[None]:
    """Counting doubtful labels has tests of its own (test_doubtful_count.py), and takes a second for each task."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recommending, "count_doubtful", lambda setting: None)
        yield


@pytest.fixture(scope="module")
def hard_task(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A task where TF-IDF is of no use."""
    return str(write_csv(tmp_path_factory.mktemp("hard") / "hard.csv", hard(1_500)))


@pytest.fixture
def world(hard_task: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> World:
    return World(hard_task, monkeypatch, tmp_path)


def easy_task(where: Path) -> str:
    """A task that TF-IDF learns, whose labels are no words."""
    return str(write_csv(where / "easy.csv", [(text, str(label)) for text, label in fakes.sentences(400)]))


class Plenty(NamedTuple):
    """A choice with time for everything, which tests only read."""

    world: World
    scribe: Scribe
    results: Results
    out: Path

    @property
    def made(self) -> Recommendation:
        assert self.results.recommendation is not None
        return self.results.recommendation


@pytest.fixture(scope="module")
def plenty(hard_task: str, tmp_path_factory: pytest.TempPathFactory) -> Plenty:
    out, scribe = tmp_path_factory.mktemp("plenty") / "out", Scribe()
    with pytest.MonkeyPatch.context() as patch:
        world = World(hard_task, patch, out.parent)
        return Plenty(world, scribe, world.recommend("out", 60, watcher=scribe, command=["afina", "choose"]), out)


# The order


def test_candidates_come_in_the_order_that_was_learnt_and_others_after_them() -> None:
    learnt = list(dict.fromkeys(method for method, _ in LEARNED))
    made = in_order(["last", *reversed(learnt)], "classes")
    assert [one.way.method for one in made] == [*(method for method, _ in LEARNED), "last"]
    last = candidates.Candidate(
        Way("embedded", "last"), METHODS["last"].learning_rate, "last", 0.0, 370, recorded_curves.MANY.levels["causal"]
    )
    assert made[-1] == last
    assert [one.way.method for one in in_order(["last", "lora"], "classes")][-1] == "last"


def test_a_candidate_is_called_by_its_rate_where_that_is_not_the_methods_own(world: World) -> None:
    world.learn(("lora", 3.0), ("full", 1 / 3), ("lora", 1.0))
    made = in_order(["full", "lora"], "classes")
    assert [(one.way.method, one.name) for one in made] == [
        ("lora", "lora-0.003"),
        ("full", "full-3.33e-05"),
        ("lora", "lora"),
    ]
    assert [one.rate for one in made] == [0.003, 3.33e-05, 0.001]


def test_on_a_kind_without_recorded_trainings_every_method_comes_before_another_rate_and_none_is_ahead() -> None:
    learnt = list(dict.fromkeys(method for method, _ in LEARNED))
    made = in_order(["last", *learnt], "text")
    assert [one.name for one in made[: len(learnt)]] == learnt
    assert sorted(one.name for one in made) == sorted(one.name for one in in_order(["last", *learnt], "classes"))
    assert {one.ahead for one in made} == {None}
    assert made[0].weighed(0.5, 20) is None


# Who is selected


@pytest.mark.parametrize(("right", "chosen"), [(0.87, "full"), (0.89, "lora")])
@pytest.mark.slow
def test_recorded_trainings_count_beside_few_texts(world: World, right: float, chosen: str) -> None:
    """They have full 1.7 points ahead of LoRA, which tells as much as 370 texts do, and 240 are set aside."""
    ours = {one.name: one for one in in_order(["full", "lora"], "classes")}
    assert (ours["full"].ahead - ours["lora"].ahead, ours["full"].counts) == (pytest.approx(0.017), 370)
    world.right |= {"lora": right, "full": 0.86, "prelayer": 0.5}
    world.best = {"full": "full", "lora": "lora"}
    made = world.choose("out", 60)
    assert made.recommended == chosen
    assert [made.contender(name).validation for name in ("lora", "full")] == [pytest.approx(right), pytest.approx(0.86)]
    assert max(made.contenders, key=lambda one: one.weighed or -1).name == chosen
    nearly = "was nearly as good as LoRA on the 240 validation texts, and better in recorded trainings"
    assert {"full": nearly, "lora": "LoRA was best on the validation texts"}[chosen] in sentences(made)[1]


def test_without_time_for_all_texts_only_what_was_measured_counts(world: World) -> None:
    """Short trainings end otherwise than those that are recorded."""
    world.learn(("full", 1.0), ("lora", 1.0))
    world.step = dict.fromkeys(world.step, 4.0)
    world.right |= {"lora": 0.865, "full": 0.86, "prelayer": 0.5}
    made = world.choose("out", 10)
    assert {one.weighed for one in made.contenders} == {None}
    assert made.recommended == "lora"


# The floors


def test_the_majority_is_that_of_the_training_split() -> None:
    train = Split(["a", "b", "c"], np.array([1, 2, 2]))
    assert floors.fit(train, fakes.classes_of(train))[0].predict(Split(["x", "y"], np.array([0, 1]))).tolist() == [2, 2]


@pytest.mark.parametrize("kind", ["classes", "number", "labels"])
def test_tfidf_is_the_pipeline_that_scikit_learns_grid_search_chooses(kind: str) -> None:
    from sklearn.model_selection import GridSearchCV
    from sklearn.pipeline import make_pipeline

    made = fakes.sentences(60)
    right = np.array([label for _, label in made])
    targets = {"classes": right, "number": right + 0.01 * np.arange(60), "labels": np.stack([right, 1 - right], 1)}[
        kind
    ]
    train = Split([text for text, _ in made], targets)
    objective = objectives.make(("no", "yes") if kind != "number" else ("score",), {"kind": kind}).of(targets)
    kind = floors.FLOORS[objective.kind]
    words, last = kind.pipeline(train, objective)
    grid = kind.linear.grid(floors.STRENGTHS)
    named = {f"last__{name}": values for name, values in grid.items()}
    pipeline = make_pipeline(clone(words), clone(last))
    pipeline.steps[1] = ("last", pipeline.steps[1][1])
    search = GridSearchCV(pipeline, named, cv=kind.linear.folds(train.labels), scoring=kind.linear.scoring)
    best = search.fit(train.texts, objective.loss_targets(targets)).best_estimator_
    found, expected = (one.get_params() for one in (last, best[-1]))
    assert {name: found[name] for name in grid} == {name: expected[name] for name in grid}


@pytest.mark.parametrize(
    ("texts", "labels"),
    [
        (["a b", "c d"], [0, 1]),
        (["a b", "c d", "e f", "g h", "i j", "k l", "m n"], [0, 0, 0, 0, 1, 2, 1]),
    ],
    ids=["one of each", "rare labels"],
)
def test_tfidf_copes_with_little(texts: list[str], labels: list[int]) -> None:
    split = Split(texts, np.array(labels))
    assert set(fakes.tfidf(split).predict(split).tolist()) <= set(labels)


# The time


@pytest.mark.parametrize(("minutes", "speed"), [*product([5, 60], [0.2, 4.0]), (10, 1.0), (30, 1.0)])
def test_it_keeps_to_the_minutes_and_makes_use_of_them(world: World, minutes: float, speed: float) -> None:
    world.step = {name: step * speed for name, step in world.step.items()}
    made = world.choose("out", minutes)
    assert made.adapter is not None
    ours = [one for one in made.contenders if one.trained]
    # Much time is left over only where everything was trained, and the selected one on half of the texts.
    early = made.seconds < 0.5 * 60 * minutes
    assert not early or (len(ours) == len(in_order(world.step, "classes")) and made.fewer is not None)


def test_with_more_slots_it_tries_more_in_the_same_minutes_and_says_so(world: World, tmp_path: Path) -> None:
    order = (("full", 1.0), ("lora", 1.0), ("prelayer", 1.0), ("lora", 3.0), ("full", 3.0), ("full", 1 / 3))
    world.learn(*order)
    world.step = {"full": 1.2, "lora": 1.0, "prelayer": 0.1}  # what begins last of three ends first
    alone = world.choose("one", 10)
    several = Several(world, 3)
    several.step = world.step
    made = several.choose("three", 10)
    assert several.most == made.at_once == 3
    trained = [[one.name for one in each.contenders if one.trained] for each in (alone, made)]
    assert len(trained[1]) > len(trained[0])
    names = [one.name for one in in_order(world.step, "classes")]
    assert trained[1] == [name for name in names if name in trained[1]], "not in the order of the portfolio"
    kept = [one.name for one in read_records(tmp_path / "three" / "records.jsonl") if one.selection]
    assert kept == sorted(kept, key=names.index)
    assert any("Up to 3 trainings ran at once" in note for note in evidence(made).notes)
    assert not any("at once" in note for note in evidence(alone).notes)
    assert not (tmp_path / "three" / SCRATCH).exists()


@pytest.mark.parametrize("waits", [[150.0], [0.0, 150.0]], ids=["the first run", "the first training"])
def test_waiting_for_a_place_in_a_cluster_is_not_time_of_a_run(
    world: World, monkeypatch: pytest.MonkeyPatch, waits: list[float]
) -> None:
    world.learn(("full", 1.0), ("full", 3.0), ("full", 1 / 3))
    monkeypatch.setattr(METHODS["zero-shot"], "head", None)
    world.step["full"] = 0.9
    world.waits = list(waits)
    made = world.choose("out", 14)
    assert not world.waits
    assert [one.name for one in made.contenders if one.trained] == ["full", "full-0.0003"]


def test_all_trainings_are_of_one_length_which_the_time_decides(world: World, plenty: Plenty) -> None:
    first = [run for run in plenty.world.carried if run.data.selection]
    assert {run.training.max_steps for run in first} == {EPOCHS * math.ceil(1_200 * 0.8 / 16)}
    world.step = dict.fromkeys(world.step, 2.0)
    world.choose("short", 10)
    shorter = [run for run in world.carried if run.data.selection]
    assert {run.training.max_steps for run in shorter} == {math.ceil(1_200 * 0.8 / 16)}
    assert {run.data.train_examples for run in shorter} == {1_200}
    world.carried.clear()
    world.step = dict.fromkeys(world.step, 10.0)
    world.choose("shortest", 10)
    fewest = [run for run in world.carried if run.data.selection]
    assert fewest
    assert all((run.data.train_examples or 0) < 1_200 for run in fewest)
    assert all((run.training.max_steps or 0) >= ENOUGH for run in fewest)


@pytest.mark.parametrize("slower", [0.6, 1.25, 1.5])
def test_the_time_of_a_training_corrects_the_next_estimate(world: World, slower: float) -> None:
    world.learn(("lora", 1.0), ("lora", 3.0), ("lora", 1 / 3), ("full", 1.0))
    world.slower = slower
    made = world.choose("out", 12)
    assert all(one.why != "overrun" for one in made.dropped.values())


def slowed(world: World, times: float) -> World:
    """The same world on a machine that is so many times as slow, with the recorded costs of methods."""
    world.opening, world.text = 3 * times, 0.01 * times
    world.step = {"full": 0.76 * times, "lora": 0.47 * times, "prelayer": 0.76 * times}
    return world


@pytest.mark.parametrize("times", [1, 3, 10])
def test_a_slow_machine_measures_little_and_trains_something(world: World, tmp_path: Path, times: float) -> None:
    world.task = str(write_csv(tmp_path / "few.csv", hard(300)))
    made = slowed(world, times).choose("out", 5)
    assert made.stages.get(time_budget.STEP_TIME, 0.0) <= candidate_trainings.MEASURING * 300
    trained = [one for one in made.contenders if one.trained]
    assert trained
    assert made.recommended == trained[0].name
    assert all((one.steps or 0) >= 12 for one in trained), "less than an epoch"


def test_one_training_that_fits_is_of_the_first_method_with_enough_steps(world: World, tmp_path: Path) -> None:
    world.task = str(write_csv(tmp_path / "few.csv", hard(300)))
    slowed(world, 12).step["lora"] = 3.0
    made = world.choose("out", 5)
    assert [one.method for one in made.contenders if one.trained] == ["lora"]
    assert (made.contender("lora").steps or 0) >= ENOUGH
    assert made.dropped["full"].why == "train"


def test_a_fit_that_leaves_no_time_for_a_training_is_left_out_for_it(probed: World, tmp_path: Path) -> None:
    probed.task = str(write_csv(tmp_path / "few.csv", hard(300)))
    slowed(probed, 2).opening = 60.0
    made = probed.choose("out", 3.59)
    assert next(run.method for run in probed.begun) == "linear_probe"
    assert [one.method for one in made.contenders if one.trained] == ["full"]


def test_the_first_training_begins_again_longer_or_shorter_if_its_steps_say_so(world: World, tmp_path: Path) -> None:
    for step, fits in ((0.5, True), (8.0, False)):
        world.begun.clear()
        world.text = 0.05 if fits else 0.01
        world.step = dict.fromkeys(world.step, step)
        made = world.choose(str(step), 10)
        first, again, *others = [run.training.max_steps or 0 for run in world.begun if run.data.selection]
        assert (again > first) == fits
        assert {*others} <= {again}
        assert made.stages[time_budget.STEP_TIME] < 60
        left = {path.name for path in (tmp_path / str(step) / "adapters").iterdir()}
        assert left == {Path(one.adapter).name for one in made.contenders if one.adapter}


def test_a_training_that_becomes_slow_is_stopped_and_a_shorter_one_fits(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.learn(("full", 1.0))
    world.needs |= {"lora": 99 * GIB, "prelayer": 99 * GIB}
    world.step["full"] = 1.0
    original = world.passes

    def passes(seconds: float, until: float | None) -> None:
        original(seconds * (4 if world.begun[-1].method == "full" and seconds > 10 else 1), until)

    monkeypatch.setattr(world, "passes", passes)
    made = world.choose("out", 10, memory=8 * GIB)
    lengths = [run.training.max_steps or 0 for run in world.begun if run.data.selection]
    assert len(lengths) == 2
    assert lengths[1] < lengths[0]
    assert made.contender("full").steps == lengths[1]


def test_time_that_is_left_goes_to_candidates_that_were_left_out(world: World) -> None:
    """Time is kept back to train full fine-tuning again, but LoRA is selected, which takes less."""
    world.learn(("lora", 1.0), ("full", 1.0))
    world.step, world.text = {"full": 1.62, "lora": 1.0, "prelayer": 1.62}, 0.005
    world.right |= {"full": 0.9, "prelayer": 0.9}
    made = world.choose("out", 15.21)
    after = [run.title for run in world.carried]
    last = max(number for number, run in enumerate(world.carried) if not run.data.selection)
    assert after[last + 1 :] == ["full"]
    assert made.seconds > 0.9 * 15.21 * 60


def test_the_minutes_begin_when_the_backbone_has_been_downloaded(world: World, plenty: Plenty) -> None:
    scribe, world.download = Scribe(), 200.0
    after = world.choose("after", 60, watcher=scribe)
    assert (scribe.fetching, plenty.scribe.fetching) == (200, 0)
    names = [[one.name for one in made.contenders if one.trained] for made in (after, plenty.made)]
    assert names[0] == names[1]


def test_a_training_that_was_too_short_to_tell_gives_no_verdict(world: World, tmp_path: Path) -> None:
    world.task = str(write_csv(tmp_path / "few.csv", hard(300)))
    world.right = dict.fromkeys(world.right, 0.4)
    slowed(world, 10)
    made = world.choose("out", 3.88)
    (short,) = [one for one in made.contenders if one.trained]
    assert made.is_short(short)
    assert made.recommended != short.name
    assert short.metrics
    assert not [one for one in made.comparisons if short.name in (one.first, one.second)]
    _, why, _, settle, minutes, _ = sentences(made)
    assert why == "No language model could be trained long enough to tell: LoRA took 12 steps on 192 texts."
    assert settle == "It is open whether a trained language model would be better."
    assert "train 3 epochs instead of 1" in minutes
    assert "A smaller backbone, such as minilm, trains in less time." in minutes
    (row,) = [row for row in evidence(made).rows if row[0] == "LoRA"]
    assert row[-1].endswith("too few steps to tell how good the method is")
    world.right["lora"] = 1.0
    better = world.choose("better", 3.88)
    assert better.recommended == "lora"
    assert "only 12 steps on 192 texts" in sentences(better)[2]
    assert [one for one in better.comparisons if "lora" in (one.first, one.second)]


def test_an_untrained_model_that_is_not_cheap_comes_after_the_trainings(probed: World) -> None:
    probed.opening, probed.text = 60.0, 0.05
    made = probed.choose("out", 10)
    order = [run.method for run in probed.begun]
    assert order[0] == "linear_probe"
    assert "zero-shot" not in order[1:2]
    assert ("zero-shot" in made.dropped) or order.index("zero-shot") > order.index("full")


def test_the_time_of_a_step_is_estimated_from_other_runs_on_the_backbone() -> None:
    full, lora, probe, words = (Way("b", name) for name in ("full", "lora", "linear_probe", "zero-shot"))
    times = StepTimes(lowered=True)
    assert times.of(full) is None
    times.note(words, StepTime(5.0, 0.0, 0.3))
    assert times.of(full) == StepTime(5.0, pytest.approx(0.1 * recorded_curves.STEP_COSTS["full"]), 0.3)
    times.note(probe, StepTime(6.0, 0.05, 0.3))
    assert times.of(full) == StepTime(6.0, pytest.approx(0.05 * recorded_curves.STEP_COSTS["full"]), 0.3)
    times.note(lora, StepTime(7.0, 4.7, 0.2))
    costs = recorded_curves.STEP_COSTS
    assert times.of(full) == StepTime(7.0, pytest.approx(4.7 * costs["full"] / costs["lora"]), 0.2)
    assert times.of(Way("b", "prelayer")) == times.of(full), "a method that was not recorded is as dear as any"
    assert times.of(Way("other", "full")) is None


def test_what_the_baselines_took_is_kept_back_for_the_report_but_not_much(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meter, "now", lambda: 100.0)
    clock = TimeBudget(0.0, 5)
    clock.keep_back(20.0)
    assert (clock.left, clock.end) == (180.0, pytest.approx(300 * (1 + time_budget.LATE) - 20))
    clock.keep_back(900.0)
    assert clock.closing == 30


def test_a_stopwatch_tells_steps_from_what_precedes_them(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 10.0, 20.0, 22.0, 26.0, 30.0])
    monkeypatch.setattr(meter, "now", lambda: next(clock))
    watch = Stopwatch()
    for event in (Progress("wait"), Progress("load"), Progress("train", 1, 50), Progress("train", 3, 50)):
        watch.hear(event)
        assert watch.each is None
    watch.hear(Progress("train", 5, 50))
    assert (watch.began, watch.each, watch.opening) == (20.0, 2.0, 0.0)


def test_trainings_are_long_enough_to_tell_or_there_is_one_or_none() -> None:
    pace = StepTime(10.0, 1.0, 0.1)
    assert training_length(pace, 1_000, 300, 60) == (45, 300)
    assert training_length(pace, 80, 300, 60) == (45, 300), "a single training of full length"
    assert training_length(pace, 45, 300, 60) is None
    assert training_length(pace, 45, 300, 60, short=True) == (15, 300)
    assert training_length(pace, 30, 300, 60, short=True) is None
    assert training_length(pace, 200, 20_000, 100) == (36, 36 * 16 + 300), "a part of the texts"
    few = training_length(pace, 1_000, 20, 60)
    assert few is not None
    assert few == (FEW_STEPS, 20)
    assert few.steps_on(10, 20) == FEW_STEPS, "as many steps on half of the texts"
    assert training_length(pace, 80, 20, 60) == (FEW_STEPS, 20)
    assert training_length(pace, 40, 20, 60) is None, "20 steps are too long"


def test_where_nothing_fits_the_cheapest_method_is_offered_in_int8(world: World) -> None:
    made = world.choose("out", 30, memory=GIB)
    (offered,) = [one for one in made.dropped.values() if one.smaller is not None]
    assert offered.needed == world.needs["head"]
    assert offered.smaller == world.needs["head"] // 4
    (said,) = [reason for reason in reasons(made).values() if "int8" in reason]
    assert said == (
        "it needs about 1.20 GiB of memory, and 1.00 GiB is available; `afina train --set precision=int8` needs about "
        "0.30 GiB, but rounds each frozen weight to 8 bits"
    )
    some = world.choose("some", 30, memory=2 * GIB)
    assert all(one.smaller is None for one in some.dropped.values())


def test_with_plenty_of_memory_only_the_dearest_method_is_foreseen(world: World, plenty: Plenty) -> None:
    assert not plenty.made.dropped
    assert plenty.world.foreseen == ["full"]
    world.choose("little", memory=5 * GIB)
    assert set(world.foreseen) == {*world.needs} - {"head", "linear_probe"}


def test_it_says_what_the_time_went_to(plenty: Plenty) -> None:
    made = plenty.made
    told = [time_budget.ASKING, time_budget.TRAINING, time_budget.AGAIN, time_budget.HALF]
    assert list(made.stages) == [time_budget.SIMPLE, time_budget.MEMORY, *told]
    assert sum(made.stages.values()) == pytest.approx(made.seconds)
    assert as_json(made, Path())["stages"] == made.stages
    (note,) = [note for note in evidence(made).notes if note.startswith("Choosing took ")]
    assert note.startswith(f"Choosing took {made.seconds:,.0f} s: asking in words ")
    assert f"training {made.stages[time_budget.TRAINING]:,.0f} s" in note


def test_far_too_slow_it_ends_in_time_and_says_so(world: World) -> None:
    world.slower = 30.0
    made = world.choose("out", 5)
    assert not [one for one in made.contenders if one.trained]
    assert "No language model could be trained and evaluated in the given time" in sentences(made)[1]
    assert any("took longer than the time left" in why for why in reasons(made).values())


def test_a_process_that_is_silent_is_ended_at_its_time(gpt2: Backbone, toy: str, tmp_path: Path) -> None:
    run = Run(backbone=gpt2.address, task=toy, method="lora", training={"max_steps": 100_000})
    start = meter.now()
    with pytest.raises(Overrun):
        LocalExecutor().carry_out(run, tmp_path, "late", lambda progress: None, start + 0.3)
    assert meter.now() - start < 5
    assert not list(tmp_path.rglob("manifest.json"))


# The answer


def test_it_recommends_in_sentences_with_evidence_and_an_adapter(plenty: Plenty) -> None:
    made = plenty.made
    assert made.contender(made.recommended).method == "full"
    which, why, costs, sure, minutes, labels = sentences(made)
    assert re.match(r"Use full fine-tuning( at learning rate 3\.33e-05)?: accuracy 1\.00 on ", which)
    assert re.match(
        r"Full fine-tuning( at learning rate 3\.33e-05)? was best on the validation texts(, level with .*)?\. Other ",
        why,
    )
    assert "LoRA (0.9" in why
    assert re.match(r"Full fine-tuning( at learning rate 3\.33e-05)? trains [\d,]+ parameters ", costs)
    assert " is better than " in sure
    assert "TF-IDF" in sure
    assert sure.endswith(ONE_SEED)
    assert minutes.startswith("More minutes would change little: all ")
    assert "when trained on half of the texts (600) and 1.0000 when trained on all" in labels
    assert all(sentence.endswith(".") for sentence in sentences(made))
    assert (plenty.out / (made.adapter or "nowhere")).is_dir()
    assert [one.name for one in made.contenders][:3] == [floors.MAJORITY, floors.TFIDF, "zero-shot"]
    assert {one.method for one in made.contenders[3:]} == {"full", "lora", "prelayer"}
    assert f"zero-shot ({made.contenders[2].metrics['accuracy']:.4f})" in why
    assert all(one.metrics and one.validation is not None for one in made.contenders[3:])
    path = OutputDirectory(plenty.out).recommendation
    assert Recommendation.model_validate_json(path.read_text(encoding="utf-8")) == made


def test_the_selected_one_is_trained_again_on_all_texts_and_on_half_of_them(plenty: Plenty) -> None:
    """Neither training leaves a second adapter."""
    made = plenty.made
    *_, again, half = plenty.world.carried
    assert (again.title, half.title) == (made.recommended, made.recommended)
    assert (again.data.selection, again.data.train_examples) == (None, 1_200)
    assert (half.data.selection, half.data.train_examples) == (None, 600)
    assert (again.training.max_steps, half.training.max_steps) == (3 * 75, 3 * 38)
    assert made.contender(made.recommended).examples == 1_200
    assert {one.examples for one in made.contenders if one.trained and one.name != made.recommended} == {960}
    assert made.fewer is not None
    assert (made.fewer.name, made.fewer.examples) == (made.recommended, 600)
    there = {path.name for path in (plenty.out / "adapters").iterdir()}
    assert there == {Path(one.adapter).name for one in made.contenders if one.adapter}
    named = {one.adapter for one in plenty.results.records}
    assert {one.adapter for one in read_records(plenty.out / "records.jsonl")} == named


def test_what_more_labels_would_change_is_told_by_half_of_them(world: World, plenty: Plenty) -> None:
    assert sentences(plenty.made)[-1].startswith("More labels would probably change little: ")
    world.enough, world.right["full"] = 1_200, 0.97
    world.right["lora"] = 0.8
    labels = sentences(world.choose("out", 60))[-1]
    assert labels.startswith("More labels would probably help: ")


def test_what_there_was_no_time_for_is_what_more_minutes_would_do(world: World) -> None:
    world.step = dict.fromkeys(world.step, 4.0)
    made = world.choose("out", 10)
    minutes, labels = sentences(made)[-2:]
    waiting = [name for name, one in made.dropped.items() if one.why in ("start", "train")]
    assert waiting
    assert minutes.startswith("More minutes would also train ")
    assert labels == "Whether more labels would help was not measured: there were too few texts or minutes."


def test_fewer_passes_than_there_could_be_are_what_more_minutes_would_add(world: World) -> None:
    world.learn(("full", 1.0))
    world.step = dict.fromkeys(world.step, 1.0)
    world.needs |= {"lora": 99 * GIB, "prelayer": 99 * GIB}
    made = world.choose("out", 7, memory=8 * GIB)
    assert made.contender("full").steps == 2 * math.ceil(1_200 / 16)
    assert sentences(made)[4] == "More minutes would train 3 epochs instead of 2."


def test_each_learning_rate_has_a_row_and_the_best_is_compared(world: World) -> None:
    world.learn(("lora", 1.0), ("lora", 3.0), ("full", 1.0))
    world.best, world.right = {"lora": "lora-0.003"}, world.right | {"lora": 0.99, "full": 0.7}
    made = world.choose("out", 60)
    assert made.recommended == "lora-0.003"
    assert [one.name for one in made.contenders if one.method == "lora"] == ["lora", "lora-0.003"]
    assert made.contender("lora").validation == pytest.approx(0.99 * 0.95)
    compared = {name for one in made.comparisons for name in (one.first, one.second)}
    assert "lora-0.003" in compared
    assert "lora" not in compared
    assert sentences(made)[0].startswith("Use LoRA at learning rate 0.003: accuracy ")
    assert sentences(made)[1].startswith("LoRA at learning rate 0.003 was best")
    (row,) = (row for row in evidence(made).rows if row[0] == "LoRA at learning rate 0.003")
    assert row[-1].startswith("learning rate 0.003; accuracy 0.99")


def test_what_is_told_and_what_is_read_again_are_what_came_of_it(plenty: Plenty) -> None:
    results, scribe, world = plenty.results, plenty.scribe, plenty.world
    assert [one.name for one in results.records] == [
        "zero-shot",
        *(one.name for one in plenty.made.contenders if one.trained),
    ]
    assert results.command == ("afina", "choose")
    assert Results.read(plenty.out) == results
    assert scribe.changes[-1] == results
    assert results.recommendation is not None
    so_far = [one.recommendation for one in scribe.changes[:-1] if one.recommendation]
    assert all(one.early and one.seconds <= results.recommendation.seconds for one in so_far)
    assert not results.recommendation.early
    assert [one.recommended for one in so_far][-1] == results.recommendation.recommended
    assert len(so_far[0].waiting) == len(results.recommendation.contenders) - len(so_far[0].contenders)
    order = [one.name for one in in_order(world.step, "classes")]
    assert scribe.told[:5] == [
        "text: column 'text'; label: column 'label'. 1,500 rows, 2 classes (no, yes): kind classes",
        "fitting baselines without a language model",
        "forecasting which methods fit in memory",
        f"started zero-shot 1/{1 + len(order)}",
        "finished zero-shot",
    ]
    started = [line.split()[1] for line in scribe.told if line.startswith("started ")]
    assert started[: 1 + len(order)] == ["zero-shot", *order]
    held = Task.load(results.task, results.data).evaluation
    assert {len(one.targets) for one in results.results} == {len(held)}


def test_a_method_that_does_not_fit_is_dropped_and_every_other_has_a_row(world: World, tmp_path: Path) -> None:
    made = world.choose("out", 60, memory=3 * GIB)
    assert reasons(made) == {"full": "it needs about 4.40 GiB of memory, and 3.00 GiB is available"}
    assert {run.method for run in world.carried} == {"lora", "prelayer"}
    assert made.contender(made.recommended).method == "lora"
    table = evidence(made)
    names = [row[0] for row in table.rows]
    assert names[:3] == [floors.MAJORITY, floors.TFIDF, "zero-shot"]
    assert {"LoRA", "PreLayer"} <= set(names[3:])
    assert re.match(r"learning rate 0\.\d+; accuracy 0\.\d+ on \d+ validation texts", table.rows[3][-1])
    assert any(note.startswith("Validation texts are a part of the training texts.") for note in table.notes)
    guess = "No training on a task of this kind was recorded, so the order"
    assert not any(note.startswith(guess) for note in table.notes)
    assert any(note.startswith(guess) for note in evidence(made.model_copy(update={"kind": "text"})).notes)
    assert any(note.startswith("LoRA is better than TF-IDF + logistic regression by ") for note in table.details)
    assert table.notes[-1] == (
        "Left out: full fine-tuning: it needs about 4.40 GiB of memory, and 3.00 GiB is available."
    )
    told = as_json(made, tmp_path / "out")
    assert told["recommendation"] == list(sentences(made))
    assert set(told) == {
        "task", "backbone", "kind", "metric", "recommended", "recommendation", "adapter", "rows", "comparisons",
        "dropped", "fewer",
        "train_examples", "examples", "minutes", "seconds", "stages",
    }  # fmt: skip
    assert list(told["rows"][3]) == [
        "name", "accuracy", "f1", "metrics", "method", "rate", "ended", "race",
        "validation", "validation_accuracy", "validation_examples", "weighed",
        "examples", "steps", "seconds", "memory", "adapter", "remark",
    ]  # fmt: skip
    assert Path(told["adapter"]).is_dir()


@pytest.mark.slow
def test_the_memory_is_that_of_the_gpu_or_of_the_largest_node_of_a_cluster(world: World) -> None:
    world.gpu = 2 * GIB
    assert set(world.choose("gpu", 60, memory=None).dropped) == {"full"}
    assert not world.choose("given", 60, memory=3 * GIB).dropped
    world.largest = 2 * GIB
    made = world.choose("cluster", memory=None)
    assert reasons(made)["full"] == "it needs about 4.40 GiB of memory, and 2.00 GiB is available"


@pytest.mark.slow
def test_a_floor_that_wins_is_ready_to_use_and_to_be_published(
    world: World, afina: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    world.task = easy_task(tmp_path)
    world.right = dict.fromkeys(world.right, 0.6)
    monkeypatch.setattr(by_name, "LocalExecutor", lambda slots, **_: world)
    options = ("--backbone", "embedded", "--minutes", 10, "--memory", "16GiB", "--out", "out", "--publish", "acme/easy")
    answer = afina("choose", world.task, *options)
    assert answer.code == 0, answer.err
    made = Results.read(Path("out")).recommendation
    assert made is not None
    assert made.recommended == floors.TFIDF
    contender = made.contender(floors.TFIDF)
    assert made.adapter == contender.adapter
    assert sentences(made)[0].startswith("Use TF-IDF + logistic regression, without a language model: accuracy ")
    assert sentences(made)[2].startswith("No trained language model is better")
    assert "its adapter needs no backbone" in sentences(made)[3]
    adapter = Adapter.load(find_adapter(Path("out")).path)
    texts = EvaluationSet.read(world.task, trained(adapter))
    assert texts.held_out
    found = evaluate(adapter, texts)
    assert (found.metrics["accuracy"], found.metrics["f1"]) == (contender.metrics["accuracy"], contender.metrics["f1"])
    assert f'To use it: afina predict out/{made.adapter} "Your text."\n' in answer.out
    assert "published acme/easy@1" in answer.out


def test_an_answer_that_is_always_the_same_is_nothing_to_open(world: World, tmp_path: Path) -> None:
    world.task = str(write_csv(tmp_path / "marks.csv", [("?!" * n, ("no", "yes")[n % 3 == 0]) for n in range(1, 400)]))
    world.right = dict.fromkeys(world.right, 0.1)
    made = world.choose()
    assert (made.recommended, made.adapter) == (floors.TFIDF, None)
    assert made.contender(floors.TFIDF).setting == "no words in the texts"
    assert sentences(made)[2].endswith("no adapter was saved, because it always gives the same answer.")
    assert not list((tmp_path / "out").glob("adapters/tfidf-*"))


def test_where_no_adapted_model_beats_the_model_as_it_is_that_is_recommended(world: World, tmp_path: Path) -> None:
    world.right = dict.fromkeys(world.right, 0.9) | {"zero-shot": 0.95}
    made = world.choose()
    assert made.recommended == "zero-shot"
    assert (tmp_path / "out" / (made.adapter or "nowhere")).is_dir()
    which, why, costs, sure, *_ = sentences(made)
    assert which.startswith("Use the untrained model, asked in words (zero-shot): accuracy ")
    assert why.startswith("No trained language model is better")
    assert "needs no training" in costs
    assert "zero-shot is better than " in sure


def test_a_method_that_validated_worse_wins_where_it_alone_beats_the_untrained(
    plenty: Plenty,
) -> None:
    def right(count: int) -> np.ndarray:
        return (np.arange(61) < count)[None]

    answers = {"prelayer": right(54), "lora": right(55)}
    simple = {floors.TFIDF: right(41), "zero-shot": right(54)}
    compared = compare(answers | simple)
    assert decide(["prelayer", "lora"], answers, simple, compared) == "lora"
    assert decide(["lora", "prelayer"], answers, simple, compared) == "lora"
    assert decide(["prelayer"], answers, simple, compared) == "zero-shot"
    assert decide(["prelayer", "lora"], answers, {floors.TFIDF: right(41)}, compared) == "prelayer"
    other = next(one.name for one in plenty.made.contenders if one.method == "lora")
    undecided = plenty.made.model_copy(update={"recommended": other, "comparisons": ()})
    assert "was best on the validation texts, but only " in sentences(undecided)[1]


@pytest.mark.parametrize(
    ("examples", "chosen"),
    [(4, "lora"), (400, floors.TFIDF)],  # four texts say less than recorded trainings, 400 texts say more
)
def test_few_held_out_texts_count_less_than_recorded_trainings(examples: int, chosen: str) -> None:
    def right(share: float) -> np.ndarray:
        return (np.arange(examples) < share * examples)[None]

    answers, simple = {"full": right(0.5), "lora": right(0.75)}, {floors.TFIDF: right(1.0)}
    compared = compare(answers | simple) if examples > 4 else []
    prior = Prior({"full": -0.2, "lora": 0.05, floors.TFIDF: -0.05}, 100)
    assert decide(["full", "lora"], answers, simple, compared) == floors.TFIDF
    assert decide(["full", "lora"], answers, simple, compared, prior=prior) == chosen


def test_recorded_trainings_with_few_labels_count_below_a_hundred_texts_alone() -> None:
    few, many = recorded_curves.FEW, recorded_curves.MANY
    found = [recorded_curves.lessons(labels) for labels in (2, 99, 100, 1_500)]
    assert found == [few, few, many, many]
    assert (many.asked, many.baselines, many.further) == ({0: None}, {}, frozenset())
    assert {one for order in few.orders.values() for one in order} == few.ahead.keys()
    assert few.baselines.keys() == {floors.MAJORITY, floors.TFIDF}


@pytest.mark.slow
def test_with_few_texts_recorded_trainings_decide_and_the_sentences_say_so(world: World, tmp_path: Path) -> None:
    world.task = str(write_csv(tmp_path / "few.csv", hard(30)))
    made = world.choose("out", 60)
    assert {one.steps for one in made.contenders if one.rate} == {FEW_STEPS}
    assert made.contender(made.recommended).trained
    few = next(one for one in sentences(made) if "held out" in one and "training texts or more" in one)
    assert few.startswith("With 24 texts to train on and 6 held out, your texts can hardly tell methods apart.")
    ranked = sorted((one for one in made.contenders if one.weighed is not None), key=lambda one: -(one.weighed or 0))
    worse = ranked[0].model_copy(update={"validation": 0.0})
    others = tuple(worse if one.name == worse.name else one for one in made.contenders)
    said = sentences(made.model_copy(update={"recommended": worse.name, "contenders": others}))
    assert any("was better in recorded trainings on other tasks" in one for one in said)
    assert not any("nearly as good" in one for one in said)


def test_what_is_undefined_is_won_by_nothing() -> None:
    answers = {"lora": np.full((1, 9), np.nan), "prelayer": np.ones((1, 9))}
    assert decide(["lora", "prelayer"], answers, {floors.TFIDF: np.zeros((1, 9))}, []) == "prelayer"
    assert decide(["lora"], answers, {floors.TFIDF: np.zeros((1, 9)), "zero-shot": answers["lora"]}, []) == floors.TFIDF


def test_a_metric_that_held_out_texts_do_not_have_chooses_nothing(tmp_path: Path) -> None:
    for name, label in (("train", "good,bad"), ("dev", "bad,bad")):
        rows = (f"text {number} of {name},{label.split(',')[number % 2]}" for number in range(20))
        (tmp_path / f"{name}.csv").write_text("\n".join(["text,label", *rows]), encoding="utf-8")
    with raises(InvalidData, code="metric.undefined", metric="auroc"):
        recommend(str(tmp_path), 1.0, metric="auroc", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_labels_that_are_no_words_are_not_asked_for(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def encoded(run: RunSpec, task: Task) -> Task:
        if run.asked.head == "words":
            raise InvalidStudy("the labels '0', '1' are no words", code="words.missing")
        return task

    world.task, scribe = easy_task(tmp_path), Scribe()
    with monkeypatch.context() as patch:
        patch.setattr(forecast_runs, "encoded", encoded)
        made = world.choose("out", 60, watcher=scribe)
    assert made.dropped["zero-shot"].why == "words"
    assert not world.asked
    note = no_words_note(("0", "1"), made.train_examples)
    assert sentences(made)[1] == note, "after the answer, which a page has in its heading"
    assert scribe.told.index(note) == 1, "after the line on the data"
    (left_out,) = [one for one in evidence(made).notes if one.startswith("Left out: zero-shot")]
    assert "--words" in left_out
    assert ".." not in left_out
    made = world.choose("given", 60, ask={"words": {"0": [" dull"], "1": [" warm"]}})
    assert made.unasked == ()


def test_where_nothing_fits_or_there_is_hardly_any_time_the_floors_answer(world: World) -> None:
    made = world.choose("out", memory=GIB)
    assert len(made.dropped) == 4
    assert made.recommended in (floors.MAJORITY, floors.TFIDF)
    assert not world.begun
    world.opening = 100.0
    made = world.choose("late", 2)
    assert made.recommended in (floors.MAJORITY, floors.TFIDF)
    assert made.dropped


def test_a_method_that_fails_is_dropped_and_if_all_fail_its_error_is_raised(world: World, tmp_path: Path) -> None:
    world.failing = {"full": "run full: it was made to fail."}
    assert reasons(world.choose())["full"] == "it was made to fail."
    world.failing = dict.fromkeys([*world.step, "zero-shot"], "it was made to fail.")
    with pytest.raises(AfinaError, match=r"^it was made to fail\.$"):
        world.choose("another")
    assert not (tmp_path / "another").exists()


def test_all_have_the_same_held_out_texts_and_earlier_records_are_kept(world: World, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    write_records(tmp_path / "out" / "records.jsonl", [record("lora", key="another's").sealed()])
    world.text = 0.2  # so slow that not all held-out texts can be scored
    made = world.choose("out", 10)
    assert made.examples < len(Task.load(world.task).evaluation)
    assert {run.data.evaluation_examples for run in world.carried + world.asked} == {made.examples}
    kept = [one.key for one in read_records(tmp_path / "out" / "records.jsonl")]
    assert kept[0] == "another's"
    assert len(kept) > 1


def test_leakage_is_judged_on_all_held_out_texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under 1 % of all held-out texts, but more of those that there is time to score."""
    (tmp_path / "task").mkdir()
    for name, rows in (
        ("train.csv", hard(600)),
        ("dev.csv", [*hard(1)[:1], *((f"held {n}", "no") for n in range(150))]),
    ):
        write_csv(tmp_path / "task" / name, rows)
    world = World(str(tmp_path / "task"), monkeypatch, tmp_path)
    world.text = 0.15
    made = world.choose()
    assert made.examples < 151
    assert world.carried
    assert all(run.data.allow_leakage for run in world.carried)


# A linear probe


@pytest.fixture
def probed(world: World, monkeypatch: pytest.MonkeyPatch) -> World:
    """With the linear probe among the candidates."""
    monkeypatch.setattr(METHODS["linear_probe"], "is_fitted", True)
    return world


def test_the_linear_probe_comes_first_and_has_no_rate_and_is_not_measured(probed: World) -> None:
    made = probed.choose("out", 60)
    assert next(one.name for one in made.contenders if one.trained) == "linear_probe"
    assert [run.method for run in probed.begun[:3]] == ["linear_probe", "zero-shot", "full"]
    (first, *others) = [run for run in probed.carried if run.data.selection]
    assert (first.method, first.training.learning_rate, first.training.max_steps) == ("linear_probe", None, None)
    assert {run.data.train_examples for run in others} == {first.data.train_examples}
    assert [run.training.max_steps for run in others] == [180] * len(others)
    row = next(row for row in evidence(made).rows if row[0] == "linear probe")
    assert re.match(r"accuracy 0\.7000 on 240 validation texts$", row[-1])
    assert sentences(made)[4].startswith("More minutes would change little")


def test_a_linear_probe_that_is_best_is_fitted_again_on_all_and_half_of_the_texts(probed: World) -> None:
    """Words of the labels are for other methods."""
    probed.right |= {"linear_probe": 1.0, "full": 0.8, "lora": 0.8, "prelayer": 0.8}
    ask = {"words": {"no": ["bad"], "yes": ["good"]}, "head": "words"}
    made = probed.choose("out", 60, ask=ask)
    assert made.recommended == "linear_probe"
    assert [(run.method, run.data.train_examples) for run in probed.carried[-2:]] == [
        ("linear_probe", 1_200),
        ("linear_probe", 600),
    ]
    assert sentences(made)[0].startswith("Use linear probe: accuracy 1.00")
    heads = {run.method: run.ask for run in probed.carried}
    assert heads["linear_probe"] == Ask(head="random")
    assert heads["full"].words == {"no": ("bad",), "yes": ("good",)}


# Encoders


@pytest.mark.slow
def test_an_encoder_that_cannot_do_the_task_is_left_out_or_refused(
    world: World, tmp_path: Path, backbones: Any
) -> None:
    encoder, ask = str(backbones.path("bert")), {"words": {"no": ["bad"], "yes": ["good"]}}
    rows = [(text, f"the answer {label}") for text, label in fakes.sentences(60)]
    path, read = str(write_csv(tmp_path / "text.csv", rows)), {"kind": "text"}
    with raises(InvalidStudy, code="backbone.encoder-unsupported"):
        recommend(path, 1.0, backbone=encoder, out=tmp_path / "refused", data=read)
    with raises(InvalidStudy, code="backbone.encoder-unsupported", backbones=[Path(encoder).name]):
        world.choose("refused", 60, backbone=encoder, ask=ask)
    assert not (tmp_path / "refused").exists()
    made = world.choose("out", 60, backbone=["embedded", encoder], ask=ask)
    assert {one.backbone for one in made.contenders if one.method} == {"embedded"}
    (why,) = [why for name, why in reasons(made).items() if name.startswith("every method on ")]
    assert "an encoder, which cannot be asked in words" in why
    made = world.choose("unasked", 60, backbone=["embedded", encoder])
    assert [run.backbone for run in world.asked] == ["embedded"] * 2
    assert encoder in {one.backbone for one in made.contenders if one.trained}


# Several backbones


def test_of_several_backbones_a_method_on_one_of_them_is_recommended(world: World, tmp_path: Path) -> None:
    world.worse = {"embedded": 0.9}
    results = world.recommend("out", 60, backbone=["embedded", "gpt2"])
    made = results.recommendation
    assert made is not None
    assert (made.backbone, made.backbones) == ("gpt2", ("embedded", "gpt2"))
    chosen = made.contender(made.recommended)
    assert (chosen.method, chosen.backbone) == ("full", "gpt2")
    trained = [one.name for one in made.contenders if one.trained]
    expected = [f"{one.name}-on-{name}" for one in in_order(world.step, "classes") for name in ("embedded", "gpt2")]
    assert sorted(trained) == sorted(expected)
    assert trained[:4] == ["full-on-embedded", "full-on-gpt2", "full-0.0003-on-embedded", "full-0.0003-on-gpt2"]
    assert {run.backbone for run in world.carried} == {"embedded", "gpt2"}
    compared = {name.partition("-on-")[2] for one in made.comparisons for name in (one.first, one.second)}
    assert compared == {"", "embedded", "gpt2"}
    assert re.match(
        r"Use full fine-tuning( at learning rate 3\.33e-05)? on gpt2: accuracy 1\.00 on ", sentences(made)[0]
    )
    assert "Other methods on the held-out texts: LoRA on gpt2 (0.9" in sentences(made)[1]
    assert "zero-shot on embedded" in [row[0] for row in evidence(made).rows]
    assert any(note.startswith("No training was recorded on gpt2: the order") for note in evidence(made).notes)
    told = as_json(made, tmp_path / "out")
    assert (told["backbone"], told["backbones"]) == ("gpt2", ["embedded", "gpt2"])
    assert {row["backbone"] for row in told["rows"]} == {None, "embedded", "gpt2"}
    assert Results.read(tmp_path / "out") == results
    assert find_adapter(tmp_path / "out", "lora-on-embedded").path.name.startswith("lora-on-embedded-seed0-")


def test_without_a_given_backbone_the_packaged_encoder_and_language_model_are_compared(world: World) -> None:
    made = world.choose("out", 60, backbone=None)
    assert made.backbones == ("bge", "embedded")
    assert {one.backbone for one in made.contenders if one.trained} == {"bge", "embedded"}


# The answer so far


def test_the_smallest_backbone_is_probed_first_and_answers_before_others_are_judged(
    probed: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    scribe, judged = Scribe(), list[int]()
    monkeypatch.setattr(recommending, "eligible", lambda *given: judged.append(len(scribe.changes)) or judge(*given))
    made = probed.choose("out", 60, backbone=["gpt2", "embedded"], watcher=scribe)
    assert [run.title for run in probed.begun[:2]] == ["linear_probe-on-gpt2", "linear_probe-on-embedded"]
    assert judged == [1]
    so_far = scribe.changes[0].recommendation
    assert so_far is not None
    assert (so_far.recommended, so_far.early) == ("linear_probe-on-gpt2", True)
    assert so_far.waiting == ["every other method on gpt2", "every method on embedded"]
    assert not made.early
    assert not made.waiting
    assert {one.name for one in so_far.contenders} < {one.name for one in made.contenders}


class Interrupted(World):
    """A world in which the user presses Ctrl-C in the run of a number, counted from 1."""

    def carry_out(self, run: Run, out: Path, study: str, listen: Any, until: float | None = None) -> Record:
        if len(self.begun) == self.at - 1:
            self.at = 0
            raise KeyboardInterrupt
        return super().carry_out(run, out, study, listen, until)

    at = 1


@pytest.mark.parametrize("at", [2, 3, 5, 8, 9])
def test_ctrl_c_ends_with_the_best_so_far(
    hard_task: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, at: int
) -> None:
    world, scribe = Interrupted(hard_task, monkeypatch, tmp_path), Scribe()
    world.at = at
    made = world.choose("out", 60, watcher=scribe)
    assert made.early
    assert scribe.told[-1] == "ending with the best so far"
    assert len(world.begun) == at - 1
    assert Results.read(tmp_path / "out").recommendation == made
    assert not (tmp_path / "out" / SCRATCH).exists()
    so_far = [one.recommendation for one in scribe.changes[:-1]][-1]
    assert so_far is not None
    assert (made.recommended, made.waiting, made.comparisons) == (
        so_far.recommended,
        so_far.waiting,
        so_far.comparisons,
    )
    assert made.adapter is None or made.adapter in [
        one.record.adapter for one in Results.read(tmp_path / "out").results
    ]
    said = " ".join(sentences(made))
    assert f"The choice was ended after {made.seconds:,.0f} s of 60 minutes." in said
    assert "in 60 minutes" not in said
    assert all(f"{why}" == "the choice was ended before" for name, why in reasons(made).items() if name in made.waiting)
    assert bool(made.waiting) == (at < 9), "after that, only the selected one is trained again"


def test_ctrl_c_before_an_answer_or_twice_ends_at_once(
    hard_task: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    world = Interrupted(hard_task, monkeypatch, tmp_path)
    with pytest.raises(KeyboardInterrupt):
        world.choose("out", 60)
    assert not (tmp_path / "out").exists()

    class Twice(Scribe):
        def says(self, words: str) -> None:
            if words == "ending with the best so far":
                raise KeyboardInterrupt

    world = Interrupted(hard_task, monkeypatch, tmp_path)
    world.at = 3
    with pytest.raises(KeyboardInterrupt):
        world.choose("out", 60, watcher=Twice())
    assert not (tmp_path / "out" / "recommendation.json").exists()


def test_a_recommendation_of_an_earlier_version_was_not_ended_early() -> None:
    made = Recommendation.model_fields["early"]
    assert made.default is False
    assert "early" not in Recommendation.model_json_schema()["required"]


MOMENTS = ("So far the best", "forecasting which methods", "training full", "training lora")


@pytest.mark.slow
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_command_that_ctrl_c_ends_leaves_an_adapter_that_predicts(
    tmp_path: Path, backbones: Any, moment: str
) -> None:
    path, out = write_csv(tmp_path / "easy.csv", fakes.sentences(300)), tmp_path / "out"
    on = [word for family in ("bert", "gpt2") for word in ("--backbone", str(backbones.path(family)))]
    command = [*PROGRAM, "choose", str(path), *on, "--minutes", "5", "--out", str(out)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        lines = iter(process.stderr)
        said = next(line for line in lines if "So far the best: " in line)
        assert re.search(
            r"accuracy \d\.\d+ \(\d\.\d+ to \d\.\d+\) on \d+ held-out texts; next, if there is time: ", said
        )
        if moment != MOMENTS[0]:
            next(line for line in lines if moment in line.replace("LoRA", "lora"))
        process.send_signal(signal.SIGINT)
        printed, errors = process.communicate()
    assert (process.returncode, "Traceback" in errors) == (0, False), errors
    made = Results.read(out).recommendation
    assert made is not None
    assert made.early
    assert made.waiting
    assert "The choice was ended after " in " ".join(printed.split())
    assert (out / "report.html").is_file()
    assert made.adapter is not None
    assert len(Adapter.load(out / made.adapter).digest) > 10
    answered = subprocess.run([*PROGRAM, "predict", str(out / made.adapter), "a text"], capture_output=True, text=True)
    assert answered.returncode == 0, answered.stderr


# A student


@pytest.fixture
def more(world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """A file of texts without labels, in a world in which gpt2 takes ten times as long for a text as others."""
    monkeypatch.setattr(students, "milliseconds", lambda setting, way, bare: 30.0 if way.backbone == "gpt2" else 3.0)
    return str(write_csv(tmp_path / "more.csv", [(f"more {text}",) for text, _ in hard(600)], ("text",)))


def test_of_texts_without_labels_the_second_answer_is_a_faster_student(world: World, more: str, tmp_path: Path) -> None:
    world.worse = {"embedded": 0.9}
    made = world.choose(minutes=60, backbone=["embedded", "gpt2"], data={"unlabelled": more})
    student, run = made.student, world.carried[-1]
    assert made.backbone == "gpt2"
    assert student is not None
    assert (run.title, run.backbone, run.data.unlabelled) == ("distilled-on-embedded", "embedded", more)
    assert run.teacher is not None
    assert run.teacher.path == str(tmp_path / "out" / str(made.adapter))
    assert run.training.max_steps == EPOCHS * math.ceil((made.train_examples + 600) / 16)
    assert all(one.data.unlabelled is None and one.teacher is None for one in world.carried[:-1])
    assert made.stages["a student"] <= students.SHARE * 3600
    said = sentences(made)[1]
    assert re.match(
        r"embedded, distilled: accuracy 0\.\d+, \d+\.\d points \(95 % interval .* less, 10 times as fast", said
    )
    assert student.available == 600
    assert " labelled texts and 600 texts without labels, in " in sentences(made)[2]
    told = as_json(made, tmp_path / "out")["student"]
    assert told["adapter"] == str(tmp_path / "out" / student.adapter)
    assert find_adapter(tmp_path / "out", "distilled-on-embedded").path == tmp_path / "out" / student.adapter
    assert Results.read(tmp_path / "out").recommendation == made


@pytest.mark.parametrize(("given", "expected"), [(["gpt2"], BGE), (["gpt2", "embedded"], BGE), ([BGE, "gpt2"], MINILM)])
def test_where_no_given_backbone_is_faster_the_student_learns_on_a_packaged_encoder(
    world: World, more: str, given: list[str], expected: str
) -> None:
    times = {"gpt2": 30.0, "embedded": 40.0, BGE: 10.0, MINILM: 5.0}
    world.patch.setattr(students, "milliseconds", lambda setting, way, bare: times[way.backbone])
    world.worse = dict.fromkeys(given[1:], 0.9)
    made = world.choose(minutes=60, backbone=given, data={"unlabelled": more})
    assert made.backbone == given[0]
    assert made.student is not None
    assert (made.student.backbone, world.carried[-1].title) == (expected, f"distilled-on-{expected}")


def test_a_student_whose_steps_do_not_fit_begins_again_with_fewer(world: World, more: str) -> None:
    world.worse, world.step = {"embedded": 0.9}, {"full": 6.0}
    made = world.choose(minutes=60, backbone=["embedded", "gpt2"], data={"unlabelled": more})
    assert made.student is not None
    tried = [run.training.max_steps or 0 for run in world.begun if run.teacher]
    assert len(tried) == 2
    assert ENOUGH <= tried[1] < tried[0]


def test_the_minutes_that_a_missing_student_asks_for_suffice(world: World, more: str) -> None:
    world.worse, world.text = {"embedded": 0.9}, 0.05
    given = {"backbone": ["embedded", "gpt2"], "data": {"unlabelled": more}}
    said = sentences(world.choose(minutes=20, **given))[1]
    found = re.fullmatch(r"No student was trained: the teacher had no time .*\. Give at least (\d+) minutes\.", said)
    assert found is not None, said
    made = world.choose("again", minutes=int(found[1]), **given)
    assert made.student is not None
    fewer = made.student.model_copy(update={"unlabelled": 400, "available": 600})
    said = sentences(made.model_copy(update={"student": fewer}))[2]
    assert " labelled texts and 400 of the 600 texts without labels, in " in said
    assert "More minutes would use more of the texts without labels." in said


def test_answers_in_bfloat16_are_expected_to_take_less_time_than_the_evaluation() -> None:
    made = record(seconds=Seconds(load=0, encode=0, train=9, evaluate=60, save=0), examples=500)
    validated = made.model_copy(update={"selection": Selection(value=0.5, loss=0.5, examples=100)})
    other = made.environment.model_copy(update={"dtype": "bfloat16"})
    assert students._seconds_of_text(made) == 0.12
    assert students._seconds_of_text(validated) == 0.1
    assert students._seconds_of_text(validated.model_copy(update={"environment": other})) == pytest.approx(0.055)


def test_without_a_faster_backbone_or_a_language_model_there_is_no_student_and_the_reason_is_said(
    world: World, more: str
) -> None:
    for worse, why in (
        ({"gpt2": 0.9}, "no other backbone answers faster"),
        ({"gpt2": 0.1, "embedded": 0.1}, "no language"),
    ):
        world.worse = worse
        made = world.choose(f"out {why}", backbone=["embedded", "gpt2"], data={"unlabelled": more})
        assert made.student is None
        assert why in sentences(made)[1]


@pytest.mark.parametrize(
    ("examples", "expected"),
    [
        (1_000_000, {"a": 0.7, "b": 0.9}),  # what was measured
        (1e-6, {"a": 0.85, "b": 0.75}),  # what was expected, around the level of the task
        (100, {"a": 0.775, "b": 0.825}),  # both count alike
    ],
)
def test_the_level_of_a_backbone_is_between_what_was_measured_and_what_was_expected(
    examples: float, expected: dict[str, float]
) -> None:
    residuals = {"a": [0.6, 0.8], "b": [0.9, 0.9, 0.9]}
    counts, levels = {"a": 1e9, "b": 1e9}, {"a": 0.05, "b": -0.05}
    found = candidates.backbone_levels(residuals, counts, levels, 100, examples)  # type: ignore[arg-type]
    assert found == pytest.approx(expected, abs=1e-4)
    alone = candidates.backbone_levels({"a": [0.6, 0.8]}, counts, levels, 100, examples)  # type: ignore[arg-type]
    assert alone == pytest.approx({"a": 0.7})


@pytest.mark.parametrize(("texts", "chosen"), [(150, "embedded"), (1_500, "bert")])
def test_with_few_texts_recorded_trainings_choose_the_backbone(
    world: World, tmp_path: Path, backbones: Any, texts: int, chosen: str
) -> None:
    """The encoder is 4 points better here, and was 10 points worse in the recorded trainings."""
    if texts != len(hard(1_500)):
        world.task = str(write_csv(tmp_path / "few.csv", hard(texts)))
    encoder = str(backbones.path("bert"))
    world.right |= {"full": 0.9, "lora": 0.9, "prelayer": 0.9}
    world.worse = {"embedded": 0.96}
    taught = replace(recorded_curves.MANY, levels={"causal": 0.049, "encoder": -0.049}, level_counts=100)
    world.patch.setattr(recorded_curves, "lessons", lambda labels: taught)
    made = world.choose("out", 120, backbone=["embedded", encoder])
    ranked = sorted((one for one in made.contenders if one.weighed), key=lambda one: one.weighed or 0, reverse=True)
    assert ranked[0].backbone == {"embedded": "embedded", "bert": encoder}[chosen]


def test_trainings_on_a_fast_backbone_are_longer_than_those_on_a_slow_one(world: World) -> None:
    world.speed, world.worse = {"gpt2": 15.0}, {"gpt2": 0.95}
    world.step = dict.fromkeys(world.step, 4.0)
    made = world.choose("out", 20, backbone=["embedded", "gpt2"])
    steps = {
        name: {run.training.max_steps for run in world.carried if run.backbone == name and run.data.selection}
        for name in ("embedded", "gpt2")
    }
    assert steps["gpt2"] == {EPOCHS * math.ceil(1_200 * 0.8 / 16)}
    assert len(steps["embedded"]) == 1
    assert max(steps["embedded"]) <= math.ceil(1_200 * 0.8 / 16)
    assert made.contender(made.recommended).backbone == "embedded"


# Latency


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> dict[Any, float]:
    """Milliseconds of an answer: by backbone without a method, and by way; those that were measured say so."""
    times: dict[Any, float] = {}

    def milliseconds(setting: ChoiceSetup, way: Way, *, bare: bool) -> float:
        return times[way.backbone if bare else way]

    monkeypatch.setattr(eligibility, "milliseconds", milliseconds)
    return times


def test_a_backbone_that_is_too_slow_is_left_out_whole(world: World, answers: dict[Any, float]) -> None:
    answers |= {"embedded": 40.0, "gpt2": 4.0}
    made = world.choose("out", 60, backbone=["embedded", "gpt2"], latency=20)
    assert {one.backbone for one in made.contenders} == {None, "gpt2"}
    assert reasons(made) == {"every method on embedded": "an answer takes 40 ms, which is more than allowed"}
    assert {run.backbone for run in world.begun} == {"gpt2"}
    assert sentences(made)[0].endswith(" An answer to a single text takes 4 ms here; at most 20 ms are allowed.")
    told = "Answers to single texts, on the machine that chose: embedded 40 ms, gpt2 4 ms (median of"
    assert any(note.startswith(told) for note in evidence(made).notes)
    assert as_json(made, Path())["latencies"] == {"embedded": 40.0, "gpt2": 4.0}


def test_a_method_that_may_be_too_slow_is_measured(world: World, answers: dict[Any, float]) -> None:
    each = {"full": 15.0, "lora": 22.0, "prelayer": 15.0, "zero-shot": 25.0}
    answers |= {"embedded": 15.0} | {Way("embedded", method): time for method, time in each.items()}
    made = world.choose("out", 60, latency=20)
    assert reasons(made) == {
        "lora": "an answer takes 22 ms, which is more than allowed",
        "zero-shot": "an answer takes 25 ms, which is more than allowed",
    }
    assert made.latencies == {"embedded": 15.0} | each
    assert {run.method for run in world.carried + world.asked} == {"full", "prelayer"}
    assert "An answer to a single text takes 15 ms here" in sentences(made)[0]


def test_if_no_model_is_fast_enough_the_error_has_the_times(
    world: World, tmp_path: Path, answers: dict[Any, float]
) -> None:
    answers |= {"embedded": 40.25, "gpt2": 4.0}
    with raises(InvalidStudy, code="choose.too-slow", measured=answers) as caught:
        world.choose("out", backbone=["embedded", "gpt2"], latency=2)
    assert "Measured: embedded 40.2 ms, gpt2 4 ms." in str(caught.value)
    assert not world.begun
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_the_time_of_an_answer_is_measured_in_a_process_of_its_own(gpt2: Backbone, toy: str) -> None:
    task, objective = Task.load(toy), objectives.make(("bad", "good"))
    clock = TimeBudget(meter.now(), 1.0)
    given = (task, ReadingOptions(), (gpt2.address,), Ask(), clock, Watcher(), LocalExecutor(), objective, "accuracy")
    setting = ChoiceSetup(*given)
    bare = eligibility.milliseconds(setting, Way(gpt2.address, "lora"), bare=True)
    assert 0.1 < bare < 1_000
    run = setting.run(Way(gpt2.address, "lora"), train_examples=20, evaluation_examples=9)
    assert [len(answer_seconds(run, texts, bare=False)) for texts in (4, 20)] == [4, 6]


def test_no_backbone_and_data_and_watcher_of_another_type_are_refused(toy: str, tmp_path: Path) -> None:
    with raises(InvalidData, code="argument.invalid", found=[]):
        recommend(toy, 1.0, backbone=[], out=tmp_path / "out")
    with raises(InvalidData, code="data.type-wrong", argument="data", found="list"):
        recommend(toy, 1.0, data=["label"], out=tmp_path / "out")  # type: ignore[arg-type]
    with raises(InvalidStudy, code="option.invalid", option="watcher"):
        recommend(toy, 1.0, watcher=print, out=tmp_path / "out")  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


# As a user types it


def test_it_writes_its_page_and_prints_where_that_is(
    world: World, afina: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(by_name, "LocalExecutor", lambda slots, **_: world)
    options = ("--backbone", "embedded", "--minutes", 10, "--memory", "16GiB", "--out", "out")
    answer = afina("choose", world.task, *options)
    assert answer.code == 0, answer.err
    page, text = Path("out/report.html"), Path("out/report.md").read_text(encoding="utf-8")
    assert f"page    {page}\n" in answer.out
    assert text.startswith(f"# Which method for `{world.task}`\n\n## Recommendation\n\nUse full fine-tuning")
    assert "Use full fine-tuning" in page.read_text(encoding="utf-8")
    assert re.search(
        r"^To use it: afina predict out/adapters/full[-.\w]*-seed0-\w+ \"Your text\.\"$", answer.out, re.MULTILINE
    )
    assert f"page    {page}\n" in afina("show", "out").out


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--minutes", "inf"), "--minutes inf: expected more than 0"),
        (("--latency", "0"), "--latency 0: expected more than 0. Give milliseconds."),
        (("--backbone", "gpt2", "--backbone", "gpt2"), "--backbone: gpt2 is given twice. Give each backbone once."),
        (("--backbone", "./nope"), "backbone ./nope: there is no directory ./nope."),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_options_that_cannot_be_meant_are_told(afina: Command, toy: str, options: tuple[str, ...], told: str) -> None:
    assert afina("choose", "--task", toy, *options).error.startswith(told)
    assert not Path("results/choose").exists()


@pytest.mark.slow
def test_a_real_model_ends_in_time_with_an_adapter_that_works(afina: Command, gpt2: Backbone, tmp_path: Path) -> None:
    task = write_csv(tmp_path / "hard.csv", hard(200))
    start = time.perf_counter()
    answer = afina("choose", "--task", task, "--backbone", gpt2.address, "--minutes", 1, "--json", "--out", "out")
    assert time.perf_counter() - start < 1.1 * 60
    made = answer.object()
    assert len(made["recommendation"]) == 6
    assert made["recommendation"][0].startswith("Use "), "the answer comes first"
    evaluated = [row for row in made["rows"] if row["adapter"] and row["steps"]]
    assert evaluated, made
    again = afina("evaluate", evaluated[0]["adapter"], "--task", task, "--check-probe", "--json").object()
    assert again["accuracy"] == pytest.approx(evaluated[0]["accuracy"], abs=1e-9)
    recommended = Results.read(Path("out")).recommendation
    assert recommended is not None
    # The command adds the interval of the answer, which it computes from the predictions.
    assert as_json(recommended, Path("out")) | {"recommendation": made["recommendation"]} == made
    assert afina("show", "out", "--json").object() == made


def test_a_recommendation_is_the_same_without_its_events(
    hard_task: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with_events = World(hard_task, monkeypatch, tmp_path / "with").choose()
    assert OutputDirectory(tmp_path / "with" / "out").events.is_file()
    monkeypatch.setattr(recommending, "EventFile", lambda path, passed, anew: passed)
    without = World(hard_task, monkeypatch, tmp_path / "without").choose()
    assert not OutputDirectory(tmp_path / "without" / "out").events.exists()
    assert with_events.sealed() == without.sealed()


def test_products_in_int8_are_those_of_methods_that_int8_suits(world: World) -> None:
    scribe = Scribe()
    made = world.choose(minutes=60, products="int8", watcher=scribe)
    trained = {run.method: run.training.products for run in world.carried}
    assert (trained["lora"], trained["full"], made.products) == ("int8", "float", "int8")
    assert as_json(made, Path())["products"] == "int8"
    assert "trainings compute products with frozen weights in int8" in scribe.told
    said = {name: " ".join(sentences(made.model_copy(update={"recommended": name}))) for name in ("lora", "full")}
    assert {name: "texts, with products in int8" in each for name, each in said.items()} == {
        "lora": True,
        "full": False,
    }
    assert "products" not in as_json(made.model_copy(update={"products": "float"}), Path())
