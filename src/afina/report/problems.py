"""The errors of reports, each with its exception class, code, fields and message."""

from __future__ import annotations

from functools import partial

from afina.errors import InvalidData, NotFound, Problem

TEXTS_UNAVAILABLE = Problem(
    InvalidData,
    "report.texts-unavailable",
    "{path}: the texts cannot be shown: {reason}. Restore the texts of {task} as they were, or make the runs again.",
)
_answers_unlabelled = partial(Problem, InvalidData, "report.answers-unlabelled")
ANSWERS_WITHOUT_LABELS = _answers_unlabelled(
    "{path}: the answers are no single labels, because the task is of kind {kind}. Texts can be found by right and "
    "predicted label only for a task of kind classes or entities."
)
_run_missing = partial(Problem, NotFound, "report.run-missing")
NO_RUN_OF_USE = _run_missing(
    "{path}: the answers of the recommended {method} are not kept. Choose with `method`: {known}."
)
RUN_MISSING = _run_missing("{path}: no run of {method} with these answers. Recorded runs: {known}.")
