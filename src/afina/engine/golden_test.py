"""Functions that compute an adapter's outputs for the built-in sentences of golden tests (`predicting.golden_test`)."""

from __future__ import annotations

from threading import Lock
from typing import TypeVar

import numpy as np
import torch

from afina.data.tokenize import Tokenizer
from afina.engine.encoding import EncodedText, encode
from afina.engine.mixed_batches import MixedBatches, Prediction, SinglePass
from afina.engine.residents import Lease, SeparateResident, SharedResident
from afina.errors import AfinaError
from afina.generating.next_token import MixedNextTokenModel, WholePrompt
from afina.predicting import golden_test

Read = TypeVar("Read", EncodedText, Prediction)  # the type of an outcome that is not an error


def golden_outputs(computing: Lock, batches: MixedBatches, tokenizer: Tokenizer, lease: Lease) -> np.ndarray:
    """Return an adapter's outputs for the built-in sentences, in the form that `Engine.probe` describes."""
    resident = lease.resident()
    if not resident.generates:
        return _predicted(batches, tokenizer, lease)
    if isinstance(resident, SharedResident):
        return _log_probabilities(tokenizer, resident)
    assert isinstance(resident, SeparateResident)
    reads = resident.reading
    assert reads is not None
    with computing:
        return np.array(golden_test.outputs(resident.classifier, reads.backbone, reads.max_length, reads.template))


def _predicted(batches: MixedBatches, tokenizer: Tokenizer, lease: Lease) -> np.ndarray:
    resident = lease.resident()
    texts, pairs = zip(*golden_test.asked(resident.manifest), strict=True)
    rows = [SinglePass(lease, _read(one)) for one in encode(tokenizer, resident, texts, pairs)]
    return golden_test.rows(_read(one).outputs for one in batches.outcomes(rows))


def _read(outcome: Read | AfinaError) -> Read:
    if isinstance(outcome, AfinaError):
        raise outcome
    return outcome


@torch.inference_mode()
def _log_probabilities(tokenizer: Tokenizer, resident: SharedResident) -> np.ndarray:
    """Return the log-probabilities of the first tokens of the built-in answers (teacher forcing), [sentence, token]."""
    reading = resident.reading
    assert reading.template is not None
    texts, pairs = zip(*golden_test.asked(resident.manifest), strict=True)
    prompts = reading.encode(texts, None if pairs[0] is None else pairs, tokenizer=tokenizer)
    answers = golden_test.taught(tokenizer, reading.template).tokens
    whole = [np.concatenate([prompts[index], answers[index]]) for index in range(len(prompts))]
    begun = MixedNextTokenModel(resident.host).begin([WholePrompt(tokens, 1, resident.batched, 0) for tokens in whole])
    found = [[one.chosen for one in logprobs or ()] for logprobs in begun.logprobs]
    return np.array([row[-count:] for row, count in zip(found, answers.lengths.tolist(), strict=True)])
