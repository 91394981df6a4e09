"""Methods for peft types without a class of their own in afina: to train any type, and to open what peft saved.

In a study file, `[methods.peft]` trains a peft type, such as `type = "MISS"` with `settings = {r = 8}`. `SavedPeft`
opens an adapter that was made with peft and without afina. docs/reference/peft-types.md describes all peft types;
`tests/methods/test_peft_types.py` compares this page with peft.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self

from pydantic import Field, JsonValue

from afina.errors import InvalidStudy, UnknownName
from afina.methods import peft_settings, problems
from afina.methods.method import Method, check_names, plain_name
from afina.methods.peft import OF_PEFT, PeftMethod, brief
from afina.methods.peft_settings import COMMON, NOT_TRAINED, TRAINED
from afina.methods.prompt_and_prefix import PrefixTuning, PromptTuning, VirtualTokens
from afina.models.architectures import architecture_of, is_head

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Parameter

    from afina.models.kernels.layer_changes import BatchedAdapter


_LOWERED = {"LN_TUNING"}
"""peft types whose trained parameters replace the body's own, and are computed in the body's dtype."""


@dataclass(frozen=True)
class PeftType(PeftMethod):
    """Any supported peft type: the method trains what the type adds, and the head.

    The method `peft` is not in METHODS because it needs a type.

    Attributes:
        type: peft's name of the type, such as MISS.
        given: Fields of peft's configuration of the type (`settings` in a study). If `target_modules` is not given, its
            default is peft's for the model family, or else LoRA's.
    """

    name: ClassVar[str] = "peft"
    title: ClassVar[str] = "peft"
    summary: ClassVar[str] = "another type of peft's trains, by its own settings; see docs/reference/peft-types.md"
    learning_rate: ClassVar[float] = 1e-3
    practical: ClassVar[bool] = False
    required: ClassVar[Mapping[str, str]] = {"type": "peft's name of the type, such as MISS"}
    packs: ClassVar[bool] = False
    """False, because most peft types read the weight of the layer that they wrap, some in addition to calling the
    layer."""

    type: str
    given: Annotated[dict[str, JsonValue], Field(alias="settings")] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.type in NOT_TRAINED:
            raise problems.PEFT_TYPE_NOT_TRAINED(reason=NOT_TRAINED[self.type], type=self.type)
        if self.type not in TRAINED:
            raise UnknownName("peft type", self.type, TRAINED, "method peft")
        self._check_known(self._known)
        try:
            peft_settings.check(self._given)
        except InvalidStudy as error:
            raise error.within("method peft: ") from None
        object.__setattr__(self, "title", f"{self.type} (peft)")

    @property
    def _known(self) -> set[str]:
        return {*COMMON, *TRAINED[self.type]}

    def _check_known(self, known: set[str]) -> None:
        for key in self.given:
            if key not in known:
                raise UnknownName(f"setting of {self.type}", key, known, "method peft")

    @property
    def _given(self) -> dict[str, Any]:
        return {"peft_type": self.type} | self.given

    @classmethod
    def accepts(cls) -> set[str]:
        return {"type", "settings"}

    @property
    def hyperparameters(self) -> dict[str, Any]:
        return {"type": self.type, "settings": dict(self.given)}

    def settings(self, model: Any) -> Any:
        """Return peft's configuration of the type, in which patterns are replaced by module names.

        Raises InvalidStudy for settings that cannot be used.
        """
        from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING
        from peft.utils.peft_types import PeftType as Known

        if self.type not in list(Known):
            raise problems.PEFT_TYPE_NOT_INSTALLED(type=self.type)
        tuner = PEFT_TYPE_TO_TUNER_MAPPING[Known(self.type)]
        family = architecture_of(model)
        settings = self._given | {"task_type": "SEQ_CLS"}
        if "fan_in_fan_out" in TRAINED[self.type]:
            settings.setdefault("fan_in_fan_out", family.fan_in_fan_out)
        if model.config.model_type not in (getattr(tuner, "target_module_mapping", None) or {}):
            settings.setdefault("target_modules", list(family.lora_targets))
        kind = PEFT_TYPE_TO_CONFIG_MAPPING[Known(self.type)]
        self._check_known({each.name for each in fields(kind)} & self._known)
        try:
            peft_settings.check_booleans(kind, self.given)
            settings = peft_settings.resolved(settings, [name for name, _ in model.named_modules()])
        except InvalidStudy as error:
            raise error.within("method peft: ") from None
        del settings["peft_type"]
        try:
            return kind(**settings)
        except OF_PEFT as error:
            raise problems.PEFT_TYPE_UNUSABLE(reason=brief(error), type=self.type) from None

    def attach(self, model: Any) -> Any:
        """Raises InvalidStudy if the settings cannot be used, or if peft changes a weight of the backbone."""
        before = [(parameter, _mark(parameter)) for parameter in model.parameters()]
        try:
            wrapped = super().attach(model)
        except OF_PEFT as error:
            raise problems.PEFT_TYPE_UNUSABLE(reason=brief(error), type=self.type) from None
        there = set(wrapped.parameters())
        if any(parameter not in there or _mark(parameter) != mark for parameter, mark in before):
            raise problems.PEFT_CHANGES_BACKBONE(type=self.type)
        for module in wrapped.modules():
            if hasattr(module, "base_layer"):
                module.register_forward_hook(_as_given)
                module.base_layer.register_forward_pre_hook(_as_its_weight)
        return wrapped

    def unlowered(self, model: Any) -> set[str]:
        """peft computes many of the parameters that it adds in float32, whatever the body's dtype."""
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
    """A value that changes if a parameter moves in memory or its numbers change."""
    return parameter.data_ptr(), 0.0 if parameter.is_meta else float(parameter.detach().double().sum())


