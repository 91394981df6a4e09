"""Teachers in a study: which run or adapter teaches a run, and an order of runs with each teacher before its students.

A teacher is a run of the same study with the same seed and size, or an adapter that was trained before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from afina.errors import AfinaError, InvalidStudy, NotFound, nearest
from afina.models.manifest import read_manifest
from afina.studies import problems
from afina.studies.adapter_paths import find_adapter
from afina.studies.backbones import backbones_of, on_backbone
from afina.studies.runs.output_directory import OutputDirectory
from afina.studies.runs.run import Run
from afina.studies.runs.spec import Teacher

TEACHER = "teacher"
"""The key of a method's table in a study file that names the method's teacher."""

Arm = tuple[str, str]
"""A table of a study, by its name in `methods`, and the address of a backbone on which the table's method runs."""

Item = TypeVar("Item")


def named_teacher(
    asked: object, own: Arm, methods: Mapping[str, Mapping[str, Any]], known: Sequence[str], where: str
) -> Arm | Path:
    """Return the table and backbone of a teacher `NAME` or `NAME on BACKBONE`, or the directory of an adapter.

    `own` is the student. Raises InvalidStudy or UnknownName.
    """
    if not isinstance(asked, str):
        raise problems.TEACHER_NOT_STRING(where=where, found=asked)
    arms = {
        name: [(name, one) for one in backbones_of(entry, known, f"{where}: methods.{name}")]
        for name, entry in methods.items()
    }
    if asked in arms:
        found = [arm for arm in arms[asked] if arm != own]
    else:
        found = [arm for each in arms.values() for arm in each if on_backbone(*arm) == asked]
    if not found and (asked not in arms and Path(asked).expanduser().is_dir()):
        return Path(asked).expanduser()
    if not found and asked in arms:
        raise problems.TEACHER_CIRCLE(where=where, found=asked, method=own[0], _circle="a method cannot teach itself")
    if not found:
        raise _unknown(asked, [name for name in methods if name != own[0]], where)
    if len(found) > 1:
        raise problems.TEACHER_AMBIGUOUS(where=where, found=asked, known=[on_backbone(*arm) for arm in found])
    return found[0]


def _unknown(asked: str, tables: Sequence[str], where: str) -> AfinaError:
    near = nearest(asked, tables)
    return problems.TEACHER_UNKNOWN(
        where=where,
        found=asked,
        known=list(tables),
        _no_table=", and no other method of the study has this name" if tables else "",
        _guess=f"Did you mean {near!r}? " if near else "",
        _tables=f", or another method of the study: {', '.join(tables)}" if tables else "",
    )


def of_adapter(place: Path) -> Teacher:
    """Return the teacher in the directory of an adapter, or of a study with one adapter.

    Raises the errors of `find_adapter`, InvalidStudy for several adapters, and CorruptAdapter without a manifest.
    """
    try:
        path = find_adapter(place).path
    except (InvalidStudy, NotFound) as error:
        # the options of `find_adapter` would name the student's method, so a teacher is named by its directory
        if not (directory := OutputDirectory(place)).holds_results:
            raise
        known = [str(place / one.adapter) for one in directory.read() if one.adapter is not None]
        if not known or error.code not in (problems.SEVERAL_ADAPTERS.code, problems.RUN_WITHOUT_ADAPTER.code):
            raise
        raise problems.TEACHER_OF_SEVERAL(found=place, known=known[:3]) from None
    return Teacher(adapter=read_manifest(path).digest, path=str(path))


def teachers_first(items: Iterable[Item], run_of: Callable[[Item], Run]) -> list[Item]:
    """Return the items in their order, except that a teacher's run comes right before its first student."""
    given = list(items)
    of_key = {run_of(item).key: number for number, item in reversed([*enumerate(given)])}
    order: dict[int, None] = {}
    for number in range(len(given)):
        chain, teacher = [number], run_of(given[number]).teacher
        while teacher is not None and teacher.run in of_key:
            chain.append(of_key[teacher.run])
            teacher = run_of(given[chain[-1]]).teacher
        order |= dict.fromkeys(reversed(chain))
    return [given[number] for number in order]


def found_runs(runs: Sequence[Run], find: Callable[[Run], Run]) -> list[Run]:
    """Return the runs as `find` returns them; students name the found runs of their teachers."""
    keys: dict[str, str] = {}
    made: dict[int, Run] = {}
    for number, run in teachers_first(enumerate(runs), lambda item: item[1]):
        teacher, before = run.teacher, run.key
        if teacher is not None and teacher.run in keys:
            run = run.model_copy(update={"teacher": teacher.model_copy(update={"run": keys[teacher.run]})})
        made[number] = find(run)
        keys[before] = made[number].key
    return [made[number] for number in range(len(runs))]
