"""Metrics of a whole set of texts by shared n-grams: BLEU and chrF as in sacrebleu, NIST as in mteval-v13a.

BLEU, chrF and NIST are functions of sums over examples. The per-example values of these metrics are those of the
jackknife, which computes the metric again without each example. NIST weighs each n-gram by its frequency in the
references, and the jackknife computes these weights again too. The standard errors of NIST by the infinitesimal
jackknife (answered.py) and by the bootstrap are up to 13 % too small (docs/background/coverage.md).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from itertools import pairwise
from math import log

import numpy as np

from afina.stats.answered import UNDEFINED, Answered
from afina.stats.ngrams import Counts, Overlap, Paired

BLEU_ORDER, NIST_ORDER, CHRF_ORDER = 4, 5, 6
CHRF_BETA = 2
BETA = log(2) / log(1.5) ** 2
"""The constant of NIST's length penalty, which is 0.5 if the answers have 2/3 of the words of the references."""

CHARACTERS = 500_000
"""chrF counts n-grams in blocks of texts with about this many characters, which limits its memory."""


def signatures(targets: np.ndarray) -> dict[str, str]:
    """Return sacrebleu's signature strings of `bleu` and `chrf` for the given targets, tuples of references, [N]."""
    from sacrebleu.metrics.bleu import BLEU
    from sacrebleu.metrics.chrf import CHRF

    counts = {len(several) for several in targets}
    made = {"bleu": BLEU(), "chrf": CHRF()}
    for metric in made.values():
        metric.num_refs = min(counts) if len(counts) == 1 else -1  # -1: the number varies
    return {name: str(metric.get_signature()) for name, metric in made.items()}


