"""An adapter that peft saved and afina did not make: its own settings, whatever they are."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from afina.errors import InvalidStudy
from afina.methods.peft import PeftMethod


@dataclass(frozen=True)
class Foreign(PeftMethod):
    """Not in METHODS: it is opened, never trained.

    saved  the content of `adapter_config.json`
    """

    name: ClassVar[str] = "peft"
    title: ClassVar[str] = "peft"
    summary: ClassVar[str] = "an adapter made by peft"

    saved: dict[str, Any] = field(default_factory=dict)

    @property
    def hyperparameters(self) -> dict[str, Any]:
        """peft's settings as they were saved."""
        return dict(self.saved)

    def settings(self, model: Any) -> Any:
        """peft's configuration, read by peft. Raises InvalidStudy for methods that change the input."""
        from peft import PeftConfig

        try:
            settings = PeftConfig.from_peft_type(**self.saved)
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidStudy(f"the adapter's peft settings cannot be read ({error}).") from None
        if settings.is_prompt_learning:
            raise InvalidStudy(
                f"the adapter's peft type is {settings.peft_type.value}; afina opens those that change the model's "
                "layers (LORA, IA3, ...), not those that add virtual tokens."
            )
        return settings
