"""Check peft's settings (`adapter_config.json`) before peft reads them, and compare them with afina's manifest.

An adapter's settings may come from an untrusted source. peft runs patterns of module names in the settings as regular
expressions, which may never end. peft also imports the module that `megatron_core` names, and allocates memory of any
size. afina matches the patterns itself in linear time (RE2), and replaces them by the matching names before peft reads
the settings.

No digest covers `adapter_config.json`: an edited scale changes the outputs of a model loaded by peft, but not by afina.
The module does not import torch.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from afina.errors import InvalidStudy
from afina.methods import problems
from afina.methods.ia3_and_vera import Ia3, Vera
from afina.methods.lora import ALL_LINEAR, REWRITING, Lora
from afina.methods.method import Method, plain_name
from afina.models.adapter import PEFT_SETTINGS, Adapter

MOST = 16_384
MOST_STEPS = 1_000  # of sequential computing steps
MOST_WIDE = 1 << 24  # of a size that counts the elements of a matrix
MOST_NAMES = 4_096
LONGEST = 1_000  # of a pattern, in characters. All patterns of a table may be four times as long


_OWN = "afina has a method of its own for it, with a faster path: {}"
_VIRTUAL = "it adds virtual tokens, which a packed row has no room for. Use afina's own prompt or prefix"
_NOT_OPENED = "of the types that add virtual tokens, afina opens PROMPT_TUNING and PREFIX_TUNING"
_NOT_ALONE = "what it computes depends on more than the text that is answered"
_FETCHES = "it consists of other adapters, which it would fetch"
_STARTS_APART = "attaching it changes the logits, so training would not start from the backbone"

TRAINED: dict[str, tuple[str, ...]] = {
    "ADAMSS": ("num_subspaces", "subspace_rank", "use_asa", "use_dynamic_rank", "svd_threshold", "random_seed"),
    "BEFT": (),
    "BOFT": ("boft_block_size", "boft_block_num", "boft_n_butterfly_factor", "boft_dropout", "fan_in_fan_out"),
    "C3A": ("block_size", "block_size_pattern"),
    "DEFT": ("decomposition_method", "init_scale", "alpha", "para", "fan_in_fan_out", "deft_dropout"),
    "DELORA": ("delora_lambda", "module_dropout", "rank_pattern", "lambda_pattern"),
    "FOURIERFT": ("n_frequency", "scaling", "random_loc_seed", "fan_in_fan_out", "n_frequency_pattern"),
    "FROD": (
        *("projection_prng_key", "save_projection", "frod_dropout", "fan_in_fan_out", "sparse_rate"),
        *("regularization_alpha", "progressbar", "runtime_offload_base_weight"),
    ),
    "GLORA": ("config_A_B", "config_C", "config_D_E"),
    "GRALORA": ("hybrid_r", "alpha", "gralora_dropout", "gralora_k", "fan_in_fan_out"),
    "HIRA": ("hira_dropout", "fan_in_fan_out", "rank_pattern"),
    "HRA": ("apply_GS",),
    "LN_TUNING": (),
    "LOHA": ("rank_pattern", "alpha_pattern", "alpha", "rank_dropout", "module_dropout", "use_effective_conv2d"),
    "LOKR": (
        *("rank_pattern", "alpha_pattern", "alpha", "rank_dropout", "module_dropout", "use_effective_conv2d"),
        *("decompose_both", "decompose_factor", "rank_dropout_scale"),
    ),
    "MISS": ("miss_dropout", "mini_r"),
    "OFT": (
        *("oft_block_size", "module_dropout", "fan_in_fan_out", "coft", "eps", "block_share"),
        *("use_cayley_neumann", "num_cayley_neumann_terms"),
    ),
    "OSF": ("effective_rank", "rank_pattern", "target_svd_config"),
    "PEANUT": ("depth", "act_fn", "scaling"),
    "PSOFT": (
        *("psoft_alpha", "psoft_dropout", "fan_in_fan_out", "ab_svd_init", "psoft_svd", "psoft_svd_lowrank_niter"),
        *("random_seed", "psoft_orth", "psoft_mag_b", "psoft_mag_a", "use_cayley_neumann"),
        *("num_cayley_neumann_terms", "cayley_neumann_eps"),
    ),
    "PVERA": (
        *("projection_prng_key", "save_projection", "pvera_dropout", "d_initial", "fan_in_fan_out"),
        *("sample_at_inference", "generator_seed"),
    ),
    "RANDLORA": (
        *("projection_prng_key", "save_projection", "sparse", "very_sparse", "randlora_dropout", "fan_in_fan_out"),
        "randlora_alpha",
    ),
    "ROAD": ("variant", "group_size"),
    "SHIRA": ("mask_type", "random_seed", "fan_in_fan_out"),
    "SUPERTUNING": ("sparsity", "select_top", "lora_alpha", "lora_dropout", "save_precomputed_indices"),
    "TINYLORA": (
        *("u", "weight_tying", "projection_seed", "save_projection", "init_v_bound", "tinylora_dropout"),
        "fan_in_fan_out",
    ),
    "WAVEFT": (
        *("n_frequency", "scaling", "wavelet_family", "use_idwt", "random_loc_seed", "fan_in_fan_out"),
        *("n_frequency_pattern", "proportional_parameters"),
    ),
}
"""The peft types that the method `peft` trains, each with the settings that it has beside those of `COMMON`.

