"""Tables, verdicts and sentences of every kind of task, and of another metric than the usual one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import precision_recall_fscore_support

from afina.predicting.evaluation import Evaluation
from afina.report import evaluation, formatting, sections
from afina.report.examples.disagreements import EvaluationTexts, disagreement_table
from afina.report.per_label import BY_LABEL, CONFUSIONS, FITS, MOST
from afina.report.presentation import PRESENTATIONS
from afina.report.report import Report
from afina.stats.intervals import Interval
from afina.studies.runs.record import Result
from records import entities, of_kind, result, results


def headed(made: Result, metric: str) -> Result:
    return replace(made, record=made.record.model_copy(update={"metric": metric}))


def report(*made: Result) -> Report:
    return Report.of(results(made))


def test_of_errors_the_lower_is_the_better_everywhere() -> None:
    good, bad = of_kind("number", "full", noise=0.2), of_kind("number", "lora", noise=1.0)
    made = report(headed(good, "rmse"), headed(bad, "rmse"))
    (pair,) = made.verdicts.compared
    assert (pair.first, pair.verdict) == ("full fine-tuning", "better")
    assert pair.difference < 0
    assert pair.words.startswith("full fine-tuning is better than LoRA: RMSE lower by ")
    assert made.sentences[0].startswith("Use full fine-tuning: RMSE ")
    assert made.of_use == headed(good, "rmse").record
    table = made.findings[0]
    assert table.columns[3].heading == "Difference"
    assert table.rows[0][3].startswith("−")
    assert any("Differences in RMSE" in note and "Less is better." in note for note in table.notes)


CLASSES, RARE = np.array([0] * 9 + [1] * 4), "Fewer than 5 held-out texts have the label 'b' (4): single texts decide "


@pytest.mark.parametrize(
    ("kind", "names", "targets", "metrics", "said"),
    [
        ("classes", ("a", "b"), CLASSES, ("accuracy", "f1"), [RARE + "much of F1 of b and of its interval."]),
        ("classes", ("b", "a"), 1 - CLASSES, ("f1",), []),  # `a` is positive, and 9 texts have it
        ("classes", ("a", "b", "never"), CLASSES, ("f1",), [RARE + "much of macro F1 and of its interval."]),
        ("classes", ("a", "b", "never"), CLASSES, ("accuracy",), []),
        ("classes", tuple("abcdefgh"), np.arange(8), ("f1",), ["'e' (1), and 3 more: single texts"]),
        ("labels", ("a", "b"), np.eye(2, dtype=int)[CLASSES], ("macro_f1",), [RARE + "much of macro F1"]),
        ("number", ("stars",), np.arange(3.0), ("rmse",), []),
    ],
)
def test_a_label_of_few_texts_that_decides_a_mean_over_labels_is_named(
    kind: str, names: tuple[str, ...], targets: np.ndarray, metrics: tuple[str, ...], said: list[str]
) -> None:
    found = PRESENTATIONS[kind].rare(names, targets, metrics)
    assert len(found) == len(said)
    assert all(part in whole for part, whole in zip(said, found, strict=True))


def test_the_report_and_the_answer_of_a_recommendation_and_of_train_name_such_labels() -> None:
    made = report(result(gold=(0,) * 9 + (1,) * 4, predicted=(0,) * 13, train_examples=99))
    said = RARE.replace("'b'", "'positive'")
    assert any(note.startswith(said) for note in made.tables[0].notes)
    assert any(note.startswith(said) for note in made.brief)
    assert any(note.startswith(said) for note in sections.rare_labels(made.arms))
    answered, metrics = made.arms[0].results[0].answered, {"accuracy": 0.7, "f1": 0.0}
    found = Evaluation(
        adapter="a", digest="sha256:a", task="t.csv", metric="accuracy", metrics=metrics, interval=Interval(0.5, 0.7),
        examples=13, truncated=0, dtype="float32", where="t.csv", held_out=False, leaked=0, left_out=0, kind="classes",
        label_names=("negative", "positive"), answered=answered, max_length=None, chosen=True,
    )  # fmt: skip
    assert any(line.startswith(said) for line in evaluation.sentences(found))


@pytest.mark.parametrize("kind", ["number", "labels"])
def test_the_tables_have_the_figures_of_the_kind(kind: str) -> None:
    made = report(of_kind(kind, "full"), of_kind(kind, "lora"))
    first, second = made.tables[:2]
    headings = [column.heading for column in first.columns]
    main = {"number": ["Pearson correlation", "RMSE"], "labels": ["Micro F1", "Macro F1"]}[kind]
    assert [headings[1], headings[3]] == main
    assert first.title == "Performance"
    assert second.title == "Further figures"
    shown = {"number": "Spearman correlation", "labels": "Exact match"}[kind]
    assert shown in [column.heading for column in second.columns]
    text = made.markdown()
    assert "nan" not in text
    assert "accuracy" not in text.lower()


def test_the_ceiling_stands_beside_the_methods_where_it_is_of_the_headline() -> None:
    told = {"ceiling": {"pearson": 0.8722, "rmse": 0.9}}
    made = report(of_kind("number", "full", **told), of_kind("number", "lora", **told))
    notes = " ".join(made.tables[0].notes)
    assert "One human who tells what others say of these texts has Pearson correlation 0.8722." in notes
    assert "0.9000" not in notes


def test_differences_are_told_in_points_or_in_the_metrics_own_unit() -> None:
    assert formatting.metric_difference(0.0123, "f1") == "+1.23"
    assert formatting.metric_difference(-0.0123, "mcc") == "−0.0123"
    assert formatting.metric_difference(0.00001234, "brier") == "+1.234e−05"
    assert formatting.metric_difference(0.0, "rmse") == "0.0000"
    assert (formatting.difference_unit("auroc"), formatting.difference_unit("rmse")) == (" (points)", "")


def test_labels_are_told_one_by_one_with_their_means_over_seeds() -> None:
    made = report(*(of_kind("labels", "lora", seed=seed) for seed in (0, 1)))
    arm = made.arms[0]
    found = {one.name: one for one in PRESENTATIONS["labels"].found_by([arm])[0]}
    gold = arm.targets[:, 0].astype(bool)
    recalls = [answers[gold, 0].mean() for answers in arm.answers]
    assert found["rude"].recall == pytest.approx(np.mean(recalls))
    assert found["rude"].support == gold.sum()
    (table,) = PRESENTATIONS["labels"].tables(made.arms)
    assert table.title == BY_LABEL
    assert len(table.rows) == 3
    assert PRESENTATIONS["number"].tables(report(of_kind("number")).arms) == []


def test_figures_of_labels_are_those_of_scikit_learn_and_undefined_of_absent_ones() -> None:
    gold, answers = np.random.default_rng(0).integers(0, 4, (2, 200))
    found = PRESENTATIONS["classes"].found(list("abcde"), gold, answers[None])
    figures = [(one.precision, one.recall, one.f1, one.support) for one in found]
    expected = precision_recall_fscore_support(gold, answers, labels=range(5), zero_division=np.nan)
    assert np.array(figures) == pytest.approx(np.stack(expected, axis=1), nan_ok=True)


def test_a_terminal_shows_each_label_and_a_matrix_of_the_best_setting_with_its_seeds_added_up() -> None:
    seeds = [result("lora", seed=seed, gold=(0, 1, 1, 0, 1), predicted=(0, 1, 1 - seed, 0, 1)) for seed in (0, 1)]
    by_label, matrix = report(*seeds, result("baseline", accuracy=0.1)).by_label
    assert by_label.title == "Figures by label, LoRA"
    assert by_label.rows == (
        ("positive", "1.0000", "0.8333", "0.9000", "3"),
        ("negative", "0.8333", "1.0000", "0.9000", "2"),
    )
    assert [column.heading for column in matrix.columns] == ["Right", "answered negative", "answered positive"]
    assert matrix.rows == (("negative", "4", "0"), ("positive", "1", "5"))
    assert report(of_kind("number")).by_label == []
    assert [table.title for table in report(of_kind("labels")).by_label] == ["Figures by label, LoRA"]


def test_of_many_classes_a_terminal_shows_the_most_frequent_and_what_is_most_often_confused() -> None:
    names = tuple(f"class {number}" for number in range(FITS + 8))
    gold = [min(number, len(names) - 1) for number in range(40)]
    made = result("lora", gold=gold, predicted=[*gold[:-3], 0, 0, 0], label_names=names)
    by_label, confused = report(made).by_label
    assert len(by_label.rows) == FITS
    assert by_label.notes == (f"The {FITS} most frequent of {len(names)} labels.",)
    assert confused.rows == ((names[-1], names[0], "3"),)


def test_of_many_classes_the_most_frequent_confusions_are_listed() -> None:
    names = tuple(f"class {i}" for i in range(MOST + 5))
    gold = tuple(i % len(names) for i in range(200))
    predicted = tuple(1 if label == 0 else label for label in gold)
    made = report(result(gold=gold, predicted=predicted, label_names=names, examples=200))
    by_label, confusions = PRESENTATIONS["classes"].tables(made.arms)
    assert len(by_label.rows) == MOST
    assert confusions.title == CONFUSIONS
    assert confusions.rows == (("LoRA", "class 0", "class 1", str(gold.count(0))),)


def test_numbers_disagree_most_where_they_are_furthest_apart() -> None:
    first, second = of_kind("number", "full", noise=0.1), of_kind("number", "lora", noise=0.1)
    second.predictions.outputs[7] += 30
    made = report(first, second)
    table = disagreement_table(made.arms, EvaluationTexts())
    assert table is not None
    assert table.rows[0][0] == "7"
    assert [column.heading for column in table.columns] == ["Row", "Given", "full fine-tuning", "LoRA"]
    several = disagreement_table(report(of_kind("labels", "full"), of_kind("labels", "lora")).arms, EvaluationTexts())
    assert several is not None
    assert several.columns[1].heading == "Right labels"
    assert {"none", "rude"} & {cell for row in several.rows for cell in row}


def test_an_answer_that_is_always_the_same_is_noticed() -> None:
    made = of_kind("number", "lora")
    made.predictions.outputs[:] = 0.5
    notes = " ".join(report(made).tables[0].notes)
    assert "LoRA, seed 0, answered the same to every text." in notes


def test_verdicts_on_entities_of_documents_take_documents_as_observations_and_say_so() -> None:
    def of_documents(made: Result, size: int) -> Result:
        extras = {**made.predictions.extras, "document": np.arange(60) // size}
        return replace(made, predictions=replace(made.predictions, extras=extras))

    runs = [entities("lora", noise=0.8), entities("full", noise=1.0)]
    made = [report(*runs), *(report(*(of_documents(one, size) for one in runs)) for size in (5, 12, 60))]
    alone, several, few, single = made
    assert alone.verdicts.compared[0].unit == "example"
    (pair,) = several.verdicts.compared
    assert (pair.unit, pair.examples) == ("document", 12)
    notes = [" ".join(one.tables[0].notes) for one in made]
    assert "documents" not in notes[0]
    assert "12 documents" in notes[1]
    assert "they are rough" in notes[1]
    assert "metrics have no interval" in notes[2]
    assert several.arms[0].interval("entity_f1") != alone.arms[0].interval("entity_f1")
    assert few.arms[0].interval("entity_f1") is None
    assert "All texts are of one document" in notes[3]
    assert single.arms[0].interval("entity_f1") is None
    assert [one.verdict for one in single.verdicts.compared] == ["undecided"]
