"""Mixed batches: texts for many adapters in a few packed rows of bounded size, and each adapter's own predictions.

Equal work is done once: the same text twice for an adapter, or for several adapters that leave the body unchanged.
Does not know addresses, and loads nothing.
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
    """A text's tokens, integers [length], and the adapter that answers."""

    resident: SharedResident
    tokens: np.ndarray


class Sequences(NamedTuple):
    """Distinct token sequences, the adapter of each, and the sequence of each request."""

    batched_adapters: list[BatchedAdapter]
    tokens: list[np.ndarray]
    asked: np.ndarray


def mixed_outputs(host: MixedBatchModel, questions: Sequence[EncodedRequest]) -> list[np.ndarray]:
    """Return the outputs of each request, float32 [width of its head]; NaN only comes from the request's own adapter.

    Attention multiplies other texts' values by 0, and 0 times NaN or infinity is NaN. If an adapter's outputs are not
    finite, the requests of the other adapters are computed again without it.
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
    batched_adapters: list[BatchedAdapter] = []
    tokens: list[np.ndarray] = []
    asked: list[int] = []
    for resident, sequence in questions:
        batched = bare if resident.batched.is_empty else resident.batched
        key = id(batched), sequence.tobytes()
        if key not in places:
            places[key] = len(tokens)
            batched_adapters.append(batched)
            tokens.append(sequence)
        asked.append(places[key])
    return Sequences(batched_adapters, tokens, np.array(asked, dtype=np.int64))


def _features(host: MixedBatchModel, given: Sequences) -> Tensor:
    """Return [distinct sequences, width of the model]: rows of texts of similar length, each sorted by adapter."""
    lengths = np.array(
        [
            len(tokens) + batched.prompt_length
            for batched, tokens in zip(given.batched_adapters, given.tokens, strict=True)
        ]
    )
    order = np.argsort(lengths, kind="stable")
    made: Tensor | None = None
    for first, last in runs(lengths[order], TOKEN_BUDGET):
        adapter_groups, chosen = _adapter_groups(given, order[first:last])
        part = host.features(adapter_groups)
        if made is None:
            made = part.new_empty(len(given.tokens), part.shape[1])
        made[torch.from_numpy(chosen).to(part.device)] = part
    assert made is not None
    return made


def _adapter_groups(given: Sequences, among: np.ndarray) -> tuple[list[AdapterGroup], np.ndarray]:
    """Group sequences by adapter, those without a prefix first so that they share one attention; with their order."""
    by_adapter: dict[int, list[int]] = {}
    for index in among.tolist():
        by_adapter.setdefault(id(given.batched_adapters[index]), []).append(index)
    groups = sorted(by_adapter.values(), key=lambda group: bool(given.batched_adapters[group[0]].prefix))
    adapter_groups = [
        AdapterGroup(given.batched_adapters[group[0]], [given.tokens[index] for index in group]) for group in groups
    ]
    return adapter_groups, np.array([index for group in groups for index in group], dtype=np.int64)


@dataclass(frozen=True, eq=False)
class Prediction:
    """An adapter's answer to a text.

    Attributes:
        answer: JSON values, as returned by `Predictor`.
        kind: Kind of the task, which determines the form of answer and outputs.
        outputs: float [width of the head].
        digest: Digest of the adapter.
        version: Version in a store, such as `client/task@3`. None: not from a store.
        truncated: Whether the text was truncated.
        tokens: Number of computed tokens, including template and special tokens; 0 for a bag-of-words adapter.
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
    """A text or a pair of texts for an adapter; `version` is the adapter's version in a store, if any."""

    resident: Resident
    version: str | None
    text: str
    pair: str | None


class _Read(NamedTuple):
    """A tokenised text, int32 [length], and whether it was truncated."""

    tokens: np.ndarray
    truncated: bool


class MixedBatches:
    """Answers requests on a shared frozen model. Thread-safe. An error is the outcome of its own text only."""

    def __init__(self, host: MixedBatchModel) -> None:
        self._host = host
        self._reading = Lock()  # transformers' tokenizers change their truncation setting at each call

    def outcomes(self, asked: Sequence[AdapterRequest]) -> list[Outcome]:
        """Return the outcome of each request, in order."""
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
        """Tokenise the texts (all pairs, or all single) of one shared adapter; one by one if their outcomes differ."""
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
        """Answer the texts of one adapter with a model of its own; one by one if their outcomes differ."""
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
    """Group requests by adapter, and by pairs or single texts; return their indices."""
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
    """Return the outcomes of one adapter's texts by index; an error for all if an output is NaN or infinite.

    Args:
        asked: All requests.
        mine: Indices of the adapter's requests.
        rows: Outputs of these requests.
        how: For each of these requests, whether the text was truncated, and its number of tokens.
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
