"""A model on torch's `meta` device: every module, name and shape of it, and no weights.

For counting parameters and foreseeing memory. Knows the shapes of well-known backbones without a network.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel

from afina.models.address import locate
from afina.models.architectures import ARCHITECTURES
from afina.models.kernels import attention
from afina.models.pretrained import auto_class, quiet, read_config
from afina.models.shapes import CONFIGURATIONS


def meta_model(address: str, labels: int = 2) -> PreTrainedModel:
    """transformers' classifier, from the configuration at that address alone. Raises NotFound, InvalidStudy."""
    return meta_of(_configuration(address), labels)


def meta_of(config: PreTrainedConfig, labels: int) -> PreTrainedModel:
    """The same, from a configuration, which is changed."""
    config.num_labels = labels
    with torch.device("meta"), quiet():
        opener = auto_class(ARCHITECTURES[config.model_type].classifier)
        model = opener.from_config(config, attn_implementation=attention.NAME)
    return cast(PreTrainedModel, model)


def meta_described(configuration: Mapping[str, Any], labels: int) -> PreTrainedModel:
    """The same, from the content of a `config.json`."""
    return meta_of(AutoConfig.for_model(**configuration), labels)


def _configuration(address: str) -> PreTrainedConfig:
    if address in CONFIGURATIONS and not Path(address).is_dir():
        return AutoConfig.for_model(**CONFIGURATIONS[address])
    return read_config(locate(address, weights=False), address)
