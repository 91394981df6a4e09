"""Losses of classification and regression, on targets and on a teacher's outputs, [B, C] for a batch of B texts.

torch is imported only when a loss is computed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def weighted_mean(losses: Tensor, weights: Tensor | None) -> Tensor:
    """Return the mean over a batch of the texts' losses [B], each multiplied by the text's weight."""
    return losses.mean() if weights is None else (losses * weights).mean()


def cross_entropy(
    outputs: Tensor,
    targets: Tensor,
    *,
    smoothing: float = 0.0,
    weights: Tensor | None = None,
    class_weights: tuple[float, ...] | None = None,
) -> Tensor:
    """Return the mean cross-entropy of logits and class indices [B], with label smoothing (Szegedy et al. 2016)."""
    from torch.nn.functional import cross_entropy

    if class_weights is None and weights is None:
        return cross_entropy(outputs, targets, label_smoothing=smoothing)
    of_classes = None if class_weights is None else outputs.new_tensor(class_weights)
    losses = cross_entropy(outputs, targets, of_classes, label_smoothing=smoothing, reduction="none")
    return weighted_mean(losses, weights)


def squared_error(outputs: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
    """Return the mean squared error of the outputs [B, 1] and the targets [B]."""
    from torch.nn.functional import mse_loss

    if weights is None:
        return mse_loss(outputs.squeeze(-1), targets)
    return weighted_mean(mse_loss(outputs.squeeze(-1), targets, reduction="none"), weights)


def binary_cross_entropy(
    outputs: Tensor, targets: Tensor, *, smoothing: float = 0.0, weights: Tensor | None = None
) -> Tensor:
    """Return the binary cross-entropy of logits and targets [B, C], averaged over texts and labels.

    Smoothing moves the targets towards 0.5.
    """
    from torch.nn.functional import binary_cross_entropy_with_logits

    if smoothing:
        targets = targets * (1 - smoothing) + smoothing / 2
    if weights is None:
        return binary_cross_entropy_with_logits(outputs, targets)
    losses = binary_cross_entropy_with_logits(outputs, targets, reduction="none")
    return weighted_mean(losses.mean(dim=1), weights)


def soft_cross_entropy(outputs: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Return the squared temperature times the cross-entropy of the teacher's and the student's probabilities, [B].

    With the factor, gradients at every temperature are as large as those of the loss on targets (Hinton et al. 2015,
    section 2).
    """
    chances = (teacher / temperature).softmax(dim=-1)
    return -(temperature**2) * (chances * (outputs / temperature).log_softmax(dim=-1)).sum(dim=-1)


def soft_squared_error(outputs: Tensor, teacher: Tensor) -> Tensor:
    """Return the squared difference of the student's and the teacher's outputs, both [B, 1]; the result is [B]."""
    squared: Tensor = (outputs - teacher).squeeze(-1) ** 2
    return squared


def soft_binary_cross_entropy(outputs: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Return the squared temperature times the binary cross-entropy with the teacher, averaged over labels, [B]."""
    from torch.nn.functional import binary_cross_entropy_with_logits

    chances = (teacher / temperature).sigmoid()
    losses = binary_cross_entropy_with_logits(outputs / temperature, chances, reduction="none")
    return temperature**2 * losses.mean(dim=1)
