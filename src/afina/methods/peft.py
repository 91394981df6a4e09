"""Base class of all methods that peft implements. Their adapters are saved in peft's format.

The module does not import torch.
"""

from __future__ import annotations

import json
import logging
import re
import warnings
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field

from afina.methods import problems
from afina.methods.method import Method, check_names, plain_name
from afina.models.architectures import classifies_tokens, has_head, head_entry_of

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from afina.models.backbone import Backbone
    from afina.models.kernels.layer_changes import BatchedAdapter, LayerChange
    from afina.models.kernels.vera import VeraMatrices

logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
"""peft imports bitsandbytes if it is installed, which then warns that an optional kernel for decoding is missing."""

OF_PEFT = (
    *(ArithmeticError, AssertionError, AttributeError, ImportError, LookupError, RuntimeError),
    *(TypeError, ValueError, re.error),
)
"""Exceptions that peft raises for settings that it cannot use; peft checks few settings before using them."""

Targets = Annotated[tuple[str, ...], Field(min_length=1)]
"""The type of a method's `targets`, whose default () means the targets of the model family. A user cannot give ()."""


@dataclass(frozen=True)
class PeftMethod(Method):
    """A method that wraps the model with peft: it trains what peft adds, and the head if peft's settings include it.

    `saves_head`: every module of the head trains and is saved, also those that peft itself would not.
    """

    tensor_file: ClassVar[str] = "adapter_model.safetensors"
    saves_head: ClassVar[bool] = True

    @property
    def hyperparameters(self) -> dict[str, Any]:
        """As in `Method`; without `targets` as long as these are the targets of an unknown model family."""
        return {name: value for name, value in super().hyperparameters.items() if (name, value) != ("targets", [])}

    @abstractmethod
    def settings(self, model: Any) -> Any: ...

    def attach(self, model: Any) -> Any:
        from peft import get_peft_model

        from afina.models.kernels.linear import dequantized_weights

        with quiet():
            try:
                settings = self.settings(model)
                if settings.task_type is not None or not has_head(model):
                    settings.task_type = task_type_of(model)
                if self.saves_head and has_head(model):
                    _save_head(settings, model)
                with dequantized_weights(model):
                    return get_peft_model(model, settings)
            except ValueError as error:
                raise problems.SETTINGS_UNUSABLE(reason=error, method=self.name) from None

    def state(self, model: Any) -> dict[str, Tensor]:
        from peft import get_peft_model_state_dict

        return dict(get_peft_model_state_dict(model, save_embedding_layers=False))

    def restore(self, model: Any, state: Mapping[str, Tensor]) -> None:
        from peft import set_peft_model_state_dict

        check_names(self.state(model), state)
        with quiet():
            set_peft_model_state_dict(model, dict(state))

    def batched(self, model: Any, state: Mapping[str, Tensor], base: Any) -> BatchedAdapter | None:
        """None if `base` lacks a layer wrapped by peft, or no `LayerChange` computes its formula."""
        from torch import nn

        from afina.models.kernels.layer_changes import BatchedAdapter

        changes: dict[str, tuple[LayerChange, ...]] = {}
        tensor_names: set[str] = set()
        below = dict(base.named_modules())
        biases = {plain_name(name): tensor for name, tensor in state.items() if name.endswith(".bias")}
        settings = model.peft_config[model.active_adapter]
        for full, layer in model.named_modules():
            if not isinstance(getattr(layer, "base_layer", None), nn.Module):
                continue
            path = full.removeprefix("base_model.model.")
            if path not in below:
                return None
            own = {name.removeprefix(f"{full}."): name for name in state if name.startswith(f"{full}.")}
            saved = {key: state[name] for key, name in own.items()}
            made = _change(layer, saved, settings, below[path], biases.get(f"{path}.bias"))
            if made is None:
                return None
            changes[path] = (made,)
            tensor_names |= {own[key] for key in own if not key.startswith("base_layer.")}
        return BatchedAdapter(changes, tensor_names=frozenset(tensor_names))

    def merged(self, model: Any) -> Any:
        """Raises InvalidStudy if peft cannot merge this type of adapter, or if merged weights would be NaN."""
        try:
            with quiet():
                return model.merge_and_unload(safe_merge=True)
        except OF_PEFT as error:
            raise problems.CANNOT_MERGE(reason=brief(error)) from None

    def accompany(self, model: Any, backbone: Backbone, directory: Path) -> None:
        self.write_settings(model, backbone, directory)

    def write_settings(
        self, model: Any, backbone: Backbone, directory: Path, beside: Mapping[str, Any] = MappingProxyType({})
    ) -> None:
        """Write `adapter_config.json`; `beside` has settings of methods trained with this one."""
        settings = model.peft_config[model.active_adapter].to_dict()
        saved = [*(settings.get("modules_to_save") or ()), *beside.get("modules_to_save", ())]
        settings.update(beside)
        if saved:
            settings["modules_to_save"] = saved
        settings.update(base_model_name_or_path=backbone.address, inference_mode=True)
        settings = {key: sorted(value) if isinstance(value, set) else value for key, value in settings.items()}
        (directory / "adapter_config.json").write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n")


