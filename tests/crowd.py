"""Adapters of every method with random weights, which cost next to nothing to make: no training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from afina import Adapter, Backbone, digest
from afina.methods import make
from afina.models import objectives
from afina.models.language_model import open_model
from afina.models.manifest import Manifest


def adapter(
    backbone: Backbone,
    name: str,
    given: Mapping[str, Any] | None = None,
    *,
    seed: int = 0,
    labels: Sequence[str] = ("bad", "good"),
    **changes: Any,
) -> Adapter:
    """One whose parameters, all that train and the head, have gone somewhere at random."""
    method = make(name, given).for_family(backbone.family)
    asked = objectives.make(tuple(labels), changes.get("objective"))
    classifier = open_model(backbone, asked.output_names, seed, asked.opening)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        classifier.wrap(method.attach)
        for parameter in method.trainable(classifier.model).values():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    tensors = {key: tensor.detach().clone() for key, tensor in method.state(classifier.model).items()}
    facts: dict[str, Any] = {
        "method": name,
        "hyperparameters": method.hyperparameters,
        "label_names": tuple(labels),
        "backbone": backbone.address,
        "backbone_digest": backbone.digest,
        "tokenizer_digest": backbone.tokenizer_digest,
        "family": backbone.family,
        "tensor_file": method.tensor_file,
        "tensors_digest": digest.of_tensors(tensors),
        "max_length": 0,
    }
    return Adapter(Manifest(**(facts | changes)).sealed(), tensors, f"{name}-{seed}")


def spoilt(made: Adapter, value: float) -> Adapter:
    """The adapter with that value, such as NaN, in place of all numbers of a LoRA matrix."""
    tensors = {
        name: torch.full_like(tensor, value) if "lora_B" in name else tensor for name, tensor in made.tensors.items()
    }
    manifest = made.manifest.model_copy(update={"tensors_digest": digest.of_tensors(tensors)})
    return Adapter(manifest, tensors, f"bad {value}")
