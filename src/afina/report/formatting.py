"""Formatting for reports: settings, counts, seconds, bytes, shares and differences as text, and names of metrics."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from math import isnan
from pathlib import Path

from afina.stats.answered import Answered
from afina.stats.intervals import FEWEST
from afina.stats.metrics import METRICS
from afina.studies.runs.record import Prompting, Record

NOTHING = "–"  # a missing value in a table
UNDEFINED = "undefined"

ACCURACY, F1 = "accuracy", "f1"

FEW = 30
"""With fewer evaluation texts than this, the report says that they are too few."""


def brief(text: str, longest: int = 40) -> str:
    line = "".join(letter for letter in " ".join(text.split()) if letter.isprintable())
    return line if len(line) <= longest else line[: longest - 1].rstrip() + "…"


def counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'s' * (number != 1)}"


def number_of_texts(number: int) -> str:
    return counted(number, "text")


def capitalised(text: str) -> str:
    return text[:1].upper() + text[1:]


def too_few(count: int) -> str:
    return f"; too few to say anything: below {FEW}" if count < FEW else ""


FEW_DOCUMENTS = 30
"""Below this number of documents, intervals that take documents as observations are too narrow now and then."""


def document_notes(answered: Answered) -> list[str]:
    """Return a note that intervals and p values are about documents, if the texts are parts of documents."""
    if answered.groups is None:
        return []
    documents = int(answered.groups.max()) + 1
    if documents == 1:
        return [
            "All texts are of one document and depend on each other, so they do not show how figures differ between "
            "documents: metrics have no interval, and comparisons decide nothing."
        ]
    few = ""
    if documents < FEWEST:
        few = f" With fewer than {FEWEST} documents, metrics have no interval, and comparisons are rough."
    elif documents < FEW_DOCUMENTS:
        few = f" With fewer than {FEW_DOCUMENTS} documents, they are rough."
    return [
        f"The texts are parts of {count(documents)} documents, and the texts of a document depend on each other: "
        f"intervals and p values take each document as one observation.{few}"
    ]


def in_words(values: Mapping[str, object]) -> str:
    """Return settings as text, such as `r 4, alpha 16, targets c_attn`; settings that are None are left out."""
    return ", ".join(f"{key} {value_in_words(value)}" for key, value in values.items() if value is not None)


def value_in_words(value: object) -> str:
    if value is True or value is False:
        return "yes" if value else "no"
    if isinstance(value, float) and value.is_integer():
        return f"{value:.0f}"
    return " + ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def listed(names: Sequence[str], last: str = "and") -> str:
    return f" {last} ".join([*([", ".join(names[:-1])] if names[:-1] else []), names[-1]])


def count(value: float) -> str:
    return f"{value:,.0f}"


def seconds(value: float) -> str:
    return f"{value:,.2f}"


def seconds_in_words(value: float) -> str:
    """Return a duration as text for a headline: `4.2 s`, `60 s`, `12 min`, `1.5 h`."""
    if value < 10:
        return f"{value:.1f} s"
    if value < 300:
        return f"{value:.0f} s"
    return f"{value / 60:.0f} min" if value < 7200 else f"{value / 3600:.1f} h"


def share(value: float) -> str:
    """Return a share or another metric as text with four decimals, such as `0.8721`; `undefined` for NaN."""
    return UNDEFINED if isnan(value) else f"{value:.4f}"


def span(interval: tuple[float, float]) -> str:
    return UNDEFINED if isnan(interval[0]) else f"{share(interval[0])} to {share(interval[1])}"


def figure_with_interval(metric: str, value: float, interval: tuple[float, float] | None) -> str:
    """Return a metric with its interval as text for a headline, such as `0.88 (0.84 to 0.91)`.

    Metrics in percentage points have two decimals, or three if the interval is narrower than 0.02; others have four.
    """
    if isnan(value) or not METRICS[metric].points:
        return share(value) if interval is None or isnan(value) else f"{share(value)} ({span(interval)})"
    if interval is None:
        return f"{value:.2f}"
    digits = 2 if interval[1] - interval[0] > 0.02 else 3
    return f"{value:.{digits}f} ({interval[0]:.{digits}f} to {interval[1]:.{digits}f})"


def percent(value: float) -> str:
    """Return a percentage as text with four decimals; 0 and 100 have no decimals."""
    return f"{value:.0f}" if value in (0, 100) else f"{value:.4f}"


def points(difference: float) -> str:
    text = f"{100 * difference:+.2f}".replace("-", "−")
    return text[1:] if float(f"{100 * difference:.2f}") == 0 else text


def p_value(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def size(value: float) -> str:
    """Return bytes as text in GiB, or in MiB below 0.1 GiB."""
    gib = value / 2**30
    return f"{gib:.2f} GiB" if gib >= 0.1 else f"{value / 2**20:.1f} MiB"


def money(value: float) -> str:
    return f"{value:,.2f}" if value >= 100 else f"{value:.3g}"


def metric_name(metric: str, labels: Sequence[str] = ()) -> str:
    """Return a metric's name within a sentence; with `labels`, F1 is `F1 of spam` for two and `macro F1` for more."""
    plain = METRICS[metric].words
    if metric != F1 or not labels:
        return plain
    return f"{plain} of {labels[1]}" if len(labels) == 2 else f"macro {plain}"