def _jackknife(sums: np.ndarray, score: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Return per-example values, [N], whose mean is the score of all examples, by the jackknife.

    `score` returns scores, [...], of sums of statistics, [..., K]; `sums` are the statistics of each example, [N, K].
    """
    total = sums.sum(axis=0)
    return _around(float(score(total)), score(total - sums))


def _around(whole: float, without: np.ndarray) -> np.ndarray:
    """Return jackknife values, [N], whose mean is the metric `whole`, from the metric without each example, [N]."""
    values: np.ndarray = whole + (len(without) - 1) * (without.mean() - without)
    return values


# BLEU


def bleu(answered: Answered) -> float:
    """Return sacrebleu's corpus BLEU on a scale of 0 to 1, with 13a tokens, n-grams of 1 to 4 and "exp" smoothing."""
    return float(_bleu(answered.once("bleu", lambda: _bleu_sums(answered)).sum(axis=0)))


def bleu_values(answered: Answered) -> np.ndarray:
    return _jackknife(answered.once("bleu", lambda: _bleu_sums(answered)), _bleu)


def _bleu_sums(answered: Answered) -> np.ndarray:
    """Return the statistics of BLEU for each example, float [N, 10].

    The columns are the tokens of the answer, the tokens of the reference of the nearest length, the clipped counts of
    shared n-grams of orders 1 to 4, and the numbers of n-grams of orders 1 to 4 in the answer.
    """
    paired = answered.once("words", lambda: _in_words(answered, lower=False))
    lengths, of_references = paired.lengths
    distance = np.abs(of_references - lengths[paired.examples])
    order = np.lexsort((of_references, distance, paired.examples))
    first = np.flatnonzero(np.append(True, np.diff(paired.examples[order]) > 0))
    hits = [
        np.bincount(overlap.hits.owners, overlap.hits.counts, len(lengths)) for overlap in paired.overlaps(BLEU_ORDER)
    ]
    grams = [np.maximum(lengths - fewer, 0) for fewer in range(BLEU_ORDER)]
    return np.stack([lengths, of_references[order][first], *hits, *grams], axis=1).astype(np.float64)


def _bleu(sums: np.ndarray) -> np.ndarray:
    length, reference = sums[..., 0], sums[..., 1]
    hits, grams = sums[..., 2 : 2 + BLEU_ORDER], sums[..., 2 + BLEU_ORDER :]
    halved = np.where(hits > 0, hits, 0.5 ** np.cumsum(hits == 0, axis=-1))
    with np.errstate(divide="ignore", invalid="ignore"):
        penalty = np.minimum(1 - reference / length, 0)
        logarithm = np.log(halved / grams).mean(axis=-1) + penalty
        defined = (hits > 0).any(axis=-1) & (grams > 0).all(axis=-1)
        return np.where(defined, np.exp(logarithm), 0.0)


def _in_words(answered: Answered, *, lower: bool) -> Paired:
    tokenize = _tokenizer()

    def words(text: str) -> Sequence[str]:
        found = tokenize(text.rstrip())
        return (found.lower() if lower else found).split()

    answers = [words(one) for one in answered.answers]
    return Paired.of(answers, [[words(one) for one in several] for several in answered.targets])


@cache
def _tokenizer() -> Callable[[str], str]:
    """Return sacrebleu's tokenizer 13a, which caches 65,536 texts, because all methods have the same references."""
    from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a

    return Tokenizer13a()  # type: ignore[no-untyped-call, no-any-return]


# chrF


def chrf(answered: Answered) -> float:
    """Return sacrebleu's corpus chrF on a scale of 0 to 1: character n-grams of 1 to 6, no white space, beta 2."""
    return float(_chrf(answered.once("chrf", lambda: _chrf_sums(answered)).sum(axis=0)))


def chrf_values(answered: Answered) -> np.ndarray:
    return _jackknife(answered.once("chrf", lambda: _chrf_sums(answered)), _chrf)


def _chrf_sums(answered: Answered) -> np.ndarray:
    """Return the statistics of chrF for each example, float [N, 18].

    The columns are the numbers of character n-grams of the answer, of its best reference, and shared by both, each for
    the orders 1 to 6.
    """
    answers = ["".join(one.split()) for one in answered.answers]
    targets = [["".join(one.split()) for one in several] for several in answered.targets]
    sizes = [len(one) + sum(map(len, several)) for one, several in zip(answers, targets, strict=True)]
    blocks = np.cumsum(sizes) // CHARACTERS
    borders = [0, *(np.flatnonzero(np.diff(blocks)) + 1).tolist(), len(answers)]
    return np.concatenate([_best_references(answers[a:b], targets[a:b]) for a, b in pairwise(borders)])


def _best_references(answers: Sequence[str], targets: Sequence[Sequence[str]]) -> np.ndarray:
    paired = Paired.of(answers, targets)
    lengths, of_references = paired.lengths
    sums = np.zeros((len(paired.examples), 3, CHRF_ORDER))
    for overlap in paired.overlaps(CHRF_ORDER):
        fewer = overlap.order - 1
        sums[:, 1, fewer] = np.maximum(of_references - fewer, 0)
        sums[:, 0, fewer] = np.maximum(lengths - fewer, 0)[paired.examples] * (sums[:, 1, fewer] > 0)
        sums[:, 2, fewer] = overlap.shared
    flat = sums.reshape(len(sums), -1)
    order = np.lexsort((-_chrf(flat), paired.examples))
    first = np.flatnonzero(np.append(True, np.diff(paired.examples[order]) > 0))
    best: np.ndarray = flat[order][first]
    return best


def _chrf(sums: np.ndarray) -> np.ndarray:
    """Return chrF, [...], from sums of the statistics of `_chrf_sums`, [..., 18].

    An order without n-grams in the answers or in the references is left out.
    """
    answers, references, shared = np.moveaxis(sums.reshape(*sums.shape[:-1], 3, CHRF_ORDER), -2, 0)
    used = (answers > 0) & (references > 0)
    orders = np.maximum(used.sum(axis=-1), 1)
    precision, recall = (
        np.divide(shared, counts, out=np.zeros_like(shared), where=used).sum(axis=-1) / orders
        for counts in (answers, references)
    )
    below = CHRF_BETA**2 * precision + recall
    above = (1 + CHRF_BETA**2) * precision * recall
    score: np.ndarray = np.divide(above, below, out=np.zeros_like(above), where=below > 0)
    return score


# NIST


def nist_values(answered: Answered) -> np.ndarray:
    """Return values whose mean is NIST (Doddington, HLT 2002), with 13a tokens in lower case, n-grams of 1 to 5 words.

    n-grams are matched with all references at once, and the answer's length is compared with the mean length of its
    references, as in mteval-v13a and the E2E challenge's scorer. NIST is UNDEFINED if no reference has a word.
    """
    return answered.once("nist", lambda: _nist_values(_in_words(answered, lower=True)))


def _nist_values(paired: Paired) -> np.ndarray:
    lengths, of_references = paired.lengths
    size = len(lengths)
    in_references = np.bincount(paired.examples, of_references, size)
    if not in_references.any():
        return np.full(size, UNDEFINED)
    score = np.zeros(size + 1)
    below = Counts(np.arange(size), in_references.astype(np.int64), 1)
    for overlap in paired.overlaps(NIST_ORDER):
        owners = paired.examples[overlap.references.owners]
        known = Counts.grouped(
            owners * overlap.distinct + overlap.references.ids, overlap.references.counts, overlap.distinct
        )
        bits = _information(overlap, known, below, size)
        grams = _all_and_without(np.maximum(lengths - overlap.order + 1, 0))
        score += np.divide(bits, grams, out=np.zeros(size + 1), where=grams > 0)
        below = known
    mean_length: np.ndarray = in_references / np.bincount(paired.examples, minlength=size)
    answered, expected = _all_and_without(lengths), _all_and_without(mean_length)
    ratio = np.divide(answered, expected, out=np.ones(size + 1), where=expected > 0)
    with np.errstate(divide="ignore"):
        score *= np.exp(-BETA * np.log(np.minimum(ratio, 1.0)) ** 2)
    return _around(float(score[0]), score[1:])


def _all_and_without(counts: np.ndarray) -> np.ndarray:
    """Return the sum of the counts of all examples, then for each example the sum without it, float64 [N + 1]."""
    sums: np.ndarray = counts.sum() - np.append(0.0, counts)
    return sums


def _information(overlap: Overlap, known: Counts, below: Counts, size: int) -> np.ndarray:
    """Return the information of all shared n-grams in bits, then for each example the same without it, [N + 1].

    The information of an n-gram is log2(count of its prefix / count of the n-gram) in the references. So the
    information of all shared n-grams is a sum of logarithms over prefixes, minus a sum of logarithms over n-grams.
    `known` and `below` are the counts of the n-grams and of their prefixes in the references of each example.
    """
    hits = overlap.hits
    of_prefixes = Counts.grouped(hits.owners * below.distinct + overlap.prefixes[hits.ids], hits.counts, below.distinct)
    bits: np.ndarray = _logarithms(below, of_prefixes, size) - _logarithms(known, hits, size)
    return bits


def _logarithms(known: Counts, hits: Counts, size: int) -> np.ndarray:
    """Return the sum of hits x log2(count) over n-grams, then for each example the same sum without it, [N + 1]."""
    total, hit = known.total[known.ids], hits.total[known.ids]
    before = hit * np.log2(np.maximum(total, 1))
    after = (hit - hits.of(known.keys)) * np.log2(np.maximum(total - known.counts, 1))
    whole = float(hits.total @ np.log2(np.maximum(known.total, 1)))
    sums: np.ndarray = whole + np.append(0.0, np.bincount(known.owners, after - before, size))
    return sums
