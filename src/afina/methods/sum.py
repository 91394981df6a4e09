"""Sum: methods that train together on one model, such as `lora+bitfit`, under one manifest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from afina.errors import InvalidStudy
from afina.methods.method import Method, check_names, plain_name
from afina.methods.peft import PeftMethod
from afina.methods.selective import Selective
from afina.models.architectures import is_head

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Parameter

    from afina.models.backbone import Backbone
    from afina.models.kernels.layer_changes import BatchedAdapter

PLUS = "+"
MULTIPLIER = "multiplier"
"""In a part's table: what its learning rate is of the sum's."""


@dataclass(frozen=True)
class Sum(Method):
    """Trains what each part trains; the head once.

    parts  by their keys in METHODS, in the order in which they are named
    given  multipliers of parts' learning rates, by key; a part without one has its own rate where the sum has its
           default, which is the first part's
    """

    name: ClassVar[str] = "sum"
    title: ClassVar[str] = "sum"
    summary: ClassVar[str] = "several methods that train together"

    parts: Mapping[str, Method]
    given: Mapping[str, float]

    def __post_init__(self) -> None:
        keys, methods = list(self.parts), list(self.parts.values())
        name = PLUS.join(keys)
        idle = next((key for key, part in self.parts.items() if part.trains_nothing or not part.trains_body), None)
        if idle is not None:
            does = (
                "trains nothing" if self.parts[idle].trains_nothing else "trains the head alone, as every method does"
            )
            raise InvalidStudy(
                f"method {name}: {idle} {does}. Leave it out.", code="method.sum-contradiction", method=name, part=idle
            )
        wraps = [key for key, part in self.parts.items() if isinstance(part, PeftMethod)]
        if len(wraps) > 1:
            raise InvalidStudy(
                f"method {name}: {' and '.join(wraps)} are peft's, which wraps a model once. Leave one out.",
                code="method.sum-contradiction",
                method=name,
                parts=wraps,
            )
        first = methods[0]
        told = {
            "name": name,
            "title": f" {PLUS} ".join(part.title for part in methods),
            "summary": f"{'; '.join(part.summary for part in methods)}",
            "learning_rate": first.learning_rate,
            "search": {},
            "practical": False,
            "starts_apart": any(part.starts_apart for part in methods),
            "packs": all(part.packs for part in methods),
            "tensor_file": self._wrap.tensor_file if self._wrap and self._peft_opens else Method.tensor_file,
        }
        for key, value in told.items():  # of an instance, since they are its parts'
            object.__setattr__(self, key, value)

    def for_family(self, family: str) -> Self:
        """Each part for it."""
        parts = {key: part.for_family(family) for key, part in self.parts.items()}
        return type(self)(parts, self.given)

    @property
    def hyperparameters(self) -> dict[str, Any]:
        """By part: its own, and its multiplier where one is given."""
        return {
            key: part.hyperparameters | ({MULTIPLIER: self.given[key]} if key in self.given else {})
            for key, part in self.parts.items()
        }

    @property
    def trains_head(self) -> bool:
        """Where any part does."""
        return any(part.trains_head for part in self.parts.values())

    @property
    def takes_positions(self) -> int:
        """Of all parts."""
        return sum(part.takes_positions for part in self.parts.values())

    @cached_property
    def _wrap(self) -> PeftMethod | None:
        return next((part for part in self.parts.values() if isinstance(part, PeftMethod)), None)

    @cached_property
    def _own(self) -> dict[str, Method]:
        return {key: part for key, part in self.parts.items() if part is not self._wrap}

    @property
    def _peft_opens(self) -> bool:
        return all(part.said_by_peft for part in self._own.values())

    def attach(self, model: Any) -> Any:
        """peft wraps first, so that it finds the modules that it knows; then what chooses among the model's own
        parameters, and at last what adds some. Raises InvalidStudy where parts overlap.
        """
        model.requires_grad_(False)
        if self._wrap is not None:
            model = self._wrap.attach(model)
        wrapped = {id(parameter) for parameter in model.parameters() if parameter.requires_grad}
        inner = self._inner(model)
        for part in sorted(self._own.values(), key=lambda part: not isinstance(part, Selective)):
            part.attach(inner)
        owners = self._owners(model)
        for name, parameter in model.named_parameters():
            train = id(parameter) in wrapped or (bool(owners[name]) and "original_module" not in name)
            if not is_head(name):
                self._refuse_overlap(name, owners[name])
            parameter.requires_grad_(train)
        return model

    def _inner(self, model: Any) -> Any:
        return model if self._wrap is None else model.get_base_model()

    def _owners(self, model: Any) -> dict[str, list[str]]:
        """By parameter of a model, the parts beside peft's that train it. What a part has added is its own, though
        another chooses by name, as all biases.
        """
        owned = {key: part.owned(self._inner(model)) for key, part in self._own.items()}
        found = {}
        for name, _ in model.named_parameters():
            keys = [key for key, names in owned.items() if plain_name(name) in names]
            found[name] = [key for key in keys if not isinstance(self.parts[key], Selective)] or keys
        return found

    def _refuse_overlap(self, name: str, owners: list[str]) -> None:
        what = plain_name(name)
        if len(owners) > 1:
            raise InvalidStudy(
                f"method {self.name}: {' and '.join(owners)} both train {what}. Leave one out.",
                code="method.sum-contradiction",
                method=self.name,
                parts=owners,
            )
        if owners and name.endswith(".base_layer.weight"):
            raise InvalidStudy(
                f"method {self.name}: {owners[0]} trains {what}, to which another part adds. Leave one out, or name "
                "other targets.",
                code="method.sum-contradiction",
                method=self.name,
                part=owners[0],
            )

    def decays(self, model: Any) -> set[str]:
        """What no part spares."""
        return set.intersection(*(part.decays(model) for part in self.parts.values()))

    def unlowered(self, model: Any) -> set[str]:
        """Each part's."""
        return set.union(*(part.unlowered(model) for part in self.parts.values()))

    def multipliers(self, model: Any) -> Mapping[str, float]:
        """Each part's, times its own; the head has the first part's."""
        found = {}
        by_part = {key: part.multipliers(model) for key, part in self.parts.items()}
        owners, first = self._owners(model), next(iter(self.parts))
        wrap = next((key for key, part in self.parts.items() if part is self._wrap), first)
        for name in self.trainable(model):
            owner = first if is_head(name) else (owners[name] or [wrap])[0]
            factor = self.factor(owner) * by_part[owner].get(name, 1.0)
            if factor != 1:
                found[name] = factor
        return found

    def pretrained(self, model: Any) -> set[str]:
        """What is so of a part's own."""
        owners = self._owners(model)
        by_part = {key: part.pretrained(model) for key, part in self._own.items()}
        return {name for name in self._beside(model) if name in by_part[owners[name][0]]}

    def factor(self, key: str) -> float:
        """What the learning rate of a part is of the sum's."""
        return self.given.get(key, self.parts[key].learning_rate / self.learning_rate)

    def state(self, model: Any) -> dict[str, Tensor]:
        """peft's under peft's names, the others' under those that they have in the model, which peft uses as well."""
        if self._wrap is None:
            return super().state(model)
        return self._wrap.state(model) | self._beside(model)

    def _beside(self, model: Any) -> dict[str, Parameter]:
        owners = self._owners(model)
        return {name: parameter for name, parameter in model.named_parameters() if owners[name] and not is_head(name)}

    def check(self, model: Any, state: Mapping[str, Tensor]) -> None:
        """What each part has to say of it."""
        for part in self.parts.values():
            part.check(model, state)

    def restore(self, model: Any, state: Mapping[str, Tensor]) -> None:
        """Each part's own. Raises CorruptAdapter where names or shapes differ."""
        if self._wrap is None:
            super().restore(model, state)
            return
        import torch

        check_names(self.state(model), state)
        beside = self._beside(model)
        with torch.no_grad():
            for name, parameter in beside.items():
                parameter.copy_(state[name])
        self._wrap.restore(model, {name: tensor for name, tensor in state.items() if name not in beside})

    def batched(self, model: Any, state: Mapping[str, Tensor], base: Any) -> BatchedAdapter | None:
        """Where every part has one; what is changed inside a layer of peft's comes first."""
        from afina.models.kernels.layer_changes import BatchedAdapter

        inside = sorted(self.parts.values(), key=lambda part: not isinstance(part, Selective))
        all_parts = [part.batched(model, state, base) for part in inside]
        made = [one for one in all_parts if one is not None]
        return BatchedAdapter.joined(made) if len(made) == len(all_parts) else None

    def merged(self, model: Any) -> Any:
        """Of what peft wraps; what other parts have added stays."""
        return model if self._wrap is None else self._wrap.merged(model)

    def accompany(self, model: Any, backbone: Backbone, directory: Path) -> None:
        """peft's settings, where peft can express every part."""
        if self._wrap is None or not self._peft_opens:
            return
        inner = model.get_base_model()
        extra: dict[str, Any] = {}
        for part in self._own.values():
            for key, value in part.in_peft(inner).items():
                extra[key] = extra.get(key, []) + value if isinstance(value, list) else value
        self._wrap.write_settings(model, backbone, directory, extra)
