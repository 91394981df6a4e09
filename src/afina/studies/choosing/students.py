"""`distil` trains a student for a recommendation: a smaller model that learns from the recommended model.

The student learns from the labelled texts and from a file of texts without labels, in a part of the minutes that is
kept for it (SHARE). Its backbone is the fastest of the given ones that is faster than the recommended model's. If none
is, it is a packaged encoder: BGE, or MINILM if BGE is recommended.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from afina.errors import AfinaError
from afina.events import Progress
from afina.models.backbone_spec import BGE, MINILM
from afina.stats.comparison import compare
from afina.stats.metrics import METRICS, Metric
from afina.studies.backbones import ON
from afina.studies.choosing import time_budget
from afina.studies.choosing.candidates import reason
from afina.studies.choosing.eligibility import milliseconds
from afina.studies.choosing.recommendation import BATCH, DISTILLED, ENOUGH, EPOCHS, NAME, Student
from afina.studies.choosing.setup import DEAREST, ChoiceSetup, Way
from afina.studies.choosing.step_times import Stopwatch
from afina.studies.executors.executor import Overrun
from afina.studies.runs.inputs import digests_beside
from afina.studies.runs.output_directory import OutputLock
from afina.studies.runs.record import Record, Result
from afina.studies.runs.run import Run
from afina.studies.runs.spec import Teacher
from afina.studies.schedule import work

SHARE = 0.3
"""The share of the given minutes that is kept for the student."""

METHOD = DEAREST
"""The method of the student: a small model that trains all its weights learns most from a teacher (docs/LOG.md)."""

ANSWERS = 0.4
"""The largest share of the student's time in which the teacher answers texts."""

IN_BFLOAT16 = 0.55
"""The largest share of the seconds of an evaluation in float32 that answers in bfloat16 take.

A processor with instructions for bfloat16 took 0.41 to 0.54 of the seconds (Zen 4, `embedded`, one shared thread).
"""

LEAST = 0.5
"""The teacher must have time to answer at least this many texts without labels for each labelled text."""

SLACK = 0.85
"""The share of the time that is left which the steps of a student are expected to take; the rest is for evaluation."""

NO_TIME = "there was no time left to train a student. Give more minutes"


class _Slow(Exception):
    """Raised in a student's run whose steps do not fit in the time that is left."""


@dataclass(frozen=True)
class _Pupil:
    """The backbone of the student, and the milliseconds of a prediction for a single text with both models."""

    way: Way
    milliseconds: float
    of_teacher: float


def distil(setting: ChoiceSetup, held: OutputLock, taught_by: Result | None, texts: int) -> Student | str:
    """Train the student, and compare it with the recommended model; or return why there is no student, as a clause.

    None as `taught_by`: a baseline is recommended. `texts`: the held-out texts on which contenders were evaluated.
    """
    setting.clock.aside = 0.0
    if taught_by is None or taught_by.record.adapter is None:
        return "the recommended method has no language model that could teach a smaller one"
    if not setting.objective.can_be_distilled:
        return f"a student of kind {setting.objective.kind} cannot learn from a teacher"
    with setting.stages.of(time_budget.STUDENT):
        try:
            found = _pupil(setting, taught_by)
            if isinstance(found, str):
                return found
            return _trained(setting, held, taught_by, found, texts)
        except Overrun:
            return NO_TIME
        except AfinaError as error:
            return str(error)


def _pupil(setting: ChoiceSetup, taught_by: Result) -> _Pupil | str:
    """Return the fastest backbone that is faster than the teacher's, or why there is none."""
    own = taught_by.record.backbone
    setting.watcher.says("measuring how fast the recommended model and smaller backbones answer")
    of_teacher = milliseconds(setting, Way(own, taught_by.record.method), bare=False)
    found = _faster(setting, [one for one in setting.backbones if one != own], of_teacher)
    further = MINILM if own == BGE else BGE
    if found is None and own != MINILM and further not in setting.backbones:
        setting.watcher.says(f"no given backbone answers faster than {own}: measuring {further}")
        setting.executor.fetch(further)
        found = _faster(setting, [further], of_teacher)
    return found or f"no other backbone answers faster than {own}"


def _faster(setting: ChoiceSetup, backbones: Sequence[str], of_teacher: float) -> _Pupil | None:
    """Return the fastest of the backbones, or None if the teacher's is as fast."""
    times = {one: milliseconds(setting, Way(one, METHOD), bare=False) for one in backbones}
    best = min(times, key=lambda one: times[one], default=None)
    if best is None or times[best] >= of_teacher:
        return None
    return _Pupil(Way(best, METHOD), times[best], of_teacher)


