"""What every method that peft implements has in common. Saved as peft saves it."""

from __future__ import annotations

import json
import re
import warnings
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

from afina.errors import InvalidStudy
from afina.methods.method import Method, check_names

if TYPE_CHECKING:
    from torch import Tensor

    from afina.models.backbone import Backbone
    from afina.models.rider import Rider


OF_PEFT = (
    *(ArithmeticError, AssertionError, AttributeError, ImportError, LookupError, RuntimeError),
    *(TypeError, ValueError, re.error),
)
"""What peft raises for settings that it cannot use: it hardly looks at them before it computes with them."""


@dataclass(frozen=True)
class PeftMethod(Method):
    """peft wraps the model; what it adds trains, and its copy of the head where the settings ask for one."""

    tensor_file: ClassVar[str] = "adapter_model.safetensors"

    @abstractmethod
    def settings(self, model: Any) -> Any:
        """peft's configuration object for this model."""

    def attach(self, model: Any) -> Any:
        """Wrap by peft, which says what trains; its own initialisation changes no logit."""
        from peft import get_peft_model

        from afina.models.kernels.frozen import lent

        with quiet():
            try:
                settings = self.settings(model)
                with lent(model):
                    return get_peft_model(model, settings)
            except ValueError as error:
                raise InvalidStudy(
                    f"method {self.name}: {error}", code="peft.settings-unusable", method=self.name
                ) from None

    def state(self, model: Any) -> dict[str, Tensor]:
        """Under the names that peft saves."""
        from peft import get_peft_model_state_dict

        return dict(get_peft_model_state_dict(model, save_embedding_layers=False))

    def restore(self, model: Any, state: Mapping[str, Tensor]) -> None:
        """From the names that peft saves."""
        from peft import set_peft_model_state_dict

        check_names(self.state(model), state)
        with quiet():
            set_peft_model_state_dict(model, dict(state))

    def rider(self, model: Any, state: Mapping[str, Tensor], base: Any) -> Rider | None:
        """Where every layer that peft wraps computes what has a `Change`."""
        from afina.methods import peft_layers

        return peft_layers.rider(model, state, base)

    def merged(self, model: Any) -> Any:
        """By peft. Raises InvalidStudy where its type has no such way, or what would come of it is no number."""
        try:
            with quiet():
                return model.merge_and_unload(safe_merge=True)
        except OF_PEFT as error:
            raise InvalidStudy(
                f"peft cannot fold it into the weights ({brief(error)}).", code="peft.cannot-merge"
            ) from None

    def accompany(self, model: Any, backbone: Backbone, directory: Path) -> None:
        """Write peft's `adapter_config.json`, in a fixed order and with the backbone's address as base."""
        self.write_settings(model, backbone, directory)

    def write_settings(
        self, model: Any, backbone: Backbone, directory: Path, beside: Mapping[str, Any] = MappingProxyType({})
    ) -> None:
        """Write peft's settings; `beside`, what they say of other methods, see `Method.in_peft`."""
        settings = model.peft_config[model.active_adapter].to_dict()
        saved = [*(settings.get("modules_to_save") or ()), *beside.get("modules_to_save", ())]
        settings.update(beside)
        if saved:
            settings["modules_to_save"] = saved
        settings.update(base_model_name_or_path=backbone.address, inference_mode=True)
        settings = {key: sorted(value) if isinstance(value, set) else value for key, value in settings.items()}
        (directory / "adapter_config.json").write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n")


_SAID = (
    # peft asks transformers for a property that transformers has renamed.
    (".*is_gradient_checkpointing.*", FutureWarning),
    # That frozen random matrices are drawn again rather than saved is what is asked for.
    ("Specified to not (save|load).*", UserWarning),
    # A norm, which peft's own type for norms stands around.
    ("Unsupported layer type.*", UserWarning),
)


@contextmanager
def quiet() -> Iterator[None]:
    """Without the warnings of peft that tell nobody anything."""
    with warnings.catch_warnings():
        for message, category in _SAID:
            warnings.filterwarnings("ignore", message=message, category=category)
        yield


def check_targets(name: str, model: Any, targets: Sequence[str], usual: Sequence[str]) -> None:
    """Raise InvalidStudy for a target that the model lacks.

    peft takes what it finds, and says nothing of a target that matches no module beside one that does.
    """
    modules = [f".{path}" for path, _ in model.named_modules()]
    for target in targets:
        if not any(path.endswith(f".{target}") for path in modules):
            raise InvalidStudy(
                f"method {name}: targets: this model has no module named {target!r}. "
                f"The default for {model.config.model_type} is {', '.join(usual)}.",
                code="method.target-missing",
                method=name,
                target=target,
                usual=usual,
            )


def brief(error: Exception) -> str:
    """The beginning of what peft says; it may quote whatever it was given."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]
