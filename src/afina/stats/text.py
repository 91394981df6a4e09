"""Metrics of answers that are texts, each a mean over examples, as pure functions of an `Answered`.

The targets are tuples of reference texts, and the answers are strings. BLEU, chrF and NIST, metrics of a whole set
of answers, are in `bleu_chrf_nist.py`. A metric of token probabilities is UNDEFINED (NaN) for answers that no
language model wrote.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

from afina.stats.answered import UNDEFINED, Answered, of_ratio
from afina.stats.ngrams import Paired, longest_common

ARTICLES = re.compile(r"\b(a|an|the)\b")
PUNCTUATION = frozenset(string.punctuation)
REPEATED = 4  # words of the n-grams of `repeated_values`, as in Welleck et al. (ICLR 2020)


def normalised(text: str) -> str:
    """Return the text normalised as in SQuAD: lower case, single spaces, no ASCII punctuation, no English articles."""
    plain = "".join(character for character in text.lower() if character not in PUNCTUATION)
    return " ".join(ARTICLES.sub(" ", plain).split())


def exact_match_values(answered: Answered) -> np.ndarray:
    """Return whether each answer equals one of its references after SQuAD's normalisation, bool [N]."""
    return np.array(
        [
            answer in references
            for answer, references in zip(*answered.once("squad", lambda: _squad(answered)), strict=True)
        ],
        dtype=bool,
    )


def token_f1_values(answered: Answered) -> np.ndarray:
    """Return the F1 of the words that each answer shares with its best reference, [N], as in SQuAD 2.0's script.

    If the answer or the reference has no word after normalisation, F1 is 1 if both have no word, else 0.
    """
    answers, targets = answered.once("squad", lambda: _squad(answered))
    return np.array(
        [
            max(_token_f1(answer.split(), one.split()) for one in references)
            for answer, references in zip(answers, targets, strict=True)
        ],
        dtype=np.float64,
    )


def _squad(answered: Answered) -> tuple[list[str], list[list[str]]]:
    answers = [normalised(one) for one in answered.answers]
    return answers, [[normalised(one) for one in several] for several in answered.targets]


def _token_f1(answer: Sequence[str], reference: Sequence[str]) -> float:
    if not answer or not reference:
        return float(answer == reference)
    shared = sum((Counter(answer) & Counter(reference)).values())
    return 2 * shared / (len(answer) + len(reference))


def rouge_values(kind: str) -> Callable[[Answered], np.ndarray]:
    """Return a function that computes the ROUGE F1 of each answer with its best reference, [N].

    ROUGE-1 and ROUGE-2 count shared n-grams, and ROUGE-L uses the longest common subsequence of the whole texts.
    """

    def values(answered: Answered) -> np.ndarray:
        scores: np.ndarray = answered.once("rouge", lambda: _rouge(answered))[kind]
        return scores

    return values


def _rouge(answered: Answered) -> dict[str, np.ndarray]:
    """Return ROUGE-1, ROUGE-2 and ROUGE-L of each answer, equal to rouge-score's `score_multi` without a stemmer."""
    from rouge_score.tokenize import tokenize

    answers = [tokenize(one, None) for one in answered.answers]
    targets = [[tokenize(one, None) for one in several] for several in answered.targets]
    if not any(one for several in targets for one in several):
        return dict.fromkeys("12l", np.full(len(answers), UNDEFINED))
    paired = Paired.of(answers, targets)
    lengths, of_references = paired.lengths
    shared = {str(overlap.order): overlap.shared for overlap in paired.overlaps(2)}
    shared["l"] = np.array(
        [longest_common(answer, one) for answer, several in zip(answers, targets, strict=True) for one in several]
    )
    scores = {}
    for kind, hits in shared.items():
        fewer = 1 if kind == "2" else 0
        total = np.maximum(lengths - fewer, 0)[paired.examples] + np.maximum(of_references - fewer, 0)
        by_reference = np.divide(2.0 * hits, total, out=np.zeros(len(hits)), where=total > 0)
        scores[kind] = best_of(by_reference, paired.examples, len(answers))
    return scores


def best_of(scores: np.ndarray, examples: np.ndarray, size: int) -> np.ndarray:
    """Return the highest score of each example over its references, [N], from the scores of all references, [R]."""
    best = np.full(size, -np.inf)
    np.maximum.at(best, examples, scores)
    return best


def loss_values(answered: Answered) -> np.ndarray:
    """Return per-example values, [N], whose mean is the mean loss of a reference token in nats.

    The per-example values are UNDEFINED (NaN) if no language model gave token probabilities.
    """
    if "nll" not in answered.extras:
        return np.full(len(answered.answers), UNDEFINED)
    tokens = answered.extras["reference_tokens"].astype(np.float64)
    return of_ratio(answered.extras["nll"].astype(np.float64), tokens)


def perplexity(answered: Answered) -> float:
    """Return the perplexity, exp of the mean loss of a reference token; UNDEFINED without token probabilities."""
    with np.errstate(over="ignore"):
        return float(np.exp(np.mean(loss_values(answered))))


def unended_values(answered: Answered) -> np.ndarray:
    """Return for each answer 0 if eos or a stop string ended it, 1 if it was cut, [N]; UNDEFINED if that is unknown."""
    if "ended" not in answered.extras:
        return np.full(len(answered.answers), UNDEFINED)
    unended: np.ndarray = 1.0 - answered.extras["ended"]
    return unended


def word_counts(answered: Answered) -> tuple[np.ndarray, np.ndarray]:
    """Return the number of words of each answer, and of its reference of the nearest length, int64 [N] each.

    Words are separated by white space. Of two references with equally near lengths, the shorter reference is used, as
    in BLEU.
    """
    of_answers = np.array([len(one.split()) for one in answered.answers], dtype=np.int64)
    nearest = [
        min((len(one.split()) for one in several), key=lambda length: (abs(length - count), length))
        for count, several in zip(of_answers.tolist(), answered.targets, strict=True)
    ]
    return of_answers, np.array(nearest, dtype=np.int64)


def length_ratio(answered: Answered) -> float:
    """Return the number of words of all answers, divided by that of their references of the nearest length."""
    of_answers, of_references = word_counts(answered)
    return float(of_answers.sum() / of_references.sum()) if of_references.any() else UNDEFINED


def repeated_values(answered: Answered) -> np.ndarray:
    """Return the share of each answer's word 4-grams that repeat an earlier 4-gram, [N]; 0 if it has no 4-gram."""
    return np.array([_repeated(one.split()) for one in answered.answers], dtype=np.float64)


def _repeated(words: Sequence[str]) -> float:
    grams = [tuple(words[start : start + REPEATED]) for start in range(len(words) - REPEATED + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0
