"""The outputs of a resident adapter for the built-in sentences, as its manifest records them (`predicting.probes`)."""

from __future__ import annotations

from threading import Lock
from typing import TypeVar

import numpy as np
import torch

from afina.data.batch import TOKEN_BUDGET, runs
from afina.engine.mixed_batches import MixedBatches, Prediction
from afina.engine.passes import SinglePass
from afina.engine.residents import Lease, SeparateResident, SharedResident
from afina.engine.tokenizing import EncodedText, TextEncoder
from afina.errors import AfinaError
from afina.generating.next_token import Readout
from afina.models.mixed_batch import AdapterGroup
from afina.predicting import probes
from afina.predicting.predictor import ModelPredictor

Read = TypeVar("Read", EncodedText, Prediction)
"""An outcome that is no error."""


def probe_outputs(computing: Lock, batches: MixedBatches, encoder: TextEncoder, lease: Lease) -> np.ndarray:
    """Return the outputs of an adapter for the built-in sentences; `Engine.probe` describes them.

    Args:
        computing: Lock that is held during a forward pass of an adapter's own model.
        batches: Computes predictions.
        encoder: Encodes the sentences.
        lease: A lease on the adapter.

    Raises:
        AfinaError: An output cannot be computed, or is NaN or infinite.
    """
    resident = lease.resident()
    if not resident.generates:
        return _predicted(batches, encoder, lease)
    if isinstance(resident, SharedResident):
        return _log_probabilities(encoder, resident)
    assert isinstance(resident, SeparateResident)
    predictor = resident.predictor
    assert isinstance(predictor, ModelPredictor)
    with computing:
        reading = predictor.classifier, predictor.backbone, predictor.max_length, predictor.template
        return np.array(probes.probe(*reading))


def _predicted(batches: MixedBatches, encoder: TextEncoder, lease: Lease) -> np.ndarray:
    resident = lease.resident()
    texts, pairs = zip(*probes.asked(resident.manifest), strict=True)
    rows = [SinglePass(lease, _read(one)) for one in encoder.encode(resident, texts, pairs)]
    return np.stack([_read(one).outputs for one in batches.outcomes(rows)])


def _read(outcome: Read | AfinaError) -> Read:
    if isinstance(outcome, AfinaError):
        raise outcome
    return outcome


def _log_probabilities(encoder: TextEncoder, resident: SharedResident) -> np.ndarray:
    """Return the log-probabilities of given tokens: each after the prompt and the right tokens before it."""
    reading, tokenizer = resident.reading, encoder.tokenizer
    assert reading.template is not None
    texts, pairs = zip(*probes.asked(resident.manifest), strict=True)
    prompts = reading.encode(texts, None if pairs[0] is None else pairs, tokenizer=tokenizer)
    answers = probes.taught(tokenizer, reading.template).tokens
    sequences, targets = list[np.ndarray](), list[int]()
    for number in range(len(prompts)):
        answer = answers[number]
        sequences += [np.concatenate([prompts[number], answer[:count]]) for count in range(len(answer))]
        targets += answer.tolist()
    found = [
        _of_tokens(resident, sequences[first:last], targets[first:last])
        for first, last in runs(np.array([len(one) for one in sequences]), TOKEN_BUDGET)
    ]
    return np.concatenate(found).reshape(len(prompts), -1)


def _of_tokens(resident: SharedResident, sequences: list[np.ndarray], targets: list[int]) -> np.ndarray:
    """Return the log-probability of the token after each sequence, float64 [N]."""
    host = resident.host
    with torch.inference_mode():
        logits = Readout(host.output_embedding)(host.features([AdapterGroup(resident.batched, sequences)])).double()
        chosen = logits.log_softmax(-1).gather(1, torch.tensor(targets, device=logits.device)[:, None])
    found: np.ndarray = chosen[:, 0].cpu().numpy()
    return found
