"""Metrics of entities against seqeval and nervaluate, errors by hand, and values by groups of texts."""

from __future__ import annotations

import math
import warnings
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from afina.data.entities import entities_of
from afina.report.formatting import document_notes
from afina.stats import entities
from afina.stats.answered import Answered
from afina.stats.comparison import compare
from afina.stats.entities import MISSED, SPURIOUS, WRONG_BORDER, WRONG_BOTH, WRONG_LABEL, EntityPairs, errors
from afina.stats.intervals import estimate_of_answers, wilson
from afina.stats.metrics import METRICS, OF_KIND
from references import OF_ENTITIES, spans, tagged, tags

LABELS = ("LOC", "ORG", "PER")


@st.composite
def drawn_tags(draw: st.DrawFn, words: int) -> list[str]:
    """Valid IOB2 tags."""
    tags: list[str] = []
    for _ in range(words):
        inside = [f"I-{tags[-1][2:]}"] if tags and tags[-1] != "O" else []
        tags.append(draw(st.sampled_from(["O", *(f"B-{label}" for label in LABELS), *2 * inside])))
    return tags


@st.composite
def studies(draw: st.DrawFn) -> tuple[list[list[str]], list[list[str]]]:
    """The right and the answered tags of a few texts."""
    sizes = draw(st.lists(st.integers(1, 9), min_size=1, max_size=5))
    return [draw(drawn_tags(size)) for size in sizes], [draw(drawn_tags(size)) for size in sizes]


def answered(right: list[list[str]], found: list[list[str]], groups: list[int] | None = None) -> Answered:
    return tagged(right, found, None if groups is None else np.array(groups))


@settings(max_examples=25, deadline=None)
@given(studies())
def test_figures_are_those_of_seqeval_in_strict_mode_and_of_nervaluate(study: tuple[list, list]) -> None:
    from seqeval import metrics as theirs
    from seqeval.scheme import IOB2

    given_tags = answered(*study)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # nothing was answered, or there is nothing to find
        for metric in OF_KIND["entities"]:
            found = metric.value(given_tags)
            if not math.isnan(found):
                assert found == pytest.approx(OF_ENTITIES[metric.name](given_tags)), metric.name
        counts = entities.by_label(given_tags)
        if counts:
            report = theirs.classification_report(*study, output_dict=True, mode="strict", scheme=IOB2)
    for name, one in counts.items():
        figures = (one.precision, one.recall, one.f1, one.support)
        expected = [report[name][key] for key in ("precision", "recall", "f1-score", "support")]
        assert [0.0 if math.isnan(value) else value for value in figures] == pytest.approx(expected)


@settings(max_examples=25, deadline=None)
@given(studies())
def test_every_target_and_every_answer_is_right_or_in_one_error(study: tuple[list, list]) -> None:
    right, found = (list(map(spans, tags)) for tags in study)
    listed, equal = errors(right, found), answered(*study)
    hits = [(text, span) for text, each in enumerate(found) for span in each if span in right[text]]
    for side, listed_spans in (("target", right), ("answer", found)):
        inside = [(one.text, getattr(one, side)) for one in listed if getattr(one, side) is not None]
        assert sorted(inside + hits) == sorted((text, span) for text, each in enumerate(listed_spans) for span in each)
    assert len(hits) == len(EntityPairs.of(equal).right)
    for one in listed:
        both = one.target is not None and one.answer is not None
        assert both == (one.kind in (WRONG_LABEL, WRONG_BORDER, WRONG_BOTH))
        if both:
            assert min(one.target[1], one.answer[1]) > max(one.target[0], one.answer[0])
            assert (one.target[:2] == one.answer[:2]) == (one.kind == WRONG_LABEL)
            assert (one.target[2] == one.answer[2]) == (one.kind == WRONG_BORDER)


