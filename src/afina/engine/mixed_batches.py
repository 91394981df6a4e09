"""Mixed batches: packed batches with texts for many adapters, in which equal texts are computed once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from threading import Lock
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor

from afina.data.batch import TOKEN_BUDGET, runs
from afina.data.entities import with_texts
from afina.data.kinds import Kind
from afina.data.tokenize import NO_WORD, Encoded
from afina.engine import problems
from afina.engine.encoding import EncodedText, TokenSequence
from afina.engine.residents import Lease, ReservedMemory, Resident, SeparateResident, SharedResident
from afina.errors import AfinaError, InvalidStudy
from afina.models.classifier import Classifier
from afina.models.kernels.key_values import KeyValueCache, OpenSequence, TokenChunk
from afina.models.kernels.layer_changes import BatchedAdapter
from afina.models.kernels.layout import Pooled
from afina.models.mixed_batch import AdapterChunk, AdapterGroup, MixedBatchModel
from afina.models.predictions import Predictions
from afina.predicting import reading
from afina.predicting.predictor import logits, read_outputs


@dataclass(frozen=True, eq=False)
class SinglePass:
    """A text whose answer (a class, labels or a number) one forward pass computes; the adapter is loaded."""

    lease: Lease
    encoded: EncodedText


class ChunkedPass:
    """A text that is computed in chunks, with the keys and values of the `computed` tokens so far.

    `columns`: the number of keys and values, whose memory is reserved already: of virtual tokens and of the text.
    `close` frees the keys and values, and may be called in any thread, also while a chunk is being computed.
    """

    def __init__(self, row: SinglePass, cache: KeyValueCache, memory: ReservedMemory, columns: int) -> None:
        self.row, self.computed = row, 0
        self._cache, self._memory, self._columns = cache, memory, columns
        self._lock, self._closed = Lock(), False
        self._sequence: OpenSequence | None = None

    def next(
        self, count: int, prefix: int = 0, adapter: BatchedAdapter | None = None
    ) -> tuple[np.ndarray, TokenChunk] | None:
        """Return at most `count` next tokens, and the keys and values before them; None: the text was closed.

        `prefix`: the number of the adapter's prefix tokens, which have only keys and values.
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


class WindowedPass:
    """A text for entities that is computed window by window, in several batches.

    `outputs` are those of the words that are read in each computed window, float32 [M, width of the head].
    """

    def __init__(self, row: SinglePass) -> None:
        self.row, self.computed = row, 0
        self.outputs: list[np.ndarray] = []

    def next(self, count: int) -> AskedSequences:
        """Return the next windows, which have `count` tokens in all."""
        windows, left = list[TokenSequence](), count
        for window in self.row.encoded.sequences[len(self.outputs) :]:
            left -= len(window.tokens)
            if left < 0:
                break
            windows.append(window)
        return AskedSequences(self.row.lease, windows)

    @property
    def complete(self) -> bool:
        return len(self.outputs) == len(self.row.encoded.sequences)

    def close(self) -> None:
        """Do nothing: a window keeps no keys and values for later ones."""


class AskedSequences(NamedTuple):
    """The token sequences of a text, or its next windows, for one adapter. `paired`: the text is a pair."""

    lease: Lease
    sequences: Sequence[TokenSequence]
    paired: bool = False

    @classmethod
    def of(cls, row: SinglePass) -> Self:
        return cls(row.lease, row.encoded.sequences, row.encoded.pair is not None)


class _Distinct(NamedTuple):
    """A token sequence that is computed once, for one or more texts. `batched`: the adapter's changes of the model."""

    batched: BatchedAdapter
    sequence: TokenSequence

    @property
    def rows(self) -> int:
        """The number of rows of the head's input: one, or one for each token that is read."""
        return 1 if self.sequence.read is None else len(self.sequence.read)

    @property
    def length(self) -> int:
        return len(self.sequence.tokens) + self.batched.prompt_length


