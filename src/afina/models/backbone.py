"""Backbone: a pretrained causal language model and its tokenizer, by address. Knows no task and no method."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import torch
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForSequenceClassification,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from afina import digest
from afina.errors import NotFound
from afina.models.address import RANDOM, locate
from afina.models.families import HEAD
from afina.models.kernels import attention
from afina.models.pretrained import first_line, quiet, read_config, read_tokenizer
from afina.seeds import derive
from afina.tensorfile import SafetensorError


@dataclass(frozen=True, eq=False)
class Backbone:
    """A causal language model that can be opened as a classifier.

    address  as the user named it: a Hub id with optional `@revision`, a directory, `embedded`, `random:DIR`
    path     a directory that any `from_pretrained` of transformers opens
    """

    address: str
    path: Path
    config: PreTrainedConfig
    tokenizer: PreTrainedTokenizerBase

    @classmethod
    def load(cls, address: str, *, weights: bool = True) -> Backbone:
        """Find `address`, fetching or converting it once. Raises NotFound, InvalidStudy (unsupported family).

        weights  False: do not fetch or draw any; `open` works where `complete` says so
        """
        path = locate(address, weights=weights)
        with quiet():
            config = read_config(path, address)
            tokenizer = read_tokenizer(path, address)
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        if config.pad_token_id is None:
            config.pad_token_id = tokenizer.pad_token_id
        return cls(address, path, config, tokenizer)

    @property
    def family(self) -> str:
        """transformers' `model_type`, a key of FAMILIES."""
        return str(self.config.model_type)

    @property
    def longest(self) -> int:
        """The most tokens a text may have."""
        return int(self.config.max_position_embeddings)

    @property
    def complete(self) -> bool:
        """Whether the weights are there, or can be drawn, and not only the configuration and the tokenizer."""
        return (
            self.address.startswith(RANDOM)
            or any(self.path.glob("*.safetensors"))
            or any(self.path.glob("pytorch_model*.bin"))
        )

    def open(self, label_names: Sequence[str], seed: int) -> PreTrainedModel:
        """transformers' classifier: the weights (float32) under a new head from the seed's own stream for heads."""
        names = dict(enumerate(label_names))
        with quiet():
            try:
                model = AutoModelForSequenceClassification.from_pretrained(
                    self.path,
                    config=self._labelled(names),
                    dtype=torch.float32,
                    attn_implementation=attention.NAME,
                )
            except (OSError, ValueError, SafetensorError) as error:
                raise NotFound(
                    f"backbone {self.address}: its weights cannot be opened ({first_line(error)}). "
                    "Copy it again, or save it again with save_pretrained."
                ) from None
        generator = torch.Generator().manual_seed(derive(seed, "head"))
        head = getattr(model, HEAD).weight
        with torch.no_grad():
            head.normal_(0.0, getattr(self.config, "initializer_range", 0.02), generator=generator)
        return cast(PreTrainedModel, model)

    def _labelled(self, names: dict[int, str]) -> PreTrainedConfig:
        config = AutoConfig.for_model(**self.config.to_dict())
        config.id2label, config.label2id = names, {name: index for index, name in names.items()}
        return config

    @property
    def digest(self) -> str:
        """Digest of the weights and the tokenizer."""
        return digest.of_json([self.weights_digest, self.tokenizer_digest])

    @cached_property
    def weights_digest(self) -> str:
        """Digest of the weights, without any head, as float32."""
        with quiet():
            return _hash(AutoModel.from_pretrained(self.path, dtype=torch.float32))

    def digest_of(self, body: Any, tokenizer_digest: str | None = None) -> str:
        """The digest, with this tokenizer or another, where weights are open and untouched: saves opening them twice.

        They are hashed the first time only.
        """
        if "weights_digest" not in vars(self):
            vars(self)["weights_digest"] = _hash(body)  # where cached_property keeps it
        return digest.of_json([self.weights_digest, tokenizer_digest or self.tokenizer_digest])

    @cached_property
    def tokenizer_digest(self) -> str:
        """Digest of the tokenizer's own serialisation, what its `tokenizer.json` holds; re-saving changes nothing."""
        content = json.loads(self.tokenizer.backend_tokenizer.to_str())
        content.update(truncation=None, padding=None)
        return digest.of_json(content)


def _hash(body: Any) -> str:
    return digest.of_tensors({name: parameter.detach().float() for name, parameter in body.named_parameters()})
