"""An adapter that others made is kept only where it could be opened, and nothing in it is run to find out."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForSequenceClassification

from afina import Backbone
from afina.errors import AfinaError, CorruptAdapter
from afina.store.adapter_store import AdapterStore

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")

SETTINGS = "adapter_config.json"
WHY = "a test"


@pytest.fixture(scope="module")
def saved(gpt2: Backbone, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("peft") / "adapter"
    model = AutoModelForSequenceClassification.from_pretrained(gpt2.path, num_labels=2)
    settings = LoraConfig(task_type="SEQ_CLS", r=3, target_modules=r".*\.c_attn", fan_in_fan_out=True)
    get_peft_model(model, settings).save_pretrained(path)
    return path


def changed(saved: Path, to: Path, **changes: Any) -> Path:
    shutil.copytree(saved, to)
    content = json.loads((to / SETTINGS).read_text()) | changes
    (to / SETTINGS).write_text(json.dumps(content))
    return to


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
