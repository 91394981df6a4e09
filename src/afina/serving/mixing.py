"""Mixing: texts for many adapters, in as few packed rows as bounded memory allows, and each adapter's outputs.

What several ask for is computed once: a text twice under one adapter, or under several that leave the model as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from afina.data.batch import TOKEN_BUDGET, runs
from afina.models.kernels.layer_changes import BatchedAdapter
from afina.models.mixed_batch import AdapterGroup, MixedBatchModel
from afina.serving.resident import Riding


class Question(NamedTuple):
    """A text's tokens, integers [length], for an adapter."""

    resident: Riding
    tokens: np.ndarray


class Sequences(NamedTuple):
    """Distinct token sequences, each under a rider; and which of them each question is."""

    riders: list[BatchedAdapter]
    tokens: list[np.ndarray]
    asked: np.ndarray


def outputs(host: MixedBatchModel, questions: Sequence[Question]) -> list[np.ndarray]:
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


def _together(host: MixedBatchModel, questions: Sequence[Question]) -> list[np.ndarray]:
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


def _distinct(questions: Sequence[Question]) -> Sequences:
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