def mixed_outputs(host: MixedBatchModel, texts: Sequence[AskedSequences]) -> list[list[np.ndarray]]:
    """Return the outputs of each sequence of each text, float32 [rows, width]: one row, or one for each read token.

    In a packed batch, attention multiplies the values of other texts by 0, and 0 times NaN or infinity is NaN. The
    texts of each adapter with NaN or infinite outputs are therefore computed again without the texts of other adapters.
    """
    outputs = _together(host, texts)
    groups = [*_by_adapter(texts)]
    spoilt = [mine for mine in groups if not all(np.isfinite(part).all() for index in mine for part in outputs[index])]
    if len(groups) > 1:
        for mine in spoilt:
            for index, row in zip(mine, _together(host, [texts[index] for index in mine]), strict=True):
                outputs[index] = row
    return outputs


def _together(host: MixedBatchModel, texts: Sequence[AskedSequences]) -> list[list[np.ndarray]]:
    bare: dict[Pooled | None, BatchedAdapter] = {}
    known: dict[tuple[int, bytes, int | None, bytes | None], int] = {}
    distinct, places = list[_Distinct](), list[list[int]]()
    for text in texts:
        batched = _shared(text.lease).batched
        if batched.is_empty:
            batched = bare.setdefault(batched.pooled, batched)
        places.append([])
        for sequence in text.sequences:
            tokens, second, read = sequence
            key = id(batched), tokens.tobytes(), second, None if read is None else read.tobytes()
            place = known.setdefault(key, len(distinct))
            if place == len(distinct):
                distinct.append(_Distinct(batched, sequence))
            places[-1].append(place)
    features, starts = _features(host, distinct)
    by_text = dict[int, list[np.ndarray]]()
    for mine in _by_adapter(texts):
        chosen = [place for index in mine for place in places[index]]
        rows = np.concatenate([np.arange(starts[place], starts[place + 1]) for place in chosen])
        outputs = _shared(texts[mine[0]].lease).answer(features.index_select(0, _there(rows, features)))
        parts = iter(np.split(outputs, np.cumsum([distinct[place].rows for place in chosen])[:-1]))
        by_text |= {index: [next(parts) for _ in places[index]] for index in mine}
    return [by_text[index] for index in range(len(texts))]


def _features(host: MixedBatchModel, sequences: Sequence[_Distinct]) -> tuple[Tensor, np.ndarray]:
    """Return the head's input, [R, width], for the sequences in their order, and the first row of each, int64 [N + 1].

    Sequences of similar length are computed together in packed rows, which are sorted by adapter.
    """
    starts = np.cumsum([0, *(sequence.rows for sequence in sequences)])
    lengths = np.array([sequence.length for sequence in sequences])
    order = np.argsort(lengths, kind="stable")
    features: Tensor | None = None
    for first, last in runs(lengths[order], TOKEN_BUDGET):
        groups, chosen = _adapter_groups(sequences, order[first:last].tolist())
        part = host.features(groups)
        if features is None:
            features = part.new_empty(int(starts[-1]), part.shape[1])
        rows = np.concatenate([np.arange(starts[index], starts[index + 1]) for index in chosen])
        features.index_copy_(0, _there(rows, part), part)
    assert features is not None
    return features, starts


def _there(indices: np.ndarray, beside: Tensor) -> Tensor:
    """Return indices as a tensor on the device of another tensor."""
    return torch.from_numpy(indices).to(beside.device)


def _adapter_groups(sequences: Sequence[_Distinct], among: Sequence[int]) -> tuple[list[AdapterGroup], list[int]]:
    """Group the sequences `among` by adapter, those without a prefix first for one attention call; and their order."""
    by_adapter: dict[int, list[int]] = {}
    for index in among:
        by_adapter.setdefault(id(sequences[index].batched), []).append(index)
    groups = sorted(by_adapter.values(), key=lambda group: bool(sequences[group[0]].batched.prefix))
    adapter_groups = []
    for group in groups:
        tokens, second, read = zip(*(sequences[index].sequence for index in group), strict=True)
        adapter_groups.append(AdapterGroup(sequences[group[0]].batched, tokens, second, None, read))
    return adapter_groups, [index for group in groups for index in group]


