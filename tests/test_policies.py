"""benchmarks/choose.py: policies replayed on curves that are made up, so that what is best is known."""

from __future__ import annotations

import json
import math
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

bench = pytest.mark.bench
BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
ENDS = {
    **{("full", rate): end for rate, end in ((3.33e-5, 0.7), (1e-4, 0.9), (3e-4, 0.6))},
    **{("lora", rate): end for rate, end in ((3.33e-4, 0.75), (1e-3, 0.8), (3e-3, 0.7))},
    ("head", 1e-2): 0.6,
    ("ia3", 5e-3): 0.65,
}
"""By setting, where its curve ends; full begins below all others."""


FLOORS = {"majority": 0.4, "tfidf": 0.55, "zero-shot": 0.5}


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))


@pytest.fixture
def choose() -> ModuleType:
    import choose

    return choose


def lines() -> list[dict[str, Any]]:
    """Records of every cell, as `learning_curves.py` writes them."""
    import learning_curves as recorder

    paces = {
        name: {"opening": 5.0, "step": step, "text": 0.01}
        for name, step in (("full", 2), ("lora", 1), ("head", 0.5), ("ia3", 1))
    }
    made: list[dict[str, Any]] = [{"paces": paces}]
    for cell in recorder.cells():
        bits = {name: share(value, recorder.HELD_OUT) for name, value in FLOORS.items()}
        made.append({"untrained": vars(cell), "right": {name: recorder.packed(each) for name, each in bits.items()}})
        for (method, rate), end in ENDS.items():
            for length in (cell.steps, max(1, round(recorder.SHORT * cell.steps))):
                made.append({"curve": {"cell": vars(cell), "method": method, "rate": rate, "steps": length}})
                shares = recorder.SHARES if length == cell.steps else (1.0,)
                slow = 0.6 if method == "full" else 0.2
                reached = [end - slow * (1 - step * length / cell.steps) for step in shares]
                made[-1]["points"] = [
                    {
                        "step": max(1, round(step * length)),
                        "validation": value,
                        "loss": 1 - value,
                        "right": recorder.packed(share(value, recorder.HELD_OUT)),
                    }
                    for step, value in zip(shares, reached, strict=True)
                ]
    return made


def share(value: float, count: int) -> np.ndarray:
    return np.arange(count) < round(value * count)


@pytest.fixture
def there(choose: ModuleType) -> list[Any]:
    from learning_curves import cells
    from policies import recorded

    return [recorded(lines(), cell) for cell in cells()]


@pytest.fixture
def named() -> list[Any]:
    """The same cells, as `afina choose` itself meets them."""
    from learning_curves import cells
    from lessons import together

    return [together(lines(), cell, ("embedded",), beside=False) for cell in cells()]


@bench
def test_with_all_time_whole_runs_keep_the_best_and_have_no_regret(
    choose: ModuleType, there: list[Any], named: list[Any]
) -> None:
    from policies import POLICIES
    from replay import replayed

    assert choose.regret(choose.of_seconds(POLICIES["Optuna's Hyperband"]), there, 600).mean == 0
    assert choose.regret(replayed(("embedded",)), named[:1] + named[1:2], 600).mean == 0


@bench
def test_the_learnt_order_begins_with_what_is_best_elsewhere(there: list[Any]) -> None:
    from policies import portfolio

    assert portfolio(there[:1])[0] == ("full", 1e-4)
    assert sorted(portfolio(there)) == sorted(ENDS)


@bench
def test_what_a_race_of_seconds_misses_is_its_regret(choose: ModuleType, there: list[Any]) -> None:
    """Full, which ends best, is last at first: a race of short runs lets it fall behind."""
    from policies import POLICIES

    of_race = choose.regret(choose.of_seconds(POLICIES["race of seconds (before)"]), there, 5)
    assert of_race.mean > 0.03
    low, high = of_race.interval
    assert low < of_race.mean < high


@bench
def test_what_the_floors_beat_is_not_handed_over(choose: ModuleType, there: list[Any]) -> None:
    cell = there[0]
    floor = cell.untrained["tfidf"]
    assert choose.handed_over(cell, np.zeros(len(floor), bool)) is floor
    assert choose.handed_over(cell, None) is floor
    better = np.ones(len(floor), bool)
    assert choose.handed_over(cell, better) is better