A test trains each type: a text in a padding-free row has the same result as alone, except for rounding."""

COMMON = (
    *("r", "target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "modules_to_save"),
    *("init_weights", "bias"),
)
"""Settings that most types in `TRAINED` have; those that a type lacks are refused when a run begins."""

NOT_TRAINED = {
    "LORA": _OWN.format("lora"),
    "IA3": _OWN.format("ia3"),
    "VERA": _OWN.format("vera"),
    **dict.fromkeys(("PROMPT_TUNING", "PREFIX_TUNING", "MULTITASK_PROMPT_TUNING"), _VIRTUAL),
    **dict.fromkeys(("P_TUNING", "CARTRIDGE", "CPT"), _VIRTUAL),
    **dict.fromkeys(("UNILORA", "VBLORA"), _STARTS_APART),
    "ADALORA": "it moves ranks between layers by a call after each step and adds to the loss; without, it is LoRA",
    "ADAPTION_PROMPT": ("it leaves the head frozen, replaces the attention that packs, and does not attach to LLaMA's"),
    "LILY": "its router averages over the whole batch, so a text's logits depend on the other texts",
    "POLY": "it needs a task's number beside each text",
    "SHADOW": "it computes beside the whole model, in a forward of its own, which packing goes past",
    "TRAINABLE_TOKENS": "it leaves the head frozen and trains tokens that are named one by one",
    "XLORA": _FETCHES,
}
"""By peft type, why afina does not train it."""

NOT_OPENED = {
    **dict.fromkeys(("MULTITASK_PROMPT_TUNING", "P_TUNING", "CARTRIDGE", "CPT"), _NOT_OPENED),
    "ADAPTION_PROMPT": "it replaces the attention of the model",
    **dict.fromkeys(("LILY", "POLY"), _NOT_ALONE),
    "SHADOW": "it computes beside the whole model, by another model that it would fetch",
    "TRAINABLE_TOKENS": "it trains no head",
    "XLORA": _FETCHES,
}
"""By peft type, why afina does not open adapters that peft saved. All other types open, also of later versions."""

MODULES = ("target_modules", "exclude_modules", "feedforward_modules")
"""Either a list of names, or a regular expression that must match a module's full name."""

_PLAIN = ("modules_to_save", "layers_pattern", "target_parameters")
"""Lists of names that peft reads as patterns; only plain names are accepted."""

_TABLES = {
    "rank_pattern": ("LORA", "LOHA", "LOKR", "DELORA", "HIRA"),
    "alpha_pattern": ("LORA", "LOHA", "LOKR"),
    "lambda_pattern": ("DELORA",),
    "n_frequency_pattern": ("WAVEFT",),
}
"""Tables from a pattern of the end of a module's name to a value; with the types for which the first match counts."""

_OTHER_TABLES = (*_TABLES, "block_size_pattern", "target_svd_config")
"""For types that `_TABLES` does not list, the keys must be plain names."""

_NEVER = {
    "layer_replication": "it repeats layers of the backbone",
    "megatron_config": "it imports a module by its name",
    "arrow_config": "it chooses among several adapters",
    "alora_invocation_tokens": "it begins to work after certain tokens (aLoRA)",
    "sample_at_inference": "it answers the same text differently each time",
    "use_asa": "it needs a call after each step",
}
"""Settings that must be absent, null or false, each with the reason."""