def test_errors_by_hand() -> None:
    right = [((0, 5, "PER"), (6, 9, "LOC"), (10, 20, "ORG"), (30, 35, "PER"), (40, 44, "LOC"))]
    found = [((0, 5, "PER"), (6, 9, "ORG"), (10, 14, "LOC"), (15, 18, "ORG"), (31, 34, "LOC"), (50, 52, "PER"))]
    assert [one[1:] for one in errors(right, found)] == [
        (WRONG_LABEL, (6, 9, "LOC"), (6, 9, "ORG")),
        (SPURIOUS, None, (10, 14, "LOC")),
        (WRONG_BORDER, (10, 20, "ORG"), (15, 18, "ORG")),
        (WRONG_BOTH, (30, 35, "PER"), (31, 34, "LOC")),
        (MISSED, (40, 44, "LOC"), None),
        (SPURIOUS, None, (50, 52, "PER")),
    ]
    assert errors([(), ((0, 1, "A"),)], [(), ((0, 1, "A"),)]) == []
    largest = errors([((0, 10, "A"),)], [((0, 2, "A"), (2, 9, "A"))])
    assert [one[1:] for one in largest] == [(SPURIOUS, None, (0, 2, "A")), (WRONG_BORDER, (0, 10, "A"), (2, 9, "A"))]


@pytest.mark.parametrize("wrong", [((3, 3, "A"),), ((0, 4, "A"), (3, 5, "A")), ((4, 5, "A"), (0, 2, "A"))])
def test_entities_that_are_empty_overlap_or_are_not_sorted_are_refused(wrong: tuple) -> None:
    with pytest.raises(ValueError, match="sorted by their starts, without overlaps"):
        entities.FlatEntities.of([((0, 2, "A"),), wrong])
    entities.FlatEntities.of([((0, 2, "A"), (2, 4, "A")), ((0, 9, "A"),)])


def _of(answered: Answered, chosen: np.ndarray) -> Answered:
    extras = {name: array[chosen] for name, array in answered.extras.items()}
    return Answered(answered.targets[chosen], answered.answers[chosen], None, extras)


def test_groups_keep_the_mean_and_give_the_standard_error_of_a_cluster_sample() -> None:
    generator = np.random.default_rng(0)
    tags = np.array(["O", "B-PER", "B-LOC"])
    right = [tags[generator.integers(0, 3, 6)].tolist() for _ in range(60)]
    found = [tags[generator.integers(0, 3, 6)].tolist() if generator.random() < 0.4 else one for one in right]
    groups = generator.integers(0, 12, 60)
    alone, together = answered(right, found), answered(right, found, groups.tolist())
    for metric in OF_KIND["entities"]:
        single, grouped = metric.values(alone), metric.values(together)
        assert grouped.shape == (12,)
        assert grouped.mean() == pytest.approx(single.mean())
        if metric.name in ("entity_f1", "macro_entity_f1"):  # against the jackknife without linearisation
            without = [metric.value(_of(together, groups != group)) for group in range(12)]
            pseudo = 12 * single.mean() - 11 * np.array(without)
            assert np.corrcoef(grouped, pseudo)[0, 1] > 0.99
            assert grouped.std() == pytest.approx(pseudo.std(), rel=0.05)
    even = np.repeat(np.arange(12), 5)
    values = alone.by_group(np.arange(60.0))
    assert values.shape == (60,)
    equal = answered(right, found, even.tolist()).by_group(np.arange(60.0))
    assert equal == pytest.approx(np.arange(60.0).reshape(12, 5).mean(axis=1)), "groups of one size: their means"


def test_ten_thousand_texts_take_a_moment_and_labels_add_up() -> None:
    generator = np.random.default_rng(1)
    tags = [f"B-{label}" for label in LABELS]
    right = [["O", tags[place % 3], "O", tags[place % 2]] for place in range(2000)]
    found = [one if generator.random() < 0.5 else ["O", "O", *one[2:]] for one in right]
    counts = entities.by_label(answered(right, found), ("PER", "nothing"))
    assert [*counts] == ["PER", "nothing", "LOC", "ORG"]
    assert sum(one.support for one in counts.values()) == 4000
    assert Counter(one.kind for one in errors(*(list(map(spans, each)) for each in (right, found)))).keys() == {MISSED}
    assert math.isnan(counts["nothing"].f1)
    assert math.isnan(counts["nothing"].precision)
    assert counts["PER"].precision == 1.0


