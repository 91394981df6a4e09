"""Tuning: the same budget for every method, chosen on a cut of the training split, and nothing left behind."""

from __future__ import annotations

import json
import math
import threading
import time
from collections import defaultdict
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import psutil
import pytest

from afina import Backbone, Study, Task
from afina.data.reading_options import ReadingOptions
from afina.errors import Diverged, InvalidData, RunFailed
from afina.events import ValidationScore
from afina.predicting import predictor
from afina.report.progress import attempt
from afina.studies import trials, tuning
from afina.studies.executors.executor import Executor, Lost
from afina.studies.executors.local_executor import LocalExecutor
from afina.studies.results import Results
from afina.studies.runs import execute
from afina.studies.runs.output_directory import OutputDirectory
from afina.studies.runs.run import Run
from afina.studies.trials import SPREAD, Trial, Tuned
from afina.studies.watcher import Watcher
from afina.training.settings import Training
from command import Command, HereExecutor, study_file
from fakes import sentences, write_csv
from raises import raises
from workers import is_worker

METHODS = ("baseline", "full", "lora")


class Noting(HereExecutor):
    """Carries out in this process, and notes the runs that are tried."""

    def __init__(self) -> None:
        super().__init__()
        self.tried: list[Run] = []

    def try_out(self, run: Run, *rest: Any) -> ValidationScore:
        self.tried.append(run)
        return super().try_out(run, *rest)


@pytest.fixture
def noting() -> Noting:
    return Noting()


class Invented(HereExecutor):
    """Scores are invented at once: the nearer the learning rate to 1e-3, the better. Notes each run and its stops."""

    def __init__(self, slots: int = 1) -> None:
        self.slots = slots
        self.tried: list[tuple[Run, list[int]]] = []

    def try_out(
        self, run: Run, shares: tuple[float, ...], limit: int | None, goes_on: Any, listen: Any, until: Any = None
    ) -> ValidationScore:
        stops = sorted({min(round(8 * share), limit or 8) for share in shares})
        tried = (run, [])
        self.tried.append(tried)
        for stop in stops:
            distance = abs(math.log10((run.training.learning_rate or 1) / 1e-3))
            score = ValidationScore(stop, 8, 100, round(0.9 - 0.2 * distance, 2), 0.5)
            tried[1].append(stop)
            if not goes_on(score):
                break
        return score


@pytest.fixture
def invented() -> Invented:
    return Invented()


