"""How an adapter tokenises texts. The module opens no model."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, Self

from afina import methods
from afina.data.concurrent_tokenizer import ConcurrentTokenizer
from afina.data.readers.texts import refuse_blank
from afina.data.template import Template
from afina.data.tokenize import Encoded, Tokenizer, encode
from afina.data.word_tokens import encode_words
from afina.methods.method import Method
from afina.methods.peft_settings import check_agrees
from afina.models import objectives
from afina.models.adapter import Adapter
from afina.models.architectures import is_output
from afina.models.backbone import Backbone
from afina.models.manifest import Manifest
from afina.models.predictions import Predictions
from afina.predicting import problems

SENTENCES = (
    "The soup was hot, the service quick, and we left happy.",
    "It stopped working on the second day.",
    "Nobody asked for a sequel, and this one shows why.",
    "A quiet, generous book about two brothers and a boat.",
    "The meeting has been moved to Thursday at ten.",
    "Not bad at all!",
    "I wanted to like it. I did not.",
    "7 of 10, would rent again",
)
"""The built-in sentences of the golden test; a manifest never records a user's texts."""


@dataclass(frozen=True)
class Truncation:
    """The length and side at which a request wants long texts truncated, if not as in training.

    Attributes:
        max_length: The number of tokens of a text, with template and special tokens; the adapter's own maximum still
            holds. None: only that one holds.
        side: None: the tokenizer's default.
    """

    max_length: int | None = None
    side: Literal["left", "right"] | None = None


AS_TRAINED = Truncation()
"""Texts are truncated as in training."""


@dataclass(frozen=True, eq=False)
class Reading:
    """The template, maximum length and truncation with which an adapter tokenises texts.

    `other` is a template that replaces the adapter's; None: the adapter's template is used.
    """

    manifest: Manifest
    where: str
    backbone: Backbone
    method: Method
    truncation: Truncation = AS_TRAINED
    other: Template | None = None

    def changed(self, template: Template | None, truncation: Truncation | None) -> Self:
        if template is None and truncation is None:
            return self
        return replace(self, other=template or self.other, truncation=truncation or self.truncation)

    @cached_property
    def template(self) -> Template | None:
        if self.other is not None or self.manifest.template is None:
            return self.other
        chat = bool((self.manifest.objective or {}).get("chat"))
        return Template(self.manifest.template, special_tokens=not chat)

    @cached_property
    def reads_words(self) -> bool:
        """Whether the model has an output for each word, so that a long text is read in windows."""
        return objectives.make(self.manifest.label_names, self.manifest.objective).reads_words

    @property
    def max_length(self) -> int:
        """Number of tokens to which a text is truncated."""
        own = self.manifest.max_length or self.backbone.longest - self.method.takes_positions
        return min(own, self.truncation.max_length or own)

    def _cutting(self, tokenizer: Tokenizer) -> Tokenizer:
        if self.truncation.side in (None, tokenizer.truncation_side):
            return tokenizer
        other = copy.copy(tokenizer)
        other.truncation_side = self.truncation.side
        return other

    def encode(
        self,
        texts: Sequence[str],
        pairs: Sequence[str] | None = None,
        *,
        where: str = "text",
        before: int = 0,
        tokenizer: Tokenizer | None = None,
        spaced: bool = False,
    ) -> Encoded:
        """Tokenise texts.

        Raises InvalidData as in `Predictor.predict`, and for a truncation that leaves no token of a text.

        Args:
            where: What error messages call the texts.
            before: Number of texts in earlier calls, which error messages add to a text's number.
            tokenizer: A tokenizer with the same results as the backbone's. None: the backbone's.
            spaced: As in `Predictor.predict`.
        """
        if self.other is None:
            check(self.manifest, self.where, texts, pairs, where=where, before=before)
        else:
            refuse_blank(texts, pairs, where=where, before=before)
        reads, template, most = self._cutting(tokenizer or self.backbone.tokenizer), self.template, self.max_length
        if self.truncation.max_length is not None:
            self._check_room(reads, pairs=pairs is not None)
        if self.reads_words:
            return encode_words(reads, texts, max_length=most, spaced=spaced, where=where, before=before)
        if isinstance(reads, ConcurrentTokenizer):
            texts, pairs = reads.shortened_all(texts, pairs, most, template)
        return encode(reads, texts, pairs, max_length=most, template=template, where=where, before=before)

    def _check_room(self, tokenizer: Tokenizer, *, pairs: bool) -> None:
        """Raise InvalidData if the request's maximum length leaves no token for a text."""
        template = self.template
        if template is None:
            taken = self.backbone.tokenizer.num_special_tokens_to_add(pair=pairs)
        else:
            taken = len(template.ids(tokenizer, [template.render("", "")])[0])
        if self.max_length <= taken:
            raise problems.NO_ROOM_FOR_TEXT(option="max_length", found=self.max_length, least=taken + 1)