_STEPS = ("num_cayley_neumann_terms", "psoft_svd_lowrank_niter", "depth", "boft_n_butterfly_factor")
_WIDE = ("n_frequency", "n_frequency_pattern", "theta_d_length")
_ANY = re.compile(
    r".*seed|.*_key|.*alpha|.*alpha_pattern|.*scaling|.*lambda.*|.*token_ind.*|total_step|t?init|.*warmup|tfinal|deltaT"
    r"|.*interval|asa_.*|base_model_name_or_path|revision|peft_version|auto_mapping|.*dropout|eps|loftq_config"
    r"|eva_config|corda_config|lora_ga_config|runtime_config"
)
"""Settings whose numbers are not sizes, so that they may be as large as a float32."""

_LARGEST_FLOAT = 3e38

_NAME = re.compile(r"[A-Za-z0-9_.-]+", re.ASCII)


def check(saved: Mapping[str, Any]) -> None:
    """Raise InvalidStudy if afina does not open an adapter with these peft settings."""
    kind = saved.get("peft_type")
    if not isinstance(kind, str):
        raise _refused("peft_type", kind, "expected the name of a type, such as LORA")
    if kind in NOT_OPENED:
        raise problems.PEFT_TYPE_NOT_OPENED(reason=NOT_OPENED[kind], type=kind)
    for name, why in _NEVER.items():
        if saved.get(name):
            raise _refused(name, saved[name], f"{why}, which afina does not support")
    if saved.get("megatron_core") not in (None, "", "megatron.core"):
        raise _refused("megatron_core", saved["megatron_core"], "peft would import a module of that name")
    start = saved.get("init_lora_weights")
    if isinstance(start, str) and start.startswith(REWRITING):
        raise _refused(
            "init_lora_weights",
            start,
            "an initialisation that changes the backbone's weights, which the adapter does not contain. Save the "
            "adapter with path_initial_model_for_weight_conversion, which turns it into an ordinary LoRA",
        )
    for name, value in saved.items():
        _check_sizes(name, value)
    for name in _PLAIN:
        _check_names(name, saved.get(name))
    for name in MODULES:
        if not isinstance(saved.get(name), str):
            _check_names(name, saved.get(name), plain=False)
    for name in _OTHER_TABLES:
        _check_table(name, saved.get(name), patterns=kind in _TABLES.get(name, ()))


def _check_sizes(name: str, value: Any) -> None:
    if _ANY.fullmatch(name):
        most: float = _LARGEST_FLOAT
    else:
        most = MOST_STEPS if name in _STEPS else MOST_WIDE if name in _WIDE else MOST
    for number in _numbers(value):
        if abs(number) > most:
            raise _refused(name, number, f"expected at most {most:,}")


def check_booleans(configuration: type[Any], given: Mapping[str, Any]) -> None:
    """Raise InvalidStudy for a boolean where a configuration of peft has a number, a name or a list."""
    for each in fields(configuration):
        if isinstance(given.get(each.name), bool) and "bool" not in str(each.type):
            raise _refused(each.name, given[each.name], "this setting is no boolean")


def _numbers(value: Any) -> Iterator[float]:
    if isinstance(value, int | float) and not isinstance(value, bool):
        yield value
    elif isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _numbers(each)


def _check_names(name: str, value: Any, *, plain: bool = True) -> None:
    found = [value] if isinstance(value, str) else value
    if not isinstance(found, list):
        return  # peft reports other types
    if len(found) > MOST_NAMES:
        raise _refused(name, f"{len(found):,} names", f"expected at most {MOST_NAMES:,}")
    for each in found:
        if plain and isinstance(each, str) and not _NAME.fullmatch(each):
            raise _refused(name, each, "expected names of modules: letters, digits, and . _ -")


def _check_table(name: str, value: Any, *, patterns: bool) -> None:
    if not isinstance(value, dict):
        return
    if len(value) > MOST_NAMES:
        raise _refused(name, f"{len(value):,} entries", f"expected at most {MOST_NAMES:,}")
    for key in value:
        if not patterns and not _NAME.fullmatch(key):
            raise _refused(name, key, "expected names of modules: letters, digits, and . _ -")


def _refused(name: str, found: Any, why: str) -> InvalidStudy:
    return problems.PEFT_SETTING_UNUSABLE(reason=why, setting=name, found=str(found)[:80])


def resolved(saved: Mapping[str, Any], modules: Sequence[str]) -> dict[str, Any]:
    """Return peft's settings with each pattern replaced by the module names that match; peft's result is the same.

    Raises InvalidStudy for an unreadable pattern, or `target_modules` that match nothing.
    """
    made = dict(saved)
    for name in MODULES:
        pattern = made.get(name)
        if isinstance(pattern, str) and pattern.lower() != ALL_LINEAR:
            matches = _compiled(name, pattern)
            found = [module for module in modules if matches(module)]
            if not found and name == "target_modules":
                raise _refused(name, pattern, "no module of the backbone has such a name")
            made[name] = _one_of(found)
    for name, kinds in _TABLES.items():
        table = made.get(name)
        if isinstance(table, dict) and made.get("peft_type") in kinds:
            made[name] = _by_name(name, table, modules)
    return made


