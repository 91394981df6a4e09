"""Types of peft that have no class of their own here: trained by their settings, or opened as peft saved them.

`[methods.peft]`, `type = "MISS"`, `settings = {r = 8}` trains any type that packs; `SavedPeft` opens an adapter that
afina did not make. Knows of each type whether it has a meaning here, never how it computes. What there is to say of
all is in docs/reference/peft-types.md, which `tests/methods/test_peft_types.py` holds to what peft does.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field, JsonValue

from afina.errors import InvalidStudy, UnknownName
from afina.methods import peft_settings
from afina.methods.method import check_names
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
    summary: ClassVar[str] = "another type of peft's trains, by its own settings; see docs/reference/peft-types.md"
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


_LARGEST = 3e38


@dataclass(frozen=True)
class SavedPeft(PeftMethod):
    """An adapter that peft saved and afina did not make: its own settings, whatever they are. Opened, never trained.

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
            raise _unusable(error) from None

    def check(self, model: Any, state: Mapping[str, Tensor]) -> None:
        """Attached to a model without values, it must have the state's names and shapes."""
        import torch

        with torch.device("meta"):
            skeleton = type(model)(model.config)
            try:
                wrapped = super().attach(skeleton)
            except OF_PEFT as error:
                if isinstance(error, RuntimeError) and "meta tensor" in str(error):
                    return  # peft computes with the values of what this type adds; `attach` and `restore` have to do
                raise _unusable(error) from None
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


def _unusable(error: Exception) -> InvalidStudy:
    return InvalidStudy(f"the adapter's peft settings cannot be used ({brief(error)}).", code="peft.settings-unusable")


def _floats(value: Any) -> Iterator[float]:
    if isinstance(value, float):
        yield value
    elif isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _floats(each)
