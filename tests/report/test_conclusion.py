"""The sentences with which a study's report begins, and whether a reader of nothing else would be misled."""

from __future__ import annotations

from dataclasses import replace
from math import nan
from typing import Any
from unittest.mock import create_autospec

import pytest

from afina.cli.results import publish_winner
from afina.report.report import Report
from afina.report.verdicts import ONE_SEED, SIGNIFICANT
from afina.store.adapter_store import AdapterStore
from afina.studies.descriptions import Failure
from afina.studies.runs.record import Devices, Result, Seconds
from records import answering, asked, endpoint_use, environment, results


def told(*made: Result, **changes: Any) -> str:
    return " ".join(Report.of(results(made, **changes)).sentences)


def lasting(seconds: float) -> Seconds:
    return Seconds(load=1, encode=1, train=seconds, evaluate=1, save=1)


def test_one_method_alone_has_its_figure_and_nothing_is_called_best() -> None:
    said = told(answering("lora", range(40)))
    assert said.startswith("LoRA: accuracy 0.90 (0.87 to 0.93) on 400 evaluation texts. ")
    assert "There is no other method to compare LoRA with." in said
    assert "best" not in said
    assert said.endswith(ONE_SEED)


def test_a_method_that_is_better_than_all_is_best_and_nothing_cheaper_is_said_to_be_as_good() -> None:
    said = told(answering("full", range(10)), answering("lora", range(60)), answering("baseline", range(200)))
    assert said.startswith(
        "Use full fine-tuning: accuracy 0.97 (0.95 to 0.99) on 400 evaluation texts. full fine-tuning (0.9750) is "
        f"better than LoRA (0.8500) and no fine-tuning (0.5000). {SIGNIFICANT} No cheaper method is as good."
    )
    assert "ndecided" not in said


def test_undecided_is_never_called_as_good_and_what_would_settle_it_is_said() -> None:
    said = told(
        answering("full", range(20), seconds=lasting(100)), answering("lora", range(15, 40), seconds=lasting(60))
    )
    assert said.startswith(
        "full fine-tuning has the highest accuracy: 0.95 (0.92 to 0.97) on 400 evaluation texts. It is undecided "
        "whether full fine-tuning (0.9500) is better than LoRA (0.9375). LoRA costs less, and whether it is as good is "
        "undecided: 0.1197 % of the parameters instead of 100 %, 60 s of training instead of 100 s, 3.00 GiB of memory "
        "instead of 3.00 GiB."
    )
    assert "equivalent" not in said
    assert "Undecided between full fine-tuning and LoRA: difference 1.2 points" in said
    assert f"more examples would probably settle it. {ONE_SEED}" in said


def among_many(full: int, lora: int) -> str:
    """Of so many wrong answers of 4,000, those of one method among the other's."""
    right = tuple(index % 2 for index in range(4_000))

    def run(method: str, wrong: int) -> Result:
        given = tuple(1 - one if index < wrong else one for index, one in enumerate(right))
        return answering(method, [], gold=right, predicted=given, accuracy=1 - wrong / 4_000, examples=4_000)

    return told(run("full", full), run("lora", lora))


def test_what_is_equivalent_and_cheaper_is_as_good() -> None:
    assert among_many(10, 12).startswith(
        "full fine-tuning has the highest accuracy: 0.998 (0.995 to 0.999) on 4,000 evaluation texts. LoRA (0.9970) is "
        "equivalent to full fine-tuning (0.9975) within 1 point. LoRA is equivalent and costs less: 0.1197 % of the "
        "parameters"
    )
    assert "costs less" not in among_many(12, 10), "of what leads and costs least there is nothing more to say"


def test_a_cheaper_method_that_is_worse_by_less_than_the_margin_is_named() -> None:
    said = among_many(0, 12)
    assert said.startswith("Use full fine-tuning: ")
    assert "LoRA is worse by less than 1 point, and costs less" in said
    assert "No cheaper method" not in said


def test_an_untrained_model_that_does_best_is_said_to() -> None:
    said = told(answering("zero-shot", range(10)), answering("lora", range(60)))
    assert said.startswith("Use zero-shot: accuracy 0.97 (0.95 to 0.99) on 400 evaluation texts. ")
    assert "zero-shot (0.9750) is better than LoRA (0.8500)." in said
    said = told(answering("zero-shot", range(41)), answering("lora", range(20, 60)))
    assert "zero-shot costs less, and whether it is as good is undecided: it trains nothing." in said


