"""What can be said of a backbone without its weights: its address, the shape of every weight, its precision.

An address names a directory or something to fetch. The shapes are those of a configuration and its architecture's
entry: a stranger's tensor is held to them before anything is allocated, and no model is made of an untrusted
configuration; a test holds them to transformers' own model on the `meta` device. Well-known configurations are here,
so that counting and planning need no network. Starts without torch.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator

from afina import assets, digest, hub
from afina.errors import InvalidStudy, NotFound, UnknownName
from afina.models.architectures import Architecture, Size, supported

if TYPE_CHECKING:
    from torch import Tensor

    from afina.models.kernels.linear import HeldWeight


EMBEDDED = "embedded"
RANDOM = "random:"


def check_backbone(address: str) -> None:
    """Raise what every run on that backbone would end with: NotFound, InvalidStudy. Asks the Hub where need be."""
    if address == EMBEDDED:
        return
    path = directory_of(address) or hub.snapshot(address, weights=False)
    check_config(path, address)
    try:
        check_family(json.loads((path / "config.json").read_bytes()).get("model_type"), address)
    except (ValueError, AttributeError):
        return  # whoever opens it says what is wrong


def directory_of(address: str) -> Path | None:
    """The directory that the address names; None for the embedded model and those of the Hub. Raises NotFound."""
    if address == EMBEDDED:
        return None
    path = address.removeprefix(RANDOM)
    if Path(path).is_dir():
        return Path(path)
    if path != address or address.startswith((".", "/", "~")) or address.count("/") > 1:
        raise NotFound(
            f"backbone {address}: there is no directory {path}. Give a directory that save_pretrained wrote.",
            code="backbone.missing",
            backbone=address,
        )
    return None


def backbone_files(address: str) -> list[Path]:
    """The files that make a backbone in a directory of the user's; none where every machine can get it.

    With `random:` the weights are drawn, so theirs are not among them.
    """
    path = directory_of(address)
    if path is None:
        return []
    patterns = hub.SMALL if address.startswith(RANDOM) else hub.SAFE
    found = [file for pattern in patterns for file in sorted(path.glob(pattern)) if file.is_file()]
    if not address.startswith(RANDOM) and not any(path.glob("*.safetensors")):
        found += sorted(path.glob("pytorch_model*.bin"))
    return found


def moved_address(address: str, directory: Path) -> str:
    """The address of the same backbone where its own files lie in `directory`."""
    return f"{RANDOM}{directory}" if address.startswith(RANDOM) else str(directory)


def backbone_revision(address: str) -> str | None:
    """The pin of a backbone that every machine can get: the digest of a package, the commit of a copy from the Hub.

    None for a directory, and where this machine has no copy.
    """
    if address == EMBEDDED:
        return digest.PREFIX + assets.ASSETS["smollm2"].sha256
    if directory_of(address) is not None:
        return None
    config = hub.cached(address, "config.json")
    return None if config is None else config.parent.name


def check_config(path: Path, address: str) -> None:
    """Raises NotFound where there is no configuration."""
    if not (path / "config.json").is_file():
        raise NotFound(
            f"backbone {address}: no config.json in {path}. Give a directory that save_pretrained wrote.",
            code="backbone.missing",
            backbone=address,
            file="config.json",
        )


def check_family(model_type: str | None, address: str) -> None:
    """Raises InvalidStudy where afina does not support such models."""
    supported(model_type, f"backbone {address}")


LARGEST = 1 << 31
"""No dimension of a model is as large."""

_FIELDS = {
    **{"vocabulary": "vocab_size", "hidden": "hidden_size", "layers": "num_hidden_layers"},
    **{"heads": "num_attention_heads", "inner": "intermediate_size", "positions": "max_position_embeddings"},
    **{"key_heads": "num_key_value_heads", "head": "head_dim"},
}
"""transformers' standard names of sizes, in the order in which one may follow from those before it."""