@pytest.fixture
def in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep trials in this process, by the path of their database: to make its tables takes longer than a tuning."""
    kept: dict[Path, optuna.storages.InMemoryStorage] = defaultdict(optuna.storages.InMemoryStorage)
    monkeypatch.setattr(tuning, "_memory", lambda path: nullcontext(kept[path]))
    optuna.logging.set_verbosity(optuna.logging.ERROR)


def study(gpt2: Backbone, task: str, *methods: str, **changes: Any) -> Study:
    content: dict[str, Any] = {
        "name": "tuned",
        "backbone": gpt2.address,
        "task": task,
        "seeds": [0, 1],
        "train": {"max_steps": 8, "batch_size": 8, "dtype": "float32"},
        "tune": {"candidates": 3, "validation": 0.3},
        "methods": {method: {} for method in methods or METHODS},
    }
    return Study.parse(content | changes, "tuned")


def tune(this: Study, out: Path, executor: Executor, method: str = "lora") -> Tuned:
    """Tune one method alone."""
    out.mkdir(parents=True, exist_ok=True)
    run, space = this.spaces()[method]
    assert this.tune is not None
    return tuning.tune(run, space, this.tune, out, executor, Watcher(), lambda so_far: None)


# The cut


def test_the_cut_comes_from_the_training_split_alone_and_keeps_duplicates_together(tmp_path: Path) -> None:
    texts = [f"{text}{mark}" for text, _ in sentences(100) for mark in ("", " !", "?!")]
    source = str(write_csv(tmp_path / "all.csv", [(text, str(i % 2)) for i, text in enumerate(texts)]))
    whole = Task.load(source)
    cut = Task.load(source, validation=0.25)
    held, rest = list(cut.evaluation.texts), list(cut.train.texts)
    assert sorted(held + rest) == sorted(whole.train.texts)
    assert not {text.strip(" !?") for text in held} & {text.strip(" !?") for text in rest}
    assert cut.leaked == 0
    assert 0.1 < len(held) / len(whole.train) < 0.4
    # A text's side depends on no other text.
    fewer = Task.load(source, validation=0.25, train_examples=100)
    assert set(fewer.evaluation.texts) <= set(held)


# The choice


def test_a_candidate_whose_metric_is_undefined_loses_and_is_told_so() -> None:
    score = ValidationScore(4, 4, 20, float("nan"), 0.5)
    assert score.gain == float("-inf")
    tried = Trial(setting={"learning_rate": 1e-3}, steps=4, value=float("nan"), seconds=1.0)
    run = Run(backbone="b", task="t", method="lora")
    assert "the metric is undefined on the validation cut, so it loses" in attempt(run, 1, tried, 4)
    assert tried.model_dump(mode="json")["value"] is None


@pytest.mark.usefixtures("in_memory")
def test_every_method_takes_the_same_steps_and_the_best_candidate_is_chosen(
    gpt2: Backbone, invented: Invented, tmp_path: Path
) -> None:
    this = study(gpt2, "any", "full", "lora", "prelayer", tune={"candidates": 5})
    for method in this.methods:
        invented.tried.clear()
        made = tune(this, tmp_path, invented, method)
        assert made.steps == made.budget == 5 * 8 == sum(stops[-1] for _, stops in invented.tried)
        assert made.stopped > 0, "nothing was stopped early, so this test shows nothing"
        assert len(made.trials) == len(invented.tried) > 5
        finished = [one for one in made.trials if one.steps == 8]
        assert made.setting == max(finished, key=lambda one: one.value or 0).setting


@pytest.mark.usefixtures("in_memory")
def test_the_settings_own_values_are_tried_first(gpt2: Backbone, invented: Invented, tmp_path: Path) -> None:
    made = tune(study(gpt2, "any", methods={"lora": {"learning_rate": 2e-3, "r": 8}}), tmp_path, invented)
    assert made.trials[0].setting == {"learning_rate": 2e-3, "r": 8}
    assert {run.seed for run, _ in invented.tried} != {0}


@pytest.mark.usefixtures("in_memory")
def test_the_search_can_be_narrowed(gpt2: Backbone, invented: Invented, tmp_path: Path) -> None:
    search = {"learning_rate": [1e-4, 2e-4], "r": [3, 5], "targets": [["c_attn"], ["c_attn", "c_proj"]]}
    made = tune(study(gpt2, "any", methods={"lora": {"search": search}}), tmp_path, invented)
    for one in made.trials:
        assert 1e-4 <= one.setting["learning_rate"] <= 2e-4
        assert one.setting["r"] in (3, 5)
        assert one.setting["targets"] in search["targets"]
    assert all(run.hyperparameters["targets"] in search["targets"] for run, _ in invented.tried)


@pytest.mark.usefixtures("in_memory")
@pytest.mark.parametrize("pruner", ["successive-halving", "hyperband"])
def test_each_pruner_keeps_to_the_budget(gpt2: Backbone, invented: Invented, tmp_path: Path, pruner: str) -> None:
    this = study(gpt2, "any", tune={"candidates": 4, "pruner": pruner})
    assert tune(this, tmp_path, invented, "full").steps == tune(this, tmp_path, invented, "lora").steps == 32


@pytest.mark.usefixtures("in_memory")
def test_what_was_tried_depends_on_the_seed_alone(gpt2: Backbone, invented: Invented, tmp_path: Path) -> None:
    def settings(out: str, seed: int) -> list[Any]:
        made = tune(study(gpt2, "any", tune={"candidates": 3, "seed": seed}), tmp_path / out, invented)
        return [(one.setting, one.steps, one.value) for one in made.trials]

    assert settings("one", 0) == settings("two", 0)
    assert settings("three", 1)[1:] != settings("one", 0)[1:]


@pytest.mark.slow
def test_tuning_is_not_repeated_and_more_budget_goes_on(gpt2: Backbone, invented: Invented, tmp_path: Path) -> None:
    first = tune(study(gpt2, "any"), tmp_path, invented)
    tried = len(invented.tried)
    assert tune(study(gpt2, "any"), tmp_path, invented) == first
    assert len(invented.tried) == tried
    more = tune(study(gpt2, "any", tune={"candidates": 4, "validation": 0.3}), tmp_path, invented)
    assert more.trials[:tried] == first.trials
    assert more.steps == first.steps + 8
    # Another setting is another tuning.
    tune(study(gpt2, "any", methods={"lora": {"alpha": 8}}), tmp_path, invented)
    assert len(invented.tried) > len(more.trials)


PRUNERS = ("median", "successive-halving", "hyperband")


@pytest.mark.slow
@pytest.mark.usefixtures("in_memory")
@pytest.mark.parametrize(
    ("candidates", "after", "pruner", "at_once"),
    [
        *((5, after, PRUNERS[after % 3], at_once) for after in (0, 2, 4) for at_once in (1, 3)),
        (16, 14, "hyperband", 1),  # by now its brackets have trials enough to draw from
        (16, 14, "hyperband", 3),
    ],
)
def test_interrupted_anywhere_the_same_is_tried_and_chosen(
    gpt2: Backbone, invented: Invented, tmp_path: Path, candidates: int, after: int, pruner: str, at_once: int
) -> None:
    this = study(gpt2, "any", tune={"candidates": candidates, "pruner": pruner, "at_once": at_once})
    reference = tune(this, tmp_path / "undisturbed", invented)
    assert len(reference.trials) > 4

    class Interrupted(Invented):
        def try_out(self, run: Run, shares: Any, limit: Any, goes_on: Any, *rest: Any) -> ValidationScore:
            if len(self.tried) == after:
                goes_on(ValidationScore(2, 8, 100, 0.99, 0.1))  # it had been scored, and better than it will be
                raise KeyboardInterrupt
            return super().try_out(run, shares, limit, goes_on, *rest)

    with pytest.raises(KeyboardInterrupt):
        tune(this, tmp_path / "killed", Interrupted())
    assert figures(tune(this, tmp_path / "killed", invented)) == figures(reference)


def figures(one: Tuned) -> Any:
    """What was tried and chosen, without what it took."""
    return one.model_dump(exclude={"trials": {"__all__": {"seconds"}}})


# Several settings at once


class Waiting(Invented):
    """Candidates of a batch end one after the other, the last that began first, where they go on at once."""

    def __init__(self, slots: int) -> None:
        super().__init__(slots)
        self.together, self.most = 0, 0
        self.changed = threading.Condition()

    def try_out(self, *asked: Any) -> ValidationScore:
        with self.changed:
            self.together += 1
            mine = self.together
            self.most = max(self.most, self.together)
            self.changed.notify_all()
            # not for ever: the last batch is smaller, and a pruned candidate leaves room
            self.changed.wait_for(lambda: self.together > mine or self.together == self.slots, 0.05)
        if mine < self.together:
            time.sleep(0.005)
        score = super().try_out(*asked)
        with self.changed:
            self.together -= 1
        return score


@pytest.mark.slow
@pytest.mark.usefixtures("in_memory")
@pytest.mark.parametrize("pruner", ["median", "hyperband"])
def test_trials_depend_on_at_once_and_never_on_slots(gpt2: Backbone, tmp_path: Path, pruner: str) -> None:
    """An executor never changes what is chosen."""
    this = study(gpt2, "any", tune={"candidates": 5, "pruner": pruner, "at_once": 3})
    made = {}
    for slots in (1, 2, 3):
        executor = Waiting(slots)
        made[slots] = figures(tune(this, tmp_path / str(slots), executor))
        assert executor.most == slots, "they did not go on at once, so this test shows nothing"
    assert made[1] == made[2] == made[3]
    alone = study(gpt2, "any", tune={"candidates": 5, "pruner": pruner})
    assert figures(tune(alone, tmp_path / "alone", Waiting(3))) != made[1]


@pytest.mark.usefixtures("in_memory")
def test_candidates_of_a_batch_are_stopped_by_earlier_batches_alone(gpt2: Backbone, tmp_path: Path) -> None:
    executor = Invented()
    tune(study(gpt2, "any", tune={"candidates": 4, "at_once": 4}), tmp_path, executor)
    first, later = executor.tried[:4], executor.tried[4:]
    assert {tuple(stops) for _, stops in first} == {(2, 4, 8)}, "nothing had been told that could stop one of them"
    assert later == [], "they took the whole budget"
    executor = Invented()
    tune(study(gpt2, "any", tune={"candidates": 8, "at_once": 4}), tmp_path / "more", executor)
    assert any(stops[-1] < 8 for _, stops in executor.tried[4:])


@pytest.mark.usefixtures("in_memory")
def test_one_at_a_time_is_in_no_name(gpt2: Backbone, tmp_path: Path) -> None:
    one, three = (study(gpt2, "any", tune={"candidates": 3, "at_once": count}) for count in (1, 3))
    assert one == study(gpt2, "any", tune={"candidates": 3})
    executor = Invented()
    tune(one, tmp_path, executor)
    before = len(executor.tried)
    tune(three, tmp_path, executor)
    assert len(executor.tried) > before, "another way of tuning took over the trials of this one"


@pytest.mark.usefixtures("in_memory")
@pytest.mark.parametrize("slots", [1, 3])
def test_a_batch_of_which_one_fails_is_begun_again(gpt2: Backbone, tmp_path: Path, slots: int) -> None:
    this = study(gpt2, "any", tune={"candidates": 5, "at_once": 3})
    reference = figures(tune(this, tmp_path / "undisturbed", Invented()))

    class Failing(Invented):
        def try_out(self, run: Run, *rest: Any) -> ValidationScore:
            if len(self.tried) == 4:
                self.tried.append((run, []))
                raise RunFailed("the fifth failed")
            return super().try_out(run, *rest)

    with pytest.raises(RunFailed, match="the fifth failed"):
        tune(this, tmp_path / "failed", Failing(slots))
    assert figures(tune(this, tmp_path / "failed", Invented(slots))) == reference


@pytest.mark.usefixtures("in_memory")
def test_a_candidate_whose_machine_is_lost_is_tried_again(gpt2: Backbone, tmp_path: Path) -> None:
    class Losing(Invented):
        left = 2

        def try_out(self, run: Run, shares: Any, limit: Any, goes_on: Any, *rest: Any) -> ValidationScore:
            self.left -= 1
            if self.left >= 0:
                goes_on(ValidationScore(2, 8, 100, 0.9, 0.5))  # it was scored, and then its machine was lost
                raise Lost("a node")
            return super().try_out(run, shares, limit, goes_on, *rest)

    this = study(gpt2, "any")
    assert figures(tune(this, tmp_path / "lost", Losing())) == figures(tune(this, tmp_path / "kept", Invented()))


def test_where_no_candidate_finishes_it_says_what_to_do(gpt2: Backbone, tmp_path: Path) -> None:
    class Diverges(HereExecutor):
        def try_out(self, run: Run, shares: Any, limit: Any, goes_on: Any, *rest: Any) -> ValidationScore:
            score = ValidationScore(min(3, limit or 3), 8, 100, None, None)
            goes_on(score)
            return score

    with raises(RunFailed, code="tune.no-candidate", run="lora", candidates=3):
        tune(study(gpt2, "any", tune={"candidates": 1}), tmp_path, Diverges())


def test_a_damaged_memory_is_told(gpt2: Backbone, invented: Invented, tmp_path: Path) -> None:
    OutputDirectory(tmp_path).tuning_memory.write_text("not what it was")
    with raises(InvalidData, code="results.damaged", path="tuning.db"):
        tune(study(gpt2, "any"), tmp_path, invented)


# With real models


@pytest.mark.slow
def test_a_tuned_study_runs_each_seed_at_the_chosen_setting(
    gpt2: Backbone, toy: str, noting: Noting, tmp_path: Path
) -> None:
    results = study(gpt2, toy).run(tmp_path, executor=noting)
    assert not results.failed
    by_name = {one.name: one for one in results.tuned}
    assert list(by_name) == [*METHODS]
    assert by_name["baseline"] == Tuned(name="baseline", method="baseline", setting={})
    assert by_name["full"].steps == by_name["lora"].steps == 3 * 8
    cut = Task.load(toy, validation=0.3)
    assert by_name["lora"].validation_examples == len(cut.evaluation)
    assert all(run.data.validation == 0.3 for run in noting.tried)
    whole = Task.load(toy)
    assert [(one.name, one.seed) for one in results.records] == [(name, seed) for seed in (0, 1) for name in METHODS]
    for record in results.records:
        chosen = by_name[record.name].setting or {}
        settings = record.training | record.hyperparameters
        assert {key: settings[key] for key in chosen} == chosen
        assert record.train_examples == len(whole.train)
        assert record.environment.evaluation_digest == whole.evaluation.digest
    # No candidate left an adapter or a checkpoint.
    assert len(list((tmp_path / "adapters").iterdir())) == len(results.records)
    assert not list((tmp_path / "checkpoints").glob("*"))
    # The report is made from files alone.
    assert Results.read(tmp_path) == results
    count = len(noting.tried)
    again = study(gpt2, toy).run(tmp_path, executor=noting)
    assert (again.records, again.tuned, len(noting.tried)) == (results.records, results.tuned, count)


@pytest.mark.slow
def test_what_is_held_out_has_no_part_in_the_choice(gpt2: Backbone, noting: Noting, tmp_path: Path) -> None:
    rows = [(text, ("bad", "good")[label]) for text, label in sentences(120)]
    made = []
    for name, flip in (("true", False), ("false", True)):
        where = tmp_path / name
        where.mkdir()
        write_csv(where / "train.csv", rows[:80])
        other = {"bad": "good", "good": "bad"}
        write_csv(where / "dev.csv", [(text, other[label] if flip else label) for text, label in rows[80:]])
        made.append(tune(study(gpt2, str(where)), where, noting, "full"))
    one, two = [[(c.setting, c.steps, c.value) for c in each.trials] for each in made]
    assert one == two
    assert made[0].setting == made[1].setting


@pytest.mark.slow
@pytest.mark.parametrize(("method", "dtype"), [("full", "bfloat16"), ("lora", "float32")])
def test_pausing_for_scores_changes_nothing_in_training(gpt2: Backbone, toy: str, method: str, dtype: str) -> None:
    from afina.studies.runs.execute import try_out

    train = {"max_steps": 8, "batch_size": 8, "dtype": dtype, "learning_rate": 1e-2, "accumulate": 2}
    run = study(gpt2, toy, method, train=train).runs()[0]
    often = list(try_out(run, (0.125, 0.25, 0.5, 0.75, 1.0)))
    once = list(try_out(run, (1.0,)))
    assert [score.step for score in often] == [1, 2, 4, 6, 8]
    assert often[-1] == once[-1]
    part = list(try_out(run, (0.25, 0.5, 1.0), limit=3))
    assert part[0] == often[1]
    assert [score.step for score in part] == [2, 3]


@pytest.mark.slow
def test_a_last_step_that_spoils_the_weights_diverges(
    gpt2: Backbone, toy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its loss was a number; what it left gives none. No step comes after it that would tell."""
    monkeypatch.setattr(predictor, "logits", lambda classifier, encoded, listen: np.full((len(encoded), 2), np.nan))
    run = Run(
        backbone=gpt2.address,
        task=toy,
        method="lora",
        data=ReadingOptions(validation=0.3),
        training=Training(max_steps=2),
    )
    (score,) = execute.try_out(run, (1.0,))
    assert (score.value, score.loss) == (None, None)
    with pytest.raises(Diverged, match="after the last step, the weights give NaN or infinite outputs"):
        run.model_copy(update={"data": ReadingOptions()}).execute(tmp_path)


