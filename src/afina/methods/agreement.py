"""Agreement: whether what peft reads beside an adapter of afina's says what afina reads, its manifest.

`adapter_config.json` is in no digest: whoever changes a scale there changes what peft answers, and nothing of what
afina does. Starts without torch; peft is imported for methods of its own that have no file in this package.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import MISSING, fields
from typing import Any

from afina.errors import InvalidStudy
from afina.methods import peft_settings
from afina.methods.ia3 import Ia3
from afina.methods.lora import Lora
from afina.methods.method import Method, plain_name
from afina.methods.vera import Vera

_TOLD: dict[str, tuple[str, type[Method], dict[str, str]]] = {
    "lora": ("LORA", Lora, {"r": "r", "lora_alpha": "alpha", "use_rslora": "rslora", "use_dora": "dora"}),
    "ia3": ("IA3", Ia3, {}),
    "vera": ("VERA", Vera, {"r": "r", "projection_prng_key": "key"}),
}
"""By method, peft's type, and by setting the hyperparameter that it has to be."""

_TYPED = "peft"

_FREE = {
    *("task_type", "peft_type", "peft_version", "auto_mapping", "base_model_name_or_path", "inference_mode", "bias"),
    *("lora_dropout", "vera_dropout", "fan_in_fan_out", "init_lora_weights", "init_weights", "init_ia3_weights"),
    *("loftq_config", "eva_config", "corda_config", "lora_ga_config", "runtime_config", "megatron_core"),
    *("qalora_group_size", "modules_to_save", "target_modules", "feedforward_modules", "d_initial", "save_projection"),
    *("ensure_weight_tying", "layers_pattern"),
}
"""Settings that change no answer of an adapter that was saved, or that are looked at apart."""

_ADAPTED = (".lora_A.", ".lora_embedding_A", ".ia3_l", ".vera_lambda_b")
"""What stands behind the name of a module in the names of an adapter's tensors."""


def disagreement(manifest: Mapping[str, Any], settings: Mapping[str, Any], tensors: Iterable[str] = ()) -> str | None:
    """What peft's settings say otherwise than an afina manifest, in a sentence; None where they agree.

    tensors  names of the adapter's, which all have to be reached by the settings' targets
    """
    name, given = str(manifest.get("method")), manifest.get("hyperparameters") or {}
    parts = [part for part in name.split("+") if part in _TOLD]
    if name == _TYPED and "type" in given:
        kind, expected = given["type"], _of_type(given)
    elif len(parts) == 1:
        own = given if parts[0] == name else given.get(parts[0], {})
        kind, method, told = _TOLD[parts[0]]
        defaults = {each.name: each.default for each in fields(method)}
        expected = {setting: own.get(word, defaults[word]) for setting, word in told.items()}
        if own.get("feedforward"):
            expected["feedforward_modules"] = own["feedforward"]
    else:
        return None
    try:
        peft_settings.check(settings)
    except InvalidStudy as error:
        return str(error)
    expected |= {"peft_type": kind, "base_model_name_or_path": manifest.get("backbone")}
    for setting, value in expected.items():
        if setting in settings and not _alike(settings[setting], value):
            return _said(setting, settings[setting], value)
        if setting not in settings and setting in ("r", "lora_alpha", "peft_type"):
            return f"{setting} is missing, the manifest says {value!r:.60}"
    for setting, value in settings.items():
        if setting not in expected and setting not in _FREE and value not in (None, False, "", [], {}):
            return _said(setting, value, None)
    return _unreached(settings.get("target_modules"), tensors)


def _of_type(given: Mapping[str, Any]) -> dict[str, Any]:
    """What a type of peft's has to say: what was given, and peft's own defaults."""
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
    from peft.utils.peft_types import PeftType

    if given["type"] not in list(PeftType):
        return dict(given.get("settings") or {})
    kind: Any = PEFT_TYPE_TO_CONFIG_MAPPING[PeftType(given["type"])]
    usual: dict[str, Any] = {}
    for each in fields(kind):
        make: Any = each.default_factory
        if each.name not in _FREE and (each.default is not MISSING or make is not MISSING):
            usual[each.name] = each.default if each.default is not MISSING else make()
    own = {key: value for key, value in (given.get("settings") or {}).items() if key not in peft_settings.MODULES}
    return usual | own


def _alike(found: Any, expected: Any) -> bool:
    if isinstance(found, list) and isinstance(expected, list | tuple | set):
        return sorted(map(str, found)) == sorted(map(str, expected))
    empty: tuple[Any, ...] = (None, False, "", [], {})
    return bool(found == expected) or (found in empty and expected in empty)


def _said(setting: str, found: Any, expected: Any) -> str:
    return f"{setting} is {found!r:.60}, the manifest says {expected!r:.60}"


def _unreached(targets: Any, tensors: Iterable[str]) -> str | None:
    if not isinstance(targets, list):
        return None if targets is None or not [*tensors] else f"target_modules is {targets!r:.60}, expected a list"
    for name in tensors:
        mark = next((mark for mark in _ADAPTED if mark in name), None)
        if mark is None:
            continue
        module = plain_name(name.partition(mark)[0])
        if not any(f".{module}".endswith(f".{target}") for target in targets):
            return f"target_modules does not name {module}, of which the adapter has tensors"
    return None
