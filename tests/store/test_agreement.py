"""What peft reads beside an adapter of afina's says what afina reads, or the adapter is not kept."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from afina import Adapter, Backbone, Engine, Predictor
from afina.errors import CorruptAdapter, CorruptStore
from afina.methods.peft_settings import disagreement
from afina.store.adapter_store import AdapterStore
from fakes import Runs
from raises import raises

SETTINGS = "adapter_config.json"


def changed(path: Path, to: Path, **changes: Any) -> Path:
    shutil.copytree(path, to)
    content = json.loads((to / SETTINGS).read_text()) | changes
    (to / SETTINGS).write_text(json.dumps(content))
    return to


@pytest.mark.parametrize("method", ["lora", "ia3", "vera", "lora+bitfit"])
def test_what_a_run_writes_agrees(runs: Runs, method: str) -> None:
    path = runs.adapter("gpt2", method)
    adapter = Adapter.load(path)
    settings = json.loads((path / SETTINGS).read_text())
    assert disagreement(adapter.manifest.model_dump(mode="json"), settings, adapter.tensors) is None


def test_what_a_type_of_pefts_writes_agrees_and_a_scale_that_was_not_given_is_held_to_pefts_own() -> None:
    manifest = {"method": "peft", "hyperparameters": {"type": "LOHA", "settings": {"r": 4}}, "backbone": "gpt2"}
    settings = {
        "peft_type": "LOHA",
        "r": 4,
        "alpha": 8,
        "base_model_name_or_path": "gpt2",
        "target_modules": ["c_attn"],
    }
    assert disagreement(manifest, settings) is None
    assert disagreement(manifest, settings | {"alpha": 800}) == "alpha is 800, the manifest says 8"
    assert disagreement(manifest, settings | {"r": 5}) == "r is 5, the manifest says 4"


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"lora_alpha": 1600}, "lora_alpha is 1600, the manifest says 16"),
        ({"use_rslora": True}, "use_rslora is True, the manifest says False"),
        ({"alpha_pattern": {"c_attn": 1600}}, r"alpha_pattern is \{'c_attn': 1600\}, the manifest says None"),
        ({"layers_to_transform": [1], "layers_pattern": ["h"]}, r"layers_to_transform leaves out transformer\.h\.0\."),
        ({"target_modules": ["c_proj"]}, r"target_modules does not name transformer\.h\.0\.attn\.c_attn"),
        ({"target_modules": ".*c_attn"}, "target_modules is .*, expected a list"),
        ({"base_model_name_or_path": "somebody/else"}, "base_model_name_or_path is 'somebody/else'"),
        ({"peft_type": "IA3"}, "peft_type is 'IA3', the manifest says 'LORA'"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights is 'pissa'"),
        ({"megatron_core": "antigravity"}, "megatron_core"),
    ],
    ids=str,
)
def test_what_peft_would_answer_otherwise_is_refused_and_names_the_setting(
    trained: Path, store: AdapterStore, tmp_path: Path, changes: dict[str, Any], told: str
) -> None:
    path = changed(trained, tmp_path / "changed", **changes)
    with pytest.raises(CorruptAdapter, match=rf"{path / SETTINGS}: .*{told}"):
        store.publish(path, "acme/reviews", message="why")


@pytest.mark.parametrize("changes", [{"lora_alpha": 1600}, {"r": 16}, {"target_modules": ["c_fc"]}], ids=str)
def test_edited_settings_are_refused_by_whatever_opens_the_adapter(
    trained: Path, gpt2: Backbone, tmp_path: Path, changes: dict[str, Any]
) -> None:
    path = changed(trained, tmp_path / "changed", **changes)
    engine = Engine(gpt2)
    for open_it in (Predictor.load, engine.load):
        with raises(CorruptAdapter, code="adapter.file-malformed", path=SETTINGS):
            open_it(path)
    shutil.copy(trained / SETTINGS, path)
    (resident,) = engine.load(path)
    assert resident.digest == Predictor.load(path).manifest.digest


def test_settings_of_a_version_that_disagree_are_not_exported(
    trained: Path, store: AdapterStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = changed(trained, tmp_path / "changed", lora_alpha=1600)
    with monkeypatch.context() as unchecked:
        unchecked.setattr("afina.methods.peft_settings.check_agrees", lambda *_: None)
        store.publish(path, "acme/reviews", message="why")
    store.publish(trained, "acme/others", message="why")
    with raises(CorruptStore, code="store.content-changed", file="adapter_config.json", where="store:acme/reviews@1"):
        store.export("acme/reviews", str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()
    store.export("acme/others", str(tmp_path / "out"))
