"""Linear probe: scikit-learn fits the head to features of the frozen body, without gradient steps.

`afina.training` computes a linear probe's features, and `afina.stats.linear_models` fits the head. The module does not
import torch.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import Field

from afina.methods import problems
from afina.methods.method import weight_names
from afina.methods.pooled_features import PooledFeatures
from afina.models.architectures import ARCHITECTURES, architecture_of, head_entry_of

if TYPE_CHECKING:
    from afina.models.kernels.layout import Pooled
    from afina.models.objective import Opening

PoolingChoice = Literal["auto", "family", "first", "last", "mean"]
"""With `auto`, as sentence-transformers' files in the backbone's directory say; without, as the model family's
classifier.
"""


LABEL_EXAMPLES = 8.0
"""The default of `LinearProbe.label_examples` on encoders of sentences (docs/background/words.md)."""


@dataclass(frozen=True)
class LinearProbe(PooledFeatures):
    """Linear probe: scikit-learn fits the head to features of the frozen body (logistic or ridge regression).

    The method `head` trains the same classification head by gradient steps. The strength of the linear probe's
    regularization is chosen by cross-validation on the training texts. If the head is a single layer, the seed does not
    change the result of a linear probe.

    Attributes:
        pooling: How the hidden states of a text's tokens are pooled into features. With `family`, hidden states are
            pooled as the model family's own classifier does, so that transformers can open the trained classifier. With
            `first` or `last`, the feature is the last layer's hidden state of the text's first or last token; with
            `mean`, the mean over all tokens of the text.
        normalize: Whether features are divided by their Euclidean norm. If `normalize` is None, features are normalised
            if `pooling` is `auto` and sentence-transformers' files in the backbone's directory say so.
        label_examples: The number of training texts for which each label's name, or its words, counts as a further
            example of the label. Only for classes whose names are words, or with `words`. None: 0; a run on a backbone
            with sentence-transformers' files states LABEL_EXAMPLES.
        common_scale: Whether all features are divided by one number, or each by its standard deviation. None: each by
            its own; a run states that normalised features of a backbone with sentence-transformers' files are divided
            by one number.
    """

    name: ClassVar[str] = "linear_probe"
    title: ClassVar[str] = "linear probe"
    summary: ClassVar[str] = "scikit-learn fits a linear head to what the frozen body gives, without gradient steps"
    search: ClassVar[None] = None
    practical: ClassVar[bool] = False  # choose has its own place for it
    trains_body: ClassVar[bool] = False
    is_fitted: ClassVar[bool] = True
    stated: ClassVar[frozenset[str]] = frozenset({"pooling", "normalize"})
    ignores: ClassVar[frozenset[str]] = frozenset(
        {"learning_rate", "weight_decay", "clip", "warmup", "label_smoothing", "average", "pull", "words", "offset"}
    )

    pooling: PoolingChoice = "auto"
    label_examples: Annotated[float, Field(ge=0)] | None = None
    common_scale: bool | None = None

    def __post_init__(self) -> None:
        own = self.pooling in ("auto", "family") and not self.normalize
        object.__setattr__(self, "starts_apart", not own)  # another pooling changes the logits

    def for_sentences(self) -> Self:
        normalized = self.pooling == "auto" and self.normalize is not False
        names = LABEL_EXAMPLES if self.label_examples is None else self.label_examples
        scale = normalized or None if self.common_scale is None else self.common_scale
        return replace(self, label_examples=names, common_scale=scale)

    def for_opening(self, opening: Opening) -> Self:
        made = super().for_opening(opening)
        reads_words = opening.auto_class == "token_classifier"
        return replace(made, label_examples=None, common_scale=None) if reads_words else made

    def chosen(self, model: Any) -> set[str]:
        """Those of the head's last layer. Other layers of a head keep their random weights."""
        last = f"{head_entry_of(model).output}."
        return {name for name in set.union(*weight_names(model)) if name.startswith(last)}

    def for_family(self, family: str) -> Self:
        """With `family` in place of `auto`. Raises InvalidStudy for `first` or `label_examples` on a causal model."""
        if not ARCHITECTURES[family].is_encoder:
            if self.pooling == "first":
                raise problems.POOLING_FIRST_OF_DECODER(method=self.name, pooling=self.pooling, family=family)
            if self.label_examples:
                raise problems.LABEL_EXAMPLES_OF_DECODER(
                    method=self.name, label_examples=self.label_examples, family=family
                )
        pooling: PoolingChoice = "family" if self.pooling == "auto" else self.pooling
        return replace(self, pooling=pooling, normalize=bool(self.normalize))

    def pooled(self, model: Any) -> Pooled | None:
        from afina.models.kernels.layout import Pooled

        if self.pooling != "auto" and self.pooling != "family":
            return Pooled(self.pooling, bool(self.normalize))
        if not self.normalize:
            return None
        entry = architecture_of(model)
        if head_entry_of(model).logits is None:
            return Pooled(entry.pooling_of(model.config), normalize=True)
        raise problems.NORMALIZE_BEFORE_OWN_LAYERS(family=entry.family, method=self.name, normalize=True)
