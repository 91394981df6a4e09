"""Records -> tables, a Markdown report, and the machine-readable summary. Pure, and without torch.

Knows records only; how a run is made, and where a report is written or shown, is not known here.
"""

from __future__ import annotations

from collections.abc import Sequence

from afina.record import Record
from afina.report import paper
from afina.report.markdown import report as _report
from afina.report.outcome import Failure, summary
from afina.report.tables import Beside, Column, Table, all_tables
from afina.report.tuning import tuning_table
from afina.tuned import Tuned

__all__ = ["Column", "Failure", "Table", "markdown", "study_tables", "summary"]


def study_tables(records: Sequence[Record], tuned: Sequence[Tuned] = ()) -> list[Table]:
    """Performance, parameters and time, memory; GPU memory where that was measured; and what tuning took.

    The records of a study named `paper` have the paper's figures and footnotes beside them.
    """
    from_paper = bool(records) and all(record.study == paper.STUDY for record in records)
    tables = all_tables(records, paper.beside(records) if from_paper else Beside())
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
    return _report(study_name, records, study_tables(records, tuned), command, failed)