@dataclass(frozen=True, eq=False)
class Prediction:
    """An adapter's answer to a text.

    Attributes:
        answer: The prediction as JSON values, in the form that `Predictor` returns. Empty if the request asked for the
            outputs of tokens.
        outputs: The outputs of the adapter's head, float [width of the head]; for entities, the outputs of each word,
            [W, width of the head]. For a generated text, the text.
        version: The adapter's version in a store, such as `client/task@3`. None: the adapter is not from a store.
        tokens: The number of computed tokens, including those of the template and special tokens; 0 for a bag of words.
            The windows of a text may have tokens in common, which count several times.
        words: For entities, the start and end of each word in the text, int32 [W, 2]. None: the outputs are those of
            the text.
    """

    answer: dict[str, Any]
    kind: Kind
    outputs: np.ndarray
    digest: str
    version: str | None
    truncated: bool
    tokens: int = 0
    words: np.ndarray | None = None

    @property
    def is_answered(self) -> bool:
        """Whether the adapter is sure enough to answer; always true for an adapter that does not abstain."""
        return bool(self.answer.get("answered", True))

    def as_predictions(self) -> Predictions:
        """Return the outputs as the predictions of one text, which an objective decodes."""
        return _as_predictions([self.outputs], [self.words])


Outcome = Prediction | AfinaError


def kind_mismatch(resident: Resident, wanted: str) -> InvalidStudy:
    """Return the error for a request that asks for another kind of answer than the adapter gives."""
    answers = "with texts, which are generated" if resident.generates else f"with {resident.objective.kind}"
    return problems.OTHER_KIND_OF_ANSWER(
        where=resident.where, kind=resident.objective.kind, _asked=wanted, _answers=answers
    )


