"""An adapter that peft saved and afina did not make: its own settings, whatever they are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, ClassVar

from afina.errors import InvalidStudy
from afina.methods import peft_settings
from afina.methods.method import check_names
from afina.methods.peft import OF_PEFT, PeftMethod, brief

if TYPE_CHECKING:
    from torch import Tensor

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
        """peft's configuration, read by peft once nothing in it can do harm. Raises InvalidStudy."""
        peft_settings.check(self.saved)
        # peft would warn that its base is found elsewhere, and adds to lists that it is given
        given = {key: deepcopy(value) for key, value in self.saved.items() if key != "base_model_name_or_path"}
        given = peft_settings.resolved(given, [name for name, _ in model.named_modules()])
        if large := next((value for value in _floats(self.saved) if abs(value) > _LARGEST), None):
            raise InvalidStudy(
                f"the adapter's peft settings cannot be used ({large:g} is more than float32 holds).",
                code="peft.settings-unusable",
            )
        return _read(given)

    def attach(self, model: Any) -> Any:
        """As `PeftMethod.attach`, for settings that anybody may have written."""
        try:
            return super().attach(model)
        except OF_PEFT as error:
            raise InvalidStudy(
                f"the adapter's peft settings cannot be used ({brief(error)}).", code="peft.settings-unusable"
            ) from None

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
                raise InvalidStudy(
                    f"the adapter's peft settings cannot be used ({brief(error)}).", code="peft.settings-unusable"
                ) from None
            except OF_PEFT as error:
                raise InvalidStudy(
                    f"the adapter's peft settings cannot be used ({brief(error)}).", code="peft.settings-unusable"
                ) from None
            check_names(self.state(wrapped), state)


def _read(given: Mapping[str, Any]) -> Any:
    from peft import PeftConfig
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    try:
        kind = PEFT_TYPE_TO_CONFIG_MAPPING[given["peft_type"]]
        known = {each.name for each in fields(kind)}
        for name, value in given.items():
            if name not in known and value not in (None, False, [], {}, ""):
                raise InvalidStudy(
                    f"the adapter's peft setting {name} is {str(value)[:80]!r}: the peft here does not know it for "
                    f"{given['peft_type']}, and would leave it out. Install a later peft.",
                    code="peft.settings-unusable",
                    setting=name,
                    type=given["peft_type"],
                )
        return PeftConfig.from_peft_type(**{name: value for name, value in given.items() if name in known})
    except OF_PEFT as error:
        raise InvalidStudy(
            f"the adapter's peft settings cannot be read ({brief(error)}).", code="peft.settings-unusable"
        ) from None


def _floats(value: Any) -> Iterator[float]:
    if isinstance(value, float):
        yield value
    elif isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _floats(each)
