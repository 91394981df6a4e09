"""Verbalizer: how a model is asked about a text, and which of its tokens answer for each label.

The rows of the language model's output embedding for the labels' words make a head under which the classifier is the
language model's own answer (T. Schick and H. Schütze, 2021, https://arxiv.org/abs/2001.07676). A classifier has no
such layer, so where it is not tied to the input embedding, its rows are read from the weights' files, and no more of
them. Knows no method and no run.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self, get_args

import torch
from torch import Tensor
from transformers import PreTrainedConfig

from afina import tensorfile
from afina.data.tokenize import Template, Tokenizer
from afina.errors import InvalidStudy, NotFound, UnknownName
from afina.models.architectures import ARCHITECTURES
from afina.models.pretrained import auto_class, quiet

Head = Literal["auto", "random", "words"]
HEADS: tuple[Head, ...] = get_args(Head)
"""What a head may start from: a draw from the seed, the output embeddings of the labels' words, or what suits."""

SENTIMENT = "Text: {text}\nSentiment:"
GENERAL = "Classify the text.\nText: {text}\nCategory:"
GENERAL_PAIR = "Classify the pair of texts.\nFirst: {text}\nSecond: {text_pair}\nCategory:"
TEMPLATES = (SENTIMENT, GENERAL, "Text: {text}\nTopic:", "{text} This is")
"""What `afina ask` compares; the first two are used where none is given. Their origin: docs/background/words.md."""

_SENTIMENTS = frozenset(("positive", "negative", "neutral", "mixed"))


@dataclass(frozen=True)
class Verbalizer:
    """The template that a text stands in, and the words and tokens that answer for each label.

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
        """The verbalizer for a task with these labels, of `pairs` or of single texts.

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
        if head == "words" and not words and not are_words(label_names):
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
        chosen = complete_words(words or own_names(label_names), label_names)
        return cls(made, chosen, tuple(label_tokens(tokenizer, chosen)), offset)


def _name_themselves(label_names: Sequence[str], tokenizer: Tokenizer) -> bool:
    if not are_words(label_names):
        return False
    try:
        label_tokens(tokenizer, own_names(label_names))
    except InvalidStudy:
        return False
    return True


def _suitable(label_names: Sequence[str], pairs: bool) -> str:
    if pairs:
        return GENERAL_PAIR
    return SENTIMENT if _SENTIMENTS.issuperset(name.lower() for name in label_names) else GENERAL


_BEFORE = ":"
"""What a word is tokenised after, as it stands in a template: a tokenizer may treat a text's first word otherwise."""

_NAME = re.compile(r"[^\W\d_]{2,}(?:[ _/&'’-]+[^\W\d_]+)*")


def are_words(label_names: Sequence[str]) -> bool:
    """Whether the labels name themselves: letters alone, at least two; not numbers, codes and ids."""
    return all(_NAME.fullmatch(name) for name in label_names)


def own_names(label_names: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Each label's own name after a space."""
    return {name: (f" {name}",) for name in label_names}


def complete_words(words: Mapping[str, Sequence[str]], label_names: Sequence[str]) -> dict[str, tuple[str, ...]]:
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


def label_tokens(tokenizer: Tokenizer, words: Mapping[str, Sequence[str]]) -> list[tuple[int, ...]]:
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
    alone = tokenizer(_BEFORE, add_special_tokens=False)["input_ids"]
    whole = tokenizer(_BEFORE + word, add_special_tokens=False)["input_ids"]
    if whole[: len(alone)] == alone and len(whole) > len(alone):
        return int(whole[len(alone)])
    return int(tokenizer(word, add_special_tokens=False)["input_ids"][0])  # it merges with what stands before


_TORCH = "pytorch_model.bin"


def embedding_rows(
    path: Path, config: PreTrainedConfig, body: torch.nn.Module, tokens: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """Weights [N, width] and biases [N], float32, of N tokens; `body` is the opened model without a head.

    Raises NotFound where the files in `path` have no such layer.
    """
    entry = ARCHITECTURES[config.model_type]
    with torch.device("meta"), quiet():
        model = auto_class(entry.language_model).from_config(config)
    layer, prefix = model.get_output_embeddings(), entry.output_embedding
    index = torch.tensor(tokens)
    if config.tie_word_embeddings:
        embedding = body.get_input_embeddings()  # type: ignore[operator]  # a method of transformers' models
        weights = embedding(index).detach()
    else:
        weights = _read_rows(path, f"{prefix}.weight", index)
    biases = torch.zeros(len(tokens)) if layer.bias is None else _read_rows(path, f"{prefix}.bias", index)
    return weights.float(), biases.float()


def _read_rows(path: Path, name: str, index: Tensor) -> Tensor:
    """Rows of the tensor of that name, from whichever file has it."""
    for kind in ("model.safetensors", _TORCH):
        listed = path / f"{kind}.index.json"
        file = path / kind
        if listed.is_file():
            file = path / json.loads(listed.read_text(encoding="utf-8"))["weight_map"].get(name, "")
        if not file.is_file():
            continue
        if file.suffix == ".safetensors":
            found = tensorfile.read_rows(file, name, index.tolist())
        else:
            loaded = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
            found = loaded[name][index] if name in loaded else None
        if found is not None:
            return found
    raise NotFound(
        f"backbone {path.name}: its files have no {name}, so it cannot answer in words: they were saved from another "
        "kind of model than a causal language model. Copy it again, or set head=random.",
        code="backbone.unreadable",
        path=path,
        tensor=name,
    )