def test_a_fee_is_never_called_less_than_the_costs_of_a_local_method() -> None:
    said = told(asked(range(41)), answering("lora", range(20, 60)))
    assert "m (endpoint) needs no training, and costs 0.104 per 1,000 texts; LoRA needed 100 s of training, " in said
    assert "costs less" not in said
    assert "and costs an unknown fee per text" in told(
        asked(range(41), endpoint=endpoint_use(cost=None, cost_per_1000=None)), answering("lora", range(20, 60))
    )
    dear = asked(range(20, 60), name="dear", endpoint=endpoint_use(cost_per_1000=2.0), title="n (endpoint)")
    said = told(asked(range(41)), dear)
    assert (
        "m (endpoint) costs less, and whether it is as good is undecided: 0.104 per 1,000 texts instead of 2." in said
    )


def test_where_all_is_undecided_all_are_named_and_the_pairs_that_are_not_spelled_out_are_counted() -> None:
    made = [answering("full", range(20))]
    made += [answering("lora", range(start, start + 22), name=f"lora-{start}") for start in range(10, 60, 10)]
    said = told(*made)
    assert said.startswith("full fine-tuning has the highest accuracy")
    assert said.count("ndecided between") == 1
    assert "4 more comparisons with full fine-tuning are undecided: see Verdicts in the report." in said
    assert all(f"lora-{start}" in said for start in range(10, 60, 10))


def test_several_seeds_are_a_mean_of_which_no_single_seed_is_said() -> None:
    said = told(*(answering(method, range(wrong + seed), seed=seed) for method, wrong in (("full", 10), ("lora", 60))
                  for seed in range(3)))  # fmt: skip
    assert "on 400 evaluation texts (mean of 3 seeds)" in said
    assert "full fine-tuning (0.9725)" in said
    assert "One seed" not in said


def test_what_failed_waits_or_cannot_be_compared_is_not_passed_over() -> None:
    made = [answering("full", range(10)), answering("lora", range(60))]
    failed = [Failure("prelayer", "prelayer", seed, "lost") for seed in range(5)]
    said = told(*made, failed=failed)
    assert said.endswith(
        "Not included: 5 runs that failed (prelayer, seed 0; prelayer, seed 1; prelayer, seed 2; ...)."
    )
    assert told(*made, waiting=1).endswith("Not included: 1 run that has not finished.")
    elsewhere = answering("prelayer", [], environment=environment(evaluation_digest="sha256:other"))
    said = told(*made, elsewhere)
    assert said.startswith("Use full fine-tuning: ")
    assert said.endswith("Not included: PreLayer (head frozen), measured on other texts or seeds.")


def test_times_of_two_machines_are_not_set_against_each_other() -> None:
    said = told(
        answering("full", range(20), seconds=lasting(10)),
        answering("lora", range(15, 40), seconds=lasting(90), environment=environment(threads=8)),
    )
    assert (
        "LoRA costs less, and whether it is as good is undecided: 0.1197 % of the parameters instead of 100 %." in said
    )
    assert " s of training" not in said


def test_what_takes_longer_is_not_said_to_cost_less() -> None:
    slow = answering("lora", range(15, 40), seconds=lasting(101))
    assert "costs less" not in told(answering("full", range(20)), slow)


def test_the_report_begins_with_it_as_a_page_as_text_and_as_json() -> None:
    made = Report.of(results([answering("full", range(10)), answering("lora", range(60))]))
    text, page = made.markdown(), made.page()
    (first, *_) = made.sentences
    assert " ".join(text.split()).startswith(f"# Study `mine` ## Conclusion {first}")
    assert text.index("## Conclusion") < text.index("## Verdicts") < text.index("## Performance")
    assert made.headline is not None
    assert first.startswith(made.headline.text)
    assert f"<h1>{made.headline.text}</h1>" in page
    assert page.count(made.headline.text) == 1
    assert page.index("</h1>") < page.index('class="figures"') < page.index("<svg") < page.index('<h2 id="verdicts">')
    assert made.summary()["conclusion"] == list(made.sentences)


def test_memory_of_several_processes_is_said_to_be_that_of_the_first() -> None:
    devices = Devices(count=2, rss_peaks=(3 * 2**30, 4 * 2**30), allocated_peaks=(None, None))
    alone, several = (Report.of(results([answering("lora", range(9), devices=one)])) for one in (None, devices))
    notes = [report.headline.figures[2].note for report in (alone, several) if report.headline]
    assert notes == ["peak of the process", "peak of the first of 2 processes"]
    told = " ".join(note for table in several.tables for note in table.notes)
    assert "memory is that of the first process (the largest peak of a process is 4.00 GiB)" in told


