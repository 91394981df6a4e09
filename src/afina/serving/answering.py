"""Answering: residents and texts to predictions, in any mix. Knows no address and loads nothing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Any, NamedTuple

import numpy as np

from afina.data.kinds import Kind
from afina.errors import AfinaError
from afina.inference import reading
from afina.inference.predictor import ModelPredictor, logits
from afina.models.mixed_batch import MixedBatchModel
from afina.models.objective import Predictions
from afina.serving import mixing
from afina.serving.mixing import Question
from afina.serving.resident import Apart, Resident, Riding


@dataclass(frozen=True, eq=False)
class Prediction:
    """What an adapter says of a text.

    answer     as `Predictor` gives it: JSON values
    kind       of task, which says what answer and outputs are
    outputs    float [width of the head]
    digest     of the adapter that answered;  version  `client/task@3`, where it came from a store
    truncated  whether the text was cut
    tokens     that were computed, the template's and special ones too; 0 where the adapter reads words
    """

    answer: dict[str, Any]
    kind: Kind
    outputs: np.ndarray
    digest: str
    version: str | None
    truncated: bool
    tokens: int = 0


Outcome = Prediction | AfinaError


class Asked(NamedTuple):
    """A text, or a pair of texts, for an adapter; version: what it was asked for as, in a store."""

    resident: Resident
    version: str | None
    text: str
    pair: str | None


class _Read(NamedTuple):
    """A text as its adapter reads it: int32 [length], and whether it was cut."""

    tokens: np.ndarray
    truncated: bool


class Answering:
    """On a host; may be asked by many threads. An error is the outcome of its own text alone."""

    def __init__(self, host: MixedBatchModel) -> None:
        self._host = host
        self._reading = Lock()  # a tokenizer of transformers is told anew how to cut at each call

    def outcomes(self, asked: Sequence[Asked]) -> list[Outcome]:
        """In their order."""
        made: dict[int, Outcome] = {}
        read: dict[int, _Read] = {}
        for mine in _alike(asked):
            if isinstance(asked[mine[0]].resident, Riding):
                self._read(asked, mine, read, made)
            else:
                self._answer_apart(asked, mine, made)
        questions = [Question(_riding(asked[index]), one.tokens) for index, one in read.items()]
        rows = dict(zip(read, mixing.outputs(self._host, questions), strict=True)) if questions else {}
        for mine in _alike(asked):
            there = [index for index in mine if index in rows]
            if there:
                how = [(read[index].truncated, len(read[index].tokens)) for index in there]
                made |= _predictions(asked, there, [rows[index] for index in there], how)
        return [made[index] for index in range(len(asked))]

    def _read(
        self, asked: Sequence[Asked], mine: Sequence[int], read: dict[int, _Read], made: dict[int, Outcome]
    ) -> None:
        """Texts for one riding adapter, all pairs or none; one by one where not all are alike."""
        resident = _riding(asked[mine[0]])
        try:
            with self._reading:
                encoded = resident.reading.encode(*_texts(asked, mine))
        except AfinaError as error:
            if len(mine) == 1:
                made[mine[0]] = error
                return
            encoded = None
        if encoded is None or 0 < encoded.truncated < len(mine):
            for index in mine:
                self._read(asked, [index], read, made)
            return
        for place, index in enumerate(mine):
            read[index] = _Read(encoded[place], encoded.truncated > 0)

    def _answer_apart(self, asked: Sequence[Asked], mine: Sequence[int], made: dict[int, Outcome]) -> None:
        """Texts for one adapter with a model of its own, likewise."""
        resident = asked[mine[0]].resident
        assert isinstance(resident, Apart)
        predictor = resident.predictor
        try:
            if isinstance(predictor, ModelPredictor):
                with self._reading:
                    encoded = predictor.encode(*_texts(asked, mine))
                with self._host.computing:
                    outputs, cut = logits(predictor.classifier, encoded), encoded.truncated
                lengths = encoded.lengths.tolist()
            else:
                predictions, cut = predictor.predict(*_texts(asked, mine))
                outputs = predictions.outputs
                lengths = [0] * len(mine)
        except AfinaError as error:
            if len(mine) == 1:
                made[mine[0]] = error
                return
            cut, lengths = -1, []
        if cut in (0, len(mine)):
            made |= _predictions(asked, mine, list(outputs), [(cut > 0, length) for length in lengths])
            return
        for index in mine:
            self._answer_apart(asked, [index], made)


def _alike(asked: Sequence[Asked]) -> Iterable[list[int]]:
    """Which are of the same adapter, and all pairs or all single texts."""
    found: dict[tuple[int, bool], list[int]] = {}
    for index, one in enumerate(asked):
        found.setdefault((id(one.resident), one.pair is None), []).append(index)
    return found.values()


def _riding(one: Asked) -> Riding:
    assert isinstance(one.resident, Riding)
    return one.resident


def _texts(asked: Sequence[Asked], mine: Sequence[int]) -> tuple[list[str], list[str] | None]:
    pairs = [pair for index in mine if (pair := asked[index].pair) is not None]
    return [asked[index].text for index in mine], pairs or None


def _predictions(
    asked: Sequence[Asked], mine: Sequence[int], rows: Sequence[np.ndarray], how: Sequence[tuple[bool, int]]
) -> dict[int, Outcome]:
    """Of one adapter's texts, by their places; an error of each where any output is no number, as in `Predictor`.

    how: whether each was cut, and its tokens
    """
    resident = asked[mine[0]].resident
    outputs = np.stack(rows)
    try:
        predictions = reading.finite(Predictions(outputs), resident.where)
    except AfinaError as error:
        return dict.fromkeys(mine, error)
    objective, answers = resident.objective, resident.objective.answers(predictions)
    return {
        index: Prediction(answer, objective.kind, row, resident.digest, asked[index].version, cut, tokens)
        for index, answer, row, (cut, tokens) in zip(mine, answers, outputs, how, strict=True)
    }
