"""The report's table of models behind an API: the time and the cost of their answers, and what has no answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime

from afina.endpoints.answers import EndpointForecast
from afina.report.answer_costs import seconds_a_text
from afina.report.arms import Arm
from afina.report.formatting import (
    NOTHING,
    count,
    counted,
    listed,
    metric_heading,
    metric_value,
    money,
    number_of_texts,
    quoted,
    seconds,
    share,
)
from afina.report.tables import Column, Measure, Table, measure, table_of
from afina.studies.runs.record import EndpointUse, Record

ENDPOINTS = "Models behind an API"

MOST_ROWS = 10  # texts without an answer that a note names


def endpoint_table(arms: Sequence[Arm], *, texts: bool = True) -> Table | None:
    """Return a table of the time and cost of each method's answers; None if no model behind an API was asked.

    `texts`: whether a note may show answers that are no label, which may repeat words of a text.
    """
    asked = [arm for arm in arms if arm.record.endpoint is not None]
    if not asked:
        return None
    first = arms[0].record
    columns = [
        measure(metric_heading(first.metric, first.label_names), metric_value(first.metric), share),
        _of_use("p50 (s)", lambda use: use.seconds_p50, seconds),
        _of_use("p95 (s)", lambda use: use.seconds_p95, seconds),
        _of_use("Tokens in per 1,000 texts", lambda use: _per_1000(use, use.tokens_in), count),
        _of_use("Tokens out per 1,000 texts", lambda use: _per_1000(use, use.tokens_out), count),
        _of_use("Cost per 1,000 texts", lambda use: use.cost_per_1000, money),
        measure("Local (s per 1,000 texts)", _here, seconds),
        _of_use("No answer", lambda use: use.missing_texts, count),
    ]
    notes = (
        "p50 and p95: the median and the 95th percentile of the seconds of an answer, with several requests at a time. "
        "Tokens and cost are per 1,000 texts. The server counts the tokens. The cost has the currency of `price_in` "
        "and `price_out`. Local: the seconds in which this machine answers 1,000 texts, without loading a model.",
        *(note for arm in asked for note in _notes(arm, texts)),
        "The answers of a model behind an API may change at any time, because its server may change the model.",
    )
    return table_of(ENDPOINTS, columns, arms, notes)


def endpoint_forecast_table(found: EndpointForecast) -> Table:
    headings = ("Requests", "Tokens in", "Tokens out", "At most", "Cost", "Cost at most")
    costs = (NOTHING if one is None else money(one) for one in (found.cost, found.most_cost))
    tokens = (found.requests, found.tokens_in, found.tokens_out, found.most_tokens_out)
    return Table(
        f"Plan for a model behind an API at {found.host}",
        tuple(map(Column, headings)),
        ((*map(count, tokens), *costs),),
        (
            f"For {number_of_texts(found.texts)}. Tokens are estimated as a quarter of the characters. At most: if "
            "every answer has `max_tokens`. Costs are in the currency of the given prices; repetitions of failed "
            "requests are not included.",
        ),
    )


def _of_use(heading: str, value: Callable[[EndpointUse], float | None], form: Callable[[float], str]) -> Measure:
    return measure(heading, lambda record: value(record.endpoint) if record.endpoint else None, form)


def _per_1000(use: EndpointUse, tokens: int | None) -> float | None:
    """Return the tokens of 1,000 texts, as `cost_per_1000` counts texts: only those that the server answered."""
    if tokens is None or not use.replied:
        return None
    return round(1000 * tokens / use.replied)


def _here(record: Record) -> float | None:
    found = seconds_a_text(record)
    return None if found is None else 1000 * found


def answerless(arms: Sequence[Arm]) -> list[str]:
    """Return a sentence on each model behind an API that has no usable answer: its figures say nothing."""
    return [
        f"{arm.label} has no answer to any of {number_of_texts(use.examples)} ({listed([*use.missing])}): its figures "
        "say nothing about the model."
        for arm in arms
        if (use := arm.record.endpoint) is not None and use.examples and use.missing_texts == use.examples
    ]


def _notes(arm: Arm, texts: bool) -> Iterator[str]:
    uses = [(record, record.endpoint) for record in arm.records if record.endpoint is not None]
    use = uses[0][1]
    others = sorted({name for _, each in uses for name in each.models} - {use.model})
    told = f"{arm.label}: `{use.model}` at {use.host}" + (f", which answered as {listed(others)}" if others else "")
    settings = [
        *(["without temperature 0, which the server refused"] if not all(each.temperature for _, each in uses) else []),
        *(["without a JSON schema, which the server refused"] if use.structure == "refused" else []),
    ]
    yield f"{told}{', ' * bool(settings)}{' and '.join(settings)}."
    yield from requests_sentences([arm])
    for record, each in uses:
        where = f"{arm.label}, seed {record.seed}" if uses[1:] else arm.label
        if each.missing:
            told = "; ".join(f"{reason}: {_rows(rows)}" for reason, rows in each.missing.items())
            yield (
                f"{where}: {number_of_texts(each.missing_texts)} of {count(each.examples)} without an answer, which "
                f"count as wrong ({told})."
            )
            if each.unread and texts:
                written = listed([quoted(answer) for answer in each.unread])
                yield f"{where}: the most frequent answers that are none of the allowed answers: {written}."


def requests_sentences(arms: Sequence[Arm]) -> list[str]:
    found = ((arm, [one.endpoint for one in arm.records if one.endpoint is not None]) for arm in arms)
    return [f"{arm.label}: {_sent(uses)}.{_dates(uses)}" for arm, uses in found if uses]


def _sent(uses: Sequence[EndpointUse]) -> str:
    requests, kept = sum(each.requests for each in uses), sum(each.kept for each in uses)
    costs = [each.cost for each in uses if each.cost is not None]
    total = f"; all answers cost {money(sum(costs))}" if len(costs) == len(uses) else ""
    earlier = f"; {number_of_texts(kept)} had a kept answer or an equal prompt" if kept else ""
    retries = sum(each.retries or 0 for each in uses)
    known = all(each.retries is not None for each in uses)
    again = f"{count(retries)} of them retries of failed requests" if retries else "without retries"
    told = again if known else "with repetitions"
    return f"{counted(requests, 'request')}, {told}{earlier}{total}"


def _dates(uses: Sequence[EndpointUse]) -> str:
    firsts = [each.first_answer for each in uses if each.first_answer is not None]
    lasts = [each.last_answer for each in uses if each.last_answer is not None]
    if min(len(firsts), len(lasts)) < len(uses):
        return ""
    first, last = (
        datetime.fromisoformat(choose(each, key=datetime.fromisoformat)).astimezone(UTC).date()
        for choose, each in ((min, firsts), (max, lasts))
    )
    return f" All answers are of {first} (UTC)." if first == last else f" The answers are of {first} to {last} (UTC)."


def _rows(rows: Sequence[int]) -> str:
    """Return the number of texts and their rows in the evaluation split, such as `2 (rows 4 and 17)`."""
    shown = [str(row) for row in rows[:MOST_ROWS]]
    more = f" and {count(len(rows) - MOST_ROWS)} more" if rows[MOST_ROWS:] else ""
    which = f"row{'s' * (len(rows) > 1)} {', '.join(shown) if more else listed(shown)}{more}"
    return f"{count(len(rows))} ({which})"


def endpoints_as_json(arms: Sequence[Arm]) -> list[dict[str, object]]:
    if all(arm.record.endpoint is None for arm in arms):
        return []
    found: list[dict[str, object]] = []
    for arm in arms:
        for record in arm.records:
            row: dict[str, object] = {"method": arm.label, "seed": record.seed, "seconds_here_per_1000": _here(record)}
            if (use := record.endpoint) is not None:
                row |= use.model_dump(mode="json", exclude={"missing", "unread"}) | {"missing": use.missing_texts}
                row |= {f"missing, {reason}": len(rows) for reason, rows in use.missing.items()}
            found.append(row)
    return found