def metric_heading(metric: str, labels: Sequence[str] = ()) -> str:
    text = metric_name(metric, labels)
    return capitalised(text) if text.partition(" ")[0].islower() else text  # chrF keeps its spelling


def metric_figure(name: str, number: float, labels: Sequence[str] = ()) -> str:
    """Return a metric's name and value: `accuracy 0.8571`, `AUROC undefined (it needs texts of both labels)`."""
    why = f" (it needs {METRICS[name].needs})" if isnan(number) else ""
    return f"{metric_name(name, labels)} {share(number)}{why}"


def interval_heading(metric: str) -> str:
    return f"95 % of {metric_name(metric)}"


def metrics_of(record: Record) -> tuple[str, ...]:
    """Return the names of all metrics of a record: the headline metric, other main metrics, further metrics."""
    return headline_first(record.metrics, record.metric)


def headline_first(names: Iterable[str], headline: str) -> tuple[str, ...]:
    return (headline, *sorted((name for name in names if name != headline), key=lambda name: not METRICS[name].main))


def metric_value(metric: str) -> Callable[[Record], float | None]:
    """Return a function that reads `metric` from a record, or None if the record lacks the metric."""

    def of(record: Record) -> float | None:
        return record.metrics.get(metric)

    return of


def metric_difference(number: float, metric: str) -> str:
    """Return a difference as text with its sign: in percentage points, or with four decimals or digits."""
    if METRICS[metric].points:
        return points(number)
    text = f"{number:+.4g}" if 0 < abs(number) < 0.001 else f"{number:+.4f}"
    return text.replace("-", "−") if float(text) else text[1:]


def difference_unit(metric: str) -> str:
    return " (points)" if METRICS[metric].points else ""


def ask_settings(ask: Prompting) -> dict[str, object]:
    """Return the prompt settings in which methods can differ: `head`, `words`, `template` and `offset`."""
    found: dict[str, object] = {"head": "words" if ask.words else "random"}
    if ask.words:
        found["words"] = "; ".join(f"{name}: {','.join(given)}" for name, given in ask.words.items())
    if ask.template is not None:
        found["template"] = quoted(ask.template)
    if ask.offset is not None:
        found["offset"] = "yes"
    return found


def asks_pairs(ask: Prompting) -> bool:
    return "{text_pair}" in (ask.template or "")


def _asked_in_words(ask: Prompting) -> str:
    parts = []
    if ask.template is not None:
        parts.append(f"texts stand in {quoted(ask.template)}")
    if ask.words:
        answers = "; ".join(f"{name}: {', '.join(map(quoted, given))}" for name, given in ask.words.items())
        parts.append(f"the head begins as the embeddings of words ({answers})")
    if ask.offset is not None:
        parts.append("outputs are shifted by " + ", ".join(f"{shift:+.2f}" for shift in ask.offset))
    return "; ".join(parts)


def ask_notes(asked: Sequence[Prompting]) -> list[str]:
    said = {words: one.words for one in asked if (words := _asked_in_words(one))}
    return [f"{'Asked in words' if given else 'Prompt without label words'}: {words}." for words, given in said.items()]


def asked_by_api(ask: Prompting) -> str:
    """Return how a model behind an API was asked, as a sentence without its subject and full stop."""
    answers = "; ".join(f"{name}: {', '.join(map(quoted, given))}" for name, given in (ask.words or {}).items())
    allowed = f", after an instruction with the allowed answers ({answers})" if answers else ""
    return f"was asked with the template {quoted(ask.template or '')}{allowed}"


def backbone_digests(records: Sequence[Record]) -> list[str]:
    found = {(one.backbone, one.environment.backbone_digest, one.environment.tokenizer_digest): None for one in records}
    return [f"Backbone `{address}`: `{weights}`, tokenizer `{tokenizer}`" for address, weights, tokenizer in found]


def quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace("\n", "\\n") + '"'


def split_of(task: str, train: int, held_out: int, aside: int = 0) -> str:
    """Return the sizes of a file's split as text, such as `reviews.csv: 240 texts to train on, 60 held out`."""
    beside = f"{count(aside)} set aside, " if aside else ""
    return f"{Path(task).name}: {number_of_texts(train)} to train on, {beside}{count(held_out)} held out"


def texts_cut(truncated: int, texts: int, max_length: int | None) -> str:
    """Return such as `3 of 300 texts cut at the maximum length of 128 tokens.`; None: the length is not known."""
    most = "" if max_length is None else f" of {max_length:,} tokens"
    return f"{count(truncated)} of {number_of_texts(texts)} cut at the maximum length{most}."
