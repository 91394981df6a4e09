"""`PooledFeatures`: the methods whose head reads pooled hidden states, which are called features or embeddings.

The hyperparameter `pooling` of such a method selects how hidden states are pooled; `auto` uses the pooling in a
sentence-transformers directory, which `sentence_pooling` reads. The module does not import torch.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from afina import file_io
from afina.errors import CorruptAdapter, InvalidStudy
from afina.methods import problems
from afina.methods.selective import Selective
from afina.models.architectures import Pooling

if TYPE_CHECKING:
    from torch import Tensor

    from afina.models.backbone import Backbone
    from afina.models.kernels.layer_changes import BatchedAdapter
    from afina.models.kernels.layout import Pooled
    from afina.models.objective import Opening


@dataclass(frozen=True)
class PooledFeatures(Selective):
    """The base class of methods whose head reads features, which are pooled hidden states of the body.

    Attributes:
        pooling: How the hidden states of a text's tokens are pooled into features. Subclasses list the choices.
        normalize: Whether features are divided by their Euclidean norm. If `normalize` is None, features are normalised
            if `pooling` is `auto` and sentence-transformers' files in the backbone's directory say so.
    """

    pooling: str = "auto"
    normalize: bool | None = None

    def for_opening(self, opening: Opening) -> Self:
        """Without a pooling for a token classifier, whose features are those of words. Raises InvalidStudy."""
        if opening.auto_class != "token_classifier":
            return self
        if self.pooling not in ("auto", "family") or self.normalize:
            raise problems.POOLING_OF_WORDS(method=self.name, pooling=self.pooling, normalize=bool(self.normalize))
        return replace(self, pooling="family", normalize=False)

    def for_backbone(self, backbone: Backbone) -> Self:
        """With the pooling of the backbone's sentence-transformers files in place of `auto`."""
        if self.pooling == "auto" and (said := sentence_pooling(backbone.path)) is not None:
            normalize = said.normalize if self.normalize is None else self.normalize
            return replace(self, pooling=said.pooling, normalize=normalize).for_family(backbone.family)
        return self.for_family(backbone.family)

    @abstractmethod
    def pooled(self, model: Any) -> Pooled | None:
        """How features are pooled; None: by the model family's own pooling."""

    def attach(self, model: Any) -> Any:
        from afina.models.added_modules import READOUT, PoolingReadout

        model = super().attach(model)
        if (pooled := self.pooled(model)) is not None:
            body = getattr(model, model.base_model_prefix)
            setattr(body, READOUT, PoolingReadout(pooled))
        return model

    def batched(self, model: Any, state: Mapping[str, Tensor], base: Any) -> BatchedAdapter | None:
        """A change of the pooling only, so that the body's layers are shared."""
        from afina.models.kernels.layer_changes import BatchedAdapter

        return BatchedAdapter(pooled=self.pooled(model))

    def merged(self, model: Any) -> Any:
        """The model: with the family's own pooling a classifier of transformers. Raises InvalidStudy for another."""
        if self.pooled(model) is None:
            return model
        how = f"pooling is {self.pooling}" if self.pooling != "family" else "normalize is true"
        raise problems.PROBE_NOT_EXPORTABLE(found=how, method=self.name, pooling=self.pooling)


class SentencePooling(NamedTuple):
    pooling: Pooling
    normalize: bool


MODULES, POOLING_CONFIG = "modules.json", "config.json"
_MODES: Mapping[str, Pooling] = {
    "pooling_mode_cls_token": "first",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_lasttoken": "last",
    **{"cls": "first", "mean": "mean", "lasttoken": "last"},
}
"""By the key or the name in the configuration of sentence-transformers' `Pooling` module."""


def sentence_pooling(directory: Path) -> SentencePooling | None:
    """Return the pooling in the sentence-transformers files of `directory`, or None. Raises InvalidStudy."""
    modules = directory / MODULES
    if not modules.is_file():
        return None
    content, pooling, normalize = _read(modules), None, False
    for each in content if isinstance(content, list) else []:
        kind = str(each.get("type")).rpartition(".")[2] if isinstance(each, dict) else "?"
        if kind == "Pooling":
            pooling = _mode(directory / Path(str(each.get("path"))).name / POOLING_CONFIG)
        elif kind == "Normalize":
            normalize = True
        elif kind != "Transformer":
            raise _unsupported(modules, f"a module of type {kind[:40]}")
    if pooling is None:
        raise _unsupported(modules, "no module of type Pooling")
    return SentencePooling(pooling, normalize)


def _mode(file: Path) -> Pooling:
    content = _read(file)
    if not isinstance(content, dict):
        raise _unsupported(file, f"a {type(content).__name__}")
    named = content.get("pooling_mode")
    switched = [key for key, value in content.items() if key.startswith("pooling_mode_") and value is True]
    modes = [named] if isinstance(named, str) else switched
    found = [_MODES.get(mode) for mode in modes]
    if len(found) != 1 or found[0] is None:
        raise _unsupported(file, f"the pooling {' and '.join(modes)[:80] or 'none'}")
    return found[0]


def _read(file: Path) -> Any:
    try:
        return file_io.read_json(file)
    except CorruptAdapter:
        raise _unsupported(file, "a file that cannot be read") from None


def _unsupported(file: Path, found: str) -> InvalidStudy:
    return problems.POOLING_OF_FILES_UNUSABLE(found=found, path=file)
