"""Report: what there is to say of results, in tables, verdicts, claims and plots, and the files that hold it.

Knows facts and where they lie; how a run is made, and how a report is shown, is not known here. Starts without torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

from afina import file_io
from afina.methods import make
from afina.report import conclusion, paper_claims, paper_figures, sections, verdicts
from afina.report.arms import Arm, arms, is_curve, of_greatest_size
from afina.report.disagreements import EvaluationTexts, disagreement_table
from afina.report.paper_claims import Claim
from afina.report.plots.svg import Plot
from afina.report.presentation import PRESENTATIONS, Presentation
from afina.report.sections import Notes, Section, tuning_table
from afina.report.tables import COST, EVIDENCE, PERFORMANCE, Beside, Table, all_tables
from afina.report.verdicts import CURVES, VERDICTS, Verdicts
from afina.report.writers import json_csv, markdown
from afina.studies.runs.record import Record

if TYPE_CHECKING:  # it loads scipy
    from afina.studies.results import Results

MARKDOWN, PAGE, CSV, JSON = "report.md", "report.html", "tables.csv", "tables.json"
FILES = (MARKDOWN, PAGE, CSV, JSON)
TRAINING = "Training"


@dataclass(frozen=True)
class Report:
    """What there is to say of results. Every part is worked out when first asked for.

    evaluated  the texts that the runs were evaluated on, or why they are not shown
    """

    results: Results
    arms: tuple[Arm, ...]
    evaluated: EvaluationTexts = field(default_factory=EvaluationTexts)

    @classmethod
    def of(cls, results: Results, evaluated: EvaluationTexts | None = None) -> Report:
        """With row numbers in the place of texts, unless `evaluated` has them: see `EvaluationTexts.read`."""
        return cls(results, tuple(arms(results.results)), evaluated or EvaluationTexts())

    @cached_property
    def tables(self) -> list[Table]:
        """Performance, parameters and time, memory; GPU memory where that was measured; and what tuning took.

        A study named `paper` has the paper's figures and footnotes beside them.
        """
        beside = paper_figures.beside(self.arms) if self._is_of_the_paper else Beside()
        tables = all_tables(self.arms, beside, sections.notes(self.arms, self.results.data))
        return [*tables, *([tuning_table(self.results.tuned)] if self.results.tuned else [])]

    @cached_property
    def verdicts(self) -> Verdicts:
        """Every pair of methods."""
        return verdicts.verdicts(self.arms)

    @cached_property
    def claims(self) -> list[Claim]:
        """The published study's claims, tested on the results of a study named `paper`; none of any other."""
        return paper_claims.claims(self.arms, self.verdicts) if self._is_of_the_paper else []

    @property
    def _is_of_the_paper(self) -> bool:
        return bool(self.arms) and all(arm.record.study == paper_figures.STUDY for arm in self.arms)

    @cached_property
    def findings(self) -> list[Table]:
        """The curve of sizes, verdicts and claims, where there are any."""
        both = (
            verdicts.learning_curve_table(self.arms),
            verdicts.verdict_table(self.verdicts),
            paper_claims.claim_table(self.claims),
        )
        return [table for table in both if table is not None]

    @cached_property
    def evidence(self) -> list[Table]:
        """What a recommendation stands on, where the results are those of one."""
        from afina.report import recommendation

        return [recommendation.evidence(self.results.recommendation)] if self.results.recommendation else []

    @cached_property
    def sentences(self) -> tuple[str, ...]:
        """The answer: what is recommended, or what the study comes to."""
        from afina.report import recommendation

        if self.results.recommendation:
            return recommendation.sentences(self.results.recommendation)
        return tuple(conclusion.sentences(self.arms, self.verdicts, self.results.failed, self.results.waiting))

    @cached_property
    def of_use(self) -> Record | None:
        """Whose adapter somebody would use: what is recommended, or what leads the conclusion; never a random head."""
        made = self.results.recommendation
        if made:
            return next((one for one in self.results.records if one.adapter == made.adapter), None)
        answering = [arm for arm in self.arms if arm.trained or make(arm.record.method).head != "random"]
        return conclusion.leader(answering).record if answering else None

    @cached_property
    def by_label(self) -> list[Table]:
        """For a terminal: how well each label is found, and which is taken for which, by the setting of `of_use`."""
        arm = next((arm for arm in self.arms if self.of_use in arm.records), None)
        if arm is None:
            return []
        record = arm.record
        return _presentation([arm]).terminal_tables(record.label_names, arm.targets, arm.answers, of=arm.label)

    def markdown(self) -> str:
        """The text of `report.md`."""
        return markdown.report(self._heading, self._sections({}))

    def page(self) -> str:
        """The text of `report.html`: everything in one file, plots included."""
        from afina.report.writers.html import page

        return page(self._heading, self._lead(), self._sections(self._plots()))

    def inline(self) -> str:
        """A fragment of HTML for a notebook: what is best, what it costs, and where the adapters are."""
        from afina.report.writers.html import fragment

        found = self._first(self._plots((EVIDENCE, CURVES, VERDICTS, PERFORMANCE, COST)))
        if self.arms:
            found.append(
                Section(
                    "Adapters", (Notes(tuple(f"`{self.results.out / one.adapter}`" for one in self.results.records)),)
                )
            )
        return fragment(self._heading, self._lead(), found)

    def summary(self) -> dict[str, object]:
        """One JSON object, for scripts."""
        if self.results.recommendation:
            from afina.report import recommendation

            return recommendation.as_json(self.results.recommendation, self.results.out)
        return json_csv.summary(self.results, self.results.out / MARKDOWN, self.sentences, self.verdicts, self.claims)

    def files(self, names: Sequence[str] = FILES) -> dict[str, str]:
        """Of those of FILES, what is in them."""
        made: Mapping[str, Callable[[], str]] = {
            MARKDOWN: self.markdown,
            PAGE: self.page,
            CSV: lambda: json_csv.as_csv(self.arms),
            JSON: lambda: json_csv.as_json(self.results.name, self.arms, self.verdicts, self.claims),
        }
        return {name: made[name]() for name in names}

    def write(self, names: Sequence[str] = FILES) -> list[Path]:
        """Write those of FILES anew into the results' directory, each whole or not at all; their paths."""
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
            return [f"`{made.backbone}`, {made.train_examples:,} training and {made.examples:,} held-out texts."]
        if not self.arms:
            return ["No run has finished."]
        first = self.arms[0].record
        return [
            f"`{first.backbone}` on `{first.task}`: {first.train_examples:,} training and {first.examples:,} "
            f"evaluation texts, {_presentation(self.arms).asked(first.label_names)}."
        ]

    def _sections(self, plots: Mapping[str, Sequence[Plot]]) -> list[Section]:
        """In the order of reading; plots stand in the section that they belong to."""
        made = self._first(plots)
        if self.arms:
            presentation, greatest = _presentation(self.arms), of_greatest_size(self.arms)
            claimed = paper_claims.claim_table(self.claims)
            differ = disagreement_table(greatest, self.evaluated)
            made += [sections.of_table(claimed)] if claimed else []
            drawn = (TRAINING, *presentation.plots)
            made += [Section(title, tuple(plots[title])) for title in drawn if plots.get(title)]
            made += [sections.of_table(table) for table in presentation.tables(greatest)]
            made += [sections.of_table(differ)] if differ else []
            made.append(sections.what_was_run(self.arms))
        return made + sections.provenance(self.arms, self.results.command)

    def _first(self, plots: Mapping[str, Sequence[Plot]]) -> list[Section]:
        """What a reader wants first: what is recommended, what failed, verdicts, figures."""
        failed = self.results.failed
        made = [
            sections.of_recommendation(self.sentences, table, *plots.get(table.title, ())) for table in self.evidence
        ]
        made += [sections.of_conclusion(self.sentences)] if self.sentences and not self.evidence else []
        made += sections.failures(failed) if self.arms or self.evidence else sections.no_results(failed)
        if self.arms:
            first = (verdicts.learning_curve_table(self.arms), verdicts.verdict_table(self.verdicts))
            tables = [*(table for table in first if table), *self.tables]
            made += [sections.of_table(table, *plots.get(table.title, ())) for table in tables]
        return made

    def _plots(self, titles: Sequence[str] = ()) -> dict[str, list[Plot]]:
        """By the title of the section where they stand, of these sections; by default of all."""
        if not self.arms:
            return {}
        from afina.report.plots import comparison, svg

        asked, greatest = self.results.recommendation, of_greatest_size(self.arms)
        with svg.drawing():
            made: dict[str, Callable[[], Sequence[Plot | None]]] = {
                EVIDENCE: lambda: [comparison.trainings_in_time(asked)] if asked else [],
                CURVES: lambda: [comparison.learning_curves(self.arms)] if is_curve(self.arms) else [],
                VERDICTS: lambda: [comparison.differences(self.arms, self.verdicts)],
                PERFORMANCE: lambda: [comparison.headline(self.arms), comparison.against_parameters(self.arms)],
                COST: lambda: [comparison.against_time(self.arms), comparison.against_memory(self.arms)],
                TRAINING: lambda: [comparison.losses(self.arms), comparison.phases(self.arms)],
                **{title: partial(draw, greatest) for title, draw in _presentation(self.arms).plots.items()},
            }
            return {title: [plot for plot in made[title]() if plot is not None] for title in titles or made}


def _presentation(arms: Sequence[Arm]) -> Presentation:
    """Of the kind of task that the arms have."""
    return PRESENTATIONS[arms[0].record.kind]
