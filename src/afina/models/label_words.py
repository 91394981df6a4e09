"""Label words: which tokens of a language model answer for each label (elsewhere: a verbalizer).

The rows of its output embedding for these tokens make a head under which the classifier is the language model's own
answer (T. Schick and H. Schütze, 2021, https://arxiv.org/abs/2001.07676). Knows tokenizers; no weights and no task.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from afina.data.template import Tokenizer
from afina.errors import InvalidStudy, UnknownName

BEFORE = ":"
"""What a word is tokenised after, as it stands in a template: a tokenizer may treat a text's first word otherwise."""

_NAME = re.compile(r"[^\W\d_]{2,}(?:[ _/&'’-]+[^\W\d_]+)*")


def are_words(label_names: Sequence[str]) -> bool:
    """Whether the labels name themselves: letters alone, at least two; not numbers, codes and ids."""
    return all(_NAME.fullmatch(name) for name in label_names)


def own_names(label_names: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Each label's own name after a space."""
    return {name: (f" {name}",) for name in label_names}


def complete(words: Mapping[str, Sequence[str]], label_names: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """The words in the order of the labels.

    Raises UnknownName, InvalidStudy unless all labels, and no others, have some.
    """
    for name in words:
        if name not in label_names:
            raise UnknownName("label", name, label_names, "`words`")
    for name in label_names:
        given = words.get(name, ())
        if isinstance(given, str) or not given or not all(isinstance(word, str) and word.strip() for word in given):
            raise InvalidStudy(
                f"`words`: label {name!r} has no words. Give a list of some for every label.",
                code="words.missing",
                label=name,
            )
    return {name: tuple(words[name]) for name in label_names}


def tokens(tokenizer: Tokenizer, words: Mapping[str, Sequence[str]]) -> list[tuple[int, ...]]:
    """Of each label, the first token of each of its words.

    Raises InvalidStudy where a token would answer for two labels.
    """
    found = {name: tuple(dict.fromkeys(_first(tokenizer, word) for word in given)) for name, given in words.items()}
    owner: dict[int, tuple[str, str]] = {}
    for name, given in words.items():
        for word in given:
            token = _first(tokenizer, word)
            other, earlier = owner.setdefault(token, (name, word))
            if other != name:
                raise InvalidStudy(
                    f"`words`: {earlier!r} of {other!r} and {word!r} of {name!r} begin with the same token, "
                    f"{tokenizer.decode([token])!r}, which cannot tell the labels apart. Give other words with "
                    "`words`.",
                    code="words.ambiguous",
                    labels=[other, name],
                    words=[earlier, word],
                )
    return list(found.values())


def _first(tokenizer: Tokenizer, word: str) -> int:
    """Of the tokens that `word` adds to a text before it."""
    alone = tokenizer(BEFORE, add_special_tokens=False)["input_ids"]
    whole = tokenizer(BEFORE + word, add_special_tokens=False)["input_ids"]
    if whole[: len(alone)] == alone and len(whole) > len(alone):
        return int(whole[len(alone)])
    return int(tokenizer(word, add_special_tokens=False)["input_ids"][0])  # it merges with what stands before