def _trained(setting: ChoiceSetup, held: OutputLock, taught_by: Result, pupil: _Pupil, texts: int) -> Student | str:
    teacher = taught_by.record
    asked, there = setting.unlabelled, setting.task.unlabelled
    assert asked is not None
    assert there is not None
    assert teacher.adapter is not None
    of_text, labelled = _seconds_of_text(teacher), len(setting.task.train)
    count = min(len(there), int(ANSWERS * setting.clock.left / of_text) - labelled)
    least = min(len(there), math.ceil(LEAST * labelled))
    if count < least:
        minutes = (labelled + least) * of_text / (ANSWERS * SHARE * 60)
        needed = max(math.ceil(minutes), math.floor(setting.clock.minutes) + 1)
        return f"the teacher had no time to answer enough texts without labels. Give at least {needed:,} minutes"
    run = setting.run(pupil.way, evaluation_examples=texts)
    names = setting.names_with(pupil.way.backbone)
    some = None if count == len(there) else count
    lesson = {
        "name": f"{DISTILLED}{ON}{names[pupil.way.backbone]}",
        "teacher": Teacher(adapter=teacher.digest, path=str((held.out / teacher.adapter).absolute())),
        "data": (data := replace(run.data, unlabelled=asked, unlabelled_examples=some)),
        **digests_beside(data),
    }
    run = run.model_copy(update=lesson)
    found = _carried_out(setting, held, run, EPOCHS * math.ceil((labelled + count) / BATCH))
    if isinstance(found, str):
        return found
    metric = METRICS[setting.metric]
    answer = _answer(found, taught_by, pupil, metric, metric.margin(found.targets))
    return answer.model_copy(update={"available": len(there)})


def _seconds_of_text(teacher: Record) -> float:
    """Return the seconds in which the teacher answers a text in the dtype of its training.

    Its evaluation was in float32, and also of the validation texts.
    """
    texts = teacher.examples + (teacher.selection.examples if teacher.selection else 0)
    share = IN_BFLOAT16 if teacher.environment.dtype == "bfloat16" else 1.0
    return share * teacher.seconds.evaluate / texts


def _carried_out(setting: ChoiceSetup, held: OutputLock, run: Run, steps: int) -> Result | str:
    """Execute the student's run, again with fewer steps if they would not end in time."""
    for attempt in range(2):
        run = run.model_copy(update={"training": run.training.model_copy(update={"max_steps": steps})})
        stopwatch = Stopwatch()
        setting.watcher.started(run, 1, 1)
        judge = partial(_judge, setting, stopwatch) if attempt == 0 else stopwatch.hear
        carry_out = work(run, held, NAME, setting.executor, setting.watcher, setting.clock.end, judge)
        try:
            record = carry_out(lambda call: call())
        except _Slow:
            held.abandon(run.label)
            assert stopwatch.each is not None
            steps = int(SLACK * setting.clock.left / stopwatch.each)
            setting.watcher.says(f"{run.title}: {steps:,} steps fit in the time that is left")
            if steps < ENOUGH:
                return NO_TIME
        except AfinaError as error:
            held.abandon(run.label)
            setting.watcher.failed(run, str(error))
            return reason(run, error)
        except Overrun:
            held.abandon(run.label)
            raise
        else:
            setting.watcher.finished(run, record, now=True)
            return held.keep(record, run.label)
    return NO_TIME


def _judge(setting: ChoiceSetup, stopwatch: Stopwatch, progress: Progress) -> None:
    """Receive the progress of a student; raise _Slow as soon as its steps are known not to fit in the time left."""
    stopwatch.hear(progress)
    if progress.phase != "train" or stopwatch.each is None:
        return
    left = (progress.steps - progress.step) * stopwatch.each
    if 2 * progress.step < progress.steps and left > setting.clock.left:
        raise _Slow


def _answer(found: Result, taught_by: Result, pupil: _Pupil, metric: Metric, margin: float | None) -> Student:
    record, teacher = found.record, taught_by.record
    values = {record.name: found.scores[None], teacher.name: taught_by.scores[None]}
    comparison = None
    if not any(np.isnan(each).any() for each in values.values()):
        (comparison,) = compare(values, metric=metric, margin=margin)
    return Student(
        name=record.name,
        backbone=pupil.way.backbone,
        method=record.method,
        teacher=teacher.name,
        metrics=record.metrics,
        comparison=comparison,
        milliseconds=pupil.milliseconds,
        of_teacher=pupil.of_teacher,
        examples=record.trained_on,
        unlabelled=record.unlabelled.texts if record.unlabelled else 0,
        steps=record.steps,
        seconds=record.seconds.train,
        answering=record.teacher_seconds or 0.0,
        key=record.key,
        adapter=str(record.adapter),
    )
