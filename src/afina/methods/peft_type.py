"""Any type of peft that packs, trained by its own settings: `[methods.peft]`, `type = "MISS"`, `settings = {r = 8}`.

Knows of each type whether it has a meaning here, never how it computes. What there is to say of all is in
docs/peft-types.md, which `tests/methods/test_peft_types.py` holds to what peft does.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field, JsonValue

from afina.errors import InvalidStudy, UnknownName
from afina.methods import peft_settings
from afina.methods.peft import OF_PEFT, PeftMethod, brief
from afina.models.architectures import architecture_of, is_head

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Parameter

SERVED = (
    *("ADAMSS", "BEFT", "BOFT", "C3A", "DEFT", "DELORA", "FOURIERFT", "FROD", "GLORA", "GRALORA", "HIRA", "HRA"),
    *("LN_TUNING", "LOHA", "LOKR", "MISS", "OFT", "OSF", "PEANUT", "PSOFT", "PVERA", "RANDLORA", "ROAD", "SHIRA"),
    *("SUPERTUNING", "TINYLORA", "UNILORA", "VBLORA", "WAVEFT"),
)
"""Types whose packed rows are each text's own, bit for bit but for rounding."""

_VIRTUAL = "it adds virtual tokens, which a packed row has no room for. Use afina's own prompt or prefix"
_OWN = "afina has a method of its own for it, with a faster path: {}"

REFUSED = {
    **dict.fromkeys(
        ("PROMPT_TUNING", "MULTITASK_PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING", "CARTRIDGE", "CPT"), _VIRTUAL
    ),
    "LORA": _OWN.format("lora"),
    "IA3": _OWN.format("ia3"),
    "VERA": _OWN.format("vera"),
    "ADALORA": "it moves ranks between layers by a call after each step and adds to the loss; without, it is LoRA",
    "ADAPTION_PROMPT": "it leaves the head frozen, replaces the attention that packs, and does not attach to LLaMA's",
    "LILY": "its router averages over all that stands in a batch, so that a text's logits depend on its company",
    "POLY": "it needs a task's number beside each text",
    "SHADOW": "it computes beside the whole model, in a forward of its own, which packing goes past",
    "TRAINABLE_TOKENS": "it leaves the head frozen and trains tokens that are named one by one",
    "XLORA": "it consists of other adapters, which it would fetch",
}
"""Types that have no meaning here, and why."""

_UNHEARD = {
    ("ADAMSS", "use_asa"): "needs a call after each step",
    ("PVERA", "sample_at_inference"): "lets the same text have other logits each time",
}
"""Settings that are not to be true."""

_RESERVED = {
    *("peft_type", "task_type", "peft_version", "auto_mapping", "base_model_name_or_path", "revision"),
    "inference_mode",
}
"""Settings that are not the user's."""

_LOWERED = {"LN_TUNING"}
"""Types whose parameters take the place of the body's own, and are computed with as those are."""