def takes_pairs(manifest: Manifest) -> bool | None:
    """Whether an adapter was trained on pairs of texts; None: the adapter's manifest does not say."""
    if manifest.template is not None:
        return Template(manifest.template).takes_pairs
    if objectives.make(manifest.label_names, manifest.objective).reads_words:
        return False
    return manifest.pairs if manifest.pairs is not None else True if manifest.data.text_pair else None


def check(
    manifest: Manifest, adapter: str, texts: Sequence[str], pairs: Sequence[str] | None, *, where: str, before: int
) -> None:
    """Raise InvalidData for texts that the adapter cannot read; arguments as in `Predictor.predict`."""
    # Probes are single texts unless a template has pairs.
    probed = pairs is None and all(text in SENTENCES for text in texts)
    if takes_pairs(manifest) not in (None, pairs is not None) and not probed:
        if pairs is not None:
            raise problems.SINGLE_TEXTS_EXPECTED(where=adapter, expected="texts")
        raise problems.PAIRS_EXPECTED(where=adapter, expected="pairs")
    refuse_blank(texts, pairs, where=where, before=before)


def finite(predictions: Predictions, adapter: str) -> Predictions:
    """Return the predictions. Raises CorruptAdapter if an output is NaN or infinite."""
    if not predictions.finite:
        raise problems.OUTPUTS_NOT_FINITE(where=adapter)
    return predictions


def method_of(adapter: Adapter, backbone: Backbone) -> Method:
    """Return the adapter's method, with the default hyperparameters of the backbone's model family.

    Raises UnknownName or InvalidStudy for a method or hyperparameters that are not supported, and CorruptAdapter for an
    impossible size, or if the adapter's `adapter_config.json` differs from the manifest.
    """
    check_agrees(adapter)
    manifest = adapter.manifest
    method = methods.make(manifest.method, manifest.hyperparameters, adapter.where)
    _check_sizes(adapter, backbone, method.takes_positions)
    return method.for_backbone(backbone)


def _check_sizes(adapter: Adapter, backbone: Backbone, taken: int) -> None:
    """Raise CorruptAdapter for impossible sizes in the manifest, before memory of these sizes is allocated.

    `taken` is the number of the method's virtual tokens, by which a text's maximum length is shorter.
    """
    manifest = adapter.manifest
    if manifest.max_length + taken > backbone.longest:
        beside = f", and {taken} for its method" if taken else ""
        raise problems.MAX_LENGTH_BEYOND_BACKBONE(
            where=adapter.where,
            found=manifest.max_length,
            backbone=backbone.address,
            most=backbone.longest - taken,
            _beside=beside,
        )
    width = objectives.make(manifest.label_names, manifest.objective).width
    for name, tensor in adapter.tensors.items():
        rows = tensor.shape[0] if tensor.dim() == 2 else 0
        if is_output(name) and name.endswith("weight") and "lora_" not in name and rows != width:
            raise problems.HEAD_SHAPE(where=adapter.where, tensor=name, found=tensor.shape, labels=width)
