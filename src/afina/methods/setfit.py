"""SetFit: pairs of training texts train an encoder, then scikit-learn fits the head to its embeddings.

`afina.training.contrastive_fit` takes the steps, and `afina.data.pairs` draws the pairs. The module does not import
torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import Field

from afina.data.kinds import CLASSES, Kind
from afina.data.pair_sampling import PairSampling, SamplingStrategy
from afina.methods import problems
from afina.methods.pooled_features import PooledFeatures
from afina.models.architectures import ARCHITECTURES, head_entry_of, is_after_pooling

if TYPE_CHECKING:
    from torch import Tensor

    from afina.models.kernels.layer_changes import BatchedAdapter
    from afina.models.kernels.layout import Pooled

EmbeddingPooling = Literal["auto", "first", "last", "mean"]
"""How SetFit pools hidden states into an embedding. With `auto`, hidden states are pooled as sentence-transformers'
files in the backbone's directory say; without such files, the embedding is the mean over all tokens."""


@dataclass(frozen=True)
class SetFit(PooledFeatures):
    """SetFit (Tunstall et al. 2022): contrastive pairs of texts train the body, then scikit-learn fits the head.

    The loss of a pair is the squared error of the cosine similarity of the two embeddings: 1 is expected for two texts
    of the same label, and 0 for two texts of different labels. After the last step, logistic regression (C = 0.01) is
    fitted to the embeddings of all training texts. `train.batch_size` is a number of pairs. All pairs are used once,
    unless `train.max_steps` is given.

    Attributes:
        pooling: How the hidden states of a text's tokens are pooled into an embedding: `first` or `last` is the hidden
            state of the text's first or last token, and `mean` is the mean over all tokens of the text.
        normalize: Whether embeddings are divided by their Euclidean norm. If `normalize` is None, embeddings are
            normalised if `pooling` is `auto` and sentence-transformers' files in the backbone's directory say so.
        sampling_strategy: How many pairs are drawn. "oversampling": as many positive as negative pairs, until every
            pair was drawn; the kind with fewer pairs is repeated. "undersampling": as many positive as negative pairs,
            until every pair of the kind with fewer pairs was drawn. "unique": every pair once.
        num_iterations: The number of positive and of negative pairs for each text, in place of `sampling_strategy`.
            None: the number of pairs follows from `sampling_strategy`.
        max_pairs: The largest number of pairs; of more pairs, a random part is drawn.
    """

    name: ClassVar[str] = "setfit"
    title: ClassVar[str] = "SetFit"
    summary: ClassVar[str] = "encoders only: pairs of texts train every parameter, then scikit-learn fits the head"
    learning_rate: ClassVar[float] = 2e-5
    practical: ClassVar[bool] = False  # choose has no recorded curve of it
    starts_apart: ClassVar[bool] = True
    trains_all: ClassVar[bool] = True
    needs_encoder: ClassVar[bool] = True
    kinds: ClassVar[frozenset[Kind] | None] = frozenset({CLASSES})
    ignores: ClassVar[frozenset[str]] = frozenset({"epochs", "label_smoothing", "average", "words", "offset"})

    pooling: EmbeddingPooling = "auto"
    sampling_strategy: SamplingStrategy = "oversampling"
    num_iterations: Annotated[int, Field(ge=1)] | None = None
    max_pairs: Annotated[int, Field(ge=2)] = 16_000

    @property
    def pairs(self) -> PairSampling | None:
        return PairSampling(self.sampling_strategy, self.num_iterations, self.max_pairs)

    def chosen(self, model: Any) -> set[str]:
        """Those below the pooling, and the head's last layer, which reads the embeddings."""
        last = f"{head_entry_of(model).output}."
        names = {name for name, _ in model.named_parameters()}
        return {name for name in names if not is_after_pooling(name) or name.startswith(last)}

    def for_family(self, family: str) -> Self:
        """With `mean` in place of `auto`. Raises InvalidStudy for a causal model."""
        if not ARCHITECTURES[family].is_encoder:
            raise problems.ENCODER_NEEDED(method=self.name, family=family)
        pooling: EmbeddingPooling = "mean" if self.pooling == "auto" else self.pooling
        return replace(self, pooling=pooling, normalize=bool(self.normalize))

    def pooled(self, model: Any) -> Pooled:
        """Layers between the embeddings and the head's last layer, such as BERT's pooler, are frozen and not used."""
        from afina.models.kernels.layout import Pooled

        assert self.pooling != "auto"
        return Pooled(self.pooling, bool(self.normalize))

    def batched(self, model: Any, state: Mapping[str, Tensor], base: Any) -> BatchedAdapter | None:
        """None: every layer of the body was trained."""
        return None

    def merged(self, model: Any) -> Any:
        """Raise InvalidStudy: transformers' classifiers of encoders compute no logits from embeddings."""
        raise problems.EMBEDDINGS_NOT_EXPORTABLE(method=self.name, pooling=self.pooling)
