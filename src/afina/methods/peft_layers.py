"""How the layers that peft puts around a model's own take part in a row of several adapters, by the names it saves."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from afina.methods.method import plain_name
from afina.models.kernels import frozen
from afina.models.kernels.dora import Turned, dora_adapter
from afina.models.kernels.ia3 import ScaledInput, ScaledOutput, ia3_adapter
from afina.models.kernels.lora import only_adapter
from afina.models.kernels.low_rank import LowRank
from afina.models.kernels.vera import Shared, Vectors, vera_adapter
from afina.models.rider import Change, Rider

_WRAP = "base_model.model."


def rider(model: Any, state: Mapping[str, Tensor], base: Any) -> Rider | None:
    """That of all layers of peft's in an attached model; None where one computes what has no `Change`.

    model, state, base  as in `Method.rider`
    """
    changes: dict[str, tuple[Change, ...]] = {}
    heard: set[str] = set()
    below = dict(base.named_modules())
    biases = {plain_name(name): tensor for name, tensor in state.items() if name.endswith(".bias")}
    settings = model.peft_config[model.active_adapter]
    for full, layer in model.named_modules():
        if not isinstance(getattr(layer, "base_layer", None), nn.Module):
            continue
        path = full.removeprefix(_WRAP)
        own = {name.removeprefix(f"{full}."): name for name in state if name.startswith(f"{full}.")}
        saved = {key: state[name] for key, name in own.items()}
        made = _change(layer, saved, settings, below[path], biases.get(f"{path}.bias"))
        if made is None:
            return None
        changes[path] = (made,)
        heard |= {own[key] for key in own if not key.startswith("base_layer.")}
    return Rider(changes, heard=frozenset(heard))


def _change(layer: Any, saved: Mapping[str, Tensor], settings: Any, below: Any, bias: Tensor | None) -> Change | None:
    """That of one layer; saved: its tensors, as peft saves them; below: the frozen one; bias: where another is."""
    if (name := only_adapter(layer)) is not None:
        return LowRank(saved["lora_A.weight"], saved["lora_B.weight"].t().contiguous(), layer.scaling[name])
    if (name := dora_adapter(layer)) is not None:
        low = saved["lora_A.weight"], saved["lora_B.weight"], layer.scaling[name]
        return Turned.over(below, *low, saved["lora_magnitude_vector"], bias)
    if (name := vera_adapter(layer)) is not None:
        sizes = *layer.vera_A[name].shape, len(layer.vera_B[name])
        shared = projections(*sizes, settings.projection_prng_key, frozen.of(below).device)
        cut = Shared(shared.down[:, : layer.in_features], shared.up[: layer.out_features])
        return Vectors(saved["vera_lambda_d"], saved["vera_lambda_b"], cut)
    if ia3_adapter(layer) is not None:
        by = saved["ia3_l"].flatten()
        return ScaledInput(by) if layer.is_feedforward else ScaledOutput(by)
    return None


@lru_cache(maxsize=8)
def projections(rank: int, inputs: int, outputs: int, key: int, device: torch.device) -> Shared:
    """VeRA's random matrices [rank, inputs], [outputs, rank], as peft draws them: one pair a key."""
    from peft import VeraConfig, get_peft_model

    settings = VeraConfig(r=rank, projection_prng_key=key, target_modules=["layer"])
    layer = nn.utils.skip_init(nn.Linear, inputs, outputs, bias=False)
    wrapped: Any = get_peft_model(nn.ModuleDict({"layer": layer}), settings)
    made = wrapped.get_base_model()["layer"]
    (down,), (up,) = made.vera_A.values(), made.vera_B.values()
    return Shared(down.to(device), up.to(device))
