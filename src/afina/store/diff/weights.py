"""The weight changes of an adapter by layer: LoRA's products B @ A, and all other tensors as they are stored.

The norms, distances, input spaces and output spaces of products are computed from the factors A and B alone.
Classification heads are matched by label, and bag-of-words models by term. The scale of a product is read from the
settings that afina's methods and peft store.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import isfinite, sqrt
from typing import TYPE_CHECKING, Any, Self

from afina.errors import CorruptAdapter, InvalidStudy
from afina.methods.peft_settings import Ends
from afina.models.adapter import FOREIGN, Adapter
from afina.models.architectures import is_output
from afina.models.manifest import Manifest
from afina.store import adapter_kinds, problems

if TYPE_CHECKING:
    from torch import Tensor


LORA = "lora"
ALPHA, PEFT_ALPHA = 16.0, 8.0
"""The default alpha of LoRA in afina (ALPHA) and in peft (PEFT_ALPHA)."""

_FACTORS = ((".lora_A.weight", ".lora_B.weight"), (".lora_embedding_A", ".lora_embedding_B"))
"""The ends of the names of LoRA's factors A and B: of a linear layer, and of an embedding."""

_BIAS = ".lora_B.bias"
"""The end of the name of the bias of LoRA's factor B, which has the same scale as the product B @ A."""

_OTHERWISE = ("use_qalora", "use_bdlora", "kasa_config", "monteclora_config", "arrow_config", "target_parameters")
"""Settings of peft's LoRA with which the weight change of a layer is not scale * B @ A."""


def is_foreign(manifest: Manifest) -> bool:
    """Return whether an adapter was made by peft and not by afina, so that its labels have no names.

    The manifest of an adapter that afina's method `peft` trained has the hyperparameter `type`, the manifest of an
    adapter made by peft does not.
    """
    return manifest.method == FOREIGN and "type" not in manifest.hyperparameters


def effective_weights(adapter: Adapter) -> dict[str, LowRankProduct | Tensor]:
    """Return an adapter's weight changes: LoRA's products by layer name, and other tensors by tensor name.

    Layers and tensors have the names that they have in the backbone, without peft's prefix `base_model.model.`.

    Raises:
        CorruptAdapter: the shapes of LoRA's factors do not match, or a scale is not a finite number.
    """
    tensors = {name.removeprefix("base_model.model."): tensor for name, tensor in adapter.tensors.items()}
    scales = LoraScales.of(adapter)
    if scales is None:
        return dict(tensors)
    found: dict[str, LowRankProduct | Tensor] = {}
    for name in list(tensors):
        for right, left in _FACTORS:
            layer = name.removesuffix(right)
            if layer == name or layer + left not in tensors:
                continue
            # Factors of a convolution have more axes.
            if tensors[layer + right].dim() == tensors[layer + left].dim() == 2:
                found[layer] = _product(adapter, layer, tensors.pop(layer + left), tensors.pop(layer + right), scales)
    for name in tensors:
        layer = name.removesuffix(_BIAS)
        if layer in found and layer != name:
            tensors[name] = tensors[name].double() * found[layer].scale  # type: ignore[union-attr]
    return found | tensors


def _product(adapter: Adapter, layer: str, left: Tensor, right: Tensor, scales: LoraScales) -> LowRankProduct:
    if left.shape[1] != right.shape[0] or not right.shape[0]:
        raise problems.FACTORS_MISMATCH(
            found=list(left.shape), other=list(right.shape), where=adapter.where, layer=layer
        )
    return LowRankProduct(left, right, scales.scale(layer, right.shape[0]))


@dataclass(frozen=True)
class LoraScales:
    """The scales of LoRA's products B @ A in an adapter: alpha / r, or alpha / sqrt(r) with rsLoRA.

    Attributes:
        alpha: LoRA's alpha.
        rslora: whether alpha is divided by sqrt(r) (rsLoRA).
        dora: whether the sum of weight and product is rescaled (DoRA).
        patterns: the alphas of single layers, by patterns of layer names (peft's `alpha_pattern`).
        where: the adapter's name in error messages.
    """

    alpha: float
    rslora: bool = False
    dora: bool = False
    patterns: Mapping[str, float] = field(default_factory=dict)
    where: str = "adapter"

    @classmethod
    def of(cls, adapter: Adapter) -> Self | None:
        """Return the scales of an adapter; None if the adapter's weight changes are not scale * B @ A."""
        manifest, where = adapter.manifest, adapter.where
        if is_foreign(manifest):
            given = manifest.hyperparameters
            if given.get("peft_type") != "LORA" or any(given.get(key) for key in _OTHERWISE):
                return None
            alphas = given.get("alpha_pattern") or {}
            if not isinstance(alphas, Mapping):
                raise _corrupt(where, "alpha_pattern", alphas, "a table of numbers")
            patterns = {key: _number(where, f"alpha_pattern.{key}", value) for key, value in alphas.items()}
            alpha = _number(where, "lora_alpha", given.get("lora_alpha", PEFT_ALPHA))
            return cls(alpha, bool(given.get("use_rslora")), bool(given.get("use_dora")), patterns, where)
        methods = manifest.method.split("+")  # a sum's hyperparameters are by part
        if LORA not in methods:
            return None
        given = manifest.hyperparameters if len(methods) == 1 else manifest.hyperparameters.get(LORA, {})
        if not isinstance(given, Mapping):
            raise _corrupt(where, LORA, given, "a table of hyperparameters")
        alpha = _number(where, "alpha", given.get("alpha", ALPHA))
        return cls(alpha, bool(given.get("rslora")), bool(given.get("dora")), where=where)

    def scale(self, layer: str, rank: int) -> float:
        """Return the scale of the product in a layer.

        As in peft, the alpha of a layer is that of the first pattern that matches the layer's name, or the end of the
        name after a dot.
        """
        key = self._find(layer)
        alpha = self.alpha if key is None else self.patterns[key]
        return alpha / (sqrt(rank) if self.rslora else rank)

    @cached_property
    def _find(self) -> Ends:
        try:
            return Ends("alpha_pattern", self.patterns)
        except InvalidStudy:
            raise _corrupt(self.where, "alpha_pattern", [*self.patterns], "patterns of layers' names") from None


