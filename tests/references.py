"""Invented answers with references, and the metrics of texts by other libraries or written out plainly."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence
from math import exp, log

import numpy as np
import sacrebleu
from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a

from afina.stats.answered import Answered

WORDS = [
    *("the", "a", "The Cat", "dog", "sat", "on", "mat,", "an apple.", "3.5", "I/O", "ran", "ran", "quickly!"),
    *("no-one's", "été", "東京", "it's", "in", "town", "near", "the river", "with", "&amp;", "“fine”", "€20"),
]


def objects(values: Sequence[object]) -> np.ndarray:
    """An array [N] of these objects, also if they are tuples."""
    made = np.empty(len(values), dtype=object)
    for place, value in enumerate(values):
        made[place] = value
    return made


def given(answers: Sequence[str], targets: Sequence[Sequence[str]], **extras: np.ndarray) -> Answered:
    return Answered(objects([tuple(one) for one in targets]), objects(answers), None, extras)


def texts(generator: np.random.Generator, n: int, most: int = 4, longest: int = 14) -> Answered:
    """Answers that resemble one of up to `most` references; some are empty, and some repeat themselves."""

    def words(least: int) -> list[str]:
        return generator.choice(WORDS, generator.integers(least, longest + 1)).tolist()

    targets, answers = [], []
    for _ in range(n):
        several = [words(1) for _ in range(generator.integers(1, most + 1))]
        copied = several[generator.integers(len(several))]
        kept = [word if generator.random() < 0.8 else words(1)[0] for word in copied if generator.random() < 0.93]
        targets.append([" ".join(one) for one in several])
        answers.append(" ".join(kept * (2 if generator.random() < 0.2 else 1)))
    tokens: np.ndarray = np.array([sum(len(one.split()) + 1 for one in several) for several in targets])
    return given(
        answers,
        targets,
        nll=tokens * generator.gamma(4, 0.5, n),
        reference_tokens=tokens,
        new_tokens=np.array([len(one.split()) + 1 for one in answers]),
        ended=generator.random(n) < 0.9,
    )


def edges() -> list[Answered]:
    """Answers that are empty or perfect, references without a word that counts, a single example."""
    cases = [
        (["", ""], [["a b c d e"], ["f", "g h"]]),
        (["", "東京"], [["東京"], ["été", "!"]]),
        (["the", "!"], [["a"], ["?"]]),
        (["one two three four five"] * 2, [["one two three four five"], ["other", "one two three four five"]]),
        (["x y x y x y x y"], [["x"]]),
        (["a b c", "d"], [["a b c d"], ["d e", "f"]]),
        (["no", "no"], [[" "], [" \t"]]),
    ]
    return [given(*case) for case in cases]


# The metrics


def _mean_of_best(score: Callable[[str, str], float]) -> Callable[[Answered], float]:
    return lambda a: float(
        np.mean([max(score(one, x) for x in several) for one, several in zip(a.answers, a.targets, strict=True)])
    )


def _squad_words(text: str) -> list[str]:
    """As the evaluation script of SQuAD normalises an answer."""
    plain = "".join(ch for ch in text.lower() if ch not in set(string.punctuation))
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", plain).split()).split()


def _squad_f1(answer: str, reference: str) -> float:
    """`compute_f1` of SQuAD 2.0's evaluation script."""
    predicted, gold = _squad_words(answer), _squad_words(reference)
    same = sum((Counter(gold) & Counter(predicted)).values())
    if not gold or not predicted:
        return float(gold == predicted)
    if not same:
        return 0.0
    precision, recall = same / len(predicted), same / len(gold)
    return 2 * precision * recall / (precision + recall)


def _rouge(kind: str) -> Callable[[Answered], float]:
    def mean(answered: Answered) -> float:
        from rouge_score.rouge_scorer import RougeScorer  # which imports nltk for seconds

        scorer, pairs = RougeScorer([kind]), zip(answered.answers, answered.targets, strict=True)
        return float(np.mean([scorer.score_multi(list(several), one)[kind].fmeasure for one, several in pairs]))

    return mean


def _padded(a: Answered) -> list[list[str | None]]:
    """The references as sacrebleu takes them; None where an answer has fewer than another."""
    most = max(map(len, a.targets))
    return [[several[k] if k < len(several) else None for several in a.targets] for k in range(most)]


def nist(a: Answered) -> float:
    """NIST as in `pymteval.py` of the E2E challenge's scorer; orders that no answer is long enough for are left out."""
    tokenize = Tokenizer13a()
    answers = [tokenize(one).lower().split() for one in a.answers]
    targets = [[tokenize(one).lower().split() for one in several] for several in a.targets]

    def grams(words: Sequence[str], n: int) -> Counter[tuple[str, ...]]:
        return Counter(tuple(words[start : start + n]) for start in range(len(words) - n + 1))

    counts: Counter[tuple[str, ...]] = Counter()
    for several in targets:
        for words in several:
            counts[()] += len(words)
            for n in range(1, 6):
                counts += grams(words, n)
    total = 0.0
    for n in range(1, 6):
        bits, size = 0.0, 0
        for answer, several in zip(answers, targets, strict=True):
            merged: Counter[tuple[str, ...]] = Counter()
            for words in several:
                merged |= grams(words, n)
            for gram, count in (grams(answer, n) & merged).items():
                bits += count * log(counts[gram[:-1]] / counts[gram], 2)
            size += max(len(answer) - n + 1, 0)
        total += bits / size if size else 0.0
    ratio = sum(map(len, answers)) / sum(np.mean([len(words) for words in several]) for several in targets)
    beta = -log(0.5) / log(1.5) ** 2
    return total * (1.0 if ratio >= 1 else 0.0 if ratio <= 0 else exp(-beta * log(ratio) ** 2))


