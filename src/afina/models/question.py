"""Question: how a model is asked about a text, and what in it answers. Knows no method, no run and no weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Self, get_args

from afina.data.template import Template, Tokenizer
from afina.errors import InvalidStudy
from afina.models import label_words

Head = Literal["auto", "random", "words"]
HEADS: tuple[Head, ...] = get_args(Head)
"""What a head may start from: a draw from the seed, the output embeddings of the labels' words, or what suits."""

SENTIMENT = "Text: {text}\nSentiment:"
GENERAL = "Classify the text.\nText: {text}\nCategory:"
GENERAL_PAIR = "Classify the pair of texts.\nFirst: {text}\nSecond: {text_pair}\nCategory:"
TEMPLATES = (SENTIMENT, GENERAL, "Text: {text}\nTopic:", "{text} This is")
"""What `afina ask` compares; the first two are used where none is given. How they were found: docs/words.md."""

_SENTIMENTS = frozenset(("positive", "negative", "neutral", "mixed"))


@dataclass(frozen=True)
class Question:
    """One of a task's labels is asked for.

    template  what a text stands in; None: it stands alone
    words     by label name, in their order; None: the head is drawn at random
    tokens    of each label, those of the model's vocabulary that answer for it
    offset    whether each label's output is shifted by what the training texts, without their labels, suggest
    """

    template: Template | None = None
    words: Mapping[str, tuple[str, ...]] | None = None
    tokens: tuple[tuple[int, ...], ...] | None = None
    offset: bool = False

    @classmethod
    def of(
        cls,
        label_names: Sequence[str],
        tokenizer: Tokenizer,
        *,
        pairs: bool,
        head: Head = "auto",
        template: str | None = None,
        words: Mapping[str, Sequence[str]] | None = None,
        offset: bool = False,
    ) -> Self:
        """The question for a task with these labels, of `pairs` or of single texts.

        head      "words", or "auto" where words are given, or where single texts have labels that are words and that
                  their first tokens tell apart; else the head is drawn at random
        template  None: with words, one that suits the labels; else none
        Raises InvalidStudy, UnknownName for settings that contradict each other or the labels.
        """
        if head == "random" and (words or offset):
            field = "words" if words else "offset"
            raise InvalidStudy(
                f'`{field}` with `head` "random", which has none. Leave one of them out.',
                code="option.inapplicable",
                option=field,
            )
        if head == "auto":
            head = "words" if words or offset or (not pairs and _name_themselves(label_names, tokenizer)) else "random"
        if head == "words" and not words and not label_words.are_words(label_names):
            raise InvalidStudy(
                f"the labels {', '.join(map(repr, label_names))} are no words that a language model could answer with. "
                "Give each label some with `words`.",
                code="words.missing",
                labels=label_names,
            )
        if head == "words" and template is None:
            template = _suitable(label_names, pairs)
        made = Template(template) if template is not None and template != "{text}" else None
        if made:
            made.check_pairs(pairs)
        if head == "random":
            return cls(made)
        chosen = label_words.complete(words or label_words.own_names(label_names), label_names)
        return cls(made, chosen, tuple(label_words.tokens(tokenizer, chosen)), offset)


def _name_themselves(label_names: Sequence[str], tokenizer: Tokenizer) -> bool:
    if not label_words.are_words(label_names):
        return False
    try:
        label_words.tokens(tokenizer, label_words.own_names(label_names))
    except InvalidStudy:
        return False
    return True


def _suitable(label_names: Sequence[str], pairs: bool) -> str:
    if pairs:
        return GENERAL_PAIR
    return SENTIMENT if _SENTIMENTS.issuperset(name.lower() for name in label_names) else GENERAL
