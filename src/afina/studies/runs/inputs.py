"""Inputs of a run: its files by digest (RunInputs), what is known of its task (TaskFacts), digests of its data now.

A process that asks for the facts of a task several times reads the task once, as long as the files that it is read from
stay as they are. Training texts are let go of: what asks for facts may live for hours beside the processes that train.
Starts without torch. Knows no executor and no way to send a file.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Self

from afina import digest
from afina.data import addresses
from afina.data.addresses import stamp
from afina.data.kinds import Kind
from afina.data.split import Split
from afina.data.task import Task, check_leaked
from afina.errors import InvalidData
from afina.models import backbone_spec, objectives
from afina.models.objective import metric_for
from afina.studies.runs.record import Record
from afina.studies.runs.spec import Data, RunSpec

if TYPE_CHECKING:
    from afina.models.backbone import Backbone


Fetch = Callable[[str, Path], object]
"""Write the content with a digest to a path."""


@dataclass(frozen=True)
class InputFile:
    """A file by its name, its digest and its bytes."""

    name: str
    digest: str
    size: int


@dataclass(frozen=True)
class Input:
    """The content of an address.

    digest  of it; None where the address alone says what it is, as far as anybody knows without asking the network
    files   that hold it; none where every machine can get it by its address
    """

    address: str
    digest: str | None
    files: tuple[InputFile, ...] = ()


@dataclass(frozen=True)
class Located:
    """The addresses of a run's inputs on one machine."""

    task: str
    evaluation: str | None
    backbone: str

    def read(self, run: RunSpec) -> Task:
        """The task of `run`, under the address that the run knows."""
        how = {**run.data.model_dump(), "evaluation": self.evaluation}
        return replace(Task.load(self.task, **how, calibration=run.training.temperature), address=run.task)

    def open(self, run: RunSpec) -> Backbone:
        """The backbone of `run`, under the address that the run knows."""
        from afina.models.backbone import Backbone  # loads torch

        return replace(Backbone.load(self.backbone), address=run.backbone)


@dataclass(frozen=True)
class RunInputs:
    """The inputs of a run: its task, the file that it is evaluated on where that is another one, and its backbone.

    content  where this machine has the content of their files, by digest
    """

    task: Input
    evaluation: Input | None
    backbone: Input
    content: Mapping[str, Path] = field(default_factory=dict, compare=False, repr=False)

    @classmethod
    def of(cls, run: RunSpec) -> RunInputs:
        """Those of `run`, whose files are read for their digests. Raises what finding them does."""
        content: dict[str, Path] = {}
        evaluation = run.data.evaluation
        return cls(
            task=_input(run.task, addresses.own_files(run.task, evaluation), content, run.data_digest),
            evaluation=_input(evaluation, [addresses.evaluation_file(evaluation)], content) if evaluation else None,
            backbone=_input(
                run.backbone,
                backbone_spec.backbone_files(run.backbone),
                content,
                backbone_spec.backbone_revision(run.backbone),
            ),
            content=content,
        )

    def materialise(self, directory: Path, fetch: Fetch) -> Located:
        """Have all files in `directory`, each by `fetch`, and say where they are then.

        Raises InvalidData where what was fetched is not what the run names.
        """
        for name, one in (("task", self.task), ("evaluation", self.evaluation), ("backbone", self.backbone)):
            for file in one.files if one else ():
                _put(file, directory / name / file.name, fetch)
        there = self.evaluation
        return Located(
            addresses.moved(self.task.address, directory / "task") if self.task.files else self.task.address,
            str(directory / "evaluation" / there.files[0].name) if there else None,
            backbone_spec.moved_address(self.backbone.address, directory / "backbone")
            if self.backbone.files
            else self.backbone.address,
        )


def _input(address: str, files: Sequence[Path], content: dict[str, Path], known: str | None = None) -> Input:
    """An input; where its files are is in `content` then. `known` is its digest where it has one already."""
    found = [InputFile(path.name, digest.of_file(path), path.stat().st_size) for path in files]
    content.update((file.digest, path) for file, path in zip(found, files, strict=True))
    of_files = digest.of_json({file.name: file.digest for file in found}) if found else None
    return Input(address, known or of_files, tuple(found))


def _put(file: InputFile, path: Path, fetch: Fetch) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    fetch(file.digest, path)
    if (found := digest.of_file(path)) != file.digest:
        raise InvalidData(
            f"{path}: it has digest {found[:19]}, the run names {file.digest[:19]}. The file changed after the run was "
            "asked for; start it again.",
            code="data.changed",
            path=path,
            found=found,
            expected=file.digest,
        )


KEPT = 4 * 2**20
"""Characters of an evaluation split that are kept for the report; a longer split is read again for it."""

KEPT_TASKS = 4
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
        while len(_known) > KEPT_TASKS:
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


@dataclass(frozen=True)
class DataDigests:
    """What a run's data are now.

    data               as in `Task.data_digest`: of all that is at the address
    train, evaluation  of the splits as the run uses them
    label_names        in their order
    """

    data: str | None
    train: str
    evaluation: str
    label_names: tuple[str, ...]

    @classmethod
    def of(cls, facts: TaskFacts) -> DataDigests:
        """Those of a task that was read as the run reads it."""
        return cls(facts.data_digest, facts.train_digest, facts.evaluation_digest, facts.label_names)

    def are_of(self, record: Record) -> bool:
        """Whether the record is of a run on these data."""
        if record.data_digest is not None:
            return record.data_digest == self.data
        there = record.environment
        return (there.train_digest, there.evaluation_digest, record.label_names) == (
            self.train,
            self.evaluation,
            self.label_names,
        )