def _length_ratio(a: Answered) -> float:
    above = below = 0
    for answer, several in zip(a.answers, a.targets, strict=True):
        length = len(answer.split())
        above += length
        below += sorted((abs(len(one.split()) - length), len(one.split())) for one in several)[0][1]
    return above / below


def _repeated(answer: str) -> float:
    words = answer.split()
    seen, repeats = set(), 0
    for place in range(len(words) - 3):
        repeats += tuple(words[place : place + 4]) in seen
        seen.add(tuple(words[place : place + 4]))
    return repeats / max(len(words) - 3, 1)


METRICS: dict[str, Callable[[Answered], float]] = {
    "rouge_l": _rouge("rougeL"),
    "rouge_1": _rouge("rouge1"),
    "rouge_2": _rouge("rouge2"),
    "bleu": lambda a: sacrebleu.corpus_bleu(list(a.answers), _padded(a), force=True).score / 100,
    "chrf": lambda a: sacrebleu.corpus_chrf(list(a.answers), _padded(a)).score / 100,
    "nist": nist,
    "exact_answer": _mean_of_best(lambda answer, reference: _squad_words(answer) == _squad_words(reference)),
    "token_f1": _mean_of_best(_squad_f1),
    "loss": lambda a: float(
        np.average(a.extras["nll"] / a.extras["reference_tokens"], weights=a.extras["reference_tokens"])
    ),
    "perplexity": lambda a: exp(a.extras["nll"].sum() / a.extras["reference_tokens"].sum()),
    "length_ratio": _length_ratio,
    "unended": lambda a: float(np.mean(~a.extras["ended"])),
    "repeated_4grams": lambda a: float(np.mean([_repeated(one) for one in a.answers])),
}


# Entities

TAGS = ("O", "B-LOC", "B-ORG", "B-PER", "I-LOC", "I-ORG", "I-PER")


def tags(generator: np.random.Generator, words: int) -> list[str]:
    """Valid IOB2 tags; more than half of the words are in no entity."""
    found: list[str] = []
    for place in generator.choice(7, words, p=[0.55, 0.1, 0.1, 0.05, 0.1, 0.05, 0.05]):
        tag = TAGS[place]
        valid = tag[0] != "I" or (found and found[-1][2:] == tag[2:])
        found.append(tag if valid else "B" + tag[1:])
    return found


def spans(tags: Sequence[str]) -> tuple[tuple[int, int, str], ...]:
    """The entities of valid tags; each word has three characters, and a space stands between words."""
    found: list[tuple[int, int, str]] = []
    for place, tag in enumerate(tags):
        if tag[0] == "I":
            found[-1] = (found[-1][0], 4 * place + 3, found[-1][2])
        elif tag[0] == "B":
            found.append((4 * place, 4 * place + 3, tag[2:]))
    return tuple(found)


def tagged(
    right: Sequence[Sequence[str]], found: Sequence[Sequence[str]], groups: np.ndarray | None = None
) -> Answered:
    """Answers as tags; `extras` also has the right and the answered tags, for other libraries."""
    words = objects([np.array([(4 * k, 4 * k + 3) for k in range(len(one))]).reshape(-1, 2) for one in right])
    extras = {"words": words, "right": objects(right), "found": objects(found)}
    extras |= {} if groups is None else {"document": groups}
    return Answered(objects([*map(spans, right)]), objects([*map(spans, found)]), None, extras)


def entities(generator: np.random.Generator, n: int) -> Answered:
    """Texts of up to 20 words; a third of the answers are those of another text, and others are right."""
    right = [tags(generator, size) for size in generator.integers(1, 20, n)]
    found = [tags(generator, len(one)) if generator.random() < 0.3 else one for one in right]
    return tagged(right, found)


def of_tags(name: str, average: str = "micro") -> Callable[[Answered], float]:
    """A figure of seqeval, in strict mode with IOB2 tags."""

    def value(answered: Answered) -> float:
        from seqeval import metrics
        from seqeval.scheme import IOB2

        given = answered.extras["right"].tolist(), answered.extras["found"].tolist()
        if name == "accuracy":
            return float(metrics.accuracy_score(*given))
        figure = getattr(metrics, f"{name}_score")
        return float(figure(*given, average=average, mode="strict", scheme=IOB2, zero_division=0))

    return value


def partial_f1(answered: Answered) -> float:
    """F1 of nervaluate's "partial"."""
    from nervaluate import Evaluator

    given = answered.extras["right"].tolist(), answered.extras["found"].tolist()
    return float(Evaluator(*given, tags=["LOC", "ORG", "PER"], loader="list").evaluate()["overall"]["partial"].f1)


OF_ENTITIES: dict[str, Callable[[Answered], float]] = {
    "entity_f1": of_tags("f1"),
    "entity_precision": of_tags("precision"),
    "entity_recall": of_tags("recall"),
    "macro_entity_f1": of_tags("f1", "macro"),
    "partial_f1": partial_f1,
    "token_accuracy": of_tags("accuracy"),
}
