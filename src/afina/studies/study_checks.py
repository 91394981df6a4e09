"""Checks of the fields of a study that concern no single run: seeds, sizes and the budgets of tuning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from afina.studies import problems
from afina.studies.backbones import BY_BACKBONE
from afina.studies.runs.run import MOST_SEED
from afina.studies.runs.spec import RunSpec


def check_seeds(seeds: Sequence[int], where: str) -> None:
    """Raise InvalidStudy unless there are seeds, each a possible seed and given once."""
    if wrong := next((seed for seed in seeds if not 0 <= seed < MOST_SEED), None):
        raise problems.SEED_INVALID(found=wrong, where=where)
    if not seeds:
        raise problems.NO_SEEDS(where=where)
    if len(set(seeds)) < len(seeds):
        again = next(seed for seed in seeds if seeds.count(seed) > 1)
        raise problems.SEED_TWICE(where=where, seed=again)


def check_sizes(sizes: Sequence[int], train_examples: int | None, where: str) -> None:
    """Raise InvalidStudy for sizes of the training split that are impossible, repeated or contradicted."""
    if not sizes:
        return
    if min(sizes) < 1 or len(set(sizes)) < len(sizes):
        raise problems.SIZES_INVALID(where=where, found=sizes)
    if train_examples is not None:
        raise problems.SIZES_AND_TRAIN_EXAMPLES(where=where, keys=["data.train_examples", "sizes"])


def sizes_notes(asked: Sequence[int], trained: Sequence[int]) -> list[str]:
    """Return a note on sizes that the training split is too small for; `trained` has the sizes that exist."""
    if tuple(asked) == tuple(trained):
        return []
    there = max(trained)
    above = ", ".join(f"{size:,}" for size in asked if size > there)
    return [f"sizes: {above} texts were asked for, and the training split has {there:,}: all {there:,} are one size."]


def equal_runs_notes(runs: Sequence[RunSpec]) -> list[str]:
    """Return a note on each run that stands under several names."""
    alike: dict[str, list[RunSpec]] = {}
    for run in runs:
        alike.setdefault(run.key, []).append(run)
    equal = dict.fromkeys(
        (", ".join(run.title for run in several), several[0].backbone) for several in alike.values() if len(several) > 1
    )
    return [
        f"{names} have the same settings on {backbone}: one run is shown under each name." for names, backbone in equal
    ]


def check_budgets(methods: Mapping[str, Mapping[str, Any]], validation: float | None, where: str) -> None:
    """Raise InvalidStudy for settings that contradict a [tune] section, where every method has the same budget."""
    for name, entry in methods.items():
        for key in ("epochs", "batch_size", "accumulate", "max_steps"):
            if key in entry or any(key in table for table in entry.get(BY_BACKBONE, {}).values()):
                raise problems.BUDGET_DIFFERS(
                    method=name, key=key, where=where, keys=[f"methods.{name}.{key}", f"train.{key}"]
                )
    if validation is not None:
        raise problems.VALIDATION_AND_TUNE(where=where, keys=["data.validation", "tune"])
