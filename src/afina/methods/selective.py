"""Selective methods, which train some of the model's own parameters or none, and add no parameters.

The module does not import torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from afina.methods import problems
from afina.methods.method import Method, out_of_range, plain_name, weight_names
from afina.models.architectures import ARCHITECTURES, Architecture, architecture_of, is_head

if TYPE_CHECKING:
    from torch import Tensor

    from afina.models.backbone import Backbone
    from afina.models.kernels.layer_changes import BatchedAdapter, LayerChange


@dataclass(frozen=True)
class Selective(Method):
    """The base class of methods that train parameters chosen by name (`trains`), or by another rule (`chosen`)."""

    adds_parameters: ClassVar[bool | None] = False

    def trains(self, name: str) -> bool:
        raise NotImplementedError

    def chosen(self, model: Any) -> set[str]:
        """The `plain_name` of all parameters to train, including int8 or NF4 weights."""
        return {name for name in set.union(*weight_names(model)) if self.trains(name)}

    def owned(self, model: Any) -> set[str]:
        return self.chosen(model)

    def pretrained(self, model: Any) -> set[str]:
        """Without the head, which does not come from the backbone."""
        return {name for name in self.trainable(model) if not is_head(name)}

    def attach(self, model: Any) -> Any:
        """Raises InvalidStudy if a chosen weight is int8 or NF4."""
        chosen = self.chosen(model)
        if wanted := sorted(chosen & weight_names(model)[1]):
            raise problems.TRAINS_HELD_WEIGHT(parameter=wanted[0], method=self.name)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(plain_name(name) in chosen)
        return model

    def batched(self, model: Any, state: Mapping[str, Tensor], base: Any) -> BatchedAdapter | None:
        """The trained biases and norms; None if a matrix or an embedding was trained."""
        from afina.models.kernels.layer_changes import BatchedAdapter, BiasChange, NormChange

        own = self.chosen(model) & {name for name, _ in base.named_parameters()}
        theirs: dict[str, dict[str, Tensor]] = {}
        tensor_names = {name: plain_name(name) for name in state if plain_name(name) in own and not is_head(name)}
        for name, plain in tensor_names.items():
            path, _, kind = plain.rpartition(".")
            theirs.setdefault(path, {})[kind] = state[name]
        shapes = {plain_name(name): parameter.dim() for name, parameter in model.named_parameters()}
        matrices = {name.rpartition(".")[0] for name, sides in shapes.items() if sides > 1}
        changes: dict[str, tuple[LayerChange, ...]] = {}
        for path, vectors in theirs.items():
            layer = base.get_submodule(path)
            if path not in matrices:
                changes[path] = (NormChange(layer, **vectors),)
            elif vectors.keys() == {"bias"}:
                bias = layer.bias.detach()
                changes[path] = (BiasChange(vectors["bias"].to(bias.device) - bias),)
            else:
                return None
        return BatchedAdapter(changes, tensor_names=frozenset(tensor_names))


@dataclass(frozen=True)
class Untrained(Selective):
    """Methods that train nothing: the pretrained model is evaluated as it is."""

    search: ClassVar[None] = None
    practical: ClassVar[bool] = False
    trains_body: ClassVar[bool] = False

    @property
    def trains_head(self) -> bool:
        return False

    def trains(self, name: str) -> bool:
        return False


@dataclass(frozen=True)
class Baseline(Untrained):
    """Baseline: evaluates the pretrained body with a random head ("no fine-tuning" in preset `paper`)."""

    name: ClassVar[str] = "baseline"
    title: ClassVar[str] = "no fine-tuning"
    summary: ClassVar[str] = "the pretrained body under a random head, evaluated as it is"
    head: ClassVar[Literal["random", "words"] | None] = "random"


@dataclass(frozen=True)
class Head(Selective):
    """Linear probe by gradient steps: trains the head on features that the frozen body computed without dropout.

    The features of each text are computed only once.

    The method `linear_probe` fits the same head with scikit-learn instead of gradient steps.
    """

    name: ClassVar[str] = "head"
    title: ClassVar[str] = "head only"
    summary: ClassVar[str] = "a linear head trains by gradient steps on what the frozen body gives, computed once"
    learning_rate: ClassVar[float] = 1e-2
    encoder_rate: ClassVar[float | None] = 1e-1
    trains_body: ClassVar[bool] = False

    def trains(self, name: str) -> bool:
        return is_head(name)


@dataclass(frozen=True)
class Full(Selective):
    """Full fine-tuning: trains every parameter, including the head.

    `from_pretrained` of transformers opens the saved model.

    Attributes:
        layer_decay: Layer-wise learning-rate decay (Bao et al. 2022): the learning rate of a transformer block divided
            by the learning rate of the block above. The head and the final norm have the full learning rate, and the
            embeddings have the lowest.
    """

    name: ClassVar[str] = "full"
    title: ClassVar[str] = "full fine-tuning"
    summary: ClassVar[str] = "every parameter of the model trains"
    learning_rate: ClassVar[float] = 1e-4
    trains_all: ClassVar[bool] = True
    tensor_file: ClassVar[str] = "model.safetensors"
    stated: ClassVar[frozenset[str]] = frozenset()

    layer_decay: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.layer_decay <= 1:  # NaN fails too
            raise out_of_range("full", "0 < layer_decay <= 1", layer_decay=self.layer_decay)

    def trains(self, name: str) -> bool:
        return True

    def multipliers(self, model: Any) -> Mapping[str, float]:
        """Smaller for lower blocks; empty if `layer_decay` is 1."""
        if self.layer_decay == 1:
            return {}
        entry, there = architecture_of(model), model.config.num_hidden_layers
        found = {}
        for name, _ in model.named_parameters():
            index = entry.block.index(name)
            if index is not None:
                found[name] = self.layer_decay ** (there - index)
            elif not is_head(name) and not entry.is_above(name):
                found[name] = self.layer_decay ** (there + 1)
        return found

    def accompany(self, model: Any, backbone: Backbone, directory: Path) -> None:
        model.config.architectures = [type(model).__name__]
        model.config.save_pretrained(directory)
        backbone.tokenizer.save_pretrained(directory)


@dataclass(frozen=True)
class Last(Selective):
    """Last blocks: trains the last transformer blocks, the final norm and the head; no gradient is computed below them.

    Attributes:
        blocks: Number of transformer blocks that are trained.
    """

    name: ClassVar[str] = "last"
    title: ClassVar[str] = "last blocks"
    summary: ClassVar[str] = "the last transformer blocks and the final norm train, the blocks below stay frozen"
    learning_rate: ClassVar[float] = 5e-4
    practical: ClassVar[bool] = False
    search: ClassVar[Mapping[str, tuple[Any, ...]]] = {"blocks": (1, 2, 4)}

    blocks: int = 2

    def __post_init__(self) -> None:
        if self.blocks < 1:
            raise out_of_range("last", "at least 1; to train only the head, use method head", blocks=self.blocks)

    def chosen(self, model: Any) -> set[str]:
        """Raises InvalidStudy for too few blocks."""
        entry, there = architecture_of(model), model.config.num_hidden_layers
        if self.blocks > there:
            raise problems.BLOCKS_TOO_MANY(
                _setting="blocks", _count=self.blocks, found=there, method=self.name, blocks=self.blocks
            )
        found = set()
        for name in set.union(*weight_names(model)):
            index = entry.block.index(name)
            above = is_head(name) or entry.is_above(name)
            if above if index is None else index >= there - self.blocks:
                found.add(name)
        return found


@dataclass(frozen=True)
class BitFit(Selective):
    """BitFit: trains all biases, including those of norms, and the head (Ben Zaken et al. 2022)."""

    name: ClassVar[str] = "bitfit"
    title: ClassVar[str] = "BitFit"
    summary: ClassVar[str] = "the biases train, the weights that they are added to stay frozen"
    learning_rate: ClassVar[float] = 1e-3
    encoder_rate: ClassVar[float | None] = 3e-3
    practical: ClassVar[bool] = False
    said_by_peft: ClassVar[bool] = True

    def trains(self, name: str) -> bool:
        return name.endswith(".bias") or is_head(name)

    def in_peft(self, model: Any) -> Mapping[str, Any]:
        return {"bias": "all"}

    def attach(self, model: Any) -> Any:
        """Raises InvalidStudy if the model has no biases."""
        if all(is_head(name) for name in self.chosen(model)):
            raise problems.NO_BIASES(method=self.name, family=model.config.model_type)
        return super().attach(model)


@dataclass(frozen=True)
class LayerNorm(Selective):
    """Norms: trains the weights and biases of all LayerNorm or RMSNorm modules, and the head (Zhao et al. 2024)."""

    name: ClassVar[str] = "layernorm"
    title: ClassVar[str] = "norms"
    summary: ClassVar[str] = "the norms between the layers train, the layers stay frozen"
    learning_rate: ClassVar[float] = 1e-3
    encoder_rate: ClassVar[float | None] = 3e-3
    practical: ClassVar[bool] = False
    said_by_peft: ClassVar[bool] = True

    def chosen(self, model: Any) -> set[str]:
        norms = architecture_of(model).norms
        names = (plain_name(name) for name, _ in model.named_parameters())
        return {name for name in names if is_head(name) or not norms.isdisjoint(name.split(".")[-2:-1])}

    def in_peft(self, model: Any) -> Mapping[str, Any]:
        found = {name.split(".")[-2] for name in self.chosen(model) if not is_head(name)}
        return {"modules_to_save": sorted(found)}


@dataclass(frozen=True)
class PreLayer(Selective):
    """PreLayer: trains the token and position embeddings, and the head unless `train_head` is false.

    PreLayer is the fourth approach of the published study that preset `paper` repeats. The published study says
    in its text that PreLayer trains the embeddings, which are 39,383,808 parameters of GPT-2; its table reports 46,080
    parameters. The class `PreLayer` follows the text. `PreLayer46080` trains one of the possible sets of 46,080
    parameters. The published study froze the head; with a frozen random head, accuracy stays near chance, so afina
    trains the head by default.

    Attributes:
        train_head: Whether the head trains.
    """

    name: ClassVar[str] = "prelayer"
    title: ClassVar[str] = "PreLayer"
    summary: ClassVar[str] = "the token and position embeddings train, the blocks stay frozen"
    learning_rate: ClassVar[float] = 2e-3
    encoder_rate: ClassVar[float | None] = 6e-3
    said_by_peft: ClassVar[bool] = True

    train_head: bool = True

    @property
    def trains_head(self) -> bool:
        return self.train_head

    def chosen(self, model: Any) -> set[str]:
        names = [plain_name(name) for name, _ in model.named_parameters()]
        head = {name for name in names if is_head(name)} if self.train_head else set()
        return head | {name for name in names if self.chooses(architecture_of(model), name)}

    def chooses(self, entry: Architecture, name: str) -> bool:
        return any(f".{path}." in f".{name}" for path in entry.embeddings)

    def in_peft(self, model: Any) -> Mapping[str, Any]:
        return {"modules_to_save": sorted(architecture_of(model).embeddings)}


@dataclass(frozen=True)
class PreLayer46080(PreLayer):
    """PreLayer (46,080): trains `ln_1` and `c_attn.bias` of every block (12 x 3,840 parameters), and the head."""

    name: ClassVar[str] = "prelayer-46080"
    title: ClassVar[str] = "PreLayer (46,080)"
    summary: ClassVar[str] = "GPT-2 only: ln_1 and c_attn.bias of every block train, the count in the paper's table"
    practical: ClassVar[bool] = False
    said_by_peft: ClassVar[bool] = False

    def for_family(self, family: str) -> Self:
        if not ARCHITECTURES[family].published:
            own = ", ".join(name for name, entry in ARCHITECTURES.items() if entry.published)
            raise problems.FAMILY_UNSUPPORTED(known=own, method=self.name, family=family)
        return self

    def chooses(self, entry: Architecture, name: str) -> bool:
        parts = name.split(".")
        assert entry.block.pre_norm is not None
        return entry.block.pre_norm.first in parts or (parts[-1] == "bias" and parts[-2] in entry.lora_targets)