@dataclass(frozen=True)
class PeftType(PeftMethod):
    """Trains what a type of peft's adds, and the head. Not in METHODS, since it has to be told which.

    type      peft's name of it
    settings  its configuration's fields; target modules default to peft's for the family, else to those of LoRA
    """

    name: ClassVar[str] = "peft"
    title: ClassVar[str] = "peft"
    summary: ClassVar[str] = "another type of peft's trains, by its own settings; see docs/peft-types.md"
    learning_rate: ClassVar[float] = 1e-3
    practical: ClassVar[bool] = False
    packs: ClassVar[bool] = False
    """Most types read the weight of the layer that they stand around, some beside calling it."""

    type: str
    given: Annotated[dict[str, JsonValue], Field(alias="settings")] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.type in REFUSED:
            raise InvalidStudy(
                f"method peft: type {self.type} is not one that afina trains: {REFUSED[self.type]}.",
                code="peft.type-unsupported",
                type=self.type,
            )
        if self.type not in SERVED:
            raise UnknownName("peft type", self.type, SERVED, "method peft")
        for key, what in _UNHEARD.items():
            if key[0] == self.type and self.given.get(key[1]):
                raise InvalidStudy(
                    f"method peft: {self.type}.{key[1]} {what}. Leave it out.",
                    code="peft.settings-unusable",
                    type=self.type,
                    setting=key[1],
                )
        object.__setattr__(self, "title", f"{self.type} (peft)")

    @classmethod
    def accepts(cls) -> set[str]:
        """As they are written."""
        return {"type", "settings"}

    @property
    def hyperparameters(self) -> dict[str, Any]:
        """As they were given; what was left out, peft's own defaults have filled in `adapter_config.json`."""
        return {"type": self.type, "settings": dict(self.given)}

    def settings(self, model: Any) -> Any:
        """peft's configuration, checked by peft. Raises UnknownName, InvalidStudy."""
        from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING
        from peft.utils.peft_types import PeftType as Known

        if self.type not in list(Known):
            raise InvalidStudy(
                f"method peft: the peft that is installed has no type {self.type}. Install a later one.",
                code="peft.type-unsupported",
                type=self.type,
            )
        kind: Any = PEFT_TYPE_TO_CONFIG_MAPPING[Known(self.type)]
        tuner = PEFT_TYPE_TO_TUNER_MAPPING[Known(self.type)]
        known = {each.name for each in fields(kind)} - _RESERVED
        for key in self.given:
            if key not in known:
                raise UnknownName(f"setting of {self.type}", key, known, "method peft")
        family = architecture_of(model)
        filled: dict[str, Any] = {"task_type": "SEQ_CLS"} | self.given
        if "fan_in_fan_out" in known:
            filled.setdefault("fan_in_fan_out", family.fan_in_fan_out)
        if model.config.model_type not in (getattr(tuner, "target_module_mapping", None) or {}):
            filled.setdefault("target_modules", list(family.lora_targets))
        filled = self._safe(filled, model)
        try:
            return kind(**filled)
        except OF_PEFT as error:
            raise InvalidStudy(
                f"method peft: settings of {self.type} cannot be used ({brief(error)}).",
                code="peft.settings-unusable",
                type=self.type,
            ) from None

    def _safe(self, given: dict[str, Any], model: Any) -> dict[str, Any]:
        """Checked and without patterns: the settings may come from the manifest of a stranger."""
        try:
            peft_settings.check(given | {"peft_type": self.type})
            made = peft_settings.resolved(given | {"peft_type": self.type}, [name for name, _ in model.named_modules()])
        except InvalidStudy as error:
            raise error.reworded(f"method peft: {error}") from None
        return {key: value for key, value in made.items() if key in given}

    def attach(self, model: Any) -> Any:
        """As `PeftMethod.attach`. Raises InvalidStudy where peft changes a weight of the backbone."""
        before = [(parameter, _mark(parameter)) for parameter in model.parameters()]
        try:
            wrapped = super().attach(model)
        except OF_PEFT as error:
            raise InvalidStudy(
                f"method peft: {self.type} cannot be attached ({brief(error)}).",
                code="peft.settings-unusable",
                type=self.type,
            ) from None
        there = set(wrapped.parameters())
        if any(parameter not in there or _mark(parameter) != mark for parameter, mark in before):
            raise InvalidStudy(
                f"method peft: {self.type} with these settings changes weights of the backbone, so that the adapter "
                "would be of another model than the one that all methods share. Choose another start.",
                code="method.changes-backbone",
                type=self.type,
            )
        for module in wrapped.modules():
            if hasattr(module, "base_layer"):
                module.register_forward_hook(_as_given)
                module.base_layer.register_forward_pre_hook(_as_its_weight)
        return wrapped

    def unlowered(self, model: Any) -> set[str]:
        """What the type adds, as peft does it: much of what it computes with is float32 whatever the body is."""
        if self.type in _LOWERED:
            return set()
        prefix = str(model.base_model.prefix)
        return {
            name
            for name, parameter in model.named_parameters()
            if not is_head(name)
            and (parameter.requires_grad or any(part.startswith(prefix) for part in name.split(".")))
        }


def _mark(parameter: Parameter) -> tuple[int, float]:
    """Of another place or other numbers, another one."""
    return parameter.data_ptr(), 0.0 if parameter.is_meta else float(parameter.detach().double().sum())


def _as_given(module: Any, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    """A layer answers in the precision that it was asked in; some of peft's answer in their own."""
    return output.to(inputs[0].dtype)


def _as_its_weight(module: Any, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Likewise, some ask the layer in them in their own."""
    return inputs[0].to(next(module.parameters()).dtype), *inputs[1:]
