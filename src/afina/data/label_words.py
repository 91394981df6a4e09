"""Label words: which label names a language model can predict as words, and the accuracy that a random head loses."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from afina.data.readers.target_kinds import of_kind

_NAME = re.compile(r"[^\W\d_]{2,}(?:[ _/&'’-]+[^\W\d_]+)*")


def are_words(label_names: Sequence[str]) -> bool:
    """Return whether all label names are words (at least two letters, no digits), not numbers, codes or ids."""
    return all(_NAME.fullmatch(name) for name in label_names)


@dataclass(frozen=True)
class Cost:
    """The points of accuracy by which a head of label words beats a random head: the mean, the least and the most."""

    mean: float
    least: float
    most: float


COSTS: Mapping[int, Cost] = {
    16: Cost(18.9, 5.3, 27.6),
    64: Cost(6.7, 2.6, 10.5),
    256: Cost(4.5, 1.7, 8.3),
    1024: Cost(1.7, 0.3, 3.7),
}
"""The points of accuracy that a random head loses, by the number of training texts: from docs/words.jsonl, over three
tasks, LoRA and full fine-tuning on SmolLM2-135M.

A test computes the figures in COSTS again. The page docs/background/words.md has the same figures in a table.
"""


def no_words_note(label_names: Sequence[str], texts: int, how: str = "") -> str:
    """Return a note on labels that are not words: the accuracy that a random head loses, and the remedy.

    `how` is an example of how to give words; by default, one of the command line's `--words`.
    """
    size = min(COSTS, key=lambda known: abs(math.log(known / max(texts, 1))))
    cost, examples = COSTS[size], word_examples(label_names)
    names = " and ".join(f"`{name}`" for name, _ in examples)
    which = f"The labels {names}" if len(label_names) <= len(examples) else f"The labels ({names}, ...)"
    return (
        f"{which} are not words. A language model cannot be asked for them, so training starts from a random head. In "
        f"recorded trainings on {size:,} texts, a random head cost {cost.mean:g} points of accuracy on average "
        f"({cost.least:g} to {cost.most:g} over three tasks, LoRA and full fine-tuning). If the labels have a meaning, "
        f"give each label a word: {how or _option(label_names)} ({' and '.join(word for _, word in examples)} are only "
        "examples: put your own words there)."
    )


def word_examples(label_names: Sequence[str]) -> list[tuple[str, str]]:
    words = ("negative", "positive") if len(label_names) == 2 else ("sport", "politics")
    return list(zip(label_names, words, strict=False))


def _option(label_names: Sequence[str]) -> str:
    """Return an example of the option `--words`; if a label has a comma, each label has its own `--words`."""
    pairs = [f"{name}={word}" for name, word in word_examples(label_names)]
    parts = pairs if any("," in name for name in label_names) else [",".join(pairs)]
    more = ",..." * (len(label_names) > len(pairs))
    return " ".join(f"--words {shlex.quote(part)}" for part in parts) + more


def needs_words(kind: str, label_names: Sequence[str], *, pairs: bool) -> bool:
    """Return whether training starts from a random head only because the label names are not words.

    For pairs of texts, False is returned, because a head for pairs starts from words only on request.
    """
    read = of_kind(kind)
    return read.named and not (read.several or read.of_words) and not pairs and not are_words(label_names)
