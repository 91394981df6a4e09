"""What selective methods have in common: they train some of the model's own parameters, and add none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from afina.errors import InvalidStudy
from afina.methods.method import Method, plain_name, weight_names
from afina.models.architectures import is_head

if TYPE_CHECKING:
    from torch import Tensor

    from afina.models.rider import Change, Rider


@dataclass(frozen=True)
class Selective(Method):
    """Trains the parameters that it chooses: by name, or, where a name is not enough, in `chosen`."""

    def trains(self, name: str) -> bool:
        """Whether the parameter of that name in the model trains."""
        raise NotImplementedError

    def chosen(self, model: Any) -> set[str]:
        """Names of the parameters that train, as `plain_name` has them; held weights that it wants, too."""
        return {name for name in set.union(*weight_names(model)) if self.trains(name)}

    def owned(self, model: Any) -> set[str]:
        """What it chooses."""
        return self.chosen(model)

    def pretrained(self, model: Any) -> set[str]:
        """All that trains but the head, which is drawn, or made of words."""
        return {name for name in self.trainable(model) if not is_head(name)}

    def attach(self, model: Any) -> Any:
        """Freeze all others. Raises InvalidStudy where a layer holds one that it chooses in another form."""
        chosen = self.chosen(model)
        if wanted := sorted(chosen & weight_names(model)[1]):
            raise InvalidStudy(
                f"method {self.name}: it trains {wanted[0]}, which this `precision` holds frozen. Leave `precision` "
                "out, or choose a method that adds to frozen weights, such as lora.",
                code="method.precision-unsupported",
                method=self.name,
            )
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(plain_name(name) in chosen)
        return model

    def rider(self, model: Any, state: Mapping[str, Tensor], base: Any) -> Rider | None:
        """Biases and norms take part; a changed matrix, or embedding, is a model of its own."""
        from afina.models.rider import Renormed, Rider, Shifted

        own = self.chosen(model) & {name for name, _ in base.named_parameters()}
        theirs: dict[str, dict[str, Tensor]] = {}
        heard = {name: plain_name(name) for name in state if plain_name(name) in own and not is_head(name)}
        for name, plain in heard.items():
            path, _, kind = plain.rpartition(".")
            theirs.setdefault(path, {})[kind] = state[name]
        shapes = {plain_name(name): parameter.dim() for name, parameter in model.named_parameters()}
        matrices = {name.rpartition(".")[0] for name, sides in shapes.items() if sides > 1}
        changes: dict[str, tuple[Change, ...]] = {}
        for path, vectors in theirs.items():
            layer = base.get_submodule(path)
            if path not in matrices:
                changes[path] = (Renormed(layer, **vectors),)
            elif vectors.keys() == {"bias"}:
                bias = layer.bias.detach()
                changes[path] = (Shifted(vectors["bias"].to(bias.device) - bias),)
            else:
                return None
        return Rider(changes, heard=frozenset(heard))
