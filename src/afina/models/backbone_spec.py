"""Properties of a backbone that are known without its weights: its address, its weight shapes, and precisions.

Tensors from untrusted adapters are checked against these shapes before memory is allocated, and no model is built from
an untrusted configuration. A test compares the shapes with transformers' model on the `meta` device. The module does
not import torch.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator

from afina import assets, digest, hub
from afina.errors import UnknownName
from afina.models import problems
from afina.models.architectures import Architecture, Size, supported

if TYPE_CHECKING:
    from torch import Tensor

    from afina.models.kernels.linear import HeldWeight


EMBEDDED, BGE, MINILM = "embedded", "bge", "minilm"
RANDOM = "random:"

PACKAGED: Mapping[str, str] = {EMBEDDED: "smollm2", BGE: "bge", MINILM: "minilm"}
"""The keys in `afina.assets.ASSETS` of backbones that pinned packages of the package index contain."""


def check_backbone(address: str) -> None:
    """Raise NotFound or InvalidStudy if no run can use the backbone at `address`; may send a request to the Hub."""
    if packaged(address) is not None:
        return
    path = directory_of(address) or hub.snapshot(address, weights=False, known=PACKAGED)
    check_config(path, address)
    try:
        check_family(json.loads((path / "config.json").read_bytes()).get("model_type"), address)
    except (ValueError, AttributeError):
        return  # opening the backbone reports the damaged file


def is_at_hand(address: str) -> bool:
    """Return whether a backbone's configuration and tokenizer can be read without a network."""
    asset = packaged(address)
    if asset is not None:
        return assets.is_cached(asset)
    return directory_of(address) is not None or all(hub.cached(address, name) is not None for name in _NEEDED)


_NEEDED = ("config.json", "tokenizer.json")
"""Files without which the tokenizer of a Hub id cannot be opened."""


LONGEST_ADDRESS = 4096
"""Maximum length of a backbone's address in characters; a path of Linux is never longer."""


def packaged(address: str) -> str | None:
    """Return the key in `afina.assets.ASSETS` of a packaged backbone, such as `embedded`; None for any other address.

    Raises InvalidStudy if the working directory has a model directory of the same name.
    """
    if address in PACKAGED and (Path(address) / "config.json").is_file():
        raise problems.BACKBONE_AMBIGUOUS(backbone=address)
    return PACKAGED.get(address)


def directory_of(address: str) -> Path | None:
    """Return the directory that a backbone's address names; None if the address is a packaged model or a Hub id.

    Raises NotFound if the address is a path without a directory, and InvalidStudy if it is ambiguous or too long.
    """
    if len(address) > LONGEST_ADDRESS:
        raise problems.ADDRESS_TOO_LONG(length=len(address), most=LONGEST_ADDRESS, backbone=address[:80])
    if packaged(address) is not None:
        return None
    path = address.removeprefix(RANDOM)
    if os.path.isdir(path):  # False for a name that is too long for the file system
        return Path(path)
    if path != address or address.startswith((".", "/", "~")) or address.count("/") > 1:
        raise problems.DIRECTORY_MISSING(path=path, backbone=address)
    return None


def backbone_files(address: str) -> list[Path]:
    """Return the files of a backbone in a local directory; empty for a Hub id or a packaged model.

    A `random:` address has no weight files. A sentence-transformers model has its pooling in a subdirectory.
    """
    path = directory_of(address)
    if path is None:
        return []
    patterns = hub.SMALL if address.startswith(RANDOM) else hub.SAFE
    found = [file for pattern in patterns for file in sorted(path.glob(pattern)) if file.is_file()]
    if not address.startswith(RANDOM) and not any(path.glob("*.safetensors")):
        found += sorted(path.glob("pytorch_model*.bin"))
    return [*found, *(file for file in sorted(path.glob("*_Pooling/config.json")) if file.is_file())]


def name_in_backbone(address: str, file: Path) -> str:
    """Return the path of one of the `backbone_files`, relative to the backbone's directory."""
    path = directory_of(address)
    return file.name if path is None else file.relative_to(path).as_posix()


