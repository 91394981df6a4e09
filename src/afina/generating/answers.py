"""Functions that generate a language model's answers to prompts, and compute the likelihood of reference texts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from afina.allocator import keep_freed
from afina.data.answer_tokens import References
from afina.data.batch import by_length, pack
from afina.data.tokenize import Encoded, Tokenizer
from afina.events import Listener, Progress, ignore
from afina.generating.generation import answers as generated
from afina.models.decoding import GREEDY, Decoding
from afina.models.language_model import LanguageModel
from afina.models.predictions import Predictions

if TYPE_CHECKING:
    from afina.models.objectives import Texts


def answers(
    model: LanguageModel,
    prompts: Encoded,
    objective: Texts,
    tokenizer: Tokenizer,
    listen: Listener = ignore,
    *,
    references: References | None = None,
    targets: np.ndarray | None = None,
) -> Predictions:
    """Generate the answers to prompts, and return them with the targets and the likelihood of the reference texts.

    Args:
        model: The language model, in the compute dtype.
        prompts: The token ids of the prompts.
        references: The tokens of the reference texts; None if their likelihood is not computed.
        targets: The target texts, object [N]. None: the targets are unknown.
    """
    keep_freed()
    count = len(prompts)
    texts, sizes, ended = np.empty(count, object), np.zeros(count, np.int64), np.zeros(count, bool)
    decoding = objective.generation()
    found = generated(
        model,
        (prompts[number] for number in range(count)),
        decoding,
        [tokenizer.eos_token_id],
        tokenizer,
        listen=lambda done: listen(Progress("evaluate", done, count)),
    )
    for number, one in enumerate(found):
        texts[number] = text_of(tokenizer, one.tokens, decoding)
        sizes[number], ended[number] = len(one.tokens), one.ended
    extras: dict[str, np.ndarray] = {"new_tokens": sizes, "ended": ended}
    if references is not None:
        extras |= likelihoods(model, prompts, references)
    return Predictions(texts, targets, extras)


def text_of(tokenizer: Tokenizer, tokens: np.ndarray, decoding: Decoding = GREEDY) -> str:
    """Return the text of an answer's tokens, cut before the first stop string and without surrounding whitespace.

    Special tokens and stop tokens are left out.
    """
    shown = [token for token in tokens.tolist() if token not in decoding.stop_token_ids]
    text = str(tokenizer.decode(shown, skip_special_tokens=True))
    ends = [place for string in decoding.stop if (place := text.find(string)) >= 0]
    return text[: min(ends, default=len(text))].strip()


def likelihoods(model: LanguageModel, prompts: Encoded, references: References) -> dict[str, np.ndarray]:
    """Return the negative log-likelihood of each example's reference texts, given its prompt.

    Returns:
        `nll`: in nats, summed over all tokens of an example's references, float64 [N].
        `reference_tokens`: The number of tokens in an example's references, int64 [N].
    """
    losses, lengths = token_losses_of(model, prompts, references), references.tokens.lengths
    owners = np.repeat(references.owners, lengths)
    tokens = np.bincount(references.owners, lengths, len(prompts)).astype(np.int64)
    return {"nll": np.bincount(owners, losses, len(prompts)), "reference_tokens": tokens}


def token_losses_of(model: LanguageModel, prompts: Encoded, references: References) -> np.ndarray:
    """Return the cross-entropy of each token of the reference texts under teacher forcing, float64 [all tokens]."""
    inputs, targets = references.sequences(prompts)
    offsets, device = references.tokens.offsets, next(model.parameters()).device
    losses = np.zeros(offsets[-1])
    model.eval()
    with torch.inference_mode():
        for indices, _ in by_length(inputs, before=model.before):
            chosen = indices.tolist()
            packed = pack([inputs[i] for i in chosen], [targets[i] for i in chosen], per_token=True)
            found = model(packed.to(device)).double().cpu().numpy()
            losses[np.concatenate([np.arange(offsets[i], offsets[i + 1]) for i in chosen])] = found
    return losses
