"""Print results, write the files of the report, and publish the best adapter (`--publish`).

No command in this module executes a run.
"""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from afina.cli.terminal import print_created, print_prose, print_tables

if TYPE_CHECKING:
    from afina.report.examples.disagreements import EvaluationTexts
    from afina.report.report import Report
    from afina.studies.results import Results
    from afina.studies.runs.record import Record


def show_results(
    results: Results,
    as_json: bool,
    published: Mapping[str, object] | None = None,
    *,
    by_label: bool = False,
    brief: bool = False,
) -> None:
    """Print the results of a study or recommendation: tables, paths of adapters and a conclusion, or one JSON object.

    `by_label` adds the metrics of each label and the confusion matrix of the best method. With `brief`, a study
    with one method is printed as sentences instead of tables.
    """
    from afina.report.report import MARKDOWN, PAGE, Report
    from afina.report.sections import without_results

    made = Report.of(results)
    if as_json:
        more = {} if published is None else {"published": published}
        print(json.dumps({**made.summary(), **more}, ensure_ascii=False))
        return
    is_brief = brief and len(made.arms) == 1
    if is_brief:
        for paragraph in made.brief:
            print_prose(paragraph)
    elif results.recommendation:
        print_tables(*made.evidence)
    else:
        print_tables(*made.tables, *made.findings)
        if by_label:
            print_tables(*made.by_label)
        if not results.records:
            print(without_results(made.failed, results.waiting))
    for adapter in _adapters(results):
        print(f"adapter {adapter}")
    if made.sentences and not is_brief:
        print()
        for paragraph in made.sentences:
            print_prose(paragraph)
    for path in (results.out / MARKDOWN, results.out / PAGE):
        if path.exists():
            print(f"{'page' if path.name == PAGE else 'report':<7} {path}")
    _say_how_to_use(results, made)
    if is_brief:
        print(f"All figures: {shlex.join(['afina', 'show', str(results.out)])}")
    if published:
        print(f"published {published['name']}@{published['version']}")


def _say_how_to_use(results: Results, made: Report) -> None:
    """Print the commands that predict with the adapters that a user may want."""
    if made.of_use:
        several = not results.recommendation and len(results.records) > 1
        for record in dict.fromkeys([made.of_use.key, *_asked_for(results)]):
            one = next(each for each in results.records if each.key == record)
            print(f"To use {made.title_of(one) if several else 'it'}: {_use(results, one)}")
    elif results.recommendation and results.recommendation.adapter:  # a baseline without a language model
        print(f"To use it: {_command([str(results.out / results.recommendation.adapter)], results.data.text_pair)}")
    if results.recommendation and (student := results.recommendation.student):
        command = _command([str(results.out / student.adapter)], results.data.text_pair)
        print(f"To use the distilled model: {command}")


def _adapters(results: Results) -> list[Path]:
    if results.recommendation:
        return [results.out / results.recommendation.adapter] if results.recommendation.adapter else []
    return [results.out / record.adapter for record in results.records if record.adapter]


def _asked_for(results: Results) -> list[str]:
    """Return the key of the run that trained, if exactly one did (its user wants its adapter), as a list; else []."""
    trained = [one.key for one in results.records if one.steps and one.adapter]
    return trained if len(trained) == 1 and not results.recommendation else []


def _trained(results: Results) -> set[tuple[str, str]]:
    return {(one.name, one.backbone) for one in results.records if one.steps and one.adapter}


def _use(results: Results, record: Record) -> str:
    """Return the command that labels a text with the adapter of `record`."""
    from afina.report.formatting import asks_pairs

    assert record.adapter is not None  # `of_use` and `_asked_for` return no other run
    alone = results.recommendation or len(_trained(results)) < 2
    where = [str(results.out / record.adapter)] if alone else [str(results.out), "--method", record.name]
    if not alone and len({one.backbone for one in results.records if one.name == record.name}) > 1:
        where += ["--backbone", record.backbone]
    return _command(where, results.data.text_pair or asks_pairs(record.ask))


def _command(where: Sequence[str], pairs: object) -> str:
    what = '--pair "First text." "Second text."' if pairs else '"Your text."'
    return f"{shlex.join(['afina', 'predict', *where])} {what}"


def write_text(results: Results) -> None:
    """Write report.md with the results so far, while a study is running."""
    from afina.report.examples.disagreements import EvaluationTexts
    from afina.report.report import MARKDOWN, Report

    Report.of(results, EvaluationTexts(reason="the study is running", withheld=True)).write([MARKDOWN])


def write_report(results: Results, *, texts: bool = True) -> list[Path]:
    """Write every file of the report and return their paths; `texts=False` writes row numbers instead of texts."""
    from afina.report.report import Report

    return Report.of(results, _evaluated(results, texts)).write()


def print_content(results: Results, *, texts: bool, as_json: bool) -> None:
    """Print the content of report.html: its HTML, or its parts and the answers by label as one JSON object."""
    from dataclasses import asdict

    from afina.report.report import Report

    made = Report.of(results, _evaluated(results, texts))
    content = made.content()
    if not as_json:
        print(content.html)
        return
    chosen = results.recommendation
    used = chosen.adapter if chosen else made.of_use and made.of_use.adapter
    repeatable = not chosen or chosen.contender(chosen.recommended).key is not None
    more = {"adapter": used or None, "repeatable": repeatable, "answered": [one.as_json() for one in made.answered]}
    print(json.dumps({**asdict(content), **more}, ensure_ascii=False, allow_nan=False))


def _evaluated(results: Results, texts: bool) -> EvaluationTexts:
    from afina.report.examples.disagreements import WITHHELD, EvaluationTexts

    kind = results.records[0].kind if results.records else None
    return EvaluationTexts.read(results.task, results.data, kind) if texts else WITHHELD


MOST = 2000
"""The most characters of a report's conclusion that become the message of a published version."""


def check_publishing(name: str | None) -> None:
    """Check, before a run starts, that an adapter can be published under `name`; create the store if there is none.

    Raises InvalidName, or NotFound if the store cannot be reached.
    """
    if name is not None:
        from afina.store.adapter_store import AdapterStore
        from afina.store.versions import Name

        Name.parse(name)
        store = AdapterStore()
        begins = not store.exists()
        store.make_ready()
        if begins:
            print_created(store.address.shown)


def publish_winner(results: Results, name: str, *, texts: bool = True) -> dict[str, object] | None:
    """Publish the best adapter, with the report's conclusion as its message, and return the version as JSON values.

    Returns None, with a message on standard error, if a run failed or the method that the report names as the best has
    no adapter. `texts`: whether to publish the hashes of the training texts too.
    """
    from afina.report.report import Report
    from afina.store.adapter_store import AdapterStore

    made, chosen = Report.of(results), results.recommendation
    adapter = chosen.adapter if chosen else made.of_use and made.of_use.adapter
    if why := "a run failed" if results.failed else made.unpublished:
        other = shlex.join(["afina", "store", "publish", str(results.out / adapter), name]) if adapter else ""
        remedy = f" To publish another method: `{other} --message WHY`." if other else ""
        print(f"No version of {name} was published: {why}.{remedy}", file=sys.stderr)
        return None
    assert adapter  # the best method has one
    what = f"{made.title_of(made.of_use)}, seed {made.of_use.seed}, of {results.name}. " if made.of_use else ""
    said = f"{what}{' '.join(made.sentences)}"
    return AdapterStore().publish(results.out / adapter, name, message=said.strip()[:MOST], texts=texts).as_json()