_NEUTRAL = re.compile(
    r"(_|_model_)?name_or_path|_commit_hash|_num_labels|transformers_version|(torch_)?dtype|architectures|auto_map"
    r"|id2label|label2id|num_labels|problem_type|finetuning_task|task_specific_params|output_.*|use_cache|use_return_dict"
    r"|return_dict(_in_generate)?|gradient_checkpointing|torchscript|tokenizer_class|prefix|pretraining_tp"
    r"|(bos|eos|cls|sep|mask|unk|decoder_start|forced_bos|forced_eos)_token_id"
    r"|(max|min)_(new_tokens|length)|do_sample|early_stopping|num_beams|num_beam_groups|diversity_penalty|temperature"
    r"|top_[kp]|typical_p|repetition_penalty|length_penalty|(encoder_)?no_repeat_ngram_size|bad_words_ids"
    r"|num_return_sequences|remove_invalid_values|exponential_decay_length_penalty|(begin_)?suppress_tokens"
)
"""Fields of a `config.json` that do not change a classifier's results: origin, labels, form of outputs, generation.

Generation stops at the tokenizer's end token, so that `eos_token_id` in the configuration has no effect. Every field
that `_NEUTRAL` does not match counts as a field that changes results."""


def decisive(settings: Mapping[str, Any], usual: Mapping[str, Any] = MappingProxyType({})) -> dict[str, Any]:
    """Return the fields of a model's configuration that change results, without those that have their `usual` value.

    A later version of transformers may therefore add fields.
    """
    plain, defaults = _plain(settings), _plain(usual)
    absent = object()
    return {
        name: value
        for name, value in sorted(plain.items())
        if not _NEUTRAL.fullmatch(name) and defaults.get(name, absent) != value
    }


