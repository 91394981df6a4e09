"""Values in words: settings, counts, seconds, bytes, shares, points; names and figures of metrics; templates.

What a metric is, is in `afina.stats`. Knows no table and no sentence.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from math import isnan
from pathlib import Path

from afina.stats.metrics import METRICS
from afina.studies.runs.record import Prompting, Record

NOTHING = "–"
"""Stands where there is no value."""

UNDEFINED = "undefined"
"""Stands for a metric that these answers do not have, such as the AUROC of texts of one label."""

ACCURACY, F1 = "accuracy", "f1"

FEW = 30
"""Evaluated texts, below which a figure says little."""


def brief(text: str, longest: int = 40) -> str:
    """One printable line."""
    line = "".join(letter for letter in " ".join(text.split()) if letter.isprintable())
    return line if len(line) <= longest else line[: longest - 1].rstrip() + "…"


def number_of_texts(count: int) -> str:
    """`1 text`, `1,000 texts`."""
    return f"{count:,} text{'s' * (count != 1)}"


def too_few(count: int) -> str:
    """What is to be said of a figure on `count` texts, where they are few."""
    return f"; too few to say anything: below {FEW}" if count < FEW else ""


def in_words(values: Mapping[str, object]) -> str:
    """`r 4, alpha 16, targets c_attn`; unset values are left out."""
    return ", ".join(f"{key} {value_in_words(value)}" for key, value in values.items() if value is not None)


def value_in_words(value: object) -> str:
    """`yes`, `16`, `2e-05`, `q_proj + v_proj`."""
    if value is True or value is False:
        return "yes" if value else "no"
    if isinstance(value, float) and value.is_integer():
        return f"{value:.0f}"
    return " + ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def listed(names: Sequence[str], last: str = "and") -> str:
    """`a`, `a and b`, `a, b and c`."""
    return f" {last} ".join([*([", ".join(names[:-1])] if names[:-1] else []), names[-1]])


def count(value: float) -> str:
    """A whole number, thousands set apart."""
    return f"{value:,.0f}"


def seconds(value: float) -> str:
    """Seconds, to the hundredth as the paper prints them."""
    return f"{value:,.2f}"


def seconds_in_words(value: float) -> str:
    """Seconds for a headline: `4.2 s`, `60 s`, `12 min`, `1.5 h`."""
    if value < 10:
        return f"{value:.1f} s"
    if value < 300:
        return f"{value:.0f} s"
    return f"{value / 60:.0f} min" if value < 7200 else f"{value / 3600:.1f} h"


def share(value: float) -> str:
    """A share: `0.8721`; `undefined` of a metric that is."""
    return UNDEFINED if isnan(value) else f"{value:.4f}"


def span(interval: tuple[float, float]) -> str:
    """An interval of shares: `0.8721 to 0.9107`; `undefined` where its ends are."""
    return UNDEFINED if isnan(interval[0]) else f"{share(interval[0])} to {share(interval[1])}"


def figure_with_interval(metric: str, value: float, interval: tuple[float, float] | None) -> str:
    """A figure for a headline: `0.88 (0.84 to 0.91)`; two digits, or more where the interval is narrow."""
    if isnan(value) or not METRICS[metric].points:
        return share(value) if interval is None or isnan(value) else f"{share(value)} ({span(interval)})"
    if interval is None:
        return f"{value:.2f}"
    digits = 2 if interval[1] - interval[0] > 0.02 else 3
    return f"{value:.{digits}f} ({interval[0]:.{digits}f} to {interval[1]:.{digits}f})"


def percent(value: float) -> str:
    """Four decimals as the paper prints them; all and nothing without."""
    return f"{value:.0f}" if value in (0, 100) else f"{value:.4f}"


def points(difference: float) -> str:
    """A difference of shares in percentage points, with its sign: `+1.20`, `−0.30`, `0.00`."""
    text = f"{100 * difference:+.2f}".replace("-", "−")
    return text[1:] if float(f"{100 * difference:.2f}") == 0 else text


def p_value(p: float) -> str:
    """A p-value, to three decimals."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def size(value: float) -> str:
    """Bytes in GiB (2^30) from 0.1 GiB up, in MiB (2^20) below."""
    gib = value / 2**30
    return f"{gib:.2f} GiB" if gib >= 0.1 else f"{value / 2**20:.1f} MiB"


