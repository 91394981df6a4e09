"""Records -> tables, verdicts, plots, and the files that hold them. Pure, and without torch.

Knows records only; how a run is made, and where a report is written or shown, is not known here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

from afina.report import sections, verdicts
from afina.report.disagreements import Evaluated, disagreement_table
from afina.report.drawing import Plot
from afina.report.forecasts import forecast_table
from afina.report.paper import claims, published
from afina.report.paper.claims import Claim
from afina.report.sections import Section
from afina.report.tables import COST, PERFORMANCE, Beside, Column, Table, all_tables
from afina.report.tuning import tuning_table
from afina.report.verdicts import VERDICTS, Verdicts
from afina.report.writers.markdown import report as _markdown
from afina.report.writers.summary import summary
from afina.studies.record import Record
from afina.studies.results import Failure
from afina.studies.trials import Tuned

__all__ = ["Column", "Evaluated", "Failure", "Report", "Table", "forecast_table", "markdown", "study_tables", "summary"]

MARKDOWN, PAGE, CSV, JSON = "report.md", "report.html", "tables.csv", "tables.json"
TRAINING, CONFUSION = "Training", "Confusion of labels"


def study_tables(records: Sequence[Record], tuned: Sequence[Tuned] = ()) -> list[Table]:
    """Performance, parameters and time, memory; GPU memory where that was measured; and what tuning took.

    The records of a study named `paper` have the paper's figures and footnotes beside them.
    """
    from_paper = bool(records) and all(record.study == published.STUDY for record in records)
    tables = all_tables(records, published.beside(records) if from_paper else Beside())
    return [*tables, *([tuning_table(tuned)] if tuned else [])]


def markdown(
    study_name: str,
    records: Sequence[Record],
    *,
    command: Sequence[str] = (),
    failed: Sequence[Failure] = (),
    tuned: Sequence[Tuned] = (),
) -> str:
    """The text of `report.md`. `command` is the argument list that repeats the study, program first."""
    return Report(study_name, tuple(records), tuple(command), tuple(failed), tuned=tuple(tuned)).markdown()


@dataclass(frozen=True)
class Report:
    """What there is to say of a study. Every part is worked out when first asked for.

    command    the argument list that repeats the study, program first
    evaluated  the texts that the runs were evaluated on, or why they are not shown
    tuned      what choosing settings took, where the study did that
    """

    study: str
    records: tuple[Record, ...]
    command: tuple[str, ...] = ()
    failed: tuple[Failure, ...] = ()
    evaluated: Evaluated = field(default_factory=Evaluated)
    tuned: tuple[Tuned, ...] = ()

    @cached_property
    def tables(self) -> list[Table]:
        """The figures."""
        return study_tables(self.records, self.tuned)

    @cached_property
    def verdicts(self) -> Verdicts:
        """Every pair of methods."""
        return verdicts.verdicts(self.records)

    @cached_property
    def claims(self) -> list[Claim]:
        """The published study's claims, where this study has the methods for one."""
        return claims.claims(self.records, self.verdicts)

    @cached_property
    def findings(self) -> list[Table]:
        """Verdicts and claims, where there are any."""
        both = (verdicts.verdict_table(self.verdicts), claims.claim_table(self.claims))
        return [table for table in both if table is not None]

    def markdown(self) -> str:
        """The text of `report.md`."""
        return _markdown(self.study, self._sections({}))

    def page(self) -> str:
        """The text of `report.html`: everything in one file, plots included."""
        from afina.report.writers.html import page

        return page(self.study, self._lead(), self._sections(self._plots()))

    def files(self) -> dict[str, str]:
        """Names of the report's files, and what is in them."""
        from afina.report.writers import figures

        return {
            MARKDOWN: self.markdown(),
            PAGE: self.page(),
            CSV: figures.as_csv(self.records),
            JSON: figures.as_json(self.study, self.records, self.verdicts, self.claims),
        }

    def _lead(self) -> list[str]:
        if not self.records:
            return ["No run has finished."]
        first = self.records[0]
        said = Counter(one.verdict for one in self.verdicts.compared)
        lines = [
            f"`{first.backbone}` on `{first.task}`: {first.train_examples:,} training and {first.examples:,} "
            f"evaluation texts, {len(first.label_names)} labels."
        ]
        if said:
            lines.append(
                f"Of {said.total()} pairs of methods, {said['better'] + said['worse']} differ, {said['equivalent']} "
                f"are equivalent and {said['undecided']} are undecided."
            )
        return lines

    def _sections(self, plots: dict[str, list[Plot]]) -> list[Section]:
        """In the order of reading; plots stand in the section that they belong to."""
        made = sections.failures(self.failed) if self.records else sections.nothing(self.failed)
        if self.records:
            found, claimed = verdicts.verdict_table(self.verdicts), claims.claim_table(self.claims)
            differ = disagreement_table(self.records, self.evaluated)
            made += [sections.of_table(found, *plots.get(VERDICTS, ()))] if found else []
            made += [sections.of_table(table, *plots.get(table.title, ())) for table in self.tables]
            made += [sections.of_table(claimed)] if claimed else []
            made += [Section(title, tuple(plots[title])) for title in (TRAINING, CONFUSION) if plots.get(title)]
            made += [sections.of_table(differ)] if differ else []
            made.append(sections.what_was_run(self.records))
        return made + sections.provenance(self.records, self.command)

    def _plots(self) -> dict[str, list[Plot]]:
        """By the title of the section where they stand."""
        if not self.records:
            return {}
        from afina.report import plots, svg

        with svg.drawing():
            made: dict[str, Sequence[Plot | None]] = {
                VERDICTS: [plots.differences(self.records, self.verdicts)],
                PERFORMANCE: [plots.accuracy(self.records), plots.against_parameters(self.records)],
                COST: [plots.against_time(self.records), plots.against_memory(self.records)],
                TRAINING: [plots.losses(self.records), plots.phases(self.records)],
                CONFUSION: plots.confusion(self.records),
            }
        return {title: [plot for plot in found if plot is not None] for title, found in made.items()}
