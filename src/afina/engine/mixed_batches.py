"""Mixed batches: packed batches of bounded size with texts for many adapters, and the adapters' predictions.

If a text occurs twice for an adapter, or for several adapters that leave the model's body unchanged, the text is
computed once.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor

from afina.data.batch import TOKEN_BUDGET, runs
from afina.data.kinds import Kind
from afina.data.tokenize import Encoded
from afina.engine import problems
from afina.engine.encoding import EncodedText
from afina.engine.residents import Lease, ReservedMemory, Resident, SeparateResident, SharedResident
from afina.errors import AfinaError, InvalidStudy
from afina.models.kernels.key_values import KeyValueCache, OpenSequence, TokenChunk
from afina.models.kernels.layer_changes import BatchedAdapter
from afina.models.kernels.layout import Pooled
from afina.models.mixed_batch import AdapterChunk, AdapterGroup, MixedBatchModel
from afina.models.predictions import Predictions
from afina.predicting import reading
from afina.predicting.predictor import ModelPredictor, logits


@dataclass(frozen=True, eq=False)
class SinglePass:
    """A text whose answer (a class, labels or a number) one forward pass computes.

    Attributes:
        lease: A lease on the adapter, which is loaded.
        encoded: The text, tokenized for the adapter.
    """

    lease: Lease
    encoded: EncodedText


class ChunkedPass:
    """A text that is computed in chunks, with the keys and values of the tokens computed so far.

    `close` frees the keys and values, and may be called in any thread, also while a chunk is being computed.

    Args:
        memory: The object that has reserved memory for the keys and values.
        columns: The number of tokens of the text, including virtual tokens.

    Attributes:
        computed: The number of tokens that have been computed.
    """

    def __init__(self, row: SinglePass, cache: KeyValueCache, memory: ReservedMemory, columns: int) -> None:
        self.row, self.computed = row, 0
        self._cache, self._memory, self._columns = cache, memory, columns
        self._lock, self._closed = Lock(), False
        self._sequence: OpenSequence | None = None

    @classmethod
    def open(cls, row: SinglePass, cache: KeyValueCache, memory: ReservedMemory, before: int) -> Self | None:
        """Reserve memory for the keys and values of a text, and return the text.

        Returns None if there is too little free memory now.

        Args:
            before: The number of virtual tokens before the text.
        """
        columns = before + len(row.encoded.tokens)
        return cls(row, cache, memory, columns) if memory.take(cache.opened_bytes(columns), None) else None

    def next(
        self, count: int, prefix: int = 0, adapter: BatchedAdapter | None = None
    ) -> tuple[np.ndarray, TokenChunk] | None:
        """Return the token ids of the next chunk, and the TokenChunk that gives the keys and values before the chunk.

        Returns None if the text was closed.

        Args:
            count: The largest number of tokens in the chunk, at least 1.
            prefix: The number of the adapter's prefix tokens, which have only keys and values.
            adapter: The adapter, if it uses a shared model. None: the adapter has a model of its own.
        """
        with self._lock:
            if self._closed:
                return None
            if self._sequence is None:
                self._sequence = self._cache.open(self._columns, prefix, adapter)
            chunk = self._cache.chunk(self._sequence)
        return self.row.encoded.tokens[self.computed : self.computed + count], chunk

    @property
    def complete(self) -> bool:
        return self.computed == len(self.row.encoded.tokens)

    def close(self) -> None:
        """Free the keys and values and the memory reserved for them. Further calls do nothing."""
        with self._lock:
            if not self._closed:
                self._closed, self._sequence = True, None
                self._memory.give_back(self._cache.opened_bytes(self._columns), None)


class _Sequence(NamedTuple):
    """A token sequence that is computed once.

    Attributes:
        batched: The adapter's changes of the model.
        tokens: The token ids.
        second: The index of the first token with token type 1. None: no token types.
    """

    batched: BatchedAdapter
    tokens: np.ndarray
    second: int | None


def mixed_outputs(host: MixedBatchModel, rows: Sequence[SinglePass]) -> list[np.ndarray]:
    """Return the outputs of each text, float32 [width of the head of the text's adapter].

    A text's outputs are NaN or infinite only if the text's own adapter causes it. In a packed batch, attention
    multiplies the values of other texts by 0, and 0 times NaN or infinity is NaN. The texts of each adapter with NaN or
    infinite outputs are therefore computed again without the texts of other adapters.
    """
    found = _together(host, rows)
    groups = [*_by_adapter(rows)]
    spoilt = [mine for mine in groups if not all(np.isfinite(found[index]).all() for index in mine)]
    if len(groups) > 1:
        for mine in spoilt:
            for index, row in zip(mine, _together(host, [rows[index] for index in mine]), strict=True):
                found[index] = row
    return found


def _together(host: MixedBatchModel, rows: Sequence[SinglePass]) -> list[np.ndarray]:
    bare: dict[Pooled | None, BatchedAdapter] = {}
    places: dict[tuple[int, bytes, int | None], int] = {}
    distinct, asked = list[_Sequence](), list[int]()
    for row in rows:
        batched, tokens, second = _shared(row).batched, row.encoded.tokens, row.encoded.second
        if batched.is_empty:
            batched = bare.setdefault(batched.pooled, batched)
        place = places.setdefault((id(batched), tokens.tobytes(), second), len(distinct))
        if place == len(distinct):
            distinct.append(_Sequence(batched, tokens, second))
        asked.append(place)
    features, found = _features(host, distinct), dict[int, np.ndarray]()
    for mine in _by_adapter(rows):
        chosen = torch.tensor([asked[index] for index in mine], device=features.device)
        found |= zip(mine, _shared(rows[mine[0]]).answer(features.index_select(0, chosen)), strict=True)
    return [found[index] for index in range(len(rows))]


def _features(host: MixedBatchModel, given: Sequence[_Sequence]) -> Tensor:
    """Return the pooled features of token sequences, [number of sequences, width of the model].

    Sequences of similar length are computed together in packed rows, which are sorted by adapter.
    """
    lengths = np.array([len(one.tokens) + one.batched.prompt_length for one in given])
    order = np.argsort(lengths, kind="stable")
    made: Tensor | None = None
    for first, last in runs(lengths[order], TOKEN_BUDGET):
        groups, chosen = _adapter_groups(given, order[first:last].tolist())
        part = host.features(groups)
        if made is None:
            made = part.new_empty(len(given), part.shape[1])
        made[torch.tensor(chosen, device=part.device)] = part
    assert made is not None
    return made


def _adapter_groups(given: Sequence[_Sequence], among: Sequence[int]) -> tuple[list[AdapterGroup], list[int]]:
    """Group the sequences with the indices `among` by adapter. Return the groups, and the indices in their order.

    Adapters without a prefix come first, so that one attention call computes all their sequences.
    """
    by_adapter: dict[int, list[int]] = {}
    for index in among:
        by_adapter.setdefault(id(given[index].batched), []).append(index)
    groups = sorted(by_adapter.values(), key=lambda group: bool(given[group[0]].batched.prefix))
    made = []
    for group in groups:
        mine = [given[index] for index in group]
        made.append(AdapterGroup(mine[0].batched, [one.tokens for one in mine], [one.second for one in mine]))
    return made, [index for group in groups for index in group]


@dataclass(frozen=True, eq=False)
class Prediction:
    """An adapter's answer to a text.

    Attributes:
        answer: The prediction as JSON values, in the form that `Predictor` returns.
        kind: The kind of the task, which determines the form of `answer` and `outputs`.
        outputs: The outputs of the adapter's head, float [width of the head]. For a generated text, the text.
        digest: The digest of the adapter.
        version: The adapter's version in a store, such as `client/task@3`. None: the adapter is not from a store.
        truncated: Whether the text was truncated.
        tokens: The number of computed tokens, including those of the template and special tokens; 0 for an adapter that
            reads no tokens (bag of words).
    """

    answer: dict[str, Any]
    kind: Kind
    outputs: np.ndarray
    digest: str
    version: str | None
    truncated: bool
    tokens: int = 0

    @property
    def is_answered(self) -> bool:
        """Whether the adapter is sure enough to answer; always true for an adapter that does not abstain."""
        return bool(self.answer.get("answered", True))


Outcome = Prediction | AfinaError


def kind_mismatch(resident: Resident, asked: str) -> InvalidStudy:
    """Return the error for a request that asks for another kind of answer than the adapter gives."""
    answers = "with texts, which are generated" if resident.generates else f"with {resident.objective.kind}"
    return problems.OTHER_KIND_OF_ANSWER(
        where=resident.where, kind=resident.objective.kind, _asked=asked, _answers=answers
    )


class MixedBatches:
    """A class that computes texts in mixed batches with the shared frozen models, or with an adapter's own model.

    Args:
        computing: The lock that is held during each forward pass, also by the shared models.
        memory: Reserves memory for the keys and values of texts that are computed in chunks.
    """

    def __init__(self, computing: Lock, memory: ReservedMemory) -> None:
        self._computing, self._memory = computing, memory

    def outcomes(self, rows: Sequence[SinglePass]) -> list[Outcome]:
        """Return the prediction or the error of each text, in the order of the texts."""
        made: dict[int, Outcome] = {}
        shared = dict[MixedBatchModel, list[int]]()
        for mine in _by_adapter(rows):
            resident = rows[mine[0]].lease.resident()
            if resident.generates:
                made |= dict.fromkeys(mine, kind_mismatch(resident, "a prediction"))
            elif isinstance(resident, SeparateResident):
                self._answer_separately(rows, mine, made)
            else:
                shared.setdefault(_shared(rows[mine[0]]).host, []).extend(mine)
        outputs = dict[int, np.ndarray]()
        for host, indices in shared.items():
            outputs |= zip(indices, mixed_outputs(host, [rows[index] for index in indices]), strict=True)
        for mine in _by_adapter(rows):
            if mine[0] in outputs:
                made |= _predictions(rows, mine, [outputs[index] for index in mine])
        return [made[index] for index in range(len(rows))]

    def _answer_separately(self, rows: Sequence[SinglePass], mine: Sequence[int], made: dict[int, Outcome]) -> None:
        """Compute the texts of one adapter that has a model of its own, and add their outcomes to `made`."""
        resident = rows[mine[0]].lease.resident()
        assert isinstance(resident, SeparateResident)
        predictor, encoded = resident.predictor, [rows[index].encoded for index in mine]
        if isinstance(predictor, ModelPredictor):
            with self._computing:
                tokens, second = [one.tokens for one in encoded], [one.second for one in encoded]
                outputs = logits(predictor.classifier, Encoded.of(tokens, second=second))
        else:
            pairs = [one.pair for one in encoded if one.pair is not None]
            outputs = predictor.outputs([one.text for one in encoded], pairs or None)
        made |= _predictions(rows, mine, list(outputs))

    def open(self, row: SinglePass) -> ChunkedPass | None:
        """Return a text to compute in chunks, or None if there is now no memory for its keys and values."""
        resident = row.lease.resident()
        return ChunkedPass.open(row, resident.opened, self._memory, resident.virtual_tokens[0])

    def chunk_outcomes(self, chunks: Sequence[tuple[ChunkedPass, int]]) -> list[Outcome | None]:
        """Compute the next chunk of each text, in the form that `Engine.compute_chunks` describes."""
        together = dict[MixedBatchModel, dict[int, AdapterChunk]]()
        made: dict[int, Tensor] = {}
        for index, (one, count) in enumerate(chunks):
            resident = one.row.lease.resident()
            batched = resident.batched if isinstance(resident, SharedResident) else None
            if (given := one.next(count, resident.virtual_tokens[1], batched)) is None:
                continue
            if isinstance(resident, SharedResident):
                together.setdefault(resident.host, {})[index] = AdapterChunk(resident.batched, *given)
            elif isinstance(resident, SeparateResident):
                with self._computing, torch.inference_mode():
                    classifier = resident.classifier.eval()
                    device = next(classifier.parameters()).device
                    tokens = torch.from_numpy(given[0].astype(np.int64)).to(device)
                    made[index] = classifier.answer(classifier.chunk_features(tokens, given[1]))
        for host, parts in together.items():
            made |= zip(parts, host.chunk_features([*parts.values()]), strict=True)
        return [self._chunk_outcome(one, count, made.get(index)) for index, (one, count) in enumerate(chunks)]

    @staticmethod
    def _chunk_outcome(one: ChunkedPass, count: int, made: Tensor | None) -> Outcome | None:
        """Return the prediction or the error of a text after a chunk, or None if the text is not complete.

        Args:
            count: The number of tokens in the chunk.
            made: For a shared model, the input of the head, [1, width]; for an adapter's own model, the outputs, [1,
                number of outputs]. None: the text was closed.
        """
        if made is None:
            return None
        one.computed = min(one.computed + count, len(one.row.encoded.tokens))
        if not one.complete:
            return None
        resident = one.row.lease.resident()
        outputs = resident.answer(made) if isinstance(resident, SharedResident) else made.cpu().numpy()
        return _predictions([one.row], [0], list(outputs))[0]


def _by_adapter(rows: Sequence[SinglePass]) -> Iterable[list[int]]:
    """Return lists of indices of texts: one list for each adapter's single texts, and one for each adapter's pairs."""
    found: dict[tuple[int, bool], list[int]] = {}
    for index, one in enumerate(rows):
        found.setdefault((id(one.lease.resident()), one.encoded.pair is None), []).append(index)
    return found.values()


def _shared(one: SinglePass) -> SharedResident:
    resident = one.lease.resident()
    assert isinstance(resident, SharedResident)
    return resident


def _predictions(rows: Sequence[SinglePass], mine: Sequence[int], outputs: Sequence[np.ndarray]) -> dict[int, Outcome]:
    """Return the predictions of one adapter's texts, by the texts' indices.

    If an output is NaN or infinite, all texts of the adapter have the same error.

    Args:
        mine: The indices, in `rows`, of the adapter's texts.
        outputs: The outputs of the texts `mine`.
    """
    resident = rows[mine[0]].lease.resident()
    try:
        predictions = reading.finite(Predictions(np.stack(outputs)), resident.where)
    except AfinaError as error:
        return dict.fromkeys(mine, error)
    objective, answers = resident.objective, resident.objective.answers(predictions)
    made: dict[int, Outcome] = {}
    for index, answer, row in zip(mine, answers, outputs, strict=True):
        lease, encoded = rows[index].lease, rows[index].encoded
        made[index] = Prediction(
            answer, objective.kind, row, resident.digest, lease.version, encoded.truncated, len(encoded.tokens)
        )
    return made
