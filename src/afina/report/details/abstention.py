"""Abstention in words and as a table: how many texts are answered, and how many of these answers are wrong."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from afina.report.arms import Arm, Value, keeping, lines, records_of
from afina.report.formatting import NOTHING, share, span
from afina.report.tables import Measure, Table, measure, table_of
from afina.schema import null_where_undefined
from afina.stats.abstention import AnsweredShare
from afina.studies.runs.record import Abstention, Record

if TYPE_CHECKING:  # the import loads torch
    from afina.predicting.evaluation import MeasuredAbstention

ABSTENTION = "Abstention"

ANSWERS_NOTHING = "no text is answered"

KEPT, IN_DOUBT, BROKEN, UNTESTED = "kept", "in doubt", "broken", "untested"


def verdict(promised: float, found: AnsweredShare) -> str:
    """Return whether a promise was kept on labelled texts.

    KEPT: the error is at most the promised error. IN_DOUBT: the error is larger, and its 95 % interval contains the
    promised error. BROKEN: the whole interval is above the promised error. UNTESTED: no text was answered.
    """
    if not found.answered:
        return UNTESTED
    if found.error <= promised:
        return KEPT
    return BROKEN if found.error_interval.low > promised else IN_DOUBT


_WORDS = {
    KEPT: "The error is at most {promised:g}, as promised.",
    IN_DOUBT: "The error is above the promised {promised:g}, which its interval contains.",
    BROKEN: "The promised error of at most {promised:g} is not kept on these texts. They probably differ from the "
    "texts on which the threshold was chosen.",
    UNTESTED: "Without answers, the promised error of at most {promised:g} cannot be tested.{why}",
}

_NO_THRESHOLD = (
    " No confidence promised this error on the texts that were set aside for the threshold, so the adapter answers no "
    "text. Train on more texts, train a more accurate method, or promise a larger error."
)


def sentence(found: AnsweredShare, promised: float | None, *, answers_nothing: bool) -> str:
    """Return the words on the answered texts; `answers_nothing`: the training found no threshold."""
    said = f"{found.answered:,} of {found.texts:,} texts are answered (coverage {share(found.coverage)})"
    if found.answered:
        interval = span(found.error_interval.ends)
        said += f", with an error of {share(found.error)} among them (95 % interval {interval})"
    if promised is None:
        return f"{said}."
    why = _NO_THRESHOLD if answers_nothing else ""
    return f"{said}. {_WORDS[verdict(promised, found)].format(promised=promised, why=why)}"


def of_one_method(arm: Arm) -> list[str]:
    """Return a sentence on the abstention of a single training; empty if its adapter answers every text."""
    made = [record.abstention for record in arm.records]
    return [
        sentence(one.evaluation.share, one.error, answers_nothing=one.threshold is None)
        for one in made
        if one is not None and len(made) == 1
    ]


def as_json(measured: MeasuredAbstention) -> dict[str, object]:
    found, promised = measured.found, measured.promised
    return {
        "threshold": measured.threshold,
        "answered": found.answered,
        "coverage": null_where_undefined(found.coverage),
        "errors": found.errors,
        "error": null_where_undefined(found.error),
        "error_interval": list(found.error_interval.ends) if found.answered else None,
        "promised_error": promised,
        "promise": None if promised is None else verdict(promised, found),
    }


def abstention_table(arms: Sequence[Arm]) -> Table | None:
    measured = _measured(arms)
    if not measured:
        return None
    columns = [
        measure("Promised error", lambda record: _of(record).error, "{:g}".format),
        Measure("Confidence needed", _thresholds),
        measure("Coverage", lambda record: _of(record).evaluation.share.coverage, share),
        measure("Error among answered", lambda record: _of(record).evaluation.share.error, share),
        Measure("95 % interval", _interval),
    ]
    texts = sorted({_of(record).calibration.texts for record in records_of(measured)})
    number = f"{texts[0]:,}" if len(texts) == 1 else f"{texts[0]:,} to {texts[-1]:,}"
    level = _of(measured[0].record).confidence
    notes = (
        f"Coverage: the share of evaluation texts that are answered. The threshold of each adapter was chosen on "
        f"{number} training texts that were set aside. With a confidence of {100 * level:g} %, the true error among "
        "answered texts is at most the promised error, if later texts are like the texts that were set aside. All "
        "other tables count every text as answered.",
        *filter(None, map(_broken, measured)),
    )
    return table_of(ABSTENTION, columns, measured, notes)


def abstention_as_json(arms: Sequence[Arm]) -> list[dict[str, object]]:
    found: list[dict[str, object]] = []
    for arm in lines(_measured(arms)):
        figures = {name: null_where_undefined(arm.mean(value)) for name, value in _FIGURES.items()}
        found.append({**arm.row_name, **figures})
    return found


def _measured(arms: Sequence[Arm]) -> list[Arm]:
    return keeping(arms, lambda record: record.abstention is not None)


def _of(record: Record) -> Abstention:
    assert record.abstention is not None
    return record.abstention


_FIGURES: dict[str, Value] = {
    "promised_error": lambda record: _of(record).error,
    "coverage": lambda record: _of(record).evaluation.share.coverage,
    "error": lambda record: _of(record).evaluation.share.error,
}


def _thresholds(arm: Arm) -> str:
    values = [_of(record).threshold for record in arm.records]
    given = sorted(value for value in values if value is not None)
    if len(given) < len(values):
        some = f" for {len(values) - len(given)} of {len(values)} seeds" if given else ""
        return f"{ANSWERS_NOTHING}{some}"
    return share(given[0]) if given[0] == given[-1] else f"{share(given[0])} to {share(given[-1])}"


def _interval(arm: Arm) -> str:
    """Return the 95 % interval of the error among answered texts; several seeds have none."""
    found = _of(arm.record).evaluation.share
    if len(arm.results) > 1 or not found.answered:
        return NOTHING
    return span(found.error_interval.ends)


def _broken(arm: Arm) -> str:
    seeds = [
        str(record.seed) for record in arm.records if verdict(_of(record).error, _of(record).evaluation.share) == BROKEN
    ]
    if not seeds:
        return ""
    return (
        f"{arm.label}, seed{'s' * (len(seeds) > 1)} {', '.join(seeds)}: the error among answered evaluation texts is "
        "above the promised error, and so is its whole interval. The evaluation texts probably differ from the texts "
        "on which the threshold was chosen."
    )