@dataclass(frozen=True)
class Linear:
    """A layer of so many numbers in and out; `turned` where its weight is stored [in, out]."""

    inputs: int
    outputs: int
    turned: bool = False

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of its parameters, by name; a bias that some models leave out is among them."""
        weight = (self.inputs, self.outputs) if self.turned else (self.outputs, self.inputs)
        return {"weight": weight, "bias": (self.outputs,)}


@dataclass(frozen=True)
class Dimensions:
    """Of a backbone under a head of so many labels.

    layers   number of blocks
    heads    keys and values of one token of one block: heads of so many numbers
    linear   linear layers of a block, by their name in it;  norms  widths of its norms, likewise
    outside  shapes of the parameters outside blocks, by the end of their name: embeddings, last norm, head
    """

    architecture: Architecture
    hidden: int
    layers: int
    heads: tuple[int, int]
    linear: Mapping[str, Linear]
    norms: Mapping[str, int]
    outside: Mapping[str, tuple[int, ...]]

    @property
    def known(self) -> frozenset[int]:
        """Every number that is a dimension of some parameter."""
        inner = [size for linear in self.linear.values() for size in (linear.inputs, linear.outputs)]
        outer = [size for shape in self.outside.values() for size in shape]
        return frozenset({*inner, *outer, *self.norms.values(), *self.heads, self.hidden})


def dimensions(configuration: Mapping[str, Any], labels: int, where: str = "config.json") -> Dimensions:
    """Of the backbone of that configuration, the content of its `config.json`. Raises InvalidStudy."""
    entry = supported(configuration.get("model_type"), where)
    sizes = _sizes(configuration, entry, where)
    hidden = sizes["hidden"]
    of: dict[Size, int] = {
        **{"hidden": hidden, "inner": sizes["inner"], "head": sizes["head"], "qkv": 3 * hidden},
        **{"queries": sizes["heads"] * sizes["head"], "keys": sizes["key_heads"] * sizes["head"]},
    }
    block = entry.block
    return Dimensions(
        entry,
        hidden,
        sizes["layers"],
        (sizes["key_heads"], sizes["head"]),
        {name: Linear(of[a], of[b], entry.fan_in_fan_out) for name, (a, b) in block.linear.items()},
        {name: of[size] for name, size in block.norms.items()},
        _outside(entry, sizes, labels),
    )


def _outside(entry: Architecture, sizes: Mapping[str, int], labels: int) -> dict[str, tuple[int, ...]]:
    hidden = sizes["hidden"]
    rows = zip(entry.embeddings, (sizes["vocabulary"], sizes["positions"]), strict=False)
    shapes: dict[str, tuple[int, ...]] = {f"{name}.weight": (count, hidden) for name, count in rows}
    for norm in (entry.embedding_norm, entry.block.final_norm):
        if norm is not None:
            shapes |= {f"{norm}.weight": (hidden,), f"{norm}.bias": (hidden,)}
    for name in entry.head:
        outputs = labels if name == entry.head[-1] else hidden
        shapes |= {f"{name}.weight": (outputs, hidden), f"{name}.bias": (outputs,)}
    return shapes


def _sizes(configuration: Mapping[str, Any], entry: Architecture, where: str) -> dict[str, int]:
    found: dict[str, int] = {}
    for size, name in _FIELDS.items():
        names = [name, *([entry.sizes.fields[size]] if size in entry.sizes.fields else ())]
        given = [configuration[each] for each in names if configuration.get(each) is not None]
        value = given[-1] if given else getattr(entry.sizes, size)
        if value is None:
            value = _follows(size, found)
        if type(value) is not int or not 1 <= value < LARGEST:
            raise InvalidStudy(
                f"{where}: its {names[-1]} is {repr(value)[:40]}, expected a whole number from 1 up. Copy it from "
                "the backbone again.",
                code="backbone.unsupported",
                where=where,
                field=names[-1],
                found=repr(value)[:40],
            )
        found[size] = value
    return found


def _follows(size: str, found: Mapping[str, int]) -> int:
    """A size that a configuration may leave to the others, which come before it in _FIELDS."""
    if size == "inner":
        return 4 * found["hidden"]
    return found["heads"] if size == "key_heads" else found["hidden"] // found["heads"]


def _gpt2(layers: int, heads: int, width: int) -> dict[str, Any]:
    return {
        "model_type": "gpt2",
        "vocab_size": 50257,
        "n_positions": 1024,
        "n_layer": layers,
        "n_head": heads,
        "n_embd": width,
    }


def _llama(layers: int, heads: int, width: int, inner: int) -> dict[str, Any]:
    return {
        "model_type": "llama",
        "vocab_size": 32000,
        "max_position_embeddings": 2048,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
        "hidden_size": width,
        "intermediate_size": inner,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": False,
    }


WELL_KNOWN: dict[str, dict[str, Any]] = {
    "embedded": {
        **_llama(30, 9, 576, 1536),
        "vocab_size": 49152,
        "max_position_embeddings": 8192,
        "num_key_value_heads": 3,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": True,
    },
    "gpt2": _gpt2(12, 12, 768),
    "gpt2-medium": _gpt2(24, 16, 1024),
    "gpt2-large": _gpt2(36, 20, 1280),
    "gpt2-xl": _gpt2(48, 25, 1600),
    "EleutherAI/gpt-j-6b": {
        "model_type": "gptj",
        "vocab_size": 50400,
        "n_positions": 2048,
        "n_layer": 28,
        "n_head": 16,
        "n_embd": 4096,
        "rotary_dim": 64,
    },
    "huggyllama/llama-7b": _llama(32, 32, 4096, 11008),
    "huggyllama/llama-13b": _llama(40, 40, 5120, 13824),
}
"""By address, a model's published configuration on the Hub, reduced to the fields that fix its shape."""


@dataclass(frozen=True)
class Precision:
    """How the frozen weights of a backbone's linear layers are held, apart from the dtype that is computed in.

    `FrozenWeight` in `afina.models.kernels` says what a weight can be asked for.

    hold  what holds a float32 weight [M, K]; None: weights stay parameters, in the dtype that is computed in
    """

    hold: Callable[[Tensor], HeldWeight] | None = None


FLOAT = "float"
"""The neutral one: not written into keys, manifests, digests or receipts."""

PRECISIONS: dict[str, Precision] = {FLOAT: Precision()}


def precision_of(name: str, where: str) -> Precision:
    """The precision of that name. Raises UnknownName; `where` begins its message."""
    if name not in PRECISIONS:
        raise UnknownName("precision", name, PRECISIONS, where)
    return PRECISIONS[name]


def _known(name: str) -> str:
    if name not in PRECISIONS:
        raise ValueError(f"expected one of {', '.join(PRECISIONS)}, found {name[:80]!r}")
    return name


PrecisionName = Annotated[str, AfterValidator(_known)]
"""A key of PRECISIONS, as a field of what is written down."""