def _by_name(name: str, table: Mapping[str, Any], modules: Sequence[str]) -> dict[str, Any]:
    find = Ends(name, table)
    groups: list[tuple[Any, list[str]]] = []
    for module in modules:
        if (key := find(module)) is None:
            continue
        same = next((group for value, group in groups if value is table[key]), None)
        if same is None:
            groups.append((table[key], same := []))
        same.append(module)
    return {f"^{_one_of(group)}": value for value, group in groups}


def _one_of(names: Sequence[str]) -> str:
    """A regular expression that matches exactly these names, in linear time."""
    return f"(?:{'|'.join(map(re.escape, names))})" if names else r"(?!)"


class Ends:
    """Finds the first pattern that matches the end of a module's name after a dot, as peft's `get_pattern_key` does."""

    def __init__(self, name: str, patterns: Sequence[str] | Mapping[str, Any]) -> None:
        """Raises InvalidStudy for a pattern that RE2 cannot match, such as a back-reference."""
        self._plain: dict[str, int] = {}
        self._others = []
        self._keys = list(patterns)
        for place, key in enumerate(self._keys):
            if _NAME.fullmatch(key):
                self._plain.setdefault(key, place)
            else:
                self._others.append((place, _compiled(name, rf"(.*\.)?({key})$")))
        if sum(len(self._keys[place]) for place, _ in self._others) > 4 * LONGEST:
            raise _refused(name, f"{len(self._others)} patterns", f"more than {4 * LONGEST:,} letters")

    def __call__(self, module: str) -> str | None:
        """The first pattern that matches, or None."""
        parts = module.split(".")
        ends = [".".join(parts[at:]) for at in range(len(parts))]
        found = [self._plain[end] for end in ends if end in self._plain]
        found += [place for place, matches in self._others if matches(module)]
        return self._keys[min(found)] if found else None


def _compiled(name: str, pattern: str) -> Any:
    """Return whether a module's full name matches, as a function. Raises InvalidStudy."""
    import re2

    options = re2.Options()
    options.never_capture, options.log_errors, options.max_mem = True, False, 1 << 20
    if len(pattern) > LONGEST:
        raise _refused(name, pattern, f"{len(pattern):,} letters, expected at most {LONGEST:,}")
    try:
        return re2.compile(pattern, options).fullmatch
    except (re2.error, UnicodeError):
        raise _refused(
            name,
            pattern,
            "not a pattern that can be matched in linear time. Leave out look-arounds and back-references, or list the "
            "names of the modules",
        ) from None


_STATED: dict[str, tuple[str, type[Method], dict[str, str]]] = {
    "lora": ("LORA", Lora, {"r": "r", "lora_alpha": "alpha", "use_rslora": "rslora", "use_dora": "dora"}),
    "ia3": ("IA3", Ia3, {}),
    "vera": ("VERA", Vera, {"r": "r", "projection_prng_key": "key"}),
}
"""For each method: the peft type, afina's class, and peft's settings that must equal afina's hyperparameters."""

_FREE = {
    *("task_type", "peft_type", "peft_version", "auto_mapping", "base_model_name_or_path", "inference_mode", "bias"),
    *("lora_dropout", "vera_dropout", "fan_in_fan_out", "init_lora_weights", "init_weights", "init_ia3_weights"),
    *("loftq_config", "eva_config", "corda_config", "lora_ga_config", "runtime_config", "megatron_core"),
    *("qalora_group_size", "modules_to_save", "target_modules", "feedforward_modules", "d_initial", "save_projection"),
    *("ensure_weight_tying", "layers_pattern"),
}
"""Settings of peft that do not change a saved adapter's outputs, or that other code of this module checks."""

_SELECTING = frozenset({"layers_to_transform", "exclude_modules"})
"""Settings of peft that leave out modules. They do not change the outputs of an adapter that has no tensors of these
modules, such as one with the hyperparameter `layers`."""

_ADAPTED = (".lora_A.", ".lora_embedding_A", ".ia3_l", ".vera_lambda_b")
"""What follows the name of the adapted module in a tensor's name."""


