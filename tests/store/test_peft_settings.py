"""What peft reads beside an adapter says what afina reads, and what others made could be opened, or it is not kept."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForSequenceClassification

from afina import Adapter, Backbone, Engine, Predictor
from afina.errors import AfinaError, CorruptAdapter, CorruptStore
from afina.methods.peft_settings import disagreement
from afina.store.adapter_store import AdapterStore
from fakes import Runs
from raises import raises

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")

SETTINGS = "adapter_config.json"
WHY = "a test"


def changed(path: Path, to: Path, **changes: Any) -> Path:
    shutil.copytree(path, to)
    content = json.loads((to / SETTINGS).read_text()) | changes
    (to / SETTINGS).write_text(json.dumps(content))
    return to


# Of afina's own adapters


@pytest.mark.parametrize("method", ["lora", "ia3", "vera", "lora+bitfit"])
def test_what_a_run_writes_agrees(runs: Runs, method: str) -> None:
    path = runs.adapter("gpt2", method)
    adapter = Adapter.load(path)
    settings = json.loads((path / SETTINGS).read_text())
    assert disagreement(adapter.manifest.model_dump(mode="json"), settings, adapter.tensors) is None


def test_what_a_type_of_pefts_writes_agrees_and_a_scale_that_was_not_given_is_held_to_pefts_own() -> None:
    own: dict[str, Any] = {"r": 4}
    manifest = {"method": "peft", "hyperparameters": {"type": "LOHA", "settings": own}, "backbone": "gpt2"}
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
    excluding = settings | {"exclude_modules": ["h.0.c_attn"]}
    assert disagreement(manifest, excluding) == "exclude_modules is ['h.0.c_attn'], the manifest says None"
    own["exclude_modules"] = ["h.0.c_attn"]
    assert disagreement(manifest, excluding) is None


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


# Of adapters that others made


@pytest.fixture(scope="module")
def saved(gpt2: Backbone, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("peft") / "adapter"
    model = AutoModelForSequenceClassification.from_pretrained(gpt2.path, num_labels=2)
    settings = LoraConfig(task_type="SEQ_CLS", r=3, target_modules=r".*\.c_attn", fan_in_fan_out=True)
    get_peft_model(model, settings).save_pretrained(path)
    return path


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"r": 10**9}, "peft setting r is '1000000000': expected at most 16,384"),
        ({"r": 5}, r"shape \[3, 32\], this model's has \[5, 32\]"),
        ({"layer_replication": [[0, 1_000_000]]}, "layer_replication .*: it repeats layers"),
        ({"megatron_core": "antigravity"}, "megatron_core .* peft would import a module"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights .* path_initial_model_for_weight_conversion"),
        ({"target_modules": "(([a-z_.0-9]+)+)+X"}, "target_modules .*: no module of the backbone has such a name"),
        ({"target_modules": ["c_attn"], "layers_pattern": "(a+)+X"}, "layers_pattern .* expected names of modules"),
        ({"invented_by_a_later_peft": 3}, "does not know this setting of LORA"),
    ],
    ids=str,
)
def test_what_could_never_load_is_refused_at_import_and_begins_no_store(
    saved: Path, store: AdapterStore, tmp_path: Path, changes: dict[str, Any], told: str
) -> None:
    path = changed(saved, tmp_path / "theirs", **changes)
    with pytest.raises(AfinaError, match=told) as refused:
        store.import_from(str(path), "acme/reviews", message=WHY)
    assert str(path) in str(refused.value)
    assert not Path(store.address.url).exists()


def test_one_whose_patterns_are_safe_is_kept_and_its_settings_stay_as_they_were(
    saved: Path, store: AdapterStore, tmp_path: Path
) -> None:
    path = changed(saved, tmp_path / "theirs", rank_pattern={"(([a-z_.0-9]+)+)+X": 4})
    made = store.import_from(str(path), "acme/reviews", message=WHY)
    assert made.version.manifest["hyperparameters"]["target_modules"] == r".*\.c_attn"
    assert store.verify() == []


@pytest.mark.parametrize("field", ["base_model_name_or_path", "revision"])
def test_a_name_of_a_hundred_thousand_letters_is_refused_in_a_few_words(
    saved: Path, store: AdapterStore, tmp_path: Path, field: str
) -> None:
    path = changed(saved, tmp_path / "theirs", **{field: "a" * 100_000})
    for bring in (store.import_from, store.publish):
        with pytest.raises(CorruptAdapter) as refused:
            bring(str(path), "acme/reviews", message=WHY)
        assert (refused.value.code, refused.value.fields["field"]) == ("adapter.file-malformed", field)
        assert len(str(refused.value)) < 500
    assert not Path(store.address.url).exists()