def test_an_interval_of_few_entities_is_as_wide_as_that_many_texts_allow() -> None:
    """Of 500 texts, 12 have an entity, and none of them is found: the interval is Wilson's of 0 of 12."""
    empty, one = ["O", "O"], ["B-LOC", "O"]
    recall = METRICS["entity_recall"]
    found = estimate_of_answers([tagged([one] * 12 + [empty] * 488, [empty] * 500)], recall)
    assert (found.mean, found.interval) == (0.0, wilson(0, 12))
    documents = np.arange(500) // 2
    few = estimate_of_answers([tagged([one] * 12 + [empty] * 488, [empty] * 500, documents)], recall)
    assert math.isnan(few.interval.low), "6 documents"
    assert math.isnan(estimate_of_answers([tagged([one] * 9 + [empty] * 9, [empty] * 18)], recall).interval.low)


def test_sentences_of_a_comparison_count_documents_if_texts_are_parts_of_documents() -> None:
    generator = np.random.default_rng(2)
    right, first, second = ([tags(generator, 8) for _ in range(600)] for _ in range(3))
    groups = np.arange(600) // 4
    values = {}
    for name, found in (("A", first), ("B", second)):
        given = tagged(right, found, groups)
        assert given.unit == "document"
        values[name] = OF_KIND["entities"][0].values(given)
    (made,) = compare(values, metric=OF_KIND["entities"][0], unit=given.unit)
    assert made.examples == 150
    assert "more documents would probably settle it" in made.words or "documents to settle it" in made.words
    (few,) = compare({name: one[:40] for name, one in values.items()}, metric=OF_KIND["entities"][0], unit="document")
    assert "40 documents are too few to estimate" in few.words
    assert tagged(right, first).unit == "example"


def test_texts_of_one_document_have_no_interval_and_decide_nothing() -> None:
    generator = np.random.default_rng(3)
    right, found = ([tags(generator, 8) for _ in range(200)] for _ in range(2))
    independent = [tagged(right, one) for one in (right, found)]
    of_one = [tagged(right, one, np.full(200, 7)) for one in (right, found)]
    assert (of_one[0].unit, document_notes(of_one[0])[0][:26]) == ("document", "All texts are of one docum")
    assert document_notes(independent[0]) == []
    for metric in OF_KIND["entities"]:
        for single, one in zip(independent, of_one, strict=True):
            assert metric.value(one) == pytest.approx(metric.value(single))
            made = estimate_of_answers([one], metric)
            assert made.mean == pytest.approx(estimate_of_answers([single], metric).mean)
            assert math.isnan(made.interval.low)
        for pair, verdict in ((independent, "better"), (of_one, "undecided")):
            values = dict(zip("AB", map(metric.values, pair), strict=True))
            (compared,) = compare(values, metric=metric, unit=pair[0].unit)
            assert compared.verdict == verdict
    assert "1 document is too few to estimate" in compared.words


def test_of_invalid_tags_greedy_decoding_reads_what_nervaluate_reads_and_strict_seqeval_does_not() -> None:
    """As docs/reference/figures.md has it; valid tags are the same for all."""
    from nervaluate import Evaluator
    from seqeval.scheme import IOB2
    from seqeval.scheme import Entities as Strict

    names, labels = ("O", "B-LOC", "I-LOC", "B-PER", "I-PER"), ("LOC", "PER")
    for invalid in (["O", "I-PER"], ["I-LOC", "O"], ["B-LOC", "I-PER"], ["I-PER", "I-PER", "I-LOC"]):
        words = np.array([(place, place + 1) for place in range(len(invalid))])
        ours = entities_of(words, [names.index(tag) for tag in invalid], labels)
        theirs = Evaluator([invalid], [invalid], tags=list(labels), loader="list").true[0]
        assert [(one.start, one.end, one.label) for one in ours] == [(x.start, x.end + 1, x.label) for x in theirs]
        strict = [(one.start, one.end, one.tag) for one in Strict([invalid], IOB2).entities[0]]
        assert {*strict} < {*ours}