def _as_given(module: Any, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    """Some peft layers return another dtype than that of their input."""
    return output.to(inputs[0].dtype)


def _as_its_weight(module: Any, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Some peft layers pass another dtype than that of the layer's weight."""
    return inputs[0].to(next(module.parameters()).dtype), *inputs[1:]


ON_HELD_WEIGHTS = ("LORA", "IA3", "VERA")
"""Types that can be opened on int8 or NF4: afina computes their layers, or they read no frozen weight."""


@dataclass(frozen=True)
class SavedPeft(PeftMethod):
    """An adapter that was made with peft and without afina, which afina opens and does not train.

    `saved` is the content of `adapter_config.json`.
    """

    name: ClassVar[str] = "peft"
    title: ClassVar[str] = "peft"
    summary: ClassVar[str] = "an adapter made by peft"
    packs: ClassVar[bool] = False
    saves_head: ClassVar[bool] = False

    saved: dict[str, Any] = field(default_factory=dict)

    @property
    def hyperparameters(self) -> dict[str, Any]:
        return dict(self.saved)

    def settings(self, model: Any) -> Any:
        """Raises InvalidStudy for unsafe settings."""
        peft_settings.check(self.saved)
        # peft would warn about another base model, and would add to the lists that it gets
        given = {key: deepcopy(value) for key, value in self.saved.items() if key != "base_model_name_or_path"}
        return _read(peft_settings.resolved(given, [name for name, _ in model.named_modules()]))

    def attach(self, model: Any) -> Any:
        """Raises InvalidStudy also for a type whose layers read frozen weights that are int8 or NF4."""
        from afina.models.kernels.linear import held_tensors

        kind = self.saved["peft_type"]
        if kind not in ON_HELD_WEIGHTS and held_tensors(model):
            raise problems.PEFT_TYPE_NEEDS_FLOATS(known=ON_HELD_WEIGHTS, type=kind)
        try:
            return super().attach(model)
        except OF_PEFT as error:
            raise _unusable(error) from None

    def check_saved(self, model: Any, expected: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> None:
        """Frozen embeddings in the saved state are accepted: peft saves them if a LoRA changes them."""
        for name in _embeddings(model, expected, state):
            there = model.get_parameter(name)
            if there.shape != state[name].shape:
                raise problems.VOCABULARY_RESIZED(
                    found=list(state[name].shape), expected=list(there.shape), tensor=name
                )
        check_names(expected, self._changes(model, expected, state))

    def _changes(self, model: Any, expected: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        frozen = _embeddings(model, expected, state)
        return {name: tensor for name, tensor in state.items() if name not in frozen}

    def restore(self, model: Any, state: Mapping[str, Tensor]) -> None:
        """Raises WrongBackbone if the file has frozen embeddings that differ from the backbone's."""
        expected = self.state(model)
        self.check_saved(model, expected, state)
        for name in _embeddings(model, expected, state):
            saved = state[name]
            if not model.get_parameter(name).to(saved.dtype).equal(saved.to(model.get_parameter(name).device)):
                raise problems.FROZEN_TENSOR_DIFFERS(tensor=name)
        super().restore(model, self._changes(model, expected, state))

    def check(self, model: Any, state: Mapping[str, Tensor]) -> None:
        import torch

        with torch.device("meta"):
            skeleton = type(model)(model.config)
            try:
                wrapped = super().attach(skeleton)
            except OF_PEFT as error:
                if isinstance(error, RuntimeError) and "meta tensor" in str(error):
                    return  # peft computes with values when it adds this type; `attach` and `restore` then check it
                raise _unusable(error) from None
            self.check_saved(wrapped, self.state(wrapped), state)


def _embeddings(model: Any, expected: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> set[str]:
    """The names of the frozen embeddings in a saved state; `expected` is without them."""
    entry = architecture_of(model)
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    known = {f"{inner.base_model_prefix}.{entry.embeddings[0]}.weight", f"{entry.output_embedding}.weight"}
    frozen = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    return {name for name in state.keys() - expected.keys() if plain_name(name) in known and name in frozen}


OWN: dict[str, type[VirtualTokens]] = {"PROMPT_TUNING": PromptTuning, "PREFIX_TUNING": PrefixTuning}

_ROWS = "prompt_embeddings"
"""peft's name of the tensor [virtual tokens, values of a token] that has all virtual tokens."""


def saved_by_peft(saved: dict[str, Any]) -> Method:
    """Return the method that opens what peft saved with these settings."""
    return SavedVirtualTokens(saved) if saved.get("peft_type") in [*OWN] else SavedPeft(saved)


@dataclass(frozen=True)
class SavedVirtualTokens(Method):
    """Prompt or prefix tuning saved by peft and computed by afina's own method, which afina does not train.

    A saved prefix has, for each virtual token, the key and the value in each attention layer, from the first layer to
    the last. Keys of a prefix are stored after the rotary embedding, as in afina's own format.
    """

    name: ClassVar[str] = "peft"
    title: ClassVar[str] = "peft"
    summary: ClassVar[str] = SavedPeft.summary
    starts_apart: ClassVar[bool] = True

    saved: dict[str, Any] = field(default_factory=dict)

    @property
    def hyperparameters(self) -> dict[str, Any]:
        return dict(self.saved)

    @cached_property
    def own(self) -> VirtualTokens:
        """Raises InvalidStudy for settings that cannot be used."""
        peft_settings.check(self.saved)
        tokens = self.saved.get("num_virtual_tokens")
        if type(tokens) is not int or tokens < 1 or self.saved.get("num_transformer_submodules") not in (None, 1):
            raise problems.PEFT_VIRTUAL_TOKENS_INVALID(
                found=tokens, submodules=self.saved.get("num_transformer_submodules"), setting="num_virtual_tokens"
            )
        _read(self.saved)
        return OWN[self.saved["peft_type"]](tokens)

    def for_family(self, family: str) -> Self:
        self.own.for_family(family)
        return self

    @property
    def takes_positions(self) -> int:
        return self.own.takes_positions

    def attach(self, model: Any) -> Any:
        """Raises InvalidStudy if afina's result would differ from peft's, or no room is left for a text."""
        window = getattr(model.config, "sliding_window", None)
        if window and self.saved["peft_type"] == "PREFIX_TUNING":
            raise problems.PREFIX_IN_WINDOW(window=window, type="PREFIX_TUNING")
        return self.own.attach(model)

    def state(self, model: Any) -> dict[str, Tensor]:
        import torch

        own = self.own.state(model)
        rows = torch.stack([own.pop(name) for name in self.own.added(own)], 1).flatten(1)
        return {_ROWS: rows, **{f"base_model.{name}": tensor for name, tensor in own.items()}}

    def _own_state(self, model: Any, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        own = self.own.state(model)
        names = self.own.added(own)
        rows = state[_ROWS]
        parts = rows.reshape(len(rows), len(names), *own[names[0]].shape[1:]).unbind(1)
        heads = {name.removeprefix("base_model."): tensor for name, tensor in state.items() if name != _ROWS}
        return {**dict(zip(names, parts, strict=True)), **heads}

    def check(self, model: Any, state: Mapping[str, Tensor]) -> None:
        import torch

        with torch.device("meta"):
            check_names(self.state(self.attach(type(model)(model.config))), state)

    def restore(self, model: Any, state: Mapping[str, Tensor]) -> None:
        check_names(self.state(model), state)
        self.own.restore(model, self._own_state(model, state))

    def batched(self, model: Any, state: Mapping[str, Tensor], base: Any) -> BatchedAdapter | None:
        made = self.own.batched(model, self._own_state(model, state), base)
        return None if made is None else replace(made, tensor_names=frozenset({_ROWS}))

    def merged(self, model: Any) -> Any:
        """Unchanged: virtual tokens cannot be merged into weights."""
        return self.own.merged(model)


def _read(given: Mapping[str, Any]) -> Any:
    from peft import PeftConfig
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    try:
        kind = PEFT_TYPE_TO_CONFIG_MAPPING[given["peft_type"]]
        known = {each.name for each in fields(kind)}
        for name, value in given.items():
            if name not in known and value not in (None, False, [], {}, ""):
                raise problems.PEFT_SETTING_UNKNOWN(found=str(value)[:80], setting=name, type=given["peft_type"])
        return PeftConfig.from_peft_type(**{name: value for name, value in given.items() if name in known})
    except OF_PEFT as error:
        raise _unusable(error) from None


def _unusable(error: Exception) -> InvalidStudy:
    return problems.PEFT_SETTINGS_UNUSABLE(reason=brief(error))