def metric_name(metric: str, labels: Sequence[str] = ()) -> str:
    """Within a sentence; with a task's labels, F1 names the one that it is of, as `F1 of spam`, or is `macro F1`."""
    plain = METRICS[metric].words
    if metric != F1 or not labels:
        return plain
    return f"{plain} of {labels[1]}" if len(labels) == 2 else f"macro {plain}"


def metric_heading(metric: str, labels: Sequence[str] = ()) -> str:
    """`Accuracy`."""
    text = metric_name(metric, labels)
    return text[:1].upper() + text[1:]


def metric_figure(name: str, number: float, labels: Sequence[str] = ()) -> str:
    """`accuracy 0.8571`; `AUROC undefined (it needs texts of both labels)`."""
    why = f" (it needs {METRICS[name].needs})" if isnan(number) else ""
    return f"{metric_name(name, labels)} {share(number)}{why}"


def interval_heading(metric: str) -> str:
    """`95 % of accuracy`."""
    return f"95 % of {metric_name(metric)}"


def metrics_of(record: Record) -> tuple[str, ...]:
    """All that its kind of task has, as `headline_first`."""
    return headline_first(record.metrics, record.metric)


def headline_first(names: Iterable[str], headline: str) -> tuple[str, ...]:
    """The headline first, then the main ones."""
    return (headline, *sorted((name for name in names if name != headline), key=lambda name: not METRICS[name].main))


def metric_value(metric: str) -> Callable[[Record], float | None]:
    """That metric of a record; None where its kind of task does not have it."""

    def of(record: Record) -> float | None:
        return record.metrics.get(metric)

    return of


def metric_difference(number: float, metric: str) -> str:
    """Of two: in percentage points, or as a plain number with its sign; four digits, or more where it is small."""
    if METRICS[metric].points:
        return points(number)
    text = f"{number:+.4g}" if 0 < abs(number) < 0.001 else f"{number:+.4f}"
    return text.replace("-", "−") if float(text) else text[1:]


def difference_unit(metric: str) -> str:
    """What differences are told in, in brackets behind a heading; empty for plain numbers."""
    return " (points)" if METRICS[metric].points else ""


def ask_settings(ask: Prompting) -> dict[str, object]:
    """What tells arms apart. `head` alone suffices to name two that differ in it."""
    found: dict[str, object] = {"head": "words" if ask.words else "random"}
    if ask.words:
        found["words"] = "; ".join(f"{name}: {','.join(given)}" for name, given in ask.words.items())
    if ask.template is not None:
        found["template"] = quoted(ask.template)
    if ask.offset is not None:
        found["offset"] = "yes"
    return found


def asks_pairs(ask: Prompting) -> bool:
    """Whether the template, if there is one, is for pairs of texts."""
    return "{text_pair}" in (ask.template or "")


def _asked_in_words(ask: Prompting) -> str:
    """What was asked and what may answer, as part of a sentence; empty where nothing was asked."""
    parts = []
    if ask.template is not None:
        parts.append(f"texts stand in {quoted(ask.template)}")
    if ask.words:
        answers = "; ".join(f"{name}: {', '.join(map(quoted, given))}" for name, given in ask.words.items())
        parts.append(f"the head begins as the output embeddings of words ({answers})")
    if ask.offset is not None:
        parts.append("outputs are shifted by " + ", ".join(f"{shift:+.2f}" for shift in ask.offset))
    return "; ".join(parts)


def ask_notes(asked: Sequence[Prompting]) -> list[str]:
    """A line for each way of asking that there is."""
    said = dict.fromkeys(filter(None, map(_asked_in_words, asked)))
    return [f"Asked in words: {one}." for one in said]


def quoted(text: str) -> str:
    """In quotes, on one line."""
    return '"' + text.replace("\\", "\\\\").replace("\n", "\\n") + '"'


def split_of(task: str, train: int, held_out: int) -> str:
    """`reviews.csv: 240 texts to train on, 60 held out`."""
    return f"{Path(task).name}: {number_of_texts(train)} to train on, {count(held_out)} held out"


def texts_cut(truncated: int, texts: int, max_length: int | None) -> str:
    """Return a sentence such as `3 of 300 texts cut at the maximum length of 128 tokens.` (or without a length)."""
    most = "" if max_length is None else f" of {max_length:,} tokens"
    return f"{count(truncated)} of {number_of_texts(texts)} cut at the maximum length{most}."