_SAID = (
    # peft reads a property that transformers has renamed.
    (".*is_gradient_checkpointing.*", FutureWarning),
    # Not saving the frozen random matrices is intended: they are drawn again.
    ("Specified to not (save|load).*", UserWarning),
    # peft's type for norms wraps norms as intended.
    ("Unsupported layer type.*", UserWarning),
)


@contextmanager
def quiet() -> Iterator[None]:
    """Suppress those warnings of peft that need no action."""
    with warnings.catch_warnings():
        for message, category in _SAID:
            warnings.filterwarnings("ignore", message=message, category=category)
        yield


def task_type_of(model: Any) -> str:
    if not has_head(model):
        return "CAUSAL_LM"
    return "TOKEN_CLS" if classifies_tokens(model) else "SEQ_CLS"


def _save_head(settings: Any, model: Any) -> None:
    """Add the head modules that peft would neither train nor save: it knows heads by two module names only."""
    from peft.utils.constants import SEQ_CLS_HEAD_NAMES as KNOWN

    modules = sorted({path.partition(".")[0] for path in head_entry_of(model).modules})
    unknown = [name for name in modules if not name.endswith(tuple(KNOWN))]
    if unknown:
        settings.modules_to_save = [*(settings.modules_to_save or ()), *unknown]


def check_targets(name: str, model: Any, targets: Sequence[str], usual: Sequence[str]) -> None:
    """Raise InvalidStudy for a target that names no module; peft ignores one if another matches."""
    modules = [f".{path}" for path, _ in model.named_modules()]
    for target in targets:
        if not any(path.endswith(f".{target}") for path in modules):
            raise problems.TARGET_MISSING(family=model.config.model_type, method=name, target=target, usual=usual)


def brief(error: Exception) -> str:
    """The first 200 characters; messages of peft may quote long input."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]


def _change(
    layer: Any, saved: Mapping[str, Tensor], settings: Any, below: Any, bias: Tensor | None
) -> LayerChange | None:
    """Return an adapter's change of one layer; None if no `LayerChange` computes the layer's formula.

    The layer is on the `meta` device; `saved` has peft's names of its tensors; `bias` None: the frozen bias.
    """
    from afina.models.kernels import linear
    from afina.models.kernels.dora import DoraChange, dora_adapter
    from afina.models.kernels.ia3 import ScaledInput, ScaledOutput, ia3_adapter
    from afina.models.kernels.lora import LoraChange, lora_adapter
    from afina.models.kernels.vera import VeraChange, VeraMatrices, vera_adapter

    if (name := lora_adapter(layer)) is not None:
        return LoraChange(saved["lora_A.weight"], saved["lora_B.weight"].t().contiguous(), layer.scaling[name])
    if (name := dora_adapter(layer)) is not None:
        low = saved["lora_A.weight"], saved["lora_B.weight"], layer.scaling[name]
        return DoraChange.over(below, *low, saved["lora_magnitude_vector"], bias)
    if (name := vera_adapter(layer)) is not None:
        sizes = *layer.vera_A[name].shape, len(layer.vera_B[name])
        shared = _projections(*sizes, settings.projection_prng_key, linear.frozen_weight(below).device)
        cut = VeraMatrices(shared.down[:, : layer.in_features], shared.up[: layer.out_features])
        return VeraChange(saved["vera_lambda_d"], saved["vera_lambda_b"], cut)
    if ia3_adapter(layer) is not None:
        by = saved["ia3_l"].flatten()
        return ScaledInput(by) if layer.is_feedforward else ScaledOutput(by)
    return None


@lru_cache(maxsize=8)
def _projections(rank: int, inputs: int, outputs: int, key: int, device: torch.device) -> VeraMatrices:
    """Return VeRA's frozen random matrices [rank, inputs] and [outputs, rank], which peft draws from the seed `key`."""
    from peft import VeraConfig, get_peft_model
    from torch import nn

    from afina.models.kernels.vera import VeraMatrices

    settings = VeraConfig(r=rank, projection_prng_key=key, target_modules=["layer"])
    layer = nn.utils.skip_init(nn.Linear, inputs, outputs, bias=False)
    wrapped: Any = get_peft_model(nn.ModuleDict({"layer": layer}), settings)
    made = wrapped.get_base_model()["layer"]
    (down,), (up,) = made.vera_A.values(), made.vera_B.values()
    return VeraMatrices(down.to(device), up.to(device))
