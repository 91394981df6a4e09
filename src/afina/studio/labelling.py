"""Labelling: the texts of a project that a person labels next: the file they are chosen from, and what was labelled.

`afina next` chooses the texts of a round. A labelled text is a correction with the reason for which it was chosen:
from the texts that were chosen at random, the next round estimates how good a model is on all texts.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from afina import digest, file_io
from afina.studio import problems
from afina.studio.command_process import CommandProcess
from afina.studio.corrections import Correction, Corrections
from afina.studio.folder import Project

_lock = threading.RLock()


@dataclass(frozen=True)
class LabelledText:
    """A text that was labelled, and why it was chosen; without an answer, it was skipped."""

    key: str
    text: str
    pair: str
    chosen: str
    answer: str | None


@dataclass(frozen=True)
class Rounds:
    """The state of the labelling of a project. `pool`: the path of the file of texts, empty before the first round."""

    pool: str = ""
    number: int = 0
    kind: str = ""
    labels: Sequence[str] = ()
    texts: Sequence[LabelledText] = field(default_factory=list)


_ROUNDS = TypeAdapter(Rounds)


@dataclass(frozen=True)
class Labelling:
    """The labelling of a project."""

    project: Project

    @property
    def path(self) -> Path:
        return self.project.directory / "labelling.json"

    def read(self) -> Rounds:
        """Raises CorruptAdapter if the file is damaged."""
        if not self.path.is_file():
            return Rounds()
        try:
            return _ROUNDS.validate_python(file_io.read_object(self.path))
        except ValidationError:
            raise problems.LABELLING_DAMAGED(path=self.path) from None

    def process(self, rounds: Rounds) -> CommandProcess:
        """Return the process that chooses the texts of the present round."""
        return self.project.process("next", rounds.pool, rounds.number)

    def begin(self, pool: str, kind: str, labels: Sequence[str]) -> Rounds:
        """Begin the next round, with texts of `pool`."""
        with _lock:
            before = self.read()
            return self._write(replace(before, pool=pool, number=before.number + 1, kind=kind, labels=list(labels)))

    def label(self, key: str, row: Mapping[str, Any], answer: str | None) -> None:
        """Keep the right answer to a text of the round; None: the text is skipped.

        Raises Conflict if the text was labelled meanwhile.
        """
        with _lock:
            before = self.read()
            there = next((one for one in before.texts if one.key == key), None)
            if there is not None:
                raise problems.DECIDED_MEANWHILE(found=there.answer or "skipped")
            made = LabelledText(key, row["text"], row["text_pair"] or "", row["chosen"], answer)
            if answer is not None:
                Corrections(self.project).add(Correction(made.text, answer, made.pair), before.kind)
            self._write(replace(before, texts=[*before.texts, made]))

    def undo(self) -> None:
        """Take back what was done last."""
        with _lock:
            before = self.read()
            for last in before.texts[-1:]:
                if last.answer is not None:
                    Corrections(self.project).remove(Correction(last.text, last.answer, last.pair), before.kind)
            self._write(replace(before, texts=list(before.texts[:-1])))

    def _write(self, rounds: Rounds) -> Rounds:
        content = json.dumps(_ROUNDS.dump_python(rounds, mode="json"), ensure_ascii=False, indent=1)
        file_io.write_text(self.path, content + "\n")
        return rounds


def key_of(row: Mapping[str, Any]) -> str:
    """Return a key of a text of a round."""
    return digest.of_json([row["text"], row["text_pair"]]).removeprefix(digest.PREFIX)[:16]