class MixedBatches:
    """Computes texts in mixed batches with the shared frozen models, or with an adapter's own model."""

    def __init__(self, computing: Lock, memory: ReservedMemory) -> None:
        self._computing, self._memory = computing, memory

    def outcomes(self, rows: Sequence[SinglePass]) -> list[Outcome]:
        """Return the prediction or the error of each text, in the order of the texts."""
        outcomes: dict[int, Outcome] = {}
        texts, computed = list[AskedSequences](), list[int]()
        for mine in _by_adapter([AskedSequences.of(row) for row in rows]):
            resident = rows[mine[0]].lease.resident()
            if resident.generates:
                outcomes |= dict.fromkeys(mine, kind_mismatch(resident, "a prediction"))
            elif resident.reading is None:
                outcomes |= _predictions(
                    rows, mine, _outputs_of_texts(resident, [rows[index].encoded for index in mine])
                )
            else:
                texts += [AskedSequences.of(rows[index]) for index in mine]
                computed += mine
        parts = dict(zip(computed, self._outputs(texts), strict=True))
        for mine in _by_adapter(texts):
            places = [computed[index] for index in mine]
            outcomes |= _predictions(rows, places, [_joined(rows[index].encoded, parts[index]) for index in places])
        return [outcomes[index] for index in range(len(rows))]

    def _outputs(self, texts: Sequence[AskedSequences]) -> list[list[np.ndarray]]:
        """Return the outputs of each sequence of each text, in the form that `mixed_outputs` describes."""
        outputs, shared = dict[int, list[np.ndarray]](), dict[MixedBatchModel, list[int]]()
        for mine in _by_adapter(texts):
            resident = texts[mine[0]].lease.resident()
            if isinstance(resident, SharedResident):
                shared.setdefault(resident.host, []).extend(mine)
                continue
            assert isinstance(resident, SeparateResident)
            with self._computing:
                parts = iter(
                    own_outputs(
                        resident.classifier, [sequence for index in mine for sequence in texts[index].sequences]
                    )
                )
            outputs |= {index: [next(parts) for _ in texts[index].sequences] for index in mine}
        for host, indices in shared.items():
            outputs |= zip(indices, mixed_outputs(host, [texts[index] for index in indices]), strict=True)
        return [outputs[index] for index in range(len(texts))]

    def open(self, row: SinglePass) -> ChunkedPass | WindowedPass | None:
        """Return a text to compute in chunks or windows, or None if there is now no memory for keys and values."""
        if row.encoded.words is not None:
            return WindowedPass(row)
        resident = row.lease.resident()
        columns = resident.virtual_tokens[0] + len(row.encoded.tokens)
        has_memory = self._memory.take(resident.opened.opened_bytes(columns), None)
        return ChunkedPass(row, resident.opened, self._memory, columns) if has_memory else None

    def chunk_outcomes(self, chunks: Sequence[tuple[ChunkedPass | WindowedPass, int]]) -> list[Outcome | None]:
        """Compute the next chunk or windows of each text, in the form that `Engine.compute_chunks` describes."""
        outcomes: dict[int, Outcome | None] = {}
        windowed = {
            index: (chunk, count) for index, (chunk, count) in enumerate(chunks) if isinstance(chunk, WindowedPass)
        }
        if windowed:
            outcomes |= zip(windowed, self._window_outcomes([*windowed.values()]), strict=True)
        chunked = {
            index: (chunk, count) for index, (chunk, count) in enumerate(chunks) if isinstance(chunk, ChunkedPass)
        }
        if chunked:
            outcomes |= zip(chunked, self._chunk_outcomes([*chunked.values()]), strict=True)
        return [outcomes[index] for index in range(len(chunks))]

    def _window_outcomes(self, passes: Sequence[tuple[WindowedPass, int]]) -> list[Outcome | None]:
        outputs = self._outputs([windowed.next(count) for windowed, count in passes])
        outcomes = list[Outcome | None]()
        for (windowed, count), parts in zip(passes, outputs, strict=True):
            windowed.outputs += parts
            windowed.computed += count
            whole = [_joined(windowed.row.encoded, windowed.outputs)] if windowed.complete else []
            outcomes.append(_predictions([windowed.row], [0], whole)[0] if windowed.complete else None)
        return outcomes

    def _chunk_outcomes(self, chunks: Sequence[tuple[ChunkedPass, int]]) -> list[Outcome | None]:
        together = dict[MixedBatchModel, dict[int, AdapterChunk]]()
        features: dict[int, Tensor] = {}
        for index, (chunk, count) in enumerate(chunks):
            resident = chunk.row.lease.resident()
            batched = resident.batched if isinstance(resident, SharedResident) else None
            if (tokens_and_cache := chunk.next(count, resident.virtual_tokens[1], batched)) is None:
                continue
            if isinstance(resident, SharedResident):
                together.setdefault(resident.host, {})[index] = AdapterChunk(resident.batched, *tokens_and_cache)
            elif isinstance(resident, SeparateResident):
                with self._computing, torch.inference_mode():
                    classifier = resident.classifier.eval()
                    device = next(classifier.parameters()).device
                    tokens = torch.from_numpy(tokens_and_cache[0].astype(np.int64)).to(device)
                    features[index] = classifier.answer(classifier.chunk_features(tokens, tokens_and_cache[1]))
        for host, parts in together.items():
            features |= zip(parts, host.chunk_features([*parts.values()]), strict=True)
        return [self._chunk_outcome(chunk, count, features.get(index)) for index, (chunk, count) in enumerate(chunks)]

    @staticmethod
    def _chunk_outcome(chunk: ChunkedPass, count: int, features: Tensor | None) -> Outcome | None:
        """Return the prediction or the error of a text after a chunk of `count` tokens; None: the text is not complete.

        `features`: for a shared model, the head's input, [1, width]; for a model of its own, the outputs. None: closed.
        """
        if features is None:
            return None
        chunk.computed = min(chunk.computed + count, len(chunk.row.encoded.tokens))
        if not chunk.complete:
            return None
        resident = chunk.row.lease.resident()
        outputs = resident.answer(features) if isinstance(resident, SharedResident) else features.cpu().numpy()
        return _predictions([chunk.row], [0], list(outputs))[0]


