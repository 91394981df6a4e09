"""What the terminal says of a study's results, and the report that is written of them. Carries nothing out."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from afina.cli.output import print_prose, print_tables

if TYPE_CHECKING:
    from afina.studies.results import Results
    from afina.studies.runs.record import Record


def show_results(
    results: Results, as_json: bool, published: Mapping[str, object] | None = None, *, by_label: bool = False
) -> None:
    """Print the tables and what they say, or one JSON object; with what was published, if anything was.

    by_label  with the figures of each label, of the setting that somebody would use
    """
    from afina.report.report import MARKDOWN, PAGE, Report
    from afina.report.writers.terminal import findings

    made = Report.of(results)
    if as_json:
        more = {} if published is None else {"published": published}
        print(json.dumps({**made.summary(), **more}, ensure_ascii=False))
        return
    if results.recommendation:
        print_tables(*made.evidence)
    else:
        print_tables(*made.tables)
        print_tables(*made.findings, show=findings)
        if by_label:
            print_tables(*made.by_label)
        if not results.records:
            print("No run of this study has finished.")
    for paragraph in made.sentences if results.recommendation else (" ".join(made.sentences),):
        print_prose(paragraph)
    for adapter in _adapters(results):
        print(f"adapter {adapter}")
    for path in (results.out / MARKDOWN, results.out / PAGE):
        if path.exists():
            print(f"{'page' if path.name == PAGE else 'report':<7} {path}")
    if made.of_use:
        several = not results.recommendation and len(results.records) > 1
        for record in dict.fromkeys([made.of_use.key, *_asked_for(results)]):
            one = next(each for each in results.records if each.key == record)
            print(f"To use {one.title if several else 'it'}: {_use(results, one)}")
    elif results.recommendation and results.recommendation.adapter:  # what no language model is needed for
        print(f"To use it: {_command([str(results.out / results.recommendation.adapter)], results.data.text_pair)}")
    if published:
        print(f"published {published['name']}@{published['version']}")


def note_unsealed(results: Results) -> None:
    """Say on standard error which records have no digest of their own, and how they were checked instead."""
    if old := len(results.unsealed):
        print(
            f"Note: {old} of {len(results.records)} records have no digest of their own: an earlier afina made them. "
            "Their metrics were computed again from the stored predictions, and are the same; what else they say was "
            "not checked.",
            file=sys.stderr,
        )


def _adapters(results: Results) -> list[Path]:
    """Of a study all, of a recommendation the one."""
    if results.recommendation:
        return [results.out / results.recommendation.adapter] if results.recommendation.adapter else []
    return [results.out / record.adapter for record in results.records]


def _asked_for(results: Results) -> list[str]:
    """The key of what was trained, where that was one alone: whoever trains it may mean to use it, best or not."""
    trained = [one.key for one in results.records if one.steps]
    return trained if len(trained) == 1 and not results.recommendation else []


def _trained(results: Results) -> set[str]:
    return {one.name for one in results.records if one.steps}


def _use(results: Results, record: Record) -> str:
    """What to type to label a text with that adapter."""
    from afina.report.formatting import asks_pairs

    alone = results.recommendation or len(_trained(results)) < 2
    where = [str(results.out / record.adapter)] if alone else [str(results.out), "--method", record.name]
    return _command(where, results.data.text_pair or asks_pairs(record.ask))


def _command(where: Sequence[str], pairs: object) -> str:
    what = "--file pairs.jsonl" if pairs else '"Your text."'
    return f"{shlex.join(['afina', 'predict', *where])} {what}"


def write_text(results: Results) -> None:
    """Write the report's text anew, while a study goes on."""
    from afina.report.report import MARKDOWN, Report

    Report.of(results).write([MARKDOWN])


def write_report(results: Results, *, texts: bool = True) -> list[Path]:
    """Write every file of the report anew; their paths. `texts` false keeps evaluation texts out of them."""
    from afina.report.disagreements import WITHHELD, EvaluationTexts
    from afina.report.report import Report

    evaluated = EvaluationTexts.read(results.task, results.data) if texts else WITHHELD
    return Report.of(results, evaluated).write()
