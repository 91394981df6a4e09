"""LabelDecisions: what a person has decided about doubtful labels, in a file of the project.

Suggestions that are taken are corrections. `text_changes.py` lets the commands of the project follow the decisions.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import ValidationError

from afina import digest, file_io
from afina.data.kinds import KINDS
from afina.data.readers.target_kinds import NO_LABELS
from afina.studies.labelling.doubts import DoubtfulLabel, Doubts
from afina.studio import problems
from afina.studio.answer_kinds import ANSWER_KINDS
from afina.studio.corrections import Correction, Corrections
from afina.studio.folder import Project

TAKEN, OUT, KEPT = "taken", "out", "kept"
"""The decisions about a label.

- TAKEN: the suggested label is right. It becomes a correction.
- OUT: trainings leave out the text.
- KEPT: the label is right.
"""

DECISIONS = (TAKEN, OUT, KEPT)

_lock = threading.RLock()


def key_of(label: DoubtfulLabel) -> str:
    """Return a key of a doubtful label, which is the same as long as its text and its label are."""
    given = [label.file, label.row, label.text, label.text_pair, label.label]
    return digest.of_json(given).removeprefix(digest.PREFIX)[:16]


@dataclass(frozen=True)
class DecidedLabel:
    """A doubtful label with what was decided about it (DECISIONS).

    `answer` was written as a correction; empty without a correction, and for a text without labels.
    """

    label: DoubtfulLabel
    decision: str
    kind: str
    answer: str = ""

    @property
    def is_left_out(self) -> bool:
        """Whether trainings leave out the text; evaluation texts are never left out."""
        return self.label.training and self.decision == OUT


@dataclass(frozen=True)
class LabelDecisions:
    """The decisions about labels of a project."""

    project: Project

    @property
    def path(self) -> Path:
        return self.project.directory / "label-decisions.json"

    def read(self) -> dict[str, DecidedLabel]:
        """Return the decisions by the key of the label, the oldest first. Raises CorruptAdapter."""
        if not self.path.is_file():
            return {}
        try:
            found = file_io.read_object(self.path)
            made = {
                key: DecidedLabel(
                    DoubtfulLabel.model_validate(one["label"]), one["decision"], one["kind"], str(one["answer"])
                )
                for key, one in found.items()
            }
        except (ValidationError, KeyError, TypeError):
            made = None
        if made is None or not all(one.decision in DECISIONS and one.kind in KINDS for one in made.values()):
            raise problems.DECISIONS_DAMAGED(path=self.path)
        return made

    def decide(
        self, found: Doubts, label: DoubtfulLabel, decision: str, names: Sequence[str], *, seen: str | None = None
    ) -> None:
        """Keep the decision about a doubtful label, in place of an earlier one; `names` are the project's labels.

        `seen`: the decision that a page has shown, empty for none. None: any. Raises Conflict if the present decision
        is not `seen`. Raises InvalidData if the suggestion cannot be written as a correction, or a held-out text would
        change.
        """
        with _lock:
            decided, key = self.read(), key_of(label)
            _check_seen(decided.get(key), seen)
            if decision != KEPT and not label.training:
                raise problems.DECISION_HELD_OUT()
            answer = _answer(found, label, names) if decision == TAKEN else ""
            self._forget(decided.pop(key, None))
            if decision == TAKEN:
                Corrections(self.project).add(Correction(label.text, answer, label.text_pair or ""), found.kind)
            self._write({**decided, key: DecidedLabel(label, decision, found.kind, answer)})

    def undo(self, key: str, *, seen: str | None = None) -> None:
        """Forget a decision; the correction that it made is removed. Nothing is done without such a decision."""
        with _lock:
            decided = self.read()
            _check_seen(decided.get(key), seen)
            self._forget(decided.pop(key, None))
            self._write(decided)

    def _forget(self, before: DecidedLabel | None) -> None:
        if before is not None and before.decision == TAKEN:
            made = Correction(before.label.text, before.answer, before.label.text_pair or "")
            Corrections(self.project).remove(made, before.kind)

    def _write(self, decided: Mapping[str, DecidedLabel]) -> None:
        content = {key: {**asdict(one), "label": one.label.model_dump(mode="json")} for key, one in decided.items()}
        file_io.write_text(self.path, json.dumps(content, ensure_ascii=False, indent=1) + "\n")


def _check_seen(decided: DecidedLabel | None, seen: str | None) -> None:
    now = decided.decision if decided else ""
    if seen not in (None, now):
        raise problems.DECIDED_MEANWHILE(found=now or "the decision was taken back")


def _answer(found: Doubts, label: DoubtfulLabel, names: Sequence[str]) -> str:
    """Return the suggestion as corrections have it. Raises InvalidData for several labels that cannot be told apart."""
    if not ANSWER_KINDS[found.kind].has_several:
        if ANSWER_KINDS[found.kind].has_one_label and names and label.suggested not in names:
            raise problems.LABEL_MISSING(label=label.suggested, expected=list(names)[:20])
        return label.suggested
    separator = found.data.separator or ","
    several = [] if label.suggested == NO_LABELS else label.suggested.split(", ")
    if any(one not in names or separator in one for one in several):
        raise problems.SUGGESTION_AMBIGUOUS(found=label.suggested)
    return separator.join(several)
