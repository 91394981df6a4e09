"""The result of an evaluation of an adapter or of an untrained model, as sentences, tables and JSON."""

from __future__ import annotations

from collections.abc import Sequence
from math import isnan
from typing import TYPE_CHECKING

from afina.data.readers.splitting import repetition_notes
from afina.models.adapter import Adapter
from afina.report.details import abstention
from afina.report.formatting import (
    capitalised,
    count,
    counted,
    document_notes,
    headline_first,
    interval_heading,
    listed,
    metric_figure,
    metric_heading,
    number_of_texts,
    quoted,
    share,
    span,
    texts_cut,
    too_few,
)
from afina.report.presentation import PRESENTATIONS
from afina.report.tables import Table, columns_of
from afina.schema import figures_as_json, null_where_undefined
from afina.stats import intervals
from afina.stats.metrics import METRICS

if TYPE_CHECKING:  # the imports load torch
    from afina.predicting.evaluation import Evaluation
    from afina.predicting.prompting import Answer


IN_A_SENTENCE = 8  # more metrics are shown in a table


def sentences(found: Evaluation) -> list[str]:
    names = headline_first(found.metrics, found.metric)
    figures = [metric_figure(name, found.metrics[name], found.label_names) for name in names]
    on = texts_evaluated(found.where, found.examples, found.held_out)
    has_none = isnan(found.interval.low) and not isnan(found.metrics[found.metric])
    interval = "no interval" if has_none else f"{interval_heading(found.metric)}: {span(found.interval.ends)}"
    said = [f"{', '.join(figures[:2])} on {on} ({interval}){too_few(found.examples)}"]
    said += [", ".join(figures[2:])] if len(figures) <= IN_A_SENTENCE else []
    said += label_notes(found.label_names, found.unmeasured)
    positive = PRESENTATIONS[found.kind].positive(found.label_names)
    if positive is not None and not found.chosen:
        said.append(
            f"F1 and AUROC are about {positive}, the last in the order of the labels; --positive names another."
        )
    said += PRESENTATIONS[found.kind].rare(found.label_names, found.answered.targets, names)
    return [*said, *document_notes(found.answered), *_abstention(found), *_texts(found)]


def texts_evaluated(where: str, examples: int, held_out: bool) -> str:
    """Return the number and source of the evaluated texts as text, such as `40 texts of more.csv`."""
    number = number_of_texts(examples)
    return f"the {number} that training left out of {where}" if held_out else f"{number} of {where}"


def leakage_notes(where: str, leaked: int | None, left_out: int, trained: str = "the adapter was") -> list[str]:
    if left_out:
        return [
            f"{number_of_texts(left_out)} of {where} left out: {trained} trained on them. --allow-leakage keeps them."
        ]
    return [f"{capitalised(trained)} trained on {number_of_texts(leaked)} of these."] if leaked else []


def label_notes(label_names: Sequence[str], unmeasured: Sequence[str]) -> list[str]:
    """Return a note if the metrics are only about some of the adapter's labels."""
    if not unmeasured:
        return []
    only = f"the label {label_names[0]}" if len(label_names) == 1 else f"the labels {listed(label_names)}"
    return [f"All figures are about {only} only: the texts do not say which of them are {listed(unmeasured, 'or')}."]


def _abstention(found: Evaluation) -> list[str]:
    measured = found.abstention
    if measured is None:
        return []
    return [abstention.sentence(measured.found, measured.promised, answers_nothing=measured.answers_nothing)]


def _texts(found: Evaluation) -> list[str]:
    said = leakage_notes(found.where, found.leaked, found.left_out)
    said += repetition_notes(found.repeated, found.examples, found.where)
    if found.too_long:
        said.append(f"{counted(found.too_long, 'target')} left out: too many tokens.")
    if found.truncated:
        said.append(texts_cut(found.truncated, found.examples, found.max_length))
    return said


