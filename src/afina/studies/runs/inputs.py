"""The inputs of a run: the files of its task and backbone by digest (RunInputs), and facts about its task (TaskFacts).

Executors send the files of a run to other machines. The facts about a task are cached until the task's files change.
Training texts are not cached, because the process of a study may exist for hours beside the processes that train.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Self

from afina import digest, hub
from afina.data import addresses
from afina.data.addresses import stamp
from afina.data.kinds import Kind
from afina.data.label_words import needs_words
from afina.data.readers.formats import named_file
from afina.data.readers.target_kinds import of_kind
from afina.data.reading_options import ReadingOptions
from afina.data.split import Split
from afina.data.task import ABSTENTION, Cuts, Task, check_leaked
from afina.errors import AfinaError
from afina.methods import make
from afina.methods.method import Method
from afina.models import backbone_spec, objectives
from afina.models.architectures import ARCHITECTURES
from afina.models.architectures.well_known import WELL_KNOWN
from afina.models.manifest import read_manifest
from afina.models.objective import metric_for
from afina.stats.abstention import fewest
from afina.studies import problems
from afina.studies.runs.record import Record
from afina.studies.runs.spec import RunSpec
from afina.training.settings import Training

if TYPE_CHECKING:
    from afina.models.backbone import Backbone


Fetch = Callable[[str, Path], object]
"""A function that writes the content with a given digest to a given path."""


@dataclass(frozen=True)
class InputFile:
    name: str
    digest: str


@dataclass(frozen=True)
class Input:
    """The files of a run's task or backbone.

    `digest` is None if the address identifies the content, as far as is known offline. `files` are empty if every
    machine can load the content from its address. `single`: the address is that of a file, not of a directory.
    """

    address: str
    digest: str | None
    files: tuple[InputFile, ...] = ()
    single: bool = False


@dataclass(frozen=True)
class Located:
    """The paths of a run's inputs on one machine; None for those that the run has not.

    None as `teacher_backbone`: the address in the teacher's manifest.
    """

    task: str
    evaluation: str | None
    backbone: str
    unlabelled: str | None = None
    without: str | None = None
    teacher: str | None = None
    teacher_backbone: str | None = None

    def read(self, run: RunSpec) -> Task:
        """Load the task of `run` from its path on this machine; it has the address in `run`."""
        asked = replace(run.data, evaluation=self.evaluation, unlabelled=self.unlabelled, without=self.without)
        read = Task.load(self.task, asked, **run.training.cuts)
        return replace(read, address=run.task)

    def open(self, run: RunSpec) -> Backbone:
        """Open the backbone of `run` from its path on this machine; it has the address in `run`."""
        from afina.models.backbone import Backbone  # loads torch

        return replace(Backbone.load(self.backbone), address=run.backbone)


@dataclass(frozen=True)
class RunInputs:
    """The inputs of a run: its task, its backbone, and if the run has them, other files of texts and a teacher.

    `teacher_backbone` is None if it is the run's backbone. `content` has the path of each file here, by its digest.
    """

    task: Input
    evaluation: Input | None
    backbone: Input
    unlabelled: Input | None = None
    without: Input | None = None
    teacher: Input | None = None
    teacher_backbone: str | None = None
    content: Mapping[str, Path] = field(default_factory=dict, compare=False, repr=False)

    @classmethod
    def of(cls, run: RunSpec) -> RunInputs:
        """Return the inputs of `run`, with the digests of their files."""
        content: dict[str, Path] = {}
        evaluation, unlabelled, without = run.data.evaluation, run.data.unlabelled, run.data.without
        texts = addresses.own_contents(run.task, evaluation)
        task = _input(run.task, [*texts], content, run.data_digest, texts.__getitem__)
        return cls(
            task=replace(task, single=bool(task.files) and addresses.names_file(run.task)),
            evaluation=_input(evaluation, [named_file("evaluation", evaluation)], content) if evaluation else None,
            backbone=_input(
                run.backbone,
                backbone_spec.backbone_files(run.backbone),
                content,
                backbone_spec.backbone_revision(run.backbone),
                partial(backbone_spec.name_in_backbone, run.backbone),
            ),
            unlabelled=_input(unlabelled, [named_file("unlabelled", unlabelled)], content) if unlabelled else None,
            without=_input(without, [named_file("without", without)], content) if without else None,
            teacher=_input(run.teacher.path, teacher_files(run), content) if run.teacher and run.teacher.path else None,
            teacher_backbone=_teacher_backbone(run),
            content=content,
        )

    def materialise(self, directory: Path, fetch: Fetch) -> Located:
        """Write all input files into `directory` by `fetch`, and return the paths of the inputs there.

        The addresses of the inputs need not exist on this machine. Raises InvalidData for a file of another digest.
        """
        given = {"task": self.task, "evaluation": self.evaluation, "backbone": self.backbone}
        given |= {"unlabelled": self.unlabelled, "without": self.without, "teacher": self.teacher}
        for name, one in given.items():
            for file in one.files if one else ():
                _put(file, directory / name / file.name, fetch)
        there, backbone, texts, gone = self.evaluation, self.backbone.address, self.unlabelled, self.without
        if self.backbone.files:
            backbone = backbone_spec.moved_address(backbone, directory / "backbone")
        return Located(
            addresses.moved(self.task.address, directory / "task", single=self.task.single)
            if self.task.files
            else self.task.address,
            str(directory / "evaluation" / there.files[0].name) if there else None,
            backbone,
            str(directory / "unlabelled" / texts.files[0].name) if texts else None,
            str(directory / "without" / gone.files[0].name) if gone else None,
            str(directory / "teacher") if self.teacher else None,
            (self.teacher_backbone or backbone) if self.teacher else None,
        )


def digests_beside(data: ReadingOptions, located: Located | None = None) -> dict[str, str | None]:
    """Return the digests of the files that reading options name beside the task, by their fields in `RunSpec`."""
    unlabelled, without = (located.unlabelled, located.without) if located else (data.unlabelled, data.without)
    return {
        "unlabelled_digest": None if unlabelled is None else digest.of_file(named_file("unlabelled", unlabelled)),
        "without_digest": None if without is None else digest.of_file(named_file("without", without)),
    }


def teacher_files(run: RunSpec) -> list[Path]:
    if run.teacher is None or not run.teacher.path:
        return []
    return sorted(file for file in Path(run.teacher.path).iterdir() if file.is_file())


def _teacher_backbone(run: RunSpec) -> str | None:
    """Return the address of the teacher's backbone, if it is not that of `run`."""
    if run.teacher is None or not run.teacher.path:
        return None
    address = read_manifest(Path(run.teacher.path)).backbone
    return None if address in (None, run.backbone) else backbone_spec.absolute_address(str(address))