def _outputs_of_texts(resident: Resident, encoded: Sequence[EncodedText]) -> list[np.ndarray]:
    """Return the outputs of texts of an adapter that reads no tokens."""
    assert isinstance(resident, SeparateResident)
    pairs = [text.pair for text in encoded if text.pair is not None]
    return list(resident.predictor.outputs([text.text for text in encoded], pairs or None))


def own_outputs(classifier: Classifier, sequences: Sequence[TokenSequence]) -> list[np.ndarray]:
    """Return the outputs of each sequence by an adapter's own model, in the form that `mixed_outputs` describes."""
    tokens, second, read = zip(*sequences, strict=True)
    encoded = Encoded.of(tokens, second=second)
    if read[0] is None:
        return list(logits(classifier, encoded)[:, None])
    reads = np.full(len(encoded.tokens), NO_WORD, np.int32)
    for start, places in zip(encoded.offsets[:-1], read, strict=True):
        reads[start + places] = np.arange(len(places))
    return read_outputs(classifier, replace(encoded, reads=reads))


def _joined(encoded: EncodedText, parts: Sequence[np.ndarray]) -> np.ndarray:
    """Return the outputs of a text, [width of the head], or of its words, given those of its sequences."""
    if encoded.words is None:
        whole: np.ndarray = parts[0][0]
        return whole
    (joined,) = encoded.words.joined_outputs(parts, parts[0].shape[1])
    return np.asarray(joined)


def _by_adapter(texts: Sequence[AskedSequences]) -> Iterable[list[int]]:
    """Return lists of indices of texts: one list for each adapter's single texts, and one for each adapter's pairs."""
    by_adapter: dict[tuple[int, bool], list[int]] = {}
    for index, text in enumerate(texts):
        by_adapter.setdefault((id(text.lease.resident()), text.paired), []).append(index)
    return by_adapter.values()


def _shared(lease: Lease) -> SharedResident:
    resident = lease.resident()
    assert isinstance(resident, SharedResident)
    return resident


def _as_predictions(outputs: Sequence[np.ndarray], words: Sequence[np.ndarray | None]) -> Predictions:
    """Return the outputs of an adapter's texts as predictions; `words` as in `Prediction`."""
    if words[0] is None:
        return Predictions(np.stack(outputs))
    return Predictions(np.fromiter(outputs, dtype=object), None, {"words": np.fromiter(words, dtype=object)})


def _predictions(rows: Sequence[SinglePass], mine: Sequence[int], outputs: Sequence[np.ndarray]) -> dict[int, Outcome]:
    """Return the predictions of one adapter's texts `mine`; one error for all if an output is NaN or infinite."""
    resident, encoded = rows[mine[0]].lease.resident(), [rows[index].encoded for index in mine]
    words = [None if text.words is None else text.words.words[0] for text in encoded]
    try:
        predictions = reading.finite(_as_predictions(outputs, words), resident.where)
    except AfinaError as error:
        return dict.fromkeys(mine, error)
    objective, outcomes = resident.objective, dict[int, Outcome]()
    to_answer = [place for place, text in enumerate(encoded) if not text.each_token]
    whole = len(to_answer) == len(encoded)
    answers = dict(
        zip(to_answer, objective.answers(predictions if whole else predictions.take(to_answer)), strict=True)
    )
    for place, (index, row, text) in enumerate(zip(mine, outputs, encoded, strict=True)):
        outcomes[index] = Prediction(
            with_texts(answers[place], text.text) if place in answers else {},
            objective.kind,
            row,
            resident.digest,
            rows[index].lease.version,
            text.truncated,
            len(text.tokens),
            words[place],
        )
    return outcomes