def _plain(value: Any) -> Any:
    """Return a JSON value with keys as strings and with whole numbers as integers: 10000.0 becomes 10000."""
    if isinstance(value, Mapping):
        return {str(name): _plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def files_digest(address: str) -> str | None:
    """Return the digest of a backbone's files in a directory; None if the address alone identifies the backbone.

    For `config.json`, the digest covers only the fields that change results.
    """
    found = {name_in_backbone(address, file): _file_digest(file) for file in backbone_files(address)}
    return digest.of_json(found) if found else None


def _file_digest(file: Path) -> str:
    if file.name == "config.json":
        with suppress(ValueError, AttributeError):  # opening the backbone reports a damaged file
            return digest.of_json(decisive(json.loads(file.read_bytes())))
    return assets.digest_of(file)


def moved_address(address: str, directory: Path) -> str:
    """Return the address of a backbone after its files were copied to `directory`."""
    return f"{RANDOM}{directory}" if address.startswith(RANDOM) else str(directory)


def absolute_address(address: str) -> str:
    """Return the backbone's address with an absolute path, valid in every working directory."""
    place = directory_of(address)
    return address if place is None else moved_address(address, place.absolute())


def backbone_revision(address: str) -> str | None:
    """Return the digest of a packaged backbone's package, or the commit of a Hub repository's local copy, or None."""
    if (asset := packaged(address)) is not None:
        return digest.PREFIX + assets.ASSETS[asset].sha256
    if directory_of(address) is not None:
        return None
    config = hub.cached(address, "config.json")
    return None if config is None else config.parent.name


def check_config(path: Path, address: str) -> None:
    """Raise NotFound if the directory `path` has no config.json."""
    if not (path / "config.json").is_file():
        inner = sorted(file.parent.name for file in path.glob("*_Transformer/config.json"))  # sentence-transformers'
        found = f"the directory {inner[0]} inside, which has the model" if inner else None
        raise problems.CONFIG_MISSING(
            path=path, expected=found or "a directory that save_pretrained wrote", backbone=address, file="config.json"
        )


def unused_notes(address: str) -> list[str]:
    """Return a note if a backbone's directory has parts of SetFit or sentence-transformers that afina does not use."""
    path = directory_of(address)
    if path is None or address.startswith(RANDOM):
        return []
    heads = [name for name in ("model_head.pkl", "model_head.safetensors") if (path / name).is_file()]
    modules = sorted(file.parent.name for file in path.glob("[0-9]*_*/config.json"))
    pooling = [name for name in modules if name.endswith("_Pooling")]
    unread = [name for name in (*modules, *heads) if name not in pooling]
    notes = [f"its encoder is used, and not {' and '.join(unread)}"] if unread else []
    notes += [f"only methods with the hyperparameter pooling read {name}" for name in pooling]
    return [f"backbone {address}: {'; '.join(notes)}."] if notes else []


def check_family(model_type: str | None, address: str) -> None:
    """Raise InvalidStudy if afina does not support models of the type `model_type`."""
    supported(model_type, f"backbone {address}")


LARGEST = 1 << 31
"""Exclusive upper bound of every dimension of a model's weights."""

_FIELDS = {
    **{"vocabulary": "vocab_size", "hidden": "hidden_size", "layers": "num_hidden_layers"},
    **{"heads": "num_attention_heads", "inner": "intermediate_size", "positions": "max_position_embeddings"},
    **{"key_heads": "num_key_value_heads", "head": "head_dim"},
    **{"types": "type_vocab_size", "embedding": "embedding_size"},
}
"""transformers' names of the configuration fields for `Sizes`, each after those from which it is computed."""


@dataclass(frozen=True)
class Linear:
    """The numbers of inputs and outputs of a linear layer; `turned` says whether its weight is stored as [in, out]."""

    inputs: int
    outputs: int
    turned: bool = False

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shapes of the layer's parameters by name, including a bias, which some models do not have."""
        weight = (self.inputs, self.outputs) if self.turned else (self.outputs, self.inputs)
        return {"weight": weight, "bias": (self.outputs,)}


@dataclass(frozen=True)
class Dimensions:
    """The dimensions of all weights of a backbone with a classification head.

    Attributes:
        heads: Number of key and value heads of an attention layer, and the width of a head.
        linear: Linear layers of a transformer block, by path from the block; `norms`: widths, likewise.
        outer: Linear layers of the body outside the transformer blocks, by path from the body.
        outside: Shapes of parameters outside the transformer blocks (embeddings, norms, linear layers, heads of texts
            and of tokens), by the end of their names.
    """

    architecture: Architecture
    hidden: int
    layers: int
    heads: tuple[int, int]
    linear: Mapping[str, Linear]
    norms: Mapping[str, int]
    outer: Mapping[str, Linear]
    outside: Mapping[str, tuple[int, ...]]

    @property
    def known(self) -> frozenset[int]:
        """All numbers that are a dimension of some parameter of the model."""
        inner = [size for linear in self.linear.values() for size in (linear.inputs, linear.outputs)]
        outer = [size for shape in self.outside.values() for size in shape]
        return frozenset({*inner, *outer, *self.norms.values(), *self.heads, self.hidden})


def dimensions(configuration: Mapping[str, Any], labels: int, where: str = "config.json") -> Dimensions:
    """Return the dimensions of a backbone's weights, given the content of its `config.json`, or raise InvalidStudy."""
    entry = supported(configuration.get("model_type"), where)
    sizes = _sizes(configuration, entry, where)
    hidden = sizes["hidden"]
    of: dict[Size, int] = {
        **{"hidden": hidden, "inner": sizes["inner"], "gated": 2 * sizes["inner"], "head": sizes["head"]},
        **{"qkv": 3 * hidden, "embedding": sizes["embedding"]},
        **{"queries": sizes["heads"] * sizes["head"], "keys": sizes["key_heads"] * sizes["head"]},
    }
    block = entry.block
    outer = {name: Linear(of[a], of[b], entry.fan_in_fan_out) for name, (a, b) in entry.outer.items()}
    return Dimensions(
        entry,
        hidden,
        sizes["layers"],
        (sizes["key_heads"], sizes["head"]),
        {name: Linear(of[a], of[b], entry.fan_in_fan_out) for name, (a, b) in block.linear.items()},
        {name: of[size] for name, size in block.norms.items()},
        outer,
        _outside(entry, sizes, labels)
        | {f"{name}.{kind}": shape for name, layer in outer.items() for kind, shape in layer.shapes().items()},
    )


def _outside(entry: Architecture, sizes: Mapping[str, int], labels: int) -> dict[str, tuple[int, ...]]:
    hidden, width = sizes["hidden"], sizes["embedding"]
    rows = zip(entry.embeddings, (sizes["vocabulary"], sizes["positions"], sizes["types"]), strict=False)
    shapes: dict[str, tuple[int, ...]] = {f"{name}.weight": (count, width) for name, count in rows}
    norms = [(entry.embedding_norm, width), (entry.block.final_norm, hidden)]
    for norm, size in (*norms, *((head.norm, hidden) for head in entry.heads)):
        if norm is not None:
            shapes |= {f"{norm}.weight": (size,), f"{norm}.bias": (size,)}
    for head in entry.heads:
        for name in head.modules:
            if name != head.norm:
                outputs = labels if name == head.output else hidden
                shapes |= {f"{name}.weight": (outputs, hidden), f"{name}.bias": (outputs,)}
    return shapes


def _sizes(configuration: Mapping[str, Any], entry: Architecture, where: str) -> dict[str, int]:
    found: dict[str, int] = {}
    for size, name in _FIELDS.items():
        if size in _RARE and getattr(entry.sizes, size) is None:
            found[size] = found[_RARE[size]]
            continue
        names = [name, *([entry.sizes.fields[size]] if size in entry.sizes.fields else ())]
        given = [configuration[each] for each in names if configuration.get(each) is not None]
        value = given[-1] if given else getattr(entry.sizes, size)
        if value is None:
            value = _follows(size, found)
        if type(value) is not int or not 1 <= value < LARGEST:
            raise problems.SIZE_INVALID(where=where, field=names[-1], found=repr(value)[:40])
        found[size] = value
    return found


_RARE = {"types": "hidden", "embedding": "hidden"}
"""Sizes that few families have, with the size that stands in for them elsewhere."""


def _follows(size: str, found: Mapping[str, int]) -> int:
    """Return the default of a size that a configuration leaves out, computed from earlier sizes in `_FIELDS`."""
    if size == "inner":
        return 4 * found["hidden"]
    return found["heads"] if size == "key_heads" else found["hidden"] // found["heads"]


@dataclass(frozen=True)
class Precision:
    """How the frozen weights of a backbone's linear layers are stored; the dtype of computations is separate.

    Attributes:
        words: A few words on how weights are stored, for help and documentation.
        hold: Converts a float32 weight [M, K] to a `HeldWeight`. None: weights stay parameters in the compute dtype.
        needs: The optional extra of afina that must be installed.
        form: Returns what the converted weight depends on besides the weight, such as package versions; a part of the
            name of a quantised copy. None: afina keeps no quantised copy.
        cost: Time to convert a weight, as a multiple of that for int8. A backbone is copied if it is larger than a
            limit divided by `cost`.
    """

    words: str
    hold: Callable[[Tensor], HeldWeight] | None = None
    needs: str | None = None
    form: Callable[[], dict[str, object]] | None = None
    cost: int = 1


FLOAT = "float"
"""Name of the default precision, which keys, manifests, digests and receipts leave out."""


def _int8(weight: Tensor) -> HeldWeight:
    from afina.models.kernels.int8 import Int8Weight  # imports torch

    return Int8Weight(weight)


def _int8_form() -> dict[str, object]:
    from afina.models.kernels import int8  # imports torch

    return int8.form()


def _nf4(weight: Tensor) -> HeldWeight:
    from afina.models.kernels.nf4 import Nf4Weight  # imports torch

    return Nf4Weight(weight)


def _nf4_form() -> dict[str, object]:
    from afina.models.kernels import nf4  # imports torch

    return nf4.form()


PRECISIONS: dict[str, Precision] = {
    FLOAT: Precision("weights in the compute dtype"),
    "int8": Precision("1 byte for a weight, with a scale for each output channel", _int8, form=_int8_form),
    "nf4": Precision(
        "4 bits for a weight, in blocks of 64 with a scale each, by bitsandbytes", _nf4, "quant", _nf4_form, 4
    ),
}


def precision_of(name: str, where: str) -> Precision:
    if name not in PRECISIONS:
        raise UnknownName("precision", name, PRECISIONS, where)
    return PRECISIONS[name]


def _known(name: str) -> str:
    if name not in PRECISIONS:
        raise ValueError(f"expected one of {', '.join(PRECISIONS)}, found {name[:80]!r}")
    return name


PrecisionName = Annotated[str, AfterValidator(_known)]
