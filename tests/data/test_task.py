"""Tasks: when texts count as the same, what leaks, how splits are cut and divided."""

import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from afina.data.kinds import TEXT
from afina.data.readers.splitting import cuts, first, first_places, rank, sides
from afina.data.split import Example, Split, as_references, key, normalised
from afina.data.task import Task, check_leakage, count_leaked
from afina.errors import InvalidData, Leakage
from raises import raises


def split(*texts: str, pairs: list[str] | None = None) -> Split:
    return Split(list(texts), np.arange(len(texts)) % 2, pairs)


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("It 's  GOOD .", "itsgood"),
        ("Straße", "strasse"),
        ("ﬁne №5", "fineno5"),
        ("snake_case", "snakecase"),
        ("日本語、です", "日本語です"),
        (":) !?", ""),
    ],
)
def test_a_text_is_normalised_to_its_casefolded_letters_and_digits(text: str, form: str) -> None:
    assert normalised(text) == form


def test_letters_and_digits_are_those_of_str_isalnum_for_every_character() -> None:
    everything = "".join(map(chr, range(sys.maxunicode + 1)))
    assert re.sub(r"[\W_]+", "", everything) == "".join(filter(str.isalnum, everything))


def test_a_pair_is_the_same_only_when_both_texts_are() -> None:
    assert key(Example("A b", 0, "C")) == key(Example("ab!", 1, "c."))
    assert key(Example("ab", 0, "c")) != key(Example("a", 0, "bc"))
    assert key(Example("abc", 0)) != key(Example("ab", 0, "c"))


def test_a_split_takes_what_holds_texts_and_labels_in_an_order() -> None:
    plain = Split(["a", "b"], np.array([0, 1]), ["c", "d"])
    assert Split(iter(["a", "b"]), (i for i in (0, 1)), np.array(["c", "d"])).digest == plain.digest
    for wrong in ({"texts": ["a"]}, {"pairs": ["c"]}, {"labels": ["x", "y"]}, {"texts": "ab"}):
        with pytest.raises(InvalidData, match="a split's "):
            Split(**{"texts": ["a", "b"], "labels": [0, 1], "pairs": ["c", "d"]} | wrong)


def test_labels_may_be_references() -> None:
    answers = as_references([("a boat", "a ferry"), ("none",)])
    texts = Split(["a", "b"], answers)
    assert [one.label for one in texts] == [("a boat", "a ferry"), ("none",)]
    assert texts.take([1]).labels.tolist() == [("none",)]
    assert texts.digest == Split(["a", "b"], answers.copy()).digest != Split(["a", "b"], answers[::-1]).digest
    assert texts.digest == Split(["a", "b"], answers.tolist()).digest
    assert texts.facts() == {"texts": 2, "references": 3}
    for wrong in ([("a boat",), None], [("a boat",), ()], ["a boat", "none"], [("a boat",), (" ",)]):
        with raises(InvalidData, code="data.type-wrong"):
            Split(["a", "b"], np.fromiter(wrong, dtype=object))
    with raises(InvalidData, code="data.type-wrong"):
        Task("mine", ("no", "yes"), texts, texts)
    assert Task("mine", ("reply",), texts, texts, kind=TEXT).facts()["kind"] == "text"


def test_references_that_are_divided_otherwise_are_other_labels() -> None:
    whole, apart = Split(["a", "b"], [("c", "d"), ("e",)]), Split(["a", "b"], [("c",), ("d", "e")])
    assert whole.digest != apart.digest


def test_groups_go_with_the_texts_and_count_in_the_digest_only_where_there_are_any() -> None:
    plain, grouped = (Split(["a", "b"], np.array([0, 1]), groups=groups) for groups in (None, ["x", "y"]))
    assert plain.digest != grouped.digest
    taken = grouped.take([1]).groups
    assert taken == ["y"]
    with raises(InvalidData, code="data.lengths-differ"):
        Split(["a", "b"], np.array([0, 1]), groups=["x"])


def test_an_example_without_letters_and_digits_has_no_key() -> None:
    assert key(Example("!!", 0)) == ""
    assert key(Example("!!", 0, "??")) == ""
    assert key(Example("!!", 0, "why")) != ""


def test_leaked_examples_are_counted_each_time_they_occur_and_whatever_their_label() -> None:
    train = split("A fine film.", "Dull!", "other")
    assert count_leaked(train, split("a FINE film", "a fine film !", "new", "dull")) == 3


