"""Texts for many adapters in as few packed rows as bounded memory allows, and each adapter's predictions of its own.

What several ask for is computed once: a text twice under one adapter, or under several that leave the model as it is.
Knows no address and loads nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from afina.data.batch import TOKEN_BUDGET, runs
from afina.data.kinds import Kind
from afina.errors import AfinaError
from afina.inference import reading
from afina.inference.predictor import ModelPredictor, logits
from afina.models.kernels.layer_changes import BatchedAdapter
from afina.models.mixed_batch import AdapterGroup, MixedBatchModel
from afina.models.objective import Predictions
from afina.serving.residents import Resident, SeparateResident, SharedResident


class EncodedRequest(NamedTuple):
    """A text's tokens, integers [length], for an adapter."""

    resident: SharedResident
    tokens: np.ndarray


class Sequences(NamedTuple):
    """Distinct token sequences, each under a rider; and which of them each question is."""

    riders: list[BatchedAdapter]
    tokens: list[np.ndarray]
    asked: np.ndarray


def mixed_outputs(host: MixedBatchModel, questions: Sequence[EncodedRequest]) -> list[np.ndarray]:
    """Of each, float32 [width of its head]; what is no number comes of the question's own adapter.

    Attention's grid multiplies what belongs to other texts by 0, and 0 times what is no number is none: where an
    adapter gives such, whoever shared its row is computed again without it.
    """
    found = _together(host, questions)
    spoilt = {id(one.resident) for one, row in zip(questions, found, strict=True) if not np.isfinite(row).all()}
    if spoilt and len({id(one.resident) for one in questions}) > 1:
        for key in spoilt:
            mine = [index for index, one in enumerate(questions) if id(one.resident) == key]
            alone = _together(host, [questions[index] for index in mine])
            for index, row in zip(mine, alone, strict=True):
                found[index] = row
    return found


def _together(host: MixedBatchModel, questions: Sequence[EncodedRequest]) -> list[np.ndarray]:
    distinct = _distinct(questions)
    features = _features(host, distinct)
    of: dict[int, list[int]] = {}
    for index, one in enumerate(questions):
        of.setdefault(id(one.resident), []).append(index)
    found = [np.zeros(0, np.float32)] * len(questions)
    for mine in of.values():
        chosen = torch.from_numpy(distinct.asked[mine]).to(features.device)
        rows = questions[mine[0]].resident.answer(features.index_select(0, chosen))
        for index, row in zip(mine, rows, strict=True):
            found[index] = row
    return found


def _distinct(questions: Sequence[EncodedRequest]) -> Sequences:
    bare = BatchedAdapter()
    places: dict[tuple[int, bytes], int] = {}
    riders: list[BatchedAdapter] = []
    tokens: list[np.ndarray] = []
    asked: list[int] = []
    for resident, sequence in questions:
        rider = bare if resident.rider.is_empty else resident.rider
        key = id(rider), sequence.tobytes()
        if key not in places:
            places[key] = len(tokens)
            riders.append(rider)
            tokens.append(sequence)
        asked.append(places[key])
    return Sequences(riders, tokens, np.array(asked, dtype=np.int64))


def _features(host: MixedBatchModel, given: Sequences) -> Tensor:
    """[distinct sequences, width of the model]: in rows of texts of like length, each sorted by rider."""
    lengths = np.array(
        [len(tokens) + rider.prompt_length for rider, tokens in zip(given.riders, given.tokens, strict=True)]
    )
    order = np.argsort(lengths, kind="stable")
    made: Tensor | None = None
    for first, last in runs(lengths[order], TOKEN_BUDGET):
        parties, chosen = _parties(given, order[first:last])
        part = host.features(parties)
        if made is None:
            made = part.new_empty(len(given.tokens), part.shape[1])
        made[torch.from_numpy(chosen).to(part.device)] = part
    assert made is not None
    return made


def _parties(given: Sequences, among: np.ndarray) -> tuple[list[AdapterGroup], np.ndarray]:
    """Some sequences by rider, those without a prefix first, so that their attention is one; and which they are."""
    by_rider: dict[int, list[int]] = {}
    for index in among.tolist():
        by_rider.setdefault(id(given.riders[index]), []).append(index)
    groups = sorted(by_rider.values(), key=lambda group: bool(given.riders[group[0]].prefix))
    parties = [AdapterGroup(given.riders[group[0]], [given.tokens[index] for index in group]) for group in groups]
    return parties, np.array([index for group in groups for index in group], dtype=np.int64)


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


class AdapterRequest(NamedTuple):
    """A text, or a pair of texts, for an adapter; version: what it was asked for as, in a store."""

    resident: Resident
    version: str | None
    text: str
    pair: str | None


class _Read(NamedTuple):
    """A text as its adapter reads it: int32 [length], and whether it was cut."""

    tokens: np.ndarray
    truncated: bool


class MixedBatches:
    """On a host; may be asked by many threads. An error is the outcome of its own text alone."""

    def __init__(self, host: MixedBatchModel) -> None:
        self._host = host
        self._reading = Lock()  # a tokenizer of transformers is told anew how to cut at each call

    def outcomes(self, asked: Sequence[AdapterRequest]) -> list[Outcome]:
        """In their order."""
        made: dict[int, Outcome] = {}
        read: dict[int, _Read] = {}
        for mine in _alike(asked):
            if isinstance(asked[mine[0]].resident, SharedResident):
                self._read(asked, mine, read, made)
            else:
                self._answer_separately(asked, mine, made)
        questions = [EncodedRequest(_shared(asked[index]), one.tokens) for index, one in read.items()]
        rows = dict(zip(read, mixed_outputs(self._host, questions), strict=True)) if questions else {}
        for mine in _alike(asked):
            there = [index for index in mine if index in rows]
            if there:
                how = [(read[index].truncated, len(read[index].tokens)) for index in there]
                made |= _predictions(asked, there, [rows[index] for index in there], how)
        return [made[index] for index in range(len(asked))]

    def _read(
        self, asked: Sequence[AdapterRequest], mine: Sequence[int], read: dict[int, _Read], made: dict[int, Outcome]
    ) -> None:
        """Texts for one adapter that shares the model, all pairs or none; one by one where not all are alike."""
        resident = _shared(asked[mine[0]])
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

    def _answer_separately(
        self, asked: Sequence[AdapterRequest], mine: Sequence[int], made: dict[int, Outcome]
    ) -> None:
        """Texts for one adapter with a model of its own, likewise."""
        resident = asked[mine[0]].resident
        assert isinstance(resident, SeparateResident)
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
            self._answer_separately(asked, [index], made)


def _alike(asked: Sequence[AdapterRequest]) -> Iterable[list[int]]:
    """Which are of the same adapter, and all pairs or all single texts."""
    found: dict[tuple[int, bool], list[int]] = {}
    for index, one in enumerate(asked):
        found.setdefault((id(one.resident), one.pair is None), []).append(index)
    return found.values()


def _shared(one: AdapterRequest) -> SharedResident:
    assert isinstance(one.resident, SharedResident)
    return one.resident


def _texts(asked: Sequence[AdapterRequest], mine: Sequence[int]) -> tuple[list[str], list[str] | None]:
    pairs = [pair for index in mine if (pair := asked[index].pair) is not None]
    return [asked[index].text for index in mine], pairs or None


def _predictions(
    asked: Sequence[AdapterRequest], mine: Sequence[int], rows: Sequence[np.ndarray], how: Sequence[tuple[bool, int]]
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
