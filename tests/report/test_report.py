from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from afina.data.reading_options import ReadingOptions
from afina.methods import METHODS
from afina.report.arms import arms
from afina.report.conclusion import of_one_method
from afina.report.report import CSV, JSON, MARKDOWN, Report
from afina.report.tables import Table
from afina.report.writers.markdown import table as grid
from afina.studies.descriptions import Failure
from afina.studies.published import Published
from afina.studies.runs.record import Abstention, AnsweredCounts, LeftOutCounts, Result, Selection
from afina.studies.trials import Tuned
from records import environment, every_result, memory, record, result, results


def cells(table: Table, heading: str) -> list[str]:
    position = [column.heading for column in table.columns].index(heading)
    return [row[position] for row in table.rows]


def headings(table: Table) -> list[str]:
    return [column.heading for column in table.columns]


def tables_of(made: list[Result]) -> list[Table]:
    return Report.of(results(made)).tables


def by_title(made: list[Result]) -> dict[str, Table]:
    return {table.title: table for table in tables_of(made)}


def markdown(name: str, made: list[Result], command: list[str] | None = None, failed: tuple[Failure, ...] = ()) -> str:
    return Report.of(results(made, name, command=command or (), failed=failed)).markdown()


def text_of(table: Table) -> str:
    return " ".join(table.notes)


_CHOSEN = AnsweredCounts(texts=40, answered=30, errors=1)
_PROMISED = Abstention(error=0.1, confidence=0.95, threshold=0.9, calibration=_CHOSEN, evaluation=_CHOSEN)


@pytest.mark.parametrize(
    ("changes", "trained", "aside", "read"),
    [
        ({}, 200, "", 200),
        ({"abstention": _PROMISED}, 160, "40 set aside, ", 200),
        ({"temperature_examples": 20}, 180, "20 set aside, ", 200),
        ({"selection": Selection(value=0.5, loss=1, examples=25)}, 200, "25 set aside, ", 225),
        ({"left_out": LeftOutCounts(training=5, aside=1)}, 200, "", 205),
    ],
)
def test_sentences_count_the_texts_that_trained(changes: dict[str, Any], trained: int, aside: str, read: int) -> None:
    distilled = {"epochs": 2, "learning_rate": 2e-4, "distil_temperature": 1, "distil_weight": 0.5}
    changes |= {"task": "tickets.csv", "train_examples": 200, "truncated": 3, "teacher": "sha256:t"}
    made = results([result("lora", training=distilled, **changes)])
    found = Report.of(replace(made, data=ReadingOptions(train_examples=read)))
    said = " ".join(found.markdown().split())
    assert f" on {trained} texts, with the answers" in " ".join(of_one_method(found.arms[0], []))  # of `train`
    assert f": {trained} training and" in " ".join(found._lead())
    assert f"`tickets.csv`, {trained} training and" in said
    assert f"3 of {trained + 872:,} texts cut" in said
    assert f"tickets.csv: {trained} texts to train on, {aside}872 held out" in said
    assert f"on {trained} labelled texts" in said
    assert "asks for" not in said


# What a study's tables hold