def test_texts_without_letters_and_digits_are_not_compared() -> None:
    assert count_leaked(split("!!!", "..."), split("!!!", "?")) == 0
    assert count_leaked(split("!", pairs=["?"]), split("!", pairs=["?"])) == 0


def test_leakage_up_to_one_per_cent_is_reported_and_above_is_refused() -> None:
    train = split("seen", "seen too")
    hundred = split("seen", *(f"new {i}" for i in range(99)))
    assert check_leakage("my.csv", train, hundred, allow=False) == 1
    two = split("seen", "Seen too!", *(f"new {i}" for i in range(98)))
    with pytest.raises(Leakage) as caught:
        check_leakage("my.csv", train, two, allow=False)
    assert str(caught.value) == (
        "task my.csv: 2 of 100 evaluation texts also occur in the training split; at most 1% may. "
        "Remove the duplicates, or pass `allow_leakage` to continue."
    )
    assert check_leakage("my.csv", train, two, allow=True) == 2


def test_a_split_whose_parts_differ_in_number_is_refused() -> None:
    with raises(InvalidData, code="data.lengths-differ"):
        Split(["a", "b"], np.array([0]))


def test_a_split_iterates_over_examples_and_takes_by_index() -> None:
    whole = split("a", "b", "c", pairs=["x", "y", "z"])
    assert list(whole) == [Example("a", 0, "x"), Example("b", 1, "y"), Example("c", 0, "z")]
    assert list(whole.take([2, 0])) == [whole[2], whole[0]]
    assert len(whole.take([])) == 0


def test_weights_go_with_the_texts_and_count_in_the_digest_only_where_there_are_any() -> None:
    plain, weighted = Split(["a", "b", "c"], np.arange(3)), Split(["a", "b", "c"], np.arange(3), weights=np.arange(3.0))
    assert weighted.take([2, 0]).weights.tolist() == [2.0, 0.0]
    assert plain.take([2, 0]).weights is None
    assert plain.digest == Split(["a", "b", "c"], np.arange(3), weights=None).digest != weighted.digest
    with raises(InvalidData, code="data.lengths-differ"):
        Split(["a", "b"], np.arange(2), weights=np.ones(3))


def test_the_digest_of_a_split_depends_on_texts_pairs_labels_and_order() -> None:
    base = split("a", "b")
    others = [split("b", "a"), split("a", "c"), split("a", "b", pairs=["x", "y"]), Split(["a", "b"], np.array([1, 0]))]
    assert len({base.digest, *(other.digest for other in others)}) == 5
    assert Split(("a", "b"), np.array([0, 1], dtype=np.int32)).digest == base.digest


def test_the_rank_of_a_text_is_fixed_for_ever() -> None:
    # Another value would move every user's examples between their splits.
    assert rank(Example("A fine film.", 0)) == rank(Example("a FINE film", 1)) == RANK
    assert rank(Example(":)", 0)) != rank(Example(":(", 0))


# sha256 of the 8-byte little-endian length and the bytes of "afinefilm": its first 16 hex digits.
RANK = 0xB6A4F5E984754F82


def test_a_limit_takes_the_lowest_ranks_in_their_original_order_whatever_the_order_of_the_file() -> None:
    texts = [f"text {i}" for i in range(50)]
    forward, backward = first(split(*texts), 10, "--n"), first(split(*reversed(texts)), 10, "--n")
    assert set(forward.texts) == set(backward.texts) != set(texts[:10])
    assert list(forward.texts) == [text for text in texts if text in forward.texts]
    lowest = sorted(texts, key=lambda text: rank(Example(text, 0)))[:10]
    assert set(forward.texts) == set(lowest)


def test_a_smaller_limit_takes_a_part_of_what_a_larger_one_takes() -> None:
    whole = split(*(f"text {i}" for i in range(50)))
    assert set(first(whole, 5, "--n").texts) < set(first(whole, 20, "--n").texts)


@pytest.mark.parametrize("share", [0, 1, 2.0, -0.1, float("nan"), "half"])
def test_a_share_is_a_number_between_0_and_1(share: Any) -> None:
    with raises(InvalidData, code="argument.invalid", field="selection"):
        cuts(split("a", "b"), {"selection": share})
    with raises(InvalidData, code="argument.invalid", field="train_examples"):
        first(split("a", "b"), str(share), "train_examples")  # type: ignore[arg-type]


