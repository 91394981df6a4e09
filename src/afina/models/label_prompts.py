"""The prompt templates that ask for a label, and the words that stand for labels, without torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from afina.data.label_words import are_words
from afina.errors import UnknownName
from afina.models import problems
from afina.sentence import Sentence

SENTIMENT = "Text: {text}\nSentiment:"
GENERAL = "Classify the text.\nText: {text}\nCategory:"
GENERAL_PAIR = "Classify the pair of texts.\nFirst: {text}\nSecond: {text_pair}\nCategory:"
TEMPLATES = (SENTIMENT, GENERAL, "Text: {text}\nTopic:", "{text} This is")
"""Prompt templates that `afina ask` compares. The first two templates are defaults of training;
docs/background/words.md has measurements of all templates."""

_SENTIMENTS = frozenset(("positive", "negative", "neutral", "mixed"))


def suitable(label_names: Sequence[str], *, pairs: bool) -> str:
    """Return the default template for labels: SENTIMENT, GENERAL, or GENERAL_PAIR for pairs of texts."""
    if pairs:
        return GENERAL_PAIR
    return SENTIMENT if _SENTIMENTS.issuperset(name.lower() for name in label_names) else GENERAL


def own_names(label_names: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Return each label's name after a space as the label's word, by label name."""
    return {name: (f" {name}",) for name in label_names}


def label_texts(
    label_names: Sequence[str], words: Mapping[str, Sequence[str]] | None
) -> dict[str, tuple[str, ...]] | None:
    """Return the texts that stand for each label: its words, or its name. None: there are no words but codes."""
    if words:
        found = complete_words(words, label_names)
        return {name: tuple(word.strip() for word in given) for name, given in found.items()}
    return {name: (name.replace("_", " "),) for name in label_names} if are_words(label_names) else None


def named_labels(label_names: Sequence[str], words: Mapping[str, Sequence[str]] | None) -> dict[str, tuple[str, ...]]:
    """Return the texts that stand for each label. Raises InvalidStudy for labels that are codes."""
    if (found := label_texts(label_names, words)) is None:
        raise problems.LABELS_ARE_NO_WORDS(labels=label_names)
    return found


def complete_words(words: Mapping[str, Sequence[str]], label_names: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Return the label words in the order of the labels. Raises InvalidStudy for a label without words."""
    for name in words:
        if name not in label_names:
            raise UnknownName("label", name, label_names, Sentence.of("`words`"))
    for name in label_names:
        given = words.get(name, ())
        if isinstance(given, str) or not given or not all(isinstance(word, str) and word.strip() for word in given):
            raise problems.LABEL_WITHOUT_WORDS(label=name)
    return {name: tuple(words[name]) for name in label_names}
