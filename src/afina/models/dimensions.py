"""The shape of every weight of a backbone, from its configuration alone. Knows names and numbers, and no model.

What transformers makes of the same configuration is the same, to the last weight of every family; a test holds it so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from afina.errors import InvalidStudy
from afina.models.families import FAMILIES, HEAD

LARGEST = 1 << 31
"""No dimension of a model is as large."""

_OLD = {"hidden": "n_embd", "layers": "n_layer", "heads": "n_head", "inner": "n_inner", "positions": "n_positions"}
_KEYS = {
    **{"hidden": "hidden_size", "layers": "num_hidden_layers", "heads": "num_attention_heads"},
    **{"inner": "intermediate_size", "positions": "max_position_embeddings"},
    **{"vocabulary": "vocab_size", "key_heads": "num_key_value_heads", "head": "head_dim"},
}

# In the order of _SIZES: what transformers takes where a configuration leaves a number out, None what follows from
# others. A file from before transformers wrote all of them may leave any out.
_SIZES = ("vocabulary", "hidden", "layers", "heads", "inner", "positions", "key_heads", "head")
_LEFT_OUT: dict[str, tuple[int | None, ...]] = {
    "gpt2": (50257, 768, 12, 12, None, 1024, None, None),
    "gptj": (50400, 4096, 28, 16, None, 2048, None, None),
    "gpt_neox": (50432, 6144, 44, 64, 24576, 2048, None, None),
    "llama": (32000, 4096, 32, 32, 11008, 2048, None, None),
    "mistral": (32000, 4096, 32, 32, 14336, 131072, 8, None),
    "qwen2": (151936, 4096, 32, 32, 22016, 32768, 32, None),
    "qwen3": (151936, 4096, 32, 32, 22016, 32768, 32, 128),
}


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

    family: str
    hidden: int
    layers: int
    heads: tuple[int, int]
    linear: Mapping[str, Linear]
    norms: Mapping[str, int]
    outside: Mapping[str, tuple[int, ...]]

    def inside(self, name: str) -> tuple[int, str] | None:
        """The block that a parameter of that name is in, from the first, and its name there; None: in no block.

        The number may be of no block that there is.
        """
        parts = name.split(".")
        for place, (layers, number) in enumerate(pairwise(parts)):
            if layers == FAMILIES[self.family].block.layers and number.isascii() and number.isdecimal():
                return int(number[:9]), ".".join(parts[place + 2 :])
        return None

    @property
    def known(self) -> frozenset[int]:
        """Every number that is a dimension of some parameter."""
        inner = [size for linear in self.linear.values() for size in (linear.inputs, linear.outputs)]
        outer = [size for shape in self.outside.values() for size in shape]
        return frozenset({*inner, *outer, *self.norms.values(), *self.heads, self.hidden})


def dimensions(configuration: Mapping[str, Any], labels: int, where: str = "config.json") -> Dimensions:
    """Of the backbone of that configuration, the content of its `config.json`. Raises InvalidStudy."""
    family = configuration.get("model_type")
    if not isinstance(family, str) or family not in FAMILIES:
        raise InvalidStudy(
            f"{where}: models of type {str(family)[:40]!r} are not supported. Supported: {', '.join(FAMILIES)}."
        )
    sizes = _sizes(configuration, family, where)
    linear, norms = _BLOCKS[family](sizes, FAMILIES[family].block.attention)
    old = family in ("gpt2", "gptj")
    embedding = "wte" if old else "embed_in" if family == "gpt_neox" else "embed_tokens"
    last, hidden = FAMILIES[family].block.final_norm, sizes["hidden"]
    outside: dict[str, tuple[int, ...]] = {
        f"{embedding}.weight": (sizes["vocabulary"], hidden),
        f"{last}.weight": (hidden,),
        f"{last}.bias": (hidden,),
        f"{HEAD}.weight": (labels, hidden),
        f"{HEAD}.bias": (labels,),
    }
    if family == "gpt2":
        outside["wpe.weight"] = (sizes["positions"], hidden)
    return Dimensions(family, hidden, sizes["layers"], (sizes["key_heads"], sizes["head"]), linear, norms, outside)


def _sizes(configuration: Mapping[str, Any], family: str, where: str) -> dict[str, int]:
    found: dict[str, int] = {}
    for size, left_out in zip(_SIZES, _LEFT_OUT[family], strict=True):
        keys = [_KEYS[size], *([_OLD[size]] if family in ("gpt2", "gptj") and size in _OLD else ())]
        given = [configuration[key] for key in keys if configuration.get(key) is not None]
        value = given[-1] if given else left_out
        if value is None:
            value = _follows(size, found)
        if type(value) is not int or not 1 <= value < LARGEST:
            raise InvalidStudy(
                f"{where}: its {keys[-1]} is {repr(value)[:40]}, expected a whole number from 1 up. Copy it from "
                "the backbone again."
            )
        found[size] = value
    return found


def _follows(size: str, found: Mapping[str, int]) -> int:
    """A size that a configuration may leave to the others, which come before it in _SIZES."""
    if size == "inner":
        return 4 * found["hidden"]
    return found["heads"] if size == "key_heads" else found["hidden"] // found["heads"]


_Block = tuple[dict[str, Linear], dict[str, int]]


def _gpt2(sizes: Mapping[str, int], attention: str) -> _Block:
    hidden, inner = sizes["hidden"], sizes["inner"]
    linear = {
        f"{attention}.c_attn": Linear(hidden, 3 * hidden, turned=True),
        f"{attention}.c_proj": Linear(hidden, hidden, turned=True),
        "mlp.c_fc": Linear(hidden, inner, turned=True),
        "mlp.c_proj": Linear(inner, hidden, turned=True),
    }
    return linear, {"ln_1": hidden, "ln_2": hidden}


def _gptj(sizes: Mapping[str, int], attention: str) -> _Block:
    hidden, inner = sizes["hidden"], sizes["inner"]
    linear = {f"{attention}.{name}": Linear(hidden, hidden) for name in ("q_proj", "k_proj", "v_proj", "out_proj")}
    return linear | {"mlp.fc_in": Linear(hidden, inner), "mlp.fc_out": Linear(inner, hidden)}, {"ln_1": hidden}


def _gpt_neox(sizes: Mapping[str, int], attention: str) -> _Block:
    hidden, inner = sizes["hidden"], sizes["inner"]
    linear = {
        f"{attention}.query_key_value": Linear(hidden, 3 * hidden),
        f"{attention}.dense": Linear(hidden, hidden),
        "mlp.dense_h_to_4h": Linear(hidden, inner),
        "mlp.dense_4h_to_h": Linear(inner, hidden),
    }
    return linear, {"input_layernorm": hidden, "post_attention_layernorm": hidden}


def _llama(sizes: Mapping[str, int], attention: str) -> _Block:
    hidden, inner = sizes["hidden"], sizes["inner"]
    queries, keys = sizes["heads"] * sizes["head"], sizes["key_heads"] * sizes["head"]
    linear = {
        f"{attention}.q_proj": Linear(hidden, queries),
        f"{attention}.k_proj": Linear(hidden, keys),
        f"{attention}.v_proj": Linear(hidden, keys),
        f"{attention}.o_proj": Linear(queries, hidden),
        **{f"mlp.{name}": Linear(hidden, inner) for name in ("gate_proj", "up_proj")},
        "mlp.down_proj": Linear(inner, hidden),
    }
    return linear, {"input_layernorm": hidden, "post_attention_layernorm": hidden}


def _qwen3(sizes: Mapping[str, int], attention: str) -> _Block:
    linear, norms = _llama(sizes, attention)
    return linear, norms | {f"{attention}.q_norm": sizes["head"], f"{attention}.k_norm": sizes["head"]}


_BLOCKS: dict[str, Callable[[Mapping[str, int], str], _Block]] = {
    **{"gpt2": _gpt2, "gptj": _gptj, "gpt_neox": _gpt_neox, "llama": _llama},
    **{"mistral": _llama, "qwen2": _llama, "qwen3": _qwen3},
}
