"""Equal runs are never counted as seeds: sizes above the data, one run under two names, a run that is given twice."""

from __future__ import annotations

from pathlib import Path

from afina import Results, Study
from afina.events import Listener
from afina.report.per_label import CONFUSION
from afina.report.report import CSV, JSON, Report
from afina.studies.adapter_paths import find_adapter
from afina.studies.runs.output_directory import OutputDirectory
from afina.studies.runs.record import Record, Result
from afina.studies.runs.run import Run
from command import InventedExecutor
from records import TEXTS, answering, results

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
    made = asked.run(tmp_path, executor=SmallTask())
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
