"""`Backbone`: a pretrained language model or encoder with its tokenizer, named by an address."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from afina import digest
from afina.digest import derive_seed
from afina.models import problems, verbalizer
from afina.models.architectures import ARCHITECTURES, Architecture, check_can_be_asked, head_entry_of, head_of
from afina.models.backbone_spec import FLOAT, PRECISIONS, RANDOM, decisive
from afina.models.kernels import attention
from afina.models.kernels.linear import held_by
from afina.models.objective import SINGLE_LABEL, Opening
from afina.models.pretrained import (
    auto_class,
    check_opens,
    first_line,
    locate,
    meta_from_config,
    quiet,
    read_config,
    read_tokenizer,
)
from afina.models.weights.copies import CopyPlace
from afina.models.weights.held import HeldModel, held_layers, hold_layers, open_held, open_unread
from afina.models.weights.stored import FloatWeights, StoredTensor, stored_tensors
from afina.models.weights.unread import Unread, is_stand_in
from afina.repr_html import ReprCard
from afina.tensorfile import SafetensorError


@dataclass(frozen=True, eq=False, repr=False)
class Backbone(ReprCard):
    """A pretrained causal language model or encoder that can be opened as a classifier.

    Attributes:
        address: The address that the user gave: a Hub id with optional `@revision`, a directory, the name of a
            packaged model (`embedded`, `bge`, `minilm`), or `random:DIR`.
        path: The directory with the model's files, which transformers' `from_pretrained` opens.
        config: transformers' configuration of the model.
        tokenizer: transformers' fast tokenizer of the model.
        drawn: Names of pretrained weights that the files lack, known after the weights were opened. afina draws these
            weights from a fixed seed, so they are the same at each opening.
        int8_factors: The factors of input channels for int8 products that `afina.predicting.predictor.int8_factors` has
            measured, by precision.
        copy_note: A sentence for the user about the quantised copy that the last opening wrote, or why no copy was
            written; "" if there is nothing to say.
    """

    address: str
    path: Path
    config: PreTrainedConfig
    tokenizer: PreTrainedTokenizerBase
    drawn: tuple[str, ...] = field(default=(), init=False)
    int8_factors: dict[str, dict[str, Tensor]] = field(default_factory=dict, init=False)
    copy_note: str = field(default="", init=False)
    _sources: Mapping[str, StoredTensor] = field(default_factory=dict, init=False)

    def facts(self) -> dict[str, object]:
        return {
            "address": self.address,
            "family": self.family,
            "layers": int(self.config.num_hidden_layers),
            "width": int(self.config.hidden_size),
            "longest text, in tokens": self.longest,
            "drawn, as the files lack it": self.drawn or None,
            "quantised copy": self.copy_note or None,
        }

    @classmethod
    def load(cls, address: str, *, weights: bool = True) -> Backbone:
        """Open the configuration and tokenizer at `address`. The first call downloads or converts the model.

        Args:
            address: A Hub id with optional `@revision`, a directory, `embedded`, `bge`, `minilm`, or `random:DIR`.
            weights: If False, weights are not downloaded or drawn; `Backbone.open` then works only if `complete` is
                true.

        Raises:
            NotFound: No model exists at the address.
            InvalidStudy: afina does not support the model's architecture.
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
        """The model's `model_type` in transformers, a key of `ARCHITECTURES`."""
        return str(self.config.model_type)

    @property
    def architecture(self) -> Architecture:
        return ARCHITECTURES[self.family]

    @property
    def longest(self) -> int:
        return int(self.config.max_position_embeddings) - self.architecture.position_offset(self.config)

    @property
    def vocabulary(self) -> int:
        """Number of token embeddings of the model, whose ids begin at 0. The tokenizer may have fewer tokens."""
        return int(self.config.vocab_size)

    @property
    def complete(self) -> bool:
        """Whether the directory has the model's weights, or the weights can be drawn (`random:DIR`)."""
        return (
            self.address.startswith(RANDOM)
            or any(self.path.glob("*.safetensors"))
            or any(self.path.glob("pytorch_model*.bin"))
        )

    def open(
        self,
        label_names: Sequence[str],
        seed: int,
        tokens: Sequence[Sequence[int]] | None = None,
        *,
        exact: bool = False,
        opening: Opening = SINGLE_LABEL,
        precision: str = FLOAT,
    ) -> tuple[PreTrainedModel, Tensor | None]:
        """Return a float32 classifier of transformers with a new head, and an offset to add to its logits (or None).

        If `precision` is int8 or NF4, each weight is converted as soon as it is read from safetensors files, so that
        memory is the converted model and one tensor in float32. Other weight files are first opened in float32.

        Args:
            label_names: Names of the labels, in the order of the head's outputs.
            seed: Seed of the head, used if the head is drawn at random.
            tokens: For each label, the tokens of its label words. Each label's row of the head is the mean of the
                output embeddings of the tokens of its label words. None: the head is drawn at random.
            exact: If True, the classifier's outputs are the language model's logits of the label words, and the offset
                is the mean of these words' biases. If `exact` is False, the head's rows are centred and scaled to the
                size of a random head, which is better for training (background/words.md).
            opening: Whether transformers opens a classifier of texts, a classifier of tokens, or a language model
                (`Objective.opening`). A language model keeps its own head and has no offset.
            precision: How the frozen weights of the body's linear layers are stored, a key of `PRECISIONS`.

        Raises:
            NotFound: The model's weight files cannot be opened.
            InvalidStudy: The backbone is an encoder and `tokens` is given, or transformers has no model of the family
                for `opening`.
        """
        self._check_can_open(opening, tokens)
        model, lacking = self._open(opening, label_names, precision)
        offset = self._begin_head(model, lacking, seed, tokens, exact=exact) if opening.has_head else None
        return cast(PreTrainedModel, model), offset

    def _check_can_open(self, opening: Opening, tokens: Sequence[Sequence[int]] | None) -> None:
        if tokens is not None:
            check_can_be_asked(self.architecture, f"backbone {self.address}")
        check_opens(self.architecture, opening, f"backbone {self.address}")

    def _begin_head(
        self, model: Any, lacking: set[str], seed: int, tokens: Sequence[Sequence[int]] | None, *, exact: bool
    ) -> Tensor | None:
        """Give a new head its first weights, and return the offset of its logits, as `open` says."""
        offset = None
        size = getattr(self.config, "initializer_range", 0.02)
        with torch.no_grad():
            if tokens is None:
                _draw(self._new_head(model, lacking), size, torch.Generator().manual_seed(derive_seed(seed, "head")))
            else:
                rows, offset = self._answering(model, tokens)
                if not exact:
                    rows, offset = rows - rows.mean(0), None
                    rows *= size / rows.square().mean().sqrt()
                head_of(model)[-1].weight.copy_(rows)
        return offset if offset is not None and offset.any() else None

    def open_unread(
        self,
        label_names: Sequence[str],
        seed: int,
        tokens: Sequence[Sequence[int]] | None = None,
        *,
        exact: bool = False,
        opening: Opening = SINGLE_LABEL,
        precision: str = FLOAT,
    ) -> tuple[PreTrainedModel, Tensor | None, Unread]:
        """Return the model of `open` whose weights before the pooling are stand-ins, its offset, and the stand-ins.

        The head has the same values as in the model of `open`. Raises also NotFound if there are no safetensors files.
        """
        self._check_can_open(opening, tokens)
        names = dict(enumerate(label_names))
        config = self._labelled(names, opening)
        options = {"config": config, "dtype": torch.float32, "attn_implementation": attention.NAME}
        with quiet():
            try:
                if (stored := stored_tensors(self.path)) is None:
                    raise problems.SHARDING_NEEDS_SAFETENSORS(backbone=self.address)
                meta = meta_from_config(self._labelled(names, opening), len(names), opening)
                held = PRECISIONS[precision].hold is not None
                model, found, unread, sources = open_unread(
                    type(meta), stored, held=held, ignore_mismatched_sizes=True, **options
                )
            except (OSError, ValueError, SafetensorError) as error:
                raise problems.FILE_UNREADABLE(
                    _part="its weights", reason=first_line(error), backbone=self.address
                ) from None
        vars(self)["_sources"], vars(self)["copy_note"] = sources, ""
        lacking = _lacking(found)
        self._fill(model.base_model, lacking, f"{model.base_model_prefix}.")
        offset = self._begin_head(model, lacking, seed, tokens, exact=exact) if opening.has_head else None
        return model, offset, unread

    def _open(self, opening: Opening, label_names: Sequence[str], precision: str) -> tuple[Any, set[str]]:
        """Return a model with all weights of its body, and the names of weights that the files lack."""
        hold = PRECISIONS[precision].hold
        names = dict(enumerate(label_names))
        options: dict[str, Any] = {
            "config": self._labelled(names, opening),
            "dtype": torch.float32,
            "attn_implementation": attention.NAME,
            "ignore_mismatched_sizes": True,  # of a head for other labels
        }
        place = opened = None
        with quiet():
            try:
                stored = None if hold is None else stored_tensors(self.path)
                if hold is None or stored is None:
                    opener = auto_class(getattr(self.architecture, opening.auto_class))
                    model, found = opener.from_pretrained(self.path, output_loading_info=True, **options)
                else:
                    meta = meta_from_config(self._labelled(names, opening), len(names), opening)
                    place = self._place_of_copy(precision, meta, stored)
                    opened = open_held(type(meta), self.path, stored, hold, place, **options)
                    model, found, vars(self)["_sources"] = opened.model, opened.found, opened.sources
            except (OSError, ValueError, SafetensorError) as error:
                raise problems.FILE_UNREADABLE(
                    _part="its weights", reason=first_line(error), backbone=self.address
                ) from None
        lacking = _lacking(found)
        self._fill(model.base_model, lacking, f"{model.base_model_prefix}.")
        if hold is not None and stored is None:
            self.digest_of(model.base_model)  # hashed while the weights are float32
            hold_layers(model.base_model, hold)
        vars(self)["copy_note"] = "" if opened is None else self._keep(opened, place)
        return model, lacking

    def _place_of_copy(self, precision: str, meta: Any, stored: Mapping[str, StoredTensor]) -> CopyPlace | None:
        """Return where the quantised copy of a model on the `meta` device is in the cache; None: no copy is kept."""
        made = PRECISIONS[precision]
        if made.form is None:
            return None
        settings = self.config.to_dict()
        settings.pop("_name_or_path", None)  # the same files in another directory have the same copy
        shapes = {name: list(parameter.shape) for name, parameter in meta.base_model.named_parameters()}
        decisive = {
            "settings": repr(sorted(settings.items())),
            "shapes": shapes,
            "held": sorted(held_layers(meta.base_model)),
        }
        return CopyPlace.of(self.path, stored, {"precision": precision, **made.form()}, decisive, made.cost)

    def _keep(self, opened: HeldModel, place: CopyPlace | None) -> str:
        """Take the weights' digest from the quantised copy, or write a copy; return a note for the user, or ""."""
        if place is None:
            return ""
        if opened.copy is not None:
            vars(self).setdefault("weights_digest", opened.copy.weights_digest)
            return ""
        weights_digest = self._hashed(opened.model.base_model)
        vars(self).setdefault("weights_digest", weights_digest)
        said = place.write(opened.by_source(), weights_digest)
        return f"{opened.damage}; {said}" if opened.damage else said

    def _new_head(self, model: PreTrainedModel, lacking: set[str]) -> list[nn.Module]:
        """Return the modules of the head that afina draws: all except those with pretrained weights."""
        head = head_entry_of(model)
        kept = f"{head.pretrained}."
        drawn = [path for path in head.modules if not path.startswith(kept) or f"{path}.weight" in lacking]
        return [model.get_submodule(path) for path in drawn]

    def _fill(self, body: nn.Module, lacking: set[str], prefix: str = "") -> None:
        """Draw the weights of the body's pooler that the files lack or have in another shape, from a fixed seed.

        Raises NotFound if the files lack other weights of the body.
        """
        object.__setattr__(self, "drawn", self._draw_missing(body, lacking, prefix))

    def _draw_missing(self, body: nn.Module, lacking: set[str], prefix: str = "") -> tuple[str, ...]:
        """Draw the weights as `_fill` does, and return their names."""
        own = {name: body.get_submodule(name.rpartition(".")[0]) for name, _ in body.named_parameters()}
        names = sorted(name for name in own if prefix + name in lacking)
        for name in names:
            if self.architecture.pooler != name.partition(".")[0]:
                raise problems.TENSOR_MISSING(backbone=self.address, tensor=name)
        size = getattr(self.config, "initializer_range", 0.02)
        layers = [own[name] for name in names if name.endswith(".weight")]
        with torch.no_grad():
            _draw(layers, size, torch.Generator().manual_seed(derive_seed(0, "missing weights")))
        return tuple(names)

    def _answering(self, model: PreTrainedModel, tokens: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """Return the mean output embedding [labels, width] and the mean bias [labels] of each label's tokens."""
        flat, sizes = [token for each in tokens for token in each], [len(each) for each in tokens]
        rows, biases = verbalizer.embedding_rows(self.path, self.config, self._embedding(model.base_model), flat)
        return (
            torch.stack([part.mean(0) for part in rows.split(sizes)]),
            torch.stack([part.mean() for part in biases.split(sizes)]),
        )

    def _embedding(self, body: Any) -> Callable[[Tensor], Tensor]:
        """Return the function that looks up token embeddings, from their file if the body's weights are not read."""
        embedding = body.get_input_embeddings()
        if not is_stand_in(embedding.weight):
            return cast(Callable[[Tensor], Tensor], embedding)
        name = next(name for name, each in body.named_parameters() if each is embedding.weight)
        return self._sources[name].look_up

    def _labelled(self, names: dict[int, str], opening: Opening) -> PreTrainedConfig:
        config = AutoConfig.for_model(**self.config.to_dict())
        if not opening.has_head:  # a language model has no labels
            return config
        config.problem_type = cast(Any, opening.problem_type or None)
        config.id2label, config.label2id = names, {name: index for index, name in names.items()}
        return config

    @property
    def shown(self) -> str:
        """The address as clients of a server see it; of a directory, only the last part of the path."""
        return self.address.replace(str(self.path), self.path.name)

    @property
    def is_hashed(self) -> bool:
        """Whether `digest` is known without reading the weight files."""
        return "weights_digest" in vars(self)

    @property
    def digest(self) -> str:
        """Digest of the backbone's weights, tokenizer and configuration."""
        return _joined(self.weights_digest, self.tokenizer_digest, self.settings)

    @cached_property
    def settings(self) -> dict[str, Any]:
        """The configuration's fields that change results and differ from transformers' defaults, as JSON values.

        `settings` also has the tokenizer's settings that `tokenizer_digest` does not cover. If the model is saved in
        another directory, its `settings` stay the same.
        """
        with quiet():
            usual = type(self.config)().to_dict()
        found = decisive(self.config.to_dict(), usual)
        beside = {
            "eos_token": self.tokenizer.eos_token,
            "truncation_side": self.tokenizer.truncation_side,
            "split_special_tokens": self.tokenizer.split_special_tokens,
        }
        return {"model_type": self.family, **found, **{f"tokenizer.{name}": value for name, value in beside.items()}}

    @cached_property
    def weights_digest(self) -> str:
        """Digest of the body's weights as float32, without any head.

        The weights' digest covers only tensors of a classifier's body: `AutoModel` may add a randomly drawn pooler.
        """
        with quiet():
            body, found = AutoModel.from_pretrained(self.path, dtype=torch.float32, output_loading_info=True)
            with torch.device("meta"):
                classifier = auto_class(self.architecture.classifier).from_config(self.config)
        read = {name for name, _ in classifier.base_model.named_parameters()}
        self._fill(body, _lacking(found) & read)
        return _hash(body, read, {})

    def digest_of(
        self, body: Any, tokenizer_digest: str | None = None, settings: Mapping[str, Any] | None = None
    ) -> str:
        """Return the backbone's digest, computed from an open, unchanged body, so that weights are opened once.

        The weights are hashed only the first time. Weights that `open` has stored as int8 or NF4 are read from their
        files once more, to hash them, and so is the pooler that the body of a token classifier lacks.

        Args:
            tokenizer_digest: Digest of the tokenizer to include. None: the backbone's own.
            settings: The `settings` to include. None: the backbone's own.

        Raises ValueError if a layer's weight was converted to int8 or NF4 after the backbone was opened.
        """
        if not self.is_hashed:
            vars(self)["weights_digest"] = self._hashed(body)  # where cached_property stores its value
        settings = self.settings if settings is None else settings
        return _joined(self.weights_digest, tokenizer_digest or self.tokenizer_digest, settings)

    def _hashed(self, body: Any) -> str:
        """Return the digest of the weights of an open, unchanged body, and of the pooler if the body has none."""
        names = {name for name, _ in body.named_parameters()}
        return _hash(body, names, self._sources, self._pooler_weights() if self._lacks_pooler(body) else {})

    def _lacks_pooler(self, body: Any) -> bool:
        """Whether a body of a family with a pooler was opened without it, as transformers opens token classifiers."""
        return self.architecture.pooler is not None and getattr(body, self.architecture.pooler) is None

    def _pooler_weights(self) -> dict[str, Tensor]:
        """Return the weights of the family's pooler by name, from the files or drawn as by `open`."""
        config = AutoConfig.for_model(**(self.config.to_dict() | {"num_hidden_layers": 0}))
        with quiet():
            body, found = AutoModel.from_pretrained(
                self.path, config=config, dtype=torch.float32, output_loading_info=True
            )
        prefix = f"{self.architecture.pooler}."
        self._draw_missing(body, _lacking(found))
        return {name: each.detach() for name, each in body.named_parameters() if name.startswith(prefix)}

    @property
    def chat_template(self) -> str | None:
        """The tokenizer's chat template, which `digest` does not cover. None: there is none."""
        return str(self.tokenizer.get_chat_template()) if self.tokenizer.chat_template else None

    @cached_property
    def tokenizer_digest(self) -> str:
        """Digest of the content of `tokenizer.json`, which loading and saving the tokenizer does not change."""
        content = json.loads(self.tokenizer.backend_tokenizer.to_str())
        content.update(truncation=None, padding=None)
        return digest.of_json(content)


def _joined(weights_digest: str, tokenizer_digest: str, settings: Mapping[str, Any]) -> str:
    text = json.dumps(settings, sort_keys=True)  # which, unlike `digest.of_json`, writes NaN
    return digest.of_json([weights_digest, tokenizer_digest, digest.of_strings([text])])


def _draw(head: Sequence[nn.Module], size: float, generator: torch.Generator) -> None:
    """Draw matrices from a normal distribution with standard deviation `size`; set biases to 0 and norms to 1."""
    for name, parameter in (named for layer in head for named in layer.named_parameters()):
        if parameter.dim() > 1:
            parameter.normal_(0.0, size, generator=generator)
        else:
            parameter.fill_(float(name.rpartition(".")[2] == "weight"))


def _lacking(found: dict[str, Any]) -> set[str]:
    """Return the names of weights that the files lack or have in another shape, as transformers reports them."""
    return {*found["missing_keys"], *(name for name, *_ in found["mismatched_keys"])}


def _hash(
    body: Any, names: set[str], sources: Mapping[str, StoredTensor], beside: Mapping[str, Tensor] = MappingProxyType({})
) -> str:
    """Return the digest of the weights `names` of a body as float32; those in `sources` are read from files.

    `beside` has further weights by name, which the body lacks.
    """
    if any(held_by(layer) is not None and f"{path}.weight" not in sources for path, layer in body.named_modules()):
        raise ValueError("a layer already holds its weight in another form; hash the backbone's weights before that")
    parameters = {
        name: each for name, each in body.named_parameters() if name in names and not is_stand_in(each)
    } | dict(beside)
    return digest.of_tensors(FloatWeights(parameters, sources))