def _input(
    address: str,
    files: Sequence[Path],
    content: dict[str, Path],
    known: str | None = None,
    name: Callable[[Path], str] = attrgetter("name"),
) -> Input:
    """Return the `Input` for an address, and add its files' paths to `content`.

    `known` is the digest of the content, which is else that of the names and digests of the files.
    """
    found = [InputFile(name(path), _digest(path)) for path in files]
    content.update((file.digest, path) for file, path in zip(found, files, strict=True))
    of_files = digest.of_json({file.name: file.digest for file in found}) if found else None
    return Input(address, known or of_files, tuple(found))


def _digest(path: Path) -> str:
    stat = path.stat()
    return _digest_of(path, stat.st_size, stat.st_mtime_ns, stat.st_ino)


@lru_cache(1024)
def _digest_of(path: Path, *stamp: int) -> str:
    """Return the digest of a file; the file of a later run is read again only if its `stamp` has changed."""
    return digest.of_file(path)


def _put(file: InputFile, path: Path, fetch: Fetch) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    fetch(file.digest, path)
    if (found := digest.of_file(path)) != file.digest:
        raise problems.FILE_CHANGED(_file=path, path=path, found=found, expected=file.digest)


def is_encoder(address: str) -> bool | None:
    """Return whether a backbone is an encoder; None if its configuration cannot be read on this machine."""
    entry = ARCHITECTURES.get(_model_type(address) or "")
    return None if entry is None else entry.is_encoder


def usual_training(training: Training, method: Method, backbone: str) -> Training:
    """Return the settings with the defaults on encoders stated, if the backbone is one and the method takes steps."""
    if method.trains_nothing or method.is_fitted or method.pairs is not None:
        return training
    try:
        return training.on_encoder(method.encoder_rate) if is_encoder(backbone) else training
    except AfinaError:
        return training  # opening the backbone reports the error