@pytest.mark.slow
def test_a_candidate_in_its_own_process_scores_alike_and_leaves_nothing(
    gpt2: Backbone, toy: str, tmp_path: Path
) -> None:
    from afina.studies.runs.execute import try_out

    run = trials.candidate_run(study(gpt2, toy, "lora").runs()[0], {"learning_rate": 1e-3, "r": 2}, trials.Tune())
    here = list(try_out(run, (0.25, 1.0)))
    there: list[ValidationScore] = []

    def goes_on(score: ValidationScore) -> bool:
        there.append(score)
        return True

    assert LocalExecutor().try_out(run, (0.25, 1.0), None, goes_on, lambda progress: None) == here[-1]
    assert there == here
    assert LocalExecutor().try_out(run, (0.25, 1.0), None, lambda score: False, lambda progress: None) == here[0]
    assert not list(filter(is_worker, psutil.Process().children(recursive=True)))
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_trial_that_diverges_ends_without_a_score(gpt2: Backbone, toy: str) -> None:
    run = study(gpt2, toy, methods={"full": {"learning_rate": 1e30}}).runs()[0]
    *_, last = execute.try_out(run, (0.25, 1.0))
    assert last.value is None
    assert last.step < 8


# What is shown


@pytest.mark.slow
def test_the_report_shows_the_budget_and_no_validation_figure(
    afina: Command, gpt2: Backbone, toy: str, tmp_path: Path
) -> None:
    train, tune = {"max_steps": 4, "dtype": "float32"}, {"candidates": 2}
    content = {"name": "shown", "backbone": gpt2.address, "task": toy, "methods": {"baseline": {}, "lora": {}}}
    source = study_file(tmp_path / "study.toml", **content, train=train, tune=tune)
    answer = afina("study", source, "--out", "out")
    assert answer.code == 0, answer.err
    assert "candidate 1: learning_rate" in answer.err
    report = Path("out/report.md").read_text(encoding="utf-8")
    section = report[report.index("## Tuning budget") :].split("\n## ")[0]
    made = trials.read_tuned(Path("out"))[1]
    row = next(line for line in section.splitlines() if line.startswith("| LoRA"))
    cells = [cell.strip() for cell in row.split("|")[2:-1]]
    assert cells[:3] == [str(len(made.trials)), str(made.stopped), str(made.steps)]
    assert cells[4].startswith("learning_rate ")
    assert (
        next(line for line in section.splitlines() if line.startswith("| no fine-tuning")).split("|")[2].strip() == "0"
    )
    assert "accuracy" not in section.lower()
    shown = afina("show", "out", "--json").object()
    assert shown["tuning"][1]["steps"] == made.steps
    assert "accuracy" not in json.dumps(shown["tuning"])


def test_a_type_of_peft_is_tuned_by_its_own_values() -> None:
    search = {"settings": [{"r": 4}, {"r": 8}]}
    table = {"method": "peft", "type": "MISS", "settings": {"r": 8}, "search": search}
    content = {"name": "x", "backbone": "gpt2", "task": "sst2", "tune": {}, "methods": {"mine": table}}
    _, space = Study.parse(content, "x").spaces()["mine"]
    assert space is not None
    assert space.choices == {"settings": ({"r": 4}, {"r": 8})}
    assert space.start["settings"] == {"r": 8}


def test_the_fair_preset_gives_every_method_the_same() -> None:
    this = Study.load("fair")
    assert this.tune is not None
    assert len(this.seeds) == 3
    spaces = this.spaces()
    assert spaces["baseline"][1] is None
    for name in ("full", "lora", "prelayer"):
        run, space = spaces[name]
        assert space is not None
        rate = run.training.learning_rate
        assert rate is not None
        assert space.rates == (rate / SPREAD, rate * SPREAD)
        assert space.start["learning_rate"] == rate
    assert len({run.training.model_copy(update={"learning_rate": None}) for run, _ in spaces.values()}) == 1
