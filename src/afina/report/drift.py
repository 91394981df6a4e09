"""The words of a comparison of later texts with evaluation texts (`afina drift`)."""

from __future__ import annotations

from collections.abc import Sequence

from afina.report.formatting import listed, number_of_texts, p_value
from afina.stats.drift import Drift, DriftTest

HEADINGS = ("compared", "difference", "p", "largest change")


def rows(drift: Drift, score: str, edges: Sequence[float]) -> Sequence[tuple[str, ...]]:
    """Return a row for each test, for the headings HEADINGS; `edges` has the upper ends of the bins of `score`."""
    titles = [score if one.of == "scores" else one.of for one in drift.tests]
    return [
        (title, _points(one.distance), p_value(one.adjusted), _change(one, edges))
        for title, one in zip(titles, drift.tests, strict=True)
    ]


def verdict(drift: Drift, score: str) -> str:
    found = [one for one in drift.tests if one.adjusted <= drift.level]
    large = [one for one in found if one.distance >= drift.effect]
    if large:
        return (
            f"Drift: {_differing(large, score)} those of the evaluation texts. Label some of the new texts: "
            "`afina evaluate` then says whether the adapter still answers them well."
        )
    if found:
        return (
            f"No drift above {_points(drift.effect)}: {_differing(found, score)} those of the evaluation texts "
            "significantly, but by less."
        )
    if drift.noticeable is None:
        return "No text was answered, so nothing can be compared."
    least = f"a difference of at least {_points(drift.noticeable)} would probably be noticed"
    if drift.state != "few":
        return f"No drift was found; {least}."
    if drift.needed is None:
        missing = f"{number_of_texts(drift.reference)} of evaluation are too few to notice"
    else:
        missing = f"{number_of_texts(drift.needed)} are needed to notice"
    return f"No drift was found, but only {least}: {missing} one of {_points(drift.effect)}."


_PLURAL = {"confidence": "confidences", "value": "values"}


def _differing(tests: Sequence[DriftTest], score: str) -> str:
    names = [_PLURAL[score] if one.of == "scores" else one.of for one in tests]
    return f"the {listed(names)} differ from"


def _points(share: float) -> str:
    return f"{100 * share:.1f} points"


def _change(test: DriftTest, edges: Sequence[float]) -> str:
    before, now = (f"{share:.1%}" for share in test.shares)
    what = "texts with a token of one group" if test.most is None else test.most
    if test.edge is not None:
        what = f"at most {edges[test.edge]:.4g}"
    return f"{what}: {before} of the evaluation texts, now {now}"