def usual_method(method: Method, backbone: str) -> Method:
    """Return the method with the defaults for sentences, if sentence-transformers' files are beside the backbone."""
    try:
        return method.for_sentences() if embeds_sentences(backbone) else method
    except AfinaError:
        return method  # opening the backbone reports the error


def embeds_sentences(address: str) -> bool:
    """Whether a backbone is an encoder with sentence-transformers' files, as every packaged encoder is."""
    if not is_encoder(address):
        return False
    return backbone_spec.packaged(address) is not None or _file_of(address, "modules.json") is not None


def _file_of(address: str, name: str) -> Path | None:
    """Return a file of a backbone in a directory or in the cache of the Hub; None if it is not there."""
    path = backbone_spec.directory_of(address)
    file = hub.cached(address, name) if path is None else path / name
    return file if file is not None and file.is_file() else None


def _model_type(address: str) -> str | None:
    if backbone_spec.packaged(address) is None:
        file = _file_of(address, "config.json")
        if file is not None:
            try:
                return str(json.loads(file.read_bytes()).get("model_type"))
            except (ValueError, AttributeError):
                return None  # opening the backbone reports the damaged file
    return str(WELL_KNOWN[address]["model_type"]) if address in WELL_KNOWN else None


KEPT = 4 * 2**20
"""An evaluation split of at most this number of characters is cached for the report; a longer one is read again."""

KEPT_TASKS = 4
"""The number of cached facts, each about a task read with certain reading options."""


@dataclass(frozen=True)
class TaskFacts:
    """Facts about a task as runs read it, of which many are those of `Task`.

    `lines` are about the columns of texts and labels. `data_digest` is None if the address identifies the data.
    `evaluation` is None if the split has more than KEPT characters.
    """

    address: str
    kind: Kind
    label_names: tuple[str, ...]
    metric: str | None
    pairs: bool
    columns: Mapping[str, str]
    leaked: int
    train_examples: int
    abstention_examples: int
    examples: int
    lines: tuple[str, ...]
    data_digest: str | None
    train_digest: str
    evaluation_digest: str
    evaluation: Split | None

    @classmethod
    def of(cls, task: Task) -> Self:
        held_out = task.evaluation
        size = sum(map(len, held_out.texts)) + sum(map(len, held_out.pairs or ()))
        return cls(
            address=task.address,
            kind=task.kind,
            label_names=task.label_names,
            metric=task.metric,
            pairs=task.pairs,
            columns=task.columns,
            leaked=task.leaked,
            train_examples=len(task.train),
            abstention_examples=len(task.abstention or ()),
            examples=len(held_out),
            lines=tuple(task.lines),
            data_digest=task.data_digest,
            train_digest=task.train.digest,
            evaluation_digest=held_out.digest,
            evaluation=held_out if size <= KEPT else None,
        )

    def are_of(self, record: Record) -> bool:
        """Return whether the recorded run used the same texts and labels as the task of these facts."""
        if record.data_digest is not None:
            return record.data_digest == self.data_digest
        there = record.environment
        return (there.train_digest, there.evaluation_digest, record.label_names) == (
            self.train_digest,
            self.evaluation_digest,
            self.label_names,
        )

    def check_leakage(self, run: RunSpec) -> None:
        """Raise Leakage if too many evaluation texts are in the training split, unless `run` allows leakage."""
        check_leaked(self.address, self.leaked, self.examples, allow=run.data.allow_leakage)

    def check(self, run: RunSpec) -> None:
        """Raise InvalidStudy or UnknownName if the task's kind does not suit the backbone, metric or settings."""
        if of_kind(self.kind).written and not run.asks_endpoint and is_encoder(run.backbone):
            raise problems.ENCODER_CANNOT_WRITE(task=self.address, backbone=run.backbone)
        make(run.method, run.hyperparameters).check_kind(self.kind)
        objective, training = objectives.make(self.label_names, {"kind": self.kind}), run.training
        metric_for(objective, run.metric, self.metric)
        objective.check(
            smoothing=training.label_smoothing,
            class_weights=training.class_weights,
            temperature=training.temperature,
            abstention=training.abstain_error is not None,
        )
        if not run.asks_endpoint:
            check_abstention_texts(training.abstain_error, self.abstention_examples)
        if run.teacher is not None:
            objective.check_can_be_distilled()


