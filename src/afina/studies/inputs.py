"""RunInputs: what a run reads, named so that a machine without this one's files can get it. Starts without torch.

What a run reads has no part in its key beyond what the key says already. Knows no executor and no way to send a file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from afina import digest
from afina.data import task
from afina.data.task import Task
from afina.errors import InvalidData
from afina.models import source
from afina.studies.spec import RunSpec

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
            task=_input(run.task, task.own_files(run.task, evaluation), content, run.data_digest),
            evaluation=_input(evaluation, [task.evaluation_file(evaluation)], content) if evaluation else None,
            backbone=_input(run.backbone, source.own_files(run.backbone), content, source.revision(run.backbone)),
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
            task.moved(self.task.address, directory / "task") if self.task.files else self.task.address,
            str(directory / "evaluation" / there.files[0].name) if there else None,
            source.moved(self.backbone.address, directory / "backbone")
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
