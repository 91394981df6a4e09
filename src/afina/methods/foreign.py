"""An adapter that peft saved and afina did not make: its own settings, whatever they are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from afina.errors import InvalidStudy
from afina.methods.method import check_names
from afina.methods.peft import OF_PEFT, PeftMethod, brief

if TYPE_CHECKING:
    from torch import Tensor

_ELSEWHERE = frozenset({"XLORA"})
"""Types whose settings name other adapters, which peft would fetch and open."""

_LARGEST = 3e38


@dataclass(frozen=True)
class Foreign(PeftMethod):
    """Not in METHODS: it is opened, never trained.

    saved  the content of `adapter_config.json`
    """

    name: ClassVar[str] = "peft"
    title: ClassVar[str] = "peft"
    summary: ClassVar[str] = "an adapter made by peft"
    packs: ClassVar[bool] = False

    saved: dict[str, Any] = field(default_factory=dict)

    @property
    def hyperparameters(self) -> dict[str, Any]:
        """peft's settings as they were saved."""
        return dict(self.saved)

    def settings(self, model: Any) -> Any:
        """peft's configuration, read by peft. Raises InvalidStudy for methods that change the input."""
        from peft import PeftConfig

        try:
            # peft would warn that its base is found elsewhere, and adds to lists that it is given
            given = {key: deepcopy(value) for key, value in self.saved.items() if key != "base_model_name_or_path"}
            settings = PeftConfig.from_peft_type(**given)
            kind = str(settings.peft_type.value)
        except OF_PEFT as error:
            raise InvalidStudy(f"the adapter's peft settings cannot be read ({brief(error)}).") from None
        if settings.is_prompt_learning or kind in _ELSEWHERE:
            raise InvalidStudy(
                f"the adapter's peft type is {kind}; afina opens those that change the model's "
                "layers (LORA, IA3, ...), not those that add virtual tokens or consist of other adapters."
            )
        if large := next((value for value in _floats(self.saved) if abs(value) > _LARGEST), None):
            raise InvalidStudy(f"the adapter's peft settings cannot be used ({large:g} is more than float32 holds).")
        if getattr(settings, "alora_invocation_tokens", None):
            raise InvalidStudy("the adapter begins to work after certain tokens (aLoRA), which afina does not support.")
        return settings

    def attach(self, model: Any) -> Any:
        """As `PeftMethod.attach`, for settings that anybody may have written."""
        try:
            return super().attach(model)
        except OF_PEFT as error:
            raise InvalidStudy(f"the adapter's peft settings cannot be used ({brief(error)}).") from None

    def check(self, model: Any, state: Mapping[str, Tensor]) -> None:
        """Attached to a model without values, it must have the state's names and shapes."""
        import torch

        with torch.device("meta"):
            skeleton = type(model)(model.config)
            try:
                wrapped = super().attach(skeleton)
            except RuntimeError as error:
                if "meta tensor" in str(error):
                    return  # peft computes with the values of what this type adds; `attach` and `restore` have to do
                raise InvalidStudy(f"the adapter's peft settings cannot be used ({brief(error)}).") from None
            except OF_PEFT as error:
                raise InvalidStudy(f"the adapter's peft settings cannot be used ({brief(error)}).") from None
            check_names(self.state(wrapped), state)


def _floats(value: Any) -> Iterator[float]:
    if isinstance(value, float):
        yield value
    elif isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _floats(each)
