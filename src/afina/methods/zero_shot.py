"""Zero-shot: the untrained model answers, by its own logits for label words or by similarity to labels' names.

The module does not import torch.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, cast

from afina.data.kinds import FIXED, Draw
from afina.methods import problems
from afina.methods.method import out_of_range
from afina.methods.pooled_features import PooledFeatures
from afina.methods.selective import Untrained
from afina.models.architectures import ARCHITECTURES, Pooling, check_can_be_asked

if TYPE_CHECKING:
    from afina.models.backbone import Backbone
    from afina.models.kernels.layout import Pooled


@dataclass(frozen=True)
class ZeroShot(Untrained, PooledFeatures):
    """Zero-shot: evaluates the language model's own logits for the label words, without training.

    With `shots`, training examples stand in the prompt (few-shot, in-context learning).

    An encoder with sentence-transformers' files compares the features of a text with those of the name or the words of
    each label: logits are cosine similarities times a constant.

    Attributes:
        pooling: How hidden states of an encoder are pooled into features, as in `LinearProbe`. `auto` on other models.
        normalize: Whether features of an encoder are divided by their Euclidean norm, as in `LinearProbe`.
        shots: Number of training examples in the prompt before each text.
        draw: "fixed": the same examples before each text, drawn by the seed with equal shares of the classes. The
            adapter's template then contains these examples. "nearest": for each text the most similar training texts
            by TF-IDF; a run has no adapter, because each text has a prompt of its own.
    """

    name: ClassVar[str] = "zero-shot"
    title: ClassVar[str] = "zero-shot"
    summary: ClassVar[str] = "the language model as it is, asked in words: what it answers before anything is trained"
    head: ClassVar[Literal["random", "words"] | None] = "words"
    why_without_adapter: ClassVar[str] = "each text has a prompt of its own, made from the training texts"
    stated: ClassVar[frozenset[str]] = frozenset()

    shots: int = 0
    draw: Draw = FIXED

    def __post_init__(self) -> None:
        if self.shots < 0:
            raise out_of_range(self.name, "0 or a greater whole number", shots=self.shots)
        if not self.shots and self.draw != FIXED:
            raise problems.DRAW_WITHOUT_SHOTS(method=self.name, draw=self.draw)
        if self.shots:
            nearest = "" if self.draw == FIXED else f"{self.draw} "
            object.__setattr__(self, "title", f"few-shot ({self.shots} {nearest}example{'s' * (self.shots != 1)})")

    @property
    def in_prompt(self) -> tuple[int, Draw]:
        return self.shots, self.draw

    @property
    def has_adapter(self) -> bool:
        """All texts have the same prompt, which an adapter can contain."""
        return self.draw == FIXED

    def for_backbone(self, backbone: Backbone) -> Self:
        return super().for_backbone(backbone) if backbone.architecture.is_encoder else self

    def for_family(self, family: str) -> Self:
        """Raises InvalidStudy for an encoder without sentence-transformers' files, or with examples in the prompt."""
        entry = ARCHITECTURES[family]
        if self.pooling == "auto" or self.shots:
            check_can_be_asked(entry, f"method {self.name}")
        made = replace(self, normalize=bool(self.normalize)) if entry.is_encoder else self
        object.__setattr__(made, "starts_apart", entry.is_encoder)  # another pooling changes the logits
        return made

    def pooled(self, model: Any) -> Pooled | None:
        from afina.models.kernels.layout import Pooled

        return None if self.pooling == "auto" else Pooled(cast(Pooling, self.pooling), bool(self.normalize))