@bench
def test_a_run_that_diverged_is_a_setting_that_answers_nothing(choose: ModuleType) -> None:
    from learning_curves import cells
    from policies import recorded

    made = lines()
    broken = next(one for one in made if "curve" in one and one["curve"]["method"] == "full")
    broken["points"] = [{"step": 3, "validation": None, "loss": None}]
    cell = recorded(made, cells()[0])
    kept = cell.ends["full", 3.33e-5]
    assert (kept.validation, kept.loss, kept.right.sum()) == (0.0, math.inf, 0)


@bench
def test_the_last_line_has_the_regret_by_minutes_and_by_task(
    choose: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "curves.jsonl"
    path.write_text("".join(json.dumps(one) + "\n" for one in lines()), encoding="utf-8")
    report = tmp_path / "tables.md"
    monkeypatch.setattr(sys, "argv", ["choose.py", "--curves", str(path), "--markdown", str(report)])
    right = np.ones(300, bool)
    monkeypatch.setattr(choose, "replayed", lambda *given, **options: lambda cell, minutes, known: right)
    choose.main()
    output = capsys.readouterr().out
    found = json.loads(output.splitlines()[-1])
    assert set(found) == {"regret", "by_task"}
    assert set(found["regret"]) == {"5", "10", "30"}
    assert found["regret"]["30"] < 0, "as right as no setting is"
    assert set(found["by_task"]) == {
        "products, 200 texts",
        "products, 1,500 texts",
        "tweets, 200 texts",
        "tweets, 1,500 texts",
    }
    assert report.read_text(encoding="utf-8") == output.rpartition("\n{")[0]
    assert "| **whole runs in a learnt order** |" in output


@bench
def test_the_page_has_the_tables_that_the_recorded_curves_give(choose: ModuleType) -> None:
    import several_backbones
    from learning_curves import KEPT, cells, read
    from policies import recorded

    kept = read(KEPT)
    page = choose.PAGE.read_text(encoding="utf-8")
    assert choose.tables([recorded(kept, cell) for cell in cells()], choose.on_one_backbone(kept)) in page
    assert several_backbones.tables(kept) in page


def test_what_is_built_in_is_what_the_recorded_curves_teach() -> None:
    from afina.studies.choosing.recorded_curves import MANY, STEP_COSTS
    from learning_curves import KEPT, read
    from several_backbones import built_in

    taught = built_in(read(KEPT))
    assert taught.order == MANY.orders[frozenset({"causal", "encoder"})]
    assert taught.orders == {kind: MANY.orders[frozenset({kind})] for kind in ("causal", "encoder")}
    assert taught.ahead == MANY.ahead
    assert (taught.counts, taught.levels, taught.level_counts) == (MANY.counts, MANY.levels, MANY.level_counts)
    assert taught.step_costs == STEP_COSTS


def test_with_few_labels_what_is_built_in_is_what_the_recorded_trainings_teach() -> None:
    import few_labels
    from afina.studies.choosing.recorded_curves import FEW
    from few_lessons import learned, rounded

    kept = few_labels.of_words() | few_labels.read(few_labels.KEPT)
    assert rounded(learned(kept, few_labels.TASKS)) == FEW


@bench
def test_the_page_on_numbers_of_labels_has_the_tables_of_the_recorded_trainings() -> None:
    import few_labels
    import few_page

    kept = few_labels.of_words() | few_labels.read(few_labels.KEPT)
    assert few_page.tables(kept) in few_page.PAGE.read_text(encoding="utf-8")


@bench
def test_without_chance_choose_has_no_regret_with_few_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    """LoRA on the language model is right on every text, whatever the task, and all others on half of the texts."""
    import few_labels
    import few_lessons

    known = {}
    for task in few_labels.TASKS:
        cells = [few_labels.Cell(task, 0, few_labels.ZERO), few_labels.Cell(task, 1_024, few_labels.MAJORITY)]
        arms = (*few_labels.CHEAP, *few_labels.ON_ENCODER, *few_labels.ON_EMBEDDED)
        cells += [
            few_labels.Cell(task, labels, arm, seed)
            for arm in arms
            for labels in few_lessons.SIZES
            for seed in range(3)
        ]
        for cell in cells:
            right = np.arange(400) % 2 == 0
            right |= cell.arm == few_labels.ON_EMBEDDED[0]
            known[cell] = {"right": few_labels.words.packed(right)}
    lessons = few_lessons.learned(known, few_labels.TASKS)
    assert lessons.ahead["causal", "lora", 1.0] == 0.25 == -lessons.ahead["causal", "full", 1.0]
    assert lessons.orders[frozenset({"causal"})][1] == ("causal", "lora", 1.0)
    assert lessons.levels == {"causal": 0.125, "encoder": -0.125}
    monkeypatch.setattr(few_lessons, "TASKS", few_labels.TASKS[:1])
    monkeypatch.setattr(few_lessons, "learned", lambda known, tasks: lessons)
    assert few_lessons.regret_of(known, 16, ("embedded",)).mean == 0


def test_the_regret_that_is_built_in_is_that_of_the_page() -> None:
    from afina.studies.choosing.recorded_curves import REGRETS, Regret

    page = Path(__file__).parents[1].joinpath("docs", "background", "choose.md").read_text(encoding="utf-8")

    def row(name: str) -> dict[int, Regret]:
        found = next(line for line in page.splitlines() if line.startswith(f"| {name} |"))
        figures = [re.findall(r"-?[\d.]+", cell) for cell in found.split("|")[2:5]]
        return {minutes: Regret(*map(float, one)) for minutes, one in zip((5, 10, 30), figures, strict=True)}

    assert {
        frozenset({"causal"}): row("**whole runs in a learnt order**"),
        frozenset({"encoder"}): row("bge alone"),
        frozenset({"causal", "encoder"}): row("**both backbones, by gain for time**"),
    } == REGRETS


def two() -> list[dict[str, Any]]:
    """Records of two backbones: on bge everything is 5 points worse, and 20 times as fast."""
    import learning_curves as recorder

    made = lines()
    paces = made[0]["paces"]
    fast = {name: {key: value / 20 for key, value in pace.items()} for name, pace in paces.items()}
    made += [{"paces": paces, "backbone": "embedded"}, {"paces": fast, "backbone": "bge"}]
    for curve in recorder.curves("bge"):
        if curve.method != recorder.FITTED:
            end = 0.85 if curve.method == "full" and curve.rate == 2e-4 else 0.6
            made.append(_record(curve, end if curve.steps == curve.cell.steps else end - 0.2))
    for backbone in ("embedded", "bge"):
        made += [_record(curve, 0.7) for curve in recorder.curves(backbone) if curve.method == recorder.FITTED]
    return made


def _record(curve: Any, end: float) -> dict[str, Any]:
    import learning_curves as recorder

    shares = recorder.SHARES if curve.steps == curve.cell.steps else (1.0,)
    points = [
        {
            "step": max(1, round(share_ * curve.steps)),
            "validation": end,
            "loss": 1 - end,
            "right": recorder.packed(share(end, recorder.HELD_OUT)),
        }
        for share_ in shares
    ]
    return {"curve": curve.described(), "points": points}


@bench
def test_over_backbones_the_order_is_that_of_the_gain_for_time() -> None:
    from learning_curves import cells
    from lessons import taught, together
    from replay import replayed
    from several_backbones import built_in

    known = [together(two(), cell) for cell in cells()]
    order = taught(known).order
    assert [one[0] for one in order[:2]] == ["linear_probe-on-embedded", "linear_probe-on-bge"]
    assert order[2:4] == [("full-on-bge", 2e-4), ("full-on-embedded", 1e-4)]
    assert taught(known, timed=False).order[2] == ("full-on-embedded", 1e-4)
    assert sorted(order) == sorted(known[0].settings)
    taught_names = built_in(two())
    assert taught_names.orders["causal"][:2] == (("causal", "linear_probe", 1.0), ("causal", "full", 1.0))
    ahead = taught_names.ahead["causal", "linear_probe", 1.0]
    assert ahead == pytest.approx(0.7 - np.mean([*ENDS.values()]), abs=2e-3)
    assert taught_names.levels["causal"] == -taught_names.levels["encoder"] > 0
    ends = {name: known[2].ends[name].right.mean() for name in (("full-on-bge", 2e-4), ("full-on-embedded", 1e-4))}
    both = replayed(("embedded", "bge"))
    short, long = (both(known[2], minutes, known[:2]).mean() for minutes in (1.4, 300))
    assert [short, long] == [ends["full-on-bge", 2e-4], ends["full-on-embedded", 1e-4]]
