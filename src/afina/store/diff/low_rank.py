"""A product of two thin matrices, such as LoRA's: its norm, how far it is from another, and the spaces it works in.

All by QR of the factors in float64, so that neither the product nor anything of its size is ever made. Knows no adapter
and no layer. Imports torch in the functions that compute.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, eq=False)
class Product:
    """scale * left @ right.

    left   [outputs, r], such as LoRA's B;  right  [r, inputs], such as its A
    """

    left: Tensor
    right: Tensor
    scale: float = 1.0

    @property
    def shape(self) -> tuple[int, int]:
        """[outputs, inputs]."""
        return self.left.shape[0], self.right.shape[1]

    @cached_property
    def norm(self) -> float:
        """Frobenius'."""
        return _norm([self])

    @property
    def rank(self) -> int:
        """How many directions it has that the rounding of its factors, as they are stored, cannot have made."""
        return self.spaces[0].shape[1]

    @cached_property
    def spaces(self) -> tuple[Tensor, Tensor]:
        """Orthonormal bases, float64 [outputs, rank] and [inputs, rank]: of what it writes, and of what it reads."""
        import torch

        left, right = self.left.double(), self.right.double()
        outputs, above = torch.linalg.qr(left)
        inputs, below = torch.linalg.qr(right.T)
        u, sizes, v = torch.linalg.svd(above @ below.T, full_matrices=False)
        # A factor whose entries are off by half a unit in the last place changes the product by no more than this.
        least = _unit(self.left, self.right) * float(left.norm() * right.norm())
        kept = int((sizes > least).sum())
        return outputs @ u[:, :kept], inputs @ v[:kept].T

    def distance(self, other: Product) -> float:
        """Frobenius norm of the difference; both have one shape, perhaps other ranks. Exactly 0 of equal factors."""
        import torch

        same = self.scale == other.scale and self.left.shape == other.left.shape
        if same and torch.equal(self.left, other.left) and torch.equal(self.right, other.right):
            return 0.0
        return _norm([self, Product(other.left, other.right, -other.scale)])

    def rows(self, chosen: list[int]) -> Product:
        """With these outputs, in this order."""
        return Product(self.left[chosen], self.right, self.scale)


def angles(first: Tensor, second: Tensor) -> tuple[float, ...]:
    """Principal angles between the spaces of two orthonormal bases, float64 [n, p] and [n, q]: degrees, least first.

    min(p, q) of them. Cosines tell nothing of small angles, and sines nothing of those near 90 degrees, so each is by
    what tells it (Björck & Golub 1973).
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


def _norm(terms: list[Product]) -> float:
    """Frobenius norm of a sum of products of one shape."""
    import torch

    above = torch.linalg.qr(torch.cat([term.scale * term.left.double() for term in terms], dim=1))[1]
    below = torch.linalg.qr(torch.cat([term.right.double() for term in terms]).T)[1]
    return float((above @ below.T).norm())


def _unit(*factors: Tensor) -> float:
    """Of the coarsest number format among them; no less than what computing in float64 adds."""
    import torch

    units = [torch.finfo(factor.dtype).eps for factor in factors if factor.is_floating_point()]
    return float(max([10 * torch.finfo(torch.float64).eps, *units]))