def _number(where: str, name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value):
        raise _corrupt(where, name, value, "a number")
    return float(value)


def _corrupt(where: str, name: str, value: Any, expected: str) -> CorruptAdapter:
    return problems.HYPERPARAMETER_INVALID(expected=expected, where=where, field=name, found=str(value)[:40])


@dataclass(frozen=True, eq=False)
class LowRankProduct:
    """The weight change of a layer with LoRA: the product scale * left @ right.

    Attributes:
        left: LoRA's factor B, [outputs, r].
        right: LoRA's factor A, [r, inputs].
        scale: LoRA's scale, such as alpha / r.
    """

    left: Tensor
    right: Tensor
    scale: float = 1.0

    @property
    def shape(self) -> tuple[int, int]:
        """The shape of the product, [outputs, inputs]."""
        return self.left.shape[0], self.right.shape[1]

    @cached_property
    def norm(self) -> float:
        """The Frobenius norm of the product."""
        return _row_norms([self])

    @property
    def rank(self) -> int:
        """The numerical rank of the product: the number of directions above the stored factors' rounding error."""
        return self.spaces[0].shape[1]

    @cached_property
    def spaces(self) -> tuple[Tensor, Tensor]:
        """Orthonormal bases of the product's output and input spaces, float64 [outputs, rank] and [inputs, rank]."""
        import torch

        left, right = self.left.double(), self.right.double()
        outputs, above = torch.linalg.qr(left)
        inputs, below = torch.linalg.qr(right.T)
        u, sizes, v = torch.linalg.svd(above @ below.T, full_matrices=False)
        # Rounding each entry of a factor (half a unit in the last place) changes the product by at most this.
        least = _unit(self.left, self.right) * float(left.norm() * right.norm())
        kept = int((sizes > least).sum())
        return outputs @ u[:, :kept], inputs @ v[:kept].T

    def distance(self, other: LowRankProduct) -> float:
        """Return the Frobenius norm of the difference between this product and another; exactly 0 for equal factors."""
        import torch

        same = self.scale == other.scale and self.left.shape == other.left.shape
        if same and torch.equal(self.left, other.left) and torch.equal(self.right, other.right):
            return 0.0
        return _row_norms([self, LowRankProduct(other.left, other.right, -other.scale)])

    def rows(self, chosen: list[int]) -> LowRankProduct:
        """Return the product with only the outputs at the indices `chosen`, in that order."""
        return LowRankProduct(self.left[chosen], self.right, self.scale)


def principal_angles(first: Tensor, second: Tensor) -> tuple[float, ...]:
    """Return the min(p, q) principal angles between two subspaces, in degrees, ascending.

    A cosine is inaccurate for small angles, and a sine for angles near 90 degrees, so each angle is computed from the
    more accurate of its cosine and its sine (Björck & Golub 1973).

    Args:
        first: an orthonormal basis of the first subspace, float64 [n, p].
        second: an orthonormal basis of the second subspace, float64 [n, q].
    """
    import torch

    if first.shape[1] < second.shape[1]:
        first, second = second, first
    if not second.shape[1]:
        return ()
    within = first.T @ second
    cosines = torch.linalg.svdvals(within).clamp(0, 1)
    sines = torch.linalg.svdvals(second - first @ within).flip(0).clamp(0, 1)
    found = torch.where(cosines**2 < 0.5, torch.arccos(cosines), torch.arcsin(sines))
    return tuple(torch.rad2deg(found).tolist())


def _row_norms(terms: list[LowRankProduct]) -> float:
    """Return the Frobenius norm of the sum of low-rank products that all have the same shape."""
    import torch

    above = torch.linalg.qr(torch.cat([term.scale * term.left.double() for term in terms], dim=1))[1]
    below = torch.linalg.qr(torch.cat([term.right.double() for term in terms]).T)[1]
    return float((above @ below.T).norm())


