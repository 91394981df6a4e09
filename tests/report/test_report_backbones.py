"""Reports of several backbones: labels, the time and memory of answers, and the sentence on the faster backbone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from afina.report import answer_costs
from afina.report.arms import arms
from afina.report.conclusion import sentences
from afina.report.report import Report
from afina.report.sections import tuning_table
from afina.report.tables import ANSWERS
from afina.report.verdicts import verdicts
from afina.studies.results import Results
from afina.studies.runs.record import Result, Seconds, Selection
from afina.studies.trials import Tuned
from records import TEXTS, answering, environment, record, result

SMALL = 20_000_000


def on(backbone: str, method: str, wrong: range, milliseconds: float, **changes: Any) -> Result:
    """A run that is wrong on those texts, and answers in that time a text."""
    taken = Seconds(load=1.0, encode=1.0, train=10.0, evaluate=milliseconds * TEXTS / 1000, save=1.0)
    place = {"backbone_digest": f"sha256:{backbone}", "tokenizer_digest": f"sha256:of-{backbone}"}
    values = {"backbone": backbone, "seconds": taken, "environment": environment(**place), "key": backbone + method}
    return answering(method, wrong, **(values | changes))


def compared(*results: Result) -> Report:
    """The report of a study of two backbones."""
    return Report.of(Results("mine", Path("out"), results, backbones=("big", "hub/small@main")))


BIG = on("big", "full", range(20), 12.0)
SMALLER = on("hub/small@main", "full", range(10, 40), 0.8, total=SMALL, body=SMALL - 1_536, trainable=SMALL)
ADAPTED = on("hub/small@main", "lora", range(10, 60), 0.9, total=SMALL)


def test_methods_are_called_by_their_backbones() -> None:
    assert [arm.label for arm in arms([BIG, SMALLER])] == ["full fine-tuning on big", "full fine-tuning on small"]
    assert [arm.label for arm in arms([BIG])] == ["full fine-tuning"]
    both = ("big", "hub/small@main")
    assert [arm.label for arm in arms([BIG], both)] == ["full fine-tuning on big"], "the other has not finished"
    sizes = [on("big", "lora", range(9), 1.0, train_examples=size, key=str(size)) for size in (8, 16)]
    labels = [arm.whatever_size for arm in arms([*sizes, ADAPTED])]
    assert labels == ["LoRA on big", "LoRA on big", "LoRA on small"]
    chosen = [on(name, "lora", range(9), 1.0, name=f"lora-on-{name}") for name in ("big", "small")]
    assert [arm.label for arm in arms(chosen)] == ["LoRA on big", "LoRA on small"], "as a recommendation names its runs"


def test_the_conclusion_says_what_a_faster_backbone_loses() -> None:
    report = compared(BIG, SMALLER, ADAPTED)
    comparison = report.verdicts.between("full fine-tuning on big", "full fine-tuning on small")
    assert comparison is not None
    worst = 100 * comparison.interval.high
    assert 5 < worst < 6
    said = next(one for one in report.sentences if "times as fast" in one)
    assert said == (
        "full fine-tuning on small (0.9250) is within 6 points of full fine-tuning on big (95 % interval of the "
        "difference) and answers 15 times as fast: 0.8 ms instead of 12 ms a text, with 76.3 MiB to serve instead of "
        "0.46 GiB."
    )


def test_the_distance_is_that_of_the_worse_end_in_either_order() -> None:
    turned = compared(SMALLER, ADAPTED, BIG)
    assert next(one for one in turned.sentences if "times as fast" in one) in compared(BIG, SMALLER, ADAPTED).sentences


@pytest.mark.parametrize(
    "other",
    [
        on("hub/small@main", "full", range(10, 40), 10.0),
        on("hub/small@main", "full", range(10, 40), 0.8, environment=environment(processor="another")),
        on("hub/small@main", "full", range(10, 40), 0.8, at_once=2),
        on("hub/small@main", "full", range(10, 40), 0.8, training={"temperature": True}),
        on("hub/small@main", "baseline", range(10, 40), 0.8),
        on("big", "lora", range(10, 40), 0.8),
    ],
    ids=["little faster", "another machine", "beside others", "calibrated", "random head", "same backbone"],
)
def test_no_backbone_is_called_faster_without_comparable_times(other: Result) -> None:
    assert not any("times as fast" in one for one in compared(BIG, other).sentences)


def test_a_loss_is_a_distance_too() -> None:
    from records import of_kind

    def run(backbone: str, noise: float, milliseconds: float) -> Result:
        taken = Seconds(load=1.0, encode=1.0, train=10.0, evaluate=milliseconds * TEXTS / 1000, save=1.0)
        made = of_kind("number", noise=noise, backbone=backbone, seconds=taken, key=backbone)
        return Result(made.record.model_copy(update={"metric": "rmse"}), made.predictions)

    both = arms([run("big", 0.2, 12.0), run("small", 0.4, 2.0)])
    found = verdicts(both)
    said = next(one for one in sentences(both, found) if "times as fast" in one)
    assert "answers 6 times as fast" in said
    comparison = found.between("LoRA on big", "LoRA on small")
    assert comparison is not None
    worst = -comparison.interval.low
    told = float(said.partition("is within ")[2].partition(" of ")[0])
    assert worst <= told < worst + 1e-4


def test_bytes_to_serve_are_those_of_weights_that_a_server_holds() -> None:
    full, lora, bitfit = record("full"), record("lora"), record("bitfit", body=1_000)
    assert answer_costs.bytes_to_serve(full) == 4 * full.total
    assert answer_costs.bytes_to_serve(lora) == 4 * (lora.total + lora.body)
    assert answer_costs.bytes_to_serve(bitfit) == 4 * bitfit.total
    assert answer_costs.bytes_to_serve(record("zero-shot")) == 4 * full.total
    several = [lora.model_copy(update={"method": name}) for name in ("lora+adapter", "lora+bitfit")]
    assert answer_costs.bytes_to_serve(several[0]) == 4 * (lora.total + lora.body)
    assert answer_costs.bytes_to_serve(several[1]) is None, "how many of its parameters are added is not known"
    held = several[1].model_copy(update={"training": {"precision": "int8"}, "weight_bytes": 1_234})
    assert answer_costs.bytes_to_serve(held) == 1_234


def test_selection_texts_are_answered_too() -> None:
    chosen = record(selection=Selection(value=0.5, loss=1.0, examples=128))
    assert answer_costs.seconds_a_text(chosen) == chosen.seconds.evaluate / (872 + 128)


def test_the_tables_have_the_time_and_memory_of_answers() -> None:
    report = compared(BIG, SMALLER, ADAPTED)
    table = next(table for table in report.tables if table.title == ANSWERS)
    assert [column.heading for column in table.columns] == ["Method", "Accuracy", "Milliseconds a text", "To serve"]
    assert table.rows[0] == ("full fine-tuning on big", "0.9500", "12", "0.46 GiB")
    assert table.rows[1][2:] == ("0.8", "76.3 MiB")
    content = report.files(["tables.json", "tables.csv"])
    rows = json.loads(content["tables.json"])["tables"]["answers"]
    assert rows[1] == {
        "method": "full fine-tuning on small",
        "seed": 0,
        "backbone": "hub/small@main",
        "seconds_a_text": pytest.approx(0.0008),
        "bytes_to_serve": 4 * SMALL,
    }
    assert "answers,full fine-tuning on small,0,bytes_to_serve,80000000" in content["tables.csv"]
    assert all(table.title != ANSWERS for table in Report.of(Results("mine", Path("out"), (BIG,))).tables)


def test_one_machine_is_one_environment_whatever_the_backbone() -> None:
    text = compared(BIG, SMALLER).markdown()
    assert "Environment 2" not in text
    plain = " ".join(text.split())
    assert "Backbone `big`: `sha256:big`, tokenizer `sha256:of-big`" in plain
    assert "Backbone `hub/small@main`: `sha256:hub/small@main`" in plain
    moved = SMALLER.record.environment.model_copy(update={"processor": "another"})
    elsewhere = on("hub/small@main", "full", range(10), 0.8, environment=moved)
    assert "Environment 2" in compared(BIG, elsewhere).markdown()


@pytest.mark.slow
def test_the_pareto_front_of_answers_is_drawn_where_times_can_be_compared() -> None:
    both = compared(BIG, SMALLER)
    assert answer_costs.are_comparable(both.arms)
    assert "against the time of an answer" in both.page()
    beside_others = on("hub/small@main", "full", range(9), 0.8, at_once=2)
    assert not answer_costs.are_comparable(compared(BIG, beside_others).arms)


def test_tuned_settings_are_called_by_their_backbones() -> None:
    names = {"big": "big", "hub/small@main": "small"}
    table = tuning_table([Tuned(name="lora", method="lora", backbone="hub/small@main")], names)
    assert table.rows[0][0] == "LoRA on small"


def test_texts_cut_are_told_by_backbone() -> None:
    results = [result("lora", backbone=name, truncated=cut, key=name) for name, cut in (("big", 3), ("small", 5))]
    text = " ".join(Report.of(Results("mine", Path("out"), tuple(results))).markdown().split())
    assert "`big`: 3 of" in text
    assert "`small`: 5 of" in text