def test_where_nothing_has_finished_there_is_no_conclusion() -> None:
    made = Report.of(results([]))
    assert made.sentences == ()
    assert "Conclusion" not in made.markdown()


def test_a_tie_is_called_one() -> None:
    said = told(answering("lora", []), answering("zero-shot", []))
    assert said.startswith(
        "LoRA and zero-shot have the same accuracy: 1.000 (0.990 to 1.000) on 400 evaluation texts. zero-shot (1.0000) "
        "is equivalent to LoRA (1.0000) within 1 point. zero-shot is equivalent and costs less: it trains nothing."
    )
    assert "undecided" not in said
    assert "highest" not in said
    three = told(answering("full", range(12)), answering("lora", range(8)), answering("zero-shot", range(2, 10)))
    assert three.startswith(
        "LoRA and zero-shot have the same accuracy: 0.98 (0.96 to 0.99) on 400 evaluation texts. It is undecided "
        "whether LoRA (0.9800) is better than zero-shot (0.9800) or full fine-tuning (0.9700)."
    )
    headline = Report.of(results([answering("full", range(20)), answering("lora", range(15, 40))])).headline
    assert headline is not None
    assert headline.text == "full fine-tuning has the highest accuracy: 0.95 (0.92 to 0.97), undecided against LoRA"
    below = told(answering("full", range(90)), answering("lora", range(8)), answering("zero-shot", range(2, 10)))
    assert "LoRA (0.9800) is better than full fine-tuning (0.7750)." in below
    headline = Report.of(results([answering("zero-shot", []), answering("lora", [])])).headline
    assert headline is not None
    assert headline.text.startswith("LoRA and zero-shot have the same accuracy")
    assert headline.figures[1].value == "100 s", "the trained method's"


def test_what_is_to_be_used_is_what_the_conclusion_says() -> None:
    def used(*made: Result) -> str:
        record = Report.of(results(made)).of_use
        return record.name if record else "nothing"

    assert used(answering("full", range(60)), answering("zero-shot", range(20))) == "zero-shot"
    assert used(answering("full", range(20)), answering("zero-shot", range(20, 40))) == "full"
    assert used(answering("full", range(20)), answering("lora", range(20, 40))) == "lora", "it trains less"
    assert used(answering("full", range(10)), answering("lora", range(20)), answering("zero-shot", range(60))) == "full"
    assert used(answering("full", range(60)), answering("baseline", range(20))) == "full"
    assert used(answering("baseline", range(20))) == "nothing"


WITHOUT = {"adapter": None, "digest": None}


@pytest.mark.parametrize(
    ("made", "published"),
    [
        ([answering("full", range(20)), answering("lora", range(20))], "lora"),
        ([answering("full", range(20), accuracy=nan), answering("lora", range(20))], "lora"),
        ([answering("full", range(20), accuracy=nan)], "full"),
        ([answering("full", range(20), accuracy=nan), answering("lora", range(20), accuracy=nan)],
         "no method can be called best: accuracy is undefined, because it needs "),
        ([answering("full", range(20), accuracy=nan), answering("lora", range(20), **WITHOUT)],
         "the best method, LoRA, has no adapter to use"),
        ([answering("lora", range(20)), answering("zero-shot", range(5), **WITHOUT)],
         "the best method, zero-shot, has no adapter to use"),
        ([], "no run has finished"),
    ],
    ids=["tie", "first-undefined", "alone", "all-undefined", "only-undefined-saved", "best-not-saved", "none"],
)  # fmt: skip
def test_published_is_the_method_that_the_headline_names_first(
    made: list[Result], published: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    publish = create_autospec(AdapterStore.publish)
    monkeypatch.setattr(AdapterStore, "publish", publish)
    publish_winner(results(made), "acme/reviews")
    report = Report.of(results(made))
    if not publish.called:
        assert capsys.readouterr().err.startswith(f"No version of acme/reviews was published: {published}")
        return
    assert publish.call_args.args[1].name == f"{published}-0"
    assert report.headline
    assert report.of_use
    assert len(made) == 1 or report.headline.text.startswith(report.title_of(report.of_use))


@pytest.mark.parametrize("change", [{"method": "of-a-package"}, {"backbone": "./moved"}], ids=["method", "backbone"])
def test_results_are_read_without_the_package_of_their_method_and_without_their_backbone(
    change: dict[str, str],
) -> None:
    made = answering("lora", range(10), label_names=("0", "1"), steps=30)
    there = replace(made, record=made.record.model_copy(update=change))
    assert ": accuracy 0.97" in Report.of(results([there])).sentences[0]