def _unit(*factors: Tensor) -> float:
    """Return the machine epsilon of the coarsest dtype of the factors, but at least 10 times that of float64."""
    import torch

    units = [torch.finfo(factor.dtype).eps for factor in factors if factor.is_floating_point()]
    return float(max([10 * torch.finfo(torch.float64).eps, *units]))


FEW = 5
"""The largest number of names that a message lists."""

_ROWS, _COLUMNS = ("weights", "bias"), ("weights", "idf")
"""The names of the tensors of a bag-of-words model that have a row for each label (_ROWS), and of those that have a
column for each term (_COLUMNS)."""


@dataclass(frozen=True)
class LabelMatching:
    """How the rows (labels) and columns (terms) of the classification heads of two adapters are matched.

    Attributes:
        sizes: the number of labels of each adapter.
        rows: the indices of the common labels in each adapter, in the order of the first adapter. None: rows are
            matched by index.
        columns: the index of each adapter's terms among the terms of both adapters. None: both have the same terms.
        terms: the number of terms of both adapters together.
        notes: sentences about the matching.
    """

    sizes: tuple[int, int]
    rows: tuple[list[int], list[int]] | None
    columns: tuple[list[int], list[int]] | None
    terms: int
    notes: tuple[str, ...]

    @classmethod
    def of(cls, first: Adapter, second: Adapter) -> Self:
        """Match the labels and terms of two adapters by name.

        The rows of the heads of regression adapters, and of adapters without label names, are matched by index.
        """
        one, other = first.manifest, second.manifest
        notes = []
        rows = None
        if is_foreign(one) != is_foreign(other):
            notes.append("One adapter was made by peft and has no label names: rows of the head are compared in order.")
        elif one.label_names != other.label_names and all(adapter_kinds.of(made).by_label for made in (one, other)):
            rows, said = _by_label(one.label_names, other.label_names)
            notes += said
        columns, terms = None, 0
        if first.vocabulary is not None and second.vocabulary is not None and first.vocabulary != second.vocabulary:
            places = {term: place for place, term in enumerate(dict.fromkeys(first.vocabulary + second.vocabulary))}
            columns = ([places[t] for t in first.vocabulary], [places[t] for t in second.vocabulary])
            terms = len(places)
            new, gone = (terms - len(set(words)) for words in (first.vocabulary, second.vocabulary))
            notes.append(
                f"The second adapter has {new:,} new terms and lacks {gone:,} terms; missing terms count as 0."
            )
        return cls((len(one.label_names), len(other.label_names)), rows, columns, terms, tuple(notes))

    def matched(
        self, name: str, first: LowRankProduct | Tensor, second: LowRankProduct | Tensor
    ) -> tuple[LowRankProduct | Tensor, LowRankProduct | Tensor] | None:
        """Return a tensor (or a product B @ A of LoRA) of both adapters with matching rows and columns.

        None is returned if the adapters have no label in common, or if a tensor does not have a row for each label.
        """
        if self.columns is not None and name in _COLUMNS:
            first, second = self._spread(first, 0), self._spread(second, 1)
        if self.rows is not None and (is_output(name) or name in _ROWS):
            if (first.shape[0], second.shape[0]) != self.sizes or not self.rows[0]:
                return None
            first, second = _chosen(first, self.rows[0]), _chosen(second, self.rows[1])
        return first, second

    def _spread(self, part: LowRankProduct | Tensor, which: int) -> LowRankProduct | Tensor:
        assert self.columns is not None
        places = self.columns[which]
        if isinstance(part, LowRankProduct) or part.shape[-1] != len(places):
            return part
        made = part.new_zeros((*part.shape[:-1], self.terms))
        made[..., places] = part
        return made


def _chosen(part: LowRankProduct | Tensor, places: list[int]) -> LowRankProduct | Tensor:
    return part.rows(places) if isinstance(part, LowRankProduct) else part[places]


def _by_label(first: Sequence[str], second: Sequence[str]) -> tuple[tuple[list[int], list[int]], list[str]]:
    common = [name for name in first if name in set(second)]
    alone = [name for name in (*first, *second) if name not in set(common)]
    notes = []
    if not common:
        notes.append("The adapters have no label in common, so their heads cannot be compared.")
    elif alone:
        notes.append(
            f"Rows of the head are compared by label. Labels of only one adapter are left out: {some_of(alone)}."
        )
    else:
        notes.append("The labels have different orders; rows of the head are compared by label.")
    return ([first.index(name) for name in common], [second.index(name) for name in common]), notes


def some_of(names: Sequence[str]) -> str:
    """Return the first few names separated by commas, and the number of further names, for a message."""
    more = f" and {len(names) - FEW:,} more" if len(names) > FEW else ""
    return ", ".join(names[:FEW]) + more
