"""Verbalizer: the prompt template around a text, and the tokens that stand for each label (label words).

The head consists of the language model's output embeddings of the label words. With a head of label words, the
classifier's prediction is the language model's zero-shot prediction (Schick and Schütze 2021,
https://arxiv.org/abs/2001.07676). If the language model does not tie its output embedding to the input embedding, afina
reads only the needed rows from the weight files.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self, get_args

import torch
from torch import Tensor
from transformers import PreTrainedConfig

from afina import tensorfile
from afina.data.label_words import are_words
from afina.data.template import Template
from afina.data.tokenize import Tokenizer
from afina.errors import InvalidStudy
from afina.models import problems
from afina.models.architectures import ARCHITECTURES
from afina.models.label_prompts import complete_words, own_names, suitable
from afina.models.pretrained import auto_class, quiet

Head = Literal["auto", "random", "words"]
HEADS: tuple[Head, ...] = get_args(Head)
"""Initial values of a classification head: drawn from the seed ("random"), the label words' output embeddings
("words"), or chosen automatically ("auto")."""


@dataclass(frozen=True)
class Verbalizer:
    """The prompt template around a text, with the words and tokens that stand for each label.

    Attributes:
        template: Prompt template around each text. None: no template.
        words: Label words by label name, in the order of the labels. None: the head is random.
        tokens: For each label, the tokens of the model's vocabulary that stand for it.
        offset: Whether an offset is added to each label's logit; the offsets are estimated on the training texts,
            without their labels.
        label_texts: Texts that stand for a label, by label name, in the order of the labels: the words that the user
            gave, or the label's name. An encoder compares them with the texts of the task. None: no texts.
    """

    template: Template | None = None
    words: Mapping[str, tuple[str, ...]] | None = None
    tokens: tuple[tuple[int, ...], ...] | None = None
    offset: bool = False
    label_texts: Mapping[str, tuple[str, ...]] | None = None

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
        """Return the verbalizer for a task.

        Args:
            head: "auto" means "words" if words or an offset are given, or if the texts are single and the label names
                are words with different first tokens; otherwise "random".
            template: None: a head of words gets a template that suits the labels, and a random head gets none.
            words: Label words by label name. None: the label names.

        Raises:
            InvalidStudy: The arguments contradict each other or the labels.
            UnknownName: `words` has a label that the task does not have.
        """
        if head == "random" and (words or offset):
            field = "words" if words else "offset"
            raise problems.UNUSED_BY_RANDOM_HEAD(option=field)
        if head == "auto":
            head = "words" if words or offset or (not pairs and _name_themselves(label_names, tokenizer)) else "random"
        if head == "words" and not words and not are_words(label_names):
            raise problems.LABELS_ARE_NO_WORDS(labels=label_names)
        if head == "words" and template is None:
            template = suitable(label_names, pairs=pairs)
        made = Template(template) if template is not None and template != "{text}" else None
        if made:
            made.check_pairs(pairs)
            made.check_fields()
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


_BEFORE = ":"
"""Text put before a label word when the word is tokenised, because a tokenizer may treat the first word of a text
differently."""


def label_tokens(tokenizer: Tokenizer, words: Mapping[str, Sequence[str]]) -> list[tuple[int, ...]]:
    """Return, for each label, the first tokens of its label words.

    Raises InvalidStudy if words of two labels begin with the same token.
    """
    found = {name: tuple(dict.fromkeys(_first(tokenizer, word) for word in given)) for name, given in words.items()}
    owner: dict[int, tuple[str, str]] = {}
    for name, given in words.items():
        for word in given:
            token = _first(tokenizer, word)
            other, earlier = owner.setdefault(token, (name, word))
            if other != name:
                raise problems.WORDS_AMBIGUOUS(
                    earlier=earlier,
                    other=other,
                    word=word,
                    label=name,
                    token=tokenizer.decode([token]),
                    labels=[other, name],
                    words=[earlier, word],
                )
    return list(found.values())


def _first(tokenizer: Tokenizer, word: str) -> int:
    """Return the first token of the label word `word` when it follows other text."""
    alone = tokenizer(_BEFORE, add_special_tokens=False)["input_ids"]
    whole = tokenizer(_BEFORE + word, add_special_tokens=False)["input_ids"]
    if whole[: len(alone)] == alone and len(whole) > len(alone):
        return int(whole[len(alone)])
    return int(tokenizer(word, add_special_tokens=False)["input_ids"][0])  # the word merges with the text before it


_TORCH = "pytorch_model.bin"


def embedding_rows(
    path: Path, config: PreTrainedConfig, embedding: Callable[[Tensor], Tensor], tokens: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """Return the output embeddings of N tokens: weights [N, width] and biases [N], float32.

    `embedding` is the body's input embedding, which is used if the model ties its embeddings. Raises NotFound if the
    weight files have no output embedding.
    """
    entry = ARCHITECTURES[config.model_type]
    with torch.device("meta"), quiet():
        model = auto_class(entry.language_model).from_config(config)
    layer, prefix = model.get_output_embeddings(), entry.output_embedding
    index = torch.tensor(tokens)
    tied = config.tie_word_embeddings
    weights = embedding(index).detach() if tied else _read_rows(path, f"{prefix}.weight", index)
    biases = torch.zeros(len(tokens)) if layer.bias is None else _read_rows(path, f"{prefix}.bias", index)
    return weights.float(), biases.float()


def output_embedding(path: Path, config: PreTrainedConfig, body: torch.nn.Module) -> torch.nn.Linear:
    """Return the frozen layer that computes the logits of all tokens from hidden states.

    If the model ties its embeddings, the layer's weight is the input embedding's own parameter, which is part of
    `body`. The other arguments and the exceptions are as in `embedding_rows`.
    """
    entry = ARCHITECTURES[config.model_type]
    with torch.device("meta"), quiet():
        model = auto_class(entry.language_model).from_config(config)
    layer, prefix = model.get_output_embeddings(), entry.output_embedding
    if config.tie_word_embeddings:
        layer.weight = body.get_input_embeddings().weight  # type: ignore[operator]  # a method of transformers' models
    else:
        layer.weight = torch.nn.Parameter(_read_rows(path, f"{prefix}.weight", None).float(), requires_grad=False)
    if layer.bias is not None:
        layer.bias = torch.nn.Parameter(_read_rows(path, f"{prefix}.bias", None).float(), requires_grad=False)
    return layer  # type: ignore[no-any-return]


def _read_rows(path: Path, name: str, index: Tensor | None) -> Tensor:
    """Read the rows `index` of a tensor from the weight file that contains the tensor; None: all rows."""
    for kind in ("model.safetensors", _TORCH):
        listed = path / f"{kind}.index.json"
        file = path / kind
        if listed.is_file():
            file = path / json.loads(listed.read_text(encoding="utf-8"))["weight_map"].get(name, "")
        if not file.is_file():
            continue
        if file.suffix == ".safetensors":
            found = tensorfile.read_rows(file, name, None if index is None else index.tolist())
        else:
            loaded = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
            found = loaded[name][... if index is None else index] if name in loaded else None
        if found is not None:
            return found
    raise problems.OUTPUT_EMBEDDING_MISSING(backbone=path.name, path=path, tensor=name)
