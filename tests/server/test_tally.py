"""What two versions answered, compared and counted: by hand, by numpy, and in parts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from afina.data.kinds import Kind
from afina.engine.mixed_batches import Prediction
from afina.errors import InvalidData
from afina.server.answer_formats import compared
from afina.server.versions.shadow_counts import AnswerDifference, ShadowCounts
from raises import raises


def answer(kind: Kind, **said: Any) -> Prediction:
    return Prediction(said, kind, np.zeros(2), "sha256:a", None, truncated=False)


def classes(label: str, **chances: float) -> Prediction:
    return answer("classes", label=label, probabilities=chances)


def labels(*names: str, **chances: float) -> Prediction:
    return answer("labels", labels=[*names], probabilities=chances)


def test_classes_flip_with_the_label_and_drift_by_the_chance_of_the_current_one() -> None:
    current = classes("good", bad=0.25, good=0.75)
    assert compared(current, classes("good", bad=0.5, good=0.5)) == AnswerDifference(False, -0.25)
    assert compared(current, classes("bad", bad=0.875, good=0.125)) == AnswerDifference(True, -0.625)
    assert compared(current, classes("fine", fine=1.0)) == AnswerDifference(True, -0.75), "it has no such label"


def test_several_labels_flip_with_their_set_and_drift_by_the_most_probable() -> None:
    current = labels("late", late=0.75, rude=0.25)
    same, other = labels("late", late=1.0, rude=0.0), labels("late", "rude", late=0.5, rude=0.5)
    assert (compared(current, same), compared(current, other)) == (
        AnswerDifference(False, 0.25),
        AnswerDifference(True, -0.25),
    )


def test_numbers_do_not_flip_and_drift_in_their_unit() -> None:
    assert compared(answer("number", value=3.0), answer("number", value=4.5)) == AnswerDifference(None, 1.5)


@pytest.mark.parametrize("other", [answer("number", value=1.0), labels(good=0.1)])
def test_answers_of_different_kinds_are_not_compared(other: Prediction) -> None:
    with raises(InvalidData, code="data.kind-mismatch", expected="label") as caught:
        compared(classes("good", good=1.0), other)
    assert caught.value.code == "data.kind-mismatch"


def counted(seen: list[AnswerDifference]) -> ShadowCounts:
    tally = ShadowCounts()
    for one in seen:
        tally = tally.seen(one)
    return tally


def test_rates_and_intervals_of_a_made_case() -> None:
    differences = np.linspace(-0.3, 0.2, 40)
    tally = counted([AnswerDifference(number < 6, float(one)) for number, one in enumerate(differences)])
    assert (tally.texts, tally.flips, tally.flip_rate) == (40, 6, 0.15)
    # Wilson's interval, by its formula
    z, share, n = stats.norm.ppf(0.975), 0.15, 40
    middle = (share + z**2 / 2 / n) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(share * (1 - share) / n + z**2 / 4 / n**2)
    assert tally.flip_interval is not None
    assert (tally.flip_interval.low, tally.flip_interval.high) == pytest.approx((middle - half, middle + half))
    assert tally.drift == pytest.approx(differences.mean())
    assert tally.drift_interval is not None
    low, high = stats.t.interval(0.95, 39, differences.mean(), stats.sem(differences))
    assert (tally.drift_interval.low, tally.drift_interval.high) == pytest.approx((low, high), abs=2e-3), (
        "bent a little"
    )


def test_an_interval_of_numbers_is_students_and_of_chances_stays_within_what_they_can_be() -> None:
    values = np.array([1.0, 5.0, -2.0])
    numbers = counted([AnswerDifference(None, float(one)) for one in values]).drift_interval
    assert numbers is not None
    assert (numbers.low, numbers.high) == pytest.approx(stats.t.interval(0.95, 2, values.mean(), stats.sem(values)))
    chances = counted([AnswerDifference(True, -0.9), AnswerDifference(True, -0.2)]).drift_interval
    assert chances is not None
    assert -1 <= chances.low < -0.55 < chances.high <= 1


def test_nothing_is_said_of_no_text_and_no_interval_of_one() -> None:
    assert (ShadowCounts().flip_rate, ShadowCounts().flip_interval, ShadowCounts().drift_interval) == (None, None, None)
    one = ShadowCounts().seen(AnswerDifference(True, 0.5))
    assert (one.flip_rate, one.drift_interval) == (1.0, None)
    number = ShadowCounts().seen(AnswerDifference(None, 0.5))
    assert (number.flips, number.flip_rate, number.flip_interval) == (None, None, None)


SEEN = st.lists(st.builds(AnswerDifference, st.booleans(), st.floats(-1, 1)), max_size=30)


@given(SEEN, SEEN)
def test_parts_add_up_to_the_whole_and_pass_through_json(
    first: list[AnswerDifference], second: list[AnswerDifference]
) -> None:
    parts = counted(first).fault().plus(ShadowCounts.of(counted(second).left().as_json()))
    whole = counted(first + second)
    assert (parts.texts, parts.flips, parts.faults, parts.left_out) == (whole.texts, whole.flips, 1, 1)
    values = np.array([one.drift for one in first + second])
    assert parts.drift == pytest.approx(values.mean() if len(values) else 0.0, abs=1e-9)
    assert parts.scatter == pytest.approx(((values - parts.drift) ** 2).sum(), abs=1e-9)


@pytest.mark.parametrize(
    "change",
    [{"texts": "many"}, {"flips": 3}, {"drift": float("nan")}, {"scatter": None}, {"flips": -1}],
    ids=str,
)
def test_what_is_no_tally_is_refused(change: dict[str, Any]) -> None:
    with raises(InvalidData, code="server.counts-malformed"):
        ShadowCounts.of({**ShadowCounts().seen(AnswerDifference(True, 0.5)).as_json(), **change})