@pytest.mark.parametrize("share", [1e-9, 1 - 1e-9])
def test_a_cut_leaves_texts_on_both_sides_unless_all_are_the_same(share: float) -> None:
    few = split("a", "b", "c", "d")
    rest, made = cuts(few, {"selection": share})
    assert sorted([*rest.texts, *made["selection"].texts]) == ["a", "b", "c", "d"]
    assert min(len(rest), len(made["selection"])) == 1
    with raises(InvalidData, code="data.too-few-texts", examples=2):
        cuts(split("same", "Same!"), {"selection": share})


def test_a_limit_above_the_number_of_examples_takes_all() -> None:
    whole = split("a", "b")
    assert list(first(whole, 3, "--n")) == list(whole)
    assert first(whole, None, "--n") is whole


@pytest.mark.parametrize("count", [0, -1, True])
def test_a_limit_below_one_is_refused(count: int) -> None:
    with raises(InvalidData, code="argument.invalid", field="train_examples"):
        first(split("a"), count, "train_examples")


def test_two_sides_keep_order_and_every_row_and_put_duplicates_on_one_side() -> None:
    texts = [f"Text {i % 400}{'!' * (i // 400)}" for i in range(1000)]
    train, evaluation = sides(Example(text, 0) for text in texts)
    assert sorted([*train, *evaluation]) == [*range(1000)]
    assert not {normalised(texts[i]) for i in train} & {normalised(texts[i]) for i in evaluation}
    assert 750 < len(train) < 850
    assert (train, evaluation) == (sorted(train), sorted(evaluation))


def test_equal_texts_without_letters_are_on_one_side() -> None:
    for part in sides(Example(text, 0) for text in [":)", ":("] * 20):
        assert len([i for i in part if i % 2 == 0]) in (0, 20)
        assert len([i for i in part if i % 2 == 1]) in (0, 20)


def test_pairs_are_on_a_side_by_both_texts() -> None:
    train, evaluation = sides(Example("same", 0, f"other {i}") for i in range(200))
    assert len(train) > 100
    assert len(evaluation) > 10


def two(tmp_path: Path, *labels: str, **data: object) -> Task:
    path = tmp_path / "mail.csv"
    rows = (f"text {number},{labels[number % len(labels)]}\n" for number in range(60))
    path.write_text("text,label\n" + "".join(rows), encoding="utf-8")
    return Task.load(str(path), **data)  # type: ignore[arg-type]


def test_the_positive_label_is_put_second_and_nothing_else_changes(tmp_path: Path) -> None:
    usual, turned = two(tmp_path, "ham", "spam"), two(tmp_path, "ham", "spam", positive="ham")
    assert (usual.label_names, turned.label_names) == (("ham", "spam"), ("spam", "ham"))
    for one, other in ((usual.train, turned.train), (usual.evaluation, turned.evaluation)):
        assert one.texts == other.texts
        assert (one.labels == 1 - other.labels).all()
    assert two(tmp_path, "ham", "spam", positive="spam").train.digest == usual.train.digest


@pytest.mark.parametrize(
    ("labels", "told"),
    [
        (("ham", "spam", "news"), {"code": "data.option-inapplicable", "where": "task mail.csv"}),
        (("1.5", "2.5"), {"code": "data.option-inapplicable", "where": "task mail.csv"}),
        (
            ("ham", "eggs"),
            {"code": "data.label-unknown", "label": "spam", "where": "task mail.csv", "known": ["eggs", "ham"]},
        ),
    ],
)
def test_a_positive_label_is_one_of_two(tmp_path: Path, labels: tuple[str, ...], told: dict[str, Any]) -> None:
    with raises(InvalidData, **told):
        two(tmp_path, *labels, positive="spam")


@pytest.mark.parametrize("labels", [np.arange(20) % 2, as_references([("a", "b")] * 20)], ids=["classes", "texts"])
def test_the_places_of_the_first_examples_are_those_that_are_kept(labels: np.ndarray) -> None:
    split = Split([f"text {place}" for place in range(20)], labels)
    places = first_places(split, 7, "evaluation_examples")
    assert (len(places), places) == (7, sorted(places))
    assert first(split, 7, "evaluation_examples").texts == [split.texts[place] for place in places]
