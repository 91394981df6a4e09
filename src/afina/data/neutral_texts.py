"""Neutral texts: sentences on which a language model's loss is measured before and after fine-tuning.

A model must not be trained on the neutral sentences, so a task that contains a neutral sentence is refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from afina import digest
from afina.data import problems
from afina.data.readers import texts as readers
from afina.data.split import Split, normalised
from afina.data.task import Task
from afina.errors import NotFound

USUAL = "snippets:editorials"
"""The address of the task whose evaluation texts are the default neutral sentences."""

MOST = 200
"""The largest number of neutral sentences; more would hardly narrow the interval of the difference in loss."""


@dataclass(frozen=True)
class NeutralTexts:
    source: str
    texts: tuple[str, ...]

    @classmethod
    def load(cls, asked: str | bool, task: Task) -> Self:
        """Return the sentences of `snippets:editorials` (True), or those of a file. Raises NotFound, InvalidData."""
        source = USUAL if asked is True else str(asked)
        texts = Task.load(USUAL).evaluation.texts if asked is True else _of_file(source)
        made = cls(source, tuple(_chosen(texts)))
        if not made.texts:
            raise problems.NEUTRAL_TEXTS_EMPTY(source=source)
        made._check_new(task)
        return made

    @property
    def digest(self) -> str:
        return digest.of_strings(self.texts)

    def _check_new(self, task: Task) -> None:
        mine = {normalised(text): text for text in self.texts}
        parts = (task.train, task.evaluation, *task.aside)
        shared = [text for part in parts for text in _both(part) if normalised(text) in mine]
        if shared:
            raise problems.NEUTRAL_TEXTS_IN_TASK(found=shared[0][:60], source=self.source, task=task.address)


def _of_file(file: str) -> Iterator[str]:
    try:
        readers.check_there(Path(file))
    except NotFound:
        raise problems.TEXT_FILE_MISSING(path=file, _field="retention") from None
    with readers.chunks(file) as stream:
        for chunk in stream:
            yield from chunk.texts


def _chosen(texts: Iterable[str]) -> list[str]:
    """Return at most MOST different sentences, chosen by a stable hash and in their order in the source."""
    once = list({normalised(text): text for text in texts if normalised(text)}.values())
    kept = set(sorted(once, key=lambda text: digest.of_strings([text]))[:MOST])
    return [text for text in once if text in kept]


def _both(split: Split) -> Iterator[str]:
    yield from split.texts
    yield from split.pairs or ()
