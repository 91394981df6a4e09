"""The class `Report`: the tables, verdicts and plots of results, and the files of a report."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING

from afina import file_io
from afina.report import conclusion, doubts, headline, recommendation, sections, verdicts
from afina.report.answer_costs import answer_cost_table, are_comparable
from afina.report.arms import (
    Arm,
    arms,
    has_several_backbones,
    is_curve,
    of_greatest_size,
    records_of,
    short_names,
    titles_of,
)
from afina.report.details.abstention import abstention_table, of_one_method
from afina.report.details.endpoints import answerless, endpoint_table, requests_sentences
from afina.report.details.fitted_heads import fitted_table
from afina.report.details.retention import RETENTION, retention_table
from afina.report.examples.answered_texts import AnsweredRun, FoundTexts, RunChoice, answered_run, find_texts
from afina.report.examples.disagreements import EvaluationTexts, sections_of
from afina.report.formatting import listed
from afina.report.headline import Headline, figures_of, interval
from afina.report.plots import comparison, race, svg, training
from afina.report.plots.svg import Plot
from afina.report.presentation import PRESENTATIONS, Presentation
from afina.report.recommendation import title, titled
from afina.report.sections import AnswerBlock, Notes, Prose, Section, tuning_table
from afina.report.tables import ANSWERS, COST, EVIDENCE, PERFORMANCE, Table, all_tables
from afina.report.verdicts import CURVES, Verdicts
from afina.report.writers import json_csv, markdown
from afina.report.writers.recommendation_json import as_json
from afina.studies.descriptions import Failure
from afina.studies.results import Results
from afina.studies.runs.record import Record

if TYPE_CHECKING:  # the import loads jinja2
    from afina.report.writers.html import PageContent

MARKDOWN, PAGE, CSV, JSON = "report.md", "report.html", "tables.csv", "tables.json"
FILES = (MARKDOWN, PAGE, CSV, JSON)
ANSWER, TRAINING = "Answer", "Training"


@dataclass(frozen=True)
class Report:
    """The tables, plots and sentences about the results of a study or a recommendation.

    Each part of a report is computed when it is first read.

    Attributes:
        evaluated: The texts that the runs were evaluated on, or the reason why the report does not show these texts.
    """

    results: Results
    arms: tuple[Arm, ...]
    evaluated: EvaluationTexts = field(default_factory=EvaluationTexts)

    @classmethod
    def of(cls, results: Results, evaluated: EvaluationTexts | None = None) -> Report:
        """Return the report of `results`; without texts in `evaluated`, it shows row numbers."""
        return cls(results, tuple(arms(results.results, results.backbones)), evaluated or EvaluationTexts())

    @cached_property
    def tables(self) -> list[Table]:
        """The tables of figures in the order of the report; a table without figures is left out."""
        made, headed = self.results, not self.arms or _presentation(self.arms).headed
        notes = sections.notes(self.arms, made.data, len(made.results), made.notes)
        tables = all_tables(self.arms, notes, made.published, headed=headed)
        more = (
            verdicts.baseline_table(self.results.baselines, self.arms),
            answer_cost_table(self.arms),
            endpoint_table(self.arms, texts=not self.evaluated.withheld),
        )
        tables[1:1] = [table for table in more if table]
        tuned = tuning_table(self.results.tuned, self.backbone_names) if self.results.tuned else None
        promised = abstention_table(self.arms)
        details = (promised, fitted_table(self.arms, self.verdicts), retention_table(self.arms), tuned)
        return [*tables, *(table for table in details if table)]

    @cached_property
    def backbone_names(self) -> Mapping[str, str]:
        """The short name of each backbone by its address; empty if the study has one backbone."""
        return short_names(records_of(self.arms), self.results.backbones)

    @cached_property
    def failed(self) -> tuple[Failure, ...]:
        return tuple(one.named(self.backbone_names) for one in self.results.failed)

    def title_of(self, record: Record) -> str:
        return titles_of([record], tuple(self.backbone_names))[0]

    @cached_property
    def verdicts(self) -> Verdicts:
        return verdicts.verdicts(self.arms)

    @cached_property
    def findings(self) -> list[Table]:
        both = (verdicts.learning_curve_table(self.arms), verdicts.verdict_table(self.verdicts))
        return [table for table in both if table is not None]

    @cached_property
    def evidence(self) -> list[Table]:
        made = self.results.recommendation
        return [recommendation.evidence(made, sections.rare_labels(self.arms))] if made else []

    @cached_property
    def sentences(self) -> tuple[str, ...]:
        """The sentences of the recommendation, or of the study's conclusion; the most important sentence is first."""
        made = self.results.recommendation
        if made:
            return recommendation.sentences(made, interval(made, self.arms))
        against = verdicts.against(self.results.baselines, self.arms)
        said = conclusion.sentences(self.arms, self.verdicts, self.failed, self.results.waiting, against)
        return (*answerless(self.arms), *said[:1], *conclusion.unasked(self.arms, self.results.data), *said[1:])

    @property
    def so_far(self) -> str:
        """The recommended method, its figure with the interval, and what is tried next; "" for a study."""
        if (made := self.results.recommendation) is None:
            return ""
        value = made.contender(made.recommended).metrics[made.metric]
        range_ = interval(made, self.arms)
        return recommendation.so_far(made.recommended, made.metric, value, made.examples, made.waiting, range_)

    @cached_property
    def brief(self) -> tuple[str, ...]:
        (arm,) = self.arms
        made = self.results
        said = conclusion.of_one_method(arm, made.baselines, verdicts.against(made.baselines, self.arms))
        return (
            *answerless(self.arms),
            *conclusion.unasked(self.arms, made.data),
            *said,
            *of_one_method(arm),
            *requests_sentences(self.arms),
            *sections.doubts(self.arms),
            *made.notes,
        )

    @cached_property
    def headline(self) -> Headline | None:
        if self.results.recommendation:
            return headline.of_recommendation(self.results.recommendation, self.arms)
        if not self.arms:
            return None
        text, (arm, *_) = self._leading
        return Headline(text, figures_of(arm))

    @cached_property
    def _leading(self) -> tuple[str, list[Arm]]:
        return conclusion.leading(self.arms, self.verdicts)

    @cached_property
    def of_use(self) -> Record | None:
        """The record of the run whose adapter to use; None if there is none. A random head is never suggested."""
        made = self.results.recommendation
        if made:
            key = made.contender(made.recommended).key
            return next((one for one in self.results.records if one.key == key and one.adapter), None)
        ranked = self._leading[1] if self.arms else []
        saved = [arm for arm in ranked if arm.record.adapter]
        return next((arm.record for arm in saved if arm.trained or arm.prescribed_head != "random"), None)

    @cached_property
    def unpublished(self) -> str:
        """The reason why no adapter of the results is that of the best method, as a clause; empty if one is."""
        made = self.results.recommendation
        if made:
            return "" if made.adapter else "the recommended method has no adapter"
        if not self.arms:
            return "no run has finished"
        _, (best, *others) = self._leading
        if others and isnan(best.headline):
            return f"no {conclusion.undefined(best.record.metric)}"
        return "" if best.record == self.of_use else f"the best method, {best.label}, has no adapter to use"

    @cached_property
    def answered(self) -> list[AnsweredRun]:
        """The figures by label and the confusions of one run of each method, the run to use first.

        Empty if the kind of task has no labels. The largest number of training texts counts, and the first seed.
        """
        found = []
        for arm in of_greatest_size(self.arms):
            used = next((one for one in arm.results if one.record == self.of_use), arm.results[0])
            found.append(answered_run(arm.label, used))
        found.sort(key=lambda one: self.of_use is None or one.key != self.of_use.key)
        return [one for one in found if one.labels]

    def texts(
        self,
        given: str | None = None,
        predicted: str | None = None,
        chosen: RunChoice | None = None,
        *,
        most: int | None = None,
        longest: int | None = None,
    ) -> FoundTexts:
        """Return the evaluation texts that a run, by default the one to use, answered in a certain way.

        `find_texts` has the arguments and errors.
        """
        found = (self.results, self.arms, self.of_use, chosen or RunChoice())
        return find_texts(*found, given, predicted, most=most, longest=longest)

    @cached_property
    def by_label(self) -> list[Table]:
        """Terminal tables of the suggested (or only) method: the figures of each label and the confusion matrix."""
        alone = self.arms[0] if len(self.arms) == 1 else None
        arm = next((arm for arm in self.arms if self.of_use in arm.records), alone)
        if arm is None:
            return []
        record = arm.record
        return _presentation([arm]).terminal_tables(record.label_names, arm.targets, arm.answers, of=arm.label)

    def markdown(self) -> str:
        return markdown.report(self._heading, self._sections({}))

    def page(self) -> str:
        """Return the text of `report.html`: the whole report in one file, with its plots."""
        from afina.report.writers.html import page

        return page(self._heading, self._lead(), self._sections(self._plots()), self.headline)

    def content(self) -> PageContent:
        from afina.report.writers.html import content

        return content(self._heading, self._lead(), self._sections(self._plots()), self.headline)

    def inline(self) -> str:
        """Return HTML for a notebook's output: the conclusion, the main tables, and the paths of the adapters."""
        from afina.report.writers.html import fragment

        found = self._first(self._plots((ANSWER, EVIDENCE, CURVES, PERFORMANCE, ANSWERS, COST)))
        if self.arms:
            paths = [self.results.out / one.adapter for one in self.results.records if one.adapter]
            found.append(Section("Adapters", (Notes(tuple(f"`{path}`" for path in paths)),)))
        return fragment(self._heading, self._lead(), found)

    def summary(self) -> dict[str, object]:
        if self.results.recommendation:
            found = interval(self.results.recommendation, self.arms)
            return as_json(self.results.recommendation, self.results.out, found)
        return json_csv.summary(self.results, self.results.out / MARKDOWN, self.sentences, self.verdicts)

    def files(self, names: Sequence[str] = FILES) -> dict[str, str]:
        made: Mapping[str, Callable[[], str]] = {
            MARKDOWN: self.markdown,
            PAGE: self.page,
            CSV: lambda: json_csv.as_csv(self.arms, self.results.published),
            JSON: lambda: json_csv.as_json(self.results.name, self.arms, self.verdicts, self.results.published),
        }
        return {name: made[name]() for name in names}

    def write(self, names: Sequence[str] = FILES) -> list[Path]:
        """Write the named files into the results' directory, each atomically; without runs, not `tables.csv`."""
        if not self.arms and CSV in names:
            (self.results.out / CSV).unlink(missing_ok=True)
            names = [name for name in names if name != CSV]
        for name, text in self.files(names).items():
            file_io.write_text(self.results.out / name, text)
        return [self.results.out / name for name in names]

    @property
    def _heading(self) -> str:
        made = self.results.recommendation
        return f"Which method for `{made.task}`" if made else f"Study `{self.results.name}`"

    def _lead(self) -> list[str]:
        made = self.results.recommendation
        if made:
            backbones = ", ".join(f"`{one}`" for one in made.backbones or (made.backbone,))
            return [f"{backbones}, {made.train_examples:,} training and {made.examples:,} held-out texts."]
        if not self.arms:
            return [sections.without_results(self.failed, self.results.waiting)]
        first = self.arms[0].record
        backbones = listed([f"`{address}`" for address in self.backbone_names or (first.backbone,)])
        return [
            f"{backbones} on `{first.task}`: {first.trained_on:,} training and {first.examples:,} "
            f"evaluation texts, {_presentation(self.arms).asked(first.label_names)}."
        ]

    def _sections(self, plots: Mapping[str, Sequence[Plot]]) -> list[Section]:
        made = self._first(plots)
        if self.arms:
            presentation, greatest = _presentation(self.arms), of_greatest_size(self.arms)
            tables = presentation.tables(greatest)
            drawn = [one for one in (TRAINING, *presentation.plots) if one not in {table.title for table in tables}]
            made += [Section(title, tuple(plots[title])) for title in drawn if plots.get(title)]
            made += [sections.of_table(table, *plots.get(table.title, ())) for table in tables]
            made += sections_of(greatest, self.evaluated)
            made += doubts.section_of_results(self.results, texts=not self.evaluated.withheld)
            made.append(sections.what_was_run(self.arms))
        return made + sections.provenance(self.arms, self.results.command)

    def _first(self, plots: Mapping[str, Sequence[Plot]]) -> list[Section]:
        answer, made = AnswerBlock(self.sentences, tuple(plots.get(ANSWER, ()))), list[Section]()
        for table in self.evidence:
            shown = sections.of_table(table, *plots.get(table.title, ()))
            made.append(Section("Recommendation", (answer, *shown.blocks)))
        if self.sentences and not self.evidence:
            made.append(Section("Conclusion", (answer,)))
        if not self.arms and not self.evidence:
            why = sections.without_results(self.failed, self.results.waiting)
            made.append(Section("Nothing to compare yet", (Prose(why),)))
        made += sections.failures(self.failed)
        if self.arms:
            tables = [*self.findings, *self.tables]
            made += [sections.of_table(table, *plots.get(table.title, ())) for table in tables]
        return made

    def _forest(self) -> Plot | None:
        made = self.results.recommendation
        if made:
            compared = list(map(titled, made.comparisons))
            return comparison.forest(title(made.recommended), compared, recommendation.trained_on(made))
        _, (leader, *_) = self._leading
        return comparison.forest(leader.label, self.verdicts.compared, self.verdicts.trained_on)

    def _plots(self, titles: Sequence[str] = ()) -> dict[str, list[Plot]]:
        """The plots of the report by the title of their section; `titles` selects sections (default: all)."""
        if not self.arms:
            return {}
        asked, greatest = self.results.recommendation, of_greatest_size(self.arms)
        timed = has_several_backbones(self.arms) and are_comparable(self.arms)
        with svg.drawing():
            made: dict[str, Callable[[], Sequence[Plot | None]]] = {
                EVIDENCE: lambda: [race.trainings_in_time(asked)] if asked else [],
                CURVES: lambda: [comparison.learning_curves(self.arms)] if is_curve(self.arms) else [],
                ANSWER: lambda: [self._forest()],
                PERFORMANCE: lambda: [comparison.headline(self.arms), comparison.against_parameters(self.arms)],
                ANSWERS: lambda: [comparison.against_answers(self.arms)] if timed else [],
                COST: lambda: [comparison.against_time(self.arms), comparison.against_memory(self.arms)],
                RETENTION: lambda: [comparison.against_retention(self.arms)],
                TRAINING: lambda: [training.losses(self.arms), training.phases(self.arms)],
                **{title: partial(draw, greatest) for title, draw in _presentation(self.arms).plots.items()},
            }
            return {title: [plot for plot in made[title]() if plot is not None] for title in titles or made}


def _presentation(arms: Sequence[Arm]) -> Presentation:
    return PRESENTATIONS[arms[0].record.kind]