def check_agrees(adapter: Adapter) -> None:
    """Raise CorruptAdapter if the `adapter_config.json` in an adapter saved by afina disagrees with its manifest."""
    if adapter.peft_settings is None:
        return
    if problem := disagreement(adapter.manifest.model_dump(mode="json"), adapter.peft_settings, adapter.tensors):
        file = Path(adapter.where) / PEFT_SETTINGS
        raise problems.PEFT_FILE_CONTRADICTORY(reason=problem, path=file)


def disagreement(manifest: Mapping[str, Any], settings: Mapping[str, Any], tensors: Iterable[str] = ()) -> str | None:
    """Return a sentence about the first difference between peft's settings and afina's manifest; None: no difference.

    peft's settings must select the module of each of the `tensors`.
    """
    name, given = str(manifest.get("method")), manifest.get("hyperparameters") or {}
    parts = [part for part in name.split("+") if part in _STATED]
    free: Collection[str]
    if name == "peft" and "type" in given:
        kind, own = given["type"], given.get("settings") or {}
        free = _FREE | {setting for setting in MODULES if setting in own}
        expected = {setting: value for setting, value in (_defaults(kind) | own).items() if setting not in free}
    elif len(parts) == 1:
        own = given if parts[0] == name else given.get(parts[0], {})
        kind, method, names = _STATED[parts[0]]
        defaults = {each.name: each.default for each in fields(method)}
        expected = {setting: own.get(word, defaults[word]) for setting, word in names.items()}
        if own.get("feedforward"):
            expected["feedforward_modules"] = own["feedforward"]
        free = _FREE | _SELECTING
    else:
        return None
    try:
        check(settings)
    except InvalidStudy as error:
        return str(error)
    expected |= {"peft_type": kind, "base_model_name_or_path": manifest.get("backbone")}
    for setting, value in expected.items():
        if setting in settings and not _alike(settings[setting], value):
            return _said(setting, settings[setting], value)
        if setting not in settings and setting in ("r", "lora_alpha", "peft_type"):
            return f"{setting} is missing, the manifest says {value!r:.60}"
    for setting, value in settings.items():
        if setting not in expected and setting not in free and value not in (None, False, "", [], {}):
            return _said(setting, value, None)
    return _unreached(settings, list(tensors))


def _defaults(kind: str) -> dict[str, Any]:
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
    from peft.utils.peft_types import PeftType

    trains = kind in list(PeftType) and kind in TRAINED
    return dict(vars(PEFT_TYPE_TO_CONFIG_MAPPING[PeftType(kind)]())) if trains else {}


def _alike(found: Any, expected: Any) -> bool:
    if isinstance(found, list) and isinstance(expected, list | tuple | set):
        return sorted(map(str, found)) == sorted(map(str, expected))
    empty: tuple[Any, ...] = (None, False, "", [], {})
    return bool(found == expected) or (found in empty and expected in empty)


def _said(setting: str, found: Any, expected: Any) -> str:
    return f"{setting} is {found!r:.60}, the manifest says {expected!r:.60}"


def _unreached(settings: Mapping[str, Any], tensors: Sequence[str]) -> str | None:
    """Return a sentence about the first module that has tensors and that peft's settings do not select."""
    targets = settings.get("target_modules")
    if not isinstance(targets, list):
        return None if targets is None or not tensors else f"target_modules is {targets!r:.60}, expected a list"
    for name in tensors:
        mark = next((mark for mark in _ADAPTED if mark in name), None)
        if mark is None:
            continue
        module = plain_name(name.partition(mark)[0])
        if not any(f".{module}".endswith(f".{target}") for target in targets):
            return f"target_modules does not name {module}, but the adapter has tensors for it"
        for setting in _SELECTING:
            if _leaves_out(setting, settings, module):
                return f"{setting} leaves out {module}, but the adapter has tensors for it"
    return None


def _leaves_out(setting: str, settings: Mapping[str, Any], module: str) -> bool:
    """Whether peft would not adapt the module because of a setting in `_SELECTING`, or the setting is unusual."""
    given = settings.get(setting)
    if given in (None, []):
        return False
    if not isinstance(given, list):
        return True
    if setting == "exclude_modules":
        return any(f".{module}".endswith(f".{each}") for each in given)
    pattern = settings.get("layers_pattern")
    if not (isinstance(pattern, list) and len(pattern) == 1):
        return True
    parts = module.split(".")
    index = next((after for part, after in itertools.pairwise(parts) if part == pattern[0]), "")
    return not index.isdecimal() or int(index) not in given
