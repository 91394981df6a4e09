"""A teacher: an adapter whose outputs for texts are the targets of a student (Hinton et al. 2015).

The outputs of a teacher are computed once for the texts of a training, and kept in the cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

from afina import assets, digest, file_io, tensorfile
from afina.data.split import Split
from afina.data.task import LEAKAGE_LIMIT, Task
from afina.errors import CannotWrite, CorruptAdapter
from afina.models import objectives
from afina.models.adapter import Adapter
from afina.models.objective import Objective
from afina.models.predictions import Predictions
from afina.predicting import problems
from afina.predicting.predictor import Predictor, backbone_of
from afina.predicting.reading import takes_pairs
from afina.ranks import ALONE, Ranks

CACHE_LIMIT = 2**30
"""The largest size in bytes of the cache of teachers' outputs; the least recently used ones are removed first."""

_FORMAT = 1
_OUTPUTS = "outputs"


def check_teacher(adapter: Adapter, task: Task, *, allow_leakage: bool = False) -> None:
    """Raise an error if an adapter cannot be the teacher of a student of a task.

    Raises InvalidStudy for a teacher of another kind, with other labels, or of pairs if the task has single texts, and
    the reverse; Leakage if the teacher was trained on more than a share LEAKAGE_LIMIT of the evaluation texts (without
    `allow_leakage`), or on texts that the student sets aside to choose a threshold of abstention.
    """
    manifest, where = adapter.manifest, adapter.where
    kind = objectives.make(manifest.label_names, manifest.objective).kind
    if kind != task.kind:
        raise problems.TEACHER_UNSUITED(path=where, _what="kind", found=kind, expected=task.kind)
    if set(manifest.label_names) != set(task.label_names):
        labels = {"found": manifest.label_names, "expected": task.label_names}
        raise problems.TEACHER_UNSUITED(path=where, _what="labels", **labels)
    words = {True: "pairs of texts", False: "single texts"}
    if (pairs := takes_pairs(manifest)) not in (None, task.pairs):
        found, expected = words[bool(pairs)], words[task.pairs]
        raise problems.TEACHER_UNSUITED(path=where, _what="texts", found=found, expected=expected)
    if adapter.trained_on is None or allow_leakage:
        return
    leaked, count = int(adapter.trained_on.among(task.evaluation).sum()), len(task.evaluation)
    if leaked > LEAKAGE_LIMIT * count:
        raise problems.TEACHER_SAW_EVALUATION(path=where, leaked=leaked, evaluation=count, limit=LEAKAGE_LIMIT)
    if task.abstention is None or "abstention" in manifest.training:  # such a teacher set the same texts aside
        return
    if leaked := int(adapter.trained_on.among(task.abstention).sum()):
        raise problems.TEACHER_SAW_ABSTENTION(path=where, leaked=leaked, texts=len(task.abstention))


def soft_targets(
    adapter: Adapter,
    splits: Sequence[Split],
    student: Objective,
    dtype: str,
    backbone: str | None = None,
    ranks: Ranks = ALONE,
) -> np.ndarray:
    """Return the targets that a student learns from a teacher, for the texts of several splits, float32 [N, width].

    The teacher's outputs are read from the cache if they were computed before. The first rank reads and writes the
    cache.

    Raises the errors of `Predictor.load` and `Predictor.predict`.
    """
    texts = [text for split in splits for text in split.texts]
    pairs = None if splits[0].pairs is None else [pair for split in splits for pair in split.pairs or ()]
    asked = [_FORMAT, adapter.digest, digest.of_strings(texts), digest.of_strings(pairs or ()), dtype]
    name = digest.of_json(asked).removeprefix(digest.PREFIX)[:32]
    place = assets.cache_directory() / "teachers" / f"{name}.safetensors"
    found = ranks.from_first(_kept(place, len(texts)) if ranks.is_first else None)
    if found is None:
        address = None if adapter.manifest.backbone is None else backbone
        predictor = Predictor.of(adapter, backbone_of(adapter, address), dtype)

        def outputs(start: int, stop: int) -> np.ndarray:
            return predictor.outputs(texts[start:stop], pairs and pairs[start:stop], before=start)

        sizes = np.array([max(len(text), 1) for text in texts], np.int64)
        found = np.concatenate(ranks.of_shares(sizes, outputs))
        if ranks.is_first:
            _keep(place, found)
    teacher = objectives.make(adapter.manifest.label_names, adapter.manifest.objective)
    return student.soft_targets(teacher, Predictions(found))


def _keep(place: Path, outputs: np.ndarray) -> None:
    with suppress(OSError, CannotWrite):  # not writable or full: the outputs are computed again
        place.parent.mkdir(parents=True, exist_ok=True)
        with file_io.replacing(place) as fresh:
            tensorfile.write_arrays(fresh, {_OUTPUTS: outputs})
        file_io.trim(place, CACHE_LIMIT)


def _kept(place: Path, count: int) -> np.ndarray | None:
    """Return the outputs for `count` texts in a file of the cache; None if the file is missing or damaged."""
    try:
        outputs = tensorfile.read_arrays(place)[_OUTPUTS]
    except (OSError, KeyError, ValueError, CorruptAdapter):
        return None
    with suppress(OSError):
        place.touch()  # marks the outputs as used most recently
    return outputs if len(outputs) == count else None
