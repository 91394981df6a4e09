"""Tiny models in shards, and the comparison of two open classifiers."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

from afina.models.architectures import ARCHITECTURES
from afina.models.classifier import Classifier
from fakes import Backbones


def shard(backbones: Backbones, family: str, target: Path) -> Path:
    """Copy a tiny model to `target`, in shards of a few tensors (an encoder: in one file); return `target`."""
    source = backbones.path(family)
    shutil.copytree(source, target)
    if not ARCHITECTURES[family].is_encoder:
        (target / "model.safetensors").unlink()
        AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32).save_pretrained(target, max_shard_size="20KB")
        assert len(list(target.glob("*.safetensors"))) > 2
    return target


def tensors(classifier: Classifier) -> dict[str, torch.Tensor]:
    """Return all parameters and buffers."""
    return {**dict(classifier.named_parameters()), **dict(classifier.named_buffers())}


def same(one: Classifier, other: Classifier) -> bool:
    """Whether two classifiers have the same tensors, bit for bit."""
    left, right = tensors(one), tensors(other)
    return left.keys() == right.keys() and all(
        torch.equal(each, right[name]) and each.dtype == right[name].dtype for name, each in left.items()
    )