def test_importing_the_report_imports_no_torch_transformers_or_peft() -> None:
    code = (
        "import sys, afina.report.report, afina.report.writers.terminal\n"
        "print([name for name in ('torch', 'transformers', 'peft', 'rich', 'scipy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_study_has_three_tables_with_a_row_for_every_result() -> None:
    tables = tables_of(every_result())
    assert [table.title for table in tables] == ["Performance", "Parameters and training time", "Memory"]
    for table in tables:
        assert cells(table, "Method") == [
            "no fine-tuning",
            "full fine-tuning",
            "LoRA",
            "PreLayer (head frozen)",
            "PreLayer (46,080, head frozen)",
        ]
        assert all(len(row) == len(table.columns) for row in table.rows)
        assert "Seeds" not in headings(table), "there is only one"


def test_costs_follow_the_papers_convention_and_a_run_without_training_has_no_time() -> None:
    table = by_title(every_result())["Parameters and training time"]
    assert cells(table, "Trainable") == ["0", "124,441,344", "148,992", "39,383,808", "46,080"]
    assert cells(table, "of which head") == ["0", "1,536", "1,536", "0", "0"]
    assert cells(table, "% of total") == ["0", "100", "0.1197", "31.6485", "0.0370"]
    assert "124,441,344" in text_of(table)
    assert cells(table, "Training time (s)") == ["–", "100.00", "100.00", "100.00", "100.00"]
    assert cells(table, "Tokens/s") == ["–", "2,500", "2,500", "2,500", "2,500"]


def test_times_that_were_measured_beside_other_runs_are_said_to_be() -> None:
    title, said = "Parameters and training time", "shared the machine"
    assert not any(said in note for note in by_title([result("full"), result()])[title].notes)
    (note,) = [note for note in by_title([result("full", at_once=3), result()])[title].notes if said in note]
    assert note.startswith("1 of 2 runs shared the machine with others, up to 3 at once: training times and tokens per")


def test_accuracy_stands_beside_the_number_of_evaluation_texts_and_the_most_frequent_label() -> None:
    table = by_title([result(accuracy=0.61234, examples=1_000)])["Performance"]
    assert [table.rows[0][i] for i in (0, 1, 3, 5)] == ["LoRA", "0.6123", "0.5500", "1,000"]
    assert "Always answering `positive`, the most frequent label, has accuracy 0.6000." in table.notes
    assert "F1 is of the class `positive`" in text_of(table)
    several = by_title([result(label_names=("a", "b", "c"))])["Performance"]
    assert "F1 is the plain mean over the 3 classes" in text_of(several)


def test_a_run_that_gives_every_text_the_same_label_is_called_out() -> None:
    table = by_title([result("full"), result(predicted=(1, 1, 1, 1, 1))])["Performance"]
    steps = f"It took {result().record.steps} steps; more `epochs` may help."
    assert f"LoRA, seed 0, answered `positive` to every text. {steps}" in table.notes
    assert "full fine-tuning, seed 0" not in text_of(table)


def test_sizes_are_spelled_out_in_binary_units() -> None:
    table = by_title([result(memory=memory(state_bytes=1_991_061_504, activation_bytes=5 * 2**20, rss_peak=None))])[
        "Memory"
    ]
    assert table.rows == (("LoRA", "1.85 GiB", "5.0 MiB", "700", "–"),)


def test_several_seeds_have_one_row_of_mean_and_deviation_and_a_row_each_behind_it() -> None:
    records = [result(seed=seed, accuracy=accuracy) for seed, accuracy in ((1, 0.9), (0, 0.8))]
    tables = by_title([*records, result("baseline")])
    performance = tables["Performance"]
    assert cells(performance, "Method") == ["LoRA", "no fine-tuning"]
    assert cells(performance, "Seeds") == ["0, 1", "0"]
    assert cells(performance, "Accuracy") == ["0.8500 ± 0.0707", "0.6000"]
    assert [row[:3] for row in performance.singles] == [("LoRA", "0", "0.8000"), ("LoRA", "1", "0.9000")]
    assert "mean ± standard deviation" in text_of(performance)
    assert cells(tables["Parameters and training time"], "Trainable")[0] == "148,992"
    text = Report.of(results([*records, result("baseline")])).markdown()
    folded = text[text.index("<details>") : text.index("</details>")]
    assert "| LoRA   | 1     |" in folded
    assert "no fine-tuning" not in folded


@pytest.mark.parametrize(("seeds", "words"), [((3,), "3"), ((0, 1, 2), "0, 1, 2"), (range(10), "0 to 9")])
def test_seeds_are_named_in_few_words(seeds: tuple[int, ...], words: str) -> None:
    (arm,) = arms([result(seed=seed) for seed in seeds])
    assert arm.seeds_in_words == words


def test_two_runs_of_one_method_carry_the_names_that_the_study_gave_them() -> None:
    wide = result(name="lora-r16", hyperparameters={"r": 16})
    trained = result("prelayer", name="prelayer", hyperparameters={"train_head": True})
    table = by_title([result(), wide, trained])["Performance"]
    assert cells(table, "Method") == ["LoRA", "LoRA (lora-r16)", "PreLayer (head trained)"]


def test_runs_that_share_a_name_but_not_their_settings_are_never_averaged() -> None:
    longer = result(seed=1, training={**record().training, "epochs": 3})
    table = by_title([result(), longer])["Performance"]
    assert cells(table, "Method") == ["LoRA, epochs 2", "LoRA, epochs 3"]
    assert cells(table, "Seeds") == ["0", "1"]


# Memory of a GPU


def test_no_figure_of_a_cpu_stands_under_a_heading_that_says_gpu() -> None:
    impossible = memory(allocated_end=11 * 2**30, allocated_peak=12 * 2**30, reserved_peak=13 * 2**30)
    records = every_result(memory=impossible)
    assert not any("GPU" in heading for table in tables_of(records) for heading in headings(table))
    assert not re.search("1[123].00 GiB", markdown("mine", records))


def test_gpu_memory_is_a_table_of_its_own_where_it_was_measured() -> None:
    measured = memory(allocated_end=2**30, allocated_peak=2 * 2**30, reserved_peak=3 * 2**30)
    on_gpu = result(memory=measured, environment=environment(device="cuda:0 a GPU"))
    tables = by_title([result("full"), on_gpu])
    assert tables["GPU memory"].rows == (("LoRA", "1.00 GiB", "2.00 GiB", "3.00 GiB"),)
    assert headings(tables["GPU memory"]) == [
        "Method",
        "GPU allocated, end",
        "GPU allocated, peak",
        "GPU reserved, peak",
    ]
    assert not any("GPU" in heading for heading in headings(tables["Memory"]))


# Figures of others


PUBLISHED = Published(
    source="A study", methods={"lora": {"accuracy": 0.8693, "f1": 0.8742}, "full": {"accuracy": 0.8326, "rmse": 1.0}}
)


def test_published_figures_stand_beside_the_figures_of_their_method() -> None:
    made = Report.of(results([result("full"), result(), result("baseline")], published=PUBLISHED))
    table = made.tables[0]
    assert headings(table)[:6] == [
        "Method",
        "Accuracy",
        "Accuracy, published",
        "95 % of accuracy",
        "F1 of positive",
        "F1, published",
    ]
    assert cells(table, "Accuracy, published") == ["0.8326", "0.8693", "–"]
    assert cells(table, "F1, published") == ["–", "0.8742", "–"]
    assert any(note.startswith("Published: A study.") for note in table.notes)
    assert all("Published" not in text_of(other) for other in made.tables[1:])
    assert "Accuracy, published" in made.markdown()


def test_published_figures_are_a_table_of_json_and_csv() -> None:
    made = Report.of(results([result("full"), result()], published=PUBLISHED))
    files = made.files((JSON, CSV))
    content = json.loads(files["tables.json"])
    assert content["tables"]["published"] == [
        {"method": "full fine-tuning", "seed": "published", "accuracy": 0.8326, "source": "A study"},
        {"method": "LoRA", "seed": "published", "accuracy": 0.8693, "f1": 0.8742, "source": "A study"},
    ]
    assert "published,LoRA,published,f1,0.8742\n" in files["tables.csv"]
    assert made.summary()["published_figures"] == PUBLISHED.model_dump()


def test_a_study_without_published_figures_says_nothing_of_them() -> None:
    made = Report.of(results([result("full"), result()]))
    for text in (*made.files((MARKDOWN, JSON, CSV)).values(), json.dumps(made.summary())):
        assert "published" not in text.lower()


# The report's text


def test_a_table_in_markdown_reads_as_plain_text() -> None:
    table = by_title([result("full"), result()])["Memory"]
    assert grid(table).splitlines() == [
        "| Method           |    State | Activations | of a batch of (tokens) | Process, peak (RSS) |",
        "| ---------------- | -------: | ----------: | ---------------------: | ------------------: |",
        "| full fine-tuning | 0.50 GiB |    40.0 MiB |                    700 |            3.00 GiB |",
        "| LoRA             | 0.50 GiB |    40.0 MiB |                    700 |            3.00 GiB |",
    ]


def test_a_bar_or_a_line_break_in_a_name_does_not_break_the_table() -> None:
    lines = grid(by_title([result(name="a|b\nc")])["Performance"]).splitlines()
    assert lines[2].startswith(r"| LoRA (a\|b c) |")
    assert len(lines) == 3


def test_the_report_says_what_was_run_where_and_how_to_repeat_it() -> None:
    slower = result("full", training={**record().training, "learning_rate": 5e-5})
    text = markdown("mine", [slower, result()], command=["afina", "study", "a file.toml", "--out", "results/mine"])
    for line in (
        "# Study `mine`",
        "- Backbone: `gpt2`, 124,441,344 parameters with the head",
        "- Task: `sst2`, 67,349 training and 872 evaluation texts, labels `negative`, `positive`",
        "- Seeds: 0",
        "- Training, the same in every run: epochs 2, batch_size 16, max_length 128",
        "- Evaluation texts that also occur in the training split: 2",
        "| Method           | Hyperparameters                               | Learning rate | Steps |  Tokens |",
        "| full fine-tuning | –                                             |         5e-05 |   250 | 250,000 |",
        "| LoRA             | r 4, alpha 16, dropout 0.05, targets c_attn |        0.0002 |   250 | 250,000 |",
        "## Performance",
        "## Parameters and training time",
        "## Memory",
        "| LoRA             | 0    | `adapters/lora-0` | `sha256:ad` |",
        "- Device: cpu; 2 threads; training in float32",
        "- Versions: afina 0.1.0, torch 2.13.0",
        "- Git commit: `0123abc`, clean tree",
        "- Backbone: `sha256:b0`",
        "afina study 'a file.toml' --out results/mine",
    ):
        assert line.replace(" ", "") in [found.replace(" ", "") for found in text.splitlines()], line
    assert text.endswith("```\n")
    assert max(len(line) for line in text.splitlines() if not line.startswith("|")) <= 100


def test_runs_made_in_different_environments_are_told_apart() -> None:
    text = markdown("mine", [result("full"), result(environment=environment(threads=8))])
    assert "made in 2 environments" in text
    assert "Made there: LoRA, seed 0." in text
    assert "processors" not in text


def test_runs_on_different_processors_are_told_apart_and_their_digests_are_not_compared() -> None:
    study = [result("full"), *(result(seed=seed, environment=environment(processor="Z9")) for seed in range(2))]
    text = " ".join(markdown("mine", study).split())
    here = environment().processor
    assert f"executed on 2 processors: {here} (1 run), Z9 (2 runs). Rounding differs between processors" in text
    assert "Digests from different processors are not compared. ### Environment 1" in text
    assert "Made there: LoRA, seed 0; LoRA, seed 1." in text


def test_a_failed_run_is_in_the_report_with_its_reason() -> None:
    text = markdown("mine", [result()], failed=(Failure("full", "full", 0, "loss is not a number at step 3"),))
    assert "- full, seed 0: loss is not a number at step 3" in text


def test_a_study_without_a_finished_run_has_no_tables_and_says_so() -> None:
    assert tables_of([]) == []
    assert "No run has finished." in markdown("mine", [])


# For scripts


def test_the_summary_has_the_promised_keys() -> None:
    made = Report.of(results([result()])).summary()
    assert list(made) == ["study", "out", "report", "conclusion", "records", "verdicts", "not_comparable"]
    run = json.loads(json.dumps(made))["records"][0]
    assert list(run)[:15] == [
        "method", "seed", "status", "accuracy", "f1", "examples", "trainable", "body", "head", "total",
        "tokens_per_second", "seconds", "memory", "adapter", "digest",
    ]  # fmt: skip
    assert run["status"] == "done"
    assert set(run["seconds"]) == {"load", "encode", "train", "evaluate", "save"}
    assert {"state_bytes", "activation_bytes", "rss_peak", "allocated_end", "allocated_peak", "reserved_peak"} <= set(
        run["memory"]
    )
    assert (made["out"], made["report"]) == ("out", str(Path("out/report.md")))
    assert run["adapter"] == str(Path("out/adapters/lora-0"))
    assert run["predictions"] == str(Path("out/predictions/lora-0.safetensors"))
    assert (run["title"], run["kind"], run["metric"]) == ("LoRA", "classes", "accuracy")
    assert run["metrics"] == {"accuracy": run["accuracy"], "f1": run["f1"]} == {"accuracy": 0.6, "f1": 0.55}
    assert run["environment"]["device"] == "cpu"
    assert not {"gold", "predicted", "losses"} & set(run)


def test_a_failed_run_has_the_same_keys_with_nothing_in_them_but_the_error() -> None:
    failure = Failure("full", "full", 3, "loss is not a number at step 3")
    done, failed = Report.of(results([result()], failed=[failure])).summary()["records"]  # type: ignore[misc]
    assert list(failed) == list(done)
    assert (failed["status"], failed["method"], failed["seed"]) == ("failed", "full", 3)
    assert failed["error"] == "loss is not a number at step 3"
    assert failed["accuracy"] is None
    assert set(failed["seconds"].values()) == set(failed["memory"].values()) == {None}


def test_the_words_for_the_methods_are_the_methods_own() -> None:
    for key, method in METHODS.items():
        (arm,) = arms([result(key, hyperparameters={})])
        assert arm.label == method.title
        tuning = Report.of(results([], tuned=[Tuned(name=key, method=key)])).tables[-1]
        assert cells(tuning, "Method") == [method.title]


def test_a_method_that_is_not_known_here_is_called_what_its_record_says() -> None:
    made = result(method="lora", title="LoRA of another day")
    assert cells(by_title([made])["Performance"], "Method") == ["LoRA of another day"]