def check_abstention_texts(error: float | None, texts: int) -> None:
    """Raise InvalidStudy if too few texts are set aside to promise an error of at most `error`."""
    if error is None or texts >= (needed := fewest(error)):
        return
    raise problems.ABSTENTION_TEXTS(
        error=error, option="abstain_error", found=texts, expected=needed, more=round((needed - texts) / ABSTENTION)
    )


def of_data(run: RunSpec, task: Task) -> RunSpec:
    """Return `run` with the digest of its task's files. Raises InvalidData if they have not the digest in `run`."""
    if run.data_digest is None:
        reads_files = addresses.reads_files(run.task, run.data.evaluation)
        return run.with_digests(data_digest=task.data_digest) if reads_files else run
    if run.data_digest != task.data_digest:
        raise problems.INPUT_CHANGED(_input=f"task {run.task}", task=run.task)
    return run


def lacks_words(run: RunSpec, task: Task | TaskFacts) -> bool:
    """Whether the head of `run` starts from random weights only because the labels are not words."""
    return (
        needs_words(task.kind, task.label_names, pairs=task.pairs)
        and may_start_from_words(run)
        and not run.ask.words
        and is_encoder(run.backbone) is False
    )


def may_start_from_words(run: RunSpec) -> bool:
    """Whether the method trains a head by gradient steps, which may start from label words."""
    method = make(run.method, run.hyperparameters)
    return method.head is None and not method.is_fitted and not method.asks_endpoint


_Stamp = tuple[object, ...]
_Key = tuple[str, ReadingOptions, tuple[bool, bool]]
_known: OrderedDict[_Key, tuple[_Stamp, TaskFacts]] = OrderedDict()


def facts_of(run: RunSpec, *, offline: bool = False) -> TaskFacts:
    """Return the facts about the task of `run`. Raises the same errors as reading the task, except Leakage."""
    key, now = (
        _key(run.task, run.data, run.training.cuts),
        stamp(run.task, run.data.evaluation, run.data.unlabelled, run.data.without),
    )
    if (found := _fresh(key, now)) is not None:
        return found
    made = TaskFacts.of(Task.load(run.task, run.data, allow_leakage=True, offline=offline, **run.training.cuts))
    if now is not None:
        _known[key] = now, made
        while len(_known) > KEPT_TASKS:
            _known.popitem(last=False)
    return made


def count_texts(run: RunSpec) -> int:
    """Return the number of training texts before calibration or validation texts are cut off, without the network."""
    whole = replace(run.data, train_examples=None, validation=None, selection=None)
    training = run.training.model_copy(update={"temperature": False, "abstain_error": None})
    return facts_of(run.model_copy(update={"data": whole, "training": training}), offline=True).train_examples


def labels_of(run: RunSpec) -> TaskFacts:
    """Return facts of which only the kind, labels and pairs may be used: splits may have calibration texts or not."""
    return _either(run.task, run.data) or facts_of(run)


def evaluation_of(address: str, data: ReadingOptions, kind: str | None = None) -> Split:
    """Return the evaluation split of a task on this machine, from the cache or by reading the task again.

    A `kind` that is known stays, whatever kind a newer version takes the columns for.
    """
    found = _either(address, data)
    if found is not None and found.evaluation is not None:
        return found.evaluation
    # The evaluation split does not depend on the files of other texts, which may be gone.
    known = of_kind(kind).kind if kind else None
    asked = replace(data, kind=data.kind or known, unlabelled=None, without=None)
    return Task.load(address, asked, offline=True).evaluation


def _either(address: str, data: ReadingOptions) -> TaskFacts | None:
    """Return cached facts about a task that was read with or without calibration texts."""
    now = stamp(address, data.evaluation, data.unlabelled, data.without)
    both = ((calibration, abstention) for abstention in (False, True) for calibration in (False, True))
    keys = (_key(address, data, Cuts(calibration=one, abstention=other)) for one, other in both)
    return next((found for key in keys if (found := _fresh(key, now)) is not None), None)


def _fresh(key: _Key, now: _Stamp | None) -> TaskFacts | None:
    """Return the cached facts if the task's files have not changed since they were read."""
    before, facts = _known.get(key, (None, None))
    return facts if now is not None and before == now else None


def _key(address: str, data: ReadingOptions, cuts: Cuts) -> _Key:
    return address, replace(data, allow_leakage=False), (cuts["calibration"], cuts["abstention"])
