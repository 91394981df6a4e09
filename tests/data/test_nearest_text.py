"""Near-duplicates: exactly the pairs that a comparison of all texts finds."""

from __future__ import annotations

import numpy as np

from afina.data.nearest_text import NEAR, NearestText, near_duplicates
from fakes import sentences


def pairs(texts: list[str], least: float) -> dict[tuple[int, int], float]:
    found = {}
    for first, second, cosines in near_duplicates(texts, least):
        for one, other, cosine in zip(first.tolist(), second.tolist(), cosines.tolist(), strict=True):
            assert one < other
            assert (one, other) not in found
            found[one, other] = cosine
    return found


def test_pairs_are_those_of_a_comparison_of_all_texts() -> None:
    texts = [*dict.fromkeys(text for text, _ in sentences(80, seed=3))]
    texts += [texts[3] + " indeed", texts[5].upper(), texts[3]]
    rows, firsts = NearestText(texts).features()
    cosines = (rows @ rows.T).toarray()
    for least in (0.5, NEAR):
        expected = {
            (int(firsts[i]), int(firsts[j])): cosines[i, j]
            for i, j in np.argwhere(np.triu(cosines, 1) >= least).tolist()
        }
        found = pairs(texts, least)
        assert found.keys() == expected.keys()
        assert len(found) >= 2
        assert all(abs(found[one] - expected[one]) < 1e-5 for one in found)


def test_one_changed_word_is_near_and_the_opposite_is_not() -> None:
    long = "the actors are good and the story is well told but far too long for a single evening in the cinema"
    assert [*pairs([long, long.replace("good", "great"), "nothing of this kind"], NEAR)] == [(0, 1)]
    assert pairs(["one of the best movies of the year", "one of the worst movies of the year"], NEAR) == {}
    assert pairs(["alone"], NEAR) == {}
