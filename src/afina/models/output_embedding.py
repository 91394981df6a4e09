"""The rows of a language model's output embedding for some tokens: what its logits for these are made with.

A classifier has no such layer, so where it is not tied to the input embedding, its rows are read from the weights'
files, and no more of them. Knows no label.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedConfig

from afina import tensorfile
from afina.errors import NotFound
from afina.models.architectures import ARCHITECTURES
from afina.models.pretrained import auto_class, quiet

_TORCH = "pytorch_model.bin"


def rows(path: Path, config: PreTrainedConfig, body: torch.nn.Module, tokens: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Weights [N, width] and biases [N], float32, of N tokens; `body` is the opened model without a head.

    Raises NotFound where the files in `path` have no such layer.
    """
    entry = ARCHITECTURES[config.model_type]
    with torch.device("meta"), quiet():
        model = auto_class(entry.language_model).from_config(config)
    layer, prefix = model.get_output_embeddings(), entry.output_embedding
    index = torch.tensor(tokens)
    if config.tie_word_embeddings:
        embedding = body.get_input_embeddings()  # type: ignore[operator]  # a method of transformers' models
        weights = embedding(index).detach()
    else:
        weights = _read(path, f"{prefix}.weight", index)
    biases = torch.zeros(len(tokens)) if layer.bias is None else _read(path, f"{prefix}.bias", index)
    return weights.float(), biases.float()


def _read(path: Path, name: str, index: Tensor) -> Tensor:
    """Rows of the tensor of that name, from whichever file has it."""
    for kind in ("model.safetensors", _TORCH):
        listed = path / f"{kind}.index.json"
        file = path / kind
        if listed.is_file():
            file = path / json.loads(listed.read_text(encoding="utf-8"))["weight_map"].get(name, "")
        if not file.is_file():
            continue
        if file.suffix == ".safetensors":
            found = tensorfile.read_rows(file, name, index.tolist())
        else:
            loaded = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
            found = loaded[name][index] if name in loaded else None
        if found is not None:
            return found
    raise NotFound(
        f"backbone {path.name}: its files have no {name}, so it cannot answer in words: they were saved from another "
        "kind of model than a causal language model. Copy it again, or set head=random.",
        code="backbone.unreadable",
        path=path,
        tensor=name,
    )
