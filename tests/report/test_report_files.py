"""Which results make an arm, which texts a report may show, what it writes, and how a recommendation reads."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from afina import Results, Study, Task
from afina.data.reading_options import ReadingOptions
from afina.events import Listener
from afina.report.arms import arms, lines
from afina.report.examples.disagreements import EvaluationTexts
from afina.report.per_label import CONFUSION
from afina.report.progress import Lines
from afina.report.report import CSV, FILES, JSON, MARKDOWN, Report
from afina.studies.adapter_paths import find_adapter
from afina.studies.choosing.floors import MAJORITY, TFIDF
from afina.studies.choosing.recommendation import Contender, Recommendation
from afina.studies.runs.output_directory import OutputDirectory
from afina.studies.runs.record import Record, Result
from afina.studies.runs.run import Run
from command import InventedExecutor
from records import TEXTS, answering, result, results


def test_an_arm_has_its_seeds_in_order_and_all_arms_stand_as_their_first_results_do() -> None:
    made = arms([result("full", seed=1), result("lora", seed=7), result("full", seed=0)])
    assert [(arm.label, arm.seeds, arm.place) for arm in made] == [("full fine-tuning", (0, 1), 0), ("LoRA", (7,), 1)]
    assert [(line.label, line.seeds_in_words) for line in lines(made)] == [
        ("full fine-tuning", "0"),
        ("full fine-tuning", "1"),
        ("full fine-tuning", "0, 1"),
        ("LoRA", "7"),
    ]


def test_an_arm_has_the_scores_and_answers_of_each_seed_in_the_order_of_the_texts() -> None:
    (arm,) = arms([result(seed=1, predicted=(1, 1, 1, 1, 1)), result(seed=0, predicted=(0, 1, 1, 0, 0))])
    assert arm.targets.tolist() == [0, 1, 1, 0, 1]
    assert arm.answers.tolist() == [[0, 1, 1, 0, 0], [1, 1, 1, 1, 1]]
    assert arm.scores.tolist() == [[True, True, True, True, False], [False, True, True, False, True]]


@pytest.mark.slow
def test_without_a_finished_run_there_is_no_table_of_figures(tmp_path: Path) -> None:
    (tmp_path / "tables.csv").write_text("stale", encoding="utf-8")
    nothing = replace(results([]), out=tmp_path)
    written = {path.name for path in Report.of(nothing).write()}
    assert written == {path.name for path in tmp_path.iterdir()} == {*FILES} - {"tables.csv"}
    assert "tables.csv" in {path.name for path in Report.of(replace(results([result()]), out=tmp_path)).write()}


def test_a_mean_needs_every_seed() -> None:
    (arm,) = arms([result(seed=0, steps=10), result(seed=1, steps=20)])
    assert arm.mean(lambda record: record.steps) == 15
    assert arm.mean(lambda record: record.steps if record.seed else None) is None


def test_what_changes_no_result_makes_no_arm_of_its_own() -> None:
    settings = result().record.training
    seldom = [result(seed=seed, training={**settings, "checkpoint_seconds": 60.0 * seed}) for seed in (0, 1)]
    assert len(arms(seldom)) == 1
    assert len(arms([result(seed=0), result(seed=1, training={**settings, "epochs": 3})])) == 2


def test_the_texts_of_a_task_are_read_again_a_pair_as_one(tmp_path: Path) -> None:
    path = tmp_path / "pairs.csv"
    rows = "".join(f"claim {number},answer {number},{'yes' if number % 2 else 'no'}\n" for number in range(40))
    path.write_text(f"first,second,label\n{rows}", encoding="utf-8")
    split = Task.load(str(path), text="first", text_pair="second").evaluation
    found = EvaluationTexts.read(str(path), ReadingOptions(text="first", text_pair="second"))
    assert found.texts is not None
    assert list(found.texts) == [f"{text} ⏎ {text.replace('claim', 'answer')}" for text in split.texts]
    assert (found.digest, found.reason) == (split.digest, "")


def test_texts_are_read_again_with_the_kind_that_the_records_have(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    rows = ({"text": f"Rome {i}", "label": [[0, 4, "X"]], "rating": i % 2} for i in range(40))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    assert EvaluationTexts.read(str(path), ReadingOptions()).texts is None  # two columns may be the label
    found = EvaluationTexts.read(str(path), ReadingOptions(), "entities")
    assert found.digest == Task.load(path, kind="entities").evaluation.digest


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("sst2", "the task is not on this machine, and a report uses no network"),
        ("gone.csv", "the task could not be read again"),
    ],
)
def test_texts_that_are_not_at_hand_are_left_out_and_it_is_said_why(address: str, reason: str) -> None:
    assert EvaluationTexts.read(address, ReadingOptions()) == EvaluationTexts(reason=reason)


@pytest.mark.slow
def test_a_report_writes_what_it_is_asked_to_write(tmp_path: Path) -> None:
    report = Report.of(results([result()], out=tmp_path))
    assert report.write([MARKDOWN]) == [tmp_path / MARKDOWN]
    assert [path.name for path in tmp_path.iterdir()] == [MARKDOWN]
    assert report.write() == [tmp_path / name for name in FILES]
    assert {path.name: path.read_text(encoding="utf-8") for path in tmp_path.iterdir()} == report.files()


def test_a_recommendation_stands_before_all_that_its_finalists_did() -> None:
    finalist = Contender(
        name="lora", method="lora", rate=1e-3, metrics={"accuracy": 0.6, "f1": 0.55}, examples=100, steps=250,
        seconds=100.0, trainable=148_992, total=124_441_344, key="sha256:lora", adapter="adapters/lora-0",
    )  # fmt: skip
    floors = (
        Contender(name=TFIDF, metrics={"accuracy": 0.5, "f1": 0.5}),
        Contender(name=MAJORITY, metrics={"accuracy": 0.5, "f1": 0.0}),
    )
    made = Recommendation(
        task="mine.csv", data=ReadingOptions(), backbone="gpt2", recommended="lora", adapter="adapters/lora-0",
        contenders=(*floors, finalist), comparisons=(), dropped={}, train_examples=100, examples=5, minutes=5.0,
        seconds=290.0,
    )  # fmt: skip
    report = Report.of(replace(results([result()], "choose"), recommendation=made))
    text = report.markdown()
    assert text.index("## Recommendation") < text.index("Use LoRA: accuracy ") < text.index(TFIDF)
    assert text.index("Figures are of 5 held-out texts") < text.index("## Performance")
    assert report.headline is not None
    assert report.headline.text.startswith("Use LoRA")
    assert report.summary()["recommended"] == "lora"
    alone = Report.of(replace(results([], "choose"), recommendation=made)).markdown()
    assert "Use LoRA" in alone
    assert "No run has finished" not in alone


@pytest.mark.slow
def test_a_run_without_an_adapter_is_reported_and_not_suggested_for_use(tmp_path: Path) -> None:
    asked = result("zero-shot", predicted=(0, 1, 1, 0, 1), accuracy=1.0, adapter=None, digest=None)
    made = replace(results([result("lora"), asked]), out=tmp_path)
    report = Report.of(made)
    report.write()
    assert report.of_use == result("lora").record, "of the runs that have one, though zero-shot is better"
    assert "None" not in (tmp_path / "report.md").read_text(encoding="utf-8")
    assert [one["adapter"] for one in report.summary()["records"]] == [str(tmp_path / "adapters/lora-0"), None]
    assert "adapters/zero-shot-0" not in report.inline()
    assert Report.of(replace(results([asked]), out=tmp_path)).of_use is None


# Equal runs are never counted as seeds


HERE = 64


class SmallTask(InventedExecutor):
    """A task of HERE training texts."""

    def count_texts(self, run: Run) -> int | None:
        return HERE

    def carry_out(self, run: Run, out: Path, study: str, listen: Listener, until: float | None = None) -> Record:
        made = super().carry_out(run, out, study, listen, until)
        asked = min(run.data.train_examples or HERE, HERE)
        return made.model_copy(update={"train_examples": asked}).sealed()


def study(**changes: object) -> Study:
    return Study.parse({"name": "s", "backbone": "gpt2", "task": "sst2", "methods": {"lora": {}}} | changes, "here")


def test_sizes_above_the_training_split_are_one_size(tmp_path: Path) -> None:
    asked = study(sizes=[32, 100, 200], seeds=[0, 1], train={"epochs": 1, "batch_size": 8})
    said: list[str] = []
    made = asked.run(tmp_path, executor=SmallTask(), watcher=Lines(said.append))
    assert any("Two seeds say little about other seeds" in line for line in said)
    assert [(one.train_examples, one.seed) for one in made.records] == [(32, 0), (64, 0), (32, 1), (64, 1)]
    assert len(made.notes) == 1
    assert "100, 200 texts were asked for, and the training split has 64" in made.notes[0]
    read = Results.read(tmp_path)
    report = Report.of(read)
    assert (read.notes, read.waiting) == (made.notes, 0)
    assert made.notes[0] in report.tables[0].notes
    assert [(arm.label, arm.seeds) for arm in report.arms] == [("LoRA, 32 texts", (0, 1)), ("LoRA, 64 texts", (0, 1))]
    executor = SmallTask()
    assert asked.run(tmp_path, executor=executor).records == made.records, "recorded"
    fits = study(sizes=[32, 64], seeds=[0, 1], train={"epochs": 1, "batch_size": 8}).run(tmp_path, executor=executor)
    assert (fits.records, fits.notes) == (made.records, ())


def test_a_run_under_two_names_is_made_once_and_stands_under_each_name(tmp_path: Path) -> None:
    study(methods={"lora": {"r": 8}}).run(tmp_path, executor=InventedExecutor())
    methods = {"narrow": {"method": "lora"}, "wide": {"method": "lora", "r": 8}, "again": {"method": "lora", "r": 8}}
    made = study(methods=methods, seeds=[0, 1]).run(tmp_path, executor=InventedExecutor())
    assert len(OutputDirectory(tmp_path).read()) == 4
    (note,) = made.notes
    assert "wide, again have the same settings on gpt2" in note
    for found in (made, Results.read(tmp_path)):
        assert [one.name for one in found.records] == ["narrow", "wide", "again"] * 2
        arms = Report.of(found).arms
        assert [(arm.record.name, arm.seeds) for arm in arms] == [(name, (0, 1)) for name in methods]
    wide, again = find_adapter(tmp_path, "wide", 1), find_adapter(tmp_path, "again", 1)
    assert wide.path == again.path == made.adapter("wide", 1)


def of_classes(seed: int, **changes: object) -> Result:
    return answering(str(changes.pop("method", "lora")), range(seed, seed + 40), seed=seed, **changes)


def test_results_that_are_given_twice_change_no_figure_of_any_table() -> None:
    other = {"name": "other", "method": "full", "title": "full fine-tuning"}
    once = [of_classes(seed, **which) for seed in (0, 1) for which in ({}, other, {"train_examples": 100})]
    twice = [*once, *(of_classes(seed, key=f"again-{seed}") for seed in (0, 1)), of_classes(0, **other)]
    expected, found = Report.of(results(once)), Report.of(results(twice))
    for arm, same in zip(found.arms, expected.arms, strict=True):
        assert arm.seeds == same.seeds == (0, 1)
        assert arm.scores.shape == (2, arm.record.examples)
    assert found.files((CSV, JSON)) == expected.files((CSV, JSON))
    assert found.findings == expected.findings
    assert found.by_label == expected.by_label
    assert found.sentences == expected.sentences
    assert [table.rows for table in found.tables] == [table.rows for table in expected.tables]
    said = set(found.tables[0].notes) - set(expected.tables[0].notes)
    assert said == {"3 results equal another one in settings, texts and seed, and are not counted."}


def test_a_confusion_matrix_counts_each_text_once_a_seed_and_says_so() -> None:
    for seeds in ((0,), (0, 1)):
        report = Report.of(results([of_classes(seed) for seed in (*seeds, 0)]))
        (table,) = [table for table in report.by_label if table.title.startswith(CONFUSION)]
        assert sum(int(cell) for row in table.rows for cell in row[1:]) == TEXTS * len(seeds)
        assert table.notes == (("2 seeds added up.",) if len(seeds) > 1 else ())