def leakage_unknown(adapter: Adapter) -> str:
    task = adapter.manifest.task
    gone = "" if task is None else f", and {task} is not at hand as it was"
    return (
        "Whether training saw any of these texts is not known: the adapter has no hashes of its training texts (made "
        f"by an earlier afina, by another library, or published with --no-texts){gone}."
    )


def tables(found: Evaluation) -> list[Table]:
    """Return the tables of an evaluation for a terminal: of many metrics, or of figures by label and confusions."""
    answered, names = found.answered, headline_first(found.metrics, found.metric)
    if len(names) > IN_A_SENTENCE:
        rows = tuple((metric_heading(name), share(found.metrics[name])) for name in names[2:])
        undefined = [name for name in names if isnan(found.metrics[name])]
        needed = [f"{metric_heading(name)} is undefined: it needs {METRICS[name].needs}." for name in undefined]
        return [Table("Further figures", columns_of(["Metric"], ["Value"]), rows, tuple(needed))]
    return PRESENTATIONS[found.kind].terminal_tables(found.label_names, answered.targets, answered.answers[None])


def as_json(found: Evaluation) -> dict[str, object]:
    presentation, answered = PRESENTATIONS[found.kind], found.answered
    return {
        "adapter": found.adapter,
        "digest": found.digest,
        "task": found.task,
        **figures_as_json(found.metrics),
        "interval": [*map(null_where_undefined, found.interval.ends)],
        "intervals": _intervals(found),
        "metric": found.metric,
        "examples": found.examples,
        "truncated": found.truncated,
        "dtype": found.dtype,
        "file": found.where,
        "held_out": found.held_out,
        "leaked": found.leaked,
        "left_out": found.left_out,
        **({"too_long": found.too_long} if found.too_long else {}),
        **({"unmeasured": list(found.unmeasured)} if found.unmeasured else {}),
        **({"abstention": abstention.as_json(found.abstention)} if found.abstention else {}),
        "repeated": found.repeated,
        "positive": presentation.positive(found.label_names),
        **presentation.as_json(found.label_names, answered.targets, answered.answers[None]),
    }


def _intervals(found: Evaluation) -> dict[str, list[float | None]]:
    """The 95 % interval of each metric that is a mean over texts; null where undefined."""
    ends = {
        name: intervals.estimate_of_answers([found.answered], METRICS[name]).interval
        for name in found.metrics
        if METRICS[name].values is not None
    }
    return {name: [*map(null_where_undefined, one.ends)] for name, one in ends.items()}


def template_tables(answer: Answer) -> list[Table]:
    """Return a table of the prompt templates that `afina ask` tried; empty for one template."""
    if not answer.compared:
        return []
    rows = tuple(
        (quoted(one.template), share(one.accuracy), share(one.with_offset))
        for one in sorted(answer.compared, key=lambda one: -one.by(answer.offset))
    )
    columns = columns_of(["Template"], ["Accuracy", "With offset"])
    notes = (f"On {count(answer.compared[0].examples)} training texts. {_used(answer)}",)
    return [Table("Templates", columns, rows, notes)]


def _used(answer: Answer) -> str:
    used, usual = quoted(answer.template), quoted(answer.usual)
    if answer.usual not in {one.template for one in answer.compared}:
        return f"{used} is used below. Training uses {usual} where no template is given."
    if answer.template == answer.usual:
        return f"{used} is used below, as it is by training: no other is shown to be better."
    return f"{used} is used below. Training uses {usual} where no template is given."


def answer_sentence(answer: Answer) -> str:
    found = intervals.accuracy_estimate(answer.score[None]).interval
    labels = tuple(answer.words)
    figures = ", ".join(metric_figure(name, value, labels) for name, value in list(answer.metrics.items())[:2])
    words = "; ".join(f"{name}: {', '.join(map(quoted, given))}" for name, given in answer.words.items())
    return (
        f"Untrained, asked in {quoted(answer.template)} ({words}): {figures} on "
        f"{counted(answer.examples, 'held-out text')} (95 % of accuracy: {span(found.ends)})"
        f"{too_few(answer.examples)}."
    )
