"""`Sum`: methods that train together on one model, such as `lora+bitfit`, and are saved as one adapter."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from afina.methods import problems
from afina.methods.method import Method, check_names, plain_name
from afina.methods.peft import PeftMethod
from afina.methods.selective import Selective
from afina.models.architectures import is_head, output_embedding_of

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Parameter

    from afina.models.backbone import Backbone
    from afina.models.kernels.layer_changes import BatchedAdapter

PLUS = "+"
MULTIPLIER = "multiplier"
"""Key in the hyperparameters of one method of a sum: the ratio of this method's learning rate to the sum's."""


@dataclass(frozen=True)
class Sum(Method):
    """Several methods on one model: a sum trains what each of its methods (parts) trains, and the head once.

    Attributes:
        parts: The methods of the sum by key in METHODS, in the order in which the user names them.
        given: Learning-rate multipliers of some parts, by key. The default learning rate of the sum is the first
            part's. A part without a multiplier has its own default rate if the sum has its default rate.
    """

    name: ClassVar[str] = "sum"
    title: ClassVar[str] = "sum"
    summary: ClassVar[str] = "several methods that train together"

    parts: Mapping[str, Method]
    given: Mapping[str, float]

    def __post_init__(self) -> None:
        keys, methods = list(self.parts), list(self.parts.values())
        name = PLUS.join(keys)
        if (asked := next((key for key, part in self.parts.items() if part.asks_endpoint), None)) is not None:
            raise problems.ENDPOINT_IN_SUM(method=name, part=asked)
        idle = next((key for key, part in self.parts.items() if part.trains_nothing or not part.trains_body), None)
        if idle is not None:
            does = "trains nothing" if self.parts[idle].trains_nothing else "trains only the head, as every method does"
            raise problems.PART_WITHOUT_EFFECT(reason=does, method=name, part=idle)
        if on_pairs := [key for key, part in self.parts.items() if part.pairs is not None]:
            raise problems.PART_ON_PAIRS(method=name, part=on_pairs[0])
        wraps = [key for key, part in self.parts.items() if isinstance(part, PeftMethod)]
        if len(wraps) > 1:
            raise problems.BOTH_WRAP(method=name, parts=wraps)
        first = methods[0]
        described = {
            "name": name,
            "title": f" {PLUS} ".join(part.title for part in methods),
            "summary": f"{'; '.join(part.summary for part in methods)}",
            "learning_rate": first.learning_rate,
            "encoder_rate": first.encoder_rate,
            "search": {},
            "practical": False,
            "starts_apart": any(part.starts_apart for part in methods),
            "packs": all(part.packs for part in methods),
            "trains_all": any(part.trains_all for part in methods),
            "adds_parameters": methods[0].adds_parameters
            if len({part.adds_parameters for part in methods}) == 1
            else None,
            "tensor_file": self._wrap.tensor_file if self._wrap and self._peft_opens else Method.tensor_file,
        }
        for key, value in described.items():  # set on the instance because they depend on the parts
            object.__setattr__(self, key, value)

    def for_family(self, family: str) -> Self:
        parts = {key: part.for_family(family) for key, part in self.parts.items()}
        return type(self)(parts, self.given)

    @property
    def hyperparameters(self) -> dict[str, Any]:
        return {
            key: part.hyperparameters | ({MULTIPLIER: self.given[key]} if key in self.given else {})
            for key, part in self.parts.items()
        }

    @property
    def non_defaults(self) -> dict[str, Any]:
        return {
            key: part.non_defaults | ({MULTIPLIER: self.given[key]} if key in self.given else {})
            for key, part in self.parts.items()
        }

    @property
    def trains_head(self) -> bool:
        return any(part.trains_head for part in self.parts.values())

    @property
    def takes_positions(self) -> int:
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
        """Attach peft's part first, because peft looks for original modules, then selective parts, then the others.

        Raises InvalidStudy if two parts of the sum train the same parameter.
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

    def begin(self, model: Any) -> None:
        for part in self._own.values():
            part.begin(self._inner(model))

    def _inner(self, model: Any) -> Any:
        return model if self._wrap is None else model.get_base_model()

    def _owners(self, model: Any) -> dict[str, list[str]]:
        """Return the keys of the parts that train each parameter, without the part that uses peft.

        A parameter that a part added belongs to that part alone, even if a selective part such as BitFit chooses it
        too.
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
            raise problems.BOTH_TRAIN(parameter=what, method=self.name, parts=owners)
        if owners and name.endswith(".base_layer.weight"):
            raise problems.TRAINS_WHAT_ANOTHER_ADDS_TO(parameter=what, method=self.name, part=owners[0])

    def decays(self, model: Any) -> set[str]:
        """Those that have weight decay in every part."""
        return set.intersection(*(part.decays(model) for part in self.parts.values()))

    def unlowered(self, model: Any) -> set[str]:
        return set.union(*(part.unlowered(model) for part in self.parts.values()))

    def multipliers(self, model: Any) -> Mapping[str, float]:
        """The part's own multiplier times `factor`. The head has that of the first part."""
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
        owners = self._owners(model)
        by_part = {key: part.pretrained(model) for key, part in self._own.items()}
        return {name for name in self._beside(model) if name in by_part[owners[name][0]]}

    def factor(self, key: str) -> float:
        """The ratio of a part's learning rate to that of the sum."""
        return self.given.get(key, self.parts[key].learning_rate / self.learning_rate)

    def state(self, model: Any) -> dict[str, Tensor]:
        """peft's tensors under peft's names, the other parts' under their names in the model."""
        if self._wrap is None:
            return super().state(model)
        return self._wrap.state(model) | self._beside(model)

    def _beside(self, model: Any) -> dict[str, Parameter]:
        owners = self._owners(model)
        return {name: parameter for name, parameter in model.named_parameters() if owners[name] and not is_head(name)}

    def check(self, model: Any, state: Mapping[str, Tensor]) -> None:
        for part in self.parts.values():
            part.check(model, state)

    def restore(self, model: Any, state: Mapping[str, Tensor]) -> None:
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
        """The changes of all parts, selective parts first; None if a part returns None."""
        from afina.models.kernels.layer_changes import BatchedAdapter

        inside = sorted(self.parts.values(), key=lambda part: not isinstance(part, Selective))
        all_parts = [part.batched(model, state, base) for part in inside]
        made = [one for one in all_parts if one is not None]
        return BatchedAdapter.joined(made) if len(made) == len(all_parts) else None

    def merged(self, model: Any) -> Any:
        """Only peft's additions are merged; modules of other parts stay in the model."""
        return model if self._wrap is None else self._wrap.merged(model)

    def accompany(self, model: Any, backbone: Backbone, directory: Path) -> None:
        """Only if peft's settings can express every part of the sum."""
        if self._wrap is None or not self._peft_opens:
            return
        inner = model.get_base_model()
        head = output_embedding_of(inner)
        if head is not None and head.weight.requires_grad and head.weight is inner.get_input_embeddings().weight:
            return  # peft would train a copy of the input embedding, of which the output embedding is no part
        extra: dict[str, Any] = {}
        for part in self._own.values():
            for key, value in part.in_peft(inner).items():
                extra[key] = extra.get(key, []) + value if isinstance(value, list) else value
        self._wrap.write_settings(model, backbone, directory, extra)
