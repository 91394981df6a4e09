"""`Lesson`: what a run learns from its teacher: the teacher's outputs for all texts of the training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from afina import device as devices
from afina.data.task import Task
from afina.events import Listener, Progress
from afina.meter import Meter
from afina.models.adapter import Adapter
from afina.models.objective import Objective
from afina.predicting.teacher import check_teacher, soft_targets
from afina.ranks import ALONE, Ranks
from afina.sentence import Sentence
from afina.studies import problems
from afina.studies.runs.inputs import Located
from afina.studies.runs.spec import RunSpec


@dataclass(frozen=True, eq=False)
class Lesson:
    """What a run learns from its teacher.

    `targets`: outputs for the training texts and then for the texts without labels, float32 [N, width]. `left_out`: the
    number of texts of the file without labels that were left out, by reason.
    """

    teacher: str
    targets: np.ndarray
    left_out: Mapping[str, int]

    @classmethod
    def of(
        cls,
        run: RunSpec,
        task: Task,
        objective: Objective,
        meter: Meter,
        listen: Listener,
        located: Located | None,
        ranks: Ranks = ALONE,
    ) -> Lesson | None:
        """Open the teacher of `run`, and compute its outputs for all texts of the training; None without a teacher.

        Raises InvalidData if the adapter is not the one that `run` names, and the errors of `check_teacher`.
        """
        if run.teacher is None or not run.distils:
            return None
        place = located.teacher if located and located.teacher else run.teacher.path
        with meter.phase("teacher"):
            adapter = Adapter.load(place)
            if run.teacher.adapter not in (None, adapter.digest):
                teacher = Sentence.of("`teacher` {path}", path=run.teacher.path)
                raise problems.FILE_CHANGED(
                    _file=teacher, path=run.teacher.path, found=adapter.digest, expected=run.teacher.adapter
                )
            objective.check_can_be_distilled()
            check_teacher(adapter, task, allow_leakage=run.data.allow_leakage)
            splits = [task.train, *([task.unlabelled.split] if task.unlabelled else [])]
            listen(Progress("teacher", note=f"the teacher answers {sum(map(len, splits)):,} texts"))
            dtype = str(devices.precision(run.training.dtype, meter.device)).removeprefix("torch.")
            address = located.teacher_backbone if located else None
            targets = soft_targets(adapter, splits, objective, dtype, address, ranks)
        return cls(adapter.digest, targets, task.unlabelled.left_out if task.unlabelled else {})
