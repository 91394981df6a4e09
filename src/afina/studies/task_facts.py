"""Task facts: what is known of a run's task once it was read, without its training texts. Starts without torch.

A process that asks for them several times reads the task once, as long as the files that it is read from stay as they
are. Training texts are let go of: what asks for facts may live for hours beside the processes that train.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Self

from afina.data.kinds import Kind
from afina.data.split import Split
from afina.data.task import Task, check_leaked, stamp
from afina.models import objectives
from afina.models.objective import metric_for
from afina.studies.spec import Data, RunSpec

KEPT = 4 * 2**20
"""Characters of an evaluation split that are kept for the report; a longer split is read again for it."""

MOST = 4
"""Tasks whose facts are kept, or ways to read one."""


@dataclass(frozen=True)
class TaskFacts:
    """Of a task, as runs read it; fields are those of `Task`, but for these.

    pairs       whether its examples are pairs of texts
    examples    evaluation texts
    told        in words, what was read as what
    data_digest, train_digest, evaluation_digest  of all that is at the address, and of the splits
    evaluation  the evaluation split, where it has at most KEPT characters
    """

    address: str
    kind: Kind
    label_names: tuple[str, ...]
    metric: str | None
    pairs: bool
    leaked: int
    examples: int
    told: str
    data_digest: str | None
    train_digest: str
    evaluation_digest: str
    evaluation: Split | None

    @classmethod
    def of(cls, task: Task) -> Self:
        """Those of a task that was read."""
        held_out = task.evaluation
        size = sum(map(len, held_out.texts)) + sum(map(len, held_out.pairs or ()))
        return cls(
            address=task.address,
            kind=task.kind,
            label_names=task.label_names,
            metric=task.metric,
            pairs=task.pairs,
            leaked=task.leaked,
            examples=len(held_out),
            told=task.told,
            data_digest=task.data_digest,
            train_digest=task.train.digest,
            evaluation_digest=held_out.digest,
            evaluation=held_out if size <= KEPT else None,
        )

    def check_leakage(self, run: RunSpec) -> None:
        """Raise Leakage where too many evaluation texts occur in the training split, and `run` does not allow it."""
        check_leaked(self.address, self.leaked, self.examples, allow=run.data.allow_leakage)

    def check(self, run: RunSpec) -> None:
        """Raise InvalidStudy, UnknownName for a metric or settings of `run` that the kind of task has not."""
        objective, training = objectives.make(self.label_names, {"kind": self.kind}), run.training
        metric_for(objective, run.metric, self.metric)
        objective.check(
            smoothing=training.label_smoothing, temperature=training.temperature, class_weights=training.class_weights
        )


_Stamp = tuple[object, ...]
_known: OrderedDict[tuple[str, str, bool], tuple[_Stamp, TaskFacts]] = OrderedDict()


def facts_of(run: RunSpec, *, offline: bool = False) -> TaskFacts:
    """Of the task of `run`; offline: ask nothing of the network. Raises what reading the task does, but Leakage."""
    key, now = _key(run.task, run.data, run.training.temperature), stamp(run.task, run.data.evaluation)
    if (found := _fresh(key, now)) is not None:
        return found
    how = {**run.data.model_dump(), "allow_leakage": True, "calibration": run.training.temperature}
    made = TaskFacts.of(Task.load(run.task, **how, offline=offline))
    if now is not None:
        _known[key] = now, made
        while len(_known) > MOST:
            _known.popitem(last=False)
    return made


def labels_of(run: RunSpec) -> TaskFacts:
    """As `facts_of`, for kind, labels and pairs, which are the same where texts are set aside to fit a temperature."""
    return _either(run.task, run.data) or facts_of(run)


def evaluation_of(address: str, data: Data) -> Split:
    """The evaluation split of a task that is at hand, read again where it is not kept. Raises what reading it does."""
    found = _either(address, data)
    if found is not None and found.evaluation is not None:
        return found.evaluation
    return Task.load(address, **data.model_dump(), offline=True).evaluation


def _either(address: str, data: Data) -> TaskFacts | None:
    """What is known of a task, be there texts set aside to fit a temperature or not."""
    now = stamp(address, data.evaluation)
    without, with_one = (_fresh(_key(address, data, calibration), now) for calibration in (False, True))
    return without or with_one


def _fresh(key: tuple[str, str, bool], now: _Stamp | None) -> TaskFacts | None:
    """What is known, if the files are still those that it was read from."""
    before, facts = _known.get(key, (None, None))
    return facts if now is not None and before == now else None


def _key(address: str, data: Data, calibration: bool) -> tuple[str, str, bool]:
    return address, data.model_dump_json(exclude={"allow_leakage"}), calibration
